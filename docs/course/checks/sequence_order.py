"""What the exercise sequence_order is compared with; examine.py describes the parts."""
import itertools

import numpy as np

HINTS = (
    'Work out epoch and position for each sequence alone: divmod(i, n) gives both. A step whose sequences lie in two '
    'epochs then needs no code of its own.',
    'for i in range(step * batch, (step + 1) * batch): epoch, position = divmod(i, n); then take '
    'np.random.default_rng((seed, epoch)).permutation(n)[position] and turn it into an int.',
)


def cases():
    yield 'the first step', (1, 0, 4, 10)
    yield 'the second step', (1, 1, 4, 10)
    yield 'a step that begins in the first epoch and ends in the second', (1, 2, 4, 10)
    yield 'a step of the third epoch', (1, 6, 4, 10)
    yield 'another seed', (2, 1, 4, 10)
    yield 'a step that is longer than an epoch', (1, 1, 8, 3)


def run(sequence_order, *args):
    windows = sequence_order(*args)
    return None if windows is None else [int(window) for window in windows]


def expected(seed, step, batch, n):
    orders = (np.random.default_rng((seed, epoch)).permutation(n) for epoch in itertools.count())
    return list(itertools.islice(itertools.chain.from_iterable(orders), step * batch, (step + 1) * batch))


def order(seed, epoch, n):
    return np.random.default_rng((seed, epoch)).permutation(n).tolist()


FAULTS = {
    'all epochs have the same order; the epoch should be in what the generator is seeded with':
        lambda seed, step, batch, n: [order(seed, 0, n)[i % n] for i in range(step * batch, (step + 1) * batch)],
    'a step begins at sequence `step`; it begins at step * batch, since each step before took `batch` sequences':
        lambda seed, step, batch, n: [order(seed, i // n, n)[i % n] for i in range(step, step + batch)],
    'the epoch is that of the first sequence of the step; each sequence has its own':
        lambda seed, step, batch, n: [order(seed, step * batch // n, n)[i % n]
                                      for i in range(step * batch, (step + 1) * batch)],
    'the seed is not used': lambda seed, step, batch, n: [order(0, i // n, n)[i % n]
                                                          for i in range(step * batch, (step + 1) * batch)],
    'the windows are not shuffled': lambda seed, step, batch, n: [i % n for i in range(step * batch, (step + 1) * batch)],
}
