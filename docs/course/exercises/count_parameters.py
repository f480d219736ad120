"""Count the parameters of GPT-2 from its four sizes, with the head that is tied to the embedding.

To check it: python -m docs.course.check count_parameters
"""


def count_parameters(n_layer, n_embd, vocab_size, block_size):
    """
    Returns how many numbers are trained.

    They are in wte (vocab_size rows of n_embd), wpe (block_size rows), n_layer blocks, and the last norm. The head
    uses wte. A block has two norms, c_attn and c_proj of the attention, and c_fc and c_proj of the MLP, whose
    hidden width is 4 n_embd. All linear layers have a bias, and a norm has a weight and a bias.
    """
    raise NotImplementedError
