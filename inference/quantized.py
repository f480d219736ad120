"""Linear layers with weights of 8 or 4 bits, for generation on a CPU: a step reads every weight once, and takes as long.

    linear = Int8Linear(weight, bias)       # (N, K), (N,) or None
    linear = Int4Linear(weight, bias)
    y = linear(x)                           # (..., K) -> (..., N)

int8: every row of a weight has a scale (as in Dettmers et al. 2022, "LLM.int8()", section 2). A token's input becomes whole
numbers of 16 bits with one scale, which are two rows of 8 bits, a high and a low one: so oneDNN's product of bytes serves,
whose sums are exact, and what is lost is the weights' rounding alone. Two rows cost hardly more than one, since both need
the same weights. int4: every 32 weights of a row have a scale and an offset, and are unpacked in the product; inputs stay as
they are.

Sums of a row do not depend on the other rows. Knows nothing about models.
"""
import torch
import torch.nn as nn
from torch import Tensor

GROUP = 32  # weights that share a scale and an offset in int4
LARGEST = 127 * 256 + 127  # of an input as a whole number: its high and its low byte are from -128 to 127
ZERO = 128  # what stands for 0 in a byte without a sign


class Int8Linear(nn.Module):

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        weight = weight.detach().float()
        scales = weight.abs().amax(dim=1).div(127).clamp(min=1e-30)  # (N,)
        self.packed = torch.ops.onednn.qlinear_prepack((weight / scales[:, None]).round().to(torch.int8), None)
        self.scales = scales / LARGEST  # as inputs are multiples of their largest number / LARGEST
        self.bias = torch.zeros(1) if bias is None else bias.detach().float()
        self.one, self.zero = torch.ones(1), torch.tensor([ZERO], dtype=torch.int32)
        self.no_offsets = torch.zeros(len(scales), dtype=torch.int32)

    def forward(self, x):
        low_and_high, largest = split(x.reshape(-1, x.size(-1)))
        products = torch.ops.onednn.qlinear_pointwise(  # (2n, N)
            low_and_high, self.one, self.zero, self.packed, self.scales, self.no_offsets, None, 1.0, 0, torch.float32, 'none',
            [], '')
        low, high = products.chunk(2)
        y = torch.addcmul(self.bias, torch.add(low, high, alpha=256), largest)
        return y.to(x.dtype).view(*x.shape[:-1], -1)


def split(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(n, K) -> (their low bytes, then their high ones, (2n, K) uint8; the largest number of each row, (n, 1)).

    A number is about largest / LARGEST · (256 · (high - ZERO) + low - ZERO).
    """
    largest = rows.abs().amax(dim=1, keepdim=True).float().clamp_(min=1e-30)
    whole = torch.addcdiv(MIDDLE, rows.float(), largest, value=LARGEST).to(torch.int32)  # from 257 to 65,535
    low_and_high = whole.view(torch.uint8).view(*rows.shape, 4)[..., :2]  # the low byte comes first
    return low_and_high.permute(2, 0, 1).reshape(2 * len(rows), -1), largest


MIDDLE = torch.tensor(256.0 * ZERO + ZERO + 0.5)  # what becomes of 0; cutting off behind the point then rounds


class Int4Linear(nn.Module):

    def __init__(self, weight: Tensor, bias: Tensor | None):
        """K should be a multiple of 32, and N of 16."""
        super().__init__()
        groups = weight.detach().float().view(len(weight), -1, GROUP)  # (N, K / 32, 32)
        least, most = groups.aminmax(dim=-1, keepdim=True)
        scales = ((most - least) / 15).clamp(min=1e-30).bfloat16().float()
        offsets = (least + 8 * scales).bfloat16().float()  # what the number 8 stands for
        numbers = ((groups - offsets) / scales).round().add(8).clamp(0, 15).to(torch.int32)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers.view(weight.shape), 1)
        self.scales_and_offsets = torch.cat([scales, offsets], dim=-1).transpose(0, 1).contiguous().bfloat16()  # (K / 32, N, 2)
        self.bias = None if bias is None else bias.detach().bfloat16()

    def forward(self, x):
        rows = x.reshape(-1, x.size(-1)).bfloat16()  # (n, K)
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, GROUP, self.scales_and_offsets)
        y = y if self.bias is None else y.add_(self.bias)
        return y.to(x.dtype).view(*x.shape[:-1], -1)
