"""All tasks, each in a line or two: where its rows are, how a row becomes a question, and what is scored.

A new task is a function in evals/questions.py and an entry here. Its version goes up with every change of its figures.
"""
import difflib
from collections.abc import Callable
from typing import NamedTuple

from configurator import shorten
from evals import perplexity, questions
from evals.rows import Published, book_tests, passages
from runtime.errors import BadInput
from runtime.words import split_list

CHOICE = 'acc', 'acc_norm', 'acc_bytes', 'acc_token'
LAST_WORD = 'acc', 'perplexity'
GPT2_LAST_WORD = 'acc_stop_words', 'acc_last_token', 'perplexity_last_token'
TEXT = 'word_perplexity', 'byte_perplexity', 'bits_per_byte', 'token_perplexity'


class Task(NamedTuple):
    """A task with rows: multiple choice, or the last word of a passage."""
    data: Published
    ask: Callable  # Row -> Question
    metrics: tuple[str, ...] = CHOICE
    joined: bool = True  # context and ending are encoded together, as the harness does; else each by itself
    guesses: bool = False  # what counts is whether the model's own guess is the ending, which is one
    version: int = 1


class TextTask(NamedTuple):
    """A task with a text, of which the perplexity is measured."""
    read: Callable  # (source, split, encoding, protocol) -> text
    protocol: str   # a key of perplexity.PROTOCOLS; --protocol names another
    metrics: tuple[str, ...] = TEXT
    version: int = 1


def arc(part):
    return Published('allenai/ai2_arc', part, 'test', files=(f'{part}-Test.jsonl', f'{part}/{part}-Test.jsonl'))


def book_test_of(kind):
    """The validation set, as the paper took it: a book of the test set is in GPT-2's training text."""
    return Published('cam-cst/cbt', kind, files=(f'cbtest_{kind}_valid_2000ex.txt', f'data/cbtest_{kind}_valid_2000ex.txt'),
                     read=book_tests)


HELLASWAG = Published('Rowan/hellaswag', files=('hellaswag_val.jsonl', 'hellaswag/hellaswag_val.jsonl'))
LAMBADA = Published('EleutherAI/lambada_openai', 'default', 'test', None, read=passages,
                    files=('lambada_test.jsonl', 'lambada/lambada_test.jsonl'))
LAMBADA_STANDARD = Published('cimec/lambada', None, 'test', None, read=passages,
                             files=('lambada_test_plain_text.txt', 'lambada/lambada_test_plain_text.txt'))
ALL = {
    # multiple choice
    'hellaswag': Task(HELLASWAG, questions.hellaswag),
    'hellaswag_completion': Task(HELLASWAG, questions.hellaswag_completion, ('acc', 'acc_token'), joined=False),
    'piqa': Task(Published('baber/piqa', files=('dev.jsonl', 'valid.jsonl'), labels='-labels.lst'), questions.piqa),
    'siqa': Task(Published('lighteval/siqa', files=('dev.jsonl',), labels='-labels.lst'), questions.siqa),
    'winogrande': Task(Published('allenai/winogrande', 'winogrande_xl', files=('dev.jsonl',)), questions.winogrande, ('acc',)),
    'arc_easy': Task(arc('ARC-Easy'), questions.arc),
    'arc_challenge': Task(arc('ARC-Challenge'), questions.arc),
    'openbookqa': Task(Published('allenai/openbookqa', 'main', 'test', files=('test.jsonl',)), questions.openbookqa),
    'boolq': Task(Published('aps/super_glue', 'boolq', files=('dev.jsonl', 'val.jsonl', 'BoolQ/val.jsonl')), questions.boolq),
    'copa': Task(Published('aps/super_glue', 'copa', files=('val.jsonl', 'COPA/val.jsonl')), questions.copa),
    'cbt_cn': Task(book_test_of('CN'), questions.book_test),
    'cbt_ne': Task(book_test_of('NE'), questions.book_test),
    # the last word
    'lambada': Task(LAMBADA, questions.last_word, LAST_WORD, guesses=True),
    'lambada_standard': Task(LAMBADA_STANDARD, questions.last_word, LAST_WORD, guesses=True),
    'lambada_gpt2': Task(LAMBADA, questions.last_word, (*LAST_WORD, *GPT2_LAST_WORD), guesses=True),
    # perplexity
    'wikitext2': TextTask(perplexity.wikitext('2'), 'harness'),
    'wikitext103': TextTask(perplexity.wikitext('103'), 'harness'),
    'wikitext2_gpt2': TextTask(perplexity.wikitext('2'), 'gpt2'),
    'wikitext103_gpt2': TextTask(perplexity.wikitext('103'), 'gpt2'),
    'ptb': TextTask(perplexity.ptb_test, 'ptb'),
    'lm1b': TextTask(perplexity.lm1b_heldout, 'lm1b'),
    'enwik8': TextTask(perplexity.enwik8_test, 'plain'),
    'text8': TextTask(perplexity.text8_test, 'plain'),
    'text': TextTask(perplexity.any_text, 'plain'),
}
DEFAULT = 'hellaswag,lambada,piqa,winogrande,arc_easy,arc_challenge,openbookqa,boolq,wikitext2'


def choose_tasks(words: str, shots: int = 0, key: str = 'tasks') -> dict[str, tuple[Task | TextTask, int]]:
    """{name: (task, number of examples in a prompt)} of names with commas between: of tasks, and of GROUPS.

    NAME@10 has ten examples, whatever `shots` is. key: of the setting, for BadInput about a name that is none.
    """
    from evals.groups import GROUPS  # which names tasks
    names = [name for word in split_list(words) for name in GROUPS.get(word.strip(), [word.strip()])]
    chosen = {}
    for name in names:
        base, at, number = name.partition('@')
        if base not in ALL or at and not (number.isdecimal() and len(number) < 4):
            close = difflib.get_close_matches(base, [*ALL, *GROUPS], n=1)
            listed = f'tasks are {", ".join([*ALL, *GROUPS])}; NAME@5 has five examples in its prompts'
            meant = f'did you mean {close[0]}?' if close and base not in ALL else listed
            raise BadInput(f'{key}={shorten(words)}: there is no task {shorten(name)!r}; {meant}')
        task, n = ALL[base], int(number) if at else shots
        if isinstance(task, TextTask) and n:
            if at:
                raise BadInput(f'{key}={shorten(words)}: {base} is a text, with no examples before it; leave out {at}{number}')
            n = 0
        chosen[name] = task, n
    return chosen
