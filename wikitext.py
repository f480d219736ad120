"""WikiText-2 and WikiText-103 (Merity et al. 2016, "Pointer Sentinel Mixture Models") -> shards.

    python wikitext.py                                         WikiText-2 raw from the hub -> data/wikitext-2
    python wikitext.py --size=103                              WikiText-103 raw -> data/wikitext-103
    python wikitext.py --raw=False --vocab_size=4096           with <unk> for rare words, as published perplexities have it
    python wikitext.py --source=FOLDER --vocab_size=8192       local files, and a BPE trained on the train text

Every article is a document. The official splits are kept: train gives the train shards, validation the val shards, and
test goes to OUT_DIR/test.txt, for evaluation alone (`python evaluate.py`). A local folder has one file for each
split, named by it: train.txt, wiki.valid.raw, test.parquet, ...
"""
import os
import re
from collections.abc import Iterable, Iterator

import shards
from configurator import choice, configure, optional
from data_folder import check_data_settings, fingerprint, is_made, make_data_folder, name_and_folder
from runtime.errors import BadInput, one_line_errors
from runtime.files import atomic_write
from sources import lines_of, read_split, wikitext_files

DEFAULTS = {
    'size': choice('2', '103'),           # WikiText-2 (2 million words) or WikiText-103 (103 million)
    'raw': True,                          # of the hub's two forms: the text as written; False: rare words are <unk>
    'source': optional(str),              # a local folder with the three splits instead of the hub
    'out_dir': optional(str),             # folder for the shards; data/wikitext-SIZE if None
    # the vocabulary
    'tokenizer': 'gpt2',                  # gpt2, a tokenizer.json, or a folder with encoder.json and vocab.bpe
    'vocab_size': 0,                      # train a BPE of so many entries on the train text first; 0 = use --tokenizer
    # how
    'shard_tokens': shards.SHARD_TOKENS,  # tokens in a shard
    'workers': 0,                         # threads that tokenize; 0 = all cores
}

HEADING = re.compile(r' = [^=\s].* = \n')


def main(config):
    check_data_settings(config)
    name, out_dir = name_and_folder(config['out_dir'], f"wikitext-{config['size']}")
    if config['source'] is not None and not config['raw']:
        raise BadInput('raw=False is for the hub, which has two forms; the text of --source is taken as it is')
    settings = {key: config[key] for key in ('size', 'raw', 'source', 'tokenizer', 'vocab_size', 'shard_tokens')}
    on_hub, test_path = config['source'] is None, os.path.join(out_dir, 'test.txt')
    made = on_hub and is_made(out_dir, settings)
    if made and os.path.exists(test_path):
        return  # without the network
    files = wikitext_files(config['size'], config['raw'], config['source'])
    settings['input_files'] = fingerprint(sum(files.values(), []))
    made = made or not on_hub and is_made(out_dir, settings)

    def documents():
        return ((split, article) for split in ('train', 'val') for article in articles(read_split(files[split])))

    if not made:
        for split in ('train', 'val'):
            if next(articles(read_split(files[split])), None) is None:
                raise BadInput(f'there is no text in {files[split]}')
        make_data_folder(out_dir, name, documents, f"wikitext-{config['size']}", settings, config)
    if 'test' in files and not (made and os.path.exists(test_path)):
        with atomic_write(test_path) as file:
            for text in read_split(files['test']):
                file.write(text.encode())


def articles(pieces: Iterable[str]) -> Iterator[str]:
    """Yields the articles of a text that comes in pieces; joined together they are the text."""
    article = []
    for line in lines_of(pieces, 'WikiText'):
        if HEADING.fullmatch(line) and any(map(str.strip, article)):  # what is blank before the first one belongs to it
            yield ''.join(article)
            article = []
        article.append(line)
    if any(map(str.strip, article)):
        yield ''.join(article)


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
