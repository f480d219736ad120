"""Every kernel against float64, in values and gradients, and the plain-PyTorch chunked loss.

The Triton kernels run here under the interpreter, on the CPU: TRITON_INTERPRET=1 pytest tests/test_kernels.py.
Without it those tests are skipped. tests/test_kernels_compiled.py looks at what the compiler makes of the kernels.
"""
import pytest
import torch
import torch.nn.functional as F

import kernels
from kernels import cross_entropy as loss_kernels
from kernels import layer_norm as norm_kernels
from kernels import softmax as softmax_kernels
from kernels.cross_entropy import (
    cross_entropy,
    cross_entropy_reference,
    linear_cross_entropy,
    linear_cross_entropy_reference,
    linear_cross_entropy_torch,
)
from kernels.layer_norm import add_layer_norm, add_layer_norm_reference, layer_norm, layer_norm_reference
from kernels.softmax import causal_softmax, causal_softmax_reference

interpreted = pytest.mark.skipif(
    not kernels.INTERPRETED, reason='the interpreter must be chosen before Triton is imported: TRITON_INTERPRET=1 pytest')
either_loss = pytest.mark.parametrize('head', [
    pytest.param(linear_cross_entropy, marks=interpreted), linear_cross_entropy_torch])
dtypes = pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.fixture(autouse=True)
def fresh_inputs_and_poisoned_outputs():
    """Inputs differ from test to test and from session to session (pytest shows the seed of a test that fails), and
    memory that a kernel should have written but did not holds NaN."""
    print(f'torch.manual_seed({torch.seed()})')
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def relative_error(result, expected):
    """||result - expected|| / ||expected||, NaN counting as wrong; where nothing is expected, ||result||."""
    result, expected = result.detach().double(), expected.detach().double()
    assert result.shape == expected.shape
    scale = expected.norm()
    return ((result - expected).norm() / (scale if scale > 0 else 1.0)).item()


def values_and_gradients(function, tensors, *args):
    """All outputs, and the gradients of their sum weighted by fixed random numbers, with respect to `tensors`."""
    outputs = function(*tensors, *args)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator(outputs[0].device).manual_seed(5)
    weights = [torch.randn(output.shape, generator=generator, dtype=torch.float64, device=output.device)
               for output in outputs]
    inputs = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
    gradients = torch.autograd.grad(outputs, inputs, [w.to(o.dtype) for w, o in zip(weights, outputs)])
    assert all(gradient.dtype == tensor.dtype for gradient, tensor in zip(gradients, inputs))
    return *outputs, *gradients


def check_against_float64(function, reference, tensors, *args, tolerance=None, atol=0.0):
    tolerance = tolerance or TOLERANCE[tensors[0].dtype]
    wide = [None if t is None else t.detach().double().requires_grad_(t.requires_grad) for t in tensors]
    expected = values_and_gradients(reference, wide, *args)
    for i, (a, b) in enumerate(zip(values_and_gradients(function, tensors, *args), expected, strict=True)):
        error = relative_error(a, b)
        assert error < tolerance or (a.double() - b).abs().max() <= atol, f'output {i}: relative error {error:.1e}'


def random(*shape, dtype=torch.float32, scale=1.0, shift=0.0):
    return (torch.randn(*shape) * scale + shift).to(dtype).requires_grad_()


def random_targets(n, vocab_size, ignored=0.25):
    """At least one target counts, and with two or more at least one is ignored."""
    targets = torch.randint(vocab_size, (n,)).masked_fill(torch.rand(n) < ignored, -1)
    targets[0] = vocab_size - 1
    targets[1:2] = -1
    return targets


# --- layer norm


@interpreted
@dtypes
@pytest.mark.parametrize('rows, width', [(3, 1), (1, 5), (70, 96), (13, 768), (9, 1600), (2, 8192)])
@pytest.mark.parametrize('with_bias', [True, False])
def test_layer_norm_agrees_with_float64_at_every_width(rows, width, dtype, with_bias):
    tensors = [random(rows, width, dtype=dtype), random(width), random(width) if with_bias else None]
    check_against_float64(layer_norm, layer_norm_reference, tensors, 1e-5, tolerance=TOLERANCE[dtype],
                          atol=1e-6 if width == 1 else 0.0)


@interpreted
@dtypes
@pytest.mark.parametrize('residual_dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('shape', [(2, 11, 96), (7, 768)])
def test_add_layer_norm_agrees_with_float64_for_every_pair_of_types(shape, residual_dtype, dtype):
    residual, x = random(*shape, dtype=residual_dtype), random(*shape, dtype=dtype)
    tensors = [residual, x, random(shape[-1]), random(shape[-1])]
    wide = torch.promote_types(residual_dtype, dtype)
    normed, total = add_layer_norm(*tensors, 1e-5)
    assert normed.dtype == total.dtype == wide
    tolerance = max(TOLERANCE[residual_dtype], TOLERANCE[dtype])
    check_against_float64(add_layer_norm, add_layer_norm_reference, tensors, 1e-5, tolerance=tolerance)


@interpreted
def test_layer_norm_takes_inputs_and_gradients_of_any_strides():
    weight, bias = random(48), random(48)
    for x in (torch.randn(48, 6).t(), torch.randn(6, 96)[:, ::2], torch.randn(4, 48, 3).transpose(1, 2),
              torch.randn(1, 48).expand(6, 48)):
        check_against_float64(layer_norm, layer_norm_reference, [x.requires_grad_(), weight, bias], 1e-5)
        check_against_float64(add_layer_norm, add_layer_norm_reference, [random(*x.shape), x, weight, bias], 1e-5)
    x = random(6, 48)
    gradient, = torch.autograd.grad(layer_norm(x, weight, bias).sum(), x)  # the gradient of a sum has strides of 0
    wide = x.detach().double().requires_grad_()
    expected, = torch.autograd.grad(layer_norm_reference(wide, weight.double(), bias.double()).sum(), wide)
    assert relative_error(gradient, expected) < 1e-5


@interpreted
def test_layer_norm_does_not_cancel_where_the_mean_is_large():
    x = random(4, 768, shift=1000.0)
    normed = layer_norm(x, torch.ones(768), None)
    expected = F.layer_norm(x.double(), (768,), eps=1e-5)
    assert relative_error(normed, expected) < 1e-4  # float32 keeps 1e-4 of a spread of 1 around 1,000


@interpreted
def test_either_output_of_add_layer_norm_may_go_unused():
    for used in (0, 1):
        tensors = [random(5, 32), random(5, 32), random(32), random(32)]
        result = torch.autograd.grad(add_layer_norm(*tensors)[used].square().sum(), tensors)
        expected = torch.autograd.grad(add_layer_norm_reference(*tensors)[used].square().sum(), tensors,
                                       allow_unused=True, materialize_grads=True)
        for a, b in zip(result, expected):
            assert relative_error(a, b) < 1e-5


@interpreted
def test_under_autocast_norms_return_bfloat16_and_the_sum_stays_float32():
    residual, x, weight, bias = random(5, 64), random(5, 64, dtype=torch.bfloat16), random(64), random(64)
    with torch.autocast('cpu', torch.bfloat16):
        normed, total = add_layer_norm(residual, x, weight, bias)
        alone = layer_norm(total, weight, bias)
    assert (normed.dtype, total.dtype, alone.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    expected = F.layer_norm((residual + x).double(), (64,), weight.double(), bias.double())
    assert relative_error(normed, expected) < 5e-3 and torch.equal(normed, alone)
    gradients = torch.autograd.grad((normed * normed).sum() + total.sum(), [residual, x, weight, bias])
    assert [g.dtype for g in gradients] == [torch.float32, torch.bfloat16, torch.float32, torch.float32]
    assert relative_error(gradients[1], gradients[0]) < 5e-3


@interpreted
def test_a_residual_stream_in_bfloat16_stays_in_bfloat16_forward_and_backward():
    residual, x = random(7, 768, dtype=torch.bfloat16), random(7, 768, dtype=torch.bfloat16)
    weight, bias = random(768), random(768)
    with torch.autocast('cpu', torch.bfloat16):
        normed, total = add_layer_norm(residual, x, weight, bias)
    assert normed.dtype == total.dtype == torch.bfloat16
    gradients = torch.autograd.grad((normed * normed).sum() + total.sum(), [residual, x, weight, bias])
    assert [g.dtype for g in gradients] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    assert torch.equal(gradients[0], gradients[1])
    check_against_float64(add_layer_norm, add_layer_norm_reference, [residual, x, weight, bias], 1e-5)


@interpreted
def test_programs_of_the_backward_norm_share_rows_in_a_fixed_order_on_any_number_of_sms(monkeypatch):
    tensors = [random(50, 96, dtype=torch.bfloat16), random(96), random(96)]
    for n_sm in (1, 3, 100):
        monkeypatch.setattr(norm_kernels, 'multiprocessors', lambda device, n_sm=n_sm: (n_sm, 2 ** 17))
        check_against_float64(layer_norm, layer_norm_reference, tensors, 1e-5)


@interpreted
def test_layer_norm_repeats_bit_for_bit():
    tensors = [random(200, 96), random(96), random(96)]
    first, second = (values_and_gradients(layer_norm, tensors, 1e-5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@interpreted
def test_kernels_take_inputs_without_rows():
    x = torch.randn(0, 32, requires_grad=True)
    weight = torch.randn(32, requires_grad=True)
    gradients = torch.autograd.grad(layer_norm(x, weight, None).sum(), [x, weight])
    assert gradients[0].shape == (0, 32) and torch.equal(gradients[1], torch.zeros(32))
    assert causal_softmax(torch.randn(0, 3, 3), 1.0).shape == (0, 3, 3)
    assert cross_entropy(torch.randn(0, 7), torch.empty(0, dtype=torch.long), 7) == 0


@interpreted
@pytest.mark.parametrize('run', [
    lambda x: layer_norm(x, torch.ones(8193), None), lambda x: add_layer_norm(x, x, torch.ones(8193), None),
    lambda x: causal_softmax(x, 1.0)], ids=['layer_norm', 'add_layer_norm', 'causal_softmax'])
def test_rows_above_8192_columns_are_refused_with_the_way_out(run):
    with pytest.raises(ValueError, match='up to 8,192 columns, not 8,193; --kernels=torch has no such limit'):
        run(torch.randn(2, 8193))


def test_add_layer_norm_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match=r'\(5, 32\) and x of \(1, 32\)'):
        add_layer_norm(torch.randn(5, 32), torch.randn(1, 32), torch.ones(32), None)


# --- softmax


@interpreted
@dtypes
@pytest.mark.parametrize('shape', [(1, 1), (2, 3, 17, 17), (2, 1, 64, 64), (3, 5, 33), (1, 2, 8192)])
def test_causal_softmax_agrees_with_float64(shape, dtype):
    check_against_float64(causal_softmax, causal_softmax_reference, [random(*shape, dtype=dtype, scale=3.0)], 0.3)


@interpreted
def test_causal_softmax_agrees_with_masked_softmax_of_pytorch():
    scores = torch.randn(2, 3, 20, 20)
    future = torch.ones(20, 20, dtype=torch.bool).triu(1)
    expected = (scores.double() * 0.125).masked_fill(future, -torch.inf).softmax(-1)
    weights = causal_softmax(scores, 0.125)
    assert relative_error(weights, expected) < 1e-6
    assert (weights[..., future] == 0).all()


@interpreted
def test_causal_softmax_takes_any_strides():
    for scores in (torch.randn(2, 9, 9).transpose(1, 2), torch.randn(2, 9, 18)[..., ::2],
                   torch.randn(9, 2, 9).transpose(0, 1), torch.randn(2, 1, 9).expand(2, 9, 9)):
        check_against_float64(causal_softmax, causal_softmax_reference, [scores.requires_grad_()], 0.5)


@interpreted
def test_future_keys_never_matter_even_if_they_are_nan():
    scores = torch.randn(2, 3, 12)
    future = torch.ones(3, 12, dtype=torch.bool).triu(1 + 12 - 3)
    poisoned = scores.masked_fill(future, torch.nan).requires_grad_()
    weights = causal_softmax(poisoned, 1.0)
    assert torch.equal(weights, causal_softmax(scores, 1.0))
    gradient, = torch.autograd.grad(weights, poisoned, torch.randn(2, 3, 12).masked_fill(future, torch.nan))
    assert gradient.isfinite().all() and (gradient[:, future] == 0).all()


@interpreted
def test_scores_of_minus_infinity_and_huge_scores_give_no_nan():
    scores = random(3, 6)
    with torch.no_grad():
        scores[0] = -torch.inf
        scores[1] *= 1e30
        scores[2, 3:] = -torch.inf
    weights = causal_softmax(scores, 0.125)
    assert (weights[0] == 0).all()
    assert relative_error(weights[1:], causal_softmax_reference(scores.double(), 0.125)[1:]) < 1e-5
    gradient, = torch.autograd.grad(weights.square().sum(), scores)
    assert gradient.isfinite().all() and (gradient[0] == 0).all()


def test_causal_softmax_refuses_more_queries_than_keys():
    with pytest.raises(ValueError, match='keys >= queries'):
        causal_softmax(torch.randn(4, 3), 1.0)


# --- cross entropy


@interpreted
@dtypes
@pytest.mark.parametrize('rows, columns, vocab_size', [
    (3, 1, 1), (7, 128, 97), (5, 300, 300), (3, 20000, 19997), (3, 20000, 17), (2, 16384, 16384)])
def test_cross_entropy_agrees_with_float64(rows, columns, vocab_size, dtype):
    logits = random(rows, columns, dtype=dtype, scale=3.0)
    targets = random_targets(rows, vocab_size)
    check_against_float64(lambda x, t, v: cross_entropy(x * 1, t, v), cross_entropy_reference, [logits],
                          targets, vocab_size)


@interpreted
def test_cross_entropy_agrees_with_pytorch_on_any_shape_and_strides():
    targets = random_targets(12, 29).view(3, 4)
    for logits in (torch.randn(3, 4, 29), torch.randn(3, 29, 4).transpose(1, 2), torch.randn(3, 4, 58)[..., ::2],
                   torch.randn(29, 3, 4).permute(1, 2, 0), torch.randn(29).expand(3, 4, 29)):
        logits.requires_grad_()
        expected = F.cross_entropy(logits.double().flatten(0, 1), targets.flatten(), ignore_index=-1)
        expected_gradient, = torch.autograd.grad(expected, logits)
        loss = cross_entropy(logits, targets, 29)
        gradient, = torch.autograd.grad(loss, logits)
        assert relative_error(loss, expected) < 1e-6
        assert relative_error(gradient, expected_gradient) < 1e-5


@interpreted
def test_the_gradient_takes_the_place_of_the_logits():
    x = random(4, 40)
    logits = x * 1
    loss = cross_entropy(logits, random_targets(4, 40), 40)
    assert not torch.equal(logits, x)
    gradient, = torch.autograd.grad(loss, logits)
    assert gradient.data_ptr() == logits.data_ptr()


@interpreted
def test_without_gradients_the_logits_stay_as_they_are():
    logits, targets = torch.randn(4, 40), random_targets(4, 40)
    before = logits.clone()
    cross_entropy(logits, targets, 40)
    with torch.no_grad():
        cross_entropy(logits.requires_grad_(), targets, 40)
    assert torch.equal(logits, before)


@interpreted
def test_another_gradient_through_consumed_logits_is_an_error():
    x = random(4, 40)
    logits = x * 1
    other = logits.square().sum()
    loss = cross_entropy(logits, random_targets(4, 40), 40)
    with pytest.raises(RuntimeError, match='inplace operation'):
        (loss + other).backward()


@interpreted
def test_padding_has_no_part_in_loss_or_gradient():
    targets = random_targets(5, 37)
    logits = torch.randn(5, 64)
    poisoned = logits.clone()
    poisoned[:, 37:] = torch.nan
    expected = F.cross_entropy(logits[:, :37].double(), targets, ignore_index=-1)
    poisoned.requires_grad_()
    loss = cross_entropy(poisoned, targets, 37)
    gradient, = torch.autograd.grad(loss, poisoned)
    assert relative_error(loss, expected) < 1e-6
    assert (gradient[:, 37:] == 0).all() and gradient.isfinite().all()


@interpreted
def test_logits_of_minus_infinity_and_huge_logits_give_no_nan():
    logits = torch.randn(5, 9000)
    logits[0] *= 1e30
    logits[1, :8500] = -torch.inf  # the first block of the row has nothing
    logits[2, ::2] = -torch.inf
    logits[3] = -torch.inf
    targets = torch.tensor([int(logits[0].argmax()), 8999, 1, -1, 5])
    reference = cross_entropy_reference(logits.double(), targets, 9000)
    x = logits.clone().requires_grad_()
    loss = cross_entropy(x * 1, targets, 9000)
    assert relative_error(loss, reference) < 1e-5
    assert torch.autograd.grad(loss, x)[0].isfinite().all()
    targets[3] = 7  # a row that excludes every token, its target too
    loss = cross_entropy(x * 1, targets, 9000)
    assert loss == torch.inf
    gradient, = torch.autograd.grad(loss, x)
    assert gradient.isfinite().all() and (gradient[3] == 0).all()


@interpreted
def test_a_target_outside_the_vocabulary_makes_the_loss_nan():
    for target in (37, 40, -2, 10 ** 12):
        assert cross_entropy(torch.randn(2, 40), torch.tensor([3, target]), 37).isnan()


@interpreted
def test_in_float16_small_gradients_survive_the_mean_over_many_rows():
    rows = 100
    logits = random(rows, 50, dtype=torch.float16, scale=2.0)
    targets = torch.randint(50, (rows,))
    gradient, = torch.autograd.grad(cross_entropy(logits * 1, targets, 50) * 2.0 ** 10, logits)
    expected, = torch.autograd.grad(F.cross_entropy(logits.double(), targets) * 2.0 ** 10, logits)
    small = logits.double().softmax(1) < 5e-4  # over 100 rows: below what float16 holds with all its digits
    small.scatter_(1, targets[:, None], False)  # the gradients at the targets are near -1 and would hide the rest
    assert relative_error(gradient[small], expected[small]) < 2e-3


# --- head and loss in one


@either_loss
@dtypes
@pytest.mark.parametrize('rows, padded, vocab_size', [(1, 1, 1), (7, 128, 97), (40, 384, 300)])
def test_linear_cross_entropy_agrees_with_float64(head, rows, padded, vocab_size, dtype, monkeypatch):
    monkeypatch.setattr(loss_kernels, 'CPU_CHUNK', 16 * padded)  # several chunks, the last one not full
    monkeypatch.setattr(loss_kernels, 'CPU_TILE', 5 * padded)
    monkeypatch.setattr(loss_kernels, 'CPU_WEIGHT_ROWS', 50)
    x, weight = random(rows, 24, dtype=dtype), random(padded, 24, dtype=dtype, scale=0.3)
    check_against_float64(head, linear_cross_entropy_reference, [x, weight], random_targets(rows, vocab_size), vocab_size)


@either_loss
def test_under_autocast_weights_of_float32_get_float32_gradients(head, monkeypatch):
    monkeypatch.setattr(loss_kernels, 'CPU_CHUNK', 16 * 128)
    x, weight, targets = random(3, 20, 32), random(128, 32, scale=0.3), random_targets(60, 100).view(3, 20)
    with torch.autocast('cpu', torch.bfloat16):
        loss = head(x, weight, targets, 100)
    gradients = torch.autograd.grad(loss, [x, weight])
    assert [loss.dtype, *(g.dtype for g in gradients)] == [torch.float32] * 3
    wide = [x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()]
    expected = linear_cross_entropy_reference(*wide, targets, 100)
    for a, b in zip((loss, *gradients), (expected, *torch.autograd.grad(expected, wide)), strict=True):
        assert relative_error(a, b) < 1e-2
    assert (gradients[1][100:] == 0).all()


@either_loss
def test_the_loss_of_no_target_is_zero_and_so_are_its_gradients(head):
    x, weight = random(6, 16), random(40, 16)
    for rows in (6, 0):
        loss = head(x[:rows], weight, torch.full((rows,), -1), 33)
        gradients = torch.autograd.grad(loss, [x, weight])
        assert loss == 0 and all((g == 0).all() for g in gradients)


@either_loss
def test_ignored_rows_never_matter_even_if_they_are_nan(head):
    x, weight, targets = random(6, 16), random(40, 16), torch.tensor([3, 1, -100, 5, -100, 39])
    poisoned = x.detach().clone()
    poisoned[2], poisoned[4] = torch.nan, torch.inf
    poisoned.requires_grad_()
    results = [(loss := head(inputs, weight, targets, 40, ignore_index=-100), *torch.autograd.grad(loss, [inputs, weight]))
               for inputs in (x, poisoned)]
    assert all(torch.equal(a, b) for a, b in zip(*results))
    assert (results[1][1][[2, 4]] == 0).all()


@either_loss
def test_gradients_scale_with_what_comes_after_the_loss(head):
    x, weight, targets = random(6, 16), random(40, 16), random_targets(6, 40)
    once = torch.autograd.grad(head(x, weight, targets, 40), [x, weight])
    thrice = torch.autograd.grad(head(x, weight, targets, 40) * 3, [x, weight])
    assert all(relative_error(b, 3 * a) < 1e-6 for a, b in zip(once, thrice))


@either_loss
def test_a_second_backward_is_an_error(head):
    x, weight = random(6, 16), random(40, 16)
    loss = head(x, weight, random_targets(6, 40), 40) * 2
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match='inplace operation'):
        loss.backward()


@either_loss
def test_evaluation_makes_no_gradients_and_gives_the_same_loss(head):
    x, weight, targets = random(6, 16), random(40, 16), random_targets(6, 40)
    with torch.no_grad():
        loss = head(x, weight, targets, 40)
    assert not loss.requires_grad and torch.equal(loss, head(x, weight, targets, 40))


@either_loss
def test_wrong_shapes_are_named(head):
    x, weight, targets = torch.randn(6, 16), torch.randn(40, 16), torch.zeros(6, dtype=torch.long)
    for arguments, words in (((x[:, :8], weight, targets, 40), 'width 8'), ((x, weight, targets[:5], 40), r'\(5,\)'),
                             ((x, weight, targets, 41), 'vocab_size=41')):
        with pytest.raises(ValueError, match=words):
            head(*arguments)


def test_the_plain_loss_takes_huge_logits():
    x = torch.eye(3).requires_grad_()
    weight = torch.tensor([[1e30, -3e38, 5.0], [-1e30, 3e38, 5.0], [0.0, -3e38, -1e4]]).requires_grad_()
    loss = linear_cross_entropy_torch(x, weight, torch.tensor([0, 1, 1]), 3)
    assert loss.item() == pytest.approx(torch.log(torch.tensor(2.0)).item() / 3)
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


# --- torch.compile, autograd's own checks, devices


def opcheck_samples():
    x, weight, bias = random(5, 24), random(24), random(24)
    targets = random_targets(5, 30)
    table = torch.randn(40, 24)
    yield from (
            (norm_kernels.layer_norm_op, (x, None, weight, bias, 1e-5, torch.float32)),
            (norm_kernels.layer_norm_op, (x, random(5, 24, dtype=torch.bfloat16), weight, None, 1e-5, torch.bfloat16)),
            (softmax_kernels.causal_softmax_op, (random(2, 5, 7), 0.3)),
            (loss_kernels.cross_entropy_op, (torch.randn(5, 40), targets, torch.ones(()), 30, -1, True)),
            (loss_kernels.scale_op, (torch.randn(5, 40), torch.tensor(0.5))),
            (loss_kernels.linear_cross_entropy_op, (x.detach(), table, targets, 30, -1, torch.float32, True, True)),
            (loss_kernels.linear_cross_entropy_op, (x.detach(), table, targets, 30, -1, torch.bfloat16, True, False)))


@interpreted
@pytest.mark.parametrize('sample', range(7))
def test_custom_ops_pass_opcheck(sample):
    torch.use_deterministic_algorithms(False)  # opcheck compares what a fake tensor cannot know about poisoned memory
    op, arguments = list(opcheck_samples())[sample]
    torch.library.opcheck(op, arguments)


def test_the_plain_loss_passes_opcheck():
    torch.use_deterministic_algorithms(False)
    for dtype, gradient in ((torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)):
        arguments = torch.randn(5, 24), torch.randn(40, 24), random_targets(5, 30), 30, -1, dtype, False, gradient
        torch.library.opcheck(loss_kernels.linear_cross_entropy_op, arguments)


def every_kernel(head):
    """A function of (x, weight, bias, table, targets) that goes through all kernels, or through the plain loss alone."""
    def function(x, weight, bias, table, targets):
        if head is linear_cross_entropy_torch:
            return head(torch.sin(x), table, targets, 37)
        y = layer_norm(x, weight, bias)
        y = causal_softmax(y @ y.transpose(-2, -1), 0.3).to(x.dtype) @ x
        y, stream = add_layer_norm(x, y, weight, bias)
        loss = cross_entropy(F.linear(y, table.to(y.dtype)), targets, 37) + head(stream, table, targets, 37)
        return loss * 2
    return function


@pytest.mark.slow
@either_loss
@pytest.mark.parametrize('autocast', [False, True])
def test_torch_compile_traces_through_without_a_break(head, autocast):
    function = every_kernel(head)
    tensors = [random(2, 9, 24), random(24), random(24), random(40, 24)]
    targets = random_targets(18, 37).view(2, 9)
    results = []
    for run in (function, torch.compile(function, fullgraph=True, backend='aot_eager')):
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            loss = run(*tensors, targets)
        results.append((loss, *torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)))
    for eager, traced in zip(*results):
        assert relative_error(traced, eager) < (1e-2 if autocast else 1e-5)


def test_why_the_kernels_cannot_run_is_one_line(monkeypatch):
    monkeypatch.setattr(kernels, 'INTERPRETED', False)
    if kernels.triton is not None:
        assert 'not cpu' in kernels.unavailable('cpu') and 'not mps' in kernels.unavailable('mps')
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
        assert 'torch sees none' in kernels.unavailable(torch.device('cuda', 0))
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (7, 5))
        monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Tesla T4')
        assert 'Tesla T4 has 7.5' in kernels.unavailable('cuda')
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (9, 0))
        assert kernels.unavailable('cuda') is None
    monkeypatch.setattr(kernels, 'triton', None)
    assert 'not installed' in kernels.unavailable('cuda') and '\n' not in kernels.unavailable('cuda')


@interpreted
def test_under_the_interpreter_the_kernels_run_on_the_cpu():
    assert kernels.unavailable('cpu') is None
