import asyncio
import codecs
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.worker import Busy, Choice, Draining, Job, Worker
from inference.engine import Request


class Letters:
    """A tokenizer with the tokens that a test names."""
    eot = 0

    def __init__(self, pieces):
        self.pieces = [b'', *pieces]

    def token_bytes(self, i):
        return self.pieces[i]


def write(pieces, stops=(), n_at_once=1, prompt=(), echo=False):
    """The pieces that a text arrives in when its tokens are these bytes, n of them between two looks."""
    tokenizer = Letters([*prompt, *pieces])
    ids = list(range(1, len(prompt) + 1))
    sequence = types.SimpleNamespace(
        tokens=[], logprobs=[(-1.0, [])] * len(pieces), prompt_logprobs=[None, *[(-2.0, [])] * (len(ids) - 1)] if ids else [],
        finish_reason=None)
    job = Job(Request(ids=ids, max_new_tokens=len(pieces), logprobs=0, echo_logprobs=echo), wake=None, stop=tuple(stops),
              echo=echo)
    choice = Choice(job, 0, sequence, tokenizer)
    out = []
    for i in range(0, max(1, len(pieces)), n_at_once):
        sequence.tokens += [len(ids) + 1 + k for k in range(i, min(i + n_at_once, len(pieces)))]
        if len(sequence.tokens) == len(pieces):
            sequence.finish_reason = 'length'
        piece = choice.advance()
        if piece is not None:
            out.append(piece)
        if choice.finish_reason:
            break
    return out


def cut_by_hand(text, stops):
    """The text before the first stop string that is complete, found character by character; and whether there is one."""
    for end in range(len(text) + 1):
        found = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[:min(found)], True
    return text, False


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab\né€🙂', max_size=30), st.lists(st.text(alphabet='ab\né🙂', min_size=1, max_size=4), max_size=3),
       st.data())
def test_a_text_ends_before_its_first_stop_string_however_its_bytes_are_cut_into_tokens(text, stops, data):
    data_bytes = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(data_bytes) - 1)), max_size=12))) if data_bytes else []
    pieces = [data_bytes[a:b] for a, b in zip([0, *cuts], [*cuts, len(data_bytes)]) if a < b]
    out = write(pieces, stops, data.draw(st.integers(1, 4)))
    expected, stopped = cut_by_hand(text, stops)
    assert ''.join(piece.text for piece in out) == expected
    assert out[-1].finish_reason == ('stop' if stopped else 'length')
    assert all(piece.finish_reason is None for piece in out[:-1])


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='abé€🙂', min_size=1, max_size=20), st.data())
def test_each_token_is_given_once_with_the_place_where_its_characters_begin(text, data):
    data_bytes = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(data_bytes) - 1)), max_size=12)))
    pieces = [data_bytes[a:b] for a, b in zip([0, *cuts], [*cuts, len(data_bytes)]) if a < b]
    tokens = [token for piece in write(pieces, ['aba'], 2) for token in piece.tokens]
    cut, stopped = cut_by_hand(text, ['aba'])
    assert [token.id for token in tokens] == list(range(1, len(tokens) + 1))
    if not stopped:
        assert len(tokens) == len(pieces)
    ends = [sum(map(len, pieces[:i])) for i in range(len(tokens))]
    decode = codecs.getdecoder('utf-8')
    assert [token.offset for token in tokens] == [len(decode(data_bytes[:end], 'ignore')[0]) for end in ends]
    assert all(token.offset < len(cut) for token in tokens) or not stopped


def test_text_that_may_become_a_stop_string_is_held_back_until_it_cannot():
    assert [piece.text for piece in write([b'a', b'\n', b'\n', b'b'], ['\n\n\n'])] == ['a', '\n\nb']
    assert [piece.text for piece in write([b'a', b'\n', b'\n', b'\n', b'b'], ['\n\n\n'])] == ['a', '']
    assert [piece.text for piece in write([b'a', b'\n'], ['\n\n'])] == ['a', '\n']


def test_a_character_that_is_never_completed_becomes_a_replacement_character():
    assert ''.join(piece.text for piece in write([b'a', b'\xf0\x9f'])) == 'a\ufffd'


def test_a_prompt_that_ends_within_a_character_is_completed_by_the_text():
    euro = '€'.encode()
    assert ''.join(piece.text for piece in write([euro[2:], b'!'], prompt=[b'5', euro[:2]])) == '€!'
    out = write([euro[2:], b'!'], prompt=[b'5', euro[:2]], echo=True)
    assert ''.join(piece.text for piece in out) == '5€!'
    assert [(token.offset, token.logprob) for piece in out for token in piece.tokens] == [(0, None), (1, -2.0), (1, -1.0), (2, -1.0)]


def test_a_prompt_that_is_echoed_does_not_count_as_a_stop_string():
    assert ''.join(piece.text for piece in write([b'b', b'x', b'b'], ['x'], prompt=[b'x', b'a'], echo=True)) == 'xab'


# -- the worker, with an engine whose steps the test lets go on


class Engine:
    """Writes the token 1 for everybody, a step each time that it is allowed."""

    def __init__(self, places):
        self.places, self.running = places, []
        self.allowed, self.fails = threading.Semaphore(0), False

    n_running = property(lambda self: len(self.running))
    free = property(lambda self: self.places - len(self.running))

    def add(self, request, n=1):
        if request.temperature < 0:
            raise ValueError('temperature')
        sequences = [types.SimpleNamespace(request=request, tokens=[], logprobs=[], finish_reason=None) for _ in range(n)]
        self.running += sequences
        return sequences

    def remove(self, sequence):
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
    engine, loop = Engine(places=4), asyncio.new_event_loop()
    worker = Worker(engine, Letters([b'a']), loop, ThreadPoolExecutor(1), max_waiting=6)
    yield worker
    engine.allowed.release(10_000)
    worker.stop()
    loop.close()


def make_job(n=1, max_tokens=3, temperature=1.0):
    return Job(Request(ids=[1], max_new_tokens=max_tokens, temperature=temperature), wake=asyncio.Event(), n=n)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_requests_join_the_running_batch_in_the_order_in_which_they_came(worker):
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
    assert ''.join(piece.text for piece in third.pieces) == 'aaa'


def test_a_full_queue_takes_all_of_a_request_or_nothing(worker):
    worker.submit([make_job(n=4)])
    wait_for(lambda: worker.engine.n_running == 4)
    worker.submit([make_job(n=4)])
    with pytest.raises(Busy) as busy:
        worker.submit([make_job(n=2), make_job(n=1)])
    assert busy.value.retry_after_s >= 1 and worker.n_waiting == 4
    worker.submit([make_job(n=2)])


def test_a_job_that_is_cancelled_leaves_the_queue_at_once_and_the_batch_after_the_step(worker):
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


def test_an_engine_that_fails_ends_its_requests_with_the_error_and_serves_the_next(worker, capfd):
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


def test_a_request_that_the_engine_refuses_does_not_touch_the_others(worker):
    good, bad = make_job(), make_job(temperature=-1.0)
    worker.submit([good, bad])
    worker.engine.allowed.release(3)
    wait_for(lambda: worker.idle)
    assert isinstance(bad.error, ValueError) and good.error is None and good.finished and not worker.failing


def test_a_worker_that_drains_finishes_what_it_has_and_takes_nothing_new(worker):
    job = make_job()
    worker.submit([job])
    worker.drain()
    with pytest.raises(Draining):
        worker.submit([make_job()])
    worker.engine.allowed.release(3)
    wait_for(lambda: worker.idle)
    assert job.error is None and len(job.pieces) == 3
