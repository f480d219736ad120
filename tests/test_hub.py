"""Against a stand-in for the Hugging Face hub (hub.py), the libraries' own code and our commands run unchanged: every command of
README and docs that needs the network to reach the hub, FineWeb through kills and trouble, and GPT-2's weights."""
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import time
import urllib.request

import hub_repositories
import pyarrow.parquet
import pytest
from conftest import free_port
from hub import client, clients, hub  # noqa: F401
from test_corpus import all_documents
from test_docs import PAGES, PLACEHOLDER, SMALLER, commands, parts, relative, script_of

import shards
from bpe import Tokenizer
from evals.tasks import ALL
from runtime.files import sha256_of

pytestmark = pytest.mark.slow
NO_SCRIPT_OF_OURS = 'pip', 'docker', 'jupyter', 'sky', 'vllm'
ASKS_NOTHING = re.compile(r'train\.py (?!.*(eval_tasks|finetune))|--source=mytexts')  # of the hub
ON_A_CPU = {  # what makes commands for GPUs small enough, and their data
    'train.py': [*SMALLER['train.py'], '--compile=False', '--device=cpu', '--dtype=float32', '--total_batch_tokens=128',
                 '--micro_batch=1', '--block_size=64', '--eval_tasks_limit=4', '--warmup_steps=1', '--patience=0'],
    'config/train_gpt2.py': ['--n_layer=1', '--n_head=2', '--n_embd=32'],
    'fineweb.py': ['--shard_tokens=20000'],
    'hellaswag.py': ['--device=cpu'],
    'evaluate.py': ['--device=cpu', '--limit=4'],
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
                if os.path.basename(words[0]) not in NO_SCRIPT_OF_OURS and not ASKS_NOTHING.search(part):
                    found.setdefault(part, relative(path))
    return [(page, command) for command, page in found.items()]


def test_every_command_of_the_docs_that_asks_the_hub_runs(hub, client, test_data):
    found = commands_for_the_hub()
    assert len(found) >= 20, 'fewer commands than there were: are they still recognized?'
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
        '/datasets/Rowan/hellaswag', '/datasets/baber/piqa', '/datasets/LTCB/enwik8', '/datasets/cam-cst/cbt', '/datasets/Salesforce/wikitext', '/datasets/HuggingFaceFW/fineweb-edu', '/datasets/openai/gsm8k',
        '/datasets/kjj0/fineweb10B-gpt2', '/openai-community/gpt2', '/openai-community/gpt2-xl'}


def test_every_task_of_evaluate_finds_its_rows_on_the_hub(hub, client, test_data):
    names = [name for name in ALL if name != 'text']
    code, output = client.run('evaluate.py', '--init_from=gpt2', f'--tasks={",".join(names)},piqa@2', '--limit=3', '--device=cpu')
    assert code == 0, output
    assert [name for name in [*names, 'piqa@2'] if f'\n{name}, ' not in output] == []


def serve_and_ask(client, arguments, environment):
    port = free_port()
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


# ---- FineWeb-Edu ----------------------------------------------------------------------------------------

IN_SMALL_PIECES = '''
import data_folder, fineweb
from configurator import configure
from runtime.errors import one_line_errors
data_folder.PIECE_CHARACTERS = 20_000  # so that little text comes as many pieces
with one_line_errors():
    fineweb.main(configure(fineweb.DEFAULTS))
'''


@pytest.fixture(scope='module')
def tokenizer_path(clients):
    path = clients.folder / 'tokenizer.json'
    Tokenizer.train(hub_repositories.sentences(200), 300, progress=False).save(path)
    return str(path)


def sha256_of_shards(out_dir):
    return {path.name: sha256_of(path) for path in sorted(out_dir.glob('*.bin'))}


def test_fineweb_killed_5_times_amid_trouble_and_a_new_commit_has_the_bytes_of_local_files(hub, client, tokenizer_path):
    name, n_kills = 'datasets/HuggingFaceFW/fineweb-edu', 5
    files = hub_repositories.fineweb(seed='kills')
    hub.commit(name, files)
    local = client.folder / 'fineweb_edu'
    local.mkdir()
    for path, content in files.items():
        if path.startswith('sample/10BT/'):
            (local / os.path.basename(path)).write_bytes(content)
    (client.folder / 'in_small_pieces.py').write_text(IN_SMALL_PIECES)
    command = ['in_small_pieces.py', f'--tokenizer={tokenizer_path}', '--shard_tokens=25000', '--workers=2']
    code, output = client.run(*command, f'--source={local}', '--out_dir=data/local')
    assert code == 0, output
    expected = sha256_of_shards(client.folder / 'data' / 'local')
    assert len(expected) > 12
    n_shards, said = [], ''
    for i in range(n_kills + 1):
        hub.faults.clear()
        hub.fail(r'/resolve/.*parquet', status=503, times=i == 1, after=2)
        hub.fail(r'/storage/.*parquet', cut_at=1000, times=i == 2, after=2)
        hub.fail(r'/resolve/.*parquet', status=503, times=i == 3, after=2)
        if i < n_kills:
            hub.fail(r'/resolve/.*parquet', call=lambda: run.kill(), after=14)
        run = client.start(*command, '--out_dir=data/edu')
        assert run.wait() == (-signal.SIGKILL if i < n_kills else 0), run.output()
        said += run.output()
        n_shards.append(len(sha256_of_shards(client.folder / 'data' / 'edu')))
        if i == 2:
            hub.commit(name, hub_repositories.fineweb(seed='a newer commit'))
    assert n_shards == sorted(n_shards) and len(set(n_shards)) >= n_kills, 'each run goes on where the one before was killed'
    assert said.count('HTTP Error 503. Retrying in') == 2 and said.count('without sending complete message body') == 1
    assert sha256_of_shards(client.folder / 'data' / 'edu') == expected
    print(f'{len(expected)} shards, after each run there were {n_shards}')


@pytest.mark.parametrize('source, make, pattern', [
    ('roneneldan/TinyStories', hub_repositories.tinystories, 'data/train.*'), ('SYNTH', hub_repositories.synth, '.*parquet')])
def test_a_dataset_of_the_hub_has_the_texts_of_its_files(client, source, make, pattern):
    code, output = client.run('corpus.py', f'--source={source}', '--vocab_size=300', '--out_dir=data/texts')
    assert code == 0, output
    texts = all_documents(client.folder / 'data' / 'texts')
    shutil.rmtree(client.folder / 'data' / 'texts')
    if source == 'SYNTH':
        columns = [table_texts(make(), pattern, name) for name in ('query', 'synthetic_reasoning', 'synthetic_answer')]
        assert texts == sorted(f'Q: {query}\n\nReasoning:\n{reasoning}\n\nA: {answer}' for query, reasoning, answer in zip(*columns))
    else:
        assert texts == sorted(table_texts(make(), pattern))


def test_ready_shards_are_those_of_the_hub_and_described(hub, client):
    code, output = client.run('fineweb.py', '--pretokenized=True', '--max_shards=2', '--out_dir=data/ready')
    assert code == 0, output
    folder = client.folder / 'data' / 'ready'
    (theirs,) = hub.repositories['datasets/kjj0/fineweb10B-gpt2'].values()
    meta = shards.load_meta(str(folder))
    assert list(meta['shards']) == ['fineweb_train_000001.bin', 'fineweb_train_000002.bin', 'fineweb_val_000000.bin']
    assert sha256_of_shards(folder) == {name: theirs[name].sha256 for name in meta['shards']}
    assert {name: entry['sha256'] for name, entry in meta['shards'].items()} == sha256_of_shards(folder)
    assert meta['vocab_size'] == 50257 and meta['shards']['fineweb_val_000000.bin']['tokens'] == 1000


# ---- GPT-2's weights ------------------------------------------------------------------------------------

COMPARE = '''
import torch, transformers
import pretrained
ids = torch.tensor([[50256, 464, 3290, 318, 50256, 257, 1]])
theirs = transformers.GPT2LMHeadModel.from_pretrained('openai-community/gpt2', dtype=torch.float32).eval()(ids).logits
ours = [pretrained.load_huggingface(name).eval()(ids) for name in ('gpt2', 'gpt2-xl')]
print('largest difference:', float((ours[0] - theirs).detach().abs().max()), 'of', float(theirs.detach().abs().max()))
print('in one file as in several:', torch.equal(*ours))
'''


def test_the_weights_of_the_hub_give_the_logits_of_transformers_in_one_file_or_several(client):
    (client.folder / 'compare.py').write_text(COMPARE)
    code, output = client.run('compare.py')
    assert code == 0, output
    difference, largest = map(float, re.search(r'largest difference: (\S+) of (\S+)', output).groups())
    assert difference < 1e-5 * largest and largest > 1
    assert 'in one file as in several: True' in output
    print(output.strip().splitlines()[-2])


def test_sample_writes_text_with_the_weights_of_the_hub_and_asks_for_them_once(hub, client, test_data):
    command = ['sample.py', '--init_from=gpt2', '--max_new_tokens=4', '--temperature=0', '--dtype=float32']
    code, output = client.run(*command)
    assert code == 0, output
    assert hub.asked_for(r'/storage/.*model\.safetensors') and not hub.asked_for(r'pytorch_model|onnx|msgpack')
    hub.requests.clear()
    again, output_again = client.run(*command)
    assert again == 0 and not hub.requests
    assert output_again.splitlines()[1] == output.splitlines()[-2]
