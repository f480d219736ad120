"""What the exercise bytes_moved is compared with; examine.py describes the parts."""
HINTS = (
    'Count tensors: how many does the addition read and write, how many the norm? Each of them has n_elements * '
    'element_bytes bytes.',
    'Alone, the addition moves 3 tensors and the norm 2. Fused, 2 are read and 2 are written: only reading the sum '
    'again is saved.',
)


def cases():
    yield 'one number in bfloat16, not fused', (1, 2, False)
    yield 'one number in bfloat16, fused', (1, 2, True)
    yield 'one number in float32, fused', (1, 4, True)
    yield '8 sequences of 1,024 tokens with 768 numbers in bfloat16, not fused', (8 * 1024 * 768, 2, False)
    yield 'the same, fused', (8 * 1024 * 768, 2, True)


def expected(n_elements, element_bytes, fused):
    return n_elements * element_bytes * (2 + 2 + (not fused))


def tensors(alone, fused):
    return lambda n, size, is_fused: n * size * (fused if is_fused else alone)


FAULTS = {
    'fused, the sum has to be written, too: the next layers add to it': tensors(5, 3),
    'not fused, the norm reads the sum again': tensors(4, 4),
    'the addition reads two tensors': tensors(4, 3),
    'what is written is not counted': tensors(3, 2),
    'numbers are counted, not bytes': lambda n, size, fused: n * (4 if fused else 5),
    'fusing changes nothing here': tensors(5, 5),
}
