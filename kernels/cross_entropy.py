"""Cross entropy that leaves its gradient where the logits were, and the output head fused with it.

    loss = cross_entropy(logits, targets, vocab_size)             # one pass over the logits; they are consumed
    loss = linear_cross_entropy(x, weight, targets, vocab_size)   # head and loss; the logits are never whole in memory
    loss = linear_cross_entropy_torch(x, weight, targets, vocab_size)   # the same without Triton, on any device

What is fused, in bytes moved for each bfloat16 logit, forward and backward:

    cross_entropy    logits in, gradient out over them                           4
    PyTorch          cast to float32 6, log_softmax 8, gradient 12, cast 6      32   and 10 more bytes held per logit

A row is read twice, first for its peak and sum and then for the gradient; 100 kB of logits stay in the cache in
between, so memory sees one read and one write. The gradient needs nothing that comes after the loss but its
scale, so it is made in the forward pass; the backward pass multiplies by that scale where it is not 1.

`linear_cross_entropy` takes that further: the logits of a chunk of rows are made, turned into their gradient and
multiplied into the gradients of x and of the weight at once, and the next chunk reuses their memory. For 64
sequences of 1,024 tokens that is 0.4 GB in place of 6.6 GB in bfloat16, or 13.2 GB in float32. The price is that
the weight's gradient, (V, C) float32, passes through memory once a chunk.

Types: products run in autocast's type where it is on, else in the type of x; softmax, loss and the sums over
chunks are float32, and so is the weight's gradient if the weight is. CPUs, whose bfloat16 products come out as
bfloat16, round each chunk's share of it once; GPUs do not.
Columns at or above vocab_size are padding: they take no part and get zero gradient. Knows nothing about the model.
"""
import torch
import torch.nn.functional as F

from kernels import autocast_dtype, jit, on_device, power_of_two, tl

BLOCK, WARPS = 8192, 16  # of a row of logits; two programs fill a multiprocessor, and their rows stay in the cache
GPU_CHUNK = 2 ** 28  # logits in memory at a time: enough rows for large matrix products (4,096 of GPT-2's)
CPU_CHUNK = 2 ** 25  # the same for CPUs, where 512 rows suffice
CPU_TILE = 2 ** 19  # logits that go through softmax at a time on CPUs, so that the float32 copy stays in the cache
CPU_WEIGHT_ROWS = 2048  # rows of the weight's gradient that are widened and added at a time there, likewise


def cross_entropy(logits, targets, vocab_size, ignore_index=-1):
    """(..., V) logits and (...) targets -> scalar mean loss in nats over the targets that are not ignore_index.

    The logits are consumed: where a gradient is wanted, the forward pass overwrites them with it, so nothing may
    read them afterwards, and backward runs once. Without gradients (torch.no_grad, or logits that need none) they
    stay as they are. No target that counts: loss 0, gradient 0. A target outside [0, vocab_size) makes the loss
    NaN; a row of -inf throughout makes it inf, and gets zero gradient.
    """
    check_shapes(logits, targets, vocab_size)
    gradient = torch.is_grad_enabled() and logits.requires_grad
    return CrossEntropy.apply(logits, targets, vocab_size, ignore_index, gradient)


def cross_entropy_reference(logits, targets, vocab_size, ignore_index=-1):
    """`cross_entropy` in plain PyTorch, which leaves the logits alone."""
    check_shapes(logits, targets, vocab_size)
    logits = logits[..., :vocab_size].reshape(-1, vocab_size)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits, targets.reshape(-1), ignore_index=ignore_index, reduction='sum')
    return total / (targets != ignore_index).sum().clamp(min=1)


def linear_cross_entropy(x, weight, targets, vocab_size, ignore_index=-1):
    """cross_entropy(x @ weight.T, targets, vocab_size), with only a chunk of the logits in memory at a time.

    x: (..., C); weight: (V, C) with V >= vocab_size; targets: (...). Gradients of both are made in the forward
    pass; backward runs once.
    """
    return head_and_loss(x, weight, targets, vocab_size, ignore_index, fused=True)


def linear_cross_entropy_torch(x, weight, targets, vocab_size, ignore_index=-1):
    """`linear_cross_entropy` for every device and without Triton: the same chunks, in PyTorch's own operations."""
    return head_and_loss(x, weight, targets, vocab_size, ignore_index, fused=False)


def linear_cross_entropy_reference(x, weight, targets, vocab_size, ignore_index=-1):
    """`linear_cross_entropy` in plain PyTorch, with all logits in memory."""
    return cross_entropy_reference(F.linear(x, weight), targets, vocab_size, ignore_index)


def check_shapes(logits, targets, vocab_size):
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f'targets of shape {tuple(targets.shape)} do not match logits of {tuple(logits.shape)}')
    if not 0 < vocab_size <= logits.size(-1):
        raise ValueError(f'vocab_size={vocab_size} should be from 1 to the {logits.size(-1)} columns of the logits')


def mean_weight(targets, ignore_index):
    """1 / number of targets that count, or 1 if there are none; a float32 scalar on the device."""
    return 1.0 / (targets != ignore_index).sum().clamp(min=1).float()


class CrossEntropy(torch.autograd.Function):
    """An autograd function around the op, since a custom op that writes to its input cannot have a gradient itself."""

    @staticmethod
    def forward(ctx, logits, targets, vocab_size, ignore_index, gradient):
        rows = logits.reshape(-1, logits.size(-1))
        mean = mean_weight(targets, ignore_index)
        # The mean goes into the gradient right away, and backward has nothing left to do. Not in float16: small
        # probabilities divided by many rows would vanish before the loss scale can lift them.
        late = logits.dtype == torch.float16
        losses = torch.ops.scratchgpt.cross_entropy_(
            rows, targets.reshape(-1), torch.ones_like(mean) if late else mean, vocab_size, ignore_index,
            gradient)
        if gradient:
            ctx.save_for_backward(rows.detach(), mean if late else torch.ones_like(mean))
            ctx.shape = logits.shape
        return losses.sum() * mean

    @staticmethod
    def backward(ctx, dloss):
        gradient, remaining = ctx.saved_tensors
        torch.ops.scratchgpt.scale_(gradient, dloss * remaining)
        return gradient.view(ctx.shape), None, None, None, None


@torch.library.custom_op('scratchgpt::cross_entropy_', mutates_args={'logits'})
def cross_entropy_op(logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, vocab_size: int,
                     ignore_index: int, gradient: bool) -> torch.Tensor:
    """(N, V), (N,) -> losses (N,); with `gradient`, logits become (softmax - onehot) * weight, a float32 scalar."""
    losses = allocate_losses(logits, targets, weight, vocab_size, ignore_index, gradient)
    if losses.numel():
        launch_rows(logits, targets, weight, losses, vocab_size, ignore_index, gradient)
    return losses


@cross_entropy_op.register_fake
def allocate_losses(logits, targets, weight, vocab_size, ignore_index, gradient):
    return torch.empty(logits.size(0), dtype=torch.float32, device=logits.device)


@torch.library.custom_op('scratchgpt::scale_', mutates_args={'gradient'})
def scale_op(gradient: torch.Tensor, factor: torch.Tensor) -> None:
    """gradient *= factor, a float32 scalar on the device; memory is not touched where it is 1."""
    N, V = gradient.shape
    if gradient.numel():
        with on_device(gradient):
            scale_kernel[(N, -(-V // BLOCK))](gradient, *gradient.stride(), factor, V, BLOCK=BLOCK, num_warps=WARPS)


def launch_rows(logits, targets, weight, losses, vocab_size, ignore_index, gradient):
    N, V = logits.shape
    block = min(BLOCK, power_of_two(V))
    with on_device(logits):
        row_kernel[(N,)](logits, *logits.stride(), targets, targets.stride(0), weight, losses, vocab_size, V,
                         ignore_index, BLOCK=block, GRADIENT=gradient, num_warps=max(1, block // 512))


@jit
def load_logits(place, columns, vocab_size, V):
    """Logits as float32, -inf for the padding. Loaded up to V, which is a multiple of 16 where vocab_size is not:
    a mask that may change between neighbours would make every load a scalar one."""
    value = tl.load(place, mask=columns < V, other=0.0).to(tl.float32)
    return tl.where(columns < vocab_size, value, float('-inf'))


@jit
def row_kernel(logits, logits_row, logits_column, targets, targets_stride, weight, losses, vocab_size, V, ignore_index,
               BLOCK: tl.constexpr, GRADIENT: tl.constexpr):
    """One row: its loss, and its gradient over its logits."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * logits_row
    lanes = tl.arange(0, BLOCK)
    target = tl.load(targets + row * targets_stride)
    if target == ignore_index:
        tl.store(losses + row, 0.0)
        if GRADIENT:
            for start in range(0, V, BLOCK):
                columns = start + lanes
                tl.store(logits + columns.to(tl.int64) * logits_column,
                         tl.zeros((BLOCK,), dtype=logits.dtype.element_ty), mask=columns < V)
    else:
        # Milakov and Gimelshein 2018, "Online normalizer calculation for softmax": peak and sum in one pass. The
        # sum is kept lane by lane, so that a block costs one reduction over the program, that of the peak.
        peak = float('-inf')
        sums = tl.zeros((BLOCK,), dtype=tl.float32)
        for start in tl.range(0, vocab_size, BLOCK, num_stages=2):  # fetches the next block ahead
            columns = start + lanes
            value = load_logits(logits + columns.to(tl.int64) * logits_column, columns, vocab_size, V)
            higher = tl.maximum(peak, tl.max(value, axis=0))
            level = tl.where(higher == float('-inf'), 0.0, higher)
            sums = sums * tl.exp(peak - level) + tl.exp(value - level)
            peak = higher
        total = tl.sum(sums, axis=0)
        level = tl.where(peak == float('-inf'), 0.0, peak)
        known = (target >= 0) & (target < vocab_size)
        chosen = tl.load(logits + target * logits_column, mask=known, other=float('nan')).to(tl.float32)
        loss = tl.where(total == 0.0, float('inf'), level + tl.log(total) - chosen)
        tl.store(losses + row, loss)
        if GRADIENT:
            scale = tl.load(weight)
            inverse = tl.where(total == 0.0, 0.0, scale / tl.where(total == 0.0, 1.0, total))
            onehot = tl.where(total == 0.0, 0.0, scale)
            for start in range(0, V, BLOCK):
                columns = start + lanes
                place = logits + columns.to(tl.int64) * logits_column
                value = load_logits(place, columns, vocab_size, V)
                result = tl.exp(value - level) * inverse - tl.where(columns == target, onehot, 0.0)
                tl.store(place, result.to(logits.dtype.element_ty), mask=columns < V)


@jit
def scale_kernel(gradient, gradient_row, gradient_column, factor, V, BLOCK: tl.constexpr):
    scale = tl.load(factor)
    if scale != 1.0:
        columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        place = gradient + tl.program_id(0).to(tl.int64) * gradient_row + columns.to(tl.int64) * gradient_column
        value = tl.load(place, mask=columns < V, other=0.0).to(tl.float32)
        tl.store(place, (value * scale).to(gradient.dtype.element_ty), mask=columns < V)


def head_and_loss(x, weight, targets, vocab_size, ignore_index, fused):
    if x.size(-1) != weight.size(-1):
        raise ValueError(f'x of width {x.size(-1)} does not match a weight of width {weight.size(-1)}')
    if x.shape[:-1] != targets.shape:
        raise ValueError(f'targets of shape {tuple(targets.shape)} do not match x of {tuple(x.shape)}')
    if not 0 < vocab_size <= weight.size(0):
        raise ValueError(f'vocab_size={vocab_size} should be from 1 to the {weight.size(0)} rows of the weight')
    gradient = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return LinearCrossEntropy.apply(x.reshape(-1, x.size(-1)), weight, targets.reshape(-1), vocab_size, ignore_index,
                                    autocast_dtype(x) or x.dtype, fused, gradient)


class LinearCrossEntropy(torch.autograd.Function):
    """An autograd function around the op, since backward scales in place what a custom op would have to leave alone."""

    @staticmethod
    def forward(ctx, x, weight, targets, vocab_size, ignore_index, dtype, fused, gradient):
        loss, dx, dweight, mean = torch.ops.scratchgpt.linear_cross_entropy(
            x, weight, targets, vocab_size, ignore_index, dtype, fused, gradient)
        if gradient:
            ctx.save_for_backward(dx, dweight, mean)
            ctx.dtypes = x.dtype, weight.dtype
        return loss

    @staticmethod
    def backward(ctx, dloss):
        dx, dweight, mean = ctx.saved_tensors
        scale = dloss * mean
        if torch.compiler.is_compiling():  # a compiled backward may not write to what the forward saved
            dx, dweight = dx * scale, dweight * scale
        else:  # a new (V, C) would cost several times the multiplication on CPUs, where all its pages are new
            dx, dweight = dx.mul_(scale), dweight.mul_(scale)
        return dx.to(ctx.dtypes[0]), dweight.to(ctx.dtypes[1]), None, None, None, None, None, None


@torch.library.custom_op('scratchgpt::linear_cross_entropy', mutates_args=())
def linear_cross_entropy_op(
        x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, vocab_size: int, ignore_index: int,
        dtype: torch.dtype, fused: bool, gradient: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, C), (V, C), (N,) -> mean loss; with `gradient`, those of the summed loss, (N, C) and (V, C); 1 / count."""
    _, dx, dweight, _ = allocate_sums(x, weight, targets, vocab_size, ignore_index, dtype, fused, gradient)
    N, V = x.size(0), weight.size(0)
    losses = torch.zeros(N, dtype=torch.promote_types(dtype, torch.float32), device=x.device)
    mean = mean_weight(targets, ignore_index)
    one = torch.ones_like(mean)
    ignored = targets == ignore_index
    x = x.to(dtype).masked_fill(ignored[:, None], 0)  # whatever stands in a row that does not count stays out
    weight = weight.to(dtype)
    chunk = min(chunk_rows(V, x.device), N)
    buffer = torch.empty(chunk, V, dtype=dtype, device=x.device)
    if gradient and not N:
        dweight.zero_()
    for start in range(0, N, max(1, chunk)):
        rows = slice(start, min(start + chunk, N))
        logits = torch.mm(x[rows], weight.t(), out=buffer[:rows.stop - start])  # (chunk, V)
        if fused:
            launch_rows(logits, targets[rows], one, losses[rows], vocab_size, ignore_index, gradient)
        else:
            softmax_rows(logits, targets[rows].masked_fill(ignored[rows], 0), losses[rows], vocab_size, gradient)
        if gradient:
            torch.mm(logits, weight, out=dx[rows])
            add_product(dweight, logits.t(), x[rows], start == 0)
    if gradient:
        dx.masked_fill_(ignored[:, None], 0)
    return losses.masked_fill(ignored, 0).sum().mul(mean), dx, dweight, mean


@linear_cross_entropy_op.register_fake
def allocate_sums(x, weight, targets, vocab_size, ignore_index, dtype, fused, gradient):
    wide = torch.promote_types(dtype, torch.float32)
    loss = torch.empty((), dtype=wide, device=x.device)
    mean = torch.empty((), dtype=torch.float32, device=x.device)
    dx = torch.empty(x.shape if gradient else (0, 0), dtype=dtype, device=x.device)
    dweight = torch.empty(weight.shape if gradient else (0, 0), dtype=wide, device=x.device)
    return loss, dx, dweight, mean


def chunk_rows(V, device):
    """A power of two, at least 16, so that a chunk of the logits has about GPU_CHUNK or CPU_CHUNK elements."""
    budget = CPU_CHUNK if device.type == 'cpu' else GPU_CHUNK
    return max(16, power_of_two(budget // V + 1) // 2)


def softmax_rows(logits, targets, losses, vocab_size, gradient):
    """What row_kernel does, in PyTorch: fills `losses` and turns logits (n, V) into softmax - onehot, tile by tile."""
    N, V = logits.shape
    step = max(1, CPU_TILE // V) if logits.device.type == 'cpu' else N
    for start in range(0, N, step):
        tile = logits[start:start + step, :vocab_size]
        target = targets[start:start + step, None]
        wide = tile.to(losses.dtype)
        chosen, peak = wide.gather(1, target)[:, 0], wide.amax(dim=1)
        p = wide.softmax(dim=1)
        # The largest probability is 1 / sum(exp(logits - peak)): the sum comes back without another pass of exp.
        losses[start:start + step] = peak - p.amax(dim=1).log() - chosen
        if gradient:
            p.scatter_add_(1, target, p.new_full((1, 1), -1.0).expand_as(target))
            tile.copy_(p)
    if gradient:
        logits[:, vocab_size:] = 0


def add_product(total, a, b, first):
    """total (V, C) += a (V, n) @ b (n, C), or = where this is the first; total may be wider than a and b."""
    if total.dtype == a.dtype:
        torch.addmm(total, a, b, beta=0 if first else 1, out=total)
    elif total.is_cuda:  # the matrix units add in float32 anyway; cuBLAS writes that out
        torch.addmm(total, a, b, beta=0 if first else 1, out_dtype=total.dtype, out=total)
    elif first:
        total.copy_(torch.mm(a, b))
    else:
        product = torch.mm(a, b)
        for start in range(0, total.size(0), CPU_WEIGHT_ROWS):
            rows = slice(start, start + CPU_WEIGHT_ROWS)
            total[rows] += product[rows].to(total.dtype)
