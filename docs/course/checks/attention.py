"""What the exercise attention is compared with; examine.py describes the parts."""
import functools
import math

import torch
from torch.nn import functional as F

HINTS = (
    'Four steps: the scores (T, T), row i for the query of token i; −∞ where the key stands after the query; softmax '
    'over each row; the product with v. torch.ones(T, T).triu(diagonal=1) is 1 above the diagonal.',
    'scores = q @ k.transpose(-2, -1) / math.sqrt(hd); scores = scores.masked_fill(is_later, -math.inf) with is_later '
    '= torch.ones(T, T, dtype=torch.bool).triu(diagonal=1); the result is scores.softmax(dim=-1) @ v.',
)


def cases():
    yield 'one token, which sees itself alone', tuple(torch.randn(3, 1, 2))
    yield 'three tokens of two numbers', tuple(torch.randn(3, 3, 2))
    yield 'five tokens of four numbers, with large scores', tuple(3 * torch.randn(3, 5, 4))
    yield 'two sequences, three heads: (2, 3, 4, 8)', tuple(torch.randn(3, 2, 3, 4, 8))


def expected(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def variant(q, k, v, diagonal=1, scale=None, dim=-1, mask_last=False, lower=False):
    T, hd = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) * (hd ** -0.5 if scale is None else scale(hd))
    ones = torch.ones(T, T, dtype=torch.bool)
    hidden = ones.tril(-1) if lower else ones.triu(diagonal)
    if mask_last:
        return scores.softmax(dim=dim).masked_fill(hidden, 0) @ v
    return scores.masked_fill(hidden, -math.inf).softmax(dim=dim) @ v


FAULTS = {
    'each row sees its next token: the mask is one too far to the right': functools.partial(variant, diagonal=2),
    'no token sees itself: the mask is one too far to the left': functools.partial(variant, diagonal=0),
    'there is no mask: each token sees all others': functools.partial(variant, diagonal=1_000),
    'the mask is upside down: each token sees the later ones and not the earlier ones': functools.partial(variant, lower=True),
    'the scores are not divided by the root of hd': functools.partial(variant, scale=lambda hd: 1),
    'the scores are divided by hd, not by its root': functools.partial(variant, scale=lambda hd: 1 / hd),
    'the softmax is taken over the queries, dim=-2; the weights of one query should add up to 1, dim=-1':
        functools.partial(variant, dim=-2),
    'later tokens are removed after the softmax, so a row adds up to less than 1; set their scores to −∞ before it':
        functools.partial(variant, mask_last=True),
    'the masked scores are set to 0, which is no small score: e to the power of 0 is 1; set them to −∞': lambda q, k, v: (
        q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))).tril().softmax(dim=-1) @ v,
}
