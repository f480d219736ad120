"""Attention with a KV cache: one new token, whose query meets the stored keys and values.

To check it: python -m docs.course.check cached_attention
"""
import math

import torch


def cached_attention(q, k, v, keys, values):
    """
    q, k, v: query, key and value of the new token, (nh, hd) each
    keys, values: those of the tokens before it, (nh, t, hd) each; t may be 0
    Returns (y, keys, values): what attention gives for the new token, (nh, hd), and the keys and values with those
    of the new token after the others, (nh, t + 1, hd) each.

    Each head h attends alone: y[h] is softmax(q[h] · keys[h] / sqrt(hd)) times values[h]. The new token sees itself,
    too. It needs no mask, as there is no later token.
    """
    raise NotImplementedError
