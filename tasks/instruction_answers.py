"""What generated instructions ask for: the tasks, what they are about, and the answers.

    answer_for('reverse', 'lamp', {})                  # 'l-a-m-p -> p-m-a-l -> pmal'
    answer_for('add', '48', {'b': 2})                  # '<<48+2=50>>50', for the calculator

The answers show their work where a model could not know the result otherwise.
"""
from typing import NamedTuple

from tasks.calculator import calculate
from tasks.instruction_words import (
    NAMES,
    PLACES,
    SEPARATORS,
    SMALL_WORDS,
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
    'spell': ('spell', 3, 'word'), 'reverse': ('reverse', 5, 'word'), 'length': ('length', 3, 'word'),
    'letter count': ('count letters', 4, 'word'), 'vowels': ('count letters', 2, 'word'),
    'upper': ('upper and lower case', 2, 'word'), 'lower': ('upper and lower case', 1.5, 'word'),
    'title': ('upper and lower case', 1.5, 'word'), 'first': ('letter at a place', 1.5, 'word'),
    'last': ('letter at a place', 1.5, 'word'), 'nth': ('letter at a place', 2, 'word'), 'replace': ('replace', 3, 'word'),
    'repeat': ('repeat', 2, 'word'), 'sort words': ('sort words', 5, 'list'), 'sort up': ('sort numbers', 4, 'numbers'),
    'sort down': ('sort numbers', 3, 'numbers'), 'word count': ('count words', 3, 'list'), 'join': ('join', 3, 'list'),
    'longer': ('compare words', 2, 'pair'), 'shorter': ('compare words', 2, 'pair'),
    'larger': ('compare numbers', 2, 'numbers'), 'smaller': ('compare numbers', 2, 'numbers'),
    'find number': ('find', 2, 'text'), 'find name': ('find', 2, 'text'), 'find quote': ('find', 2, 'text'),
    'find email': ('find', 2, 'text'), 'add': ('arithmetic', 1.5, 'number'), 'subtract': ('arithmetic', 1.5, 'number'),
    'multiply': ('arithmetic', 1.5, 'number'), 'divide': ('arithmetic', 1.5, 'number'), 'help': ('help', 2, None),
    'hello': ('small talk', 1, None), 'thanks': ('small talk', 1, 'any'), 'refuse': ('refuse', 5, None),
}.items()}
FIXED = {
    'help': 'I can spell, reverse, sort, count, compare, change and find words, and calculate.',
    'hello': 'Hello! What can I do for you?', 'thanks': 'You are welcome!', 'refuse': 'Sorry, I cannot help with that.',
}
SIGNS = {'add': '+', 'subtract': '-', 'multiply': '*', 'divide': '/'}
PARTS = {'find number': 'n', 'find name': 'name', 'find quote': 'quoted', 'find email': 'email'}
# What "it" is after a turn, if that is not what the turn was about
RESULTS = dict.fromkeys('reverse upper lower title replace longer shorter'.split() + ['find name', 'find quote'], 'word')
RESULTS |= dict.fromkeys((*SIGNS, 'larger', 'smaller', 'find number'), 'number')


# ---------------------------------------------------------------------------- what a task is about

def draw_subject(task, writer):
    """What a task is about: a word, a pair or a list of words, numbers, a number, or the parts of a sentence."""
    need, split, rng = TASKS[task].need, writer.split, writer.rng
    if need == 'word':
        word = draw_word(split, rng)
        capitals = 1 if task == 'lower' else 0 if task in ('upper', 'title', 'letter count', 'replace') else 0.08
        return rng.choice((str.upper, str.upper, str.capitalize))(word) if rng.random() < capitals else word
    if need == 'pair':
        return draw_words(2, split, rng)
    if need == 'list':
        words = draw_words(rng.choice((2, 3, 4, 5, 6) if task == 'word count' else (3, 3, 4)), split, rng)
        if task == 'word count' and rng.random() < 0.4:  # more like a sentence
            return [rng.choice(SMALL_WORDS) if rng.random() < 0.4 else word for word in words]
        return words if task != 'sort words' or begin_differently(words) or rng.random() < 0.1 else None
    if need == 'numbers':
        n = rng.choice((2, 2, 3) if task in RESULTS else (3, 3, 4))
        if rng.random() < 0.4:
            return [str(number) for number in rng.sample(range(rng.choice((20, 100, 1000))), n)]
        numbers = [str(number) for number in rng.sample(range(10, 100), n)]
        return numbers if begin_differently(numbers) else None
    if need == 'number':
        return str(rng.randint(2, rng.choice((20, 100, 100, 1000, 10_000))))
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
    if TASKS[task].need == 'word' and len(subject) > 10:
        return False
    if task in ('letter count', 'replace', 'title'):
        return subject.islower()
    if task in ('upper', 'lower'):
        return subject != getattr(subject, task)()
    return task not in ('longer', 'shorter') or len(subject[0]) != len(subject[1])


def draw_details(task, subject, rng):
    """What else a task needs: letters, how often, a second number, ..."""
    if task in ('letter count', 'replace'):
        letter, *others = rng.sample('abcdefghijklmnopqrstuvwxyz', 3)
        if task == 'replace' or rng.random() < 0.85:
            letter = rng.choice(subject)
        return {'letter': letter, 'other': others[0] if others[0] != letter else others[1]}
    if task in ('repeat', 'nth'):
        return {'n': rng.randint(2, 5)}
    if task == 'join':
        return {'separator': rng.choice((', ', *SEPARATORS))}
    if task == 'divide':
        return {'b': rng.choice([b for b in range(2, 100) if int(subject) % b == 0] or [0])}
    if task in SIGNS:
        return {'b': rng.randint(2, rng.choice((10, 100) if task == 'multiply' else (10, 100, 1000)))}
    return {'b': 0}


# ---------------------------------------------------------------------------- answers

def answer_for(task: str, subject, details: dict) -> str | None:
    """The answer with its work, or None where there is none."""
    letter, n = details.get('letter'), details.get('n')
    if task in ('letter count', 'vowels'):
        counted, shown = 0, []
        for character in subject:
            is_meant = character.lower() in (letter or 'aeiou')
            counted += is_meant
            shown.append(f'{character}{counted}' if is_meant else character)
        return f'{"-".join(shown)} -> {counted}'
    if task in SIGNS:
        a, b = int(subject), details['b']
        if not b or task == 'subtract' and a <= b:
            return None
        return f'<<{a}{SIGNS[task]}{b}={(result := calculate(f"{a}{SIGNS[task]}{b}"))}>>{result}'
    if task in PARTS:
        return subject[PARTS[task]]
    if task == 'nth':
        return f'{numbered(subject[:n])} -> {subject[n - 1]}' if n <= len(subject) else None
    return {
        'spell': lambda: '-'.join(subject),
        'reverse': lambda: worked_letters(subject, subject[::-1]),
        'length': lambda: f'{numbered(subject)} -> {len(subject)}',
        'upper': lambda: subject.upper(), 'lower': lambda: subject.lower(), 'title': lambda: subject.capitalize(),
        'first': lambda: subject[0], 'last': lambda: f'{"-".join(subject)} -> {subject[-1]}',
        'replace': lambda: worked_letters(subject, subject.replace(letter, details['other'])),
        'repeat': lambda: ' '.join(f'{i}. {subject}' for i in range(1, n + 1)),
        'sort words': lambda: ', '.join(sorted(subject)),
        'sort up': lambda: ', '.join(sorted(subject, key=int)),
        'sort down': lambda: ', '.join(sorted(subject, key=int, reverse=True)),
        'word count': lambda: ' '.join(f'{word} {i}' for i, word in enumerate(subject, 1)) + f' -> {len(subject)}',
        'join': lambda: details['separator'].join(subject),
        'longer': lambda: f'{numbered(subject[0])}, {numbered(subject[1])} -> {max(subject, key=len)}',
        'shorter': lambda: f'{numbered(subject[0])}, {numbered(subject[1])} -> {min(subject, key=len)}',
        'larger': lambda: max(subject, key=int), 'smaller': lambda: min(subject, key=int),
    }[task]()


def worked_letters(word, result):
    return f'{"-".join(word)} -> {"-".join(result)} -> {result}'


def numbered(word):
    return ' '.join(f'{letter}{i}' for i, letter in enumerate(word, 1))
