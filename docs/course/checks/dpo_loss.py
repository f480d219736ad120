"""What the exercise dpo_loss is compared with; examine.py describes the parts."""
import torch
from torch.nn import functional as F

import tasks.dpo

HINTS = (
    'If the model is its own reference, both gains are 0, and the loss is -log(0.5) = 0.693. Try this first.',
    'margin = beta * ((chosen - reference_chosen) - (rejected - reference_rejected)); the loss is '
    '-F.logsigmoid(margin).mean().',
)


def cases():
    chosen, rejected, c, r = -10 * torch.rand(4, 5)
    yield 'a model that is its own reference: all gains are 0', (chosen, rejected, chosen, rejected, 0.1)
    yield 'one pair whose chosen answer has gained 2 nats', (chosen[:1] + 2, rejected[:1], chosen[:1], rejected[:1], 0.5)
    yield 'five pairs', (chosen, rejected, c, r, 0.1)
    yield 'the same with another beta', (chosen, rejected, c, r, 1.0)
    yield 'a pair that went 1,000 nats the wrong way', (torch.tensor([-1200.0]), torch.tensor([-100.0]), torch.tensor([-150.0]),
                                                        torch.tensor([-50.0]), 1.0)


def expected(chosen, rejected, reference_chosen, reference_rejected, beta):
    own, reference = torch.stack([chosen, rejected], dim=1), torch.stack([reference_chosen, reference_rejected], dim=1)
    losses, _ = tasks.dpo.dpo_losses(own, reference, beta)
    return losses.mean()


FAULTS = {
    'the reference is not used': lambda c, r, rc, rr, beta: expected(c, r, 0 * rc, 0 * rr, beta),
    'chosen and rejected are exchanged: the loss should fall when the chosen answer gains': lambda c, r, rc, rr, beta: expected(
        r, c, rr, rc, beta),
    'beta is not used': lambda c, r, rc, rr, beta: expected(c, r, rc, rr, 1.0),
    'beta multiplies the loss; it belongs into the sigmoid': lambda c, r, rc, rr, beta: beta * expected(c, r, rc, rr, 1.0),
    'the reference of the rejected answer has the wrong sign: its gain is subtracted as a whole':
        lambda c, r, rc, rr, beta: expected(c, r, rc, -rr, beta),
    'the losses are added up; the mean is asked for': lambda c, r, rc, rr, beta: len(c) * expected(c, r, rc, rr, beta),
    'the minus before the logarithm is missing': lambda *args: -expected(*args),
    'the sigmoid of a very negative number is 0 in float32, and its logarithm −∞; take F.logsigmoid':
        lambda c, r, rc, rr, beta: -(beta * ((c - rc) - (r - rr))).sigmoid().log().mean(),
    'the loss of each pair is returned; their mean is asked for':
        lambda c, r, rc, rr, beta: -F.logsigmoid(beta * ((c - rc) - (r - rr))),
}
