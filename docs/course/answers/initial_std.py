import math


def initial_std(name, n_layer):
    return 0.02 / math.sqrt(2 * n_layer) if name.endswith('c_proj.weight') else 0.02
