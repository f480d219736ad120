"""The part of the walk-through that the reader builds: the small GPT is GPT-2, page 0 says what the code prints, and the
exercises accept what is right and say what is wrong with what is not.

tests/course_mistakes/NAME.txt has wrong solutions of each exercise as a reader might write them. What the check should say
about one stands before it, behind `====`; what stands before all of them belongs to each.
"""
import collections
import doctest
import functools
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import pytest
import torch
from conftest import ROOT, run_script

import model as model_py
import optim
import shards
import train
from bpe import Tokenizer
from docs.course import by_hand, check, examine, sick_curves, tiny_gpt
from model import GPT, GPTConfig

COURSE = ROOT / 'docs/course'
PAGE = ROOT / 'docs/0_tiny_gpt.md'
NAMES = [name for names in check.PAGES.values() for name in names]


# ---- the small GPT --------------------------------------------------------------------------------------


def model_of_the_same_size():
    return GPT(GPTConfig(tiny_gpt.block_size, tiny_gpt.vocab_size, tiny_gpt.n_layer, tiny_gpt.n_head, tiny_gpt.n_embd))


@pytest.mark.parametrize('T', [1, 7, tiny_gpt.block_size])
def test_with_the_same_weights_the_small_gpt_has_the_logits_and_the_loss_of_model_py(T):
    torch.manual_seed(T)
    small, model = tiny_gpt.GPT(), model_of_the_same_size()
    for parameter in small.parameters():  # biases of 0 and norms of 1 would hide what is wrong with them
        parameter.data += 0.1 * torch.randn(parameter.shape)
    model.load_state_dict(small.state_dict())
    idx, targets = torch.randint(256, (2, 3, T))
    torch.testing.assert_close(small(idx), model(idx), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tiny_gpt.cross_entropy(small(idx), targets), model(idx, targets), rtol=1e-5, atol=1e-5)


def test_the_small_gpt_begins_as_model_py_does():
    torch.manual_seed(0)
    ours = model_of_the_same_size().state_dict()
    for name, parameter in tiny_gpt.GPT().state_dict().items():
        assert parameter.std().item() == pytest.approx(ours[name].std().item(), rel=0.05, abs=1e-9), name
        assert parameter.mean().item() == pytest.approx(ours[name].mean().item(), abs=1e-3), name


def test_the_small_gpt_has_at_most_150_lines_and_imports_nothing_of_this_repo():
    source = (COURSE / 'tiny_gpt.py').read_text()
    assert source.count('\n') <= 150
    assert set(re.findall(r'^(?:import|from) (\w+)', source, re.M)) == {'math', 'os', 'sys', 'torch'}


def test_no_token_of_a_batch_is_its_own_target_and_each_target_is_the_next_input():
    torch.manual_seed(0)
    x, y = tiny_gpt.get_batch(torch.arange(1000))
    assert x.shape == y.shape == (tiny_gpt.batch_size, tiny_gpt.block_size)
    assert (y == x + 1).all() and len(set(x[:, 0].tolist())) > 1


def test_a_short_run_of_a_smaller_one_learns_and_writes(tmp_path, monkeypatch, capsys):
    for name, value in dict(block_size=16, n_layer=1, n_head=2, n_embd=32, batch_size=8, warmup_steps=5).items():
        monkeypatch.setattr(tiny_gpt, name, value)
    torch.manual_seed(0)
    (tmp_path / 'input.txt').write_text('To be, or not to be, that is the question:\n' * 50)
    model, (train_tokens, val_tokens) = tiny_gpt.GPT(), tiny_gpt.read_tokens(tmp_path / 'input.txt')
    assert len(train_tokens) == 9 * len(val_tokens)
    tiny_gpt.train(model, train_tokens, val_tokens, max_steps=60)
    losses = [float(loss) for loss in re.findall(r'loss ([\d.]+) nats', capsys.readouterr().out)]
    assert abs(losses[0] - math.log(256)) < 0.05 and losses[1] < 3.5
    written = tiny_gpt.generate(model, b'To ', 30)
    assert len(written) == 33 and written.startswith(b'To ') and tiny_gpt.generate(model, b'To ', 30) != written


def test_without_a_text_the_small_gpt_says_what_it_needs(capsys):
    assert run_script('docs/course/tiny_gpt.py', 'no_such_file.txt') == 2
    assert capsys.readouterr().err.startswith('tiny_gpt.py needs a text file') and not capsys.readouterr().out


# ---- page 0 ---------------------------------------------------------------------------------------------


ON_LATER_PAGES = {'bpe': '1_tokenizer.md', 'encoding': '1_tokenizer.md', 'scores': '2_architecture.md', 'shares': '3_training.md',
                  'variance': '4_kernels.md', 'online': '4_kernels.md'}


def blocks(language):
    """The code blocks of page 0 in a language."""
    return re.findall(rf'^```{language}\n(.*?)^```', PAGE.read_text(), re.M | re.S)


def test_the_code_on_page_0_is_the_whole_program_in_its_order():
    lines = [line for block in blocks('python') for line in block.splitlines() if line]
    assert lines == [line for line in (COURSE / 'tiny_gpt.py').read_text().splitlines() if line]


def test_the_tables_on_page_0_are_what_the_command_prints_and_the_run_is_what_was_recorded(capsys):
    of_page_0 = [name for name in by_hand.PARTS if name not in ON_LATER_PAGES]
    assert run_script('docs/course/by_hand.py', ','.join(of_page_0)) == 0
    *tables, run = blocks('text')
    assert '\n'.join(tables) == capsys.readouterr().out
    assert run == (ROOT / 'bench_results/course/tiny_gpt.txt').read_text()


def test_the_worked_examples_of_later_pages_are_what_the_command_prints():
    for part, page in ON_LATER_PAGES.items():
        table = '\n'.join(by_hand.PARTS[part]())
        assert f'```text\n{table}\n```' in (ROOT / 'docs' / page).read_text()


def test_the_worked_merges_are_those_of_the_tokenizer():
    tokenizer = Tokenizer.train(['aaabdaaabac'], 260, progress=False)
    last = by_hand.bpe()[-1]
    assert tokenizer.encode('aaabdaaabac') == [int(i) for i in last.split('  ')[-1].split()] == [258, 67, 258, 64, 66]


def test_what_the_reader_types_on_page_0_gives_what_the_page_says():
    torch.manual_seed(0)
    lines = doctest.DocTestParser().get_doctest('\n'.join(blocks('pycon')), dict(vars(tiny_gpt)), 'page 0', None, 0)
    assert len(lines.examples) > 10
    assert doctest.DocTestRunner().run(lines).failed == 0


def test_every_decimal_number_in_the_text_of_page_0_is_printed_or_stands_in_the_code():
    text = re.sub(r'^```.*?^```', '', PAGE.read_text(), flags=re.M | re.S)
    printed = '\n'.join(line for part in by_hand.PARTS.values() for line in part())
    known = printed + ''.join((ROOT / name).read_text() for name in (
        'bench_results/course/tiny_gpt.txt', 'docs/course/tiny_gpt.py', 'docs/course/answers/gelu.py'))
    numbers = set(re.findall(r'(?<![\d.,])\d+\.\d+', text))
    assert len(numbers) > 15 and numbers <= set(re.findall(r'(?<![\d.])\d+\.\d+', known))


def test_a_row_that_is_read_in_blocks_has_the_sum_of_the_whole_row():
    *_, total = by_hand.online()[-1].split()
    assert float(total) == pytest.approx(torch.tensor([1.0, 2.0, 4.0]).sub(4).exp().sum().item(), abs=1e-4)


def test_the_parameters_that_page_2_counts_are_those_of_gpt2():
    formula = re.search(r'positions and a last norm: (.*?) = ([\d,]+)\.', ' '.join((ROOT / 'docs/2_architecture.md').read_text().split()))
    terms = formula[1].replace(',', '').replace('·', '*').replace('768²', '768**2')
    assert re.fullmatch(r'[\d +*()]+', terms)
    with torch.device('meta'):
        assert eval(terms) == int(formula[2].replace(',', '')) == GPT(GPTConfig()).n_params()


def test_the_tables_agree_with_pytorch():
    weight = torch.nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.AdamW([weight], lr=0.1, betas=(0.9, 0.95), weight_decay=0.1)
    for line in by_hand.adamw()[1:]:
        weight.grad = torch.tensor(float(line.split()[1]))
        optimizer.step()
        assert float(line.split()[-1]) == pytest.approx(weight.item(), abs=1e-4)
    numbers = [[float(cell) for cell in line[12:].replace('∞', 'inf').split()] for line in by_hand.attention()]
    q, k, v, *_, result = [torch.tensor(numbers[i:i + 3]) for i in (0, 3, 6, len(numbers) - 3)]
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


# ---- the exercises --------------------------------------------------------------------------------------


def test_each_exercise_has_its_four_files_and_is_named_on_its_page():
    for folder in (COURSE / 'exercises', COURSE / 'answers', COURSE / 'checks'):
        assert {path.stem for path in folder.glob('*.py')} - {'__init__'} == set(NAMES), folder
    assert {path.stem for path in (ROOT / 'tests/course_mistakes').glob('*.txt')} == set(NAMES)
    for page, names in check.PAGES.items():
        (path,) = (ROOT / 'docs').glob(f'{page}_*.md')
        section = path.read_text().split('\n## Exercises\n')[1]
        assert re.findall(r'`(\w+)`', section)[:len(names)] == list(names) and f'check {page}`' in section


def solutions(name):
    """{what it is: its text}: our solution, the exercise as it is delivered, and the wrong ones."""
    head, *pieces = re.split(r'^==== ', (ROOT / f'tests/course_mistakes/{name}.txt').read_text(), flags=re.M)
    delivered = subprocess.run(['git', '-C', ROOT, 'show', f'HEAD:docs/course/exercises/{name}.py'], capture_output=True, text=True)
    found = {'answer': (COURSE / f'answers/{name}.py').read_text(),
             'delivered': delivered.stdout or (COURSE / f'exercises/{name}.py').read_text()}
    return found | {words: head + text for words, text in (piece.split('\n', 1) for piece in pieces)}


@functools.cache
def verdicts(name):
    """{what it is: (whether the check finds it right, what it says in one line)} of all solutions of an exercise."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, text) in enumerate(solutions(name).items()):
            path = os.path.join(folder, f'{number}.py')
            pathlib.Path(path).write_text(text)
            is_right, lines = examine.examine(name, path, seconds=10)
            found[kind] = is_right, ' '.join(' '.join(lines).split())
    return found


@pytest.fixture(scope='module')
def verdicts_of():
    """`verdicts`, for which Triton's kernels run in a process of their own: the interpreter is chosen when Triton is imported."""
    run = subprocess.run([sys.executable, __file__, *check.IN_INTERPRETER], capture_output=True, text=True, cwd=ROOT,
                         env={**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': str(ROOT)})
    assert run.returncode == 0, run.stderr
    interpreted = json.loads(run.stdout)
    return lambda name: interpreted[name] if name in interpreted else verdicts(name)


@pytest.mark.parametrize('name', NAMES)
def test_the_answer_is_right(verdicts_of, name):
    is_right, said = verdicts_of(name)['answer']
    assert is_right and re.fullmatch(rf'{name}: right in \d+ cases', said)


@pytest.mark.parametrize('name', NAMES)
def test_an_exercise_as_it_is_delivered_is_said_to_be_not_filled_in(verdicts_of, name):
    is_right, said = verdicts_of(name)['delivered']
    assert not is_right and said.startswith(f'{name}: not filled in yet')


@pytest.mark.parametrize('name', NAMES)
def test_what_is_wrong_with_typical_wrong_solutions_is_named(verdicts_of, name):
    mistakes = {kind: verdict for kind, verdict in verdicts_of(name).items() if kind not in ('answer', 'delivered')}
    assert len(mistakes) >= 3
    for words, (is_right, said) in mistakes.items():
        assert not is_right and words in said, said
        assert re.match(rf'{name}: wrong in case \d+ of \d+: ', said)


@pytest.mark.parametrize('name', [name for name in NAMES if name not in check.IN_INTERPRETER])
def test_each_fault_that_a_check_knows_is_wrong_and_is_named_where_a_function_has_it(name):
    part = examine.load_check(name)
    right, tolerance = examine.results_of(part, part.expected), getattr(part, 'TOLERANCE', examine.TOLERANCE)
    for words, faulty in part.FAULTS.items():
        assert examine.find_fault(part, right, examine.results_of(part, faulty), tolerance) == words
    assert len(part.HINTS) == 2


# ---- what a reader does besides -------------------------------------------------------------------------


def said_about(tmp_path, text, name='merge', seconds=10.0):
    path = tmp_path / f'{name}.py'
    path.write_text(text)
    is_right, lines = examine.examine(name, str(path), seconds)
    assert not is_right
    return ' '.join(' '.join(lines).split())


@pytest.mark.parametrize('text, said', [
    ('def merge(ids, pair, new):\n    return ids[99]\n', 'merge.py raises IndexError: list index out of range'),
    ('def merge(ids, pair, new):\n    return ids[99]\n', 'line 2 of '),
    ('def merge(ids, pair, new)\n    return ids\n', 'line 1 of '),
    ('def merge(ids, pair, new)\n    return ids\n', "raises SyntaxError: expected ':'"),
    ('def merged(ids, pair, new):\n    return ids\n', 'there is no function merge in this file'),
    ('def merge(ids, pair):\n    return ids\n', 'raises TypeError: merge() takes 2 positional arguments but 3 were given'),
    ('exit()\n', 'line 1 of'),
    ('def merge(ids, pair, new):\n    raise SystemExit\n', 'line 2 of'),
    ('import no_such_module\n', "raises ModuleNotFoundError: No module named 'no_such_module'"),
])
def test_a_solution_that_fails_gives_a_clear_line(tmp_path, text, said):
    assert said in said_about(tmp_path, text)


@pytest.mark.parametrize('text', [
    'def merge(ids, pair, new):\n    while True:\n        pass\n',
    'def merge(ids, pair, new):\n    while True:\n        try:\n            1 / 0\n        except Exception:\n            pass\n',
    'while True:\n    pass\n'])
def test_a_solution_that_does_not_end_is_ended_and_said_to_be_so(tmp_path, text):
    assert 'it took more than 0.2 seconds; is there a loop that does not end?' in said_about(tmp_path, text, seconds=0.2)


def test_who_waited_for_one_case_does_not_wait_for_the_others(tmp_path):
    calls = tmp_path / 'calls'
    text = f'def calculate(expression):\n    open({str(calls)!r}, "a").write("x")\n    while True:\n        pass\n'
    assert 'wrong in case 1 of 24' in said_about(tmp_path, text, 'calculate', seconds=0.2)
    assert calls.read_text() == 'x'


@pytest.mark.parametrize('name, text, said', [
    ('merge', 'def merge(ids, pair, new):\n    ids = list(ids)\n', 'there is no `return`'),
    ('gelu', 'def gelu(x):\n    return x.tolist()\n', 'expected a tensor of shape (5,), got a list'),
    ('gelu', 'def gelu(x):\n    return x[None]\n', 'expected a tensor of shape (5,), got one of shape (1, 5)'),
    ('gelu', 'def gelu(x):\n    return 0 * x + float("nan")\n', 'got nan'),
    ('count_pairs', 'def count_pairs(words):\n    return {}\n', 'the key (5, 6) is missing'),
    ('encode', 'def encode(ids, merges):\n    return ids\n', 'given [1, 2, 3], [(1, 2)] expected [256, 3] got [1, 2, 3]'),
    ('initial_std', 'def initial_std(name, n_layer):\n    return "0.02"\n', "expected 0.02, got '0.02'"),
])
def test_a_result_of_another_kind_is_described(tmp_path, name, text, said):
    assert said in said_about(tmp_path, text, name)


def test_a_fault_is_not_named_where_something_else_is_wrong(tmp_path):
    said = said_about(tmp_path, 'def attention(q, k, v):\n    return 2 * v\n', 'attention')
    assert 'expected' in said and 'likely' not in said


def test_the_command_lists_all_exercises_with_what_they_ask_for(capsys):
    assert run_script('docs.course.check') == 0
    listed = capsys.readouterr().out
    lines = [line.split(maxsplit=1) for line in listed.splitlines() if line.startswith('  ')]
    assert [name for name, _ in lines] == NAMES
    assert all(20 < len(text) < 130 and text[-1].isalnum() for _, text in lines)
    assert collections.Counter(text for _, text in lines).most_common(1)[0][1] == 1


def test_the_command_checks_a_file_or_a_page_and_ends_with_an_exit_code(tmp_path, capsys):
    (tmp_path / 'parse_call.py').write_text('def parse_call(text):\n    return text\n')
    assert run_script('docs.course.check', 'parse_call', f'--file={tmp_path / "parse_call.py"}') == 1
    assert 'wrong in case 1' in capsys.readouterr().out
    assert run_script('docs.course.check', '7', '--file=docs/course/answers') == 0
    assert [line.split(':')[0] for line in capsys.readouterr().out.splitlines()] == list(check.PAGES[7])
    for number in ('1', '2'):
        assert run_script('docs.course.check', 'attention', f'--hint={number}') == 0
    first, second = re.split(r'\n(?=attention:)', capsys.readouterr().out.strip())
    assert first != second and 'masked_fill' in second and 'masked_fill' not in first


@pytest.mark.parametrize('arguments, said', [
    (['atention'], 'no exercise atention; `python -m docs.course.check` lists them'),
    (['8'], 'no exercise 8;'),
    (['merge', '--file=no_such.py'], 'no file no_such.py; --file should be a file with the function merge'),
    (['merge', '--hint=3'], 'hint=3 should be at least 0 and at most 2'),
])
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(capsys, arguments, said):
    assert run_script('docs.course.check', *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1


# ---- the sick curves ------------------------------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch):
    """broken(case) makes the mistake of a sick curve; the test's end takes it back."""
    for owner, name in ((shards.BatchLoader, 'next'), (model_py.CausalSelfAttention, 'causal_attention'),
                        (optim.Optimizers, 'step_if_finite'), (train, 'MAX_SKIPPED_STEPS')):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    return lambda case: sick_curves.CASES[case][2]()


def test_a_loader_with_a_mistake_gives_what_the_sick_curve_is_called_after(broken, data_dir, monkeypatch):
    def batches(n):
        loader = shards.BatchLoader(data_dir, 'train', 16, 8, seed=1)
        return [loader.next() for _ in range(n)]
    (x, y), *rest = batches(10)
    with monkeypatch.context() as context:
        context.setattr(shards.BatchLoader, 'next', shards.BatchLoader.next)
        broken('repeated')
        again = batches(10)
        assert torch.equal(again[8][0], x) and torch.equal(again[9][0], rest[0][0]) and not torch.equal(rest[7][0], x)
    with monkeypatch.context() as context:
        context.setattr(shards.BatchLoader, 'next', shards.BatchLoader.next)
        broken('unshifted')
        assert torch.equal(*batches(1)[0])
    broken('unrelated')
    same_x, other_y = batches(1)[0]
    assert torch.equal(same_x, x) and torch.equal(other_y[1:], y[:-1]) and not torch.equal(other_y, y)


def test_attention_that_sees_the_future_changes_earlier_logits_with_a_later_token(broken):
    model = model_of_the_same_size().eval()
    idx = torch.randint(256, (1, 8))
    changed = idx.clone()
    changed[0, -1] = (idx[0, -1] + 1) % 256
    assert torch.equal(model(idx)[0, :-1], model(changed)[0, :-1])
    broken('future')
    assert not torch.isclose(model(idx)[0, :-1], model(changed)[0, :-1]).all(dim=-1).any()


def test_the_picture_of_the_sick_curves_is_drawn_of_finished_runs_without_making_them_again(tmp_path, capsys):
    for case in sick_curves.CASES:
        (tmp_path / case).mkdir()
        (tmp_path / case / 'metrics.jsonl').write_text(''.join(
            json.dumps({'step': step, 'tokens': step, 'loss': 5 / step, 'val_loss': 6 / step}) + '\n' for step in range(1, 601)))
    assert run_script('docs/course/sick_curves.py', f'--out_dir={tmp_path}') == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 1 + len(sick_curves.CASES) + 1
    assert table[1].split()[-1] == f'{6 / 600:.3f}' and table[-1] == str(tmp_path / 'sick_curves.png')
    assert (tmp_path / 'sick_curves.png').read_bytes().startswith(b'\x89PNG')


if __name__ == '__main__':
    print(json.dumps({name: verdicts(name) for name in sys.argv[1:]}))
