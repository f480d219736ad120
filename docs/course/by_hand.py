"""The worked examples of the pages, computed step by step with numbers small enough to check by hand.

    python docs/course/by_hand.py                # all parts
    python docs/course/by_hand.py attention      # one of them: targets, loss, norm, attention, gelu, adamw, bpe, encoding,
                                                 # scores, shares, variance, online

Pages 0 to 4 show what this prints; tests/test_course.py compares the two.
"""
import math
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import torch

from bpe_textbook import byte_ids, encode_slowly, learn_merges_slowly, merge
from configurator import configure, listed
from runtime.errors import one_line_errors

DEFAULTS = {
    'parts': '',  # names of parts with commas between; empty: all
}


def main(config):
    names = listed(config, 'parts', PARTS, 'part')
    print('\n\n'.join('\n'.join(PARTS[name]()) for name in names))


def targets():
    tokens = list(b'to be')
    return [row('text', *'to be'), row('tokens', *tokens), row('inputs', *tokens[:-1]), row('targets', *tokens[1:])]


def loss(n_bytes=12):
    """n_bytes: that the three tokens spell."""
    p = [1 / 2, 1 / 4, 1 / 16]
    losses = [-math.log(each) for each in p]
    mean, bits = sum(losses) / len(losses), sum(losses) / math.log(2)
    return [row('p(target)', *p), row('-ln p', *losses), row('mean', mean), row('perplexity', math.exp(mean)),
            row('bits', bits), row('bits/byte', bits / n_bytes), row('-ln(1/256)', -math.log(1 / 256))]


def norm():
    x = torch.tensor([1.0, 2.0, 6.0])
    centered = x - x.mean()
    variance = centered.square().mean()
    return [row('x', *x), row('mean', x.mean()), row('x - mean', *centered), row('squares', *centered.square()),
            row('variance', variance), row('its root', variance.sqrt()), row('normed', *centered / variance.sqrt())]


def attention():
    q = torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, 1.0], [1.0, 1.0, 0.0]])  # (T, hd)
    k = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 2.0], [2.0, 0.0, 1.0]])
    v = torch.tensor([[1.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 100.0]])
    products = q @ k.T  # (T, T)
    scores = products / math.sqrt(3)
    is_later = torch.ones(3, 3, dtype=torch.bool).triu(diagonal=1)
    masked = scores.masked_fill(is_later, -math.inf)
    powers = masked.exp()
    sums = powers.sum(dim=-1, keepdim=True)
    steps = {'q': q, 'k': k, 'v': v, 'q kᵀ': products, 'scores': scores, 'masked': masked, 'e^masked': powers, 'sums': sums,
             'weights': powers / sums, 'result': powers / sums @ v}
    return [line for name, matrix in steps.items() for line in rows(name, matrix)]


def gelu():
    x = torch.tensor([-3.0, -1.0, -0.1, 0.0, 0.1, 1.0, 3.0])
    return [row('x', *x), row('GELU(x)', *torch.nn.functional.gelu(x, approximate='tanh'))]


def adamw(lr=0.1, beta1=0.9, beta2=0.95, weight_decay=0.1):
    """Three steps of one weight whose gradients have different sizes, with torch.optim.AdamW's formula written out."""
    weight, m, v = 1.0, 0.0, 0.0
    lines = [row('step', 'gradient', 'm', 'v', "m'", "v'", 'moves by', 'weight')]
    for step, gradient in enumerate((0.02, 0.02, -0.01), 1):
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient ** 2
        corrected_m, corrected_v = m / (1 - beta1 ** step), v / (1 - beta2 ** step)
        move = -lr * corrected_m / (math.sqrt(corrected_v) + 1e-8)
        weight = weight * (1 - lr * weight_decay) + move
        lines.append(row(step, gradient, m, f'{v:.6f}', corrected_m, f'{corrected_v:.6f}', move, weight))
    return lines


def bpe(text='aaabdaaabac', n_merges=3):
    """The merges that a text gives, and its ids after each: page 1."""
    ids = byte_ids(text)
    lines = [row('', 'pair', 'times', '', 'ids'), row('bytes', '', '', '', ' '.join(map(str, ids)))]
    for new, pair in enumerate(learn_merges_slowly({text: 1}, n_merges), 256):
        times = list(zip(ids, ids[1:])).count(pair)
        ids = merge(ids, pair, new)
        lines.append(row(f'becomes {new}', f'{pair[0]} {pair[1]}', times, '', ' '.join(map(str, ids))))
    return lines


def encoding(text='aaabdaaabac', n_merges=3):
    """Other texts in the tokens of these merges: page 1."""
    merges = learn_merges_slowly({text: 1}, n_merges)
    lines = []
    for other in ('aab', 'abaab', 'aaaab'):
        before, after = (' '.join(map(str, ids)) for ids in (byte_ids(other), encode_slowly(other, merges)))
        lines.append(f'{other:<12}{before:<16}becomes  {after}')
    return lines


def scores(n_keys=64, n_queries=1000):
    """How the size of a head changes scores and weights, with random queries and keys: page 2."""
    torch.manual_seed(0)
    lines = [row('head size', 'variance', 'largest', 'divided', 'largest')]
    for size in (16, 64, 256):
        products = torch.randn(n_queries, size) @ torch.randn(size, n_keys)  # (queries, keys)
        cells = [value for x in (products, products / math.sqrt(size)) for value in (x.var(), x.softmax(-1).amax(-1).mean())]
        lines.append(row(str(size), *(f'{value:.2f}' for value in cells)))
    return lines


def shares():
    """The mean loss of four micro-batches with unequal numbers of targets, taken wrongly and rightly: page 3."""
    means, counts = [2.0, 2.0, 2.0, 6.0], [100, 100, 100, 4]
    weights = [count / sum(counts) for count in counts]
    parts = [mean * weight for mean, weight in zip(means, weights)]
    return [row('mean loss', *means), row('targets', *counts), row('share', *weights), row('loss · share', *parts),
            row('mean of means', sum(means) / len(means)), row('true mean', sum(parts))]


def variance():
    """The variance in float32, by centered numbers and by the difference of two means: page 4."""
    lines = [row('mean', 'numbers', '', '', 'centered', '', 'E[x²] − E[x]²')]
    for mean in (10, 1_000, 10_000):
        x = torch.tensor([mean - 1.0, mean, mean + 1.0])
        difference = (x * x).mean() - x.mean() ** 2
        lines.append(row(f'{mean:,}', *map(int, x), (x - x.mean()).square().mean(), '', difference))
    return lines


def online(blocks=((1.0, 2.0), (4.0,))):
    """The sum of exponentials over a row that is read in blocks: page 4."""
    largest, total = -math.inf, 0.0
    lines = [row('block', '', 'maximum', 'sum')]
    for block in blocks:
        before, largest = largest, max(largest, *block)
        total = total * math.exp(before - largest) + sum(math.exp(z - largest) for z in block)
        lines.append(row(' '.join(map(show, block)), '', largest, total))
    return lines


def row(name, *cells):
    """A line of a table: a name and cells of equal width."""
    return (f'{name:<12}' + ''.join(f'{show(cell):>9}' for cell in cells)).rstrip()


def rows(name, matrix):
    return [row(name if i == 0 else '', *numbers) for i, numbers in enumerate(matrix.tolist())]


def show(cell):
    if isinstance(cell, (str, int)):
        return str(cell)
    return '-∞' if cell == -math.inf else f'{float(cell):.4f}'.rstrip('0').rstrip('.')


PARTS = {'targets': targets, 'loss': loss, 'norm': norm, 'attention': attention, 'gelu': gelu, 'adamw': adamw,
         'bpe': bpe, 'encoding': encoding, 'scores': scores, 'shares': shares, 'variance': variance, 'online': online}

if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS, positional='parts'))
