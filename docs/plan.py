"""Plans a training run on 1 to 64 GPUs: its hours, its price, and the time that the exchange of gradients takes.

    python -m bench train --preset=gpt2 --contenders=ours                                # on a GPU: prints its tokens/s
    python docs/plan.py config/train_gpt2.py --tokens_per_s=463000 --price=2.5           # the table, with that number
    python docs/plan.py config/train_gpt2.py config/gpt2_medium.py --peak_tflops=989 --mfu=0.4     # without a measurement

A step of n GPUs computes for total_batch_tokens / (n · tokens_per_s) seconds. Then each GPU sends and receives
2 (n-1)/n times the gradient, 4 bytes a parameter, over the slowest link (a ring, Patarasuk & Yuan 2009). DDP starts the
exchange while the last micro-batch is still in its backward pass, and hides between nothing and all of it, so the table
has both bounds. tokens_per_s should be measured with the micro-batch that fits beside the sequences of the second column.
Evaluation, checkpoints and the compilation in the first step add to the hours. Knows nothing about particular machines.
"""
import math
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import torch

import pretrained
import train
from configurator import configure, optional
from model import GPT
from runtime.errors import BadInput, one_line_errors

DEFAULTS = train.DEFAULTS | {
    'block_size': 1024,  # longest context, in tokens
    # the machine
    'tokens_per_s': optional(float),  # of one GPU, measured with `python -m bench train`
    'peak_tflops': optional(float),  # instead of tokens_per_s: peak of matrix products that the GPU's maker states
    'mfu': optional(float),  # with peak_tflops: the share of the peak that training reaches
    'gpus_per_node': 8,  # GPUs of one machine, which share the fast link
    'node_gb_s': optional(float),  # gigabytes a second and direction between the GPUs of a node; None: not counted
    'net_gb_s': optional(float),  # the same between nodes; None: not counted
    'price': optional(float),  # of a GPU for an hour
    # the plan
    'n_gpus': '1,2,4,8,16,32,64',  # rows of the table
    'vocab_size': 50257,  # GPT-2's
}
BYTES_PER_PARAMETER = 16  # weight, gradient and AdamW's two moments, float32 each


def main(config):
    with torch.device('meta'):
        model = GPT(pretrained.model_config(config))
    tokens_per_s = tokens_per_second(config, model)
    n_params, n_tokens = model.n_params(), config['max_steps'] * config['total_batch_tokens']
    print(f'{n_params / 1e6:,.0f} million parameters, {n_tokens / 1e9:.2f} billion tokens in {config["max_steps"]:,} steps, '
          f'{tokens_per_s:,.0f} tokens/s per GPU; weights, gradients and moments take '
          f'{n_params * BYTES_PER_PARAMETER / 1e9:.1f} GB on each')
    for line in plan_table(config, n_params, tokens_per_s):
        print('| ' + ' | '.join(line) + ' |')


def tokens_per_second(config, model):
    """Tokens per second of one GPU: the measured number, or the one that follows from peak and MFU."""
    if config['tokens_per_s']:
        return config['tokens_per_s']
    if config['peak_tflops'] and config['mfu']:
        return config['peak_tflops'] * 1e12 * config['mfu'] / model.flops_per_token()
    raise BadInput('how fast is a GPU? give --tokens_per_s, which `python -m bench train --preset=gpt2 --contenders=ours` '
                   'measures, or --peak_tflops and --mfu')


def plan_table(config, n_params, tokens_per_s):
    """Rows of cells as text: the heading, a line for Markdown, and a row for each number of GPUs."""
    priced = config['price'] is not None
    rows = [['GPUs', 'sequences per GPU', 'ms per step', 'gradient exchange', 'hours', 'hours if hidden'],
            ['---:'] * 6]
    if priced:
        rows[0].append('cost')
        rows[1].append('---:')
    for n in parse_counts(config['n_gpus']):
        sequences = config['total_batch_tokens'] / config['block_size'] / n
        if sequences != int(sequences):
            rows.append([str(n), 'does not divide', *['-'] * (len(rows[0]) - 2)])
            continue
        compute_s, exchange_s = step_seconds(n, config, n_params, tokens_per_s)
        slow = (compute_s + exchange_s) * config['max_steps'] / 3600
        fast = max(compute_s, exchange_s) * config['max_steps'] / 3600
        rows.append([str(n), f'{int(sequences)}', f'{1000 * (compute_s + exchange_s):,.0f}',
                     f'{exchange_s / (compute_s + exchange_s):.0%}', in_hours(slow), in_hours(fast)])
        if priced:
            rows[-1].append(f'{slow * n * config["price"]:,.0f}')
    return rows


def parse_counts(text):
    try:
        numbers = [int(part) for part in text.split(',')]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise BadInput(f'n_gpus={text} should be numbers of GPUs with commas between')
    return numbers


def step_seconds(n, config, n_params, tokens_per_s):
    """Seconds that a step of n GPUs takes: (computing, exchanging gradients)."""
    links = [config['node_gb_s'] if n > 1 else None, config['net_gb_s'] if n > config['gpus_per_node'] else None]
    slowest = min((link for link in links if link), default=math.inf)
    return config['total_batch_tokens'] / (n * tokens_per_s), 2 * (n - 1) / n * 4 * n_params / (slowest * 1e9)


def in_hours(hours):
    return f'{hours:,.1f}' if hours >= 1 else f'{hours:.2f}'


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
