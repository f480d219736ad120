"""inference/step.cpp beside the model in float64, alone and in a batch, on one thread and on several; and where it is not used."""
import concurrent.futures
import copy
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_model import make_model

import architecture
from inference import native
from inference.engine import Engine, Request, generate
from inference.quantized import rounded, without_common
from model import GPT, LayerNorm

KINDS = 'float32', 'bfloat16', 'int8', 'int4'

pytestmark = pytest.mark.skipif(isinstance(native.library(), str), reason=str(native.library()))


def large(model):
    """With weights five times as large, so that attention and GELU are far from linear."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    return model


def make_step(model, kind, n_slots=8):
    config = model.config
    shape = (n_slots, config.n_head, config.block_size, config.n_embd // config.n_head)
    caches = [[torch.zeros(shape) for _ in range(config.n_layer)] for _ in range(2)]
    return native.Step(model, kind, n_slots, *caches)


def write(step, ids, V):
    """(n, T) tokens, one after the other -> logits (n, T, V)"""
    logits = torch.empty(*ids.shape, V)
    for t in range(ids.size(1)):
        into = torch.empty(len(ids), V)
        step(ids[:, t].contiguous(), torch.full((len(ids),), t), into)
        logits[:, t] = into
    return logits


@torch.no_grad()
def expected(model, kind, ids, dtype=torch.float64):
    """Those of the model itself in float64, with its weights as `kind` has them."""
    exact, head = copy.deepcopy(model).to(dtype), model.transformer.wte.weight.detach()[:model.config.vocab_size]
    if kind in ('int8', 'int4'):
        for module in exact.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.data = rounded(module.weight.float(), kind).to(dtype)
        rest, common = without_common(head)
        head = rounded(rest, kind) + common
    return (exact.hidden(ids) @ head.to(dtype).T).double()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 3), st.integers(1, 4), st.integers(1, 40), st.integers(1, 300), st.booleans(),
       st.integers(1, 8))
@example('int8', 2, 4, 38, 237, True, 1)  # two keys nearly tie at position 17
def test_logits_are_the_models_in_float64_for_any_size(kind, n_layer, n_head, hd, V, bias, n):
    model = large(make_model(n_layer=n_layer, n_head=n_head, n_embd=n_head * hd, vocab_size=V, block_size=20, bias=bias))
    model = model.bfloat16() if kind == 'bfloat16' else model
    ids = torch.randint(V, (n, 20), generator=torch.Generator().manual_seed(hd))
    want = expected(model, kind, ids)
    pytorchs = (expected(model, kind, ids, torch.float32) - want).abs().max()  # rounding of float32
    rounding = torch.maximum(pytorchs, effect_of_rounding_the_embeddings(model, kind, ids, want))
    torch.testing.assert_close(write(make_step(model, kind), ids, V).double(), want, rtol=0,
                               atol=30 * rounding + 1e-5 * want.abs().max())


def effect_of_rounding_the_embeddings(model, kind, ids, want):
    """How far logits move when position embeddings move by half a unit in the last place of float32, the most of four draws.
    Where two keys of large logits nearly tie, that is 100 times what it is elsewhere, and PyTorch may be lucky."""
    effects, generator = [], torch.Generator().manual_seed(0)
    for _ in range(4):
        moved = copy.deepcopy(model).double()
        weight = moved.transformer.wpe.weight.data
        weight *= 1 + 2 ** -23 * (torch.rand(weight.shape, generator=generator, dtype=weight.dtype) - 0.5)
        effects.append((expected(moved, kind, ids) - want).abs().max())
    return max(effects)


@pytest.mark.parametrize('kind', KINDS)
def test_the_bits_of_a_sequence_depend_neither_on_the_others_nor_on_the_threads(kind):
    model = large(make_model(n_layer=2, n_head=3, n_embd=96, vocab_size=211, block_size=24))
    ids = torch.randint(211, (7, 24), generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = write(make_step(model, kind), ids, 211)
        for n_threads, rows in ((1, slice(0, 1)), (2, slice(3, 4)), (5, slice(2, 6)), (1, slice(0, 7)), (4, slice(5, 7))):
            torch.set_num_threads(n_threads)
            assert torch.equal(write(make_step(model, kind), ids[rows], 211), together[rows])
    finally:
        torch.set_num_threads(before)


def test_slots_of_other_lengths_and_a_batch_that_shrinks_leave_no_trace():
    model = large(make_model(n_layer=2, n_head=2, n_embd=20, vocab_size=50, block_size=30))
    ids = torch.randint(50, (8, 30), generator=torch.Generator().manual_seed(2))
    step = make_step(model, 'float32')
    write(step, ids.flip(0), 50)  # other texts, in all slots, before
    positions, logits = torch.zeros(3, dtype=torch.int64), torch.empty(3, 50)
    starts, found = torch.tensor([0, 4, 9]), {}
    for t in range(20):
        positions = (t - starts).clamp(min=0)
        step(ids[torch.arange(3), positions], positions, logits)
        for row in range(3):
            found[row, int(positions[row])] = logits[row].clone()
    want = expected(model, 'float32', ids[:3])
    for (row, position), got in found.items():
        torch.testing.assert_close(got.double(), want[row, position], rtol=0, atol=2e-4)


def test_huge_and_tiny_scores_give_finite_logits():
    model = make_model(n_layer=2, n_head=2, n_embd=32, vocab_size=50, block_size=16)
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight.mul_(3000)
            block.mlp.c_fc.weight.mul_(3000)
    ids = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(3))
    want = expected(model, 'float32', ids)
    got = write(make_step(model, 'float32'), ids, 50)
    assert got.isfinite().all()
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-3 * want.abs().max())


@pytest.fixture
def asked_anew():
    """What was found out about model.py holds for this test alone."""
    native.agrees_about.cache_clear()
    yield
    native.agrees_about.cache_clear()


NOT_GPT2 = 'inference/step.cpp computes GPT-2, and model.py something else'


def test_a_model_that_is_not_gpt2_is_written_with_pytorch(monkeypatch, asked_anew):
    model = make_model()
    assert native.why_not(model) is None and Engine(model).decoder.step
    native.agrees_about.cache_clear()
    monkeypatch.setattr(architecture, 'fingerprint', lambda config: [1.0] * len(architecture.GPT2))
    assert native.why_not(model) == NOT_GPT2
    assert Engine(model).decoder.step is None


def test_a_model_that_differs_where_the_fingerprint_does_not_look_is_noticed(monkeypatch, asked_anew):
    """Without biases, or from the third layer on."""
    hidden, norm = GPT.hidden, LayerNorm.forward
    monkeypatch.setattr(LayerNorm, 'forward', lambda self, x: norm(self, x) * (1.1 if self.bias is None else 1))
    assert native.why_not(make_model(bias=False)) == NOT_GPT2 and native.why_not(make_model()) is None
    monkeypatch.undo()
    native.agrees_about.cache_clear()
    monkeypatch.setattr(GPT, 'hidden', lambda self, *args: hidden(self, *args) * (1.1 if self.config.n_layer > 2 else 1))
    assert native.why_not(make_model(n_layer=3)) == NOT_GPT2 and native.why_not(make_model()) is None


class Longer(GPT):
    def embed(self, *args):
        return 2 * super().embed(*args)


@pytest.mark.parametrize('change', [
    lambda model: setattr(model.transformer.h[0].mlp, 'linear_gelu', lambda x, linear: linear(x).relu()),
    lambda model: setattr(model.transformer.h[0], 'forward', lambda x, attention_fn=None: x),
    lambda model: model.transformer.h[0].register_forward_hook(lambda module, args, x: x + 1),
    lambda model: model.transformer.h[0].mlp.register_forward_pre_hook(lambda module, args: (args[0] + 1,)),
    lambda model: setattr(model, '__class__', Longer),
    lambda model: model.transformer.h.__setitem__(0, torch.nn.Identity())],
    ids=['activation', 'forward', 'hook', 'hook before', 'subclass', 'another layer'])
def test_a_model_of_which_parts_were_replaced_is_written_with_pytorch(change):
    model = make_model()
    assert native.why_not(model) is None
    change(model)
    assert native.why_not(model) == 'parts of this model were replaced, or have hooks, of which inference/step.cpp knows nothing'


def test_autocast_and_default_types_change_nothing_about_it(asked_anew):
    model = make_model()
    before = generate(model, torch.tensor([[1, 2]]), 5, temperature=0)
    try:
        torch.set_default_dtype(torch.float64)
        native.agrees_about.cache_clear()
        assert native.why_not(model) is None
        assert torch.equal(generate(model, torch.tensor([[1, 2]]), 5, temperature=0), before)
    finally:
        torch.set_default_dtype(torch.float32)
    native.agrees_about.cache_clear()
    with torch.autocast('cpu', torch.bfloat16):
        assert Engine(model).decoder.step and Engine(model, weights='int8')


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_without_a_compiler_the_text_is_written_all_the_same(monkeypatch, dtype):
    model = large(make_model(n_embd=64)).to(dtype)

    def text():
        engine = Engine(model, max_batch=1)
        (sequence,) = engine.add(Request([1, 2, 3], 20, temperature=0))
        while engine.n_running:
            engine.step()
        return sequence.ids

    natively = text()
    monkeypatch.setattr(native, 'library', lambda: 'it needs a C++ compiler (apt install g++)')
    assert natively[:8] == text()[:8]  # rounding may part them in the end


def in_a_process(code, tmp_path, **environment):
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, 'XDG_CACHE_HOME': str(tmp_path / 'cache'), **environment})


LOAD = 'from inference import native; print(type(native.library()).__name__)'


def kept(tmp_path):
    return list((tmp_path / 'cache' / 'scratchgpt').iterdir())


def test_it_is_compiled_once_and_said(tmp_path):
    first, second = in_a_process(LOAD, tmp_path), in_a_process(LOAD, tmp_path, PATH='/nowhere')
    assert first.stdout == second.stdout == 'CDLL\n'
    assert first.stderr == 'compiling inference/step.cpp, once for this machine\n' and not second.stderr
    assert len(kept(tmp_path)) == 1


def test_several_processes_may_compile_it_at_once(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: in_a_process(LOAD, tmp_path), range(4)))
    assert [run.stdout for run in runs] == ['CDLL\n'] * 4, [run.stderr for run in runs]
    assert all(path.suffix == '.so' for path in kept(tmp_path))


@pytest.mark.parametrize('damage', [
    lambda path: path.write_bytes(path.read_bytes()[:20000]), lambda path: path.write_bytes(b''),
    lambda path: path.write_bytes(path.read_bytes()[:10000] + bytes(30000)), lambda path: (path.unlink(), path.mkdir())])
def test_a_damaged_library_is_compiled_again(tmp_path, damage):
    assert in_a_process(LOAD, tmp_path).returncode == 0
    damage(kept(tmp_path)[0])
    run = in_a_process(LOAD, tmp_path)
    assert run.stdout == 'CDLL\n' and 'compiling' in run.stderr


def test_nothing_is_loaded_from_or_kept_in_a_folder_that_others_can_write_to(tmp_path):
    assert 'compiling' in in_a_process(LOAD, tmp_path).stderr
    kept(tmp_path)[0].unlink()
    (tmp_path / 'cache' / 'scratchgpt').chmod(0o777)
    for _ in range(2):
        run = in_a_process(LOAD, tmp_path)
        assert run.stdout == 'CDLL\n' and 'compiling' in run.stderr and not kept(tmp_path)


def test_where_nothing_can_be_kept_it_runs_all_the_same(tmp_path):
    (tmp_path / 'cache').write_text('a file')
    run = in_a_process(LOAD, tmp_path)
    assert run.stdout == 'CDLL\n' and 'compiling' in run.stderr


def test_what_hinders_it_is_said_in_one_line(tmp_path):
    code = 'from inference import native; print(native.library())'
    (tmp_path / 'bin').mkdir()
    assert in_a_process(code, tmp_path, PATH=str(tmp_path / 'bin')).stdout == 'it needs a C++ compiler (apt install g++)\n'
    compiler = tmp_path / 'bin' / 'g++'
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit\necho "no room left" >&2\necho "in two lines" >&2\nexit 1\n')
    compiler.chmod(0o755)
    run = in_a_process(code, tmp_path, PATH=f'{tmp_path / "bin"}')
    assert run.stdout == 'g++ could not compile inference/step.cpp: no room left\n'
    assert not kept(tmp_path)
