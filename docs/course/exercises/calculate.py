"""A small calculator that is safe to hand to a model: a parser of your own, exact fractions, no eval.

To check it: python -m docs.course.check calculate
"""
from fractions import Fraction


def calculate(expression):
    """
    expression: a text that a model wrote, so it can be anything
    Returns its exact value as a Fraction. Raises ValueError for every text that is not of this form:

        sum     = product { ('+' | '-') product }
        product = factor { ('*' | '/') factor }
        factor  = '-' factor | number | '(' sum ')'

    { } means: as often as wanted, from the left, so 8-3-2 is 3. A number has digits and perhaps one point with
    digits after it; Fraction('0.1') is exact. Spaces may stand anywhere but within a number. A division by zero is
    a ValueError, too.
    """
    raise NotImplementedError
