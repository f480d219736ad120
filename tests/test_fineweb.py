import errno
import gzip
import itertools
import json
import multiprocessing
import os
import random
import shutil
import time

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fineweb
import shards
import sources
from bpe import Tokenizer
from runtime.errors import BadInput

DEFAULTS = {key: getattr(value, 'default', value) for key, value in fineweb.DEFAULTS.items()}


@pytest.fixture(scope='session')
def tokenizer_path(tmp_path_factory, texts):
    path = str(tmp_path_factory.mktemp('tokenizer') / 'tokenizer.json')
    Tokenizer.train(texts, 400).save(path)
    return path


@pytest.fixture(scope='session')
def documents(texts):
    """About 1,400 documents, with empty ones and nulls among them as tables have them."""
    generator = random.Random(0)
    documents = [text[:generator.randrange(1, 2000)] for text in texts * 70]
    for i in range(0, len(documents), 97):
        documents[i] = generator.choice(['', None])
    return documents


@pytest.fixture(scope='session')
def parquet(tmp_path_factory, documents):
    path = str(tmp_path_factory.mktemp('input') / 'table.parquet')
    write_parquet(path, documents)
    return path


def write_parquet(path, documents, row_group_size=100):
    table = pyarrow.table({'id': range(len(documents)), 'text': pyarrow.array(documents, pyarrow.string())})
    pyarrow.parquet.write_table(table, path, row_group_size=row_group_size)


def run(**changes):
    fineweb.main({**DEFAULTS, 'workers': 2, **changes})


def stream(out_dir, split):
    return np.concatenate([shards.read_shard(path) for path in shards.find_shards(out_dir, split)]).tolist()


def files_of(out_dir):
    """{name: bytes} of everything a folder holds."""
    return {name: open(os.path.join(out_dir, name), 'rb').read() for name in os.listdir(out_dir)}


def encoded(documents, tokenizer_path):
    """Each document as Hugging Face's tokenizers encodes it, <|endoftext|> before it."""
    tokenizer = tokenizers.Tokenizer.from_file(tokenizer_path)
    eot = tokenizer.token_to_id('<|endoftext|>')
    return [[eot, *tokenizer.encode(text).ids] for text in documents if text]


# ---------------------------------------------------------------------------- one run

def test_first_shard_is_val_and_all_are_the_documents_in_order(tmp_path, parquet, documents, tokenizer_path):
    run(source=parquet, out_dir=str(tmp_path), tokenizer=tokenizer_path, shard_tokens=50_000)
    names = sorted(name for name in os.listdir(tmp_path) if name.endswith('.bin'))
    n_train = len(names) - 1
    assert names == [f'table_train_{i:06d}.bin' for i in range(1, n_train + 1)] + ['table_val_000000.bin']
    expected = encoded(documents, tokenizer_path)
    tokens, val, train = list(itertools.chain(*expected)), stream(tmp_path, 'val'), stream(tmp_path, 'train')
    assert val == tokens[:50_000]
    starts = np.cumsum([0] + [len(document) for document in expected])
    assert train == tokens[starts[np.searchsorted(starts, 50_000)]:]  # the rest of val's last document is in neither
    assert shards.load_tokenizer(str(tmp_path)).vocab_size == 400
    assert 'bytes/token' in shards.check_folder(str(tmp_path))


def test_less_than_one_shard_holds_out_its_first_tenth(tmp_path, parquet, documents, tokenizer_path, capsys):
    run(source=parquet, out_dir=str(tmp_path), tokenizer=tokenizer_path)
    expected = encoded(documents, tokenizer_path)
    val, train = stream(tmp_path, 'val'), stream(tmp_path, 'train')
    assert val + train == list(itertools.chain(*expected))
    assert 0 <= len(val) - len(val + train) // 10 < max(map(len, expected))
    assert 'less than one shard' in capsys.readouterr().out


def test_a_finished_run_says_so_and_ends_at_once(tmp_path, parquet, tokenizer_path, capsys):
    arguments = {'source': parquet, 'out_dir': str(tmp_path), 'tokenizer': tokenizer_path, 'shard_tokens': 50_000}
    run(**arguments)
    said = capsys.readouterr().out
    share = len(stream(tmp_path, 'train')) % 50_000 / 50_000
    assert f'the last shard is {share:.0%} full, that is all there is' in said
    before = files_of(tmp_path)
    run(**arguments)
    assert 'already made, with the same settings' in capsys.readouterr().out
    assert files_of(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize('name', ['table.jsonl', 'table.json.gz', 'table.jsonl.zst', 'table.json', 'several'])
def test_other_formats_of_the_same_rows_give_the_same_tokens(tmp_path, parquet, documents, tokenizer_path, name):
    run(source=parquet, out_dir=str(tmp_path / 'a'), tokenizer=tokenizer_path, shard_tokens=50_000)
    lines = ''.join(json.dumps({'id': i, 'text': text}) + '\n' for i, text in enumerate(documents)).encode()
    source = tmp_path / name
    if name == 'several':
        source.mkdir()
        write_parquet(str(source / '0.parquet'), documents[:700])
        (source / '1.jsonl').write_bytes(b''.join(lines.splitlines(keepends=True)[700:]))
    elif name.endswith('.zst'):
        source.write_bytes(pyarrow.compress(lines, 'zstd', asbytes=True))
    elif name.endswith('.gz'):
        source.write_bytes(gzip.compress(lines[:100_000]) + gzip.compress(lines[100_000:]))
    else:
        as_a_list = json.dumps([json.loads(line) for line in lines.splitlines()]).encode()
        source.write_bytes(lines if name.endswith('l') else as_a_list)
    run(source=str(source), out_dir=str(tmp_path / 'b'), tokenizer=tokenizer_path, shard_tokens=50_000)
    for split in ('train', 'val'):
        assert stream(tmp_path / 'a', split) == stream(tmp_path / 'b', split)


def test_the_number_of_threads_does_not_change_a_byte(tmp_path, parquet, tokenizer_path):
    for workers in (1, 5):
        run(source=parquet, out_dir=str(tmp_path / str(workers)), tokenizer=tokenizer_path, shard_tokens=30_000,
            workers=workers)
    assert files_of(tmp_path / '1') == files_of(tmp_path / '5')


# ---------------------------------------------------------------------------- stopped and run again

@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_byte(tmp_path, parquet, tokenizer_path):
    arguments = {**DEFAULTS, 'source': parquet, 'tokenizer': tokenizer_path, 'shard_tokens': 5_000, 'workers': 2}
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['fineweb'])

    def start(out_dir):
        process = context.Process(target=fineweb.main, args=({**arguments, 'out_dir': str(tmp_path / out_dir)},))
        process.start()
        return process

    start('warm').join()  # the first one waits for the server's imports
    began = time.monotonic()
    start('whole').join()
    seconds = time.monotonic() - began
    generator = random.Random(1)
    kills, found = 0, set()
    while kills < 10 or len(found) < 3:  # at least three different stages
        process = start('stopped')
        process.join(generator.uniform(0, 1.5 * seconds))
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
            found.add(len(list((tmp_path / 'stopped').glob('*.bin'))))
        else:  # finished before it could be killed: check, and begin anew
            assert process.exitcode == 0
            assert files_of(tmp_path / 'stopped') == files_of(tmp_path / 'whole')
            shutil.rmtree(tmp_path / 'stopped')
    last = start('stopped')
    last.join()
    assert last.exitcode == 0
    assert files_of(tmp_path / 'stopped') == files_of(tmp_path / 'whole')


@pytest.mark.slow
@pytest.mark.parametrize('shard_tokens', [150_000, shards.SHARD_TOKENS])
def test_a_stop_at_any_file_changes_no_byte(tmp_path, parquet, tokenizer_path, kill_at, shard_tokens):
    arguments = {'source': parquet, 'tokenizer': tokenizer_path, 'shard_tokens': shard_tokens}
    run(out_dir=str(tmp_path / 'whole'), **arguments)
    n_written = 0
    for stop_at in itertools.count():
        kill_at(stop_at)
        shutil.rmtree(tmp_path / 'stopped', ignore_errors=True)
        try:
            run(out_dir=str(tmp_path / 'stopped'), **arguments)
            break
        except KeyboardInterrupt:
            n_written += 1
        kill_at(-1)
        run(out_dir=str(tmp_path / 'stopped'), **arguments)
        assert files_of(tmp_path / 'stopped') == files_of(tmp_path / 'whole')
    assert n_written == 2 * len(list((tmp_path / 'whole').glob('*.bin'))) + 3  # tokenizer, end of progress, meta


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), shard_tokens=st.integers(1, 60), row_group_size=st.integers(1, 9),
       texts=st.lists(st.one_of(st.none(), st.text(alphabet='ab \n', max_size=60)), min_size=2, max_size=30))
def test_any_documents_resume_behind_any_shard(tmp_path_factory, tokenizer_path, data, shard_tokens, row_group_size, texts):
    folder = tmp_path_factory.mktemp('any')
    write_parquet(folder / 't.parquet', ['first', 'second', *texts], row_group_size)
    arguments = {'source': str(folder / 't.parquet'), 'tokenizer': tokenizer_path, 'shard_tokens': shard_tokens}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'fsync', lambda descriptor: None)
        run(out_dir=str(folder / 'whole'), **arguments)
        run(out_dir=str(folder / 'stopped'), **arguments)
        path = folder / 'stopped' / 't_progress.json'
        progress = json.loads(path.read_text())
        n_kept = data.draw(st.integers(0, len(progress['shards'])))
        for shard in progress['shards'][n_kept:]:
            os.remove(folder / 'stopped' / shard['file'])
        path.write_text(json.dumps({**progress, 'shards': progress['shards'][:n_kept], 'complete': False}))
        run(out_dir=str(folder / 'stopped'), **arguments)
    assert files_of(folder / 'stopped') == files_of(folder / 'whole')


def test_a_lost_shard_is_made_again(tmp_path, parquet, tokenizer_path):
    arguments = {'source': parquet, 'out_dir': str(tmp_path), 'tokenizer': tokenizer_path, 'shard_tokens': 50_000}
    run(**arguments)
    before = files_of(tmp_path)
    os.remove(tmp_path / 'table_train_000002.bin')
    run(**arguments)
    assert files_of(tmp_path) == before


def test_max_shards_stops_early_and_a_larger_number_goes_on(tmp_path, parquet, tokenizer_path):
    arguments = {'source': parquet, 'tokenizer': tokenizer_path, 'shard_tokens': 30_000}
    run(out_dir=str(tmp_path / 'whole'), **arguments)
    for n in (1, 3, 0):
        run(out_dir=str(tmp_path / 'grown'), max_shards=n, **arguments)
        n_train = len(list((tmp_path / 'grown').glob('*_train_*.bin')))
        assert n_train == n or n == 0
    assert files_of(tmp_path / 'grown') == files_of(tmp_path / 'whole')


def test_a_full_disk_leaves_whole_shards_and_can_be_continued(tmp_path, parquet, tokenizer_path, monkeypatch):
    arguments = {'source': parquet, 'tokenizer': tokenizer_path, 'shard_tokens': 50_000}
    run(out_dir=str(tmp_path / 'whole'), **arguments)
    fsync, calls = os.fsync, itertools.count()

    def full(descriptor):
        if next(calls) >= 9:
            raise OSError(errno.ENOSPC, 'No space left on device')
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(BadInput, match='disk is full'):
        run(out_dir=str(tmp_path / 'full'), **arguments)
    monkeypatch.undo()
    left = files_of(tmp_path / 'full')
    assert not any(name.endswith('.tmp') for name in left) and any(name.endswith('.bin') for name in left)
    assert all(files_of(tmp_path / 'whole')[name] == content for name, content in left.items() if name.endswith('.bin'))
    run(out_dir=str(tmp_path / 'full'), **arguments)
    assert files_of(tmp_path / 'full') == files_of(tmp_path / 'whole')


# ---------------------------------------------------------------------------- parts

@pytest.mark.slow
@pytest.mark.parametrize('n_parts', [2, 5])
@pytest.mark.parametrize('kind', ['one parquet', 'three parquets', 'jsonl'])
def test_parts_are_disjoint_and_together_one_data_set(tmp_path, documents, tokenizer_path, n_parts, kind):
    numbered = [f'{i} {text}' for i, text in enumerate(documents)]
    source = tmp_path / 'in'
    source.mkdir()
    if kind == 'jsonl':
        (source / 'a.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in numbered))
    else:
        for i in range(1 if kind == 'one parquet' else 3):
            part = numbered if kind == 'one parquet' else numbered[400 * i:400 * (i + 1)]
            write_parquet(str(source / f'{i}.parquet'), part)
        numbered = numbered if kind == 'one parquet' else numbered[:1200]
    out_dir = str(tmp_path / 'out')
    for k in range(n_parts, 0, -1):
        run(source=str(source), out_dir=out_dir, tokenizer=tokenizer_path, shard_tokens=30_000, part=f'{k}/{n_parts}')
    val = shards.find_shards(out_dir, 'val')
    assert [os.path.basename(path) for path in val] == [f'in_part1of{n_parts}_val_000000.bin']
    eot = shards.load_meta(out_dir)['eot']
    counts = {}
    for part in range(1, n_parts + 1):
        tokens = np.concatenate([shards.read_shard(path) for path in val + shards.find_shards(out_dir, 'train')
                                 if f'_part{part}of' in path])
        found = {tuple(document.tolist()) for document in np.split(tokens, np.flatnonzero(tokens == eot))}
        for document in encoded(numbered, tokenizer_path):
            counts[tuple(document)] = counts.get(tuple(document), 0) + (tuple(document) in found)
    assert set(counts.values()) <= {0, 1}
    assert sum(counts.values()) >= len(counts) - 2  # the one in which val ends is in no shard whole
    meta = shards.load_meta(out_dir)
    assert sorted(meta['shards']) == sorted(name for name in os.listdir(out_dir) if name.endswith('.bin'))
    loader = shards.BatchLoader(out_dir, 'train', 16, 2, seed=0)
    assert loader.n_tokens == sum(entry['tokens'] for name, entry in meta['shards'].items() if '_train_' in name)
    shards.check_folder(out_dir)


def test_parts_of_another_division_are_refused_in_the_same_folder(tmp_path, parquet, tokenizer_path):
    arguments = {'source': parquet, 'out_dir': str(tmp_path), 'tokenizer': tokenizer_path, 'shard_tokens': 30_000}
    run(part='1/2', **arguments)
    with pytest.raises(BadInput, match='parts=2, not 3'):
        run(part='2/3', **arguments)


@pytest.mark.parametrize('part', ['0/4', '5/4', '3', '-1/4', 'a/b', '1/0'])
def test_a_part_that_is_none_is_refused(tmp_path, parquet, part):
    with pytest.raises(BadInput, match='K from 1 to N'):
        run(source=parquet, out_dir=str(tmp_path), part=part)


# ---------------------------------------------------------------------------- the hub

def test_the_sample_is_found_as_it_lies_on_the_hub(tmp_path, monkeypatch, documents, tokenizer_path):
    repository = tmp_path / 'HuggingFaceFW' / 'fineweb-edu'
    (repository / 'sample' / '10BT').mkdir(parents=True)
    (repository / 'data').mkdir()
    (repository / 'README.md').write_text(
        '---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*\n'
        '- config_name: sample-10BT\n  data_files:\n  - split: train\n    path: sample/10BT/*\n---\n')
    write_parquet(repository / 'data' / 'other.parquet', ['not this one'])
    write_parquet(repository / 'sample' / '10BT' / '000_00000.parquet', documents[:800])
    write_parquet(repository / 'sample' / '10BT' / '001_00000.parquet', documents[800:])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'cache'))
    run(tokenizer=tokenizer_path, shard_tokens=40_000, out_dir='out')
    tokens = list(itertools.chain(*encoded(documents, tokenizer_path)))
    train = stream('out', 'train')
    assert train == tokens[-len(train):] and len(train) > len(tokens) - 50_000
    assert shards.find_shards('out', 'train')[0].endswith('fineweb_edu_train_000001.bin')


def test_a_run_resumes_from_its_own_commit_of_the_hub(tmp_path, monkeypatch, parquet, tokenizer_path):
    import fsspec
    commits = ['a' * 40, 'b' * 40]
    with open(parquet, 'rb') as file, fsspec.open(f'memory://fineweb@{commits[0]}/0.parquet', 'wb') as copy:
        copy.write(file.read())

    def hub_source(name, dataset_config, dataset_split, revision=None, **_):
        return sources.Source(name, [f'memory://fineweb@{revision or newest}/0.parquet'])

    monkeypatch.setattr(sources, 'hub_source', hub_source)
    arguments = {'tokenizer': tokenizer_path, 'shard_tokens': 50_000}
    newest = commits[0]
    run(out_dir=str(tmp_path / 'whole'), **arguments)
    run(out_dir=str(tmp_path / 'stopped'), max_shards=2, **arguments)
    newest = commits[1]
    run(out_dir=str(tmp_path / 'stopped'), **arguments)
    assert files_of(tmp_path / 'stopped') == files_of(tmp_path / 'whole')


@pytest.mark.parametrize('large_group', [sources.LARGE_GROUP, 0])
def test_a_remote_table_is_read_in_the_order_of_its_rows(monkeypatch, parquet, large_group):
    import fsspec
    monkeypatch.setattr(sources, 'LARGE_GROUP', large_group)
    with open(parquet, 'rb') as file, fsspec.open('memory://table.parquet', 'wb') as copy:
        copy.write(file.read())
    for first_row, share in ((0, (0, 1, 1)), (350, (0, 1, 1)), (600, (1, 2, 3))):
        local, remote = (list(sources.read_table(path, 'text', first_row, share))
                         for path in (parquet, 'memory://table.parquet'))
        assert remote == local and local


def test_reading_goes_on_at_the_same_row_after_network_trouble(monkeypatch, parquet, capsys):
    read_table, failures = sources.read_table, itertools.count()

    def unreliable(path, *arguments):
        for n, block in enumerate(read_table(parquet, *arguments)):
            if n == 1 and next(failures) < 3:
                raise ConnectionResetError('by peer')
            yield block

    waits = []
    monkeypatch.setattr(sources, 'read_table', unreliable)
    monkeypatch.setattr(time, 'sleep', waits.append)
    rows = [row for rows, _, _ in sources.read_steadily('hf://table.parquet', 'text') for row in rows]
    assert rows == [row for rows, _, _ in read_table(parquet, 'text') for row in rows]
    assert waits == [1, 1, 1]  # a block came through between them
    assert 'the hub: ConnectionResetError: by peer; trying again in 1 s (1 of 8)' in capsys.readouterr().err


def test_lasting_network_trouble_is_one_line_after_growing_waits(monkeypatch):
    def dead(*arguments):
        raise TimeoutError('no answer')
        yield

    waits = []
    monkeypatch.setattr(sources, 'read_table', dead)
    monkeypatch.setattr(time, 'sleep', waits.append)
    with pytest.raises(BadInput, match='cannot be read, even after 8 more tries: .*no answer; run again to resume'):
        list(sources.read_steadily('hf://x.parquet', 'text'))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_ready_shards_do_not_go_into_a_folder_with_other_data(tmp_path, parquet, tokenizer_path):
    run(source=parquet, out_dir=str(tmp_path), tokenizer=tokenizer_path, shard_tokens=50_000)
    before = files_of(tmp_path)
    with pytest.raises(BadInput, match='already holds other data'):
        run(pretokenized=True, out_dir=str(tmp_path))
    assert files_of(tmp_path) == before


# ---------------------------------------------------------------------------- bad input

def bad_sources(tmp_path):
    (tmp_path / 'empty.parquet').write_bytes(b'')
    (tmp_path / 'noise.parquet').write_bytes(os.urandom(2000))
    (tmp_path / 'empty.jsonl').write_bytes(b'')
    (tmp_path / 'noise.jsonl').write_bytes(b'\x00\xff\xfe not json\n')
    (tmp_path / 'cut.jsonl.gz').write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    (tmp_path / 'column.jsonl').write_text('{"body": "a", "title": "b"}\n')
    (tmp_path / 'number.jsonl').write_text('{"text": 5}\n')
    pyarrow.parquet.write_table(pyarrow.table({'body': ['a'], 'title': ['b']}), tmp_path / 'column.parquet')
    pyarrow.parquet.write_table(pyarrow.table({'text': [1, 2]}), tmp_path / 'number.parquet')
    write_parquet(tmp_path / 'blank.parquet', ['', None])
    write_parquet(tmp_path / 'one.parquet', ['a single document'])
    (tmp_path / 'text.txt').write_text('hello\n')
    return {
        'empty.parquet': 'not a readable parquet file', 'noise.parquet': 'not a readable parquet file',
        'empty.jsonl': 'no documents', 'noise.jsonl': 'line 1: not JSON', 'cut.jsonl.gz': 'cut short or damaged',
        'column.jsonl': 'no column .text.*body, title', 'column.parquet': 'no column .text.*body, title',
        'number.jsonl': 'is int, not text', 'number.parquet': 'holds int64, not text', 'blank.parquet': 'no documents',
        'one.parquet': 'only one document', 'text.txt': 'corpus.py', 'missing.parquet': 'no file at'}


def test_each_bad_source_is_one_line_and_leaves_no_shard(tmp_path, tokenizer_path):
    for name, message in bad_sources(tmp_path).items():
        with pytest.raises(BadInput, match=message) as error:
            run(source=str(tmp_path / name), out_dir=str(tmp_path / 'out'), tokenizer=tokenizer_path)
        assert '\n' not in str(error.value), name
        left = os.listdir(tmp_path / 'out') if (tmp_path / 'out').exists() else []
        assert set(left) <= {'tokenizer.json'}, name


def test_other_settings_tokenizers_and_shards_are_refused(tmp_path, parquet, tokenizer_path, texts):
    out_dir = str(tmp_path / 'out')
    run(source=parquet, out_dir=out_dir, tokenizer=tokenizer_path, shard_tokens=50_000)
    with pytest.raises(BadInput, match='shard_tokens=50000, not 40000'):
        run(source=parquet, out_dir=out_dir, tokenizer=tokenizer_path, shard_tokens=40_000)
    same_path = str(tmp_path / 'same_path.json')
    shutil.copy(tokenizer_path, same_path)
    run(source=parquet, out_dir=str(tmp_path / 'two'), tokenizer=same_path, shard_tokens=50_000)
    Tokenizer.train(texts, 300).save(same_path)
    with pytest.raises(BadInput, match='another tokenizer'):
        run(source=parquet, out_dir=str(tmp_path / 'two'), tokenizer=same_path, shard_tokens=50_000)
    shards.write_shards([np.arange(9, dtype=np.uint16)], tmp_path / 'foreign', 'mine')
    with pytest.raises(BadInput, match='other shards'):
        run(source=parquet, out_dir=str(tmp_path / 'foreign'), tokenizer=tokenizer_path, shard_tokens=50_000)
