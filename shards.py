"""Token shards: the .bin format, how a folder of them is written and checked, and the order of batches.

    python shards.py data/fineweb               check a folder (header, size, sha256, id range, tokenizer)

A folder holds NAME_val_000000.bin, NAME_train_000001.bin, ... and meta.json. A shard is a header of
256 little-endian int32 (magic 20240520, version 1, number of tokens, zeros) and then the tokens as
uint16: the format of llm.c and modded-nanogpt. nanoGPT's train.bin and val.bin, which have no header,
are read too. Every document starts with <|endoftext|>, and all shards of a split, in the order of
their names, are one stream of tokens.

A shard may have a mask beside it, NAME_train_000001.mask: one bit a token, the first token's being the lowest of
the first byte, 1 where the token counts as a target. Tokens that do not count, like the question of a problem whose
solution is to be learned, are read by the model but not learned: `BatchLoader` gives -1 for them as targets. Where
there is no mask, all count.

Files appear whole or not at all, and meta.json comes last. A data set that many jobs write side by
side has, beside its shards, one NAME_progress.json per job with the shards of that job; `load_meta`
adds them up, so there is nothing to merge.

This module knows nothing of models, and of text only what the tokenizer tells it.
"""
import functools
import glob
import hashlib
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from tqdm import tqdm

from bpe import Tokenizer
from configurator import configure
from runtime.errors import BadInput, one_line_errors
from runtime.files import make_folder, read_json, sha256_of, atomic_write

DEFAULTS = {
    'data_dir': '',  # the folder of shards to check; `python shards.py DIR` says the same
    'seed': 0,       # which document is shown
}

MAGIC, VERSION, HEADER_INTS = 20240520, 1, 256
HEADER_BYTES = 4 * HEADER_INTS
SHARD_TOKENS = 100_000_000
SHARD_NAME = re.compile(r'(?:^|_)(train|val)(?:_\d+)?\.bin$')
SCAN_LIMIT = 2**28  # up to this many tokens, ids are checked when a split is opened, not only as they are used
OPEN_SHARDS = 128   # memory maps kept open by one loader: each holds a file descriptor, and macOS allows 256
GPT2_META = {'tokenizer': 'gpt2', 'tokenizer_sha256': None, 'vocab_size': 50257, 'eot': 50256,
             'document_separator': '<|endoftext|>', 'source': 'unknown', 'shards': {}}


# ---------------------------------------------------------------------------- one shard

def write_shard(path, tokens):
    """Writes a uint16 array as one shard. Returns its entry for meta.json: {'tokens': n, 'sha256': ...}."""
    header = np.zeros(HEADER_INTS, dtype='<i4')
    header[:3] = MAGIC, VERSION, len(tokens)
    tokens = tokens.astype('<u2', casting='equiv', copy=False)
    with atomic_write(path) as file:
        file.write(header)
        file.write(tokens)
    digest = hashlib.sha256(header)
    digest.update(tokens)
    return {'tokens': len(tokens), 'sha256': digest.hexdigest()}


def mask_path(path):
    """Where the mask of a shard is, if it has one."""
    return f'{path.removesuffix(".bin")}.mask'


def write_mask(path, counted):
    """Writes a bool array as the mask of the shard at `path`. Returns its part of the shard's entry for meta.json."""
    packed = np.packbits(counted, bitorder='little')
    with atomic_write(mask_path(path)) as file:
        file.write(packed)
    return {'mask_sha256': hashlib.sha256(packed).hexdigest()}


def read_mask(path):
    """The mask of a shard as a read-only memory map of bytes, 8 tokens in each, or None if all of its tokens count.

    Raises BadInput when there is a mask of another length than the shard's.
    """
    masked = mask_path(path)
    if not os.path.exists(masked):
        return None
    n_bytes = -(-shard_size(path) // 8)
    if os.path.getsize(masked) != n_bytes:
        raise BadInput(f'{masked} is cut short or of another shard: {os.path.getsize(masked):,} bytes, where '
                       f'{os.path.basename(path)} needs {n_bytes:,}; make the data again')
    return np.memmap(masked, dtype=np.uint8, mode='r')


def read_shard(path):
    """The tokens of a shard as a read-only uint16 memory map of shape (n_tokens,).

    Raises BadInput when the file is cut short, is something else, or has ids of another width.
    """
    size = shard_size(path)
    if size == 0:
        return np.empty(0, dtype='<u2')
    has_header = 2 * size != os.path.getsize(path)
    return np.memmap(path, dtype='<u2', mode='r', offset=HEADER_BYTES if has_header else 0, shape=(size,))


def shard_size(path):
    """The number of tokens in a shard, after its header has been checked against the file's size."""
    try:
        n_bytes = os.path.getsize(path)
        with open(path, 'rb') as file:
            header = np.frombuffer(file.read(HEADER_BYTES)[:n_bytes // 4 * 4], dtype='<i4')
    except OSError as error:
        raise BadInput(f'{path}: {error.strerror}') from error
    if len(header) == 0 or header[0] != MAGIC:
        if os.path.basename(path) in ('train.bin', 'val.bin') and n_bytes % 2 == 0:
            return n_bytes // 2  # nanoGPT's: nothing but tokens
        raise BadInput(f'{path} is not a token shard: it does not start with the number {MAGIC}')
    if len(header) < HEADER_INTS:
        raise BadInput(f'{path} is cut short: {n_bytes} bytes are less than a header; delete it and make it again')
    if header[1] != VERSION:
        raise BadInput(f'{path} is a shard of version {header[1]}; only version {VERSION}, uint16 tokens, is read here')
    tokens_in_file, odd_byte = divmod(n_bytes - HEADER_BYTES, 2)
    if tokens_in_file != header[2] or odd_byte:
        raise BadInput(f'{path} is cut short or damaged: its header says {header[2]:,} tokens, '
                       f'the file holds {tokens_in_file:,}; delete it and make it again')
    return tokens_in_file


def write_shards(documents, out_dir, name, split='train', shard_tokens=SHARD_TOKENS, first=1, masked=False, note=None):
    """Writes documents as OUT_DIR/NAME_SPLIT_00000N.bin, N from `first`, and returns their entries for meta.json.

    documents:    iterable of uint16 arrays of any length, each starting with the id of <|endoftext|>
    shard_tokens: tokens in a shard; a document may go on in the next. The last shard is as long as it is.
    masked:       documents are pairs of such an array and a bool array of its length, True where a token counts as a
                  target; each shard gets a mask beside it.
    note:         called after each shard that came out full, with its name, its entry, the number of the document that
                  filled it, and how many of that document's tokens are in shards.
    Returns {file name: {'tokens': n, 'sha256': ...}} in the order of the stream; {} when there was nothing.
    """
    make_folder(out_dir)
    entries = {}
    buffer, filled = np.empty(shard_tokens, dtype=np.uint16), 0
    counted = np.empty(shard_tokens if masked else 0, dtype=bool)

    def finish_shard():
        file_name = f'{name}_{split}_{first + len(entries):06d}.bin'
        path = os.path.join(out_dir, file_name)
        mask = {}
        if masked:  # before the shard, so that none ever stands without
            mask = write_mask(path, counted[:filled])
        elif os.path.exists(mask_path(path)):  # an earlier data set's
            os.remove(mask_path(path))
        entries[file_name] = write_shard(path, buffer[:filled]) | mask
        return file_name

    for number, document in enumerate(documents):
        tokens, counts = document if masked else (document, counted)
        if tokens.dtype != np.uint16:
            raise TypeError(f'documents should be uint16 arrays, not {tokens.dtype}')
        if masked and (counts.dtype != bool or len(counts) != len(tokens)):
            raise TypeError(f'{len(tokens)} tokens need as many bools, not {len(counts)} {counts.dtype}')
        done = 0
        while done < len(tokens):
            piece = slice(done, done + shard_tokens - filled)
            end = filled + len(tokens[piece])
            buffer[filled:end] = tokens[piece]
            if masked:
                counted[filled:end] = counts[piece]
            done, filled = piece.stop, end
            if filled == shard_tokens:
                file_name = finish_shard()
                filled = 0
                if note:
                    note(file_name, entries[file_name], number, done)
    if filled:
        finish_shard()
    return entries


# ---------------------------------------------------------------------------- a folder of shards

def find_shards(data_dir, split):
    """Paths of the shards of a split, in the order of the stream. Raises BadInput when there are none."""
    if not os.path.isdir(data_dir):
        raise BadInput(f'no data folder {data_dir!r}; {how_to_make(data_dir)}')
    names = sorted(name for name in os.listdir(data_dir) if (match := SHARD_NAME.search(name)) and match[1] == split)
    if not names:
        raise BadInput(f'no {split} shards in {data_dir}; {how_to_make(data_dir)}')
    return [os.path.join(data_dir, name) for name in names]


def how_to_make(data_dir):
    """The command for a folder of this name."""
    commands = {'stdlib': 'corpus.py --source=stdlib --vocab_size=4096', 'fineweb': 'fineweb.py', 'wikitext': 'wikitext.py',
                'gsm8k': '-m tasks.prepare_problems --source=gsm8k --tokenizer=gpt2', 'math': '-m tasks.prepare_problems'}
    command = next((command for name, command in commands.items() if name in os.path.basename(os.path.normpath(data_dir))),
                   'corpus.py --source=TEXTS --vocab_size=4096')
    return f'`python {command} --out_dir={data_dir}` makes it, or let `make demo` show the whole way'


def load_meta(data_dir, quiet=False):
    """What is known of a folder's tokens, as a dict.

    'tokenizer' ('gpt2', or 'tokenizer.json' beside the shards), 'tokenizer_sha256' (None for gpt2), 'vocab_size',
    'eot', 'document_separator', 'source', 'shards' ({file name: {'tokens', 'sha256'}}), and what else the
    script that made the data has to say. Several jobs' NAME_progress.json are added up. Shards made by
    others come without meta.json: they count as GPT-2's, which is said in a line unless `quiet`.
    """
    path = os.path.join(data_dir, 'meta.json')
    parts = sorted(glob.glob(os.path.join(glob.escape(data_dir), '*_progress.json')))
    parts = {part: read_json(part) for part in parts}
    if os.path.exists(path):
        meta = read_json(path)
    elif parts:
        meta = next(iter(parts.values()))['meta']
    elif os.path.exists(os.path.join(data_dir, 'tokenizer.json')):
        raise BadInput(f'{path} is missing, but tokenizer.json is there: the data is unfinished. '
                       'Run the script that makes it once more')
    else:
        meta = GPT2_META
        if not quiet:
            print(f"{data_dir} has no meta.json: its tokens are taken for GPT-2's", file=sys.stderr)
    for key in ('tokenizer', 'vocab_size', 'eot'):
        if key not in meta:
            raise BadInput(f'{path} lacks {key!r}; make the data again')
    shards = dict(meta.get('shards', {}))
    for part, progress in parts.items():
        if progress['meta'].get('tokenizer_sha256') != meta.get('tokenizer_sha256'):
            raise BadInput(f'{part} was made with another tokenizer than {path}; one folder takes one tokenizer')
        shards.update({shard['file']: {'tokens': shard['tokens'], 'sha256': shard['sha256']}
                       for shard in progress['shards']})
    return {**meta, 'shards': dict(sorted(shards.items()))}


def load_tokenizer(data_dir):
    """The Tokenizer that made a folder's shards. Raises BadInput when tokenizer.json is missing or another one."""
    meta = load_meta(data_dir, quiet=True)
    if meta['tokenizer'] == 'gpt2':
        return Tokenizer.gpt2()
    path = os.path.join(data_dir, os.path.basename(meta['tokenizer']))
    if not os.path.exists(path):
        raise BadInput(f'{path} is missing, and the shards beside it cannot be read without it; make the data again')
    if sha256_of(path) != meta['tokenizer_sha256']:
        raise BadInput(f'{path} is not the tokenizer that the shards beside it were made with (its sha256 differs '
                       'from the one in meta.json); put the right one back, or make the data again')
    return Tokenizer.load(path)


# ---------------------------------------------------------------------------- the order of batches

class BatchLoader:
    """Batches of consecutive tokens from the shards of one split, in an order fixed by `seed` alone.

    The split's shards form one stream, cut into windows of block_size tokens. 'train' takes, in each epoch,
    all windows once in a fresh pseudo-random order, and starts cutting at a fresh offset, so that the cuts
    fall elsewhere. 'val' takes them in order from the start, the same for every seed.

    The whole state is `sequence_index`, the number of sequences that all ranks together have taken. A call
    of next() on rank r of w takes the b sequences from sequence_index + r*b on and moves the index by w*b:
    which sequences an optimizer step sees depends neither on w nor on b.

    n_tokens, n_sequences: tokens of the split, and windows in one epoch. Tokens at the stream's end that fill
    no window are left out of the epoch; the next epoch's offset leaves out others.
    masked: whether there are tokens that do not count as targets; `count_targets` says how many do.
    Raises BadInput on a folder, a shard or a token id that cannot be used.
    """

    def __init__(self, data_dir, split, block_size, batch_size, seed, rank=0, world_size=1):
        self.split, self.block_size, self.batch_size, self.seed = split, block_size, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.vocab_size = load_meta(data_dir, quiet=True)['vocab_size']
        self.paths = find_shards(data_dir, split)
        self.starts = np.cumsum([0] + [shard_size(path) for path in self.paths])  # (n_shards + 1,) in the stream
        self.n_tokens = int(self.starts[-1])
        if self.n_tokens < block_size + 1:
            raise BadInput(f'the {split} split in {data_dir} has {self.n_tokens:,} tokens, too few for one block of '
                           f'{block_size:,}; use more data or --block_size={max(1, self.n_tokens - 1)} at most')
        # 'train' gives up a window, so that every epoch has as many, whatever its offset
        self.n_sequences = ((self.n_tokens - 1) // block_size if split == 'val' else
                            max(1, (self.n_tokens - block_size) // block_size))
        self.open_shard = functools.lru_cache(maxsize=OPEN_SHARDS)(lambda path: np.asarray(read_shard(path)))
        self.open_mask = functools.lru_cache(maxsize=OPEN_SHARDS)(read_mask)
        self.masked = self.has_masks(data_dir)
        self.sequence_index = 0
        if self.n_tokens <= SCAN_LIMIT:
            for path in self.paths:
                check_ids(self.open_shard(path), self.vocab_size, path)

    def has_masks(self, data_dir):
        """Whether any shard has a mask; raises BadInput when one is cut short, or missing though meta.json knows of it."""
        entries = load_meta(data_dir, quiet=True)['shards']
        masked = [path for path in self.paths if read_mask(path) is not None]
        for path in self.paths:
            if 'mask_sha256' in entries.get(os.path.basename(path), {}) and path not in masked:
                raise BadInput(f'{mask_path(path)} is missing, which says what of its shard is to be learned; '
                               'make the data again')
        return bool(masked)

    @property
    def epoch(self):
        return self.sequence_index // self.n_sequences

    def seek(self, sequence_index):
        """Goes to where sequence_index sequences have been taken."""
        self.sequence_index = sequence_index

    def next(self):
        """The next (x, y), int64 tensors of shape (batch_size, block_size); y is x one token later, -1 where masked."""
        first = self.sequence_index + self.rank * self.batch_size
        starts = self.window_starts(np.arange(first, first + self.batch_size))
        batch = np.empty((2, self.batch_size, self.block_size), dtype=np.int64)  # (2, B, T)
        for row, start in enumerate(starts):
            tokens = self.read(int(start), self.block_size + 1)
            batch[0, row], batch[1, row] = tokens[:-1], tokens[1:]
            if self.masked:
                batch[1, row, ~self.read_counted(int(start) + 1, self.block_size)] = -1
        self.sequence_index += self.world_size * self.batch_size
        x, y = torch.from_numpy(batch)
        return x, y

    def count_targets(self, n_sequences):
        """How many targets the next n_sequences sequences, of all ranks together, have that count."""
        if not self.masked:
            return n_sequences * self.block_size
        starts = self.window_starts(np.arange(self.sequence_index, self.sequence_index + n_sequences))
        return sum(int(self.read_counted(int(start) + 1, self.block_size).sum()) for start in starts)

    def window_starts(self, sequences):
        """Where in the stream the given sequences start: (n,) int64 -> (n,) int64."""
        epochs, places = np.divmod(sequences, self.n_sequences)
        if self.split == 'val':
            return places * self.block_size
        starts = np.empty_like(places)
        offsets = self.n_tokens - self.n_sequences * self.block_size  # from these starts the last window ends in time
        for epoch in np.unique(epochs):
            here = epochs == epoch
            offset, *keys = np.random.SeedSequence((self.seed % 2**64, int(epoch))).generate_state(9, np.uint64)
            starts[here] = shuffled(places[here], self.n_sequences, keys) * self.block_size + int(offset) % offsets
        return starts

    def read(self, start, length):
        """`length` tokens of the stream from `start` on; they may lie in several shards."""
        pieces = []
        for path, begin, end in self.places(start, length):
            piece = self.open_shard(path)[begin:end]
            check_ids(piece, self.vocab_size, path, begin)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def read_counted(self, start, length):
        """For the same tokens, whether each counts as a target: (length,) bool."""
        pieces = []
        for path, begin, end in self.places(start, length):
            mask = self.open_mask(path)
            if mask is None:
                pieces.append(np.ones(end - begin, dtype=bool))
            else:
                bits = np.unpackbits(mask[begin // 8:-(-end // 8)], bitorder='little')
                pieces.append(bits[begin % 8:begin % 8 + end - begin].view(bool))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def places(self, start, length):
        """Yields where `length` tokens of the stream from `start` on lie: (path, first, end) in each shard."""
        shard = int(np.searchsorted(self.starts, start, side='right')) - 1
        while length > 0:
            inside = start - int(self.starts[shard])
            end = min(inside + length, int(self.starts[shard + 1] - self.starts[shard]))
            yield self.paths[shard], inside, end
            start, length, shard = start + end - inside, length - (end - inside), shard + 1


def shuffled(places, n, keys):
    """Where a pseudo-random permutation of range(n) puts `places`: (k,) ints below n -> (k,) int64, all different.

    No table is kept, so an epoch over a trillion tokens costs what an epoch over a million does: a Feistel
    network with one round per key permutes the next power of four, and what falls outside range(n) is sent
    through again until it falls inside (Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains",
    sections 3 and 4). The round function is the finalizer of SplitMix64 (Steele, Lea & Flood 2014, figure 1).
    """
    half = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    values = np.asarray(places).astype(np.uint64)
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & low
        for key in keys:
            mixed = right + key
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(31))) & low)
        values[outside] = left << half | right
        outside = values >= n
    return values.astype(np.int64)


def check_ids(tokens, vocab_size, path, position=0):
    """Raises BadInput naming the first id that is not in the vocabulary."""
    if len(tokens) and tokens.max() >= vocab_size:
        where = int(np.argmax(tokens >= vocab_size))
        raise BadInput(f'{path}: token {position + where:,} is id {tokens[where]}, but the vocabulary of its folder '
                       f'has {vocab_size} entries; the shard is damaged or of another tokenizer. '
                       f'`python shards.py {os.path.dirname(path) or "."}` checks the whole folder')


# ---------------------------------------------------------------------------- python shards.py DIR

def main(config):
    data_dir = config['data_dir']
    if not data_dir:
        raise BadInput('which folder should be checked? `python shards.py DIR`')
    print(check_folder(data_dir, config['seed']))


def check_folder(data_dir, seed=0):
    """Reads every byte of a folder of shards and returns what it holds as a table, with the start of a document.

    Raises BadInput naming the shards that are missing, cut short, changed since they were written, or have
    ids outside the vocabulary, and a tokenizer that is not the one in meta.json.
    """
    splits = {split: find_shards(data_dir, split) for split in ('train', 'val')}
    meta, tokenizer = load_meta(data_dir), load_tokenizer(data_dir)
    if tokenizer.vocab_size != meta['vocab_size']:
        raise BadInput(f"{data_dir}: meta.json says the vocabulary has {meta['vocab_size']} entries, its tokenizer has "
                       f'{tokenizer.vocab_size}; make the data again')
    found = {os.path.basename(path) for paths in splits.values() for path in paths}
    problems = [f'{name} is missing' for name in meta['shards'] if name not in found]
    if meta['shards']:
        problems += [f'{name} is not in meta.json' for name in sorted(found - set(meta['shards']))]
    lengths = tokenizer.token_lengths().copy()  # (vocab_size,) bytes
    lengths[meta['eot']] = 0  # it stands between texts, in none of them
    masked = any('mask_sha256' in entry for entry in meta['shards'].values())
    rows = [('split', 'shards', 'tokens', *(['targets'] if masked else []), 'documents', 'bytes/token', 'sha256')]
    n_bytes = sum(os.path.getsize(path) for paths in splits.values() for path in paths)
    with tqdm(total=n_bytes, unit='B', unit_scale=True, desc='checking') as bar, ThreadPoolExecutor() as pool:
        for split, paths in splits.items():
            counts, targets, as_recorded = np.zeros(meta['vocab_size'], dtype=np.int64), 0, 0
            for examined in pool.map(lambda path: examine(path, meta, bar), paths):
                problems += examined['problems']
                counts += examined['counts']
                targets += examined['targets']
                as_recorded += examined['as_recorded']
            n_tokens, n_documents = int(counts.sum()), int(counts[meta['eot']])
            rows.append((split, f'{len(paths):,}', f'{n_tokens:,}', *([f'{targets:,}'] if masked else []), f'{n_documents:,}',
                         f'{(counts @ lengths) / max(1, n_tokens - n_documents):.3f}',
                         f'{as_recorded} of {len(paths)} as recorded'))
    if problems:
        more = f' and {len(problems) - 3} more' if len(problems) > 3 else ''
        raise BadInput(f'{data_dir}: {"; ".join(problems[:3])}{more}. Delete what is damaged and run again the script '
                       'that makes the data')
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = [''] + ['  '.join(f'{cell:>{width}}' for cell, width in zip(row, widths)) for row in rows]
    title, text = random_document(data_dir, splits, tokenizer, meta, seed)
    return '\n'.join([*table, '', f"tokenizer {meta['tokenizer']}, {meta['vocab_size']:,} entries; {title}:", '', text])


def examine(path, meta, bar):
    """What one shard holds: {'counts': (vocab_size,) of each id, 'targets': how many tokens count, 'problems': [...],
    'as_recorded': 1 or 0}."""
    name, vocab_size = os.path.basename(path), meta['vocab_size']
    result = {'counts': np.zeros(vocab_size, dtype=np.int64), 'targets': 0, 'problems': [], 'as_recorded': 0}
    try:
        tokens = read_shard(path)
        for start in range(0, len(tokens), 1 << 20):
            piece = np.asarray(tokens[start:start + (1 << 20)])
            check_ids(piece, vocab_size, path, start)
            result['counts'] += np.bincount(piece, minlength=vocab_size)
            bar.update(piece.nbytes)
        mask = read_mask(path)
        result['targets'] = len(tokens) if mask is None else int(np.unpackbits(mask, count=len(tokens), bitorder='little').sum())
    except BadInput as error:
        result['problems'].append(str(error))
    if name in meta['shards'] and not result['problems']:
        result['as_recorded'] = int(sha256_of(path) == meta['shards'][name]['sha256'])
        if not result['as_recorded']:
            result['problems'].append(f'{name} has changed since it was written: its sha256 is not the recorded one')
        wanted = meta['shards'][name].get('mask_sha256')
        if wanted and not os.path.exists(mask_path(path)):
            result['problems'].append(f'{os.path.basename(mask_path(path))} is missing')
        elif wanted and sha256_of(mask_path(path)) != wanted:
            result['problems'].append(f'{os.path.basename(mask_path(path))} has changed since it was written')
    return result


def random_document(data_dir, splits, tokenizer, meta, seed, n_characters=200):
    """(where it stands, its first characters) of a document picked by the seed."""
    generator = np.random.default_rng(seed)
    path = splits['train'][generator.integers(len(splits['train']))]
    tokens = read_shard(path)
    heads = np.flatnonzero(np.asarray(tokens) == meta['eot'])
    start = int(heads[generator.integers(len(heads))]) + 1 if len(heads) else 0
    document = np.asarray(tokens[start:start + n_characters * 4])  # a character has up to 4 bytes, each perhaps a token
    ends = np.flatnonzero(document == meta['eot'])
    text = tokenizer.decode(document[:ends[0]] if len(ends) else document)
    return f'the document at token {start:,} of {os.path.basename(path)}', text[:n_characters]


if __name__ == '__main__':
    with one_line_errors():
        arguments = [argument if argument.startswith('-') or argument.endswith('.py') else f'--data_dir={argument}'
                     for argument in sys.argv[1:]]
        main(configure(DEFAULTS, arguments))
