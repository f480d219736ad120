"""Conversations -> shards in which only what the assistant says counts as targets.

    python -m tasks.chat --source=chats.jsonl --tokenizer=gpt2 --out_dir=data/chat           a file: one conversation a row
    python -m tasks.chat --source=HuggingFaceTB/smol-smoltalk --out_dir=data/smoltalk        a dataset on the hub [network]
    python -m tasks.chat --source=generated --vocab_size=257 --out_dir=data/instructions     generated instructions
    python -m tasks.chat --source=chats.jsonl --show=True                                    look at the first one

Files are .jsonl, .json, .parquet or .csv. Shapes of a row: messages (OpenAI, Hugging Face), conversations (ShareGPT),
instruction with input and output (Alpaca), prompt and completion, question and answer. Several conversations stand in one
context of block_size tokens, and none is in two: a longer one is cut between two turns. Held out are conversations by a hash
of what the user says first, as tasks.dpo does, too. Run again on finished data, it says so and ends. What tokens a conversation
has: chat_template.py.
"""
import collections
import os
import sys
from collections.abc import Iterable, Iterator

import numpy as np
from tqdm import tqdm

import data_folder
import shards
from bpe import MAX_VOCAB, Tokenizer, side_by_side
from chat_template import CHAT_TOKENS, encode_conversation, encode_message, with_chat_tokens
from configurator import check_bounds, configure, optional
from runtime.errors import BadInput, one_line_errors
from runtime.files import write_json
from runtime.words import plural
from tasks.conversations import first_question, local_files, read_conversations
from tasks.gsm8k import split_sources

DEFAULTS = {
    'source': 'generated',  # generated, files, folders, globs, a dataset on the hub; several with commas between
    'out_dir': 'data/chat',  # folder for the shards
    'system': optional(str),  # a system message for conversations that have none
    'block_size': 1024,  # context of the model to train, in tokens
    'n_conversations': 120_000,  # generated ones; files are taken whole
    'val_fraction': 0.02,  # share of the conversations held out
    'seed': 0,  # of generated conversations
    'show': False,  # print the first conversation as tokens, with those that count marked, and end
    # the vocabulary
    'tokenizer': 'gpt2',  # gpt2, or a tokenizer.json
    'vocab_size': 0,  # first train a BPE of so many entries (257 = bytes) on the conversations; 0 = use --tokenizer
    # a dataset on the hub
    'dataset_config': optional(str),  # its configuration, where it has several
    'dataset_split': 'train',  # its split
    # how
    'shard_tokens': shards.SHARD_TOKENS,  # tokens in a shard
}


def main(config):
    check(config)
    name, out_dir = data_folder.name_and_folder(config['out_dir'], 'chat')
    settings = settings_of(config)
    if not config['show'] and data_folder.is_made(out_dir, settings):
        return

    def conversations():
        return read_conversations(config['source'], config['n_conversations'], config['seed'], config['dataset_config'],
                                  config['dataset_split'], config['system'])

    if config['show']:
        tokenizer, _ = open_tokenizer(conversations, config)
        show(next(iter(conversations())), tokenizer)
        return
    threshold = data_folder.find_threshold(map(first_question, conversations()), config['val_fraction'],
                                           advice='give more conversations')
    tokenizer, tokenizer_file = open_tokenizer(conversations, config)
    data_folder.prepare_folder(out_dir, name, tokenizer_file)
    counts, val = collections.Counter(), []

    def train_documents():
        """What write_shards reads. Held-out conversations are put aside; they are few."""
        for messages in tqdm(conversations(), 'encoding', unit=' conversations'):
            split = 'val' if data_folder.hash_of(first_question(messages)) < threshold else 'train'
            for document in encoded_parts(messages, tokenizer, config['block_size'], counts):
                counts[split] += 1
                if split == 'train':
                    yield document
                else:
                    val.append(document)

    written = {}
    for split, first, documents in (('train', 1, train_documents()), ('val', 0, val)):  # val is complete when train is read
        contexts = packed(documents, config['block_size'], tokenizer.eot)
        written |= shards.write_shards(contexts, out_dir, name, split, config['shard_tokens'], first, masked=True)
    if counts['too long']:
        print(f'left out {plural(counts["too long"], "turn")} of more than block_size={config["block_size"]} tokens',
              file=sys.stderr)
    if not counts['train'] or not counts['val']:
        raise BadInput(f'{config["source"]} has too few conversations of at most {config["block_size"]} tokens to train on '
                       f'some and to hold out others; a larger --block_size leaves out fewer')
    meta = {**data_folder.describe(tokenizer, tokenizer_file), 'source': config['source'], 'train_documents': counts['train'],
            'val_documents': counts['val'], 'context': config['block_size'], 'settings': settings, 'shards': written}
    write_json(os.path.join(out_dir, 'meta.json'), meta)
    print(data_folder.summary(out_dir, meta))


def check(config):
    check_bounds(config, 'block_size', at_least=8)
    if config['system'] is not None and not config['system'].strip():
        raise BadInput('system should be a text; leave it out for none')
    check_bounds(config, 'n_conversations', at_least=2, at_most=10**9)
    check_bounds(config, 'val_fraction', above=0, below=1)
    check_bounds(config, 'seed', at_least=0)
    data_folder.check_data_settings({**config, 'workers': 0})
    if config['vocab_size'] > MAX_VOCAB - len(CHAT_TOKENS):
        raise BadInput(f'vocab_size={config["vocab_size"]} should be at most {MAX_VOCAB - len(CHAT_TOKENS)}: ids have 16 bits, '
                       f'and {len(CHAT_TOKENS)} more say who speaks')


def settings_of(config):
    """What the data follows from; kept in meta.json, so that other settings do not end up in the same folder."""
    named = [source for source in split_sources(config['source']) if source != 'generated']
    files = [path for source in named for path in local_files(source) or ()]
    return {key: value for key, value in config.items() if key not in ('out_dir', 'show')} | {
        'input_files': data_folder.fingerprint(files)}


def open_tokenizer(conversations, config) -> tuple[Tokenizer, bytes]:
    """(Tokenizer with the tokens of a conversation, content of its tokenizer.json)"""
    texts = (message['content'] for messages in conversations() for message in messages)
    tokenizer, _ = data_folder.make_tokenizer(texts, {**config, 'workers': 0})
    tokenizer = with_chat_tokens(tokenizer)
    return tokenizer, tokenizer.to_json().encode()


def encoded_parts(messages, tokenizer, max_tokens, counts):
    """Yields (tokens, counted) of a conversation, or of the parts that it is cut into."""
    document = encode_conversation(messages, tokenizer)
    if len(document[0]) <= max_tokens:
        yield document
    else:
        yield from (encode_conversation(part, tokenizer) for part in cut_at_turns(messages, tokenizer, max_tokens, counts))


def cut_at_turns(messages: list[dict], tokenizer: Tokenizer, max_tokens: int, counts: dict) -> Iterator[list[dict]]:
    """Yields a conversation, or parts of it that have at most max_tokens and begin with its system message.

    A turn, a user's message and its answer, is in one part. One that is too long by itself is left out, which `counts` counts.
    """
    has_system = messages[0]['role'] == 'system'
    system, turns = messages[:has_system], [messages[i:i + 2] for i in range(has_system, len(messages), 2)]
    part, n_system = [], n_tokens_of(system, tokenizer)
    n_tokens = room = max_tokens - 1 - n_system  # 1: <|endoftext|>
    for turn in turns:
        n_turn = n_tokens_of(turn, tokenizer)
        if n_turn > room:
            counts['too long'] += 1
            continue
        if part and n_turn > n_tokens:
            yield system + part
            part, n_tokens = [], room
        part, n_tokens = part + turn, n_tokens - n_turn
    if part:
        yield system + part


def packed(documents: Iterable[tuple], size: int, eot: int, n_open: int = 64) -> Iterator[tuple]:
    """Yields contexts of `size` tokens, (tokens, counted), of whole documents, (tokens, counted) each of at most `size`.

    A document goes into the fullest of n_open contexts that it fits into. What stays empty is filled with <|endoftext|>,
    which does not count.
    """
    contexts = []  # [number of tokens, [documents]]

    def fill(n_tokens, documents):
        rest = np.full(size - n_tokens, eot, dtype=np.uint16), np.zeros(size - n_tokens, dtype=bool)
        return tuple(map(np.concatenate, zip(*documents, rest)))

    for document in documents:
        n = len(document[0])
        best = max((context for context in contexts if context[0] + n <= size), default=None, key=lambda context: context[0])
        if best is None:
            if len(contexts) == n_open:
                fullest = max(contexts, key=lambda context: context[0])
                contexts.remove(fullest)
                yield fill(*fullest)
            contexts.append(best := [0, []])
        best[0] += n
        best[1].append(document)
    yield from (fill(*context) for context in contexts)


def n_tokens_of(messages, tokenizer):
    return sum(len(encode_message(message, tokenizer)) for message in messages)


def show(messages: Iterable[dict], tokenizer: Tokenizer):
    """Prints a conversation as tokens, a line for each run that the model only reads or that it learns to write."""
    ids, counted = encode_conversation(messages, tokenizer)
    edges = np.flatnonzero(np.diff(counted)) + 1
    for run, is_counted in zip(np.split(ids, edges), np.split(counted, edges)):
        line = side_by_side(run, tokenizer, (102, 106) if is_counted[0] else (47, 107))
        print(f'{"learned" if is_counted[0] else "read":8}' + line.replace('\n', '\\n'))
    print(f'{plural(len(ids), "token")}, of which {int(counted.sum()):,} count as targets')


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
