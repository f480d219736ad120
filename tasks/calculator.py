"""An exact calculator that is safe to hand to a language model: small grammar in, exact text out, in bounded time.

    python -m tasks.calculator '48/2+1'                  # 25
    python -m tasks.calculator '1/3 + 20%'               # 8/15
    python -m tasks.calculator 'solve(3x + 5 = 20, x)'   # 5

    from tasks.calculator import calculate
    calculate('12.5*8')                                  # '100', or ValueError saying what is wrong

The grammar, loosest first; a variable, `=` and products without `*` (3x, 2(x+1)) exist inside solve() only:

    call       = sum  |  'solve' '(' sum '=' sum ',' variable ')'
    sum        = product  { ('+' | '-') product }
    product    = signed  { ('*' | '/' | '%') signed }         % between two operands is the remainder, as in Python
    signed     = ('-' | '+') signed  |  percentage
    percentage = power  { '%' }                               % behind an operand is a hundredth: 20*15% is 3
    power      = operand  [ '**' signed ]
    operand    = number  |  variable  |  '(' sum ')'

Numbers are ASCII digits with at most one point. Arithmetic is in fractions of whole numbers, so nothing is ever rounded;
text is never given to eval, nor to sympy's parser, which evals too: sympy gets numbers. The limits below bound time and
memory whatever the text is. This file knows nothing about models or tokens.
"""
import collections
import functools
import itertools
import operator
import re
import sys
from fractions import Fraction

from runtime.errors import BadInput, one_line_errors

MAX_CHARACTERS = 200    # of an expression; bounds nesting and the number of operations too
MAX_DEPTH = 30          # brackets inside each other
MAX_BITS = 1024         # of any numerator or denominator on the way
MAX_DEGREE = 4          # of an equation
MAX_EQUATION_BITS = 80  # of an equation's coefficients, once it is a polynomial with whole ones
MAX_PLACES = 12         # a result with more decimals is written as a fraction
MAX_RESULT = 60         # characters of a result

TOKEN = re.compile(r'([0-9]+(?:\.[0-9]*)?|\.[0-9]+|\*\*|[-+*/%()=,]|[A-Za-z]+)')
NUMBER = re.compile(r'[-+]?(?:[0-9]+(?:/0*[1-9][0-9]*|\.[0-9]*)?|\.[0-9]+)')
NUMBER_START = frozenset('0123456789.')
OPERATORS = {'+': operator.add, '-': operator.sub, '*': operator.mul, '/': operator.truediv, '%': operator.mod}


def calculate(expression: str) -> str:
    """The exact result of an expression as text: a whole number, a decimal number, or else a fraction in lowest terms.

    'solve(equation, x)' gives the rational solutions, smallest first, with ', ' between them. Raises ValueError with the
    reason for everything else: other text, division by zero, a result that is not rational, a limit exceeded.
    """
    tokens = tokenize(expression)
    if tokens[0] != 'solve':
        return format_number(Parser(tokens).parse_all())
    if len(tokens) < 8 or tokens[1] != '(' or tokens[-1] != ')' or tokens[-3] != ',':
        raise ValueError('an equation is written solve(3*x+5=20, x)')
    variable, sides = tokens[-2], tokens[2:-3]
    if len(variable) != 1 or not variable.isalpha():
        raise ValueError(f'{variable!r} is not a variable; one letter is')
    if sides.count('=') != 1:
        raise ValueError('an equation has one equals sign')
    equals = sides.index('=')
    left, right = (Parser(side, variable).parse_all() for side in (sides[:equals], sides[equals + 1:]))
    return ', '.join(format_number(root) for root in roots_of(apply('-', left, right)))


# ---------------------------------------------------------------------------- text to tokens

def tokenize(text):
    """The numbers, signs and words of a text, as a list of at least one."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f'longer than {MAX_CHARACTERS} characters')
    tokens, strange = TOKEN.findall(text), TOKEN.sub('', text).strip(' ')
    if strange:
        raise ValueError(f'{strange[0]!r} does not belong here')
    if not tokens:
        raise ValueError('nothing to calculate')
    if max(itertools.accumulate((token == '(') - (token == ')') for token in tokens)) > MAX_DEPTH:
        raise ValueError(f'nested more than {MAX_DEPTH} deep')
    return tokens


# ---------------------------------------------------------------------------- tokens to a value

class Parser:
    """Computes the value of tokens by recursive descent: one method for each line of the grammar.

    A value is a Fraction, or a Quotient where the variable is in it.
    """

    def __init__(self, tokens, variable=None):
        self.tokens, self.variable = [*tokens, ''], variable  # '' is the end
        self.position = 0

    def parse_all(self):
        value = self.sum()
        if self.next:
            raise ValueError(f'{self.next!r} does not belong here')
        return value

    @property
    def next(self):
        return self.tokens[self.position]

    def take(self):
        self.position += 1
        return self.tokens[self.position - 1]

    def sum(self):
        value = self.product()
        while self.next in ('+', '-'):
            value = apply(self.take(), value, self.product())
        return value

    def product(self):
        value = self.signed()
        while True:
            if self.next in ('*', '/', '%'):  # a % that `percentage` left here has an operand behind it
                value = apply(self.take(), value, self.signed())
            elif self.variable and self.next in ('(', self.variable):
                value = apply('*', value, self.percentage())
            else:
                return value

    def signed(self):
        if self.next not in ('-', '+'):
            return self.percentage()
        return apply(self.take(), Fraction(0), self.signed())

    def percentage(self):
        value = self.power()
        while self.next == '%' and not self.starts_operand(self.tokens[self.position + 1]):
            self.take()
            value = apply('/', value, Fraction(100))
        return value

    def power(self):
        base = self.operand()
        if self.next != '**':
            return base
        self.take()
        return power(base, self.signed())

    def operand(self):
        token = self.take()
        if token[:1] in NUMBER_START:
            return bounded(Fraction(token))
        if token and token == self.variable:
            return Quotient(polynomial(1, 0), polynomial(1))
        if token != '(':
            raise ValueError(f'{token!r} does not belong here' if token else 'it ends too early')
        value = self.sum()
        if self.take() != ')':
            raise ValueError('a bracket is not closed')
        return value

    def starts_operand(self, token):
        return token[:1] in NUMBER_START or token == '(' or token == self.variable


def apply(operation, a, b):
    """The value of a + b, a - b, a * b, a / b or a % b. Raises ValueError where there is none or it is too large."""
    if isinstance(a, Quotient) or isinstance(b, Quotient):
        return apply_to_quotients(operation, *as_quotient(a), *as_quotient(b))
    if operation in ('/', '%') and b == 0:
        raise ValueError('division by zero')
    return bounded(OPERATORS[operation](a, b))


def power(base, exponent):
    """base ** exponent, whose size is checked before it is computed."""
    if isinstance(exponent, Quotient):
        raise ValueError('a variable in an exponent')
    if exponent.denominator != 1:
        raise ValueError('the exponent is not a whole number')
    exponent = int(exponent)
    if isinstance(base, Quotient):
        if abs(exponent) > MAX_DEGREE:
            raise ValueError(f'powers of a variable go to {MAX_DEGREE}')
        multiply_or_divide = functools.partial(apply, '*' if exponent > 0 else '/')
        return functools.reduce(multiply_or_divide, [base] * abs(exponent), Fraction(1))
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

# above / below, two polynomials of sympy. It is not reduced, so that 1/x has no value at 0, and neither has x/x.
Quotient = collections.namedtuple('Quotient', 'above below')


def polynomial(*coefficients):
    """A sympy.Poly in one variable with rational coefficients, that of the highest power first."""
    import sympy  # takes a moment, and only equations need it
    return sympy.Poly([sympy.Rational(c.numerator, c.denominator) for c in coefficients], sympy.Symbol('x'), domain='QQ')


def as_quotient(value):
    return value if isinstance(value, Quotient) else Quotient(polynomial(value), polynomial(1))


def apply_to_quotients(operation, above, below, above_b, below_b):
    """What `apply` gives for above/below and above_b/below_b: a Quotient, or a Fraction if the variable is gone."""
    if operation == '%':
        raise ValueError('no remainders of a variable')
    if operation == '/':
        if above_b.is_zero:
            raise ValueError('division by zero')
        above_b, below_b = below_b, above_b
    elif operation == '-':
        above_b = -above_b
    if operation in ('*', '/'):
        above, below = above * above_b, below * below_b
    elif below == below_b:
        above += above_b
    else:
        above, below = above * below_b + above_b * below, below * below_b
    degree = max(above.degree(), below.degree())
    if degree > MAX_DEGREE:
        raise ValueError(f'powers of a variable go to {MAX_DEGREE}')
    for coefficient in above.all_coeffs() + below.all_coeffs():
        bounded(coefficient)
    return Quotient(above, below) if degree > 0 else bounded(Fraction(above.LC() / below.LC()))


def roots_of(value):
    """The rational numbers, in order, at which a value with a variable is zero."""
    above, below = as_quotient(value)
    if above.is_zero:
        raise ValueError('every number solves it')
    if above.clear_denoms(convert=True)[1].max_norm() >= 2**MAX_EQUATION_BITS:
        raise ValueError('coefficients too large')
    roots = [Fraction(root) for root in sorted(above.ground_roots()) if below.eval(root) != 0]
    if not roots:
        raise ValueError('no rational number solves it')
    return roots


# ---------------------------------------------------------------------------- number to text and back

def format_number(value):
    """A Fraction as text: 24, -0.75 or 1/3."""
    text = str(value)
    if value.denominator > 1 and 10**MAX_PLACES % value.denominator == 0:
        whole, decimals = divmod(int(abs(value) * 10**MAX_PLACES), 10**MAX_PLACES)
        text = f'{"-" if value < 0 else ""}{whole}.{decimals:0{MAX_PLACES}}'.rstrip('0')
    if len(text) > MAX_RESULT:
        raise ValueError(f'a result of more than {MAX_RESULT} characters')
    return text


def parse_number(text: str) -> Fraction:
    """The number that a text such as -12, 0.5 or 1/3 is. Raises ValueError for others, also for long ones and 1e999999999."""
    if len(text) > MAX_RESULT or not NUMBER.fullmatch(text):
        raise ValueError(f'{text[:MAX_RESULT]!r} is not a number')
    return Fraction(text)


def main(arguments):
    if len(arguments) != 1 or arguments[0] in ('-h', '--help'):
        raise BadInput("one expression, in quotes: python -m tasks.calculator '48/2+1'")
    try:
        print(calculate(arguments[0]))
    except ValueError as error:
        raise BadInput(str(error)) from None


if __name__ == '__main__':
    with one_line_errors():
        main(sys.argv[1:])
