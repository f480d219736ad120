"""Clip the gradients of all parameters by their norm taken together.

To check it: python -m docs.course.check clip_gradients
"""
import torch


def clip_gradients(gradients, max_norm):
    """
    gradients: a list of tensors of any shapes
    Returns a list of tensors of the same shapes.

    The norm is the root of the sum of the squares of all numbers of all tensors. If it is above max_norm, all
    numbers are multiplied by max_norm / norm, so that the direction stays and the norm becomes max_norm. If not,
    nothing changes.
    """
    raise NotImplementedError
