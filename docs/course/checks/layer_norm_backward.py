"""What the exercise layer_norm_backward is compared with; examine.py describes the parts."""
import functools

import torch
from torch.nn import functional as F

HINTS = (
    'Compute n and the root of (variance + eps) again from x, as in the forward pass. Sums over the rows are dim=0, '
    'means over a row are dim=-1 with keepdim=True.',
    'g = dy * weight; dx = (g - g.mean(dim=-1, keepdim=True) - n * (g * n).mean(dim=-1, keepdim=True)) / root; '
    'dweight = (dy * n).sum(dim=0); dbias = dy.sum(dim=0).',
)


def cases():
    yield 'one row, weight 1', (torch.randn(1, 4), torch.randn(1, 4), torch.ones(4))
    yield 'three rows, weight 1', (torch.randn(3, 4), torch.randn(3, 4), torch.ones(4))
    yield 'three rows and a weight', (torch.randn(3, 4), 2 * torch.randn(3, 4) + 1, torch.rand(4) + 0.5)


def expected(dy, x, weight, eps=1e-5):
    x, weight, bias = x.requires_grad_(), weight.requires_grad_(), torch.zeros_like(weight).requires_grad_()
    return torch.autograd.grad(F.layer_norm(x, weight.shape, weight, bias, eps), (x, weight, bias), dy)


def variant(dy, x, weight, eps=1e-5, mean=True, spread=True, weighted=True, normed=True, divided=True):
    root = (x.var(dim=-1, correction=0, keepdim=True) + eps).sqrt()
    n = (x - x.mean(dim=-1, keepdim=True)) / root
    g = dx = dy * weight if weighted else dy
    dx = dx - g.mean(dim=-1, keepdim=True) if mean else dx
    dx = dx - n * (g * n).mean(dim=-1, keepdim=True) if spread else dx
    return dx / root if divided else dx, (dy * (n if normed else x)).sum(dim=0), dy.sum(dim=0)


FAULTS = {
    'mean and variance are taken for constants in dx; both depend on x': functools.partial(variant, mean=False, spread=False),
    'in dx, the part of the variance is missing: n * mean(g * n)': functools.partial(variant, spread=False),
    'in dx, the part of the mean is missing: mean(g)': functools.partial(variant, mean=False),
    'in dx, dy should be multiplied by the weight first': functools.partial(variant, weighted=False),
    'dweight is the sum of dy * n, with n the normalized input, not x': functools.partial(variant, normed=False),
    'dx is not divided by the root of the variance': functools.partial(variant, divided=False),
}
