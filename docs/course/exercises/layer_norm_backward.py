"""The backward pass of layer norm: the gradients of its input, its weight and its bias.

To check it: python -m docs.course.check layer_norm_backward
"""
import torch


def layer_norm_backward(dy, x, weight, eps=1e-5):
    """
    dy: the gradient of the loss with respect to the result, (M, C); x: the input, (M, C); weight: (C,)
    Returns (dx, dweight, dbias): (M, C), (C,), (C,).

    The forward pass is, for each row: n = (x - mean) / sqrt(variance + eps), and y = n * weight + bias.

    dbias and dweight are sums over the rows: of dy, and of dy * n. For dx, let g = dy * weight, the gradient with
    respect to n. Mean and variance depend on x, too, which takes away two parts of g:

        dx = (g - mean(g) - n * mean(g * n)) / sqrt(variance + eps)

    where mean(...) is over the C numbers of a row.
    """
    raise NotImplementedError
