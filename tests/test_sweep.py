"""runs/sweep.py: which runs it makes, what it says of them, and that it goes on where it was."""
import json
import os
import statistics
import subprocess
import sys

import pytest
from conftest import ROOT
from test_train import TINY

from runtime.metrics import read_metrics


@pytest.fixture
def sweep(tmp_path, data_dir):
    def sweep(*arguments, sweep_dir=tmp_path / 'sweep'):
        settings = {**TINY, 'data_dir': data_dir, 'max_steps': 4}
        for key in {argument.lstrip('-').partition('=')[0] for argument in arguments} & settings.keys():
            del settings[key]
        return subprocess.run([sys.executable, '-m', 'runs.sweep', *(f'--{key}={value}' for key, value in settings.items()), *arguments,
                               f'--sweep_dir={sweep_dir}'], cwd=ROOT, capture_output=True, text=True)
    return sweep


def test_every_combination_is_run_and_compared_and_seeds_are_put_together(sweep, tmp_path):
    run = sweep('--learning_rate=1e-3,4e-3', '--seed=1,2')
    assert run.returncode == 0, run.stderr
    folder = tmp_path / 'sweep'
    names = ['learning_rate_1e-3_seed_1', 'learning_rate_1e-3_seed_2', 'learning_rate_4e-3_seed_1', 'learning_rate_4e-3_seed_2']
    losses = [[row['val_loss'] for row in read_metrics(str(folder / name)) if 'val_loss' in row][-1] for name in names]
    assert len(set(losses)) == 4
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, 'sweep.md', 'sweep.json', 'curves.png', 'sweep.png'])
    text = (folder / 'sweep.md').read_text()
    for loss in losses:
        assert f'{loss:.4f}' in text
    mean, deviation = statistics.fmean(losses[:2]), statistics.stdev(losses[:2])
    assert f'{mean:.4f}' in text and f'{deviation:.4f}' in text and text.strip() in run.stdout
    assert [entry['loss'] for entry in json.loads((folder / 'sweep.json').read_text())['runs']] == losses


def test_run_again_it_makes_only_what_is_missing(sweep, tmp_path):
    assert sweep('--optimizer=adamw,muon').returncode == 0
    folder = tmp_path / 'sweep'
    before = (folder / 'optimizer_muon' / 'metrics.jsonl').read_bytes()
    newest = max((folder / 'optimizer_adamw').glob('ckpt_*'))
    newest.unlink()
    os.remove(folder / 'optimizer_adamw' / 'metrics.jsonl')
    again = sweep('--optimizer=adamw,muon')
    assert again.returncode == 0 and 'optimizer=muon: finished before' in again.stdout
    assert 'optimizer=adamw: finished' not in again.stdout
    assert (folder / 'optimizer_muon' / 'metrics.jsonl').read_bytes() == before
    other = sweep('--optimizer=adamw,muon', '--warmup_steps=1')
    assert other.returncode == 2 and 'name another --sweep_dir' in other.stderr and other.stderr.count('\n') == 1


def test_the_last_value_of_a_setting_counts(sweep, tmp_path):
    run = sweep('--seed=1,2', '--optimizer=adamw,muon', '--seed=3')
    assert run.returncode == 0 and len(list((tmp_path / 'sweep').glob('optimizer_*'))) == 2
    assert not list((tmp_path / 'sweep').glob('*seed*'))


@pytest.mark.parametrize('arguments, words', [
    (['--seed=1'], ['nothing is varied']), (['--seed=1,x'], ['seed', 'whole number']), (['--sede=1,2'], ['sede']),
    (['--seed=1,2', '--out_dir=out/x'], ['--sweep_dir names the folder']), (['--optimizer=adamw,sgd'], ['adamw, muon'])])
def test_what_is_wrong_is_said_before_anything_runs(sweep, tmp_path, arguments, words):
    run = sweep(*arguments)
    assert run.returncode == 2 and run.stderr.count('\n') == 1 and all(word in run.stderr for word in words)
    assert not (tmp_path / 'sweep').exists()


def test_a_run_that_fails_ends_the_sweep_in_one_line(sweep, tmp_path):
    run = sweep('--data_dir=nowhere', '--seed=1,2')
    assert run.returncode == 2 and run.stderr.splitlines()[-1].endswith('seed_1 ended with exit code 2; the same command goes on from here')
