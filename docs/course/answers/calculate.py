import re
from fractions import Fraction

TOKEN = re.compile(r'\s*([0-9]+(?:\.[0-9]+)?|[-+*/()])')


def calculate(expression):
    tokens = tokenize(expression)
    value = parse_sum(tokens)
    if tokens:
        raise ValueError(f'{tokens[0]} does not belong here')
    return value


def tokenize(text):
    """The numbers and signs of a text, the first one last, so that pop() takes them in their order."""
    text, tokens, position = text.rstrip(), [], 0
    while position < len(text):
        found = TOKEN.match(text, position)
        if not found:
            raise ValueError(f'{text[position:]} does not belong here')
        tokens.append(found[1])
        position = found.end()
    return tokens[::-1]


def parse_sum(tokens):
    value = parse_product(tokens)
    while tokens and tokens[-1] in '+-':
        sign = tokens.pop()
        value = value + parse_product(tokens) if sign == '+' else value - parse_product(tokens)
    return value


def parse_product(tokens):
    value = parse_factor(tokens)
    while tokens and tokens[-1] in '*/':
        if tokens.pop() == '*':
            value *= parse_factor(tokens)
        else:
            divisor = parse_factor(tokens)
            if divisor == 0:
                raise ValueError('division by zero')
            value /= divisor
    return value


def parse_factor(tokens):
    token = tokens.pop() if tokens else 'the end'
    if token == '-':
        return -parse_factor(tokens)
    if token == '(':
        value = parse_sum(tokens)
        if not tokens or tokens.pop() != ')':
            raise ValueError('a bracket is not closed')
        return value
    if not token[0].isdigit():
        raise ValueError(f'{token} does not belong here')
    return Fraction(token)
