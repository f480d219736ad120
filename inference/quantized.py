"""Weights rounded to 8 or 4 bits, for generation on a CPU: a step reads every weight once, and takes as long.

    numbers, scales = int8_parts(weight)              # weight: (N, K)
    numbers, scales, offsets = int4_parts(weight)
    weight = rounded(weight, 'int4')                  # what they stand for

int8: every row has a scale (as in Dettmers et al. 2022, "LLM.int8()", section 2). int4: every 32 weights of a row have a scale
and an offset, both bfloat16. Inputs of the products are not rounded. Knows nothing about models.
"""
import torch
from torch import Tensor
from torch.nn import functional as F

GROUP = 32  # weights that share a scale and an offset in int4


def int8_parts(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> (numbers from -127 to 127, (N, K) int8; scales, (N,) float32), where weight is about number · scale."""
    weight = weight.detach().float()
    scales = weight.abs().amax(dim=1).div(127).clamp(min=1e-30)
    return (weight / scales[:, None]).round().to(torch.int8), scales


def int4_parts(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, K), K a multiple of 32 -> (numbers from 0 to 15, (N, K) uint8; scales and offsets, (N, K / 32) bfloat16 each), where
    weight is about number · scale + offset."""
    groups = weight.detach().float().view(len(weight), -1, GROUP)
    least, most = groups.aminmax(dim=-1, keepdim=True)
    scales = ((most - least) / 15).clamp(min=1e-30).bfloat16()
    offsets = least.bfloat16()
    numbers = ((groups - offsets.float()) / scales.float()).round().clamp(0, 15).to(torch.uint8)
    return numbers.view(weight.shape), scales[..., 0], offsets[..., 0]


def rounded(weight: Tensor, kind: str) -> Tensor:
    """(N, K) -> the weights as 'int8' or 'int4' has them, (N, K) float32."""
    if kind == 'int8':
        numbers, scales = int8_parts(weight)
        return numbers * scales[:, None]
    numbers, scales, offsets = int4_parts(F.pad(weight, (0, -weight.size(1) % GROUP)))
    groups = numbers.view(len(weight), -1, GROUP) * scales.float()[..., None] + offsets.float()[..., None]
    return groups.view(len(weight), -1)[:, :weight.size(1)]


def without_common(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(V, C) -> (what is left without what all rows have in common, which is rounded better; what they have, (C,))"""
    common = weight.mean(dim=0, dtype=torch.float32).to(weight.dtype)
    return weight - common, common
