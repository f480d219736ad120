import json

import numpy as np
import pytest
from conftest import run_script
from scipy import stats

from evals import groups
from evals.compare import compare_files, paired_difference, verdict
from evals.scores import METRICS, score_of
from runtime.errors import BadInput


def draw(random, n):
    """n examples that two checkpoints of one run answered: most alike, by how hard each is, the later one more of them."""
    hardness = random.normal(size=n)
    luck = random.normal(size=n)
    a, b = (hardness + luck + 0.5 * random.normal(size=n) < bound for bound in (-0.4, -0.25))
    logprob, words = -3 + hardness + 0.3 * random.normal(size=(2, n)), random.integers(2, 5, size=n).tolist()
    return [[{'acc': int(right), 'logprob': float(value) + gain, 'words': n_words, 'label': 0}
             for right, value, n_words in zip(of_model, values, words)]
            for of_model, values, gain in ((a, logprob[0], 0), (b, logprob[1], 0.1))]


@pytest.mark.parametrize('metric', ['acc', 'perplexity', 'word_perplexity'])
def test_the_interval_contains_the_truth_in_95_of_100_draws(metric):
    random = np.random.default_rng(1)
    everything = draw(random, 400_000)
    truth = np.subtract(*(score_of(metric, examples)[0] for examples in everything[::-1]))
    inside = 0
    for _ in range(200):
        a, b = draw(random, 300)
        found = paired_difference(metric, a, b, resamples=1000)
        inside += found['low'] <= truth <= found['high']
    assert 0.9 <= inside / 200 <= 0.99  # 0.95, and three standard errors of it either way


def test_pairs_tell_more_than_the_scores_alone():
    a, b = draw(np.random.default_rng(0), 2000)
    found = paired_difference('acc', a, b)
    errors = [score_of('acc', examples)[1] for examples in (a, b)]
    assert found['high'] - found['low'] < 0.7 * 2 * 1.96 * np.hypot(*errors)
    differences = [y['acc'] - x['acc'] for x, y in zip(a, b)]
    assert found['difference'] == pytest.approx(np.mean(differences))
    assert (found['high'] - found['low']) / (2 * 1.96) == pytest.approx(stats.sem(differences), rel=0.05)


@pytest.mark.parametrize('metric', ['acc', 'perplexity', 'word_perplexity', 'bits_per_byte'])
def test_a_standard_error_is_how_much_a_score_varies_between_draws(metric):
    random, n = np.random.default_rng(2), 500
    samples = [[{**example, 'bytes': 5 * example['words']} for example in draw(random, n)[0]] for _ in range(200)]
    scores, errors = zip(*(score_of(metric, examples) for examples in samples))
    assert np.mean(errors) == pytest.approx(np.std(scores), rel=0.15)


def write(path, **changes):
    a, b = draw(np.random.default_rng(5), 400)
    for name, examples in (('a', a), ('b', b)):
        task = {'version': 1, 'shots': 0, 'acc': score_of('acc', examples)[0], 'perplexity': score_of('perplexity', examples)[0],
                'examples': examples, **(changes if name == 'b' else {})}
        (path / f'{name}.json').write_text(json.dumps({'tasks': {'lambada': task}}))
    return str(path / 'a.json'), str(path / 'b.json')


def test_the_command_says_which_of_two_results_is_better(tmp_path, capsys):
    a, b = write(tmp_path)
    assert run_script('evaluate.py', f'--compare={a},{b}') == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[2].startswith('lambada, perplexity') and lines[2].endswith(' better')
    row = compare_files(b, a)[1]
    assert verdict(row) == 'worse' and row['difference'] > 0 and not METRICS['perplexity'].higher_is_better
    assert verdict(compare_files(a, a)[0]) == 'open'


@pytest.mark.parametrize('changes, message', [
    (dict(shots=5), 'with shots 0 in .* and 5 in'), (dict(examples=[{'acc': 1, 'logprob': -1.0, 'label': 0}]), '400 examples in .* and 1 in'),
    (dict(examples=[{'acc': 1, 'label': 1}] * 400), 'other examples'), (dict(examples=[{'acc': 'x', 'label': 0}] * 400), 'lack what acc'),
    (dict(examples=[1] * 400), 'other examples'), (dict(examples=[]), 'no tasks with examples')])
def test_results_that_do_not_compare_are_refused(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message) as error:
        compare_files(*write(tmp_path, **changes))
    assert '\n' not in str(error.value)


def test_core_is_the_mean_of_what_is_above_chance():
    results = {name: {metric: 1.0, f'{metric}_stderr': 0.0} for name, (metric, _) in groups.CORE.items()}
    assert groups.core(results)['centered'] == 1
    for name, (metric, chance) in groups.CORE.items():
        results[name] = {metric: chance, f'{metric}_stderr': 0.1 * (1 - chance)}
    found = groups.core(results)
    assert found['centered'] == 0 and found['centered_stderr'] == pytest.approx(0.1 / len(groups.CORE) ** 0.5)
    del results['piqa@10']
    assert groups.core(results) is None
