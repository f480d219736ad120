"""Token shards: the .bin format, how a folder of them is written, read and checked, and the order of batches.

    python shards.py data/stdlib    check a folder (header, size, sha256, id range, tokenizer), show a document of it

A folder holds NAME_val_000000.bin, NAME_train_000001.bin, ... and meta.json. A shard is a header of 256 little-endian
int32 (magic 20240520, version 1, number of tokens, zeros) and then the tokens as uint16: the format of llm.c and
modded-nanogpt. nanoGPT's train.bin and val.bin, which have no header, are read too. Every document starts with
<|endoftext|>, and all shards of a split, in the order of their names, are one stream of tokens.

A shard may have a mask beside it, NAME_train_000001.mask: one bit for each token, the first token's being the lowest of
the first byte, 1 where the token counts as a target. Tokens that do not count, such as the question of a problem, are
read by the model but not learned: `BatchLoader` gives -1 for them as targets. Without a mask all tokens count. Data whose
meta.json has a `context` is made for windows of that many tokens: each begins with a document, and none is cut.

Every file is written atomically, and meta.json comes last. A data set that many jobs write side by side has, beside its
shards, one NAME_progress.json per job with the shards of that job; `load_meta` adds them up, so nothing has to be merged.

Training reads shards with read(), not through a memory map: a file that someone cuts short while it is mapped ends the
process with SIGBUS, without a word. `BatchLoader` notices files that were changed since it began, and says so.

This module knows nothing of models, and of text only what the tokenizer tells it.
"""
import functools
import glob
import hashlib
import itertools
import os
import random
import re
import sys
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from tqdm import tqdm

from bpe import EOT, MAX_VOCAB, Tokenizer
from configurator import configure, what_makes
from runtime.errors import BadInput, one_line_errors
from runtime.files import atomic_write, make_folder, open_to_read, read_json, sha256_of
from runtime.parallel import ordered_map
from runtime.words import plural

DEFAULTS = {
    'data_dir': 'data/stdlib',  # the folder of shards to check; `python shards.py DIR` says the same
}

MAGIC, VERSION, HEADER_INTS = 20240520, 1, 256
HEADER_BYTES = 4 * HEADER_INTS
SHARD_TOKENS, MAX_SHARD_TOKENS = 100_000_000, 2**31 - 1  # the header's number has 32 bits
SHARD_NAME = re.compile(r'(?:^|_)(train|val)(?:_\d+)?\.bin$')
SCAN_LIMIT = 2**28  # up to this many tokens, ids are checked when a split is opened, not only as they are used
READ_TOKENS = 1 << 20  # at a time, where all are read
OPEN_FILES = 128    # kept open by one loader: macOS allows a process 256
GPT2_META = {'tokenizer': 'gpt2', 'tokenizer_sha256': None, 'vocab_size': 50257, 'eot': 50256,
             'document_separator': EOT, 'source': 'unknown', 'shards': {}}


# ---- one shard --------------------------------------------------------------------------------------


def write_shard(path: str, tokens: np.ndarray, counted: np.ndarray | None = None) -> dict:
    """Writes one shard and returns its entry for meta.json: {'tokens': n, 'sha256': ...}.

    tokens: (n,) uint16. counted: (n,) bool, True where a token counts as a target; it becomes the shard's mask, with
    'mask_sha256' in the entry. None: all count.
    """
    entry = {}
    if counted is not None:  # before the shard, so that it never stands there without its mask
        packed = np.packbits(counted, bitorder='little')
        with atomic_write(mask_path(path)) as file:
            file.write(packed)
        entry['mask_sha256'] = hashlib.sha256(packed).hexdigest()
    elif os.path.exists(mask_path(path)):  # of an earlier data set
        os.remove(mask_path(path))
    header = np.zeros(HEADER_INTS, dtype='<i4')
    header[:3] = MAGIC, VERSION, len(tokens)
    tokens = tokens.astype('<u2', casting='equiv', copy=False)
    with atomic_write(path) as file:
        file.write(header)
        file.write(tokens)
    digest = hashlib.sha256(header)
    digest.update(tokens)
    return {'tokens': len(tokens), 'sha256': digest.hexdigest(), **entry}


def mask_path(path):
    return f'{path.removesuffix(".bin")}.mask'


def read_mask(path: str, entry: dict | None = None) -> np.ndarray | None:
    """The mask of a shard as bytes, 8 tokens in each, or None if all of its tokens count. Raises BadInput as find_mask."""
    mask = find_mask(path, entry)
    if mask is None:
        return None
    with open_to_read(mask, buffering=0) as file:
        return read_bytes(file, 0, os.path.getsize(mask))


def find_mask(path, entry=None):
    """The path of a shard's mask, or None if all of its tokens count.

    entry: what meta.json says of the shard. Raises BadInput when it names a mask that is missing, and when there is
    a mask of another length than the shard's.
    """
    mask = mask_path(path)
    if not os.path.exists(mask):
        if entry and 'mask_sha256' in entry:
            raise BadInput(f'{mask} is missing, and without it nobody knows which tokens of its shard are targets; make '
                           'the data again')
        return None
    n_bytes = -(-shard_size(path) // 8)
    if os.path.getsize(mask) != n_bytes:
        raise BadInput(f'{mask} is cut short or of another shard: {os.path.getsize(mask):,} bytes, where '
                       f'{os.path.basename(path)} needs {n_bytes:,}; make the data again')
    return mask


def read_shard(path: str) -> np.ndarray:
    """The tokens of a shard as a read-only uint16 memory map of shape (n_tokens,).

    Raises BadInput when the file is cut short, is something else, or has ids of another width.
    """
    size = shard_size(path)
    if size == 0:
        return np.empty(0, dtype='<u2')
    return np.memmap(path, dtype='<u2', mode='r', offset=os.path.getsize(path) - 2 * size, shape=(size,))


def read_tokens(path, begin, end):
    """The tokens `begin` to `end` - 1 of a shard, (n,) uint16."""
    offset = os.path.getsize(path) - 2 * shard_size(path)
    with open_to_read(path, buffering=0) as file:
        return read_bytes(file, offset + 2 * begin, 2 * (end - begin)).view('<u2')


def read_bytes(file, start, n_bytes):
    """n_bytes from `start` on of a file that was opened without a buffer, (n_bytes,) uint8."""
    data = np.empty(n_bytes, dtype=np.uint8)
    try:
        file.seek(start)
        n_read = file.readinto(data)
    except OSError as error:
        raise BadInput(f'{file.name} cannot be read any more: {error.strerror}') from error
    if n_read != n_bytes:
        raise BadInput(f'{file.name} was cut short while it was read; put the right file back, or make the data again')
    return data


def shard_size(path: str) -> int:
    """The number of tokens in a shard, after its header has been checked against the file's size."""
    with open_to_read(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        header = np.frombuffer(file.read(HEADER_BYTES)[:n_bytes // 4 * 4], dtype='<i4')
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


# ---- documents to shards ----------------------------------------------------------------------------


def write_shards(documents: Iterable, out_dir: str, name: str, split: str = 'train', shard_tokens: int = SHARD_TOKENS,
                 first: int = 1, masked: bool = False) -> dict:
    """Writes documents as OUT_DIR/NAME_SPLIT_00000N.bin, N from `first`, and returns their entries for meta.json.

    documents: iterable of uint16 arrays, each starting with the id of <|endoftext|>; if masked, of pairs of such an
    array and a bool array of its length, True where a token counts as a target.
    Returns {file name: {'tokens': n, 'sha256': ...}} in the order of the stream; {} when there was nothing.
    """
    make_folder(out_dir)
    entries = {}
    placed = ((*(document if masked else (document, None)), {'skip': 0}) for document in documents)
    for number, (tokens, counted, _) in enumerate(cut_into_shards(placed, shard_tokens, masked), first):
        path = shard_path(out_dir, name, split, number)
        entries[os.path.basename(path)] = write_shard(path, tokens, counted)
    return entries


def shard_path(out_dir, name, split, number):
    return os.path.join(out_dir, f'{name}_{split}_{number:06d}.bin')


def cut_into_shards(documents: Iterable, shard_tokens: int, masked: bool = False) -> Iterator[tuple]:
    """Cuts a stream of documents into shards, and says where in the stream to go on after each.

    documents: (tokens, counted, place): (n,) uint16, (n,) bool or None if not masked, and a dict that says where the
               document is in the input. place['skip'] of its tokens are left out: an earlier run has them in a shard.
    Yields (tokens, counted, next) of each shard, where `next` is the place at which the next one begins. All shards
    but the last have shard_tokens tokens. The arrays are overwritten once the next shard is asked for.
    """
    buffer, filled = np.empty(shard_tokens, dtype=np.uint16), 0
    mask = np.empty(shard_tokens, dtype=bool) if masked else None
    for tokens, counted, place in documents:
        if tokens.dtype != np.uint16:
            raise TypeError(f'documents should be uint16 arrays, not {tokens.dtype}')
        if masked and (counted.dtype != bool or len(counted) != len(tokens)):
            raise TypeError(f'{len(tokens)} tokens need as many bools, not {len(counted)} {counted.dtype}')
        done = place['skip']
        while done < len(tokens):
            taken = min(len(tokens) - done, shard_tokens - filled)
            buffer[filled:filled + taken] = tokens[done:done + taken]
            if masked:
                mask[filled:filled + taken] = counted[done:done + taken]
            done, filled = done + taken, filled + taken
            if filled == shard_tokens:
                yield buffer, mask, {**place, 'skip': done}
                filled = 0
    if filled:
        yield buffer[:filled], mask[:filled] if masked else None, {**place, 'skip': done}


# ---- a folder of shards -----------------------------------------------------------------------------


def find_shards(data_dir: str, split: str, tokenizer: str | None = None) -> list[str]:
    """Paths of the shards of a split, in the order of the stream. Raises BadInput when there are none.

    tokenizer: the one that the data should have, for the command in the message.
    """
    if not os.path.isdir(data_dir):
        if os.path.isfile(data_dir):
            raise BadInput(f'{data_dir!r} is a file; a data folder is made of it by: python corpus.py --source={data_dir}')
        raise BadInput(f'no data folder {data_dir!r}; {how_to_make(data_dir, tokenizer)}')
    names = sorted(name for name in os.listdir(data_dir) if (match := SHARD_NAME.search(name)) and match[1] == split)
    if not names:
        raise BadInput(f'no {split} shards in {data_dir}; {what_it_is(data_dir) or how_to_make(data_dir, tokenizer)}')
    return [os.path.join(data_dir, name) for name in names]


def what_it_is(folder):
    """What to do with a folder that was given for one of shards, or None."""
    if glob.glob(os.path.join(glob.escape(folder), 'ckpt_*.pt')):
        return 'it is the folder of a run, and the data is in another'
    files = [name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))]
    if files and not any(SHARD_NAME.search(name) or name.endswith('.json') for name in files):
        return f'if these are texts, this makes a data folder of them: python corpus.py --source={folder} --vocab_size=4096'
    others = {os.path.dirname(path) for path in glob.glob(os.path.join(glob.escape(folder), '*', '*.bin'))}
    return f'there is data in {", ".join(sorted(others)[:4])}' if others else None


def how_to_make(data_dir, tokenizer):
    """The command that makes a folder, as a config file has it where one needs that folder."""
    words = what_makes(data_dir) or f'this makes one: python corpus.py --source=TEXTS --vocab_size=4096 --out_dir={data_dir}'
    return words if tokenizer is None else re.sub(r'--(vocab_size|tokenizer)=\S+', f'--tokenizer={tokenizer}', words)


def load_meta(data_dir: str, quiet: bool = False) -> dict:
    """What is known of a folder's tokens: GPT2_META's keys, and what else the script that made the data has to say.

    'tokenizer' is 'gpt2' or 'tokenizer.json' beside the shards; 'shards' is {file name: {'tokens', 'sha256'}}. Several
    jobs' NAME_progress.json are added up. Shards made by others come without meta.json: they count as GPT-2's, which
    is said in a line unless `quiet`.
    """
    path = os.path.join(data_dir, 'meta.json')
    parts = {part: read_json(part) for part in sorted(glob.glob(os.path.join(glob.escape(data_dir), '*_progress.json')))}
    for part, progress in parts.items():
        check_progress(part, progress)
    if os.path.exists(path):
        meta = read_json(path)
    elif parts:
        meta = next(iter(parts.values()))['meta']
    elif os.path.exists(os.path.join(data_dir, 'tokenizer.json')):
        raise BadInput(f'{path} is missing, but tokenizer.json is there: the data is unfinished. '
                       'Run the script that makes it once more')
    elif os.path.exists(os.path.join(data_dir, 'meta.pkl')):
        text = os.path.join(data_dir, 'input.txt')
        text = text if os.path.exists(text) else 'TEXT'
        raise BadInput(f"{data_dir} has nanoGPT's meta.pkl: its tokens are characters, by a table in there that is not opened, "
                       f'as a pickle may run any code. Make the data again from its text: python corpus.py --source={text} '
                       f'--vocab_size=257 --out_dir=data/bytes (257: one token for each byte)')
    else:
        meta = GPT2_META
        if not quiet:
            print(f"{data_dir} has no meta.json: its tokens are taken for GPT-2's", file=sys.stderr)
    check_meta(path, meta)
    entries = dict(meta.get('shards', {}))
    for part, progress in parts.items():
        if progress['meta'].get('tokenizer_sha256') != meta.get('tokenizer_sha256'):
            raise BadInput(f'{part} was made with another tokenizer than {path}; one folder takes one tokenizer')
        entries |= shard_entries(progress)
    return {**meta, 'shards': dict(sorted(entries.items()))}


def check_meta(path, meta):
    """Raises BadInput for a value of meta.json that no script here writes."""
    for key in ('tokenizer', 'vocab_size', 'eot'):
        if key not in meta:
            raise BadInput(f'{path} lacks {key!r}; make the data again')
    entries = meta.get('shards', {})
    sizes = [meta.get(f'{split}_{what}', 0) for split in ('train', 'val') for what in ('documents', 'bytes')]
    wrong = {
        'tokenizer': not isinstance(meta['tokenizer'], str),
        'tokenizer_sha256': not isinstance(meta.get('tokenizer_sha256'), (str, type(None))),
        'vocab_size': not is_int(meta['vocab_size'], 1, MAX_VOCAB),
        'eot': not is_int(meta['eot'], 0, meta['vocab_size'] - 1 if is_int(meta['vocab_size'], 1) else MAX_VOCAB),
        'settings': not isinstance(meta.get('settings', {}), dict),
        'context': type(meta.get('context')) not in (int, type(None)),
        'val_xz_bits_per_byte': type(meta.get('val_xz_bits_per_byte')) not in (int, float, type(None)),
        'shards': not isinstance(entries, dict) or not all(map(is_entry, entries.values())),
        'documents or bytes': not all(is_int(size) for size in sizes),
    }
    if any(wrong.values()):
        keys = ', '.join(key for key, is_so in wrong.items() if is_so)
        raise BadInput(f'{path} has a value for {keys} that cannot be; make the data again')


def check_progress(path, progress):
    """Raises BadInput for a NAME_progress.json, or NAME_unfinished.json, that no script here writes."""
    written = progress.get('shards')
    is_right = (isinstance(progress.get('meta'), dict) and isinstance(progress.get('complete'), bool) and
                isinstance(written, list) and all(map(is_entry, written)) and
                all(isinstance(shard.get('file'), str) and os.path.basename(shard['file']) == shard['file'] and
                    is_int(shard.get('documents')) and isinstance(shard.get('next'), dict) and
                    all(map(is_int, shard['next'].values())) for shard in written))
    if not is_right:
        raise BadInput(f'{path} is damaged or not of this version; delete it and make the data again')
    check_meta(path, progress['meta'])


def is_entry(entry):
    """Whether a value is what meta.json says of a shard."""
    return (isinstance(entry, dict) and is_int(entry.get('tokens')) and
            all(isinstance(entry.get(key, ''), str) for key in ('sha256', 'mask_sha256')))


def is_int(value, low=0, high=2**63):
    return type(value) is int and low <= value <= high


def shard_entries(progress):
    """What meta.json says of the shards in a NAME_progress.json."""
    return {shard['file']: {key: shard[key] for key in ('tokens', 'sha256', 'mask_sha256') if key in shard}
            for shard in progress['shards']}


def load_tokenizer(data_dir: str, meta: dict | None = None) -> Tokenizer:
    """The Tokenizer that made a folder's shards. Raises BadInput when tokenizer.json is missing or another one."""
    meta = meta or load_meta(data_dir, quiet=True)
    if meta['tokenizer'] == 'gpt2':
        tokenizer = Tokenizer.gpt2()
    else:
        path = os.path.join(data_dir, os.path.basename(meta['tokenizer']))
        if not os.path.exists(path):
            raise BadInput(f'{path} is missing, and the shards beside it cannot be read without it; make the data again')
        if sha256_of(path) != meta.get('tokenizer_sha256'):
            raise BadInput(f'{path} is not the tokenizer that the shards beside it were made with (its sha256 differs '
                           'from the one in meta.json); put the right one back, or make the data again')
        tokenizer = Tokenizer.load(path)
    for key in ('vocab_size', 'eot'):
        if getattr(tokenizer, key) != meta[key]:
            raise BadInput(f'{data_dir}: meta.json says that {key} is {meta[key]}, but of its tokenizer it is '
                           f'{getattr(tokenizer, key)}; make the data again')
    return tokenizer


# ---- the order of batches ---------------------------------------------------------------------------


class BatchLoader:
    """Batches of consecutive tokens from the shards of one split, in an order fixed by `seed` alone.

    The split's shards form one stream, cut into windows of block_size tokens. 'train' takes, in each epoch,
    all windows once in a fresh pseudo-random order, and starts cutting at a fresh offset, so that the cuts
    fall elsewhere (at 0 in data that was made for windows of block_size tokens). 'val' takes them in order from the start,
    the same for every seed.

    The whole state is `sequence_index`, the number of sequences that all ranks together have taken. A call
    of next() on rank r of w takes the b sequences from sequence_index + r*b on and moves the index by w*b:
    which sequences an optimizer step sees depends neither on w nor on b.

    n_tokens, n_sequences: tokens of the split, and windows in one epoch. Tokens at the stream's end that fill
    no window are left out of the epoch; the next epoch's offset leaves out others.
    masked: whether there are tokens that do not count as targets; `count_targets` says how many do.
    Raises BadInput on a folder, a shard or a token id that cannot be used, and when a file is no longer what it was when
    the loader was made: at the next batch from it if it was changed in place, at the next epoch if another has its name.
    """

    def __init__(self, data_dir: str, split: str, block_size: int, batch_size: int, seed: int, rank: int = 0,
                 world_size: int = 1, meta: dict | None = None):
        """meta: what load_meta(data_dir) gives, if it has been read already."""
        if block_size < 1:
            raise BadInput(f'block_size={block_size} should be at least 1')
        meta = meta or load_meta(data_dir, quiet=True)
        self.split, self.block_size, self.batch_size, self.seed = split, block_size, batch_size, seed
        self.rank, self.world_size, self.vocab_size = rank, world_size, meta['vocab_size']
        self.is_aligned = meta.get('context') == block_size
        self.paths = find_shards(data_dir, split)
        entries = {path: meta['shards'].get(os.path.basename(path), {}) for path in self.paths}
        self.masks = {path: find_mask(path, entry) for path, entry in entries.items()}  # None where all tokens count
        self.masked = any(self.masks.values())
        self.sha256 = {path: entry.get('sha256') for path, entry in entries.items()}
        self.sha256 |= {self.masks[path]: entry.get('mask_sha256') for path, entry in entries.items() if self.masks[path]}
        self.seen = {path: signature(os.stat(path)) for path in self.sha256}
        sizes = {path: shard_size(path) for path in self.paths}
        for path, entry in entries.items():
            check_entry(path, sizes[path], entry)
        self.offsets = {path: self.seen[path][0] - 2 * sizes[path] for path in self.paths}  # bytes before the first token
        self.starts = np.cumsum([0, *sizes.values()])  # (n_shards + 1,) in the stream
        self.n_tokens = int(self.starts[-1])
        if self.n_tokens < block_size + 1:
            raise BadInput(f'the {split} split in {data_dir} has {self.n_tokens:,} tokens, too few for one block of '
                           f'{block_size:,}; use more data or --block_size={max(1, self.n_tokens - 1)} at most')
        # 'train' gives up a window, so that every epoch has as many, whatever its offset
        self.n_sequences = ((self.n_tokens - 1) // block_size if split == 'val' else
                            max(1, (self.n_tokens - block_size) // block_size))
        self.open_file = functools.lru_cache(maxsize=OPEN_FILES)(functools.partial(open_to_read, buffering=0))
        self.sequence_index, self.checked_epoch = 0, 0
        if self.n_tokens <= SCAN_LIMIT:
            for start in range(0, self.n_tokens, READ_TOKENS):
                self.read(start, min(READ_TOKENS, self.n_tokens - start))

    @property
    def epoch(self):
        return self.sequence_index // self.n_sequences

    def seek(self, sequence_index: int):
        """Goes to where sequence_index sequences have been taken."""
        self.sequence_index = sequence_index
        if sequence_index == 0:  # as before each validation, which is an epoch of its own
            self.checked_epoch = None

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The next (x, y), int64 tensors of shape (batch_size, block_size); y is x one token later, -1 where masked."""
        if self.epoch != self.checked_epoch:
            self.check_all_unchanged()
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

    def count_targets(self, n_sequences: int) -> int:
        """How many targets that count the next n_sequences sequences have, of all ranks together."""
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
        # from these starts the last window ends in time
        offsets = 1 if self.is_aligned else self.n_tokens - self.n_sequences * self.block_size
        for epoch in np.unique(epochs):
            here = epochs == epoch
            offset, *keys = np.random.SeedSequence((self.seed % 2**64, int(epoch))).generate_state(9, np.uint64)
            starts[here] = shuffled(places[here], self.n_sequences, keys) * self.block_size + int(offset) % offsets
        return starts

    def read(self, start, length):
        """`length` tokens of the stream from `start` on; they may lie in several shards."""
        pieces = []
        for path, begin, end in self.places(start, length):
            pieces.append(self.read_bytes(path, self.offsets[path] + 2 * begin, 2 * (end - begin)).view('<u2'))
            check_ids(pieces[-1], self.vocab_size, path, begin)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def read_counted(self, start, length):
        """For the same tokens, whether each counts as a target: (length,) bool."""
        pieces = []
        for path, begin, end in self.places(start, length):
            if self.masks[path] is None:
                pieces.append(np.ones(end - begin, dtype=bool))
            else:
                packed = self.read_bytes(self.masks[path], begin // 8, -(-end // 8) - begin // 8)
                pieces.append(np.unpackbits(packed, bitorder='little')[begin % 8:begin % 8 + end - begin].view(bool))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def read_bytes(self, path, start, n_bytes):
        file = self.open_file(path)
        self.check_unchanged(path, os.fstat(file.fileno()))
        return read_bytes(file, start, n_bytes)

    def check_unchanged(self, path, status):
        """Raises BadInput if a file has changed. A new time of change alone, as `touch` leaves it, is no change."""
        if signature(status) == self.seen[path]:
            return
        if status.st_size == self.seen[path][0] and self.sha256[path] == sha256_of(path):
            self.seen[path] = signature(status)
            return
        raise BadInput(f'{path} has changed since this run began to read it; put the right file back, or make the data again, '
                       'and start the run again')

    def check_all_unchanged(self):
        """Looks at all files by their names, since an open file stays what it was when another takes its name."""
        for path in self.seen:
            try:
                self.check_unchanged(path, os.stat(path))
            except OSError as error:
                raise BadInput(f'{path} is gone since this run began to read it ({error.strerror}); put it back and start the '
                               'run again') from error
        self.checked_epoch = self.epoch

    def places(self, start, length):
        """Yields where `length` tokens of the stream from `start` on lie: (path, first, end) in each shard."""
        shard = int(np.searchsorted(self.starts, start, side='right')) - 1
        while length > 0:
            inside = start - int(self.starts[shard])
            end = min(inside + length, int(self.starts[shard + 1] - self.starts[shard]))
            yield self.paths[shard], inside, end
            start, length, shard = start + end - inside, length - (end - inside), shard + 1


def signature(status):
    """(bytes, time of the last change in ns) of a file: another one means another content."""
    return status.st_size, status.st_mtime_ns


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


def check_entry(path, n_tokens, entry):
    """Raises BadInput if meta.json's entry of a shard, {} if it has none, is of another one."""
    if entry and entry['tokens'] != n_tokens:
        raise BadInput(f'{path} holds {n_tokens:,} tokens, but meta.json says {entry["tokens"]:,}; put the right file back, '
                       'or make the data again')


def check_ids(tokens, vocab_size, path, position=0):
    """Raises BadInput naming the first id that is not in the vocabulary."""
    if len(tokens) and tokens.max() >= vocab_size:
        where = int(np.argmax(tokens >= vocab_size))
        raise BadInput(f'{path}: token {position + where:,} is id {tokens[where]}, but the vocabulary of its folder '
                       f'has {vocab_size} entries; the shard is damaged or of another tokenizer. '
                       f'`python shards.py {os.path.dirname(path) or "."}` checks the whole folder')


# ---- python shards.py DIR ---------------------------------------------------------------------------


def check_folder(data_dir: str) -> str:
    """Reads every byte of a folder of shards. Returns a line for each split and the beginning of a random document.

    Raises BadInput naming a shard that is missing, cut short, changed since it was written, or has ids outside the
    vocabulary, or a tokenizer that is not the one in meta.json.
    """
    splits = {split: find_shards(data_dir, split) for split in ('train', 'val')}
    meta = load_meta(data_dir)
    tokenizer, paths = load_tokenizer(data_dir, meta), splits['train'] + splits['val']
    found, recorded = {os.path.basename(path) for path in paths}, meta['shards'].keys()
    for name in sorted(found ^ recorded) if recorded else []:
        raise BadInput(f'{data_dir}: {name} is {"not in meta.json" if name in found else "missing"}; make the data again')
    examined = ordered_map(lambda path: examine_shard(path, meta), paths)
    by_path = dict(zip(paths, tqdm(examined, 'checking', len(paths), unit=' shards')))
    lines = [f"{data_dir}: tokenizer {meta['tokenizer']}, {meta['vocab_size']:,} entries"]
    for split, of_split in splits.items():
        counts = sum(by_path[path][0] for path in of_split)  # (vocab_size,)
        n_tokens, n_separators = int(counts.sum()), int(counts[meta['eot']])
        n_documents = meta.get(f'{split}_documents', n_separators)  # where windows are filled up, there are more separators
        n_targets = sum(by_path[path][1] for path in of_split)
        bytes_per_token = counts @ tokenizer.token_lengths() / max(1, n_tokens - n_separators)
        lines.append(f'{split:5} {plural(len(of_split), "shard", width=5)}  {plural(n_tokens, "token", width=14)}  '
                     f'{plural(n_targets, "target", width=14)}  {plural(n_documents, "document", width=10)}  '
                     f'{bytes_per_token:.3f} bytes/token')
    return '\n'.join([*lines, '', *random_document(random.choice(splits['train']), tokenizer, meta['eot'])])


def examine_shard(path, meta):
    """(how often each id occurs, how many tokens count as targets): (vocab_size,) int64, int."""
    entry, n_tokens = meta['shards'].get(os.path.basename(path), {}), shard_size(path)
    check_entry(path, n_tokens, entry)
    counts = np.zeros(meta['vocab_size'], dtype=np.int64)
    for start in range(0, n_tokens, READ_TOKENS):
        piece = read_tokens(path, start, min(start + READ_TOKENS, n_tokens))
        check_ids(piece, meta['vocab_size'], path, start)
        counts += np.bincount(piece, minlength=meta['vocab_size'])
    mask = read_mask(path, entry)
    n_targets = n_tokens if mask is None else int(np.unpackbits(mask, count=n_tokens, bitorder='little').sum())
    for file, sha256 in ((path, entry.get('sha256')), (mask_path(path), entry.get('mask_sha256'))):
        if sha256 and sha256_of(file) != sha256:
            raise BadInput(f'{file} has changed since it was written: its sha256 is not the recorded one. Delete it and run '
                           'again the script that makes the data')
    return counts, n_targets


def random_document(path, tokenizer, eot, n_characters=200):
    """(where it stands, its first characters) of a document in a shard."""
    n_tokens = shard_size(path)
    first = random.randrange(max(1, n_tokens - READ_TOKENS))
    tokens = read_tokens(path, first, min(first + READ_TOKENS, n_tokens))
    heads = np.flatnonzero((tokens[:-1] == eot) & (tokens[1:] != eot))
    start = int(random.choice(heads)) + 1 if len(heads) else 0
    beginning = tokens[start:start + n_characters * 4]  # a character has up to 4 bytes, each perhaps a token
    text = tokenizer.decode(itertools.takewhile(lambda token: token != eot, beginning))
    return f'the document at token {first + start:,} of {os.path.basename(path)}:', text[:n_characters]


if __name__ == '__main__':
    with one_line_errors():
        print(check_folder(configure(DEFAULTS, positional='data_dir')['data_dir']))
