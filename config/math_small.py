# A small GPT that learns to solve generated word problems with a calculator: what `make math` trains, for 2 CPU cores.
# Needs data/math: python -m tasks.prepare_problems --out_dir=data/math
out_dir = 'out/math'
data_dir = 'data/math'
block_size = 256
n_layer, n_head, n_embd = 4, 4, 256
total_batch_tokens = 16 * 256
max_steps = 2250
optimizer = 'muon'
learning_rate, muon_lr = 3e-3, 0.02
warmup_steps = 20
schedule, wsd_decay = 'wsd', 0.5
eval_interval = 300
sample_interval = 0  # a sample would begin with a question, which this model does not learn to write
checkpoint_interval = 300
