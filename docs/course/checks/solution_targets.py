"""What the exercise solution_targets is compared with; examine.py describes the parts."""
HINTS = (
    'The target of the last token of the question is the first token of the solution, and it is learned. How many '
    'targets are then -1?',
    'inputs = [end, *question, *solution]; targets = [-1] * len(question) + [*solution, end].',
)


def cases():
    yield 'the example of the text', ([1, 2], [3, 4], 9)
    yield 'a question of one token', ([1], [3, 4, 5], 9)
    yield 'a solution of one token', ([1, 2, 3], [4], 9)
    yield 'a question that contains tokens of the solution', ([3, 4], [3, 4], 9)


def expected(question, solution, end):
    tokens = [end, *question, *solution, end]
    learned = [False] * (1 + len(question)) + [True] * (len(solution) + 1)
    return tokens[:-1], [token if counts else -1 for token, counts in zip(tokens[1:], learned[1:])]


def with_targets(make):
    """The right inputs, with other targets."""
    return lambda question, solution, end: ([end, *question, *solution], make(question, solution, end))


FAULTS = {
    'the targets are the inputs themselves; they should be one token later':
        with_targets(lambda question, solution, end: [-1] * (1 + len(question)) + solution),
    'the first token of the solution is not learned: the mask is one too far to the right':
        with_targets(lambda question, solution, end: [-1] * (len(question) + 1) + [*solution[1:], end]),
    'the last token of the question is learned: the mask is one too far to the left':
        with_targets(lambda question, solution, end: [-1] * (len(question) - 1) + [question[-1], *solution, end]),
    'the question is learned, too': with_targets(lambda question, solution, end: [*question, *solution, end]),
    'the end is not learned, so the model would never stop':
        with_targets(lambda question, solution, end: [-1] * len(question) + [*solution, -1]),
    'targets that do not count are -1 here, not -100':
        with_targets(lambda question, solution, end: [-100] * len(question) + [*solution, end]),
    'the sequence should begin with `end`': lambda question, solution, end: (
        [*question, *solution], [-1] * (len(question) - 1) + [*solution, end]),
}
