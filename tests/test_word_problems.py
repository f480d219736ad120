import itertools
import random
import re
from fractions import Fraction

import pytest

from tasks import word_problems
from tasks.calculator import calculate
from tasks.word_problems import TEMPLATES, generate_problems, is_test_number, make_problem

NUMERAL = re.compile(r'\d+(?:\.\d+)?')


def take(split, n, seed=0):
    return list(itertools.islice(generate_problems(split, seed), n))


def skeleton(text):
    """A question without what a template leaves open: numbers, people and their pronouns, things."""
    for word, stand_in in [*((person[0], 'NAME') for person in word_problems.PEOPLE),
                           *((thing, 'THINGS') for things in word_problems.THINGS for thing in things),
                           *((pronoun, 'THEY') for pronoun in ('he', 'she', 'him', 'her', 'his'))]:
        text = re.sub(rf'\b{word}\b', stand_in, text, flags=re.I if stand_in == 'THEY' else 0)
    return NUMERAL.sub('#', text)


def test_the_same_seed_gives_the_same_problems_another_seed_others():
    assert take('train', 20, 5) == take('train', 20, 5)
    assert take('train', 20, 5) != take('train', 20, 6)
    assert take('train', 20, 5) != take('test', 20, 5)


@pytest.mark.parametrize('split', ['train', 'test'])
def test_every_call_is_right_and_the_last_result_is_the_answer(split):
    for problem in take(split, 400):
        calls = re.findall(r'<<([^<>]*)=([^<>=]*)>>([\d./]*\d)', problem['answer'])
        assert calls and 1 <= len(calls) <= 8
        for expression, result, repeated in calls:
            assert calculate(expression) == result and repeated == result
        steps, answer = problem['answer'].split('\n#### ')
        assert answer == calls[-1][1] and Fraction(answer) > 0
        assert '{' not in problem['question'] + problem['answer'] and '[' not in problem['question']


@pytest.mark.parametrize('split', ['train', 'test'])
def test_numbers_of_a_solution_come_from_question_results_or_constants(split):
    constants = {'2', '3', '4', '7', '24', '60', '100', '1000'}
    for problem in take(split, 300):
        known = set(NUMERAL.findall(problem['question'])) | constants
        for expression, result in re.findall(r'<<([^<>]*)=([^<>=]*)>>', problem['answer']):
            assert set(NUMERAL.findall(expression)) <= known, problem
            known.add(result)


@pytest.mark.slow
def test_no_number_is_in_questions_of_both_splits():
    train, test = ({numeral for problem in take(split, 1500) for numeral in NUMERAL.findall(problem['question'])}
                   for split in ('train', 'test'))
    assert not train & test
    assert len(train) > 300 and len(test) > 150
    assert all(not is_test_number(numeral) for numeral in train) and all(map(is_test_number, test))


@pytest.mark.slow
def test_no_test_question_is_a_training_question_with_other_names():
    train, test = ({skeleton(problem['question']) for problem in take(split, n)}
                   for split, n in (('train', 6000), ('test', 1500)))
    assert len(train) > 1000 and len(test) > 100
    assert not train & test


@pytest.mark.slow
def test_no_sentence_is_in_stories_of_both_splits():
    def sentences(split, n):
        stories = [skeleton(problem['question']) for problem in take(split, n) if problem['kind'] == 'counting']
        return {sentence for story in stories for sentence in re.split(r'(?<=[.?]) ', story)}
    train, test = sentences('train', 6000), sentences('test', 1500)
    assert len(train) > 100 and len(test) > 15
    assert not train & test


def test_no_template_is_in_both_splits():
    assert TEMPLATES['train'].keys() == TEMPLATES['test'].keys()
    for kind in TEMPLATES['train'].keys() - {'arithmetic expressions'}:
        train, test = ({text for _, text, _ in TEMPLATES[split][kind]} for split in ('train', 'test'))
        assert not train & test, kind
        if kind in word_problems.KINDS:
            assert len(TEMPLATES['test'][kind]) >= 4 and len(TEMPLATES['train'][kind]) >= 12, kind


def test_every_template_can_be_filled():
    for split, kinds in TEMPLATES.items():
        for kind in kinds.keys() & word_problems.KINDS.keys():
            for template in kinds[kind]:
                rng = random.Random(0)
                assert any(make_problem(template, rng, split) for _ in range(200)), (kind, split, template)


def test_a_template_file_is_read_section_by_section(tmp_path):
    path = tmp_path / 'templates.txt'
    path.write_text('# a comment\n\n== money, train\nWhat do {n} {items} cost?\n    n:2-9 p:money\n    One is $<<p*1>>.\n    '
                    'All are $<<n*r1>>.\nWhat is left?\n\n== money, test\nHalf?\n    -\n    <<s/2>>\n')
    assert word_problems.read_templates(path) == {
        'train': {'money': [('n:2-9 p:money', 'What do {n} {items} cost?', ['One is $<<p*1>>.', 'All are $<<n*r1>>.']),
                            ('', 'What is left?', [])]},
        'test': {'money': [('', 'Half?', ['<<s/2>>'])]}}


def test_all_kinds_and_one_to_several_steps_occur():
    found = take('train', 1000)
    assert {problem['kind'] for problem in found} == set(word_problems.KINDS)
    assert {1, 2, 3, 4} <= {problem['answer'].count('<<') for problem in found}
    assert any('solve(' in problem['answer'] for problem in found) and any('$' in problem['question'] for problem in found)


@pytest.mark.parametrize('numeral, expected', [
    ('4', True), ('7', True), ('5', False), ('23', False), ('24', True), ('27', True), ('28', False), ('4.60', True),
    ('240', True), ('239', False), ('0.25', True), ('1000', False), ('8300', True)])
def test_a_numbers_first_two_digits_decide_its_split(numeral, expected):
    assert is_test_number(numeral) == expected
