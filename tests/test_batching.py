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


class Sequence(types.SimpleNamespace):
    """Equal to itself alone, as those of the engine."""
    __eq__ = object.__eq__


class Engine:
    """Writes the token 1 for everybody, a step each time that it is allowed."""

    config = types.SimpleNamespace(block_size=8)

    def __init__(self, slots):
        self.max_batch, self.running, self.kept = slots, [], []
        self.allowed, self.fails = threading.Semaphore(0), False

    n_running = property(lambda self: len(self.running))
    free = property(lambda self: self.max_batch - len(self.running))

    def add(self, request, n=1):
        if not request.ids:
            raise ValueError('no prompt')
        sequences = [Sequence(request=request, ids=[*request.ids], tokens=[], logprobs=None, prompt_logprobs=None,
                              finish_reason=None, cached=0, saved=None) for _ in range(n)]
        self.running += sequences
        return sequences

    def remove(self, sequence):
        if sequence in self.running:
            self.running.remove(sequence)

    def pause(self, sequence, keep):
        self.running.remove(sequence)
        self.kept.append(keep)
        sequence.saved = [] if keep else None

    def resume(self, sequences):
        assert len(sequences) <= self.free
        for sequence in sequences:
            sequence.saved = None
        self.running += sequences

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


def make_job(n=1, max_tokens=3, ids=(1,), client=''):
    return Job(Request(ids=list(ids), max_new_tokens=max_tokens), wake=asyncio.Event(), n=n, client=client)


def wait_for(condition):
    deadline = time.monotonic() + 20
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


def step(worker, n=1):
    """Lets the engine take n steps, and waits for them."""
    goal = worker.n_steps + n
    worker.engine.allowed.release(n)
    wait_for(lambda: worker.n_steps == goal or worker.idle)


def count_steps(worker, job):
    """Submits a job and returns after how many steps it has finished, 50 if that are not enough."""
    before = worker.n_steps
    worker.submit([job])
    while not job.finished and worker.n_steps < before + 50:
        step(worker)
    return worker.n_steps - before


@pytest.mark.parametrize('n', [1, 4])
def test_a_request_of_one_token_passes_the_long_ones_of_four_other_clients(worker, n):
    worker.max_waiting = 1000
    assert count_steps(worker, make_job(n, max_tokens=49, client='e')) == 49  # what it used before does not count
    for client in 'abcd' * 5:
        worker.submit([make_job(n, max_tokens=100_000, client=client)])
    step(worker, 40)
    for _ in range(5):
        assert count_steps(worker, make_job(max_tokens=1, client='e')) <= 3
    assert count_steps(worker, make_job(max_tokens=1, client='a')) == 50  # its own long ones are before it


def test_clients_of_long_requests_share_the_slots_equally_and_all_finish(worker):
    worker.max_waiting = 1000
    jobs = [make_job(max_tokens=400, client=client) for client in 'aaaaaaaaaaaabcdef']
    for job in jobs:
        worker.submit([job])
    n_paused = 0
    while not all(job.finished for job in jobs):
        step(worker, 10)
        n_paused = max(n_paused, sum(bool(job.texts) for job in worker.waiting))
        n_new = {job.client: job.n_new_tokens for job in jobs[11:]}  # a's last one, and those of the others
        if worker.n_steps == 800:  # 3,200 tokens: a third of a turn less than 6 equal shares
            assert min(n_new[client] for client in 'bcdef') > 3200 / 6 * 2 / 3 or all(job.finished for job in jobs[12:])
    assert n_paused and worker.engine.n_running == 0 and not worker.waiting
    assert {job.texts[0].text for job in jobs} == {'a' * 400}  # nothing is lost or written twice by a pause


def test_texts_beyond_the_batch_size_do_not_keep_their_memory_while_paused(worker):
    worker.max_waiting = 1000
    for client in 'abc':
        worker.submit([make_job(n=4, max_tokens=100_000, client=client)])
    step(worker, 300)
    assert worker.engine.kept[:4] == [True] * 4 and False in worker.engine.kept


def test_a_paused_job_that_is_cancelled_leaves_the_queue(worker):
    long, other = make_job(n=4, max_tokens=1000, client='a'), make_job(max_tokens=1000, client='b')
    worker.submit([long])
    step(worker, 50)
    worker.submit([other])
    step(worker, 2)
    assert list(worker.waiting) == [long] and long.texts
    worker.cancel([long, other])
    worker.engine.allowed.release()
    wait_for(lambda: worker.idle)
    assert worker.engine.n_running == 0


def test_a_client_with_nothing_in_the_queue_finds_a_place_though_another_one_fills_it(worker):
    worker.submit([make_job(n=4, max_tokens=1000, client='a')])
    wait_for(lambda: worker.engine.n_running == 4)
    worker.submit([make_job(n=3, client='a'), make_job(n=3, client='a')])
    with pytest.raises(Busy):
        worker.submit([make_job(client='a')])
    worker.submit([make_job(n=4, client='b')])
    with pytest.raises(Busy):
        worker.submit([make_job(n=3, client='c')])  # not more than twice as many as there are places


def test_no_more_prompts_begin_in_a_step_than_fit_into_a_block(worker):
    jobs = [make_job(ids=[1] * 5) for _ in range(4)]
    worker.submit(jobs)
    wait_for(lambda: worker.engine.n_running)
    assert worker.engine.n_running == 2
    step(worker)
    wait_for(lambda: worker.engine.n_running == 4)
