"""The part neighbour: training, sampling and serving on a CPU while another program keeps one of its cores busy.

Each is measured alone and beside the other program in turns, in a process of its own. The other program runs in a session of
its own, as what another user started does: Linux then shares the cores between the two programs, not between their threads.
"""
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from bench import sample, train
from bench.contenders import complete, describe_model, made_up_tokenizer, make_turn, our_model
from bench.soak import port_of, start
from bench.turns import alone, spread, take_turns
from runtime import hardware
from runtime.errors import BadInput
from runtime.parallel import available_cores


def measure_neighbour(config):
    """Yields (title, rows)."""
    if hardware.pick_device(config['device']).type != 'cpu':
        raise BadInput('neighbour is about the cores of a CPU; --device=cpu measures it')
    config = complete(config)
    config['new_tokens'] = min(config['new_tokens'], config['block_size'] - sample.PROMPT)
    work = {  # {what: tokens/s}
        'training': lambda: tokens_per_s(train.setup_ours, config, config['batch_size'] * config['block_size']),
        'sampling': lambda: tokens_per_s(sample.setup_ours, config, config['new_tokens']),
        'serving': lambda: serve(config)}
    measures = {(what, busy): lambda measure=measure, busy=busy: beside(measure, busy)
                for what, measure in work.items() for busy in (False, True)}
    turns = take_turns(measures, config['turns'], warm_up=0)
    yield f'Beside a program that keeps one of {available_cores()} cores busy: {describe_model(config)}', [
        {'what': what, 'alone, tokens/s': median(turns[what, False]), 'spread': spread(turns[what, False]),
         'beside it, tokens/s': median(turns[what, True]), 'its spread': spread(turns[what, True]),
         'share': f'{median(turns[what, True]) / median(turns[what, False]):.0%}'} for what in work if (what, True) in turns]


def beside(measure, busy):
    with busy_program() if busy else contextlib.nullcontext():
        return measure()


@contextlib.contextmanager
def busy_program():
    process = subprocess.Popen([sys.executable, '-c', 'while True: pass'], start_new_session=True)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def tokens_per_s(setup, config, n_tokens):
    return n_tokens / alone(make_turn, setup, config)['seconds']


def serve(config):
    """Tokens per second that one client gets from serve.py, for turn_s seconds."""
    with tempfile.TemporaryDirectory() as folder:
        alone(save_model, config, folder)
        log = os.path.join(folder, 'serve.log')
        with start(['serve.py', f'--init_from={folder}', '--device=cpu', '--port=0'], log) as process:
            port = port_of(process, log)
            n_tokens, started = 0, time.perf_counter()
            while time.perf_counter() < started + config['turn_s']:
                n_tokens += ask(port, config['new_tokens'])
            return n_tokens / (time.perf_counter() - started)


def save_model(config, folder):
    """A folder in Hugging Face's layout with a model of random weights, and a tokenizer of as many entries."""
    import pretrained
    pretrained.save(our_model(config, 'cpu'), folder)
    made_up_tokenizer(config['vocab_size']).save(os.path.join(folder, 'tokenizer.json'))


def ask(port, n_tokens):
    """How many new tokens an answer has."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=600)
    connection.request('POST', '/v1/completions', json.dumps({'prompt': 'a', 'max_tokens': n_tokens, 'seed': 1}),
                       {'Content-Type': 'application/json'})
    answer = json.load(connection.getresponse())
    connection.close()
    return answer['usage']['completion_tokens']
