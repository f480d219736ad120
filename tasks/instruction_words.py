"""What generated instructions are about and how they are put: words, names and wordings, each of one split.

    draw_word('train', rng)            # a real English word or a made-up one
    split_of('harbour')                # 'train', 'dev' or 'test', by a hash of it
    WORDINGS['spell']                  # lines of instruction_wordings.txt
"""
import os
import random
import re
import zlib

from runtime.text_files import read_text
from tasks.word_problems import choose_options

SPLITS = ('train', 'dev', 'test')
REAL_WORD = 0.5  # probability; the others are made up
REAL_NAME = 0.6
NUMERALS = 'zero one two three four five six seven eight nine ten eleven twelve'.split()
ORDINALS = 'first second third fourth fifth sixth seventh eighth'.split()
SEPARATORS = {', ': ('comma', 'commas'), '-': ('hyphen', 'dash', 'hyphens', 'dashes'), '/': ('slash', 'slashes')}
SMALL_WORDS = 'a the my is was on in at and to of for with his her this that we he it no all are from has had not'.split()
RUDE = re.compile('sex|shi|fuc|cunt|tit|nig|dic|coc|cum|ass|pis|rap|fag|slu|whor|pus|porn|nazi|kil|dea')  # in made-up words
ONSETS = 'b c d f g h j k l m n p r s t v w y z b d f g l m n p r s t br ch cl dr fl gr pl pr sh sl sp st th tr qu'.split()
VOWELS = 'a e i o u a e i o u ai ea ee oo ou'.split()
CODAS = ['', '', '', *'n r s t l m d p ck ll nd ng nt rm ss st sh th x y'.split()]

WORD = re.compile(r'[a-z]{3,}')


# ---------------------------------------------------------------------------- wordings

def read_wordings(path: str) -> dict:
    """{section: [lines]} of a file in the form that the first lines of instruction_wordings.txt explain."""
    _, *sections = re.split(r'^== ', ''.join(read_text(path)), flags=re.MULTILINE)
    blocks = [section.strip().split('\n') for section in sections]
    return {name: [line for line in lines if line] for name, *lines in blocks}


def expand(text: str, rng: random.Random) -> str:
    """A wording with one of each [a|b] chosen."""
    while '[' in text:
        text = choose_options(text, rng)
    return ' '.join(text.split()).replace(' ?', '?').replace(' ,', ',').replace(' :', ':')


WORDINGS = read_wordings(os.path.join(os.path.dirname(__file__), 'instruction_wordings.txt'))


# ---------------------------------------------------------------------------- words

def split_of(word: str) -> str:
    """The split that a word, or a wording without choices, belongs to, in small or capital letters."""
    return {0: 'test', 1: 'test', 2: 'dev'}.get(zlib.crc32(word.lower().encode()) % 20, 'train')


def belongs_to(text: str, split: str) -> bool:
    """Whether no word of a text belongs to another split. The words of wordings belong to all."""
    return all(word in ORDINARY or split_of(word) == split for word in WORD.findall(text.lower()))


def by_split(words):
    return {split: [word for word in words if split_of(word) == split] for split in SPLITS}


LISTS = {name: ' '.join(WORDINGS.pop(name)).split() for name in ('words', 'names', 'places')}
ORDINARY = set(WORD.findall(' '.join((  # words of the wordings and of what is put into them: never asked about
    *(line for lines in WORDINGS.values() for line in lines), *NUMERALS, *ORDINALS, *SMALL_WORDS,
    *sum(SEPARATORS.values(), ()), 'times twice letter letters word words welcome sorry com org net edu')).lower()))
WORDS = by_split(sorted(set(LISTS['words']) - ORDINARY))
NAMES, PLACES = by_split(LISTS['names']), by_split(LISTS['places'])


def draw_word(split, rng):
    """A word of a split, of three to ten letters."""
    if rng.random() < REAL_WORD:
        return rng.choice(WORDS[split])
    while True:
        word = ''.join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice((1, 2, 2, 2, 3))))
        if 3 <= len(word) <= 9 and split_of(word) == split and word not in ORDINARY and not RUDE.search(word):
            return word


def draw_plural(split, rng):
    """A word with an s behind it."""
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
    """One of NAMES or PLACES, or a made-up one."""
    return rng.choice(names[split]) if rng.random() < REAL_NAME else draw_word(split, rng).capitalize()


def draw_email(split, rng):
    user, host, more = draw_words(3, split, rng)
    domain = rng.choice(('com', 'org', 'net', 'de', 'edu', 'io'))
    return rng.choice((f'{user}@{host}.{domain}', f'{user}.{more}@{host}.{domain}', f'{user}_{more}@{host}.{domain}'))
