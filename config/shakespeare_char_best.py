# Shakespeare's plays, a character a token, to a lower loss than shakespeare_char.py's: 25 minutes on 2 CPU cores.
# Needs the plays: python corpus.py --source=FILE --vocab_size=257 --hold_out=end --val_fraction=0.1 --out_dir=data/shakespeare
# FILE is https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
out_dir = 'out/shakespeare_char_best'
data_dir = 'data/shakespeare'
block_size = 256
n_layer, n_head, n_embd = 6, 4, 256
dropout = 0.15
total_batch_tokens = 16 * 256
max_steps = 4500
optimizer = 'muon'
learning_rate, muon_lr, beta2 = 1e-2, 0.014, 0.99
warmup_steps = 20
schedule, wsd_decay, min_lr = 'wsd', 0.8, 1e-4
weight_decay = 0.1
eval_interval = 250
sample_interval = 0
checkpoint_interval = 500
