"""Stopping on Ctrl-C, SIGTERM and SIGHUP: every process notices in the same place, as one exception.

    stop = StopSignals(process)
    try:
        while True:
            work()
            stop.check()          # raises Stopped in all processes if any of them got a signal
    except Stopped:
        save()
"""
import os
import signal
import time

FORCE_QUIT_AFTER_S = 2  # torchrun passes each signal on twice within this time, so an earlier second one does not count


class Stopped(Exception):
    """A signal told one of the processes to stop."""


class StopSignals:
    """The first signal makes `check` raise; another one, FORCE_QUIT_AFTER_S later, ends the process at once."""

    def __init__(self, process):
        self.process, self.first_at, self.noticed = process, None, False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle)
        if hasattr(signal, 'SIGHUP') and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(signal.SIGHUP, self.handle)

    @property
    def requested(self):
        """Whether this process has got a signal."""
        return self.first_at is not None

    def handle(self, number, frame):
        if self.first_at is None:
            self.first_at = time.monotonic()
            self.process.print0('stopping: the run saves a checkpoint and ends; another Ctrl-C ends it at once, without one')
        elif time.monotonic() - self.first_at > FORCE_QUIT_AFTER_S:
            os._exit(128 + number)

    def sum_and_notice(self, values):
        """process.sum(values), which also tells all processes whether one of them has got a signal: raise_if_noticed.

        In a step whose sums are made anyway, this costs no all-reduce and no waiting for a GPU of its own.
        """
        *sums, n_requested = self.process.sum([*values, self.requested]) if self.process.world_size > 1 else \
            [*self.process.sum(values), self.requested]
        self.noticed = n_requested > 0
        return sums

    def raise_if_noticed(self):
        if self.noticed:
            raise Stopped

    def check(self):
        """Raises Stopped in every process if any process has got a signal. One all-reduce where there are several."""
        if self.process.sum([self.requested])[0] if self.process.world_size > 1 else self.requested:
            raise Stopped
