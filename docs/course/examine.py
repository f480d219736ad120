"""Compares a function that the reader wrote with what is right, and says in words what differs.

checks/NAME.py has what the function NAME is compared with:

    cases()            the inputs: yields (what this case is, the arguments); the same ones whenever it is called
    expected(...)      the right result, from PyTorch, from the code of this repo, or computed in another way
    FAULTS             {what is likely wrong: a function with this fault}; named if it returns what the reader's returns
    HINTS              two texts
    run(function, ...) only where what the function returns is not what is compared: returns this instead
    TOLERANCE          only where TOLERANCE of differences.py is not right
"""
import contextlib
import importlib
import os
import signal
import textwrap
import traceback
import types

import torch

from docs.course.differences import SHOWN, TOLERANCE, difference, show
from runtime.words import plural


class NotFilledIn(Exception):
    pass


class TookTooLong(BaseException):  # no Exception: a solution may catch those
    pass


ERRORS = Exception, TookTooLong, SystemExit  # what a solution may end in; Ctrl-C ends all of it


class Problem(str):
    """What is said in place of a result: the function raised an error, or took too long."""


def examine(name: str, path: str, seconds: float) -> tuple[bool, list[str]]:
    """(whether the function `name` in a file is right, what to say about it, as lines). seconds: that a case may take."""
    check, shown = load_check(name), os.path.relpath(path)
    try:
        function = load_function(path, name, seconds)
        results = results_of(check, function, lambda error: describe_error(error, path, seconds), seconds)
    except NotFilledIn:
        return False, wrap(f'{name}: not filled in yet; the text in {shown} says what the function should do')
    except ERRORS as error:
        return False, wrap(f'{name}: {describe_error(error, path, seconds)}')
    right = results_of(check, check.expected)
    tolerance = getattr(check, 'TOLERANCE', TOLERANCE)
    for number, ((case, args), expected, result) in enumerate(zip(fresh_cases(check), right, results), 1):
        lines = [result] if isinstance(result, Problem) else difference(expected, result, tolerance)
        if lines:
            fault = find_fault(check, right, results, tolerance)
            given = ', '.join(map(show, args))
            return False, [*wrap(f'{name}: wrong in case {number} of {len(results)}: {case}'),
                           *(wrap(f'given     {given}', '  ') if given not in case and len(given) <= SHOWN else []),
                           *(line for text in lines for line in wrap(text, '  ')),
                           *(wrap(f'likely: {fault}', '  ') if fault else []),
                           f'  for a hint: python -m docs.course.check {name} --hint=1']
    return True, [f'{name}: right in {plural(len(results), "case")}']


def load_check(name):
    return importlib.import_module(f'docs.course.checks.{name}')


def load_function(path, name, seconds):
    """The function of this name in a file. Runs the file each time: an old compiled one is never used."""
    module = types.ModuleType(name)
    module.__file__ = path
    with open(path, encoding='utf-8') as file, time_limit(seconds):
        exec(compile(file.read(), path, 'exec'), module.__dict__)
    function = getattr(module, name, None)
    if not callable(function):
        raise NameError(f'there is no function {name} in this file')
    return function


def fresh_cases(check):
    """[(what the case is, arguments)]: made anew, since a function may change its arguments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return list(check.cases())


def results_of(check, function, describe=None, seconds=None):
    """What a function gives for each case. With `describe`, (error) -> text, a Problem where it raises or takes too long."""
    run = getattr(check, 'run', lambda function, *args: function(*args))
    cases, results = fresh_cases(check), []
    for _, args in cases:
        try:
            with time_limit(seconds):
                results.append(run(function, *args))
        except ERRORS as error:
            if describe is None:
                raise
            if any(isinstance(cause, NotImplementedError) for cause in causes(error)):
                raise NotFilledIn from None
            results.append(Problem(describe(error)))
            if isinstance(error, TookTooLong):  # who waited once need not wait for the other cases, too
                return results + results[-1:] * (len(cases) - len(results))
    return results


@contextlib.contextmanager
def time_limit(seconds):
    """Raises TookTooLong in what is inside after so many seconds; None for no limit."""
    def stop(signal_number, frame):
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def causes(error):
    """An error and those that it was raised from: Triton's interpreter raises one of its own from that of a kernel."""
    while error:
        yield error
        error = error.__cause__


def describe_error(error, path, seconds):
    """An error in a file, with its line."""
    if isinstance(error, TookTooLong):
        return f'it took more than {seconds:g} seconds; is there a loop that does not end?'
    *_, error = causes(error)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines = [error.lineno]
    where = f'line {lines[-1]} of {os.path.relpath(path)}' if lines else os.path.relpath(path)
    message = error.msg if isinstance(error, SyntaxError) else str(error).strip()
    return f'{where} raises {type(error).__name__}' + (f': {message.splitlines()[0]}' if message else '')


def find_fault(check, right, results, tolerance):
    """The words for a fault that gives what the reader's function gives, wherever that gives something; or None."""
    if any(result is None for result in results):
        return 'the function returns nothing: there is no `return`, or it is not reached'
    given = [i for i, result in enumerate(results) if not isinstance(result, Problem)]
    if not any(difference(right[i], results[i], tolerance) for i in given):
        return None
    for words, faulty in check.FAULTS.items():
        wrong = results_of(check, faulty, lambda error: type(error).__name__)
        if not any(isinstance(wrong[i], Problem) or difference(wrong[i], results[i], tolerance) for i in given):
            return words
    return None


def wrap(text, indent=''):
    return textwrap.wrap(text, 100, initial_indent=indent, subsequent_indent=indent + '  ', break_long_words=False)
