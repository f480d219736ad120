def mfu(tokens_per_s, n_layer, n_embd, vocab_size, block_size, peak_flops):
    weights = n_layer * 12 * n_embd ** 2 + vocab_size * n_embd
    flops_per_token = 6 * weights + 12 * n_layer * n_embd * block_size
    return tokens_per_s * flops_per_token / peak_flops
