"""Draws the pictures of the walk-through, each with the code that its page explains, or takes them from the notebook.

    python docs/figures.py                      # all, to docs/figures
    python docs/figures.py --only=schedule      # one of them

Needs matplotlib and about 15 seconds; no GPU, no network. Pictures of runs are drawn by plot.py, with the commands on the
pages.
"""
import base64
import html
import io
import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import matplotlib.pyplot as plt
import numpy as np
import torch

import sources
import train
from bpe import Tokenizer
from configurator import configure, listed
from kernels.attention import blocks
from model import GPT, GPTConfig
from pretrained import PUBLISHED_SIZES
from runtime.errors import one_line_errors
from runtime.files import atomic_write
from runtime.text_files import read_text
from shards import BatchLoader

DEFAULTS = {
    'only': '',  # names of pictures with commas between; empty: all
    'out_dir': os.path.join(ROOT, 'docs', 'figures'),  # where they go
}
COLOURS = ('#cfe3f5', '#fbdcc0', '#d3edd0', '#f3cfd3')
LINE = "    raise ValueError(f'unknown encoding: {encoding!r}') from None"


def main(config):
    names = listed(config, 'only', PICTURES, 'picture')
    plt.rcParams.update({'font.size': 10, 'axes.spines.top': False, 'axes.spines.right': False,
                         'svg.fonttype': 'none', 'svg.hashsalt': 'scratchgpt'})
    for name in names:
        picture = PICTURES[name]()
        picture = as_svg(picture) if isinstance(picture, plt.Figure) else picture
        path = os.path.join(config['out_dir'], f'{name}.{"png" if isinstance(picture, bytes) else "svg"}')
        with atomic_write(path) as file:
            file.write(picture if isinstance(picture, bytes) else picture.encode())
        print(path, flush=True)


def as_svg(figure):
    text = io.StringIO()
    figure.savefig(text, format='svg', metadata={'Date': None})
    plt.close(figure)
    return text.getvalue()


# ---- README: how the parts fit together ---------------------------------------------------------------


def draw_overview():
    """From texts to the uses of a trained model: boxes are files and results, arrows are the scripts that make them."""
    figure, axis = plt.subplots(figsize=(9.6, 3.1), layout='constrained')
    axis.set(xlim=(-0.5, 96.5), ylim=(-0.5, 31.5))
    axis.axis('off')
    boxes = {'texts': (0, 12, 14, 8, 'texts', 'files, folders,\nthe hub'),
             'shards': (27, 12, 18, 8, 'data/NAME', 'shards, tokenizer.json,\nmeta.json'),
             'weights': (27, 0, 18, 7, "OpenAI's weights", 'gpt2 ... gpt2-xl'),
             'run': (58, 12, 17, 8, 'out/NAME', 'checkpoints, metrics,\nloss.png, samples'),
             'text': (82, 24, 14, 7, 'text', 'sample.py'), 'server': (82, 16, 14, 7, 'API and page', 'serve.py'),
             'scores': (82, 8, 14, 7, 'scores', 'evaluate.py'), 'folder': (82, 0, 14, 7, 'other programs', 'export.py')}
    colours = {'texts': 0, 'shards': 1, 'weights': 3}
    for name, (x, y, width, height, title, words) in boxes.items():
        axis.add_patch(plt.Rectangle((x, y), width, height, facecolor=COLOURS[colours.get(name, 2)], edgecolor='#555555'))
        axis.text(x + width / 2, y + height * 0.74, title, ha='center', va='center', fontweight='bold', fontsize=9)
        axis.text(x + width / 2, y + height * 0.32, words, ha='center', va='center', fontsize=7.5,
                  family='monospace' if words.endswith('.py') else None)
    arrows = [('texts', 'shards', 'corpus.py\nfineweb.py\nwikitext.py'), ('shards', 'run', 'train.py'),
              ('weights', 'run', '--init_from'), *(('run', name, '') for name in ('text', 'server', 'scores', 'folder'))]
    for source, target, label in arrows:
        x, y, width, height, *_ = boxes[source]
        u, v, _, target_height, *_ = boxes[target]
        start, end = (x + width, y + height / 2), (u, v + target_height / 2)
        axis.annotate('', end, start, arrowprops={'arrowstyle': '-|>', 'color': '#555555', 'shrinkA': 2, 'shrinkB': 2})
        if label:
            axis.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, label, ha='center', va='center', fontsize=7.5,
                      family='monospace', bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 1})
    return figure


# ---- 1: tokenizer -------------------------------------------------------------------------------------


def stdlib_tokenizer(vocab_size):
    """(a BPE trained on the standard library, the texts that it was not trained on)"""
    texts = [''.join(read_text(path)) for path in sources.stdlib_files()]
    held_out = texts[::20]
    return Tokenizer.train((text for i, text in enumerate(texts) if i % 20), vocab_size, progress=False), held_out


def smaller(tokenizer, vocab_size):
    """The tokenizer that training with fewer merges would have given: its merges are the first ones."""
    kept = {token: i for token, i in tokenizer.tokens.items() if i < vocab_size - 1}
    return Tokenizer(kept, {'<|endoftext|>': vocab_size - 1})


def draw_tokens():
    """One line of Python, cut by vocabularies of growing size. Writes SVG itself, because each letter needs its exact place."""
    tokenizer, _ = stdlib_tokenizer(4096)
    width, height, left = 9, 24, 60
    rows = []
    for row, vocab_size in enumerate((257, 512, 1024, 4096)):
        of_size = smaller(tokenizer, vocab_size)
        pieces = [of_size.token_bytes(i).decode() for i in of_size.encode(LINE)]
        x, y = left, row * height + 2
        rows.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{vocab_size:,}</text>')
        for n, piece in enumerate(pieces):
            rows.append(f'<rect x="{x}" y="{y}" width="{len(piece) * width}" height="{height - 4}" fill="{COLOURS[n % 4]}"/>')
            x += len(piece) * width
        rows.append(f'<text x="{left}" y="{y + 14}" textLength="{len(LINE) * width}" xml:space="preserve" '
                    f'font-family="monospace">{html.escape(LINE)}</text>')
        rows.append(f'<text x="{x + 8}" y="{y + 14}">{len(pieces)} tokens</text>')
    size = f'{left + len(LINE) * width + 90} {4 * height}'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" font-size="13">'
            f'<rect width="100%" height="100%" fill="white"/>\n' + '\n'.join(rows) + '\n</svg>\n')


def draw_compression():
    """How many bytes of held-out text a token stands for, over the size of the vocabulary."""
    tokenizer, held_out = stdlib_tokenizer(32768)
    sizes = [257, 512, 1024, 2048, 4096, 8192, 16384, 32768]
    n_bytes = sum(len(text.encode()) for text in held_out)
    ratios = [n_bytes / sum(map(len, smaller(tokenizer, size).encode_batch(held_out))) for size in sizes]
    figure, axis = plt.subplots(figsize=(5, 2.6), layout='constrained')
    axis.plot(sizes, ratios, marker='o', markersize=4)
    for size, ratio in zip(sizes, ratios):
        axis.annotate(f'{ratio:.2f}', (size, ratio), textcoords='offset points', xytext=(0, 6), ha='center', fontsize=8)
    axis.set_xscale('log', base=2)
    axis.set_xticks(sizes, [f'{size:,}' for size in sizes], fontsize=7.5)
    axis.set(xlabel='vocabulary', ylabel='bytes a token', ylim=(0, max(ratios) * 1.15))
    return figure


# ---- 2: architecture ----------------------------------------------------------------------------------


def draw_parameters():
    """The share of each part of the model in the parameters, for the four published sizes."""
    parts = {'token embedding (and head)': 'wte', 'positions': 'wpe', 'attention': '.attn.', 'MLP': '.mlp.',
             'layer norms': '.ln_|ln_f'}
    figure, axis = plt.subplots(figsize=(6.5, 2.3), layout='constrained')
    for row, (n_layer, n_head, n_embd) in enumerate(PUBLISHED_SIZES.values()):
        with torch.device('meta'):
            model = GPT(GPTConfig(n_layer=n_layer, n_head=n_head, n_embd=n_embd))
        left = 0
        for colour, (part, patterns) in enumerate(parts.items()):
            share = sum(tensor.numel() for key, tensor in model.state_dict().items()
                        if any(pattern in key for pattern in patterns.split('|'))) / model.n_params()
            axis.barh(row, share, left=left, color=f'C{colour}', alpha=0.75, label=part if row == 0 else None)
            if share > 0.04:
                axis.text(left + share / 2, row, f'{share:.0%}', ha='center', va='center', fontsize=8)
            left += share
        axis.text(1.01, row, f'{model.n_params() / 1e6:,.0f} M', va='center')
    axis.set_yticks(range(4), PUBLISHED_SIZES)
    axis.invert_yaxis()
    axis.set_xticks([])
    axis.spines[['bottom', 'left']].set_visible(False)
    axis.legend(ncols=5, loc='upper center', bbox_to_anchor=(0.45, 0), frameon=False, fontsize=8, handlelength=1)
    return figure


def draw_block():
    """What a block does to the residual stream: each operation with the shapes of its weights and of its result."""
    rows = [  # operation, its weights, its result
        ('ln_1', 'C + C', '(B, T, C)'),
        ('c_attn', '3C × C + 3C', '3 × (B, nh, T, hd)'),
        ('q kᵀ / √hd, mask, softmax', '', '(B, nh, T, T)'),
        ('weights · v, heads side by side', '', '(B, T, C)'),
        ('c_proj', 'C × C + C', '(B, T, C)'),
        ('+', '', '(B, T, C)'),
        ('ln_2', 'C + C', '(B, T, C)'),
        ('c_fc', '4C × C + 4C', '(B, T, 4C)'),
        ('GELU', '', '(B, T, 4C)'),
        ('c_proj', 'C × 4C + C', '(B, T, C)'),
        ('+', '', '(B, T, C)'),
    ]
    figure, axis = plt.subplots(figsize=(8.4, 5.2), layout='constrained')
    axis.set(xlim=(-6, 84), ylim=(len(rows) * 4 + 3, -4))
    axis.axis('off')
    stream, middle = 6, 34
    axis.plot([stream, stream], [-1, len(rows) * 4 + 1.5], color='C0', linewidth=3)
    axis.text(stream, -2, 'residual stream x, (B, T, C)', color='C0', ha='center', fontweight='bold')
    for column, title in ((57, 'parameters'), (middle, 'operation')):
        axis.text(column, -2, title, ha='center', fontweight='bold')
    axis.text(66, -2, 'result', fontweight='bold')
    colours = {'ln': 2, 'c_': 1}
    for row, (operation, weights, result) in enumerate(rows):
        y = row * 4 + 1
        if operation == '+':
            axis.plot([middle, middle], [y - 2.7, y], color='#555555', linewidth=1)
            axis.annotate('', (stream + 1.2, y), (middle, y), arrowprops={'arrowstyle': '-|>', 'color': '#555555'})
            axis.text(stream, y, '+', ha='center', va='center', fontsize=13,
                      bbox={'boxstyle': 'circle,pad=0.15', 'facecolor': 'white', 'edgecolor': 'C0', 'linewidth': 2})
        else:
            if operation.startswith('ln'):
                axis.annotate('', (middle - 14, y), (stream, y), arrowprops={'arrowstyle': '-|>', 'color': '#555555'})
            else:
                axis.annotate('', (middle, y - 1.3), (middle, y - 2.7), arrowprops={'arrowstyle': '-|>', 'color': '#555555'})
            axis.add_patch(plt.Rectangle((middle - 14, y - 1.3), 28, 2.6, facecolor=COLOURS[colours.get(operation[:2], 0)],
                                         edgecolor='#555555'))
            axis.text(middle, y, operation, ha='center', va='center')
        axis.text(57, y, weights, ha='center', va='center')
        axis.text(66, y, result, va='center')
    return figure


@torch.no_grad()
def draw_stream():
    """How large the residual stream is after each block of a fresh model, with the scaled initialization and without."""
    figure, axis = plt.subplots(figsize=(6, 3), layout='constrained')
    for scaled in (False, True):
        torch.manual_seed(0)
        model = GPT(GPTConfig(block_size=64, vocab_size=512, n_layer=48, n_head=4, n_embd=256)).eval()
        if not scaled:
            for name, parameter in model.named_parameters():
                if name.endswith('c_proj.weight'):
                    parameter *= (2 * model.config.n_layer) ** 0.5
        sizes = []
        for block in model.transformer.h:
            block.register_forward_hook(lambda block, inputs, output: sizes.append(output.std().item()))
        model(torch.randint(512, (8, 64)))
        axis.plot(range(1, 49), sizes, label='c_proj with 0.02 / √(2·n_layer)' if scaled else 'all matrices with 0.02')
        if not scaled:
            blocks_so_far = np.arange(1, 49)
            axis.plot(blocks_so_far, sizes[0] * blocks_so_far ** 0.5, 'k--', linewidth=1, label='first value · √block')
    axis.set(xlabel='block', ylabel='standard deviation of the stream', ylim=(0, None))
    axis.legend(frameon=False, title='standard deviation at the start', fontsize=9)
    return figure


# ---- 3: training --------------------------------------------------------------------------------------


def draw_schedule():
    """The learning rates of config/train_gpt2.py under each schedule."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    config = configure(train.DEFAULTS, [os.path.join(root, 'config/train_gpt2.py')])
    steps = np.arange(0, config['max_steps'], 25)
    figure, axis = plt.subplots(figsize=(5, 2.4), layout='constrained')
    for schedule in ('cosine', 'wsd', 'constant'):
        settings = config | {'schedule': schedule}
        rates = [config['learning_rate'] * train.learning_rate_factor(step, settings) for step in steps]
        axis.plot(steps, rates, label=schedule, linestyle='--' if schedule == 'constant' else '-')
    axis.set(xlabel='step', ylabel='learning rate', ylim=(0, None))
    axis.legend(frameon=False)
    return figure


class Stream(BatchLoader):
    """A BatchLoader that knows the order of its sequences but has no tokens."""

    def __init__(self, n_tokens, block_size, seed):
        self.split, self.block_size, self.seed, self.n_tokens = 'train', block_size, seed, n_tokens
        self.n_sequences, self.is_aligned = (n_tokens - block_size) // block_size, False


def draw_order(n_windows=8):
    """The windows that the first three epochs of a tiny stream read, numbered in the order in which they are read."""
    block_size = 64
    stream = Stream(n_tokens=(n_windows + 2) * block_size - 8, block_size=block_size, seed=1337)
    sequences = np.arange(3 * stream.n_sequences)
    starts = stream.window_starts(sequences)
    figure, axis = plt.subplots(figsize=(7.2, 2.2), layout='constrained')
    for epoch in range(3):
        here = sequences // stream.n_sequences == epoch
        for number, start in zip(sequences[here], starts[here]):
            axis.add_patch(plt.Rectangle((start, epoch + 0.15), block_size, 0.7, facecolor=COLOURS[epoch], edgecolor='white'))
            axis.text(start + block_size / 2, epoch + 0.5, str(number), ha='center', va='center')
    axis.set(xlim=(0, stream.n_tokens), ylim=(3, 0), xlabel='place in the stream, in tokens')
    axis.set_yticks([0.5, 1.5, 2.5], ['epoch 0', 'epoch 1', 'epoch 2'])
    axis.set_xticks(range(0, stream.n_tokens, block_size))
    return figure


# ---- 4: kernels ---------------------------------------------------------------------------------------


def draw_blocks(T=1024):
    """The part of the (T, T) scores that kernels/attention.py computes."""
    figure, axis = plt.subplots(figsize=(5.2, 4.4), layout='constrained')
    computed = 0
    for n, (start, end) in enumerate(blocks(T)):
        axis.add_patch(plt.Rectangle((0, start), end, end - start, facecolor=COLOURS[n % 4], edgecolor='white'))
        axis.text(end + 8 if n < 4 else 8, (start + end) / 2, f'{end - start} × {end}', va='center')  # beside the diagonal
        computed += (end - start) * end
    axis.plot([0, T], [0, T], color='black', linewidth=1, label='the last key that a query may see')
    axis.set(xlim=(0, T), ylim=(T, 0), xlabel='keys', ylabel='queries', aspect='equal',
             title=f'queries × keys of each block: {computed / T ** 2:.0%} of all scores')
    axis.set_xticks([0, T])
    axis.set_yticks([0, T])
    axis.legend(frameon=False, loc='upper center', bbox_to_anchor=(0.5, -0.1))
    return figure


# ---- 2. Architecture, 3. Training: what the tour shows of a trained model ---------------------------------


def kept_in_tour(text):
    """The picture, PNG, that notebooks/tour.ipynb keeps of the cell with this text."""
    with open(os.path.join(ROOT, 'notebooks/tour.ipynb'), encoding='utf-8') as file:
        cells = [cell for cell in json.load(file)['cells'] if cell['cell_type'] == 'code' and text in ''.join(cell['source'])]
    return base64.b64decode(cells[0]['outputs'][0]['data']['image/png'])


PICTURES = {'overview': draw_overview, 'tokens': draw_tokens, 'compression': draw_compression, 'block': draw_block,
            'parameters': draw_parameters, 'stream': draw_stream, 'schedule': draw_schedule, 'order': draw_order,
            'blocks': draw_blocks, 'heads': lambda: kept_in_tour("'loss without the head"),
            'losses': lambda: kept_in_tour("[f' {nats} nats '")}


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
