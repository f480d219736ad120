"""Model FLOPs utilization: the share of a GPU's peak that a training run uses.

To check it: python -m docs.course.check mfu
"""


def mfu(tokens_per_s, n_layer, n_embd, vocab_size, block_size, peak_flops):
    """
    peak_flops: operations per second that the GPU's maker states
    Returns the share as a number from 0 to 1.

    Forward and backward pass take, for each token, 6 operations for every weight of a matrix that multiplies, and
    for attention 12 * n_layer * n_embd * block_size. A block has 12 n_embd² such weights (4 of the attention and 8
    of the MLP, without biases), and the head has vocab_size * n_embd. The tables wte and wpe are only looked up
    when a token comes in: that takes none.
    """
    raise NotImplementedError
