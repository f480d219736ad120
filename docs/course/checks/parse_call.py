"""What the exercise parse_call is compared with; examine.py describes the parts."""
import re

HINTS = (
    "text.rpartition('<<') cuts the text at the last <<. What has to be true of the rest so that it is an open call?",
    'The rest ends with =, and has neither < nor > in it: a > would mean that a call was closed after the <<. Return '
    'the rest without its last character.',
)


def cases():
    yield 'a call', ('There are now <<486+47=',)
    yield 'a call after one that has its result', ('There are <<486+47=533>>533 shells. Each one holds <<533/13=',)
    yield 'a call that already has its result', ('There are <<486+47=533>>',)
    yield 'text after a call', ('There are <<486+47=533>>533 shells, so x =',)
    yield 'no call', ('There are 533 shells.',)
    yield 'a text that ends in = without a call', ('2+3=',)
    yield 'a call without its =', ('There are <<486+47',)
    yield 'an equation, which has an = of its own', ('So x is <<solve(3x+5=20, x)=',)
    yield 'an empty text', ('',)


def run(parse_call, text):
    result = parse_call(text)
    return 'None' if result is None else result  # so that None is no missing `return`


def expected(text):
    found = re.search(r'<<([^<>]*)=\Z', text)
    return found and found[1]


def last_opening(text):
    _, opening, rest = text.rpartition('<<')
    return rest[:-1] if opening and text.endswith('=') else None


def first_opening(text):
    _, opening, rest = text.partition('<<')
    return rest[:-1] if opening and text.endswith('=') and not rest.endswith('>>') else None


FAULTS = {
    'a call that was closed by >> is taken for an open one': last_opening,
    'the expression begins at the first << of the text; it should begin at the last one': first_opening,
    'the = at the end is not part of the expression': lambda text: expected(text) is not None and expected(text) + '=' or None,
    'a call counts before its = is written': lambda text: (found := re.search(r'<<([^<>]*?)=?\Z', text)) and found[1],
    'the expression ends at its first =; an equation has one of its own': lambda text: (
        found := re.search(r'<<([^<>=]*)=[^<>]*\Z', text)) and text.endswith('=') and found[1] or None,
    'the expression is found in calls that have their result already': lambda text: (
        found := re.findall(r'<<([^<>]*)=', text)) and found[-1] or None,
}
