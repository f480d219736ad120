"""Linear layers whose bias gradient needs no pass of its own over memory.

    h = linear_gelu(x, layer)                 # gelu(layer(x)), (..., F)
    q, k, v = linear_qkv(x, layer, n_head)    # (B, nh, T, hd) each

The gradient of a bias is the sum over all rows of the gradient of the layer's result. PyTorch, compiled or not, first
writes that gradient and then reads all of it again for the sum. Here the pass that writes it also adds it up:

    bytes moved for each bfloat16 element, backward                                          PyTorch, compiled
    linear_gelu   dy and h in, dh out: gelu's gradient and the bias's                  6     8
    linear_qkv    dq, dk and dv in, their gradient in one matrix out, and the bias's   4     6

The forward pass and the matrix products are PyTorch's own. Sums are float32 and in a fixed order, without atomics.
Knows nothing about the model.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from kernels import jit, next_power_of_2, on_device, tl, triton

TILE_ROWS, TILE_COLS, WARPS = 16, 256, 4  # what a program takes at a time: rows of 512 bytes of bfloat16
PROGRAMS = 1024  # about; several for each place on a GPU, so that the last ones do not run alone


def linear_gelu(x: Tensor, layer: nn.Linear) -> Tensor:
    """(..., C) -> gelu(layer(x)), (..., F), with the tanh approximation.

    Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2.
    """
    if layer.bias is None:
        return linear_gelu_reference(x, layer)
    return Gelu.apply(F.linear(x, layer.weight, layer.bias.detach()), layer.bias)


def linear_gelu_reference(x: Tensor, layer: nn.Module) -> Tensor:
    """`linear_gelu` in plain PyTorch."""
    return F.gelu(layer(x), approximate='tanh')


def linear_qkv(x: Tensor, layer: nn.Linear, n_head: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, T, C) and a layer of 3C results -> queries, keys and values, (B, nh, T, hd) each."""
    if layer.bias is None:
        return linear_qkv_reference(x, layer, n_head)
    return SplitHeads.apply(F.linear(x, layer.weight, layer.bias.detach()), layer.bias, n_head)


def linear_qkv_reference(x: Tensor, layer: nn.Module, n_head: int) -> tuple[Tensor, Tensor, Tensor]:
    """`linear_qkv` in plain PyTorch."""
    return split_heads(layer(x), n_head)


def split_heads(qkv, n_head):
    """(B, T, 3C) -> three views of it, (B, nh, T, hd) each."""
    B, T, width = qkv.shape
    q, k, v = qkv.view(B, T, 3, n_head, width // (3 * n_head)).permute(2, 0, 3, 1, 4)
    return q, k, v


class Gelu(torch.autograd.Function):
    """gelu(h), where h has a bias in it already whose gradient this makes."""

    @staticmethod
    def forward(ctx, h, bias):
        ctx.save_for_backward(h)
        ctx.bias_dtype = bias.dtype
        return F.gelu(h, approximate='tanh')

    @staticmethod
    def backward(ctx, dy):
        dh, dbias = torch.ops.scratchgpt.gelu_backward(dy, ctx.saved_tensors[0])
        return dh, dbias.to(ctx.bias_dtype)


@torch.library.custom_op('scratchgpt::gelu_backward', mutates_args=())
def gelu_backward_op(dy: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """(..., F), (..., F) -> the gradient of h, (..., F), and its sum over all rows, (F,) float32."""
    dh, dbias = allocate_gelu_gradients(dy, h)
    M, width = h.numel() // h.size(-1), h.size(-1)
    n_cols = triton.cdiv(width, TILE_COLS)
    rows_each = rows_per_program(M, TILE_ROWS, n_cols)
    shares = h.new_empty(triton.cdiv(M, rows_each), width, dtype=torch.float32)
    if h.numel():
        with on_device(h):
            gelu_backward_kernel[(n_cols, len(shares))](
                dy.contiguous(), h.contiguous(), dh, shares, M, width, rows_each, TILE_ROWS=TILE_ROWS, TILE_COLS=TILE_COLS,
                num_warps=WARPS)
    return dh, dbias.copy_(shares.sum(dim=0))


@gelu_backward_op.register_fake
def allocate_gelu_gradients(dy, h):
    return h.new_empty(h.shape), h.new_empty(h.size(-1), dtype=torch.float32)


class SplitHeads(torch.autograd.Function):
    """split_heads(qkv), where qkv has a bias in it already whose gradient this makes."""

    @staticmethod
    def forward(ctx, qkv, bias, n_head):
        ctx.bias_dtype = bias.dtype
        return split_heads(qkv, n_head)

    @staticmethod
    def backward(ctx, dq, dk, dv):
        dqkv, dbias = torch.ops.scratchgpt.join_heads(dq, dk, dv)
        return dqkv, dbias.to(ctx.bias_dtype), None


@torch.library.custom_op('scratchgpt::join_heads', mutates_args=())
def join_heads_op(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(B, nh, T, hd) each -> one matrix with them side by side, (B, T, 3C), and its sum over all rows, (3C,) float32."""
    joined, total = allocate_joined(q, k, v)
    B, nh, T, hd = q.shape
    if not q.stride() == k.stride() == v.stride() or q.stride(3) != 1:
        q, k, v = (part.contiguous() for part in (q, k, v))
    TILE_HD = next_power_of_2(hd)
    tile_rows = max(1, TILE_ROWS * TILE_COLS // TILE_HD)
    rows_each = rows_per_program(B * T, tile_rows, 3 * nh)
    shares = q.new_empty(triton.cdiv(B * T, rows_each), len(total), dtype=torch.float32)
    if q.numel():
        with on_device(q):
            join_heads_kernel[(3 * nh, len(shares))](
                q, k, v, q.stride(0), q.stride(1), q.stride(2), joined, shares, B * T, T, nh, rows_each, HD=hd,
                TILE_ROWS=tile_rows, TILE_HD=TILE_HD, num_warps=WARPS)
    return joined, total.copy_(shares.sum(dim=0))


@join_heads_op.register_fake
def allocate_joined(q, k, v):
    B, nh, T, hd = q.shape
    return q.new_empty(B, T, 3 * nh * hd), q.new_empty(3 * nh * hd, dtype=torch.float32)


def rows_per_program(M, tile_rows, n_cols):
    """How many of M rows each program takes, so that there are about PROGRAMS of them with n_cols beside each other."""
    return max(1, math.ceil(M * n_cols / PROGRAMS / tile_rows)) * tile_rows


@jit
def gelu_backward_kernel(dy, h, dh, dbias, M, F, rows_each, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr):
    """dh = dy * gelu'(h) for TILE_COLS columns of rows_each rows a program, and the sums of these columns.

    With s = sigmoid(2u) and u = sqrt(2/π) (h + 0.044715 h³), gelu(h) is h s, and its derivative s + 2 h s (1 - s) u'.
    """
    cols = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)[None, :]  # (1, TILE_COLS)
    first = tl.program_id(1) * rows_each
    total = tl.zeros((TILE_ROWS, TILE_COLS), dtype=tl.float32)  # added up over rows after the loop: no barrier inside it
    for start in range(first, min(first + rows_each, M), TILE_ROWS):
        rows = (start + tl.arange(0, TILE_ROWS)).to(tl.int64)[:, None]  # (TILE_ROWS, 1)
        mask = (rows < M) & (cols < F)
        x = tl.load(h + rows * F + cols, mask=mask, other=0.0).to(tl.float32)
        gradient = tl.load(dy + rows * F + cols, mask=mask, other=0.0).to(tl.float32)
        s = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        slope = s + x * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
        gradient *= slope
        tl.store(dh + rows * F + cols, gradient.to(dh.dtype.element_ty), mask=mask)
        total += gradient
    tl.store(dbias + tl.program_id(1) * F + cols, tl.sum(total, axis=0, keep_dims=True), mask=cols < F)


@jit
def join_heads_kernel(q, k, v, stride_b, stride_h, stride_t, joined, total, M, T, nh, rows_each, HD: tl.constexpr,
                      TILE_ROWS: tl.constexpr, TILE_HD: tl.constexpr):
    """Copies rows_each rows of one head of q, k or v into its columns of `joined`, (M, 3 nh HD), and adds them up."""
    column = tl.program_id(0)  # the head's place among the 3 nh
    part, head = column // nh, column % nh
    if part == 0:
        source = q
    elif part == 1:
        source = k
    else:
        source = v
    cols = tl.arange(0, TILE_HD)[None, :]  # (1, TILE_HD)
    first = tl.program_id(1) * rows_each
    sums = tl.zeros((TILE_ROWS, TILE_HD), dtype=tl.float32)
    for start in range(first, min(first + rows_each, M), TILE_ROWS):
        rows = (start + tl.arange(0, TILE_ROWS)).to(tl.int64)[:, None]  # (TILE_ROWS, 1)
        mask = (rows < M) & (cols < HD)
        value = tl.load(source + rows // T * stride_b + head * stride_h + rows % T * stride_t + cols, mask=mask, other=0.0)
        tl.store(joined + rows * (3 * nh * HD) + column * HD + cols, value, mask=mask)
        sums += value.to(tl.float32)
    tl.store(total + tl.program_id(1) * (3 * nh * HD) + column * HD + cols, tl.sum(sums, axis=0, keep_dims=True),
             mask=cols < HD)
