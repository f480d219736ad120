import triton
import triton.language as tl


@triton.jit
def causal_softmax_kernel(scores, out, T, scale, BLOCK: tl.constexpr):
    query = tl.program_id(0)
    keys = tl.arange(0, BLOCK)
    row = tl.load(scores + query * T + keys, mask=keys <= query, other=-float('inf')) * scale
    numerator = tl.exp(row - tl.max(row, axis=0))  # 0 where the key is after the query
    tl.store(out + query * T + keys, numerator / tl.sum(numerator, axis=0), mask=keys < T)


def causal_softmax(scores, out, scale):
    T = len(scores)
    causal_softmax_kernel[(T,)](scores, out, T, scale, BLOCK=triton.next_power_of_2(T))
