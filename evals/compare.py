"""Whether one model is better than another on the same examples: paired differences with a confidence interval.

Both models answered the same questions, so what counts is the difference at each question: it varies far less than the
scores do. The paired bootstrap (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 13 and 16; Koehn 2004)
draws examples anew with replacement, the same ones for both models, and looks at how the difference varies.
"""
import json

import numpy as np

from evals.scores import METRICS, columns
from runtime.errors import BadInput
from runtime.files import read_json
from runtime.words import plural

RESAMPLES = 10_000
AT_ONCE = 4 << 20  # random numbers in memory


def compare_files(path_a: str, path_b: str) -> list[dict]:
    """[{'task', 'metric', 'a', 'b', 'difference', 'low', 'high', 'n'}] of all that two results files of evaluate.py both have.

    The difference is b - a; low and high are the ends of its 95% interval. Raises BadInput where the examples differ.
    """
    tasks_a, tasks_b = (read_results(path)['tasks'] for path in (path_a, path_b))
    both = [name for name in tasks_a if name in tasks_b]
    if not both:
        raise BadInput(f'{path_a} and {path_b} have no task in common ({", ".join(tasks_a)}; {", ".join(tasks_b)}); score both '
                       'models on the same tasks')
    rows = []
    for name in both:
        a, b = tasks_a[name], tasks_b[name]
        check_same_examples(name, a, b, path_a, path_b)
        for metric in METRICS:
            if metric in a and metric in b:
                rows.append({'task': name, 'metric': metric, **paired_difference(metric, a['examples'], b['examples'])})
    return rows


def read_results(path: str) -> dict:
    """What --json wrote. Raises BadInput that names what is missing."""
    results = read_json(path, 'it should be what evaluate.py wrote with --json')
    tasks = results.get('tasks')
    if not isinstance(tasks, dict) or not all(isinstance(task, dict) and isinstance(task.get('examples'), list)
                                              and task['examples'] for task in tasks.values()):
        raise BadInput(f'{path} has no tasks with examples; it should be what evaluate.py wrote with --json')
    return results


def check_same_examples(name, a, b, path_a, path_b):
    for key in ('version', 'shots', 'protocol'):
        if a.get(key) != b.get(key):
            raise BadInput(f'{name} was scored with {key} {json.dumps(a.get(key))} in {path_a} and {json.dumps(b.get(key))} in '
                           f'{path_b}; score both models alike')
    if len(a['examples']) != len(b['examples']):
        raise BadInput(f'{name} has {plural(len(a["examples"]), "example")} in {path_a} and {len(b["examples"]):,} in '
                       f'{path_b}; score both models on the same ones')
    for one, other in zip(a['examples'], b['examples']):
        if not isinstance(one, dict) or not isinstance(other, dict) or one.get('label') != other.get('label'):
            raise BadInput(f'{name} has other examples in {path_a} than in {path_b}; score both models on the same rows')


def paired_difference(metric: str, examples_a: list[dict], examples_b: list[dict], resamples: int = RESAMPLES,
                      seed: int = 0) -> dict[str, float]:
    """{'a', 'b': scores, 'difference': b - a, 'low', 'high': ends of its 95% interval, 'n'} over N paired examples."""
    try:
        pair = [columns(metric, examples) for examples in (examples_a, examples_b)]
    except (KeyError, TypeError, ValueError):
        raise BadInput(f'the examples lack what {metric} is made of; they should be those that evaluate.py wrote') from None
    f, n = METRICS[metric].f, len(examples_a)
    score_a, score_b = (float(f(above.sum() / below.sum())) for above, below in pair)
    random, differences = np.random.default_rng(seed), []
    per_turn = max(1, AT_ONCE // n)
    for first in range(0, resamples, per_turn):
        drawn = random.integers(n, size=(min(per_turn, resamples - first), n))
        a, b = (f(above[drawn].sum(axis=1) / below[drawn].sum(axis=1)) for above, below in pair)
        differences.append(b - a)
    low, high = np.quantile(np.concatenate(differences), [0.025, 0.975])
    return {'a': score_a, 'b': score_b, 'difference': score_b - score_a, 'low': float(low), 'high': float(high), 'n': n}


def verdict(row: dict) -> str:
    """What the interval says of the second model."""
    if row['low'] <= 0 <= row['high'] or not np.isfinite(row['difference']):
        return 'open'
    return 'better' if (row['difference'] > 0) == METRICS[row['metric']].higher_is_better else 'worse'
