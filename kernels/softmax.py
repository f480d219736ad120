"""Causal softmax of attention scores: scale, mask and softmax in one pass, forward and backward.

    weights = causal_softmax(q @ k.transpose(-2, -1), scale=hd ** -0.5)      # (B, nh, T, T)

For code that needs the attention weights themselves. FlashAttention never writes them and is faster where they are
not needed. What is fused, in bytes moved for each element of a bfloat16 (T, T) matrix:

    forward   scores in below the diagonal; weights out                          3   (PyTorch: scale 4, mask 4, softmax 4)
    backward  weights, dweights in below the diagonal; dscores out               4   (PyTorch: softmax 6, mask 4, scale 4)

The half above the diagonal is written as zeros and never read. Types: float32 inside; weights have the type of
the scores, under autocast too. Knows nothing about the model.
"""
import torch
from torch import Tensor

from kernels import jit, on_device, tile_shape, tl, triton

PER_WARP = 1024  # elements: up to 1,024 keys a row belongs to one warp, which waits for no other to reduce it


def causal_softmax(scores: Tensor, scale: float) -> Tensor:
    """(..., Tq, Tk) -> (..., Tq, Tk): softmax(scores * scale) over the keys that a query may see, 0 elsewhere.

    The last query sees every key: query i sees the keys up to i + Tk - Tq. A row whose visible scores are all -inf
    becomes zeros, with zero gradient. Raises ValueError for fewer keys than queries, and for more than 8,192 keys.
    """
    if scores.dim() < 2 or scores.size(-1) < scores.size(-2):
        raise ValueError(f'scores of shape {tuple(scores.shape)} should be (..., queries, keys) with keys >= queries')
    return torch.ops.scratchgpt.causal_softmax(scores, float(scale))


def causal_softmax_reference(scores: Tensor, scale: float) -> Tensor:
    """`causal_softmax` in plain PyTorch."""
    Tq, Tk = scores.shape[-2:]
    future = torch.ones(Tq, Tk, dtype=torch.bool, device=scores.device).triu(1 + Tk - Tq)
    scaled = (scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale).masked_fill(future, -torch.inf)
    empty = (scaled == -torch.inf).all(dim=-1, keepdim=True)
    return scaled.masked_fill(empty, 0.0).softmax(dim=-1).masked_fill(empty | future, 0.0).to(scores.dtype)


@torch.library.custom_op('scratchgpt::causal_softmax', mutates_args=())
def causal_softmax_op(scores: Tensor, scale: float) -> Tensor:
    weights = allocate_weights(scores, scale)
    launch(causal_softmax_forward_kernel, scores.contiguous(), weights, scale=scale)
    return weights


@causal_softmax_op.register_fake
def allocate_weights(scores, scale):
    return scores.new_empty(scores.shape)


@torch.library.custom_op('scratchgpt::causal_softmax_backward', mutates_args=())
def causal_softmax_backward_op(dweights: Tensor, weights: Tensor, scale: float) -> Tensor:
    dscores = allocate_dscores(dweights, weights, scale)
    launch(causal_softmax_backward_kernel, dweights.contiguous(), weights.contiguous(), dscores, scale=scale)
    return dscores


@causal_softmax_backward_op.register_fake
def allocate_dscores(dweights, weights, scale):
    return weights.new_empty(weights.shape)


def save_for_backward(ctx, inputs, output):
    ctx.save_for_backward(output)
    ctx.scale = inputs[1]


def backward(ctx, dweights):
    weights, = ctx.saved_tensors
    return torch.ops.scratchgpt.causal_softmax_backward(dweights, weights, ctx.scale), None


causal_softmax_op.register_autograd(backward, setup_context=save_for_backward)


def launch(kernel, *tensors, scale):
    """Runs a kernel over the rows of contiguous tensors, all of one shape (..., Tq, Tk)."""
    Tq, Tk = tensors[0].shape[-2:]
    BLOCK_M, BLOCK_T, num_warps = tile_shape(Tk, PER_WARP)
    if tensors[0].numel():
        M = tensors[0].numel() // Tk
        with on_device(tensors[0]):
            kernel[(triton.cdiv(M, BLOCK_M),)](*tensors, scale, M, Tq, Tk, BLOCK_M=BLOCK_M, BLOCK_T=BLOCK_T,
                                               num_warps=num_warps)


@jit
def load_visible(matrix, rows, cols, n_visible, M, Tk):
    """The first n_visible elements of each row as float32; the caller has to mask those that follow.

    Loads end at a multiple of 16: with a mask that may change from one element to the next, the compiler would load
    every element alone.
    """
    mask = (rows < M) & (cols < (n_visible + 15) // 16 * 16) & (cols < Tk)
    return tl.load(matrix + rows * Tk + cols, mask=mask, other=0.0).to(tl.float32)


@jit
def causal_softmax_forward_kernel(scores, weights, scale, M, Tq, Tk, BLOCK_M: tl.constexpr, BLOCK_T: tl.constexpr):
    """Each program fills BLOCK_M rows of the weights."""
    rows = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]  # (BLOCK_M, 1)
    cols = tl.arange(0, BLOCK_T)[None, :]  # (1, BLOCK_T)
    n_visible = rows % Tq + (Tk - Tq) + 1  # keys that each query may see
    scaled = load_visible(scores, rows, cols, n_visible, M, Tk) * scale
    scaled = tl.where((rows < M) & (cols < n_visible), scaled, float('-inf'))
    row_max = tl.max(scaled, axis=1, keep_dims=True)
    row_max = tl.where(row_max == float('-inf'), 0.0, row_max)  # -inf minus -inf would be NaN
    numerator = tl.exp(scaled - row_max)
    denominator = tl.sum(numerator, axis=1, keep_dims=True)
    result = numerator * (1.0 / tl.where(denominator == 0.0, 1.0, denominator))  # 0: all visible scores are -inf
    tl.store(weights + rows * Tk + cols, result.to(weights.dtype.element_ty), mask=(rows < M) & (cols < Tk))


@jit
def causal_softmax_backward_kernel(dweights, weights, dscores, scale, M, Tq, Tk, BLOCK_M: tl.constexpr,
                                   BLOCK_T: tl.constexpr):
    """dscores = scale * weights * (dweights - sum(weights * dweights)), BLOCK_M rows a program."""
    rows = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]  # (BLOCK_M, 1)
    cols = tl.arange(0, BLOCK_T)[None, :]  # (1, BLOCK_T)
    n_visible = rows % Tq + (Tk - Tq) + 1
    p = load_visible(weights, rows, cols, n_visible, M, Tk)  # needs no mask: the forward wrote zeros to the future keys
    dp = load_visible(dweights, rows, cols, n_visible, M, Tk)
    dp = tl.where(cols < n_visible, dp, 0.0)
    result = scale * p * (dp - tl.sum(p * dp, axis=1, keep_dims=True))
    tl.store(dscores + rows * Tk + cols, result.to(dscores.dtype.element_ty), mask=(rows < M) & (cols < Tk))
