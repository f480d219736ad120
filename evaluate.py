"""How well a model predicts a text: perplexity by token and by word, and bits per byte.

    python evaluate.py --init_from=gpt2                              # WikiText-2's test text, from the hub
    python evaluate.py --init_from=gpt2 --protocol=gpt2 --size=103   # WikiText-103, as in GPT-2's paper
    python evaluate.py --out_dir=out/mine --source=FILE              # the newest checkpoint of a run, on any text
    python evaluate.py --out_dir=out/mine --source=data/wikitext-2   # on a local folder with WikiText's test.txt
    torchrun --nproc_per_node=8 evaluate.py --init_from=gpt2-xl --stride=512

Perplexity is exp(nats / count). By token it depends on the vocabulary; by word and by byte it does not, so compare models
by these. Words and bytes are counted in the text as it was before any clean-up. Figures of one protocol do not compare
with those of another:

    harness   lm-evaluation-harness's task `wikitext`: each page by itself, after a clean-up that cannot be undone;
              words are what stands between white space
    gpt2      the paper's (Radford et al. 2019, section 3.1): the whole text in one piece, after a clean-up that can be
              undone, so that a probability of the cleaned text is one of the original; words are WikiText's tokens, and
              the end of a line is one of them
    plain     the whole text in one piece, as it is: for any text

scoring/wikitext_cleanup.py has the clean-ups, sources.py knows where the texts are.
"""
import math
import os
import re
from collections.abc import Iterator

import torch

from bpe import Tokenizer
from configurator import check_bounds, choice, configure, optional
from model import GPT
from runtime.errors import BadInput, one_line_errors
from runtime.process import Process
from runtime.tables import table
from runtime.text_files import known_encoding, read_text
from scoring.likelihood import log_likelihoods, open_for_evaluation
from scoring.wikitext_cleanup import clean_page, detokenize, pages
from sources import TABLE_NAME, read_split, wikitext_files

PROTOCOLS = 'harness', 'gpt2', 'plain'
DEFAULTS = {
    # model
    'out_dir': 'out',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead: a checkpoint file, a folder in Hugging Face's layout, or gpt2[-medium|-large|-xl]
    # text
    'source': optional(str),  # a text file, or a folder with a file for each of WikiText's splits; None: WikiText on the hub
    'size': choice('2', '103'),  # which WikiText: 2 (2 million words) or 103 (103 million)
    'split': choice('test', 'val', 'train'),  # of WikiText
    'encoding': 'utf-8',  # of a text file that has no byte order mark, such as latin-1, cp1252, utf-16-le
    'protocol': choice('auto', *PROTOCOLS),  # how text is cleaned and words are counted; auto: plain for a file, else harness
    'stride': optional(int),  # tokens that the window moves on; None: its length, so that windows do not overlap
    # machine
    'batch_size': 8,  # windows in a forward pass
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('float32', 'auto', 'bfloat16', 'float16'),  # of matrix products; published figures are float32's
}


def main(config):
    check_bounds(config, 'stride', at_least=1)
    config['encoding'] = known_encoding(config['encoding'])
    if config['source'] is not None and not os.path.exists(config['source']):
        raise BadInput(f'no file or folder {config["source"]!r}; --source takes a text, or a folder with WikiText\'s test.txt')
    model, tokenizer, process = open_for_evaluation(config)
    protocol, text = choose_text(config)
    stride = config['stride'] or model.config.block_size
    process.print0(f'protocol {protocol}, windows of {model.config.block_size} tokens that move on by {stride}')
    result = measure_perplexity(model, tokenizer, text, process, protocol, config['stride'],
                                batch_size=config['batch_size'], progress='perplexity')
    process.print0(table([('score', 'value', 'text'), *(
        (score.replace('_', ' '), readable(result[score]), f'{result[unit]:,} {unit}')
        for score, unit in (('token_perplexity', 'tokens'), ('word_perplexity', 'words'), ('bits_per_byte', 'bytes')))]))
    process.end()


def readable(score):
    """Six digits, and all of those before the point of a number of up to 12."""
    return f'{score:,.0f}' if 1e5 <= score < 1e12 else f'{score:#.6g}'


def choose_text(config):
    """(protocol, text). The paper's protocol takes the version of WikiText in which rare words are <unk>."""
    source, split, protocol = config['source'], config['split'], config['protocol']
    is_file = source is not None and os.path.isfile(source)
    if protocol == 'auto':
        protocol = 'plain' if is_file else 'harness'
    if is_file and not TABLE_NAME.search(source):
        return protocol, ''.join(read_text(source, config['encoding']))
    files = [source] if is_file else wikitext_files(config['size'], protocol != 'gpt2', source, needed=[split])[split]
    return protocol, ''.join(read_split(files))


def measure_perplexity(model: GPT, tokenizer: Tokenizer, text: str, process: Process, protocol: str = 'plain',
                       stride: int | None = None, **options) -> dict[str, float]:
    """{'tokens', 'words', 'bytes', 'nats', 'token_perplexity', 'word_perplexity', 'bits_per_byte'} of a text.

    stride: how many tokens the window of block_size tokens moves on; None: its length, so that windows do not overlap.
        A small stride gives every token more context: perplexity is lower, and it takes longer.
    options: of `log_likelihoods`. Every process must call this, and gets the same result.
    """
    texts, n_words, n_bytes = apply_protocol(text, protocol)
    documents = tokenizer.encode_batch(texts)
    n_tokens = sum(map(len, documents))
    if not n_tokens or not n_words:
        raise BadInput('there is no text to measure the perplexity on')
    nats = total_nats(model, documents, tokenizer.eot, process, stride, **options)
    by_token, by_word = torch.tensor([nats / n_tokens, nats / n_words], dtype=torch.float64).exp().tolist()  # inf beyond floats
    return {'tokens': n_tokens, 'words': n_words, 'bytes': n_bytes, 'nats': nats,
            'token_perplexity': by_token, 'word_perplexity': by_word, 'bits_per_byte': nats / n_bytes / math.log(2)}


def apply_protocol(text: str, protocol: str) -> tuple[list[str], int, int]:
    r"""(documents as the model reads them, number of words, number of bytes); both are counted in the original.

    WikiText has line ends of \n alone, so a copy with \r\n is read as that; under 'plain' a text is what it is.
    """
    if protocol != 'plain':
        text = text.replace('\r\n', '\n')
    if protocol == 'harness':
        originals = pages(text)
        n_words = sum(len(re.split(r'\s+', page)) for page in originals)  # the harness's way: white space at an end adds one
        return [clean_page(page) for page in originals], n_words, sum(len(page.encode()) for page in originals)
    if protocol == 'gpt2':
        return [detokenize(text)], len(text.split()) + text.count('\n'), len(text.encode())
    return [text], len(text.split()), len(text.encode())


def total_nats(model: GPT, documents: list[list[int]], eot: int, process: Process, stride: int | None = None,
               **options) -> float:
    """The sum over all tokens of all documents of -log p(token | those before it); <|endoftext|> is before the first."""
    block_size = model.config.block_size
    if stride is not None and not 1 <= stride <= block_size:
        raise BadInput(f'stride={stride} should be 1 to {block_size}, the longest context of the model')
    pairs = []
    for ids in documents:
        shifted = torch.tensor([eot, *ids])  # token i is shifted[i + 1]; the pairs are views of it
        pairs += [(shifted[begin:first + 1], shifted[first + 1:end + 1])
                  for begin, first, end in windows(len(ids), block_size, stride or block_size)]
    return -log_likelihoods(model, pairs, process, **options).sum().item()


def windows(n_tokens: int, block_size: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yields (begin, first, end): a window that reads tokens begin - 1 to end - 2 and predicts tokens first to end - 1.

    The first window predicts as many tokens as fit. Each one after it ends `stride` tokens later, or with the text, and
    predicts the tokens that no window before it has predicted. Token -1 is <|endoftext|>.
    """
    first = 0
    while first < n_tokens:
        end = min(first + (stride if first else block_size), n_tokens)
        yield max(0, end - block_size), first, end
        first = end


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
