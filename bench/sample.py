"""The part sample: generation of one text, token by token, and what the steps of our engine cost.

A contender's function writes config['new_tokens'] tokens behind a prompt of PROMPT tokens.
"""
import copy
import functools
from statistics import median

import torch
from torch.nn import functional as F

from bench.contenders import (
    choose,
    compare_contenders,
    complete,
    describe_model,
    nanogpt_model,
    our_model,
    time_calls,
    transformers_model,
    turns_alone,
)
from bench.turns import alone, spread, take_turns
from runtime import hardware
from runtime.errors import BadInput

PROMPT = 16
SAMPLING = {'temperature': 0.8, 'top_k': 50}


def measure_generation(config):
    """Yields (title, rows) of the contenders, then of the engine's steps."""
    config = complete(config)
    n_tokens = config['new_tokens'] = min(config['new_tokens'], config['block_size'] - PROMPT)
    if n_tokens < 1:
        raise BadInput(f'block_size should be at least {PROMPT + 1}, as the prompt has {PROMPT}, and new_tokens at least 1')
    contenders = choose(list_contenders(), config['contenders'])
    turns = take_turns(turns_alone(contenders, config), config['turns'], warm_up=0)
    rows = compare_contenders(turns, n_tokens)
    for row in rows:
        row['what it is'] = contenders[row['contender']][0]
    yield f'Generating {n_tokens} tokens after {PROMPT}, one sequence, top_k 50: {describe_model(config)}', rows
    yield alone(measure_steps, config)


def list_contenders():
    """{name: (what it is, setup)}. What others use stands first, as the first is the baseline."""
    return {
        'nanogpt': ('nanoGPT as its sample.py runs: autocast on a GPU, float32 on a CPU, no cache', setup_nanogpt),
        'transformers_float32': ('GPT2LMHeadModel.generate with its defaults, its cache',
                                 functools.partial(setup_transformers, dtype='float32')),
        'transformers': ('GPT2LMHeadModel.generate, weights in the format that ours has, its cache', setup_transformers),
        'ours': ('inference/engine.py as sample.py calls it, its cache', setup_ours),
    }


def random_prompt(config, device):
    """(1, PROMPT) token ids."""
    return torch.randint(config['vocab_size'], (1, PROMPT), device=device)


def setup_ours(config, device):
    from inference import engine
    prompt = random_prompt(config, device)
    model = our_model(config, device).to(hardware.pick_dtype('auto', device)).eval()

    def generate():
        engine.generate(model, prompt, config['new_tokens'], **SAMPLING)
    return generate


def setup_transformers(config, device, dtype='auto'):
    prompt = random_prompt(config, device)
    model = transformers_model(config, device).to(hardware.pick_dtype(dtype, device)).eval()

    def generate():
        model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=config['new_tokens'],
                       min_new_tokens=config['new_tokens'], do_sample=True, pad_token_id=0, **SAMPLING)
    return generate


def setup_nanogpt(config, device):
    prompt = random_prompt(config, device)
    model = nanogpt_model(config, device, config['vocab_size']).eval()
    dtype = hardware.pick_dtype('auto' if device.type == 'cuda' else 'float32', device)

    def generate():
        with torch.no_grad(), hardware.autocast(device, dtype):
            model.generate(prompt, config['new_tokens'], **SAMPLING)
    return generate


@torch.no_grad()
def measure_steps(config):
    """(title, rows): what the steps of our engine take, beside the least and the most that a token could.

    products: every weight matrix times one vector with F.linear, and nothing else. recomputed: the whole context for
    the sake of one token, as generation without a cache does it.
    """
    from inference.engine import Engine, Request
    device = hardware.pick_device(config['device'])
    torch.manual_seed(0)
    wide = our_model(config, device).eval()
    model = copy.deepcopy(wide).to(hardware.pick_dtype('auto', device))
    matrices = [p for p in model.transformer.h.parameters() if p.dim() == 2] + [model.transformer.wte.weight]
    vectors = [torch.randn(1, matrix.size(1), device=device, dtype=matrix.dtype) for matrix in matrices]
    block = config['block_size']
    late, n_prompt = block * 15 // 16, min(512, block)
    engines = {n: Engine(model, max_batch=n) for n in (1, 16)}
    prompt = torch.randint(config['vocab_size'], (1, block), device=device)

    def seconds(call, **how_often):
        return median(time_calls(call, device, **how_often))

    def multiply():
        return [F.linear(vector, matrix) for vector, matrix in zip(vectors, matrices)]

    def step_seconds(n, length):
        """Of a step of n sequences that have `length` tokens."""
        sequences = engines[n].add(Request(prompt[0, :length].tolist(), block, **SAMPLING), n)
        engines[n].step()
        result = seconds(engines[n].step, warm_up=0, at_least=max(1, min(16, block - length - 1)))
        for sequence in sequences:
            engines[n].remove(sequence)
        return result

    def forward_seconds(model, length):
        """Until the logits of the last of `length` tokens are there."""
        return seconds(lambda: model.head(model.hidden(prompt[:, :length])[:, -1:]), at_least=3)

    def prefill():
        engines[1].add(Request(prompt[0, :n_prompt].tolist(), 1, **SAMPLING))
        engines[1].step()

    token, batch = f'a token after {PROMPT}', f'16 sequences, a token after {PROMPT}'
    times = take_turns({
        'products of one token': lambda: seconds(multiply, at_least=10),
        token: lambda: step_seconds(1, PROMPT),
        f'a token after {late}': lambda: step_seconds(1, late),
        f'recomputed, {late} tokens': lambda: forward_seconds(model, late),
        f'recomputed, {late} tokens, float32': lambda: forward_seconds(wide, late),
        batch: lambda: step_seconds(16, PROMPT),
        f'16 sequences, a token after {late}': lambda: step_seconds(16, late),
        f'forward pass of {n_prompt} tokens': lambda: forward_seconds(model, n_prompt),
        f'prompt of {n_prompt} tokens and a token': lambda: seconds(prefill, at_least=3),
    }, config['turns'], warm_up=0)
    rows = [{'what': what, 'ms': 1000 * median(samples), 'spread': spread(samples),
             'times a token with the cache': median(samples) / median(times[token])} for what, samples in times.items()]
    speedup = 16 * median(times[token]) / median(times[batch])
    return f'Steps of generation, 16 sequences give {speedup:.1f} times the tokens/s of one: {describe_model(config)}', rows
