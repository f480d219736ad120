# A small GPT on the source text of Python's standard library, with Muon: what `make demo` trains, for 2 CPU cores.
# Needs data/stdlib: python corpus.py --source=stdlib --vocab_size=4096 --out_dir=data/stdlib
out_dir = 'out/demo'
data_dir = 'data/stdlib'
block_size = 256
n_layer, n_head, n_embd = 4, 4, 256
total_batch_tokens = 16 * 256
max_steps = 800  # 1.3 passes over 2.5 million tokens
optimizer = 'muon'
learning_rate, muon_lr, beta2 = 1.5e-2, 0.014, 0.99
warmup_steps = 20
schedule, wsd_decay = 'wsd', 0.5
eval_interval = 200
sample_interval = 400
checkpoint_interval = 200
