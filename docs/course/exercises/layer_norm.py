"""Layer norm: bring each token's vector to mean 0 and variance 1, then scale and shift it.

To check it: python -m docs.course.check layer_norm
"""
import torch


def layer_norm(x, weight, bias, eps=1e-5):
    """
    x: (B, T, C); weight, bias: (C,)
    Returns (B, T, C): (x - mean) / sqrt(variance + eps) * weight + bias.

    Mean and variance are those of the C numbers of one token; the variance is the mean of (x - mean)².
    Write it with sums, means and roots, without torch.nn.functional.layer_norm.
    """
    raise NotImplementedError
