"""Count how often each pair of neighbouring tokens occurs: the first half of a round of BPE.

To check it: python -m docs.course.check count_pairs
"""


def count_pairs(words):
    """
    words: [(ids, count), ...]: the token ids of each different chunk of a text, and how often this chunk occurs
    Returns a dict {(left id, right id): how often this pair occurs in the text}.

    No pair crosses the border between two chunks. In a run such as 7 7 7 both pairs count, although they overlap.
    count_pairs([([5, 6, 6], 1), ([6, 6], 10)]) is {(5, 6): 1, (6, 6): 11}.
    """
    raise NotImplementedError
