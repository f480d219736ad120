"""The standard deviation of a matrix's initial numbers, smaller where it writes into the residual stream.

To check it: python -m docs.course.check initial_std
"""
import math


def initial_std(name, n_layer):
    """
    name: of a matrix of model.py, such as 'transformer.wte.weight' or 'transformer.h.0.attn.c_attn.weight'
    Returns the standard deviation of the numbers with which it begins in a model of n_layer blocks.

    It is 0.02. But the results of attn.c_proj and mlp.c_proj are added to the residual stream, 2 n_layer times in
    all. So that the variance of the stream does not grow with n_layer, each of these matrices begins with a
    standard deviation of 0.02 / sqrt(2 n_layer): the variances of independent numbers add up.
    """
    raise NotImplementedError
