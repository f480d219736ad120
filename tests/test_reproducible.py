"""reproducible=True: weights, optimizer states and metrics with the same bits on any number of processes."""
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import time
import types

import numpy as np
import pytest
import torch
from conftest import free_port, merged_metrics

import checkpoint
import shards
import train
from configurator import configure
from runtime import files
from runtime.errors import BadInput
from runtime.metrics import read_metrics
from runtime.micro_batch import choose_micro_batch, describe_units
from runtime.tree_sum import TreeSum

STEPS = 12
SMALL = {'n_layer': 2, 'n_head': 2, 'n_embd': 64, 'block_size': 32, 'total_batch_tokens': 512, 'micro_batch': 2,
         'max_steps': STEPS, 'warmup_steps': 4, 'learning_rate': 3e-3, 'eval_interval': 6, 'eval_tokens': 700,
         'sample_interval': 6, 'sample_tokens': 8, 'checkpoint_interval': 100, 'device': 'cpu', 'dtype': 'float32',
         'reproducible': True}  # 8 micro-batches in a step; 11 batches to validate on, which no number of processes divides
VARIANTS = {
    'adamw': {},
    'muon': {'optimizer': 'muon', 'dropout': 0.1, 'dtype': 'bfloat16'},
    'zero, masked targets': {'optimizer': 'muon', 'zero': True, 'data_dir': 'masked'},
    'a skipped step': {'poisoned_step': 5},
    'a skipped step in float16': {'poisoned_step': 5, 'dtype': 'float16', 'optimizer': 'muon'},
    'hellaswag': {'eval_tasks': 'hellaswag', 'eval_tasks_source': 'hellaswag.jsonl', 'max_steps': 6},
}


# --- the tree


def gradients_of_units(n_units):
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(shape, generator=generator) for shape in ((7, 5), (3,))] for _ in range(n_units)]


def added_up_in_pairs(values):
    half = len(values) // 2
    return added_up_in_pairs(values[:half]) + added_up_in_pairs(values[half:]) if half else values[0]


@pytest.mark.parametrize('n_units', [1, 2, 16])
def test_units_are_added_neighbours_first_and_few_gradients_are_held(n_units):
    params = [torch.nn.Parameter(torch.empty(shape)) for shape in ((7, 5), (3,))]
    units, tree = gradients_of_units(n_units), TreeSum(params, types.SimpleNamespace(world_size=1))
    for gradients in units:
        for p, gradient in zip(params, gradients):
            p.grad = gradient.clone()
        tree.add_unit()
        assert len(tree.subtrees) <= math.log2(n_units) + 1 and params[0].grad is None
    tree.finish()
    for p, of_units in zip(params, zip(*units)):
        assert torch.equal(p.grad, added_up_in_pairs(of_units))
        assert n_units < 4 or not torch.equal(p.grad, sum(of_units))  # which is another order


def test_a_fixed_tree_needs_powers_of_two():
    config = configure(train.DEFAULTS, [f'--{key}={value}' for key, value in SMALL.items()])
    for n_processes, changes, words in ((1, {'micro_batch': 0}, ['--micro_batch']), (1, {'micro_batch': -1}, ['--micro_batch']),
                                        (3, {}, ['1, 2, 4', 'not 3']), (16, {}, ['--total_batch_tokens=1024']),
                                        (1, {'total_batch_tokens': 768}, ['not 12', '--total_batch_tokens=1024'])):
        with pytest.raises(BadInput) as error:
            choose_micro_batch(None, {**config, **changes}, types.SimpleNamespace(world_size=n_processes))
        assert all(word in str(error.value) for word in words) and '\n' not in str(error.value)
    process = types.SimpleNamespace(world_size=2, device=torch.device('cpu'))
    assert choose_micro_batch(None, config, process) == 2
    said = describe_units(config, process, 1_000_000)
    assert '1 to 8 processes' in said and f'--threads={torch.get_num_threads()}' in said and '4 x 4 MB' in said


# --- whole runs


@pytest.fixture(scope='module')
def start():
    """start(n, runs) -> n processes that make runs of train.py, one after the other. runs: settings of each."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['train', 'torch._dynamo'])  # an optimizer imports that one, which takes seconds
    started = []

    def start(world_size, runs):
        ports = [free_port() for _ in runs]
        processes = [context.Process(target=train_in_child, args=(rank, world_size, ports, runs)) for rank in range(world_size)]
        for process in processes:
            process.start()
        started.extend(processes)
        return processes
    yield start
    for process in started:
        process.kill()


def train_in_child(rank, world_size, ports, runs):
    torch.set_num_threads(3 - world_size % 3)  # unlike: the runs must choose their own number
    sys.stdout = sys.stderr = open(f'{runs[0]["out_dir"]}.{rank}.log', 'a')
    train.hardware.measure_peak_flops = lambda device, dtype: 1e9  # these take long beside such small runs
    train.plot.LossCurve.draw = train.report.write_run_info = lambda *_: None
    finish_tree = TreeSum.finish
    for port, settings in zip(ports, runs, strict=True):
        if world_size > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size),
                              MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        settings = dict(settings)
        TreeSum.finish = poisoning(finish_tree, settings.pop('poisoned_step', 0))
        train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))


def poisoning(finish_tree, step):
    """TreeSum.finish, with a gradient that is not finite at one step."""
    calls = []

    def finish(tree):
        finish_tree(tree)
        calls.append(tree)
        if len(calls) == step:
            tree.params[-1].grad[0] = math.inf
    return finish


def wait_for(processes):
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


@pytest.fixture(scope='module')
def sources(data_dir, tmp_path_factory):
    """{name: path} of what VARIANTS name: shards of which a third are targets, in runs of 50 tokens, and a HellaSwag."""
    folder = tmp_path_factory.mktemp('sources')
    shutil.copytree(data_dir, folder / 'masked')
    meta = files.read_json(str(folder / 'masked' / 'meta.json'))
    for name in meta['shards']:
        tokens = np.array(shards.read_shard(os.path.join(data_dir, name)))
        meta['shards'][name] = shards.write_shard(str(folder / 'masked' / name), tokens, np.arange(len(tokens)) // 50 % 3 == 0)
    files.write_json(str(folder / 'masked' / 'meta.json'), meta)
    (folder / 'hellaswag.jsonl').write_text(''.join(json.dumps({
        'activity_label': 'Code', 'ctx': f'def f{i}', 'ctx_a': f'def f{i}', 'ctx_b': '',
        'endings': [f'({j})' for j in range(4)], 'label': i % 4}) + '\n' for i in range(70)))
    return {'masked': str(folder / 'masked'), 'hellaswag.jsonl': str(folder / 'hellaswag.jsonl')}


@pytest.fixture(scope='module')
def settings_of(data_dir, sources):
    def settings_of(variant, out_dir):
        settings = {**SMALL, 'data_dir': data_dir, 'out_dir': str(out_dir), **VARIANTS[variant]}
        return {key: sources.get(value, value) for key, value in settings.items()}
    return settings_of


@pytest.fixture(scope='module')
def folder_of(start, settings_of, tmp_path_factory):
    """folder_of(variant, n): the folder of its run on n processes; all are made at once, as each start takes seconds."""
    folder = tmp_path_factory.mktemp('runs')
    for n in (1, 2, 4):
        wait_for(start(n, [settings_of(variant, folder / f'{variant} {n}') for variant in VARIANTS]))
    return lambda variant, n: folder / f'{variant} {n}'


def digest(out_dir):
    """The sha256 of all tensors in the newest checkpoint."""
    _, state = checkpoint.load_newest(str(out_dir))
    found = hashlib.sha256(repr(state['scaler']).encode())

    def add(value):
        if isinstance(value, torch.Tensor):
            found.update(value.contiguous().view(torch.uint8).numpy() if value.dim() else repr(value.item()).encode())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                add(value[key])
        elif isinstance(value, list):
            for item in value:
                add(item)
    add([state['model'], *(optimizer['state'] for optimizer in state['optimizers'])])
    return found.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize('variant', VARIANTS)
def test_weights_states_and_metrics_have_the_same_bits_on_1_2_and_4_processes(folder_of, variant):
    one, two, four = (folder_of(variant, n) for n in (1, 2, 4))
    assert merged_metrics(one) == merged_metrics(two) == merged_metrics(four)
    assert (merged_metrics(one)[5]['grad_norm'] is None) == ('poisoned_step' in VARIANTS[variant])
    assert digest(one) == digest(two) == digest(four)
    samples = [[path.read_text() for path in sorted((folder / 'samples').iterdir())] for folder in (one, two, four)]
    assert samples[0] == samples[1] == samples[2] != []


@pytest.mark.slow
def test_a_run_killed_and_resumed_on_other_numbers_of_processes_has_the_bits_of_one_that_was_not(start, settings_of, tmp_path):
    changes = {'max_steps': 30, 'checkpoint_interval': 4, 'zero': True}
    wait_for(start(1, [{**settings_of('muon', tmp_path / 'whole'), **changes}]))
    settings = {**settings_of('muon', tmp_path / 'parts'), **changes}
    for n_processes, killed_at in ((2, 6), (4, 14), (1, 22)):
        processes = start(n_processes, [settings])
        deadline = time.monotonic() + 120
        while max((row['step'] for row in read_metrics(settings['out_dir'])), default=0) < killed_at:
            assert time.monotonic() < deadline and any(process.is_alive() for process in processes)
            time.sleep(0.002)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        assert {process.exitcode for process in processes} == {-signal.SIGKILL}
    wait_for(start(2, [settings]))
    assert merged_metrics(tmp_path / 'parts') == merged_metrics(tmp_path / 'whole')
    assert digest(tmp_path / 'parts') == digest(tmp_path / 'whole')


@pytest.mark.slow
def test_the_curve_is_that_of_the_plain_path_up_to_rounding(start, settings_of, folder_of, tmp_path):
    variants = 'adamw', 'zero, masked targets'
    wait_for(start(1, [{**settings_of(variant, tmp_path / variant), 'reproducible': False, 'threads': 1} for variant in variants]))
    for variant in variants:
        for ours, plain in zip(merged_metrics(folder_of(variant, 2)), merged_metrics(tmp_path / variant), strict=True):
            for key in ('loss', 'grad_norm', 'val_loss', 'val_bpb'):
                assert ours.get(key, 0) == pytest.approx(plain.get(key, 0), rel=1e-3)
