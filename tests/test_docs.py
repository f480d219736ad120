"""README and docs: what they quote is in the files, what they link to exists, and what they tell the reader to type works.

Every command is run here, as far as its comment does not say that it needs a GPU, the network or somebody's cloud, with
fewer steps than the reader would take (SMALLER). Commands with a placeholder in capitals, like --peer_dir=PATH, are
checked for their flags alone.
"""
import contextlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
import urllib.request
from unittest import mock

import pytest
from conftest import ROOT, free_port, link_clone, run_script

from configurator import configure

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
QUOTING = sorted((ROOT / 'docs').glob('[1-7]_*.md'))
PROGRAMS = r'(?:\.venv/bin/)?(?:python|pip|pytest|torchrun|make|bash|docker|vllm|sky|sbatch|cloud/\S+) '
COMMAND = re.compile(rf'(?:[A-Z_]+=\S+ )*{PROGRAMS}.*')
NEEDS = re.compile(r'\[(?:GPU|network|cloud)\]')
PLACEHOLDER = re.compile(r'(?:=|/|\s)[A-Z]{2,}\b(?![=_])|\.\.\.')
SMALLER = {
    'train.py': ['--max_steps=2', '--eval_tokens=2048', '--eval_interval=2', '--checkpoint_interval=2', '--sample_interval=0'],
    'runs.sweep': ['--max_steps=2', '--eval_tokens=2048', '--eval_interval=2', '--sample_interval=0', '--learning_rate=1e-3,2e-3',
                   '--seed=1'],
    'sample.py': ['--max_new_tokens=3'],
    'docs/course/tiny_gpt.py': ['2'],
    'docs/course/sick_curves.py': ['--case=float16', '--max_steps=1'],
    'docs.course.check': ['--file=docs/course/answers'],
    'tests/load_serve.py': ['--seconds=1', '--rate_seconds=0.5', '--new_tokens=5'],
    'tasks.prepare_problems': ['--n_problems=2000', '--n_val=50'],
    'tasks.solve': ['--max_new_tokens=5'],
    'tasks.solve_rate': ['--limit=2', '--votes=2', '--max_new_tokens=5'],
    'tasks.chat': ['--n_conversations=500'],
    'tasks.chat_score': ['--limit=2', '--max_new_tokens=5'],
    'tasks.dpo': ['--max_steps=1', '--batch_pairs=2'],
    'tasks.grpo': ['--max_steps=1', '--batch_problems=2', '--group_size=2', '--n_eval=2', '--max_new_tokens=5'],
}
RUN_IN = {'bench': 'test_bench.py'}  # a test of its own


def relative(path):
    return str(path.relative_to(ROOT))


def fences(text):
    """[(language, content, what stands before it)] of the code blocks of a page."""
    return [(match[1], match[2], text[:match.start()]) for match in re.finditer(r'^```(\w*)\n(.*?)^```', text, re.M | re.S)]


def commands(text):
    """[(command, whether its comment, its line or its table's head says that it needs more than a CPU)] in reading order."""
    found = []
    for language, content, before in fences(text):
        for line in content.splitlines() if not language else ():
            command = re.split(r'\s+# ', line, maxsplit=1)[0]
            if COMMAND.fullmatch(command):
                found.append((len(before), command, bool(NEEDS.search(line))))
    prose = re.sub(r'^```.*?^```', lambda match: ' ' * len(match[0]), text, flags=re.M | re.S)
    for match in re.finditer(r'`([^`\n]+)`', prose):
        if COMMAND.fullmatch(match[1]):
            line = prose[prose.rfind('\n', 0, match.start()) + 1:].split('\n')[0]
            head = prose[:match.start()].split('\n\n')[-1].strip().split('\n')[0] if line.startswith('|') else ''
            found.append((match.start(), match[1], bool(NEEDS.search(line + head))))
    return [(command, marked) for _, command, marked in sorted(found, key=lambda entry: entry[0])]


def parts(command):
    """The single commands of a line, with what `make` would run in place of it."""
    for part in re.split(r' && ', command):
        made = re.fullmatch(r'make (\w+)', part.strip())
        if not made:
            yield part.strip()
            continue
        recipe = re.search(rf'^{made[1]}:.*\n((?:\t.*\n)+)', (ROOT / 'Makefile').read_text(), re.M)
        assert recipe, f'the Makefile has no target {made[1]}'
        for line in re.sub(r'^\t@echo .*\n', '', recipe[1], flags=re.M).splitlines():
            yield line.strip().replace('$(PY)', 'python')


def script_of(words):
    """(script or module, its arguments) of a command that starts one of ours, else (None, [])."""
    if '-m' in words and (ROOT / words[words.index('-m') + 1].split('.')[0]).is_dir():
        i = words.index('-m') + 1
        return words[i], words[i + 1:]
    for i, word in enumerate(words):
        if word.endswith('.py') and not word.startswith(('-', 'config/', 'tests/test_')):
            return word, words[i + 1:]
    return None, []


def all_commands():
    texts = {relative(path): path.read_text() for path in PAGES}
    for path in sorted((ROOT / 'config').glob('*.py')):
        head = path.read_text().split('\n\n')[0]
        texts[relative(path)] = '```\n' + re.sub(r'^#(?: Needs .*?:)? *', '', head, flags=re.M) + '```'
    return [pytest.param(part, id=f'{name}: {part}') for name, text in texts.items()
            for command, _ in commands(text) for part in parts(command)]


def defaults_of(script, arguments):
    """The settings of a script or module; None where it has none."""
    if script == 'bench':
        bench = importlib.import_module('bench.__main__')
        assert all(word in bench.PARTS for word in arguments if not word.startswith('--'))
        return bench.DEFAULTS
    if not script.endswith('.py'):
        return getattr(importlib.import_module(script), 'DEFAULTS', None)
    assert (ROOT / script).is_file(), f'no script {script}'
    folder, name = os.path.split(script)
    sys.path.insert(0, str(ROOT / folder))
    try:
        return getattr(importlib.import_module(name.removesuffix('.py')), 'DEFAULTS', None)
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize('command', all_commands())
def test_every_script_config_and_flag_in_a_command_exists(command):
    script, arguments = script_of(shlex.split(command))
    if script is None:
        return
    defaults = defaults_of(script, arguments)
    flags = [argument if '=' in argument else f'{argument}=True' for argument in arguments if argument.startswith('--')]
    configs = [str(ROOT / argument) for argument in arguments if argument.startswith('config/')]
    if defaults and '--help=True' not in flags:
        configure(defaults, configs + [re.sub(r'=[A-Z]{2,}$', '=1', flag) for flag in flags])


@pytest.mark.parametrize('path', PAGES, ids=relative)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(path):
    text = path.read_text()
    links = re.findall(r'\]\(([^)\s]+)\)|<img src="([^"]+)"', text)
    for link in (a or b for a, b in links):
        if re.match(r'https?:', link):
            continue
        name, _, heading = link.partition('#')
        target = path.parent / name if name else path
        assert target.exists(), f'{link} leads nowhere'
        headings = [re.sub(r'[^\w\- ]', '', line).strip().lower().replace(' ', '-')
                    for line in re.findall(r'^#+ (.*)', target.read_text(), re.M)] if heading else []
        assert not heading or heading in headings, f'{link}: no such heading'


@pytest.mark.parametrize('path', QUOTING, ids=relative)
def test_what_a_page_quotes_stands_in_the_file_that_it_named_last(path):
    quoted = [(content, before) for language, content, before in fences(path.read_text()) if language == 'python']
    assert quoted
    for content, before in quoted:
        source = re.findall(r'\]\(([\w./]+\.py)\)', before)[-1]
        lines = (path.parent / source).read_text().splitlines()
        for piece in re.split(r'^\.\.\.\n', content, flags=re.M):
            wanted = textwrap.dedent(piece).splitlines()
            found = (textwrap.dedent('\n'.join(lines[i:i + len(wanted)])).splitlines() for i in range(len(lines)))
            assert wanted in found, f'{source} has no such lines:\n{piece}'


def test_every_script_and_config_is_in_the_readme_and_every_file_named_there_exists():
    named = set(re.findall(r'`((?:[\w/]+/)?\w+\.py|\w+/)`', (ROOT / 'README.md').read_text()))
    for name in named:
        assert (ROOT / name).exists() or (ROOT / 'config' / name).exists(), name
    for path in [*ROOT.glob('*.py'), *(ROOT / 'config').glob('*.py')]:
        assert path.name in named, path.name


# ---- running them ---------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def world(tmp_path_factory, texts):
    """A folder like a clone in which `make demo` has run, and a few texts of the reader's own."""
    folder = tmp_path_factory.mktemp('clone')
    link_clone(folder)
    (folder / 'mytexts').mkdir()
    for i, text in enumerate(texts[:200]):
        (folder / 'mytexts' / f'{i}.txt').write_text(text)
    (folder / 'input.txt').write_text('\n'.join(texts))
    hi = {'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}
    sum_ = {'role': 'user', 'content': 'What is 2+3?'}, {'role': 'assistant', 'content': '<<2+3=5>>5'}
    (folder / 'chats.jsonl').write_text(json.dumps({'messages': [*hi, *sum_]}))
    (folder / 'pairs.jsonl').write_text(''.join(
        json.dumps({'prompt': f'Is it {i}?', 'chosen': 'yes', 'rejected': 'no'}) + '\n' for i in range(20)))
    for command in ('make demo', 'python corpus.py --source=mytexts/ --vocab_size=1024 --out_dir=data/mine'):
        for part in parts(command):
            run(part, folder)
    return folder


@pytest.mark.slow
def test_every_command_that_needs_neither_gpu_nor_network_runs(world):
    """One test, so that one worker makes the folder in which all of them run."""
    for path in PAGES:
        print(f'--- {relative(path)}')
        for command, marked in dict.fromkeys(commands(path.read_text())):
            if not marked and not PLACEHOLDER.search(command):
                for part in parts(command):
                    run(part, world)


def run(command, folder):
    """Runs a command in the folder as its reader would, with less to do; fails with its output."""
    print(f'$ {command}')
    words = shlex.split(command)
    while re.fullmatch(r'[A-Z_]+=.*', words[0]):
        words.pop(0)
    program = os.path.basename(words[0])
    script, arguments = script_of(words)
    if program == 'pytest' or words[1:3] in (['-m', 'pytest'], ['-m', 'ruff']):
        return  # CI runs these
    if script in RUN_IN:
        assert script in (ROOT / 'tests' / RUN_IN[script]).read_text()
    elif program == 'torchrun':
        arguments = [*words[1:], *SMALLER[script]]
        subprocess.run([sys.executable, '-m', 'torch.distributed.run', *arguments], cwd=folder, check=True, timeout=300)
    elif program == 'bash':
        environment = {**os.environ, 'PYTHON': sys.executable, 'SEEDS': '1', 'START_STEPS': '2'}
        smaller = SMALLER['tasks.grpo' if 'grpo' in words[1] else 'train.py']
        subprocess.run([*words, *smaller], cwd=folder, env=environment, check=True, timeout=300)
    elif script == 'serve.py':
        answers(arguments, folder)
    else:
        assert program == 'python' and script, f'{command}: run it here, or mark it as needing a GPU or the network'
        arguments += [] if '--help' in arguments else SMALLER.get(script, [])
        with mock.patch('sys.stdin', io.StringIO('Hi\n/history\n')):  # what is typed in a chat
            assert run_script(script, *arguments, folder=folder) == 0


def answers(arguments, folder):
    """A server started with these arguments comes up, answers README's two clients, and ends when told to."""
    port = free_port()
    server = subprocess.Popen([sys.executable, 'serve.py', *arguments, f'--port={port}'], cwd=folder)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None and time.monotonic() < deadline
            with contextlib.suppress(OSError):
                if urllib.request.urlopen(f'http://127.0.0.1:{port}/healthz', timeout=5).status == 200:
                    break
            time.sleep(0.2)
        ask_as_in_readme(port, *[os.path.basename(argument) for argument in arguments if argument.startswith('--out_dir=')])
        server.terminate()
        assert server.wait(60) == 0
    finally:
        server.kill()


def ask_as_in_readme(port, name='demo'):
    """Runs the Python snippet and the curl command that README has for a server, on this port."""
    readme = (ROOT / 'README.md').read_text().replace('127.0.0.1:8000', f'127.0.0.1:{port}').replace("'demo'", f"'{name}'")
    (snippet,) = re.findall(r'```python\n(.*?)```', readme, re.S)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(snippet, {})
    assert printed.getvalue().strip()
    (command,) = re.findall(r'^curl .*$', readme, re.M)
    if shutil.which('curl'):
        answer = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True).stdout
        assert json.loads(answer)['choices'][0]['text']


def test_the_planning_table_is_what_its_command_prints(capsys):
    page = (ROOT / 'docs/5_full_scale.md').read_text()
    ((command, words, table),) = re.findall(
        r'```\n(python docs/plan\.py [^\n]*price[^\n]*)\n```\n\n```\n([^\n]*)\n```\n\n((?:\|.*\n)+)', page)
    run_script('docs/plan.py', *shlex.split(command)[2:])
    assert capsys.readouterr().out.splitlines() == [words, *table.splitlines()]


def test_the_larger_models_rows_are_what_their_commands_print(capsys):
    page = (ROOT / 'docs/5_full_scale.md').read_text()
    plans = re.findall(r'^python docs/plan\.py (config/train_gpt2\.py config/(\w+\.py) .*)$', page, re.M)
    assert len(plans) == 3
    for arguments, config in plans:
        run_script('docs/plan.py', *shlex.split(arguments))
        words, *_, row = capsys.readouterr().out.splitlines()
        _, _, step, _, hours, _, cost = row.strip('| ').split(' | ')
        parameters, memory = re.match(r'([\d,]+) million.* ([\d.]+) GB', words).groups()
        assert f'| `{config}` | {parameters} | {memory} | {step} | {hours} | {cost} |' in page


def test_the_pictures_that_need_no_data_are_drawn_as_they_are_kept(tmp_path):
    names, of_the_notebook = ['overview', 'block', 'schedule', 'order', 'blocks'], ['heads', 'losses']
    run = subprocess.run([sys.executable, 'docs/figures.py', f'--only={",".join(names + of_the_notebook)}', f'--out_dir={tmp_path}'],
                         cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for name in of_the_notebook:
        assert (tmp_path / f'{name}.png').read_bytes() == (ROOT / f'docs/figures/{name}.png').read_bytes()
    for name in names:  # another version of matplotlib draws other curves, but the same words
        drawn, kept = (re.findall(r'<text[^>]*>([^<]*)<', (folder / f'{name}.svg').read_text())
                       for folder in (tmp_path, ROOT / 'docs/figures'))
        assert drawn == kept and len(drawn) > 5, name
