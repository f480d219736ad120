"""The part train: a training step, from the batch to the updated weights. A contender's function returns the loss."""
import contextlib
import functools
import types
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

import kernels
from bench.contenders import SHAPE, compare_contenders, complete, describe_model, nanogpt_model, our_model, transformers_model
from runtime import hardware
from runtime.errors import BadInput
from runtime.gpu_peak import makers_peak_flops


def measure_training(config):
    """Yields (title, rows)."""
    config = complete(config)
    device = hardware.pick_device(config['device'])
    makers_flops = makers_peak_flops(torch.cuda.get_device_name(device)) if device.type == 'cuda' else None
    with torch.device('meta'):
        flops_per_token = our_model(config, 'meta').flops_per_token()
    title = (f'Training step (forward, backward, clip, AdamW): {describe_model(config)}, batch {config["batch_size"]} x '
             f'{config["block_size"]} tokens unless said, dropout {config["dropout"]}; '
             f'{flops_per_token / 1e9:.3f} GFLOP a token'
             + (f'; MFU is of the {makers_flops / 1e12:,.0f} TFLOP/s that the maker names' if makers_flops else ''))
    contenders = list_contenders(config)
    for rows, turns in compare_contenders(contenders, config, lambda config: config['batch_size'] * config['block_size']):
        yield title, [with_mfu(row, turns[row['contender']], flops_per_token, makers_flops) for row in rows]


def with_mfu(row, turns, flops_per_token, makers_flops):
    """The row with the share of the maker's rate and of that of a product measured in the same process, and its loss."""
    what = row.pop('what it is')
    flops, product = row['tokens/s'] and row['tokens/s'] * flops_per_token, turns and median(turn['product'] for turn in turns)
    return row | {'MFU': f'{flops / makers_flops:.0%}' if flops and makers_flops else None,
                  'product GFLOP/s': product and product / 1e9, 'of product': f'{flops / product:.0%}' if flops else None,
                  'loss of step 3': turns[0]['returned'] if flops else None, 'what it is': what}


def list_contenders(config):
    """{name: (what it is, setup[, changes])}. What others use stands first, as the first is the baseline."""
    def ours(**options):
        return functools.partial(setup_ours, **options)

    quarter = {'batch_size': max(1, config['batch_size'] // 4)}
    said = f'at a batch of {quarter["batch_size"]}, since all T x T scores stay in memory'
    explicit = 'train.py --attention=explicit --kernels='
    on_gpu = hardware.pick_device(config['device']).type == 'cuda'
    ours_on_gpu = {
        'ours_eager': ('train.py --compile=False', ours(compile=False)),
        'ours_torch': ('train.py --kernels=torch', ours(kernels='torch')),
        'ours_triton': ('train.py --kernels=triton', ours(kernels='triton')),
        'explicit_triton': (f'{explicit}triton, {said}', ours(attention='explicit', kernels='triton'), quarter),
    }
    return {
        'nanogpt': ('nanoGPT as its train.py runs: autocast and compiled on a GPU, neither on a CPU', setup_nanogpt),
        **({} if on_gpu else {
            'nanogpt_compiled': ('the same with torch.compile', functools.partial(setup_nanogpt, compiled=True)),
            'nanogpt_autocast': ('its model with autocast, which its train.py has on GPUs alone',
                                 functools.partial(setup_nanogpt, dtype='auto')),
            'nanogpt_both': ('with both', functools.partial(setup_nanogpt, dtype='auto', compiled=True))}),
        'eager': ('plain PyTorch: SDPA, whole logits, autocast', setup_plain),
        'compile': ('the same with torch.compile', functools.partial(setup_plain, compiled=True)),
        'transformers': ('GPT2LMHeadModel, SDPA, autocast', setup_transformers),
        'explicit_torch': (f'{explicit}torch, {said}', ours(attention='explicit', kernels='torch'), quarter),
        **(ours_on_gpu if on_gpu else {'ours_float32': ('train.py --dtype=float32', ours(dtype='float32'))}),
        'ours': ("train.py's own step and defaults, its allocator setting included", setup_ours),
    }


def random_batch(config, device):
    """Token ids and targets, (B, T) each."""
    return [torch.randint(config['vocab_size'], (config['batch_size'], config['block_size']), device=device) for _ in range(2)]


class Run(NamedTuple):
    """What train.py's main has ready when its loop begins."""
    process: Any
    raw_model: torch.nn.Module
    model: torch.nn.Module  # compiled
    step: Callable  # makes a train_step, and returns its loss


def setup_ours(config, device, **options):
    return build_run(config, device, **options).step


def build_run(config, device, **options) -> Run:
    """A run of train.py on a batch that stays the same, with AdamW as all others have it. options: keys of its config."""
    import train
    from configurator import configure
    from optim import Optimizers
    from runtime.batches import DeviceBatches
    from runtime.process import Process
    data = SameBatch(random_batch(config, device))
    config = {**configure(train.DEFAULTS, []), **{key: config[key] for key in (*SHAPE, 'dropout', 'device') if key in config},
              'micro_batch': data.batch_size, 'total_batch_tokens': data.x.numel(), 'warmup_steps': 0, **options}
    process = Process(config)
    compiled = hardware.may_compile(config['compile'], process.device, process.print0)
    raw_model = our_model(config, device, kernels=kernels.choose(config['kernels'], process.device, compiled))
    model = train.wrap(raw_model, process, compiled)
    optimizers, batches = Optimizers(raw_model, config, process), DeviceBatches(data, process.device)
    stop = types.SimpleNamespace(check=lambda: None, sum_and_notice=process.sum)

    def step():
        return train.train_step(model, raw_model, optimizers, batches, config, process, stop)['loss']
    return Run(process, raw_model, model, step)


class SameBatch:
    """Like a shards.BatchLoader, but with one batch again and again."""

    def __init__(self, batch):
        self.x, self.y = (ids.cpu() for ids in batch)
        self.batch_size, self.sequence_index, self.rank = len(self.x), 0, 0

    def next(self):
        return self.x, self.y

    def seek(self, sequence_index):
        self.sequence_index = sequence_index

    def count_targets(self, n_sequences):
        return n_sequences * self.x.size(1)


def setup_plain(config, device, compiled=False):
    """The model in PyTorch's own operations: SDPA, all logits at once, F.cross_entropy, fused AdamW."""
    if compiled and hardware.why_no_compile(device):
        raise BadInput(hardware.why_no_compile(device))
    x, y = random_batch(config, device)
    model = our_model(config, device, attention='sdpa')
    forward = torch.compile(model) if compiled else model
    return plain_step(model, fused_adamw(model), device, lambda: F.cross_entropy(forward(x).flatten(0, 1).float(), y.flatten()))


def setup_transformers(config, device):
    x, _ = random_batch(config, device)
    model = transformers_model(config, device).train()
    return plain_step(model, fused_adamw(model), device, lambda: model(x, labels=x, use_cache=False).loss)


def setup_nanogpt(config, device, dtype=None, compiled=None):
    """Its model and its optimizer, in the order of the steps of its train.py, which by default has autocast and torch.compile
    on GPUs alone. Its vocabulary is padded to a multiple of 64, as it advises."""
    on_gpu = device.type == 'cuda'
    dtype, compiled = dtype or ('auto' if on_gpu else 'float32'), on_gpu if compiled is None else compiled
    if compiled and hardware.why_no_compile(device):
        raise BadInput(hardware.why_no_compile(device))
    torch.set_float32_matmul_precision('high')  # it allows TF32
    x, y = random_batch(config, device)
    model = nanogpt_model(config, device, vocab_size=-(-config['vocab_size'] // 64) * 64)
    with contextlib.redirect_stdout(None):
        optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), device.type)
    forward = torch.compile(model) if compiled else model
    return plain_step(model, optimizer, device, lambda: forward(x, y)[1], dtype)


def fused_adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def plain_step(model, optimizer, device, compute_loss, dtype='auto'):
    """A training step as most scripts write it."""
    dtype = hardware.pick_dtype(dtype, device)

    def step():
        with hardware.autocast(device, dtype):
            loss = compute_loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()
    return step
