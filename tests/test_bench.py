"""Every part of bench on tiny settings: that it compares what it says, not how fast anything is."""
import json
import math
import os
import runpy
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, run_script

import bench.__main__
import bench.contenders
import bench.kernels
import bench.reproducible
import bench.turns
import checkpoint
from runtime.errors import BadInput

pytestmark = [pytest.mark.slow, pytest.mark.long]

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
    return subprocess.run([sys.executable, '-m', 'bench', *args], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, **environment})


@pytest.fixture
def peer_dir(tmp_path):
    """What bench needs of a checkout of nanoGPT."""
    folder = tmp_path / 'a_peer'
    folder.mkdir()
    (folder / 'model.py').write_text(PEER)
    return folder


@pytest.fixture
def text_file(tmp_path, texts):
    path = tmp_path / 'text.txt'
    path.write_text('\n'.join(texts))
    return path


def test_train_compares_contenders_and_names_the_machine_but_no_path(tmp_path, peer_dir):
    names = ['nanogpt', 'eager', 'transformers', 'ours']
    result = run_bench('train', *TINY, f'--peer_dir={peer_dir}', f'--contenders={",".join(names)}',
                       f'--json={tmp_path / "out.json"}')
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / 'out.json').read_text())
    (table,) = written['tables']
    assert [row['contender'] for row in table['rows']] == names
    assert all(row['contender'] in result.stdout for row in table['rows'])
    for row in table['rows']:
        assert row['tokens/s'] > 0 and 0.1 < row['peak GiB'] < 10 and 'spread' in row
        assert row['loss of step 3'] == pytest.approx(math.log(100), abs=0.4)  # random tokens, all but untrained
    losses = {row['contender']: row['loss of step 3'] for row in table['rows']}
    assert losses['ours'] == pytest.approx(losses['eager'], rel=0.02)  # the same weights and batch, in bf16
    assert written['versions']['torch'] == torch.__version__ and written['machine']['cores'] >= 1
    assert written['machine']['cpu'] and written['commit']
    assert str(tmp_path) not in result.stdout and str(peer_dir) not in json.dumps(written['command'])


def test_a_contender_that_fails_has_a_row_that_says_why(tmp_path):
    result = run_bench('train', *TINY, '--contenders=nanogpt,explicit_torch', f'--json={tmp_path / "out.json"}')
    assert result.returncode == 0, result.stderr
    (table,) = json.loads((tmp_path / 'out.json').read_text())['tables']
    failed, measured = table['rows']
    assert failed['contender'] == 'nanogpt' and failed['tokens/s'] is None
    assert failed['what it is'] == 'not measured: --peer_dir=PATH names no checkout of nanoGPT'
    assert failed.keys() == measured.keys() and measured['tokens/s'] > 0 and measured['times nanogpt'] is None
    assert 'at a batch of 1,' in measured['what it is']
    assert run_bench('train', *TINY, '--contenders=nanogpt').returncode == 2


def test_sample_measures_generation_and_mutes_what_peers_print(peer_dir):
    shape = [flag for flag in TINY if not flag.startswith('--batch_size')]
    result = run_bench('sample', *shape, '--new_tokens=4', f'--peer_dir={peer_dir}')
    assert result.returncode == 0, result.stderr
    for name in ('nanogpt', 'transformers_float32', 'ours'):
        assert f'\n| {name} ' in result.stdout
    assert 'Generating 4 tokens' in result.stdout and 'a peer may say' not in result.stdout
    for words in ('Steps of generation', 'prompt of 32 tokens', '| a token after 16 ', '16 sequences, a token after 16'):
        assert words in result.stdout


def test_compared_kernels_give_the_same_gradients(monkeypatch, capsys):
    seen = []

    def small_cases(dtype, preset):
        torch.manual_seed(0)
        case = bench.kernels.head_case(64, 16, 100, 128, {'dtype': torch.float32, 'device': 'cpu'}, fused=False)
        seen.append(case)
        yield case

    monkeypatch.setattr(bench.kernels, 'cpu_cases', small_cases)
    bench.__main__.main(['kernels', '--turns=1', '--device=cpu'])
    out = capsys.readouterr().out
    assert 'linear_cross_entropy 64x16x128' in out and 'GB/s' in out
    case = seen[0]
    assert (case.limit, case.amount) == ('product', 6 * 64 * 16 * 128)
    ours, theirs = (torch.autograd.grad(case.functions[by](*case.inputs), case.inputs) for by in ('ours', 'torch'))
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_cpu_kernels_compared_are_the_ones_that_training_uses():
    case = next(bench.kernels.cpu_cases(torch.float32, 'demo'))
    assert case.name.startswith('attention')
    ours, theirs = (case.functions[by](*case.inputs) for by in ('ours', 'torch'))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_data_makes_shards_both_ways(test_data, text_file):
    result = run_bench('data', '--data_mb=4', '--turns=1', f'--input={text_file}')
    assert result.returncode == 0, result.stderr
    assert 'fineweb.py' in result.stdout and 'a pool of processes' in result.stdout


def test_bpe_compares_training_and_encoding(text_file):
    result = run_bench('bpe', f'--input={text_file}', '--vocab_sizes=300', '--turns=1')
    assert result.returncode == 0, result.stderr
    assert 'Training on' in result.stdout and 'bpe.py encode_batch' in result.stdout


def test_a_part_that_cannot_be_measured_does_not_stop_the_next(monkeypatch, capsys):
    def impossible(config):
        raise BadInput('there is no network')
        yield

    monkeypatch.setattr(bench.__main__, 'PARTS', {'first': impossible, 'second': lambda config: [('A table', [{'MB/s': 1.5}])]})
    bench.__main__.measure_parts(['first', 'second'], {'device': 'cpu', 'json': None}, [])
    out = capsys.readouterr().out
    assert 'first: not measured: there is no network' in out and 'A table\n\n| MB/s |\n| ---- |\n| 1.5  |' in out


def test_a_table_is_written_whenever_it_has_a_row_more(tmp_path, monkeypatch, capsys):
    path, seen = tmp_path / 'out.json', []

    def part(config):
        rows = []
        for name in 'ab':
            rows.append({'contender': name})
            yield 'A table', rows
            seen.append([row['contender'] for row in json.loads(path.read_text())['tables'][0]['rows']])
        raise BadInput('no time is left')

    monkeypatch.setattr(bench.__main__, 'PARTS', {'part': part})
    with pytest.raises(BadInput, match='no time is left'):
        bench.__main__.measure_parts(['part'], {'device': 'cpu', 'json': str(path)}, [])
    assert seen == [['a'], ['a', 'b']] and capsys.readouterr().out.count('A table') == 1


def test_a_kernel_that_runs_out_of_memory_has_a_row(monkeypatch, capsys):
    def out_of_memory(x):
        raise torch.OutOfMemoryError('CUDA out of memory')

    def cases(dtype, preset):
        yield bench.kernels.Case('a copy', 'copy', 8, (torch.ones(1, requires_grad=True),), {'ours': out_of_memory, 'torch': torch.neg})

    monkeypatch.setattr(bench.kernels, 'cpu_cases', cases)
    bench.__main__.main(['kernels', '--turns=1', '--device=cpu'])
    out = capsys.readouterr().out
    assert 'not measured: OutOfMemoryError: CUDA out of memory' in out and '| a copy                  | torch |' in out


@pytest.mark.parametrize('error', [RuntimeError('out of memory\nand much more'), AssertionError('a library is not the one it was')])
def test_whatever_a_contender_raises_is_a_line(error):
    with pytest.raises(BadInput, match='^(RuntimeError: out of memory|AssertionError: a library is not the one it was)$'):
        bench.turns.alone(raise_it, error)


def raise_it(error):
    raise error


def no_memory():
    raise RuntimeError('out of memory\nand much more')


def test_a_contender_that_fails_is_left_out_with_a_warning(capsys):
    measures = {'small': lambda: 1.0, 'large': lambda: bench.turns.alone(no_memory), 'last': lambda: 2.0}
    assert bench.turns.take_turns(measures, turns=2) == {'small': [1.0, 1.0], 'last': [2.0, 2.0]}
    assert capsys.readouterr().err == 'warning: large is left out: RuntimeError: out of memory\n'


def test_figures_are_medians_with_their_spread_and_ratio():
    compared = bench.turns.compare({'theirs': [2.0, 4.0, 3.0], 'ours': [1.0]}, 6, 'MB/s')
    assert compared == [{'contender': 'theirs', 'MB/s': 2.0, 'spread': '67%', 'times theirs': 1.0},
                        {'contender': 'ours', 'MB/s': 6.0, 'spread': None, 'times theirs': 3.0}]


def test_the_presets_are_the_models_of_the_config_files():
    for name, config in (('demo', 'demo'), ('gpt2', 'train_gpt2')):
        settings = runpy.run_path(str(ROOT / f'config/{config}.py'))
        preset = bench.contenders.PRESETS[name] | (bench.contenders.GPT2_ON_A_GPU if name == 'gpt2' else {})
        assert all(preset[key] == settings[key] for key in ('n_layer', 'n_head', 'n_embd', 'block_size'))


def test_a_turn_is_measured_in_a_process_of_its_own():
    results = bench.turns.take_turns({name: lambda: bench.turns.alone(os.getpid) for name in 'ab'}, turns=2, warm_up=0)
    pids = [*results['a'], *results['b']]
    assert len(set(pids)) == 4 and os.getpid() not in pids


def test_another_program_s_contender_gets_the_environment_that_pytorch_is_used_in(monkeypatch):
    monkeypatch.setenv('GOMP_SPINCOUNT', '7')
    seen = {name: bench.turns.alone(os.getenv, 'GOMP_SPINCOUNT', without=without)
            for name, without in (('ours', ()), ('theirs', ('GOMP_SPINCOUNT',)))}
    assert seen == {'ours': '7', 'theirs': None} and os.environ['GOMP_SPINCOUNT'] == '7'
    assert [name for name in ('nanogpt', 'eager', 'ours', 'explicit_torch') if bench.contenders.is_ours(name)] == ['ours', 'explicit_torch']


@pytest.mark.slow
def test_a_busy_neighbour_is_measured_beside_all_three_uses(capsys):
    bench.__main__.main(['neighbour', '--turns=1', '--device=cpu', '--n_layer=1', '--n_head=1', '--n_embd=16', '--block_size=32',
                         '--vocab_size=300', '--batch_size=2', '--turn_s=0.1', '--new_tokens=8'])
    rows = [line.split('|')[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith('| ')]
    assert [row[0].strip() for row in rows[2:]] == ['training', 'sampling', 'serving']
    assert all(row[-1].strip().endswith('%') for row in rows[2:])


@pytest.mark.parametrize('args, words', [
    (('nonsense',), 'train, sample, kernels, data, bpe'),
    (('train', '--peer_dir=/there/is/none'), 'should be a checkout of nanoGPT'),
    (('train', '--contenders=ours,zeppelin'), "'zeppelin'"),
    (('train', '--turns=0'), 'at least 1'),
    (('train', '--n_head=5', '--n_embd=32'), 'should be a multiple'),
    (('train', '--batch_size=0'), 'batch_size=0'),
    (('train', '--preset=gpt5'), 'gpt2'),
    (('sample', '--block_size=10'), 'at least 17'),
    (('train', '--nonsense=1'), 'unknown key'),
])
def test_a_mistake_is_one_line_and_exit_code_2(args, words, capsys):
    assert run_script('bench', *args) == 2
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == 1 and err.startswith('python -m bench: ')


def test_help_names_every_part_and_key(capsys):
    assert run_script('bench', '--help') == 0
    out = capsys.readouterr().out
    assert all(f'python -m bench {part} ' in out for part in bench.__main__.PARTS)
    assert all(f'--{key}=' in out for key in bench.__main__.DEFAULTS)


def test_runs_with_other_weights_than_on_one_process_are_marked(tmp_path, monkeypatch):
    """Runs are not made here but written: the one on 4 processes has other weights, or another loss."""
    changes = {'AdamW, on 4': 'weights', 'Muon, on 4': 'loss'}

    def train(folder, name, n, kill_at=None, **settings):
        out_dir = tmp_path / name
        out_dir.mkdir(exist_ok=True)
        changed, config = changes.get(name), {**dict.fromkeys(checkpoint.FIXED_BY_WEIGHTS, 2), 'bias': True}
        weights = {'w': torch.tensor([1.0 + (changed == 'weights')])}
        checkpoint.save(str(out_dir), {'step': 8, 'config': config, 'model': weights, 'architecture': []})
        row = {'step': 8, 'loss': 2.0 + (changed == 'loss'), 'tokens_per_s': 100.0 * n}
        (out_dir / 'metrics.jsonl').write_text(json.dumps(row) + '\n')
        return str(out_dir)

    monkeypatch.setattr(bench.reproducible, 'train', train)
    for _, rows in bench.reproducible.prove(str(tmp_path), {'steps': 8, 'device': 'cpu'}, [1, 2, 4]):  # noqa: B007
        pass
    assert {(row['optimizer'], row['processes']) for row in rows if row['same'] == 'NO'} == {('AdamW', 'on 4'), ('Muon', 'on 4')}
    assert len(rows) == 16 and all(row['same'] == 'yes' for row in rows if row['processes'].startswith('killed'))
    times = dict(bench.reproducible.measure_cost(str(tmp_path), {'turns': 2, 'device': 'cpu'}, 2))
    assert [row['tokens/s'] for row in next(iter(times.values()))] == pytest.approx([200, 200])
