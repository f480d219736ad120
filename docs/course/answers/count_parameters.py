def count_parameters(n_layer, n_embd, vocab_size, block_size):
    C = n_embd
    norm = 2 * C
    attention = (C * 3 * C + 3 * C) + (C * C + C)
    mlp = (C * 4 * C + 4 * C) + (4 * C * C + C)
    block = norm + attention + norm + mlp
    return vocab_size * C + block_size * C + n_layer * block + norm
