"""A Triton kernel for the softmax of each row of a matrix: one program for each row, which is read once.

To check it: python -m docs.course.check row_softmax
"""
import triton
import triton.language as tl


@triton.jit
def row_softmax_kernel(x, out, n_cols, BLOCK: tl.constexpr):
    """
    x, out: pointers to the first number of a matrix with n_cols columns, whose rows follow each other in memory
    BLOCK: a power of two, at least n_cols: the number of lanes, so that a whole row fits into one vector

    Program i reads row i, computes softmax(row) and writes it to row i of out. Subtract the largest number of the
    row before tl.exp, since float32 has no number for e to the power of 100. tl.max(row, axis=0) and tl.sum(row,
    axis=0) go over all BLOCK lanes, also over those past n_cols: choose what tl.load(..., mask=..., other=...)
    gives there so that they do not count.
    """
    raise NotImplementedError


def row_softmax(x, out):
    """Writes the softmax of each row of x, (rows, n_cols), to out. This starts the kernel and is complete."""
    n_rows, n_cols = x.shape
    row_softmax_kernel[(n_rows,)](x, out, n_cols, BLOCK=triton.next_power_of_2(n_cols))
