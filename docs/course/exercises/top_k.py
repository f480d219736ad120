"""Temperature and top-k: the probabilities from which the next token is drawn.

To check it: python -m docs.course.check top_k
"""
import torch


def top_k(logits, temperature, k):
    """
    logits: (V,); temperature: above 0; k: from 1 to V
    Returns (V,): the probabilities of all tokens, which add up to 1.

    The logits are divided by the temperature; the k largest are kept; the softmax of these gives their
    probabilities, and all other tokens have a probability of 0.
    """
    raise NotImplementedError
