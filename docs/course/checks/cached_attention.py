"""What the exercise cached_attention is compared with; examine.py describes the parts."""
import functools

import torch
from torch.nn import functional as F

HINTS = (
    'First append: torch.cat([keys, k[:, None]], dim=1). Then it is attention with one query for each head: q[:, '
    'None] has the shape (nh, 1, hd).',
    'scores = q[:, None] @ keys.transpose(1, 2) / math.sqrt(hd), (nh, 1, t + 1), with the keys to which k was '
    'appended; y = (scores.softmax(dim=-1) @ values)[:, 0].',
)


def cases():
    for nh, t, hd in ((1, 0, 2), (1, 3, 2), (2, 3, 4), (4, 5, 4)):
        yield f'{nh} head{"s" if nh > 1 else ""} of {hd} numbers, {t} tokens in the cache', (
            *(2 * torch.randn(3, nh, hd)), *torch.randn(2, nh, t, hd))


def expected(q, k, v, keys, values, sees_itself=True, scale=None, in_front=False, cached=True):
    old_keys, old_values = keys, values
    parts = (lambda old, new: (new[:, None], old)) if in_front else (lambda old, new: (old, new[:, None]))
    keys, values = torch.cat(parts(keys, k), dim=1), torch.cat(parts(values, v), dim=1)
    seen_keys, seen_values = (keys, values) if sees_itself else (old_keys, old_values)
    y = F.scaled_dot_product_attention(q[:, None], seen_keys, seen_values, scale=scale)[:, 0]
    return y, keys if cached else old_keys, values if cached else old_values


def over_heads(q, k, v, keys, values):
    _, keys, values = expected(q, k, v, keys, values)
    scores = torch.einsum('hd,htd->ht', q, keys) / q.size(1) ** 0.5
    return torch.einsum('ht,htd->hd', scores.softmax(dim=0), values), keys, values


FAULTS = {
    'the new token does not see itself: append its key and value before the attention':
        functools.partial(expected, sees_itself=False),
    'the scores are not divided by the root of hd': functools.partial(expected, scale=1.0),
    'the new key and value stand in front; they belong after those of earlier tokens':
        functools.partial(expected, in_front=True),
    'the keys and values that are returned are the old ones, without those of the new token':
        functools.partial(expected, cached=False),
    'the softmax is taken over the heads; it should be over the tokens of each head': over_heads,
}
