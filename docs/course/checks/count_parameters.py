"""What the exercise count_parameters is compared with; examine.py describes the parts."""
import functools

import torch

from model import GPT, GPTConfig

HINTS = (
    'A linear layer from n to m numbers has n · m weights and m biases. The number of heads does not matter: c_attn '
    'goes from C to 3 C numbers, however these are split.',
    'With C = n_embd: a norm is 2 C; the attention C · 3 C + 3 C and C · C + C; the MLP C · 4 C + 4 C and 4 C · C + '
    'C. The head adds nothing.',
)


def cases():
    yield 'no blocks: wte, wpe and the last norm', (0, 4, 10, 8)
    yield 'one small block', (1, 4, 10, 8)
    yield 'tiny_gpt.py', (3, 128, 256, 64)
    yield 'the smallest GPT-2', (12, 768, 50257, 1024)
    yield 'the largest GPT-2', (48, 1600, 50257, 1024)


@functools.cache
def expected(n_layer, n_embd, vocab_size, block_size):
    with torch.device('meta'):
        return GPT(GPTConfig(n_layer=n_layer, n_head=1, n_embd=n_embd, vocab_size=vocab_size, block_size=block_size)).n_params()


def less(missing):
    return lambda n_layer, C, V, T: expected(n_layer, C, V, T) - missing(n_layer, C, V, T)


FAULTS = {
    'the head is counted, too; it uses the table wte, which is counted already': less(lambda L, C, V, T: -V * C),
    'the biases of the linear layers are missing': less(lambda L, C, V, T: L * 9 * C),
    'all biases are missing, those of the linear layers and of the norms': less(lambda L, C, V, T: L * 11 * C + C),
    'the last norm is missing': less(lambda L, C, V, T: 2 * C),
    'the norms of the blocks are missing': less(lambda L, C, V, T: L * 4 * C),
    'all norms are missing': less(lambda L, C, V, T: L * 4 * C + 2 * C),
    'the positions, wpe, are missing': less(lambda L, C, V, T: T * C),
    'c_attn makes queries, keys and values: 3 C numbers from C': less(lambda L, C, V, T: L * (2 * C * C + 2 * C)),
    'the hidden width of the MLP is 4 C': less(lambda L, C, V, T: L * (6 * C * C + 3 * C)),
}
