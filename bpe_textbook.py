"""Byte-level BPE as the textbook has it: training and encoding in the fewest lines, to be read and to test bpe.py against.

    >>> merges = learn_merges_slowly({'aaabdaaabac': 1}, 3)
    >>> [to_characters(token) for token in tokens_of(merges)[256:]]
    ['aa', 'ab', 'aaab']
    >>> encode_slowly('aaabdaaabac', merges)
    [258, 67, 258, 64, 66]

GPT-2's pattern cuts text into chunks (words with their leading space, numbers, punctuation, white space) that no token
ever crosses. Every chunk starts as its UTF-8 bytes, so there is no unknown character. Training merges the most frequent
pair of neighbouring tokens into a new token, over and over; encoding replays those merges in the order in which they
were learned. bpe.py learns the same merges thousands of times faster, and encodes through tiktoken's Rust.
"""
import collections

import regex

import runtime  # noqa: F401 - which says so when this file is run: it only defines things

# GPT-2's chunks (Radford et al. 2019, encoder.py of the release): contractions; letters, digits or other signs with
# one space before them; white space, of which the last sign is left to what follows. `\s++$` is there because white
# space at the end would otherwise be tried in all its lengths.
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?(?:[\p{L}]+|[\p{N}]+|[^\s\p{L}\p{N}]+)|\s++$|\s+(?!\S)|\s"""
CHUNK = regex.compile(SPLIT_PATTERN)


def byte_characters() -> dict[int, str]:
    """GPT-2's way to write any byte as one visible character: {byte: character}, in the order of token ids.

    Visible Latin-1 characters stand for themselves, the other 68 bytes become U+0100, U+0101, ...
    The files of every byte-level BPE are written in this alphabet.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


CHARACTER_OF_BYTE = byte_characters()
ID_OF_BYTE = {byte: i for i, byte in enumerate(CHARACTER_OF_BYTE)}


def to_characters(token: bytes) -> str:
    return ''.join(CHARACTER_OF_BYTE[byte] for byte in token)


def learn_merges_slowly(chunk_counts: dict[str, int], n_merges: int) -> list[tuple[int, int]]:
    """The merges that BPE learns from chunks of text (Sennrich et al. 2016, algorithm 1): [(left id, right id), ...].

    chunk_counts: {chunk: how often it occurs}. Bytes have the ids 0 to 255 in GPT-2's order, merge number i makes the
    token 256 + i. The most frequent pair is merged first; of equally frequent ones that with the smaller left id, then
    the smaller right id. In a run such as `aaa` both pairs count. Gives fewer merges once every chunk is one token.
    """
    words = [(byte_ids(chunk), count) for chunk, count in chunk_counts.items()]
    merges = []
    for new in range(256, 256 + n_merges):
        pairs = collections.Counter()
        for ids, count in words:
            for pair in zip(ids, ids[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [(merge(ids, best, new), count) for ids, count in words]
    return merges


def encode_slowly(text: str, merges: list[tuple[int, int]]) -> list[int]:
    """The ids of a text: in every chunk, of all pairs that can be merged, the one that was learned first is merged first.

    tiktoken gives the same ids, except around characters that only one of its Unicode version and regex's knows.
    """
    merged = {pair: 256 + i for i, pair in enumerate(merges)}
    return [i for chunk in CHUNK.findall(text) for i in merge_all(byte_ids(chunk), merged)]


def byte_ids(chunk):
    return [ID_OF_BYTE[byte] for byte in chunk.encode()]


def merge_all(ids, merged):
    """The ids after all merges, {pair: new id}. New ids are given in the order of learning, so the smallest is next."""
    while known := [pair for pair in zip(ids, ids[1:]) if pair in merged]:
        first = min(known, key=merged.get)
        ids = merge(ids, first, merged[first])
    return ids


def merge(ids, pair, new):
    """The ids with a new id in place of every occurrence of a pair, from the left.

    >>> merge([1, 1, 1, 2, 1, 1], (1, 1), 256)
    [256, 1, 2, 256]
    """
    out = []
    for i in ids:
        if out and (out[-1], i) == pair:
            out[-1] = new
        else:
            out.append(i)
    return out


def tokens_of(merges: list[tuple[int, int]]) -> list[bytes]:
    """The bytes of every token, in the order of ids: the 256 bytes, then what each merge makes."""
    tokens = [bytes([byte]) for byte in ID_OF_BYTE]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens
