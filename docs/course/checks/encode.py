"""What the exercise encode is compared with; examine.py describes the parts."""
import bpe_textbook

HINTS = (
    'Write the number of each merge into a dict {pair: number}. Which pairs of the list are in it? Which of these has '
    'the smallest number?',
    'Repeat: known = the pairs of zip(ids, ids[1:]) that are in the dict; stop if there are none; replace the pair '
    'with the smallest number everywhere, as `merge` does. A merge may make a pair possible that was not there '
    'before.',
)
TEXT = 'the cat sat on the mat; that is the theme'


def cases():
    yield 'one merge', ([1, 2, 3], [(1, 2)])
    yield 'two merges that want the same token; the one on the right was learned first', ([1, 2, 3], [(2, 3), (1, 2)])
    yield 'the same, but the one on the left was learned first', ([1, 2, 3], [(1, 2), (2, 3)])
    yield 'a longer token whose parts are taken by a merge that was learned before', ([1, 2, 3], [(1, 2), (2, 3), (1, 257)])
    yield 'a merge of a token that another merge makes', ([1, 2, 3, 1, 2], [(1, 2), (256, 3)])
    yield 'no merge fits', ([9, 8], [(1, 2)])
    merges = bpe_textbook.learn_merges_slowly(dict.fromkeys(TEXT.split(), 1), 12)
    yield f'the text {TEXT!r} with twelve merges', (bpe_textbook.byte_ids(TEXT), merges)
    yield 'a pair that occurs twice', ([1, 2, 1, 2], [(1, 2)])


def expected(ids, merges):
    return bpe_textbook.merge_all(ids, {pair: 256 + i for i, pair in enumerate(merges)})


def leftmost_first(ids, merges):
    ids = list(ids)
    while known := [i for i, pair in enumerate(zip(ids, ids[1:])) if pair in merges]:
        i = known[0]
        ids[i:i + 2] = [256 + merges.index((ids[i], ids[i + 1]))]
    return ids


def last_learned_first(ids, merges):
    while known := [pair for pair in zip(ids, ids[1:]) if pair in merges]:
        last = max(known, key=merges.index)
        ids = bpe_textbook.merge(ids, last, 256 + merges.index(last))
    return ids


def longest_first(ids, merges):
    parts = {i: [i] for i in range(256)}
    for i, (left, right) in enumerate(merges):
        parts[256 + i] = parts[left] + parts[right]
    encoded, i = [], 0
    while i < len(ids):
        fitting = [token for token, part in parts.items() if list(ids[i:i + len(part)]) == part]
        encoded.append(max(fitting, key=lambda token: len(parts[token])))
        i += len(parts[encoded[-1]])
    return encoded


def in_one_pass(ids, merges):
    out, i = [], 0
    while i < len(ids):
        found = tuple(ids[i:i + 2]) in merges
        out.append(256 + merges.index(tuple(ids[i:i + 2])) if found else ids[i])
        i += 2 if found else 1
    return out


FAULTS = {
    'the pair furthest to the left is merged first; it should be the one that was learned first': leftmost_first,
    'the pair that was learned last is merged first; it should be the one that was learned first': last_learned_first,
    'from the left, the longest token is taken; BPE replays the merges in the order in which they were learned': longest_first,
    'the list is gone through only once, so new tokens are never merged again': in_one_pass,
}
