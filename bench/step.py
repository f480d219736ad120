"""The part step: what a training step of GPT-2 124M on an H100 has to do, computed from the code that would run there.

Needs no GPU and measures no time. The bytes are Inductor's own count for the kernels that it writes for an H100 (see
bench/fake_gpu.py) and what is said below for our own; the operations are those of the matrix products. Divided by the
rates below they make milliseconds: a lower bound, if nothing runs slower than these rates, and good for comparing. The
last table counts what torch.compile traces: graphs, breaks, and graphs made again.
"""
import collections
import functools
import math

import torch

from bench.contenders import GPT2_ON_A_GPU, PRESETS, nanogpt_model, our_model
from bench.train import build_run
from bench.turns import alone
from kernels.cross_entropy import chunk_rows
from model import GPTConfig
from runtime.gpu_peak import makers_peak_flops

SHAPE = PRESETS['gpt2'] | GPT2_ON_A_GPU
B, T = SHAPE['batch_size'], SHAPE['block_size']
PADDED = GPTConfig(vocab_size=SHAPE['vocab_size']).padded_vocab_size
SMALL = {'n_layer': 2, 'n_head': 2, 'n_embd': 32, 'block_size': 64, 'vocab_size': 300, 'batch_size': 4,
         'device': 'cpu'}  # the model whose graphs are counted
PEAK = makers_peak_flops('H100')
# What is assumed to be reached of an H100: cuBLAS's products in blocks and head, attention forward and backward, memory.
PRODUCT, HEAD, ATTENTION, ATTENTION_BACKWARD = 620e12, 640e12, 250e12, 240e12
BANDWIDTH = 2.8e12
# Bytes moved for each logit by the loss, besides the products. Ours reads a row twice, the second time mostly from the
# cache, and writes it. Without Triton: cast 2 + 4, maximum 4, softmax 4 + 4, its maximum 4, cast back 4 + 2.
FUSED_LOSS, EAGER_LOSS = 5.5, 28
N_CHUNKS = math.ceil(B * T / chunk_rows(PADDED, torch.device('cuda')))  # of logits, each with a pass over the weight's gradient
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
    model = our_model(SHAPE, 'cpu', attention='sdpa', kernels=kernels)
    parts = add_up(lower_batch(model, B, lambda model, x, y: model(x, y)))
    per_logit, launches_a_chunk = (EAGER_LOSS, 14) if kernels == 'torch' else (FUSED_LOSS, 4)
    n_bytes = per_logit * B * T * PADDED + N_CHUNKS * 2 * 4 * PADDED * SHAPE['n_embd']
    parts['loss'] = (N_CHUNKS * launches_a_chunk, n_bytes, n_bytes / BANDWIDTH)
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

    from inference.engine import generate
    torch.compile = functools.partial(torch.compile, backend='eager')  # what becomes of a graph does not matter here
    total = 2 * SMALL['batch_size'] * SMALL['block_size']  # two micro-batches
    run = build_run(SMALL, torch.device('cpu'), compile=True, total_batch_tokens=total)

    def train_steps():
        for _ in range(3):
            run.step()

    def validate():
        idx = torch.randint(SMALL['vocab_size'], (SMALL['batch_size'], SMALL['block_size']))
        run.model.eval()
        with torch.no_grad(), run.process.autocast():
            for _ in range(2):
                run.model(idx, idx)
        run.model.train()

    def write_sample():
        with run.process.autocast():
            generate(run.raw_model, torch.zeros(1, 1, dtype=torch.int64), 8)

    rows = []
    for name, call in (('3 training steps', train_steps), ('validation', validate), ('a sample', write_sample),
                       ('3 training steps', train_steps), ('validation', validate)):
        before = counters['stats']['unique_graphs']
        call()
        rows.append({'in turn': name, 'new graphs': counters['stats']['unique_graphs'] - before,
                     'graph breaks so far': sum(counters['graph_break'].values())})
    return 'What torch.compile makes of a small model on this machine, in a run', rows
