# GPT-2 (124M) on 10 billion tokens of FineWeb-Edu: the reproduction. Meant for GPUs.
#   torchrun --nproc_per_node=8 train.py config/train_gpt2.py
# Needs data/fineweb: python fineweb.py --out_dir=data/fineweb
out_dir = 'out/gpt2'
data_dir = 'data/fineweb'
block_size = 1024
n_layer, n_head, n_embd = 12, 12, 768
total_batch_tokens = 524_288
max_steps = 19_073  # one pass over 10 billion tokens
learning_rate = 6e-4
warmup_steps = 715  # 375 million tokens, as GPT-3 had
weight_decay = 0.1
eval_interval = 250
eval_tokens = 10_485_760
sample_interval = 1000
checkpoint_interval = 1000
