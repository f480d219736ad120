"""How many threads write text on a CPU: all of them, or one where that is faster, found out while text is written.

    threads = Threads(torch.get_num_threads(), set_number=torch.set_num_threads)
    with threads.step(n_rows):
        ...                       # a step of decoding

A step is some hundred small products, and the threads wait for each other after every one. Where another program keeps a
core busy, two threads can be ten times slower than one; and the products of a small model are too short for two, even
where nothing else runs. So from time to time a few steps are made with the other number, and the faster one is kept. The
text stays the same: no sum of a decoding step is shared by two threads.
"""
import contextlib
import time
from collections.abc import Callable
from statistics import median

TRIAL = 4  # steps that are compared
SHORTEST_S, LONGEST_S = 0.25, 8.0  # between two trials: the longer, the more often the other number has lost
CLEARLY = 0.95  # the other number is taken where its steps take at most this share of the time
SLOWER = 1.5  # where steps take so many times longer than they did, something has changed, and a trial comes at once


class Threads:

    def __init__(self, most: int, set_number: Callable, clock: Callable = time.perf_counter):
        self.most, self.n, self.clock, self.set_number = most, most, clock, set_number
        self.set_to = most  # as many threads as there are now
        self.times = []  # seconds of the latest steps with n threads
        self.trial = []  # and of those with the other number, during a trial
        self.n_rows, self.usual_s, self.next_trial, self.pause_s = 0, 0.0, 0.0, SHORTEST_S

    @contextlib.contextmanager
    def step(self, n_rows: int):
        """Around a decoding step of so many rows; the thread that runs it has `most` threads before and after."""
        if self.most == 1:
            yield
            return
        if n_rows != self.n_rows:
            self.n_rows, self.times, self.trial = n_rows, [], []
        tries = len(self.times) == TRIAL and self.is_due()
        self.use(self.other() if tries else self.n)
        started = self.clock()
        try:
            yield
        finally:
            self.use(self.most)
        seconds = self.clock() - started
        if tries:
            self.judge(seconds)
        else:
            self.times = [*self.times[1 - TRIAL:], seconds]

    def other(self):
        return 1 if self.n == self.most else self.most

    def use(self, n):
        if n != self.set_to:
            self.set_number(n)
            self.set_to = n

    def is_due(self):
        """Whether the next step belongs to a trial."""
        has_changed = self.usual_s and median(self.times) > SLOWER * self.usual_s
        return bool(self.trial) or self.clock() >= self.next_trial or has_changed

    def judge(self, seconds):
        """Takes a step of the trial into account, and ends the trial where enough is known."""
        self.trial.append(seconds)
        before = median(self.times)
        if len(self.trial) < TRIAL and seconds < 3 * before:
            return
        if median(self.trial) < CLEARLY * before:
            self.n, self.times, self.pause_s = self.other(), self.trial, SHORTEST_S
        else:
            self.pause_s = min(LONGEST_S, 2 * self.pause_s)
        self.usual_s, self.trial = median(self.times), []
        self.next_trial = self.clock() + self.pause_s
