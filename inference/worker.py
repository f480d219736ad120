"""The batching worker: requests of many clients share one running batch.

    worker = Worker(Engine(model), tokenizer, loop, ThreadPoolExecutor(1), max_waiting=128)
    worker.submit([job, ...])                     # raises Busy or Draining if it cannot take them
    while not all(job.finished for job in jobs):
        await wake.wait()                         # the asyncio.Event that the jobs were made with

One thread runs the engine. Jobs join the batch between two steps, in the order in which they came, as soon as there are
slots for all texts of the first one. Whoever waits for them is woken at most once a step. Knows nothing about HTTP.
"""
import asyncio
import collections
import sys
import threading
import time
import traceback
from concurrent.futures import Executor
from dataclasses import dataclass, field

from inference.engine import Engine, Request
from inference.text import TextStream


class Busy(Exception):
    """The queue is full; its one argument is in how many seconds to try again."""


class Draining(Exception):
    """The program is about to end: it finishes what it has accepted, and accepts nothing new."""


@dataclass(eq=False)
class Job:
    """A prompt and n texts that continue it. Other threads read `texts` by their `progress`."""
    request: Request
    wake: asyncio.Event  # set, in the event loop, when there is something new
    n: int = 1
    stop: tuple[str, ...] = ()  # strings before which a text ends
    n_echoed: int = 0  # how many of the prompt's last tokens the texts begin with
    stream: bool = False  # wake at every step, not only at the end
    texts: list[TextStream] = field(default_factory=list)  # empty while the job waits
    error: Exception | None = None
    finished: bool = False
    submitted_at: float = 0.0  # by time.monotonic
    started_at: float | None = None
    first_token_at: float | None = None

    @property
    def n_new_tokens(self) -> int:
        return sum(text.n_read for text in self.texts)


class Worker:
    """The thread that runs the engine, and the queue of jobs before it.

    Its methods may be called from any thread. What is in `running` belongs to the worker's thread.
    """

    def __init__(self, engine: Engine, tokenizer, loop: asyncio.AbstractEventLoop, pool: Executor, max_waiting: int = 128):
        """pool: an executor with one thread. Let the same thread load the model, so that no other one computes: once more
        of OpenMP's threads exist than cores, they sleep between any two operations, at several times the cost."""
        self.engine, self.tokenizer, self.loop, self.max_waiting = engine, tokenizer, loop, max_waiting
        self.changed = threading.Condition()
        self.waiting, self.running = collections.deque(), []  # jobs
        self.woken = set()  # events to set after this step
        self.draining = False  # set it to finish what is accepted and accept nothing new
        self.stopping = False
        self.failing = False  # the engine's last step raised
        self.n_steps = self.n_tokens = 0
        self.mean_job_s = 1.0  # a running mean, in which the latest jobs count most
        self.work = pool.submit(self.run)

    @property
    def n_waiting(self) -> int:
        """Texts, not jobs, that wait for a slot."""
        return sum(job.n for job in tuple(self.waiting))

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.running)

    def submit(self, jobs: list[Job]):
        """Queues all of the jobs, or none and raises Busy or Draining."""
        with self.changed:
            if self.draining:
                raise Draining
            if self.n_waiting + sum(job.n for job in jobs) > self.max_waiting:
                rounds = 1 + self.n_waiting / (self.engine.n_running + self.engine.free)
                raise Busy(min(60, max(1, round(rounds * self.mean_job_s))))
            for job in jobs:
                job.submitted_at = time.monotonic()
            self.waiting.extend(jobs)
            self.changed.notify()

    def cancel(self, jobs: list[Job]):
        """Takes jobs out of the queue at once, and out of the batch after the current step. Finished ones are left alone."""
        with self.changed:
            for job in jobs:
                job.finished = True
                if job in self.waiting:
                    self.waiting.remove(job)
            self.changed.notify()

    def stop(self):
        """Ends the thread after the current step."""
        with self.changed:
            self.draining = self.stopping = True
            self.changed.notify()
        self.work.result()

    # -- in the worker's thread

    def run(self):
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.stopping or not self.idle)
                if self.stopping:
                    return
            try:
                self.remove_finished()
                self.admit()
                if self.running:
                    self.step()
            except Exception as error:  # whatever it is, clients must hear of it and the thread must live
                traceback.print_exc(file=sys.stderr)
                self.failing = True
                for job in self.running:
                    self.finish(job, error)
                self.remove_finished()
            if self.woken and not self.loop.is_closed():
                self.loop.call_soon_threadsafe(set_all, self.woken)
            self.woken = set()

    def remove_finished(self):
        """Frees the slots of all jobs that are finished or cancelled."""
        for job in [job for job in self.running if job.finished]:
            self.running.remove(job)
            for text in job.texts:
                self.engine.remove(text.sequence)

    def admit(self):
        """Starts jobs from the head of the queue while there are slots."""
        while True:
            with self.changed:
                if not self.waiting or self.waiting[0].n > self.engine.free:
                    return
                job = self.waiting.popleft()
                self.running.append(job)
            job.started_at = time.monotonic()
            try:
                job.texts = [TextStream(sequence, self.tokenizer, job.stop, job.n_echoed)
                             for sequence in self.engine.add(job.request, job.n)]
            except ValueError as error:
                self.finish(job, error)

    def step(self):
        """One more token for all. A text that has reached a stop string leaves the engine at once."""
        self.n_tokens += sum(bool(sequence.tokens) for sequence in self.engine.step())
        self.n_steps += 1
        self.failing = False
        for job in self.running:
            if job.finished:
                continue
            job.first_token_at = job.first_token_at or time.monotonic()
            for text in job.texts:
                text.read()
                if text.finish_reason:
                    self.engine.remove(text.sequence)
            if job.stream:
                self.woken.add(job.wake)
            if all(text.finish_reason for text in job.texts):
                self.finish(job)
        self.remove_finished()

    def finish(self, job, error=None):
        job.error, job.finished = error, True
        self.mean_job_s += 0.1 * (time.monotonic() - job.started_at - self.mean_job_s)
        self.woken.add(job.wake)


def set_all(events):
    for event in events:
        event.set()
