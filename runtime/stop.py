"""Stopping on Ctrl-C and SIGTERM: every process notices in the same place, as one exception.

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
    """The first SIGTERM or Ctrl-C makes `check` raise; another one, FORCE_QUIT_AFTER_S later, ends the process at once."""

    def __init__(self, process):
        self.process, self.first_at = process, None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle)

    def handle(self, number, frame):
        if self.first_at is None:
            self.first_at = time.monotonic()
            self.process.print0('stopping and saving; once more ends at once')
        elif time.monotonic() - self.first_at > FORCE_QUIT_AFTER_S:
            os._exit(128 + number)

    def check(self):
        """Raises Stopped in every process if any process has got a signal. One all-reduce where there are several."""
        if self.process.sum([self.first_at is not None])[0]:
            raise Stopped
