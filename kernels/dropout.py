"""Dropout on CPUs: 16 random bits decide about a number, so that one draw of the generator serves four of them.

    x = dropout(x, 0.1, training)               # as F.dropout, which it is on GPUs
    kept = draw_kept(x.shape, 0.1)              # int16: -1 where a number is kept, 0 where it is not
    y = zero_others(x, kept) * kept_scale(0.1)

PyTorch's own takes the generator's next 64 bits for every number, and goes from bool to numbers and back; for a small model
that takes as long as all products of a step. Here a mask has all bits of a number set or none, and is applied as integers.
The probability is rounded to a multiple of 2**-16, and kept numbers are scaled by what it then is, so the mean stays exact.
The same state of torch's generator gives the same numbers. Knows nothing about the model.
"""
import math

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 2 ** 16
INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """x with a share p of its numbers set to 0 and the others scaled, so that the mean stays. If not training, x itself."""
    if not training or not 0 < p < 1 or x.device.type != 'cpu' or x.dtype not in INTEGERS or torch.compiler.is_compiling():
        return F.dropout(x, p, training)
    return Dropout.apply(x, p)


class Dropout(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, p):
        kept = draw_kept(x.shape, p)
        ctx.p = p
        ctx.save_for_backward(kept)
        return zero_others(x, kept).mul_(kept_scale(p))

    @staticmethod
    def backward(ctx, dy):
        return zero_others(dy, *ctx.saved_tensors).mul_(kept_scale(ctx.p)), None


def draw_kept(shape: torch.Size, p: float, generator: torch.Generator | None = None) -> Tensor:
    """int16 of that shape: -1 with probability 1 - p, else 0. generator: None for torch's global one."""
    n = math.prod(shape)
    bits = torch.empty(-(-n // 4), dtype=torch.int64).random_(-2 ** 63, None, generator=generator).view(torch.int16)[:n]
    is_kept = torch.ge(bits, round(p * STEPS) - STEPS // 2, out=torch.empty_like(bits))
    return is_kept.neg_().view(shape)


def zero_others(x: Tensor, kept: Tensor) -> Tensor:
    """A copy of x with 0 where it is not kept."""
    integers = INTEGERS[x.dtype]
    return (x.view(integers) & kept.to(integers)).view(x.dtype)


def kept_scale(p: float) -> float:
    """What numbers that are kept are multiplied by."""
    return STEPS / (STEPS - round(p * STEPS))
