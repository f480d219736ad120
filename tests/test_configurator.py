import importlib.machinery
import pathlib
import sys
from types import SimpleNamespace

import pytest

from configurator import choice, configure, optional, read_comments
from runtime.errors import BadInput, one_line_errors

DEFAULTS = {
    # run
    'out_dir': 'out',  # where everything goes
    'max_steps': 100,  # optimizer steps
    # model
    'learning_rate': 6e-4,  # the highest
    'compile': True,  # whether to
    'top_k': optional(int),  # of the likeliest
    'dtype': choice('auto', 'float32'),  # number format
}


def run(*argv):
    return configure(DEFAULTS, list(argv))


def error_line(capsys, *argv):
    with pytest.raises(SystemExit) as exit:
        run(*argv)
    captured = capsys.readouterr()
    assert exit.value.code == 2 and captured.out == '' and captured.err.count('\n') == 1
    return captured.err


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_without_arguments_the_defaults_come_back_as_plain_values():
    assert run() == {'out_dir': 'out', 'max_steps': 100, 'learning_rate': 6e-4, 'compile': True, 'top_k': None,
                     'dtype': 'auto'}


def test_config_files_apply_left_to_right_and_flags_last_wherever_they_stand(tmp_path):
    first = write(tmp_path, 'a.py', 'max_steps = 1\nlearning_rate = 0.5\nout_dir = "a"')
    second = write(tmp_path, 'b.py', '_half = 1\nmax_steps = 2 * _half\ntop_k = 7')
    config = run('--out_dir=flag', first, second)
    assert config == {**run(), 'max_steps': 2, 'learning_rate': 0.5, 'out_dir': 'flag', 'top_k': 7}


def test_a_config_file_cannot_reach_the_names_of_the_script(tmp_path):
    run(write(tmp_path, 'a.py', 'global out_dir\nout_dir = "elsewhere"'))
    assert DEFAULTS['out_dir'] == 'out' and 'out_dir' not in globals()


@pytest.mark.parametrize('flag, key, value', [
    ('--max_steps=20', 'max_steps', 20), ('--max-steps=20', 'max_steps', 20), ('--max_steps=1e6', 'max_steps', 1_000_000),
    ('--max_steps=1_000', 'max_steps', 1000), ('--learning_rate=1', 'learning_rate', 1.0),
    ('--compile=False', 'compile', False), ('--compile=1', 'compile', True), ('--top_k=5', 'top_k', 5),
    ('--top_k=None', 'top_k', None), ('--dtype=float32', 'dtype', 'float32'), ('--out_dir=a=b', 'out_dir', 'a=b')])
def test_flags_are_read_by_the_type_of_their_default(flag, key, value):
    result = run(flag)[key]
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize('argument, words', [
    ('--max_step=3', ["'max_step'", "did you mean 'max_steps'?"]),
    ('--max_steps=1.5', ['--max_steps=1.5', 'int']),
    ('--max_steps=True', ['--max_steps=True', 'int']),
    ('--learning_rate=fast', ['--learning_rate=fast', 'float']),
    ('--learning_rate=nan', ['--learning_rate=nan', 'float']),
    ('--compile=maybe', ['--compile=maybe', 'bool']),
    ('--top_k=x', ['--top_k=x', 'int or None']),
    ('--dtype=fp8', ['--dtype=fp8', 'auto|float32']),
    ('--compile', ['--compile=VALUE']),
    ('config/none.py', ['no config file config/none.py'])])
def test_a_wrong_argument_gives_one_line_that_names_it_and_says_what_is_right(capsys, argument, words):
    line = error_line(capsys, argument)
    assert all(word in line for word in words)


@pytest.mark.parametrize('text, words', [
    ('max_step = 3', ["'max_step'", "'max_steps'"]),
    ('max_steps = "3"', ["max_steps = '3'", 'int']),
    ('compile = 1', ['compile = 1', 'bool']),
    ('max_steps = True', ['max_steps = True', 'int']),
    ('x = 1\nmax_steps = 1 / 0', ['line 2', 'ZeroDivisionError']),
    ('max_steps = \n', ['line 1', 'SyntaxError']),
    ('import os', ["'os'"]),
    ('raise SystemExit', ['line 1', 'SystemExit'])])
def test_a_wrong_config_file_gives_one_line_that_names_the_place(capsys, tmp_path, text, words):
    line = error_line(capsys, write(tmp_path, 'wrong.py', text))
    assert all(word in line for word in ['wrong.py', *words])


def test_a_missing_config_file_suggests_the_one_that_was_meant(capsys, tmp_path):
    write(tmp_path, 'train_gpt2.py', '')
    assert 'train_gpt2.py' in error_line(capsys, str(tmp_path / 'train_gtp2.py'))


def test_help_lists_every_key_with_default_type_and_comment_under_its_heading(capsys):
    with pytest.raises(SystemExit) as exit:
        run('--help')
    text = capsys.readouterr().out
    assert exit.value.code == 0
    for line in ['--out_dir=out', 'where everything goes (str)', '--learning_rate=0.0006', 'the highest (float)',
                 '--top_k=None', 'of the likeliest (int or None)', 'number format (auto|float32)', '\nmodel\n']:
        assert line in text


@pytest.mark.parametrize('module, command', [
    (None, 'train.py'), ('tasks.solve', 'python -m tasks.solve'), ('bench.__main__', 'python -m bench')])
def test_help_and_errors_begin_with_what_was_started(capsys, monkeypatch, module, command):
    spec = module and importlib.machinery.ModuleSpec(module, None)
    monkeypatch.setitem(sys.modules, '__main__', SimpleNamespace(__spec__=spec))
    monkeypatch.setattr(sys, 'argv', ['/where/it/is/train.py'])
    with pytest.raises(SystemExit):
        run('--help')
    assert capsys.readouterr().out.startswith(f'usage: {command} [CONFIG.py ...]')
    assert error_line(capsys, '--max_steps=x').startswith(f'{command}: --max_steps=x')


def test_every_script_describes_every_key_in_its_help():
    root = pathlib.Path(__file__).parent.parent
    scripts = [path for path in [*root.glob('*.py'), *root.glob('tasks/*.py')] if '\nDEFAULTS = {' in path.read_text()]
    assert scripts
    for path in scripts:
        module = importlib.import_module('.'.join(path.relative_to(root).with_suffix('').parts))
        comments = read_comments(str(path))
        assert [key for key in module.DEFAULTS if not comments.get(key, ('', ''))[1]] == [], path.name


def test_bad_input_inside_a_script_becomes_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as exit, one_line_errors():
        raise BadInput('the file x is empty; write something')
    assert exit.value.code == 2 and capsys.readouterr().err.endswith(': the file x is empty; write something\n')
