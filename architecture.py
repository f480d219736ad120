"""What model.py computes, as a short list of numbers: a checkpoint keeps them, and says so when the code has changed since.

    numbers = architecture.fingerprint(model.config)       # of the code as it is now
    architecture.same(numbers, saved['architecture'])      # whether a checkpoint was trained with it
    architecture.is_gpt2(model.config)                     # whether it is GPT-2, as other programs compute it

The numbers are results of a tiny model whose parameters come from a formula. So another activation, norm, scale, position
or matrix shows, and another comment, name or order of the code does not. Dropout and the initial weights do not show either:
the results of trained weights do not depend on them.
"""
import dataclasses
import math
import zlib

import torch

from model import GPT, GPTConfig

# Sizes that any GPTConfig can be brought to. The context is GPT-2's, so that attention to fewer tokens than that shows.
TINY = dict(block_size=1024, vocab_size=11, n_layer=2, n_head=2, n_embd=16, bias=True, dropout=0.0, kernels='torch')
TOLERANCE = 3e-5  # float32 is rounded by a 50th of it; GELU's exact form, in place of the tanh one, is 15 times as far away
GPT2 = [1.20824, -0.167217, -0.309657, 1.0753, 0.768016, -0.0632681, -0.0527188, 0.724616, 1.32668, -0.423617, -0.246832,
        1.05807, 0.401561, -0.433067, 0.871058, 0.535046, 0.455274, -0.425192, 1.02637, 0.588411, 3.30175, 23152.0]


@torch.no_grad()
@torch.autocast('cpu', enabled=False)
def fingerprint(config: GPTConfig) -> list[float]:
    """Some logits, the loss and the number of parameters of the tiny model. Fields of config that are not in TINY count."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('highest')
    try:
        with torch.random.fork_rng(devices=[]):  # of the initial weights, which are replaced: who asks has seeded it for others
            model = GPT(dataclasses.replace(config, **TINY)).eval().float()
        fill(model)
        idx = torch.arange(TINY['block_size'])[None] ** 2 % TINY['vocab_size']  # (1, T)
        logits, loss = model(idx), model(idx, idx.roll(-1, dims=1))
    finally:
        torch.set_float32_matmul_precision(precision)
    return [*logits[0, [0, 1, 2, 500, -1], 1:5].flatten().tolist(), loss.item(), float(model.n_params())]


def fill(model):
    """Gives each parameter values from -1 to 1 that depend on its name alone.

    The first row of a matrix is almost 0, so the first layer norm gets almost 0 for token 0 at position 0: its epsilon shows.
    """
    state = model.state_dict()
    for name, _ in model.named_parameters():
        i = torch.arange(state[name].numel())
        values = (i * i * 40503 + i * zlib.crc32(name.encode())) % 65537 / 32768 - 1  # integers: the same on every machine
        state[name] = values.view(state[name].shape)
        if state[name].dim() == 2:
            state[name][0] *= 1e-3
    model.load_state_dict(state)


def same(one: list[float], other: list[float]) -> bool:
    """Whether two fingerprints are of the same architecture: they differ by no more than float32 is rounded."""
    return len(one) == len(other) and all(math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
                                          for a, b in zip(one, other, strict=True))


def is_gpt2(config: GPTConfig) -> bool:
    """Whether model.py computes GPT-2 with this config."""
    return same(fingerprint(config), GPT2)
