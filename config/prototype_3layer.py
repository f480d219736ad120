# A three-layer model on the standard library: the smallest thing on which an idea can be tried, minutes on a CPU.
# Needs data/stdlib: python corpus.py --source=stdlib --vocab_size=4096 --out_dir=data/stdlib
out_dir = 'out/prototype_3layer'
data_dir = 'data/stdlib'
block_size = 128
n_layer, n_head, n_embd = 3, 4, 128
total_batch_tokens = 32 * 128
max_steps = 1000
learning_rate = 3e-3
warmup_steps = 50
eval_interval = 100
sample_interval = 500
checkpoint_interval = 500
