"""Against a stand-in for the Hugging Face hub (hub.py), the libraries' own code and our commands run unchanged: every command of
README and docs that needs the network to reach the hub, FineWeb through kills and trouble, and GPT-2's weights."""
import contextlib
import io
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import time
import urllib.request

import hub_repositories
import numpy as np
import pyarrow.parquet
import pytest
from conftest import ROOT
from hub import client, clients, hub  # noqa: F401
from test_docs import PAGES, PLACEHOLDER, SMALLER, commands, parts, relative, script_of

import shards
from bpe import Tokenizer
from runtime.files import sha256_of

pytestmark = pytest.mark.slow
NO_SCRIPT_OF_OURS = 'pip', 'docker', 'jupyter', 'sky', 'vllm'
ON_A_CPU = {  # what makes commands for GPUs small enough, and their data
    'train.py': [*SMALLER['train.py'], '--compile=False', '--device=cpu', '--dtype=float32', '--total_batch_tokens=128',
                 '--micro_batch=1', '--block_size=64', '--hellaswag_examples=4', '--warmup_steps=1', '--patience=0'],
    'config/train_gpt2.py': ['--n_layer=1', '--n_head=2', '--n_embd=32'],
    'fineweb.py': ['--shard_tokens=20000'],
    'hellaswag.py': ['--device=cpu'],
    'tasks.solve_rate': ['--limit=2', '--max_new_tokens=5'],
}


def table_texts(files, pattern, column='text'):
    return [text for path, content in files.items() if re.fullmatch(pattern, path)
            for text in pyarrow.parquet.read_table(io.BytesIO(content)).column(column).to_pylist()]


# ---- README and docs ------------------------------------------------------------------------------------


def commands_for_the_hub():
    """[(page, command)] of the commands that are marked with [network] and start a script of ours, in reading order."""
    found = {}
    for path in PAGES:
        text = re.sub(r'\[(GPU|cloud)\]', '', path.read_text())
        for command, marked in commands(text):
            for part in parts(command) if marked and not PLACEHOLDER.search(command) else ():
                words = [word for word in shlex.split(part) if not re.fullmatch(r'[A-Z_]+=.*', word)]
                if os.path.basename(words[0]) not in NO_SCRIPT_OF_OURS:
                    found.setdefault(part, relative(path))
    return [(page, command) for command, page in found.items()]


def test_every_command_of_the_docs_that_asks_the_hub_runs(hub, client, test_data, texts):
    (client.folder / 'mytexts').mkdir(exist_ok=True)
    for i, text in enumerate(texts[:20]):
        (client.folder / 'mytexts' / f'{i}.txt').write_text(text)
    found = commands_for_the_hub()
    assert len(found) >= 25, 'fewer commands than there were: are they still recognized?'
    for page, command in found:
        words = shlex.split(command)
        script, arguments = script_of(words)
        assert script, f'{page}: {command}'
        if script == 'fineweb.py':
            shutil.rmtree(client.folder / 'data' / 'fineweb', ignore_errors=True)  # the commands are alternatives
        if script == 'serve.py':
            serve_and_ask(client, arguments, {'SCRATCHGPT_API_KEY': 'secret'})
            continue
        smaller = [flag for name, flags in ON_A_CPU.items() if name == script or name in arguments for flag in flags]
        code, output = client.run(script, *arguments, *smaller)
        assert code == 0, f'{page}: {command}\n{output}'
    assert {request[1].split('?')[0].split('/resolve')[0] for request in hub.requests} >= {
        '/datasets/Rowan/hellaswag', '/datasets/Salesforce/wikitext', '/datasets/HuggingFaceFW/fineweb-edu', '/datasets/openai/gsm8k',
        '/datasets/kjj0/fineweb10B-gpt2', '/openai-community/gpt2', '/openai-community/gpt2-xl'}


def serve_and_ask(client, arguments, environment):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    server = client.start('serve.py', *arguments, f'--port={port}', **environment)
    try:
        ask = urllib.request.Request(f'http://127.0.0.1:{port}/v1/completions', json.dumps({'prompt': 'a', 'max_tokens': 3}).encode(),
                                     {'Content-Type': 'application/json', 'Authorization': 'Bearer secret'})
        for _ in range(600):
            with contextlib.suppress(ConnectionError, urllib.error.URLError):
                assert json.load(urllib.request.urlopen(ask, timeout=30))['usage']['completion_tokens'] == 3
                break
            time.sleep(0.1)
        server.kill(signal.SIGTERM)
        assert server.wait() == 0, server.output()
    finally:
        if server.code is None:
            server.kill()
            server.wait()
