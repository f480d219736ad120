"""The softmax of each row of a matrix in Triton, beside PyTorch's. Page 4 explains it line by line.

    TRITON_INTERPRET=1 python docs/course/row_softmax.py      # without a GPU
"""
import torch
import triton
import triton.language as tl


@triton.jit
def row_softmax_kernel(x, out, n_cols, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    is_inside = cols < n_cols
    positions = tl.program_id(0) * n_cols + cols
    row = tl.load(x + positions, mask=is_inside, other=-float('inf'))
    numerator = tl.exp(row - tl.max(row, axis=0))  # 0 in the lanes past the end
    tl.store(out + positions, numerator / tl.sum(numerator, axis=0), mask=is_inside)


def row_softmax(x):
    """(n_rows, n_cols), in one piece -> the same shape"""
    n_rows, n_cols = x.shape
    out = torch.empty_like(x)
    row_softmax_kernel[(n_rows,)](x, out, n_cols, BLOCK=triton.next_power_of_2(n_cols))
    return out


if __name__ == '__main__':
    x = torch.randn(3, 5, device='cuda' if torch.cuda.is_available() else 'cpu')
    print(row_softmax(x))
    print('largest difference from PyTorch:', (row_softmax(x) - x.softmax(dim=1)).abs().max().item())
