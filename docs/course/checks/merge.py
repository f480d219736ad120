"""What the exercise merge is compared with; examine.py describes the parts."""
import bpe_textbook

HINTS = (
    'A for loop over the positions cannot skip the second token of a pair that was replaced. Take a while loop with a '
    'position that goes on by 1 or by 2.',
    'At position i: if ids[i] and ids[i + 1] are the pair, append `new` and go on at i + 2; else append ids[i] and go '
    'on at i + 1. The last position has no neighbour on its right.',
)


def cases():
    yield 'one occurrence', ([3, 1, 2, 3], (1, 2), 256)
    yield 'no occurrence', ([2, 1, 3], (1, 2), 256)
    yield 'occurrences at both ends', ([1, 2, 3, 1, 2], (1, 2), 256)
    yield 'overlapping occurrences', ([1, 1, 1, 2, 1, 1], (1, 1), 256)
    yield 'a list of one token', ([1], (1, 2), 256)
    yield 'an empty list', ([], (1, 2), 256)


def run(merge, ids, pair, new):
    merged = merge(ids, pair, new)
    return None if merged is None else {'returned': merged, 'ids after the call': ids}


def expected(ids, pair, new):
    return bpe_textbook.merge(ids, pair, new)


def only_first(ids, pair, new):
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return ids[:i] + [new] + ids[i + 2:]
    return ids


def from_the_right(ids, pair, new):
    return bpe_textbook.merge(ids[::-1], pair[::-1], new)[::-1]


def tokens_used_twice(ids, pair, new):
    merged, replaced = [], False
    for i in range(len(ids)):
        if tuple(ids[i:i + 2]) == pair:
            merged.append(new)
            replaced = True
        else:
            merged += [] if replaced else [ids[i]]
            replaced = False
    return merged


def in_place(ids, pair, new):
    ids[:] = bpe_textbook.merge(ids, pair, new)
    return ids


FAULTS = {
    'only the first occurrence is replaced': only_first,
    'the list is gone through from the right: of overlapping occurrences, the left one should be replaced': from_the_right,
    'after a pair was replaced, its second token is used again: go on after it': tokens_used_twice,
    'the list that was passed in is changed; build a new one': in_place,
}
