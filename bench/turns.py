"""Measuring in turns: what is compared is called once a turn, so that a busy machine slows all of it.

    times = take_turns({'pool': timed(pool), 'fineweb.py': timed(shard)}, turns=3)      # {name: [seconds]}
    rows = compare(times, n_mb, 'MB/s')       # [{'contender': 'pool', 'MB/s': 12.3, 'spread': '4%', 'times pool': 1.0}, ...]
"""
import concurrent.futures
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from statistics import median

from tqdm import tqdm

from runtime.errors import BadInput, first_line, warn


def take_turns(measures: dict[str, Callable], turns: int, warm_up: int = 1) -> dict[str, list]:
    """{name: [what its function returned at each turn]}, without the first `warm_up` turns.

    What raises BadInput is left out, with a warning.
    """
    for results, failed in turn_by_turn(measures, turns, warm_up):  # noqa: B007  the last ones count
        pass
    for name, reason in failed.items():
        warn(f'{name} is left out: {reason}')
    return {name: results[name] for name in measures if name not in failed}


def turn_by_turn(measures: dict[str, Callable], turns: int,
                 warm_up: int = 1) -> Iterator[tuple[dict[str, list], dict[str, str]]]:
    """Yields, after every measurement, ({name: [results so far]}, {name: why it failed}).

    What raises BadInput has failed, and gets no further turn.
    """
    results, failed = {name: [] for name in measures}, {}
    schedule = list(itertools.product(range(-warm_up, turns), measures))
    for turn, name in tqdm(schedule, leave=False, disable=None, dynamic_ncols=True):
        if name in failed:
            continue
        try:
            result = measures[name]()
        except BadInput as error:
            failed[name] = str(error)
        else:
            if turn >= 0:
                results[name].append(result)
        yield results, failed


def alone(function: Callable, *arguments, without: Iterable[str] = ()):
    """What the function returns in a new process, which ends after it. Raises BadInput where it cannot do its work.

    without: variables of the environment that the new process does not get.
    """
    kept = {name: os.environ.pop(name) for name in without if name in os.environ}
    try:
        return in_new_process(function, arguments)
    finally:
        os.environ.update(kept)


def in_new_process(function, arguments):
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as executor:
        try:
            return executor.submit(function, *arguments).result()
        except concurrent.futures.process.BrokenProcessPool:
            raise BadInput('its process was killed, probably because memory ran out; try a smaller size') from None
        except BadInput:
            raise
        except Exception as error:  # of whatever library it measures: the next one is measured all the same
            raise BadInput(first_line(error)) from error


def timed(call: Callable) -> Callable:
    """A function that makes the call and returns its seconds."""
    def seconds():
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    return seconds


def compare(times: dict[str, list[float]], amount: float, unit: str) -> list[dict]:
    """A row for each name: the amount per median second, its spread, and the ratio to that of the first."""
    if not times:
        raise BadInput('none of the contenders could be measured')
    first, *_ = times
    return [{'contender': name, unit: amount / median(seconds), 'spread': spread(seconds),
             f'times {first}': median(times[first]) / median(seconds)} for name, seconds in times.items()]


def spread(samples: list[float]) -> str | None:
    """(largest - smallest) / median of the turns in percent; None for a single turn."""
    return f'{(max(samples) - min(samples)) / median(samples):.0%}' if len(samples) > 1 else None
