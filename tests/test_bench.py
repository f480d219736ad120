"""Every part of bench.py on tiny settings: that it compares what it says, not how fast anything is."""
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

import bench
from runtime.errors import BadInput

TINY = ('--n_layer=1', '--n_head=2', '--n_embd=32', '--block_size=32', '--vocab_size=100', '--batch_size=2',
        '--turns=1', '--turn_s=0.01', '--device=cpu')

PEER = '''
import torch
from dataclasses import dataclass

@dataclass
class GPTConfig:
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    vocab_size: int
    dropout: float
    bias: bool

class GPT(torch.nn.Module):

    def __init__(self, config):
        super().__init__()
        assert not torch.is_autocast_enabled('cpu')
        print('a peer may say what it does')
        self.embed = torch.nn.Embedding(config.vocab_size, config.n_embd)
        self.head = torch.nn.Linear(config.n_embd, config.vocab_size)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)

    def forward(self, idx, targets=None):
        logits = self.head(0.02 * self.embed(idx))
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def generate(self, idx, max_new_tokens, temperature, top_k):
        return torch.cat([idx, idx.new_zeros(len(idx), max_new_tokens)], dim=1)
'''


def run_bench(*args, **environment):
    return subprocess.run([sys.executable, 'bench.py', *args], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, **environment})


@pytest.fixture
def peer_dir(tmp_path):
    """What bench.py needs of a checkout of nanoGPT."""
    folder = tmp_path / 'a_peer'
    folder.mkdir()
    (folder / 'model.py').write_text(PEER)
    return folder


@pytest.fixture
def text_file(tmp_path, texts):
    path = tmp_path / 'text.txt'
    path.write_text('\n'.join(texts))
    return path


def test_train_measures_contenders_on_the_same_task_and_names_the_machine_but_no_path(tmp_path, peer_dir):
    names = ['nanogpt', 'eager', 'transformers', 'ours']
    result = run_bench('train', *TINY, f'--peer_dir={peer_dir}', f'--contenders={",".join(names)}',
                       f'--json={tmp_path / "out.json"}')
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / 'out.json').read_text())
    (table,) = written['tables']
    assert [row['contender'] for row in table['rows']] == names
    assert all(row['contender'] in result.stdout for row in table['rows'])
    for row in table['rows']:
        assert row['tokens/s'] > 0 and 0.1 < row['peak GiB'] < 10
        assert row['loss of step 3'] == pytest.approx(math.log(100), abs=0.4)  # random tokens, all but untrained
    losses = {row['contender']: row['loss of step 3'] for row in table['rows']}
    assert losses['ours'] == pytest.approx(losses['eager'], rel=0.02)  # the same weights and batch, in bf16
    assert written['versions']['torch'] == torch.__version__ and written['machine']['cores'] >= 1
    assert str(tmp_path) not in result.stdout and str(peer_dir) not in json.dumps(written['command'])


def test_sample_measures_generation_without_saying_what_peers_print(peer_dir):
    result = run_bench('sample', *TINY, '--new_tokens=4', f'--peer_dir={peer_dir}', '--markdown=True')
    assert result.returncode == 0, result.stderr
    for name in ('nanogpt', 'transformers_float32', 'ours'):
        assert f'\n| {name} ' in result.stdout
    assert 'Generating 4 tokens' in result.stdout and 'a peer may say' not in result.stdout
    assert 'Steps of generation' in result.stdout and 'times a token with the cache' in result.stdout


def test_kernels_are_compared_with_what_gives_the_same_gradients(monkeypatch, capsys):
    seen = []

    def small_cases(dtype):
        torch.manual_seed(0)
        case = bench.head_case(64, 16, 100, 128, {'dtype': torch.float32, 'device': 'cpu'}, fused=False)
        seen.append(case)
        yield case

    monkeypatch.setattr(bench, 'cpu_cases', small_cases)
    config = {key: getattr(value, 'default', value) for key, value in bench.DEFAULTS.items()}
    bench.main(['kernels'], {**config, 'turns': 1, 'device': 'cpu'}, ['kernels'])
    out = capsys.readouterr().out
    assert 'linear_cross_entropy 64x16x128' in out and 'GB/s' in out
    _, _, flops, inputs, functions = seen[0]
    assert flops == 6 * 64 * 16 * 128
    ours, theirs = (torch.autograd.grad(functions[by](*inputs), inputs) for by in ('ours', 'torch'))
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_cpu_kernels_compared_are_the_ones_that_training_uses():
    name, _, _, inputs, functions = next(bench.cpu_cases(torch.float32))
    assert name.startswith('attention')
    torch.testing.assert_close(functions['ours'](*inputs), functions['torch'](*inputs), rtol=1e-4, atol=1e-5)


def test_data_makes_shards_both_ways_and_loads_them(test_data, text_file):
    result = run_bench('data', '--data_mb=4', '--turns=1', f'--input={text_file}')
    assert result.returncode == 0, result.stderr
    for words in ('fineweb.py', 'a pool of processes', 'shards.BatchLoader', 'random windows'):
        assert words in result.stdout


def test_bpe_compares_training_and_encoding(text_file):
    result = run_bench('bpe', f'--input={text_file}', '--vocab_sizes=300', '--turns=1')
    assert result.returncode == 0, result.stderr
    assert 'Training on' in result.stdout and 'bpe.py encode_batch' in result.stdout


def test_without_a_part_what_cannot_be_measured_here_is_said_and_the_rest_is_measured(monkeypatch, capsys):
    def impossible(config):
        raise BadInput('there is no network')
        yield

    monkeypatch.setattr(bench, 'PARTS', {'first': impossible, 'second': lambda config: [('A table', [{'MB/s': 1.5}])]})
    bench.main(['first', 'second'], {'turns': 1, 'device': 'cpu', 'markdown': False, 'json': None}, [])
    out = capsys.readouterr().out
    assert 'first: not measured: there is no network' in out and 'A table\n\nMB/s\n1.5' in out


def test_a_turn_is_measured_in_a_process_of_its_own():
    results = bench.take_turns_alone({'a': (os.getpid, ()), 'b': (os.getpid, ())}, turns=2)
    pids = [*results['a'], *results['b']]
    assert len(set(pids)) == 4 and os.getpid() not in pids


@pytest.mark.parametrize('args, words', [
    (('nonsense',), 'train, sample, kernels, data, bpe'),
    (('train', '--peer_dir=/there/is/none'), 'should be a checkout of nanoGPT'),
    (('train', '--contenders=ours,zeppelin'), "'zeppelin'"),
    (('train', '--turns=0'), 'at least 1'),
    (('train', '--n_head=5', '--n_embd=32'), 'does not divide'),
    (('train', '--batch_size=0'), 'batch_size=0'),
    (('train', '--preset=gpt5'), 'gpt2'),
    (('sample', '--block_size=10'), 'at least 17'),
    (('train', '--nonsense=1'), 'unknown key'),
])
def test_a_mistake_is_one_line_and_exit_code_2(args, words):
    result = run_bench(*args)
    assert result.returncode == 2
    assert words in result.stderr and result.stderr.count('\n') == 1


def test_help_names_every_part_and_key():
    result = run_bench('--help')
    assert result.returncode == 0
    for word in (*bench.PARTS, *bench.DEFAULTS):
        assert word in result.stdout
