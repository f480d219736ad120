# GPT-2 from scratch on WikiText-2 alone, regularized against its many passes over 2.4 million tokens. For a GPU.
# Needs data/wikitext2: python wikitext.py --out_dir=data/wikitext2
out_dir = 'out/wikitext2'
data_dir = 'data/wikitext2'
block_size = 512
n_layer, n_head, n_embd = 12, 12, 768
dropout = 0.3
total_batch_tokens = 64 * 512
max_steps = 2000
learning_rate = 6e-4
warmup_steps = 200
weight_decay = 0.3
eval_interval = 50
sample_interval = 500
checkpoint_interval = 50
patience = 6  # 300 steps without a better validation loss; best.json names the step of the best checkpoint
