"""The kernels as compiled for GPUs of compute capability 8.0, 9.0 and 10.0, which need not be there, with training's types.

What is launched is recorded from the functions that training calls. Skipped under TRITON_INTERPRET=1.
"""
import functools

import pytest
import torch
from gpu_code import SM_LIMITS, compile_kernel, narrow, recorded_launches

import kernels
from kernels import cross_entropy as loss_kernels
from kernels import layer_norm as norm_kernels
from kernels import linear as linear_kernels
from kernels import softmax as softmax_kernels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(kernels.triton is None or kernels.INTERPRETED, reason='needs triton, and no TRITON_INTERPRET')]
capabilities = pytest.mark.parametrize('capability', [80, 90, 100])
residual_dtypes = pytest.mark.parametrize('residual_dtype', [torch.float32, torch.bfloat16])
widths = pytest.mark.parametrize('width', [768, 1024, 1280, 1600])
losses = pytest.mark.parametrize('dtype, gradient', [
    (torch.bfloat16, True), (torch.bfloat16, False), (torch.float16, True), (torch.float32, True)])
VOCAB, PADDED = 50257, 50304
MIN_PROGRAM_SHARED = 99 * 1024  # bytes that a program may have where it may have least: compute capability 8.6 and 8.9


def compiled(launch, capability):
    return compile_kernel(launch.kernel, launch.arguments, launch.num_warps, capability)


@functools.cache
def norm_launches(width, residual_dtype, update_dtype=torch.bfloat16, shared_memory=2 ** 30):
    """Launches of both norms on an SM: forward with and without an addition, backward without and with one."""
    x = torch.randn(64, width).to(residual_dtype).requires_grad_()
    update = torch.randn(64, width).to(update_dtype).requires_grad_()
    weight, bias = torch.ones(width, requires_grad=True), torch.zeros(width, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch, recorded_launches(norm_kernels) as launches:
        patch.setattr(norm_kernels, 'multiprocessors', lambda device: (1, shared_memory))
        with torch.autocast('cpu', torch.bfloat16, enabled=update_dtype == torch.bfloat16):
            normed, total = norm_kernels.add_layer_norm(x, update, weight, bias)
            last = norm_kernels.layer_norm(total, weight, bias)
        torch.autograd.grad((normed.float() + total + last).sum(), [x, update, weight, bias])
    assert len(launches) == 4 and launches[1].arguments['update'] is None and launches[3].arguments['dtotal'] is not None
    return launches


@functools.cache
def softmax_launches(T):
    scores = torch.randn(1, 2, T, T, dtype=torch.bfloat16, requires_grad=True)
    with recorded_launches(softmax_kernels) as launches:
        torch.autograd.grad(softmax_kernels.causal_softmax(scores, 0.125).sum(), scores)
    return launches


@functools.cache
def linear_launches(width, heads):
    """Launches of the backward passes that make bias gradients too: GELU's, and that of joining q, k and v."""
    x = torch.randn(2, 64, width, dtype=torch.bfloat16, requires_grad=True)
    with recorded_launches(linear_kernels) as launches:
        fc, attn = (torch.nn.Linear(width, n * width, dtype=torch.bfloat16) for n in (4, 3))
        torch.autograd.grad(linear_kernels.linear_gelu(x, fc).sum(), fc.bias)
        torch.autograd.grad(sum(part.sum() for part in linear_kernels.linear_qkv(x, attn, heads)), attn.bias)
    assert len(launches) == 2
    return launches


@functools.cache
def loss_launches(dtype, gradient):
    """The launch over the rows, and with a gradient that which scales it."""
    logits = torch.randn(16, PADDED).to(dtype).requires_grad_()
    with recorded_launches(loss_kernels) as launches, torch.set_grad_enabled(gradient):
        loss = loss_kernels.cross_entropy(logits * 1, torch.zeros(16, dtype=torch.long), VOCAB)
        if gradient:
            torch.autograd.grad(loss, logits)
    return launches


@capabilities
@residual_dtypes
@widths
def test_norms_move_16_bytes_at_a_time_and_spill_nothing(width, residual_dtype, capability):
    for launch in norm_launches(width, residual_dtype):
        code = compiled(launch, capability)
        assert code.spills == 0
        if 'normed' in launch.arguments:
            assert narrow(code.loads) == 0 and narrow(code.stores) == 2  # mean and rstd are written, a number a row
        else:
            assert narrow(code.loads) == 6 and narrow(code.stores) == 0  # both are read, for two rows ahead and in the loop


@capabilities
def test_softmax_moves_16_bytes_at_a_time_and_spills_nothing(capability):
    for launch in softmax_launches(1024):
        code = compiled(launch, capability)
        assert code.spills == narrow(code.loads) == narrow(code.stores) == 0
        assert code.loads and code.stores


@capabilities
@losses
def test_the_loss_moves_16_bytes_at_a_time_and_spills_nothing(dtype, gradient, capability):
    rows, *rest = (compiled(launch, capability) for launch in loss_launches(dtype, gradient))
    assert rows.spills == 0
    assert narrow(rows.loads) == 2 + gradient  # the target, its logit; the weight of the gradient
    assert narrow(rows.stores) == 2 + gradient  # the loss in either branch; the gradient at the target
    for code in rest:
        assert code.spills == narrow(code.stores) == 0 and narrow(code.loads) == 1  # the factor


@capabilities
@losses
def test_two_programs_of_the_loss_run_on_an_sm_and_fetch_a_block_ahead(dtype, gradient, capability):
    code = compiled(loss_launches(dtype, gradient)[0], capability)
    assert code.resident >= 2
    before_first_exp = code.ptx[:code.ptx.index('ex2.approx')]
    assert before_first_exp.count('cp.async.commit_group') == 2
    assert 'cp.async.wait_group \t1' in before_first_exp  # the first of the two blocks is there; the second is not waited for


@capabilities
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_the_logit_of_the_target_is_read_before_and_replaced_after_all_others(dtype, capability):
    ptx = compiled(loss_launches(dtype, True)[0], capability).ptx
    ptx = ptx[ptx.index('ex2.approx') - len(ptx):]
    assert 'ld.global.b16' not in ptx
    last_block, target = ptx.rindex('st.global.v4.b32'), ptx.index('st.global.b16')
    assert last_block < ptx.rindex('bar.sync') < target


@pytest.mark.parametrize('capability', SM_LIMITS)
@residual_dtypes
@widths
def test_all_programs_of_the_backward_norm_run_at_once(width, residual_dtype, capability):
    for launch in norm_launches(width, residual_dtype, shared_memory=SM_LIMITS[capability][2])[2:]:
        assert compiled(launch, capability).resident >= launch.grid[0] > 1


@capabilities
def test_rows_of_up_to_1024_columns_need_no_barrier(capability):
    forward = [launch for dtype in (torch.float32, torch.bfloat16) for launch in norm_launches(1024, dtype)[:2]]
    for launch in (*forward, *softmax_launches(1024)):
        assert 'bar.sync' not in compiled(launch, capability).ptx


@pytest.mark.parametrize('width', [1, 768, 1600, 4096, 8192])
def test_the_backward_norm_fits_into_the_shared_memory_of_every_gpu_at_every_width(width):
    for capability in (80, 90):
        assert compiled(norm_launches(width, torch.float32, torch.float32)[3], capability).shared <= MIN_PROGRAM_SHARED


@capabilities
@pytest.mark.parametrize('width, heads', [(768, 12), (1600, 25)])
def test_bias_gradients_load_16_bytes_at_a_time_and_fill_an_sm(width, heads, capability):
    """20 warps with eight loads of 16 bytes each are 80 kB under way in an SM, several times what its memory has under way."""
    for launch in linear_launches(width, heads):
        code = compiled(launch, capability)
        assert code.spills == 0
        assert narrow(code.loads) == 0 and narrow(code.stores) <= 1  # a program's sums of its columns
        assert code.resident * launch.num_warps >= 20
