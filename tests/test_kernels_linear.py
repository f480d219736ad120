"""Linear layers with fused bias gradients: against float64, in a whole model, under torch.compile.

The Triton kernels run under the interpreter: TRITON_INTERPRET=1 pytest tests/test_kernels_linear.py. Compiled for GPUs they
are looked at in test_kernels_compiled.py.
"""
import pytest
import torch
import torch.nn as nn
from test_kernels import interpreted

import kernels
from kernels import linear
from kernels.linear import linear_gelu, linear_gelu_reference, linear_qkv, linear_qkv_reference
from model import GPT, GPTConfig

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
dtypes = pytest.mark.parametrize('dtype', list(TOLERANCE))


@pytest.fixture(autouse=True)
def poisoned_outputs():
    """Memory that a kernel should have written but did not holds NaN."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def values_and_gradients(function, layer, x, weights):
    """The outputs, and the gradients of x and of the layer, where `weights` are the gradients of the outputs."""
    outputs = function(x, layer)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    tensors = [x, *layer.parameters()]
    gradients = torch.autograd.grad(outputs, tensors, [w.to(o.dtype) for w, o in zip(weights, outputs)])
    assert [gradient.dtype for gradient in gradients] == [tensor.dtype for tensor in tensors]
    return [tensor.detach().double() for tensor in (*outputs, *gradients)]


def check(function, reference, layer, x, shapes, dtype):
    weights = [torch.randn(shape) for shape in shapes]
    wide = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None).double()
    wide.load_state_dict(layer.state_dict())
    expected = values_and_gradients(reference, wide, x.detach().double().requires_grad_(), weights)
    for ours, right in zip(values_and_gradients(function, layer, x, weights), expected, strict=True):
        assert ((ours - right).norm() / right.norm()).item() < TOLERANCE[dtype]


@interpreted
@dtypes
@pytest.mark.parametrize('shape, width, bias', [((3, 7, 24), 40, True), ((1, 24), 300, True), ((70, 24), 256, True),
                                                ((2, 5, 24), 40, False)])
def test_linear_gelu_agrees_with_float64(shape, width, bias, dtype):
    layer, x = nn.Linear(24, width, bias=bias).to(dtype), torch.randn(shape).to(dtype).requires_grad_()
    check(linear_gelu, linear_gelu_reference, layer, x, [(*shape[:-1], width)], dtype)


@interpreted
@dtypes
@pytest.mark.parametrize('batch, tokens, heads, size, bias', [(2, 9, 3, 8, True), (1, 70, 1, 24, True), (3, 100, 2, 64, True),
                                                              (2, 5, 2, 16, False)])
def test_linear_qkv_agrees_with_float64(batch, tokens, heads, size, bias, dtype):
    width = heads * size
    layer = nn.Linear(width, 3 * width, bias=bias).to(dtype)
    x = torch.randn(batch, tokens, width).to(dtype).requires_grad_()
    check(lambda x, layer: linear_qkv(x, layer, heads), lambda x, layer: linear_qkv_reference(x, layer, heads), layer, x,
          [(batch, heads, tokens, size)] * 3, dtype)


@interpreted
@pytest.mark.parametrize('layout', ['heads first', 'tokens first', 'one of them otherwise', 'hidden apart'])
def test_gradients_of_heads_may_have_any_strides(layout):
    B, nh, T, hd = 2, 3, 5, 16
    parts = [torch.randn(B, nh, T, hd) for _ in range(3)]
    expected = torch.stack(parts).permute(1, 3, 0, 2, 4).reshape(B, T, 3 * nh * hd)
    if layout == 'tokens first':
        parts = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in parts]
    elif layout == 'one of them otherwise':
        parts[1] = parts[1].transpose(1, 2).contiguous().transpose(1, 2)
    elif layout == 'hidden apart':
        parts = [part.transpose(2, 3).contiguous().transpose(2, 3) for part in parts]
    joined, total = linear.join_heads_op(*parts)
    assert torch.equal(joined, expected)
    assert torch.allclose(total, expected.sum(dim=(0, 1)), atol=1e-5)


@interpreted
def test_kernels_take_inputs_without_rows():
    layer = nn.Linear(16, 48)
    for function in (linear_gelu, lambda x, layer: torch.cat(linear_qkv(x, layer, 2))):
        x = torch.empty(0, 4, 16, requires_grad=True)
        function(x, layer).sum().backward()
        assert x.grad.shape == x.shape and layer.bias.grad.eq(0).all()


@interpreted
@pytest.mark.parametrize('large', [1e4, -1e4])
def test_huge_inputs_give_the_gradient_of_the_identity_or_of_zero(large):
    dh, dbias = linear.gelu_backward_op(torch.ones(2, 8), torch.full((2, 8), large))
    assert dh.eq(1.0 if large > 0 else 0.0).all() and dbias.eq(2.0 if large > 0 else 0.0).all()


@interpreted
@pytest.mark.parametrize('op, arguments', [
    (linear.gelu_backward_op, lambda: (torch.randn(5, 24), torch.randn(5, 24))),
    (linear.join_heads_op, lambda: tuple(torch.randn(2, 3, 5, 8) for _ in range(3)))])
def test_custom_ops_pass_opcheck(op, arguments):
    torch.use_deterministic_algorithms(False)  # opcheck compares what a fake tensor cannot know about poisoned memory
    torch.library.opcheck(op, arguments())


@interpreted
@pytest.mark.parametrize('kernels', ['mixed', 'triton'])
@pytest.mark.parametrize('autocast', [False, True])
def test_a_model_has_the_same_loss_and_gradients_with_the_kernels(kernels, autocast):
    sizes = dict(block_size=16, vocab_size=61, n_layer=2, n_head=2, n_embd=32)
    models = [GPT(GPTConfig(**sizes, kernels=kind)) for kind in ('torch', kernels)]
    models[1].load_state_dict(models[0].state_dict())
    idx = torch.randint(61, (3, 17))
    for model in models:
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            loss = model(idx[:, :-1], idx[:, 1:])
        loss.backward()
        model.final_loss = loss.item()
    tolerance = 2e-2 if autocast else 1e-5
    assert models[1].final_loss == pytest.approx(models[0].final_loss, rel=tolerance / 10)
    for (name, plain), ours in zip(models[0].named_parameters(), models[1].parameters()):
        assert ((ours.grad - plain.grad).norm() / plain.grad.norm()).item() < tolerance, name


@interpreted
@pytest.mark.slow
def test_torch_compile_makes_one_graph_of_a_model_with_the_kernels():
    model = GPT(GPTConfig(block_size=16, vocab_size=61, n_layer=2, n_head=2, n_embd=32, kernels='mixed'))
    idx = torch.randint(61, (3, 17))
    results = []
    for forward in (model, torch.compile(model, fullgraph=True, backend='aot_eager')):
        loss = forward(idx[:, :-1], idx[:, 1:])
        results.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    for eager, traced in zip(*results):
        assert torch.allclose(eager, traced, atol=1e-6)


@pytest.mark.parametrize('wanted, device, compiled, expected', [
    ('auto', 'cpu', False, 'torch'), ('auto', 'cuda', True, 'mixed'), ('auto', 'cuda', False, 'triton'),
    ('torch', 'cuda', True, 'torch'), ('triton', 'cuda', True, 'triton')])
def test_auto_chooses_the_fastest_exact_kernels_for_the_device(monkeypatch, wanted, device, compiled, expected):
    monkeypatch.setattr(kernels, 'INTERPRETED', False)
    monkeypatch.setattr(kernels, 'unavailable', lambda device: None if device.type == 'cuda' else 'they need a GPU')
    assert kernels.choose(wanted, torch.device(device), compiled) == expected


def test_kernels_that_were_asked_for_and_cannot_run_are_an_error(monkeypatch):
    monkeypatch.setattr(kernels, 'unavailable', lambda device: 'they need a GPU')
    with pytest.raises(ValueError, match='kernels=mixed: they need a GPU; --kernels=torch runs everywhere'):
        kernels.choose('mixed', torch.device('cpu'), True)
