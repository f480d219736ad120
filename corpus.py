"""Any text -> shards: files, folders, tables, a Hugging Face dataset, SYNTH, the source of Python itself.

    python corpus.py --source=stdlib --vocab_size=4096 --out_dir=data/stdlib     Python's standard library
    python corpus.py --source=poems/ --vocab_size=512 --out_dir=data/poems       a folder: each file a document
    python corpus.py --source='logs/*.jsonl.gz' --text_column=message            rows of jsonl or parquet files
    python corpus.py --source=SYNTH --num_samples=50000                          PleIAs/SYNTH: questions and reasoning
    python corpus.py --source=roneneldan/TinyStories                             a dataset on the Hugging Face hub

A document is a file of a folder, or a row of a table. A single text file is cut where it says
<|endoftext|>, or --document_separator; with neither it is cut, at blank lines or else line ends, into
blocks of a hundredth of the file (256 to 8,192 characters), so that there is something to hold out.

Whole documents go to train or val by a hash of their text, so a text is on the same side on every
machine and copies of a text are never on both. The same settings on the same input give the same
bytes. Run again on finished data it says so and ends; killed, it reads what it has read once more,
and resumes tokenizing after the last whole shard. fineweb.py need not even read again.

This module knows nothing of models. fineweb.py and wikitext.py read and tokenize with what stands here.
"""
import collections
import hashlib
import io
import itertools
import lzma
import os
import re

import numpy as np
from tqdm import tqdm

import shards
import sources
from bpe import EOT, MAX_VOCAB, Tokenizer, open_tokenizer
from configurator import configure, optional
from runtime.errors import BadInput, one_line_errors
from runtime.files import make_folder, read_json, atomic_write, write_json
from runtime.parallel import ordered_map
from sources import ask_hub  # until tasks/ and hellaswag.py import it from sources

DEFAULTS = {
    'source': 'stdlib',                   # stdlib, SYNTH, files, folders, globs (commas between), a name on the hub
    'out_dir': optional(str),             # folder for the shards; data/NAME_OF_THE_SOURCE if None
    'text_column': 'text',                # the column of jsonl and parquet files that holds the text
    'document_separator': optional(str),  # cuts text files into documents; \n and \t are understood
    'num_samples': 0,                     # take only so many documents; 0 = all
    'val_fraction': 0.05,                 # share of the documents held out
    # the vocabulary
    'tokenizer': 'gpt2',                  # gpt2, a tokenizer.json, or a folder with encoder.json and vocab.bpe
    'vocab_size': 0,                      # first train a BPE of so many entries (257 = bytes); 0 = use --tokenizer
    # a dataset on the hub
    'dataset_config': optional(str),      # its configuration, where it has several
    'dataset_split': 'train',             # its split
    # how
    'shard_tokens': shards.SHARD_TOKENS,  # tokens in a shard
    'workers': 0,                         # threads that tokenize; 0 = all cores
}

PIECE_BYTES = 1 << 20  # what is read, and what one thread tokenizes, at a time
XZ_LIMIT = 32_000_000  # xz needs a second for 2 MB


def main(config):
    if not 0 < config['val_fraction'] < 1:
        raise BadInput(f"val_fraction={config['val_fraction']} should be above 0 and below 1: without held-out text "
                       'nobody knows how good a model is')
    check_vocabulary_settings(config)
    source = sources.find_source(config['source'], config['dataset_config'], config['dataset_split'])
    name, out_dir = name_and_folder(config['out_dir'], source.name)
    settings = settings_of(source, config)
    if is_made(out_dir, settings):
        return

    def texts():
        return sources.read_documents(source, config['text_column'], config['document_separator'], config['num_samples'])

    threshold = find_threshold(texts(), config['val_fraction'])

    def documents():
        return (('val' if hash_of(text) < threshold else 'train', text) for text in texts())

    make_shards(out_dir, name, documents, source.name, settings, config)


def check_vocabulary_settings(config):
    if config['vocab_size'] and config['tokenizer'] != 'gpt2':
        raise BadInput('give --vocab_size to train a tokenizer or --tokenizer to use one, not both')
    if config['vocab_size'] and not 257 <= config['vocab_size'] <= MAX_VOCAB:
        raise BadInput(f"vocab_size={config['vocab_size']} should be from 257 (256 bytes and {EOT}) to {MAX_VOCAB}")


def make_shards(out_dir, name, documents, source_name, settings, config):
    """Tokenizes documents, with a new tokenizer if the config says so, and writes OUT_DIR; meta.json last.

    documents: function that gives an iterator over all ('train' or 'val', text), the same each time it is called
    config:    'tokenizer', 'vocab_size', 'shard_tokens' and 'workers' as in DEFAULTS
    """
    progress = load_progress(out_dir, name, settings)
    if progress['shards']:
        print(f'{out_dir}: resumes after {len(progress["shards"])} whole shards')
        tokenizer, tokenizer_file = same_tokenizer(out_dir, config)
    else:
        tokenizer, tokenizer_file = make_tokenizer((text for split, text in documents() if split == 'train'), config)
        prepare_folder(out_dir, name, tokenizer_file)
    first_piece, skip = progress['piece'], progress['skip']  # tokens before that place are in shards
    val, val_text, counts = [], io.BytesIO(), collections.Counter()

    def tokenize(numbered):
        number, piece = numbered
        texts = {wanted: [text for split, text in piece if split == wanted] for wanted in ('train', 'val')}
        train_tokens = encode_documents(tokenizer, texts['train'] if number >= first_piece else [])
        return texts, train_tokens[skip if number == first_piece else 0:], encode_documents(tokenizer, texts['val'])

    def train_tokens():
        pieces = enumerate(in_pieces(documents()))
        with tqdm(desc='tokenizing', unit='B', unit_scale=True) as bar:
            for texts, train_tokens, val_tokens in ordered_map(tokenize, pieces, config['workers']):
                for split in texts:
                    data = ''.join(texts[split]).encode('utf-8', 'replace')
                    counts.update({f'{split}_documents': len(texts[split]), f'{split}_bytes': len(data)})
                    bar.update(len(data))
                    if split == 'val' and counts['val_bytes'] <= XZ_LIMIT:
                        val_text.write(data)
                val.append(val_tokens)
                yield train_tokens

    def note(file_name, entry, piece, taken):
        progress['shards'][file_name] = entry
        progress.update(piece=piece, skip=taken + (skip if piece == first_piece else 0))
        write_json(progress_path(out_dir, name), progress)

    written = dict(progress['shards'])
    written |= shards.write_shards(train_tokens(), out_dir, name, 'train', config['shard_tokens'], 1 + len(written), note=note)
    written |= shards.write_shards(val, out_dir, name, 'val', config['shard_tokens'], first=0)
    meta = {
        **describe(tokenizer, tokenizer_file),
        'source': source_name,
        **{key: counts[key] for key in ('train_documents', 'val_documents', 'train_bytes', 'val_bytes')},
        'val_xz_bits_per_byte': xz_bits_per_byte(val_text.getvalue()) if counts['val_bytes'] <= XZ_LIMIT else None,
        'settings': settings,
        'shards': written,
    }
    write_json(os.path.join(out_dir, 'meta.json'), meta)
    if progress['shards']:
        os.remove(progress_path(out_dir, name))
    print(summary(out_dir, meta))


# ---------------------------------------------------------------------------- train or val

def hash_of(text):
    """A number in [0, 1) that depends on the text alone."""
    digest = hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=8).digest()
    return int.from_bytes(digest, 'big') / 2**64


def find_threshold(documents, val_fraction, looked_at=1000):
    """Texts with a hash below this are held out: val_fraction, or what puts a text on each side if there are few."""
    hashes = sorted({hash_of(text) for text in itertools.islice(documents, looked_at)})
    if not hashes:
        raise BadInput('there are no documents in this source: nothing but empty text')
    if len(hashes) == 1:
        raise BadInput('there is only one document in this source, so none to hold out; '
                       'cut it with --document_separator')
    return min(max(val_fraction, (hashes[0] + hashes[1]) / 2), hashes[-1])


# ---------------------------------------------------------------------------- tokens

def make_tokenizer(train_texts, config):
    """(Tokenizer, content of tokenizer.json as bytes, or None for GPT-2's own)."""
    if config['vocab_size']:
        tokenizer = Tokenizer.train(train_texts, config['vocab_size'], processes=config['workers'] or None)
    else:
        tokenizer = open_tokenizer(config['tokenizer'])
        tokenizer.eot  # one without <|endoftext|> is refused now, before anything is written
    is_gpt2 = config['tokenizer'] == 'gpt2' and not config['vocab_size']
    return tokenizer, None if is_gpt2 else tokenizer.to_json().encode()


def describe(tokenizer, tokenizer_file):
    """What meta.json says about a tokenizer."""
    return {
        'tokenizer': 'tokenizer.json' if tokenizer_file else 'gpt2',
        'tokenizer_sha256': hashlib.sha256(tokenizer_file).hexdigest() if tokenizer_file else None,
        'vocab_size': tokenizer.vocab_size,
        'eot': tokenizer.eot,
        'document_separator': EOT,
    }


def encode_documents(tokenizer, texts):
    """The texts as one uint16 array, <|endoftext|> before each."""
    eot = np.array([tokenizer.eot], dtype=np.uint16)
    parts = [part for text in texts for part in (eot, tokenizer.encode_array(text))]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint16)


def in_pieces(documents, size=PIECE_BYTES):
    """The (split, text) documents as lists of about `size` characters."""
    piece, filled = [], 0
    for split, text in documents:
        piece.append((split, text))
        filled += len(text)
        if filled >= size:
            yield piece
            piece, filled = [], 0
    if piece:
        yield piece


def xz_bits_per_byte(data):
    """What `xz -9e` needs for the held-out text: the yardstick of a compressor that has seen nothing else."""
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data) if data else None


# ---------------------------------------------------------------------------- the folder

def settings_of(source, config):
    """What the data follows from; kept in meta.json, so that other settings do not end up in the same folder."""
    keys = ('source', 'text_column', 'document_separator', 'num_samples', 'val_fraction', 'vocab_size', 'tokenizer',
            'dataset_config', 'dataset_split', 'shard_tokens')
    settings = {key: config[key] for key in keys} | ({'tokenizer': None} if config['vocab_size'] else {})
    if config['source'] != 'stdlib':
        settings['input_files'] = fingerprint(source.files)
    return settings


def fingerprint(files):
    """A short hash of names and sizes, or of URLs: another one means another input."""
    listing = [path if '://' in path else f'{os.path.basename(path)} {os.path.getsize(path)}' for path in files]
    return hashlib.sha256('\n'.join(listing).encode()).hexdigest()[:16]


def check_same_settings(out_dir, there, wanted):
    """Raises BadInput when a folder's data was made with other settings than those wanted now."""
    different = [key for key in wanted if there.get(key) != wanted[key]]
    if different:
        key = different[0]
        how = f'made with {key}={there.get(key)!r}, not {wanted[key]!r}'
        if key == 'input_files' and key in there:
            how = 'made from other input files: names or sizes have changed since'
        raise BadInput(f'{out_dir} already holds data {how}; take another --out_dir, or delete that folder first')


def name_and_folder(out_dir, source_name):
    """(NAME of the shards, folder): the folder's own name, or data/ and the source's name."""
    name = os.path.basename(os.path.normpath(out_dir or source_name))
    name = re.sub(r'[^A-Za-z0-9.-]+', '_', name).strip('_') or 'corpus'
    return name, out_dir or os.path.join('data', name)


def is_made(out_dir, settings):
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


def progress_path(out_dir, name):
    return os.path.join(out_dir, f'{name}_unfinished.json')


def load_progress(out_dir, name, settings):
    """What a killed run has left of the same data, or a new start.

    'shards' are whole; tokens that come before the first 'skip' of piece number 'piece' (of in_pieces) are in them.
    """
    path = progress_path(out_dir, name)
    if os.path.exists(path):
        progress = read_json(path)
        there = [os.path.join(out_dir, file_name) for file_name in progress['shards']]
        if progress['settings'] == settings and all(map(os.path.exists, [*there, *tokenizer_path(out_dir, settings)])):
            return progress
    return {'settings': settings, 'shards': {}, 'piece': 0, 'skip': 0}


def tokenizer_path(out_dir, settings):
    """[the tokenizer.json that stands beside the shards], or [] for GPT-2's."""
    own = settings['vocab_size'] or settings['tokenizer'] != 'gpt2'
    return [os.path.join(out_dir, 'tokenizer.json')] if own else []


def same_tokenizer(out_dir, config):
    """What make_tokenizer gave to the killed run."""
    for path in tokenizer_path(out_dir, config):
        with open(path, 'rb') as file:
            return Tokenizer.load(path), file.read()
    return make_tokenizer((), config)


def prepare_folder(out_dir, name, tokenizer_file):
    """Makes the folder, clears what a killed run left in it, and writes the tokenizer."""
    make_folder(out_dir)
    found = [entry for entry in os.listdir(out_dir) if shards.SHARD_NAME.search(entry)]
    ours = re.compile(re.escape(name) + r'_(train|val)_\d{6}\.bin')
    others = [entry for entry in found if not ours.fullmatch(entry)]
    if others:
        raise BadInput(f'{out_dir} already holds other shards ({others[0]}); take another --out_dir')
    for entry in [*found, 'meta.json', 'tokenizer.json', f'{name}_unfinished.json']:
        if os.path.exists(os.path.join(out_dir, entry)):
            os.remove(os.path.join(out_dir, entry))
    if tokenizer_file:
        with atomic_write(os.path.join(out_dir, 'tokenizer.json')) as file:
            file.write(tokenizer_file)


def summary(out_dir, meta):
    tokens = {split: sum(entry['tokens'] for name, entry in meta['shards'].items() if f'_{split}_' in name)
              for split in ('train', 'val')}
    lines = [f'{split:5} {tokens[split]:>13,} tokens  {meta[f"{split}_documents"]:>9,} documents  '
             f'{meta[f"{split}_bytes"] / max(1, tokens[split] - meta[f"{split}_documents"]):.3f} bytes/token'
             for split in ('train', 'val')]
    if meta['val_xz_bits_per_byte']:
        lines.append(f'xz -9e needs {meta["val_xz_bits_per_byte"]:.3f} bits per byte for the val text')
    return '\n'.join([f'{out_dir}: tokenizer {meta["tokenizer"]}, {meta["vocab_size"]:,} entries', *lines])


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
