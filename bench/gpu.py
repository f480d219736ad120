"""Checks and measures everything on this machine's GPU, within nine minutes. What `make gpu` runs.

    python -m bench.gpu                                # into bench_results/NAME_OF_THE_GPU
    python -m bench.gpu --peer_dir=PATH                # beside nanoGPT too, of which PATH is a checkout
    python -m bench.gpu --device=cpu                   # what needs no GPU, in the size of a test

First the checks of bench/checks.py, then the parts train, sample and kernels of `python -m bench`, then a profile of one
training step. Each runs in a process of its own that has a time limit. After each, gpu.json and gpu.md have what there is:
one that fails, is killed, runs out of memory or takes too long says so in its row, and the next one runs. Ctrl-C ends the
one that runs and keeps what was measured. The exit code is 1 if a check failed, 2 without a CUDA device.
"""
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import torch

from bench.checks import CHECKS
from bench.report import describe_run, error_line, run_text, table_text
from configurator import choice, configure, optional
from runtime.errors import BadInput, one_line_errors
from runtime.files import atomic_write, make_folder, write_json

DEFAULTS = {
    'device': choice('cuda', 'cpu'),  # cpu: only what needs no GPU, in the size of a test
    'out_dir': optional(str),  # folder for the results; None: bench_results/NAME_OF_THE_GPU
    'parts': optional(str),  # which, with commas between; None: all
    'peer_dir': optional(str),  # a checkout of nanoGPT, to be measured too
    'commit': optional(str),  # of the code that runs, where it is no git checkout
    'total_s': 530,  # seconds for everything: what has not begun by then is not measured
}
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SAVING_S = 10  # what a part that is told to end may take
LOG_CHARACTERS = 4000  # of what a part that failed has printed, kept in the results


class Part(NamedTuple):
    name: str
    arguments: list[str]  # of Python; --json=PATH, where its tables are expected, is added
    limit_s: float
    is_check: bool = False  # whether its failure is one of the code


def main(config):
    if config['device'] == 'cuda' and not torch.cuda.is_available():
        raise BadInput(f'torch {torch.__version__} sees no CUDA device; --device=cpu runs what needs none, small')
    run = describe_run(sys.argv[1:], config['device'])
    run['commit'] = config['commit'] or run['commit']
    name = re.sub(r'\W+', '_', (run['machine']['gpu'] or 'cpu').lower())
    out_dir = os.path.abspath(config['out_dir'] or os.path.join(ROOT, 'bench_results', name))
    make_folder(out_dir)
    print(f'{sys.executable}, into {out_dir}\n\n{run_text(run)}\n', flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    results = run_parts(choose(list_parts(config, out_dir), config['parts']), run, out_dir, config['total_s'])
    if any(result['result'] == 'interrupted' for result in results):
        raise KeyboardInterrupt
    if any(result['is_check'] and result['result'] not in ('ok', 'left out') for result in results):
        sys.exit(1)


def list_parts(config, out_dir):
    """The Parts, in the order in which they run: what is right before what is fast."""
    device = f'--device={config["device"]}'
    if config['device'] == 'cpu':
        bench = ['--preset=demo', '--n_layer=1', '--n_head=2', '--n_embd=32', '--block_size=32', '--vocab_size=100',
                 '--turns=1', '--turn_s=0.01']
        train, sample = [*bench, '--batch_size=4', '--contenders=eager,ours'], [*bench, '--new_tokens=4', '--contenders=ours']
        kernels = ['--preset=demo']
    else:
        peer = [f'--peer_dir={config["peer_dir"]}'] if config['peer_dir'] else []
        names = ['compile', 'ours', *(['nanogpt'] if peer else []), 'eager', 'transformers', 'ours_torch', 'ours_triton',
                 'explicit_triton', 'explicit_torch', 'ours_eager']  # what matters most before the time is over
        train = ['--preset=gpt2', '--turns=1', '--turn_s=3', *peer, f'--contenders={",".join(names)}']
        sample, kernels = ['--preset=gpt2', '--turns=1', '--turn_s=2', *peer], []
    return [
        *(Part(name, ['-m', 'bench.checks', name, device], limit_s, is_check=True) for name, (_, limit_s) in CHECKS.items()),
        Part('train', ['-m', 'bench', 'train', device, *train], 270),
        Part('sample', ['-m', 'bench', 'sample', device, *sample], 80),
        Part('kernels', ['-m', 'bench', 'kernels', device, '--turns=1', *kernels], 90),
        Part('profile', ['-m', 'bench.profile', device, f'--trace={os.path.join(out_dir, "trace.json.gz")}'], 60),
    ]


def choose(parts, names):
    """The parts of these names, in the order in which they run; all for None. Raises BadInput."""
    chosen, known = names.split(',') if names else [part.name for part in parts], {part.name for part in parts}
    if not known.issuperset(chosen):
        raise BadInput(f'parts={names} should be some of {",".join(part.name for part in parts)}')
    return [part for part in parts if part.name in chosen]


def run_parts(parts: list[Part], run: dict, out_dir: str, total_s: float) -> list[dict]:
    """Runs them one after the other, writes gpu.json and gpu.md after each, and returns what became of each.

    Each result has the keys part, result, seconds, note, is_check and tables, and 'log' if it failed.
    """
    results, deadline = [], time.perf_counter() + total_s
    for number, part in enumerate(parts, 1):
        limit_s = min(part.limit_s, deadline - time.perf_counter())
        print(f'{number}/{len(parts)} {part.name} ...', flush=True)
        results.append(run_part(part, limit_s) if limit_s > 0 else
                       result_of(part, 'not started', 0.0, f'the {total_s:.0f} s for everything were over'))
        write_results(results, run, out_dir)
        print('    {result}, {seconds:.0f} s. {note}'.format(**results[-1]), flush=True)
        if results[-1]['result'] == 'interrupted':
            break
    print(summary(results), flush=True)
    return results


def run_part(part, limit_s):
    """Runs a part in a process group of its own, and ends all of that group with it."""
    stopped, started = '', time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        log_path, json_path = os.path.join(folder, 'log'), os.path.join(folder, 'tables.json')
        with open(log_path, 'wb') as log:
            process = subprocess.Popen([sys.executable, *part.arguments, f'--json={json_path}'], cwd=ROOT, stdout=log,
                                       stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            stopped = 'too slow'
        except KeyboardInterrupt:
            stopped = 'interrupted'
        end_group(process)
        seconds = time.perf_counter() - started
        with open(log_path, encoding='utf-8', errors='replace') as file:
            log = file.read()
        try:
            with open(json_path, encoding='utf-8') as file:
                written = json.load(file)
        except FileNotFoundError:
            written = {}
    outcome, note = judge(process.returncode, stopped, limit_s, log, written.get('left_out'))
    result = result_of(part, outcome, seconds, note, written.get('tables', []))
    return result if outcome in ('ok', 'left out') else result | {'log': log[-LOG_CHARACTERS:]}


def result_of(part, outcome, seconds, note, tables=()):
    return {'part': part.name, 'result': outcome, 'seconds': round(seconds, 1), 'note': note, 'is_check': part.is_check,
            'tables': list(tables)}


def end_group(process):
    """Ends a process and all that it started; those that still run may first save what they have."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SAVING_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def judge(code, stopped, limit_s, log, left_out):
    """(result, note) of a part that has ended."""
    if stopped == 'too slow':
        return stopped, f'stopped after {limit_s:.0f} s'
    if stopped:
        return stopped, ''
    if code < 0:
        return 'killed', f'by {signal.Signals(-code).name}{", probably because memory ran out" * (code == -signal.SIGKILL)}'
    if code:
        line = error_line(log)
        return 'out of memory' if re.search('out of memory|OutOfMemory', line) else 'failed', line or f'exit code {code}'
    return ('left out', left_out) if left_out else ('ok', '')


def write_results(results, run, out_dir):
    """gpu.json has everything; gpu.md the tables, to be read."""
    write_json(os.path.join(out_dir, 'gpu.json'), {**run, 'parts': results})
    tables = [table_text(table['title'], table['rows']) for result in results for table in result['tables']]
    with atomic_write(os.path.join(out_dir, 'gpu.md')) as file:
        file.write('\n'.join([run_text(run), summary(results), *tables, '']).encode())


def summary(results):
    """A table with a row for each part."""
    return table_text('Parts', [{key: result[key] for key in ('part', 'result', 'seconds', 'note')} for result in results])


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
