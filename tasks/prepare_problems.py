"""Word problems -> shards in which only the solutions count as targets.

    python -m tasks.prepare_problems --out_dir=data/math                                        generated problems
    python -m tasks.prepare_problems --source=gsm8k --tokenizer=gpt2 --out_dir=data/gsm8k       GSM8K, from the hub
    python -m tasks.prepare_problems --source=generated,train.jsonl --out_dir=data/mixed        several sources

Run again on finished data, it says so and ends. In a vocabulary made here no number is a token: it is trained on the text
between the numbers, so numbers are read and copied digit by digit.
"""
import os
import re

import numpy as np
from tqdm import tqdm

import data_folder
import shards
from bpe import MAX_VOCAB, Tokenizer
from configurator import check_bounds, configure, optional
from runtime.errors import BadInput, one_line_errors
from runtime.files import write_json
from tasks.gsm8k import check_calls, read_problems, split_sources
from tasks.tool_use import encode_problem

DEFAULTS = {
    'source': 'generated',  # generated, gsm8k (from the hub), .jsonl files; several with commas between
    'out_dir': 'data/math',  # folder for the shards
    'n_problems': 100_000,  # generated ones; files are taken whole
    'n_val': 500,  # problems held out for the validation loss, beside n_problems; of files, the last ones, a tenth at most
    'seed': 0,  # of generated problems and of their order
    # the vocabulary
    'tokenizer': optional(str),  # gpt2, or a tokenizer.json; None: one of vocab_size is trained on the problems
    'vocab_size': 1024,  # of the tokenizer to train
}
NUMBERS = re.compile(r'[0-9]+')


def main(config):
    check_bounds(config, 'n_problems', 'n_val', at_least=1, at_most=10**8)
    check_bounds(config, 'seed', at_least=0)
    check_bounds(config, 'vocab_size', at_least=257, at_most=MAX_VOCAB)
    name, out_dir = data_folder.name_and_folder(config['out_dir'], 'math')
    settings = {key: value for key, value in config.items() if key != 'out_dir'}
    if data_folder.is_made(out_dir, settings):
        return
    problems = read_splits(config)
    tokenizer, tokenizer_file = open_or_train_tokenizer(problems['train'], config)
    description = data_folder.describe(tokenizer, tokenizer_file)  # refuses a tokenizer that has no <|endoftext|>
    data_folder.prepare_folder(out_dir, name, tokenizer_file)
    written = {}
    for split, first in (('train', 1), ('val', 0)):
        bar = tqdm(problems[split], desc=f'encoding {split}', unit=' problems')
        documents = (encode_problem(problem, tokenizer) for problem in bar)
        written |= shards.write_shards(documents, out_dir, name, split, first=first, masked=True)
    meta = {**description, 'source': config['source'], 'train_documents': len(problems['train']),
            'val_documents': len(problems['val']), 'settings': settings, 'shards': written}
    write_json(os.path.join(out_dir, 'meta.json'), meta)
    print(data_folder.summary(out_dir, meta))


def read_splits(config):
    """{'train': problems in random order, 'val': the last n_val of each source, of a file at most a tenth}."""
    train, val = [], []
    for source in split_sources(config['source']):
        problems = read_problems(source, 'train', config['n_problems'] + config['n_val'], config['seed'])
        n_train = config['n_problems']
        if source != 'generated':
            report_calls(source, problems)
            tenth = len(problems) // 10
            if tenth < config['n_val']:
                print(f'{source}: {tenth:,} of {len(problems):,} problems are held out, a tenth, which is less than n_val')
            n_train = len(problems) - min(config['n_val'], tenth)
        train += problems[:n_train]
        val += problems[n_train:]
    if not val:
        raise BadInput(f'{len(train)} are too few problems: a tenth of a file is held out, so it should have at least 10')
    np.random.default_rng(config['seed']).shuffle(train)
    return {'train': train, 'val': val}


def report_calls(source, problems):
    n_calls, unconfirmed = check_calls(problems)
    n_right = n_calls - len(unconfirmed)
    if n_calls:
        print(f'{source}: {n_calls:,} calls in {len(problems):,} solutions, {n_right:,} ({n_right / n_calls:.2%}) with the '
              f'result that the calculator gives{"; the others:" if unconfirmed else ""}')
    for number, call, result in unconfirmed:
        print(f'  problem {number}: {call} ({result})')


def open_or_train_tokenizer(problems, config):
    """(Tokenizer, content of its tokenizer.json or None for GPT-2's own): that named, or a new one that never joins digits."""
    if config['tokenizer']:
        return data_folder.named_tokenizer(config['tokenizer'])
    texts = (problem[key] for problem in problems for key in ('question', 'answer'))
    between_numbers = (piece for text in texts for piece in NUMBERS.split(text))
    tokenizer = Tokenizer.train(between_numbers, config['vocab_size'], progress=False, processes=1)
    return tokenizer, tokenizer.to_json().encode()


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
