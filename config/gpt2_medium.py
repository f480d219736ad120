# GPT-2 medium (355M) on FineWeb-Edu, on top of the settings for 124M. Meant for GPUs.
#   torchrun --nproc_per_node=8 train.py config/train_gpt2.py config/gpt2_medium.py
# Needs data/fineweb: python fineweb.py --out_dir=data/fineweb
out_dir = 'out/gpt2_medium'
data_dir = 'data/fineweb'
n_layer, n_head, n_embd = 24, 16, 1024
learning_rate = 3e-4
