"""What the exercise layer_norm is compared with; examine.py describes the parts."""
import functools

import torch
from torch.nn import functional as F

HINTS = (
    'x.mean(dim=-1, keepdim=True) has the shape (B, T, 1): one number for each token, which broadcasts over its C '
    'numbers.',
    'centered = x - mean; variance = the mean of centered ** 2 over the last dimension, with keepdim=True; the result '
    'is centered / (variance + eps).sqrt() * weight + bias. torch.var divides by C - 1 unless told not to.',
)


def cases():
    yield 'one token of three numbers, weight 1 and bias 0', (torch.tensor([[[1.0, 2.0, 6.0]]]), torch.ones(3), torch.zeros(3))
    yield 'two sequences of three tokens', (torch.randn(2, 3, 4), torch.ones(4), torch.zeros(4))
    yield 'a weight and a bias', (torch.randn(2, 3, 4), torch.rand(4) + 0.5, torch.randn(4))
    yield 'numbers so small that eps counts', (torch.randn(1, 2, 4) * 3e-3, torch.ones(4), torch.zeros(4))
    yield 'a token of equal numbers', (torch.full((1, 1, 4), 2.0), torch.ones(4), torch.zeros(4))


def expected(x, weight, bias, eps=1e-5):
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def variant(x, weight, bias, eps=1e-5, dim=-1, correction=0, root_of_eps=True, scaled=True):
    variance = x.var(dim=dim, correction=correction, keepdim=True)
    spread = (variance + eps).sqrt() if root_of_eps else variance.sqrt() + eps
    normed = (x - x.mean(dim=dim, keepdim=True)) / spread
    return normed * weight + bias if scaled else normed


FAULTS = {
    'the variance is divided by C - 1, as torch.var and torch.std do by default; layer norm divides by C':
        functools.partial(variant, correction=1),
    'eps is added to the root; it belongs under it': functools.partial(variant, root_of_eps=False),
    'mean and variance are taken over the tokens of a sequence; each token has its own, over its C numbers':
        functools.partial(variant, dim=1),
    'mean and variance are taken over all tokens together; each token has its own, over its C numbers':
        functools.partial(variant, dim=(0, 1, 2)),
    'weight and bias are not used': functools.partial(variant, scaled=False),
    'eps is missing': lambda x, weight, bias: variant(x, weight, bias, eps=0.0),
}
