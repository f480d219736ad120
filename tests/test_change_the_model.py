"""docs/8_change_the_model.md: each edit applies to a copy of the tree, its commands run there, and do what the page says."""
import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

SMALLER = {'train.py': ['--max_steps=2', '--eval_tokens=2048', '--n_layer=1', '--n_embd=16', '--device=cpu'],
           'sample.py': ['--max_new_tokens=3']}
RUN_ALL = """
import runpy, shlex, sys
import plot
plot.LossCurve.draw = lambda curve: None  # a second for each run
for command in sys.argv[1:]:
    sys.argv = shlex.split(command)
    print('$', command, flush=True)
    try:
        runpy.run_path(sys.argv[0], run_name='__main__')
    except SystemExit as end:
        print('exit code', end.code, flush=True)
"""


def sections():
    """{heading: (diffs, commands)} of the page; the commands of a heading are run with its diffs. (test_docs.py runs sweeps.)"""
    found = {}
    for section in (ROOT / 'docs/8_change_the_model.md').read_text().split('\n## ')[1:]:
        blocks = re.findall(r'^```(diff|sh)\n(.*?)^```', section, re.M | re.S)
        commands = [command for language, block in blocks if language == 'sh' for command in expand(block) if ' -m runs.sweep ' not in command]
        found[section.split('\n')[0]] = [block for language, block in blocks if language == 'diff'], commands
    return found


def expand(block):
    """The single commands of a block, in which loops over numbers are one line each."""
    for line in re.sub(r'\s+#.*', '', block).splitlines():
        loop = re.fullmatch(r'for (\w+) in ([\d ]+); do (.*); done', line)
        name, numbers, line = loop.groups() if loop else ('', '1', line)
        for number in numbers.split():
            yield from (line.replace(f'${name}', number) if name else line).split('; ')


def make_smaller(command):
    script, *arguments = shlex.split(command)[1:]
    return shlex.join([script, *arguments, *SMALLER.get(script, [])])


@pytest.fixture(scope='module')
def copy(tmp_path_factory, data_dir):
    """A copy of what the commands run, in which the unchanged model has been trained."""
    folder = tmp_path_factory.mktemp('copy')
    for path in ROOT.iterdir():
        if path.suffix == '.py':
            shutil.copy(path, folder)
        elif path.name in ('bench', 'config', 'evals', 'inference', 'kernels', 'runtime', 'scoring', 'tasks'):
            (folder / path.name).symlink_to(path)
    (folder / 'data').mkdir()
    (folder / 'data' / 'stdlib').symlink_to(data_dir)
    return folder


def run_in(folder, commands):
    """What commands print in a folder; one process runs them all, since to import torch takes seconds."""
    ended = subprocess.run([sys.executable, '-c', RUN_ALL, *map(make_smaller, commands)], cwd=folder, capture_output=True,
                           text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


def apply(folder, diffs, *flags):
    subprocess.run(['git', 'apply', *flags, '-'], cwd=folder, input=''.join(diffs), text=True, check=True)


@pytest.mark.slow
def test_every_edit_of_the_page_applies_and_its_commands_do_what_it_says(copy):
    printed = {}
    for heading, (diffs, commands) in sections().items():
        if commands:
            apply(copy, diffs) if diffs else None
            printed[heading] = run_in(copy, [*commands, commands[-1]])  # once more: what it made goes on
            apply(copy, diffs, '--reverse') if diffs else None
    assert [len(diffs) for diffs, commands in sections().values() if commands] == [0, 1, 1, 1, 1]
    unchanged, activation, metric, schedule, setting = printed.values()
    refused = 'was trained with another architecture than model.py has now'
    assert all('exit code' not in text for text in (unchanged, metric, schedule, setting)), printed
    assert activation.count('exit code 2') == 3 and refused in activation and 'does not compute GPT-2 any more' in activation
    assert "was trained with GPT-2's architecture, and model.py has been changed since" in activation
    losses = {name: [row.get('loss') for row in rows(copy, name)] for name in ('gelu_1', 'relu2_1', 'top1_1', 'wsd_1', 'wsd_sqrt_1')}
    assert losses['gelu_1'] == losses['top1_1'] != losses['relu2_1']
    assert losses['wsd_1'][0] == losses['wsd_sqrt_1'][0]
    assert 'warning' not in setting and 'out/tuned is done: it is at step 2' in setting
    assert json.loads((copy / 'out/tuned/run_0000000.json').read_text())['config']['activation'] == 'relu2'
    assert 0 <= rows(copy, 'top1_1')[-1]['val_top1'] <= 1 and 'val_top1' in metric


def rows(folder, run):
    return [json.loads(line) for line in (folder / 'out' / run / 'metrics.jsonl').read_text().splitlines()]
