"""Trouble with the Hugging Face hub, by a stand-in for it (hub.py): what may pass is tried again, with a line that says so; what
lasts ends with one line and exit code 2. Nothing half-written stays, and the same command goes on where it was."""
import errno
import re
import shutil
import subprocess

import hub_repositories
import pytest
from hub import client, clients, hub  # noqa: F401
from test_hub import tokenizer_path  # noqa: F401

import pretrained
from runtime import hub as library
from runtime.errors import BadInput

pytestmark = pytest.mark.slow
SCRIPT = '''
import sys
import pretrained
from evals.measure import read_tasks
from evals.tasks import choose_tasks
from runtime.errors import one_line_errors
with one_line_errors():
    what = pretrained.load_huggingface(sys.argv[2]) if sys.argv[1] == 'weights' else read_tasks(choose_tasks('hellaswag'))
    print('loaded', type(what).__name__)
'''
# What is fetched, each in a way of its own: (the command, a file of it on the hub, its repository)
WAYS = {
    'weights': (['fetch.py', 'weights', 'gpt2'], r'/storage/.*model\.safetensors', 'models/openai-community/gpt2'),
    'rows': (['fetch.py', 'rows'], r'/storage/.*validation', 'datasets/Rowan/hellaswag'),
    'stream': (['fineweb.py', '--tokenizer=tokenizer.json', '--shard_tokens=30000', '--max_shards=2', '--retries=4'],
               r'/storage/.*parquet', 'datasets/HuggingFaceFW/fineweb-edu'),
    'shards': (['fineweb.py', '--pretokenized=True', '--max_shards=2'], r'/storage/.*\.bin', 'datasets/kjj0/fineweb10B-gpt2'),
}
every_way = pytest.mark.parametrize('way', WAYS)


@pytest.fixture(autouse=True)
def folder(client, tokenizer_path):
    """Where the clients run: with the script, the tokenizer, and no data of an earlier test."""
    (client.folder / 'fetch.py').write_text(SCRIPT)
    shutil.rmtree(client.folder / 'data', ignore_errors=True)
    return client.folder


def last_line(output):
    return output.strip().splitlines()[-1]


def is_refused(code, output, message):
    """Whether a command ended with exit code 2 and one line, without a traceback."""
    assert code == 2 and 'Traceback' not in output, output
    assert re.fullmatch(r'(fetch|fineweb|wikitext)\.py: .*' + message + '.*', last_line(output)), output
    return True


# ---- trouble that passes --------------------------------------------------------------------------------


@every_way
def test_503_429_a_cut_and_a_stalled_body_are_waited_out_and_said(hub, client, way):
    command, file, repository = WAYS[way]
    hub.fail(f'/api/{repository}', status=503)
    hub.fail(file.replace('/storage/', '/resolve/'), status=429, headers=(('Retry-After', '7'),))
    hub.fail(file, status=503)
    hub.fail(file, cut_at=700)
    hub.fail(file, stall_at=700)
    code, output = client.run(*command)
    assert code == 0, output
    assert not any(fault.times for fault in hub.faults), 'a fault was not met'
    tries = re.findall(r'^.*(?:trying again in|Retrying in|Waiting|Trying to resume).*$', output, re.M)
    assert len(tries) >= 4 and all(len(line) < 200 for line in tries), output
    if way == 'stream':
        assert 'HTTP Error 429. Rate limited. Waiting 8.0s before retry' in output


def test_an_api_that_takes_the_question_and_never_answers_is_left_after_the_timeout(hub, client):
    hub.fail('/api/models/', stall_at=0, times=9)
    code, output = client.run('fetch.py', 'weights', 'gpt2')
    assert is_refused(code, output, 'no answer for 1 s; HF_HUB_DOWNLOAD_TIMEOUT sets how long to wait')
    assert output.count('trying again in') == 3 and len(hub.asked_for('/api/models/')) == 4


# ---- trouble that lasts ---------------------------------------------------------------------------------


@every_way
def test_a_hub_that_stays_down_is_one_line_and_the_command_goes_on_later(hub, client, folder, way):
    command, file, _ = WAYS[way]
    after = {'stream': 6, 'shards': 1}.get(way, 0)
    hub.fail(file, status=503, times=1000, after=after)
    code, output = client.run(*command)
    assert is_refused(code, output, 'HTTP status 503')
    assert 'trying again' in output
    assert not list(folder.glob('data/**/meta.json')) and not list(client.home.glob('**/*.incomplete'))
    whole = [path.name for path in folder.glob('data/*/*.bin')]
    assert bool(whole) == (way == 'shards')
    hub.reset()
    code, output = client.run(*command)
    assert code == 0, output
    assert not any(hub.asked_for(f'/storage/.*{name}') for name in whole), 'what was there is not fetched again'


@pytest.mark.parametrize('way', ['rows', 'stream'])
def test_a_hub_that_does_not_even_say_what_there_is_is_tried_20_times_which_are_said(hub, client, way):
    hub.fail('/resolve/main/README.md', status=503, times=1000)
    code, output = client.run(*WAYS[way][0])
    assert is_refused(code, output, 'the answer was HTTP status 503')
    assert output.count('HTTP Error 503. Retrying in') == 20 and output.count('trying again in') == 3


def test_a_download_that_a_dead_hub_left_unfinished_is_not_taken_for_whole(hub, client, folder):
    hub.fail(r'/storage/.*train_000002', status=503, times=1000)
    command = WAYS['shards'][0]
    client.run(*command)
    assert len(list(folder.glob('data/*/*.bin'))) == 2
    hub.reset()
    client.forget()
    hub.fail('/revision/main$', status=503, times=1000)  # of the second question; the answer to the first one comes
    code, output = client.run(*command)
    assert is_refused(code, output, 'fineweb_train_000002.bin did not come as the hub has it')
    assert not list(folder.glob('data/*/meta.json'))


@every_way
def test_a_repository_that_is_gone_is_not_asked_for_again_and_again(hub, client, monkeypatch, way):
    command, _, repository = WAYS[way]
    monkeypatch.delitem(hub.repositories, repository)
    code, output = client.run(*command)
    assert is_refused(code, output, 'there is nothing of that name, or it is private')
    assert 'trying again' not in output


def test_a_file_that_vanishes_while_it_is_streamed_ends_the_run_at_once(hub, client):
    hub.fail('/resolve/.*parquet', status=404, headers=(('X-Error-Code', 'EntryNotFound'),), times=1000, after=6)
    code, output = client.run(*WAYS['stream'][0])
    assert is_refused(code, output, 'parquet is not there any more; run again to resume')
    assert 'trying again' not in output


@pytest.mark.parametrize('way, token', [('weights', None), ('weights', 'hf_stranger'), ('rows', None), ('rows', 'hf_stranger')])
def test_a_gated_repository_says_how_to_get_in_and_a_token_that_is_let_in_opens_it(hub, client, way, token):
    command, _, repository = WAYS[way]
    hub.gated.add(repository)
    try:
        code, output = client.run(*command, **({'HF_TOKEN': token} if token else {}))
        assert is_refused(code, output, 'only those whom its owners let in may read it: ask for access .* HF_TOKEN')
        assert 'trying again' not in output
        assert token or client.run(*command, HF_TOKEN='hf_accepted')[0] == 0
    finally:
        hub.gated.clear()


# ---- what comes is wrong, or does not fit ---------------------------------------------------------------


@pytest.mark.parametrize('way', ['weights', 'shards'])
def test_a_file_with_a_wrong_checksum_is_fetched_anew_and_never_kept(hub, client, folder, way):
    command, file, _ = WAYS[way]
    hub.fail(file, flip_at=3000, times=1000)
    code, output = client.run(*command)
    assert is_refused(code, output, 'did not come as the hub has it, by its size and sha256')
    assert not list(client.home.glob('**/*.safetensors')) and not list(folder.glob('data/*/meta.json'))
    assert not any(path.stat().st_size > 3000 for path in client.home.glob('**/blobs/*'))
    hub.reset()
    hub.fail(file, flip_at=3000)
    code, output = client.run(*command)
    assert code == 0 and output.count('did not come as the hub has it') == 1, output


@every_way
def test_a_full_disk_is_one_line_that_says_where_and_the_command_goes_on_later(hub, client, folder, way):
    command, _, _ = WAYS[way]
    client.home.mkdir()
    (folder / 'data').mkdir()
    place = folder / 'data' if way in ('stream', 'shards') else client.home
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=12k', 'tmpfs', place], capture_output=True).returncode:
        pytest.skip('only root can make a small disk')
    try:
        code, output = client.run(*command)
        assert is_refused(code, output, f'the disk is full.*{place.name}')
        assert not list(folder.glob('data/*/meta.json'))
        subprocess.run(['mount', '-o', 'remount,size=64m', place], check=True)
        code, output = client.run(*command)
        assert code == 0, output
    finally:
        subprocess.run(['umount', place], check=True)


def test_pickled_weights_alone_are_refused(hub, client, monkeypatch):
    name = 'models/openai-community/gpt2'
    monkeypatch.setitem(hub.repositories, name, {})
    hub.commit(name, {path: content for path, content in hub_repositories.gpt2().items() if 'safetensors' not in path})
    code, output = client.run('fetch.py', 'weights', 'gpt2')
    assert is_refused(code, output, 'has no model.safetensors')
    assert not hub.asked_for('pytorch_model')


def test_a_configuration_or_split_that_is_not_there_is_one_line(hub, client, folder, monkeypatch):
    code, output = client.run('fineweb.py', '--sample=350BT', '--tokenizer=tokenizer.json')
    assert is_refused(code, output, "'sample-350BT' not found. Available: ")
    name = 'datasets/Salesforce/wikitext'
    monkeypatch.setitem(hub.repositories, name, {})
    hub.commit(name, {'wikitext-2-raw-v1/train.parquet': hub_repositories.parquet([{'text': 'a'}]),
                      'README.md': hub_repositories.card({'wikitext-2-raw-v1': {'train': 'wikitext-2-raw-v1/train.parquet'}})})
    code, output = client.run('wikitext.py', '--out_dir=data/wikitext', '--vocab_size=300')
    assert is_refused(code, output, 'has no split test on the hub now')
    assert not (folder / 'data').exists()


# ---- the words ------------------------------------------------------------------------------------------


def test_an_error_is_explained_by_what_a_library_wrapped():
    def wrapped(error):
        try:
            try:
                raise error
            except type(error) as inner:
                raise RuntimeError('Error while generating the dataset') from inner
        except RuntimeError as outer:
            return outer

    full = wrapped(OSError(errno.ENOSPC, 'No space left on device'))
    assert library.explain(full, 'name', 'data/x') == ('the disk is full; free some space in data/x, and run again to resume', True)
    assert library.explain(full, 'name')[0].startswith('the disk is full; free some space in /')
    locked = library.explain(wrapped(PermissionError(errno.EACCES, 'Permission denied', '/cache/blobs')), 'name')
    assert locked == ('/cache/blobs cannot be written: Permission denied', True)
    assert library.explain(wrapped(ConnectionResetError('by peer')), 'name')[1] is False
    assert library.explain(ValueError('unknown'), 'name') == ('ValueError: unknown', None)


def test_without_a_network_nothing_is_tried_again(monkeypatch):
    import httpx2
    waits = []
    monkeypatch.setattr(library.time, 'sleep', waits.append)

    def ask():
        raise httpx2.ConnectError('Name or service not known')

    with pytest.raises(BadInput, match='x: .* cannot be reached .*Name or service not known.*: check the network'):
        library.fetch('x', ask, '{name}: {what}')
    assert not waits


def test_offline_says_so(monkeypatch):
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(BadInput, match='gpt2-large could not be fetched .* HF_HUB_OFFLINE is set'):
        pretrained.load_huggingface('gpt2-large')
