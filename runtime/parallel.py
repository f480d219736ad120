"""Work on many cores: how many there are, pieces of even size, and threads that keep the order.

This file knows nothing about what is worked on.
"""
import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def in_pieces(items: Iterable, size: int, length: Callable = len) -> Iterator[list]:
    """The items as lists, each as short as can be with a total length of at least `size`; the last may be shorter."""
    piece, filled = [], 0
    for item in items:
        piece.append(item)
        filled += length(item)
        if filled >= size:
            yield piece
            piece, filled = [], 0
    if piece:
        yield piece


def ordered_map(function: Callable, items: Iterable, workers: int = 0) -> Iterator:
    """map() on threads (0: one for each core), results in the order of the items; reads only a little ahead.

    Threads suffice for work that libraries do outside of Python's lock, and nothing is copied to another process.
    """
    workers = workers or available_cores()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        pending = collections.deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
