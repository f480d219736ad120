"""FineWeb-Edu -> shards: streamed from the hub, tokenized on all cores, stopped and continued at will.

    python fineweb.py                                      FineWeb-Edu's 10-billion-token sample -> data/fineweb
    python fineweb.py --sample=100BT --part=3/16           one of 16 jobs that work side by side on one folder
    python fineweb.py --source=dump/ --out_dir=data/dump   local parquet, jsonl or json.gz files instead
    python fineweb.py --pretokenized=True --max_shards=9   ready GPT-2 shards of FineWeb: 0.9 billion tokens, at once

The first shard is held out as val, the others are train; each has 100M tokens. Stopped at any moment and run again, it
resumes after the last whole shard, and the shards are byte for byte those of a run without a stop: NAME_progress.json says
for each at which row of which file the next one begins. The parts of --part=K/N have no row in common and together all
rows; each has its own progress file, and the folder is one data set without any merging.
"""
import glob
import itertools
import os
import re
import time

import numpy as np
from tqdm import tqdm

import shards
import sources
from configurator import check_bounds, choice, configure, optional, shorten
from data_folder import (
    MAX_WORKERS,
    Progress,
    check_same_settings,
    describe,
    file_name_of,
    fingerprint,
    named_tokenizer,
    prepare_folder,
    tokenized,
)
from runtime import hub
from runtime.errors import BadInput, one_line_errors
from runtime.files import read_json, sha256_of, write_json
from runtime.words import plural

DEFAULTS = {
    'out_dir': 'data/fineweb',                    # folder for the shards
    'dataset': choice('fineweb-edu', 'fineweb'),  # FineWeb-Edu, or FineWeb itself
    'sample': choice('10BT', '100BT', '350BT', 'all'),  # so many tokens of it
    'source': optional(str),                      # local parquet, jsonl or json.gz (file, folder or glob), not the hub
    'text_column': 'text',                        # the column that holds the text
    'tokenizer': 'gpt2',                          # gpt2, a tokenizer.json, or a folder with encoder.json and vocab.bpe
    'max_expansion': sources.MAX_EXPANSION,       # times its size that a file may become (above 32 MB); 0 = any
    'part': '1/1',                                # K/N: only the K-th of N parts, K from 1
    'shard_tokens': shards.SHARD_TOKENS,          # tokens in a shard
    'max_shards': 0,                              # stop after so many train shards; 0 = all there is
    'pretokenized': False,                        # download ready shards of FineWeb in GPT-2's tokens (10 billion)
    'workers': 0,                                 # threads that tokenize; 0 = all cores
    'retries': sources.RETRIES,                   # how often a failed read is tried again, after ever longer waits
}

PRETOKENIZED = 'kjj0/fineweb10B-gpt2'


def main(config):
    check_bounds(config, 'shard_tokens', at_least=1, at_most=shards.MAX_SHARD_TOKENS)
    check_bounds(config, 'max_shards', 'retries', 'max_expansion', at_least=0)
    check_bounds(config, 'workers', at_least=0, at_most=MAX_WORKERS)
    if config['pretokenized']:
        return download_shards(config)
    out_dir, part = config['out_dir'], parse_part(config['part'])
    recorded = recorded_meta(out_dir)
    base_name, files = find_input(config, recorded.get('settings', {}).get('revision'))
    name = base_name if part[1] == 1 else f'{base_name}_part{part[0]:0{len(str(part[1]))}d}of{part[1]}'
    tokenizer, tokenizer_file = named_tokenizer(config['tokenizer'])
    meta = {**describe(tokenizer, tokenizer_file), 'source': config['source'] or base_name,
            'settings': settings_of(files, part[1], config)}
    if recorded:
        check_same_settings(out_dir, recorded.get('settings', {}), meta['settings'])
        if recorded['tokenizer_sha256'] != meta['tokenizer_sha256']:
            raise BadInput(f'{out_dir} was made with another tokenizer; take another --out_dir, or delete that folder first')
    path = os.path.join(out_dir, f'{name}_progress.json')
    progress = Progress.load(path) or Progress(path, meta)
    if is_finished(progress, config):
        print(f'{out_dir}: {name} is already made, with the same settings')
    else:
        prepare_folder(out_dir, base_name, tokenizer_file, job=name)
        write_part(name, files, part, tokenizer, progress, config)
    # Several parts have in common what meta.json says; their shards are in the progress files.
    entries = progress.entries() if part[1] == 1 else {}
    write_json(os.path.join(out_dir, 'meta.json'), {**progress.meta, 'shards': entries}, writer=name)
    print(summary(name, progress, config))


def write_part(name, files, part, tokenizer, progress, config):
    """Tokenizes from where `progress` stands, and writes shards up to the end of the part or --max_shards."""
    documents = ((tokens, None, place) for place, tokens
                 in tokenized(read_part(files, part, progress, config), tokenizer, config['workers']))
    if part[0] == 1 and not progress.shards:
        tokens, place, documents = hold_out(documents, config['shard_tokens'])
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
    are less than one shard, the first tenth of them is held out.
    """
    head, rest, n_tokens = [], [], 0
    for document in documents:
        head.append(document)
        n_tokens += len(document[0])
        if n_tokens >= size:
            break
    if n_tokens < size:
        if len(head) < 2:
            raise BadInput('there is only one document, so none to hold out' if head else
                           'there are no documents in the input: nothing but empty text')
        ends = np.cumsum([len(tokens) for tokens, _, _ in head[:-1]])
        n_held_out = 1 + int(np.searchsorted(ends[:-1], n_tokens // 10))
        print(f'{n_tokens:,} tokens are less than one shard: the first {ends[n_held_out - 1]:,} of them are held out')
        head, rest = head[:n_held_out], head[n_held_out:]
    last = head[-1][2]
    tokens = np.concatenate([tokens for tokens, _, _ in head])[:size]
    return tokens, {**last, 'row': last['row'] + 1, 'skip': 0}, itertools.chain(rest, documents)


# ---- input ------------------------------------------------------------------------------------------


def find_input(config, revision):
    """(name of the shards, paths or URLs of the input files); of the hub, as of the commit that an earlier run began with."""
    if config['source']:
        found = sources.find_source(config['source'])
        if not found.is_table:
            raise BadInput(f"{config['source']} holds no parquet, jsonl or json.gz files; corpus.py takes text files")
        return file_name_of(found.name) or 'data', found.files
    sample = 'default' if config['sample'] == 'all' else f"sample-{config['sample']}"
    found = sources.hub_source(f"HuggingFaceFW/{config['dataset']}", sample, 'train', revision)
    return config['dataset'].replace('-', '_'), found.files


def read_part(files, part, progress, config):
    """Yields (place, text) for the part's documents from where `progress` stands, with a bar of what has been read.

    place: {'file', 'row', 'skip'}: index of the file, number of the row, and how many of its tokens are in a shard already.
    The files lie side by side as one line, which the N parts cut into equal lengths, so a part opens only the
    files it needs: of file i those n-ths that lie between F*(K-1) and F*K when every file is N long.
    """
    (k, n), n_files = part, len(files)
    begin = progress.next or {'file': 0, 'row': 0, 'skip': 0}
    n_bytes, started = 0, time.monotonic()
    bar_format = '{desc}{percentage:5.1f}%|{bar}| {elapsed}<{remaining}{postfix}'
    with tqdm(total=100, desc=f'part {k} of {n} ' if n > 1 else '', bar_format=bar_format) as bar:
        for i in range(begin['file'], n_files):
            low, high = max(n_files * (k - 1) - i * n, 0), min(n_files * k - i * n, n)
            if low >= high:
                continue
            first_row = begin['row'] if i == begin['file'] else 0
            for rows, texts, done in sources.read_steadily(files[i], config['text_column'], first_row, (low, high, n),
                                                           config['max_expansion'], retries=config['retries']):
                percent = 100 * (i * n + low + done * (high - low) - n_files * (k - 1)) / n_files
                if n_bytes == 0:
                    bar.initial = bar.n = percent
                n_bytes += sum(len(text.encode('utf-8', 'replace')) for text in texts)
                bar.set_postfix_str(f'{len(progress.shards)} shards, {n_bytes / 1e6 / (time.monotonic() - started):.1f} MB/s',
                                    refresh=False)
                bar.update(percent - bar.n)
                for row, text in zip(rows, texts):
                    if text:
                        is_begun = (i, row) == (begin['file'], begin['row'])
                        yield {'file': i, 'row': row, 'skip': begin['skip'] if is_begun else 0}, text


# ---- the folder -------------------------------------------------------------------------------------


def recorded_meta(out_dir):
    """What an earlier run or another part recorded of the data in a folder (all agree); {} in a new folder."""
    for name in ('*_progress.json', 'meta.json'):
        for path in glob.glob(os.path.join(glob.escape(out_dir), name)):
            content = read_json(path)
            if path.endswith('_progress.json'):
                shards.check_progress(path, content)
            else:
                shards.check_meta(path, content)
            return content.get('meta', content)
    return {}


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
    match = re.fullmatch(r'([0-9]{1,6})/([0-9]{1,6})', text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise BadInput(f'--part={shorten(text)} should be K/N with K from 1 to N: 1/16, 2/16, ... 16/16')
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
    out_dir, n_shards = config['out_dir'], config['max_shards']
    recorded = recorded_meta(out_dir)
    if recorded and recorded.get('source') != PRETOKENIZED:
        raise BadInput(f'{out_dir} already holds other data; take another --out_dir, or delete that folder first')
    train = [f'*_train_{number:06d}.bin' for number in range(1, n_shards + 1)] or ['*_train_*.bin']
    _, digests = hub.download(PRETOKENIZED, ['*_val_*.bin', *train], 'dataset', out_dir)
    paths = shards.find_shards(out_dir, 'val') + shards.find_shards(out_dir, 'train')
    entries = {os.path.basename(path): {
        'tokens': shards.shard_size(path), 'sha256': digests.get(os.path.basename(path)) or sha256_of(path)} for path in paths}
    write_json(os.path.join(out_dir, 'meta.json'), {**shards.GPT2_META, 'source': PRETOKENIZED, 'shards': entries})
    print(f"{out_dir}: {sum(entry['tokens'] for entry in entries.values()):,} tokens in {plural(len(entries), 'shard')}")


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
