"""A law for the loss of a model of N parameters that was trained on D tokens, fitted to runs.

    L(N, D) = E + A / N^alpha + B / D^beta

Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", section 3.3: E is the loss that no model goes below, the
second term what a model of finite size misses, the third what a finite text leaves unlearned. The fit takes the logarithms of
losses and the Huber loss of their differences, as there (appendix D.2), so that single bad runs count little. Knows nothing of
models and files.
"""
import itertools
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

HUBER_DELTA = 1e-3  # differences of log L beyond it count linearly
# Starts of the search: log E, log A, alpha, log B, beta. It ends in the best of the minima that it finds.
STARTS = list(itertools.product((-1.0, 0.0, 0.7), (1.0, 5.0), (0.2, 0.5), (1.0, 5.0), (0.2, 0.5)))


class Run(NamedTuple):
    n_params: float
    n_tokens: float
    loss: float  # nats per token, on validation data


class Law(NamedTuple):
    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, n_params, n_tokens):
        """Numbers or arrays -> the loss in nats per token."""
        return self.E + self.A / n_params**self.alpha + self.B / n_tokens**self.beta

    def optimum(self, flops):
        """(parameters, tokens) of the lowest loss for a budget of floating-point operations, 6 per parameter and token."""
        product = flops / 6
        n_params = (self.alpha * self.A / (self.beta * self.B) * product**self.beta) ** (1 / (self.alpha + self.beta))
        return n_params, product / n_params


def fit(runs: list[Run]) -> Law:
    """The law of the smallest Huber loss. Raises ValueError for fewer runs than the law has numbers."""
    if len(runs) < len(Law._fields):
        raise ValueError(f'a law of {len(Law._fields)} numbers needs at least as many runs, not {len(runs)}')
    return min((search(runs, start) for start in STARTS), key=lambda result: result.cost).law


class Found(NamedTuple):
    law: Law
    cost: float


def search(runs, start) -> Found:
    n_params, n_tokens, losses = (np.array(column, dtype=float) for column in zip(*runs))

    def differences(x):
        e, a, alpha, b, beta = x
        terms = [np.full_like(losses, e), a - alpha * np.log(n_params), b - beta * np.log(n_tokens)]
        return np.logaddexp.reduce(terms) - np.log(losses)

    # The bounds keep a term that the runs hardly show from growing without end.
    low, high = [-5, -5, 0.01, -5, 0.01], [3, 30, 2, 30, 2]
    result = least_squares(differences, start, bounds=(low, high), loss='huber', f_scale=HUBER_DELTA)
    e, a, alpha, b, beta = result.x
    return Found(Law(np.exp(e), np.exp(a), alpha, np.exp(b), beta), result.cost)


def resampled(runs: list[Run], law: Law, n: int = 200, seed: int = 0) -> list[Law]:
    """n laws, each fitted to as many runs drawn with replacement (the bootstrap). Their spread shows how sure the law is."""
    rng = np.random.default_rng(seed)
    start = np.log(law.E), np.log(law.A), law.alpha, np.log(law.B), law.beta
    laws = []
    while len(laws) < n:
        drawn = [runs[i] for i in rng.integers(len(runs), size=len(runs))]
        if len(set(drawn)) >= len(Law._fields):
            laws.append(search(drawn, start).law)
    return laws
