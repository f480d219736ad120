# OpenAI's GPT-2 (124M) finetuned to solve GSM8K's problems with a calculator. Takes long without a GPU.
# --init_from=out/mine starts from a checkpoint of your own instead.
# Needs data/gsm8k: python -m tasks.prepare_problems --source=gsm8k --tokenizer=gpt2 --out_dir=data/gsm8k
out_dir = 'out/gsm8k'
data_dir = 'data/gsm8k'
init_from = 'gpt2'
block_size = 512
total_batch_tokens = 32 * 512
max_steps = 400  # 5 epochs of 1.3 million tokens
learning_rate = 5e-5
warmup_steps = 20
dropout = 0.1
eval_interval = 40
sample_interval = 100
checkpoint_interval = 100
