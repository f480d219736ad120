"""What every script does with bad input and with trouble that it can live with: one clear line on stderr.

    with one_line_errors():
        main(configure(DEFAULTS))
"""
import contextlib
import functools
import json
import os
import sys


class BadInput(ValueError):
    """Something the user gave is wrong. The message is one line: what is wrong, what would be right.

    choices: lines to print below it, where there are several things that would be right.
    of_all: all processes of a run raise it, so that one of a machine is enough to say it.
    """

    def __init__(self, message, choices=()):
        super().__init__(message)
        self.choices, self.of_all = choices, False


class Diverged(Exception):
    """Training cannot continue. The message is one line: why, and what to go back to."""


class ProcessesLost(Exception):
    """The other processes of a run cannot be reached any more. The message is one line."""


@contextlib.contextmanager
def one_line_errors():
    """Ends the program with one line on stderr and exit code 2 on BadInput, 1 on Diverged or ProcessesLost, 130 on Ctrl-C."""
    try:
        yield
    except (BadInput, Diverged, ProcessesLost) as error:
        line = ' '.join(str(error).splitlines())  # a name that the user gave may have line ends
        if not is_said_by_another(error):
            print(f'{program_name()}: {line}', *getattr(error, 'choices', ()), sep='\n  ', file=sys.stderr)
        sys.exit(2 if isinstance(error, BadInput) else 1)
    except KeyboardInterrupt:
        print(f'{program_name()}: interrupted', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever reads our output went away, as in `python sample.py | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


@contextlib.contextmanager
def raised_by_all():
    """What raises BadInput inside does so in all processes of a run. Decorates functions, too."""
    try:
        yield
    except BadInput as error:
        error.of_all = True
        raise


def is_said_by_another(error):
    """Whether the first of torchrun's processes on this machine says it, too.

    Until the processes have joined, all of them check the same settings and files.
    """
    distributed = sys.modules.get('torch.distributed')
    have_joined = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return int(os.environ.get('LOCAL_RANK', 0)) > 0 and isinstance(error, BadInput) and (error.of_all or not have_joined)


class LossyStream:
    """A text stream that drops what cannot be written, instead of raising an error."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: a signal came while Python was writing to it
            self.stream.write(text)
        return len(text)

    def flush(self):
        with contextlib.suppress(OSError, RuntimeError):
            self.stream.flush()

    def __getattr__(self, name):
        return getattr(self.stream, name)


@contextlib.contextmanager
def unwritable_output_is_dropped():
    """Inside, nothing that is printed can end the program: its reader may be gone, its disk full, its terminal closed.

    Ctrl-C in `train.py 2>&1 | tee log` ends tee, too, and often before the run has saved.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(LossyStream, streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in streams:
            try:
                stream.flush()
            except OSError:  # Python would try again at its end, and then exit with a code of its own
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def program_name() -> str:
    """What was started: `train.py`, `docs/plan.py`, or `python -m bench` for a module."""
    spec = getattr(sys.modules['__main__'], '__spec__', None)
    if spec:
        return f'python -m {spec.name.removesuffix(".__main__")}'
    path = os.path.relpath(sys.argv[0], os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return os.path.basename(path) if path.startswith('..') else path


def warn(message):
    """A line on stderr about something that does not end the run."""
    print(f'warning: {message}', file=sys.stderr, flush=True)


@functools.cache
def warn_once(message):
    """The same for what a run meets again and again: the line appears when it is first met."""
    warn(message)


def first_line(error):
    """The first line of an error's message, for errors that are not our own behind its type's name; libraries write several."""
    return (str(error) if isinstance(error, BadInput) else f'{type(error).__name__}: {error}').splitlines()[0]


def why_not_json(error: ValueError | RecursionError) -> str:
    """What json.loads raised, in words: what is wrong, and where."""
    if isinstance(error, json.JSONDecodeError):
        line = f'line {error.lineno}, ' if '\n' in error.doc.strip() else ''
        return f'{error.msg}: {line}column {error.colno}'
    if isinstance(error, UnicodeDecodeError):
        return f'byte {error.start + 1:,} is not {error.encoding}'
    if isinstance(error, RecursionError):
        return 'its lists or objects are too deep inside each other'
    return f'it has a number of more than {sys.get_int_max_str_digits():,} digits'
