"""The part soak: whether memory, open files and threads stay as they are, in a long run of training and of serving.

A tiny model trains `steps` steps with evaluations, samples and checkpoints, then serve.py serves it for `minutes` under
mixed load: streams, whole answers that are compared with the first of their kind, clients that leave, silent ones, and
wrong requests. Every `every_s` seconds /proc is read, so this needs Linux.
"""
import contextlib
import http.client
import itertools
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from statistics import median

from bench.report import error_line
from runtime.errors import BadInput

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ('--n_layer=2', '--n_head=2', '--n_embd=32', '--block_size=64', '--total_batch_tokens=512', '--micro_batch=8')
MAY_GROW = {'memory in MB': 6, 'open files': 4, 'threads': 1}  # so much, in what counts as flat
RULE = ('flat: the median of the last tenth is above that of the second tenth by at most '
        + ', '.join(f'{number} {name}' for name, number in MAY_GROW.items()))
CLIENTS = {'streams': 4, 'whole answers': 4, 'leave': 3, 'silent': 3, 'wrong': 2}  # at a time
TIMEOUT_S = 120


def measure_soak(config):
    """Yields (title, rows)."""
    if not os.path.isdir('/proc/self/fd'):
        raise BadInput('soak reads /proc, which this system does not have')
    if config['minutes'] <= 0 or config['soak_steps'] < 100 or config['every_s'] <= 0:
        raise BadInput('minutes and every_s should be above 0, and steps at least 100')
    with tempfile.TemporaryDirectory() as folder:
        data_dir = config['data_dir'] or make_data(folder)
        out_dir = os.path.join(folder, 'out')
        samples, elapsed_s = soak_training(config, data_dir, out_dir, folder)
        title = f'Training, {config["soak_steps"]:,} steps in {elapsed_s:.0f} s, {len(samples)} looks at it; {RULE}'
        yield title, summarize(samples)
        samples, counts = soak_server(config, out_dir, folder)
        yield f'Serving for {config["minutes"]:g} minutes, {len(samples)} looks at it; {RULE}', summarize(samples)
        yield 'Its clients', [{'client': kind, 'at a time': CLIENTS[kind], 'requests': counts[kind], 'answered wrongly':
                               counts[kind, 'wrong']} for kind in CLIENTS]


def make_data(folder):
    """Shards of a little of the standard library's text."""
    source, data_dir = os.path.join(os.path.dirname(os.__file__), 'json'), os.path.join(folder, 'data')
    run_to_end(['corpus.py', f'--source={source}/*.py,{os.__file__}', '--vocab_size=300', '--val_fraction=0.2',
                f'--out_dir={data_dir}'], os.path.join(folder, 'corpus.log'))
    return data_dir


def soak_training(config, data_dir, out_dir, folder):
    """(samples of train.py's process, its seconds)"""
    often = max(10, config['soak_steps'] // 100)
    started = time.perf_counter()
    samples = run_to_end(['train.py', *MODEL, f'--data_dir={data_dir}', f'--out_dir={out_dir}', f'--device={config["device"]}',
                          f'--max_steps={config["soak_steps"]}', '--warmup_steps=10',
                          '--eval_tokens=2048', '--sample_tokens=20',
                          f'--eval_interval={often}', f'--sample_interval={often}', f'--checkpoint_interval={often}'],
                         os.path.join(folder, 'train.log'), config['every_s'])
    return samples, time.perf_counter() - started


def run_to_end(command, log, every_s=0.1):
    """Runs a script of ours, looks at it every `every_s` seconds, and returns what was seen. Raises BadInput if it fails."""
    with start(command, log) as process:
        samples = watch(process, every_s, lambda: False)
        if process.wait():
            raise BadInput(f'{command[0]}: {error_line(read(log)) or "failed"}')
    return samples


@contextlib.contextmanager
def start(command, log):
    """A script of ours as a process, which is ended with the block."""
    with open(log, 'w') as file:
        process = subprocess.Popen([sys.executable, str(ROOT / command[0]), *command[1:]], cwd=ROOT, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def read(log):
    with open(log, encoding='utf-8', errors='replace') as file:
        return file.read()


def watch(process, every_s, is_over):
    """[{name: number}], one every `every_s` seconds until the process or the time is over."""
    samples = []
    while not is_over():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(every_s)
            break
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, TypeError):  # it ends meanwhile
            status = read(f'/proc/{process.pid}/status')
            samples.append({'memory in MB': int(re.search(r'VmRSS:\s+(\d+)', status)[1]) / 1024,
                            'open files': len(os.listdir(f'/proc/{process.pid}/fd')),
                            'threads': int(re.search(r'Threads:\s+(\d+)', status)[1])})
    return samples


def summarize(samples):
    """A row for each number: at the first look, in the second and the last tenth, the highest, and whether it is flat."""
    if len(samples) < 20:
        raise BadInput(f'{len(samples)} looks are too few to tell; take more minutes, more steps, or a smaller every_s')
    tenth, rows = len(samples) // 10, []
    for name, may_grow in MAY_GROW.items():
        values = [sample[name] for sample in samples]
        second, last = median(values[tenth:2 * tenth]), median(values[-tenth:])
        rows.append({'of the process': name, 'first': values[0], 'second tenth': second, 'last tenth': last,
                     'highest': max(values), 'flat': 'yes' if last - second <= may_grow else 'NO'})
    return rows


def soak_server(config, out_dir, folder):
    """(samples of serve.py's process, {kind of client: requests, (kind, 'wrong'): answers that were not right})"""
    log = os.path.join(folder, 'serve.log')
    with start(['serve.py', f'--out_dir={out_dir}', f'--device={config["device"]}', '--port=0', '--max_batch=8',
                '--max_new_tokens=100000', '--header_timeout_s=5'], log) as process:
        port = port_of(process, log)
        ends_at = time.monotonic() + 60 * config['minutes']

        def is_over():
            return time.monotonic() > ends_at

        load = Load(port, is_over)
        samples = watch(process, config['every_s'], is_over)
        load.join()
        if process.poll() is not None or 'Traceback' in read(log):
            raise BadInput(f'serve.py: {error_line(read(log)) or "ended"}')
    return samples, load.counts


def port_of(process, log):
    """The port of a serve.py that is starting. Raises BadInput if it does not start."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := re.search(r' at http://127\.0\.0\.1:(\d+)/', read(log))):
        if process.poll() is not None or time.monotonic() > deadline:
            raise BadInput(f'serve.py: {error_line(read(log)) or "does not start"}')
        time.sleep(0.1)
    return int(found[1])


class Load:
    """Clients in threads, each of which asks again and again until the time is over."""

    def __init__(self, port, is_over):
        self.port, self.is_over = port, is_over
        self.counts, self.first, self.lock = Counter(), {}, threading.Lock()
        acts = {'streams': self.read_stream, 'whole answers': self.read_whole, 'leave': self.leave, 'silent': self.say_nothing,
                'wrong': self.ask_wrongly}
        self.threads = [threading.Thread(target=self.repeat, args=(kind, acts[kind], number), daemon=True)
                        for kind, n in CLIENTS.items() for number in range(n)]
        for thread in self.threads:
            thread.start()

    def join(self):
        for thread in self.threads:
            thread.join(TIMEOUT_S)

    def repeat(self, kind, act, number):
        for turn in itertools.count(number):
            if self.is_over():
                return
            try:
                is_right = act(turn)
            except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError):
                is_right = False
            with self.lock:
                self.counts[kind] += 1
                self.counts[kind, 'wrong'] += not is_right

    def ask(self, path='/v1/completions', content=None, kind='application/json', **body):
        """(connection, answer) of a request."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=TIMEOUT_S)
        connection.request('POST', path, json.dumps(body) if content is None else content, {'Content-Type': kind})
        return connection, connection.getresponse()

    def read_whole(self, turn):
        prompt, n_tokens = ('def ', 'import ', 'class A')[turn % 3], 1 + 17 * turn % 200
        connection, answer = self.ask(prompt=prompt, max_tokens=n_tokens, temperature=0, logprobs=turn % 3)
        text = json.load(answer)['choices'][0]['text']
        connection.close()
        with self.lock:
            return text == self.first.setdefault((prompt, n_tokens), text)

    def read_stream(self, turn):
        connection, answer = self.ask(prompt='def ', max_tokens=1 + 31 * turn % 300, seed=turn, stream=True)
        text = answer.read()
        connection.close()
        return text.endswith(b'data: [DONE]\n\n')

    def leave(self, turn):
        """In the middle of a stream, or before a whole answer is there."""
        if turn % 2:
            connection, answer = self.ask(prompt='def ', max_tokens=100_000, stream=True)
            answer.read(200)
        else:
            connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=TIMEOUT_S)
            connection.request('POST', '/v1/completions', json.dumps({'prompt': 'a', 'max_tokens': 100_000}),
                               {'Content-Type': 'application/json'})
            time.sleep(0.1)
        connection.close()
        return True

    def say_nothing(self, turn):
        """Or half a head, or half a body, until the server hangs up."""
        with socket.create_connection(('127.0.0.1', self.port), timeout=TIMEOUT_S) as client:
            client.sendall((b'', b'POST /v1/compl', b'GET / HTTP/1.1\r\nHost: localhost\r\nA: b')[turn % 3])
            return client.recv(1) == b''

    def ask_wrongly(self, turn):
        wrong = ({'temperature': -1}, {'content': '[' * 10_000}, {'prompt': 'a' * 100_000}, {'path': '/nothing'},
                 {'kind': 'text/plain'}, {'prompt': 'a', 'model': 'x'})[turn % 6]
        connection, answer = self.ask(**wrong)
        answer.read()
        connection.close()
        time.sleep(0.02)
        return 400 <= answer.status < 500
