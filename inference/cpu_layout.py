"""The copy of a model that generation computes with: on a CPU, laid out for fast products of few rows.

On a GPU the copy shares all weights. On a CPU the linear layers multiply in `dtype`, with packed weights where oneDNN has
them, and everything between them is float32, as it is under autocast. Knows nothing about batches or caches.
"""
import copy
import platform

import torch
import torch.nn as nn
from torch.nn import functional as F

from inference.quantized import rounded, without_common
from model import GPT, LayerNorm

MIN_ROWS = 2  # of a product on a CPU: a single row is multiplied in another way, with sums in another order


def inference_copy(model: GPT, dtype: torch.dtype, may_pack: bool, weights: str = 'auto') -> tuple:
    """(a copy of a model in evaluation mode, its head: (n, C) -> float32 logits (n, V))

    weights: of the linear layers and the head: 'auto', or rounded as 'int8' or 'int4' has them; all in dtype.
    """
    on_cpu = model.transformer.wte.weight.device.type == 'cpu'

    def make_linear(weight, bias):
        weight = weight if weights == 'auto' else rounded(weight, weights)
        return Linear(weight, bias, dtype, pack=may_pack and can_pack(dtype))

    def norm(x, weight, bias, eps):
        return F.layer_norm(x, weight.shape, weight, bias, eps).to(dtype)

    def add_norm(x, update, weight, bias, eps):
        x = x + update
        return norm(x, weight, bias, eps), x

    def copy_module(module):
        if on_cpu and isinstance(module, nn.Linear):
            return make_linear(module.weight, module.bias)
        twin = copy.copy(module)
        twin.training = False
        twin._modules = {name: copy_module(child) for name, child in module._modules.items()}
        if on_cpu and (module is not model.transformer.wte or module.weight.dtype == torch.float64):
            twin._parameters = {name: parameter if parameter is None else nn.Parameter(parameter.detach().float(), False)
                                for name, parameter in module._parameters.items()}
        if on_cpu and isinstance(module, LayerNorm):
            twin.norm, twin.add_norm = norm, add_norm
        return twin

    twin = copy_module(model)
    twin.min_rows = MIN_ROWS if on_cpu else 1
    return twin, Head(model, make_linear) if on_cpu else lambda x: twin.head(x).float()


class Linear(nn.Module):
    """y = x Wᵀ + b. Packed, W is in the order in which oneDNN reads it: for one row 2.6 times as fast as F.linear."""

    def __init__(self, weight, bias, dtype, pack):
        super().__init__()
        self.weight, self.packed = weight.detach().to(dtype).contiguous(), pack
        self.bias = None if bias is None else bias.detach().to(dtype)
        if pack:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, MIN_ROWS)

    def forward(self, x):
        """(..., K) -> (..., N)"""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, 'none', [], '')
        return F.linear(x, self.weight, self.bias)


class Head(nn.Module):
    """Logits in float32 from products in a narrow type.

    What all rows of the embedding have in common adds the same number to all logits of a token, and the larger a logit,
    the coarser its steps: around 100, bfloat16 has steps of 0.5. So this number is computed apart in float32, and the
    product in the narrow type is that of the remainder.
    """

    def __init__(self, model, make_linear):
        super().__init__()
        rest, common = without_common(model.transformer.wte.weight.detach()[:model.config.vocab_size])
        self.common = common.float()
        self.linear = make_linear(rest, None)

    def forward(self, x):
        """(n, C) -> (n, V) float32"""
        return self.linear(x).float() + (x.float() @ self.common)[..., None]


def attend_one_query(q, k, v, mask):
    """softmax(q kᵀ / sqrt(hd) + mask) v for one query a row: (n, nh, 1, hd), (n, nh, S, hd) twice -> (n, nh, 1, hd).

    mask: (n, 1, 1, S), 0 for a key that a row sees, else -inf. On a CPU this is faster than PyTorch's kernel for a single
    query, and each row's sums keep their order in a batch.
    """
    products = (k @ q.transpose(-2, -1)).transpose(-2, -1)  # (n, nh, 1, S)
    return torch.add(mask, products, alpha=q.size(-1) ** -0.5).softmax(dim=-1) @ v


def mask_of(visible):
    """What attend_one_query adds to scores, in float32 as the keys of a CPU are, from which keys each row sees."""
    return torch.zeros(visible.shape).masked_fill_(~visible, -torch.inf)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN has fast products of this type on this machine."""
    supported = {torch.float32: lambda: True, torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
                 torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported}
    return torch.backends.mkldnn.is_available() and platform.machine() in ('x86_64', 'AMD64') and supported[dtype]()
