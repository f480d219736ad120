"""What the exercise gelu is compared with; examine.py describes the parts."""
import math

import torch
from torch.nn import functional as F

TOLERANCE = 1e-5  # the two forms of GELU differ by less than 5e-4
HINTS = (
    'math.sqrt and math.pi are for numbers, torch.tanh is for tensors. x ** 3 is taken for each number of x.',
    'Two brackets are easy to set wrong: the factor sqrt(2 / pi) multiplies all of (x + 0.044715 x³), and tanh is '
    'taken of this product; 1 is added to the tanh.',
)


def cases():
    yield 'five numbers', (torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]),)
    yield 'numbers far from 0', (torch.tensor([-20.0, 20.0]),)
    yield 'a matrix', (torch.randn(3, 4),)


def expected(x):
    return F.gelu(x, approximate='tanh')


FAULTS = {
    'this is the exact GELU with the error function; GPT-2 has the form with tanh': F.gelu,
    'this is the form with a sigmoid, x * sigmoid(1.702 x); GPT-2 has the one with tanh':
        lambda x: x * torch.sigmoid(1.702 * x),
    'this is ReLU': F.relu,
    'the factor 0.5 is missing': lambda x: 2 * expected(x),
    'the cube of x is missing': lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * x)),
    'sqrt(2 / pi) multiplies x alone; it multiplies the sum with the cube': lambda x: 0.5 * x * (
        1 + torch.tanh(math.sqrt(2 / math.pi) * x + 0.044715 * x ** 3)),
    'the factor is 2 / pi; its root is missing': lambda x: 0.5 * x * (1 + torch.tanh(2 / math.pi * (x + 0.044715 * x ** 3))),
}
