"""Any text -> shards: files, folders, tables, a Hugging Face dataset, SYNTH, the source of Python itself.

    python corpus.py --source=stdlib --vocab_size=4096 --out_dir=data/stdlib     Python's standard library
    python corpus.py --source=poems/ --vocab_size=512 --out_dir=data/poems       a folder: each file a document
    python corpus.py --source='logs/*.jsonl.gz' --text_column=message            rows of jsonl or parquet files
    python corpus.py --source=SYNTH --num_samples=50000                          PleIAs/SYNTH: questions and reasoning
    python corpus.py --source=roneneldan/TinyStories                             a dataset on the Hugging Face hub

A document is a file of a folder, or a row of a table. Text files are cut where they say <|endoftext|>, or
--document_separator. Fewer than 20 files with neither are cut, at blank lines or else line ends, into blocks of a
hundredth of their bytes (256 to 8,192 characters), so that there is something to hold out.

Tables are parquet, jsonl, a JSON list, csv and tsv; text and tables may be compressed (.gz, .bz2, .xz, .zst). Linked folders
are followed, but for those above. Files that hold no text are left out and counted. Text is UTF-8, or what a byte order mark
says, or --encoding.

With --hold_out=end the last characters of all text are held out instead, as in nanoGPT's Shakespeare, and files are not cut.

Whole documents go to train or val by a hash of their text, so a text is on the same side on every
machine, and copies of a text are never on both sides. The same settings on the same input give the same
bytes. Run again on finished data, the script says so and ends. Run again after a kill, it reads the input
from the start, but tokenizes only what comes after the last whole shard. (fineweb.py need not even read again.)

sources.py reads the text, data_folder.py makes the shards.
"""
import os
import sys

import shards
import sources
from configurator import check_bounds, choice, configure, optional
from data_folder import (
    check_data_settings,
    find_threshold,
    fingerprint,
    hash_of,
    is_made,
    make_data_folder,
    name_and_folder,
)
from runtime.errors import BadInput, one_line_errors, warn
from runtime.text_files import MAX_EXPANSION, known_encoding
from runtime.words import plural

DEFAULTS = {
    'source': 'stdlib',                   # stdlib, SYNTH, files, folders, globs (commas between), a name on the hub
    'out_dir': optional(str),             # folder for the shards; data/NAME_OF_THE_SOURCE if None
    'text_column': 'text',                # the column of a table that holds the text
    'document_separator': optional(str),  # cuts text files into documents; \n and \t are understood
    'encoding': 'utf-8',                  # of text that has no byte order mark, such as latin-1, cp1252, utf-16-le
    'verbose': False,                     # whether the files that are left out are named
    'max_expansion': MAX_EXPANSION,       # times its size that a compressed file may become (above 32 MB); 0 = any
    'num_samples': 0,                     # take only so many documents; 0 = all
    'val_fraction': 0.05,                 # share of the text held out
    'hold_out': choice('documents', 'end'),  # whole documents, by a hash of their text; or the end of all text, uncut
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


def main(config):
    check_bounds(config, 'num_samples', 'max_expansion', at_least=0)
    check_data_settings(config)
    config['encoding'] = known_encoding(config['encoding'])
    if not 0 < config['val_fraction'] < 1:
        raise BadInput(f"val_fraction={config['val_fraction']} should be above 0 and below 1: without held-out text "
                       'nobody knows how good a model is')
    settings, on_hub = settings_of(config), sources.name_on_hub(config['source'])
    if on_hub and is_made(name_and_folder(config['out_dir'], os.path.basename(on_hub))[1], settings):
        return  # without the network
    source = sources.find_source(config['source'], config['dataset_config'], config['dataset_split'], config['encoding'],
                                 config['verbose'])
    name, out_dir = name_and_folder(config['out_dir'], source.name)
    if os.path.isfile(out_dir):
        raise BadInput(f'out_dir={out_dir} is a file; it should be a folder, new or of this data')
    if not on_hub and os.path.realpath(out_dir) in map(os.path.realpath, [*config['source'].split(','),
                                                                         *map(os.path.dirname, source.files)]):
        raise BadInput(f'out_dir={out_dir} is where the texts are; name another folder, such as data/{name}')
    if config['source'] != 'stdlib':
        settings['input_files'] = fingerprint(source.files)
    if not on_hub and is_made(out_dir, settings):
        return

    at_end = config['hold_out'] == 'end'
    if (block_size := sources.block_size_of(source)) and not config['document_separator'] and not at_end:
        print(f'{plural(len(source.files), "file")}, so few that text without <|endoftext|> is cut at line ends: every '
              f'{block_size:,} characters or more are a document', file=sys.stderr)

    def texts():
        return sources.read_documents(source, config['text_column'], config['document_separator'], config['num_samples'],
                                      config['max_expansion'], config['encoding'], cut_few=not at_end)

    documents = (split_at_end if at_end else split_by_hash)(texts, config['val_fraction'])
    make_data_folder(out_dir, name, documents, source.name, settings, config)
    meta = shards.load_meta(out_dir)
    share = meta['val_bytes'] / (meta['val_bytes'] + meta['train_bytes'])
    if not at_end and share > 2 * config['val_fraction']:
        warn(f"{share:.0%} of the text is held out, not {config['val_fraction']:.0%}: documents stay whole and copies "
             f"together, and there are {meta['train_documents'] + meta['val_documents']:,}; --document_separator makes more")


def split_by_hash(texts, val_fraction):
    """A function that gives the (split, text) of all documents: whole ones, of which about val_fraction are held out."""
    threshold = find_threshold(texts(), val_fraction)
    return lambda: (('val' if hash_of(text) < threshold else 'train', text) for text in texts())


def split_at_end(texts, val_fraction):
    """The same where the last val_fraction of all characters is held out; the document in which it begins is cut there."""
    n_characters = sum(map(len, texts()))
    n_train = int(n_characters * (1 - val_fraction))
    if not 0 < n_train < n_characters:
        raise BadInput(f'{plural(n_characters, "character")} are too few to hold out {val_fraction:g} of them')

    def documents():
        n_left = n_train
        for text in texts():
            yield from ((split, part) for split, part in (('train', text[:n_left]), ('val', text[n_left:])) if part)
            n_left = max(0, n_left - len(text))
    return documents


def settings_of(config):
    """What the data follows from beside its input; kept in meta.json, so that others do not end up in the same folder."""
    keys = ('source', 'text_column', 'document_separator', 'num_samples', 'val_fraction', 'hold_out', 'vocab_size', 'tokenizer',
            'dataset_config', 'dataset_split', 'shard_tokens', 'encoding')
    source = ','.join(part.rstrip('/') or part for part in config['source'].split(','))  # a folder is the same with and without
    return {key: config[key] for key in keys} | {'source': source} | ({'tokenizer': None} if config['vocab_size'] else {})


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
