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
- words: a word, name or address that is asked about belongs to one split by a hash of it (`split_of`).

This file knows nothing about tokens or models.
"""
import collections
import json
import os
import random
import re
import zlib
from collections.abc import Iterator

from configurator import check_bounds, choice, configure, optional
from runtime.errors import BadInput, one_line_errors
from runtime.files import atomic_write
from tasks.calculator import calculate

DEFAULTS = {
    'split': choice('train', 'dev', 'test'),  # whose wordings and words
    'seed': 0,  # of the first conversation
    'n': 10,  # how many to print
    'wordings': optional(str),  # a file in the form of instruction_wordings.txt, whose sections replace those of the split
    'to': optional(str),  # write them to this .jsonl file instead
}
SPLITS = ('train', 'dev', 'test')
MAX_CHARACTERS = 230  # of a conversation, so that all of it fits into a context of 256 bytes
N_TURNS = {1: 4, 2: 4, 3: 2, 4: 1}  # how often a conversation has so many at most
FOLLOW_UP = 0.65  # probability that a turn refers to the one before, where it can
REAL_WORD = 0.5  # the others are made up

TASKS = {  # name: (kind in tables, how often it is drawn, what it is about)
    'spell': ('spell', 3, 'word'), 'reverse': ('reverse', 5, 'word'), 'length': ('length', 3, 'word'),
    'letter count': ('count letters', 4, 'word'), 'vowels': ('count letters', 2, 'word'),
    'upper': ('upper and lower case', 2, 'word'), 'lower': ('upper and lower case', 1.5, 'word'),
    'title': ('upper and lower case', 1.5, 'word'), 'first': ('letter at a place', 1.5, 'word'),
    'last': ('letter at a place', 1.5, 'word'), 'nth': ('letter at a place', 2, 'word'), 'replace': ('replace', 3, 'word'),
    'repeat': ('repeat', 2, 'word'), 'sort words': ('sort words', 4, 'list'), 'sort up': ('sort numbers', 3, 'numbers'),
    'sort down': ('sort numbers', 2, 'numbers'), 'word count': ('count words', 3, 'list'), 'join': ('join', 3, 'list'),
    'longer': ('compare words', 2, 'pair'), 'shorter': ('compare words', 2, 'pair'),
    'larger': ('compare numbers', 2, 'numbers'), 'smaller': ('compare numbers', 2, 'numbers'),
    'find number': ('find', 2, 'text'), 'find name': ('find', 2, 'text'), 'find quote': ('find', 2, 'text'),
    'find email': ('find', 2, 'text'), 'add': ('arithmetic', 1.5, 'number'), 'subtract': ('arithmetic', 1.5, 'number'),
    'multiply': ('arithmetic', 1.5, 'number'), 'divide': ('arithmetic', 1.5, 'number'), 'help': ('help', 1.5, None),
    'hello': ('small talk', 1, None), 'thanks': ('small talk', 1, 'any'), 'refuse': ('refuse', 5, None),
}
FIXED = {
    'help': 'I can spell, reverse, sort, count, compare, change and find words, and calculate.',
    'hello': 'Hello! What can I do for you?', 'thanks': 'You are welcome!', 'refuse': 'Sorry, I cannot help with that.',
}
SIGNS = {'add': '+', 'subtract': '-', 'multiply': '*', 'divide': '/'}
PARTS = {'find number': 'n', 'find name': 'name', 'find quote': 'quoted', 'find email': 'email'}
# What "it" is after a turn, if that is not what the turn was about
RESULTS = dict.fromkeys('reverse upper lower title replace longer shorter'.split() + ['find name', 'find quote'], 'word')
RESULTS |= dict.fromkeys((*SIGNS, 'larger', 'smaller', 'find number'), 'number')
NUMERALS = 'zero one two three four five six seven eight nine ten eleven twelve'.split()
ORDINALS = 'first second third fourth fifth sixth seventh eighth'.split()
SEPARATORS = {', ': ('comma', 'commas'), '-': ('hyphen', 'dash', 'hyphens', 'dashes'), '/': ('slash', 'slashes')}
QUOTES = ('{}',) * 8 + ('"{}"',) * 6 + ("'{}'",) * 4 + ('the word {}', 'the word {}', 'the word "{}"', "the word '{}'")
SMALL_WORDS = 'a the my is was on in at and to of for with his her this that we he it no all are from has had not'.split()
RUDE = re.compile('sex|shi|fuc|cunt|tit|nig|dic|coc|cum|ass|pis|rap|fag|slu|whor|pus|porn|nazi|kil|dea')  # in made-up words
ONSETS = 'b c d f g h j k l m n p r s t v w y z b d f g l m n p r s t br ch cl dr fl gr pl pr sh sl sp st th tr qu'.split()
VOWELS = 'a e i o u a e i o u ai ea ee oo ou'.split()
CODAS = ['', '', '', *'n r s t l m d p ck ll nd ng nt rm ss st sh th x y'.split()]

OPTIONS = re.compile(r'\[([^\[\]]*)\]')
WORD = re.compile(r'[a-z]{3,}')
FRESH_SLOT = re.compile(r'\{(?:a|v|list|bare|text|numbers)\}')  # what "it" cannot stand for


def main(config):
    check_bounds(config, 'n', at_least=1, at_most=10**8)
    check_bounds(config, 'seed', at_least=0)
    wordings = WORDINGS
    if config['wordings']:
        wordings = collections.defaultdict(dict, {section: dict(splits) for section, splits in WORDINGS.items()})
        for section, splits in read_wordings(config['wordings']).items():
            if section not in WORDINGS:
                raise BadInput(f'{config["wordings"]} has a section {section}; there are {", ".join(WORDINGS)}')
            wordings[section][config['split']] = [line for lines in splits.values() for line in lines]
    conversations = generate_conversations(config['split'], config['seed'], wordings)
    chosen = [conversation for _, conversation in zip(range(config['n']), conversations)]
    if config['to']:
        with atomic_write(config['to']) as file:
            file.writelines(json.dumps(conversation).encode() + b'\n' for conversation in chosen)
        return
    for conversation in chosen:
        lines = (f'{message["role"]}: {message["content"]}' for message in conversation['messages'])
        print(f'[{conversation["kind"]}]', *lines, sep='\n', end='\n\n')


def generate_conversations(split: str, seed: int = 0, wordings: dict | None = None) -> Iterator[dict]:
    """Yields {'messages': [{'role', 'content'}, ...], 'kind': kind of the last turn} without end."""
    rng, wordings = random.Random(f'{split} {seed}'), wordings or WORDINGS

    def say(section):
        """One of the section's wordings."""
        return expand(rng.choice(wordings[section][split]), rng)

    while True:
        messages, before, kind = [], None, ''
        if rng.random() < 0.04:
            messages.append({'role': 'system', 'content': say('system')})
        for _ in range(rng.choices(list(N_TURNS), list(N_TURNS.values()))[0]):
            while (turn := make_turn(split, rng, say, before, wordings)) is None:
                pass
            question, answer, next_kind, before = turn
            n_characters = sum(len(message['content']) + 2 for message in messages) + len(question) + len(answer)
            if n_characters > MAX_CHARACTERS:
                break
            messages += {'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}
            kind = next_kind
        if kind:
            yield {'messages': messages, 'kind': kind}


# ---------------------------------------------------------------------------- wordings and words

def read_wordings(path):
    """{section: {split: [lines]}} of a file in the form that the first lines of instruction_wordings.txt explain."""
    wordings = collections.defaultdict(dict)
    with open(path, encoding='utf-8') as file:
        _, *sections = re.split(r'^== ', file.read(), flags=re.MULTILINE)
    for section in sections:
        heading, *lines = section.strip().split('\n')
        name, split = heading.split(', ')
        wordings[name][split] = [line for line in lines if line]
    return wordings


def expand(text, rng):
    """A wording with one of each [a|b] chosen."""
    while '[' in text:
        text = OPTIONS.sub(lambda options: rng.choice(options[1].split('|')), text)
    return ' '.join(text.split()).replace(' ?', '?').replace(' ,', ',').replace(' :', ':')


def split_of(word: str) -> str:
    """The split that a word, in small or capital letters, belongs to."""
    return {0: 'test', 1: 'test', 2: 'dev'}.get(zlib.crc32(word.lower().encode()) % 20, 'train')


def by_split(words):
    return {split: [word for word in words if split_of(word) == split] for split in SPLITS}


WORDINGS = read_wordings(os.path.join(os.path.dirname(__file__), 'instruction_wordings.txt'))
LISTS = {name: ' '.join(WORDINGS.pop(name)['train']).split() for name in ('words', 'names', 'places')}
# Words that belong to no split and are never asked about: those of the wordings, of fixed answers, and of slots
ORDINARY = set(WORD.findall(' '.join((
    *(line for splits in WORDINGS.values() for lines in splits.values() for line in lines), *FIXED.values(), *NUMERALS, *ORDINALS,
    *sum(SEPARATORS.values(), ()), 'times twice letter letters word com org net edu', ' '.join(SMALL_WORDS))).lower()))
WORDS = by_split(sorted(set(LISTS['words']) - ORDINARY))
NAMES, PLACES = by_split(LISTS['names']), by_split(LISTS['places'])


def draw_word(split, rng):
    """A word of a split, of three to ten letters."""
    if rng.random() < REAL_WORD:
        return rng.choice(WORDS[split])
    while True:
        word = ''.join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice((1, 2, 2, 3))))
        if 3 <= len(word) <= 10 and split_of(word) == split and word not in ORDINARY and not RUDE.search(word):
            return word


def draw_plural(split, rng):
    while split_of(plural := f'{draw_word(split, rng)}s') != split:
        pass
    return plural


def draw_words(n, split, rng):
    """Different words."""
    words = []
    while len(words) < n:
        word = draw_word(split, rng)
        if word not in words:
            words.append(word)
    return words


def draw_name(names, split, rng):
    return rng.choice(names[split]) if rng.random() < 0.6 else draw_word(split, rng).capitalize()


# ---------------------------------------------------------------------------- a turn

def make_turn(split, rng, say, before, wordings):
    """(question, answer, kind, what later turns can refer to), or None if the draw was not suitable.

    before: (task, its details, what "it" can be) of the turn before, or None
    """
    task, details, focus = before or (None, {}, {})
    is_again = 'word' in focus and task not in ('replace', 'lower', 'longer', 'shorter', None) and TASKS[task][2] == 'word' \
        and rng.random() < 0.15
    is_follow_up = not is_again and before is not None and rng.random() < FOLLOW_UP
    if not is_again:
        allowed = [name for name, (_, _, need) in TASKS.items() if
                   (need in focus and name != task if is_follow_up else need != 'any' or before)]
        if not allowed:
            return None
        task = rng.choices(allowed, [TASKS[name][1] for name in allowed])[0]
        details = {}
    kind, _, need = TASKS[task]
    subject = focus[need] if is_follow_up else draw_subject(task, split, rng, say)
    if not suits(task, subject):
        return None
    details = details or draw_details(task, subject, rng)
    answer = FIXED.get(task) or answer_for(task, subject, details)
    if answer is None:
        return None
    wording = choose_wording(rng, wordings['again' if is_again else task][split], is_follow_up or is_again)
    if wording is None:
        return None
    slots = slots_of(task, subject, details, split, rng, say, is_follow_up, wording)
    question = phrase(wording, rng, say, slots, is_first=before is None, is_careless=split == 'train' and rng.random() < 0.08)
    # a training text must have no word of the other splits; in these, answers may happen to have one of training's
    text = f'{question} {answer}' if split == 'train' else question
    if any(split_of(word) != split for word in WORD.findall(text.lower()) if word not in ORDINARY):
        return None
    if task in FIXED:
        return question, answer, kind, None
    focus = {'any': True} if task == 'repeat' else {need: subject, 'any': True}
    if task in RESULTS:
        focus[RESULTS[task]] = answer.split(' -> ')[-1].split('>>')[-1]
    return question, answer, 'follow-up' if is_follow_up or is_again else kind, (task, details, focus)


def draw_subject(task, split, rng, say):
    """What a task is about: a word, a pair or a list of words, numbers, a number, or the parts of a sentence."""
    need = TASKS[task][2]
    if need == 'word':
        word = draw_word(split, rng)
        capitals = 1 if task == 'lower' else 0 if task in ('upper', 'title', 'letter count', 'replace') else 0.08
        return rng.choice((str.upper, str.upper, str.capitalize))(word) if rng.random() < capitals else word
    if need == 'pair':
        return draw_words(2, split, rng)
    if need == 'list':
        words = draw_words(rng.choice((3, 3, 4, 5) if task != 'word count' else (2, 3, 4, 5, 6)), split, rng)
        if task == 'word count' and rng.random() < 0.4:  # more like a sentence
            return [rng.choice(SMALL_WORDS) if rng.random() < 0.4 else word for word in words]
        return words if task != 'sort words' or len({word[0] for word in words}) == len(words) or rng.random() < 0.2 else None
    if need == 'numbers':
        largest = rng.choice((20, 100, 100, 1000))
        return [str(n) for n in rng.sample(range(largest), rng.choice((2, 2, 3, 4) if task in RESULTS else (3, 4, 5)))]
    if need == 'number':
        return str(rng.randint(2, rng.choice((20, 100, 100, 1000, 10_000))))
    if need == 'text':
        parts = {'n': str(rng.randint(2, rng.choice((20, 100, 1000)))), 'name': draw_name(NAMES, split, rng),
                 'place': draw_name(PLACES, split, rng), 'quoted': draw_word(split, rng), 'thing': draw_word(split, rng), 'things': draw_plural(split, rng),
                 'email': rng.choice(('{0}@{1}.{2}', '{0}.{3}@{1}.{2}', '{0}_{3}@{1}.{2}')).format(
                     *draw_words(2, split, rng), rng.choice(('com', 'org', 'net', 'de', 'edu', 'io')), draw_word(split, rng))}
        sentence = say('sentences')
        once = {part: value for part, value in parts.items() if sentence.count(f'{{{part}}}') == 1}
        return {'sentence': sentence.format(**parts), **once}
    return None


def suits(task, subject):
    """Whether a task can be done with what is there."""
    if TASKS[task][2] in (None, 'any'):
        return True
    if subject is None or task in PARTS and PARTS[task] not in subject:
        return False
    if TASKS[task][2] == 'word' and len(subject) > 10:
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


def answer_for(task, subject, details):
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
        'reverse': lambda: f'{"-".join(subject)} -> {"-".join(subject[::-1])} -> {subject[::-1]}',
        'length': lambda: f'{numbered(subject)} -> {len(subject)}',
        'upper': lambda: subject.upper(), 'lower': lambda: subject.lower(), 'title': lambda: subject.capitalize(),
        'first': lambda: subject[0], 'last': lambda: f'{"-".join(subject)} -> {subject[-1]}',
        'replace': lambda: subject.replace(letter, details['other']),
        'repeat': lambda: ' '.join([subject] * n),
        'sort words': lambda: ', '.join(sorted(subject)),
        'sort up': lambda: ', '.join(sorted(subject, key=int)),
        'sort down': lambda: ', '.join(sorted(subject, key=int, reverse=True)),
        'word count': lambda: ' '.join(f'{word} {i}' for i, word in enumerate(subject, 1)) + f' -> {len(subject)}',
        'join': lambda: details['separator'].join(subject),
        'longer': lambda: f'{numbered(subject[0])}, {numbered(subject[1])} -> {max(subject, key=len)}',
        'shorter': lambda: f'{numbered(subject[0])}, {numbered(subject[1])} -> {min(subject, key=len)}',
        'larger': lambda: max(subject, key=int), 'smaller': lambda: min(subject, key=int),
    }[task]()


def numbered(word):
    return ' '.join(f'{letter}{i}' for i, letter in enumerate(word, 1))


# ---------------------------------------------------------------------------- a question

def choose_wording(rng, lines, is_follow_up):
    """One that stands in the place it is for; in a follow-up, half of them are such as need a turn before."""
    short = [line for line in lines if line[0] == '~']
    others = [line for line in lines if line[0] != '~']
    if is_follow_up:
        if short and rng.random() < 0.6:
            return rng.choice(short)
        others = [line for line in others if not FRESH_SLOT.search(line)]
    else:
        others = others or short  # thanks
    return rng.choice(others) if others else None


def slots_of(task, subject, details, split, rng, say, is_follow_up, wording):
    """The texts that take the places of {w}, {list}, ... in a wording."""
    need, slots = TASKS[task][2], {}
    quotes = rng.choice(QUOTES)
    if need == 'word':
        slots['w'] = say('it') if is_follow_up else quotes.format(subject)
    elif is_follow_up:
        pass
    elif need == 'pair':
        slots['w'], slots['v'] = quotes.format(subject[0]), quotes.removeprefix('the word ').format(subject[1])
    elif need == 'number':
        slots['a'] = subject
    elif need in ('list', 'numbers'):
        mark = rng.choice(('{}', '{}', '"{}"', "'{}'")) if need == 'list' else '{}'
        slots['list'] = slots['numbers'] = enumeration([mark.format(item) for item in subject], rng, task)
        is_quoted = rng.random() < (0.3 if ': {bare}' in wording else 0.8)
        slots['bare'] = (rng.choice(('"{}"', '"{}"', "'{}'")) if is_quoted else '{}').format(' '.join(subject))
        if rng.random() < 0.25:
            slots['bare'] = slots['list']
    elif need == 'text':
        slots['text'] = subject['sentence']
    if 'letter' in details:
        for slot, key in (('c', 'letter'), ('d', 'other')):
            mark = rng.choice(('{}', '{}', '"{}"', "'{}'", 'the letter {}', 'the letter "{}"'))
            slots[slot] = mark.format(details[key])
        slots['cs'] = rng.choice(("{}'s", "{}'s", '"{}"s', "letter {}'s", 'letters {}', '{}s')).format(details['letter'])
    if 'n' in details:
        n = details['n']
        slots['n'] = rng.choice((str(n), NUMERALS[n]))
        slots['nth'] = rng.choice((ORDINALS[n - 1], f'{n}{ {2: "nd", 3: "rd"}.get(n, "th")}'))
        slots['times'] = rng.choice((f'{n} times', f'{NUMERALS[n]} times', *(['twice'] * (n == 2))))
    if 'separator' in details:
        slots['sep'] = rng.choice(SEPARATORS[details['separator']])
        slots['sep'] = slots['sep'] if slots['sep'].endswith('s') else f'a {slots["sep"]}'
    names = {'thing': draw_word(split, rng), 'place': draw_name(PLACES, split, rng), 'name': draw_name(NAMES, split, rng)}
    return names | slots | {'b': details.get('b')}


def enumeration(items, rng, task):
    last = rng.choice((' and ', ', and ', ', ', ', ')) if task in ('sort words', 'sort up', 'sort down') else \
        rng.choice((' or ', ' or ', ' and ', ', '))
    if len(items) > 2 and rng.random() < 0.25:
        return ' '.join(items)
    return ', '.join(items[:-1]) + last + items[-1]


def phrase(wording, rng, say, slots, is_first, is_careless):
    """A wording as somebody would write it: polite or not, in small letters or not, with a full stop or not."""
    text = expand(wording.lstrip('*~ '), rng)
    if wording[0] not in '*~':
        text = say('questions').replace('X', text[:-1]) + '?' if text[-1] == '?' else say('asking').replace('X', text)
    if rng.random() < 0.25:
        text = text.replace('what is', "what's").replace('I would', "I'd")
    if is_careless:
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
