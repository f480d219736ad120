"""What the parts train and sample share: the model's shape, and the turn of a contender in a process of its own.

A new contender is a line {name: (what it is, setup)} in its part; a third entry, if there is one, is a dict of what it has
instead of the config's values. setup(config, device) returns the function whose calls are timed; it imports what only this
contender needs, as the memory of its process is measured.
"""
import contextlib
import functools
import importlib.util
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch

from bench.turns import alone, spread, turn_by_turn
from runtime import hardware
from runtime.errors import BadInput

SHAPE = ('n_layer', 'n_head', 'n_embd', 'block_size', 'vocab_size')
PRESETS = {  # the models of config/demo.py and config/train_gpt2.py, with a batch that a CPU does in seconds
    'demo': {'n_layer': 4, 'n_head': 4, 'n_embd': 256, 'block_size': 256, 'vocab_size': 4096, 'batch_size': 16},
    'gpt2': {'n_layer': 12, 'n_head': 12, 'n_embd': 768, 'block_size': 512, 'vocab_size': 50257, 'batch_size': 8},
}
GPT2_ON_A_GPU = {'block_size': 1024, 'batch_size': 64}


def complete(config: dict) -> dict:
    """The config with the preset's values where it has none. Raises BadInput."""
    import pretrained
    on_gpu = hardware.pick_device(config['device']).type == 'cuda'
    preset = config['preset'] if config['preset'] != 'auto' else 'gpt2' if on_gpu else 'demo'
    values = PRESETS[preset] | (GPT2_ON_A_GPU if on_gpu and preset == 'gpt2' else {})
    config = config | {key: value for key, value in values.items() if config.get(key) is None}
    pretrained.model_config(config)  # raises BadInput
    if config['batch_size'] < 1:
        raise BadInput(f'batch_size={config["batch_size"]} should be at least 1')
    if config['peer_dir'] and not os.path.isfile(os.path.join(config['peer_dir'], 'model.py')):
        raise BadInput(f'peer_dir={config["peer_dir"]} has no model.py; it should be a checkout of nanoGPT')
    return config


def compare_contenders(contenders: dict[str, tuple], config: dict, count_tokens: Callable[[dict], int]) -> Iterator[tuple]:
    """Yields, after every turn, (rows, {name: what make_turn returned at each turn}) of what --contenders names, or of all.

    One that failed has a row without figures, which says why. count_tokens: of a config, what one call processes.
    Raises BadInput, after the last turn, if all have failed.
    """
    chosen = list(contenders) if config['contenders'] is None else config['contenders'].split(',')
    for name in chosen:
        if name not in contenders:
            raise BadInput(f'--contenders: there is no {name!r} here; there are {", ".join(contenders)}')
    own = {name: config | {key: value for changes in contenders[name][2:] for key, value in changes.items()} for name in chosen}
    measures = {name: functools.partial(alone, make_turn, contenders[name][1], own[name],
                                        without=() if is_ours(name) else ('GOMP_SPINCOUNT',)) for name in chosen}
    for turns, failed in turn_by_turn(measures, config['turns'], warm_up=0):
        rates = {name: count_tokens(own[name]) / median(turn['seconds'] for turn in turns[name])
                 for name in chosen if turns[name] and name not in failed}
        yield [row_of(name, turns[name], rates, chosen[0], contenders[name][0], failed.get(name))
               for name in chosen if name in rates or name in failed], turns
    if len(failed) == len(chosen):
        raise BadInput('none of the contenders could be measured')


def is_ours(name):
    """Whether a contender runs as our scripts do: the threads of all others wait for each other as PyTorch lets them."""
    return name.startswith(('ours', 'explicit'))


def row_of(name, turns, rates, first, what, reason):
    """The row of a contender in the table, with figures unless there is a reason why it failed."""
    measured = name in rates
    return {'contender': name, 'tokens/s': rates.get(name),
            'spread': spread([turn['seconds'] for turn in turns]) if measured else None,
            f'times {first}': rates[name] / rates[first] if measured and first in rates else None,
            'peak GiB': max(turn['peak GiB'] for turn in turns) if measured else None,
            'what it is': what if measured else f'not measured: {reason}'}


def make_turn(setup, config):
    """Median seconds of a call, peak memory of the process, what the third call returned, FLOP/s of a matrix product."""
    device = hardware.pick_device(config['device'])
    torch.manual_seed(0)
    call, returned = setup(config, device), []
    seconds = median(time_calls(lambda: returned.append(call()), device, config['turn_s']))
    return {'seconds': seconds, 'peak GiB': hardware.peak_memory(device) / 2**30, 'returned': returned[2],
            'product': hardware.measure_peak_flops(device, hardware.pick_dtype('auto', device))}


def time_calls(call: Callable, device: torch.device, total_s: float = 0.0, warm_up: int = 1, at_least: int = 2) -> list[float]:
    """Seconds of each call: `at_least` calls, and more until they take `total_s`, after `warm_up` that do not count."""
    seconds = []
    for number in itertools.count():
        hardware.synchronize(device)
        started = time.perf_counter()
        call()
        hardware.synchronize(device)
        if number >= warm_up:
            seconds.append(time.perf_counter() - started)
        if len(seconds) >= at_least and sum(seconds) >= total_s:
            return seconds


def describe_model(config: dict) -> str:
    """Its shape and the number format that train.py and sample.py choose, for a title."""
    dtype = hardware.pick_dtype('auto', hardware.pick_device(config['device']))
    return (f'{config["n_layer"]} layers, {config["n_head"]} heads, width {config["n_embd"]}, '
            f'vocabulary {config["vocab_size"]:,}, {str(dtype).removeprefix("torch.")}')


def our_model(config, device, **changes):
    import pretrained
    from model import GPT
    return GPT(pretrained.model_config({**config, **changes})).to(device)


def made_up_tokenizer(vocab_size):
    """One with so many entries: bytes, pairs of bytes, and <|endoftext|>."""
    from bpe import EOT, Tokenizer
    tokens = {bytes([byte]): byte for byte in range(256)}
    pairs = itertools.islice(itertools.product(range(256), repeat=2), vocab_size - 257)
    tokens |= {bytes(pair): 256 + number for number, pair in enumerate(pairs)}
    return Tokenizer(tokens, {EOT: vocab_size - 1})


def transformers_model(config, device):
    import transformers
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        n_layer=config['n_layer'], n_head=config['n_head'], n_embd=config['n_embd'], n_positions=config['block_size'],
        vocab_size=config['vocab_size'], bos_token_id=0, eos_token_id=None,
        **dict.fromkeys(('resid_pdrop', 'embd_pdrop', 'attn_pdrop'), config['dropout']))).to(device)


def nanogpt_model(config, device, vocab_size):
    """The model of nanoGPT's model.py, imported from the checkout under a name of its own, and without what it prints."""
    if not config['peer_dir']:
        raise BadInput('--peer_dir=PATH names no checkout of nanoGPT')
    spec = importlib.util.spec_from_file_location('nanogpt_model', os.path.join(config['peer_dir'], 'model.py'))
    module = sys.modules['nanogpt_model'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shape = {key: config[key] for key in SHAPE} | {'vocab_size': vocab_size}
    with contextlib.redirect_stdout(None):
        return module.GPT(module.GPTConfig(**shape, dropout=config['dropout'], bias=True)).to(device)
