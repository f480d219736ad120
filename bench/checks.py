"""Whether a GPU computes what it should, checked with whole runs of train.py and with the engine: the checks of bench/gpu.py.

    python -m bench.checks kernel_tests                # tests/test_kernels_gpu.py
    python -m bench.checks losses                      # 50 steps of training beside the same on the CPU
    python -m bench.checks resume                      # a run that is killed and started again beside one that is not
    python -m bench.checks samples                     # a compiled run that writes samples: compiles nothing again
    python -m bench.checks generation                  # the compiled engine with its cache beside model(idx)
    python -m bench.checks processes                   # two processes beside one
    python -m bench.checks resume --device=cpu         # in the size of a test

Each prints a table with what was measured and what is allowed, and ends with one line and exit code 2 if more was
measured. Runs are train.py's own, in a temporary folder, on data that corpus.py makes there of Python's standard library.
"""
import importlib.util
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from statistics import median

import torch

from bench.report import error_line, table_text
from configurator import choice, configure, optional
from runtime.errors import BadInput, one_line_errors
from runtime.files import write_json
from runtime.metrics import read_metrics

DEFAULTS = {
    'device': choice('cuda', 'cpu'),
    'json': optional(str),  # write the table to this file
}
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHAPES = {  # of the model and the batch, by the device that is checked
    'cuda': {'n_layer': 4, 'n_head': 2, 'n_embd': 128, 'block_size': 128, 'total_batch_tokens': 2048, 'micro_batch': 8},
    'cpu': {'n_layer': 1, 'n_head': 2, 'n_embd': 64, 'block_size': 64, 'total_batch_tokens': 512, 'micro_batch': 4},
}
THREADS = {'cuda': '4', 'cpu': '1'}  # of each run: several go on at once, and the models are small
STEPS = 50
SETTINGS = {'max_steps': STEPS, 'warmup_steps': 10, 'learning_rate': 1e-3, 'min_lr': 1e-4, 'eval_interval': 0,
            'eval_tokens': 2048, 'sample_interval': 0, 'checkpoint_interval': 0}
EXACT_PRODUCTS = {'NVIDIA_TF32_OVERRIDE': '0'}  # float32 products in float32, which train.py rounds to TF32


class LeftOut(Exception):
    """A check that cannot be made here. The message says why."""


class Runs:
    """Runs of train.py beside each other, on a device and data of their own. At the end, those that still go on are killed."""

    def __init__(self, device):
        self.device, self.started = device, {}

    def __enter__(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = self.temporary.name
        return self

    def __exit__(self, *_):
        for process in self.started.values():
            process.kill()
            process.wait()
        self.temporary.cleanup()

    def out_dir(self, name):
        return os.path.join(self.folder, name)

    def log(self, name):
        with open(f'{self.out_dir(name)}.log', encoding='utf-8', errors='replace') as file:
            return file.read()

    def launch(self, name, *arguments, **environment):
        """Starts a script of ours, which writes what it prints to the log of that name."""
        environment = {**os.environ, 'PYTHONUNBUFFERED': '1', 'OMP_NUM_THREADS': THREADS[self.device], **environment}
        with open(f'{self.out_dir(name)}.log', 'ab') as log:
            self.started[name] = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log,
                                                  stderr=log, env=environment)

    def start(self, name, launcher=(), environment=None, **settings):
        """Starts train.py with its out_dir of that name. launcher: what stands before the script, as for torchrun."""
        settings = {**SHAPES[self.device], **SETTINGS, 'device': self.device, **settings, 'data_dir': self.data_dir(),
                    'out_dir': self.out_dir(name)}
        self.launch(name, *launcher, 'train.py', *(f'--{key}={value}' for key, value in settings.items()), **environment or {})

    def data_dir(self):
        """The folder of data, which the first run makes."""
        folder = self.out_dir('data')
        if not os.path.exists(folder):
            self.launch('corpus', 'corpus.py', '--source=stdlib', '--vocab_size=512', '--num_samples=150',
                        f'--out_dir={folder}')
            self.finish('corpus')
        return folder

    def finish(self, name):
        """Waits for it. Raises BadInput with the reason if it failed."""
        code = self.started[name].wait()
        if code:
            print(self.log(name), flush=True)
            raise BadInput(f'the run {name!r} ended with exit code {code}: {error_line(self.log(name))}')

    def losses(self, name):
        """{step: training loss} of a run."""
        return {row['step']: row['loss'] for row in read_metrics(self.out_dir(name)) if 'loss' in row}

    def compare(self, first, second, allowed):
        """The row that says how far two curves are apart. Raises BadInput if one of them has a step that the other lacks."""
        ours, theirs = self.losses(first), self.losses(second)
        if not ours or ours.keys() != theirs.keys():
            raise BadInput(f'the runs {first!r} and {second!r} have {len(ours)} and {len(theirs)} steps, not the same ones')
        last = max(ours)
        return {'what': f'largest difference of {len(ours)} losses, {second} and {first}; from {theirs[1]:.3f} to '
                        f'{theirs[last]:.3f}', 'measured': max_difference(ours.values(), theirs.values()), 'allowed': allowed}


def max_difference(first, second):
    """The largest distance of two numbers at the same place; NaN if there is one."""
    distances = [abs(a - b) for a, b in zip(first, second)]
    return math.nan if any(map(math.isnan, distances)) else max(distances)


def check_kernel_tests(device):
    """Runs the tests of the kernels under pytest."""
    if importlib.util.find_spec('pytest') is None:
        raise LeftOut('pytest is not installed')
    result = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-rf', 'tests/test_kernels_gpu.py'], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(result.stdout, flush=True)
    last = result.stdout.strip().splitlines()[-1]
    if result.returncode == 0 and 'passed' not in last:
        raise LeftOut(f'{last}: no GPU that can run them')
    failed = re.search(r'\d+ (?:failed|error).*', last)
    if result.returncode and not failed:
        raise BadInput(f'pytest ended with exit code {result.returncode}: {error_line(result.stdout) or last}')
    return [{'what': f'tests that fail: {last}', 'measured': int(failed[0].split()[0]) if failed else 0, 'allowed': 0}]


def check_losses(device):
    """The same initial weights and data on both. The CPU computes attention and loss by other code, in float32."""
    with Runs(device) as runs:
        runs.start('CPU, float32', device='cpu', dtype='float32')
        variants = {'float32': (1e-4, {'dtype': 'float32', 'environment': EXACT_PRODUCTS}),
                    'bfloat16': (1e-2, {'dtype': 'bfloat16'})}
        if device == 'cuda':
            variants['bfloat16, kernels=triton'] = 1e-2, {'dtype': 'bfloat16', 'kernels': 'triton'}
        else:
            variants['float32'] = 1e-4, {'dtype': 'float32', 'attention': 'explicit'}
        for name, (_, settings) in variants.items():
            runs.start(name, **settings)
        for name in runs.started:
            runs.finish(name)
        return [runs.compare(name, 'CPU, float32', allowed) for name, (allowed, _) in variants.items()]


def check_resume(device):
    """SIGKILL in the middle of a run. A GPU adds up some gradients in an order that changes, so bit for bit is for CPUs."""
    steps, kill_at = (300, 100) if device == 'cuda' else (80, 30)
    settings = {'max_steps': steps, 'checkpoint_interval': 20, 'dtype': 'auto' if device == 'cuda' else 'float32'}
    with Runs(device) as runs:
        runs.start('uninterrupted', **settings)
        runs.start('killed', **settings)
        while max(runs.losses('killed'), default=0) < kill_at and runs.started['killed'].poll() is None:
            time.sleep(0.005)
        runs.started['killed'].kill()
        runs.started['killed'].wait()
        killed_at = max(runs.losses('killed'), default=0)
        if not kill_at <= killed_at < steps:
            raise BadInput(f'the run ended at step {killed_at}, before it was killed: {error_line(runs.log("killed"))}')
        runs.start('killed', **settings)
        runs.finish('killed')
        runs.finish('uninterrupted')
        row = runs.compare('killed', 'uninterrupted', 1e-2 if device == 'cuda' else 0.0)
        resumed = re.search(r'resumes at step ([\d,]+)', runs.log('killed'))
        if not resumed:
            raise BadInput(f'killed after step {killed_at}, the run did not resume but began again')
        return [row | {'what': f'{row["what"]}; killed after step {killed_at}, resumed at {resumed[1]}'}]


def check_samples(device):
    """A compiled run, by its own log. All shapes have been seen after the second validation, before the first sample."""
    with Runs(device) as runs:
        runs.start('compiled', compile=True, max_steps=80, eval_interval=40, sample_interval=40, sample_tokens=30,
                   environment={'TORCH_LOGS': 'recompiles'})
        runs.finish('compiled')
        log = runs.log('compiled')
        after = log.partition('step 40: validation loss')[2]
        if 'not compiled' in log or '--- sample at step 40' not in after:
            raise BadInput('the run was not compiled, or wrote no sample')
        rows = read_metrics(runs.out_dir('compiled'))
        seconds = {row['step']: 1 / row['tokens_per_s'] for row in rows if 'tokens_per_s' in row}
        before, later = (median(seconds[step] for step in range(first, first + 30)) for first in (11, 51))
        n_again, n_given_up = after.count('Recompiling function'), log.count('recompile_limit')
        return [{'what': 'compiled again from the first sample on', 'measured': n_again, 'allowed': 0},
                {'what': 'given up to compile (recompile_limit)', 'measured': n_given_up, 'allowed': 0},
                {'what': 'time of a step after the sample / before it', 'measured': later / before,
                 'allowed': 1.5 if device == 'cuda' else 10.0}]  # a CPU may have other work


@torch.no_grad()
def check_generation(device):
    """The engine's log-probabilities of what it wrote, likeliest tokens, beside those of model(idx), which has no cache."""
    from inference.engine import Engine, Request
    from model import GPT, GPTConfig
    from runtime import hardware
    reason = hardware.why_no_compile(torch.device(device))
    if reason:
        raise LeftOut(reason)
    n_new = 200 if device == 'cuda' else 20
    shape = {'n_layer': 4, 'block_size': 512} if device == 'cuda' else {
        'n_layer': 1, 'n_head': 2, 'n_embd': 64, 'block_size': 64, 'vocab_size': 512}
    rows = []
    for dtype, allowed in ((torch.float32, 1e-3), (torch.bfloat16, 0.1)):
        torch.manual_seed(0)
        model = GPT(GPTConfig(**shape)).to(device, dtype).eval()
        engine = Engine(model, max_batch=4, compile=True)
        prompts = [torch.randint(model.config.vocab_size, (length,)).tolist() for length in (1, 5, 17, 40)]
        written = [engine.add(Request(ids, n_new, temperature=0, logprobs=0))[0] for ids in prompts]
        while engine.n_running:
            engine.step()
        ours, theirs, best = [], [], []
        for prompt, sequence in zip(prompts, written):
            logits = model(torch.tensor([sequence.ids[:-1]], device=device))[0, len(prompt) - 1:]  # (n_new, V)
            logprobs = logits.float().log_softmax(-1)
            ours += [logprob for logprob, _ in sequence.logprobs]
            theirs += logprobs.gather(1, torch.tensor(sequence.tokens, device=device)[:, None])[:, 0].tolist()
            best += logprobs.amax(-1).tolist()
        what = f'of {len(ours)} tokens, {str(dtype).removeprefix("torch.")}'
        rows += [{'what': f'largest difference of log-probabilities {what}', 'measured': max_difference(ours, theirs),
                  'allowed': allowed},
                 {'what': f'how much likelier another would have been, {what}', 'measured': max_difference(best, theirs),
                  'allowed': allowed}]
    return rows


def check_processes(device):
    """The same steps on two processes, under NCCL on GPUs, as on one."""
    if device == 'cuda' and torch.cuda.device_count() < 2:
        raise LeftOut('there is one GPU here')
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    with Runs(device) as runs:
        for name, launcher in (('one process', ()), ('two processes', torchrun)):
            runs.start(name, launcher, EXACT_PRODUCTS, dtype='float32', micro_batch=4)
        for name in runs.started:
            runs.finish(name)
        return [runs.compare('two processes', 'one process', 1e-4)]


CHECKS = {  # {name: (function of the device that returns rows, the seconds that it may take under `make gpu`)}
    'kernel_tests': (check_kernel_tests, 120),
    'losses': (check_losses, 100),
    'resume': (check_resume, 80),
    'samples': (check_samples, 60),
    'generation': (check_generation, 80),
    'processes': (check_processes, 60),
}


def main(argv):
    if not argv or argv[0] not in CHECKS and not argv[0].startswith('-'):
        raise BadInput(f'`python -m bench.checks CHECK` makes one of {", ".join(CHECKS)}')
    config = configure(DEFAULTS, argv if argv[0].startswith('-') else argv[1:])
    try:
        rows, left_out = CHECKS[argv[0]][0](config['device']), None
        print(table_text(argv[0], rows))
    except LeftOut as reason:
        rows, left_out = [], str(reason)
        print(f'left out: {reason}')
    if config['json']:
        tables = [{'title': f'Check {argv[0]}', 'rows': rows}] if rows else []
        write_json(config['json'], {'left_out': left_out, 'tables': tables})
    wrong = [f'{row["what"]}: {row["measured"]:.3g}, allowed {row["allowed"]:.3g}' for row in rows
             if not row['measured'] <= row['allowed']]
    if wrong:
        raise BadInput('; '.join(wrong))


if __name__ == '__main__':
    with one_line_errors():
        main(sys.argv[1:])
