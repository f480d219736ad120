"""Documents -> a folder of shards: tokenizer, shards, what a killed job resumes from, and meta.json at the end.

`make_data_folder` does all of it for corpus.py and wikitext.py; fineweb.py and tasks/ use the parts. A killed job that is
run again resumes after the last whole shard, and ends with the bytes of a run without a stop.

This module knows nothing about where documents come from.
"""
import collections
import hashlib
import itertools
import lzma
import os
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from tqdm import tqdm

import shards
from bpe import EOT, MAX_VOCAB, Tokenizer, open_tokenizer
from configurator import check_bounds
from runtime.errors import BadInput
from runtime.files import atomic_write, make_folder, read_json, size_of, write_json
from runtime.parallel import in_pieces, ordered_map
from runtime.words import plural

PIECE_CHARACTERS = 1 << 20  # that one thread tokenizes at a time
MAX_WORKERS = 4096
XZ_LIMIT = 32_000_000       # bytes; xz needs a second for 2 MB


def make_data_folder(out_dir: str, name: str, documents: Callable[[], Iterable], source_name: str, settings: dict,
                     config: dict):
    """Tokenizes documents, with a new tokenizer if the config says so, and writes OUT_DIR; meta.json last.

    documents: function that gives an iterator over all ('train' or 'val', text), the same each time it is called
    settings:  all that the data follows from, for meta.json; data of other settings is not resumed
    config:    'tokenizer', 'vocab_size', 'shard_tokens' and 'workers' as in corpus.DEFAULTS
    """
    path = os.path.join(out_dir, f'{name}_unfinished.json')
    progress = Progress.load(path)
    if progress and progress.shards and progress.meta['settings'] == settings and has_tokenizer(out_dir, progress.meta):
        print(f'{out_dir}: resumes after {plural(len(progress.shards), "whole shard")}')
        tokenizer = shards.load_tokenizer(out_dir, progress.meta)
    else:
        tokenizer, tokenizer_file = make_tokenizer((text for split, text in documents() if split == 'train'), config)
        progress = Progress(path, {**describe(tokenizer, tokenizer_file), 'source': source_name, 'settings': settings})
        prepare_folder(out_dir, name, tokenizer_file)
    resumed_at = progress.next or {'document': 0, 'skip': 0}
    val, val_text, counts = [], bytearray(), collections.Counter()

    def read():
        """Counts all documents, and yields ((number, split), text) of those that are not yet in a shard, with a bar."""
        with tqdm(desc='tokenizing', unit='B', unit_scale=True) as bar:
            for number, (split, text) in enumerate(documents()):
                data = text.encode('utf-8', 'replace')
                counts[split, 'documents'] += 1
                counts[split, 'bytes'] += len(data)
                bar.update(len(data))
                if split == 'val' and counts['val', 'bytes'] <= XZ_LIMIT:
                    val_text.extend(data)
                if split == 'val' or number >= resumed_at['document']:
                    yield (number, split), text

    def train_documents():
        """What cut_into_shards reads. Held-out documents are put aside; they are few."""
        for (number, split), tokens in tokenized(read(), tokenizer, config['workers']):
            if split == 'val':
                val.append(tokens)
            else:
                yield tokens, None, resumed_at if number == resumed_at['document'] else {'document': number, 'skip': 0}

    for tokens, _, place in shards.cut_into_shards(train_documents(), config['shard_tokens']):
        progress.write_shard(name, 'train', tokens, place)
    written = progress.entries() | shards.write_shards(val, out_dir, name, 'val', config['shard_tokens'], first=0)
    meta = {key: value for key, value in progress.meta.items() if key != 'settings'}
    meta |= {f'{split}_{what}': counts[split, what] for what in ('documents', 'bytes') for split in ('train', 'val')}
    xz_bits = None  # what a compressor needs that has seen nothing else: a yardstick for the model's bits per byte
    if 0 < counts['val', 'bytes'] <= XZ_LIMIT:
        xz_bits = 8 * len(lzma.compress(val_text, preset=9 | lzma.PRESET_EXTREME)) / len(val_text)
    meta |= {'val_xz_bits_per_byte': xz_bits, 'settings': settings, 'shards': written}
    write_json(os.path.join(out_dir, 'meta.json'), meta)
    os.remove(path)
    print(summary(out_dir, meta))


def tokenized(documents: Iterable[tuple], tokenizer: Tokenizer, workers: int) -> Iterator[tuple]:
    """Yields (place, tokens) for each (place, text), in order, tokenized on all cores."""
    def encode(piece):
        return [(place, encode_document(tokenizer, text)) for place, text in piece]

    pieces = in_pieces(documents, PIECE_CHARACTERS, length=lambda document: len(document[1]))
    return itertools.chain.from_iterable(ordered_map(encode, pieces, workers))


# ---- which documents are held out -------------------------------------------------------------------


def hash_of(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    digest = hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=8).digest()
    return int.from_bytes(digest, 'big') / 2**64


def find_threshold(documents: Iterable[str], val_fraction: float, looked_at: int = 1000,
                   advice: str = 'cut it with --document_separator') -> float:
    """Texts with a hash below this are held out: val_fraction, or what puts a text on each side if there are few."""
    hashes = sorted({hash_of(text) for text in itertools.islice(documents, looked_at)})
    if not hashes:
        raise BadInput('there are no documents in this source: nothing but empty text')
    if len(hashes) == 1:
        raise BadInput(f'there is only one document in this source, so none to hold out; take more text, or {advice}')
    return min(max(val_fraction, (hashes[0] + hashes[1]) / 2), hashes[-1])


# ---- what a killed job resumes from -----------------------------------------------------------------


class Progress:
    """What one job has written so far, in a file that is renewed after each shard.

    meta:     what meta.json says of the tokenizer, the source and the settings
    shards:   [{'file': name, 'tokens': n, 'sha256': ..., 'documents': n, 'next': place in the input where the next begins}]
    complete: whether there is nothing more to come

    fineweb.py, which holds out its first shard, keeps the file as NAME_progress.json: shards.load_meta reads it. Where the
    held-out shards come last, it is NAME_unfinished.json, which is no data yet and is removed when meta.json is written.
    """

    def __init__(self, path: str, meta: dict, written: Iterable[dict] = (), complete: bool = False):
        self.path, self.meta, self.shards, self.complete = path, meta, list(written), complete

    @classmethod
    def load(cls, path: str) -> 'Progress | None':
        """The progress in a file, up to the last of its whole shards in a row; None if there is no file."""
        if not os.path.exists(path):
            return None
        found = read_json(path)
        shards.check_progress(path, found)
        whole = list(itertools.takewhile(lambda shard: is_whole(os.path.dirname(path), shard), found['shards']))
        return cls(path, found['meta'], whole, found['complete'] and len(whole) == len(found['shards']))

    @property
    def next(self) -> dict | None:
        """The place in the input at which the next shard begins; None at the start."""
        return self.shards[-1]['next'] if self.shards else None

    def count(self, split: str) -> int:
        return sum(f'_{split}_' in shard['file'] for shard in self.shards)

    def write_shard(self, name: str, split: str, tokens: np.ndarray, place: dict):
        """Writes the next shard of a split, and that the one after it begins at `place` of the input."""
        path = shards.shard_path(os.path.dirname(self.path), name, split, self.count(split) + (split == 'train'))
        entry = shards.write_shard(path, tokens)
        n_documents = int(np.count_nonzero(tokens == self.meta['eot']))
        self.shards.append({'file': os.path.basename(path), **entry, 'documents': n_documents, 'next': place})
        self.save()

    def entries(self) -> dict:
        """{file name: entry} for meta.json."""
        return shards.shard_entries({'shards': self.shards})

    def save(self):
        write_json(self.path, {'meta': self.meta, 'shards': self.shards, 'complete': self.complete})


def is_whole(out_dir, shard):
    path = os.path.join(out_dir, shard['file'])
    return os.path.exists(path) and shards.shard_size(path) == shard['tokens']


# ---- the tokenizer ----------------------------------------------------------------------------------


def check_data_settings(config: dict):
    """Raises BadInput for shard_tokens, workers or vocab_size that cannot be, or one beside a tokenizer that is named."""
    check_bounds(config, 'shard_tokens', at_least=1, at_most=shards.MAX_SHARD_TOKENS)
    check_bounds(config, 'workers', at_least=0, at_most=MAX_WORKERS)
    if config['vocab_size'] and config['tokenizer'] != 'gpt2':
        raise BadInput('give --vocab_size to train a tokenizer or --tokenizer to use one, not both')
    if config['vocab_size'] and not 257 <= config['vocab_size'] <= MAX_VOCAB:
        raise BadInput(f"vocab_size={config['vocab_size']} should be from 257 (256 bytes and {EOT}) to {MAX_VOCAB}")


def make_tokenizer(train_texts: Iterable[str], config: dict) -> tuple[Tokenizer, bytes | None]:
    """(Tokenizer, content of its tokenizer.json or None for GPT-2's own): trained on the texts, or the one that is named."""
    if not config['vocab_size']:
        return named_tokenizer(config['tokenizer'])
    tokenizer = Tokenizer.train(train_texts, config['vocab_size'], processes=config['workers'] or None)
    return tokenizer, tokenizer.to_json().encode()


def named_tokenizer(name: str) -> tuple[Tokenizer, bytes | None]:
    tokenizer = open_tokenizer(name)
    return tokenizer, None if name == 'gpt2' else tokenizer.to_json().encode()


def encode_document(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """<|endoftext|> and the tokens of a text: (n,) uint16."""
    ids = tokenizer.encode_array(text)
    tokens = np.empty(1 + len(ids), dtype=np.uint16)
    tokens[0], tokens[1:] = tokenizer.eot, ids
    return tokens


def describe(tokenizer: Tokenizer, tokenizer_file: bytes | None) -> dict:
    """What meta.json says about a tokenizer. Raises BadInput if it has no <|endoftext|>."""
    return {
        'tokenizer': 'tokenizer.json' if tokenizer_file else 'gpt2',
        'tokenizer_sha256': hashlib.sha256(tokenizer_file).hexdigest() if tokenizer_file else None,
        'vocab_size': tokenizer.vocab_size,
        'eot': tokenizer.eot,
        'document_separator': EOT,
    }


def has_tokenizer(out_dir, meta):
    return meta['tokenizer'] == 'gpt2' or os.path.exists(os.path.join(out_dir, meta['tokenizer']))


# ---- the folder -------------------------------------------------------------------------------------


def name_and_folder(out_dir: str | None, source_name: str) -> tuple[str, str]:
    """(NAME of the shards, folder): the folder's own name, or data/ and the source's name."""
    name = file_name_of(os.path.basename(os.path.normpath(out_dir or source_name))) or 'corpus'
    return name, out_dir or os.path.join('data', name)


def file_name_of(text):
    """A text with underscores for all that a file name should not have."""
    return re.sub(r'[^A-Za-z0-9.-]+', '_', text).strip('_')


def fingerprint(files: Iterable[str]) -> str:
    """A short hash of names and sizes, or of URLs: another one means another input."""
    listing = [path if '://' in path else f'{os.path.basename(path)} {size_of(path)}' for path in files]
    return hashlib.sha256(os.fsencode('\n'.join(listing))).hexdigest()[:16]


def check_same_settings(out_dir: str, recorded: dict, wanted: dict):
    """Raises BadInput when a folder's data was made with other settings than those wanted now."""
    for key in wanted:
        if recorded.get(key) != wanted[key]:
            how = f'made with {key}={recorded.get(key)!r}, not {wanted[key]!r}'
            if key == 'input_files' and key in recorded:
                how = 'made from other input files: names, sizes or the commit on the hub have changed since'
            raise BadInput(f'{out_dir} already holds data {how}; take another folder, or delete that one first')


def is_made(out_dir: str, settings: dict) -> bool:
    """True, after saying so, if the folder holds what these settings make; BadInput if it holds something else."""
    if not os.path.exists(os.path.join(out_dir, 'meta.json')):
        return False
    meta = shards.load_meta(out_dir)
    check_same_settings(out_dir, meta.get('settings', {}), settings)
    missing = [name for name in meta['shards'] if not os.path.exists(os.path.join(out_dir, name))]
    if missing:
        print(f'{missing[0]} is missing from {out_dir}: making the data again')
        return False
    print(f'{out_dir} is already made, with the same settings:')
    print(summary(out_dir, meta))
    return True


def prepare_folder(out_dir: str, name: str, tokenizer_file: bytes | None, job: str = ''):
    """Makes the folder, clears what an earlier run of the same name left in it, and writes tokenizer.json.

    job: name of a job beside which others write to the folder, NAME_partKofN; then nothing is cleared.
    Raises BadInput where the folder has shards of another name.
    """
    make_folder(out_dir)
    part = r'(_part\d+of\d+)?' if job else ''
    ours = re.compile(re.escape(name) + part + r'_(train|val)_\d{6}\.(bin|mask)')
    entries = os.listdir(out_dir)
    if others := [entry for entry in entries if shards.SHARD_NAME.search(entry) and not ours.fullmatch(entry)]:
        raise BadInput(f'{out_dir} already holds other shards ({others[0]}); take another folder')
    for entry in entries:
        if not job and (ours.fullmatch(entry) or entry in ('meta.json', 'tokenizer.json', f'{name}_unfinished.json')):
            os.remove(os.path.join(out_dir, entry))
    if tokenizer_file:
        with atomic_write(os.path.join(out_dir, 'tokenizer.json'), writer=job) as file:
            file.write(tokenizer_file)


def summary(out_dir: str, meta: dict) -> str:
    """What a folder holds, in a line for each split."""
    lines = [f'{out_dir}: tokenizer {meta["tokenizer"]}, {meta["vocab_size"]:,} entries']
    for split in ('train', 'val'):
        n_tokens = sum(entry['tokens'] for name, entry in meta['shards'].items() if f'_{split}_' in name)
        n_documents = meta.get(f'{split}_documents', 0)
        lines.append(f'{split:5} {plural(n_tokens, "token", width=13)}  {plural(n_documents, "document", width=9)}')
        if f'{split}_bytes' in meta:
            lines[-1] += f'  {meta[f"{split}_bytes"] / max(1, n_tokens - n_documents):.3f} bytes/token'
    if meta.get('val_xz_bits_per_byte'):
        lines.append(f'the compressor xz -9e needs {meta["val_xz_bits_per_byte"]:.3f} bits per byte for the val text; '
                     'a trained model should need fewer')
    return '\n'.join(lines)
