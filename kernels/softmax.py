"""Causal softmax of attention scores: scale, mask and softmax in one pass, forward and backward.

    weights = causal_softmax(q @ k.transpose(-2, -1), scale=hd ** -0.5)      # (B, nh, T, T) each

For where the attention weights themselves are wanted; FlashAttention, which never writes them, is faster where
they are not. What is fused, in bytes moved for each element of a bfloat16 (T, T) matrix:

    forward   scores in below the diagonal; weights out                          3   (PyTorch: scale 4, mask 4, softmax 4)
    backward  weights, dweights in below the diagonal; dscores out               4   (PyTorch: softmax 6, mask 4, scale 4)

The half above the diagonal is written as zeros and never read. Types: float32 inside; weights have the type of
the scores, under autocast too. Knows nothing about the model.
"""
import torch

from kernels import jit, on_device, power_of_two, tl

WHOLE_ROW = 8192  # up to here a row stays in registers between the sum and the result
TILE = 4096  # elements that a program has in flight: short rows are taken several at a time


def causal_softmax(scores, scale):
    """(..., Tq, Tk) -> (..., Tq, Tk): softmax(scores * scale) over the keys that a query may see, 0 elsewhere.

    The last query sees every key: query i sees the keys up to i + Tk - Tq, and Tk must be at least Tq. A row
    with -inf for every visible key has no distribution; it becomes zeros, with zero gradient.
    """
    if scores.dim() < 2 or scores.size(-1) < scores.size(-2):
        raise ValueError(f'scores of shape {tuple(scores.shape)} should be (..., queries, keys) with keys >= queries')
    return torch.ops.scratchgpt.causal_softmax(scores, float(scale))


def causal_softmax_reference(scores, scale):
    """`causal_softmax` in plain PyTorch."""
    Tq, Tk = scores.shape[-2:]
    hidden = torch.ones(Tq, Tk, dtype=torch.bool, device=scores.device).triu(1 + Tk - Tq)
    scaled = (scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale).masked_fill(hidden, -torch.inf)
    empty = (scaled == -torch.inf).all(dim=-1, keepdim=True)
    return scaled.masked_fill(empty, 0.0).softmax(dim=-1).masked_fill(empty | hidden, 0.0).to(scores.dtype)


@torch.library.custom_op('scratchgpt::causal_softmax', mutates_args=())
def causal_softmax_op(scores: torch.Tensor, scale: float) -> torch.Tensor:
    weights = allocate_weights(scores, scale)
    if weights.numel():
        launch(forward_kernel, scores, scores, weights, scale)
    return weights


@causal_softmax_op.register_fake
def allocate_weights(scores, scale):
    return torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)


@torch.library.custom_op('scratchgpt::causal_softmax_backward', mutates_args=())
def causal_softmax_backward_op(dweights: torch.Tensor, weights: torch.Tensor, scale: float) -> torch.Tensor:
    dscores = allocate_dscores(dweights, weights, scale)
    if dscores.numel():
        launch(backward_kernel, dweights, weights, dscores, scale)
    return dscores


@causal_softmax_backward_op.register_fake
def allocate_dscores(dweights, weights, scale):
    return torch.empty(weights.shape, dtype=weights.dtype, device=weights.device)


def save_for_backward(ctx, inputs, output):
    ctx.save_for_backward(output)
    ctx.scale = inputs[1]


def backward(ctx, dweights):
    weights, = ctx.saved_tensors
    return torch.ops.scratchgpt.causal_softmax_backward(dweights, weights, ctx.scale), None


causal_softmax_op.register_autograd(backward, setup_context=save_for_backward)


def launch(kernel, first, second, result, scale):
    """Runs a kernel over the rows of two inputs of any strides and a contiguous result."""
    Tq, Tk = result.shape[-2:]
    first, second = first.reshape(-1, Tk), second.reshape(-1, Tk)
    M = first.size(0)
    WHOLE = Tk <= WHOLE_ROW
    BLOCK = power_of_two(Tk) if WHOLE else TILE
    ROWS = max(1, TILE // BLOCK)
    with on_device(result):
        kernel[(-(-M // ROWS),)](first, *first.stride(), second, *second.stride(), result, scale, M, Tq, Tk,
                                 ROWS=ROWS, BLOCK=BLOCK, WHOLE=WHOLE, num_warps=max(4, BLOCK // 512))


@jit
def load_seen(matrix, matrix_row, matrix_column, rows, columns, seen, M, Tk):
    """Elements as float32, those that are not `seen` to be masked by the caller. Loads end at a multiple of 16:
    a mask that may change between neighbours would make every load a scalar one."""
    mask = (rows < M) & (columns < (seen + 15) // 16 * 16) & (columns < Tk)
    return tl.load(matrix + rows * matrix_row + columns * matrix_column, mask=mask, other=0.0).to(tl.float32)


@jit
def load_scores(scores, scores_row, scores_column, scale, rows, columns, seen, M, Tk):
    """Scaled scores as float32, -inf where a query may not look."""
    value = load_seen(scores, scores_row, scores_column, rows, columns, seen, M, Tk)
    return tl.where((rows < M) & (columns < seen), value * scale, float('-inf'))


@jit
def finite(peak):
    """The largest score, or 0 for a row that has none, so that -inf minus it stays -inf."""
    return tl.where(peak == float('-inf'), 0.0, peak)


@jit
def reciprocal(total):
    """1 / total, or 0 for the sum of a row without a distribution."""
    return tl.where(total == 0.0, 0.0, 1.0 / tl.where(total == 0.0, 1.0, total))


@jit
def forward_kernel(scores, scores_row, scores_column, _second, _second_row, _second_column, weights, scale, M, Tq, Tk,
                   ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr):
    first = tl.program_id(0) * ROWS
    rows = (first + tl.arange(0, ROWS)).to(tl.int64)[:, None]  # (ROWS, 1)
    seen = rows % Tq + (Tk - Tq) + 1  # keys that each query may see
    lanes = tl.arange(0, BLOCK)[None, :]  # (1, BLOCK)
    if WHOLE:
        value = load_scores(scores, scores_row, scores_column, scale, rows, lanes, seen, M, Tk)
        value = tl.exp(value - finite(tl.max(value, axis=1)[:, None]))
        result = value * reciprocal(tl.sum(value, axis=1)[:, None])
        tl.store(weights + rows * Tk + lanes, result.to(weights.dtype.element_ty), mask=(rows < M) & (lanes < Tk))
    else:
        # Milakov and Gimelshein 2018, "Online normalizer calculation for softmax": peak and sum in one pass.
        peak = tl.full((ROWS, 1), float('-inf'), dtype=tl.float32)
        total = tl.zeros((ROWS, 1), dtype=tl.float32)
        for start in range(0, Tk, BLOCK):
            columns = start + lanes
            value = load_scores(scores, scores_row, scores_column, scale, rows, columns, seen, M, Tk)
            higher = tl.maximum(peak, tl.max(value, axis=1)[:, None])
            total = total * tl.exp(peak - finite(higher)) + tl.sum(tl.exp(value - finite(higher)), axis=1)[:, None]
            peak = higher
        for start in range(0, Tk, BLOCK):
            columns = start + lanes
            value = load_scores(scores, scores_row, scores_column, scale, rows, columns, seen, M, Tk)
            result = tl.exp(value - finite(peak)) * reciprocal(total)
            tl.store(weights + rows * Tk + columns, result.to(weights.dtype.element_ty),
                     mask=(rows < M) & (columns < Tk))


@jit
def backward_kernel(dweights, dweights_row, dweights_column, weights, weights_row, weights_column, dscores, scale,
                    M, Tq, Tk, ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr):
    """dscores = scale * weights * (dweights - sum(weights * dweights))."""
    first = tl.program_id(0) * ROWS
    rows = (first + tl.arange(0, ROWS)).to(tl.int64)[:, None]  # (ROWS, 1)
    seen = rows % Tq + (Tk - Tq) + 1
    lanes = tl.arange(0, BLOCK)[None, :]  # (1, BLOCK)
    if WHOLE:
        p = load_seen(weights, weights_row, weights_column, rows, lanes, seen, M, Tk)  # 0 where not seen
        dp = load_seen(dweights, dweights_row, dweights_column, rows, lanes, seen, M, Tk)
        dp = tl.where(lanes < seen, dp, 0.0)
        result = scale * p * (dp - tl.sum(p * dp, axis=1)[:, None])
        tl.store(dscores + rows * Tk + lanes, result.to(dscores.dtype.element_ty), mask=(rows < M) & (lanes < Tk))
    else:
        inner = tl.zeros((ROWS, 1), dtype=tl.float32)
        for start in range(0, Tk, BLOCK):
            columns = start + lanes
            p = load_seen(weights, weights_row, weights_column, rows, columns, seen, M, Tk)  # 0 where not seen
            dp = load_seen(dweights, dweights_row, dweights_column, rows, columns, seen, M, Tk)
            dp = tl.where(columns < seen, dp, 0.0)
            inner += tl.sum(p * dp, axis=1)[:, None]
        for start in range(0, Tk, BLOCK):
            columns = start + lanes
            p = load_seen(weights, weights_row, weights_column, rows, columns, seen, M, Tk)  # 0 where not seen
            dp = load_seen(dweights, dweights_row, dweights_column, rows, columns, seen, M, Tk)
            dp = tl.where(columns < seen, dp, 0.0)
            tl.store(dscores + rows * Tk + columns, (scale * p * (dp - inner)).to(dscores.dtype.element_ty),
                     mask=(rows < M) & (columns < Tk))
