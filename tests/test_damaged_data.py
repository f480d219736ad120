"""74 edits of a folder of shards, and 12 of one that a run is reading: each is refused in one line, or changes nothing."""
import json
import os
import shutil

import numpy as np
import pytest

import shards
from data_folder import Progress
from runtime.errors import BadInput
from shards import BatchLoader, check_folder, load_meta, load_tokenizer, write_shards

DEEP, HUGE = '[' * 100_000, int('9' * 4000)


def meta(key, value):
    return lambda folder: rewrite(folder / 'meta.json', lambda content: content.update({key: value}))


def entry(key, value):
    """An edit of what meta.json says of the first shard."""
    return lambda folder: rewrite(folder / 'meta.json', lambda content: content['shards']['x_train_000001.bin'].update({key: value}))


def without(key):
    return lambda folder: rewrite(folder / 'meta.json', lambda content: content.pop(key))


def progress(change):
    """An edit of a NAME_progress.json beside meta.json."""
    def edit(folder):
        content = {'meta': json.loads((folder / 'meta.json').read_text()), 'complete': True, 'shards': [
            {'file': 'x_train_000001.bin', 'tokens': 200, 'sha256': 'a', 'documents': 3, 'next': {'row': 4}}]}
        changed = change(content)
        (folder / 'x_progress.json').write_text(json.dumps(content if changed is None else changed))
    return edit


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def content(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def header(place, number):
    """Another number in the header of the first shard."""
    def edit(folder):
        path = folder / 'x_train_000001.bin'
        numbers = np.frombuffer(path.read_bytes()[:1024], dtype='<i4').copy()
        numbers[place] = number
        path.write_bytes(numbers.tobytes() + path.read_bytes()[1024:])
    return edit


def data(name, change):
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def pipe(name):
    def edit(folder):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
    return edit


def folder_named(name):
    def edit(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
    return edit


def link(name, target):
    def edit(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
    return edit


SHARD, OTHER, MASK, TOKENIZER = 'x_train_000001.bin', 'x_train_000002.bin', 'x_train_000001.mask', 'tokenizer.json'
# What training refuses when it opens the data
REFUSED = {
    # meta.json as a file
    'meta empty': content('meta.json', b''), 'meta a list': content('meta.json', b'[]'), 'meta a number': content('meta.json', b'7'),
    'meta cut': content('meta.json', b'{"vocab_size": 3'), 'meta deep': content('meta.json', DEEP.encode()),
    'meta deep inside': content('meta.json', b'{"vocab_size": ' + DEEP.encode()),
    'meta not UTF-8': content('meta.json', b'{"tokenizer": "\xff"}'), 'meta zeros': content('meta.json', bytes(500)),
    'meta a long number': content('meta.json', b'{"vocab_size": ' + b'9' * 5000 + b'}'),
    'meta a pipe': pipe('meta.json'), 'meta a folder': folder_named('meta.json'), 'meta a device': link('meta.json', '/dev/zero'),
    # its values
    'no vocab_size': without('vocab_size'), 'no eot': without('eot'), 'no tokenizer': without('tokenizer'),
    'vocab_size 0': meta('vocab_size', 0), 'vocab_size -1': meta('vocab_size', -1), 'vocab_size 65537': meta('vocab_size', 65537),
    'vocab_size huge': meta('vocab_size', HUGE), 'vocab_size text': meta('vocab_size', '300'), 'vocab_size 300.0': meta('vocab_size', 300.0),
    'vocab_size None': meta('vocab_size', None), 'vocab_size True': meta('vocab_size', True), 'vocab_size NaN': meta('vocab_size', float('nan')),
    'vocab_size small': meta('vocab_size', 17), 'eot -1': meta('eot', -1), 'eot vocab_size': meta('eot', 300), 'eot 0.5': meta('eot', 0.5),
    'eot huge': meta('eot', HUGE), 'eot a list': meta('eot', [299]), 'tokenizer 3': meta('tokenizer', 3), 'tokenizer None': meta('tokenizer', None),
    'tokenizer a list': meta('tokenizer', ['gpt2']), 'sha256 a number': meta('tokenizer_sha256', 5), 'shards a list': meta('shards', []),
    'shards None': meta('shards', None), 'shards of numbers': meta('shards', {SHARD: 4}), 'settings a list': meta('settings', [1]),
    'xz text': meta('val_xz_bits_per_byte', 'two'), 'documents text': meta('train_documents', '9'), 'bytes -1': meta('val_bytes', -1),
    'tokens one too few': entry('tokens', 199), 'tokens -1': entry('tokens', -1), 'tokens text': entry('tokens', '200'),
    'tokens huge': entry('tokens', HUGE), 'shard sha256 None': entry('sha256', None),
    # another job's progress
    'progress without shards': progress(lambda content: content.pop('shards')), 'progress a list': progress(lambda content: [1]),
    'progress meta None': progress(lambda content: content.update(meta=None)),
    'progress file 3': progress(lambda content: content['shards'][0].update(file=3)),
    'progress next a list': progress(lambda content: content['shards'][0].update(next=[])),
    'progress other tokenizer': progress(lambda content: content['meta'].update(tokenizer_sha256='other')),
    # shards
    'shard empty': content(SHARD, b''), 'shard text': content(SHARD, b'hello ' * 300), 'shard cut': data(SHARD, lambda whole: whole[:-2]),
    'shard odd': data(SHARD, lambda whole: whole[:-1]), 'shard longer': data(SHARD, lambda whole: whole + b'\1\0'),
    'shard only a header': data(SHARD, lambda whole: whole[:1024]), 'shard a part of a header': data(SHARD, lambda whole: whole[:500]),
    'other magic': header(0, 7), 'other version': header(1, 2), 'header says more': header(2, 201), 'header says -1': header(2, -1),
    'id too large': data(SHARD, lambda whole: whole[:1100] + b'\xff\xff' + whole[1102:]),
    'shard a pipe': pipe(SHARD), 'shard a folder': folder_named(SHARD), 'shard a device': link(SHARD, '/dev/zero'),
    # masks
    'mask missing': lambda folder: (folder / MASK).unlink(), 'mask cut': data(MASK, lambda whole: whole[:-1]), 'mask a pipe': pipe(MASK),
}
# What training cannot see, but `python shards.py` does
FOUND_BY_THE_CHECK = {
    'token changed': data(SHARD, lambda whole: whole[:1100] + b'\7\0' + whole[1102:]),
    'mask changed': data(MASK, lambda whole: bytes([whole[0] ^ 255]) + whole[1:]),
    'shard removed': lambda folder: ((folder / OTHER).unlink(), (folder / OTHER.replace('.bin', '.mask')).unlink()),
    'tokenizer a pipe': pipe(TOKENIZER),
}


@pytest.fixture(scope='module')
def original(tmp_path_factory, data_dir):
    """Two train shards with masks, one val shard with a mask, meta.json and tokenizer.json."""
    folder = tmp_path_factory.mktemp('original')
    shutil.copy(os.path.join(data_dir, TOKENIZER), folder)
    known = load_meta(data_dir)
    tokens = np.random.default_rng(0).integers(0, 299, 400).astype(np.uint16)
    tokens[::50] = 299
    documents = [(tokens[start:start + 50], np.arange(50) % 3 > 0) for start in range(0, 400, 50)]
    entries = write_shards(documents, folder, 'x', shard_tokens=200, masked=True)
    entries |= write_shards(documents[:2], folder, 'x', 'val', first=0, masked=True)
    (folder / 'meta.json').write_text(json.dumps({**known, 'shards': entries, 'train_documents': 8, 'val_documents': 2}))
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / 'x')


def open_and_read(folder):
    """As train.py does: opens both splits and reads more than an epoch of each."""
    known = load_meta(str(folder))
    load_tokenizer(str(folder), known)
    for split in ('train', 'val'):
        loader = BatchLoader(str(folder), split, 16, 4, 0, meta=known)
        for _ in range(12):
            loader.next()


def test_there_are_74_edits_and_the_folder_is_sound_before_them(folder):
    assert len(REFUSED) + len(FOUND_BY_THE_CHECK) == 74
    open_and_read(folder)
    check_folder(str(folder))


@pytest.mark.parametrize('name', [*REFUSED, *FOUND_BY_THE_CHECK])
def test_an_edit_is_refused_in_one_line_that_names_the_folder(folder, name):
    (REFUSED | FOUND_BY_THE_CHECK)[name](folder)
    for use in [open_and_read, check_folder] if name in REFUSED else [check_folder]:
        with pytest.raises(BadInput) as error:
            use(str(folder) if use is check_folder else folder)
        assert '\n' not in str(error.value) and str(folder) in str(error.value) and len(str(error.value)) < 1000
    if name in FOUND_BY_THE_CHECK and TOKENIZER not in name:
        try:
            open_and_read(folder)
        except BadInput as error:
            assert '\n' not in str(error)


@pytest.mark.parametrize('content', [b'', b'[]', b'{}', b'{"meta": 1, "shards": [], "complete": 1}', DEEP.encode(),
                                     b'{"meta": {}, "shards": [{}], "complete": true}'])
def test_a_damaged_file_of_an_unfinished_job_is_refused_in_one_line(tmp_path, content):
    (tmp_path / 'x_unfinished.json').write_bytes(content)
    with pytest.raises(BadInput, match='x_unfinished.json') as error:
        Progress.load(str(tmp_path / 'x_unfinished.json'))
    assert '\n' not in str(error.value)


# ---------------------------------------------------------------------------- while a run reads

def replace(name, change):
    """Another file takes the name, as `mv` does it."""
    def edit(folder):
        (folder / 'new').write_bytes(change((folder / name).read_bytes()))
        os.replace(folder / 'new', folder / name)
    return edit


def longer_ago(name):
    return lambda folder: os.utime(folder / name, ns=(1, 1))


def changed_with_its_old_size(name):
    return lambda folder: (data(name, lambda whole: whole[:1100] + b'\7\0' + whole[1102:])(folder), longer_ago(name)(folder))


NOTICED = {
    'cut': lambda folder: os.truncate(folder / SHARD, 1030), 'cut to nothing': lambda folder: os.truncate(folder / SHARD, 0),
    'grown': data(SHARD, lambda whole: whole + bytes(100)), 'rewritten': changed_with_its_old_size(SHARD),
    'replaced by a shorter one': replace(SHARD, lambda whole: whole[:-10]), 'replaced by another': replace(SHARD, lambda whole: whole[:-2] + b'\1\0'),
    'removed': lambda folder: (folder / SHARD).unlink(), 'a pipe in its place': pipe(SHARD), 'a folder in its place': folder_named(SHARD),
    'mask cut': lambda folder: os.truncate(folder / MASK, 3),
    'mask replaced': replace(MASK, lambda whole: bytes([whole[0] ^ 255]) + whole[1:]),
}


@pytest.mark.parametrize('n_open', [shards.OPEN_FILES, 1])
@pytest.mark.parametrize('name', NOTICED)
def test_a_file_that_changes_while_it_is_read_is_noticed_within_an_epoch(folder, name, n_open, monkeypatch):
    monkeypatch.setattr(shards, 'OPEN_FILES', n_open)
    loader = BatchLoader(str(folder), 'train', 16, 4, 0)
    loader.next()
    NOTICED[name](folder)
    epoch = loader.epoch
    with pytest.raises(BadInput, match='(x_train_000001.*(changed|gone|cannot be read|cut short))') as error:
        while loader.epoch <= epoch:
            loader.next()
        loader.next()
    assert '\n' not in str(error.value)


def test_a_file_that_is_changed_in_place_is_noticed_before_the_epoch_ends(folder):
    loader = BatchLoader(str(folder), 'train', 16, 4, 0)
    loader.next()
    changed_with_its_old_size(SHARD)(folder)
    with pytest.raises(BadInput, match='x_train_000001.bin has changed'):
        while loader.sequence_index + 4 <= loader.n_sequences:
            loader.next()


@pytest.mark.parametrize('name', [SHARD, MASK])
def test_a_new_time_of_change_alone_is_no_change(folder, name):
    untouched, loader = (BatchLoader(str(folder), 'train', 16, 4, 0) for _ in range(2))
    longer_ago(name)(folder)
    expected = BatchLoader(str(folder), 'train', 16, 4, 0)
    for _ in range(20):
        for mine, others in zip(loader.next(), expected.next()):
            assert (mine == others).all()
    shutil.copy(folder / name, folder / 'copy')
    os.replace(folder / 'copy', folder / name)
    for _ in range(20):
        untouched.next()


def test_a_validation_split_is_looked_at_before_each_validation(folder):
    loader = BatchLoader(str(folder), 'val', 16, 2, 0)
    loader.next()
    replace('x_val_000000.bin', lambda whole: whole[:-2] + b'\1\0')(folder)
    loader.seek(0)
    with pytest.raises(BadInput, match='x_val_000000.bin has changed'):
        loader.next()
