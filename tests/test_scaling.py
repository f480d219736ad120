"""runs/scaling_law.py and runs/scaling.py: whether a law that is known is found again, and the series of runs."""
import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from runs.scaling_law import Law, Run, fit, resampled
from runtime.metrics import read_metrics

TRUE = Law(E=1.2, A=45.0, alpha=0.3, B=300.0, beta=0.36)
SIZES, TOKENS = (1.6e5, 4e5, 9e5, 1.7e6, 2.9e6, 6.6e6), (0.75e6, 1.5e6, 3e6, 6e6)


def runs_of(law, noise=0.0):
    rng = random.Random(0)
    return [Run(n, d, law.loss(n, d) * math.exp(rng.gauss(0, noise))) for n in SIZES for d in TOKENS]


def test_the_law_that_made_the_losses_is_found():
    law = fit(runs_of(TRUE))
    assert np.allclose(law, TRUE, rtol=0.02)


def test_with_noise_the_law_forecasts_a_run_ten_times_as_large_and_its_interval_holds_the_truth():
    runs = runs_of(TRUE, noise=0.003)
    law = fit(runs)
    assert law.loss(2e7, 2e7) == pytest.approx(TRUE.loss(2e7, 2e7), rel=0.015)
    alphas = [other.alpha for other in resampled(runs, law, n=100)]
    assert min(alphas) < TRUE.alpha < max(alphas)


def test_one_run_that_went_wrong_moves_the_law_little():
    runs = runs_of(TRUE, noise=0.001)
    runs[5] = runs[5]._replace(loss=3 * runs[5].loss)
    assert fit(runs).loss(1e7, 1e7) == pytest.approx(TRUE.loss(1e7, 1e7), rel=0.01)


def test_the_optimum_of_a_budget_is_the_best_of_all_sizes_that_it_pays_for():
    flops = 1e15
    n_params, n_tokens = TRUE.optimum(flops)
    assert 6 * n_params * n_tokens == pytest.approx(flops)
    sizes = np.geomspace(1e4, 1e10, 20_001)
    assert sizes[np.argmin(TRUE.loss(sizes, flops / 6 / sizes))] == pytest.approx(n_params, rel=2e-3)


def test_fewer_runs_than_the_law_has_numbers_are_refused():
    with pytest.raises(ValueError, match='at least as many runs, not 4'):
        fit(runs_of(TRUE)[:4])


def scaling(*arguments):
    return subprocess.run([sys.executable, '-m', 'runs.scaling', *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_series_is_run_fitted_and_drawn_and_finished_runs_are_not_made_again(tmp_path, data_dir):
    planned = [(depth, n_tokens) for n_tokens in (4096, 8192, 12288) for depth in (1, 2, 3)]
    for depth, n_tokens in planned[1:]:  # as if they were finished
        folder = tmp_path / f'depth_{depth}_tokens_{n_tokens}'
        folder.mkdir()
        loss = TRUE.loss(20_000 * depth**3, n_tokens)
        rows = [{'step': n_tokens // 4096, 'tokens': n_tokens, 'loss': loss, 'tokens_per_s': 1000.0},
                {'step': n_tokens // 4096, 'tokens': n_tokens, 'val_loss': loss, 'val_ppl': math.exp(loss), 'val_bpb': loss / 2}]
        (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    run = scaling(f'--data_dir={data_dir}', f'--out_dir={tmp_path}', '--depths=1,2,3', '--tokens=4096,8192,12288')
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / 'scaling.json').read_text())['runs']
    assert [(result['depth'], result['n_tokens']) for result in results] == planned
    assert [result['loss'] for result in results[1:]] == [TRUE.loss(20_000 * d**3, t) for d, t in planned[1:]]
    trained = [row['val_loss'] for row in read_metrics(str(tmp_path / 'depth_1_tokens_4096')) if 'val_loss' in row]
    assert results[0]['loss'] == trained[-1] and 0 < trained[-1] < 10
    assert (tmp_path / 'scaling.png').stat().st_size > 10_000
    assert (tmp_path / 'scaling.md').read_text().strip() in run.stdout
    assert 'forecast of the largest run (depth 3, 12,288 tokens) from the 6 runs' in run.stdout


@pytest.mark.parametrize('flag, says', [('--depths=2,3', '2 depths and 4 numbers of tokens'), ('--depths=2,x', 'should be whole numbers'),
                                        ('--tokens=0,1,2', '0 should be at least 1'),
                                        ('--depths=4,5,6 --tokens=900_000,1_000_000,1_100_000', 'take at most a third'), ('--forecast_flops=0', 'should be above 0')])
def test_a_series_that_shows_nothing_is_refused(tmp_path, data_dir, flag, says):
    run = scaling(f'--data_dir={data_dir}', f'--out_dir={tmp_path / "new"}', *flag.split())
    assert run.returncode == 2 and says in run.stderr and run.stderr.count('\n') == 1
    assert not (tmp_path / 'new').exists()
