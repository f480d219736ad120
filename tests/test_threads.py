"""How threads wait, and how many write text: with a clock of the test's own, and real ones for what must not change."""
import ast
import os
import random
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from test_model import make_model

from inference.engine import Engine, Request
from inference.threads import LONGEST_S, Threads
from runtime import waiting


class Machine:
    """A clock that a step of decoding moves on, by the seconds that so many threads take."""

    def __init__(self, seconds, most=2):
        self.now, self.seconds, self.n, self.used = 0.0, seconds, most, []
        self.threads = Threads(most, clock=lambda: self.now, set_number=self.set_number)

    def set_number(self, n):
        self.n = n

    def run(self, seconds, n_rows=1):
        """Steps for so long. Returns the share of the time in steps that the faster number of threads made."""
        end, of_best = self.now + seconds, 0.0
        while self.now < end:
            with self.threads.step(n_rows):
                self.used.append(self.n)
                took = self.seconds[self.n]
                of_best += took if took == min(self.seconds.values()) else 0
                self.now += took
            assert self.n == self.threads.most
        return of_best / (self.now - end + seconds)


@pytest.mark.parametrize('one, two', [(0.001, 0.002), (0.002, 0.001), (0.001, 0.05), (0.05, 0.001), (0.0013, 0.001)])
def test_the_faster_number_of_threads_makes_nearly_all_steps(one, two):
    machine = Machine({1: one, 2: two})
    machine.run(1)
    assert machine.run(60) > 0.97


def test_a_machine_that_becomes_busy_and_idle_again_is_noticed_within_seconds():
    machine = Machine({1: 0.0015, 2: 0.001})
    machine.run(60)
    machine.seconds = {1: 0.0015, 2: 0.03}
    machine.run(0.5)
    assert machine.run(10) > 0.97
    machine.seconds = {1: 0.0015, 2: 0.001}
    machine.run(LONGEST_S + 1)
    assert machine.run(60) > 0.97


def test_equally_fast_numbers_are_not_swapped_for_ever():
    rng = random.Random(0)
    machine = Machine({1: 0.001, 2: 0.00101})
    for _ in range(20_000):
        machine.seconds = {n: rng.uniform(0.00098, 0.00102) for n in (1, 2)}
        with machine.threads.step(1):
            machine.used.append(machine.n)
            machine.now += machine.seconds[machine.n]
    changes = sum(a != b for a, b in zip(machine.used, machine.used[1:]))
    assert changes < 200


def test_a_machine_of_one_thread_is_left_alone():
    machine = Machine({1: 0.001}, most=1)
    machine.set_number = None
    machine.run(1)
    assert set(machine.used) == {1}


def test_another_number_of_rows_is_compared_with_its_like_alone():
    machine = Machine({1: 0.001, 2: 0.002})
    machine.run(1)
    assert machine.threads.n == 1
    machine.seconds = {1: 0.008, 2: 0.004}
    assert machine.run(LONGEST_S + 2, n_rows=16) > 0.05
    assert machine.threads.n == 2


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('n', [1, 3, 8])
def test_one_thread_and_several_write_the_same_texts(dtype, n):
    model = make_model(block_size=64, n_layer=2, n_head=4, n_embd=128, vocab_size=2000).to(dtype)
    written = {}
    for n_threads in (1, 2, 4):
        torch.set_num_threads(n_threads)
        engine = Engine(model, max_batch=n)
        engine.threads = Threads(1, engine.decoder.use_threads)
        sequences = [engine.add(Request(list(range(i, i + 20)), 30, temperature=0, logprobs=3))[0] for i in range(n)]
        while engine.n_running:
            engine.step()
        written[n_threads] = [(sequence.ids, sequence.logprobs) for sequence in sequences]
    torch.set_num_threads(1)
    assert written[1] == written[2] == written[4]


def scripts_that_compute():
    return [path for path in [*ROOT.glob('*.py'), *ROOT.glob('tasks/*.py'), ROOT / 'bench/__main__.py']
            if "\n    'device': " in path.read_text() and '__main__' in path.read_text()]


@pytest.mark.parametrize('path', scripts_that_compute(), ids=lambda path: path.name)
def test_how_threads_wait_is_set_before_anything_imports_torch(path):
    package = path.parent / '__init__.py'
    source = package if package.exists() else path
    first = next(node for node in ast.parse(source.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom)))
    assert ast.unparse(first) == 'import runtime.waiting'


@pytest.mark.parametrize('given, expected', [({}, str(waiting.SPINS)), ({'GOMP_SPINCOUNT': '7'}, '7'),
                                             ({'OMP_WAIT_POLICY': 'active'}, 'None')])
def test_a_user_who_says_how_threads_wait_is_obeyed(given, expected):
    environment = {key: value for key, value in os.environ.items() if key not in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')}
    code = 'import runtime.waiting, os, sys; print("torch" in sys.modules, os.environ.get("GOMP_SPINCOUNT"))'
    printed = subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=environment | given, capture_output=True, text=True)
    assert printed.stdout.split() == ['False', expected]
