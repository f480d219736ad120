"""Generated word problems without end: questions, worked solutions with calculator calls, and answers, in GSM8K's form.

    python -m tasks.word_problems --split=test --n=5      # prints a few

    from tasks.word_problems import generate_problems
    for problem in itertools.islice(generate_problems('train', seed=0), 1000):
        problem['question'], problem['answer'], problem['kind']

A call is written `<<48/2=24>>24` in the solution, and the last line of the solution is `#### 24`. The same seed gives the same
problems on every machine. The two splits have nothing in common that a model could memorize:

- templates: each belongs to one split, and no question of one split equals a question of the other after names, things and
  numbers are taken out. In the stories this holds for every sentence; elsewhere both have short ones like "How many are left?";
- numbers: the first two digits of a number in a test question are in a range that no number of a training question has
  (`is_test_number`). Constants of a sentence, like the 2 in "twice", are written as words in both.

The templates and their format are in word_problem_templates.txt. This file knows nothing about tokens or models.
"""
import os
import random
import re
import string
from collections.abc import Iterator
from fractions import Fraction

from configurator import check_bounds, choice, configure
from runtime.errors import one_line_errors
from tasks.calculator import calculate

DEFAULTS = {
    'split': choice('train', 'test'),  # whose templates and numbers
    'seed': 0,  # of the first problem
    'n': 10,  # how many to print
}

# How often each kind is drawn, in relation to the others
KINDS = {'arithmetic': 3, 'equations': 2, 'counting': 6, 'money': 4, 'rates': 4, 'comparison': 4, 'parts': 4, 'units': 2}
TEST_DIGITS = {4, 7}  # numbers below 10
TEST_RANGES = (24, 27), (46, 49), (64, 67), (82, 85)  # first two digits of all other numbers
REPEATED = 0.15  # probability that the event before happens once more in a story
ATTEMPTS = 60  # to find numbers for a template

WOMEN = 'Anna Maria Lucy Emma Sara Nina Olga Ruth Grace Amina Mei Priya Clara Julia Zoe Fatima'.split()
MEN = 'Tom Ben Peter David Omar Ivan Paul Jack Noah Carlos Kenji Ravi Max Leo Hugo Samuel'.split()
PEOPLE = [(name, 'she', 'her', 'her') for name in WOMEN] + [(name, 'he', 'him', 'his') for name in MEN]
THINGS = [(f'{thing}s', thing) for thing in (
    'apple pear book pen sticker marble cookie stamp coin card egg flower balloon candle shell toy bead button orange lemon '
    'cup plate pencil bottle ticket chair lamp plant seed brick').split()]

OPTIONS = re.compile(r'\[([^\[\]]*)\]')
NUMBER_SLOT = re.compile(r'\{([a-z])\}')
CALL = re.compile(r'(\$?)<<([^<>]*)>>')
VARIABLE = re.compile(r'\b[a-wyz]\d*\b')  # x is the unknown of an equation
NUMERAL = re.compile(r'\d+(?:\.\d+)?')


def main(config):
    check_bounds(config, 'n', at_least=1)
    for _, problem in zip(range(config['n']), generate_problems(config['split'], config['seed'])):
        print(f'[{problem["kind"]}] {problem["question"]}\n{problem["answer"]}\n')


def generate_problems(split: str, seed: int = 0) -> Iterator[dict]:
    """Yields {'question', 'answer', 'kind'} without end; split is 'train' or 'test'."""
    rng = random.Random(f'{split} {seed}')
    while True:
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        problem = make_problem(choose_template(kind, rng, split), rng, split)
        if problem:
            yield {**problem, 'kind': kind}


def is_test_number(numeral):
    """Whether a numeral ('7', '245', '4.50') belongs to test questions, rather than to training questions."""
    digits = numeral.replace('.', '').lstrip('0')
    if len(digits) < 2:
        return digits != '' and int(digits) in TEST_DIGITS
    return any(low <= int(digits[:2]) <= high for low, high in TEST_RANGES)


# ---------------------------------------------------------------------------- templates

def read_templates(path):
    """{split: {kind: [(numbers, text, lines of the solution)]}} of a file in the format that its first lines explain."""
    templates = {'train': {}, 'test': {}}
    with open(path, encoding='utf-8') as file:
        _, *sections = re.split(r'^== ', file.read(), flags=re.MULTILINE)
    for section in sections:
        heading, *blocks = re.split(r'\n+(?=\S)', section.rstrip())  # a block is a line and the indented ones below it
        kind, split = heading.split(', ')
        templates[split][kind] = []
        for block in blocks:
            question, *rest = map(str.strip, block.split('\n'))
            templates[split][kind].append((rest[0].removeprefix('-') if rest else '', question, rest[1:]))
    return templates


TEMPLATES = read_templates(os.path.join(os.path.dirname(__file__), 'word_problem_templates.txt'))


def choose_template(kind, rng, split):
    if kind == 'arithmetic':
        return arithmetic_template(rng, TEMPLATES[split])
    if kind == 'counting':
        return story_template(rng, TEMPLATES[split])
    return rng.choice(TEMPLATES[split][kind])


def arithmetic_template(rng, templates):
    """An expression to work out, with two to four numbers."""
    _, question, _ = rng.choice(templates['arithmetic questions'])
    numbers, expression, _ = rng.choice(templates['arithmetic expressions'])
    shown = VARIABLE.sub(lambda variable: f'{{{variable[0]}}}', expression)
    return numbers, question.replace('EXPRESSION', shown), [f'<<{expression.replace(" ", "")}>>']


def story_template(rng, templates):
    """Someone has things, one to three things happen to them, and something is asked: one to four steps.

    The numbers of part i get the index i, so that n of the first event is n1.
    """
    n_events = rng.choice((1, 1, 2, 2, 3))
    parts = [rng.choice(templates['story openings'])]
    for i in range(n_events):
        parts.append(parts[-1] if i and rng.random() < REPEATED else rng.choice(templates['story events']))
    parts.append(rng.choice(templates['story questions']))
    numbers, sentences, solution = [], [], []
    for i, (part_numbers, text, steps) in enumerate(parts):
        names = {letter: f'{letter}{i}' for letter in string.ascii_lowercase}
        names |= {'s': f'r{len(solution)}' if solution else 'n0', 'r1': f'r{len(solution) + 1}'}
        numbers.append(insert(part_numbers, names))
        sentences.append(NUMBER_SLOT.sub(rf'{{\g<1>{i}}}', text))
        solution += [CALL.sub(lambda call: f'{call[1]}<<{insert(call[2], names)}>>', step) for step in steps]
    return ' '.join(numbers), ' '.join(sentences), solution


# ---------------------------------------------------------------------------- a template becomes a problem

def make_problem(template, rng, split):
    """{'question', 'answer'} of a template, or None if no suitable numbers were found for it."""
    numbers, question, solution = template
    words = choose_words(rng)
    question, solution = (choose_options(text, rng) for text in (question, '\n'.join(solution)))
    for _ in range(ATTEMPTS):
        values = draw_numbers(numbers, rng, split)
        text = question.format(**values, **words)
        if all(is_test_number(numeral) == (split == 'test') for numeral in NUMERAL.findall(text)):
            if answer := work_out(solution.format(**words), values):
                return {'question': text, 'answer': answer}
    return None


def choose_words(rng):
    """The people and things of one problem."""
    (name, he, him, his), (other, *_) = rng.sample(PEOPLE, 2)
    (items, item), (items2, item2) = rng.sample(THINGS, 2)
    return {'name': name, 'other': other, 'he': he, 'He': he.capitalize(), 'him': him, 'his': his, 'His': his.capitalize(),
            'items': items, 'item': item, 'items2': items2, 'item2': item2}


def choose_options(text, rng):
    return OPTIONS.sub(lambda options: rng.choice(options[1].split('|')), text)


def draw_numbers(numbers, rng, split):
    """{'n': '12', ...} for a text like 'n:2-99 p:money q:percent t=n*5': ranges, prices, percentages, computed ones."""
    values = {}
    for entry in numbers.split():
        name, sign, rule = re.match(r'(\w+)([:=])(.*)', entry).groups()
        values[name] = calculate(insert(rule, values)) if sign == '=' else draw_number(rule, rng, split)
    return values


def draw_number(rule, rng, split):
    """A numeral that belongs to the split, or else the last of ten that do not."""
    for _ in range(10):
        if rule == 'money':
            numeral = f'{rng.randint(1, 20)}.{rng.choice(("25", "50", "75", "20", "40"))}'
        elif rule == 'percent':
            numeral = str(5 * rng.randint(1, 19))
        else:
            low, high = map(int, rule.split('-'))
            if high >= 100 and low < 100 and rng.random() < 0.5:  # numbers of two and of three digits equally often
                high = 99
            numeral = str(rng.randint(low, high))
        if is_test_number(numeral) == (split == 'test'):
            break
    return numeral


def insert(expression, values):
    """An expression with the values, or other names, of its variables in their place."""
    return VARIABLE.sub(lambda variable: values[variable[0]], expression)


def work_out(solution, values):
    """The solution with every call filled in and the last result behind ####, or None if a result is not suitable."""
    results = {}  # r1, r2, ...

    def fill_in(call):
        dollar, expression = call[1], insert(call[2], values | results)
        result = calculate(expression)
        value = Fraction(result)
        if not 0 < value < 10**6 or (value * 100 if dollar else value).denominator != 1:  # whole, or in whole cents
            raise ValueError('not suitable')
        results[f'r{len(results) + 1}'] = result
        return f'{dollar}<<{expression}={result}>>{result}'

    try:
        return f'{CALL.sub(fill_in, solution)}\n#### {results[f"r{len(results)}"]}'
    except ValueError:  # also of an equation that every number solves, or none
        return None


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
