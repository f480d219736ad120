"""Word problems without end: questions, worked solutions with calculator calls, and answers, in GSM8K's form.

    python word_problems.py --split=test --n=5            # look at some

    from tasks.word_problems import problems
    for problem in itertools.islice(problems('train', seed=0), 1000):
        problem['question'], problem['answer'], problem['kind']

A call stands in the solution as `<<48/2=24>>24`, and its last line is `#### 24`. The same seed gives the same problems on
every machine. The two splits have nothing to learn by heart in common:

- templates: each belongs to one split, and no question of one split is, but for names, things and numbers, one of the
  other. In the stories (`counting`) that goes for every sentence; elsewhere short ones like "How many are left?" are in both;
- numbers: a number of a test question has its first two digits in a range that no number of a training question has
  (`is_test_number`); constants of a sentence, like the 2 in "twice", are words in both.

Templates are data, at the end of this file: `[a|b]` is one of several words, `{n}` a number or a noun, and `<<n*p>>` in a
solution becomes the call with its result; r1, r2, ... are the results so far. Numbers are drawn until every result is
positive and whole, or in whole cents behind a dollar sign. This file knows nothing about tokens or models.
"""
import random
import re
from fractions import Fraction

from tasks.calculator import calculate
from configurator import choice, configure
from runtime.errors import BadInput, one_line_errors

DEFAULTS = {
    'split': choice('train', 'test'),  # whose templates and numbers
    'seed': 0,  # of the first problem
    'n': 10,  # how many to print
}

TEST_DIGITS = {4, 7}  # numbers below 10
TEST_RANGES = (24, 27), (46, 49), (64, 67), (82, 85)  # first two digits of the others

REPEATED = 0.15  # of what happens in a story is what happened just before, once more

OPTIONS = re.compile(r'\[([^\[\]]*)\]')
SLOT = re.compile(r'\{(\w+)\}')
CALL = re.compile(r'(\$?)<<([^<>]*)>>')
VARIABLE = re.compile(r'\b[a-wyzr]\d*\b')  # x is the unknown of an equation
NUMERAL = re.compile(r'\d+(?:\.\d+)?')


def problems(split, seed=0):
    """Yields {'question', 'answer', 'kind'} without end; split is 'train' or 'test'."""
    rng = random.Random(f'{split} {seed}')
    kinds = list(KINDS)
    weights = [KINDS[kind][0] for kind in kinds]
    while True:
        kind = rng.choices(kinds, weights)[0]
        template = KINDS[kind][1](rng, split)
        problem = fill(template, rng, split)
        if problem:
            yield {**problem, 'kind': kind}


def is_test_number(numeral):
    """Whether a numeral ('7', '245', '4.50') may stand in test questions, rather than in those of training."""
    digits = numeral.replace('.', '').lstrip('0')
    if len(digits) < 2:
        return digits != '' and int(digits) in TEST_DIGITS
    return any(low <= int(digits[:2]) <= high for low, high in TEST_RANGES)


def fill(template, rng, split, attempts=60):
    """A template (numbers, question, solution) as a problem, or None when no numbers were found for it."""
    numbers, question, solution = template
    words = draw_words(rng)
    question, solution = (choose_options(text, rng) for text in (question, solution))
    for _ in range(attempts):
        values = draw_numbers(numbers, rng, split)
        text = question.format(**values, **words)
        if any(is_test_number(numeral) != (split == 'test') for numeral in NUMERAL.findall(text)):
            continue
        worked = work_out(solution, values)
        if worked:
            lines, result = worked
            return {'question': text, 'answer': f'{SLOT.sub(lambda slot: words[slot[1]], lines)}\n#### {result}'}
    return None


def draw_words(rng):
    """The people and things of one problem."""
    (name, he, him, his), (other, *_) = rng.sample(PEOPLE, 2)
    things, others = rng.sample(THINGS, 2)
    return {'name': name, 'other': other, 'he': he, 'He': he.capitalize(), 'him': him, 'his': his, 'His': his.capitalize(),
            'items': things[0], 'item': things[1], 'items2': others[0], 'item2': others[1]}


def choose_options(text, rng):
    return OPTIONS.sub(lambda options: rng.choice(options[1].split('|')), text)


def draw_numbers(numbers, rng, split):
    """{'n': '12', ...} for a text like 'n:2-99 p:money q:percent t=n*5': ranges, prices, percentages, computed ones."""
    values = {}
    for entry in numbers.split():
        name, sign, rule = re.match(r'(\w+)([:=])(.*)', entry).groups()
        if sign == '=':
            values[name] = calculate(insert(rule, values))
        elif rule == 'money':
            values[name] = draw(rng, split, lambda: f'{rng.randint(1, 20)}.{rng.choice(("25", "50", "75", "20", "40"))}')
        elif rule == 'percent':
            values[name] = draw(rng, split, lambda: str(5 * rng.randint(1, 19)))
        else:
            low, high = map(int, rule.split('-'))
            values[name] = draw(rng, split, lambda: str(number_between(low, high, rng)))
    return values


def number_between(low, high, rng):
    """Small and large numbers equally often, by their length in digits."""
    if high >= 100 and low < 100 and rng.random() < 0.5:
        high = 99
    return rng.randint(low, high)


def draw(rng, split, numeral):
    """A numeral of the split, or the last of ten that were not."""
    for _ in range(10):
        value = numeral()
        if is_test_number(value) == (split == 'test'):
            break
    return value


def insert(expression, values):
    return VARIABLE.sub(lambda variable: values[variable[0]], expression)


def work_out(solution, values):
    """(solution with every call filled in, the last result), or None if a result is not as it should be."""
    values = dict(values)
    pieces, end, result = [], 0, None
    for number, call in enumerate(CALL.finditer(solution), 1):
        expression = insert(call[2], values)
        try:
            result = calculate(expression)
        except ValueError:  # an equation that every number solves, or none
            return None
        if not is_nice(result, money=call[1] == '$'):
            return None
        values[f'r{number}'] = result
        pieces += [solution[end:call.start()], f'{call[1]}<<{expression}={result}>>{result}']
        end = call.end()
    return ''.join(pieces) + solution[end:], result


def is_nice(result, money):
    value = Fraction(result)
    return 0 < value < 10**6 and (value * 100 if money else value).denominator == 1


# ---------------------------------------------------------------------------- kinds of problems

def from_list(kind):
    return lambda rng, split: rng.choice(TEMPLATES[kind][split])


def arithmetic(rng, split):
    """An expression to work out, with two to four numbers."""
    question = rng.choice(ARITHMETIC_QUESTIONS[split])
    numbers, expression = rng.choice(ARITHMETIC_EXPRESSIONS[split])
    return numbers, question.replace('EXPRESSION', VARIABLE.sub(lambda v: f'{{{v[0]}}}', expression)), \
        f'<<{expression.replace(" ", "")}>>'


def counting(rng, split):
    """Someone has things, one to three things happen to them, and something is asked: one to four steps."""
    openers, events, questions = STORY[split]
    n_events = rng.choice((1, 1, 2, 2, 3))
    numbers, told = ['s:10-900'], [rng.choice(openers).replace('{n}', '{s}')]
    amount, worked = 's', []
    for i in range(n_events):
        event = event if i and rng.random() < REPEATED else rng.choice(events)
        rule, text, steps = event
        numbers.append(rule.replace('n:', f'n{i}:').replace('q:', f'q{i}:'))
        told.append(re.sub(r'\{([nq])\}', rf'{{\g<1>{i}}}', text))
        for step in steps:
            step = re.sub(r'\bs\b', amount, re.sub(r'\b([nq])\b(?=[^{}]*>>)', rf'\g<1>{i}', step))
            step = re.sub(r'\blast\b', f'r{len(worked)}', step)
            worked.append(step)
        amount = f'r{len(worked)}'
    rule, text, steps = rng.choice(questions)
    numbers.append(rule)
    told.append(text)
    worked += [step.replace('<<s', f'<<{amount}') for step in steps]
    return ' '.join(numbers), ' '.join(told), '\n'.join(worked)


KINDS = {  # share of all problems, and where their templates come from
    'arithmetic': (3, arithmetic),
    'equations': (2, from_list('equations')),
    'counting': (6, counting),
    'money': (4, from_list('money')),
    'rates': (4, from_list('rates')),
    'comparison': (4, from_list('comparison')),
    'parts': (4, from_list('parts')),
    'units': (2, from_list('units')),
}

SHE, HE = ('she', 'her', 'her'), ('he', 'him', 'his')
PEOPLE = [(name, *SHE) for name in (
    'Anna', 'Maria', 'Lucy', 'Emma', 'Sara', 'Nina', 'Olga', 'Ruth', 'Grace', 'Amina', 'Mei', 'Priya', 'Clara', 'Julia',
    'Zoe', 'Fatima')]
PEOPLE += [(name, *HE) for name in (
    'Tom', 'Ben', 'Peter', 'David', 'Omar', 'Ivan', 'Paul', 'Jack', 'Noah', 'Carlos', 'Kenji', 'Ravi', 'Max', 'Leo',
    'Hugo', 'Samuel')]
THINGS = [(word, word[:-1]) for word in (
    'apples', 'pears', 'books', 'pens', 'stickers', 'marbles', 'cookies', 'stamps', 'coins', 'cards', 'eggs', 'flowers',
    'balloons', 'candles', 'shells', 'toys', 'beads', 'buttons', 'oranges', 'lemons', 'cups', 'plates', 'pencils',
    'bottles', 'tickets', 'chairs', 'lamps', 'plants', 'seeds', 'bricks')]

ARITHMETIC_QUESTIONS = {
    'train': ['What is EXPRESSION?', 'Calculate EXPRESSION.', 'How much is EXPRESSION?', 'Find EXPRESSION.',
              '{name} wants to know [what|how much] EXPRESSION is.', 'Compute the value of EXPRESSION.',
              'What [number is|does] EXPRESSION [make|give]?', 'Find the value of EXPRESSION.', '{name} wants to [find|calculate] EXPRESSION.',
              'How much [do|does] EXPRESSION [give|make in all]?', 'What is the result of EXPRESSION?'],
    'test': ['{name} wants to find the value of EXPRESSION.', 'What is the value of EXPRESSION?',
             'How much does EXPRESSION make?'],
}
ARITHMETIC_EXPRESSIONS = {
    'train': [('a:2-999 b:2-999', 'a + b'), ('a:2-999 b:2-999', 'a - b'), ('a:2-99 b:2-99', 'a * b'),
              ('b:2-30 q:2-60 a=b*q', 'a / b'), ('a:2-99 b:2-99 c:2-99', 'a + b * c'), ('a:2-99 b:2-99 c:2-99', 'a * b + c'),
              ('a:2-99 b:2-99 c:2-99', 'a * b - c'), ('a:2-99 b:2-99 c:2-30', '(a + b) * c'),
              ('a:2-999 b:2-999 c:2-999', 'a + b + c'), ('a:2-999 b:2-99 c:2-99', 'a - b - c'),
              ('a:2-999 b:2-99 c:2-99', 'a + b - c'), ('a:2-30 b:2-30 c:2-30', 'a * b * c'),
              ('a:2-30 b:2-30 c:2-99 d:2-99', 'a * b + c - d'), ('a:2-99 b:2-99 c:2-30 d:2-30', '(a + b) * (c + d)'),
              ('a:2-99 b:2-30 c:2-30', 'a * (b - c)'), ('a:2-99 b:2-30 c:2-30', '(a - b) / c'), ('a:2-99 b:2-99 c:2-99', 'a - (b + c)'),
              ('a:2-99 b:2-99 c:2-99', 'a + (b - c)'), ('a:2-99 b:2-30 c:2-30 d:2-30', 'a + b * c + d'),
              ('a:2-999 b:2-30 c:2-30', 'a - b * c'), ('a:2-30 b:2-30 c:2-30', '(a + b) / c'), ('a:2-99 b:2-30 c:2-30 d:2-99', 'a - b * c + d'),
              ('a:2-30 b:2-30 c:2-99 d:2-99', 'a * b - c + d'), ('a:2-999 b:2-99 c:2-99 d:2-99', 'a + b - c + d'),
              ('a:2-999 b:2-99 c:2-99 d:2-99', 'a - b - c + d'), ('a:2-99 b:2-30 c:2-99 d:2-30', 'a * b + c * d'),
              ('a:2-99 b:2-30 c:2-99 d:2-30', 'a + (b - c) * d'), ('a:2-99 b:2-30 c:2-99 d:2-30', 'a + b * c * d'),
              ('a:2-30 b:2-30 c:2-30 d:2-99', 'a * (b + c) - d'), ('a:2-30 b:2-30 c:2-30 d:2-99', 'a * (b + c) + d'),
              ('a:2-30 b:2-30 c:2-30 d:2-30', 'a * (b + c) * d'), ('a:2-99 b:2-30 c:2-30 d:2-99', '(a - b) * c + d'),
              ('a:2-99 b:2-30 c:2-30 d:2-99', '(a - b) * c - d'), ('a:2-99 b:2-30 c:2-30 d:2-30', '(a - b) * (c + d)'),
              ('a:2-99 b:2-30 c:2-30 d:2-30', 'a - b + c - d'), ('a:2-99 b:2-30 c:2-30 d:2-30', 'a - b + c * d'),
              ('a:2-99 b:2-30 c:2-30 d:2-30', 'a + b * (c - d)'), ('a:2-999 b:2-99 c:2-99', '(a - b) - c'),
              ('b:2-30 c:2-30 q:2-30 a=b*q', 'a / b + c')],
    'test': [('a:2-999 b:2-999', 'a + b'), ('a:2-999 b:2-999', 'a - b'), ('a:2-99 b:2-99', 'a * b'),
             ('b:2-30 q:2-60 a=b*q', 'a / b'), ('a:2-99 b:2-99 c:2-30', '(a - b) * c'), ('a:2-999 b:2-99 c:2-99', 'a - b + c'),
             ('a:2-30 b:2-30 c:2-30', 'a * (b + c)'), ('a:2-99 b:2-30 c:2-30 d:2-99', 'a + b * c - d')],
}

# (numbers, what happens, its steps): s is how many there were, `last` the result of the step before.
STORY = {
    'train': (
        ['{name} has {n} {items}.', '{name} [collects|picks|buys|makes] {n} {items}.', 'On Monday {name} has {n} {items}.',
         'There are {n} {items} in the [shop|garden|house] of {name}.', '{name} and {other} have {n} {items} together.',
         'In {his} [room|bag|box] {name} keeps {n} {items}.',
         'At first {name} has {n} {items}.', '{name} and {his} [brother|sister] own {n} {items}.', 'There are {n} {items} on the table of {name}.',
         '{n} {items} are in a [box|bag] that belongs to {name}.', '{name} [finds|gets|earns] {n} {items} in the [morning|evening].',
         'On [Sunday|Friday] {name} [counts|makes|finds] {n} {items}.', '{name} keeps {n} {items} at home.'],
        [('n:2-300', '{He} [buys|finds|gets|makes] {n} more.', ['There are now <<s+n>> {items}.']),
         ('n:2-300', '{other} gives {him} {n} more {items}.', ['With those of {other}, {he} has <<s+n>>.']),
         ('n:2-300', 'Then {he} [wins|earns|finds] another {n} {items}.', ['That makes <<s+n>> {items}.']),
         ('n:2-300', '{His} [mother|father|uncle|aunt] brings {him} {n} {items}.', ['{name} has <<s+n>> {items}.']),
         ('n:2-300', 'In the [morning|evening], {he} [buys|collects] {n} {items}.', ['There are now <<s+n>> {items}.']),
         ('n:2-300', '{n} more {items} are put [to them|in].', ['That makes <<s+n>> {items}.']),
         ('n:2-300', 'The next day, {n} new {items} [come|arrive].', ['There are now <<s+n>> {items}.']),
         ('n:2-300', '{He} [sells|loses|uses] {n} of them.', ['{He} has <<s-n>> left.']),
         ('n:2-300', '{He} gives {n} {items} to {other}.', ['{He} has <<s-n>> left.']),
         ('n:2-300', '{other} takes {n} of the {items}.', ['There are <<s-n>> {items} left.']),
         ('n:2-300', 'Then {n} of them [break|are lost|are sold].', ['There are <<s-n>> {items} left.']),
         ('n:2-300', 'In the [morning|afternoon], {he} [throws away|gives away|sells] {n} {items}.', ['{He} has <<s-n>> left.']),
         ('n:2-300', 'The next day, {he} [uses|sells|loses] {n} {items}.', ['There are <<s-n>> {items} left.']),
         ('n:2-300', '{He} [sends|lends] {other} {n} {items}.', ['{He} has <<s-n>> left.']),
         ('', '{He} [sells|uses|loses] half of them.', ['{He} has <<s/2>> left.']),
         ('', 'Then half of the {items} [break|are sold|are lost].', ['There are <<s/2>> {items} left.']),
         ('', '{He} gives a third of them to {other}.', ['{other} gets <<s/3>>.', '{He} has <<s-last>> left.']),
         ('', 'A quarter of the {items} [are lost|are sold].', ['<<s/4>> are gone.', 'There are <<s-last>> {items} left.']),
         ('q:percent', '{He} [sells|loses|uses] {q}% of them.', ['That is <<s*q/100>> {items}.', '{He} has <<s-last>> left.']),
         ('q:percent', 'Then {q}% of the {items} [break|are sold].', ['That is <<s*q/100>> {items}.', 'There are <<s-last>> left.']),
         ('', 'Then the number of {items} doubles.', ['There are now <<s*2>> {items}.']),
         ('', '{He} makes twice as many {items} as that.', ['{He} makes <<s*2>>.']),
         ('n:2-9', 'The number of {items} grows to {n} times that.', ['There are now <<s*n>> {items}.']),
         ('n:2-300', '[Then|Later|On Tuesday|On Friday|Today] {he} gets {n} more.', ['There are now <<s+n>> {items}.']),
         ('n:2-300', '[Then|Later|On Tuesday|On Friday|Today] {he} [buys|finds|makes|collects] {n} more {items}.', ['There are now <<s+n>> {items}.']),
         ('n:2-300', '[Then|Later|On Tuesday|Today] {other} [gives|sends] {him} {n} {items}.', ['With those of {other}, {he} has <<s+n>>.']),
         ('n:2-300', '{other} brings {him} {n} {items} [on Friday|in the morning|as well].', ['With those of {other}, {he} has <<s+n>>.']),
         ('n:2-300', '{He} gets another {n} {items} from {his} [mother|uncle|sister].', ['{name} has <<s+n>> {items}.']),
         ('n:2-300', 'From {his} [father|aunt|brother] {he} gets {n} {items}.', ['{name} has <<s+n>> {items}.']),
         ('n:2-300', '{His} [father|sister|brother] gives {him} another {n}.', ['{name} has <<s+n>> {items}.']),
         ('n:2-300', 'In the [afternoon|morning], {n} [more|other] {items} are [bought|found|brought].', ['There are now <<s+n>> {items}.']),
         ('n:2-300', '[Later|On Tuesday|On Friday|Today] {he} [sells|loses|uses|breaks] {n} of the {items}.', ['There are <<s-n>> {items} left.']),
         ('n:2-300', '[Later|On Tuesday|On Friday|Today] {he} gives {other} {n} {items}.', ['{He} has <<s-n>> left.']),
         ('n:2-300', '{n} of the {items} go to {his} [mother|father|sister|brother].', ['{He} has <<s-n>> left.']),
         ('n:2-300', 'In the [morning|afternoon], {he} gives {his} [sister|mother|father] {n} of them.', ['{He} has <<s-n>> left.']),
         ('n:2-300', '[On Tuesday|Today|Later], {n} {items} are [sold|lost|given away].', ['There are <<s-n>> {items} left.']),
         ('n:2-300', '{other} [needs|buys|gets] {n} of {his} {items}.', ['{He} has <<s-n>> left.']),
         ('n:2-300', '[On Tuesday|Today|Later], {other} takes {n} of them away.', ['There are <<s-n>> {items} left.']),
         ('', '[Later|On Tuesday|Today], {he} [sells|breaks|uses] half of the {items}.', ['{He} has <<s/2>> left.']),
         ('', '{He} gives half of the {items} to {his} [sister|brother].', ['{He} has <<s/2>> left.']),
         ('', '[Later|On Tuesday|Today], {he} [loses|uses|breaks] a quarter of the {items}.', ['<<s/4>> are gone.', 'There are <<s-last>> {items} left.']),
         ('', '{He} [sells|gives away] a quarter of {his} {items}.', ['<<s/4>> are gone.', 'There are <<s-last>> {items} left.']),
         ('q:percent', '[Later|On Tuesday|Today], {he} [loses|breaks|gives away] {q}% of the {items}.', ['That is <<s*q/100>> {items}.', '{He} has <<s-last>> left.']),
         ('q:percent', 'In the [morning|evening], {q}% of them are sold.', ['That is <<s*q/100>> {items}.', 'There are <<s-last>> left.']),
         ('', '[On Tuesday|Later|Today], the number of {items} [doubles|grows to twice that].', ['There are now <<s*2>> {items}.']),
         ('n:2-300', 'The next day, {he} [collects|makes|wins] {n} {items}.', ['There are now <<s+n>> {items}.']),
         ('n:2-300', 'The next day, {other} gives {him} {n} {items}.', ['With those of {other}, {he} has <<s+n>>.']),
         ('n:2-300', 'The next day, {he} gives {other} {n} [more|of them].', ['{He} has <<s-n>> left.']),
         ('n:2-300', 'The next day, {n} {items} are [lost|sold|taken away].', ['There are <<s-n>> {items} left.']),
         ('n:2-300', 'The next day, {other} [buys|needs] {n} of them.', ['There are <<s-n>> {items} left.']),
         ('q:percent', 'The next day, {q}% of the {items} are [lost|sold].', ['That is <<s*q/100>> {items}.', 'There are <<s-last>> left.']),
         ('q:percent', 'The next day, {he} [loses|uses] {q}% of them.', ['That is <<s*q/100>> {items}.', '{He} has <<s-last>> left.']),
         ('', 'The next day, {he} [sells|loses|uses] half of them.', ['{He} has <<s/2>> left.']),
         ('', 'The next day, there are twice as many {items}.', ['There are now <<s*2>> {items}.']),
         ('', 'The next day, {he} [loses|uses] a quarter of the {items}.', ['<<s/4>> are gone.', 'There are <<s-last>> {items} left.'])],
        [('', 'How many {items} does {he} have now?', []), ('', 'How many {items} are there now?', []),
         ('', 'How many {items} does {name} have in the end?', []), ('', 'How many {items} are left?', []),
         ('k:2-30', '{He} puts them into {k} [boxes|bags], the same number in each. How many {items} are in each?',
          ['Each one holds <<s/k>>.']),
         ('k:2-30', 'They are shared equally among {k} [friends|children]. How many {items} does each get?',
          ['Each gets <<s/k>> {items}.']),
         ('k:2-30', '{He} sells them for ${k} each. How much money does {he} get?', ['{He} gets $<<s*k>>.']),
         ('k:2-30', 'Each {item} [costs|is worth] ${k}. How much are they worth?', ['They are worth $<<s*k>>.']),
         ('k:2-30', 'A [box|bag] holds {k} {items}. How many [boxes|bags] does {he} need?', ['{He} needs <<s/k>>.']),
         ('', 'How many {items} [has {he} got|does {name} keep|are there in all]?', []), ('', 'How many does {he} have [now|then|in the end]?', []),
         ('', 'How many {items} remain?', []), ('', 'How many {items} are [still there|with {name} now]?', []),
         ('k:2-30', '{name} shares them among {k} [children|people] equally. How many {items} does [each|one] get?', ['Each gets <<s/k>> {items}.']),
         ('k:2-30', '{He} divides all of them equally among {k} [boys|girls|people]. How many does one get?', ['Each gets <<s/k>> {items}.']),
         ('k:2-30', '{He} puts all {items} into {k} equal [boxes|bags]. How many does [one|each] hold?', ['Each one holds <<s/k>>.']),
         ('k:2-30', 'They are put in {k} [bags|rooms], with the same number in each. How many {items} are in one?', ['Each one holds <<s/k>>.']),
         ('k:2-30', '[In the end|Today] {he} sells all {items} at ${k} each. How much [does {he} earn|money is that]?', ['{He} gets $<<s*k>>.']),
         ('k:2-30', 'All of them are sold for ${k} each. How much money does {name} get?', ['{He} gets $<<s*k>>.'])],
    ),
    'test': (
        ['On Monday {name} buys {n} {items}.', '{name} keeps {n} {items} in a box.', 'There are {n} {items} in the bag of {name}.',
         '{name} makes {n} {items} in the morning.'],
        [('n:2-300', 'The next day, {he} gets {n} more {items}.', ['There are now <<s+n>> {items}.']),
         ('n:2-300', 'Then {other} brings {him} another {n}.', ['With those of {other}, {he} has <<s+n>>.']),
         ('n:2-300', 'In the evening, {his} mother gives {him} {n} {items}.', ['{name} has <<s+n>> {items}.']),
         ('n:2-300', 'Then {he} loses {n} {items}.', ['{He} has <<s-n>> left.']),
         ('n:2-300', 'The next day, {other} takes {n} {items}.', ['There are <<s-n>> {items} left.']),
         ('n:2-300', 'In the evening, {he} gives {n} of them to {his} [uncle|aunt].', ['{He} has <<s-n>> left.']),
         ('', 'Then {he} loses half of the {items}.', ['{He} has <<s/2>> left.']),
         ('', 'In the afternoon, {he} sells a quarter of them.', ['<<s/4>> are gone.', 'There are <<s-last>> {items} left.']),
         ('q:percent', 'The next day, {he} sells {q}% of the {items}.', ['That is <<s*q/100>> {items}.', '{He} has <<s-last>> left.']),
         ('', 'The next day, the number of {items} doubles.', ['There are now <<s*2>> {items}.'])],
        [('', 'How many {items} does {name} have now?', []), ('', 'How many {items} are there in the end?', []),
         ('k:2-30', 'They are put into {k} boxes, the same number in each. How many {items} does each hold?',
          ['Each one holds <<s/k>>.']),
         ('k:2-30', '{He} shares them equally among {k} friends. How many does each get?', ['Each gets <<s/k>> {items}.']),
         ('k:2-30', 'Then {he} sells all of them for ${k} each. How much does {he} get?', ['{He} gets $<<s*k>>.'])],
    ),
}

TEMPLATES = {
    'equations': {
        'train': [
            ('u:2-60 a:2-30 b:2-200 c=a*u+b', 'Solve for x: {a}x + {b} = {c}', '<<solve(a*x+b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-200 c=a*u-b', 'Solve {a}x - {b} = {c} for x.', '<<solve(a*x-b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-200 c=a*u+b', 'If {a}x + {b} = {c}, what is x?', '<<solve(a*x+b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-200 c=a*u-b', 'What is x if {a}x - {b} = {c}?', '<<solve(a*x-b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-30 c=a*(u+b)', 'Find x: {a}(x + {b}) = {c}', '<<solve(a*(x+b)=c, x)>>'),
            ('u:2-60 a:2-30 b:2-30 c=a*(u-b)', 'Solve for x: {a}(x - {b}) = {c}', '<<solve(a*(x-b)=c, x)>>'),
            ('u:2-60 b:2-300 c=u+b', 'What number is x if x + {b} = {c}?', '<<solve(x+b=c, x)>>'),
            ('u:2-60 b:2-30 c=u-b', 'Find x if x - {b} = {c}.', '<<solve(x-b=c, x)>>'),
            ('u:2-60 a:2-30 d:2-30 b:2-99 c=a*u+b-d*u', 'Solve for x: {a}x + {b} = {d}x + {c}', '<<solve(a*x+b=d*x+c, x)>>'),
            ('u:2-60 a:2-30 b:2-99 c=a*u+b', '{name} thinks of a number, multiplies it by {a} and adds {b}. The result is {c}. '
             'What is the number?', '<<solve(a*x+b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-99 c=a*u-b', '{name} multiplies a number by {a}. After taking away {b}, the result is {c}. Find '
             'the number.', '<<solve(a*x-b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-99 c=a*(u+b)', '{name} adds {b} to a number and multiplies the result by {a}. That makes {c}. What '
             'is the number?', '<<solve(a*(x+b)=c, x)>>'),
            ('u:2-60 a:2-30 b:2-99 c=a*u+b', '{a} times a number, plus {b}, is {c}. What number is it?',
             '<<solve(a*x+b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-200 c=a*u+b', '[Find the number x with|Which x solves|For which x is] {a}x + {b} = {c}?', '<<solve(a*x+b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-200 c=a*u-b', '[Which number x solves|For which number x is|Find the x with] {a}x - {b} = {c}?', '<<solve(a*x-b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-30 c=a*(u+b)', '[Which x solves|If x is a number, solve|What number is x with] {a}(x + {b}) = {c}?', '<<solve(a*(x+b)=c, x)>>'),
            ('u:2-60 a:2-30 b:2-30 c=a*(u+b)', 'If {a}(x + {b}) = {c}, [what number is x|find x].', '<<solve(a*(x+b)=c, x)>>'),
            ('u:2-60 a:2-30 b:2-30 c=a*(u-b)', 'What [is x|number is x], if {a}(x - {b}) = {c}?', '<<solve(a*(x-b)=c, x)>>'),
            ('u:2-60 b:2-300 c=u+b', '[Find x if|What is x if] x + {b} = {c}?', '<<solve(x+b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-99 c=a*u+b', 'The result is {c}, if a number is multiplied by {a} and {b} is added. [What is the number|Which number is it]?',
             '<<solve(a*x+b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-99 c=a*u-b', 'The result is {c} if {name} multiplies a number by {a} and takes away {b}. [What is the number|Find it].',
             '<<solve(a*x-b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-99 c=a*u+b', 'If {name} multiplies a number by {a} and then adds {b}, {he} gets {c}. Find the number.',
             '<<solve(a*x+b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-99 c=a*(u+b)', '{c} is the result if {name} adds {b} to a number and multiplies that by {a}. What is the number?',
             '<<solve(a*(x+b)=c, x)>>'),
            ('u:2-60 a:2-30 b:2-99 c=a*u+b', '{name} gets {c}, if {he} multiplies the number by {a} and adds {b}. What was the number?',
             '<<solve(a*x+b=c, x)>>'),
        ],
        'test': [
            ('u:2-60 a:2-30 b:2-200 c=a*u+b', 'Find x if {a}x + {b} = {c}.', '<<solve(a*x+b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-200 c=a*u-b', 'What number is x if {a}x - {b} = {c}?', '<<solve(a*x-b=c, x)>>'),
            ('u:2-60 a:2-30 b:2-30 c=a*(u+b)', 'What is x if {a}(x + {b}) = {c}?', '<<solve(a*(x+b)=c, x)>>'),
            ('u:2-60 a:2-30 b:2-99 c=a*u+b', 'The result is {c} if {name} multiplies a number by {a} and adds {b}. Find the '
             'number.', '<<solve(a*x+b=c, x)>>'),
        ],
    },
    'money': {
        'train': [
            ('n:2-99 p:2-60', '{name} buys {n} {items} for ${p} each. How much does {he} [pay|spend]?',
             'The {items} cost $<<n*p>>.'),
            ('n:2-99 p:money', 'One {item} costs ${p}. How much do {n} {items} cost?', 'The {items} cost $<<n*p>>.'),
            ('n:2-99 p:money', 'A shop sells {items} at ${p} each. What is the price of {n} {items}?',
             'The {items} cost $<<n*p>>.'),
            ('n:2-30 p:2-30 t:10-900', '{name} has ${t}. {He} buys {n} {items} at ${p} each. How much money is left?',
             'The {items} cost $<<n*p>>.\n{name} has $<<t-r1>> left.'),
            ('n:2-30 p:money t:10-900', 'With ${t} in {his} [bag|pocket], {name} goes to a shop and buys {n} {items} for ${p} '
             'each. How much money does {he} have left?', 'The {items} cost $<<n*p>>.\n{name} has $<<t-r1>> left.'),
            ('n:2-30 p:2-30 m:2-30 q:2-30', '{name} buys {n} {items} for ${p} each and {m} {items2} for ${q} each. How much does '
             '{he} pay [in all|together]?',
             'The {items} cost $<<n*p>>.\nThe {items2} cost $<<m*q>>.\nTogether that is $<<r1+r2>>.'),
            ('n:2-30 p:2-30 m:2-30 q:2-30', 'A shop sells {items} at ${p} and {items2} at ${q}. How much do {n} {items} and {m} '
             '{items2} cost?', 'The {items} cost $<<n*p>>.\nThe {items2} cost $<<m*q>>.\nTogether that is $<<r1+r2>>.'),
            ('n:2-30 p:2-30 m:2-30 q:2-30 t:20-900', '{name} buys {n} {items} at ${p} each and {m} {items2} at ${q} each. {He} '
             'pays with ${t}. How much change does {he} get?', 'The {items} cost $<<n*p>>.\nThe {items2} cost $<<m*q>>.\n'
             'Together that is $<<r1+r2>>.\n{name} has $<<t-r3>> left.'),
            ('p:10-900 q:percent', 'A [coat|phone|bike] costs ${p}. In a sale it is {q}% off. What does it cost now?',
             'The price goes down by $<<p*q/100>>.\nIt costs $<<p-r1>>.'),
            ('p:10-900 q:percent', 'The price of a [table|bike|phone] was ${p}. It [goes up|rises] by {q}%. What is the new price?',
             'The price goes up by $<<p*q/100>>.\nIt costs $<<p+r1>>.'),
            ('p:10-900 q:percent', '{name} buys a [coat|table] of ${p} with a discount of {q}%. How much does {he} pay?',
             'The price goes down by $<<p*q/100>>.\nIt costs $<<p-r1>>.'),
            ('n:2-99 k:2-60 t=n*k', '{n} {items} cost ${t}. How much does one {item} cost?', 'One {item} costs $<<t/n>>.'),
            ('k:2-60 n:2-30 t=n*k m:2-30', '{name} pays ${t} for {n} {items}. How much would {m} {items} cost?',
             'One {item} costs $<<t/n>>.\nThe {items} cost $<<m*r1>>.'),
            ('k:2-30 n:2-60 t=n*k', 'How many {items} can {name} buy with ${t}, if each costs ${k}?', '{He} can buy <<t/k>>.'),
            ('a:10-900 b:10-900', '{name} saves ${a} in [May|June] and ${b} in July. How much does {he} save [in all|together]?',
             'Together that is $<<a+b>>.'),
            ('n:2-99 p:2-30 c:2-30', '{name} buys {n} {items} at ${p} each and sells them at ${c} each. How much money does {he} '
             'make?', 'The {items} cost $<<n*p>>.\n{He} gets $<<n*c>>.\n{He} makes $<<r2-r1>>.'),
            ('n:2-99 p:2-60', 'How much [do|would] {n} {items} cost at ${p} each?', 'The {items} cost $<<n*p>>.'),
            ('n:2-99 p:2-60', 'How much does {name} [spend on|pay in all for] {n} {items}, if each costs ${p}?', 'The {items} cost $<<n*p>>.'),
            ('n:2-99 p:money', 'For one {item} {name} pays ${p}. How much does {he} pay for {n}?', 'The {items} cost $<<n*p>>.'),
            ('n:2-99 p:money', '{name} buys {n} {items}. One {item} costs ${p}. How much does {he} [pay|spend]?', 'The {items} cost $<<n*p>>.'),
            ('n:2-99 p:money', 'In a [market|shop], {name} buys {n} {items} at ${p} each. What does {he} pay?', 'The {items} cost $<<n*p>>.'),
            ('n:2-30 p:2-30 t:10-900', 'Each {item} costs ${p}. {name} has ${t} and buys {n} {items}. How much money does {he} have left?',
             'The {items} cost $<<n*p>>.\n{name} has $<<t-r1>> left.'),
            ('n:2-30 p:2-30 t:10-900', '{name} goes to the [market|shop] with ${t}. {He} buys {n} {items} for ${p} each. How much is left?',
             'The {items} cost $<<n*p>>.\n{name} has $<<t-r1>> left.'),
            ('n:2-30 p:2-30 t:10-900', 'How much money is left, if {name} has ${t} and buys {n} {items} at ${p} each?',
             'The {items} cost $<<n*p>>.\n{name} has $<<t-r1>> left.'),
            ('n:2-30 p:2-30 t:10-900', '{name} buys {n} {items}. Each {item} costs ${p}. {He} pays with ${t}. How much change does {he} get?',
             'The {items} cost $<<n*p>>.\n{name} has $<<t-r1>> left.'),
            ('n:2-30 p:2-30 m:2-30 q:2-30', 'How much does {name} pay for {n} {items} at ${p} each and {m} {items2} at ${q} each?',
             'The {items} cost $<<n*p>>.\nThe {items2} cost $<<m*q>>.\nTogether that is $<<r1+r2>>.'),
            ('n:2-30 p:2-30 m:2-30 q:2-30', 'One {item} costs ${p}, one {item2} ${q}. {name} buys {n} {items} and {m} {items2}. How much does {he} spend?',
             'The {items} cost $<<n*p>>.\nThe {items2} cost $<<m*q>>.\nTogether that is $<<r1+r2>>.'),
            ('n:2-30 p:2-30 m:2-30 q:2-30', 'In a market {name} [buys|gets] {n} {items} for ${p} each, and {m} {items2} for ${q} each. What does that cost [together|in all]?',
             'The {items} cost $<<n*p>>.\nThe {items2} cost $<<m*q>>.\nTogether that is $<<r1+r2>>.'),
            ('p:10-900 q:percent', 'How much does a [coat|bike|table] of ${p} cost, if it is {q}% off?',
             'The price goes down by $<<p*q/100>>.\nIt costs $<<p-r1>>.'),
            ('p:10-900 q:percent', '{name} [buys|pays for] a [table|phone|bike] of ${p} that is {q}% off. How much does {he} [pay|spend]?',
             'The price goes down by $<<p*q/100>>.\nIt costs $<<p-r1>>.'),
            ('p:10-900 q:percent', 'In a sale, a [phone|table|bike] of ${p} is {q}% cheaper. How much is it now?',
             'The price goes down by $<<p*q/100>>.\nIt costs $<<p-r1>>.'),
            ('p:10-900 q:percent', 'The price of a [coat|phone] falls by {q}%. It was ${p}. What does {name} pay for it?',
             'The price goes down by $<<p*q/100>>.\nIt costs $<<p-r1>>.'),
            ('p:10-900 q:percent', 'A [coat|phone|table] costs ${p}, and its price [goes up|rises] by {q}%. What does it cost then?',
             'The price goes up by $<<p*q/100>>.\nIt costs $<<p+r1>>.'),
            ('p:10-900 q:percent', 'How much does a [bike|table] cost if its price of ${p} [rises|goes up] by {q}%?',
             'The price goes up by $<<p*q/100>>.\nIt costs $<<p+r1>>.'),
            ('p:10-900 q:percent', '[Then|Today] the price of a [coat|phone|bike] rises by {q}% from ${p}. How much is it now?',
             'The price goes up by $<<p*q/100>>.\nIt costs $<<p+r1>>.'),
            ('n:2-99 k:2-60 t=n*k', 'What is the price of one {item}, if {n} {items} cost ${t}?', 'One {item} costs $<<t/n>>.'),
            ('n:2-99 k:2-60 t=n*k', '{name} [buys|gets] {n} {items} for ${t} [in all|together]. How much does one {item} cost?', 'One {item} costs $<<t/n>>.'),
            ('n:2-99 k:2-60 t=n*k', 'For {n} {items} {name} pays ${t}. What does one {item} cost?', 'One {item} costs $<<t/n>>.'),
            ('n:2-99 k:2-60 t=n*k', '{name} pays ${t} for {n} {items}. How much [is|does] one {item} [cost|sold for]?', 'One {item} costs $<<t/n>>.'),
            ('n:2-99 k:2-60 t=n*k', 'If {n} {items} cost ${t}, what is the price of [one|each]?', 'One {item} costs $<<t/n>>.'),
            ('n:2-99 k:2-60 t=n*k', '{name} buys {n} {items} and pays ${t}. What is the price of [one|each] {item}?', 'One {item} costs $<<t/n>>.'),
            ('n:2-99 p:2-60', '{n} {items} are sold at ${p} each. What is the price of all [{items}|of them]?', 'The {items} cost $<<n*p>>.'),
            ('n:2-30 p:2-30 t:10-900', '{name} goes to a market with ${t} and [gets|pays for] {n} {items}. Each {item} costs ${p}. How much is left?',
             'The {items} cost $<<n*p>>.\n{name} has $<<t-r1>> left.'),
            ('n:2-30 p:2-30 t:10-900', 'With ${t}, {name} buys {n} {items}. Each {item} costs ${p}. How much money is left [in the end|then]?',
             'The {items} cost $<<n*p>>.\n{name} has $<<t-r1>> left.'),
            ('n:2-30 p:2-30 t:10-900', '{name} has ${t}. {He} buys {n} {items}, and each {item} costs ${p}. How much money [is|does {he} have] left?',
             'The {items} cost $<<n*p>>.\n{name} has $<<t-r1>> left.'),
            ('n:2-30 p:2-30', '{name} has {n} {items}. Each {item} costs ${p}. How much do they cost [together|in all]?', 'The {items} cost $<<n*p>>.'),
        ],
        'test': [
            ('n:2-99 p:2-60', 'How much does {name} pay for {n} {items} at ${p} each?', 'The {items} cost $<<n*p>>.'),
            ('n:2-99 p:money', 'In a shop, one {item} costs ${p}. {name} buys {n} {items}. How much does {he} spend?',
             'The {items} cost $<<n*p>>.'),
            ('n:2-30 p:2-30 t:10-900', '{name} goes to a shop with ${t} and buys {n} {items}. Each {item} costs ${p}. How much '
             'money is left?', 'The {items} cost $<<n*p>>.\n{name} has $<<t-r1>> left.'),
            ('n:2-30 p:2-30 m:2-30 q:2-30', 'In a shop, {name} buys {n} {items} at ${p} each and {m} {items2} at ${q} each. How '
             'much does {he} spend together?',
             'The {items} cost $<<n*p>>.\nThe {items2} cost $<<m*q>>.\nTogether that is $<<r1+r2>>.'),
            ('p:10-900 q:percent', 'A coat of ${p} is {q}% off in a sale. How much does {name} pay for it?',
             'The price goes down by $<<p*q/100>>.\nIt costs $<<p-r1>>.'),
            ('p:10-900 q:percent', 'A bike costs ${p}. Then the price rises by {q}%. What does it cost now?',
             'The price goes up by $<<p*q/100>>.\nIt costs $<<p+r1>>.'),
            ('n:2-99 k:2-60 t=n*k', '{name} pays ${t} for {n} {items}. What is the price of one {item}?',
             'One {item} costs $<<t/n>>.'),
        ],
    },
    'rates': {
        'train': [
            ('v:2-120 h:2-30', 'A [train|car|bus] drives at {v} km per hour for {h} hours. How far does it go?',
             'It goes <<v*h>> km.'),
            ('v:2-120 h:2-30', 'How many km does a [bike|bus|boat] go in {h} hours at a speed of {v} km per hour?',
             'It goes <<v*h>> km.'),
            ('v:2-99 h:2-30 d=v*h', 'The distance is {d} km. A [car|train|bus] goes {v} km per hour. How many hours does it take?',
             'It takes <<d/v>> hours.'),
            ('v:2-99 h:2-30 d=v*h', '{name} needs {h} hours for {d} km. What is {his} speed in km per hour?',
             'The speed is <<d/h>> km per hour.'),
            ('n:2-60 d:2-60', '{name} reads {n} pages a day. How many pages does {he} read in {d} days?',
             'In that time, it is <<n*d>> pages.'),
            ('n:2-60 d:2-60 m:2-30', '{name} makes {n} {items} an hour and works {d} hours a day. How many {items} does {he} make in '
             '{m} days?', 'In a day, it is <<n*d>>.\nIn that time, it is <<r1*m>> {items}.'),
            ('p:2-60 h:2-30', '{name} earns ${p} an hour. How much does {he} earn in {h} hours?', '{He} earns $<<p*h>>.'),
            ('p:2-60 h:2-30 d:2-30', '{name} works {h} hours a day for {d} days and earns ${p} an hour. How much does {he} earn?',
             '{He} works <<h*d>> hours.\n{He} earns $<<r1*p>>.'),
            ('p:2-60 h:2-30 d:2-30', 'For each hour of work {name} gets ${p}. {He} works {d} days of {h} hours. How much money does '
             '{he} get?', '{He} works <<h*d>> hours.\n{He} earns $<<r1*p>>.'),
            ('n:2-60 d:2-60 t=n*d', 'A book has {t} pages. {name} reads {n} pages a day. How many days does it take?',
             'It takes <<t/n>> days.'),
            ('n:2-60 d:2-60 t=n*d', '{name} makes {t} {items} in {d} days. How many is that a day?', 'In a day, it is <<t/d>>.'),
            ('n:2-60 d:2-60 k:2-30', '{n} [workers|machines] make {k} {items} an hour each. How many {items} do they make in {d} hours?',
             'In an hour, it is <<n*k>>.\nIn that time, it is <<r1*d>> {items}.'),
            ('a:2-99 h:2-30 b:2-99 g:2-30', 'A [car|train] drives {h} hours at {a} km per hour and then {g} hours at {b} km per hour. '
             'How far does it go?', 'First it goes <<h*a>> km.\nThen it goes <<g*b>> km.\nTogether that is <<r1+r2>> km.'),
            ('n:2-60 d:2-30 t:50-900', 'A book has {t} pages. {name} reads {n} pages a day for {d} days. How many pages are left?',
             'In that time, it is <<n*d>> pages.\nThere are <<t-r1>> pages left.'),
            ('n:2-60 d:2-30 t:50-900', 'A tank holds {t} liters of water. Every hour {n} liters run out. How many liters are left after '
             '{d} hours?', 'In that time, it is <<n*d>> liters.\nThere are <<t-r1>> liters left.'),
            ('v:2-120 h:2-30', 'How far does a [car|bus|boat] [go|drive] in {h} hours at {v} km per hour?', 'It goes <<v*h>> km.'),
            ('v:2-120 h:2-30', 'If a [car|bus|bike] goes {v} km per hour, how far does it go in {h} hours?', 'It goes <<v*h>> km.'),
            ('v:2-120 h:2-30', 'How far is it, if a [train|bus] needs {h} hours at a speed of {v} km per hour?', 'It goes <<v*h>> km.'),
            ('v:2-120 h:2-30', 'In {h} hours, how many km does a [car|boat] go if it [drives|goes] {v} km per hour?', 'It goes <<v*h>> km.'),
            ('v:2-99 h:2-30 d=v*h', 'How many hours does it take to go {d} km at {v} km per hour?', 'It takes <<d/v>> hours.'),
            ('v:2-99 h:2-30 d=v*h', 'A [boat|car|train] goes {d} km at a speed of {v} km per hour. How many hours does it [take|need]?', 'It takes <<d/v>> hours.'),
            ('v:2-99 h:2-30 d=v*h', 'How many hours does a [car|train|bike] need for {d} km, if it goes {v} km per hour?', 'It takes <<d/v>> hours.'),
            ('v:2-99 h:2-30 d=v*h', 'For {d} km, how many hours does a [train|boat] take, if its speed is {v} km per hour?', 'It takes <<d/v>> hours.'),
            ('n:2-60 d:2-60', 'How many {items} does {name} make in {d} hours, if {he} makes {n} an hour?', 'In that time, it is <<n*d>> {items}.'),
            ('n:2-60 d:2-60', '{name} makes {n} {items} an hour. How many is that in {d} hours?', 'In that time, it is <<n*d>> {items}.'),
            ('n:2-60 d:2-60', 'In {d} hours, how many {items} does a machine make that makes {n} an hour?', 'In that time, it is <<n*d>> {items}.'),
            ('n:2-60 d:2-60', 'A [shop|machine] [sells|makes] {n} {items} a day. How many {items} does it [sell|make] in {d} days?', 'In that time, it is <<n*d>> {items}.'),
            ('n:2-60 d:2-60', 'How many pages does {name} read in {d} days, if {he} reads {n} pages a day?', 'In that time, it is <<n*d>> pages.'),
            ('p:2-60 h:2-30 d:2-30', 'How much does {name} earn in {d} days, if {he} works {h} hours a day and gets ${p} an hour?',
             '{He} works <<h*d>> hours.\n{He} earns $<<r1*p>>.'),
            ('p:2-60 h:2-30 d:2-30', '{name} earns ${p} an hour. {He} works {h} hours a day. How much money does {he} get in {d} days?',
             '{He} works <<h*d>> hours.\n{He} earns $<<r1*p>>.'),
            ('p:2-60 h:2-30 d:2-30', 'An hour of work is paid with ${p}, and {name} works {h} hours a day. What does {he} earn in {d} days?',
             '{He} works <<h*d>> hours.\n{He} earns $<<r1*p>>.'),
            ('n:2-60 d:2-60 t=n*d', 'How many days does {name} need for {t} pages, if {he} reads {n} pages a day?', 'It takes <<t/n>> days.'),
            ('n:2-60 d:2-60 t=n*d', '{name} reads {n} pages a day. {His} book has {t} pages. How many days does {he} need?', 'It takes <<t/n>> days.'),
            ('n:2-60 d:2-60 t=n*d', 'For a book of {t} pages, how many days does {name} need at {n} pages a day?', 'It takes <<t/n>> days.'),
            ('n:2-60 d:2-60 t=n*d', '{name} makes {n} {items} a day. How many days does {he} need for {t} {items}?', 'It takes <<t/n>> days.'),
            ('n:2-60 d:2-30 t:50-900', '{name} reads {n} pages a day in a book of {t} pages. How many pages are left after {d} days?',
             'In that time, it is <<n*d>> pages.\nThere are <<t-r1>> pages left.'),
            ('n:2-60 d:2-30 t:50-900', 'How many pages of a book of {t} pages are left, if {name} reads {n} pages a day for {d} days?',
             'In that time, it is <<n*d>> pages.\nThere are <<t-r1>> pages left.'),
            ('n:2-60 d:2-30 t:50-900', 'For {d} days, {name} reads {n} pages a day. {His} book has {t} pages. How many are left?',
             'In that time, it is <<n*d>> pages.\nThere are <<t-r1>> pages left.'),
            ('n:2-60 d:2-30 t:50-900', '{name} has a book of {t} pages. {He} reads {n} pages a day. In {d} days, how many pages are left?',
             'In that time, it is <<n*d>> pages.\nThere are <<t-r1>> pages left.'),
            ('p:2-60 h:2-30 d:2-30', '{name} [gets|is paid] ${p} an hour and works {h} hours a day. How much [is that|does {he} get] in {d} days?',
             '{He} works <<h*d>> hours.\n{He} earns $<<r1*p>>.'),
            ('p:2-60 h:2-30 d:2-30', '{name} earns ${p} an hour, and {he} works {h} hours a day. [What does {he} earn|How much money is that] in {d} days?',
             '{He} works <<h*d>> hours.\n{He} earns $<<r1*p>>.'),
            ('p:2-60 h:2-30 d:2-30', 'How much does {name} earn in {d} days? {He} earns ${p} an hour and works {h} hours a day.',
             '{He} works <<h*d>> hours.\n{He} earns $<<r1*p>>.'),
        ],
        'test': [
            ('v:2-120 h:2-30', 'How far does a train go in {h} hours if it drives at {v} km per hour?', 'It goes <<v*h>> km.'),
            ('v:2-99 h:2-30 d=v*h', 'How many hours does a bus take for {d} km at a speed of {v} km per hour?',
             'It takes <<d/v>> hours.'),
            ('n:2-60 d:2-60', 'A machine makes {n} {items} an hour. How many {items} does it make in {d} hours?',
             'In that time, it is <<n*d>> {items}.'),
            ('p:2-60 h:2-30 d:2-30', '{name} earns ${p} an hour and works {h} hours a day. How much does {he} earn in {d} days?',
             '{He} works <<h*d>> hours.\n{He} earns $<<r1*p>>.'),
            ('n:2-60 d:2-60 t=n*d', '{name} reads {n} pages a day. How many days does {he} need for a book of {t} pages?',
             'It takes <<t/n>> days.'),
            ('n:2-60 d:2-30 t:50-900', '{name} reads a book of {t} pages. In {d} days, {he} reads {n} pages a day. How many pages are '
             'left?', 'In that time, it is <<n*d>> pages.\nThere are <<t-r1>> pages left.'),
        ],
    },
    'comparison': {
        'train': [
            ('a:2-900 b:2-900', '{name} has {a} {items} and {other} has {b} {items}. How many {items} do they have together?',
             'Together that is <<a+b>> {items}.'),
            ('a:2-900 b:2-300', '{name} has {a} {items}. {other} has {b} more than {name}. How many {items} does {other} have?',
             '{other} has <<a+b>> {items}.'),
            ('a:2-900 b:2-300', '{name} has {a} {items}. {other} has {b} [fewer|less] than {name}. How many {items} does {other} have?',
             '{other} has <<a-b>> {items}.'),
            ('a:2-900 b:2-300', '{name} [buys|finds|makes] {a} {items}, and {other} {b} more than that. How many do they have together?',
             '{other} has <<a+b>> {items}.\nTogether that is <<a+r1>> {items}.'),
            ('a:2-900 b:2-300', '{other} has {b} fewer {items} than {name}, who has {a}. How many {items} do they have in all?',
             '{other} has <<a-b>> {items}.\nTogether that is <<a+r1>> {items}.'),
            ('a:2-900 k:2-30', '{name} has {a} {items}. {other} has {k} times as many {items} as {name}. How many {items} does {other} '
             'have?', '{other} has <<a*k>> {items}.'),
            ('a:2-900 k:2-30', '{name} [buys|finds|makes] {a} {items}, and {other} {k} times as many. How many {items} do they have in '
             'all?', '{other} has <<a*k>> {items}.\nTogether that is <<a+r1>> {items}.'),
            ('a:2-900', '{name} has {a} {items} and {other} twice as many. How many {items} do they have together?',
             '{other} has <<a*2>> {items}.\nTogether that is <<a+r1>> {items}.'),
            ('a:2-900', '{name} has {a} {items}. {other} has half as many. How many {items} do they have in all?',
             '{other} has <<a/2>> {items}.\nTogether that is <<a+r1>> {items}.'),
            ('a:2-900', 'If {name} has {a} {items} and {other} three times as many, how many does {other} have?',
             '{other} has <<a*3>> {items}.'),
            ('a:20-900 b:2-900', '{name} has {a} {items} and {other} has {b}. How many more {items} does {name} have than {other}?',
             '{name} has <<a-b>> more.'),
            ('a:20-900 b:2-900', 'There are {a} {items} and {b} {items2} in a [box|bag|shop]. How many more {items} than {items2} are '
             'there?', 'There are <<a-b>> more.'),
            ('a:2-99 b:2-30', '{name} is {a} years old. {other} is {b} years older. How old is {other}?',
             '{other} is <<a+b>> years old.'),
            ('a:10-99 b:2-30', '{name} is {a} years old. {other} is {b} years younger than {name}. How old is {other}?',
             '{other} is <<a-b>> years old.'),
            ('a:2-60 b:2-30', '{name} is {a} years old and {other} is {b} years older. How old are they together?',
             '{other} is <<a+b>> years old.\nTogether that is <<a+r1>> years.'),
            ('a:2-99 k:2-30 b:2-99', '{other} has {k} times as many {items} as {name}, and {b} {items2}. {name} has {a} {items}. How many '
             '{items} and {items2} does {other} have?', '{other} has <<a*k>> {items}.\nTogether that is <<r1+b>>.'),
            ('a:10-900 b:2-900 c:2-900', 'There are {a} {items}, {b} {items2} and {c} [pots|bowls] in a house. How many things are there '
             '[in all|together]?', 'Together that is <<a+b+c>>.'),
            ('a:2-900 b:2-900', 'If {name} has {a} {items} and {other} has {b}, how many {items} do they have [together|in all]?', 'Together that is <<a+b>> {items}.'),
            ('a:2-900 b:2-900', 'How many {items} do {name} and {other} have [in all], if {name} [finds|gets|buys] {a} and {other} {b}?', 'Together that is <<a+b>> {items}.'),
            ('a:2-900 b:2-900', 'How many {items} are there together, if {name} has {a} and {other} {b}?', 'Together that is <<a+b>> {items}.'),
            ('a:2-900 b:2-300', '{name} [finds|makes|gets] {a} {items}. {other} [finds|makes|gets] {b} more than {name}. How many {items} does {other} have?',
             '{other} has <<a+b>> {items}.'),
            ('a:2-900 b:2-300', 'How many {items} does {other} have, if {name} has {a} and {other} has {b} more [{items}] than that?', '{other} has <<a+b>> {items}.'),
            ('a:2-900 b:2-300', '{other} has {b} more {items} than {name}. {name} has {a} {items}. How many does {other} have?', '{other} has <<a+b>> {items}.'),
            ('a:2-900 b:2-300', '{name} [makes|buys|gets] {a} {items}. {other} has {b} fewer {items}. How many {items} do they have together?',
             '{other} has <<a-b>> {items}.\nTogether that is <<a+r1>> {items}.'),
            ('a:2-900 b:2-300', '{name} has {a} {items}, and {other} {b} fewer. How many do they have in all?',
             '{other} has <<a-b>> {items}.\nTogether that is <<a+r1>> {items}.'),
            ('a:2-900 b:2-300', '{name} has {a} {items}, and {other} {b} more. How many do they have together?',
             '{other} has <<a+b>> {items}.\nTogether that is <<a+r1>> {items}.'),
            ('a:2-900 b:2-300', 'How many {items} does {other} have, if {name} has {a} and {other} {b} fewer?', '{other} has <<a-b>> {items}.'),
            ('a:2-900 k:2-30', '{name} [finds|gets] {a} {items}. {other} [finds|gets] {k} times as many {items}. How many do they have in all?',
             '{other} has <<a*k>> {items}.\nTogether that is <<a+r1>> {items}.'),
            ('a:2-900 k:2-30', '{name} has {a} {items}, {other} {k} times as many. How many {items} do they have together?',
             '{other} has <<a*k>> {items}.\nTogether that is <<a+r1>> {items}.'),
            ('a:2-900 k:2-30', 'How many {items} does {other} have, if {name} has {a} and {other} {k} times as many?', '{other} has <<a*k>> {items}.'),
            ('a:2-900', '{name} [finds|buys|makes] {a} {items}, and {other} half as many. How many does {other} [find|buy|make]?', '{other} has <<a/2>> {items}.'),
            ('a:2-900', '{other} has half as many {items} as {name}. {name} has {a}. How many {items} does {other} have?', '{other} has <<a/2>> {items}.'),
            ('a:2-900', '{name} has {a} {items} and {other} twice as many. How many {items} does {other} have?', '{other} has <<a*2>> {items}.'),
            ('a:20-900 b:2-900', 'How many more {items} than {items2} are there, if there are {a} {items} and {b} {items2}?', 'There are <<a-b>> more.'),
            ('a:20-900 b:2-900', 'In a [box|bag|house] there are {a} {items} and {b} {items2}. How many more {items} are there?', 'There are <<a-b>> more.'),
            ('a:20-900 b:2-900', '{name} has {a} {items} and {b} {items2}. How many more {items} than {items2} does {he} have?', 'There are <<a-b>> more.'),
        ],
        'test': [
            ('a:2-900 b:2-900', 'How many {items} do {name} and {other} have together, if {name} has {a} and {other} has {b}?',
             'Together that is <<a+b>> {items}.'),
            ('a:2-900 b:2-300', '{name} buys {a} {items}. {other} buys {b} more {items} than {name}. How many {items} does {other} have?',
             '{other} has <<a+b>> {items}.'),
            ('a:2-900 b:2-300', '{name} finds {a} {items}. {other} has {b} fewer. How many do they have in all?',
             '{other} has <<a-b>> {items}.\nTogether that is <<a+r1>> {items}.'),
            ('a:2-900 k:2-30', '{name} makes {a} {items}. {other} makes {k} times as many. How many do they have together?',
             '{other} has <<a*k>> {items}.\nTogether that is <<a+r1>> {items}.'),
            ('a:2-900', '{name} has {a} {items} and {other} half as many. How many {items} does {other} have?',
             '{other} has <<a/2>> {items}.'),
            ('a:20-900 b:2-900', 'In a shop there are {a} {items} and {b} {items2}. How many more {items} are there than {items2}?',
             'There are <<a-b>> more.'),
        ],
    },
    'parts': {
        'train': [
            ('t:20-900 q:percent', 'A school has {t} children. {q}% of them are girls. How many girls are there?',
             'There are <<t*q/100>> girls.'),
            ('t:20-900 q:percent', 'A school has {t} children. {q}% of the children are girls. How many boys are there?',
             'There are <<t*q/100>> girls.\nThere are <<t-r1>> boys.'),
            ('t:20-900 q:percent', 'Of {t} [workers|children] in a town, {q}% go by bus. How many is that?', 'That is <<t*q/100>>.'),
            ('t:20-900 q:percent', 'What is {q}% of {t}?', 'That is <<t*q/100>>.'),
            ('t:20-900 q:percent', '{name} has {t} {items}. {q}% of the {items} are [red|blue|new]. How many are not?',
             'That is <<t*q/100>>.\nThere are <<t-r1>> that are not.'),
            ('t:20-900 q:percent', 'There are {t} {items} in a shop, of which {q}% are [red|old]. How many [red|old] {items} are there?',
             'That is <<t*q/100>>.'),
            ('b:3-30 a:2-29 k:2-60 t=b*k', 'What is {a}/{b} of {t}?', 'That is <<t*a/b>>.'),
            ('b:3-30 a:2-29 k:2-60 t=b*k', '{name} has {t} {items} and gives {a}/{b} of them to {other}. How many {items} does {other} '
             'get?', 'That is <<t*a/b>>.'),
            ('b:3-30 a:2-29 k:2-60 t=b*k', 'A town has {t} houses. {a}/{b} of the houses are [new|old|red]. How many houses are not?',
             'That is <<t*a/b>>.\nThere are <<t-r1>> that are not.'),
            ('b:3-30 a:2-29 k:2-60 t=b*k', '{name} [sells|uses] {a}/{b} of {his} {t} {items}. How many {items} does {he} have left?',
             'That is <<t*a/b>>.\nThere are <<t-r1>> left.'),
            ('t:20-900', 'Half of the {t} children of a school are girls. How many boys are there?', 'There are <<t/2>> boys.'),
            ('t:20-900', 'A quarter of {t} {items} are [red|blue]. How many are not?', 'That is <<t/4>>.\nThere are <<t-r1>> that are not.'),
            ('t:20-900', 'A third of the {t} {items} in a shop are [old|new]. How many is that?', 'That is <<t/3>>.'),
            ('n:2-60 m:2-60', 'There are {n} [boxes|bags] with {m} {items} in each. How many {items} are there in all?',
             'Together that is <<n*m>>.'),
            ('n:2-60 m:2-60 s:2-300', 'There are {n} [boxes|bags] with {m} {items} in each, and {s} {items} on the table. How many {items} '
             'are there?', 'In them are <<n*m>>.\nTogether that is <<r1+s>>.'),
            ('n:2-60 m:2-60 s:2-30', 'A [house|school] has {n} rooms with {m} {items} each. {s} {items} are [old|red]. How many are not?',
             'In them are <<n*m>>.\nThere are <<r1-s>> that are not.'),
            ('n:2-60 m:2-60 t=n*m', '{t} {items} are put into {n} [boxes|bags], the same number in each. How many {items} are in one?',
             'Each one holds <<t/n>>.'),
            ('t:20-900 q:percent', 'Of the {t} [workers|people] in a [town|house], {q}% are [women|old]. How many [men|young people] are there?',
             'That is <<t*q/100>>.\nThere are <<t-r1>> that are not.'),
            ('t:20-900 q:percent', 'In a school of {t} children, {q}% are girls. How many boys are [there|in the school]?', 'There are <<t*q/100>> girls.\nThere are <<t-r1>> boys.'),
            ('t:20-900 q:percent', '{q}% of the {t} children of a school are girls. How many of them are boys?', 'There are <<t*q/100>> girls.\nThere are <<t-r1>> boys.'),
            ('t:20-900 q:percent', 'How many girls are there in a school, if {q}% of its {t} children are girls?', 'There are <<t*q/100>> girls.'),
            ('t:20-900 q:percent', '[How many are|Find|Calculate] {q}% of {t}.', 'That is <<t*q/100>>.'),
            ('t:20-900 q:percent', '{name} wants to know [how much|what] {q}% of {t} is.', 'That is <<t*q/100>>.'),
            ('t:20-900 q:percent', '{q}% of {t} {items} are [blue|new|old]. How many {items} are not?', 'That is <<t*q/100>>.\nThere are <<t-r1>> that are not.'),
            ('t:20-900 q:percent', 'In a [shop|box] are {t} {items}, and {q}% of them are [red|new]. How many are not [red|new]?', 'That is <<t*q/100>>.\nThere are <<t-r1>> that are not.'),
            ('t:20-900 q:percent', '{q}% of the {items} in a [box|bag] of {t} are [blue|red|old]. How many {items} are that?', 'That is <<t*q/100>>.'),
            ('b:3-30 a:2-29 k:2-60 t=b*k', '[How many are|Find|Calculate] {a}/{b} of {t}.', 'That is <<t*a/b>>.'),
            ('b:3-30 a:2-29 k:2-60 t=b*k', '{name} wants to know [how much|what] {a}/{b} of {t} is.', 'That is <<t*a/b>>.'),
            ('b:3-30 a:2-29 k:2-60 t=b*k', '{a}/{b} of {t} {items} are [blue|new|old]. How many {items} are not?', 'That is <<t*a/b>>.\nThere are <<t-r1>> that are not.'),
            ('b:3-30 a:2-29 k:2-60 t=b*k', 'In a town of {t} houses, {a}/{b} are [old|red]. How many of the houses are not?', 'That is <<t*a/b>>.\nThere are <<t-r1>> that are not.'),
            ('b:3-30 a:2-29 k:2-60 t=b*k', '{a}/{b} of the {items} in a [box|bag] of {t} are [blue|red]. How many {items} are that?', 'That is <<t*a/b>>.'),
            ('n:2-60 m:2-60', 'How many {items} are there in {n} [boxes|bags] with {m} in each?', 'Together that is <<n*m>>.'),
            ('n:2-60 m:2-60', '{name} has {n} [boxes|bags]. In each are {m} {items}. How many {items} does {he} have?', 'Together that is <<n*m>>.'),
            ('n:2-60 m:2-60', '{name} [buys|gets] {n} [boxes|bags] with {m} {items} each. How many {items} are that [in all|together]?', 'Together that is <<n*m>>.'),
            ('t:20-900 q:percent', '{q}% of the {t} {items} [on a table|in a house|of {name}] are [old|new|blue]. How many [of them|{items}] are not?',
             'That is <<t*q/100>>.\nThere are <<t-r1>> that are not.'),
            ('t:20-900 q:percent', '{q}% of the {t} {items} in a [bag|shop] are [old|new|blue]. How many [are that|are not red or old]?', 'That is <<t*q/100>>.'),
            ('t:20-900 q:percent', '{q}% of the {t} houses of a town are [old|new]. How many houses are [that|they]?', 'That is <<t*q/100>>.'),
            ('b:3-30 a:2-29 k:2-60 t=b*k', '{a}/{b} of the {t} children of a school are girls. How many are [boys|not]?', 'That is <<t*a/b>>.\nThere are <<t-r1>> that are not.'),
            ('b:3-30 a:2-29 k:2-60 t=b*k', '{a}/{b} of the {t} {items} in a [shop|box] are [old|new]. How many are [red|not]?', 'That is <<t*a/b>>.\nThere are <<t-r1>> that are not.'),
            ('b:3-30 a:2-29 k:2-60 t=b*k', 'How [many|large] is {a}/{b} of {t}?', 'That is <<t*a/b>>.'),
        ],
        'test': [
            ('t:20-900 q:percent', 'Of the {t} children in a school, {q}% are girls. How many boys are there?',
             'There are <<t*q/100>> girls.\nThere are <<t-r1>> boys.'),
            ('t:20-900 q:percent', 'How much is {q}% of {t}?', 'That is <<t*q/100>>.'),
            ('t:20-900 q:percent', '{q}% of the {t} {items} in a shop are red. How many {items} are not?',
             'That is <<t*q/100>>.\nThere are <<t-r1>> that are not.'),
            ('b:3-30 a:2-29 k:2-60 t=b*k', 'How much is {a}/{b} of {t}?', 'That is <<t*a/b>>.'),
            ('b:3-30 a:2-29 k:2-60 t=b*k', '{a}/{b} of the {t} houses of a town are old. How many houses are not?',
             'That is <<t*a/b>>.\nThere are <<t-r1>> that are not.'),
            ('n:2-60 m:2-60', '{name} has {n} bags with {m} {items} in each. How many {items} does {he} have in all?',
             'Together that is <<n*m>>.'),
        ],
    },
    'units': {
        'train': [
            ('n:2-99', 'How many cm are {n} meters?', 'That is <<n*100>> cm.'),
            ('n:2-99', 'A [rope|wall|table] is {n} meters long. How long is it in cm?', 'That is <<n*100>> cm.'),
            ('n:2-99', '{name} works for {n} hours. How many minutes is that?', 'That is <<n*60>> minutes.'),
            ('n:2-99', 'How many hours are {n} days?', 'That is <<n*24>> hours.'),
            ('n:2-99', 'A trip takes {n} weeks. How many days is that?', 'That is <<n*7>> days.'),
            ('n:2-99', '{name} buys {n} kg of [rice|sugar|flour]. How many grams is that?', 'That is <<n*1000>> grams.'),
            ('n:2-99', 'How many grams are {n} kg?', 'That is <<n*1000>> grams.'),
            ('n:2-60 m:2-60', 'A trip takes {n} hours and {m} minutes. How many minutes is that?',
             'That is <<n*60>> minutes.\nTogether that is <<r1+m>> minutes.'),
            ('n:2-60 m:2-60', 'How many cm are {n} meters and {m} cm?', 'That is <<n*100>> cm.\nTogether that is <<r1+m>> cm.'),
            ('n:2-60 k:2-60', 'A rope of {n} meters is cut into pieces of {k} cm. How many pieces are there?',
             'That is <<n*100>> cm.\nThere are <<r1/k>> pieces.'),
            ('n:2-60 k:2-60', '{name} puts {n} kg of [rice|sugar|flour] into bags of {k} grams. How many bags does {he} need?',
             'That is <<n*1000>> grams.\n{He} needs <<r1/k>>.'),
            ('n:2-60 k:2-60', '{name} works for {n} hours and makes one {item} in {k} minutes. How many {items} does {he} make?',
             'That is <<n*60>> minutes.\n{He} makes <<r1/k>>.'),
            ('n:2-60 p:2-30', '{name} works for {n} weeks and earns ${p} a day. How much does {he} earn?',
             'That is <<n*7>> days.\n{He} earns $<<r1*p>>.'),
            ('n:2-99', 'How many cm long is a [wall|table] that is {n} meters long?', 'That is <<n*100>> cm.'),
            ('n:2-99', '{name} has a rope of {n} meters. How many cm is that?', 'That is <<n*100>> cm.'),
            ('n:2-99', 'How many minutes [are|is] {n} hours?', 'That is <<n*60>> minutes.'),
            ('n:2-99', '{name} [reads|drives|works] {n} hours. How many minutes are that?', 'That is <<n*60>> minutes.'),
            ('n:2-99', 'How many minutes does a trip of {n} hours take?', 'That is <<n*60>> minutes.'),
            ('n:2-99', 'A trip takes {n} days. How many hours is that?', 'That is <<n*24>> hours.'),
            ('n:2-99', 'How many days are {n} weeks?', 'That is <<n*7>> days.'),
            ('n:2-99', 'A [bag|box] [weighs|holds] {n} kg. How many grams is that?', 'That is <<n*1000>> grams.'),
            ('n:2-99', 'How many grams of [rice|sugar] are in a [box|bag] of {n} kg?', 'That is <<n*1000>> grams.'),
            ('n:2-60 m:2-60', '{name} [reads|drives] for {n} hours and {m} minutes. How many minutes are that?', 'That is <<n*60>> minutes.\nTogether that is <<r1+m>> minutes.'),
            ('n:2-60 m:2-60', 'How many minutes are {n} hours and {m} minutes?', 'That is <<n*60>> minutes.\nTogether that is <<r1+m>> minutes.'),
            ('n:2-60 m:2-60', 'A wall is {n} meters and {m} cm long. How many cm is that?', 'That is <<n*100>> cm.\nTogether that is <<r1+m>> cm.'),
            ('n:2-60 k:2-60', 'How many bags of {k} grams are made of {n} kg of [rice|flour]?', 'That is <<n*1000>> grams.\n{He} needs <<r1/k>>.'),
            ('n:2-60 k:2-60', 'For {n} kg of [rice|sugar], how many bags of {k} grams does {name} need?', 'That is <<n*1000>> grams.\n{He} needs <<r1/k>>.'),
            ('n:2-60 k:2-60', '{name} needs bags for {n} kg of [flour|sugar]. A bag holds {k} grams. How many does {he} need?', 'That is <<n*1000>> grams.\n{He} needs <<r1/k>>.'),
            ('n:2-60 k:2-60', 'How many pieces of {k} cm are there in a rope of {n} meters?', 'That is <<n*100>> cm.\nThere are <<r1/k>> pieces.'),
            ('n:2-99', 'A rope of {n} meters is how many cm long?', 'That is <<n*100>> cm.'),
            ('n:2-99', 'How long in cm is a [rope|wall] of {n} meters?', 'That is <<n*100>> cm.'),
            ('n:2-99', 'How many cm [are there|is it] in a rope of {n} meters?', 'That is <<n*100>> cm.'),
            ('n:2-60 k:2-60', 'How many pieces of {k} cm can {name} cut from a rope of {n} meters?', 'That is <<n*100>> cm.\nThere are <<r1/k>> pieces.'),
            ('n:2-60 m:2-60', '{name} works for {n} hours and {m} minutes. How many minutes [does {he} work|are that]?',
             'That is <<n*60>> minutes.\nTogether that is <<r1+m>> minutes.'),
            ('n:2-60 m:2-60', 'For {n} hours and {m} minutes {name} [drives|reads|works]. How many minutes is that?',
             'That is <<n*60>> minutes.\nTogether that is <<r1+m>> minutes.'),
            ('n:2-60 k:2-60', 'How many bags of {k} grams [can {name} make of|are there in] {n} kg of [sugar|rice]?', 'That is <<n*1000>> grams.\n{He} needs <<r1/k>>.'),
            ('n:2-60 k:2-60', '{name} needs how many bags of {k} grams for {n} kg of [flour|rice]?', 'That is <<n*1000>> grams.\n{He} needs <<r1/k>>.'),
        ],
        'test': [
            ('n:2-99', 'How many cm long is a rope of {n} meters?', 'That is <<n*100>> cm.'),
            ('n:2-99', 'A trip takes {n} hours. How many minutes is that?', 'That is <<n*60>> minutes.'),
            ('n:2-99', 'How many grams is a bag of {n} kg?', 'That is <<n*1000>> grams.'),
            ('n:2-60 m:2-60', '{name} works for {n} hours and {m} minutes. How many minutes is that?',
             'That is <<n*60>> minutes.\nTogether that is <<r1+m>> minutes.'),
            ('n:2-60 k:2-60', 'How many bags of {k} grams does {name} need for {n} kg of sugar?',
             'That is <<n*1000>> grams.\n{He} needs <<r1/k>>.'),
        ],
    },
}


def main(config):
    if config['n'] < 1:
        raise BadInput(f'n={config["n"]} should be at least 1')
    source = problems(config['split'], config['seed'])
    for _ in range(config['n']):
        problem = next(source)
        print(f'[{problem["kind"]}] {problem["question"]}\n{problem["answer"]}\n')


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
