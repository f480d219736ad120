"""Dropout on CPUs, alone and in blocked attention, against what the same mask gives in plain operations."""
import pytest
import torch
from scipy import stats
from test_model import make_model
from torch.nn import functional as F

from kernels.attention import KEPT_UP_TO, blocked_attention, blocks
from kernels.dropout import STEPS, draw_kept, dropout, kept_scale, zero_others


@pytest.mark.parametrize('p', [0.1, 0.5, 0.9, 1e-4])
def test_as_many_numbers_are_kept_as_the_probability_says(p):
    n = 1_000_000
    kept = draw_kept((n,), p)
    assert set(kept.unique().tolist()) <= {0, -1} and kept.dtype == torch.int16
    n_kept = int(-kept.sum(dtype=torch.int64))
    assert stats.binomtest(n_kept, n, 1 - round(p * STEPS) / STEPS).pvalue > 1e-4


def test_numbers_from_one_draw_of_the_generator_are_independent():
    kept = -draw_kept((250_000, 4), 0.5).long()
    patterns = (kept * torch.tensor([1, 2, 4, 8])).sum(dim=1).bincount(minlength=16)
    assert stats.chisquare(patterns.numpy()).pvalue > 1e-4
    assert stats.chisquare((kept[1:, 0] * 2 + kept[:-1, 3]).bincount(minlength=4).numpy()).pvalue > 1e-4


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_kept_is_scaled_and_its_gradient_too(dtype):
    x = torch.randn(5, 7, 33, dtype=dtype)[..., ::2].requires_grad_()
    torch.manual_seed(1)
    y = dropout(x, 0.3, True)
    y.backward(dy := torch.randn_like(y))
    torch.manual_seed(1)
    kept = draw_kept(x.shape, 0.3) != 0
    scale = 65536 / (65536 - 19661)
    assert 0 < kept.sum() < kept.numel() and kept_scale(0.3) == scale
    torch.testing.assert_close(y, torch.where(kept, x * scale, 0.0))
    torch.testing.assert_close(x.grad, torch.where(kept, dy * scale, 0.0))


def test_a_number_that_is_dropped_is_zero_whatever_it_was():
    x = torch.tensor([float('nan'), float('inf'), -1.0])
    assert zero_others(x, torch.zeros(3, dtype=torch.int16)).tolist() == [0, 0, 0]


def test_nothing_is_dropped_at_rest_or_with_probability_zero():
    x = torch.randn(3, 4)
    assert dropout(x, 0.5, False) is x
    assert torch.equal(dropout(x, 0.0, True), x)


def reference_attention(q, k, v, kept, p):
    """The same in plain operations. kept: (B, nh, T, T) bool"""
    T = q.size(-2)
    scores = (q @ k.transpose(-2, -1) * q.size(-1) ** -0.5).masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -torch.inf)
    return torch.where(kept, scores.softmax(dim=-1) * kept_scale(p), 0.0) @ v


def masks_of(shape, p):
    """What blocked_attention keeps with torch's generator as it is, (B, nh, T, T) bool."""
    B, nh, T, _ = shape
    generator = torch.Generator().manual_seed(int(torch.randint(2 ** 63 - 1, ())))
    kept = torch.zeros(B * nh, T, T, dtype=torch.bool)
    for start, end in blocks(T):
        kept[:, start:end, :end] = draw_kept((B * nh, end - start, end), p, generator) != 0
    return kept.view(B, nh, T, T)


@pytest.mark.parametrize('T', [1, 40, 130, KEPT_UP_TO, KEPT_UP_TO + 44])
def test_blocked_attention_drops_what_its_seed_says_forward_and_backward(T):
    p = 0.2
    inputs = [torch.randn(2, 3, T, 8, dtype=torch.float64).requires_grad_() for _ in range(3)]
    torch.manual_seed(5)
    y = blocked_attention(*inputs, dropout=p)
    gradients = torch.autograd.grad(y, inputs, dy := torch.randn_like(y))
    torch.manual_seed(5)
    expected = reference_attention(*inputs, masks_of(y.shape, p), p)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, inputs, dy))


def test_without_dropout_attention_takes_nothing_from_the_generator():
    q = torch.randn(1, 1, 4, 8)
    before = torch.get_rng_state()
    blocked_attention(q, q, q)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('block_size', [32, 320])
def test_a_model_with_dropout_repeats_by_its_seed_and_with_activation_checkpointing(block_size):
    model = make_model(block_size=block_size, dropout=0.2).train()
    idx = torch.randint(61, (2, block_size))
    found = []
    for checkpointing in (False, True):
        model.activation_checkpointing = checkpointing
        model.zero_grad(set_to_none=True)
        torch.manual_seed(3)
        loss = model(idx, idx)
        loss.backward()
        found.append((loss.item(), model.transformer.wte.weight.grad.clone()))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1])
    torch.manual_seed(4)
    assert model(idx, idx).item() != found[0][0]


def test_a_compiled_step_with_dropout_runs_and_drops():
    model = make_model(block_size=32, dropout=0.5, n_layer=1).train()
    idx = torch.randint(61, (2, 32))
    compiled = torch.compile(model, backend='aot_eager')
    losses = [compiled(idx, idx) for _ in range(2)]
    losses[0].backward()
    assert losses[0].item() != losses[1].item() and all(p.grad is not None for p in model.parameters())


def test_on_other_devices_and_types_it_is_pytorchs(monkeypatch):
    called = []
    monkeypatch.setattr(F, 'dropout', lambda *arguments: called.append(arguments) or arguments[0])
    dropout(torch.empty(3, device='meta'), 0.1, True)
    dropout(torch.ones(3), 1.0, True)
    assert len(called) == 2
