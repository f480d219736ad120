"""The part reproducible: runs of config/demo.py on 1, 2 and 4 processes, and killed and resumed, by the hash of their weights.

Then what it costs: tokens/s of reproducible=True beside the plain path, in turns.
"""
import contextlib
import functools
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from statistics import median

import torch

import checkpoint
from bench.report import error_line
from bench.turns import compare, take_turns
from runtime import hardware
from runtime.errors import BadInput
from runtime.metrics import read_metrics

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CLOCK = 'tokens_per_s', 'mfu', 'mfu_of_maker', 'elapsed_s', 'memory_gb'  # of metrics.jsonl: what equal runs may differ in
DATA = {'stdlib': ('corpus.py', '--source=stdlib', '--vocab_size=4096'),
        'math': ('-m', 'tasks.prepare_problems', '--n_problems=20000')}  # where only the solutions are targets
VARIANTS = {
    'AdamW': {'optimizer': 'adamw', 'learning_rate': 1e-3},
    'Muon': {},
    'Muon, zero=True': {'zero': True},
    'Muon, masked targets': {'data_dir': 'math'},
}
SHARES = 0.3, 0.6  # of the steps, after which a run is killed
N_UNTIMED, N_TIMED = 5, 30  # steps of a run whose speed is measured


def measure_reproducible(config):
    """Yields (title, rows)."""
    n_devices = torch.cuda.device_count() if hardware.pick_device(config['device']).type == 'cuda' else 4
    counts = [n for n in (1, 2, 4) if n <= n_devices]
    with tempfile.TemporaryDirectory() as folder:
        for name, command in DATA.items():
            log = os.path.join(folder, f'{name}.log')
            with started([([*command, f'--out_dir={folder}/{name}'], {})], log) as processes:
                wait(processes, log)
        yield from prove(folder, config, counts)
        yield from measure_cost(folder, config, counts[-2:][0])


def prove(folder, config, counts):
    """Yields (title, rows): the hashes of each run, and whether they are those of the first of its kind."""
    steps, rows = config['steps'], []
    settings = {'reproducible': True, 'micro_batch': 1, 'total_batch_tokens': 4 * 256, 'device': config['device'],
                'max_steps': steps, 'eval_interval': max(1, steps // 2), 'eval_tokens': 20_000,
                'checkpoint_interval': max(1, steps // 8)}
    kills = [(n, int(steps * share)) for n, share in zip(counts[-2:], SHARES)]
    for variant, changes in VARIANTS.items():
        starts = {f'on {n}': [(n, None)] for n in counts}
        starts[', '.join([*(f'killed on {n} at {step}' for n, step in kills), 'ended on 1'])] = [*kills, (1, None)]
        expected = None
        for what, of_run in starts.items():
            for n, kill_at in of_run:
                out_dir = train(folder, f'{variant}, {what}', n, kill_at, **settings, **changes)
            found = {'weights': hash_weights(out_dir, steps), 'metrics': hash_metrics(out_dir)}
            expected = expected or found
            rows.append({'optimizer': variant, 'processes': what, **found, 'same': 'yes' if found == expected else 'NO'})
            yield f'sha256 of the weights after {steps} steps of config/demo.py, and of all losses, norms and scores', rows


def measure_cost(folder, config, n):
    """Yields (title, rows). The micro-batch is the one that the plain path chooses."""
    settings = {'device': config['device'], 'micro_batch': 16 // n, 'max_steps': N_UNTIMED + N_TIMED, 'eval_interval': 0,
                'eval_tokens': 4096, 'checkpoint_interval': 0}

    def seconds_per_token(reproducible):
        out_dir = train(folder, f'{reproducible} at {time.monotonic()}', n, reproducible=reproducible, threads=1, **settings)
        return 1 / median(row['tokens_per_s'] for row in read_metrics(out_dir) if 'loss' in row and row['step'] > N_UNTIMED)

    times = take_turns({name: functools.partial(seconds_per_token, name == 'reproducible')
                        for name in ('plain', 'reproducible')}, config['turns'], warm_up=0)
    yield f'config/demo.py on {n} processes, {16 // n} sequences in a micro-batch', compare(times, 1, 'tokens/s')


def train(folder, name, n, kill_at=None, **settings):
    """Trains config/demo.py on n processes, or kills all of them after a step. Returns its out_dir."""
    out_dir = os.path.join(folder, name)
    settings = {'data_dir': 'stdlib', 'sample_interval': 0, **settings, 'out_dir': out_dir}
    settings['data_dir'] = os.path.join(folder, settings['data_dir'])
    command = ['train.py', 'config/demo.py', *(f'--{key}={value}' for key, value in settings.items())]
    # As torchrun starts them, but without its own process: workers that it starts would outlive it when it is killed.
    shared = {'WORLD_SIZE': n, 'LOCAL_WORLD_SIZE': n, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': random.randint(20_000, 30_000)}
    with started([(command, {**shared, 'RANK': rank, 'LOCAL_RANK': rank}) for rank in range(n)], f'{out_dir}.log') as processes:
        while kill_at and max((row['step'] for row in read_metrics(out_dir)), default=0) < kill_at:
            if any(process.poll() is not None for process in processes):
                raise BadInput(f'{name} ended before it could be killed: {error_line(read(f"{out_dir}.log"))}')
            time.sleep(0.01)
        if not kill_at:
            wait(processes, f'{out_dir}.log')
    return out_dir


@contextlib.contextmanager
def started(commands, log_path):
    """Python processes, which are killed at the end if they still go on. commands: (arguments, environment) of each."""
    processes = []
    try:
        with open(log_path, 'ab') as log:
            for arguments, environment in commands:
                environment = {**os.environ, **{key: str(value) for key, value in environment.items()}}
                processes.append(subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log,
                                                  stderr=log, env=environment))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait(processes, log_path):
    """Waits until all have ended. Raises BadInput with the reason if one failed."""
    for process in processes:
        if process.wait():
            raise BadInput(f'a process ended with exit code {process.returncode}: {error_line(read(log_path))}')


def read(path):
    with open(path, encoding='utf-8', errors='replace') as file:
        return file.read()


def hash_weights(out_dir, step):
    weights = checkpoint.load(checkpoint.checkpoint_path(out_dir, step))['model']
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].numpy().tobytes())
    return digest.hexdigest()[:16]


def hash_metrics(out_dir):
    rows = [{key: value for key, value in row.items() if key not in CLOCK} for row in read_metrics(out_dir)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
