"""What the exercise calculate is compared with; examine.py describes the parts."""
import re
from fractions import Fraction

import tasks.calculator

HINTS = (
    'Cut the text into numbers and signs first. Then one function for each line of the grammar: each takes from the '
    'front of the list what belongs to it, and calls the next one for its parts.',
    'product(): value = factor(); while the next token is * or /: take it and multiply or divide value by factor(). '
    'sum() is the same with product(). factor() takes a number, a minus and a factor, or a bracket, a sum and a '
    'closing bracket; everything else is a ValueError, and so is a token that is left at the end.',
)

EXPRESSIONS = ('486+47', '2+3*4', '8-3-2', '48/2/3', '0.1+0.2', '1/3', '(2+3)*4', '2*(3+(4-1))', '-5+2', '2*-3', '--2', '1 + 2')
NO_EXPRESSIONS = ('1/0', '1/(2-2)', '', '2+', '(1+2', '1+2)', '2 3', '1..2', 'abs(-3)', '__import__("os")', '2**3', '7%4')


def cases():
    for expression in EXPRESSIONS + NO_EXPRESSIONS:
        yield f'calculate({expression!r})', (expression,)


def run(calculate, expression):
    try:
        return calculate(expression)
    except ValueError:
        return 'ValueError'


def expected(expression):
    """tasks/calculator.py knows powers and remainders, too."""
    if re.search(r'\*\*|%', expression):
        raise ValueError
    return tasks.calculator.parse_number(tasks.calculator.calculate(expression))


def left_to_right(expression):
    """Plain signs between numbers without any precedence; right where there is one sign or none."""
    if not re.fullmatch(r'[\d.]+([-+*/][\d.]+)+', expression) or '..' in expression:
        return expected(expression)
    first, *rest = re.split(r'([-+*/])', expression)
    value = Fraction(first)
    for sign, number in zip(rest[::2], rest[1::2]):
        value = combine(sign, value, Fraction(number))
    return value


def from_the_right(expression):
    """Right where no two equal signs follow each other."""
    found = re.fullmatch(r'(\d+)([-/])(\d+)\2(\d+)', expression)
    if not found:
        return expected(expression)
    a, sign, b, c = found.groups()
    return combine(sign, Fraction(a), combine(sign, Fraction(b), Fraction(c)))


def combine(sign, a, b):
    if sign == '/' and b == 0:
        raise ValueError
    return {'+': a.__add__, '-': a.__sub__, '*': a.__mul__, '/': a.__truediv__}[sign](b)


def in_floats(expression):
    return float(expected(expression))


def with_zero_division(expression):
    if '/0' in expression or '/(2-2)' in expression:
        raise ZeroDivisionError
    return expected(expression)


def ignoring_the_rest(expression):
    return {'1+2)': Fraction(3), '2 3': Fraction(2)}.get(expression) or expected(expression)


def with_powers(expression):
    return {'2**3': Fraction(8), '7%4': Fraction(3)}.get(expression) or expected(expression)


FAULTS = {
    'signs are applied from the left without precedence: * and / come before + and -': left_to_right,
    'equal signs are applied from the right: 8-3-2 is (8-3)-2': from_the_right,
    'these are floats, which are rounded; compute with Fraction': in_floats,
    'a text may go on after what was read: raise ValueError if a token is left': ignoring_the_rest,
    'more is computed than the grammar has, as eval would do; never give a text of a model to eval': with_powers,
}
