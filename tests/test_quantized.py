"""Weights of 8 and 4 bits: the products against float64 ones with the same rounded weights, and the texts alone and in a batch."""
import platform

import pytest
import torch
from conftest import run_script
from test_generation import random_requests, write_alone, write_busily
from test_model import make_model

from inference.engine import Engine
from inference.quantized import GROUP, LARGEST, Int4Linear, Int8Linear, split
from runtime.errors import BadInput

pytestmark = pytest.mark.skipif(platform.machine() not in ('x86_64', 'AMD64'), reason='these products are for the x86 family')
KINDS = {'int8': Int8Linear, 'int4': Int4Linear}


def inputs(n, K):
    """Rows of ordinary numbers with one that is far larger, as GPT-2's have, one of zeros, and a tiny one."""
    x = torch.randn(n, K)
    x[:, 3] *= 100
    x[n // 2] = 0
    x[-1] *= 1e-6
    return x


def rounded(linear, weight):
    """The weights that a layer computes with, by one-hot inputs that are exact in it."""
    return torch.cat([linear(torch.eye(weight.size(1))[i:i + 1]) - (0 if linear.bias is None else linear.bias.float())
                      for i in range(weight.size(1))]).t().double()


@pytest.mark.parametrize('N, K', [(16, 32), (48, 64), (256, 160)])
@pytest.mark.parametrize('with_bias', [False, True])
def test_int8_products_are_those_of_its_rounded_weights(N, K, with_bias):
    weight, bias = torch.randn(N, K) * 0.1, torch.randn(N) if with_bias else None
    linear, x = Int8Linear(weight, bias), inputs(5, K)
    scales = weight.abs().amax(dim=1, keepdim=True) / 127
    own = (weight / scales).round() * scales
    torch.testing.assert_close(rounded(linear, weight).float(), own, atol=1e-5, rtol=1e-4)
    expected = x.double() @ own.double().t() + (bias if with_bias else 0)
    # an input is rounded to half a scale at most, as if it had an error of its largest number / 2 / LARGEST
    error = 0.51 * x.abs().amax(dim=1, keepdim=True).double() / LARGEST * own.abs().sum(dim=1) + 1e-5 * expected.abs() + 1e-6
    assert ((linear(x) - expected).abs() <= error).all()


@pytest.mark.parametrize('N, K', [(16, 32), (64, 96), (256, 160)])
def test_int4_weights_are_within_half_a_step_and_products_are_theirs(N, K):
    weight, bias = torch.randn(N, K) * 0.1, torch.randn(N)
    linear, x = Int4Linear(weight, bias), inputs(5, K).bfloat16()
    own = rounded(Int4Linear(weight, None), weight)
    groups = weight.view(N, -1, GROUP)
    step = (groups.amax(dim=-1, keepdim=True) - groups.amin(dim=-1, keepdim=True)) / 15
    assert ((own.view_as(groups) - groups).abs() <= 0.5 * step + 0.02 * groups.abs().amax(dim=-1, keepdim=True)).all()
    assert all(len(row.unique()) <= 16 for row in own.view_as(groups).flatten(0, 1).float().mul(1e4).round())
    expected = x.double() @ own.t() + bias
    size = x.double().abs() @ own.abs().t() + bias.abs()
    assert ((linear(x) - expected).abs() <= 0.02 * size).all()


@pytest.mark.parametrize('kind', KINDS)
def test_constant_weights_zero_weights_and_huge_ones_give_finite_products(kind):
    for value in (0.0, 1e-38, 0.5, 1e30):
        weight = torch.full((32, 32), value)
        y = KINDS[kind](weight, None)(torch.ones(2, 32))
        torch.testing.assert_close(y, torch.full((2, 32), 32 * value), rtol=0.02, atol=1e-30)


@pytest.mark.parametrize('kind', KINDS)
def test_a_row_does_not_depend_on_the_others(kind):
    linear, x = KINDS[kind](torch.randn(96, 64), torch.randn(96)), torch.randn(33, 64)
    together = linear(x)
    for rows in (slice(0, 1), slice(5, 7), slice(10, 30)):
        assert torch.equal(linear(x[rows]), together[rows])


def test_high_and_low_bytes_make_up_the_number():
    rows = torch.cat([inputs(4, 10), torch.tensor([[-1.0, 1.0] * 5])])
    both, largest = split(rows)
    low, high = both.double().sub(128).view(2, 5, 10)
    scales = largest.double() / LARGEST
    assert both.dtype == torch.uint8
    assert ((scales * (256 * high + low) - rows).abs() <= scales * 0.51).all()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('kind', KINDS)
def test_greedy_texts_alone_and_in_a_busy_batch_are_the_same(kind, dtype):
    model = make_model(block_size=32, n_embd=64, n_head=4, vocab_size=61).to(dtype)
    requests = random_requests(12, seed=3, temperature=0)
    busy = write_busily(Engine(model, max_batch=4, weights=kind), requests)
    for sequence in busy:
        engine = Engine(model, max_batch=1, weights=kind)
        (alone,) = engine.add(sequence.request)
        while engine.n_running:
            engine.step()
        assert alone.ids == sequence.ids
    assert [sequence.ids for sequence in busy] != [write_alone(model, sequence.request).ids for sequence in busy] or kind == 'int8'


def test_where_they_cannot_be_had_one_line_says_so():
    model = make_model(n_embd=48, n_head=4)
    with pytest.raises(BadInput, match='multiple of 32.*weights=int8 takes any'):
        Engine(model, weights='int4')
    Engine(model, weights='int8')
    with pytest.raises(BadInput, match='CPU of the x86 family'):
        Engine(model, weights='int8', compile=True)


def test_sample_and_serve_take_the_setting(capsys):
    assert run_script('sample.py', '--weights=int3') == 2
    assert 'one of auto, int8, int4' in capsys.readouterr().err
    assert run_script('serve.py', '--help') == 0
    assert '--weights=auto' in capsys.readouterr().out
