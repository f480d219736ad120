# A small GPT on WikiText-2 alone, regularized against its many passes over 3 million tokens. 90 minutes on 2 CPU cores.
# Needs data/wikitext2_4096: python wikitext.py --raw=False --vocab_size=4096 --out_dir=data/wikitext2_4096
out_dir = 'out/wikitext2_small'
data_dir = 'data/wikitext2_4096'
block_size = 512
n_layer, n_head, n_embd = 6, 4, 256
dropout = 0.1
total_batch_tokens = 8 * 512
max_steps = 16_000
optimizer = 'muon'
learning_rate, muon_lr, beta2 = 6e-3, 0.014, 0.99
warmup_steps = 100
schedule, wsd_decay, min_lr = 'wsd', 0.8, 1e-5
weight_decay = 0.1
eval_interval = 500
sample_interval = 0
checkpoint_interval = 500
