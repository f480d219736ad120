# OpenAI's GPT-2 (124M) finetuned to answer: conversations, loss on the answers alone. A GPU, or patience.
# --init_from=gpt2-xl --activation_checkpointing=True --micro_batch=1 --optimizer=muon fits into a GPU of 24 GB.
# Needs data/smoltalk: python -m tasks.chat --source=HuggingFaceTB/smol-smoltalk --tokenizer=gpt2 --out_dir=data/smoltalk
out_dir = 'out/chat_gpt2'
data_dir = 'data/smoltalk'
init_from = 'gpt2'
total_batch_tokens = 64 * 1024
max_steps = 1000
learning_rate, muon_lr = 5e-5, 1e-3
schedule = 'wsd'
warmup_steps = 20
weight_decay = 0.0
eval_interval = 100
sample_interval = 0  # a text from nothing is no answer
checkpoint_interval = 100
