"""A ring all-reduce by hand: processes in a ring add up their gradients, each talking to one neighbour only.

To check it: python -m docs.course.check ring_all_reduce
"""


def ring_all_reduce(gradients):
    """
    gradients: n lists of n numbers: gradients[r][c] is chunk c of the gradient that process r has computed
    Returns a list of 2 (n - 1) states, one after each round; a state is again n lists of n numbers. In the last one
    every process has all sums.

    In each round, every process r sends one chunk to process (r + 1) % n; all send at the same time.

    1. The first n - 1 rounds, i = 0, 1, ...: process r sends chunk (r - i) % n, and the receiver adds it to its own.
       After these rounds, process r has the whole sum of chunk (r + 1) % n.
    2. The next n - 1 rounds, again i = 0, 1, ...: process r sends chunk (r + 1 - i) % n, and the receiver puts it in
       place of its own.
    """
    raise NotImplementedError
