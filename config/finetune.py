# OpenAI's GPT-2 (124M) trained on, with a small constant rate, on a text of your own. A GPU, or patience.
# Needs data/finetune: python corpus.py --source=mytext.txt --tokenizer=gpt2 --out_dir=data/finetune
out_dir = 'out/finetune'
data_dir = 'data/finetune'
init_from = 'gpt2'
total_batch_tokens = 32 * 1024
max_steps = 200
schedule = 'constant'
learning_rate = 3e-5
warmup_steps = 0
dropout = 0.1
eval_interval = 20
sample_interval = 50
checkpoint_interval = 100
