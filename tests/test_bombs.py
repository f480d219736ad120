"""Small files that would become large in memory, or that would be waited for: each ends in one line, soon and in little memory."""
import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import pickle
import re
import resource
import shutil
import signal
import zipfile

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import pytest
import torch

import pretrained
import sources
import wikitext
from bpe import Tokenizer
from model import GPT, GPTConfig
from runtime.errors import BadInput
from runtime.files import JSON_BYTES, read_json, sha256_of
from runtime.text_files import MAX_EXPANSION, read_text

MB = b'a' * (1 << 20)
DEEP = '[' * 1_000_000


@pytest.fixture(scope='module', autouse=True)
def reserved():
    """What pyarrow reserves of the address space when it is first used, a gigabyte of it, does not count."""
    pyarrow.compute.binary_length(pyarrow.array(['a' * 1000] * 10_000))


@contextlib.contextmanager
def two_seconds_and_one_gigabyte():
    """Limits of the processor's time and of memory for what is done inside, beside what the process has already."""
    def interrupt(*_):
        raise TimeoutError

    if not os.path.exists('/proc/self/status'):
        pytest.skip('the memory of a process can be limited on Linux')
    with open('/proc/self/status') as file:
        (now,) = (int(line.split()[1]) << 10 for line in file if line.startswith('VmData'))
    before, memory = signal.signal(signal.SIGALRM, interrupt), resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now + (1 << 30), memory[1]))
    signal.setitimer(signal.ITIMER_REAL, 20)  # for what waits; two seconds of a busy machine's processor may be many of a clock
    timer = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGPROF, timer)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_DATA, memory)


def refused(use, message):
    """The one line that an attempt ends with, within the limits."""
    with pytest.raises(BadInput, match=message) as error, two_seconds_and_one_gigabyte():
        use()
    assert '\n' not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


# ---------------------------------------------------------------------------- tables

def members(compress, *parts):
    """A compressed file of several members, which together are the parts; each of them is compressed once."""
    compressed = {part: compress(part) for part in set(parts)}
    return b''.join(compressed[part] for part in parts)


def one_text_for_many_rows(path, size, n_rows):
    """A parquet file of n_rows that all have the same text, which is in it once."""
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * n_rows, pyarrow.int32()), pyarrow.array(['x' * size]))
    pyarrow.parquet.write_table(pyarrow.table({'text': texts}), path, compression='zstd', store_schema=False)


def write_column(path, column):
    pyarrow.parquet.write_table(pyarrow.table({'text': column}), path, compression='zstd', use_dictionary=False)


ONE_LINE = [b'{"text": "', *[MB] * 200, b'"}\n']
ROWS = b'{"text": "%s"}\n' % (b'a' * 1000) * 1000
TABLES = {
    'line.jsonl.gz': lambda path: path.write_bytes(members(gzip.compress, *ONE_LINE)),
    'line.jsonl.bz2': lambda path: path.write_bytes(members(bz2.compress, *ONE_LINE)),
    'line.jsonl.xz': lambda path: path.write_bytes(members(lzma.compress, *ONE_LINE)),
    'rows.jsonl.gz': lambda path: path.write_bytes(members(gzip.compress, *[ROWS] * 300)),
    'list.json.gz': lambda path: path.write_bytes(members(gzip.compress, b'[', *ONE_LINE, b']')),
    'zeros.jsonl.gz': lambda path: path.write_bytes(members(gzip.compress, *[bytes(1 << 20)] * 500)),
    'line.jsonl': lambda path: path.write_bytes(b''.join([b'{"text": "', *[MB] * 70, b'"}'])),
    'list.json': lambda path: path.write_bytes(b''.join([b'[{"text": "', *[MB] * 70, b'"}]'])),
    'one.parquet': lambda path: write_column(path, ['a' * (34 << 20)]),
    'many.parquet': lambda path: write_column(path, ['a' * 1000] * 10**5),
    'shared.parquet': lambda path: one_text_for_many_rows(path, 2 * 10**6, 4000),
    'missing.parquet': lambda path: write_column(path, pyarrow.nulls(4 * 10**7, pyarrow.string())),
}


@pytest.mark.parametrize('name', TABLES)
def test_a_table_that_expands_past_the_limit_is_refused(tmp_path, name):
    path = tmp_path / name
    TABLES[name](path)
    message = 'more than 64 MB' if name.endswith(('.jsonl', '.json')) else r'times its size.*--max_expansion'
    message = 'at most 64 MB' if name == 'list.json' else message
    line = refused(lambda: sum(map(len, sources.read_documents(sources.find_source(str(path))))), message)
    assert str(path) in line
    if ratio := re.search(r'becomes ([0-9,.]+) times its size', line):
        assert float(ratio[1].replace(',', '')) > MAX_EXPANSION


def test_a_text_that_many_rows_share_is_read_without_a_copy_for_each(tmp_path):
    one_text_for_many_rows(tmp_path / 'x.parquet', 3 * 10**6, 400)
    with two_seconds_and_one_gigabyte():
        documents = sources.read_documents(sources.Source('x', [str(tmp_path / 'x.parquet')]), max_expansion=0)
        assert sum(map(len, documents)) == 1200 * 10**6


def test_tables_that_people_compress_are_read(tmp_path):
    rows = [{'text': f'{i} ' * 200, 'n': [i, {'m': None}]} for i in range(3000)]
    expected = [row['text'] for row in rows]
    as_list, as_lines = json.dumps(rows, indent=1).encode(), b'\n'.join(json.dumps(row).encode() for row in rows)
    for name, data in (('a.json.gz', gzip.compress(as_list)), ('b.json', b'\xef\xbb\xbf ' + as_list), ('c.jsonl.xz', lzma.compress(as_lines)),
                       ('d.jsonl.bz2', bz2.compress(as_lines)), ('e.jsonl', b'\xef\xbb\xbf' + as_lines)):
        (tmp_path / name).write_bytes(data)
        assert list(sources.read_documents(sources.Source('x', [str(tmp_path / name)]))) == expected


@pytest.mark.parametrize('size', [1, 3, 8, 1 << 20])
@pytest.mark.parametrize('rows', [[], [1], ['é]', ',[', {}, [[]], None, -1.5e3], [{'text': '\\" ] 😀'}] * 5])
def test_a_json_list_is_the_same_in_whatever_pieces_it_comes(rows, size):
    for text in (json.dumps(rows), json.dumps(rows, indent=2, ensure_ascii=False)):
        pieces = [text[start:start + size] for start in range(0, len(text), size)]
        assert [json.loads(line) for line in sources.list_elements(iter(pieces), 'x')] == rows
        with pytest.raises(BadInput, match='goes on behind its JSON list'):
            list(sources.list_elements(iter([*pieces, ' [2]']), 'x'))
        with pytest.raises(BadInput, match='cut short or damaged'):
            list(sources.list_elements(iter([text[:-1]]), 'x'))


# ---------------------------------------------------------------------------- deep and long JSON

@pytest.mark.parametrize('text', [DEEP, '{"a":' * 1_000_000, '{"text":' + DEEP, '9' * 100_000, '{"text": ' + '9' * 100_000 + '}', '{"a"' * 100_000])
def test_deep_json_and_endless_numbers_are_refused_wherever_json_is_read(tmp_path, text):
    for name in ('config.json', 'tokenizer.json', 'x.jsonl', 'x.json', 'encoder.json', 'model.safetensors.index.json'):
        (tmp_path / name).write_text(text)
    folder = str(tmp_path)
    for use in (lambda: read_json(folder + '/config.json'), lambda: pretrained.load(folder), lambda: Tokenizer.load(folder + '/tokenizer.json'),
                lambda: Tokenizer.gpt2(folder), lambda: list(sources.read_rows(folder + '/x.jsonl')), lambda: pretrained.weight_files(folder),
                lambda: list(sources.read_table(folder + '/x.jsonl', 'text')), lambda: list(sources.read_table(folder + '/x.json', 'text'))):
        try:
            refused(use, folder)
        except pytest.fail.Exception:
            assert text.startswith('9'), 'a line that is only a number is JSON'


@pytest.mark.parametrize('value, words', [
    (b'9' * 10_000, 'it has a number of more than 4,300 digits'), (b'"caf\xe9"', 'byte 14 is not utf-8'), (b'}', 'Expecting value: column 10'),
    (DEEP.encode(), 'its lists or objects are too deep inside each other')])
def test_what_is_wrong_with_json_is_said_in_words_wherever_it_is_read(tmp_path, value, words):
    for name, use in (('x.json', lambda path: read_json(path)), ('x.jsonl', lambda path: list(sources.read_rows(path))),
                      ('y.jsonl', lambda path: list(sources.read_table(path, 'text'))), ('y.json', lambda path: list(sources.read_table(path, 'text')))):
        is_list, path = name == 'y.json', tmp_path / name
        path.write_bytes(b'[' * is_list + b'{"text": ' + value + b'}' + b']' * is_list)
        if b'\xe9' not in value or name == 'x.json':  # in documents, such a byte is replaced
            refused(lambda: use(str(path)), 'cut short or damaged' if is_list and value == b'}' else f'JSON.*{words}' if not is_list else words)


@pytest.mark.slow
def test_the_longest_json_that_is_read_fits_into_memory(tmp_path):
    path = tmp_path / 'x.json'
    path.write_bytes(b'[' + b'{},' * (JSON_BYTES // 3))
    refused(lambda: read_json(str(path)), 'not JSON|larger than')
    path.write_bytes(b' ' * (JSON_BYTES + 1))
    refused(lambda: read_json(str(path)), 'larger than the 32 MB')


# ---------------------------------------------------------------------------- tokenizers

def test_a_tokenizer_of_60000_added_tokens_and_other_absurd_ones_are_refused(tmp_path, tokenizer):
    def edited(change):
        data = json.loads(tokenizer.to_json())
        change(data)
        path = tmp_path / 'tokenizer.json'
        path.write_text(json.dumps(data))
        return lambda: Tokenizer.load(str(path))

    def added(*contents):
        return edited(lambda data: data['added_tokens'].extend({'id': 300 + i, 'content': content} for i, content in enumerate(contents)))

    refused(added(*(f'<|{i}|>' for i in range(60_000))), '60,001 added tokens; 1,000 is the most')
    refused(added(''), '1 to 256 characters')
    refused(added('x' * 10**6), '1 to 256 characters')
    refused(added('\ud800'), 'tokenizer.json')
    refused(edited(lambda data: data['model']['vocab'].update({'a': 0.0})), 'whole number')
    refused(edited(lambda data: data['added_tokens'][0].update(id=True)), 'whole number')
    refused(edited(lambda data: data['model']['merges'].append('x' * 10**6 + ' y')), 'merges')
    refused(edited(lambda data: data['model']['merges'].append([1, 2])), 'tokenizer.json')
    refused(edited(lambda data: data['model']['merges'].append([[], {}])), 'tokenizer.json')


@pytest.mark.slow
def test_a_chain_of_ever_longer_tokens_is_refused_before_it_takes_long(tmp_path, tokenizer):
    data = json.loads(tokenizer.to_json())
    bytes_ = {word: i for word, i in data['model']['vocab'].items() if i < 256}
    chain = ['yz', *('a' * n + 'yz' for n in range(1, 1000))]  # each is an a and the one before
    merges = [['y', 'z'], *(['a', word] for word in chain[:-1])] + [[word, letter] for word in chain[-40:] for letter in bytes_]
    merges = [merge for merge in merges if merge[1] not in ('y', 'a')]
    words = bytes_ | {left + right: 256 + i for i, (left, right) in enumerate(merges)}
    data['model'] |= {'vocab': {**words, '<|endoftext|>': len(words)}, 'merges': merges}
    data['added_tokens'][0]['id'] = len(words)
    (tmp_path / 'tokenizer.json').write_text(json.dumps(data, ensure_ascii=False))
    refused(lambda: Tokenizer.load(str(tmp_path / 'tokenizer.json')), 'too long and too many')


def test_long_tokens_that_were_learned_are_read_soon(tmp_path):
    learned = Tokenizer.train(['-' * 2**17 + ' the end'], 275, progress=False)
    learned.save(tmp_path / 'tokenizer.json')
    with two_seconds_and_one_gigabyte():
        assert Tokenizer.load(str(tmp_path / 'tokenizer.json')).merges == learned.merges
    assert max(map(len, learned.tokens)) > 2**14


# ---------------------------------------------------------------------------- weights

@pytest.fixture(scope='module')
def sound(tmp_path_factory, tokenizer):
    """A small model in Hugging Face's layout, and as a checkpoint of nanoGPT beside its tokenizer."""
    folder = tmp_path_factory.mktemp('sound')
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=16, vocab_size=300))
    pretrained.save(model, str(folder / 'huggingface'), eot=tokenizer.eot)
    tokenizer.save(folder / 'huggingface' / 'tokenizer.json')
    (folder / 'nanogpt').mkdir()
    shutil.copy(folder / 'huggingface' / 'tokenizer.json', folder / 'nanogpt')
    sizes = {key: getattr(model.config, key) for key in pretrained.NANOGPT_FIELDS}
    torch.save({'model': model.state_dict(), 'model_args': sizes}, folder / 'nanogpt' / 'ckpt.pt')
    return folder


@pytest.fixture
def weights(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / 'weights')


@pytest.mark.parametrize('key, value', [('n_embd', 10**9), ('n_embd', 10**9 + 7), ('n_embd', 2**24), ('n_layer', 10**9), ('n_layer', 9_999),
                                        ('n_layer', -1), ('n_head', 10**18), ('n_head', 0), ('vocab_size', 10**12), ('vocab_size', 10**30),
                                        ('n_positions', 10**9), ('n_positions', 2**24), ('n_positions', 0), ('n_embd', '8'), ('n_embd', 8.0), ('n_embd', True),
                                        ('n_embd', None), ('n_embd', []), ('n_inner', 10**400), ('layer_norm_epsilon', 'x'), ('model_type', ['gpt2'])])
def test_sizes_that_cannot_be_memory_are_refused_before_any_is_taken(weights, key, value):
    path = weights / 'huggingface' / 'config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    refused(lambda: pretrained.load(str(path.parent)), 'weights/huggingface.*(n_embd|n_layer|n_head|n_inner|vocab_size|n_positions|block_size|layer_norm|model_type|layers|shape)')
    if key not in ('n_inner', 'layer_norm_epsilon', 'model_type') and isinstance(value, int) and value < 2**63:
        state = torch.load(weights / 'nanogpt' / 'ckpt.pt')
        state['model_args'][key.replace('n_positions', 'block_size')] = value
        torch.save(state, weights / 'nanogpt' / 'ckpt.pt')
        refused(lambda: pretrained.load(str(weights / 'nanogpt' / 'ckpt.pt')), 'ckpt.pt')


def nan(tensor):
    tensor.view(-1)[3] = float('nan')
    return tensor


@pytest.mark.parametrize('change, message', [
    (lambda tensor: tensor.long(), 'holds int64'), (lambda tensor: tensor > 0, 'holds bool'), (lambda tensor: tensor.to(torch.complex64), 'holds complex64'),
    (lambda tensor: tensor.to(torch.int8), 'holds int8'), (nan, 'NaN or infinite'), (lambda tensor: tensor / 0, 'NaN or infinite'),
    (lambda tensor: torch.full_like(tensor, 1e300, dtype=torch.float64), 'NaN or infinite'),
    (lambda tensor: torch.ones(1).expand(tensor.shape), 'not the numbers for it'),
    (lambda tensor: tensor.to_sparse(), 'not the numbers for it|readable'), (lambda tensor: tensor.to('meta'), 'not the numbers for it'),
    (lambda tensor: tensor.flatten(), 'has shape'), (lambda tensor: 3.0, 'has shape'), (lambda tensor: None, 'has shape')])
def test_weights_that_are_no_finite_numbers_of_their_own_are_refused(weights, change, message):
    path, name = weights / 'nanogpt' / 'ckpt.pt', 'transformer.h.0.mlp.c_fc.weight'
    pretrained.load(str(path))
    state = torch.load(path)
    assert name in state['model']
    state['model'][name] = change(state['model'][name])
    torch.save(state, path)
    refused(lambda: pretrained.load(str(path)), message)


@pytest.mark.parametrize('dtype, loads', [(torch.float16, True), (torch.bfloat16, True), (torch.float64, True), (torch.int32, False)])
def test_weights_of_every_float_type_load_and_others_do_not(weights, dtype, loads):
    import safetensors.torch
    path = weights / 'huggingface' / 'model.safetensors'
    tensors = {name: tensor.to(dtype) for name, tensor in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(tensors, path)
    if loads:
        assert pretrained.load(str(path.parent))[0].transformer.wte.weight.dtype == torch.float32
    else:
        refused(lambda: pretrained.load(str(path.parent)), 'holds int32')


def test_layers_that_share_their_numbers_are_refused(weights):
    path = weights / 'nanogpt' / 'ckpt.pt'
    state = torch.load(path)
    state['model_args']['n_layer'] = 50
    state['model'] |= {name.replace('h.0', f'h.{i}'): tensor for name, tensor in state['model'].items() for i in range(1, 50) if 'h.0' in name}
    torch.save(state, path)
    refused(lambda: pretrained.load(str(path)), 'share their numbers')


def rewritten(path, compression=zipfile.ZIP_STORED, **changed):
    """The archive of torch.save with other contents of some of its entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, changed.get(os.path.basename(name), data))


def deep_pickle():
    return b'\x80\x02' + b']' * 500_000 + b'a' * 499_999 + b'.'


def overlapping(path):
    """An archive in which the directory names one entry of 100 MB a hundred times."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as archive:
        archive.writestr('x/data/0', bytes(10**6))
        archive.filelist *= 100
    path.write_bytes(data.getvalue())


def test_an_archive_that_is_larger_than_its_file_is_refused(weights):
    path = weights / 'nanogpt' / 'ckpt.pt'
    whole = path.read_bytes()
    rewritten(path, zipfile.ZIP_DEFLATED)
    refused(lambda: pretrained.load(str(path)), 'ckpt.pt is not as torch.save writes it: its entries are compressed')
    path.write_bytes(whole)
    rewritten(path, zipfile.ZIP_DEFLATED, **{'0': bytes(10**8)})
    assert path.stat().st_size < 10**6
    refused(lambda: pretrained.load(str(path)), 'compressed')
    overlapping(path)
    refused(lambda: pretrained.load(str(path)), 'overlap')
    path.write_bytes(whole)
    rewritten(path, **{'0': b'12'})
    refused(lambda: pretrained.load(str(path)), 'ckpt.pt')


@pytest.mark.parametrize('data', [deep_pickle(), b'', b'.', b'\x80\x02N.', b'\x80\x02}q\x00.', pickle.dumps([1] * 10), pickle.dumps({'model_args': 1}, 2),
                                  b'\x80\x02' + b'}' * (9 << 20) + b'.', b'\x80\x02}q\x00h\x00X\x01\x00\x00\x00ah\x00s.'])
def test_a_pickle_of_something_else_is_refused(weights, data):
    path = weights / 'nanogpt' / 'ckpt.pt'
    rewritten(path, **{'data.pkl': data})
    refused(lambda: pretrained.load(str(path)), 'ckpt.pt')


def test_any_byte_of_a_checkpoint_that_changes_gives_one_line_or_the_weights(weights):
    path = weights / 'nanogpt' / 'ckpt.pt'
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for place in [*range(0, len(whole), 101), *random.integers(0, len(whole), 60)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ int(random.integers(1, 256))]) + whole[place + 1:])
        with contextlib.suppress(BadInput):
            pretrained.load(str(path))
    for place in range(0, len(whole), 997):
        path.write_bytes(whole[:place])
        with pytest.raises(BadInput, match='ckpt.pt'):
            pretrained.load(str(path))


# ---------------------------------------------------------------------------- pipes and devices

PLACES = {
    'ckpt.pt': pretrained.load, 'model.safetensors': lambda path: pretrained.read_weights(os.path.dirname(path)),
    'config.json': lambda path: pretrained.load(os.path.dirname(path)), 'tokenizer.json': Tokenizer.load,
    'vocab.bpe': lambda path: Tokenizer.gpt2(os.path.dirname(path)), 'x.json': read_json, 'x.txt': lambda path: list(read_text(path)),
    'x.jsonl': lambda path: list(sources.read_rows(path)), 'x.parquet': lambda path: list(sources.read_table(path, 'text')),
    'x.jsonl.gz': lambda path: list(sources.read_table(path, 'text')), 'x': sources.find_source, 'y': sha256_of,
    'train.txt': lambda path: list(sources.read_split(sources.wikitext_files(source=os.path.dirname(path), needed=['train'])['train'])),
    'valid.txt': lambda path: wikitext.main({'size': '2', 'raw': True, 'source': os.path.dirname(path), 'out_dir': os.path.dirname(path), 'tokenizer': 'gpt2',
                                             'vocab_size': 257, 'shard_tokens': 100, 'workers': 1}),
}


@pytest.mark.parametrize('kind', ['pipe', 'device', 'folder', 'dangling link', 'circular link'])
@pytest.mark.parametrize('name', PLACES)
def test_what_is_no_file_is_refused_rather_than_waited_for(tmp_path, name, kind):
    (tmp_path / 'encoder.json').write_text('{}')
    if name == 'valid.txt':
        (tmp_path / 'train.txt').write_text('some text')
    path = tmp_path / name
    if kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    else:
        path.symlink_to({'device': '/dev/zero', 'dangling link': 'nowhere', 'circular link': path}[kind])
    refused(lambda: PLACES[name](str(path)), str(tmp_path))


@pytest.mark.parametrize('name, compress', [('x.txt.gz', gzip.compress), ('x.txt.BZ2', bz2.compress), ('x.txt.xz', lzma.compress)])
def test_a_text_that_expands_past_the_limit_is_refused(tmp_path, name, compress):
    path = tmp_path / name
    path.write_bytes(members(compress, *[MB] * 300))
    line = refused(lambda: sum(map(len, sources.read_documents(sources.find_source(str(path))))), 'times its size.*--max_expansion')
    assert str(path) in line
    refused(lambda: sum(map(len, read_text(str(path)))), 'times its size')


def test_compressed_text_that_is_cut_short_is_refused(tmp_path):
    for name, compress in (('x.txt.gz', gzip.compress), ('x.txt.bz2', bz2.compress), ('x.txt.xz', lzma.compress)):
        (tmp_path / name).write_bytes(compress(os.urandom(9000).hex().encode())[:-20])
        refused(lambda: list(read_text(str(tmp_path / name))), 'cut short or damaged')
