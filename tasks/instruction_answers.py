"""What generated instructions ask for: the tasks, what they are about, and the answers.

    answer_for('reverse', 'lamp', {})                  # 'l-a-m-p -> p-m-a-l -> pmal'
    answer_for('add', '48', {'b': 2})                  # '<<48+2=50>>50', for the calculator

The answers show their work where a model could not know the result otherwise.
"""
import itertools
from typing import NamedTuple

from tasks.calculator import calculate
from tasks.instruction_words import (
    NAMES,
    PLACES,
    SEPARATORS,
    draw_email,
    draw_name,
    draw_plural,
    draw_word,
    draw_words,
)


class Task(NamedTuple):
    kind: str  # in tables
    weight: float  # how often it is drawn, in relation to the others
    need: str | None  # what it is about


TASKS = {name: Task(*values) for name, values in {
    'spell': ('spell', 3, 'word'), 'reverse': ('reverse', 5, 'word'), 'length': ('count letters', 3, 'word'),
    'letter count': ('count one letter', 3, 'word'), 'upper': ('upper and lower case', 2, 'word'),
    'lower': ('upper and lower case', 2, 'word'), 'first': ('letter at an end', 1.5, 'word'),
    'last': ('letter at an end', 2, 'word'), 'repeat': ('repeat', 3, 'word'), 'sort words': ('sort words', 5, 'list'),
    'sort up': ('sort numbers', 5, 'numbers'), 'join': ('join', 3, 'list'), 'larger': ('compare numbers', 3, 'numbers'),
    'smaller': ('compare numbers', 3, 'numbers'), 'find quote': ('find', 2, 'text'), 'find email': ('find', 2, 'text'),
    'add': ('arithmetic', 2, 'number'), 'subtract': ('arithmetic', 2, 'number'), 'multiply': ('arithmetic', 2, 'number'),
    'help': ('help', 1.5, None), 'hello': ('small talk', 1, None), 'thanks': ('small talk', 1, 'any'),
    'refuse': ('refuse', 5, None),
}.items()}
FIXED = {
    'help': 'I can spell, reverse, count, sort, join, repeat and find words, compare numbers, and calculate.',
    'hello': 'Hello! What can I do for you?', 'thanks': 'You are welcome!', 'refuse': 'Sorry, I cannot help with that.',
}
SIGNS = {'add': '+', 'subtract': '-', 'multiply': '*'}
PARTS = {'find quote': 'quoted', 'find email': 'email'}
# What "it" is after a turn, if that is not what the turn was about
RESULTS = dict.fromkeys(('reverse', 'upper', 'lower', 'find quote'), 'word')
RESULTS |= dict.fromkeys((*SIGNS, 'larger', 'smaller'), 'number')


# ---------------------------------------------------------------------------- what a task is about

def draw_subject(task, writer):
    """What a task is about: a word, a list of words, numbers, a number, or the parts of a sentence."""
    need, split, rng = TASKS[task].need, writer.split, writer.rng
    if need == 'word':
        word = draw_word(split, rng)
        return rng.choice((str.upper, str.upper, str.capitalize))(word) if task == 'lower' else word
    if need == 'list':
        return draw_words(3 if task == 'sort words' else rng.choice((2, 3, 3)), split, rng)
    if need == 'numbers':
        n = rng.choice((2, 2, 3) if task in RESULTS else (3, 3, 4))
        numbers = [str(number) for number in rng.sample(range(10, 100), n)]
        return numbers if begin_differently(numbers) else None
    if need == 'number':
        return str(rng.randint(2, rng.choice((20, 100, 100, 1000))))
    if need == 'text':
        parts = {'n': str(rng.randint(2, rng.choice((20, 100, 1000)))), 'name': draw_name(NAMES, split, rng),
                 'place': draw_name(PLACES, split, rng), 'quoted': draw_word(split, rng), 'thing': draw_word(split, rng),
                 'things': draw_plural(split, rng), 'email': draw_email(split, rng)}
        sentence = writer.say('sentences')
        once = {part: value for part, value in parts.items() if sentence.count(f'{{{part}}}') == 1}
        return {'sentence': sentence.format(**parts), **once}
    return None


def begin_differently(texts):
    return len({text[0] for text in texts}) == len(texts)


def suits(task, subject):
    """Whether a task can be done with what is there."""
    if TASKS[task].need in (None, 'any'):
        return True
    if subject is None or task in PARTS and PARTS[task] not in subject:
        return False
    if TASKS[task].need == 'word' and len(subject) > 9:
        return False
    if task == 'letter count':
        return subject.islower()
    if task == 'sort words':
        return len(subject) > 2 and begin_differently(subject)
    return task not in ('upper', 'lower') or subject != getattr(subject, task)()


def draw_details(task, subject, rng):
    """What else a task needs: a letter, how often, what to join with, a second number."""
    if task == 'letter count':
        return {'letter': rng.choice(subject)}
    if task == 'repeat':
        return {'n': rng.randint(2, 4)}
    if task == 'join':
        return {'separator': rng.choice((', ', *SEPARATORS))}
    if task in SIGNS:
        return {'b': rng.randint(2, rng.choice((10, 100) if task == 'multiply' else (10, 100, 1000)))}
    return {}


# ---------------------------------------------------------------------------- answers

def answer_for(task: str, subject, details: dict) -> str | None:
    """The answer with its work, or None where there is none."""
    letter, n = details.get('letter'), details.get('n')
    if task == 'letter count':
        counts = itertools.accumulate(int(character == letter) for character in subject)
        shown = [f'{character}{count}' if character == letter else character for character, count in zip(subject, counts)]
        return f'{"-".join(shown)} -> {subject.count(letter)}'
    if task in SIGNS:
        a, b = int(subject), details['b']
        if task == 'subtract' and a <= b:
            return None
        return f'<<{a}{SIGNS[task]}{b}={(result := calculate(f"{a}{SIGNS[task]}{b}"))}>>{result}'
    if task in PARTS:
        return subject[PARTS[task]]
    return {
        'spell': lambda: '-'.join(subject),
        'reverse': lambda: f'{"-".join(subject)} -> {"-".join(reversed(subject))} -> {subject[::-1]}',
        'length': lambda: ' '.join(f'{letter}{i}' for i, letter in enumerate(subject, 1)) + f' -> {len(subject)}',
        'upper': lambda: subject.upper(), 'lower': lambda: subject.lower(),
        'first': lambda: subject[0], 'last': lambda: f'{"-".join(subject)} -> {subject[-1]}',
        'repeat': lambda: ' '.join(f'{i}. {subject}' for i in range(1, n + 1)),
        'sort words': lambda: f'{" ".join(word[0] for word in sorted(subject))} -> {", ".join(sorted(subject))}',
        'sort up': lambda: ', '.join(sorted(subject, key=int)),
        'join': lambda: details['separator'].join(subject),
        'larger': lambda: max(subject, key=int), 'smaller': lambda: min(subject, key=int),
    }[task]()
