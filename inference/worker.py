"""The batching worker: requests of many clients share one running batch.

    worker = Worker(Engine(model), tokenizer, loop, ThreadPoolExecutor(1), max_waiting=128)
    worker.submit([job, ...])                     # raises Busy or Draining if it cannot take them
    while not all(job.finished for job in jobs):
        await wake.wait()                         # the asyncio.Event that the jobs were made with

One thread runs the engine. Jobs join the batch between two steps, as soon as there are slots for all texts of the next one.
Whoever waits for them is woken at most once a step. Knows nothing about HTTP.

The slots are shared fairly between clients. Next is the client with the fewest running texts, of these the one that has
used least lately; a client's own jobs keep their order. A client none of whose texts run need not wait for long texts of
others: those of a client that has used SLICE tokens more are paused, and go on when a slot is free again. So a request
of one token is answered within a few steps, however many long ones of others are open. What this costs: a client alone can
no longer keep all slots once others come; a pause and its end copy a text's keys and values, and up to max_batch texts
keep theirs while they are paused, which doubles this memory at most. Beyond that they are computed anew. In a step, no
more prompts begin than fit into one block of tokens (at least one begins), so that many long ones do not hold up the rest.
"""
import asyncio
import collections
import sys
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import Executor
from dataclasses import dataclass, field

from inference.engine import Engine, Request
from inference.text import TextStream

SLICE = 32  # tokens that a client may be ahead of another one before it has to give way
DECAY, DECAY_STEPS = 0.9, 150  # what a client used counts half after about 1,000 steps


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
    client: str = ''  # who asks: slots are shared fairly between clients
    texts: list[TextStream] = field(default_factory=list)  # empty while the job waits
    error: Exception | None = None
    finished: bool = False
    submitted_at: float = 0.0  # by time.monotonic
    started_at: float | None = None
    first_token_at: float | None = None
    stepped: bool = False  # whether it has got a token since it was started or resumed

    @property
    def n_slots(self) -> int:
        """How many it needs, or has."""
        return len(self.unfinished) if self.texts else self.n

    @property
    def unfinished(self) -> list[TextStream]:
        return [text for text in self.texts if text.finish_reason is None]

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
        self.waiting, self.running = collections.deque(), []  # jobs; paused ones wait before those that have not begun
        self.used = Counter()  # {client: tokens computed for it, the older the less}
        self.active = set()  # clients that had jobs when the last step began
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
        return sum(job.n_slots for job in tuple(self.waiting))

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.running)

    def check_open(self):
        """Raises Draining if no jobs are accepted any more."""
        if self.draining:
            raise Draining

    def submit(self, jobs: list[Job]):
        """Queues all of the jobs, which are of one client, or none and raises Busy or Draining.

        A client that has none waiting finds a place where the queue is full for others, up to twice its length.
        """
        with self.changed:
            self.check_open()
            others_only = all(job.client != jobs[0].client for job in self.waiting)
            if self.n_waiting + sum(job.n for job in jobs) > self.max_waiting * (2 if others_only else 1):
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
        """Starts the jobs whose turn it is, while there are slots or others have to give way."""
        self.welcome()
        n_tokens = 0
        while n_tokens < self.engine.config.block_size:
            with self.changed:
                job = self.next_job()
                givers = self.jobs_that_give_way(job) if job else None
            if givers is None:
                return
            for giver in givers:
                self.pause(giver)
            with self.changed:
                if job not in self.waiting:  # cancelled meanwhile
                    continue
                self.waiting.remove(job)
                self.running.append(job)
            n_tokens += self.start(job)

    def welcome(self):
        """Forgives clients that come back what they used before, as far as it would keep them waiting now."""
        active = {job.client for job in (*tuple(self.waiting), *self.running)}
        most = max((self.used[job.client] for job in self.running), default=0)
        for client in active - self.active:
            self.used[client] = min(self.used[client], max(0, most - SLICE))
        self.active = active

    def next_job(self):
        """The waiting job whose turn it is, or None."""
        n_running, first = self.count_running(), {}
        for job in self.waiting:
            first.setdefault(job.client, job)
        return min(first.values(), key=lambda job: (n_running[job.client], self.used[job.client]), default=None)

    def count_running(self):
        """{client: running texts}"""
        n_running = Counter()
        for job in self.running:
            n_running[job.client] += job.n_slots
        return n_running

    def jobs_that_give_way(self, job):
        """Running jobs to pause so that there are slots for this one, or None if it has to wait."""
        missing, n_running, givers = job.n_slots - self.engine.free, self.count_running(), []
        if missing > 0 and n_running[job.client]:
            return None
        candidates = [other for other in self.running
                      if other.stepped and not other.finished and self.used[other.client] >= self.used[job.client] + SLICE]
        while missing > 0:
            if not candidates:
                return None
            giver = max(candidates, key=lambda other: (n_running[other.client], self.used[other.client], other.started_at))
            candidates.remove(giver)
            givers.append(giver)
            n_running[giver.client] -= giver.n_slots
            missing -= giver.n_slots
        return givers

    def pause(self, job):
        """Puts a running job back to the head of the queue."""
        for text in job.unfinished:
            n_kept = sum(kept.sequence.saved is not None for other in (job, *self.waiting) for kept in other.texts)
            self.engine.pause(text.sequence, keep=n_kept < self.engine.max_batch)
        with self.changed:
            self.running.remove(job)
            if not job.finished:
                self.waiting.appendleft(job)

    def start(self, job):
        """Starts or resumes a job. Returns how many tokens are to be computed before its next one."""
        job.stepped = False
        if job.texts:
            sequences = [text.sequence for text in job.unfinished]
            self.engine.resume(sequences)
            return sum(len(sequence.ids) - sequence.cached for sequence in sequences)
        job.started_at = time.monotonic()
        try:
            job.texts = [TextStream(sequence, self.tokenizer, job.stop, job.n_echoed)
                         for sequence in self.engine.add(job.request, job.n)]
        except ValueError as error:
            self.finish(job, error)
        self.used[job.client] += len(job.request.ids)
        return len(job.request.ids)

    def step(self):
        """One more token for all. A text that has reached a stop string leaves the engine at once."""
        self.n_tokens += sum(bool(sequence.tokens) for sequence in self.engine.step())
        self.n_steps += 1
        self.failing = False
        if self.n_steps % DECAY_STEPS == 0:
            self.used = Counter({client: DECAY * used for client, used in self.used.items() if used > 1})
        for job in self.running:
            if job.finished:
                continue
            job.first_token_at, job.stepped = job.first_token_at or time.monotonic(), True
            self.used[job.client] += job.n_slots
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
