# Bytes as tokens and no layers: a neural bigram model, the first model of every course. Seconds on a CPU.
# Needs any text, such as a list of names: python corpus.py --source=names.txt --vocab_size=257 --out_dir=data/names
out_dir = 'out/char_bigram'
data_dir = 'data/names'
block_size = 64
n_layer, n_head, n_embd = 0, 1, 128
total_batch_tokens = 64 * 64
max_steps = 1000
learning_rate = 1e-2
warmup_steps = 20
weight_decay = 0.0
eval_interval = 100
sample_interval = 500
checkpoint_interval = 500
