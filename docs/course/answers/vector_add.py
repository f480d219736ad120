import triton
import triton.language as tl


@triton.jit
def vector_add_kernel(a, b, out, n, BLOCK: tl.constexpr):
    positions = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_inside = positions < n
    total = tl.load(a + positions, mask=is_inside) + tl.load(b + positions, mask=is_inside)
    tl.store(out + positions, total, mask=is_inside)


def vector_add(a, b, out):
    n, BLOCK = a.numel(), 16
    vector_add_kernel[(triton.cdiv(n, BLOCK),)](a, b, out, n, BLOCK=BLOCK)
