import numpy as np


def sequence_order(seed, step, batch, n):
    windows = []
    for i in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(i, n)
        windows.append(int(np.random.default_rng((seed, epoch)).permutation(n)[place]))
    return windows
