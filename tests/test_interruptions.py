"""Runs that are killed, stopped, spread over several processes, or out of disk: the curve must not show it."""
import contextlib
import itertools
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import free_port, merged_metrics

import checkpoint
import train
from configurator import configure
from runtime.errors import BadInput
from runtime.metrics import read_metrics

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parent.parent
KILLS = int(os.environ.get('SCRATCHGPT_TEST_KILLS', 8))  # of the crash test; 30 takes a minute
STEPS = 24
SMALL = {'n_layer': 2, 'n_head': 2, 'n_embd': 64, 'block_size': 32, 'total_batch_tokens': 512, 'micro_batch': 4,
         'max_steps': STEPS, 'warmup_steps': 4, 'learning_rate': 3e-3, 'eval_interval': 6, 'eval_tokens': 700,
         'sample_interval': 0, 'checkpoint_interval': 2, 'device': 'cpu', 'dtype': 'float32'}


@pytest.fixture(scope='module')
def spawn():
    """Starts train.py on `world_size` processes that have torch imported already: spawn(world_size, settings) -> list."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['train'])
    started = []

    def spawn(world_size, settings):
        port = free_port()
        processes = []
        for rank in range(world_size):
            environment = {} if world_size == 1 else {
                'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': world_size, 'LOCAL_WORLD_SIZE': world_size,
                'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
            processes.append(context.Process(target=train_in_child, args=(settings, environment)))
            processes[-1].start()
        started.extend(processes)
        return processes
    yield spawn
    for process in started:
        process.kill()


def train_in_child(settings, environment):
    os.environ.update({key: str(value) for key, value in environment.items()})
    sys.stdout = sys.stderr = open(os.devnull, 'w')
    train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))
    # Threads of a group of processes that outlive it may abort a process while Python's exit takes down what they use.
    names = [path.read_text() for path in pathlib.Path('/proc/self/task').glob('*/comm')]
    assert not [name for name in names if 'gloo' in name], names


def finish(processes):
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


def wait_for_step(out_dir, step, processes):
    """Waits until a step is in the metrics."""
    deadline = time.monotonic() + 120
    while not any(row['step'] >= step for row in read_metrics(str(out_dir))):
        assert time.monotonic() < deadline and any(process.is_alive() for process in processes)
        time.sleep(0.005)


def metrics(out_dir):
    rows = merged_metrics(out_dir)
    assert [row['step'] for row in rows] == list(range(STEPS + 1)), 'a step twice, missing, or out of order'
    return rows


def weights(out_dir):
    return checkpoint.load(checkpoint.checkpoint_path(str(out_dir), STEPS))['model']


def assert_same_run(first, second, exactly=True):
    for a, b in zip(metrics(first), metrics(second)):
        assert a == b if exactly else a.get('loss') == pytest.approx(b.get('loss'), abs=1e-4)
        assert a.get('val_loss') == pytest.approx(b.get('val_loss'), abs=1e-4)
    if exactly:
        for name, tensor in weights(first).items():
            assert torch.equal(tensor, weights(second)[name]), name


@pytest.fixture(scope='module')
def whole_run(spawn, data_dir, tmp_path_factory):
    """The folder of a run of SMALL that nothing interrupted, by number of processes and optimizer."""
    folders = {}

    def whole_run(world_size, **changes):
        key = (world_size, *changes.items())
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp('whole')
            finish(spawn(world_size, {**SMALL, **changes, 'data_dir': data_dir, 'out_dir': folders[key]}))
        return folders[key]
    return whole_run


@pytest.mark.parametrize('world_size, micro_batch', [(2, 4), (4, 4), (2, 1), (2, 8)])
def test_the_curve_is_the_same_on_any_number_of_processes(spawn, whole_run, data_dir, tmp_path, world_size, micro_batch):
    finish(spawn(world_size, {**SMALL, 'micro_batch': micro_batch, 'data_dir': data_dir, 'out_dir': tmp_path}))
    assert_same_run(tmp_path, whole_run(1), exactly=False)


@pytest.mark.parametrize('optimizer, world_size, kills', [('adamw', 1, KILLS), ('muon', 1, KILLS // 2), ('adamw', 2, KILLS // 2)])
def test_a_run_killed_at_random_moments_ends_bit_for_bit_as_if_nothing_had_happened(
        spawn, whole_run, data_dir, tmp_path, optimizer, world_size, kills):
    settings = {**SMALL, 'optimizer': optimizer, 'data_dir': data_dir, 'out_dir': tmp_path}
    generator, in_writes = random.Random(1), 0
    for kill in range(kills):
        processes = spawn(world_size, settings)
        if kill % 2:  # in the middle of writing a checkpoint
            in_writes += wait_for_a_write(tmp_path, processes)
        else:
            time.sleep(generator.uniform(0.2, 1.2) * world_size)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        for path in checkpoint.list_checkpoints(str(tmp_path)):
            checkpoint.load(path)  # whole or absent
    finish(spawn(world_size, settings))
    assert in_writes > 0
    assert_same_run(tmp_path, whole_run(world_size, optimizer=optimizer))
    assert not list(tmp_path.glob('*.tmp'))


def wait_for_a_write(out_dir, processes):
    """Returns True as soon as an unfinished checkpoint is seen, False if the run ends before."""
    while all(process.is_alive() for process in processes):
        if any(name.startswith('ckpt_') and name.endswith('.tmp') for name in os.listdir(out_dir)):
            return True
        time.sleep(0.0002)
    return False


def test_a_run_goes_on_on_another_number_of_processes(spawn, whole_run, data_dir, tmp_path):
    settings = {**SMALL, 'data_dir': data_dir, 'out_dir': tmp_path}
    for world_size, until in ((2, 6), (1, 13)):
        processes = spawn(world_size, settings)
        wait_for_step(tmp_path, until, processes)
        for process in processes:
            process.terminate()
        finish(processes)
    assert read_metrics(str(tmp_path))[-1]['step'] < STEPS
    finish(spawn(2, settings))
    assert_same_run(tmp_path, whole_run(2), exactly=False)


@pytest.mark.parametrize('world_size, number', [(1, signal.SIGTERM), (1, signal.SIGHUP), (2, signal.SIGTERM)])
def test_a_signal_to_one_process_saves_the_step_and_ends_all_with_exit_code_0(spawn, data_dir, tmp_path, world_size, number):
    processes = spawn(world_size, {**SMALL, 'max_steps': 100_000, 'checkpoint_interval': 100_000, 'eval_interval': 100_000,
                                   'data_dir': data_dir, 'out_dir': tmp_path})
    wait_for_step(tmp_path, 5, processes)
    os.kill(processes[-1].pid, number)
    last_before = read_metrics(str(tmp_path))[-1]['step']
    finish(processes)
    path, state = checkpoint.load_newest(str(tmp_path))
    assert last_before <= state['step'] <= last_before + 3  # steps of a few milliseconds each
    assert read_metrics(str(tmp_path))[-1]['step'] == state['step']


def test_of_two_runs_in_one_folder_the_second_is_refused_until_the_first_is_killed(spawn, whole_run, data_dir, tmp_path):
    settings = {**SMALL, 'data_dir': data_dir, 'out_dir': tmp_path}
    (first,) = spawn(1, {**settings, 'max_steps': 100_000})
    wait_for_step(tmp_path, 3, [first])
    for second in spawn(2, settings):
        second.join(120)
        assert second.exitcode == 1  # on both processes: none of them waits for the other
    assert first.is_alive()
    first.kill()
    first.join()
    for path in checkpoint.list_checkpoints(str(tmp_path)):
        checkpoint.load(path)


def test_states_sharded_over_processes_resume_like_whole_ones(spawn, whole_run, data_dir, tmp_path):
    settings = {**SMALL, 'zero': True, 'data_dir': data_dir, 'out_dir': tmp_path}
    for world_size, until in ((2, 6), (1, 13)):
        processes = spawn(world_size, settings)
        wait_for_step(tmp_path, until, processes)
        processes[0].terminate()
        finish(processes)
    finish(spawn(2, settings))
    assert_same_run(tmp_path, whole_run(2), exactly=False)


@pytest.mark.parametrize('changes', [{'activation_checkpointing': True}, {'activation_checkpointing': True, 'zero': True}])
def test_saving_memory_does_not_change_the_curve(spawn, whole_run, data_dir, tmp_path, changes):
    finish(spawn(2, {**SMALL, **changes, 'data_dir': data_dir, 'out_dir': tmp_path}))
    assert_same_run(tmp_path, whole_run(2), exactly=False)


WRAPPER = '''
import os, signal, sys
sys.path.insert(0, {root!r})
import torch, train
from configurator import configure
restarts = int(os.environ['TORCHELASTIC_RESTART_COUNT'])
real, ids = train.next_batch, []
def next_batch(batches, config, process):
    step = batches.loader.sequence_index * config['block_size'] // config['total_batch_tokens']
    if step == 7 and restarts == 0 and {die} and process.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    x, y = real(batches, config, process)
    ids.append((step, x.clone()))
    return x, y
train.next_batch = next_batch
train.main(configure(train.DEFAULTS))
torch.save(ids, {ids!r} + os.environ['RANK'])
'''


def torchrun(tmp_path, settings, *flags, die=False):
    script = tmp_path / 'wrapper.py'
    script.write_text(WRAPPER.format(root=str(ROOT), die=die, ids=str(tmp_path / 'ids')))
    return subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', *flags, str(script),
                           *(f'--{key}={value}' for key, value in settings.items())], capture_output=True, text=True, timeout=300)


def test_processes_take_the_same_sequences_in_every_step_as_one_does(tmp_path, data_dir):
    from shards import BatchLoader
    result = torchrun(tmp_path, {**SMALL, 'max_steps': 3, 'data_dir': data_dir, 'out_dir': tmp_path / 'out'}, '--nproc_per_node=2')
    assert result.returncode == 0, result.stderr
    alone = BatchLoader(data_dir, 'train', 32, 16, 1337)
    ranks = [torch.load(tmp_path / f'ids{rank}') for rank in (0, 1)]
    for step in range(3):
        together = [row for rank in ranks for of_step, x in rank if of_step == step for row in x.tolist()]
        assert sorted(together) == sorted(alone.next()[0].tolist())


def test_a_worker_that_dies_is_restarted_by_torchrun_and_the_curve_is_the_same(tmp_path, data_dir, whole_run):
    out_dir = tmp_path / 'out'
    result = torchrun(tmp_path, {**SMALL, 'data_dir': data_dir, 'out_dir': out_dir}, '--nproc_per_node=2', '--max-restarts=2', die=True)
    assert result.returncode == 0, result.stderr
    assert 'resumes at step' in result.stdout
    assert_same_run(out_dir, whole_run(2))


@pytest.fixture
def small_disk(tmp_path):
    """A folder that holds only four megabytes."""
    folder = tmp_path / 'small'
    folder.mkdir()
    if os.name != 'posix' or subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', folder],
                                            capture_output=True).returncode:
        pytest.skip('a small file system can only be mounted by root on Linux')
    yield folder
    subprocess.run(['umount', '--lazy', folder], check=True)


def test_a_full_disk_costs_a_warning_each_and_no_checkpoint(small_disk, data_dir, monkeypatch, capfd):
    settings = {**SMALL, 'max_steps': 4, 'n_embd': 32, 'checkpoint_interval': 1, 'eval_interval': 100,
                'data_dir': data_dir, 'out_dir': small_disk}
    real, ballast = train.train_step, small_disk / 'ballast'

    def train_step(model, raw_model, optimizers, batches, config, process, stop):
        if batches.loader.sequence_index == 2 * 16:  # the first checkpoint is there, perhaps the second
            while not checkpoint.list_checkpoints(str(small_disk)):
                time.sleep(0.01)
            with contextlib.suppress(OSError), open(ballast, 'wb') as file:
                while file.write(bytes(4096)):
                    file.flush()
        return real(model, raw_model, optimizers, batches, config, process, stop)
    monkeypatch.setattr(train, 'train_step', train_step)
    flags = [f'--{key}={value}' for key, value in settings.items()]
    with pytest.raises(BadInput, match='step 4 was not written: the disk is full'):
        train.main(configure(train.DEFAULTS, flags))
    warnings = [line for line in capfd.readouterr().err.splitlines() if 'warning:' in line]
    assert any('the older ones are intact' in line for line in warnings)
    newest = checkpoint.load_newest(str(small_disk))[1]['step']
    assert 1 <= newest < 4
    monkeypatch.undo()
    ballast.unlink()
    train.main(configure(train.DEFAULTS, flags))
    assert checkpoint.load_newest(str(small_disk))[1]['step'] == 4
    assert [row['step'] for row in merged_metrics(small_disk)] == [0, 1, 2, 3, 4]


def test_a_gradient_that_is_not_finite_is_skipped_and_several_in_a_row_end_the_run(tmp_path, data_dir, monkeypatch, capsys):
    real, bad, steps = train.Optimizers.unscale_gradients, {5, 6}, itertools.count()

    def unscale_gradients(optimizers):
        if next(steps) in bad:
            optimizers.list[0].param_groups[0]['params'][1].grad[0, 0] = float('nan')
        return real(optimizers)
    monkeypatch.setattr(train.Optimizers, 'unscale_gradients', unscale_gradients)
    settings = {**SMALL, 'data_dir': data_dir, 'out_dir': tmp_path}
    config = configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()])
    train.main(dict(config))
    assert capsys.readouterr().out.count('the step was skipped') == 2
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path).values())
    shutil.rmtree(tmp_path)
    bad, steps = set(range(9, 20)), itertools.count()
    with pytest.raises(train.Diverged, match='ckpt_00000(12|10|08).pt'):
        train.main(dict(config))
    assert all(torch.isfinite(t).all() for t in checkpoint.load_newest(str(tmp_path))[1]['model'].values())


def test_fp16_with_a_loss_scale_follows_fp32_and_resumes_bit_for_bit(tmp_path, data_dir, spawn):
    settings = {**SMALL, 'dtype': 'float16', 'data_dir': data_dir}
    finish(spawn(1, {**settings, 'out_dir': tmp_path / 'whole'}))
    processes = spawn(1, {**settings, 'out_dir': tmp_path / 'parts'})
    wait_for_step(tmp_path / 'parts', 9, processes)
    processes[0].terminate()
    finish(processes)
    finish(spawn(1, {**settings, 'out_dir': tmp_path / 'parts'}))
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts')
    assert checkpoint.load_newest(str(tmp_path / 'whole'))[1]['scaler']['scale'] > 1
    finish(spawn(1, {**SMALL, 'data_dir': data_dir, 'out_dir': tmp_path / 'fp32'}))
    for a, b in zip(metrics(tmp_path / 'whole'), metrics(tmp_path / 'fp32')):
        assert a.get('loss') == pytest.approx(b.get('loss'), abs=0.02)


def test_metrics_go_to_tensorboard_too(tmp_path, data_dir):
    events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    settings = {**SMALL, 'max_steps': 6, 'tensorboard': True, 'data_dir': data_dir, 'out_dir': tmp_path}
    train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))
    board = events.EventAccumulator(str(tmp_path / 'tensorboard')).Reload()
    ours = [row['loss'] for row in read_metrics(str(tmp_path)) if 'loss' in row]
    assert [event.value for event in board.Scalars('loss')] == pytest.approx(ours, rel=1e-5)
