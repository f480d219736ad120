"""runs/paired.py: the paired comparison of two sweeps over seeds."""
import json
import random
import re
import statistics
import subprocess
import sys

import pytest
from conftest import ROOT
from scipy.stats import ttest_1samp


def write_sweep(folder, losses, tokens=1000, **varied):
    folder.mkdir()
    runs = [{'seed': seed, 'tokens': tokens, 'loss': loss} for seed, loss in losses.items()]
    (folder / 'sweep.json').write_text(json.dumps({'fixed': [], 'varied': varied or {'seed': list(losses)}, 'runs': runs}))
    return str(folder)


def paired(*arguments):
    return subprocess.run([sys.executable, '-m', 'runs.paired', *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_difference_and_its_p_are_those_of_the_seeds_that_both_sweeps_have(tmp_path):
    rng = random.Random(0)
    first = {str(seed): 3 + rng.gauss(0, 0.1) for seed in range(1, 12)}
    second = {seed: loss - 0.02 + rng.gauss(0, 0.01) for seed, loss in list(first.items())[1:]}  # without seed 1, in this order
    run = paired(write_sweep(tmp_path / 'a', first), write_sweep(tmp_path / 'b', dict(reversed(second.items())), tokens=450))
    assert run.returncode == 0, run.stderr
    differences = [second[seed] - first[seed] for seed in second]
    assert f'{statistics.fmean(differences):+.4f}' in run.stdout and '45.0%' in run.stdout
    assert 'seed 1 ' not in run.stdout and 'seed 11 ' in run.stdout
    p = float(re.search(r'p = (\S+)', run.stdout)[1])
    assert p == pytest.approx(ttest_1samp(differences, 0).pvalue, rel=0.05)


def test_equal_sweeps_have_no_p(tmp_path):
    losses = {'1': 3.0, '2': 3.1}
    run = paired(write_sweep(tmp_path / 'a', losses), write_sweep(tmp_path / 'b', losses))
    assert run.returncode == 0 and 'no p: all differences are equal' in run.stdout


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path):
    good = write_sweep(tmp_path / 'good', {'1': 3.0, '2': 3.1})
    others = {'two folders': [good], 'no sweep.json': [good, str(tmp_path)],
              'over seeds alone': [good, write_sweep(tmp_path / 'rates', {'1': 3.0}, learning_rate=['1', '2'])],
              'at least two seeds in common, not 1': [good, write_sweep(tmp_path / 'other', {'2': 3.0, '7': 3.1})]}
    for says, arguments in others.items():
        run = paired(*arguments)
        assert run.returncode == 2 and says in run.stderr and run.stderr.count('\n') == 1
