"""What the exercise mfu is compared with; examine.py describes the parts."""
import functools

import torch

from model import GPT, GPTConfig

HINTS = (
    'First the operations for one token. Times the tokens per second, that is operations per second, which the peak '
    'is, too.',
    'weights = n_layer * 12 * n_embd ** 2 + vocab_size * n_embd; operations for a token = 6 * weights + 12 * n_layer '
    '* n_embd * block_size. For GPT-2 124M at block size 1,024 this is 0.855 billion.',
)


def cases():
    yield "GPT-2 124M at 463,000 tokens per second on a GPU of 989 Tflop/s", (463_000, 12, 768, 50257, 1024, 989e12)
    yield 'GPT-2 xl at 39,000 tokens per second on the same GPU', (39_000, 48, 1600, 50257, 1024, 989e12)
    yield 'tiny_gpt.py at 10,000 tokens per second on a CPU of 0.1 Tflop/s', (10_000, 3, 128, 256, 64, 0.1e12)


@functools.cache
def flops_per_token(n_layer, n_embd, vocab_size, block_size):
    with torch.device('meta'):
        return GPT(GPTConfig(block_size, vocab_size, n_layer, n_head=1, n_embd=n_embd)).flops_per_token()


def expected(tokens_per_s, n_layer, n_embd, vocab_size, block_size, peak_flops):
    return tokens_per_s * flops_per_token(n_layer, n_embd, vocab_size, block_size) / peak_flops


def other(flops):
    return lambda rate, L, C, V, T, peak: rate * flops(L, C, V, T) / peak


FAULTS = {
    'the operations of attention are missing': other(lambda L, C, V, T: 6 * (12 * L * C * C + V * C)),
    'the head is missing: it multiplies, although its table is that of the embedding':
        other(lambda L, C, V, T: 72 * L * C * C + 12 * L * C * T),
    'this is the forward pass alone: forward and backward take 6 operations for each weight, not 2':
        other(lambda L, C, V, T: flops_per_token(L, C, V, T) / 3),
    '6 operations for each weight are right for forward and backward, not 2':
        other(lambda L, C, V, T: 2 * (12 * L * C * C + V * C) + 12 * L * C * T),
    'the table of positions is counted, too; it is only looked up':
        other(lambda L, C, V, T: flops_per_token(L, C, V, T) + 6 * T * C),
    'this is in per cent; the share goes from 0 to 1': lambda *args: 100 * expected(*args),
    'this is the peak divided by what is reached': lambda *args: 1 / expected(*args),
}
