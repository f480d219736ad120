"""What the exercise ring_all_reduce is compared with; examine.py describes the parts."""
import copy
import functools

HINTS = (
    'Write a function for one round: copy the state, go through the processes, and change one chunk of the neighbour '
    'of each. Append a copy of the state after each round; the same list appended each time would show the end only.',
    'The first loop, for i in range(n - 1): chunk = (r - i) % n, and new[(r + 1) % n][chunk] += old[r][chunk]. The '
    'second: chunk = (r + 1 - i) % n, and new[(r + 1) % n][chunk] = old[r][chunk].',
)


def cases():
    yield 'two processes', ([[1, 2], [10, 20]],)
    yield 'three processes', ([[1, 2, 3], [10, 20, 30], [100, 200, 300]],)
    yield 'one process, which sends nothing', ([[5]],)
    yield 'four processes', ([[10 ** r * (c + 1) for c in range(4)] for r in range(4)],)


def expected(gradients, first=lambda r, i: r - i, second=lambda r, i: r + 1 - i, to=1, adds_always=False, rounds=2):
    """With faults as arguments."""
    n, state, states = len(gradients), copy.deepcopy(gradients), []
    for phase, chunk_of in enumerate((first, second)[:rounds]):
        for i in range(n - 1):
            sent = [((r + to) % n, chunk_of(r, i) % n, state[r][chunk_of(r, i) % n]) for r in range(n)]
            for receiver, chunk, number in sent:
                state[receiver][chunk] = number + (state[receiver][chunk] if phase == 0 or adds_always else 0)
            states.append(copy.deepcopy(state))
    return states


def last_state_only(gradients):
    states = expected(gradients)
    return [states[-1] for _ in states]


FAULTS = {
    'the second half is missing, in which the whole sums go round': functools.partial(expected, rounds=1),
    'in the second half the receiver adds; it should replace, as it gets whole sums':
        functools.partial(expected, adds_always=True),
    'the chunks go to the process before; they should go to the one after': functools.partial(expected, to=-1),
    'in the first half, each process sends the same chunk in every round': functools.partial(expected, first=lambda r, i: r),
    'in the first half, round i should send chunk (r - i) % n, not (r + i) % n': functools.partial(
        expected, first=lambda r, i: r + i),
    'in the second half, a process begins with chunk (r + 1) % n, whose sum it has': functools.partial(
        expected, second=lambda r, i: r - i),
    'the same list is appended each time, so all states are the last one; append a copy':
        last_state_only,
}
