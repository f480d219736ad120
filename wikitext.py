"""WikiText-2 and WikiText-103 (Merity et al. 2016, "Pointer Sentinel Mixture Models") -> shards.

    python wikitext.py                                         WikiText-2 raw from the hub -> data/wikitext-2
    python wikitext.py --size=103                              WikiText-103 raw -> data/wikitext-103
    python wikitext.py --source=FOLDER --vocab_size=8192       local files, and a BPE trained on the train text

Every article is a document. The official splits are kept: train gives the train shards, validation the
val shards, and test goes to OUT_DIR/test.txt as it is, for the evaluation alone. A local folder has one
file for each split, named by it: train.txt, wiki.valid.raw, test.parquet, ... This module knows where
WikiText comes from and how its articles begin; the rest is corpus.py's.
"""
import os
import re

import corpus
import shards
from configurator import BadInput, choice, configure, one_line_errors, optional
from files import whole_file

DEFAULTS = {
    'size': choice('2', '103'),           # WikiText-2 (2 million words) or WikiText-103 (103 million)
    'source': optional(str),              # a local folder with the three splits instead of the hub
    'out_dir': optional(str),             # folder for the shards; data/wikitext-SIZE if None
    # the vocabulary
    'tokenizer': 'gpt2',                  # gpt2, a tokenizer.json, or a folder with encoder.json and vocab.bpe
    'vocab_size': 0,                      # train a BPE of so many entries on the train text first; 0 = use --tokenizer
    # how
    'shard_tokens': shards.SHARD_TOKENS,  # tokens in a shard
    'workers': 0,                         # threads that tokenize; 0 = all cores
}

SPLITS = {'train': 'train', 'val': 'validation', 'test': 'test'}  # ours: the hub's
ARTICLE_BEGINS = re.compile(r'^(?= = [^=\s].* = \n)', re.MULTILINE)


def main(config):
    corpus.check_vocabulary_settings(config)
    name, out_dir = corpus.name_and_folder(config['out_dir'], f"wikitext-{config['size']}")
    files = local_files(config['source']) if config['source'] else hub_files(config['size'])
    settings = settings_of(files, config)
    if corpus.is_made(out_dir, settings):
        return

    def documents():
        return ((split, article) for split in ('train', 'val') for article in articles(read_split(files[split])))

    for split in ('train', 'val'):
        if next(articles(read_split(files[split])), None) is None:
            raise BadInput(f'there is no text in {files[split]}')
    corpus.make_shards(out_dir, name, documents, f"wikitext-{config['size']}", settings, config)
    if 'test' in files:
        with whole_file(os.path.join(out_dir, 'test.txt')) as file:
            for text in read_split(files['test']):
                file.write(text.encode())


def local_files(folder):
    """{'train': [path], 'val': [path], 'test': [path]} of a folder; test may be missing."""
    if not os.path.isdir(folder):
        raise BadInput(f'no folder {folder!r}; --source names one with train.txt, valid.txt and test.txt')
    files = {}
    for split, theirs in SPLITS.items():
        words = {split, theirs, theirs[:5]}  # val, validation, valid
        found = [name for name in sorted(os.listdir(folder)) if words & set(re.split(r'[._-]', name))]
        if len(found) > 1 and not all(corpus.TABLE_NAME.search(name) for name in found):
            raise BadInput(f'{folder} has several files for the {split} split: {", ".join(found)}; leave one')
        if found:
            files[split] = [os.path.join(folder, name) for name in found]
        elif split != 'test':
            raise BadInput(f'{folder} has no file for the {split} split, such as {theirs[:5]}.txt')
    return files


def hub_files(size):
    config = {'dataset_config': f'wikitext-{size}-raw-v1'}
    return {split: corpus.hub_source('Salesforce/wikitext', {**config, 'dataset_split': theirs})['files']
            for split, theirs in SPLITS.items()}


def read_split(paths):
    """Yields the text of a split in pieces; a table has a line of text in each row, and nothing for a blank line."""
    for path in paths:
        if corpus.TABLE_NAME.search(path):
            yield from (''.join(line or ' \n' for line in lines) for _, lines, _ in corpus.read_table(path, 'text'))
        else:
            yield from corpus.read_text(path)


def articles(pieces):
    """Yields the articles of a text that comes in pieces; joined together they are the text."""
    blank, rest = '', ''
    for piece in pieces:
        *whole, rest = ARTICLE_BEGINS.split(rest + piece)
        for article in whole:
            if article.strip():
                yield blank + article
                blank = ''
            else:
                blank += article  # the line before the first heading
    if rest.strip():
        yield blank + rest


def settings_of(files, config):
    keys = ('size', 'source', 'tokenizer', 'vocab_size', 'shard_tokens')
    return {**{key: config[key] for key in keys}, 'input_files': corpus.fingerprint(sum(files.values(), []))}


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
