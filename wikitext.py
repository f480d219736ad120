"""WikiText-2 and WikiText-103 (Merity et al. 2016, "Pointer Sentinel Mixture Models") -> shards; perplexity on them.

    python wikitext.py                                         WikiText-2 raw from the hub -> data/wikitext-2
    python wikitext.py --size=103                              WikiText-103 raw -> data/wikitext-103
    python wikitext.py --source=FOLDER --vocab_size=8192       local files, and a BPE trained on the train text

    python wikitext.py --eval=True --init_from=gpt2                              perplexity on WikiText-2's test text
    python wikitext.py --eval=True --init_from=gpt2 --protocol=gpt2 --size=103   as in GPT-2's paper
    python wikitext.py --eval=True --out_dir=out/mine --source=FILE              a run's newest checkpoint on any text
    torchrun --nproc_per_node=8 wikitext.py --eval=True --init_from=gpt2-xl --stride=512

Every article is a document. The official splits are kept: train gives the train shards, validation the
val shards, and test goes to OUT_DIR/test.txt as it is, for the evaluation alone. A local folder has one
file for each split, named by it: train.txt, wiki.valid.raw, test.parquet, ... This module knows where
WikiText comes from and how its articles begin; the rest is corpus.py's and perplexity.py's.
"""
import os
import re

import pretrained
import corpus
from runtime import hardware
import evaluate as perplexity
import shards
import sources
from configurator import choice, configure, optional
from runtime.errors import BadInput, one_line_errors
from runtime.files import atomic_write
from runtime.process import Process

DEFAULTS = {
    'size': choice('2', '103'),           # WikiText-2 (2 million words) or WikiText-103 (103 million)
    'source': optional(str),              # a local folder with the three splits instead of the hub; or a file, to evaluate on
    'out_dir': optional(str),             # folder for the shards, data/wikitext-SIZE if None; or of the run to evaluate
    # the vocabulary
    'tokenizer': 'gpt2',                  # gpt2, a tokenizer.json, or a folder with encoder.json and vocab.bpe
    'vocab_size': 0,                      # train a BPE of so many entries on the train text first; 0 = use --tokenizer
    # how
    'shard_tokens': shards.SHARD_TOKENS,  # tokens in a shard
    'workers': 0,                         # threads that tokenize; 0 = all cores
    # evaluation
    'eval': False,                        # measure a model's perplexity instead of making shards
    'init_from': optional(str),           # the model, instead of out_dir: a checkpoint, a folder in Hugging Face's layout, or gpt2[-medium|-large|-xl]
    'split': choice('test', 'val', 'train'),  # the text
    'protocol': choice('auto', *perplexity.PROTOCOLS),  # harness: lm-evaluation-harness's; gpt2: the paper's; plain: as it is; auto: harness, but plain for a file
    'stride': optional(int),              # tokens that the window moves on; None: by its length, without overlap
    'batch_size': 8,                      # windows in a forward pass
    'device': 'auto',                     # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('float32', 'auto', 'bfloat16', 'float16'),  # of matrix products; published figures are float32's
    'compile': False,                     # torch.compile
}

ARTICLE_BEGINS = re.compile(r'^(?= = [^=\s].* = \n)', re.MULTILINE)


def main(config):
    if config['eval']:
        evaluate(config)
    else:
        make_shards(config)


def make_shards(config):
    corpus.check_vocabulary_settings(config)
    name, out_dir = corpus.name_and_folder(config['out_dir'], f"wikitext-{config['size']}")
    files = sources.wikitext_files(config['size'], True, config['source'])
    for split in ('train', 'val'):
        sources.check_split(files, split, config['source'])
    settings = settings_of(files, config)
    if corpus.is_made(out_dir, settings):
        return

    def documents():
        return ((split, article) for split in ('train', 'val') for article in articles(sources.read_split(files[split])))

    for split in ('train', 'val'):
        if next(articles(sources.read_split(files[split])), None) is None:
            raise BadInput(f'there is no text in {files[split]}')
    corpus.make_shards(out_dir, name, documents, f"wikitext-{config['size']}", settings, config)
    if 'test' in files:
        with atomic_write(os.path.join(out_dir, 'test.txt')) as file:
            for text in sources.read_split(files['test']):
                file.write(text.encode())


def evaluate(config):
    """Prints the perplexity of a model on a split, or on a text file."""
    if not (config['init_from'] or config['out_dir']):
        raise BadInput('--eval=True needs a model: --init_from=gpt2, or --out_dir=OUT for the newest checkpoint of a run')
    if config['batch_size'] < 1:
        raise BadInput(f'batch_size={config["batch_size"]} should be at least 1')
    protocol, is_file = config['protocol'], bool(config['source']) and os.path.isfile(config['source'])
    if protocol == 'auto':
        protocol = 'plain' if is_file else 'harness'
    text = read_whole(config, protocol, is_file)
    process = Process(config, float32_precision='highest')
    model, tokenizer, source = pretrained.load(config['init_from'] or config['out_dir'],
                                                     kernels='torch', attention='auto', dropout=0.0)
    model.to(process.device)
    reason = hardware.why_no_compile(process.device) if config['compile'] else None
    if reason:
        process.print0(f'not compiled: {reason}')
    process.print0(f'{source}: {model.n_params():,} parameters, {hardware.describe(process.device)}, '
                f'{str(process.dtype).removeprefix("torch.")}, protocol {protocol}, windows of {model.config.block_size} '
                f'tokens that move on by {config["stride"] or model.config.block_size}')
    result = perplexity.measure(model, tokenizer, text, process, protocol, config['stride'], config['batch_size'],
                                progress=True, compiled=config['compile'] and not reason)
    process.print0('{tokens:,} tokens, {words:,} words, {bytes:,} bytes'.format(**result))
    process.print0('token perplexity {token_perplexity:.4f}, word perplexity {word_perplexity:.4f}, '
                '{bits_per_byte:.5f} bits per byte'.format(**result))
    process.end()


def read_whole(config, protocol, is_file):
    """The text that is to be scored. The paper's protocol takes the version of WikiText in which rare words are <unk>."""
    split = config['split']
    if is_file:
        files = {split: [config['source']]}
    else:
        files = sources.wikitext_files(config['size'], protocol != 'gpt2', config['source'])
    sources.check_split(files, split, config['source'])
    return ''.join(sources.read_split(files[split]))


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
