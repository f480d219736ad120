"""Top-p, or nucleus, sampling: keep the fewest tokens that together have probability p.

To check it: python -m docs.course.check top_p
"""
import torch


def top_p(logits, p):
    """
    logits: (V,); p: above 0 and at most 1
    Returns (V,): the probabilities of all tokens, which add up to 1.

    Take the softmax, then the tokens in falling order of their probabilities, until those that were taken together
    have at least probability p. So the token that reaches p is taken as well, and there is always at least one. The
    others get a probability of 0, and those that were taken are divided by their sum. Holtzman et al. 2020.
    """
    raise NotImplementedError
