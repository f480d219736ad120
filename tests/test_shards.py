import errno
import hashlib
import itertools
import json
import math
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shards
from bpe import Tokenizer
from runtime.errors import BadInput
from shards import BatchLoader, load_meta, load_tokenizer, read_shard, write_shards

EOT = 256


def llmc_file(tokens, magic=20240520, version=1, count=None):
    """A shard as llm.c's and modded-nanogpt's readers describe it, packed by hand."""
    header = struct.pack('<256i', magic, version, len(tokens) if count is None else count, *[0] * 253)
    return header + struct.pack(f'<{len(tokens)}H', *tokens)


def make_folder(folder, tokens, split='train', n_shards=1, vocab_size=None):
    """A folder of headered shards that together are `tokens`; the cuts are uneven."""
    folder.mkdir(exist_ok=True)
    cuts = [0, *sorted(1 + (len(tokens) - 1) * i * i // n_shards**2 for i in range(1, n_shards)), len(tokens)]
    for i, (start, stop) in enumerate(itertools.pairwise(cuts)):
        (folder / f'x_{split}_{i:06d}.bin').write_bytes(llmc_file(tokens[start:stop]))
    if vocab_size:
        meta = {'tokenizer': 'gpt2', 'tokenizer_sha256': None, 'vocab_size': vocab_size, 'eot': vocab_size - 1}
        (folder / 'meta.json').write_text(json.dumps(meta))
    return str(folder)


def sequences(loader, n):
    """The next n sequences of a loader as tuples of block_size + 1 tokens."""
    rows = []
    while len(rows) < n:
        x, y = loader.next()
        rows += [(*a, b[-1]) for a, b in zip(x.tolist(), y.tolist())]
    return rows[:n]


# ---------------------------------------------------------------------------- the format

def test_a_shard_has_the_bytes_that_llm_c_reads(tmp_path):
    write_shards([np.array([EOT, 1, 2, 50256], dtype=np.uint16)], tmp_path, 'x')
    assert (tmp_path / 'x_train_000001.bin').read_bytes() == llmc_file([EOT, 1, 2, 50256])


def test_their_shards_are_read_and_trained_on(tmp_path):
    tokens = list(range(1000))
    (tmp_path / 'fineweb_train_000001.bin').write_bytes(llmc_file(tokens))
    assert read_shard(tmp_path / 'fineweb_train_000001.bin').tolist() == tokens
    x, y = BatchLoader(str(tmp_path), 'train', 10, 4, seed=0).next()
    assert (y == x + 1).all()


def test_headerless_files_of_nanogpt_are_read_and_trained_on(tmp_path):
    tokens = np.arange(500, dtype='<u2')
    tokens.tofile(tmp_path / 'train.bin')
    tokens[:100].tofile(tmp_path / 'val.bin')
    assert read_shard(tmp_path / 'train.bin').tolist() == tokens.tolist()
    x, y = BatchLoader(str(tmp_path), 'train', 10, 4, seed=0).next()
    assert (y == x + 1).all()
    assert BatchLoader(str(tmp_path), 'val', 10, 4, seed=0).n_tokens == 100


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=20), st.integers(4, 60))
def test_shards_in_order_are_the_documents(tmp_path_factory, lengths, shard_tokens):
    folder = tmp_path_factory.mktemp('shards')
    documents = [np.array([EOT, *range(n)], dtype=np.uint16) for n in lengths]
    entries = write_shards(documents, folder, 'x', shard_tokens=shard_tokens)
    tokens = [read_shard(folder / name).tolist() for name in sorted(os.listdir(folder))]
    assert list(itertools.chain(*tokens)) == list(itertools.chain(*(document.tolist() for document in documents)))
    assert all(len(shard) == shard_tokens for shard in tokens[:-1])
    assert [entry['tokens'] for entry in entries.values()] == [len(shard) for shard in tokens]
    for name, entry in entries.items():
        assert entry['sha256'] == hashlib.sha256((folder / name).read_bytes()).hexdigest()


@settings(deadline=None)
@given(st.integers(0, 1024 + 2 * 20 - 1))
def test_a_shard_that_ends_anywhere_too_early_is_refused(tmp_path_factory, length):
    path = tmp_path_factory.mktemp('cut') / 'x_train_000001.bin'
    path.write_bytes(llmc_file(range(20))[:length])
    with pytest.raises(BadInput, match='cut short|not a token shard'):
        read_shard(path)


def test_surplus_bytes_another_magic_and_another_version_are_refused(tmp_path):
    path = tmp_path / 'x_train_000001.bin'
    for content, message in ((llmc_file([1]) + b'\0', 'damaged'), (llmc_file([1], magic=1), 'not a token shard'),
                             (llmc_file([1], version=7), 'version 7'), (b'', 'not a token shard')):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=message):
            read_shard(path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 25), st.booleans())
def test_cutting_goes_on_from_the_place_behind_any_shard(lengths, shard_tokens, masked):
    generator = np.random.default_rng(len(lengths))
    texts = [generator.integers(0, 300, n).astype(np.uint16) for n in lengths]

    def documents(number=0, skip=0):
        for n, tokens in enumerate(texts[number:], number):
            yield tokens, tokens % 2 == 0 if masked else None, {'number': n, 'skip': skip if n == number else 0}

    def cut(documents):
        return [(tokens.tolist(), counted.tolist() if masked else None, place)
                for tokens, counted, place in shards.cut_into_shards(documents, shard_tokens, masked)]

    whole = cut(documents())
    assert list(itertools.chain(*(tokens for tokens, _, _ in whole))) == list(itertools.chain(*(t.tolist() for t in texts)))
    for i, (_, _, place) in enumerate(whole):
        assert cut(documents(**place)) == whole[i + 1:]


def test_wider_tokens_are_refused_rather_than_wrapped_around(tmp_path):
    with pytest.raises(TypeError):
        write_shards([np.array([70_000])], tmp_path, 'x')
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_only_whole_shards(tmp_path, monkeypatch):
    real_fsync, calls = os.fsync, itertools.count()

    def full_on_the_second_shard(descriptor):
        if next(calls) == 2:  # file and folder of the first shard come before
            raise OSError(errno.ENOSPC, 'No space left on device')
        real_fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', full_on_the_second_shard)
    with pytest.raises(BadInput, match='disk is full'):
        write_shards([np.arange(25, dtype=np.uint16)], tmp_path, 'x', shard_tokens=10)
    assert os.listdir(tmp_path) == ['x_train_000001.bin']
    assert read_shard(tmp_path / 'x_train_000001.bin').tolist() == list(range(10))


# ---------------------------------------------------------------------------- the order of batches

def round_keys(seed):
    return list(np.random.SeedSequence(seed).generate_state(8, np.uint64))


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**32))
def test_shuffled_is_a_permutation_of_any_length(n, seed):
    assert sorted(shards.shuffled(np.arange(n), n, round_keys(seed)).tolist()) == list(range(n))


def test_shuffled_needs_no_memory_for_a_trillion_places():
    places = shards.shuffled(np.arange(1000), 10**12 + 39, round_keys(0))
    assert len(set(places.tolist())) == 1000
    assert 0 <= places.min() and places.max() < 10**12 + 39
    assert abs(places.mean() / 10**12 - 0.5) < 5 / math.sqrt(12 * 1000)


def test_every_order_of_four_is_as_likely_as_every_other():
    counts = {}
    for seed in range(4800):
        order = tuple(shards.shuffled(np.arange(4), 4, round_keys(seed)).tolist())
        counts[order] = counts.get(order, 0) + 1
    chi_square = sum((counts.get(order, 0) - 200)**2 / 200 for order in itertools.permutations(range(4)))
    assert chi_square < 57  # 23 degrees of freedom: exceeded by chance once in 10,000 tries


def test_neighbours_in_an_epoch_are_not_neighbours_in_the_stream():
    places = shards.shuffled(np.arange(10_000), 10_000, round_keys(1))
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.05
    assert (np.abs(np.diff(places)) == 1).mean() < 0.002


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(2, 400), st.integers(1, 20), st.integers(1, 7), st.integers(0, 2**40), st.integers(1, 5))
def test_each_epoch_takes_every_window_once(tmp_path_factory, n_tokens, block_size, batch_size, seed, n_shards):
    block_size = min(block_size, n_tokens - 1)
    data_dir = make_folder(tmp_path_factory.mktemp('d'), list(range(n_tokens)), n_shards=n_shards)
    loader = BatchLoader(data_dir, 'train', block_size, batch_size, seed)
    assert loader.n_tokens == n_tokens
    assert loader.n_sequences == max(1, (n_tokens - block_size) // block_size)
    rows = sequences(loader, 3 * loader.n_sequences)
    for epoch in range(3):
        taken = rows[epoch * loader.n_sequences:(epoch + 1) * loader.n_sequences]
        assert all(row == tuple(range(row[0], row[0] + block_size + 1)) for row in taken)  # slices of the stream
        starts = sorted(row[0] for row in taken)
        assert starts == list(range(starts[0], starts[0] + len(starts) * block_size, block_size))


def test_epochs_differ_and_together_reach_every_token(tmp_path):
    loader = BatchLoader(make_folder(tmp_path / 'd', list(range(1003))), 'train', 50, 19, seed=5)
    epochs = [sequences(loader, loader.n_sequences) for _ in range(600)]
    assert len({tuple(row[0] for row in epoch) for epoch in epochs}) == 600
    assert len({min(row[0] for row in epoch) for epoch in epochs}) > 20
    assert {token for epoch in epochs for row in epoch for token in row} == set(range(1003))
    assert loader.epoch == 600


def test_the_seed_alone_decides_the_order(tmp_path):
    data_dir = make_folder(tmp_path / 'd', list(range(2000)))
    orders = [sequences(BatchLoader(data_dir, 'train', 16, 4, seed), 124) for seed in (1, 1, 2, -1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != orders[3] != orders[0]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([(1, 12), (2, 6), (4, 3), (1, 4), (2, 2), (12, 1), (3, 1)]), st.integers(0, 1000),
       st.integers(0, 9))
def test_processes_and_micro_batches_do_not_change_a_steps_sequences(tmp_path_factory, shape, step, seed):
    world_size, batch_size = shape
    data_dir = make_folder(tmp_path_factory.mktemp('d'), list(range(700)), n_shards=3)
    whole = BatchLoader(data_dir, 'train', 8, 12, seed)
    whole.seek(12 * step)
    expected = sequences(whole, 12)
    loaders = [BatchLoader(data_dir, 'train', 8, batch_size, seed, rank, world_size) for rank in range(world_size)]
    seen = []
    for loader in loaders:
        loader.seek(12 * step)
    while len(seen) < 12:
        for loader in loaders:
            seen += sequences(loader, batch_size)
    assert seen == expected
    assert {loader.sequence_index for loader in loaders} == {whole.sequence_index}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 300), st.sampled_from(['train', 'val']))
def test_seeking_is_the_same_as_having_walked_there(tmp_path_factory, n_batches, split):
    data_dir = make_folder(tmp_path_factory.mktemp('d'), list(range(300)), split)
    walked, jumped = (BatchLoader(data_dir, split, 7, 3, seed=11) for _ in range(2))
    for _ in range(n_batches):
        walked.next()
    jumped.seek(3 * n_batches)
    assert sequences(jumped, 9) == sequences(walked, 9)


def test_val_is_read_in_order_from_the_start_whatever_the_seed(tmp_path):
    data_dir = make_folder(tmp_path / 'd', list(range(101)), 'val', n_shards=3)
    for seed in (0, 1):
        loader = BatchLoader(data_dir, 'val', 10, 4, seed)
        assert loader.n_sequences == 10
        assert [row[0] for row in sequences(loader, 12)] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 0, 10]


def test_batches_are_contiguous_int64_and_y_is_x_one_token_later(tmp_path):
    loader = BatchLoader(make_folder(tmp_path / 'd', list(range(1000))), 'train', 16, 4, seed=0)
    for tensor in loader.next():
        assert str(tensor.dtype) == 'torch.int64' and tensor.shape == (4, 16) and tensor.is_contiguous()


def test_more_shards_than_may_be_open_are_read(tmp_path, monkeypatch):
    tokens = list(range(3000))
    few = BatchLoader(make_folder(tmp_path / 'few', tokens), 'train', 16, 4, seed=3)
    monkeypatch.setattr(shards, 'OPEN_FILES', 2)
    many = BatchLoader(make_folder(tmp_path / 'many', tokens, n_shards=40), 'train', 16, 4, seed=3)
    assert sequences(few, 400) == sequences(many, 400)


# ---------------------------------------------------------------------------- bad data

@pytest.mark.parametrize('name, command', [
    ('stdlib', 'config/demo.py needs {}: python corpus.py --source=stdlib --vocab_size=4096 --out_dir={}'),
    ('gsm8k', 'config/finetune_math.py needs {}: python -m tasks.prepare_problems --source=gsm8k --tokenizer=gpt2 --out_dir={}'),
    ('other', 'this makes one: python corpus.py --source=TEXTS --vocab_size=4096 --out_dir={}')])
def test_missing_data_names_the_script_that_makes_it(tmp_path, name, command):
    for made in (False, True):
        if made:
            (tmp_path / name).mkdir()
        with pytest.raises(BadInput) as error:
            BatchLoader(str(tmp_path / name), 'train', 8, 1, seed=0)
        assert str(error.value).endswith(command.format(*[tmp_path / name] * 2))
    with pytest.raises(BadInput, match=' --tokenizer=a/tokenizer.json --out_dir='):
        shards.find_shards(str(tmp_path / 'stdlib'), 'train', 'a/tokenizer.json')


def test_data_shorter_than_a_block_says_the_largest_block_that_works(tmp_path):
    data_dir = make_folder(tmp_path / 'd', list(range(30)))
    with pytest.raises(BadInput, match='--block_size=29 at most'):
        BatchLoader(data_dir, 'train', 30, 1, seed=0)
    assert sequences(BatchLoader(data_dir, 'train', 29, 1, seed=0), 1) == [tuple(range(30))]


@pytest.mark.parametrize('scan_limit', [shards.SCAN_LIMIT, 0])
def test_an_id_outside_the_vocabulary_is_found(tmp_path, monkeypatch, scan_limit):
    monkeypatch.setattr(shards, 'SCAN_LIMIT', scan_limit)
    data_dir = make_folder(tmp_path / 'd', [1] * 70 + [300] + [1] * 50, n_shards=2, vocab_size=300)
    with pytest.raises(BadInput, match=r'x_train_000001\.bin: token 39 is id 300, but the vocabulary .* 300 entries'):
        sequences(BatchLoader(data_dir, 'train', 8, 2, seed=0), 40)


def test_shards_without_meta_are_said_to_be_taken_for_gpt2s(tmp_path, capsys):
    data_dir = make_folder(tmp_path / 'd', list(range(30)))
    assert load_meta(data_dir)['vocab_size'] == 50257
    assert "taken for GPT-2's" in capsys.readouterr().err


@pytest.mark.parametrize('with_text', [False, True])
def test_characters_of_nanogpt_are_not_taken_for_gpt2s_tokens(tmp_path, with_text):
    for split in ('train', 'val'):
        np.arange(50, dtype=np.uint16).tofile(tmp_path / f'{split}.bin')
    (tmp_path / 'meta.pkl').write_bytes(pickle.dumps({'vocab_size': 50, 'itos': {}, 'stoi': {}}))
    if with_text:
        (tmp_path / 'input.txt').touch()
    with pytest.raises(BadInput, match='meta.pkl: its tokens are characters') as error:
        shards.BatchLoader(str(tmp_path), 'train', 8, 1, seed=0)
    assert f'--source={tmp_path / "input.txt" if with_text else "TEXT"} --vocab_size=257' in str(error.value)


def test_a_tokenizer_without_meta_marks_an_unfinished_folder(tmp_path):
    data_dir = make_folder(tmp_path / 'd', list(range(30)))
    (tmp_path / 'd' / 'tokenizer.json').write_text('{}')
    with pytest.raises(BadInput, match='unfinished'):
        BatchLoader(data_dir, 'train', 8, 1, seed=0)


def test_progress_files_of_several_jobs_add_up_to_one_data_set(tmp_path):
    meta = {'tokenizer': 'gpt2', 'tokenizer_sha256': None, 'vocab_size': 300, 'eot': 299}
    for part in (1, 2):
        (tmp_path / f'x_part{part}of2_train_000001.bin').write_bytes(llmc_file(range(100 * part, 100 * part + 50)))
        shard = {'file': f'x_part{part}of2_train_000001.bin', 'tokens': 50, 'sha256': str(part), 'mask_sha256': 'm', 'next': {},
                 'documents': 1}
        progress = {'meta': meta, 'shards': [shard], 'complete': True}
        (tmp_path / f'x_part{part}of2_progress.json').write_text(json.dumps(progress))
    assert load_meta(str(tmp_path))['shards'] == {f'x_part{part}of2_train_000001.bin': {
        'tokens': 50, 'sha256': str(part), 'mask_sha256': 'm'} for part in (1, 2)}
    for part in (1, 2):
        (tmp_path / f'x_part{part}of2_train_000001.mask').write_bytes(b'\xff' * 7)
    loader = BatchLoader(str(tmp_path), 'train', 49, 1, seed=0)
    assert loader.n_tokens == 100 and loader.vocab_size == 300
    other = json.loads((tmp_path / 'x_part2of2_progress.json').read_text())
    other['meta']['tokenizer_sha256'] = 'other'
    (tmp_path / 'x_part2of2_progress.json').write_text(json.dumps(other))
    with pytest.raises(BadInput, match='another tokenizer'):
        load_meta(str(tmp_path))


@pytest.mark.parametrize('content', ['', '[]', '{', '{}', '{"vocab_size": 5}'])
def test_a_damaged_meta_is_one_clear_error(tmp_path, content):
    data_dir = make_folder(tmp_path / 'd', list(range(30)))
    (tmp_path / 'd' / 'meta.json').write_text(content)
    with pytest.raises(BadInput, match='meta.json'):
        BatchLoader(data_dir, 'train', 8, 1, seed=0)


# ---------------------------------------------------------------------------- checking a folder

@pytest.fixture
def folder(data_dir, tmp_path):
    """A copy of the shared small data folder, to be damaged."""
    copy = tmp_path / 'copy'
    copy.mkdir()
    for name in os.listdir(data_dir):
        with open(os.path.join(data_dir, name), 'rb') as file:
            (copy / name).write_bytes(file.read())
    return copy


def test_a_sound_folder_is_counted_and_shown(folder):
    tokens = np.concatenate([np.fromfile(path, '<u2')[512:] for path in sorted(folder.glob('*_train_*.bin'))])
    tokenizer = load_tokenizer(str(folder))
    eot = tokenizer.eot
    text = tokenizer.decode(tokens[tokens != eot])
    random.seed(1)  # decides which document is shown
    report = shards.check_folder(str(folder)).splitlines()
    split, n_shards, _, n_tokens, _, n_targets, _, n_documents, _, bytes_per_token, _ = report[1].replace(',', '').split()
    assert (split, int(n_shards), int(n_tokens)) == ('train', len(list(folder.glob('*_train_*.bin'))), len(tokens))
    assert int(n_targets) == len(tokens) and int(n_documents) == (tokens == eot).sum()
    assert float(bytes_per_token) == pytest.approx(len(text.encode()) / (tokens != eot).sum(), abs=5e-4)
    shown = '\n'.join(report[5:])
    assert 0 < len(shown) <= 200 and shown in text


def test_every_kind_of_damage_is_found(folder):
    shard = sorted(folder.glob('*_train_*.bin'))[0]
    whole = shard.read_bytes()

    def complaint():
        with pytest.raises(BadInput) as error:
            shards.check_folder(str(folder))
        assert '\n' not in str(error.value)
        return str(error.value)

    shard.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    assert 'sha256' in complaint()
    shard.write_bytes(whole[:-2])
    assert 'cut short' in complaint()
    shard.write_bytes(whole[:5000] + b'\xff\xff' + whole[5002:])
    assert 'is id 65535' in complaint()
    shard.unlink()
    assert f'{shard.name} is missing' in complaint()
    shard.write_bytes(whole)
    (folder / 'other_train_000001.bin').write_bytes(llmc_file([1, 2]))
    assert 'other_train_000001.bin is not in meta.json' in complaint()
    (folder / 'other_train_000001.bin').unlink()
    tokenizer = (folder / 'tokenizer.json').read_text()
    (folder / 'tokenizer.json').write_text(tokenizer + ' ')
    assert 'is not the tokenizer' in complaint()
    (folder / 'tokenizer.json').unlink()
    assert 'tokenizer.json is missing' in complaint()


@pytest.mark.slow
def test_the_command_line_ends_with_2_on_damage(folder):
    def run(*arguments):
        script = os.path.join(os.path.dirname(shards.__file__), 'shards.py')
        return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)

    positional, flag = run(str(folder)), run(f'--data_dir={folder}')
    assert positional.returncode == flag.returncode == 0
    assert positional.stdout.splitlines()[:3] == flag.stdout.splitlines()[:3] and 'bytes/token' in flag.stdout
    next(iter(folder.glob('*_val_*.bin'))).write_bytes(b'cut')
    damaged = run(str(folder))
    assert damaged.returncode == 2 and damaged.stdout == ''
    assert damaged.stderr.splitlines()[-1].startswith('shards.py: ')
    missing = run(str(folder / 'nowhere'))
    assert missing.returncode == 2 and missing.stderr.startswith('shards.py: no data folder')


# ---------------------------------------------------------------------------- masks

@pytest.fixture
def masked(tmp_path):
    """Three shards of 1,000 tokens in all, with masks, and which of the tokens count."""
    generator = np.random.default_rng(0)
    tokens, counted = generator.integers(0, 300, 1000).astype(np.uint16), generator.random(1000) < 0.6
    cuts = [*range(0, 1000, 37), 1000]
    documents = [(tokens[a:b], counted[a:b]) for a, b in itertools.pairwise(cuts)]
    entries = write_shards(documents, tmp_path, 'x', shard_tokens=403, masked=True)
    entries |= write_shards(documents, tmp_path, 'x', 'val', first=0, masked=True)
    meta = {'tokenizer': 'gpt2', 'tokenizer_sha256': None, 'vocab_size': 50257, 'eot': 50256, 'shards': entries}
    (tmp_path / 'meta.json').write_text(json.dumps(meta))
    return str(tmp_path), tokens.astype(np.int64), counted


@pytest.mark.parametrize('split', ['train', 'val'])
def test_targets_that_a_mask_leaves_out_are_minus_one(masked, split):
    data_dir, tokens, counted = masked
    loader = BatchLoader(data_dir, split, 16, 3, seed=1)
    starts = loader.window_starts(np.arange(60))
    for first in range(0, 60, 3):
        n_targets = loader.count_targets(3)
        x, y = loader.next()
        for row, start in enumerate(starts[first:first + 3]):
            assert x[row].tolist() == tokens[start:start + 16].tolist()
            assert y[row].tolist() == np.where(counted, tokens, -1)[start + 1:start + 17].tolist()
        assert n_targets == int((y != -1).sum())


def test_without_masks_every_target_counts(masked):
    data_dir, tokens, _ = masked
    with_masks = BatchLoader(data_dir, 'train', 16, 3, seed=1)
    x_masked, y_masked = with_masks.next()
    for name in os.listdir(data_dir):
        if name.endswith('.mask'):
            os.remove(os.path.join(data_dir, name))
    meta = load_meta(data_dir)
    meta['shards'] = {name: {key: entry[key] for key in ('tokens', 'sha256')} for name, entry in meta['shards'].items()}
    with open(os.path.join(data_dir, 'meta.json'), 'w') as file:
        json.dump(meta, file)
    loader = BatchLoader(data_dir, 'train', 16, 3, seed=1)
    assert with_masks.masked and not loader.masked and loader.count_targets(5) == 80
    x, y = loader.next()
    assert (x == x_masked).all() and (y != -1).all() and (y_masked[y_masked != -1] == y[y_masked != -1]).all()


def test_a_mask_holds_a_bit_a_token_the_first_being_the_lowest(tmp_path):
    counted = np.array([True, False, False, True, False, False, False, False, False, True])
    write_shards([(np.arange(10, dtype=np.uint16), counted)], tmp_path, 'x', masked=True)
    assert (tmp_path / 'x_train_000001.mask').read_bytes() == bytes([0b1001, 0b10])


@pytest.mark.slow
@pytest.mark.parametrize('damage, word', [
    (lambda path: path.unlink(), 'is missing'), (lambda path: path.write_bytes(path.read_bytes()[:-1]), 'cut short'),
    (lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]), 'has changed')])
def test_a_mask_that_is_missing_cut_or_changed_is_found(masked, damage, word, test_data, monkeypatch):
    monkeypatch.setattr(shards, 'load_tokenizer', lambda *_: Tokenizer.gpt2(test_data / 'gpt2'))
    data_dir, _, counted = masked
    assert f'{counted.sum():,}' in shards.check_folder(data_dir)
    damage(pathlib.Path(data_dir) / 'x_train_000002.mask')
    with pytest.raises(BadInput, match=word):
        shards.check_folder(data_dir)
    if word != 'has changed':
        with pytest.raises(BadInput, match=word):
            BatchLoader(data_dir, 'train', 16, 3, seed=1).read_counted(0, 1000)


def test_tokens_and_mask_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(TypeError, match='10 tokens'):
        write_shards([(np.arange(10, dtype=np.uint16), np.ones(9, dtype=bool))], tmp_path, 'x', masked=True)


def test_a_folder_that_is_none_of_shards_is_told_what_it_is(tmp_path):
    (tmp_path / 'texts').mkdir()
    (tmp_path / 'texts' / 'a.txt').write_text('text')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'ckpt_0000001.pt').write_bytes(b'')
    (tmp_path / 'data' / 'x').mkdir(parents=True)
    (tmp_path / 'data' / 'x' / 'x_train_000000.bin').write_bytes(b'')
    for name, words in (('texts', f'python corpus.py --source={tmp_path}/texts'), ('run', 'is the folder of a run'),
                        ('data', f'there is data in {tmp_path}/data/x')):
        with pytest.raises(BadInput, match='no train shards') as refused:
            shards.find_shards(str(tmp_path / name), 'train')
        assert words in str(refused.value)
