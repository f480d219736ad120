from docs.course.answers.merge import merge


def encode(ids, merges):
    rank = {pair: i for i, pair in enumerate(merges)}
    while known := [pair for pair in zip(ids, ids[1:]) if pair in rank]:
        first = min(known, key=rank.get)
        ids = merge(ids, first, 256 + rank[first])
    return ids
