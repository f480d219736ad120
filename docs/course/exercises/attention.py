"""Causal attention: each token takes the average of the values that it may see, weighted by how well their keys fit.

To check it: python -m docs.course.check attention
"""
import math

import torch


def attention(q, k, v):
    """
    q, k, v: queries, keys and values, (T, hd) each
    Returns (T, hd): softmax(q kᵀ / sqrt(hd)) v, where token i sees itself and the tokens before it.

    Write it without torch.nn.functional.scaled_dot_product_attention. Where `...` stands for further dimensions,
    (..., T, hd), it should work as well: k.transpose(-2, -1) swaps the last two.
    """
    raise NotImplementedError
