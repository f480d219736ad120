"""A line when one of several processes stands still, so that nobody looks at a silent screen without knowing why.

    watch = Watch(process)
    watch.begin('step 12')       # called for every new piece of work
    watch.end()

A process that waits for another one cannot say so itself, since the library's call does not return: a thread does. It
speaks on each machine once, because the others may be out of reach.
"""
import os
import platform
import sys
import threading
import time

FIRST_PATIENCE_S, PATIENCE_S = 120, 10  # in the first piece, in which code may be compiled, and in later ones


class Watch:
    """Says when a piece of work takes far longer than those before it. Does nothing where there is one process."""

    def __init__(self, process):
        self.process, self.work, self.since, self.longest, self.said = process, None, time.monotonic(), None, False
        self.ended = threading.Event()
        if process.world_size > 1 and os.environ.get('LOCAL_RANK', '0') == '0':
            threading.Thread(target=self.look, daemon=True).start()

    def begin(self, work: str):
        """work: what begins, in words."""
        now = time.monotonic()
        if self.said:
            self.say(f'{self.work} is over; the run goes on')
        elif self.work:
            self.longest = max(self.longest or 0, now - self.since)
        self.work, self.since, self.said = work, now, False

    def end(self):
        self.ended.set()

    def look(self):
        while not self.ended.wait(1):
            waited = time.monotonic() - self.since
            patience = FIRST_PATIENCE_S if self.longest is None else max(PATIENCE_S, 3 * self.longest)
            if waited > patience and not self.said and self.work:
                self.said = True
                self.say(f'{self.work} has taken {waited:.0f} s so far: this process may be waiting for another one, and ends '
                         f'with an error when it has waited {self.process.timeout_s} s')

    def say(self, message):
        print(f'process {self.process.rank} of {self.process.world_size} on {platform.node()}: {message}', file=sys.stderr,
              flush=True)
