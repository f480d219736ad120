"""Rows: every published form is read, and what is wrong with one is said in a line that names it."""
import json

import pytest
from conftest import run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from published_rows import MADE
from test_evaluate import PIQA, model_folder, write_rows  # noqa: F401

from evals import questions
from evals.measure import read_tasks
from evals.rows import Row, book_tests
from evals.tasks import ALL, Task, choose_tasks
from runtime.errors import BadInput


def read(task, path, **options):
    (asked,) = read_tasks(choose_tasks(task), str(path), **options)
    return asked


@pytest.mark.parametrize('task', MADE)
def test_a_row_in_the_published_form_is_a_question(task, tmp_path):
    asked = read(task, write_rows(tmp_path / 'a.jsonl', [MADE[task][0](i) for i in range(4)]))
    assert len(asked.parts) == 4 and all(len(question.endings) + len(question.contexts) > 1 for question in asked.parts)
    if MADE[task][1]:
        assert read(task, write_rows(tmp_path / 'b.jsonl', [MADE[task][1](i) for i in range(4)])).parts == asked.parts


NOT_NEEDED = {'id', 'ind', 'qID', 'title', 'idx'}


@pytest.mark.parametrize('task, field', [(task, field) for task in MADE for field in MADE[task][0](1) if field not in NOT_NEEDED])
@pytest.mark.parametrize('value', [None, '', ' ', 7, [], ['a'], {}, True])
def test_a_field_that_is_missing_or_wrong_is_one_line_that_names_row_and_field(task, field, value, tmp_path):
    good, bad = MADE[task][0](0), MADE[task][0](1)
    if value is True and isinstance(bad[field], bool) or field in ('ctx_a', 'ctx_b') and value in ('', ' '):
        return
    bad = {key: one for key, one in bad.items() if key != field} if value is None else {**bad, field: value}
    path = write_rows(tmp_path / 'a.jsonl', [good, bad], labels=['0'] if field == 'label' and task in ('piqa', 'siqa') else None)
    with pytest.raises(BadInput) as error:
        read(task, path)
    assert 'line 2' in str(error.value) and '\n' not in str(error.value)
    assert field in str(error.value) or field in ('question', 'question_stem', 'answer')


@pytest.mark.parametrize('task, value', [('piqa', 2), ('piqa', -1), ('piqa', 1.0), ('piqa', '²'), ('siqa', 0), ('siqa', '4'), ('hellaswag', 4),
                                         ('copa', 'x'), ('boolq', 2)])
def test_a_label_out_of_range_is_refused(task, value, tmp_path):
    bad = {**MADE[task][0](1), ('answer' if task == 'boolq' else 'label'): value}
    with pytest.raises(BadInput, match='a.jsonl, line 1: (label|answer) is .*, and should be'):
        read(task, write_rows(tmp_path / 'a.jsonl', [bad]))


def test_labels_that_stand_beside_the_rows_are_theirs(tmp_path):
    asked = read('piqa', write_rows(tmp_path / 'dev.jsonl', PIQA, [0, 1, 1] * 4))
    assert [question.label for question in asked.parts] == [0, 1, 1] * 4
    assert [question.label for question in read('piqa', tmp_path / 'dev.jsonl', limit=2).parts] == [0, 1]


@pytest.mark.parametrize('labels, message', [
    (None, 'dev.jsonl, line 1 has no label, and there is no file .*dev-labels.lst'), ([0, 1], 'dev-labels.lst has 2 labels, and .*line 3'),
    ([0] * 13, 'has 13 labels for the 12 rows'), ([0, 5] * 6, 'dev.jsonl, line 2: label is .5., and should be'),
    ([''] * 12, 'dev.jsonl, line 1: label')])
def test_labels_that_do_not_fit_the_rows_are_refused(tmp_path, labels, message):
    with pytest.raises(BadInput, match=message):
        read('piqa', write_rows(tmp_path / 'dev.jsonl', PIQA, labels))


@pytest.mark.parametrize('text, message', [('{"a"', 'line 1 is not JSON'), ('[1]', 'line 1 should be an object'),
                                           ('', 'no rows of hellaswag'), ('[' * 100_000, 'line 1 is not JSON')])
def test_a_file_of_something_else_is_refused(tmp_path, text, message):
    with pytest.raises(BadInput, match=message):
        read('hellaswag', write_rows(tmp_path / 'a.jsonl', [text]))


def test_files_that_cannot_be_read_are_refused_by_name(tmp_path):
    (tmp_path / 'binary').write_bytes(b'\xff\xfe\x00')
    for name, message in (('missing', 'no file or folder'), ('.', 'no file for piqa'), ('binary', 'binary, line 1 is not JSON')):
        with pytest.raises(BadInput, match=message):
            read('piqa', tmp_path / name)


@settings(deadline=None, max_examples=100)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(sorted({field for made, _ in MADE.values() for field in made(0)})), x), max_leaves=8))
def test_no_json_value_gets_past_the_checks_but_a_question(value):
    for name, task in ALL.items():
        if isinstance(task, Task):
            try:
                question = task.ask(Row('here', value))
            except BadInput as error:
                assert '\n' not in str(error) and 'here' in str(error)
            else:
                assert all(question.endings) and question.label in range(question.n_choices), name


def test_childrens_books_are_read_from_blocks_of_21_lines(tmp_path):
    lines = [f'{i} It was the `` {i} \'\' day .' for i in range(1, 21)] + ["21 `` XXXXX is n't here , '' he said .\tAlice\t\tAlice|Bob|queen"]
    path = tmp_path / 'cbtest_CN_valid_2000ex.txt'
    path.write_text('\n'.join(lines) + '\n\n' + '\n'.join(lines) + '\n')
    (_, row), _ = book_tests(str(path))
    assert len(row['sentences']) == 20 and row['options'] == ['Alice', 'Bob', 'queen']
    first, second = read('cbt_cn', path).parts
    assert first == second and first.label == 0
    assert first.contexts[0].endswith('It was the "20" day.') and first.endings == [f'"{name} isn\'t here," he said.' for name in row['options']]
    path.write_text('\n'.join(lines[:7]))
    with pytest.raises(BadInput, match='line 1 begins a question that the file does not end'):
        read('cbt_cn', path)
    path.write_text('\n'.join(lines[1:]))
    with pytest.raises(BadInput, match="line 1 is not of the Children's Book Test; it should have the number 1"):
        read('cbt_cn', path)


def test_passages_come_from_plain_text_or_json_lines(tmp_path):
    (tmp_path / 'a.txt').write_text('she said hello\r\n\nhe left\r\n')
    write_rows(tmp_path / 'a.jsonl', [{'text': 'she said hello'}, {'text': 'he left'}])
    asked = read('lambada_standard', tmp_path / 'a.txt')
    assert asked.parts == read('lambada', tmp_path / 'a.jsonl').parts == [
        questions.ask('she said', ['hello'], 0), questions.ask('he', ['left'], 0)]
    for text in ('', 'one', 'two words ', ' a'):
        with pytest.raises(BadInput, match='line 1: text'):
            read('lambada', write_rows(tmp_path / 'b.jsonl', [{'text': text}]))


def test_examples_in_a_prompt_are_other_rows_with_their_answers(tmp_path):
    asked = read('piqa@2', write_rows(tmp_path / 'dev.jsonl', PIQA, [0, 1] * 6), limit=5)
    answered = {f'Question: {row["goal"]}\nAnswer: {row[f"sol{1 + i % 2}"]}' for i, row in enumerate(PIQA)}
    for i, question in enumerate(asked.parts):
        *examples, own = question.contexts[0].split('\n\n')
        assert len(set(examples)) == 2 and set(examples) <= answered and own == f'Question: {PIQA[i]["goal"]}\nAnswer:'
        assert not any(example.startswith(own) for example in examples)
    with pytest.raises(BadInput, match='shots=12 should be less: the examples of piqa@12 are drawn from 12 rows'):
        read('piqa@12', tmp_path / 'dev.jsonl')


def test_the_script_ends_with_2_and_one_line_and_writes_nothing(tmp_path, capsys, model_folder):  # noqa: F811
    path = write_rows(tmp_path / 'dev.jsonl', [*PIQA, {**PIQA[0], 'sol2': ''}], [1] * 13)
    code = run_script('evaluate.py', f'--init_from={model_folder}', '--tasks=piqa', f'--source={path}', f'--json={tmp_path / "a.json"}')
    found = capsys.readouterr()
    assert (code, found.out) == (2, '') and found.err == f'evaluate.py: {path}, line 13: sol2 is empty, and should be a text that is not empty\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['dev-labels.lst', 'dev.jsonl']
    write_rows(tmp_path / 'dev.jsonl', [*PIQA, {**PIQA[0], 'sol2': 'word ' * 500}], [1] * 13)
    assert run_script('evaluate.py', f'--init_from={model_folder}', '--tasks=piqa', f'--source={path}', f'--json={tmp_path / "a.json"}') == 2
    assert f'{path}, line 13: an ending has' in capsys.readouterr().err and not (tmp_path / 'a.json').exists()
    assert json.loads((tmp_path / 'dev.jsonl').read_text().splitlines()[0]) == PIQA[0]
