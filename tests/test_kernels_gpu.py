"""Every kernel on a GPU, at GPT-2's full shapes: against float64, compiled, on other devices and streams.

    pytest tests/test_kernels_gpu.py

Skipped where there is no GPU that can run them. tests/test_kernels.py has the unusual widths and inputs.
"""
import pytest
import torch
import torch.nn.functional as F

import kernels
from kernels.cross_entropy import (
    cross_entropy,
    cross_entropy_reference,
    linear_cross_entropy,
    linear_cross_entropy_reference,
    linear_cross_entropy_torch,
)
from kernels.layer_norm import add_layer_norm, add_layer_norm_reference, layer_norm, layer_norm_reference
from kernels.softmax import causal_softmax, causal_softmax_reference

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or kernels.INTERPRETED or kernels.unavailable('cuda') is not None,
    reason=f'needs a GPU: {kernels.unavailable("cuda") or "and no TRITON_INTERPRET"}')
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
dtypes = pytest.mark.parametrize('dtype', list(TOLERANCE))
heads = pytest.mark.parametrize('head', [linear_cross_entropy, linear_cross_entropy_torch])
GPT2_WIDTHS = (768, 1024, 1280, 1600)
VOCAB, PADDED = 50257, 50304


@pytest.fixture(autouse=True)
def poisoned_outputs_and_exact_products():
    """Memory that a kernel should have written but did not holds NaN; float32 products are float32."""
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def random(*shape, dtype=torch.float32, scale=1.0):
    return (torch.randn(*shape, device='cuda') * scale).to(dtype).requires_grad_()


def gpt2_targets(n, ignored=0.1):
    targets = torch.randint(VOCAB, (n,), device='cuda')
    return targets.masked_fill(torch.rand(n, device='cuda') < ignored, -1)


def run(function, tensors, *args):
    """Outputs, and gradients of their sum weighted by fixed random numbers."""
    outputs = function(*tensors, *args)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator('cuda').manual_seed(5)
    weights = [torch.randn(o.shape, generator=generator, device='cuda').to(o.dtype) for o in outputs]
    return *(o.detach() for o in outputs), *torch.autograd.grad(outputs, tensors, weights)


def check_against_float64(function, reference, tensors, *args, tolerance=None):
    results = run(function, tensors, *args)
    wide = [t.detach().double().requires_grad_() for t in tensors]
    for i, (a, b) in enumerate(zip(results, run(reference, wide, *args), strict=True)):
        error = ((a.double() - b).norm() / b.norm()).item()
        assert error < (tolerance or TOLERANCE[tensors[0].dtype]), f'output {i}: relative error {error:.1e}'


@dtypes
@pytest.mark.parametrize('width', [*GPT2_WIDTHS, 1, 4095, 8191])
def test_layer_norms_agree_with_float64(width, dtype):
    rows = 16 * 1024 if width <= 1600 else 300
    x, residual, weight, bias = random(rows, width, dtype=dtype), random(rows, width), random(width), random(width)
    if width > 1:
        check_against_float64(layer_norm, layer_norm_reference, [x, weight, bias], 1e-5)
        check_against_float64(add_layer_norm, add_layer_norm_reference, [residual, x, weight, bias], 1e-5,
                              tolerance=TOLERANCE[dtype])
    check_against_float64(add_layer_norm, add_layer_norm_reference,
                          [random(rows, width + 1, dtype=dtype), random(rows, width + 1, dtype=dtype),
                           random(width + 1), random(width + 1)], 1e-5)


@pytest.mark.parametrize('width', GPT2_WIDTHS)
def test_a_residual_stream_in_bfloat16_agrees_with_float64(width):
    residual, x = (random(16 * 1024, width, dtype=torch.bfloat16) for _ in range(2))
    tensors = [residual, x, random(width), random(width)]
    with torch.autocast('cuda', torch.bfloat16):
        assert {output.dtype for output in add_layer_norm(*tensors)} == {torch.bfloat16}
    check_against_float64(add_layer_norm, add_layer_norm_reference, tensors, 1e-5)


@dtypes
@pytest.mark.parametrize('shape', [(8, 12, 1024, 1024), (1, 25, 1024, 1024), (2, 3, 100, 333), (1, 1, 5, 8192)])
def test_causal_softmax_agrees_with_float64(shape, dtype):
    check_against_float64(causal_softmax, causal_softmax_reference, [random(*shape, dtype=dtype, scale=3.0)], 0.125)


@dtypes
@pytest.mark.parametrize('columns', [PADDED, VOCAB])
def test_cross_entropy_agrees_with_float64(columns, dtype):
    check_against_float64(lambda x, t: cross_entropy(x * 1, t, VOCAB), lambda x, t: cross_entropy_reference(x, t, VOCAB),
                          [random(2048, columns, dtype=dtype, scale=3.0)], gpt2_targets(2048))


@heads
@dtypes
def test_linear_cross_entropy_agrees_with_float64(head, dtype, monkeypatch):
    monkeypatch.setattr('kernels.cross_entropy.GPU_CHUNK', 1024 * PADDED)  # three chunks, the last one not full
    x, weight = random(2500, 768, dtype=dtype), random(PADDED, 768, dtype=dtype, scale=0.02)
    check_against_float64(head, linear_cross_entropy_reference, [x, weight], gpt2_targets(2500), VOCAB,
                          tolerance=2e-2 if dtype == torch.bfloat16 else 2e-5 if dtype == torch.float32 else 4e-3)


@heads
def test_the_weight_of_the_head_gets_float32_gradients_under_autocast(head):
    x, weight = random(4096, 768), random(PADDED, 768, scale=0.02)
    targets = gpt2_targets(4096)
    with torch.autocast('cuda', torch.bfloat16):
        loss = head(x, weight, targets, VOCAB)
    gradients = torch.autograd.grad(loss, [x, weight])
    expected = linear_cross_entropy_reference(x, weight, targets, VOCAB)
    assert abs(loss - expected) < 1e-3
    for gradient, exact in zip(gradients, torch.autograd.grad(expected, [x, weight])):
        assert gradient.dtype == torch.float32
        assert (gradient - exact).norm() / exact.norm() < 2e-2


def test_the_logits_are_never_whole_in_memory():
    x, weight = random(64 * 1024, 768, dtype=torch.bfloat16), random(PADDED, 768, scale=0.02)
    targets = gpt2_targets(64 * 1024)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    linear_cross_entropy(x, weight, targets, VOCAB).backward()
    whole = 64 * 1024 * PADDED * 2
    assert torch.cuda.max_memory_allocated() - before < 0.4 * whole


@pytest.mark.parametrize('backend', ['aot_eager', 'inductor'])
def test_torch_compile_traces_through_without_a_break(backend):
    def step(x, weight, bias, table, targets):
        y, stream = add_layer_norm(x, layer_norm(x, weight, bias), weight, bias)
        y = causal_softmax(y @ y.transpose(-2, -1), 0.05) @ stream
        return linear_cross_entropy(y, table, targets, VOCAB) + cross_entropy(F.linear(y, table), targets, VOCAB)

    tensors = [random(2, 256, 768), random(768), random(768), random(PADDED, 768, scale=0.02)]
    targets = gpt2_targets(512).view(2, 256)
    for autocast in (False, True):
        with torch.autocast('cuda', torch.bfloat16, enabled=autocast):
            eager = run(step, tensors, targets)
            traced = run(torch.compile(step, fullgraph=True, backend=backend), tensors, targets)
        for a, b in zip(traced, eager):
            assert (a - b).norm() / b.norm() < (3e-2 if autocast else 1e-4)


def test_results_repeat_bit_for_bit():
    tensors = [random(4096, 768, dtype=torch.bfloat16), random(768), random(768)]
    first, second = (run(layer_norm, tensors, 1e-5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    logits, targets = random(4096, PADDED, dtype=torch.bfloat16, scale=3.0), gpt2_targets(4096)
    first, second = (run(lambda x: cross_entropy(x * 1, targets, VOCAB), [logits]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_more_than_two_billion_elements_are_addressed():
    rows = 2 ** 31 // PADDED + 200
    logits = torch.zeros(rows, PADDED, dtype=torch.bfloat16, device='cuda', requires_grad=True)
    targets = torch.full((rows,), -1, device='cuda')
    targets[-1] = 7
    loss = cross_entropy(logits, targets, VOCAB)
    assert abs(loss.item() - torch.tensor(VOCAB).log().item()) < 1e-4
    gradient, = torch.autograd.grad(loss, logits)
    assert gradient[-1, 7] < -0.99 and gradient[-1, 8] > 0 and gradient[0].abs().max() == 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='needs two GPUs')
def test_tensors_on_another_gpu_than_the_current_one():
    x = torch.randn(8, 768, device='cuda:1', requires_grad=True)
    weight = torch.ones(768, device='cuda:1')
    expected = F.layer_norm(x, (768,))
    assert torch.allclose(layer_norm(x, weight, None), expected, atol=1e-5)
