"""The worker, with an engine whose steps the test lets go on."""
import asyncio
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_text import Pieces

from inference.engine import Request
from inference.worker import Busy, Draining, Job, Worker


class Engine:
    """Writes the token 1 for everybody, a step each time that it is allowed."""

    def __init__(self, slots):
        self.slots, self.running = slots, []
        self.allowed, self.fails = threading.Semaphore(0), False

    n_running = property(lambda self: len(self.running))
    free = property(lambda self: self.slots - len(self.running))

    def add(self, request, n=1):
        if not request.ids:
            raise ValueError('no prompt')
        sequences = [types.SimpleNamespace(request=request, tokens=[], logprobs=None, prompt_logprobs=None, finish_reason=None)
                     for _ in range(n)]
        self.running += sequences
        return sequences

    def remove(self, sequence):
        if sequence in self.running:
            self.running.remove(sequence)

    def step(self):
        self.allowed.acquire()
        if self.fails:
            raise RuntimeError('on purpose')
        stepped = list(self.running)
        for sequence in stepped:
            sequence.tokens.append(1)
            if len(sequence.tokens) == sequence.request.max_new_tokens:
                sequence.finish_reason = 'length'
                self.running.remove(sequence)
        return stepped


@pytest.fixture
def worker():
    engine, loop = Engine(slots=4), asyncio.new_event_loop()
    worker = Worker(engine, Pieces([b'a']), loop, ThreadPoolExecutor(1), max_waiting=6)
    yield worker
    engine.allowed.release(10_000)
    worker.stop()
    loop.close()


def make_job(n=1, max_tokens=3, ids=(1,)):
    return Job(Request(ids=list(ids), max_new_tokens=max_tokens), wake=asyncio.Event(), n=n)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_jobs_join_the_running_batch_in_the_order_they_came(worker):
    first, second, third = make_job(n=3), make_job(n=2), make_job(n=1)
    worker.submit([first])
    wait_for(lambda: worker.engine.n_running == 3)
    worker.submit([second, third])
    worker.engine.allowed.release()
    wait_for(lambda: worker.n_steps == 1)
    assert (second.started_at, third.started_at) == (None, None)  # the third would fit, but it is not its turn
    worker.engine.allowed.release(2)
    wait_for(lambda: third.started_at is not None)
    assert first.finished and second.started_at is not None and worker.engine.n_running == 3
    worker.engine.allowed.release(3)
    wait_for(lambda: worker.idle)
    assert third.texts[0].text == 'aaa'


def test_a_full_queue_takes_all_jobs_of_a_request_or_none(worker):
    worker.submit([make_job(n=4)])
    wait_for(lambda: worker.engine.n_running == 4)
    worker.submit([make_job(n=4)])
    with pytest.raises(Busy) as busy:
        worker.submit([make_job(n=2), make_job(n=1)])
    assert busy.value.args[0] >= 1 and worker.n_waiting == 4
    worker.submit([make_job(n=2)])


def test_a_cancelled_job_leaves_the_queue_at_once_the_batch_after_the_step(worker):
    running, waiting = make_job(n=4, max_tokens=1000), make_job(n=4)
    worker.submit([running])
    wait_for(lambda: worker.engine.n_running == 4)
    worker.submit([waiting])
    worker.cancel([waiting])
    assert worker.n_waiting == 0
    worker.cancel([running])
    worker.engine.allowed.release()
    wait_for(lambda: worker.idle)
    assert worker.engine.n_running == 0 and worker.n_steps == 1


def test_an_engine_that_fails_ends_its_jobs_and_runs_the_next(worker, capfd):
    lost, next_one = make_job(), make_job()
    worker.engine.fails = True
    worker.submit([lost])
    worker.engine.allowed.release()
    wait_for(lambda: lost.finished)
    assert isinstance(lost.error, RuntimeError) and worker.failing
    worker.engine.fails = False
    worker.submit([next_one])
    worker.engine.allowed.release(3)
    wait_for(lambda: next_one.finished)
    assert next_one.error is None and not worker.failing and worker.engine.n_running == 0
    assert 'on purpose' in capfd.readouterr().err


def test_a_refused_request_does_not_touch_the_others(worker):
    good, bad = make_job(), make_job(ids=[])
    worker.submit([good, bad])
    worker.engine.allowed.release(3)
    wait_for(lambda: worker.idle)
    assert isinstance(bad.error, ValueError) and good.error is None and good.finished and not worker.failing


def test_a_draining_worker_finishes_its_jobs_and_accepts_none(worker):
    job = make_job()
    worker.submit([job])
    worker.draining = True
    with pytest.raises(Draining):
        worker.submit([make_job()])
    worker.engine.allowed.release(3)
    wait_for(lambda: worker.idle)
    assert job.error is None and job.texts[0].text == 'aaa'
