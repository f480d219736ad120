"""The loss of direct preference optimization, from the log-probabilities of two answers under two models.

To check it: python -m docs.course.check dpo_loss
"""
import torch
from torch.nn import functional as F


def dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta):
    """
    chosen, rejected: log-probabilities of the better and the worse answers of n pairs under the trained model, (n,) each
    reference_chosen, reference_rejected: the same under the model that training began with, (n,) each
    Returns the mean loss over the pairs, a scalar tensor.

    The gain of an answer is its log-probability less that under the reference. The loss of a pair is
    -log sigmoid(beta * (gain of the chosen answer - gain of the rejected one)).
    F.logsigmoid(x) is log(sigmoid(x)), also where sigmoid(x) is too small for float32.
    """
    raise NotImplementedError
