"""An exact calculator that is safe to hand to a language model: small grammar in, exact text out, in bounded time.

    python calculator.py '48/2+1'                  # 25
    python calculator.py '1/3 + 20%'               # 8/15
    python calculator.py 'solve(3x + 5 = 20, x)'   # 5

    from tasks.calculator import calculate
    calculate('12.5*8')                            # '100', or ValueError saying what is wrong

The grammar, loosest first; a variable, `=` and products without `*` (3x, 2(x+1)) exist inside solve() only:

    call       = sum  |  'solve' '(' sum '=' sum ',' variable ')'
    sum        = product  { ('+' | '-') product }
    product    = signed  { ('*' | '/' | '%') signed }         % between two operands is the remainder, as in Python
    signed     = ('-' | '+') signed  |  percentage
    percentage = power  { '%' }                               % behind an operand is a hundredth: 20*15% is 3
    power      = operand  [ '**' signed ]
    operand    = number  |  variable  |  '(' sum ')'

Numbers are ASCII digits with at most one point. Arithmetic is in fractions of whole numbers, so nothing is ever rounded;
text is never given to eval, nor to sympy's parser, which evals too: sympy gets coefficients. The limits below bound
time and memory whatever the text is. This file knows nothing about models or tokens.
"""
import math
import re
import sys
from fractions import Fraction

from runtime.errors import BadInput, one_line_errors

MAX_CHARACTERS = 200    # of an expression; bounds nesting and the number of operations too
MAX_DEPTH = 30          # brackets and signs inside each other
MAX_BITS = 1024         # of any numerator or denominator on the way
MAX_DEGREE = 4          # of an equation
MAX_EQUATION_BITS = 80  # of an equation's coefficients, once it is a polynomial with whole ones
MAX_PLACES = 12         # a result with more decimals is written as a fraction
MAX_RESULT = 60         # characters of a result

TOKEN = re.compile(r' *([0-9]+(?:\.[0-9]*)?|\.[0-9]+|\*\*|[-+*/%()=,]|[A-Za-z]+)')
NUMBER_START = frozenset('0123456789.')


def calculate(expression):
    """The exact result of an expression as text: a whole number, a decimal number, or else a fraction in lowest terms.

    'solve(equation, x)' gives the rational solutions, smallest first, with ', ' between them. Raises ValueError with the
    reason for everything else: other text, division by zero, a result that is not rational, a limit exceeded.
    """
    tokens = tokenize(expression)
    if tokens[0] != 'solve':
        return write(value_of(Parser(tokens).parse_all()))
    if len(tokens) < 8 or tokens[1] != '(' or tokens[-1] != ')' or tokens[-3] != ',':
        raise ValueError('an equation is written solve(3*x+5=20, x)')
    variable, sides = tokens[-2], tokens[2:-3]
    if len(variable) != 1 or not variable.isalpha():
        raise ValueError(f'{variable!r} is not a variable; one letter is')
    if sides.count('=') != 1:
        raise ValueError('an equation has one equals sign')
    equals = sides.index('=')
    left, right = (Parser(side, variable).parse_all() for side in (sides[:equals], sides[equals + 1:]))
    return ', '.join(write(root) for root in roots_of(('-', left, right)))


# ---------------------------------------------------------------------------- text to tree

def tokenize(text):
    """The numbers, signs and words of a text, as a list of at least one."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f'longer than {MAX_CHARACTERS} characters')
    text = text.rstrip(' ')
    tokens, position = [], 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise ValueError(f'{text[position:].lstrip(" ")[0]!r} does not belong here')
        tokens.append(match[1])
        position = match.end()
    if not tokens:
        raise ValueError('nothing to calculate')
    return tokens


class Parser:
    """Tokens to a tree, by recursive descent: one method for each line of the grammar.

    A tree is a Fraction, 'variable', or a tuple of an operation and its operands: ('+', 1, ('*', 2, 'variable')).
    """

    def __init__(self, tokens, variable=None):
        self.tokens, self.variable = [*tokens, ''], variable  # '' is the end
        self.position = self.depth = 0

    def parse_all(self):
        tree = self.sum()
        if self.next:
            raise ValueError(f'{self.next!r} does not belong here')
        return tree

    @property
    def next(self):
        return self.tokens[self.position]

    def take(self):
        self.position += 1
        return self.tokens[self.position - 1]

    def sum(self):
        tree = self.product()
        while self.next in ('+', '-'):
            tree = (self.take(), tree, self.product())
        return tree

    def product(self):
        tree = self.signed()
        while True:
            if self.next in ('*', '/', '%'):  # a % that is left here has an operand behind it
                tree = (self.take(), tree, self.signed())
            elif self.variable and (self.next == '(' or self.next == self.variable):
                tree = ('*', tree, self.percentage())
            else:
                return tree

    def signed(self):
        if self.next not in ('-', '+'):
            return self.percentage()
        with self:
            return ('0' + self.take(), self.signed())

    def percentage(self):
        tree = self.power()
        while self.next == '%' and not self.starts_operand(self.tokens[self.position + 1]):
            self.take()
            tree = ('/', tree, Fraction(100))
        return tree

    def power(self):
        tree = self.operand()
        if self.next != '**':
            return tree
        with self:
            return (self.take(), tree, self.signed())

    def operand(self):
        token = self.take()
        if token[:1] in NUMBER_START:
            return Fraction(token)
        if token and token == self.variable:
            return 'variable'
        if token != '(':
            raise ValueError(f'{token!r} does not belong here' if token else 'it ends too early')
        with self:
            tree = self.sum()
        if self.take() != ')':
            raise ValueError('a bracket is not closed')
        return tree

    def starts_operand(self, token):
        return token[:1] in NUMBER_START or token == '(' or token == self.variable

    def __enter__(self):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f'nested more than {MAX_DEPTH} deep')

    def __exit__(self, *error):
        self.depth -= 1


# ---------------------------------------------------------------------------- tree to number

def value_of(tree):
    """The exact value of a tree without a variable."""
    if isinstance(tree, Fraction):
        return bounded(tree)
    operation, *operands = tree
    a, *b = (value_of(operand) for operand in operands)
    if operation == '0-':
        return -a
    if operation == '0+':
        return a
    b, = b
    if operation == '+':
        return bounded(a + b)
    if operation == '-':
        return bounded(a - b)
    if operation == '*':
        return bounded(a * b)
    if operation == '**':
        return power(a, b)
    if b == 0:
        raise ValueError('division by zero')
    return bounded(a / b if operation == '/' else a % b)


def power(base, exponent):
    """base ** exponent, whose size is known before it is computed."""
    if exponent.denominator != 1:
        raise ValueError('the exponent is not a whole number')
    exponent = int(exponent)
    if base == 0 and exponent < 0:
        raise ValueError('division by zero')
    if base in (-1, 0, 1):  # these have powers however large
        exponent = exponent % 2 if base else min(exponent, 1)
    elif bits(base) * abs(exponent) > MAX_BITS:
        raise ValueError('a power too large')
    return bounded(base ** exponent)


def bits(value):
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def bounded(value):
    if bits(value) > MAX_BITS:
        raise ValueError('a number too large')
    return value


# ---------------------------------------------------------------------------- equations

def roots_of(tree):
    """The rational numbers, in order, at which a tree with a variable is zero."""
    import sympy
    numerator, denominator = fraction_of_polynomials(tree)
    if not numerator:
        raise ValueError('every number solves it')
    scale = math.lcm(*(coefficient.denominator for coefficient in numerator))
    whole = [int(coefficient * scale) for coefficient in numerator]
    if max(abs(coefficient).bit_length() for coefficient in whole) > MAX_EQUATION_BITS:
        raise ValueError('coefficients too large')
    roots = sympy.Poly(whole[::-1], sympy.Symbol('x'), domain='ZZ').ground_roots()
    roots = sorted(Fraction(int(root.p), int(root.q)) for root in roots)
    roots = [root for root in roots if evaluate(denominator, root) != 0]
    if not roots:
        raise ValueError('no rational number solves it')
    return roots


def fraction_of_polynomials(tree):
    """A tree as one fraction of polynomials: two lists of coefficients, that of x**0 first and none of them padded."""
    if isinstance(tree, Fraction):
        return trimmed([tree]), [Fraction(1)]
    if tree == 'variable':
        return [Fraction(0), Fraction(1)], [Fraction(1)]
    operation, *operands = tree
    (a, below_a), *b = (fraction_of_polynomials(operand) for operand in operands)
    if operation == '0-':
        return [-c for c in a], below_a
    if operation == '0+':
        return a, below_a
    (b, below_b), = b
    if operation in ('+', '-'):
        b = b if operation == '+' else [-c for c in b]
        if below_a == below_b:
            return add(a, b), below_a
        return add(multiply(a, below_b), multiply(b, below_a)), multiply(below_a, below_b)
    if operation == '*':
        return multiply(a, b), multiply(below_a, below_b)
    if operation == '**':
        return power_of_polynomials(a, below_a, b, below_b)
    if operation == '%':
        raise ValueError('no remainders in an equation')
    if not b:
        raise ValueError('division by zero')
    return multiply(a, below_b), multiply(below_a, b)


def power_of_polynomials(a, below_a, b, below_b):
    if len(b) > 1 or len(below_b) > 1:
        raise ValueError('a variable in an exponent')
    exponent = b[0] / below_b[0] if b else Fraction(0)
    if len(a) <= 1 and len(below_a) == 1:
        return trimmed([power(a[0] / below_a[0] if a else Fraction(0), exponent)]), [Fraction(1)]
    if exponent.denominator != 1 or abs(exponent) > MAX_DEGREE:
        raise ValueError(f'powers of a variable go to {MAX_DEGREE}')
    if exponent < 0 and not a:
        raise ValueError('division by zero')
    if exponent < 0:
        a, below_a, exponent = below_a, a, -exponent
    above, below = [Fraction(1)], [Fraction(1)]
    for _ in range(int(exponent)):
        above, below = multiply(above, a), multiply(below, below_a)
    return above, below


def add(a, b):
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    return trimmed([bounded(c + (shorter[i] if i < len(shorter) else 0)) for i, c in enumerate(longer)])


def multiply(a, b):
    if not a or not b:
        return []
    if len(a) + len(b) - 2 > MAX_DEGREE:
        raise ValueError(f'powers of a variable go to {MAX_DEGREE}')
    product = [Fraction(0)] * (len(a) + len(b) - 1)
    for i, c in enumerate(a):
        for j, d in enumerate(b):
            product[i + j] = bounded(product[i + j] + c * d)
    return trimmed(product)


def trimmed(coefficients):
    while coefficients and coefficients[-1] == 0:
        coefficients = coefficients[:-1]
    return coefficients


def evaluate(polynomial, x):
    total = Fraction(0)
    for coefficient in reversed(polynomial):
        total = total * x + coefficient
    return total


# ---------------------------------------------------------------------------- number to text

def write(value):
    """A Fraction as text: 24, -0.75 or 1/3."""
    for places in range(MAX_PLACES + 1):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = str(abs(scaled.numerator)).rjust(places + 1, '0')
            text = digits if places == 0 else f'{digits[:-places]}.{digits[-places:]}'
            text = f'-{text}' if value < 0 else text
            break
    else:
        text = f'{value.numerator}/{value.denominator}'
    if len(text) > MAX_RESULT:
        raise ValueError(f'a result of more than {MAX_RESULT} characters')
    return text


def main(arguments):
    if len(arguments) != 1 or arguments[0] in ('-h', '--help'):
        raise BadInput("one expression, in quotes: python calculator.py '48/2+1'")
    try:
        print(calculate(arguments[0]))
    except ValueError as error:
        raise BadInput(str(error)) from None


if __name__ == '__main__':
    with one_line_errors():
        main(sys.argv[1:])
