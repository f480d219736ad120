import importlib.machinery
import os
import pathlib
import sys
from types import SimpleNamespace

import pytest

from configurator import CALLED_ELSEWHERE, choice, configure, optional, read_comments, what_makes
from runtime.errors import BadInput, one_line_errors

DEFAULTS = {
    # run
    'out_dir': 'out',  # where everything goes
    'max_steps': 100,  # optimizer steps
    # model
    'learning_rate': 6e-4,  # the highest
    'compile': True,  # whether to
    'shuffle': False,  # whether to mix
    'top_k': optional(int),  # of the likeliest
    'dtype': choice('auto', 'float32'),  # number format
}


def scripts():
    """[(module, path)] of those at the root and in tasks/ that have settings."""
    root = pathlib.Path(__file__).parent.parent
    paths = [path for path in [*root.glob('*.py'), *root.glob('tasks/*.py')] if '\nDEFAULTS = {' in path.read_text()]
    assert paths
    return [(importlib.import_module('.'.join(path.relative_to(root).with_suffix('').parts)), path) for path in paths]


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
    assert run() == {'out_dir': 'out', 'max_steps': 100, 'learning_rate': 6e-4, 'compile': True, 'shuffle': False, 'top_k': None,
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
    ('--max_step=3', ["'max_step' (did you mean max_steps?)"]),
    ('--max_steps=1.5', ['--max_steps=1.5', 'a whole number']),
    ('--max_steps=True', ['--max_steps=True', 'a whole number']),
    ('--learning_rate=fast', ['--learning_rate=fast', 'a number']),
    ('--learning_rate=nan', ['--learning_rate=nan', 'a number']),
    ('--compile=maybe', ['--compile=maybe', 'True or False']),
    ('--top_k=x', ['--top_k=x', 'a whole number below 2**63, or None']),
    ('--dtype=fp8', ['--dtype=fp8', 'one of auto, float32']),
    ('--max_steps', ['--max_steps=VALUE', 'a whole number']),
    ('max_steps=3', ['--max_steps=3']),
    ('nowhere/none.py', ['no config file nowhere/none.py', '--key=value'])])
def test_a_wrong_argument_gives_one_line_that_names_it_and_says_what_is_right(capsys, argument, words):
    line = error_line(capsys, argument)
    assert all(word in line for word in words)


@pytest.mark.parametrize('text, words', [
    ('max_step = 3', ["'max_step' (did you mean max_steps?)"]),
    ('max_steps = "3"', ["max_steps = '3'", 'a whole number']),
    ('compile = 1', ['compile = 1', 'True or False']),
    ('max_steps = True', ['max_steps = True', 'a whole number']),
    ('x = 1\nmax_steps = 1 / 0', ['line 2', 'ZeroDivisionError']),
    ('max_steps = \n', ['line 1', 'SyntaxError']),
    ('def compile(): pass', ['compile = of type function', 'True or False']),
    ('lr = 1\nmax_steps = 1\nmax_iter = 2\nx = 3',
     ["unknown keys 'lr' (did you mean learning_rate?), 'max_iter', 'x'; --help"]),
    ('raise SystemExit', ['line 1', 'SystemExit'])])
def test_a_wrong_config_file_gives_one_line_that_names_the_place(capsys, tmp_path, text, words):
    line = error_line(capsys, write(tmp_path, 'wrong.py', text))
    assert all(word in line for word in ['wrong.py', *words])


def test_a_missing_config_file_suggests_the_one_that_was_meant(capsys, tmp_path):
    meant = write(tmp_path, 'train_gpt2.py', '# GPT-2')
    assert f'did you mean {meant}?' in error_line(capsys, str(tmp_path / 'train_gtp2.py'))
    assert 'did you mean config/demo.py?' in error_line(capsys, 'demo')


def test_where_no_name_is_close_the_configs_that_are_there_are_listed_with_what_they_are_for(capsys, tmp_path):
    write(tmp_path, 'train_gpt2.py', '# GPT-2, for GPUs\n# Needs data/x')
    write(tmp_path, 'no_config.py', 'import os')
    with pytest.raises(SystemExit):
        run(str(tmp_path / 'train_shakespeare_char.py'))
    first, *listed = capsys.readouterr().err.splitlines()
    assert 'did you mean' not in first and listed == [f'  {tmp_path}/train_gpt2.py  GPT-2, for GPUs']


@pytest.mark.parametrize('argv, key, value', [
    (['--max_steps', '20'], 'max_steps', 20), (['--learning-rate', '-1e-3'], 'learning_rate', -1e-3),
    (['--out_dir', '-'], 'out_dir', '-'), (['--top_k', 'None'], 'top_k', None), (['--dtype', 'float32'], 'dtype', 'float32'),
    (['--shuffle'], 'shuffle', True), (['--shuffle', 'yes'], 'shuffle', True), (['--compile', 'False'], 'compile', False),
    (['--shuffle', '--max_steps', '3'], 'max_steps', 3), (['--compile', 'false', '--shuffle'], 'shuffle', True)])
def test_a_space_serves_for_the_equals_sign_and_a_bare_bool_is_true(argv, key, value):
    assert run(*argv)[key] == value


def test_a_config_file_may_follow_a_bare_bool(tmp_path):
    config = run('--shuffle', write(tmp_path, 'a.py', 'max_steps = 1'), '--top_k', '3', write(tmp_path, 'b.py', 'out_dir = "b"'))
    assert config == {**run(), 'shuffle': True, 'max_steps': 1, 'top_k': 3, 'out_dir': 'b'}


@pytest.mark.parametrize('argv', [['--out_dir', '--max_steps=3'], ['--top_k']])
def test_a_flag_without_its_value_is_named(capsys, argv):
    assert f'{argv[0]} needs a value: {argv[0]}=VALUE' in error_line(capsys, *argv)


@pytest.mark.parametrize('key, meant', [
    ('lr', 'learning_rate'), ('max_iters', 'max_steps'), ('epochs', 'max_steps'), ('fp16', 'dtype'), ('steps', 'max_steps'),
    ('learning_rat', 'learning_rate'), ('outdir', 'out_dir')])
def test_names_of_other_programs_and_parts_of_names_lead_to_the_setting(capsys, key, meant):
    for argv in ([f'--{key}=1'], [f'--{key}', '1']):
        assert f"unknown key '{key}' (did you mean {meant}?)" in error_line(capsys, *argv)


def test_a_batch_size_may_be_that_of_a_forward_pass_or_of_a_step(capsys):
    with pytest.raises(SystemExit):
        configure({'micro_batch': 4, 'total_batch_tokens': 64}, ['--batch_size=8'])
    assert "'batch_size' (did you mean micro_batch or total_batch_tokens?)" in capsys.readouterr().err


def test_every_name_of_another_program_stands_for_a_setting_that_a_script_has():
    keys = {key for module, _ in scripts() for key in module.DEFAULTS}
    assert CALLED_ELSEWHERE.keys() <= keys


def test_a_config_file_may_import_modules_and_define_functions(tmp_path):
    text = 'import time\nfrom os.path import join\ndef double(x): return 2 * x\nmax_steps = double(3)\nout_dir = join("a", "b")'
    assert run(write(tmp_path, 'a.py', text)) == {**run(), 'max_steps': 6, 'out_dir': 'a/b'}


def test_arguments_that_are_no_flags_are_the_value_of_the_positional_key():
    assert configure(DEFAULTS, ['out/a', '--compile', 'out/b.py'], positional='out_dir') == {
        **run(), 'compile': True, 'out_dir': 'out/a,out/b.py'}


def test_what_a_config_says_it_needs_is_found_by_the_folder_that_is_made(monkeypatch, tmp_path):
    config = write(tmp_path, 'mine.py', '# Mine\n# Run it with --out_dir=x\n# Needs poems: make poems --out_dir=data/mine\nmax_steps = 1\n# Needs x --out_dir=x')
    assert what_makes('data/mine') is None
    monkeypatch.setattr('sys.argv', ['train.py', '--out_dir=x', config])
    assert what_makes('data/mine').endswith('mine.py needs poems: make poems --out_dir=data/mine')
    assert what_makes('x') is None
    assert 'config/char_bigram.py needs any text, such as a list of names: python corpus.py' in what_makes('data/names')


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
    usage = command if module else f'python {os.path.relpath(__file__)}'  # as it can be typed here
    assert capsys.readouterr().out.startswith(f'usage: {usage} [CONFIG.py ...]')
    assert error_line(capsys, '--max_steps=x').startswith(f'{command}: --max_steps=x')


def test_every_script_describes_every_key_in_its_help():
    for module, path in scripts():
        comments = read_comments(str(path))
        assert [key for key in module.DEFAULTS if not comments.get(key, ('', ''))[1]] == [], path.name


def test_bad_input_inside_a_script_becomes_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as exit, one_line_errors():
        raise BadInput('the file x is empty; write something')
    assert exit.value.code == 2 and capsys.readouterr().err.endswith(': the file x is empty; write something\n')
