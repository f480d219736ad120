"""What the exercise count_pairs is compared with; examine.py describes the parts."""
from collections import Counter

HINTS = (
    'zip(ids, ids[1:]) gives the pairs of neighbours of a list. What does one occurrence of a chunk that stands in '
    'the text ten times add to a count?',
    'Go through the words, and for each through the pairs of zip(ids, ids[1:]); add the count of the word, not 1, to '
    'the entry of the pair. With a collections.Counter, a new entry begins at 0.',
)


def cases():
    yield 'one chunk', ([([5, 6, 7], 1)],)
    yield 'a chunk that occurs ten times', ([([5, 6], 10), ([6, 5, 6], 1)],)
    yield 'a run of three equal tokens', ([([7, 7, 7], 1)],)
    yield 'chunks of one token, in which there is no pair', ([([5], 3), ([6], 2)],)
    yield 'no chunks', ([],)


def expected(words):
    pairs = [(pair, count) for ids, count in words for pair in zip(ids[:-1], ids[1:])]
    return {pair: sum(count for other, count in pairs if other == pair) for pair, _ in pairs}


def once_a_chunk(words):
    return dict(Counter(pair for ids, _ in words for pair in zip(ids, ids[1:])))


def across_borders(words):
    joined = [i for ids, count in words for i in ids * count]
    return dict(Counter(zip(joined, joined[1:])))


def without_overlaps(words):
    counts = Counter()
    for ids, count in words:
        for i, pair in enumerate(zip(ids, ids[1:])):
            equal_before = 0
            while i - equal_before > 0 and ids[i - equal_before - 1:i - equal_before + 1] == list(pair):
                equal_before += 1
            if pair[0] != pair[1] or equal_before % 2 == 0:
                counts[pair] += count
    return dict(counts)


FAULTS = {
    'each chunk counts once, however often it occurs in the text': once_a_chunk,
    'pairs across the border of two chunks are counted, too': across_borders,
    'in a run of equal tokens only every second pair is counted; overlapping pairs count, too': without_overlaps,
}
