"""What the exercise causal_softmax is compared with; examine.py describes the parts."""
import functools
import math

import torch
from torch.nn import functional as F

HINTS = (
    'It is row_softmax of the page with two masks: keys <= query when the row is loaded, keys < T when it is stored. '
    'Lanes that are not loaded should be −∞, so that they are never the largest, and e to the power of −∞ is 0.',
    "row = tl.load(scores + query * T + keys, mask=keys <= query, other=-float('inf')) * scale, with query = "
    'tl.program_id(0) and keys = tl.arange(0, BLOCK); then as on the page. Store with mask=keys < T: what is after the '
    'query has the numerator 0.',
)
UNTOUCHED = -1.0


def cases():
    yield 'T = 1', (torch.randn(1, 1), 1.0)
    yield 'T = 4, a power of two', (torch.randn(4, 4), 0.5)
    yield 'T = 5, so that 3 of 8 lanes are past the end', (torch.randn(5, 5), 0.125)
    yield 'scores above 100', (torch.randn(3, 3) + 200, 1.0)
    yield 'negative scores', (torch.randn(5, 5) - 20, 1.0)
    scores = torch.randn(5, 5)
    yield 'later keys with infinite scores', (scores.masked_fill(torch.ones(5, 5).triu(1).bool(), math.inf), 0.5)


def run(causal_softmax, scores, scale):
    """The result, and whether memory after it was written to; there is room for that, so that nothing is destroyed."""
    size = scores.numel()
    room = torch.full((2, size + 64), UNTOUCHED)
    room[0, :size] = scores.flatten()
    causal_softmax(room[0, :size].view_as(scores), room[1, :size].view_as(scores), scale)
    return {'out': room[1, :size].view_as(scores), 'numbers written past the end': int((room[1, size:] != UNTOUCHED).sum())}


def expected(scores, out, scale):
    out.copy_(variant(scores, scale))


def lanes_of(T):
    return 1 << (T - 1).bit_length()


def variant(scores, scale, last=0, maximum=True, scaled=True):
    """(T, T) weights; a row ends `last` columns after its query."""
    is_later = torch.ones_like(scores).triu(1 + last).bool()
    scores = scores.masked_fill(is_later, 0) * (scale if scaled else 1)
    scores = scores.masked_fill(is_later, -math.inf)
    e = (scores - scores.amax(dim=1, keepdim=True)).exp() if maximum else scores.exp()
    return e / e.sum(dim=1, keepdim=True)


def fault(scores, out, scale, **wrong):
    out.copy_(variant(scores, scale, **wrong))


def with_zeros(scores, out, scale):
    """What is not loaded has 0: keys after the query, and the lanes past the end."""
    T = len(scores)
    is_later = torch.ones(T, T).triu(1).bool()
    lanes = F.pad((scores * scale).masked_fill(is_later, 0), (0, lanes_of(T) - T))
    out.copy_(lanes.softmax(dim=1)[:, :T].masked_fill(is_later, 0))


def full_rows(scores, out, scale):
    out.copy_((scores * scale).softmax(dim=1))


def without_zeros(scores, out, scale):
    weights = variant(scores, scale)
    for i, row in enumerate(weights):
        out[i, :i + 1] = row[:i + 1]


def without_store_mask(scores, out, scale):
    T = len(scores)
    lanes = lanes_of(T)
    memory = out.as_strided((T * T + lanes,), (1,))
    for i, row in enumerate(variant(scores, scale)):
        memory[i * T:i * T + lanes] = torch.cat([row, row.new_zeros(lanes - T)])


FAULTS = {
    'the rows are whole: keys after the query should not be loaded (mask=keys <= query)': full_rows,
    'each row sees its next key: the mask should be keys <= query': functools.partial(fault, last=1),
    'no query sees its own key: the mask should be keys <= query, not keys < query': functools.partial(fault, last=-1),
    'what is not loaded has 0 and adds to the sum; give tl.load other=-float("inf")': with_zeros,
    'the largest number of the row is not subtracted, so e to its power is infinite': functools.partial(fault, maximum=False),
    'the scores are not multiplied by the scale': functools.partial(fault, scaled=False),
    'nothing is written after the query: store with mask=keys < T, so that 0 stands there': without_zeros,
    'the store has no mask: it writes after the end of the matrix': without_store_mask,
    'nothing is written: tl.store is missing': lambda scores, out, scale: None,
}
