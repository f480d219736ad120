"""sample.py as people run it: flags, pipes, and a chat in a terminal."""
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, run_script

import pretrained
import sample
from bpe import Tokenizer
from inference import may_compile
from inference.engine import generate
from model import GPT, GPTConfig
from runtime import hardware
from runtime.errors import BadInput


@pytest.fixture(scope='module')
def folder(tmp_path_factory, texts):
    """A small random model with its tokenizer, in Hugging Face's layout."""
    folder = tmp_path_factory.mktemp('model')
    tokenizer = Tokenizer.train(texts, 300)
    tokenizer.save(folder / 'tokenizer.json')
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=64, vocab_size=300, n_layer=2, n_head=2, n_embd=32))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    pretrained.save(model, str(folder), eot=tokenizer.eot)
    return folder


def run_sample(folder, *flags, **how):
    return subprocess.run([sys.executable, 'sample.py', f'--init_from={folder}', '--device=cpu', '--dtype=float32', *flags],
                          cwd=ROOT, capture_output=True, text=True, **how)


def expected_texts(folder, prompt, n, seed, max_new_tokens=12, **how):
    """What the engine writes, one text at a time, up to the end of the document, with line ends as `run_sample` reads them."""
    model, tokenizer = pretrained.load_huggingface(str(folder)), Tokenizer.load(folder / 'tokenizer.json')
    texts = []
    for i in range(n):
        idx = torch.tensor([tokenizer.encode(prompt)])
        new = generate(model, idx, max_new_tokens, seed=seed + i, stop_tokens=(tokenizer.eot,), **how)[0].tolist()
        texts.append(re.sub(r'\r\n?', '\n', tokenizer.decode([token for token in new if token != tokenizer.eot])))
    return texts


@pytest.mark.slow
def test_samples_are_made_in_batches_and_each_is_what_its_seed_gives(folder):
    result = run_sample(folder, '--prompt=def ', '--num_samples=5', '--max_batch=2', '--max_new_tokens=12', '--seed=3')
    assert result.returncode == 0, result.stderr
    texts = [text.rstrip('\n') for text in re.split(r'--- \d of 5\n', result.stdout)[1:]]
    assert texts == [text.rstrip('\n') for text in expected_texts(folder, 'def ', 5, 3, temperature=0.8, top_k=50)]
    assert re.search(r'\d+ tokens in .* tokens/s', result.stderr)


@pytest.mark.slow
def test_without_a_seed_every_run_writes_another_text(folder):
    first, second = (run_sample(folder, '--prompt=def ', '--max_new_tokens=40').stdout for _ in range(2))
    assert first and second and first != second


@pytest.mark.slow
def test_a_text_ends_before_stop_words_that_span_tokens(folder):
    (whole,) = expected_texts(folder, 'def ', 1, 0, max_new_tokens=40, temperature=0.8, top_k=50)
    written = whole[len('def '):]
    stop = written[11:16]
    result = run_sample(folder, '--prompt=def ', '--max_new_tokens=40', '--seed=0', f'--stop={stop}')
    assert result.stdout == 'def ' + written[:written.index(stop)] + '\n'


@pytest.mark.slow
def test_the_prompt_may_come_from_a_pipe(folder):
    result = run_sample(folder, '--prompt_file=-', '--max_new_tokens=3', input='import os')
    assert result.returncode == 0 and result.stdout.startswith('import os')


@pytest.mark.parametrize('content', [b'a\n\\n\xc3\xa4\n', b'\xef\xbb\xbfa\r\n\\n\xc3\xa4\r\n'])
def test_a_prompt_file_is_read_as_it_is_but_for_the_marks_of_windows(tmp_path, content):
    (tmp_path / 'prompt.txt').write_bytes(content)
    config = sample.unescape({**sample.DEFAULTS, 'prompt_file': str(tmp_path / 'prompt.txt'), 'stop': None, 'system': None})
    assert sample.read_prompt(config) == 'a\n\\n\xe4\n'


def test_a_line_end_can_be_typed_in_a_prompt():
    assert sample.read_prompt(sample.unescape({'prompt': r'import os\nimport ', 'prompt_file': None})) == 'import os\nimport '


def test_a_prompt_file_that_is_not_utf8_is_refused_with_the_place(tmp_path):
    (tmp_path / 'prompt.txt').write_bytes('Grün'.encode('latin-1'))
    with pytest.raises(BadInput, match='UTF-8, but byte 2 is none'):
        sample.read_prompt({'prompt': '', 'prompt_file': str(tmp_path / 'prompt.txt')})


@pytest.mark.slow
@pytest.mark.parametrize('flags, words', [
    (['--temperature=-1'], ['temperature', '0']), (['--top_p=0'], ['top_p']), (['--top_k=0'], ['top_k']),
    (['--repetition_penalty=0'], ['repetition_penalty']), (['--num_samples=0'], ['num_samples']),
    (['--max_new_tokens=0'], ['max_new_tokens']), (['--template=nothing'], ['template', '{}']),
    (['--prompt=a', '--prompt_file=b'], ['not both']), (['--prompt_file=/there/is/none'], ['/there/is/none']),
    (['--chat=True', '--prompt_file=-'], ['chat']), (['--dtype=int8'], ['bfloat16']), (['--temprature=1'], ['temperature'])])
def test_a_mistake_is_one_line_and_exit_code_2(folder, flags, words):
    result = run_sample(folder, *flags, stdin=subprocess.DEVNULL)
    assert result.returncode == 2 and result.stderr.count('\n') == 1, result.stderr
    assert all(word in result.stderr for word in words) and not result.stdout


@pytest.mark.slow
def test_compile_is_off_on_a_cpu_by_default_and_changes_no_text(folder, monkeypatch, capsys):
    compiled, compile = [], torch.compile
    monkeypatch.setattr(torch, 'compile', lambda function, **how: (compiled.append(function.__name__),
                                                                   compile(function, backend='eager', **how))[1])
    flags = [f'--init_from={folder}', '--device=cpu', '--dtype=float32', '--prompt=def ', '--max_new_tokens=12', '--seed=3']
    (expected,) = expected_texts(folder, 'def ', 1, 3, temperature=0.8, top_k=50)
    assert run_script('sample.py', *flags) == 0 and not compiled
    assert capsys.readouterr().out == expected + '\n'
    assert run_script('sample.py', *flags, '--compile=True') == 0 and 'run_layer' in compiled
    assert capsys.readouterr().out == expected + '\n'


def test_a_machine_without_a_compiler_says_so_in_a_line_and_goes_on(monkeypatch, capsys):
    gpu, cpu = torch.device('cuda'), torch.device('cpu')
    monkeypatch.setattr(hardware, 'why_no_compile', lambda device: f'no compiler for {device.type}')
    assert not may_compile(None, cpu) and not capsys.readouterr().err
    assert not may_compile(None, gpu) and capsys.readouterr().err == 'not compiled: no compiler for cuda\n'
    assert not may_compile(True, cpu) and capsys.readouterr().err == 'not compiled: no compiler for cpu\n'
    monkeypatch.setattr(hardware, 'why_no_compile', lambda device: None)
    assert may_compile(None, gpu) and may_compile(True, cpu) and not may_compile(None, cpu) and not may_compile(False, gpu)


class Terminal:
    """sample.py --chat=True in a pseudo-terminal."""

    def __init__(self, folder, *flags):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, 'sample.py', f'--init_from={folder}', '--chat=True', '--device=cpu', '--dtype=float32',
             '--max_new_tokens=5', *flags], cwd=ROOT, stdin=slave, stdout=slave, stderr=slave,
            env={**os.environ, 'TERM': 'dumb'}, start_new_session=True)
        os.close(slave)

    def until(self, words, seconds=300):
        """What appears up to these words."""
        seen, deadline = '', time.monotonic() + seconds
        while words not in seen:
            assert time.monotonic() < deadline, f'{words!r} did not appear in {seen!r}'
            if select.select([self.master], [], [], 1)[0]:
                try:
                    seen += os.read(self.master, 4096).decode(errors='replace')
                except OSError:  # the other end is closed
                    raise AssertionError(f'{words!r} did not appear in {seen!r}') from None
        return seen

    def type(self, line):
        """Types a line and returns what appears up to the next prompt."""
        os.write(self.master, line.encode() + b'\n')
        return self.until('\n> ').replace('\r', '')

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(folder):
    terminal = Terminal(folder, '--seed=1')
    yield terminal
    terminal.close()


@pytest.mark.slow
def test_a_chat_continues_lines_and_carries_out_commands(folder, terminal):
    terminal.until('\n> ')
    first = terminal.type('def a')
    (text,) = expected_texts(folder, 'def a', 1, 1, max_new_tokens=5, temperature=0.8, top_k=50)
    assert text[len('def a'):] in first
    assert 'temperature = 0.0' in terminal.type('/temperature 0')
    assert 'temperature=hot should be a number' in terminal.type('/temperature hot')
    assert 'temperature=-1.0 should be 0' in terminal.type('/temperature -1')
    assert 'temperature = 0.0' in terminal.type('/temperature')
    assert 'no command /dance' in terminal.type('/dance')
    assert '/KEY VALUE' in terminal.type('/help')
    assert text in terminal.type('/text')
    terminal.type('x')
    assert text + 'x' in terminal.type('/text')
    undone = terminal.type('/undo')
    assert text in undone and text + 'x' not in undone
    again = terminal.type('\x1b[A')  # the arrow up brings /undo back
    assert text not in again and 'def a' not in terminal.type('/text')
    terminal.type('def a')
    assert 'a new text' in terminal.type('/new') and 'def a' not in terminal.type('/text')
    os.write(terminal.master, b'\x04')
    assert terminal.process.wait(300) == 0


@pytest.mark.slow
def test_ctrl_c_stops_the_text_and_not_the_chat(terminal):
    terminal.until('\n> ')
    terminal.type('/temperature 0')  # this model then repeats itself and never ends a document
    terminal.type('/max_new_tokens 1000000')
    os.write(terminal.master, b'def\n')
    terminal.until('def\r\n')
    written = ''
    while len(written) < 500:
        written += os.read(terminal.master, 4096).decode(errors='replace')
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.until('\n> ')
    assert 'max_new_tokens = 1000000' in terminal.type('/max_new_tokens')
    assert written[:100].replace('\r', '') in terminal.type('/text')


@pytest.mark.slow
def test_a_chat_reads_lines_from_a_pipe_into_the_template(folder):
    result = run_sample(folder, '--chat=True', '--template=Q: {}\\nA:', '--max_new_tokens=3', input='one\n/text\n')
    assert result.returncode == 0 and 'Q: one\nA:' in result.stdout
