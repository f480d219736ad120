# A small GPT with a BPE of its own on a folder of poems, one file each. An hour on a CPU, minutes on a GPU.
# Needs data/poems: python corpus.py --source=poems/ --vocab_size=2048 --out_dir=data/poems
out_dir = 'out/poetry'
data_dir = 'data/poems'
block_size = 128
n_layer, n_head, n_embd = 6, 6, 192
dropout = 0.2
total_batch_tokens = 32 * 128
max_steps = 2000
learning_rate = 1e-3
warmup_steps = 100
eval_interval = 100
sample_interval = 200
checkpoint_interval = 200
