"""Inputs and targets of a word problem of which only the solution is learned.

To check it: python -m docs.course.check solution_targets
"""


def solution_targets(question, solution, end):
    """
    question, solution: lists of token ids; end: the id of <|endoftext|>
    Returns (inputs, targets), two lists of equal length.

    The sequence is `end`, the question, the solution, `end`. The inputs are all of it but the last token. The
    target of an input is the token after it if that belongs to the solution or is the last `end`; else it is -1,
    which the loss ignores: the model reads the question, but does not learn to write it.
    solution_targets([1, 2], [3, 4], 9) is ([9, 1, 2, 3, 4], [-1, -1, 3, 4, 9]).
    """
    raise NotImplementedError
