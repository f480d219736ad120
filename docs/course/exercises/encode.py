"""Encode a chunk of text with merges that were learned: the pair that was learned first is merged first.

To check it: python -m docs.course.check encode
"""


def encode(ids, merges):
    """
    ids: the bytes of a chunk, as a list of ids from 0 to 255
    merges: [(left id, right id), ...] in the order in which they were learned; merge number i makes token 256 + i
    Returns the list of ids after all merges.

    As long as there is a pair that can be merged, the one that was learned first is merged next. It may stand
    anywhere in the chunk. You can copy your function `merge` into this file.
    encode([1, 2, 3], [(2, 3), (1, 2)]) is [1, 256].
    """
    raise NotImplementedError
