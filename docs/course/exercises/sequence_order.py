"""Which windows of the data a step reads, as a function of the seed and the step alone.

To check it: python -m docs.course.check sequence_order
"""
import numpy as np


def sequence_order(seed, step, batch, n):
    """
    step: number of the optimizer step, from 0; batch: sequences in a step; n: windows in the data
    Returns the list of the `batch` windows, numbers from 0 to n - 1, that this step reads.

    A run takes one sequence after the other; step s takes those numbered from s * batch on. Sequence i belongs to
    epoch i // n, and is at position i % n of its order. The order of epoch e is

        np.random.default_rng((seed, e)).permutation(n)

    So every epoch reads each window once, and a step may begin in one epoch and end in the next. Nothing is kept
    between two calls: a run that resumes calls the function with the step at which it stopped.
    """
    raise NotImplementedError
