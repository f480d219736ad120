"""What runs a step: batches fetched ahead, one wait for the GPU, the exchange of gradients, devices that cannot be used."""
import os
import subprocess
import sys
import textwrap
import types

import pytest
import torch
from conftest import ROOT, run_script
from test_train import TINY

import checkpoint
import shards
import train
from configurator import configure
from model import GPT, GPTConfig
from optim import Optimizers
from runtime import hardware, micro_batch, report
from runtime.batches import DeviceBatches
from runtime.errors import BadInput
from runtime.process import Process
from runtime.stop import Stopped, StopSignals
from runtime.words import duration, plural

# --- batches


@pytest.fixture
def loaders(data_dir):
    return [shards.BatchLoader(data_dir, 'train', 32, batch_size=4, seed=1) for _ in range(2)]


def test_fetching_ahead_changes_neither_the_batches_nor_the_position(loaders):
    plain, loader = loaders
    batches = DeviceBatches(loader, torch.device('cpu'))
    for number in range(12):
        if number % 3:
            batches.prefetch()
        assert loader.sequence_index == plain.sequence_index
        for ours, expected in zip(batches.next(), plain.next(), strict=True):
            assert torch.equal(ours, expected)
        assert loader.sequence_index == plain.sequence_index


@pytest.mark.parametrize('move', [lambda loader: loader.seek(40), lambda loader: setattr(loader, 'batch_size', 2)])
def test_a_batch_fetched_for_another_position_is_not_used(loaders, move):
    plain, loader = loaders
    batches = DeviceBatches(loader, torch.device('cpu'))
    batches.next()
    plain.next()
    batches.prefetch()
    move(loader)
    move(plain)
    for ours, expected in zip(batches.next(), plain.next(), strict=True):
        assert torch.equal(ours, expected)


# --- a step


def small_run(**settings):
    config = configure(train.DEFAULTS, ['--device=cpu', '--dtype=float32']) | TINY | {'vocab_size': 300} | settings
    process = Process(config)
    torch.manual_seed(0)
    raw_model = GPT(GPTConfig(**{key: config[key] for key in ('n_layer', 'n_head', 'n_embd', 'block_size', 'vocab_size')}))
    return config, process, raw_model, Optimizers(raw_model, config, process), StopSignals(process)


def test_a_step_waits_for_the_device_once(loaders, monkeypatch):
    """Every read of a tensor's value is such a wait on a GPU."""
    config, process, raw_model, optimizers, stop = small_run()
    waits = []
    for name in ('item', 'tolist', '__bool__', '__float__', '__int__', 'cpu', 'numpy'):
        real = getattr(torch.Tensor, name)

        def spy(tensor, *arguments, name=name, real=real):
            if tensor.requires_grad or tensor.is_floating_point():  # the positions of the data are the CPU's own
                waits.append(name)
            return real(tensor, *arguments)
        monkeypatch.setattr(torch.Tensor, name, spy)
    batches = DeviceBatches(loaders[0], process.device)
    for _ in range(3):
        waits.clear()
        train.train_step(raw_model, raw_model, optimizers, batches, config, process, stop)
        stop.raise_if_noticed()
        assert waits == ['tolist']


def test_a_signal_is_noticed_with_the_sums_of_a_step(loaders):
    config, process, raw_model, optimizers, stop = small_run(micro_batch=8, total_batch_tokens=256)
    batches = DeviceBatches(loaders[0], process.device)
    train.train_step(raw_model, raw_model, optimizers, batches, config, process, stop)
    stop.raise_if_noticed()
    os.kill(os.getpid(), 15)
    assert stop.requested
    stop.raise_if_noticed()  # not before the next sums, which all processes make together
    loaders[0].batch_size = 8
    train.train_step(raw_model, raw_model, optimizers, batches, config, process, stop)
    with pytest.raises(Stopped):
        stop.raise_if_noticed()


def test_trying_micro_batches_leaves_static_graphs_and_no_gradients():
    config, process, raw_model, _, _ = small_run()
    torch._dynamo.reset()
    shapes = []

    def backend(graph, inputs):
        shapes.append([value for value in inputs if isinstance(value, (torch.SymInt, int))])
        return graph
    forward = torch.compile(train.wrap(raw_model, process, compiled=False), dynamic=False, backend=backend)
    for size in (8, 4, 2):
        assert micro_batch.fits(forward, size, config, process)
    assert len(shapes) == 3 and not any(shapes)
    assert all(parameter.grad is None for parameter in raw_model.parameters())


@pytest.mark.slow
def test_under_ddp_the_graph_is_cut_where_buckets_of_gradients_end(tmp_path):
    """One graph would exchange all gradients after its backward pass; the pieces do it while the next one computes."""
    script = tmp_path / 'graphs.py'
    script.write_text(textwrap.dedent(f'''
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import torch
        import train
        from configurator import configure
        from model import GPT, GPTConfig
        from runtime.process import Process
        config = configure(train.DEFAULTS, ['--device=cpu', '--dtype=float32', '--compile=True'])
        process = Process(config)
        graphs, real = [], torch.compile
        def backend(graph, inputs):
            graphs.append(graph)
            return graph
        torch.compile = lambda model, **options: real(model, backend=backend, **options)
        torch.manual_seed(0)
        raw_model = GPT(GPTConfig(block_size=16, vocab_size=300, n_layer=6, n_head=4, n_embd=512))
        model = train.wrap(raw_model, process, compiled=True)
        idx = torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(process.rank))
        model(idx[:, :-1], idx[:, 1:]).backward()
        grads = [p.grad.clone() for p in raw_model.parameters()]
        raw_model.zero_grad()
        both = torch.cat([torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(rank)) for rank in range(2)])
        raw_model(both[:, :-1], both[:, 1:]).backward()
        torch.testing.assert_close(grads, [p.grad for p in raw_model.parameters()], atol=1e-5, rtol=1e-4)
        process.print0(f'{{len(graphs)}} graphs')
        process.end()
    '''))
    result = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', str(script)],
                            capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split(' graphs')[0].split()[-1]) > 2


def run_two(script, *arguments):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize('flags', [['--data_dir=/there/is/none'], ['--n_layer=x'], ['--micro_batch=-7', '--data_dir={data_dir}'],
                                   ['--out_dir={file}', '--data_dir={data_dir}']])
def test_under_torchrun_a_mistake_is_said_once_and_not_by_every_process(flags, data_dir, tmp_path):
    (tmp_path / 'file').touch()
    result = run_two(ROOT / 'train.py', '--device=cpu', '--n_layer=1', '--n_embd=8', '--n_head=1', '--block_size=16', '--total_batch_tokens=64',
                     *(flag.format(data_dir=data_dir, file=tmp_path / 'file') for flag in flags))
    assert result.returncode and result.stderr.count('train.py: ') == 1, result.stderr


def test_more_processes_than_gpus_are_refused_by_all_of_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '8')
    for local_rank in (0, 7):
        with pytest.raises(BadInput, match='torch sees 4 CUDA devices here for 8 processes; --nproc_per_node=4'):
            hardware.pick_device('cuda', local_rank)


def test_a_deterministic_run_refuses_what_is_not_and_trains_the_same(tmp_path, data_dir):
    try:
        losses = []
        for name, flag in (('plain', False), ('deterministic', True)):
            settings = {**TINY, 'max_steps': 3, 'data_dir': data_dir, 'out_dir': str(tmp_path / name), 'deterministic': flag}
            train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))
            losses.append([row.get('loss') for row in train.read_metrics(str(tmp_path / name))])
        assert losses[0] == losses[1]
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_checkpoint_can_be_mapped_and_is_still_checked(tmp_path):
    tensor = torch.arange(100_000.0)
    config = {**dict.fromkeys(checkpoint.FIXED_BY_WEIGHTS, 2), 'bias': True}
    path = checkpoint.save(str(tmp_path), {'model': {'w': tensor}, 'config': config, 'step': 3, 'architecture': []})
    state = checkpoint.load(path, mapped=True)
    assert torch.equal(state['model']['w'], tensor)
    pages = [line for line in open('/proc/self/maps') if path in line] if sys.platform == 'linux' else ['']
    assert pages
    del state
    data = bytearray(open(path, 'rb').read())
    data[len(data) // 2] ^= 1
    damaged = tmp_path / 'ckpt_0000004.pt'
    damaged.write_bytes(data)
    with pytest.raises(ValueError, match='damaged'):
        checkpoint.load(str(damaged), mapped=True)


# --- devices


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """nvidia_smi(answer, code): such a program is in the path."""
    def nvidia_smi(answer, code=0):
        path = tmp_path / 'nvidia-smi'
        path.write_text(f'#!/bin/sh\necho "{answer}"\nexit {code}\n')
        path.chmod(0o755)
        monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    return nvidia_smi


@pytest.mark.parametrize('cuda, words', [
    ('13.0', ['NVIDIA H100 80GB HBM3 with driver 535.104.05', 'CUDA 13.0', 'needs driver 580', '--device=cpu']),
    ('12.8', ['NVIDIA H100 80GB HBM3 with driver 535.104.05', 'cannot use it', '--device=cpu']),
    (None, ['built for CPUs alone', '--device=cpu'])])
def test_a_gpu_that_torch_cannot_use_is_an_error_that_names_what_is_needed(nvidia_smi, monkeypatch, capsys, cuda, words):
    nvidia_smi('NVIDIA H100 80GB HBM3, 535.104.05')
    monkeypatch.setattr(torch.version, 'cuda', cuda)
    assert run_script('sample.py', '--init_from=gpt2') == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    for word in words:
        assert word in error


def test_device_auto_is_the_cpu_where_there_is_no_gpu_or_it_is_hidden(nvidia_smi, monkeypatch):
    nvidia_smi('No devices were found', code=6)
    assert hardware.pick_device('auto').type == 'cpu'
    nvidia_smi('NVIDIA H100 80GB HBM3, 535.104.05')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert hardware.pick_device('auto').type == 'cpu'


@pytest.mark.parametrize('seconds, words', [
    (0.04, '0.0 s'), (59.9, '59.9 s'), (60, '1 min 0 s'), (207.4, '3 min 27 s'), (3599.6, '1 h 0 min'), (18_720, '5 h 12 min'),
    (86_400, '1 day 0 h'), (3 * 86_400 + 15_000, '3 days 4 h')])
def test_a_time_is_said_in_its_two_largest_units(seconds, words):
    assert duration(seconds) == words


def test_one_is_counted_without_an_s():
    assert [plural(n, 'process', 'processes') for n in (0, 1, 2)] == ['0 processes', '1 process', '2 processes']
    assert [plural(n, 'row') for n in (1, 1000)] == ['1 row', '1,000 rows']


@pytest.mark.parametrize('world_size, here, launched', [
    (1, '1', ': python train.py \'--out_dir=a b\''), (2, '2', ': torchrun --nproc_per_node=2 train.py \'--out_dir=a b\''),
    (4, '2', '')])
def test_the_command_that_resumes_a_run_can_be_pasted(monkeypatch, world_size, here, launched):
    monkeypatch.setenv('LOCAL_WORLD_SIZE', here)
    monkeypatch.setattr('sys.argv', ['train.py', '--out_dir=a b'])
    assert report.command_here(types.SimpleNamespace(world_size=world_size)) == launched


@pytest.mark.parametrize('max_steps, words', [(1, 'of which 25% will be seen'), (5, 'seen 1.25 times'), (500, 'seen 125 times')])
def test_a_run_begins_with_what_it_is_in_whole_sentences(max_steps, words, capsys):
    config = {'out_dir': 'a b', 'init_from': 'auto', 'total_batch_tokens': 64, 'block_size': 16, 'max_steps': max_steps, 'n_layer': 1,
              'n_head': 1, 'n_embd': 8, 'vocab_size': 300, 'tensorboard': True}
    process = Process({'device': 'cpu', 'dtype': 'float32'})
    report.announce(config, process, 1000, types.SimpleNamespace(batch_size=4, n_tokens=256), 32, 0)
    lines = capsys.readouterr().out.splitlines()
    assert 'batch: 64 tokens a step = 1 process x 1 micro-batch x 4 sequences x 16 tokens' in lines
    assert f'data: 256 tokens to train on, {words}; 32 to validate on' in lines
    assert lines[1].startswith('model: 1,000 parameters (1 layer, 1 head,')
    assert lines[-1] == "curves in a browser: tensorboard --logdir='a b/tensorboard'"
