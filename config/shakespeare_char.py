# A small GPT on Shakespeare's plays, a character a token, as nanoGPT's first command trains it. Minutes on 2 CPU cores.
# Needs the plays: python corpus.py --source=FILE --vocab_size=257 --hold_out=end --val_fraction=0.1 --out_dir=data/shakespeare
# FILE is https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
out_dir = 'out/shakespeare_char'
data_dir = 'data/shakespeare'
block_size = 256
n_layer, n_head, n_embd = 4, 4, 256
total_batch_tokens = 16 * 256
max_steps = 700  # 3 minutes on 2 cores
optimizer = 'muon'
learning_rate, muon_lr = 3e-3, 0.014
warmup_steps = 20
schedule, wsd_decay = 'wsd', 0.5
weight_decay = 0.1
eval_interval = 100
sample_interval = 0
checkpoint_interval = 1000
