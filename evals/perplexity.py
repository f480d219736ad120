"""Texts whose perplexity is measured: where they are, how a protocol cleans them and counts words, and the windows.

Perplexity is exp(nats / count). By token it depends on the vocabulary; by word and by byte it does not, so compare models
by these. Words and bytes are counted in the text as it was before any clean-up. Figures of one protocol do not compare
with those of another:

    harness   lm-evaluation-harness's task `wikitext`: each page by itself, after a clean-up that cannot be undone;
              words are what stands between white space
    gpt2      the paper's (Radford et al. 2019, section 3.1): the whole text in one piece, after a clean-up that can be
              undone, so that a probability of the cleaned text is one of the original; words are WikiText's tokens, and
              the end of a line is one of them
    ptb       the same with the Penn Treebank's tokens
    lm1b      each line by itself, with the clean-up of gpt2; words are tokens, and the end of a line is one of them
    plain     the whole text in one piece, as it is: for any text
"""
import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from runtime.errors import BadInput
from runtime.text_files import read_text
from scoring.treebank_cleanup import detokenize_treebank
from scoring.wikitext_cleanup import clean_page, detokenize, detokenize_line, pages
from sources import CONVERTED, TABLE_NAME, hub_rows, read_split, wikitext_files

TEST_BYTES = 5_000_000  # of enwik8 and text8: the last 5 of 100 million are for testing


# ---- where texts are --------------------------------------------------------------------------------


def wikitext(size: str) -> Callable:
    """The reader of WikiText-2 or -103 (Merity et al. 2016): (source, split, encoding, protocol) -> text.

    source: a file, a folder with a file for each split, or None for the hub, where the protocol gpt2 takes the version with
    <unk> for rare words.
    """
    def read(source, split, encoding, protocol):
        if source and os.path.isdir(source):
            named = [folder for name in (f'wikitext{size}', f'wikitext-{size}-raw', f'wikitext-{size}')
                     if os.path.isdir(folder := os.path.join(source, name))]
            if protocol == 'gpt2':
                named.reverse()
            source = named[0] if named else source
        if source and os.path.isfile(source) and not TABLE_NAME.search(source):
            return ''.join(read_text(source, encoding))
        files = [source] if source and os.path.isfile(source) else \
            wikitext_files(size, protocol != 'gpt2', source, needed=[split])[split]
        return ''.join(read_split(files))
    return read


def ptb_test(source, split, encoding, protocol):
    """The Penn Treebank (Marcus et al. 1993) as Mikolov et al. 2010 prepared it: its test text."""
    rows = ('ptb-text-only/ptb_text_only', 'penn_treebank', 'test', CONVERTED)
    return read_file(source, encoding, 'ptb.test.txt') if source else lines_of(rows, 'sentence')


def lm1b_heldout(source, split, encoding, protocol):
    """The One Billion Word Benchmark (Chelba et al. 2013): its held-out sentences, which the hub calls test."""
    rows = ('billion-word-benchmark/lm1b', 'plain_text', 'test', CONVERTED)
    return read_file(source, encoding, 'news.en.heldout-00000-of-00050') if source else lines_of(rows, 'text')


def enwik8_test(source, split, encoding, protocol):
    """Mahoney 2009, "Large Text Compression Benchmark": the last 5 million bytes of 100 million of Wikipedia's XML."""
    rows = ('LTCB/enwik8', 'enwik8', 'train', CONVERTED)
    return last_part(read_file(source, encoding, 'enwik8') if source else lines_of(rows, 'text'))


def text8_test(source, split, encoding, protocol):
    """The same text in lower-case letters and spaces alone."""
    return last_part(read_file(source, encoding, 'text8') if source else lines_of(('afmck/text8', None, 'test'), 'text'))


def lines_of(rows, column):
    """The text of a table on the hub with a line in each row."""
    return '\n'.join(row[column].strip('\n') for _, row in hub_rows(*rows))


def last_part(text):
    """The part that is for testing, if that is not all of it."""
    encoded = text.encode()
    return encoded[-TEST_BYTES:].decode(errors='ignore') if len(encoded) > 10 * TEST_BYTES else text


def read_file(source, encoding, name):
    """A text file, or the one of that name in the folder `source` or in its task's own folder there."""
    if os.path.isdir(source):
        found = [path for folder in ('', name.split('.')[0]) if os.path.isfile(path := os.path.join(source, folder, name))]
        if not found:
            raise BadInput(f'{source} has no file {name}; name the text itself with --source=FILE')
        source = found[0]
    return ''.join(read_text(source, encoding))


def any_text(source, split, encoding, protocol):
    """The text of a file that the user names."""
    if source is None:
        raise BadInput('source=None names no text; the task `text` needs --source=FILE')
    if os.path.isdir(source):
        raise BadInput(f'source={source} is a folder; the task `text` needs a file')
    return ''.join(read_text(source, encoding))


# ---- protocols --------------------------------------------------------------------------------------


class Document(NamedTuple):
    """A text that the model reads from its beginning. Words and bytes are those of the original."""
    text: str
    n_words: int
    n_bytes: int


def documents_of(text: str, protocol: str) -> list[Document]:
    """What a protocol makes of a text. Raises BadInput if that is nothing."""
    documents = [document for document in PROTOCOLS[protocol](text) if document.text]
    if not any(document.text.strip() for document in documents):
        raise BadInput('there is no text to measure the perplexity on')
    return documents


def harness(text):
    originals = pages(unix_line_ends(text))
    # The harness's way of counting words: white space at an end adds one.
    return [Document(clean_page(page), len(re.split(r'\s+', page)), len(page.encode())) for page in originals]


def gpt2(text):
    text = unix_line_ends(text)
    return [Document(detokenize(text), len(text.split()) + text.count('\n'), len(text.encode()))]


def ptb(text):
    text = ''.join(f' {line.strip()} \n' for line in unix_line_ends(text).splitlines() if line.strip())
    return [Document(detokenize_treebank(text), len(text.split()) + text.count('\n'), len(text.encode()))]


def lm1b(text):
    lines = [line.strip() for line in unix_line_ends(text).split('\n')]
    return [Document(detokenize_line(f' {line} \n'), len(line.split()) + 1, len(line.encode()) + 1) for line in lines if line]


def plain(text):
    return [Document(text, len(text.split()), len(text.encode()))]


def unix_line_ends(text):
    r"""These texts have line ends of \n alone, so a copy with \r\n is read as that."""
    return text.replace('\r\n', '\n')


PROTOCOLS = {'harness': harness, 'gpt2': gpt2, 'plain': plain, 'ptb': ptb, 'lm1b': lm1b}


# ---- windows ----------------------------------------------------------------------------------------


class Window(NamedTuple):
    """What is scored at once: the tokens `target` after the tokens `context`, of document number `document`."""
    context: torch.Tensor
    target: torch.Tensor
    document: int


def cut(documents: list[list[int]], eot: int, block_size: int, stride: int | None = None) -> list[Window]:
    """Windows over documents of token ids in which each token is a target once; <|endoftext|> is before the first.

    stride: how many tokens the window of block_size tokens moves on; None: its length, so that windows do not overlap.
        A small stride gives every token more context: perplexity is lower, and it takes longer.
    """
    if stride is not None and not 1 <= stride <= block_size:
        raise BadInput(f'stride={stride} should be 1 to {block_size}, the longest context of the model')
    cuts = []
    for number, ids in enumerate(documents):
        shifted = torch.tensor([eot, *ids])  # token i is shifted[i + 1]; the windows are views of it
        cuts += [Window(shifted[begin:first + 1], shifted[first + 1:end + 1], number)
                 for begin, first, end in windows(len(ids), block_size, stride or block_size)]
    return cuts


def windows(n_tokens: int, block_size: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yields (begin, first, end): a window that reads tokens begin - 1 to end - 2 and predicts tokens first to end - 1.

    The first window predicts as many tokens as fit. Each one after it ends `stride` tokens later, or with the text, and
    predicts the tokens that no window before it has predicted. Token -1 is <|endoftext|>.
    """
    first = 0
    while first < n_tokens:
        end = min(first + (stride if first else block_size), n_tokens)
        yield max(0, end - block_size), first, end
        first = end
