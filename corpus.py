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
import bz2
import codecs
import collections
import concurrent.futures
import glob
import gzip
import hashlib
import io
import itertools
import json
import lzma
import os
import re
import sys
import zlib

import numpy as np
from tqdm import tqdm

import shards
from bpe import EOT, MAX_VOCAB, Tokenizer, available_cores, open_tokenizer
from configurator import configure, optional
from runtime.errors import BadInput, one_line_errors
from runtime.files import make_folder, read_json, atomic_write, write_json

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

SYNTH = 'PleIAs/SYNTH'
SYNTH_COLUMNS = ('query', 'synthetic_reasoning', 'synthetic_answer')
# Tests, tables that a program wrote, and what other people installed
NOT_THE_STDLIB = {'encodings', 'pydoc_data', 'lib2to3', 'msilib', 'test', 'tests', 'idle_test', 'site-packages',
                  'dist-packages', 'lib-dynload', '__pycache__', '__phello__'}
GENERATED_FILES = re.compile(r'_sysconfigdata.*|entities\.py|stringprep\.py')
TABLE_NAME = re.compile(r'\.(parquet|jsonl|ndjson|json)(\.gz|\.bz2|\.xz|\.zst)?$')
FILE_NAME = re.compile(TABLE_NAME.pattern + r'|\.(txt|md|csv|tsv|gz|zip|py|html)$')
DATASET_NAME = re.compile(r'[\w-][\w.-]*(/[\w-][\w.-]*)?')
BLOCK_CHARACTERS = (256, 8192)
PIECE_BYTES = 1 << 20  # what is read, and what one thread tokenizes, at a time
LARGE_GROUP, GROUPS_FETCHED_AT_ONCE = 64 << 20, 8  # bytes; over the network
XZ_LIMIT = 32_000_000  # xz needs a second for 2 MB


def main(config):
    if not 0 < config['val_fraction'] < 1:
        raise BadInput(f"val_fraction={config['val_fraction']} should be above 0 and below 1: without held-out text "
                       'nobody knows how good a model is')
    check_vocabulary_settings(config)
    source = find_source(config)
    name, out_dir = name_and_folder(config['out_dir'], source['name'])
    settings = settings_of(source, config)
    if is_made(out_dir, settings):
        return
    threshold = find_threshold(read_documents(source, config), config['val_fraction'])

    def documents():
        return (('val' if hash_of(text) < threshold else 'train', text) for text in read_documents(source, config))

    make_shards(out_dir, name, documents, source['name'], settings, config)


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


# ---------------------------------------------------------------------------- where the text is

def find_source(config):
    """{'name', 'kind': 'stdlib' | 'table' | 'texts' | 'text', 'files': [paths or URLs]} of --source, or BadInput."""
    source = config['source']
    if source == 'stdlib':
        return {'name': 'stdlib', 'kind': 'stdlib', 'files': stdlib_files()}
    files = local_files(source)
    if files is None:
        return hub_source(SYNTH if source == 'SYNTH' else source, config)
    name = os.path.splitext(os.path.basename(os.path.normpath(source)))[0]
    tables = [path for path in files if TABLE_NAME.search(path)]
    if tables and len(tables) < len(files):
        example = os.path.join(os.path.dirname(tables[0]), '*' + TABLE_NAME.search(tables[0])[0])
        raise BadInput(f'{source} holds tables ({os.path.basename(tables[0])}) and text files together; name one kind, '
                       f"as in --source='{example}'")
    if tables:
        return {'name': name, 'kind': 'table', 'files': tables}
    if len(files) > 1:
        files = [path for path in files if not is_binary(path)]
        if not files:
            raise BadInput(f'{source} holds no text file: all of its files are binary')
    elif is_binary(files[0]):
        raise BadInput(f'{files[0]} is not text: it has zero bytes (UTF-16 should be saved as UTF-8)')
    return {'name': name, 'kind': 'texts' if len(files) > 1 else 'text', 'files': files}


def local_files(source):
    """The files that a path, folder, glob, or several with commas between, stand for; None if it looks like none."""
    patterns = [source] if os.path.exists(source) else source.split(',')
    files = []
    for pattern in patterns:
        if os.path.isdir(pattern):
            found = [os.path.join(folder, name) for folder, folders, names in os.walk(pattern) for name in names]
            found = [path for path in found if not any(part.startswith('.') or part == '__pycache__'
                                                       for part in os.path.relpath(path, pattern).split(os.sep))]
        else:
            found = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
        if not found and DATASET_NAME.fullmatch(source) and not os.path.isdir(source) and not FILE_NAME.search(source):
            return None
        if not found:
            raise BadInput(f'no file at {pattern!r}; --source takes stdlib, SYNTH, files, a folder, a glob, or the '
                           "name of a dataset on the Hugging Face hub")
        files += found
    return sorted(set(files))


def stdlib_files():
    """The .py files of the running Python's standard library, without tests and generated tables."""
    root = os.path.dirname(os.__file__)
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_THE_STDLIB and not name.startswith('config-')]
        files += [os.path.join(folder, name) for name in names
                  if name.endswith('.py') and not GENERATED_FILES.fullmatch(name)]
    if not files:
        raise BadInput(f'this Python keeps no source text of its library in {root}; name another --source')
    return sorted(files, key=lambda path: os.path.relpath(path, root).replace(os.sep, '/'))


def ask_hub(name):
    """Says that a data set is looked for, and keeps the hub's library from a line for each of its tries."""
    import huggingface_hub
    huggingface_hub.utils.logging.set_verbosity_error()
    print(f'{name}: asking the Hugging Face hub', file=sys.stderr, flush=True)


def hub_source(name, config, revision=None):
    """The files of a split of a dataset on the Hugging Face hub, as of `revision` or else now.

    The library pins every URL to the commit it found, as in hf://datasets/NAME@COMMIT/PATH.
    """
    import datasets
    ask_hub(name)
    try:
        builder = datasets.load_dataset_builder(name, config['dataset_config'], revision=revision)
        files = (builder.config.data_files or {}).get(config['dataset_split'], [])
    except Exception as error:  # the hub, the network and the library's scripts raise dozens of kinds
        raise BadInput(f'{name}: no such file here, and no such dataset could be opened on the Hugging Face hub '
                       f'({type(error).__name__}: {first_line(error)}); check the network and the name, or download it and '
                       'give its files as --source') from error
    if not files or not all(TABLE_NAME.search(str(path)) for path in files):
        raise BadInput(f"{name} has no parquet or json files for split {config['dataset_split']!r}; download it and "
                       'give its files as --source')
    return {'name': name.split('/')[-1], 'kind': 'table', 'files': [str(path) for path in files]}


def open_anywhere(path):
    """A local path or a URL such as hf://datasets/... opened for reading bytes."""
    if '://' not in path:
        try:
            return open(path, 'rb')
        except OSError as error:
            raise BadInput(f'{path}: {error.strerror}') from error
    import fsspec
    filesystem, name = fsspec.core.url_to_fs(path)
    return filesystem.open(name, 'rb')


def is_binary(path):
    with open_anywhere(path) as file:
        return b'\0' in file.read(8192)


def first_line(error):
    return (str(error).splitlines() or [''])[0]


# ---------------------------------------------------------------------------- documents

def read_documents(source, config):
    """Yields the text of every document of a source in a fixed order; empty ones are left out."""
    if source['kind'] == 'table':
        documents = (text for path in source['files']
                     for _, texts, _ in read_table(path, config['text_column']) for text in texts)
    elif source['kind'] == 'text':
        documents = cut_file(source['files'][0], config['document_separator'])
    elif config['document_separator']:
        documents = (text for path in source['files'] for text in cut_file(path, config['document_separator']))
    else:
        documents = (''.join(read_text(path)) for path in source['files'])
    documents = (text for text in documents if text and not text.isspace())
    return itertools.islice(documents, config['num_samples'] or None)


def read_text(path):
    """Yields a text file in pieces. Bytes that are not UTF-8 become U+FFFD, which is said in a line at the end."""
    decoder = codecs.getincrementaldecoder('utf-8-sig')(errors='replace')
    replaced = 0
    with open_anywhere(path) as file:
        while block := file.read(PIECE_BYTES):
            text = decoder.decode(block)
            replaced += text.count('\ufffd') - block.count('\ufffd'.encode())
            yield text
        yield decoder.decode(b'', final=True)
    if replaced > 0:
        tqdm.write(f'{path}: {replaced} places are not UTF-8 and became U+FFFD', file=sys.stderr)


def cut_file(path, separator=None):
    """Yields the documents of one text file: between separators, or blocks where it has none."""
    if separator:
        separator = separator.replace('\\n', '\n').replace('\\t', '\t')
    elif EOT in next(read_text(path)):
        separator = EOT
    if separator:
        yield from cut_at_separator(read_text(path), separator)
    else:
        yield from cut_into_blocks(read_text(path), os.path.getsize(path) // 100)


def cut_at_separator(pieces, separator):
    rest = ''
    for piece in pieces:
        *whole, rest = (rest + piece).split(separator)
        yield from whole
    yield rest


def cut_into_blocks(pieces, size):
    """Yields the text in blocks of at least `size` characters (256 to 8,192) that together are the text.

    A block ends after the first blank line behind that size, or, where none comes for as long again, after the
    first line end or white space; text without any is cut at the size.
    """
    low, high = BLOCK_CHARACTERS
    size = min(max(size, low), high)
    rest = ''
    for piece in itertools.chain(pieces, [None]):
        rest += piece or ''
        start = 0
        while len(rest) - start > 2 * size:
            for end_of in ('\n\n', '\n', ' '):
                place = rest.find(end_of, start + size - len(end_of), start + 2 * size)
                if place >= 0:
                    break
            end = start + size if place < 0 else place + len(end_of)
            yield rest[start:end]
            start = end
        rest = rest[start:]
    yield rest


# ---------------------------------------------------------------------------- tables

def read_table(path, column, first_row=0, share=(0, 1, 1)):
    """Yields (row numbers, their texts, share of the file read so far) of a parquet or json-lines file, in order.

    column:    where the text is. A table without it that has SYNTH's columns gives SYNTH's documents.
    first_row: rows before this one are left out.
    share:     (low, high, n): only the rows from the low-th to the high-th n-th of the file; of a file that does
               not say how long it is, those with low <= row % n < high.
    A row without text is '' in the list. Raises BadInput on a damaged file, and on a missing column with the
    names of those that are there.
    """
    read = read_parquet if '.parquet' in TABLE_NAME.search(path)[0] else read_json_lines
    yield from read(path, column, first_row, share)


def read_parquet(path, column, first_row, share):
    import pyarrow
    import pyarrow.parquet
    low, high, n = share
    try:
        with open_anywhere(path) as file:
            table = pyarrow.parquet.ParquetFile(file)
            columns = pick_columns(table.schema_arrow.names, column, path)
            kinds = {str(table.schema_arrow.field(name).type) for name in columns}
            if not kinds <= {'string', 'large_string', 'string_view'}:
                raise BadInput(f"{path}: column {columns[0]!r} holds {', '.join(kinds)}, not text; "
                               'name another --text_column')
            first, last = table.metadata.num_rows * low // n, table.metadata.num_rows * high // n
            begin = max(first, first_row)
            group_sizes = [table.metadata.row_group(group).num_rows for group in range(table.metadata.num_row_groups)]
            group_starts = list(itertools.accumulate(group_sizes, initial=0))
            groups = [group for group in range(len(group_sizes))
                      if group_starts[group] < last and group_starts[group + 1] > begin]
            for group, batches in zip(groups, read_groups(path, table, groups, list(columns))):
                row = group_starts[group]
                for batch in batches:
                    start, stop = max(row, begin), min(row + len(batch), last)
                    if start < stop:
                        texts = texts_of(batch.slice(start - row, stop - start).to_pydict(), columns)
                        yield range(start, stop), texts, (stop - first) / (last - first)
                    row += len(batch)
    except pyarrow.ArrowException as error:
        raise BadInput(f'{path} is not a readable parquet file: {first_line(error)}') from error


def read_groups(path, table, groups, columns):
    """An iterator over the row groups of a parquet file, each an iterable of arrow batches of up to 512 rows.

    Over the network several groups are fetched at once: one after another, the time until each answer comes would
    leave most cores without work. Groups of which several may not fit into memory are read in small pieces instead.
    """
    import pyarrow.parquet

    def batches(table, group):
        return table.iter_batches(batch_size=512, row_groups=[group], columns=columns)

    def fetch(group):
        with open_anywhere(path) as file:
            return list(batches(pyarrow.parquet.ParquetFile(file, metadata=table.metadata, pre_buffer=True), group))

    largest = max((table.metadata.row_group(group).total_byte_size for group in groups), default=0)
    if '://' in path and largest <= LARGE_GROUP:
        return ordered_map(fetch, groups, GROUPS_FETCHED_AT_ONCE)
    return (batches(table, group) for group in groups)


def read_json_lines(path, column, first_row, share):
    low, high, n = share
    with open_anywhere(path) as raw:
        size = max(1, raw.seek(0, os.SEEK_END))
        raw.seek(0)
        lines = enumerate(json_lines(decompressed(raw, path), path))
        while batch := list(itertools.islice(lines, 512)):
            batch = [(row, line) for row, line in batch if row >= first_row and low <= row % n < high]
            if batch:
                texts = [json_text(line, column, path, row + 1) for row, line in batch]
                done = 1 if raw.closed else raw.tell() / size  # the decompressor of zstd closes it at the end
                yield [row for row, _ in batch], texts, done


def json_lines(file, path):
    """The lines of a json-lines file as bytes; a file that is one JSON array gives its elements."""
    try:
        head = file.readline()
        if head.lstrip().startswith(b'['):
            yield from (json.dumps(row).encode() for row in json.loads(head + file.read()))
        elif head:
            yield from itertools.chain([head], file)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise BadInput(f'{path} is cut short or damaged: {first_line(error)}') from error
    except ValueError as error:
        raise BadInput(f'{path} starts as a JSON list but is none: {first_line(error)}') from error


def json_text(line, column, path, number):
    if not line.strip():
        return ''
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadInput(f'{path}, line {number}: not JSON: {first_line(error)}') from error
    if not isinstance(row, dict):
        raise BadInput(f'{path}, line {number}: should be an object with a key {column!r}')
    columns = pick_columns(row, column, f'{path}, line {number}')
    values = [row[name] for name in columns]
    for name, value in zip(columns, values):
        if not isinstance(value, (str, type(None))):
            raise BadInput(f'{path}, line {number}: {name!r} is {type(value).__name__}, not text; '
                           'name another --text_column')
    return format_row(values)


def pick_columns(names, column, where):
    if column in names:
        return (column,)
    if column == DEFAULTS['text_column'] and all(name in names for name in SYNTH_COLUMNS):
        return SYNTH_COLUMNS
    raise BadInput(f'{where} has no column {column!r}; name one of these with --text_column: {", ".join(names)}')


def texts_of(batch, columns):
    return [format_row(values) for values in zip(*(batch[name] for name in columns))]


def format_row(values):
    """The document of a row: its text, or SYNTH's question, reasoning and answer."""
    if len(values) == 1:
        return values[0] or ''
    query, reasoning, answer = (value or '' for value in values)
    return f'Q: {query}\n\nReasoning:\n{reasoning}\n\nA: {answer}'


def decompressed(file, path):
    """A file of bytes without the compression that the path's ending tells of."""
    ending = os.path.splitext(path)[1]
    if ending == '.zst':
        import pyarrow
        return io.BufferedReader(pyarrow.CompressedInputStream(file, 'zstd'))
    openers = {'.gz': gzip.open, '.bz2': bz2.open, '.xz': lzma.open}
    return openers[ending](file) if ending in openers else file


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


def ordered_map(function, items, workers=0):
    """map() on threads, results in the order of the items; reads only a little ahead of what is taken.

    Threads suffice, and nothing has to be copied to another process: the tokenizer works outside of Python's lock.
    """
    workers = workers or available_cores()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        pending = collections.deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def xz_bits_per_byte(data):
    """What `xz -9e` needs for the held-out text: the yardstick of a compressor that has seen nothing else."""
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data) if data else None


# ---------------------------------------------------------------------------- the folder

def settings_of(source, config):
    """What the data follows from; kept in meta.json, so that other settings do not end up in the same folder."""
    keys = ('source', 'text_column', 'document_separator', 'num_samples', 'val_fraction', 'vocab_size', 'tokenizer',
            'dataset_config', 'dataset_split', 'shard_tokens')
    settings = {key: config[key] for key in keys} | ({'tokenizer': None} if config['vocab_size'] else {})
    if source['kind'] != 'stdlib':
        settings['input_files'] = fingerprint(source['files'])
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
