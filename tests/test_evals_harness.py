"""Every task's choices and log-probabilities are lm-evaluation-harness's, on rows in the form in which they are published.

Without lm-eval (`pip install lm-eval accelerate`) these tests are skipped. Real rows come from SCRATCHGPT_TEST_DATA.
"""
import itertools
import json
import re

import harness
import pytest
from published_rows import MADE
from test_evaluate import evaluate_to_json, write_model
from test_serve import serving

from bpe import Tokenizer

pytest.importorskip('lm_eval', reason='pip install lm-eval accelerate')


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory, texts):
    return write_model(tmp_path_factory.mktemp('model'), Tokenizer.train(texts, 300, progress=False), block_size=640)


@pytest.fixture(scope='module')
def their_model(model_folder):
    return harness.load_model(model_folder)


def check(ours, theirs, tolerance=1e-3):
    """Every log-probability, choice and score."""
    assert len(ours['examples']) == len(theirs.samples)
    for example, sample in zip(ours['examples'], theirs.samples):
        theirs_of_row = harness.logprobs(sample)
        assert example['logprobs'] == pytest.approx(theirs_of_row, abs=tolerance)
        assert example.get('choice', 0) == theirs_of_row.index(max(theirs_of_row))
        for metric in ('acc', 'acc_norm', 'acc_bytes'):
            if metric in sample and metric in example:
                assert example[metric] == sample[metric], (example, sample['doc'])
    for metric in ('acc', 'acc_norm', 'acc_bytes', 'perplexity'):
        if f'{metric},none' in theirs.scores and metric in ours:
            assert ours[metric] == pytest.approx(theirs.scores[f'{metric},none'], rel=1e-3)
    assert ours['acc_stderr'] == pytest.approx(theirs.scores['acc_stderr,none'], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('name, shots', [*((name, 0) for name in MADE), ('piqa', 3), ('winogrande', 2), ('boolq', 2), ('copa', 1)])
def test_rows_in_the_published_form_are_scored_as_the_harness_scores_them(name, shots, tmp_path, model_folder, their_model):
    published, hub = MADE[name]
    rows = [published(i) for i in range(24)]
    source = tmp_path / 'rows.jsonl'
    source.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    ours = evaluate_to_json(model_folder, tmp_path / 'a.json', tasks=name, source=source, shots=shots)['tasks'][name]
    check(ours, harness.run(name, [(hub or published)(i) for i in range(24)], their_model, tmp_path, shots))


REAL = {'hellaswag': 'hellaswag/hellaswag_val.jsonl', 'lambada': 'lambada/lambada_test.jsonl', 'piqa': 'piqa/dev.jsonl',
        'siqa': 'siqa/dev.jsonl'}


def real_rows(test_data, name, n):
    """The first n rows with the labels that stand beside them, and the file that has them as published."""
    path = test_data / REAL[name]
    rows = [json.loads(line) for line in itertools.islice(path.open(), n)]
    labels = path.with_name('dev-labels.lst')
    if labels.exists():
        rows = [{**row, 'label': int(label)} for row, label in zip(rows, labels.read_text().split())]
    return rows, path


@pytest.mark.slow
@pytest.mark.parametrize('name', REAL)
def test_real_rows_are_scored_as_the_harness_scores_them(name, tmp_path, test_data, model_folder, their_model):
    rows, path = real_rows(test_data, name, 40)
    ours = evaluate_to_json(model_folder, tmp_path / 'a.json', tasks=name, source=path, limit=40)['tasks'][name]
    check(ours, harness.run(name, rows, their_model, tmp_path))


def wikitext_pages(test_data, folder, n):
    """(a file with the beginning of WikiText-2's raw test text, its first n pages as the harness has them from the hub)."""
    text = (test_data / 'wikitext-2-raw' / 'test.txt').read_text()
    titles = [match.start() for match in re.finditer(r'^ = [^=].*[^=] = $', text, re.MULTILINE)][:n + 1]
    ends = titles[1:] if len(titles) > n else [*titles[1:], len(text) + 1]
    (folder / 'test.txt').write_text(text[:ends[-1]].removesuffix('\n'))
    return folder / 'test.txt', [{'page': text[begin:end].removesuffix('\n')} for begin, end in zip(titles, ends)]


@pytest.mark.slow
def test_real_pages_are_measured_as_the_harness_measures_them(tmp_path, test_data, model_folder, their_model):
    source, pages = wikitext_pages(test_data, tmp_path, 3)
    ours = evaluate_to_json(model_folder, tmp_path / 'a.json', tasks='wikitext2', source=source)['tasks']['wikitext2']
    theirs = harness.run('wikitext2', pages, their_model, tmp_path)
    assert len(pages) == len(ours['examples']) == 3
    for example, sample in zip(ours['examples'], theirs.samples):
        assert example['logprob'] == pytest.approx(sample['word_perplexity'][0], abs=0.01, rel=1e-6)
        assert (example['words'], example['bytes']) == (sample['word_perplexity'][1], sample['bits_per_byte'][1])
    for metric in ('word_perplexity', 'byte_perplexity', 'bits_per_byte'):
        assert ours[metric] == pytest.approx(theirs.scores[f'{metric},none'], rel=1e-4)


@pytest.mark.slow
def test_through_a_server_the_harness_gets_the_same(tmp_path, model_folder):
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    with serving(model_folder) as served:
        model = LocalCompletionsAPI(base_url=f'{served.url}v1/completions', model=served.http.get('v1/models').json()['data'][0]['id'],
                                    tokenizer=model_folder, tokenizer_backend='huggingface', batch_size=4, max_length=640)
        for name in ('piqa', 'boolq', 'lambada'):
            rows = [MADE[name][0](i) for i in range(8)]
            (tmp_path / f'{name}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
            ours = evaluate_to_json(model_folder, tmp_path / 'a.json', tasks=name, source=tmp_path / f'{name}.jsonl')['tasks'][name]
            check(ours, harness.run(name, [(MADE[name][1] or MADE[name][0])(i) for i in range(8)], model, tmp_path))
