"""Replace a pair of tokens by a new one: the second half of a round of BPE.

To check it: python -m docs.course.check merge
"""


def merge(ids, pair, new):
    """
    ids: a list of token ids; pair: (left id, right id); new: the id of the token that the pair becomes
    Returns the list with `new` in place of every occurrence of the pair. The list `ids` stays as it is.

    Where occurrences overlap, the one further to the left is replaced.
    merge([1, 1, 1, 2, 1, 1], (1, 1), 256) is [256, 1, 2, 256].
    """
    raise NotImplementedError
