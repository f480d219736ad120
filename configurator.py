"""The one config dict: a script's defaults, then config files, then flags.

Every script lists its settings in a dict, one key a line with a short comment, and ends with

    if __name__ == '__main__':
        with one_line_errors():
            main(configure(DEFAULTS))

after which all of these work, files left to right and flags last:

    python train.py
    python train.py config/train_gpt2.py config/mine.py --n_layer=6 --compile=False
    python train.py config/demo.py --n_layer 6 --tensorboard            # a space serves for =, and a bare bool is True
    python train.py --help

A config file is plain Python, run in a namespace of its own; every name it leaves behind must be a key
of the dict, but for modules, functions and names that start with an underscore. Types are checked against
the defaults: an int serves for a float, `optional(int)` is a key that may be None, `choice('a', 'b')` one
of a few words. The help text is read from the comments in the script, so a setting is described once,
where it is set. A script checks the bounds of its numbers first of all:

    check_bounds(config, 'beta1', 'beta2', at_least=0, below=1)

This module knows nothing about any particular script.
"""
import difflib
import glob
import itertools
import math
import operator
import os
import re
import sys
import tokenize
import traceback
import types
from collections.abc import Collection

from runtime.errors import BadInput, one_line_errors, program_name

HERE = os.path.dirname(os.path.abspath(__file__))
BOOLS = {'true': True, '1': True, 'yes': True, 'false': False, '0': False, 'no': False}
KINDS = {bool: 'True or False', int: 'a whole number', float: 'a number', str: 'text'}
CALLED_ELSEWHERE = {  # a setting here: what nanoGPT, transformers and other programs call it
    'activation_checkpointing': 'gradient_checkpointing', 'beta1': 'adam_beta1', 'beta2': 'adam_beta2',
    'block_size': 'context_length max_seq_len max_seq_length n_ctx n_positions seq_len sequence_length',
    'checkpoint_interval': 'always_save_checkpoint save_interval save_steps', 'compile': 'torch_compile',
    'data_dir': 'data data_path dataset train_file', 'device': 'accelerator backend device_map',
    'dtype': 'bf16 fp16 mixed_precision precision torch_dtype', 'eval_interval': 'eval_steps', 'eval_tokens': 'eval_iters',
    'grad_clip': 'clip_grad_norm gradient_clip_val max_grad_norm', 'init_from': 'checkpoint ckpt model model_name_or_path',
    'learning_rate': 'lr max_lr', 'log_interval': 'logging_steps', 'max_new_tokens': 'length max_length max_tokens',
    'max_steps': 'epochs lr_decay_iters max_iters n_epochs num_epochs num_iterations num_train_epochs',
    'micro_batch': 'batch_size device_batch_size per_device_train_batch_size train_batch_size',
    'n_embd': 'd_model dim embed_dim hidden_dim hidden_size n_embed', 'n_head': 'num_attention_heads num_heads',
    'n_layer': 'depth num_hidden_layers num_layers', 'num_samples': 'n num_return_sequences', 'optimizer': 'optim',
    'out_dir': 'output_dir save_dir', 'prompt': 'start text', 'schedule': 'decay_lr lr_scheduler_type scheduler',
    'source': 'data dataset input', 'stop': 'stop_sequences stop_strings', 'tensorboard': 'report_to', 'to': 'output',
    'temperature': 'do_sample temp',
    'total_batch_tokens': 'batch_size gradient_accumulation_steps total_batch_size train_batch_size',
    'wandb': 'report_to wandb_log wandb_project wandb_run_name', 'warmup_steps': 'warmup_iters warmup_ratio',
    'workers': 'num_proc num_workers', 'zero': 'zero_stage',
}


class plain:
    """A setting of the type that its default has: bool, int, float or str."""

    def __init__(self, default):
        self.kind, self.default = type(default), default
        self.name = self.kind.__name__

    @property
    def expected(self):
        """What a value should be, for a message."""
        return KINDS[self.kind] + (' below 2**63' if self.kind is int else '')

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

    @property
    def expected(self):
        return f'{super().expected}, or None'

    def parse(self, text):
        return None if text in ('None', 'none', '') else super().parse(text)

    def accept(self, value):
        return None if value is None else super().accept(value)


class choice(plain):
    """A setting that is one of a few words; the first is the default."""

    def __init__(self, *words):
        self.kind, self.words, self.default = str, words, words[0]
        self.name = '|'.join(words)

    @property
    def expected(self):
        return f'one of {", ".join(self.words)}'

    def parse(self, text):
        return self.accept(text)

    def accept(self, value):
        if value not in self.words:
            raise ValueError
        return value


def configure(defaults, argv=None, positional=None):
    """The settings of this run as a plain dict: `defaults`, then config files and flags from the command line.

    defaults:   {key: default value | optional(type) | choice(words)}, written in the calling script one
                key a line; the comment at the line's end becomes the key's help text.
    argv:       the command line without the program's name; sys.argv[1:] if None.
    positional: in a script that takes no config files, the key whose value all other arguments are, with commas between.

    Ends the program with one line and exit code 2 on any mistake, before anything else has happened.
    `--help` prints every key and ends with exit code 0.
    """
    argv = sys.argv[1:] if argv is None else argv
    settings = as_settings(defaults)
    caller = sys._getframe(1).f_globals
    if any(arg in ('--help', '-h') for arg in argv):
        print(help_text(settings, caller['__file__'], caller['__doc__'] or '', positional))
        sys.exit(0)
    with one_line_errors():
        config = {key: setting.default for key, setting in settings.items()}
        words, flags = split_arguments(argv, settings)
        if positional and words:
            config[positional] = ','.join(words)
        for path in () if positional else words:
            config.update(read_config_file(path, settings))
        for flag in flags:
            key, value = read_flag(flag, settings)
            config[key] = value
    return config


def as_settings(defaults):
    """{key: plain, optional or choice} of a script's defaults."""
    return {key: default if isinstance(default, plain) else plain(default) for key, default in defaults.items()}


def split_arguments(argv, settings):
    """(arguments that are no flags, flags as --key=value), in the order of the command line.

    What follows a flag without = is its value. A bool takes only a word such as False, and is True without one: so a config
    file may follow it.
    """
    words, flags, rest = [], [], list(argv)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith('-'):
            words.append(argument)
            continue
        key = key_of(argument)
        if key not in settings:
            raise BadInput(f'{shorten(argument.partition("=")[0])}: {describe_unknown([key], settings)}')
        if '=' not in argument:
            is_bool = settings[key].kind is bool
            if rest and (rest[0].lower() in BOOLS if is_bool else not re.match('-+[A-Za-z]', rest[0])):
                argument += f'={rest.pop(0)}'
            elif is_bool:
                argument += '=True'
        flags.append(argument)
    return words, flags


def key_of(flag):
    """The key of a flag; dashes inside it count as underscores."""
    return flag.lstrip('-').partition('=')[0].replace('-', '_')


def read_config_file(path, settings):
    """{key: value} of the assignments in a config file, checked against the settings."""
    if not os.path.isfile(path):
        raise no_config_file(path, settings)
    namespace = {'__file__': os.path.abspath(path), '__name__': 'config'}
    try:
        with tokenize.open(path) as file:
            exec(compile(file.read(), path, 'exec'), namespace)
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else '?'
        message = error.msg if isinstance(error, SyntaxError) else str(error)  # a SyntaxError's text says the place again
        raise BadInput(f'{path}, line {line}: {type(error).__name__}: {message.splitlines()[0] if message else ""}') from error
    assigned = {key: value for key, value in namespace.items() if not key.startswith('_') and
                (key in settings or not (isinstance(value, types.ModuleType) or callable(value)))}
    if unknown := [key for key in assigned if key not in settings]:
        raise BadInput(f'{path}: {describe_unknown(unknown, settings)}')
    config = {}
    for key, value in assigned.items():
        try:
            config[key] = settings[key].accept(value)
        except (ValueError, TypeError, OverflowError):
            raise BadInput(f'{path}: {key} = {shown(value)} should be {settings[key].expected}') from None
    return config


def no_config_file(path, settings):
    """The BadInput for a config file that is not there: names the one that is meant, or lists those that are there."""
    if '=' in path:
        return BadInput(f'no config file {path}; a setting is written with two dashes before it: --{path}')
    if os.path.isdir(path) and not glob.glob(os.path.join(glob.escape(path), '*.py')):
        key = 'source' if 'source' in settings else 'out_dir'
        return BadInput(f'{shorten(path)!r} is a folder, and no config file; ' + (
            f'did you mean --{key}={path}?' if key in settings else 'a setting is written --key=value'))
    if not path.endswith('.py') and (os.path.exists(path) or ' ' in path):
        return BadInput(f'{shorten(path)!r} is no config file; a setting is written --key=value, and --help lists the keys')
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    folder = folder or os.path.relpath(os.path.join(HERE, 'config'))
    files = [file for file in sorted(glob.glob(os.path.join(glob.escape(folder), '*.py'))) if comment_at_head(file)]
    wanted = os.path.basename(path).removesuffix('.py')
    names = {os.path.basename(file).removesuffix('.py'): file for file in files}
    if close := difflib.get_close_matches(shorten(wanted), list(names), n=1, cutoff=0.8):
        return BadInput(f'no config file {path}; did you mean {names[close[0]]}?')
    if not files:
        return BadInput(f'no config file {path} in {os.getcwd()}; a setting is written --key=value')
    width = max(map(len, files))
    return BadInput(f'no config file {path}; the ones in {folder} are:',
                    [f'{file:<{width}}  {comment_at_head(file)[0]}' for file in files])


def comment_at_head(path):
    """The lines of the comment that a config file begins with: what it is for, and `Needs ...` for the data it needs."""
    try:
        with tokenize.open(path) as file:
            lines = itertools.takewhile(lambda line: line.startswith('#'), file)
            return [line.lstrip('#').strip() for line in lines]
    except (OSError, SyntaxError, UnicodeDecodeError):  # a file of other people's, in the same folder
        return []


def what_makes(folder: str) -> str | None:
    """What a config file's comment says it needs, `CONFIG needs ...: COMMAND`, if that makes a folder of this name.

    Asked are the config files of the command line, then those in the folder config/.
    """
    folder = os.path.normpath(folder)
    of_this_run = [word for word in sys.argv[1:] if word.endswith('.py')]
    for path in of_this_run + sorted(glob.glob(os.path.join(HERE, 'config', '*.py'))):
        for line in comment_at_head(path):
            made = line.rpartition(' --out_dir=')[2]
            if line.startswith('Needs ') and os.path.basename(made) == os.path.basename(folder):
                return f'{os.path.relpath(path)} needs {line.removeprefix("Needs ").replace(made, folder)}'
    return None


def read_flag(flag, settings):
    """(key, value) of a flag --key=value."""
    key, (_, equals, text) = key_of(flag), flag.partition('=')
    if not equals:
        raise BadInput(f'{shorten(flag)} needs a value: --{key}=VALUE, with {settings[key].expected} for VALUE')
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


def listed(config: dict, key: str, known: Collection[str], what: str) -> list[str]:
    """The names in a setting, with commas between; all known ones if it is empty. Raises BadInput. what: such as 'picture'."""
    names = config[key].split(',') if config[key] else list(known)
    for name in names:
        if name not in known:
            raise BadInput(f'no {what} {name!r}; there are {", ".join(known)}')
    return names


def describe_unknown(keys, settings):
    """Names keys that are no settings, each with those that may be meant."""
    described = []
    for key in keys:
        meant = meant_by(key, settings)
        described.append(repr(shorten(key)) + (f' (did you mean {" or ".join(meant)}?)' if meant else ''))
    return f'unknown key{"s" if len(keys) > 1 else ""} {", ".join(described)}; --help lists all keys'


def meant_by(key, settings):
    """The settings that a key may be meant for: of that name in other programs, spelled nearly so, or with it as a part."""
    key = shorten(key)
    return ([ours for ours, theirs in CALLED_ELSEWHERE.items() if ours in settings and key in theirs.split()]
            or difflib.get_close_matches(key, list(settings), n=1, cutoff=0.75)
            or [ours for ours in settings if len(key) > 3 and key in ours][:3])


def help_text(settings, script, doc, positional):
    """The script's docstring and every key with its type, default and comment, under the source's own headings."""
    program = program_name()
    program = program if program.startswith('python -m ') else f'python {os.path.relpath(script)}'
    arguments = positional.upper() if positional else 'CONFIG.py'
    lines = [f'usage: {program} [{arguments} ...] [--key=value ...]', '', doc.strip(), '']
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
