import math

import torch


def attention(q, k, v):
    T, hd = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(hd)  # (..., T, T): row i is the query of token i
    is_later = torch.ones(T, T, dtype=torch.bool).triu(diagonal=1)
    return scores.masked_fill(is_later, -math.inf).softmax(dim=-1) @ v
