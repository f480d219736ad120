"""What the exercise initial_std is compared with; examine.py describes the parts."""
HINTS = (
    'Two matrices of each block have c_proj in their name. name.endswith(...) finds them.',
    "0.02 / math.sqrt(2 * n_layer) if the name ends in 'c_proj.weight', else 0.02.",
)
TOLERANCE = 1e-6


def cases():
    yield 'the embedding', ('transformer.wte.weight', 12)
    yield 'the positions', ('transformer.wpe.weight', 12)
    yield 'queries, keys and values', ('transformer.h.0.attn.c_attn.weight', 12)
    yield 'the first layer of an MLP', ('transformer.h.3.mlp.c_fc.weight', 12)
    yield 'the projection of the attention', ('transformer.h.0.attn.c_proj.weight', 12)
    yield 'the projection of an MLP', ('transformer.h.11.mlp.c_proj.weight', 12)
    yield 'the same in a model of 48 blocks', ('transformer.h.11.mlp.c_proj.weight', 48)
    yield 'the only block of a model', ('transformer.h.0.attn.c_proj.weight', 1)


def expected(name, n_layer):
    return scaled(name, 0.02 * (2 * n_layer) ** -0.5)


def scaled(name, std, part='c_proj'):
    return std if part in name else 0.02


FAULTS = {
    'a block adds to the stream twice, so the root is that of 2 n_layer': lambda name, n: scaled(name, 0.02 * n ** -0.5),
    'it is divided by 2 n_layer, not by its root': lambda name, n: scaled(name, 0.02 / (2 * n)),
    'it grows with n_layer: divide by the root': lambda name, n: scaled(name, 0.02 * (2 * n) ** 0.5),
    'only the projection of the attention is scaled; that of the MLP adds to the stream, too':
        lambda name, n: scaled(name, 0.02 * (2 * n) ** -0.5, 'attn.c_proj'),
    'only the projection of the MLP is scaled; that of the attention adds to the stream, too':
        lambda name, n: scaled(name, 0.02 * (2 * n) ** -0.5, 'mlp.c_proj'),
    'all matrices are scaled; only those that add to the stream should be': lambda name, n: 0.02 * (2 * n) ** -0.5,
    "nothing is scaled; the names to scale end in 'c_proj.weight'": lambda name, n: 0.02,
}
