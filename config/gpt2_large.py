# GPT-2 large (774M) on FineWeb-Edu, on top of the settings for 124M. Meant for GPUs.
#   torchrun --nproc_per_node=8 train.py config/train_gpt2.py config/gpt2_large.py
# Needs data/fineweb: python fineweb.py --out_dir=data/fineweb
out_dir = 'out/gpt2_large'
data_dir = 'data/fineweb'
n_layer, n_head, n_embd = 36, 20, 1280
learning_rate = 2.5e-4
