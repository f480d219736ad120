"""What the exercise vector_add is compared with; examine.py describes the parts."""
import torch

HINTS = (
    'First the positions of this program: its number times BLOCK, plus the vector of tl.arange. The mask is positions < n. '
    'Then two loads, a sum and a store, all with this mask.',
    'positions = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK); is_inside = positions < n; tl.load(a + positions, '
    'mask=is_inside) reads the numbers of a, and tl.store(out + positions, ..., mask=is_inside) writes the sum.',
)
BLOCK, UNTOUCHED = 16, -1.0


def cases():
    for n in (16, 48, 50, 3):
        yield f'vectors of {n} numbers; a program has 16', tuple(torch.randint(1, 100, (2, n)).float())


def run(vector_add, a, b):
    """The result, and whether memory after it was written to; there is room for that, so that nothing is destroyed."""
    n = a.numel()
    room = torch.full((3, n + 2 * BLOCK), UNTOUCHED)
    room[0, :n], room[1, :n] = a, b
    vector_add(room[0, :n], room[1, :n], room[2, :n])
    return {'out': room[2, :n], 'numbers written past the end': int((room[2, n:] != UNTOUCHED).sum())}


def expected(a, b, out):
    out.copy_(a + b)


def first_block_alone(a, b, out):
    out[:BLOCK] = (a + b)[:BLOCK]


def overlapping(a, b, out):
    last = -(-a.numel() // BLOCK) - 1 + BLOCK
    out[:last] = (a + b)[:last]


def past_the_end(a, b, out):
    n = -(-a.numel() // BLOCK) * BLOCK
    a, b, out = (t.as_strided((n,), (1,)) for t in (a, b, out))
    out.copy_(a + b)


FAULTS = {
    'the store has no mask: the last program writes after the end of the vector': past_the_end,
    'all programs work on the first BLOCK numbers; the position of a number depends on tl.program_id(0)': first_block_alone,
    'the number of the program is added without being multiplied by BLOCK': overlapping,
    'nothing is written: tl.store is missing': lambda a, b, out: None,
    'this is a alone': lambda a, b, out: out.copy_(a),
    'this is a - b': lambda a, b, out: out.copy_(a - b),
}
