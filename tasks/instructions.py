"""Generated conversations without end: small instructions about words and numbers, and answers that can be checked.

    python -m tasks.instructions --split=test --n=5                                   # prints a few
    python -m tasks.instructions --wordings=mine.txt --split=test --n=300 --to=mine.jsonl    # asked in words of your own

    from tasks.instructions import generate_conversations
    for conversation in itertools.islice(generate_conversations('train', seed=0), 1000):
        conversation['messages'], conversation['kind']      # the kind is that of the last turn

A conversation has one to four turns, of which later ones may refer to the one before: "and backwards?". Answers show their
work where a model could not know the result otherwise: `l-a-m-p -> p-m-a-l -> pmal`, or `<<48/2=24>>24` for the calculator.
The same seed gives the same conversations on every machine. What the splits (train, dev, test) do not share:

- wordings: each line of instruction_wordings.txt belongs to one split;
- words: a word, name or address that is asked about belongs to one split by a hash of it (instruction_words.py).

This file knows nothing about tokens or models.
"""
import itertools
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
    ORDINALS,
    PLACES,
    SEPARATORS,
    SMALL_WORDS,
    WORDINGS,
    belongs_to,
    draw_name,
    draw_word,
    expand,
    read_wordings,
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
SAME_TASK = 0.15  # it is the same task on another word: "and table?"
SHORT_FOLLOW_UP = 0.6  # a follow-up has a wording that needs a turn before; else "it" takes the word's place
CARELESS = 0.05  # a slip of the fingers, in training

AGAIN = {name for name, task in TASKS.items() if task.need == 'word'} - {'replace', 'lower', 'repeat'}
QUOTES = ('{}',) * 8 + ('"{}"',) * 6 + ("'{}'",) * 4 + ('the word {}', 'the word {}', 'the word "{}"', "the word '{}'")
FRESH_SLOT = re.compile(r'\{(?:a|v|list|bare|text|numbers)\}')  # what "it" cannot stand for


def main(config):
    check_bounds(config, 'n', at_least=1, at_most=10**8)
    check_bounds(config, 'seed', at_least=0)
    wordings = wordings_with(config['wordings'], config['split']) if config['wordings'] else WORDINGS
    conversations = generate_conversations(config['split'], config['seed'], wordings)
    chosen = [conversation for _, conversation in zip(range(config['n']), conversations)]
    if config['to']:
        with atomic_write(config['to']) as file:
            file.writelines(json.dumps(conversation).encode() + b'\n' for conversation in chosen)
        return
    for conversation in chosen:
        lines = (f'{message["role"]}: {message["content"]}' for message in conversation['messages'])
        print(f'[{conversation["kind"]}]', *lines, sep='\n', end='\n\n')


def wordings_with(path, split):
    """The wordings of a file for a split. Tasks without a section there are left out; other sections are then the split's."""
    own = read_wordings(path)
    if unknown := own.keys() - WORDINGS:
        raise BadInput(f'{path} has a section {min(unknown)}; there are {", ".join(WORDINGS)}')
    wordings = {section: splits for section, splits in WORDINGS.items() if section not in TASKS}
    return wordings | {section: {split: list(itertools.chain(*splits.values()))} for section, splits in own.items()}


def generate_conversations(split: str, seed: int = 0, wordings: dict | None = None) -> Iterator[dict]:
    """Yields {'messages': [{'role', 'content'}, ...], 'kind': kind of the last turn} without end."""
    rng = random.Random(f'{split} {seed}')
    writer = Writer(split, rng, wordings or WORDINGS)
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

    def say(self, section):
        """One of the section's wordings."""
        return expand(self.rng.choice(self.wordings[section][self.split]), self.rng)


# ---------------------------------------------------------------------------- a turn

class Turn(NamedTuple):
    """A question with its answer, and what the next turn can refer to: the task, and what "it" is for tasks of each need."""
    question: str
    answer: str
    kind: str
    task: str
    details: dict
    it: dict


def make_turn(writer, before):
    """The Turn after another one, or after None; None if the draw was not suitable."""
    chosen = choose_task(writer, before)
    if chosen is None:
        return None
    form, task = chosen
    kind, _, need = TASKS[task]
    subject = before.it[need] if form == 'follow-up' else draw_subject(task, writer)
    if not suits(task, subject):
        return None
    details = before.details if form == 'again' else draw_details(task, subject, writer.rng)
    answer = FIXED.get(task) or answer_for(task, subject, details)
    wording = choose_wording(writer, 'again' if form == 'again' else task, form)
    if answer is None or wording is None:
        return None
    slots = slots_of(task, subject, details, writer, wording, form)
    question = phrase(wording, slots, writer, is_first=before is None or not before.it)
    # a training text must have no word of the other splits; in these, answers may happen to have one of training's
    if not belongs_to(f'{question} {answer}' if writer.split == 'train' and task not in FIXED else question, writer.split):
        return None
    it = {} if task in FIXED else {'any': True} if task == 'repeat' else {'any': True, need: subject}
    if task in RESULTS:
        it[RESULTS[task]] = answer.split(' -> ')[-1].split('>>')[-1]
    return Turn(question, answer, kind if form == 'fresh' or need == 'any' else 'follow-up', task, details, it)


def choose_task(writer, before):
    """(form, task): another task on its own is 'fresh', one on what "it" is a 'follow-up', the same on another word 'again'."""
    rng = writer.rng
    if before and before.task in AGAIN and 'again' in writer.wordings and rng.random() < SAME_TASK:
        return 'again', before.task
    form = 'follow-up' if before and before.it and rng.random() < FOLLOW_UP else 'fresh'
    needs = before.it if form == 'follow-up' else ('any',) if before and before.it else ()
    names = [name for name, (_, _, need) in TASKS.items() if name in writer.wordings
             and (need in needs and name != before.task if form == 'follow-up' else need != 'any' or need in needs)]
    return (form, rng.choices(names, [TASKS[name].weight for name in names])[0]) if names else None


# ---------------------------------------------------------------------------- a question

def choose_wording(writer, section, form):
    """A wording that can stand there; in a follow-up, most often one that needs a turn before. None if there is none."""
    lines, rng = writer.wordings[section][writer.split], writer.rng
    short = [line for line in lines if line[0] == '~']
    others = [line for line in lines if line[0] != '~' and not (form == 'follow-up' and FRESH_SLOT.search(line))]
    if short and (form == 'follow-up' and rng.random() < SHORT_FOLLOW_UP or not others):
        return rng.choice(short)
    return rng.choice(others) if others else None


def slots_of(task, subject, details, writer, wording, form):
    """The texts that take the places of {w}, {list}, ... in a wording."""
    need, rng = TASKS[task].need, writer.rng
    slots = {'thing': draw_word(writer.split, rng), 'place': draw_name(PLACES, writer.split, rng),
             'name': draw_name(NAMES, writer.split, rng), 'b': details.get('b')}
    if form == 'follow-up':
        slots['w'] = writer.say('it')
    elif need == 'word':
        slots['w'] = rng.choice(QUOTES).format(subject)
    elif need == 'pair':
        quotes = rng.choice(QUOTES)
        slots['w'], slots['v'] = quotes.format(subject[0]), quotes.removeprefix('the word ').format(subject[1])
    elif need == 'number':
        slots['a'] = subject
    elif need in ('list', 'numbers'):
        quotes = rng.choice(('{}', '{}', '"{}"', "'{}'")) if need == 'list' else '{}'
        slots['list'] = slots['numbers'] = enumeration([quotes.format(item) for item in subject], task, rng)
        is_quoted = rng.random() < (0.4 if ': {bare}' in wording else 0.9)
        slots['bare'] = (rng.choice(('"{}"', '"{}"', "'{}'")) if is_quoted else '{}').format(' '.join(subject))
        if rng.random() < 0.25 and len(subject) > 2 and not set(subject) & set(SMALL_WORDS):
            slots['bare'] = slots['list']
    elif need == 'text':
        slots['text'] = subject['sentence']
    for slot, key in (('c', 'letter'), ('d', 'other')):
        if key in details:
            slots[slot] = rng.choice(('{}', '{}', '"{}"', "'{}'", 'the letter {}', 'the letter "{}"')).format(details[key])
    if 'letter' in details:
        slots['cs'] = rng.choice(("{}'s", "{}'s", '"{}"s', "letter {}'s", 'letters {}', '{}s')).format(details['letter'])
    if 'n' in details:
        n = details['n']
        slots['n'] = rng.choice((str(n), NUMERALS[n]))
        slots['nth'] = rng.choice((ORDINALS[n - 1], f'{n}{ {2: "nd", 3: "rd"}.get(n, "th")}'))
        slots['times'] = rng.choice((f'{n} times', f'{NUMERALS[n]} times', *(['twice'] * (n == 2))))
    if 'separator' in details:
        name = rng.choice(SEPARATORS[details['separator']])
        slots['sep'] = name if name.endswith('s') else f'a {name}'
    return slots


def enumeration(items, task, rng):
    """Several things in a question: 5, 12 and 7."""
    last = rng.choice((' and ', ', and ', ', ', ', ')) if task in ('sort words', 'sort up', 'sort down') else \
        rng.choice((' or ', ' or ', ' and ', ', '))
    if len(items) > 2 and rng.random() < 0.25:
        return ' '.join(items)
    return ', '.join(items[:-1]) + last + items[-1]


def phrase(wording, slots, writer, is_first):
    """A wording as somebody would write it: polite or not, in small letters or not, with a full stop or not."""
    rng, say = writer.rng, writer.say
    text = expand(wording.lstrip('*~ '), rng)
    if wording[0] not in '*~':
        text = say('questions').replace('X', text[:-1]) + '?' if text[-1] == '?' else say('asking').replace('X', text)
    if rng.random() < 0.25:
        text = text.replace('what is', "what's").replace('I would', "I'd")
    if writer.split == 'train' and rng.random() < CARELESS:
        text = careless(text, rng)
    if text[-1] not in '?.!' and not wording.endswith('{text}') and '=' not in text:
        text += rng.choice('...!') if wording[0] not in '*~' else rng.choice(('', '', '.'))
    style = rng.random()
    text = text[0].upper() + text[1:] if style < 0.6 else text.lower()
    if is_first and rng.random() < 0.12:
        text = f'{say("before")} {text}'
    if rng.random() < 0.06 and text[-1] in '?.!':
        text = f'{text} {say("after")}'
    if style > 0.75 and '{text}' not in text:
        text = text.lower().rstrip('?.!')
    return text.format(**slots)


def careless(text, rng):
    """A wording with a slip of the fingers: a short word is missing, or a letter stands twice."""
    words = text.split(' ')
    i = rng.randrange(len(words))
    if words[i].isalpha() and len(words) > 2:
        place = rng.randrange(len(words[i]))
        words[i:i + 1] = [words[i][:place] + words[i][place] + words[i][place:]] if len(words[i]) > 3 else []
    return ' '.join(words)


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
