"""What the exercise accumulate is compared with; examine.py describes the parts."""
import functools

import torch
from torch import nn
from torch.nn import functional as F

HINTS = (
    'The mean of a micro-batch, times the number of its targets, is a sum. The sum of these sums, divided by the '
    'number of all targets, is the mean over all. Count the targets of all micro-batches before the first backward().',
    'n = the number of all y that are not -1. For each micro-batch: loss = model(x, y) * (y != -1).sum() / n; '
    'loss.backward(); add loss.item() to what is returned.',
)


class Table(nn.Module):
    """The smallest language model: a row of logits for each token."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.linspace(-1, 1, 25).view(5, 5).sin())

    def forward(self, x, y):
        return F.cross_entropy(self.logits[x].flatten(0, 1), y.flatten(), ignore_index=-1)


def micro_batches(*counts):
    """Micro-batches of one sequence of 6 tokens, of which so many have a target that counts."""
    made = []
    for count in counts:
        x, y = torch.randint(5, (2, 1, 6))
        y[:, count:] = -1
        made.append((x, y))
    return (made,)


def cases():
    yield 'one micro-batch', micro_batches(6)
    yield 'two micro-batches with equal numbers of targets', micro_batches(6, 6)
    yield 'three micro-batches with 6, 2 and 1 targets', micro_batches(6, 2, 1)
    yield 'two with 1 target of 6 each', micro_batches(1, 1)


def run(accumulate, batches):
    model = Table()
    loss = accumulate(model, batches)
    return {'loss': loss, 'gradient': model.logits.grad}


def expected(model, batches):
    loss = model(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))
    loss.backward()
    return loss.item()


def weighted(model, batches, weight):
    total = 0.0
    for x, y in batches:
        loss = model(x, y) * weight(y)
        loss.backward()
        total += loss.item()
    return total


def all_positions(model, batches):
    return weighted(model, batches, lambda y: y.numel() / sum(y.numel() for _, y in batches))


def last_one_only(model, batches):
    for x, y in batches:
        model.zero_grad()
        (model(x, y) * (y != -1).sum() / sum((y != -1).sum() for _, y in batches)).backward()
    return expected(Table(), batches)


def mean_of_losses(model, batches):
    """The gradients of the means are added up; what is returned is the mean of the means."""
    return weighted(model, batches, lambda y: 1) / len(batches)


FAULTS = {
    'the loss is divided by the number of micro-batches, but the gradient is not': mean_of_losses,
    'each micro-batch has the same weight; one with more targets should count more': all_positions,
    'the means are added up; the sum should be divided': functools.partial(weighted, weight=lambda y: 1),
    'sums over targets are added up, but not divided by the number of all targets':
        functools.partial(weighted, weight=lambda y: (y != -1).sum()),
    'the gradient is that of the last micro-batch: it is set to zero between them': last_one_only,
}
