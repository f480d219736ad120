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
and keeps its share of both in registers; what it adds to the traffic is one float32 row per program.

Types: sums are float32. Without autocast y has the type of what is normalized, as F.layer_norm's has; under
autocast y has autocast's type, because a matrix product that would cast it comes next. F.layer_norm returns
float32 there: the numbers that reach the product are the same, and the float32 copy is never written. The
residual sum has the wider type of its two parts in either case. Knows nothing about the model.
"""
import torch
import torch.nn.functional as F

from kernels import autocast_dtype, jit, on_device, power_of_two, resident_programs, tl

WHOLE_ROW = 8192  # up to here a row stays in registers between the statistics and the result
FORWARD_TILE = 4096  # elements that a program has in registers: narrow rows are taken several at a time
BACKWARD_TILE = 2048  # fewer, since it holds three such tiles: 128 registers a thread are the limit for the next line
PROGRAMS_PER_PROCESSOR = 4  # in the backward, all of them resident at once


def layer_norm(x, weight, bias, eps=1e-5):
    """(..., C) -> (..., C): (x - mean) / sqrt(variance + eps) * weight + bias over the last dimension.

    weight, bias: (C,); bias may be None. x may have any strides. Ba et al. 2016, "Layer Normalization".
    """
    normed, _, _, _ = torch.ops.scratchgpt.layer_norm(x, None, weight, bias, eps, autocast_dtype(x) or x.dtype)
    return normed


def add_layer_norm(residual, x, weight, bias, eps=1e-5):
    """(..., C), (..., C) -> layer_norm(residual + x), (..., C), and the sum residual + x, (..., C).

    The sum is rounded to its own type before it is normalized, so both results agree with each other.
    """
    dtype = autocast_dtype(x) or torch.promote_types(residual.dtype, x.dtype)
    normed, total, _, _ = torch.ops.scratchgpt.layer_norm(residual, x, weight, bias, eps, dtype)
    return normed, total


def layer_norm_reference(x, weight, bias, eps=1e-5):
    """`layer_norm` in plain PyTorch."""
    dtype = autocast_dtype(x) or x.dtype
    wide = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    bias = None if bias is None else bias.to(wide)
    return F.layer_norm(x.to(wide), weight.shape, weight.to(wide), bias, eps).to(dtype)


def add_layer_norm_reference(residual, x, weight, bias, eps=1e-5):
    """`add_layer_norm` in plain PyTorch."""
    total = residual + x
    return layer_norm_reference(total, weight, bias, eps), total


@torch.library.custom_op('scratchgpt::layer_norm', mutates_args=())
def layer_norm_op(x: torch.Tensor, update: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor | None,
                  eps: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    normed, total, mean, rstd = allocate_results(x, update, weight, bias, eps, dtype)
    M, C = mean.numel(), x.size(-1)
    if M == 0 or C == 0:
        return normed, total, mean, rstd
    x = x.reshape(M, C)
    update = x if update is None else update.reshape(M, C)
    ROWS, BLOCK, num_warps = tile_shape(C, FORWARD_TILE)
    with on_device(x):
        forward_kernel[(-(-M // ROWS),)](
            x, *x.stride(), update, *update.stride(), weight, weight if bias is None else bias, normed, total,
            mean, rstd, M, C, eps, ROWS=ROWS, BLOCK=BLOCK, WHOLE=C <= BLOCK, ADD=total.numel() > 0,
            BIAS=bias is not None, num_warps=num_warps)
    return normed, total, mean, rstd


@layer_norm_op.register_fake
def allocate_results(x, update, weight, bias, eps, dtype):
    """normed, the sum (empty without an update), mean and 1/std of each row."""
    normed = torch.empty(x.shape, dtype=dtype, device=x.device)
    if update is None:
        total = torch.empty(0, dtype=x.dtype, device=x.device)
    else:
        total = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, update.dtype), device=x.device)
    mean = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    return normed, total, mean, torch.empty_like(mean)


@torch.library.custom_op('scratchgpt::layer_norm_backward', mutates_args=())
def layer_norm_backward_op(
        dnormed: torch.Tensor, dtotal: torch.Tensor | None, x: torch.Tensor, weight: torch.Tensor, mean: torch.Tensor,
        rstd: torch.Tensor, x_dtype: torch.dtype, update_dtype: torch.dtype,
        has_bias: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    dx, dupdate, dweight, dbias = allocate_gradients(
        dnormed, dtotal, x, weight, mean, rstd, x_dtype, update_dtype, has_bias)
    M, C = mean.numel(), x.size(-1)
    if M == 0 or C == 0:
        return dx, dupdate, dweight.zero_(), dbias.zero_()
    x, dnormed = x.reshape(M, C), dnormed.reshape(M, C)
    dtotal_rows = dnormed if dtotal is None else dtotal.reshape(M, C)
    ROWS, BLOCK, num_warps = tile_shape(C, BACKWARD_TILE)
    programs = min(-(-M // ROWS), resident_programs(x, PROGRAMS_PER_PROCESSOR))
    WHOLE = C <= BLOCK
    partial = (torch.empty if WHOLE else torch.zeros)((2, programs, C), dtype=torch.float32, device=x.device)
    with on_device(x):
        backward_kernel[(programs,)](
            dnormed, *dnormed.stride(), dtotal_rows, *dtotal_rows.stride(), x, *x.stride(), weight, mean, rstd,
            dx, dupdate, partial[0], partial[1], M, C, ROWS=ROWS, BLOCK=BLOCK, WHOLE=WHOLE,
            ADD=dtotal is not None, SPLIT=dupdate.numel() > 0, BIAS=has_bias, STAGES=3 if BLOCK <= 2048 else 1,
            num_warps=num_warps)
    dweight.copy_(partial[0].sum(dim=0))
    if has_bias:
        dbias.copy_(partial[1].sum(dim=0))
    return dx, dupdate, dweight, dbias


@layer_norm_backward_op.register_fake
def allocate_gradients(dnormed, dtotal, x, weight, mean, rstd, x_dtype, update_dtype, has_bias):
    """dx, the same in the update's type (empty if that is x's type), dweight and dbias."""
    dx = torch.empty(x.shape, dtype=x_dtype, device=x.device)
    dupdate = torch.empty(0 if update_dtype == x_dtype else x.shape, dtype=update_dtype, device=x.device)
    dweight = torch.empty(weight.shape, dtype=weight.dtype, device=x.device)
    return dx, dupdate, dweight, torch.empty(weight.size(0) if has_bias else 0, dtype=weight.dtype, device=x.device)


def save_for_backward(ctx, inputs, output):
    x, update, weight, bias, _, _ = inputs
    _, total, mean, rstd = output
    ctx.save_for_backward(x if update is None else total, weight, mean, rstd)
    ctx.x_dtype, ctx.update_dtype = x.dtype, None if update is None else update.dtype
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.set_materialize_grads(False)


def backward(ctx, dnormed, dtotal, _dmean, _drstd):
    x, weight, mean, rstd = ctx.saved_tensors
    if dnormed is None:  # only the sum was used
        dnormed = torch.zeros_like(x)
    if ctx.update_dtype is None:
        dtotal = None
    dx, dupdate, dweight, dbias = torch.ops.scratchgpt.layer_norm_backward(
        dnormed, dtotal, x, weight, mean, rstd, ctx.x_dtype, ctx.update_dtype or ctx.x_dtype,
        ctx.bias_dtype is not None)
    if ctx.update_dtype is None:
        dupdate = None
    elif ctx.update_dtype == ctx.x_dtype:
        dupdate = dx
    return dx, dupdate, dweight, None if ctx.bias_dtype is None else dbias.to(ctx.bias_dtype), None, None


layer_norm_op.register_autograd(backward, setup_context=save_for_backward)


def tile_shape(C, tile):
    """(rows, columns, warps) of the piece that a program has in registers. Wider rows are walked over in blocks."""
    BLOCK = power_of_two(C) if C <= WHOLE_ROW else 4096
    return max(1, tile // BLOCK), BLOCK, max(4, BLOCK // 512)


@jit
def load_sum(x, x_row, x_column, update, update_row, update_column, rows, columns, mask, total, ADD: tl.constexpr):
    """Rows of x, or of x + update rounded to the type of `total`, as float32; 0 where masked."""
    value = tl.load(x + rows * x_row + columns * x_column, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(update + rows * update_row + columns * update_column, mask=mask, other=0.0).to(tl.float32)
        value = value.to(total.dtype.element_ty).to(tl.float32)
    return value


@jit
def forward_kernel(x, x_row, x_column, update, update_row, update_column, weight, bias, normed, total, mean, rstd,
                   M, C, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr, ADD: tl.constexpr,
                   BIAS: tl.constexpr):
    """Normalizes ROWS rows a program."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]  # (ROWS, 1)
    lanes = tl.arange(0, BLOCK)[None, :]  # (1, BLOCK)
    if WHOLE:
        mask = (rows < M) & (lanes < C)
        value = load_sum(x, x_row, x_column, update, update_row, update_column, rows, lanes, mask, total, ADD)
        row_mean = tl.sum(value, axis=1)[:, None] / C
        centered = tl.where(lanes < C, value - row_mean, 0.0)
        row_rstd = 1.0 / tl.sqrt(tl.sum(centered * centered, axis=1)[:, None] / C + eps)
        result = centered * row_rstd * tl.load(weight + lanes, mask=lanes < C, other=0.0).to(tl.float32)
        if BIAS:
            result += tl.load(bias + lanes, mask=lanes < C, other=0.0).to(tl.float32)
        tl.store(normed + rows * C + lanes, result.to(normed.dtype.element_ty), mask=mask)
        if ADD:
            tl.store(total + rows * C + lanes, value.to(total.dtype.element_ty), mask=mask)
    else:
        # One pass for both moments: blocks are merged by Chan et al. 1979, "Updating formulae and a pairwise
        # algorithm for computing sample variances", which does not cancel where the mean is large.
        row_mean = tl.zeros((ROWS, 1), dtype=tl.float32)
        squares = tl.zeros((ROWS, 1), dtype=tl.float32)
        for start in range(0, C, BLOCK):
            columns = start + lanes
            mask = (rows < M) & (columns < C)
            value = load_sum(x, x_row, x_column, update, update_row, update_column, rows, columns, mask, total, ADD)
            count = tl.minimum(C - start, BLOCK).to(tl.float32)
            block_mean = tl.sum(value, axis=1)[:, None] / count
            centered = tl.where(columns < C, value - block_mean, 0.0)
            shift = block_mean - row_mean
            row_mean += shift * (count / (start + count))
            squares += tl.sum(centered * centered, axis=1)[:, None] + shift * shift * (start * (count / (start + count)))
            if ADD:
                tl.store(total + rows * C + columns, value.to(total.dtype.element_ty), mask=mask)
        row_rstd = 1.0 / tl.sqrt(squares / C + eps)
        for start in range(0, C, BLOCK):
            columns = start + lanes
            mask = (rows < M) & (columns < C)
            value = load_sum(x, x_row, x_column, update, update_row, update_column, rows, columns, mask, total, ADD)
            result = (value - row_mean) * row_rstd * tl.load(weight + columns, mask=columns < C, other=0.0).to(tl.float32)
            if BIAS:
                result += tl.load(bias + columns, mask=columns < C, other=0.0).to(tl.float32)
            tl.store(normed + rows * C + columns, result.to(normed.dtype.element_ty), mask=mask)
    tl.store(mean + rows, row_mean, mask=rows < M)
    tl.store(rstd + rows, row_rstd, mask=rows < M)


@jit
def load_gradient(dnormed, dnormed_row, dnormed_column, x, x_row, x_column, row_mean, row_rstd, rows, columns, mask):
    """dnormed and the normalized x before weight and bias, as float32."""
    dy = tl.load(dnormed + rows * dnormed_row + columns * dnormed_column, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(x + rows * x_row + columns * x_column, mask=mask, other=0.0).to(tl.float32)
    return dy, tl.where(mask, (value - row_mean) * row_rstd, 0.0)


@jit
def backward_kernel(dnormed, dnormed_row, dnormed_column, dtotal, dtotal_row, dtotal_column, x, x_row, x_column,
                    weight, mean, rstd, dx, dupdate, dweight, dbias, M, C, ROWS: tl.constexpr, BLOCK: tl.constexpr,
                    WHOLE: tl.constexpr, ADD: tl.constexpr, SPLIT: tl.constexpr, BIAS: tl.constexpr,
                    STAGES: tl.constexpr):
    """dx = rstd * (w dy - mean(w dy) - xhat mean(w dy xhat)) [+ dtotal]; each program sums dweight and dbias over its
    own rows, into row program_id of (programs, C). STAGES - 1 tiles are fetched ahead into shared memory."""
    program = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)[None, :]  # (1, BLOCK)
    if WHOLE:
        scale = tl.load(weight + lanes, mask=lanes < C, other=0.0).to(tl.float32)
        weight_sum = tl.zeros((1, BLOCK), dtype=tl.float32)
        bias_sum = tl.zeros((1, BLOCK), dtype=tl.float32)
    for first in tl.range(program * ROWS, M, tl.num_programs(0) * ROWS, num_stages=STAGES):
        rows = (first + tl.arange(0, ROWS)).to(tl.int64)[:, None]  # (ROWS, 1)
        row_mean = tl.load(mean + rows, mask=rows < M, other=0.0)
        row_rstd = tl.load(rstd + rows, mask=rows < M, other=0.0)
        if WHOLE:
            mask = (rows < M) & (lanes < C)
            dy, xhat = load_gradient(dnormed, dnormed_row, dnormed_column, x, x_row, x_column,
                                     row_mean, row_rstd, rows, lanes, mask)
            weight_sum += tl.sum(dy * xhat, axis=0)[None, :]
            if BIAS:
                bias_sum += tl.sum(dy, axis=0)[None, :]
            dy *= scale
            along = tl.sum(dy * xhat, axis=1)[:, None] / C
            result = (dy - tl.sum(dy, axis=1)[:, None] / C - xhat * along) * row_rstd
            if ADD:
                result += tl.load(dtotal + rows * dtotal_row + lanes * dtotal_column, mask=mask, other=0.0).to(tl.float32)
            tl.store(dx + rows * C + lanes, result.to(dx.dtype.element_ty), mask=mask)
            if SPLIT:
                tl.store(dupdate + rows * C + lanes, result.to(dupdate.dtype.element_ty), mask=mask)
        else:
            constant = tl.zeros((ROWS, 1), dtype=tl.float32)
            along = tl.zeros((ROWS, 1), dtype=tl.float32)
            for start in range(0, C, BLOCK):
                columns = start + lanes
                mask = (rows < M) & (columns < C)
                dy, xhat = load_gradient(dnormed, dnormed_row, dnormed_column, x, x_row, x_column,
                                         row_mean, row_rstd, rows, columns, mask)
                share = dweight + program * C + columns
                tl.store(share, tl.load(share, mask=columns < C) + tl.sum(dy * xhat, axis=0)[None, :], mask=columns < C)
                if BIAS:
                    share = dbias + program * C + columns
                    tl.store(share, tl.load(share, mask=columns < C) + tl.sum(dy, axis=0)[None, :], mask=columns < C)
                dy *= tl.load(weight + columns, mask=columns < C, other=0.0).to(tl.float32)
                constant += tl.sum(dy, axis=1)[:, None] / C
                along += tl.sum(dy * xhat, axis=1)[:, None] / C
            for start in range(0, C, BLOCK):
                columns = start + lanes
                mask = (rows < M) & (columns < C)
                dy, xhat = load_gradient(dnormed, dnormed_row, dnormed_column, x, x_row, x_column,
                                         row_mean, row_rstd, rows, columns, mask)
                dy *= tl.load(weight + columns, mask=columns < C, other=0.0).to(tl.float32)
                result = (dy - constant - xhat * along) * row_rstd
                if ADD:
                    result += tl.load(dtotal + rows * dtotal_row + columns * dtotal_column,
                                      mask=mask, other=0.0).to(tl.float32)
                tl.store(dx + rows * C + columns, result.to(dx.dtype.element_ty), mask=mask)
                if SPLIT:
                    tl.store(dupdate + rows * C + columns, result.to(dupdate.dtype.element_ty), mask=mask)
    if WHOLE:
        tl.store(dweight + program * C + lanes, weight_sum, mask=lanes < C)
        if BIAS:
            tl.store(dbias + program * C + lanes, bias_sum, mask=lanes < C)
