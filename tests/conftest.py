import contextlib
import itertools
import math
import os
import pathlib
import random
import re
import runpy
import signal
import socket
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault('HF_HUB_OFFLINE', '1')  # no test reaches for the network
os.environ.setdefault('OMP_NUM_THREADS', '1')  # models here are tiny: threads would only wait for each other
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # and where a test has several, they leave the cores to other tests meanwhile
if 'SCRATCHGPT_TEST_DATA' in os.environ:
    os.environ.setdefault('TIKTOKEN_CACHE_DIR', os.path.join(os.environ['SCRATCHGPT_TEST_DATA'], 'tiktoken_cache'))


LONGEST_FIRST = [f'test_{name}.py' for name in (
    'interruptions', 'gpu_run', 'docs', 'notebook', 'two_hosts', 'bench_step', 'bench', 'reproducible', 'post_training', 'chat_page', 'chat_serve', 'chat_sample', 'optim', 'train', 'serve_load',
    'serve', 'generation_graphs', 'change_the_model', 'remote', 'hub', 'generation', 'faults', 'page', 'soak', 'export')]


def pytest_collection_modifyitems(items):
    """Each worker gets some of the longest files first: none still has minutes before it when the others have nothing left.

    At first, each of n workers has an n-th of the items, in this order.
    """
    n = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
    longest = [[item for item in items if item.path.name == name] for name in LONGEST_FIRST]
    rest = [item for item in items if item.path.name not in LONGEST_FIRST]
    shares = [[item for of_file in longest[i::n] for item in of_file] for i in range(n)]
    for share in shares:
        n_taken = max(0, len(items) // n - len(share))
        share += rest[:n_taken]
        del rest[:n_taken]
    items[:] = [*itertools.chain(*shares), *rest]


def run_script(script, *arguments, folder=ROOT):
    """The exit code of `python SCRIPT ARGUMENTS` in a folder, run in this process: importing torch anew takes seconds.

    script: a path such as train.py, or the name of a module such as tasks.solve for `python -m tasks.solve`.
    """
    import torch
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    argv, path, before, precision = sys.argv, list(sys.path), os.getcwd(), torch.get_float32_matmul_precision()
    sys.argv = [script, *arguments]
    os.chdir(folder)
    try:
        if script.endswith('.py'):
            runpy.run_path(os.path.join(folder, script), run_name='__main__')
        else:
            runpy.run_module(script, run_name='__main__', alter_sys=True)
        return 0
    except SystemExit as end:
        return end.code or 0
    finally:
        os.chdir(before)
        sys.argv, sys.path[:] = argv, path
        torch.set_float32_matmul_precision(precision)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def link_clone(folder):
    """Fills a folder with links to what a clone has, but for data and runs: scripts that are run in it leave nothing here."""
    for path in ROOT.iterdir():
        if not re.match(r'\.|__|data$|out', path.name):
            (folder / path.name).symlink_to(path)


def free_port():
    """A port that nobody listens at, from those that the system gives to no connection: it stays free until it is used."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(('127.0.0.1', port))
            return port
    raise OSError('none of 100 ports is free')


CLOCK = ('tokens_per_s', 'mfu', 'mfu_of_maker', 'elapsed_s', 'memory_gb')  # what the metrics of two equal runs may differ in


def merged_metrics(out_dir):
    """The metrics of a run without the clock, a training row and a validation row of the same step as one."""
    from runtime.metrics import read_metrics
    rows = read_metrics(str(out_dir))
    for kind in ('loss', 'val_loss'):
        steps = [row['step'] for row in rows if kind in row]
        assert steps == sorted(set(steps)), f'a row with {kind} twice, or out of order'
    merged = {}
    for row in rows:
        merged.setdefault(row['step'], {}).update({key: value if math.isfinite(value) else None
                                                   for key, value in row.items() if key not in CLOCK})
    return list(merged.values())


@pytest.fixture(scope='session')
def test_data():
    """The folder of real data; without it, the test is skipped."""
    folder = os.environ.get('SCRATCHGPT_TEST_DATA')
    if folder is None:
        pytest.skip('real data: set SCRATCHGPT_TEST_DATA to a folder that has it')
    return pathlib.Path(folder)


@pytest.fixture(scope='session')
def texts():
    """A few hundred short documents of real text: functions out of the standard library."""
    source = pathlib.Path(os.__file__).read_text(encoding='utf-8')
    return [f'def {piece}' for piece in source.split('\ndef ')[1:]]


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory, texts):
    """Shards of those texts with a BPE of 300 entries, about 20,000 tokens; every sixth document is for validation."""
    import shards
    from bpe import Tokenizer
    from runtime import files
    folder = tmp_path_factory.mktemp('data')
    tokenizer = Tokenizer.train(texts, 300)
    tokenizer.save(folder / 'tokenizer.json')
    tokens = [np.array([tokenizer.eot, *tokenizer.encode(text)], dtype=np.uint16) for text in texts]
    entries = shards.write_shards(itertools.chain(*(tokens[i::6] for i in range(1, 6))), folder, 'tiny', 'train', 10_000)
    entries |= shards.write_shards(tokens[::6], folder, 'tiny', 'val', first=0)
    files.write_json(str(folder / 'meta.json'), {
        'tokenizer': 'tokenizer.json', 'tokenizer_sha256': files.sha256_of(folder / 'tokenizer.json'),
        'vocab_size': 300, 'eot': tokenizer.eot, 'document_separator': '<|endoftext|>', 'source': 'os.py',
        'shards': entries})
    return str(folder)


@pytest.fixture(scope='module')
def process():
    """The only process, on the CPU, in float32: what scores are measured with."""
    from runtime.process import Process
    return Process({'device': 'cpu', 'dtype': 'float32'}, float32_precision='highest')


@pytest.fixture(scope='module')
def tokenizer(texts):
    """A BPE of 300 entries, trained on `texts`. Some test files have one of their own under this name."""
    from bpe import Tokenizer
    return Tokenizer.train(texts, 300, progress=False)


@pytest.fixture
def kill_at(monkeypatch):
    """kill_at(n): the n-th file from now on is not put into place, and the run ends there; kill_at(-1): none."""
    replace = os.replace

    def kill_at(n):
        written = itertools.count()

        def killed(source, target):
            if next(written) == n:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, 'replace', killed)
    return kill_at


@contextlib.contextmanager
def with_head(decoder, head):
    """Lets a decoder take its logits from head(x) meanwhile, after layers that are made of PyTorch's operations."""
    before = decoder.head, decoder.step
    decoder.head, decoder.step = head, None
    try:
        yield
    finally:
        decoder.head, decoder.step = before
