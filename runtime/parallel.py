"""Work on many cores: how many there are, pieces of even size, and threads that keep the order."""
import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def in_pieces(items: Iterable, size: int, length: Callable = len) -> Iterator[list]:
    """The items as lists, each cut as soon as the lengths in it add up to `size` or more."""
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

    Threads are enough for work that libraries do without holding Python's lock, and nothing is copied between processes.
    """
    workers = workers or available_cores()
    pool, pending = concurrent.futures.ThreadPoolExecutor(workers), collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
