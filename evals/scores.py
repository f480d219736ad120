"""What becomes of log-probabilities: for each example what it adds to a score, and the scores with their standard errors.

Every score is a function of a mean or of a ratio of two sums over examples (`METRICS`), so its standard error and the
comparison of two models (evals/compare.py) follow from what the examples say. Knows nothing about models.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Metric(NamedTuple):
    """f(sum of `field` / sum of `per`) over examples; per=None: over their number."""
    field: str
    per: str | None = None
    f: Callable = lambda ratio: ratio
    slope: Callable = lambda score: 1.0  # |df| at that score, for its standard error
    higher_is_better: bool = True
    what: str = ''  # is compared, or measured


def exp_minus(ratio):
    with np.errstate(over='ignore'):
        return np.exp(-np.asarray(ratio, dtype=np.float64))


def perplexity_of(field, per=None, what=''):
    return Metric(field, per, exp_minus, lambda score: score, False, what)


METRICS = {
    'acc': Metric('acc'),
    'acc_norm': Metric('acc_norm', what='log-probability per character'),
    'acc_bytes': Metric('acc_bytes', what='log-probability per byte'),
    'acc_token': Metric('acc_token', what='log-probability per token'),
    'acc_stop_words': Metric('acc_stop_words', what='the word, where no stop word is guessed'),
    'acc_last_token': Metric('acc_last_token', what='the last token'),
    'perplexity': perplexity_of('logprob', what='of the word'),
    'perplexity_last_token': perplexity_of('logprob_last_token', what='of the last token'),
    'word_perplexity': perplexity_of('logprob', 'words'),
    'byte_perplexity': perplexity_of('logprob', 'bytes'),
    'bits_per_byte': Metric('logprob', 'bytes', lambda ratio: -ratio / math.log(2), lambda score: 1 / math.log(2), False),
    'token_perplexity': perplexity_of('logprob', 'tokens'),
}


def columns(name: str, examples: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """(what is summed above, below the fraction line) of a metric for N examples, (N,) float64 each."""
    metric = METRICS[name]
    above = [example[metric.field] for example in examples]
    below = [1 if metric.per is None else example[metric.per] for example in examples]
    return np.array(above, dtype=np.float64), np.array(below, dtype=np.float64)


def score_of(name: str, examples: list[dict]) -> tuple[float, float]:
    """(score, standard error) of a metric over examples; the error of one example is NaN.

    The error of a ratio of sums is that of its linear approximation (the delta method): for an accuracy the usual
    sqrt(p (1 - p) / (n - 1)).
    """
    metric, (above, below) = METRICS[name], columns(name, examples)
    n, ratio = len(above), above.sum() / below.sum()
    score = float(metric.f(ratio))
    if n < 2:
        return score, math.nan
    of_ratio = math.sqrt(n / (n - 1) * np.square(above - ratio * below).sum()) / below.sum()
    return score, float(metric.slope(score) * of_ratio)


def summarize(metrics: tuple[str, ...], examples: list[dict]) -> dict[str, float]:
    """{metric: score, metric + '_stderr': its standard error, ...}."""
    scores = {}
    for name in metrics:
        scores[name], scores[f'{name}_stderr'] = score_of(name, examples)
    return scores


# ---- examples ---------------------------------------------------------------------------------------


def judge_choices(logprobs: np.ndarray, lengths: dict[str, np.ndarray], label: int) -> dict:
    """What one question of multiple choice adds to the scores.

    logprobs: of each choice, in nats. lengths: {metric: what it divides them by}. The first of equal ones is chosen, as the
    harness does.
    """
    with np.errstate(divide='ignore'):
        chosen = {metric: int(np.argmax(logprobs / divisors)) for metric, divisors in lengths.items()}
    return {'label': label, 'choice': chosen['acc'], 'logprobs': logprobs.tolist(),
            **{metric: int(choice == label) for metric, choice in chosen.items()}}
