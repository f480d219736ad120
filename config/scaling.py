# The runs of runs/scaling.sh, which sets their sizes and steps. For 2 CPU cores.
# Needs data/torch: python corpus.py --source='.venv/lib/*/site-packages/torch/**/*.py' --vocab_size=1024 --out_dir=data/torch
out_dir = 'out/scaling_run'
data_dir = 'data/torch'
block_size = 256
n_layer, n_head, n_embd = 4, 4, 128
total_batch_tokens = 16 * 256
max_steps = 400
optimizer = 'muon'
learning_rate, muon_lr, beta2 = 8e-3, 0.014, 0.99
warmup_steps = 20
schedule, wsd_decay = 'wsd', 0.5
eval_interval = 1_000_000  # at the end alone
eval_tokens = 262_144
sample_interval = 0
checkpoint_interval = 500
