# A small GPT on the source text of Python's standard library: `make demo`, 2 CPU cores, under 5 minutes.
# Needs data/stdlib: python corpus.py --source=stdlib --vocab_size=4096 --out_dir=data/stdlib
out_dir = 'out/demo'
data_dir = 'data/stdlib'
block_size = 256
n_layer, n_head, n_embd = 4, 4, 256
total_batch_tokens = 16 * 256
max_steps = 600
optimizer = 'muon'
learning_rate, min_lr, muon_lr = 3e-3, 3e-4, 0.02
warmup_steps = 20
schedule = 'wsd'
wsd_decay = 0.5
eval_interval, eval_tokens = 200, 200_000
sample_interval = 200
checkpoint_interval = 200
