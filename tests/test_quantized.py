"""inference/quantized.py: what is left of weights that were rounded to 8 and 4 bits, and the texts written with them."""
import pytest
import torch
from conftest import run_script
from hypothesis import given
from hypothesis import strategies as st
from test_generation import random_requests, write_alone, write_busily
from test_model import make_model

from inference.engine import Engine
from inference.quantized import GROUP, int4_parts, int8_parts, rounded, without_common
from runtime.errors import BadInput

KINDS = 'int8', 'int4'


@given(st.integers(1, 9), st.integers(1, 70), st.floats(1e-6, 1e6), st.integers(0, 99))
def test_int8_weights_are_within_half_a_step(N, K, size, seed):
    weight = torch.randn(N, K, generator=torch.Generator().manual_seed(seed)) * size
    numbers, scales = int8_parts(weight)
    assert numbers.dtype == torch.int8 and numbers.abs().max() <= 127
    assert ((rounded(weight, 'int8') - weight).abs() <= scales[:, None] * 0.501).all()


@given(st.integers(1, 9), st.integers(1, 70), st.floats(1e-6, 1e6), st.integers(0, 99))
def test_int4_weights_are_within_half_a_step_and_what_the_step_itself_is_rounded_by(N, K, size, seed):
    weight = torch.randn(N, K, generator=torch.Generator().manual_seed(seed)) * size
    groups = torch.nn.functional.pad(weight, (0, -K % GROUP)).view(N, -1, GROUP)
    reach = groups.amax(dim=-1) - groups.amin(dim=-1)
    largest = groups.abs().amax(dim=-1)
    allowed = reach / 15 * 0.51 + (reach + largest) / 128  # a bfloat16 is within 1 in 256
    off = (rounded(weight, 'int4') - weight).abs()
    assert (off <= allowed.repeat_interleave(GROUP, dim=1)[:, :K]).all()
    numbers, scales, offsets = int4_parts(groups.view(N, -1))
    assert numbers.max() <= 15 and scales.dtype == offsets.dtype == torch.bfloat16


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('value', [0.0, 1e-38, 0.5, 1e30])
def test_constant_weights_zero_weights_and_huge_ones_stay_what_they_are(kind, value):
    torch.testing.assert_close(rounded(torch.full((3, 40), value), kind), torch.full((3, 40), value), rtol=0.01, atol=1e-30)


def test_what_all_rows_have_in_common_and_the_rest_are_the_weights():
    weight = torch.randn(50, 8) + 10 * torch.randn(8)
    rest, common = without_common(weight)
    assert rest.mean(dim=0).abs().max() < 1e-5
    torch.testing.assert_close(rest + common, weight)


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


def test_where_they_cannot_be_had_one_line_says_so(monkeypatch):
    model = make_model(n_embd=48, n_head=4)
    with pytest.raises(BadInput, match='int8 cannot be had: it is for CPUs, without --compile; leave it out'):
        Engine(model, weights='int8', compile=True)
    monkeypatch.setattr('inference.native.library', lambda: 'it needs a C++ compiler (apt install g++)')
    with pytest.raises(BadInput, match=r'int4 cannot be had: it needs a C\+\+ compiler \(apt install g\+\+\); leave it out'):
        Engine(model, weights='int4')


def test_sample_and_serve_take_the_setting(capsys):
    assert run_script('sample.py', '--weights=int3') == 2
    assert 'one of auto, int8, int4' in capsys.readouterr().err
    assert run_script('serve.py', '--help') == 0
    assert '--weights=auto' in capsys.readouterr().out
