"""Requests of many clients -> one running batch, and its tokens -> their texts.

    worker = Worker(Engine(model), tokenizer, loop, ThreadPoolExecutor(1), max_waiting=128)
    worker.submit([job, ...])                     # Busy or Draining if it cannot take them
    while not all(job.finished for job in jobs):
        await wake.wait()                         # the asyncio.Event that the jobs were made with

One thread runs the engine; requests join the running batch between two of its steps, in the order in which they came, as
soon as it has places for them. Whoever waits for them sits in an event loop and is woken once a step. This file knows
nothing about HTTP, and of the model only what the engine shows.
"""
import asyncio
import codecs
import collections
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import NamedTuple

from inference.engine import Request


class Busy(Exception):
    """As much is waiting as may; try again in `retry_after_s` seconds."""

    def __init__(self, retry_after_s):
        super().__init__(f'too many requests are waiting; try again in {retry_after_s} s')
        self.retry_after_s = retry_after_s


class Draining(Exception):
    """The program is about to end: what it has taken on is finished, and nothing new is taken."""

    def __init__(self):
        super().__init__('the server is shutting down and takes no new requests')


class Token(NamedTuple):
    """A token of a text: where in the text its characters begin, and what the model thought of it."""
    id: int
    offset: int
    logprob: float | None  # None: it was given, with nothing before it
    alternatives: list  # [(id, logprob), ...], the likeliest first


class Piece(NamedTuple):
    """What has become certain of one text since the last piece."""
    index: int
    text: str
    tokens: list  # [Token], if log-probabilities were asked for
    finish_reason: str | None


@dataclass(eq=False)
class Job:
    """A prompt and n texts that continue it."""
    request: Request
    wake: asyncio.Event  # set, in the event loop, when there is something new
    n: int = 1
    stop: tuple = ()  # strings before which a text ends
    echo: bool = False  # the texts begin with the prompt
    stream: bool = False  # wake for every piece, not only at the end
    first_index: int = 0  # number of the first of its texts
    n_unseen: int = 0  # tokens at the prompt's beginning that are not its user's
    pieces: collections.deque = field(default_factory=collections.deque)
    choices: list = field(default_factory=list)
    error: Exception | None = None
    finished: bool = False
    submitted_at: float = 0.0  # by time.monotonic
    started_at: float | None = None
    first_token_at: float | None = None

    @property
    def n_new_tokens(self):
        return sum(choice.n_read for choice in self.choices)


class Choice:
    """One of a job's texts: what its tokens spell, up to a stop string, and no further than is certain."""

    def __init__(self, job, index, sequence, tokenizer):
        self.job, self.index, self.sequence, self.tokenizer = job, index, sequence, tokenizer
        self.decoder = codecs.getincrementaldecoder('utf-8')(errors='replace')  # a character may be in several tokens
        self.held = ''  # text that is not given out yet: it may be the beginning of a stop string
        self.end = 0  # characters of text so far, given out or held
        self.tokens = []  # those not given out yet
        self.n_read = 0  # tokens of the sequence that are in the text
        self.started = False
        self.finish_reason = None

    def advance(self):
        """Takes in what the sequence has got; returns the Piece that has become certain, or None."""
        text, tokens = '' if self.started else self.read_prompt(), []
        if text:
            tokens, self.tokens = self.tokens, []
        self.started = True
        while self.finish_reason is None and self.n_read < len(self.sequence.tokens):
            self.read_token()
            cut = find_stop(self.held, self.job.stop)
            if cut is not None:
                self.end -= len(self.held) - cut
                self.held, self.finish_reason = self.held[:cut], 'stop'
                self.tokens = [token for token in self.tokens if token.offset < self.end]
        if self.finish_reason is None and self.sequence.finish_reason is not None:
            self.finish_reason = self.sequence.finish_reason
            self.held += self.decoder.decode(b'', final=True)
        n_held = 0 if self.finish_reason else length_of_possible_stop(self.held, self.job.stop)
        certain, self.held = self.held[:len(self.held) - n_held], self.held[len(self.held) - n_held:]
        n_certain = sum(self.finish_reason is not None or token.offset < self.end - n_held for token in self.tokens)
        tokens, self.tokens = tokens + self.tokens[:n_certain], self.tokens[n_certain:]
        if not (text or certain or tokens or self.finish_reason):
            return None
        return Piece(self.index, text + certain, tokens, self.finish_reason)

    def read_prompt(self):
        """The prompt's text if it is part of ours. Its last bytes may only be the beginning of a character."""
        request, skip = self.job.request, self.job.n_unseen
        if not self.job.echo:
            for token in request.ids:
                self.decoder.decode(self.tokenizer.token_bytes(token))
            return ''
        for i, token in enumerate(request.ids[skip:], skip):
            self.add(token, self.sequence.prompt_logprobs and self.sequence.prompt_logprobs[i])
        text, self.held = self.held, ''
        return text

    def read_token(self):
        sequence, i = self.sequence, self.n_read
        self.n_read += 1
        if sequence.tokens[i] not in self.job.request.stop_tokens:
            self.add(sequence.tokens[i], sequence.logprobs and sequence.logprobs[i])

    def add(self, token, logprobs):
        """logprobs: what the engine says of the token; None where the model had no say."""
        text = self.decoder.decode(self.tokenizer.token_bytes(token))
        if self.job.request.logprobs is not None:
            self.tokens.append(Token(token, self.end, *(logprobs or (None, []))))
        self.held += text
        self.end += len(text)


def find_stop(text, stops):
    """Where the stop string begins that is the first to be complete, or None."""
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return min(ends)[1] if ends else None


def length_of_possible_stop(text, stops):
    """How many of a text's last characters may become a stop string: 2 for 'a\\n\\n' and the stop '\\n\\n\\n'."""
    longest = max(map(len, stops), default=0)
    for length in range(min(len(text), longest - 1), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0


class Worker:
    """The thread that runs the engine, and the queue before it.

    Its methods may be called from any thread. `waiting` and `running` hold jobs; what is in `running` belongs to the thread.
    """

    def __init__(self, engine, tokenizer, loop, pool, max_waiting=128):
        """pool: an executor with one thread. If that has loaded the model too, no other thread computes: OpenMP lets its
        threads sleep between any two operations, at several times the cost, once more of them exist than cores."""
        self.engine, self.tokenizer, self.loop, self.max_waiting = engine, tokenizer, loop, max_waiting
        self.changed = threading.Condition()
        self.waiting, self.running = collections.deque(), []
        self.draining = self.stopping = False
        self.failing = False  # the engine's last step raised
        self.n_steps = self.n_tokens = 0
        self.mean_job_s = 1.0  # of those that ran, the latest counting most
        self.work = pool.submit(self.run)

    @property
    def n_waiting(self):
        """Texts, not jobs, that wait for a place."""
        return sum(job.n for job in tuple(self.waiting))

    @property
    def idle(self):
        return not (self.waiting or self.running)

    def submit(self, jobs):
        """Queues all of the jobs, or none and raises Busy or Draining."""
        with self.changed:
            if self.draining:
                raise Draining
            if self.n_waiting + sum(job.n for job in jobs) > self.max_waiting:
                rounds = 1 + self.n_waiting / (self.engine.n_running + self.engine.free)
                raise Busy(retry_after_s=min(60, max(1, round(rounds * self.mean_job_s))))
            for job in jobs:
                job.submitted_at = time.monotonic()
            self.waiting.extend(jobs)
            self.changed.notify()

    def cancel(self, jobs):
        """Gives the jobs' places to others; those that are finished are left alone."""
        with self.changed:
            for job in jobs:
                job.finished = True
                if job in self.waiting:
                    self.waiting.remove(job)
            self.changed.notify()

    def drain(self):
        with self.changed:
            self.draining = True

    def stop(self):
        """Ends the thread after the step that it is in."""
        with self.changed:
            self.draining = self.stopping = True
            self.changed.notify()
        self.work.result()

    # -- in the thread

    def run(self):
        while True:
            with self.changed:
                while self.idle and not self.stopping:
                    self.changed.wait()
                if self.stopping:
                    return
            woken = set()
            try:
                self.remove_cancelled()
                self.admit(woken)
                if self.running:
                    self.step(woken)
            except Exception as error:  # whatever it is, clients must hear of it and the thread must live
                traceback.print_exc(file=sys.stderr)
                self.failing = True
                for job in self.running:
                    self.finish(job, woken, error)
                self.remove_cancelled()
            if woken and not self.loop.is_closed():
                self.loop.call_soon_threadsafe(wake_all, woken)

    def remove_cancelled(self):
        """Takes the places of all jobs that are finished, whether by themselves or by `cancel`."""
        for job in [job for job in self.running if job.finished]:
            self.running.remove(job)
            for choice in job.choices:
                if choice.sequence.finish_reason is None:
                    self.engine.remove(choice.sequence)

    def admit(self, woken):
        """Starts the jobs at the head of the queue, while there are places."""
        while True:
            with self.changed:
                if not self.waiting or self.waiting[0].n > self.engine.free:
                    return
                job = self.waiting.popleft()
                self.running.append(job)
            job.started_at = time.monotonic()
            try:
                sequences = self.engine.add(job.request, job.n)
            except ValueError as error:
                self.finish(job, woken, error)
                continue
            job.choices = [Choice(job, job.first_index + i, sequence, self.tokenizer) for i, sequence in enumerate(sequences)]

    def step(self, woken):
        """One more token for all; their texts go to their jobs."""
        self.n_tokens += len(self.engine.step())
        self.n_steps += 1
        self.failing = False
        for job in self.running:
            if job.finished:
                continue
            job.first_token_at = job.first_token_at or time.monotonic()
            for choice in job.choices:
                if choice.finish_reason is None:
                    self.advance(choice, woken)
            if all(choice.finish_reason for choice in job.choices):
                self.finish(job, woken)
        self.remove_cancelled()

    def advance(self, choice, woken):
        """Gives a text its new tokens. What has reached a stop string leaves the engine at once."""
        piece = choice.advance()
        if piece is not None:
            choice.job.pieces.append(piece)
            if choice.job.stream:
                woken.add(choice.job.wake)
        if choice.finish_reason and choice.sequence.finish_reason is None:
            self.engine.remove(choice.sequence)
            choice.sequence.finish_reason = choice.finish_reason

    def finish(self, job, woken, error=None):
        job.error = error
        job.finished = True
        self.mean_job_s += 0.1 * (time.monotonic() - job.started_at - self.mean_job_s)
        woken.add(job.wake)


def wake_all(events):
    for event in events:
        event.set()
