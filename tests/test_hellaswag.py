import json
import math
import pathlib
import re
import subprocess
import sys

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

import hellaswag
import pretrained
from configurator import configure
from evals.measure import prepare, read_tasks, run
from evals.tasks import choose_tasks
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


@pytest.fixture
def ask(tmp_path, tokenizer):
    """ask(examples, task, block_size): the task as `run` takes it."""
    def ask(examples, task='hellaswag', block_size=160):
        source = write(tmp_path / 'a.jsonl', *examples)
        (prepared,) = prepare(read_tasks(choose_tasks(task), source), tokenizer, block_size)
        return prepared
    return ask


@pytest.mark.parametrize('block_size', [160, 64])
def test_every_log_probability_is_that_of_its_text_scored_alone(process, tokenizer, examples, ask, block_size):
    model = make_model(block_size=block_size)
    harness, completion = (run(ask(examples, task, block_size), model, process, batch_size=4)['examples']
                           for task in ('hellaswag', 'hellaswag_completion'))
    for i, example in enumerate(examples):
        context, endings = harness_words(example)
        for j in range(4):
            expected, _ = score_slowly(model, tokenizer, context, endings[j], joined=True)
            assert harness[i]['logprobs'][j] == pytest.approx(expected, abs=1e-3)
            expected, _ = score_slowly(model, tokenizer, example['ctx'], example['endings'][j], joined=False)
            assert completion[i]['logprobs'][j] == pytest.approx(expected, abs=1e-3)


def test_each_accuracy_divides_by_what_its_name_says(process, tokenizer, examples, ask):
    model = make_model()
    results = [run(ask(examples, task), model, process) for task in ('hellaswag', 'hellaswag_completion')]
    right = [{metric: [] for metric in metrics} for metrics in (('acc', 'acc_norm', 'acc_bytes', 'acc_token'), ('acc', 'acc_token'))]
    for example in examples:
        context, endings = harness_words(example)
        values = [score_slowly(model, tokenizer, context, ending, joined=True) for ending in endings]
        plain = [score_slowly(model, tokenizer, example['ctx'], ending, joined=False) for ending in example['endings']]
        for of_task, metric, scores in (
                (0, 'acc', [v for v, _ in values]), (0, 'acc_norm', [v / len(e) for (v, _), e in zip(values, endings)]),
                (0, 'acc_bytes', [v / len(e.encode()) for (v, _), e in zip(values, endings)]), (0, 'acc_token', [v / n for v, n in values]),
                (1, 'acc', [v for v, _ in plain]), (1, 'acc_token', [v / n for v, n in plain])):
            right[of_task][metric].append(scores.index(max(scores)) == example['label'])
    for found, expected in zip(results, right):
        for metric, of_metric in expected.items():
            assert found[metric] == pytest.approx(sum(of_metric) / len(examples))
            assert [example[metric] for example in found['examples']] == of_metric
            assert found[f'{metric}_stderr'] == pytest.approx(stats.sem(of_metric))
    assert len({tuple(of_metric) for of_metric in right[0].values()}) > 2, 'the metrics must not all be the same here'


@pytest.mark.parametrize('batch_size', [1, 5, 64])
def test_the_batch_size_changes_no_log_probability(process, examples, ask, batch_size):
    model, prepared = make_model(), ask(examples)
    expected, found = (run(prepared, model, process, batch_size=n)['examples'] for n in (16, batch_size))
    for one, other in zip(found, expected, strict=True):
        assert one['logprobs'] == pytest.approx(other['logprobs'], abs=1e-4)
        assert {**one, 'logprobs': 0} == {**other, 'logprobs': 0}


def test_a_stop_ends_it_and_leaves_the_model_in_the_mode_it_was_in(process, examples, ask):
    model = make_model().train()

    def stop():
        raise Stopped

    with pytest.raises(Stopped):
        run(ask(examples), model, process, batch_size=4, check_stop=stop)
    assert model.training


def test_a_context_that_the_clean_up_empties_is_a_new_document(tokenizer, ask):
    pairs = ask([{**EXAMPLE, 'activity_label': '[x', 'ctx_a': ']', 'ctx_b': ''}]).pairs
    assert [context for context, _ in pairs] == [[tokenizer.eot]] * 4
    assert tokenizer.decode(pairs[0][1]) == ' eats.'


def test_an_ending_longer_than_the_models_context_is_refused(ask):
    with pytest.raises(BadInput, match='a.jsonl, line 1: an ending has .* tokens, and should have at most 8, the longest context'):
        ask([EXAMPLE], block_size=8)


def test_one_example_has_no_standard_error(process, ask):
    assert math.isnan(run(ask([EXAMPLE]), make_model(), process)['acc_stderr'])


def write(path, *rows):
    path.write_text(''.join((row if isinstance(row, str) else json.dumps(row)) + '\n' for row in rows))
    return str(path)


# ---- the script -------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tokenizer):
    """A model in Hugging Face's layout."""
    folder = tmp_path_factory.mktemp('model')
    pretrained.save(make_model(), str(folder), eot=tokenizer.eot)
    tokenizer.save(folder / 'tokenizer.json')
    return str(folder)


def run_script(folder, **changes):
    hellaswag.main(configure(hellaswag.DEFAULTS, [f'--{key}={value}' for key, value in
                                                  {'init_from': folder, 'device': 'cpu', **changes}.items()]))


@pytest.mark.slow
def test_two_processes_under_torchrun_give_the_figures_of_one(tmp_path, capsys, folder, examples):
    source = write(tmp_path / 'a.jsonl', *examples)
    run_script(folder, source=source, batch_size=4)
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
    assert ended.stderr.startswith(f'hellaswag.py: {source}, line 1: label is 7, and should be') and ended.stderr.count('\n') == 1
