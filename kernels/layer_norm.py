"""Layer norm, and the residual add fused into it, forward and backward.

    y = layer_norm(x, weight, bias, eps=1e-5)
    y, residual = add_layer_norm(residual, x, weight, bias, eps=1e-5)     # normalizes residual + x

What is fused, in bytes moved for each element of a bfloat16 activation:

    forward   layer_norm       x in, y out                                   4   (PyTorch: 4)
              under autocast   float32 x in, bfloat16 y out                  6   (PyTorch: 4 + 4, cast to bfloat16 4 + 2: 14)
              add_layer_norm   residual, x in; y, sum out                    8   (PyTorch: add 6, norm 4: 10)
    backward  layer_norm       x, dy in; dx out                              6   (PyTorch: dx 6, dweight and dbias 4: 10)
              add_layer_norm   sum, dy, dsum in; dx out, one for both        8   (PyTorch: norm 10, add 6: 16)

PyTorch reads x and dy a second time for the gradients of weight and bias. Here each program walks over many rows
and keeps its share of both in registers; this adds only one float32 row per program to the traffic.

Types: sums are float32. Without autocast y has the type of what is normalized, as F.layer_norm's has. Under autocast
y has autocast's type, because a matrix product that would cast it comes next. F.layer_norm returns float32 there: the
product gets the same numbers from both, but here the float32 copy is never written. The residual sum has the wider
type of its two parts in either case. Knows nothing about the model.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import autocast_dtype, jit, on_device, tile_shape, tl, triton

# Elements of a row for each warp. Forward, a warp has rows of up to 1,024 columns for itself and waits for no other: no
# barriers, and 25 to 28 rows at a time on an SM. Four warps a row took 5 to 7 barriers and had 12 to 16 rows there; tiles of
# 4 rows took 21 to 29 and had 20 to 28. Backward, a thread also holds its columns of weight, dweight and dbias: a quarter of
# the elements leaves registers for RESIDENT_WARPS on an SM. tests/test_kernels_compiled.py counts.
FORWARD_PER_WARP, BACKWARD_PER_WARP = 1024, 256
RESIDENT_WARPS = 24  # of the backward kernel
PREFETCH_UP_TO = 2048  # columns; wider tiles would not fit into the shared memory of every GPU


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """(..., C) -> (..., C): (x - mean) / sqrt(variance + eps) * weight + bias over the last dimension.

    weight, bias: (C,); bias may be None. Raises ValueError for C above 8,192. Ba et al. 2016, "Layer Normalization".
    """
    normed, _, _, _ = torch.ops.scratchgpt.layer_norm(x, None, weight, bias, eps, autocast_dtype(x) or x.dtype)
    return normed


def add_layer_norm(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None,
                   eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """(..., C), (..., C) -> layer_norm(residual + x), (..., C), and the sum residual + x, (..., C).

    The sum is rounded to its own type before it is normalized, so that the two results agree with each other.
    """
    if residual.shape != x.shape:
        raise ValueError(f'residual of shape {tuple(residual.shape)} and x of {tuple(x.shape)} should have the same shape')
    dtype = autocast_dtype(x) or torch.promote_types(residual.dtype, x.dtype)
    normed, total, _, _ = torch.ops.scratchgpt.layer_norm(residual, x, weight, bias, eps, dtype)
    return normed, total


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """`layer_norm` in plain PyTorch."""
    dtype = autocast_dtype(x) or x.dtype
    wide = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    bias = None if bias is None else bias.to(wide)
    return F.layer_norm(x.to(wide), weight.shape, weight.to(wide), bias, eps).to(dtype)


def add_layer_norm_reference(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None,
                             eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """`add_layer_norm` in plain PyTorch."""
    total = residual + x
    return layer_norm_reference(total, weight, bias, eps), total


@torch.library.custom_op('scratchgpt::layer_norm', mutates_args=())
def layer_norm_op(x: Tensor, update: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float,
                  dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    normed, total, mean, rstd = allocate_results(x, update, weight, bias, eps, dtype)
    M, C = mean.numel(), x.size(-1)
    BLOCK_M, BLOCK_C, num_warps = tile_shape(C, FORWARD_PER_WARP)
    if x.numel():
        add = update is not None
        with on_device(x):
            layer_norm_forward_kernel[(triton.cdiv(M, BLOCK_M),)](
                x.contiguous(), update.contiguous() if add else None, weight, bias, normed, total if add else None,
                mean, rstd, M, C, eps, BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C, num_warps=num_warps)
    return normed, total, mean, rstd


@layer_norm_op.register_fake
def allocate_results(x, update, weight, bias, eps, dtype):
    """normed in `dtype`, the sum x + update (empty without an update), mean and 1/std of each row."""
    normed = x.new_empty(x.shape, dtype=dtype)
    if update is None:
        total = x.new_empty(0)
    else:
        total = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, update.dtype))
    mean = x.new_empty(x.shape[:-1], dtype=torch.float32)
    return normed, total, mean, torch.empty_like(mean)


@torch.library.custom_op('scratchgpt::layer_norm_backward', mutates_args=())
def layer_norm_backward_op(dnormed: Tensor, dtotal: Tensor | None, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor,
                           update_dtype: torch.dtype, has_bias: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dupdate, dweight, dbias = allocate_gradients(dnormed, dtotal, x, weight, mean, rstd, update_dtype, has_bias)
    M, C = mean.numel(), x.size(-1)
    BLOCK_M, BLOCK_C, num_warps = tile_shape(C, BACKWARD_PER_WARP)
    element_bytes = dnormed.element_size() + x.element_size() + (0 if dtotal is None else dtotal.element_size())
    n_sm, shared_memory = multiprocessors(x.device)
    programs = min(triton.cdiv(M, BLOCK_M), n_sm * programs_per_sm(BLOCK_M * BLOCK_C, element_bytes, num_warps, shared_memory))
    dweight_shares, dbias_shares = x.new_empty(2, programs, C, dtype=torch.float32)
    if x.numel():
        with on_device(x):
            layer_norm_backward_kernel[(programs,)](
                dnormed.contiguous(), None if dtotal is None else dtotal.contiguous(), x.contiguous(), weight, mean, rstd,
                dx, dupdate if dupdate.numel() else None, dweight_shares, dbias_shares if has_bias else None, M, C,
                BLOCK_M=BLOCK_M, BLOCK_C=BLOCK_C, STAGES=3 if BLOCK_C <= PREFETCH_UP_TO else 1, num_warps=num_warps)
    dweight.copy_(dweight_shares.sum(dim=0))
    if has_bias:
        dbias.copy_(dbias_shares.sum(dim=0))
    return dx, dupdate, dweight, dbias


@layer_norm_backward_op.register_fake
def allocate_gradients(dnormed, dtotal, x, weight, mean, rstd, update_dtype, has_bias):
    """dx, the same in the update's type (empty if that is x's type), dweight, dbias (empty without a bias)."""
    dx = x.new_empty(x.shape)
    dupdate = x.new_empty(0 if update_dtype == x.dtype else x.shape, dtype=update_dtype)
    return dx, dupdate, weight.new_empty(weight.shape), weight.new_empty(weight.shape if has_bias else 0)


def programs_per_sm(tile, element_bytes, num_warps, shared_memory):
    """Programs of the backward kernel that run at once on an SM; with more, the last ones would start when the others end.

    tile: elements. element_bytes: of an element of each input together. shared_memory: bytes of the SM. A program keeps two
    tiles of each input there, and a tile of float32 to exchange elements between threads; reductions and CUDA add up to 2 kB.
    """
    return max(1, min(RESIDENT_WARPS // num_warps, shared_memory // (tile * (2 * element_bytes + 4) + 2048)))


def multiprocessors(device):
    """(SMs of a GPU, bytes of shared memory of each); the interpreter counts as one large SM."""
    if device.type == 'cpu':
        return 1, 2 ** 30
    gpu = torch.cuda.get_device_properties(device)
    return gpu.multi_processor_count, gpu.shared_memory_per_multiprocessor


def save_for_backward(ctx, inputs, output):
    x, update, weight, bias, _, _ = inputs
    _, total, mean, rstd = output
    ctx.save_for_backward(x if update is None else total, weight, mean, rstd)
    ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (x, update, bias)]
    ctx.set_materialize_grads(False)


def backward(ctx, dnormed, dtotal, _dmean, _drstd):
    x, weight, mean, rstd = ctx.saved_tensors
    x_dtype, update_dtype, bias_dtype = ctx.dtypes
    if dnormed is None:  # only the sum was used
        dnormed = torch.zeros_like(x)
    if update_dtype is None:
        dtotal = None
    dx, dupdate, dweight, dbias = torch.ops.scratchgpt.layer_norm_backward(
        dnormed, dtotal, x, weight, mean, rstd, update_dtype or x.dtype, bias_dtype is not None)
    if update_dtype is None:
        dupdate = None
    elif update_dtype == x.dtype:
        dupdate = dx
    return dx.to(x_dtype), dupdate, dweight, None if bias_dtype is None else dbias.to(bias_dtype), None, None


layer_norm_op.register_autograd(backward, setup_context=save_for_backward)


@jit
def layer_norm_forward_kernel(x, update, weight, bias, normed, total, mean, rstd, M, C, eps, BLOCK_M: tl.constexpr,
                              BLOCK_C: tl.constexpr):
    """Normalizes BLOCK_M rows a program: x, or x + update where there is one. update, total and bias may be None."""
    rows = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]  # (BLOCK_M, 1)
    cols = tl.arange(0, BLOCK_C)[None, :]  # (1, BLOCK_C)
    offsets = rows * C + cols
    mask = (rows < M) & (cols < C)
    value = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    if update is not None:
        value += tl.load(update + offsets, mask=mask, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + offsets, rounded, mask=mask)
        value = rounded.to(tl.float32)
    row_mean = tl.sum(value, axis=1, keep_dims=True) / C
    centered = tl.where(cols < C, value - row_mean, 0.0)
    row_rstd = 1.0 / tl.sqrt(tl.sum(centered * centered, axis=1, keep_dims=True) / C + eps)
    result = centered * row_rstd * tl.load(weight + cols, mask=cols < C, other=0.0).to(tl.float32)
    if bias is not None:
        result += tl.load(bias + cols, mask=cols < C, other=0.0).to(tl.float32)
    tl.store(normed + offsets, result.to(normed.dtype.element_ty), mask=mask)
    tl.store(mean + rows, row_mean, mask=rows < M)
    tl.store(rstd + rows, row_rstd, mask=rows < M)


@jit
def layer_norm_backward_kernel(dnormed, dtotal, x, weight, mean, rstd, dx, dupdate, dweight, dbias, M, C,
                               BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr):
    """dx = rstd * (wdy - mean(wdy) - x_hat * mean(wdy * x_hat)) + dtotal, with wdy = weight * dnormed and
    x_hat = (x - mean) * rstd. dtotal, dupdate and dbias may be None.

    Each program walks over its share of the rows, BLOCK_M at a time, and writes what these add to dweight and dbias
    into row program_id of (programs, C). With 3 STAGES the next tile is fetched into shared memory meanwhile.
    """
    program = tl.program_id(0)
    cols = tl.arange(0, BLOCK_C)[None, :]  # (1, BLOCK_C)
    w = tl.load(weight + cols, mask=cols < C, other=0.0).to(tl.float32)
    dweight_sum = tl.zeros((1, BLOCK_C), dtype=tl.float32)
    dbias_sum = tl.zeros((1, BLOCK_C), dtype=tl.float32)
    for start in tl.range(program * BLOCK_M, M, tl.num_programs(0) * BLOCK_M, num_stages=STAGES):
        rows = (start + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]  # (BLOCK_M, 1)
        offsets = rows * C + cols
        mask = (rows < M) & (cols < C)
        row_mean = tl.load(mean + rows, mask=rows < M, other=0.0)
        row_rstd = tl.load(rstd + rows, mask=rows < M, other=0.0)
        dy = tl.load(dnormed + offsets, mask=mask, other=0.0).to(tl.float32)
        # Outside the mask x_hat is not 0, but dy is, and x_hat only counts multiplied by dy.
        x_hat = (tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32) - row_mean) * row_rstd
        dweight_sum += tl.sum(dy * x_hat, axis=0, keep_dims=True)
        if dbias is not None:
            dbias_sum += tl.sum(dy, axis=0, keep_dims=True)
        wdy = w * dy
        mean_wdy = tl.sum(wdy, axis=1, keep_dims=True) / C
        mean_wdy_x_hat = tl.sum(wdy * x_hat, axis=1, keep_dims=True) / C
        result = (wdy - mean_wdy - x_hat * mean_wdy_x_hat) * row_rstd
        if dtotal is not None:
            result += tl.load(dtotal + offsets, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx + offsets, result.to(dx.dtype.element_ty), mask=mask)
        if dupdate is not None:
            tl.store(dupdate + offsets, result.to(dupdate.dtype.element_ty), mask=mask)
    tl.store(dweight + program * C + cols, dweight_sum, mask=cols < C)
    if dbias is not None:
        tl.store(dbias + program * C + cols, dbias_sum, mask=cols < C)
