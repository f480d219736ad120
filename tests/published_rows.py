"""Made-up rows of every task of multiple choice and of the last word, in the form in which its authors published it."""

WORDS = 'the man walks home with his dog, and a "naïve" cat sleeps on it because she likes two [x] old houses'.split(' ')


def phrase(*numbers):
    """Some words, other ones for other numbers."""
    n = sum(number * prime for number, prime in zip(numbers, (11, 31, 101)))
    return ' '.join(WORDS[(n + k * (1 + n % 5)) % len(WORDS)] for k in range(2 + n % 7))


def school_rows(i, published):
    choices = [{'text': phrase(i, j), 'label': 'ABCDE'[j]} for j in range(3 + i % 3)]
    if published:
        return {'id': str(i), 'question': {'stem': phrase(i) + '?', 'choices': choices}, 'answerKey': 'ABC'[i % 3]}
    return {'question': phrase(i) + '?', 'question_stem': phrase(i) + '?', 'answerKey': 'ABC'[i % 3],
            'choices': {'text': [one['text'] for one in choices], 'label': [one['label'] for one in choices]}}


# {task: (row i as published, row i as the harness has it from the hub, where that differs)}
MADE = {
    'hellaswag': (lambda i: {'activity_label': phrase(i), 'ctx': phrase(i, 1), 'ctx_a': phrase(i, 1), 'ctx_b': phrase(i, 2) if i % 3 else '',
                             'endings': [phrase(i, 3, j) + ' [step]  on.' for j in range(4)], 'label': i % 4}, None),
    'piqa': (lambda i: {'goal': phrase(i), 'sol1': phrase(i, 1), 'sol2': phrase(i, 2) + ' ', 'label': i % 2}, None),
    'siqa': (lambda i: {'context': phrase(i), 'question': phrase(i, 1) + '?', **{f'answer{c}': phrase(i, 2, ord(c)) for c in 'ABC'},
                        'label': str(1 + i % 3)}, None),
    'winogrande': (lambda i: {'qID': str(i), 'sentence': f'{phrase(i)} so _ {phrase(i, 1)}.', 'option1': 'Ann', 'option2': 'the old man',
                              'answer': str(1 + i % 2)}, None),
    'arc_easy': (lambda i: school_rows(i, True), lambda i: school_rows(i, False)),
    'openbookqa': (lambda i: school_rows(i, True), lambda i: school_rows(i, False)),
    'boolq': (lambda i: {'question': phrase(i), 'title': 'T', 'answer': bool(i % 2), 'passage': phrase(i, 1)},
              lambda i: {'question': phrase(i), 'passage': phrase(i, 1), 'idx': i, 'label': i % 2}),
    'copa': (lambda i: {'premise': phrase(i) + '.', 'choice1': 'The ' + phrase(i, 1), 'choice2': 'A ' + phrase(i, 2),
                        'question': ('cause', 'effect')[i % 2], 'label': i // 2 % 2, 'idx': i}, None),
    'lambada': (lambda i: {'text': phrase(i) + '\n\nso ' + phrase(i, 1)}, None),
    'lambada_standard': (lambda i: {'text': phrase(i) + ' and ' + phrase(i, 1)}, None),
}
