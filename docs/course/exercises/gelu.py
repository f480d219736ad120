"""GELU in the form that GPT-2 was trained with: a smooth step from 0 to x.

To check it: python -m docs.course.check gelu
"""
import math

import torch


def gelu(x):
    """
    x: a tensor of any shape
    Returns, for each number of it, 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³))).
    """
    raise NotImplementedError
