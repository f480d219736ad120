"""The one config dict: a script's defaults, then config files, then flags.

Every script lists its settings in a dict, one key a line with a short comment, and ends with

    if __name__ == '__main__':
        with one_line_errors():
            main(configure(DEFAULTS))

after which all of these work, files left to right and flags last:

    python train.py
    python train.py config/train_gpt2.py config/mine.py --n_layer=6 --compile=False
    python train.py --help

A config file is plain Python, run in a namespace of its own; every name it leaves behind that does
not start with an underscore must be a key of the dict. Types are checked against the defaults: an
int serves for a float, `optional(int)` is a key that may be None, `choice('a', 'b')` one of a few
words. The help text is read from the comments in the script, so a setting is described once, where
it is set. A script checks the bounds of its numbers first of all:

    check_bounds(config, 'beta1', 'beta2', at_least=0, below=1)

This module knows nothing about any particular script.
"""
import difflib
import glob
import math
import operator
import os
import re
import sys
import tokenize
import traceback

from runtime.errors import BadInput, one_line_errors, program_name

BOOLS = {'true': True, '1': True, 'yes': True, 'false': False, '0': False, 'no': False}


class plain:
    """A setting of the type that its default has: bool, int, float or str."""

    def __init__(self, default):
        self.kind, self.default = type(default), default
        self.name = self.kind.__name__

    @property
    def expected(self):
        """What a value should be, for a message."""
        return f'{self.name}, of at most 64 bits' if self.kind is int else self.name

    def parse(self, text):
        """The value of a flag's text, or ValueError."""
        if self.kind is bool:
            if text.lower() not in BOOLS:
                raise ValueError
            return BOOLS[text.lower()]
        try:
            return self.accept(self.kind(text))
        except ValueError:
            if self.kind is not int:
                raise
            return self.accept(float(text))  # 1e6 is what people type for a million

    def accept(self, value):
        """The value as this type, or ValueError. An int serves for a float, and 1e6 for an int; a bool for neither."""
        if isinstance(value, bool) != (self.kind is bool):
            raise ValueError
        if isinstance(value, (int, float)) and not abs(value) < (2**63 if self.kind is int else math.inf):
            raise ValueError  # C libraries take whole numbers of 64 bits; infinite and NaN are no settings
        if self.kind is float and isinstance(value, int):
            value = float(value)
        if self.kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, self.kind) or self.kind is str and '\0' in value:  # which no file's name has
            raise ValueError
        return value


class optional(plain):
    """A setting of type `kind` that may also be None, which is its default unless another is given."""

    def __init__(self, kind, default=None):
        self.kind, self.default = kind, default
        self.name = f'{kind.__name__} or None'

    def parse(self, text):
        return None if text in ('None', 'none', '') else super().parse(text)

    def accept(self, value):
        return None if value is None else super().accept(value)


class choice(plain):
    """A setting that is one of a few words; the first is the default."""

    def __init__(self, *words):
        self.kind, self.words, self.default = str, words, words[0]
        self.name = '|'.join(words)

    def parse(self, text):
        return self.accept(text)

    def accept(self, value):
        if value not in self.words:
            raise ValueError
        return value


def configure(defaults, argv=None):
    """The settings of this run as a plain dict: `defaults`, then config files and flags from the command line.

    defaults: {key: default value | optional(type) | choice(words)}, written in the calling script one
              key a line; the comment at the line's end becomes the key's help text.
    argv:     the command line without the program's name; sys.argv[1:] if None.

    Ends the program with one line and exit code 2 on any mistake, before anything else has happened.
    `--help` prints every key and ends with exit code 0.
    """
    argv = sys.argv[1:] if argv is None else argv
    settings = {key: default if isinstance(default, plain) else plain(default) for key, default in defaults.items()}
    caller = sys._getframe(1).f_globals
    if any(arg in ('--help', '-h') for arg in argv):
        print(help_text(settings, caller['__file__'], caller['__doc__'] or ''))
        sys.exit(0)
    with one_line_errors():
        config = {key: setting.default for key, setting in settings.items()}
        for path in (arg for arg in argv if not arg.startswith('-')):
            config.update(read_config_file(path, settings))
        for flag in (arg for arg in argv if arg.startswith('-')):
            key, value = read_flag(flag, settings)
            config[key] = value
    return config


def read_config_file(path, settings):
    """{key: value} of the assignments in a config file, checked against the settings."""
    if not os.path.isfile(path):
        beside = glob.glob(os.path.join(glob.escape(os.path.dirname(path)), '*.py'))
        raise BadInput(f'no config file {path}{nearest(path, beside)}; a setting is written --key=value')
    namespace = {'__file__': os.path.abspath(path), '__name__': 'config'}
    try:
        with tokenize.open(path) as file:
            exec(compile(file.read(), path, 'exec'), namespace)
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else '?'
        message = error.msg if isinstance(error, SyntaxError) else str(error)  # a SyntaxError's text says the place again
        raise BadInput(f'{path}, line {line}: {type(error).__name__}: {message.splitlines()[0] if message else ""}') from error
    config = {}
    for key, value in namespace.items():
        if key.startswith('_'):
            continue
        check_known(key, settings, f'{path}: ')
        try:
            config[key] = settings[key].accept(value)
        except (ValueError, TypeError, OverflowError):
            raise BadInput(f'{path}: {key} = {shown(value)} should be {settings[key].expected}') from None
    return config


def read_flag(flag, settings):
    """(key, value) of a flag --key=value; dashes inside the key count as underscores."""
    key, equals, text = flag.lstrip('-').partition('=')
    key = key.replace('-', '_')
    check_known(key, settings, f'{shorten(flag.partition("=")[0])}: ')
    if not equals:
        raise BadInput(f'{shorten(flag)}: write --{key}=VALUE ({settings[key].name})')
    try:
        return key, settings[key].parse(text)
    except ValueError:
        raise BadInput(f'--{key}={shorten(text)} should be {settings[key].expected}') from None


def shown(value):
    """A value of a config file as a message has it. A number of thousands of digits cannot even be written."""
    if isinstance(value, (bool, float, str)) or isinstance(value, int) and value.bit_length() < 1000:
        return shorten(repr(value))
    return f'a number of {value.bit_length():,} bits' if isinstance(value, int) else f'of type {type(value).__name__}'


def shorten(text):
    return text if len(text) <= 80 else f'{text[:80]}...'


def check_bounds(config: dict, *keys: str, at_least: float | None = None, above: float | None = None,
                 at_most: float | None = None, below: float | None = None):
    """Raises BadInput for the first of `keys` whose value is out of bounds. A setting that is None is in bounds."""
    limits = [(operator.ge, 'at least', at_least), (operator.gt, 'above', above),
              (operator.le, 'at most', at_most), (operator.lt, 'below', below)]
    limits = [(holds, words, limit) for holds, words, limit in limits if limit is not None]
    for key in keys:
        if config[key] is not None and not all(holds(config[key], limit) for holds, _, limit in limits):
            raise BadInput(f'{key}={config[key]} should be {" and ".join(f"{words} {limit}" for _, words, limit in limits)}')


def check_known(key, settings, where):
    if key not in settings:
        raise BadInput(f'{where}unknown key {shorten(key)!r}{nearest(key, settings)}; --help lists all keys')


def nearest(word, candidates):
    """', did you mean X?' or nothing."""
    match = difflib.get_close_matches(shorten(word), list(candidates), n=1, cutoff=0.6)
    return f', did you mean {match[0]!r}?' if match else ''


def help_text(settings, script, doc):
    """The script's docstring and every key with its type, default and comment, under the source's own headings."""
    lines = [f'usage: {program_name()} [CONFIG.py ...] [--key=value ...]', '', doc.strip(), '']
    flags = {key: f'--{key}={setting.default}' for key, setting in settings.items()}
    width = min(44, max(map(len, flags.values())))
    comments = read_comments(script)
    for key, setting in settings.items():
        heading, comment = comments.get(key, ('', ''))
        if heading:
            lines += ['', heading]
        lines.append(f'  {flags[key]:<{width}}  {comment} ({setting.name})')
    return '\n'.join(lines)


def read_comments(script):
    """{key: (heading above it or '', comment behind it)} from the lines of a script that look like those of its defaults."""
    comments, heading = {}, ''
    with tokenize.open(script) as file:
        for line in file:
            if match := re.match(r"\s+'(\w+)': .*,\s+# (.*)", line):
                comments.setdefault(match[1], (heading, match[2]))
            heading = line.strip()[2:] if re.match(r'\s+# ', line) else ''
    return comments
