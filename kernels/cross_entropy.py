"""Cross entropy that leaves its gradient where the logits were, and the output head fused with it.

    loss = cross_entropy(logits, targets, vocab_size)             # one pass over the logits; they are consumed
    loss = linear_cross_entropy(x, weight, targets, vocab_size)   # head and loss; the logits are never whole in memory
    loss = linear_cross_entropy_torch(x, weight, targets, vocab_size)   # the same without Triton, on any device

What is fused, in bytes moved for each bfloat16 logit, forward and backward:

    cross_entropy    logits in, gradient out over them                           4
    PyTorch          cast to float32 6, log_softmax 8, gradient 12, cast 6      32   and 10 more bytes held per logit

A row is read twice, first for its largest logit and its sum of exponentials, then for the gradient. Its 100 kB stay in
the cache in between, so memory sees one read and one write. The gradient needs nothing that comes after the loss
except a factor, so it is made in the forward pass; the backward pass multiplies by that factor where it is not 1.

`linear_cross_entropy` takes that further: the logits of a chunk of rows are made, turned into their gradient and
multiplied into the gradients of x and of the weight at once, and the next chunk reuses their memory. For 64
sequences of 1,024 tokens that is 1.6 GB in place of 6.6 GB in bfloat16, or 13.2 GB in float32. The price is that
the weight's gradient, (V, C) float32, passes through memory once a chunk: four times there.

Types: products run in autocast's type where it is on, else in the type of x. Softmax, loss and the sums over chunks
are float32, and so is the weight's gradient if the weight is. On CPUs bfloat16 products come out as bfloat16, so each
chunk's share of the weight's gradient is rounded once; on GPUs it is not.

Columns at or above vocab_size are padding: they take no part and get zero gradient. Knows nothing about the model.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import autocast_dtype, jit, next_power_of_2, on_device, tl, triton

BLOCK_BYTES = 2 ** 14  # of a row of logits at a time, 1 kB a warp; two programs fill an SM, and their rows stay in the cache
GPU_CHUNK = 2 ** 30  # logits in memory at a time, up to 2 GB in bfloat16: few passes over the gradient of the weight
CPU_CHUNK = 2 ** 25  # the same for CPUs, where 512 rows are enough
CPU_TILE = 2 ** 19  # logits that go through softmax at a time on CPUs, so that the float32 copy stays in the cache
CPU_WEIGHT_ROWS = 2048  # rows of the weight's gradient that are widened and added at a time on CPUs, for the same reason


def cross_entropy(logits: Tensor, targets: Tensor, vocab_size: int, ignore_index: int = -1) -> Tensor:
    """(..., V) logits and (...) targets -> scalar mean loss in nats over the targets that are not ignore_index.

    The logits are consumed: where a gradient is wanted, the forward pass overwrites them with it, so nothing may
    read them afterwards, and backward runs once. Without gradients (torch.no_grad, or logits that need none) they
    stay as they are. If no target counts, loss and gradient are 0. A target outside [0, vocab_size) makes the loss
    NaN. A row in which every logit is -inf makes the loss inf, and gets zero gradient.
    """
    check_shapes(logits, targets, vocab_size, logits.size(-1))
    gradient = torch.is_grad_enabled() and logits.requires_grad
    return CrossEntropy.apply(logits, targets, vocab_size, ignore_index, gradient)


def cross_entropy_reference(logits: Tensor, targets: Tensor, vocab_size: int, ignore_index: int = -1) -> Tensor:
    """`cross_entropy` in plain PyTorch, which leaves the logits alone."""
    check_shapes(logits, targets, vocab_size, logits.size(-1))
    logits = logits[..., :vocab_size].reshape(-1, vocab_size)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits, targets.reshape(-1), ignore_index=ignore_index, reduction='sum')
    return total / (targets != ignore_index).sum().clamp(min=1)


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int,
                         ignore_index: int = -1) -> Tensor:
    """cross_entropy(x @ weight.T, targets, vocab_size), with only a chunk of the logits in memory at a time.

    x: (..., C); weight: (V, C) with V >= vocab_size; targets: (...). Gradients of both are made in the forward
    pass; backward runs once.
    """
    return head_and_loss(x, weight, targets, vocab_size, ignore_index, fused=True)


def linear_cross_entropy_torch(x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int,
                               ignore_index: int = -1) -> Tensor:
    """`linear_cross_entropy` for every device and without Triton: the same chunks, in PyTorch's own operations."""
    return head_and_loss(x, weight, targets, vocab_size, ignore_index, fused=False)


def linear_cross_entropy_reference(x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int,
                                   ignore_index: int = -1) -> Tensor:
    """`linear_cross_entropy` in plain PyTorch, with all logits in memory."""
    return cross_entropy_reference(F.linear(x, weight), targets, vocab_size, ignore_index)


def check_shapes(x, targets, vocab_size, V):
    if x.shape[:-1] != targets.shape:
        raise ValueError(f'targets of shape {tuple(targets.shape)} do not match an input of shape {tuple(x.shape)}')
    if not 0 < vocab_size <= V:
        raise ValueError(f'vocab_size={vocab_size} should be from 1 to {V}, the number of logits in a row')


def mean_weight(targets, ignore_index):
    """1 / number of targets that count, or 1 if there are none; a float32 scalar on the device."""
    return 1.0 / (targets != ignore_index).sum().clamp(min=1).float()


class CrossEntropy(torch.autograd.Function):
    """An autograd function around the op, since a custom op that writes to its input cannot have a gradient itself."""

    @staticmethod
    def forward(ctx, logits, targets, vocab_size, ignore_index, gradient):
        rows = logits.reshape(-1, logits.size(-1))  # (N, V)
        if rows.stride(1) != 1 or rows.stride(0) < rows.size(1):
            rows = rows.contiguous()
        mean = mean_weight(targets, ignore_index)
        one = torch.ones_like(mean)
        # The gradient is divided by the number of targets at once, so that the backward pass has nothing to do. Not in
        # float16: small probabilities divided by many rows would vanish before the loss scale can lift them.
        now, later = (one, mean) if logits.dtype == torch.float16 else (mean, one)
        losses = torch.ops.scratchgpt.cross_entropy_(rows, targets.reshape(-1), now, vocab_size, ignore_index, gradient)
        if gradient:
            ctx.save_for_backward(rows.detach(), later)
            ctx.shape = logits.shape
        return losses.sum() * mean

    @staticmethod
    def backward(ctx, dloss):
        gradient, later = ctx.saved_tensors
        torch.ops.scratchgpt.scale_(gradient, dloss * later)
        return gradient.view(ctx.shape), None, None, None, None


@torch.library.custom_op('scratchgpt::cross_entropy_', mutates_args={'logits'})
def cross_entropy_op(logits: Tensor, targets: Tensor, weight: Tensor, vocab_size: int, ignore_index: int,
                     gradient: bool) -> Tensor:
    """(N, V), (N,) -> losses (N,); with `gradient`, logits become (softmax - onehot) * weight, a float32 scalar."""
    losses = allocate_losses(logits, targets, weight, vocab_size, ignore_index, gradient)
    if losses.numel():
        launch_rows(logits, targets, weight, losses, vocab_size, ignore_index, gradient)
    return losses


@cross_entropy_op.register_fake
def allocate_losses(logits, targets, weight, vocab_size, ignore_index, gradient):
    return logits.new_empty(logits.size(0), dtype=torch.float32)


@torch.library.custom_op('scratchgpt::scale_', mutates_args={'gradient'})
def scale_op(gradient: Tensor, factor: Tensor) -> None:
    """(N, V) gradient *= factor, a float32 scalar on the device; memory is not touched where it is 1."""
    N, V = gradient.shape
    BLOCK_SIZE, _, num_warps = block_shape(gradient)
    if gradient.numel():
        with on_device(gradient):
            scale_kernel[(N, triton.cdiv(V, BLOCK_SIZE))](gradient, gradient.stride(0), factor, V, BLOCK_SIZE=BLOCK_SIZE,
                                                          num_warps=num_warps)


def launch_rows(logits, targets, weight, losses, vocab_size, ignore_index, gradient):
    N, V = logits.shape
    BLOCK_SIZE, VECTOR, num_warps = block_shape(logits)
    with on_device(logits):
        cross_entropy_kernel[(N,)](logits, logits.stride(0), targets.contiguous(), weight, losses, vocab_size, V, ignore_index,
                                   BLOCK_SIZE=BLOCK_SIZE, VECTOR=VECTOR, GRADIENT=gradient, num_warps=num_warps)


def block_shape(logits):
    """(elements of a row that a program takes at a time, how many of them make up 16 bytes, warps) for (N, V) logits."""
    itemsize = logits.element_size()
    block_bytes = min(BLOCK_BYTES, next_power_of_2(logits.size(1)) * itemsize)
    return max(16, block_bytes) // itemsize, 16 // itemsize, max(1, block_bytes // 1024)


@jit
def load_logits(row_start, cols, vocab_size, V):
    """Logits of a row as float32, -inf for the padding.

    Loads end at V, which is a multiple of 16 where vocab_size is not: with a mask that may change from one element to
    the next, the compiler would load every element alone.
    """
    value = tl.load(row_start + cols, mask=cols < V, other=0.0).to(tl.float32)
    return tl.where(cols < vocab_size, value, float('-inf'))


@jit
def add_to_sums(value, maxima, sums):
    """The maximum of each thread's logits so far, and the sum of exp(logit - maximum), with its share of `value` added."""
    new_maxima = tl.maximum(maxima, tl.max(value, axis=1))
    shift = tl.where(new_maxima == float('-inf'), 0.0, new_maxima)  # -inf minus -inf would be NaN
    return new_maxima, sums * tl.exp(maxima - shift) + tl.sum(tl.exp(value - shift[:, None]), axis=1)


@jit
def cross_entropy_kernel(logits, row_stride, targets, weight, losses, vocab_size, V, ignore_index,
                         BLOCK_SIZE: tl.constexpr, VECTOR: tl.constexpr, GRADIENT: tl.constexpr):
    """One row a program: its loss, and its gradient (softmax - onehot) * weight in the place of its logits.

    A block has the shape (BLOCK_SIZE / VECTOR, VECTOR): a thread loads 16 bytes of a row of it and reduces them alone.
    """
    row = tl.program_id(0).to(tl.int64)
    row_start = logits + row * row_stride
    lanes = tl.arange(0, BLOCK_SIZE // VECTOR)
    block = lanes[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    target = tl.load(targets + row)
    if target == ignore_index:
        tl.store(losses + row, 0.0)
        if GRADIENT:
            for start in range(0, V, BLOCK_SIZE):
                cols = start + block
                tl.store(row_start + cols, tl.zeros(cols.shape, dtype=logits.dtype.element_ty), mask=cols < V)
    else:
        in_vocab = (target >= 0) & (target < vocab_size)
        # Loaded now, since later another warp may have overwritten it.
        target_logit = tl.load(row_start + target, mask=in_vocab, other=float('nan')).to(tl.float32)
        # Milakov and Gimelshein 2018, "Online normalizer calculation for softmax": maximum and sum in one pass. Each thread
        # has its own until the end. Whole blocks need no masks, which would be a third of all instructions.
        whole = vocab_size // BLOCK_SIZE * BLOCK_SIZE
        maxima = tl.full((BLOCK_SIZE // VECTOR,), float('-inf'), dtype=tl.float32)
        sums = tl.zeros((BLOCK_SIZE // VECTOR,), dtype=tl.float32)
        for start in tl.range(0, whole, BLOCK_SIZE, num_stages=3):  # the next block is on its way meanwhile
            maxima, sums = add_to_sums(tl.load(row_start + start + block).to(tl.float32), maxima, sums)
        maxima, sums = add_to_sums(load_logits(row_start, whole + block, vocab_size, V), maxima, sums)
        row_max = tl.max(maxima, axis=0)
        shift = tl.where(row_max == float('-inf'), 0.0, row_max)
        denominator = tl.sum(sums * tl.exp(maxima - shift), axis=0)
        empty = denominator == 0.0  # every logit is -inf
        tl.store(losses + row, tl.where(empty, float('inf'), shift + tl.log(denominator) - target_logit))
        if GRADIENT:
            scale = tl.load(weight)
            inverse = scale / tl.where(empty, 1.0, denominator)
            for start in range(0, whole, BLOCK_SIZE):
                pointers = row_start + start + block
                result = tl.exp(tl.load(pointers).to(tl.float32) - shift) * inverse
                tl.store(pointers, result.to(logits.dtype.element_ty))
            for start in range(whole, V, BLOCK_SIZE):
                cols = start + block
                result = tl.exp(load_logits(row_start, cols, vocab_size, V) - shift) * inverse
                tl.store(row_start + cols, result.to(logits.dtype.element_ty), mask=cols < V)
            tl.debug_barrier()  # the target's element is stored a second time, after the thread above that has it
            at_target = tl.exp(target_logit - shift) * inverse - scale
            tl.store(row_start + target, at_target.to(logits.dtype.element_ty), mask=in_vocab & (denominator > 0.0))


@jit
def scale_kernel(gradient, row_stride, factor, V, BLOCK_SIZE: tl.constexpr):
    """Multiplies a block of a row of gradient (N, V) by the factor, except by 1."""
    scale = tl.load(factor)
    if scale != 1.0:
        cols = tl.program_id(1) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
        pointers = gradient + tl.program_id(0).to(tl.int64) * row_stride + cols
        value = tl.load(pointers, mask=cols < V, other=0.0).to(tl.float32)
        tl.store(pointers, (value * scale).to(gradient.dtype.element_ty), mask=cols < V)


def head_and_loss(x, weight, targets, vocab_size, ignore_index, fused):
    if x.size(-1) != weight.size(-1):
        raise ValueError(f'x of width {x.size(-1)} does not match a weight of width {weight.size(-1)}')
    check_shapes(x, targets, vocab_size, weight.size(0))
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
def linear_cross_entropy_op(x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, ignore_index: int,
                            dtype: torch.dtype, fused: bool, gradient: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(N, C), (V, C), (N,) -> mean loss, dx (N, C), dweight (V, C), 1 / number of targets that count.

    dx and dweight are the gradients of the summed loss, empty unless `gradient`.
    """
    _, dx, dweight, _ = allocate_sums(x, weight, targets, vocab_size, ignore_index, dtype, fused, gradient)
    N, V = x.size(0), weight.size(0)
    losses = torch.zeros(N, dtype=torch.promote_types(dtype, torch.float32), device=x.device)
    mean = mean_weight(targets, ignore_index)
    one = torch.ones_like(mean)
    ignored = targets == ignore_index
    x = x.to(dtype).masked_fill(ignored[:, None], 0)  # NaN in a row that does not count would spread
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
    loss, mean = x.new_empty((), dtype=wide), x.new_empty((), dtype=torch.float32)
    dx = x.new_empty(x.shape if gradient else (0, 0), dtype=dtype)
    dweight = x.new_empty(weight.shape if gradient else (0, 0), dtype=wide)
    return loss, dx, dweight, mean


def chunk_rows(V, device):
    """A power of two, at least 16, so that a chunk of the logits has about GPU_CHUNK or CPU_CHUNK elements, or fewer."""
    budget = CPU_CHUNK if device.type == 'cpu' else GPU_CHUNK
    return max(16, next_power_of_2(budget // V + 1) // 2)


def softmax_rows(logits, targets, losses, vocab_size, gradient):
    """What cross_entropy_kernel does, in PyTorch: fills `losses` and turns logits (n, V) into softmax - onehot."""
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
