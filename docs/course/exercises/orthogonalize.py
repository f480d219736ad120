"""Muon's iteration: bring all singular values of a matrix near 1, with matrix products alone.

To check it: python -m docs.course.check orthogonalize
"""
import torch


def orthogonalize(matrix):
    """
    matrix: (rows, cols), float32
    Returns a matrix of the same shape: with the singular value decomposition U S Vᵀ of `matrix`, nearly U Vᵀ.

    X begins as the matrix divided by its Frobenius norm, the root of the sum of all squares: then no singular value
    is above 1. Five times, X becomes a X + (b A + c A A) X, where A = X Xᵀ, a = 3.4445, b = -4.775 and c = 2.0315.
    This does the same to each singular value s: it becomes a s + b s³ + c s⁵. From anywhere between 0 and 1 that
    leads to values near 1.
    """
    raise NotImplementedError
