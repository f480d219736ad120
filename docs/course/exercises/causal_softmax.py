"""A Triton kernel for the softmax of attention: scores times a scale, and no key after the query.

To check it: python -m docs.course.check causal_softmax
"""
import triton
import triton.language as tl


@triton.jit
def causal_softmax_kernel(scores, out, T, scale, BLOCK: tl.constexpr):
    """
    scores, out: pointers to the first number of a (T, T) matrix, whose rows follow each other in memory
    BLOCK: a power of two, at least T: the number of lanes, so that a whole row fits into one vector

    Program i works on row i, that of query i. It writes softmax(scale * row) over the columns 0 to i, and 0 to the
    columns after i. Do not load what is after i: its numbers may be infinite. Nothing may be written past the row.
    """
    raise NotImplementedError


def causal_softmax(scores, out, scale):
    """scores, out: (T, T). This starts the kernel and is complete."""
    T = len(scores)
    causal_softmax_kernel[(T,)](scores, out, T, scale, BLOCK=triton.next_power_of_2(T))
