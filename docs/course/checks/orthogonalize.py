"""What the exercise orthogonalize is compared with; examine.py describes the parts."""
import functools

import torch

import muon

TOLERANCE = 1e-3  # five iterations of products
HINTS = (
    '@ is the matrix product and x.T the transposed matrix. matrix.norm() is the Frobenius norm.',
    'x = matrix / matrix.norm(); then five times: gram = x @ x.T; x = a * x + (b * gram + c * gram @ gram) @ x.',
)


def cases():
    yield 'a square matrix', (torch.randn(4, 4),)
    yield 'more columns than rows', (torch.randn(3, 6),)
    yield 'more rows than columns', (torch.randn(6, 3),)
    yield 'a matrix of large numbers', (100 * torch.randn(4, 4),)
    yield 'a diagonal matrix', (torch.diag(torch.tensor([4.0, 2.0, 1.0])),)


def expected(matrix):
    return muon.orthogonalize(matrix[None])[0]


def variant(matrix, coefficients=muon.COEFFICIENTS, iterations=5, norm=torch.linalg.matrix_norm, odd=True):
    a, b, c = coefficients
    x = matrix / norm(matrix)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ (x if odd else matrix / norm(matrix))
    return x


FAULTS = {
    'the numbers grow without bound: divide the matrix by its norm first, and look at the signs and the order of a, b and c':
        functools.partial(variant, norm=lambda matrix: 1.0),
    'it is divided by its largest number; the norm is the root of the sum of all squares':
        functools.partial(variant, norm=lambda matrix: matrix.abs().max()),
    'it is divided by its largest singular value; the Frobenius norm is meant':
        functools.partial(variant, norm=lambda matrix: torch.linalg.matrix_norm(matrix, 2)),
    'there are four iterations, not five': functools.partial(variant, iterations=4),
    'there is one iteration, not five': functools.partial(variant, iterations=1),
    'the bracket is multiplied with the matrix of the beginning; it should be the X of this iteration':
        functools.partial(variant, odd=False),
    'this is U Vᵀ exactly; compute the iteration, whose singular values are only near 1':
        lambda matrix: torch.linalg.svd(matrix, full_matrices=False)[0] @ torch.linalg.svd(matrix, full_matrices=False)[2],
}
