"""What the exercise online_softmax is compared with; examine.py describes the parts."""
import functools
import math

import torch

HINTS = (
    'Begin with a maximum of -math.inf and a total of 0. e to the power of −∞ is 0, so the first block needs no code '
    'of its own.',
    'For each block: larger = max(maximum, block.max().item()); total = total * math.exp(maximum - larger) + (block - '
    'larger).exp().sum().item(); maximum = larger.',
)


def cases():
    row = torch.randn(12)
    yield 'one block', ((row,),)
    yield 'three blocks; the maximum is in the first', (row.sort(descending=True).values.split(4),)
    yield 'three blocks; each has a larger number than the one before', (row.sort().values.split(4),)
    yield 'blocks of one number', (row.split(1),)
    yield 'numbers around 500', ((row + 500).split(5),)
    yield 'numbers around -500', ((row - 500).split(5),)


def run(online_softmax, blocks):
    result = online_softmax(iter(blocks))
    return None if result is None else tuple(float(number) for number in result)


def expected(blocks):
    row = torch.cat(list(blocks)).double()
    maximum = row.max()
    return maximum.item(), math.exp(row.logsumexp(dim=0) - maximum)


def variant(blocks, correct, without_maximum=False):
    maximum, total = -math.inf, 0.0
    for block in blocks:
        block = block.double()
        larger = max(maximum, block.max().item())
        total = total * correct(maximum, larger) + (block if without_maximum else block - larger).exp().sum().item()
        maximum = larger
    return maximum, total


def first_factor(function):
    """0 before the first block, where the total is 0."""
    return lambda old, new: 0.0 if old == -math.inf else function(old, new)


FAULTS = {
    'the total so far is not corrected when a larger number appears': functools.partial(variant, correct=lambda old, new: 1.0),
    'the correction has the wrong sign: the factor is e to the power of (old maximum - new maximum), at most 1':
        functools.partial(variant, correct=first_factor(lambda old, new: math.exp(new - old))),
    'the total is that of the last block alone': functools.partial(variant, correct=lambda old, new: 0.0),
    'the maximum is not subtracted': functools.partial(variant, correct=lambda old, new: 1.0, without_maximum=True),
}
