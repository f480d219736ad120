"""Writes text with a trained model.

    python sample.py --out_dir=out/demo --prompt='def '                 # the newest checkpoint of a run
    python sample.py --init_from=gpt2 --prompt='Once upon a time' --num_samples=3
    cat story.txt | python sample.py --init_from=gpt2-xl --prompt_file=-

Text appears as it is made. It ends at <|endoftext|> or after max_new_tokens.
"""
import codecs
import sys
import time

import torch

import checkpoint
import device as machine
from configurator import BadInput, choice, configure, one_line_errors, optional

DEFAULTS = {
    # model
    'out_dir': 'out',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead of out_dir: a checkpoint file, a folder in Hugging Face's layout, or gpt2[-medium|-large|-xl]
    # text
    'prompt': '',  # what the text begins with; empty: a new document
    'prompt_file': optional(str),  # read the prompt from this file; - reads standard input
    'num_samples': 1,  # how many texts
    'max_new_tokens': 300,  # longest text, in tokens
    'temperature': 0.8,  # 0: always the likeliest token; 1: the model's own distribution
    'top_k': optional(int, 50),  # only the k likeliest tokens
    'top_p': optional(float),  # only the likeliest tokens that together have this probability
    'seed': optional(int),  # the same seed gives the same texts
    # machine
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('auto', 'bfloat16', 'float16', 'float32'),  # of the weights and the arithmetic
}


def main(config):
    prompt = read_prompt(config)
    device = machine.pick_device(config['device'])
    dtype = machine.pick_dtype(config['dtype'], device)
    model, tokenizer, source = checkpoint.load_model(config['init_from'] or config['out_dir'])
    model.to(device, dtype)
    tokens = tokenizer.encode(prompt) or [tokenizer.eot]
    if config['num_samples'] < 1:
        raise BadInput(f'num_samples={config["num_samples"]} should be at least 1')
    print(f'{source}: {model.n_params():,} parameters, {machine.describe(device)}, {str(dtype).removeprefix("torch.")}',
          file=sys.stderr)
    started, n_written = time.perf_counter(), 0
    for number in range(config['num_samples']):
        if config['num_samples'] > 1:
            print(f'{"" if number == 0 else chr(10)}--- {number + 1} of {config["num_samples"]}')
        n_written += write_text(model, tokenizer, prompt, tokens, number, config, device)
    elapsed_s = time.perf_counter() - started
    print(f'{n_written} tokens in {elapsed_s:.1f} s, {n_written / elapsed_s:.1f} tokens/s', file=sys.stderr)


def read_prompt(config):
    """The prompt from the flag, a file or standard input."""
    path = config['prompt_file']
    if path is None:
        return config['prompt']
    if config['prompt']:
        raise BadInput('--prompt and --prompt_file exclude each other')
    try:
        data = sys.stdin.buffer.read() if path == '-' else open(path, 'rb').read()
        return data.decode('utf-8')
    except OSError as error:
        raise BadInput(f'prompt file {path}: {error.strerror}') from None
    except UnicodeDecodeError as error:
        raise BadInput(f'prompt file {path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#x}') from None


def write_text(model, tokenizer, prompt, tokens, number, config, device):
    """Prints one text as it is made; returns the number of tokens written."""
    idx = torch.tensor([tokens], device=device)
    seed = None if config['seed'] is None else config['seed'] + number
    decoder = codecs.getincrementaldecoder('utf-8')(errors='replace')  # a character may be spread over several tokens
    print(prompt, end='', flush=True)
    n_written = 0
    for column in model.stream(idx, config['max_new_tokens'], config['temperature'], config['top_k'], config['top_p'],
                               seed, stop_tokens=(tokenizer.eot,)):
        token = column.item()
        n_written += 1
        if token == tokenizer.eot:
            break
        print(decoder.decode(tokenizer.token_bytes(token)), end='', flush=True)
    print(decoder.decode(b'', final=True), flush=True)
    return n_written


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
