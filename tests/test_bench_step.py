"""The computed training step: what Inductor would run on an H100, lowered on this machine without one."""
import functools

import pytest
import torch

from bench.step import B, add_up, count_graphs, our_kernels, summarize
from bench.turns import alone

pytestmark = [pytest.mark.long,
              pytest.mark.skipif(not torch.__version__.startswith('2.13'), reason='needs private parts of torch 2.13')]


def lower_small(kernels, deterministic=False):
    """[Kernel] of a model of two layers, in a process of its own, and the code that Inductor wrote for it."""
    from bench import fake_gpu
    from model import GPT, GPTConfig
    torch.use_deterministic_algorithms(deterministic)
    code, real = [], fake_gpu.GraphLowering.codegen

    def codegen(lowering):
        result = real(lowering)
        code.append(result[0].value)
        return result
    fake_gpu.GraphLowering.codegen = codegen
    model = GPT(GPTConfig(block_size=256, vocab_size=1000, n_layer=2, n_head=2, n_embd=128, attention='sdpa', kernels=kernels))
    idx = torch.empty(8, 256, dtype=torch.int64, device='meta')
    return fake_gpu.lower(model, idx, idx, lambda model, x, y: model(x, y)), '\n'.join(code)


@pytest.fixture(scope='module')
def step():
    return alone(our_kernels, 'mixed')


@pytest.fixture(scope='module')
def small():
    """small(kernels, deterministic): what lower_small gives, each made once."""
    return functools.cache(functools.partial(alone, lower_small))


@pytest.mark.slow
def test_the_default_step_of_gpt2_is_computed_to_take_at_most_125_ms_on_an_h100(step):
    assert summarize('ours', step)['ms'] <= 125


@pytest.mark.slow
def test_the_fused_kernels_move_fewer_bytes_in_every_part_that_they_change(small):
    fused, plain = (add_up(small(kernels)[0]) for kernels in ('mixed', 'torch'))
    for part in ('gelu', 'joining q, k, v'):
        assert fused[part][1] < 0.85 * plain[part][1]


@pytest.mark.slow
def test_each_layer_moves_the_bytes_that_pencil_and_paper_say(step):
    """For a unit of 64 x 1024 x 768 bf16 numbers: GELU moves 4 + 4 forward and 4 + 4 + 4 backward, joining q, k and v
    3 + 3, a norm with its addition 2 + 2 forward and 3 + 1 backward."""
    unit = B * 1024 * 768 * 2
    kernels, n_bytes, _ = step['gelu']
    assert kernels == 24 and n_bytes == pytest.approx(12 * 20 * unit, rel=0.01)
    assert step['joining q, k, v'][1] == pytest.approx(12 * 6 * unit, rel=0.01)
    assert step['norms and residuals'][1] == pytest.approx(12 * 2 * 8 * unit, rel=0.05)


@pytest.mark.slow
def test_nothing_of_a_deterministic_step_adds_up_with_atomics(small):
    assert 'tl.atomic_add(' in small('mixed')[1]
    assert 'tl.atomic_add(' not in small('mixed', True)[1]


@pytest.mark.slow
def test_all_parts_of_all_kernels_are_counted_once(small):
    kernels, _ = small('triton')
    parts = add_up(kernels)
    assert sum(n for n, _, _ in parts.values()) == len(kernels) + 2  # AdamW and clipping are not in the graphs
    assert parts['norms and residuals'][1] >= sum(kernel.bytes for kernel in kernels if 'layer_norm' in kernel.name) > 0


@pytest.mark.slow
def test_a_run_compiles_one_graph_for_training_and_one_for_validation():
    _, rows = alone(count_graphs)
    assert [row['new graphs'] for row in rows] == [1, 1, 0, 0, 0]
    assert all(row['graph breaks so far'] == 0 for row in rows)
