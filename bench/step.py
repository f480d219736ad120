"""The part step: what a training step of GPT-2 124M on an H100 has to do, computed from the code that would run there.

Needs no GPU and measures no time. The bytes are Inductor's own count for the kernels that it writes for an H100 (see
bench/fake_gpu.py) and what is said below for our own; the operations are those of the matrix products. Divided by the
rates below they make milliseconds: a lower bound, if nothing runs slower than these rates, and good for comparing. A
second table counts what torch.compile traces: graphs, breaks, and graphs made again.
"""
import collections
import functools

import torch

from bench.contenders import nanogpt_model, our_model
from bench.train import SameBatch
from bench.turns import alone
from model import GPT

B, T = 64, 1024
SHAPE = {'n_layer': 12, 'n_head': 12, 'n_embd': 768, 'block_size': T, 'vocab_size': 50257}
PADDED = 50304
SMALL = {'n_layer': 2, 'n_head': 2, 'n_embd': 32, 'block_size': 64, 'vocab_size': 300, 'micro_batch': 4,
         'total_batch_tokens': 512}  # the model whose graphs are counted
PEAK = 989e12  # FLOP/s of an H100 SXM in bf16, without sparsity: NVIDIA's data sheet
# What is assumed to be reached of an H100: cuBLAS's products in blocks and head, attention forward and backward, memory.
PRODUCT, HEAD, ATTENTION, ATTENTION_BACKWARD = 620e12, 640e12, 250e12, 240e12
BANDWIDTH = 2.8e12
# Bytes moved for each logit by the loss, besides the products. Ours reads a row twice, the second time mostly from the
# cache, and writes it. Without Triton: cast 2 + 4, maximum 4, softmax 4 + 4, its maximum 4, cast back 4 + 2.
FUSED_LOSS, EAGER_LOSS = 5.5, 28
CHUNKS = {'fused': 4, 'eager': 4}  # of logits in a step, each with a pass over the weight's gradient, (V, C) float32
ADAMW, CLIP = 28, 12  # bytes a parameter: four float32 read and three written; norm 4, scaling 4 + 4
PARTS = {  # {part: aten operators of which one is in a kernel that Inductor wrote for it}, the first that fits
    'loss': ('amax', 'log', 'gather', 'scatter'),
    'embedding': ('embedding', '_unsafe_masked_index_put_accumulate', 'slice_scatter'),
    'gelu': ('tanh', 'erf', 'gelu', 'gelu_backward'),
    'joining q, k, v': ('cat', 'stack', 'join_heads'),
    'norms and residuals': ('rsqrt', 'var_mean', 'div', 'native_layer_norm', 'native_layer_norm_backward', 'layer_norm',
                            'layer_norm_backward'),
    'bias gradients': ('sum',),
}


def measure_step(config):
    """Yields (title, rows): the parts of our default step, the steps beside each other, what is compiled."""
    contenders = {
        'ours': functools.partial(our_kernels, 'mixed'),
        'ours, kernels=triton': functools.partial(our_kernels, 'triton'),
        'ours, kernels=torch': functools.partial(our_kernels, 'torch'),
    }
    if config['peer_dir']:
        contenders['nanogpt'] = functools.partial(nanogpt_kernels, config['peer_dir'])
    parts = {name: alone(compute) for name, compute in contenders.items()}
    title = f'computed for an H100: 124M, {B} x {T} tokens, bf16'
    yield f'Parts of a training step, {title}', [
        {'part': part, 'kernels': kernels, 'GB': n_bytes / 1e9, 'ms': 1000 * seconds}
        for part, (kernels, n_bytes, seconds) in parts['ours'].items()]
    yield f'A training step, {title}', [summarize(name, steps) for name, steps in parts.items()]
    yield alone(count_graphs)


def summarize(name, parts):
    kernels, n_bytes, seconds = (sum(values) for values in zip(*parts.values()))
    with torch.device('meta'):
        flops = our_model(SHAPE, 'meta').flops_per_token() * B * T
    return {'step of': name, 'kernels': kernels, 'GB': n_bytes / 1e9, 'ms': 1000 * seconds, 'tokens/s': B * T / seconds,
            'of 989 TFLOP/s': f'{flops / seconds / PEAK:.0%}'}


def our_kernels(kernels):
    """{part: (kernels, bytes, seconds)} of our step."""
    def lower_ours(n_layer, batch):
        model = our_model({**SHAPE, 'n_layer': n_layer}, 'cpu', attention='sdpa', kernels=kernels)
        return lower_batch(model, batch, lambda model, x, y: model(x, y))

    parts = add_up(lower_ours(SHAPE['n_layer'], B))
    how, per_logit = ('eager', EAGER_LOSS) if kernels == 'torch' else ('fused', FUSED_LOSS)
    n_bytes = per_logit * B * T * PADDED + CHUNKS[how] * 2 * 4 * PADDED * SHAPE['n_embd']
    parts['loss'] = (CHUNKS[how] * (4 if how == 'fused' else 14), n_bytes, n_bytes / BANDWIDTH)
    return parts


def nanogpt_kernels(peer_dir):
    """The same of nanoGPT's, compiled as its train.py does."""
    def lower_nanogpt(n_layer, batch):
        model = nanogpt_model({**SHAPE, 'n_layer': n_layer, 'peer_dir': peer_dir}, 'cpu', PADDED)
        return lower_batch(model, batch, lambda model, x, y: model(x, y)[1])

    parts = add_up(lower_nanogpt(SHAPE['n_layer'], B))
    # Inductor counts at most a billion elements for a fused kernel, and there are more logits: count those of fewer rows.
    kernels, n_bytes, _ = add_up(lower_nanogpt(1, B // 16))['loss']
    parts['loss'] = (kernels, 16 * n_bytes, 16 * n_bytes / BANDWIDTH)
    return parts


def lower_batch(model, batch, compute_loss):
    from bench.fake_gpu import lower  # changes torch for this process
    x = torch.empty(batch, T, dtype=torch.int64, device='meta')
    return lower(model, x, x, compute_loss)


def add_up(kernels):
    """{part: (kernels, bytes, seconds)} of a step with its matrix products, attention and optimizer."""
    with torch.device('meta'):
        model = our_model(SHAPE, 'meta')
    n_params = sum(parameter.numel() for parameter in model.parameters())
    counts, n_bytes = collections.Counter(), collections.Counter()
    for kernel in kernels:
        part = part_of(kernel)
        counts[part] += 1
        n_bytes[part] += kernel.bytes
    seconds = {part: n_bytes[part] / BANDWIDTH for part in n_bytes} | product_seconds()
    for part, per_parameter in (('AdamW', ADAMW), ('clipping', CLIP)):
        counts[part], n_bytes[part] = 1, per_parameter * n_params
        seconds[part] = n_bytes[part] / BANDWIDTH
    return {part: (counts[part], n_bytes[part], seconds[part]) for part in sorted(seconds, key=seconds.get, reverse=True)}


def product_seconds():
    """Seconds of the matrix products, and of attention by the half of its products that the mask leaves."""
    width, layers = SHAPE['n_embd'], SHAPE['n_layer']
    attention = 2 * B * T * T * width * layers  # two products forward, half of each
    return {'products': 6 * 12 * layers * width ** 2 * B * T / PRODUCT + 6 * PADDED * width * B * T / HEAD,
            'attention': attention / ATTENTION + 2.5 * attention / ATTENTION_BACKWARD}


def part_of(kernel):
    if 'mm' in kernel.name.rpartition('.')[2]:
        return 'products'
    if 'attention' in kernel.name:
        return 'attention'
    if 'linear_cross_entropy' in kernel.name:
        return 'loss'
    names = {op.removeprefix('aten.').removeprefix('scratchgpt.').split('.')[0] for op in kernel.ops}
    return next((part for part, of_part in PARTS.items() if names.intersection(of_part)), 'casts and copies')


def count_graphs():
    """(title, rows): graphs that torch.compile makes of train.py's own functions, as they follow each other in a run."""
    from torch._dynamo.utils import counters

    import pretrained
    import train
    from configurator import configure
    from inference.engine import generate
    from optim import Optimizers
    from runtime.batches import DeviceBatches
    from runtime.process import Process
    from runtime.stop import StopSignals
    config = configure(train.DEFAULTS, ['--device=cpu', '--compile=True']) | SMALL
    process = Process(config)
    raw_model = GPT(pretrained.model_config(config)).to(process.device)
    model, optimizers = train.wrap(raw_model, config, process), Optimizers(raw_model, config, process)
    data = SameBatch(torch.randint(config['vocab_size'], (2, config['micro_batch'], config['block_size'])))
    stop = StopSignals(process)

    def train_steps():
        for _ in range(3):
            train.train_step(model, raw_model, optimizers, DeviceBatches(data, process.device), config, process, stop)

    def validate():
        model.eval()
        with torch.no_grad(), process.autocast():
            for _ in range(2):
                model(*data.next())
        model.train()

    def write_sample():
        with process.autocast():
            generate(raw_model, torch.zeros(1, 1, dtype=torch.int64), 8)

    rows = []
    for name, call in (('3 training steps', train_steps), ('validation', validate), ('a sample', write_sample),
                       ('3 training steps', train_steps), ('validation', validate)):
        before = counters['stats']['unique_graphs']
        call()
        rows.append({'in turn': name, 'new graphs': counters['stats']['unique_graphs'] - before,
                     'graph breaks so far': sum(counters['graph_break'].values())})
    return 'What torch.compile makes of a small model on this machine, in a run', rows
