"""The part data: documents to shards.

Imports no torch, since the pool's workers import this file, and a script as most people write it would not need torch.
"""
import contextlib
import itertools
import json
import multiprocessing
import os
import pathlib
import shutil
import tempfile

import numpy as np

import bpe
from bench.turns import compare, take_turns, timed
from configurator import configure
from runtime.files import find_files
from runtime.parallel import available_cores

DOCUMENT_CHARACTERS = 4000  # about a web page's


def measure_data(config):
    """Yields (title, rows)."""
    texts = read_texts(config['input'])
    pages = [text[i:i + DOCUMENT_CHARACTERS] for text in texts for i in range(0, len(text), DOCUMENT_CHARACTERS)]
    documents = list(itertools.islice(itertools.cycle(pages), config['data_mb'] * 1_000_000 // DOCUMENT_CHARACTERS))
    n_mb = sum(len(text.encode()) for text in documents) / 1e6
    bpe.Tokenizer.gpt2()  # raises BadInput where it cannot be had
    with tempfile.TemporaryDirectory() as folder:
        source, out_dir = os.path.join(folder, 'documents.jsonl'), os.path.join(folder, 'shards')
        with open(source, 'w', encoding='utf-8') as file:
            file.writelines(json.dumps({'text': text}) + '\n' for text in documents)
        times = take_turns({
            'a pool of processes': timed(lambda: shards_by_pool(documents, folder)),
            'fineweb.py': timed(lambda: shards_by_fineweb(source, out_dir)),
        }, config['turns'])
        yield (f'{n_mb:.1f} MB of text, {len(documents):,} documents, to shards of GPT-2 tokens on '
               f'{available_cores()} cores'), compare(times, n_mb, 'MB/s')


def read_texts(patterns):
    """The texts of files, globs and folders, or of Python's standard library for None."""
    import sources
    paths = find_files(patterns) if patterns else sources.stdlib_files()
    return [pathlib.Path(path).read_text('utf-8', 'replace') for path in paths]


def shards_by_pool(documents, folder):
    """What most scripts do: processes tokenize documents and send them back to be written. fineweb.py reads and parses too."""
    with multiprocessing.get_context('spawn').Pool(available_cores()) as pool, \
            open(os.path.join(folder, 'pool.bin'), 'wb') as file:
        for tokens in pool.imap(tokenize_document, documents, chunksize=16):
            tokens.tofile(file)


def tokenize_document(text):
    import tiktoken
    encoding = tiktoken.get_encoding('gpt2')  # which keeps it
    return np.array([encoding.eot_token, *encoding.encode_ordinary(text)], dtype=np.uint16)


def shards_by_fineweb(source, out_dir):
    import fineweb
    shutil.rmtree(out_dir, ignore_errors=True)  # else it would resume
    config = configure(fineweb.DEFAULTS, [f'--source={source}', f'--out_dir={out_dir}', '--shard_tokens=1e7'])
    with contextlib.redirect_stdout(None), open(os.devnull, 'w') as nowhere, contextlib.redirect_stderr(nowhere):
        fineweb.main(config)
