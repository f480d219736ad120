import math

import torch


def cached_attention(q, k, v, keys, values):
    keys = torch.cat([keys, k[:, None]], dim=1)  # (nh, t + 1, hd)
    values = torch.cat([values, v[:, None]], dim=1)
    scores = (keys @ q[:, :, None]).squeeze(2) / math.sqrt(q.size(1))  # (nh, t + 1)
    y = (scores.softmax(dim=1)[:, None] @ values).squeeze(1)
    return y, keys, values
