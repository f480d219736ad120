import collections


def count_pairs(words):
    pairs = collections.Counter()
    for ids, count in words:
        for pair in zip(ids, ids[1:]):
            pairs[pair] += count
    return dict(pairs)
