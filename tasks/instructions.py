"""Generated conversations without end: small instructions about words and numbers, and answers that can be checked.

    python -m tasks.instructions --split=test --n=5                                   # prints a few
    python -m tasks.instructions --wordings=mine.txt --split=test --n=300 --to=mine.jsonl    # asked in words of your own

    from tasks.instructions import generate_conversations
    for conversation in itertools.islice(generate_conversations('train', seed=0), 1000):
        conversation['messages'], conversation['kind']      # the kind is that of the last turn

A conversation has one to four turns, of which later ones may refer to the one before: "and backwards?". Answers show their
work where a model could not know the result otherwise: `l-a-m-p -> p-m-a-l -> pmal`, or `<<48/2=24>>24` for the calculator.
The same seed gives the same conversations on every machine. What the splits (train, dev, test) do not share:

- wordings: a line of instruction_wordings.txt, with its choices made, belongs to one split by a hash of it;
- words: a word, name or address that is asked about belongs to one split by a hash of it (instruction_words.py).

This file knows nothing about tokens or models.
"""
import json
import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from configurator import check_bounds, choice, configure, optional
from runtime.errors import BadInput, one_line_errors
from runtime.files import atomic_write
from tasks.instruction_answers import FIXED, RESULTS, TASKS, answer_for, draw_details, draw_subject, suits
from tasks.instruction_words import (
    NAMES,
    NUMERALS,
    PLACES,
    SEPARATORS,
    WORDINGS,
    belongs_to,
    draw_name,
    draw_word,
    expand,
    read_wordings,
    split_of,
)

DEFAULTS = {
    'split': choice('train', 'dev', 'test'),  # whose wordings and words
    'seed': 0,  # of the first conversation
    'n': 10,  # how many to print
    'wordings': optional(str),  # a file in the form of instruction_wordings.txt, whose sections replace those of the split
    'to': optional(str),  # write them to this .jsonl file instead
}
MAX_CHARACTERS = 230  # of a conversation, so that all of it fits into a context of 256 bytes
N_TURNS = {1: 5, 2: 4, 3: 2, 4: 1}  # how often a conversation has so many at most
# Probabilities
SYSTEM = 0.04  # a conversation begins with a system message, which changes nothing
FOLLOW_UP = 0.65  # a turn is about what the one before is about, where that is possible
SHORT_FOLLOW_UP = 0.6  # a follow-up has a wording that needs a turn before; else "it" takes the word's place
POLITE = 0.4  # a wording stands in one of "asking" or "questions"
ATTEMPTS = 30  # to find a wording of the split
CARELESS = 0.05  # a slip of the fingers, in training

QUOTES = ('{}',) * 8 + ('"{}"',) * 6 + ("'{}'",) * 4 + ('the word {}', 'the word {}', 'the word "{}"', "the word '{}'")
FRESH_SLOT = re.compile(r'\{(?:a|list|bare|text|numbers)\}')  # what "it" cannot stand for


def main(config):
    check_bounds(config, 'n', at_least=1, at_most=10**8)
    check_bounds(config, 'seed', at_least=0)
    wordings = own_wordings(config['wordings']) if config['wordings'] else None
    conversations = generate_conversations(config['split'], config['seed'], wordings)
    chosen = [conversation for _, conversation in zip(range(config['n']), conversations)]
    if config['to']:
        with atomic_write(config['to']) as file:
            file.writelines(json.dumps(conversation).encode() + b'\n' for conversation in chosen)
        return
    for conversation in chosen:
        lines = (f'{message["role"]}: {message["content"]}' for message in conversation['messages'])
        print(f'[{conversation["kind"]}]', *lines, sep='\n', end='\n\n')


def own_wordings(path):
    """The wordings of a file. Tasks without a section there are left out; what is around them is as always."""
    own = read_wordings(path)
    if unknown := own.keys() - WORDINGS:
        raise BadInput(f'{path} has a section {min(unknown)}; there are {", ".join(WORDINGS)}')
    return {section: lines for section, lines in WORDINGS.items() if section not in TASKS} | own


def generate_conversations(split: str, seed: int = 0, wordings: dict | None = None) -> Iterator[dict]:
    """Yields {'messages': [{'role', 'content'}, ...], 'kind': kind of the last turn} without end.

    wordings: {section: lines}, all of which may be used in any split; None: those of the split.
    """
    rng = random.Random(f'{split} {seed}')
    writer = Writer(split, rng, wordings or WORDINGS, wordings is not None)
    while True:
        messages, kind, before = [], None, None
        if rng.random() < SYSTEM:
            messages.append({'role': 'system', 'content': writer.say('system')})
        for _ in range(rng.choices(list(N_TURNS), list(N_TURNS.values()))[0]):
            while (turn := make_turn(writer, before)) is None:
                pass
            n_characters = sum(len(message['content']) + 2 for message in messages) + len(turn.question) + len(turn.answer)
            if n_characters > MAX_CHARACTERS:
                break
            messages += {'role': 'user', 'content': turn.question}, {'role': 'assistant', 'content': turn.answer}
            kind, before = turn.kind, turn
        if kind:
            yield {'messages': messages, 'kind': kind}


class Writer(NamedTuple):
    """What draws and speaks for one split."""
    split: str
    rng: random.Random
    wordings: dict
    in_any_split: bool  # whether wordings are taken whatever their hash says

    def say(self, section):
        """One of the section's lines, with its choices made."""
        return expand(self.rng.choice(self.wordings[section]), self.rng)


# ---------------------------------------------------------------------------- a turn

class Turn(NamedTuple):
    """A question with its answer, and what the next turn can refer to: the task, and what "it" is for tasks of each need."""
    question: str
    answer: str
    kind: str
    task: str
    it: dict


def make_turn(writer, before):
    """The Turn after another one, or after None; None if the draw was not suitable."""
    form, task = choose_task(writer, before)
    kind, _, need = TASKS[task]
    subject = before.it[need] if form == 'follow-up' else draw_subject(task, writer)
    if not suits(task, subject):
        return None
    details = draw_details(task, subject, writer.rng)
    answer = FIXED.get(task) or answer_for(task, subject, details)
    wording = choose_wording(writer, task, form)
    if answer is None or wording is None:
        return None
    question = phrase(wording, slots_of(task, subject, details, writer, form), writer)
    # a training text must have no word of the other splits; in these, answers may happen to have one of training's
    if not belongs_to(f'{question} {answer}' if writer.split == 'train' and task not in FIXED else question, writer.split):
        return None
    it = {} if task in FIXED else {'any': True} if task == 'repeat' else {'any': True, need: subject}
    if task in RESULTS:
        it[RESULTS[task]] = answer.split(' -> ')[-1].split('>>')[-1]
    return Turn(question, answer, kind if form == 'fresh' or need == 'any' else 'follow-up', task, it)


def choose_task(writer, before):
    """(form, task): another task on its own is 'fresh', one on what "it" is a 'follow-up'."""
    rng = writer.rng
    form = 'follow-up' if before and before.it and rng.random() < FOLLOW_UP else 'fresh'
    needs = before.it if form == 'follow-up' else ('any',) if before and before.it else ()
    names = [name for name, (_, _, need) in TASKS.items() if name in writer.wordings
             and (need in needs and name != before.task if form == 'follow-up' else need != 'any' or need in needs)]
    if not names:
        return choose_task(writer, None)
    return form, rng.choices(names, [TASKS[name].weight for name in names])[0]


# ---------------------------------------------------------------------------- a question

def choose_wording(writer, task, form):
    """A wording of the split that can stand there, with its choices made; None if none was found."""
    rng = writer.rng
    short = form == 'follow-up' and rng.random() < SHORT_FOLLOW_UP or TASKS[task].need == 'any'
    lines = [line for line in writer.wordings[task] if (line[0] == '~') == short
             and not (form == 'follow-up' and FRESH_SLOT.search(line))]
    for _ in range(ATTEMPTS if lines else 0):
        wording = expand(rng.choice(lines), rng)
        if writer.in_any_split or split_of(wording) == writer.split:
            return wording
    return None


def slots_of(task, subject, details, writer, form):
    """The texts that take the places of {w}, {list}, ... in a wording."""
    need, rng = TASKS[task].need, writer.rng
    slots = {'thing': draw_word(writer.split, rng), 'place': draw_name(PLACES, writer.split, rng),
             'name': draw_name(NAMES, writer.split, rng), 'b': details.get('b')}
    if form == 'follow-up':
        slots['w'] = writer.say('it')
    elif need == 'word':
        slots['w'] = rng.choice(QUOTES).format(subject)
    elif need == 'number':
        slots['a'] = subject
    elif need in ('list', 'numbers'):
        quotes = rng.choice(('{}', '{}', '"{}"', "'{}'")) if need == 'list' else '{}'
        slots['list'] = slots['numbers'] = enumeration([quotes.format(item) for item in subject], task, rng)
        slots['bare'] = ' '.join(subject)
    elif need == 'text':
        slots['text'] = subject['sentence']
    if 'letter' in details:
        slots['c'] = rng.choice(('{}', '{}', '"{}"', "'{}'", 'the letter {}', 'the letter "{}"')).format(details['letter'])
        slots['cs'] = rng.choice(("{}'s", "{}'s", '"{}"s', "letter {}'s", 'letters {}', '{}s')).format(details['letter'])
    if 'n' in details:
        n = details['n']
        slots['n'] = rng.choice((str(n), NUMERALS[n]))
        slots['times'] = rng.choice((f'{n} times', f'{NUMERALS[n]} times', *(['twice'] * (n == 2))))
    if 'separator' in details:
        name = rng.choice(SEPARATORS[details['separator']])
        slots['sep'] = name if name.endswith('s') else f'a {name}'
    return slots


def enumeration(items, task, rng):
    """Several things in a question: 5, 12 and 7."""
    last = rng.choice((' and ', ', and ', ', ', ', ')) if task in ('sort words', 'sort up') else \
        rng.choice((' or ', ' or ', ' and ', ', '))
    if len(items) > 2 and rng.random() < 0.25:
        return ' '.join(items)
    return ', '.join(items[:-1]) + last + items[-1]


def phrase(wording, slots, writer):
    """A wording as somebody would write it: polite or not, in small letters or not, with a full stop or not."""
    rng, text = writer.rng, wording.lstrip('*~ ')
    if wording[0] not in '*~' and rng.random() < POLITE:
        frame = writer.say('questions' if text[-1] == '?' else 'asking')
        text = frame.replace('X', text.rstrip('?') if frame[-1] != 'X' else text)
    if rng.random() < 0.25:
        text = text.replace('what is', "what's").replace('I would', "I'd")
    if text[-1] not in '?.!' and '{text}' not in text:
        text += rng.choice('...!')
    style = rng.random()
    text = text[0].upper() + text[1:] if style < 0.65 else text.lower()
    if style > 0.75 and '{text}' not in text:
        text = text.rstrip('?.!')
    return text.format(**slots)


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
