import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.nn import functional as F

import hellaswag
import pretrained
from bpe import Tokenizer
from configurator import configure
from model import GPT, GPTConfig
from runtime.errors import BadInput
from runtime.stop import Stopped

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLE = {'activity_label': 'Baking cookies', 'ctx': 'A man stirs. he', 'ctx_a': 'A man stirs.', 'ctx_b': 'he',
           'endings': ['eats.', 'bakes [step] them all at once, then rests.', 'flies away', 'ends.'], 'label': 2}


@pytest.fixture(scope='module')
def examples():
    """Made-up questions of many lengths, with markers, double spaces, an empty ctx_b and letters of several bytes."""
    words = 'The man [title] walks  home é with [substeps] his dog naïve, "so" and 3 [step] cats.'.split(' ')
    made = []
    for i in range(23):
        context, rest = ' '.join(words[:2 + i % 9]), '' if i % 5 == 0 else 'he then [x] Goes'
        endings = [' '.join([*words[j:j + (i * (j + 1)) % 13], 'on']) for j in range(4)]
        made.append({'activity_label': f'Label {i}', 'ctx': f'{context} {rest}'.strip(), 'ctx_a': context, 'ctx_b': rest,
                     'endings': endings, 'label': i % 4})
    return made


def make_model(**fields):
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**dict(block_size=160, vocab_size=300, n_layer=2, n_head=2, n_embd=32), **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        model.transformer.wte.weight[model.config.vocab_size:] = 0
    return model.eval()


@torch.no_grad()
def score_slowly(model, tokenizer, context, ending, joined):
    """(log-probability of a space and the ending after the context, its tokens), one text at a time, without tricks."""
    before = tokenizer.encode(context.rstrip() if joined else context) or [tokenizer.eot]
    behind = tokenizer.encode(f'{context} {ending}')[len(before):] if joined else tokenizer.encode(f' {ending}')
    ids = (before + behind)[-model.config.block_size - 1:]
    logits = model(torch.tensor([ids[:-1]]))[0].double()
    values = F.log_softmax(logits, dim=-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    return values[-len(behind):].sum().item(), len(behind)


def harness_words(example):
    """lm-evaluation-harness's wording of a question, written down from its task's description."""
    def clean(text):
        return re.sub(r'\[[^\]]*\]', '', text.strip().replace(' [title]', '. ')).replace('  ', ' ')
    context = f'{example["activity_label"]}: {example["ctx_a"]} {example["ctx_b"].capitalize()}'
    return clean(context), [clean(ending) for ending in example['endings']]


@pytest.mark.parametrize('block_size', [160, 64])
def test_every_log_probability_is_that_of_its_text_scored_alone(process, tokenizer, examples, block_size):
    model = make_model(block_size=block_size)
    results = hellaswag.accuracies(model, hellaswag.prepare(examples, tokenizer, block_size), process, batch_size=4)
    for i, example in enumerate(examples):
        context, endings = harness_words(example)
        for j in range(4):
            expected, _ = score_slowly(model, tokenizer, context, endings[j], joined=True)
            assert results['scores']['harness'][i, j].item() == pytest.approx(expected, abs=1e-3)
            expected, _ = score_slowly(model, tokenizer, example['ctx'], example['endings'][j], joined=False)
            assert results['scores']['completion'][i, j].item() == pytest.approx(expected, abs=1e-3)


def test_each_accuracy_divides_by_what_its_name_says(process, tokenizer, examples):
    model = make_model()
    results = hellaswag.accuracies(model, hellaswag.prepare(examples, tokenizer, 160), process)
    right = {metric: [] for metrics in hellaswag.METRICS.values() for metric in metrics}
    for example in examples:
        context, endings = harness_words(example)
        values = [score_slowly(model, tokenizer, context, ending, joined=True)[0] for ending in endings]
        plain = [score_slowly(model, tokenizer, example['ctx'], ending, joined=False) for ending in example['endings']]
        for metric, scores in (('acc', values), ('acc_norm', [v / len(e) for v, e in zip(values, endings)]),
                               ('acc_bytes', [v / len(e.encode()) for v, e in zip(values, endings)]),
                               ('completion_acc', [v for v, _ in plain]), ('completion_acc_norm', [v / n for v, n in plain])):
            right[metric].append(scores.index(max(scores)) == example['label'])
    for metric, of_metric in right.items():
        assert results[metric] == sum(of_metric) / len(examples)
        assert results[f'{metric}_stderr'] == pytest.approx(stats.sem(of_metric))
    assert len({tuple(of_metric) for of_metric in right.values()}) > 2, 'the metrics must not all be the same here'


@pytest.mark.parametrize('batch_size', [1, 5, 64])
def test_the_batch_size_changes_no_log_probability(process, tokenizer, examples, batch_size):
    model, questions = make_model(), hellaswag.prepare(examples, tokenizer, 160)
    expected = hellaswag.accuracies(model, questions, process, batch_size=16)
    results = hellaswag.accuracies(model, questions, process, batch_size=batch_size)
    for protocol in questions:
        torch.testing.assert_close(results['scores'][protocol], expected['scores'][protocol], atol=1e-4, rtol=0)
    assert {k: v for k, v in results.items() if k != 'scores'} == {k: v for k, v in expected.items() if k != 'scores'}


def test_a_stop_ends_it_and_leaves_the_model_in_the_mode_it_was_in(process, tokenizer, examples):
    model, questions = make_model().train(), hellaswag.prepare(examples, tokenizer, 160)

    def stop():
        raise Stopped

    with pytest.raises(Stopped):
        hellaswag.accuracies(model, questions, process, batch_size=4, check_stop=stop)
    assert model.training


def test_a_context_that_the_clean_up_empties_is_a_new_document(tokenizer):
    example = {**EXAMPLE, 'activity_label': '[x', 'ctx_a': ']', 'ctx_b': ''}
    pairs = hellaswag.prepare([example], tokenizer, 160)['harness'].pairs
    assert [context for context, _ in pairs] == [[tokenizer.eot]] * 4
    assert tokenizer.decode(pairs[0][1]) == ' eats.'


# ---- input ------------------------------------------------------------------------------------------


def write(path, *rows):
    path.write_text(''.join((row if isinstance(row, str) else json.dumps(row)) + '\n' for row in rows))
    return str(path)


def test_the_hubs_labels_are_text_and_mean_the_same(tmp_path):
    source = write(tmp_path / 'a.jsonl', EXAMPLE, {**EXAMPLE, 'label': '2'}, '')
    assert hellaswag.load(source) == [EXAMPLE, EXAMPLE]
    assert hellaswag.load(source, limit=1) == [EXAMPLE]


@pytest.mark.parametrize('change', [
    lambda e: e.pop('ctx_b'), lambda e: e.pop('label'), lambda e: e.pop('endings'), lambda e: e.update(label=4),
    lambda e: e.update(label=-1), lambda e: e.update(label=True), lambda e: e.update(label='x'), lambda e: e.update(label=1.0),
    lambda e: e.update(label='²'), lambda e: e.update(label=''), lambda e: e.update(ctx=None),
    lambda e: e.update(endings=['a', 'b', 'c']), lambda e: e.update(endings='abcd'),
    lambda e: e.update(endings=['a', 'b', 'c', '']), lambda e: e.update(endings=['a', 'b', 'c', 4])])
def test_a_bad_example_is_one_line_that_names_it(tmp_path, change):
    bad = dict(EXAMPLE)
    change(bad)
    with pytest.raises(BadInput, match='is not an example of HellaSwag: .* and label .0 to 3') as error:
        hellaswag.load(write(tmp_path / 'a.jsonl', EXAMPLE, bad))
    assert f'{tmp_path / "a.jsonl"}, line 2' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('text, message', [('{"a"', 'line 1 is not JSON'), ('[1]', 'line 1 is not an example'),
                                           ('', 'no examples'), ('[' * 100_000, 'line 1 is not JSON')])
def test_a_file_of_something_else_is_refused(tmp_path, text, message):
    with pytest.raises(BadInput, match=message):
        hellaswag.load(write(tmp_path / 'a.jsonl', text))


def test_files_that_cannot_be_read_are_refused_by_name(tmp_path):
    (tmp_path / 'binary').write_bytes(b'\xff\xfe\x00')
    for name, message in (('missing', 'No such file'), ('.', 'Is a directory'), ('binary', 'binary, line 1 is not JSON')):
        with pytest.raises(BadInput, match=message):
            hellaswag.load(str(tmp_path / name))


@settings(deadline=None, max_examples=50)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(list(EXAMPLE)), x), max_leaves=8))
def test_no_json_value_gets_past_the_check_but_an_example(value):
    try:
        example = hellaswag.check_example(value, 'here')
    except BadInput as error:
        assert '\n' not in str(error)
    else:
        assert set(EXAMPLE) <= set(example) and example['label'] in range(4)


def test_an_ending_longer_than_the_models_context_is_refused(tokenizer):
    with pytest.raises(BadInput, match='ending of example 0 has .* tokens, which do not fit into a block_size of 8'):
        hellaswag.prepare([EXAMPLE], tokenizer, 8)


def test_one_example_has_no_standard_error(process, tokenizer):
    results = hellaswag.accuracies(make_model(), hellaswag.prepare([EXAMPLE], tokenizer, 160), process)
    assert math.isnan(results['acc_stderr'])


# ---- the script -------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tokenizer):
    """A model in Hugging Face's layout."""
    folder = tmp_path_factory.mktemp('model')
    pretrained.save(make_model(), str(folder), eot=tokenizer.eot)
    tokenizer.save(folder / 'tokenizer.json')
    return str(folder)


def run(folder, **changes):
    hellaswag.main(configure(hellaswag.DEFAULTS, [f'--{key}={value}' for key, value in
                                                  {'init_from': folder, 'device': 'cpu', **changes}.items()]))


@pytest.mark.slow
def test_two_processes_under_torchrun_give_the_figures_of_one(tmp_path, capsys, folder, examples):
    source = write(tmp_path / 'a.jsonl', *examples)
    run(folder, source=source, batch_size=4)
    settings = {'init_from': folder, 'source': source, 'batch_size': 4, 'device': 'cpu'}
    spread = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
                             ROOT / 'hellaswag.py', *[f'--{key}={value}' for key, value in settings.items()]],
                            capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert spread.returncode == 0, spread.stderr
    figures = [[line for line in text.splitlines() if '±' in line] for text in (capsys.readouterr().out, spread.stdout)]
    assert figures[0] == figures[1] and len(figures[0]) == 5


@pytest.mark.slow
def test_a_bad_source_is_one_line(tmp_path, folder):
    source = write(tmp_path / 'a.jsonl', {**EXAMPLE, 'label': 7})
    ended = subprocess.run([sys.executable, ROOT / 'hellaswag.py', f'--init_from={folder}', f'--source={source}'],
                           capture_output=True, text=True, timeout=240)
    assert (ended.returncode, ended.stdout) == (2, '')
    assert ended.stderr.startswith(f'hellaswag.py: {source}, line 1 is not an example') and ended.stderr.count('\n') == 1


def test_lm_eval_scores_200_real_examples_the_same_one_by_one(process, tmp_path, test_data):
    HFLM = pytest.importorskip('lm_eval.models.huggingface', reason='pip install lm-eval accelerate').HFLM
    import lm_eval
    from lm_eval.tasks import TaskManager
    tokenizer, folder = Tokenizer.gpt2(), str(tmp_path / 'model')
    model = make_model(vocab_size=50257, block_size=256)
    pretrained.save(model, folder, eot=tokenizer.eot)
    tokenizer.save(os.path.join(folder, 'tokenizer.json'))
    source = tmp_path / 'hellaswag_val.jsonl'
    source.write_text(''.join((test_data / 'hellaswag' / source.name).read_text().splitlines(keepends=True)[:200]))
    questions = hellaswag.prepare(hellaswag.load(str(source)), tokenizer, 256)
    results, asked = hellaswag.accuracies(model, questions, process), questions['harness']
    their_task = pathlib.Path(lm_eval.__file__).parent / 'tasks' / 'hellaswag'
    shutil.copy(their_task / 'utils.py', tmp_path)
    (tmp_path / 'task.yaml').write_text(
        f'include: {their_task / "hellaswag.yaml"}\ntask: from_a_file\ndataset_path: json\ntraining_split: null\n'
        f'validation_split: train\ndataset_kwargs: {{data_files: {source}}}\nprocess_docs: !function utils.process_docs\n'
        'metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_bytes}]\n')
    theirs = lm_eval.simple_evaluate(
        HFLM(pretrained=folder, device='cpu', dtype='float32', batch_size=8), tasks=['from_a_file'], log_samples=True,
        bootstrap_iters=100, task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False))
    ours = results['scores']['harness']
    samples = sorted(theirs['samples']['from_a_file'], key=lambda sample: sample['doc_id'])
    theirs_by_ending = torch.tensor([[answer[0][0] for answer in sample['resps']] for sample in samples], dtype=torch.float64)
    torch.testing.assert_close(ours, theirs_by_ending, atol=1e-3, rtol=0)
    for metric, divisor in asked.divisors.items():
        right = ((ours / divisor).numpy().argmax(axis=1) == asked.labels.numpy()).tolist()
        assert results[metric] == sum(right) / 200 and right == [bool(sample[metric]) for sample in samples]
        assert theirs['results']['from_a_file'][f'{metric},none'] == sum(right) / 200
        assert theirs['results']['from_a_file'][f'{metric}_stderr,none'] == pytest.approx(stats.sem(right))
