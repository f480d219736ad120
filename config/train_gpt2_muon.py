# GPT-2 (124M) on FineWeb-Edu with Muon for the blocks' matrices, on top of the settings for AdamW. Meant for GPUs.
#   torchrun --nproc_per_node=8 train.py config/train_gpt2.py config/train_gpt2_muon.py
# Needs data/fineweb: python fineweb.py --out_dir=data/fineweb
out_dir = 'out/gpt2_muon'
data_dir = 'data/fineweb'
optimizer = 'muon'
muon_lr = 0.02
learning_rate = 2e-3  # AdamW's, for embeddings, biases and norms
schedule, wsd_decay = 'wsd', 0.5
warmup_steps = 256
