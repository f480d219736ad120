"""FineWeb-Edu -> shards: streamed from the hub, tokenized on all cores, stopped and continued at will.

    python fineweb.py                                      FineWeb-Edu's 10-billion-token sample -> data/fineweb
    python fineweb.py --sample=100BT --part=3/16           one of 16 jobs that work side by side on one folder
    python fineweb.py --source=dump/ --out_dir=data/dump   local parquet, jsonl or json.gz files instead
    python fineweb.py --pretokenized=True --max_shards=9   ready GPT-2 shards of FineWeb: 0.9 billion tokens, at once

The first shard is held out as val, the others are train; each has 100M tokens. Stopped at any moment
and run again, it resumes after the last whole shard, and the shards come out byte for byte as if it
had never been stopped: beside every shard, NAME_progress.json says at which row of which file the next
one starts. The parts of --part=K/N have no row in common and together all rows; the first holds the val
shard, each has its own progress file, and the folder is one data set without any merging. meta.json
comes when a part is done.

This module knows the hub, positions in the input and progress; reading tables is corpus.py's, the
format of shards shards.py's.
"""
import bisect
import collections
import functools
import glob
import os
import re
import sys
import time

import numpy as np
from tqdm import tqdm

import corpus
import shards
import sources
from bpe import open_tokenizer
from configurator import choice, configure, optional
from runtime.errors import BadInput, first_line, one_line_errors
from runtime.files import make_folder, read_json, sha256_of, atomic_write, write_json
from runtime.parallel import ordered_map

DEFAULTS = {
    'out_dir': 'data/fineweb',                    # folder for the shards
    'dataset': choice('fineweb-edu', 'fineweb'),  # FineWeb-Edu, or FineWeb itself
    'sample': choice('10BT', '100BT', '350BT', 'all'),  # so many tokens of it
    'source': optional(str),                      # local parquet, jsonl or json.gz (file, folder or glob), not the hub
    'text_column': 'text',                        # the column that holds the text
    'tokenizer': 'gpt2',                          # gpt2, a tokenizer.json, or a folder with encoder.json and vocab.bpe
    'part': '1/1',                                # K/N: only the K-th of N parts, K from 1
    'shard_tokens': shards.SHARD_TOKENS,          # tokens in a shard
    'max_shards': 0,                              # stop after so many train shards; 0 = all there is
    'pretokenized': False,                        # download ready shards of FineWeb in GPT-2's tokens (10 billion)
    'workers': 0,                                 # threads that tokenize; 0 = all cores
    'retries': 8,                                 # how often a failed download is tried again, ever more slowly
}

PRETOKENIZED = 'kjj0/fineweb10B-gpt2'
# What network libraries raise is told by where it is defined: they agree on no common class.
NETWORK_LIBRARIES = ('requests', 'urllib3', 'http', 'aiohttp', 'huggingface_hub', 'ssl', 'socket', 'hf_xet')

# A piece of the input, tokenized. rows[i] is the row of document i, whose tokens begin at starts[i].
Piece = collections.namedtuple('Piece', 'file rows starts tokens n_bytes done')


def main(config):
    if config['shard_tokens'] < 1:
        raise BadInput(f"shard_tokens={config['shard_tokens']} should be at least 1")
    if config['pretokenized']:
        return download_shards(config)
    part = parse_part(config['part'])
    base_name, files = find_input(config)
    tokenizer = open_tokenizer(config['tokenizer'])
    tokenizer_file = None if config['tokenizer'] == 'gpt2' else tokenizer.to_json().encode()
    meta = {
        **corpus.describe(tokenizer, tokenizer_file),
        'source': config['source'] or base_name,
        'settings': settings_of(files, part[1], config),
    }
    name = base_name if part[1] == 1 else f'{base_name}_part{part[0]:0{len(str(part[1]))}d}of{part[1]}'
    progress = load_progress(config['out_dir'], name, meta)
    if is_finished(progress, config['max_shards']) and os.path.exists(os.path.join(config['out_dir'], 'meta.json')):
        print(f"{config['out_dir']}: {name} is already made, with the same settings")
    else:
        prepare_folder(config['out_dir'], base_name, name, tokenizer_file)
        if not is_finished(progress, config['max_shards']):
            make_shards(name, files, part, tokenizer, progress, config)
        write_meta(config['out_dir'], name, progress, part)
    print(summary(name, progress, config))


def make_shards(name, files, part, tokenizer, progress, config):
    """Tokenizes from where `progress` stands, and writes shards and progress."""
    out_dir = config['out_dir']
    position = progress['shards'][-1]['next'] if progress['shards'] else {'file': 0, 'row': 0, 'skip': 0}
    pieces = tokenized(files, part, position, tokenizer, progress, config)
    first_is_val = part[0] == 1 and not progress['shards']
    for split, tokens, position in cut_into_shards(pieces, position['skip'], first_is_val, tokenizer.eot, config):
        file_name = f"{name}_{split}_{len(progress['shards']) + (part[0] > 1):06d}.bin"
        entry = shards.write_shard(os.path.join(out_dir, file_name), tokens)
        documents = int(np.count_nonzero(tokens == tokenizer.eot))
        progress['shards'].append({'file': file_name, **entry, 'documents': documents, 'next': position})
        write_json(progress_path(out_dir, name), progress)
        if is_finished(progress, config['max_shards']):
            break
    else:
        if not progress['shards'] and part[1] == 1:
            raise BadInput(f"there are no documents in {config['source'] or name}: nothing but empty text")
        progress['complete'] = True
        write_json(progress_path(out_dir, name), progress)


def write_meta(out_dir, name, progress, part):
    """meta.json: of a single part all there is to say, of several what they have in common."""
    written = {shard['file']: {'tokens': shard['tokens'], 'sha256': shard['sha256']} for shard in progress['shards']}
    meta = {**progress['meta'], 'shards': written if part[1] == 1 else {}}
    write_json(os.path.join(out_dir, 'meta.json'), meta, writer=name)


# ---------------------------------------------------------------------------- input

def find_input(config):
    """(name of the shards, paths or URLs of the input files)"""
    if config['source']:
        found = sources.find_source(config['source'])
        if found.kind != 'table':
            raise BadInput(f"{config['source']} holds no parquet, jsonl or json.gz files; corpus.py takes text files")
        return re.sub(r'[^A-Za-z0-9.-]+', '_', found.name).strip('_') or 'data', found.files
    name = f"HuggingFaceFW/{config['dataset']}"
    sample = 'default' if config['sample'] == 'all' else f"sample-{config['sample']}"
    revision = recorded_revision(config['out_dir'])
    found = with_retries(lambda: sources.hub_source(name, sample, 'train', revision), min(config['retries'], 2))
    return config['dataset'].replace('-', '_'), found.files


def recorded_revision(out_dir):
    """The commit of the data set that a folder's shards came from, or None: a run goes on with what it began with."""
    found = [read_json(path) for path in metadata_paths(out_dir)]
    return next((meta.get('meta', meta).get('settings', {}).get('revision') for meta in found), None)


def tokenized(files, part, position, tokenizer, progress, config):
    """Yields the part's rows from `position` on as Pieces, in order, tokenized on all cores, with a bar."""
    n_tokens, n_documents, n_bytes = sum(shard['tokens'] for shard in progress['shards']), 0, 0
    started = time.monotonic()
    bar_format = '{desc}{percentage:5.1f}%|{bar}| {elapsed}<{remaining}{postfix}'
    with tqdm(total=100, desc=f'part {part[0]} of {part[1]} ' if part[1] > 1 else '', bar_format=bar_format) as bar:
        tokenize = functools.partial(tokenize_piece, tokenizer)
        for piece in ordered_map(tokenize, read_pieces(files, part, position, config), config['workers']):
            if n_bytes == 0:
                bar.initial = bar.n = 100 * piece.done
            n_tokens += len(piece.tokens)
            n_documents += len(piece.rows)
            n_bytes += piece.n_bytes
            seconds = time.monotonic() - started
            bar.set_postfix_str(f'{n_tokens / 1e6:,.1f}M tokens, {n_documents / seconds:,.0f} documents/s, '
                                f'{n_bytes / 1e6 / seconds:.1f} MB/s', refresh=False)
            bar.update(100 * piece.done - bar.n)
            yield piece


def tokenize_piece(tokenizer, piece):
    file, rows, texts, done = piece
    filled = [(row, text) for row, text in zip(rows, texts) if text]
    tokens = corpus.encode_documents(tokenizer, [text for _, text in filled])
    n_bytes = sum(len(text.encode('utf-8', 'replace')) for _, text in filled)
    return Piece(file, [row for row, _ in filled], np.flatnonzero(tokens == tokenizer.eot), tokens, n_bytes, done)


def read_pieces(files, part, position, config):
    """Yields (index of the file, row numbers, texts, share of the part read so far), about 1 MB of text at a time.

    The files lie side by side as one line, which the N parts cut into equal lengths, so a part opens only the
    files it needs: of file i those n-ths that lie between F*(K-1) and F*K when every file is N long.
    """
    (k, n), n_files = part, len(files)
    for i in range(max(position['file'], n_files * (k - 1) // n), n_files):
        low, high = max(n_files * (k - 1) - i * n, 0), min(n_files * k - i * n, n)
        if low >= high:
            break
        first_row = position['row'] if i == position['file'] else 0
        for rows, texts, done in read_with_retries(files[i], first_row, (low, high, n), config):
            done = (i * n + low + done * (high - low) - n_files * (k - 1)) / n_files
            start, size = 0, 0
            for end, text in enumerate(texts, 1):
                size += len(text)
                if size >= corpus.PIECE_BYTES or end == len(texts):
                    yield i, rows[start:end], texts[start:end], done
                    start, size = end, 0


def read_with_retries(path, first_row, share, config):
    """sources.read_table, which goes on at the row where the network failed."""
    failures = 0
    while True:
        try:
            for rows, texts, done in sources.read_table(path, config['text_column'], first_row, share):
                yield rows, texts, done
                first_row, failures = rows[-1] + 1, 0
            return
        except Exception as error:
            failures += 1
            wait_after(error, failures, config['retries'], local='://' not in path)


def with_retries(function, retries):
    failures = 0
    while True:
        try:
            return function()
        except Exception as error:
            failures += 1
            wait_after(error, failures, retries)


def wait_after(error, failures, retries, local=False):
    """Waits before another try if it was the network's fault; otherwise raises the error."""
    if local or not is_network_trouble(error):
        raise error
    trouble = error.__cause__ or error  # the network's own error, not what we made of it
    if failures > retries:
        raise BadInput(f'the hub cannot be reached, even after {retries} more tries ('
                       f'{first_line(trouble)}); run again to resume after the last whole shard') from error
    seconds = min(60, 2 ** (failures - 1))
    tqdm.write(f'{type(trouble).__name__} from the hub, trying again in {seconds} s ({failures} of {retries})', file=sys.stderr)
    time.sleep(seconds)


def is_network_trouble(error):
    """Whether it may go away by itself: not what the hub itself refuses (no such file, no access)."""
    while error is not None:
        status = getattr(getattr(error, 'response', None), 'status_code', None)
        if status is not None and 400 <= status < 500 and status not in (408, 429):
            return False
        if isinstance(error, (ConnectionError, TimeoutError)):
            return True
        if any(cls.__module__.startswith(NETWORK_LIBRARIES) for cls in type(error).__mro__):
            return True
        error = error.__cause__
    return False


# ---------------------------------------------------------------------------- shards

def cut_into_shards(pieces, skip, first_is_val, eot, config):
    """Yields (split, tokens, position at which the next shard starts).

    skip: tokens at the start of the pieces that are in shards already.
    The val shard ends inside a document whose rest is left out: no document is in both splits.
    """
    size = config['shard_tokens']
    buffer, filled = np.empty(size, dtype=np.uint16), 0
    split = 'val' if first_is_val else 'train'
    position = None
    for piece in pieces:
        at = min(skip, len(piece.tokens))
        skip -= at
        while at < len(piece.tokens):
            taken = piece.tokens[at:at + size - filled]
            buffer[filled:filled + len(taken)] = taken
            filled, at = filled + len(taken), at + len(taken)
            if filled == size:
                at, position = position_at(piece, at, whole_documents=split == 'val')
                yield split, buffer, position
                split, filled = 'train', 0
        if piece.rows:
            position = {'file': piece.file, 'row': int(piece.rows[-1]) + 1, 'skip': 0}
    if split == 'val' and filled:  # all of it is less than one shard
        starts = np.flatnonzero(buffer[:filled] == eot)
        cut = int(starts[min(bisect.bisect_left(starts, filled // 10), len(starts) - 1)])
        if cut == 0:
            raise BadInput('there is only one document, so none to hold out')
        print(f'{filled:,} tokens are less than one shard: the first {cut:,} of them are held out')
        yield 'val', buffer[:cut], {'file': 0, 'row': 0, 'skip': cut}
        yield 'train', buffer[cut:filled], position
    elif filled:
        yield split, buffer[:filled], position


def position_at(piece, at, whole_documents):
    """(place to go on in piece.tokens, the same as a position in the input) when a shard is full at place `at`."""
    document = bisect.bisect_left(piece.starts, at)  # the first that starts at `at` or later
    is_inside = document == len(piece.starts) or piece.starts[document] != at
    if is_inside and not whole_documents and at < len(piece.tokens):
        document -= 1
        return at, {'file': piece.file, 'row': int(piece.rows[document]), 'skip': int(at - piece.starts[document])}
    if document == len(piece.starts):
        return len(piece.tokens), {'file': piece.file, 'row': int(piece.rows[-1]) + 1, 'skip': 0}
    return int(piece.starts[document]), {'file': piece.file, 'row': int(piece.rows[document]), 'skip': 0}


# ---------------------------------------------------------------------------- progress

def progress_path(out_dir, name):
    return os.path.join(out_dir, f'{name}_progress.json')


def metadata_paths(out_dir):
    """The files that say what a folder holds: meta.json and each part's progress, as far as they exist."""
    folder = glob.escape(out_dir)
    return glob.glob(os.path.join(folder, 'meta.json')) + glob.glob(progress_path(folder, '*'))


def load_progress(out_dir, name, meta):
    """{'meta', 'shards': [...], 'complete'} of this part up to the last of its whole shards in a row, or a new one.

    Raises BadInput if the folder holds something else than parts of the same data.
    """
    for path in metadata_paths(out_dir):
        other = read_json(path)
        check_same(path, other.get('meta', other), meta)
    progress = {'meta': meta, 'shards': [], 'complete': False}
    path = progress_path(out_dir, name)
    if os.path.exists(path):
        found = read_json(path)
        for shard in found['shards']:
            shard_path = os.path.join(out_dir, shard['file'])
            if not os.path.exists(shard_path) or shards.shard_size(shard_path) != shard['tokens']:
                break
            progress['shards'].append(shard)
        progress['complete'] = found['complete'] and len(progress['shards']) == len(found['shards'])
    return progress


def check_same(path, there, wanted):
    corpus.check_same_settings(os.path.dirname(path), there.get('settings', {}), wanted['settings'])
    if there['tokenizer_sha256'] != wanted['tokenizer_sha256']:
        raise BadInput(f'{path} was made with another tokenizer; take another --out_dir, or delete that folder first')


def settings_of(files, n_parts, config):
    """What the shards follow from. Parts of one data set agree on it."""
    keys = ('dataset', 'sample', 'source', 'text_column', 'tokenizer', 'shard_tokens')
    revision = re.search('@([0-9a-f]{40})/', files[0])
    return {**{key: config[key] for key in keys}, 'parts': n_parts, 'input_files': corpus.fingerprint(files),
            'revision': revision and revision[1]}


def is_finished(progress, max_shards):
    n_train = sum('_train_' in shard['file'] for shard in progress['shards'])
    return progress['complete'] or bool(max_shards) and n_train >= max_shards


def prepare_folder(out_dir, base_name, name, tokenizer_file):
    make_folder(out_dir)
    known = [entry for entry in os.listdir(out_dir) if entry.endswith('_progress.json') or entry == 'meta.json']
    others = [entry for entry in os.listdir(out_dir) if shards.SHARD_NAME.search(entry)]
    if others and not known and not others[0].startswith(base_name):
        raise BadInput(f'{out_dir} already holds other shards ({others[0]}); take another --out_dir')
    if tokenizer_file:
        with atomic_write(os.path.join(out_dir, 'tokenizer.json'), writer=name) as file:
            file.write(tokenizer_file)


def parse_part(text):
    """'3/16' -> (3, 16)"""
    match = re.fullmatch(r'(\d+)/(\d+)', text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise BadInput(f'--part={text} should be K/N with K from 1 to N: 1/16, 2/16, ... 16/16')
    return int(match[1]), int(match[2])


def summary(name, progress, config):
    n_tokens, n_documents = (sum(shard[key] for shard in progress['shards']) for key in ('tokens', 'documents'))
    n_shards = len(progress['shards'])
    line = f"{config['out_dir']}: {n_documents:,} documents, {n_tokens:,} tokens in {n_shards} shards of {name}"
    if progress['complete'] and n_shards:
        last = progress['shards'][-1]['tokens'] / config['shard_tokens']
        line += f'; the last shard is {last:.0%} full, that is all there is'
    return line


# ---------------------------------------------------------------------------- shards that others made

def download_shards(config):
    """Fetches ready shards from the hub; those that are there and whole are kept."""
    import huggingface_hub
    out_dir, retries = config['out_dir'], config['retries']
    names = with_retries(lambda: huggingface_hub.HfApi().list_repo_files(PRETOKENIZED, repo_type='dataset'), retries)
    by_split = {split: sorted(name for name in names if (match := shards.SHARD_NAME.search(name)) and match[1] == split)
                for split in ('val', 'train')}
    wanted = by_split['val'] + by_split['train'][:config['max_shards'] or None]
    entries = {}
    for name in tqdm(wanted, desc='downloading', unit='shard'):
        path = os.path.join(out_dir, name)
        fetch = functools.partial(huggingface_hub.hf_hub_download, PRETOKENIZED, name, repo_type='dataset',
                                  local_dir=out_dir)
        with_retries(fetch, retries)
        entries[name] = {'tokens': shards.shard_size(path), 'sha256': sha256_of(path)}
    meta = {**shards.GPT2_META, 'source': PRETOKENIZED, 'shards': entries}
    write_json(os.path.join(out_dir, 'meta.json'), meta)
    print(f"{out_dir}: {sum(entry['tokens'] for entry in entries.values()):,} tokens in {len(entries)} shards")


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
