"""FineWeb-Edu -> shards: streamed from the hub, tokenized on all cores, stopped and continued at will.

    python fineweb.py                                      FineWeb-Edu's 10-billion-token sample -> data/fineweb
    python fineweb.py --sample=100BT --part=3/16           one of 16 jobs that work side by side on one folder
    python fineweb.py --source=dump/ --out_dir=data/dump   local parquet, jsonl or json.gz files instead
    python fineweb.py --pretokenized=True --max_shards=9   ready GPT-2 shards of FineWeb: 0.9 billion tokens, at once

The first shard is held out as val, the others are train; each has 100M tokens. Stopped at any moment and run again, it
resumes after the last whole shard, and the shards are byte for byte those of a run without a stop: beside the shards,
NAME_progress.json says for each at which row of which file the next one begins. The parts of --part=K/N have no row in
common and together all rows; the first holds the val shard, each has its own progress file, and the folder is one data
set without any merging. meta.json comes when a part is done.

This script knows the hub's troubles and which rows belong to which part; sources.py reads tables, data_folder.py keeps
the progress, shards.py cuts and writes.
"""
import functools
import glob
import itertools
import os
import re
import sys
import time

import numpy as np
from tqdm import tqdm

import shards
import sources
from bpe import open_tokenizer
from configurator import choice, configure, optional
from data_folder import (
    PIECE_CHARACTERS,
    Progress,
    check_same_settings,
    describe,
    encode_document,
    file_name_of,
    fingerprint,
    prepare_folder,
)
from runtime.errors import BadInput, first_line, one_line_errors
from runtime.files import read_json, sha256_of, write_json
from runtime.parallel import in_pieces, ordered_map

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


def main(config):
    if config['shard_tokens'] < 1:
        raise BadInput(f"shard_tokens={config['shard_tokens']} should be at least 1")
    if config['pretokenized']:
        return download_shards(config)
    out_dir, part = config['out_dir'], parse_part(config['part'])
    base_name, files = find_input(config)
    name = base_name if part[1] == 1 else f'{base_name}_part{part[0]:0{len(str(part[1]))}d}of{part[1]}'
    tokenizer = open_tokenizer(config['tokenizer'])
    tokenizer_file = None if config['tokenizer'] == 'gpt2' else tokenizer.to_json().encode()
    meta = {**describe(tokenizer, tokenizer_file), 'source': config['source'] or base_name,
            'settings': settings_of(files, part[1], config)}
    check_same_data(out_dir, meta)
    path = os.path.join(out_dir, f'{name}_progress.json')
    progress = Progress.load(path) or Progress(path, meta)
    if is_finished(progress, config) and os.path.exists(os.path.join(out_dir, 'meta.json')):
        print(f'{out_dir}: {name} is already made, with the same settings')
    else:
        prepare_folder(out_dir, base_name, tokenizer_file, job=name)
        if not is_finished(progress, config):
            write_part(name, files, part, tokenizer, progress, config)
        # Several parts have in common what meta.json says; their shards are in the progress files.
        entries = progress.entries() if part[1] == 1 else {}
        write_json(os.path.join(out_dir, 'meta.json'), {**progress.meta, 'shards': entries}, writer=name)
    print(summary(name, progress, config))


def write_part(name, files, part, tokenizer, progress, config):
    """Tokenizes from where `progress` stands, and writes shards up to the end of the part or --max_shards."""
    documents = tokenized(files, part, progress, tokenizer, config)
    if part[0] == 1 and not progress.shards:
        tokens, place, documents = hold_out(documents, config['shard_tokens'])
        if tokens is None and part[1] == 1:
            raise BadInput(f"there are no documents in {config['source'] or name}: nothing but empty text")
        if tokens is not None:
            progress.write_shard(name, 'val', tokens, place)
    for tokens, _, place in shards.cut_into_shards(documents, config['shard_tokens']):
        progress.write_shard(name, 'train', tokens, place)
        if is_finished(progress, config):
            return
    progress.complete = True
    progress.save()


def hold_out(documents, size):
    """(tokens of the val shard, place in the input at which train begins, the documents from there on).

    The val shard ends inside a document whose rest is left out: no document is in both splits. If all documents together
    are less than one shard, the first tenth of them is held out; with no documents, the tokens are None.
    """
    head, n_tokens = [], 0
    for document in documents:
        head.append(document)
        n_tokens += len(document[0])
        if n_tokens >= size:
            break
    rest = []
    if 0 < n_tokens < size:
        starts = np.cumsum([0, *(len(tokens) for tokens, _, _ in head[:-1])])
        n_held_out = min(int(np.searchsorted(starts, n_tokens // 10)), len(head) - 1)
        if n_held_out == 0:
            raise BadInput('there is only one document, so none to hold out')
        print(f'{n_tokens:,} tokens are less than one shard: the first {starts[n_held_out]:,} of them are held out')
        head, rest = head[:n_held_out], head[n_held_out:]
    if not head:
        return None, None, documents
    last = head[-1][2]
    tokens = np.concatenate([tokens for tokens, _, _ in head])[:size]
    return tokens, {**last, 'row': last['row'] + 1, 'skip': 0}, itertools.chain(rest, documents)


# ---- input ------------------------------------------------------------------------------------------


def find_input(config):
    """(name of the shards, paths or URLs of the input files)"""
    if config['source']:
        found = sources.find_source(config['source'])
        if found.kind != 'table':
            raise BadInput(f"{config['source']} holds no parquet, jsonl or json.gz files; corpus.py takes text files")
        return file_name_of(found.name) or 'data', found.files
    name = f"HuggingFaceFW/{config['dataset']}"
    sample = 'default' if config['sample'] == 'all' else f"sample-{config['sample']}"
    revision = recorded_revision(config['out_dir'])
    found = with_retries(lambda: sources.hub_source(name, sample, 'train', revision), min(config['retries'], 2))
    return config['dataset'].replace('-', '_'), found.files


def recorded_revision(out_dir):
    """The commit of the dataset that a folder's shards came from, or None: a run goes on with what it began with."""
    return next((meta.get('settings', {}).get('revision') for _, meta in recorded_meta(out_dir)), None)


def tokenized(files, part, progress, tokenizer, config):
    """Yields the part's documents for cut_into_shards, tokenized on all cores, from where `progress` stands, with a bar."""
    resumed_at = progress.next or {'file': 0, 'row': 0, 'skip': 0}
    n_tokens, n_documents, n_bytes = sum(shard['tokens'] for shard in progress.shards), 0, 0

    def tokenize(piece):
        file, documents, done = piece
        return file, done, [(row, encode_document(tokenizer, text), len(text.encode('utf-8', 'replace')))
                            for row, text in documents if text]

    started = time.monotonic()
    bar_format = '{desc}{percentage:5.1f}%|{bar}| {elapsed}<{remaining}{postfix}'
    with tqdm(total=100, desc=f'part {part[0]} of {part[1]} ' if part[1] > 1 else '', bar_format=bar_format) as bar:
        for file, done, documents in ordered_map(tokenize, read_pieces(files, part, resumed_at, config), config['workers']):
            if n_bytes == 0:
                bar.initial = bar.n = 100 * done
            n_tokens += sum(len(tokens) for _, tokens, _ in documents)
            n_documents += len(documents)
            n_bytes += sum(size for _, _, size in documents)
            seconds = time.monotonic() - started
            bar.set_postfix_str(f'{n_tokens / 1e6:,.1f}M tokens, {n_documents / seconds:,.0f} documents/s, '
                                f'{n_bytes / 1e6 / seconds:.1f} MB/s', refresh=False)
            bar.update(100 * done - bar.n)
            for row, tokens, _ in documents:
                is_begun = (file, row) == (resumed_at['file'], resumed_at['row'])
                yield tokens, None, {'file': file, 'row': row, 'skip': resumed_at['skip'] if is_begun else 0}


def read_pieces(files, part, position, config):
    """Yields (index of the file, [(row number, text)], share of the part read so far), about 1 MB of text at a time.

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
            for documents in in_pieces(zip(rows, texts), PIECE_CHARACTERS, length=lambda document: len(document[1])):
                yield i, documents, done


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


# ---- the folder -------------------------------------------------------------------------------------


def check_same_data(out_dir, meta):
    """Raises BadInput if the folder holds something else than parts of the same data."""
    for path, recorded in recorded_meta(out_dir):
        check_same_settings(out_dir, recorded.get('settings', {}), meta['settings'])
        if recorded['tokenizer_sha256'] != meta['tokenizer_sha256']:
            raise BadInput(f'{path} was made with another tokenizer; take another --out_dir, or delete that folder first')


def recorded_meta(out_dir):
    """[(path, meta)] of meta.json and of each part's progress, as far as they exist."""
    folder = glob.escape(out_dir)
    paths = glob.glob(os.path.join(folder, 'meta.json')) + glob.glob(os.path.join(folder, '*_progress.json'))
    found = [(path, read_json(path)) for path in paths]
    return [(path, content.get('meta', content)) for path, content in found]


def settings_of(files, n_parts, config):
    """What the shards follow from. Parts of one data set agree on it."""
    keys = ('dataset', 'sample', 'source', 'text_column', 'tokenizer', 'shard_tokens')
    revision = re.search('@([0-9a-f]{40})/', files[0])
    return {**{key: config[key] for key in keys}, 'parts': n_parts, 'input_files': fingerprint(files),
            'revision': revision and revision[1]}


def is_finished(progress, config):
    return progress.complete or bool(config['max_shards']) and progress.count('train') >= config['max_shards']


def parse_part(text):
    """'3/16' -> (3, 16)"""
    match = re.fullmatch(r'(\d+)/(\d+)', text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise BadInput(f'--part={text} should be K/N with K from 1 to N: 1/16, 2/16, ... 16/16')
    return int(match[1]), int(match[2])


def summary(name, progress, config):
    n_tokens, n_documents = (sum(shard[key] for shard in progress.shards) for key in ('tokens', 'documents'))
    line = f"{config['out_dir']}: {n_documents:,} documents, {n_tokens:,} tokens in {len(progress.shards)} shards of {name}"
    if progress.complete and progress.shards:
        last = progress.shards[-1]['tokens'] / config['shard_tokens']
        line += f'; the last shard is {last:.0%} full, that is all there is'
    return line


# ---- shards that others made ------------------------------------------------------------------------


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
