# GPT-2 xl (1.6B) on FineWeb-Edu, on top of the settings for 124M. Meant for GPUs.
#   torchrun --nproc_per_node=8 train.py config/train_gpt2.py config/gpt2_xl.py
# Needs data/fineweb: python fineweb.py --out_dir=data/fineweb
out_dir = 'out/gpt2_xl'
data_dir = 'data/fineweb'
n_layer, n_head, n_embd = 48, 25, 1600
learning_rate = 2e-4
