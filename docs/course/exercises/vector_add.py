"""A first Triton kernel: add two vectors. It needs no GPU, as the check runs it in Triton's interpreter.

To check it: python -m docs.course.check vector_add
"""
import triton
import triton.language as tl


@triton.jit
def vector_add_kernel(a, b, out, n, BLOCK: tl.constexpr):
    """
    a, b, out: pointers to the first of n numbers each

    Many programs run this function, each on BLOCK numbers: program 0 on the numbers 0 to BLOCK - 1, program 1 on the
    next BLOCK, and so on. The last program has positions past n, at which it may neither read nor write.

    tl.program_id(0)                            the number of this program
    tl.arange(0, BLOCK)                         the vector 0, 1, ..., BLOCK - 1
    tl.load(pointers, mask=...)                 reads numbers; a pointer plus a vector of numbers is a vector of pointers
    tl.store(pointers, numbers, mask=...)       writes numbers; where the mask is False, nothing is read or written
    """
    raise NotImplementedError


def vector_add(a, b, out):
    """Writes a + b to out; all three have n numbers. This starts the kernel and is complete."""
    n, BLOCK = a.numel(), 16
    vector_add_kernel[(triton.cdiv(n, BLOCK),)](a, b, out, n, BLOCK=BLOCK)  # as many programs as it takes
