"""What the exercise row_softmax is compared with; examine.py describes the parts."""
import torch

HINTS = (
    'Row i begins at i * n_cols. The lanes past n_cols should have −∞ after the load: they are then never the '
    "largest, and e to the power of −∞ is 0. In a kernel, −∞ is -float('inf').",
    'cols = tl.arange(0, BLOCK); row = tl.load(x + tl.program_id(0) * n_cols + cols, mask=cols < n_cols, '
    "other=-float('inf')); numerator = tl.exp(row - tl.max(row, axis=0)); divide it by tl.sum(numerator, axis=0) and "
    'store it at the same positions of out, with the same mask.',
)
UNTOUCHED = -1.0


def cases():
    yield 'two rows of 4 columns, a power of two', (torch.randn(2, 4),)
    yield 'three rows of 5 columns, so that 3 of 8 lanes are past the end', (torch.randn(3, 5),)
    yield 'rows of negative numbers', (torch.randn(2, 5) - 20,)
    yield 'rows of numbers above 100', (torch.randn(2, 3) + 200,)
    yield 'one column', (torch.randn(2, 1),)


def run(row_softmax, x):
    """The result, and whether memory after it was written to; there is room for that, so that nothing is destroyed."""
    n_rows, n_cols = x.shape
    size = n_rows * n_cols
    room = torch.full((2, size + 64), UNTOUCHED)
    room[0, :size] = x.flatten()
    row_softmax(room[0, :size].view(n_rows, n_cols), room[1, :size].view(n_rows, n_cols))
    written = int((room[1, size:] != UNTOUCHED).sum())
    return {'out': room[1, :size].view(n_rows, n_cols), 'numbers written past the end': written}


def expected(x, out):
    out.copy_(x.softmax(dim=1))


def lanes_of(x):
    return 1 << (x.size(1) - 1).bit_length()


def with_zeros(x, out):
    """The lanes past the end have 0, in the maximum as in the sum."""
    wide = torch.cat([x, x.new_zeros(len(x), lanes_of(x) - x.size(1))], dim=1)
    out.copy_(wide.softmax(dim=1)[:, :x.size(1)])


def without_maximum(x, out):
    out.copy_(x.exp() / x.exp().sum(dim=1, keepdim=True))


def without_store_mask(x, out):
    lanes, cols = lanes_of(x), x.size(1)
    memory = out.as_strided((len(x) * cols + lanes,), (1,))
    for i, row in enumerate(x.softmax(dim=1)):
        memory[i * cols:i * cols + lanes] = torch.cat([row, row.new_zeros(lanes - cols)])


FAULTS = {
    'the lanes past the end have 0 and add to the sum; give tl.load other=-float("inf")': with_zeros,
    'the largest number of the row is not subtracted, so e to its power is infinite': without_maximum,
    'the store has no mask: it writes after the end of the matrix': without_store_mask,
    'all programs work on the first row; row i begins at tl.program_id(0) * n_cols':
        lambda x, out: out[0].copy_(x[0].softmax(0)),
    'the rows are not divided by their sum': lambda x, out: out.copy_((x - x.amax(dim=1, keepdim=True)).exp()),
    'nothing is written: tl.store is missing': lambda x, out: None,
}
