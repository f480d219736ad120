# A small GPT that learns to follow instructions about words and numbers: what `make chat` trains, for 2 CPU cores.
# Needs data/chat: python -m tasks.chat --source=generated --vocab_size=257 --block_size=256 --out_dir=data/chat
out_dir = 'out/chat'
data_dir = 'data/chat'
block_size = 256
n_layer, n_head, n_embd = 4, 6, 192
total_batch_tokens = 8 * 256
max_steps = 6000
optimizer = 'muon'
learning_rate, muon_lr = 2e-3, 0.012
warmup_steps = 40
schedule, wsd_decay, min_lr = 'wsd', 0.9, 0
eval_interval, eval_tokens = 1000, 256 * 256
sample_interval = 0
checkpoint_interval = 500
