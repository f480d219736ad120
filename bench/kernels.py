"""The part kernels: norms, attention, softmax and loss one by one, forward and backward, against PyTorch's and Liger's.

On a GPU the Triton kernels, on a CPU the plain PyTorch that takes their place there. All run under one setting of the
allocator, which is not what is compared here.
"""
import functools
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from torch.nn import functional as F

import kernels
from bench.contenders import time_calls
from bench.turns import spread, turn_by_turn
from kernels import attention, cross_entropy, layer_norm, softmax
from runtime import hardware
from runtime.errors import BadInput, first_line

CALLS_ON_A_CPU = 5  # in a turn
VOCAB, PADDED = 50257, 50304  # GPT-2's, and the rows that its embedding has in memory


class Case(NamedTuple):
    name: str
    limit: str  # 'copy' where memory is the limit, 'product' where arithmetic is
    amount: int  # bytes, each input read once and each result written once; or floating-point operations
    inputs: tuple
    functions: dict[str, Callable]  # the first is ours


def measure_kernels(config):
    """Yields (title, rows)."""
    device = hardware.pick_device(config['device'])
    dtype = hardware.pick_dtype('auto', device)
    source = torch.empty(2**30 if device.type == 'cuda' else 2**27, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = hardware.measure_peak_flops(device, dtype)
    hardware.keep_freed_memory(device)
    rows = []
    for case in gpu_cases(dtype) if device.type == 'cuda' else cpu_cases(dtype, config['preset']):
        measures = {by: functools.partial(forward_backward_seconds, function, case.inputs, device)
                    for by, function in case.functions.items()}
        measures['copy'] = functools.partial(seconds_of, lambda: target.copy_(source), device)  # beside each case
        *_, (times, failed) = turn_by_turn(measures, config['turns'])
        rates = {'product': product, 'copy': 2 * source.numel() / median(times['copy'])}  # a copy reads and writes
        rows += [row_of(case, by, times, failed, rates) for by in case.functions]
        yield f'Kernels in {str(dtype).removeprefix("torch.")}; the product reached {product / 1e9:,.0f} GFLOP/s', rows
        torch._dynamo.reset()


def row_of(case, by, times, failed, rates):
    """The row of a function in the table, with figures unless it failed."""
    row = {'forward and backward of': case.name, 'by': by, 'ms': None, 'spread': None, 'times ours': None,
           'of its limit': f'not measured: {failed.get(by)}', 'copy GB/s': rates['copy'] / 1e9}
    if by not in failed:
        s = median(times[by])
        row |= {'ms': 1000 * s, 'spread': spread(times[by]),
                'times ours': None if 'ours' in failed else median(times['ours']) / s,
                'of its limit': f'{case.amount / s / rates[case.limit]:.0%} of {case.limit}'}
    return row


def forward_backward_seconds(function, inputs, device):
    """Of one call of forward and backward with ready-made gradients of the outputs. Raises BadInput where it cannot run."""
    def outputs_of():
        outputs = function(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    try:
        gradients = [torch.ones_like(out) if out.dim() == 0 else torch.randn_like(out) for out in outputs_of()]
        return seconds_of(lambda: torch.autograd.grad(outputs_of(), inputs, gradients), device)
    except RuntimeError as error:  # for want of memory, too
        raise BadInput(first_line(error)) from error


def seconds_of(call, device):
    """Median of one call; on a GPU without the time of launching, and with a cold cache."""
    if device.type != 'cuda':
        return median(time_calls(call, device, at_least=CALLS_ON_A_CPU))
    from triton.testing import do_bench
    return do_bench(call, return_mode='median') / 1000


def random_input(*shape, dtype, device, scale=1.0):
    return (torch.randn(*shape, device=device) * scale).to(dtype).requires_grad_()


def gpu_cases(dtype):
    """Yields the Cases of the Triton kernels at GPT-2's shapes."""
    if kernels.unavailable('cuda'):
        raise BadInput(kernels.unavailable('cuda'))
    liger, size, options = import_liger(), dtype.itemsize, {'dtype': dtype, 'device': 'cuda'}

    def plain_add(residual, x, w, b):
        total = residual + x
        return F.layer_norm(total, w.shape, w, b), total

    for N, C in ((64 * 1024, 768), (32 * 1024, 1600)):
        residual, x, w, b = (random_input(*shape, **options) for shape in ((N, C), (N, C), (C,), (C,)))
        yield Case(f'layer_norm {N}x{C}', 'copy', 5 * size * N * C, (x, w, b), beside(
            layer_norm.layer_norm, lambda x, w, b: F.layer_norm(x, w.shape, w, b),
            liger and (lambda x, w, b: liger.liger_layer_norm(x, w, b, 1e-5))))
        yield Case(f'add_layer_norm {N}x{C}', 'copy', 8 * size * N * C, (residual, x, w, b),
                   beside(layer_norm.add_layer_norm, plain_add))
    scores = random_input(8, 12, 1024, 1024, **options)
    future = torch.ones(1024, 1024, dtype=torch.bool, device='cuda').triu(1)
    yield Case('causal_softmax 8x12x1024x1024', 'copy', int(3.5 * size * scores.numel()), (scores,), beside(
        lambda scores: softmax.causal_softmax(scores, 0.125),
        lambda scores: (scores * 0.125).masked_fill(future, -torch.inf).softmax(-1)))
    qkv = tuple(random_input(8, 12, 1024, 64, **options) for _ in range(3))
    yield Case('explicit attention 8x12x1024x64', 'product', 12 * 8 * 12 * 1024 * 1024 * 64, qkv, beside(
        lambda q, k, v: explicit_attention(q, k, v, softmax.causal_softmax),
        lambda q, k, v: explicit_attention(q, k, v, softmax.causal_softmax_reference)))
    N = 16 * 1024
    logits, targets = random_input(N, PADDED, **options), torch.randint(VOCAB, (N,), device='cuda')
    # Ours and Liger's leave the gradient in the logits; the next call works on those numbers, which costs it the same.
    yield Case(f'cross_entropy {N}x{PADDED}', 'copy', 2 * size * logits.numel(), (logits,), beside(
        lambda logits: cross_entropy.cross_entropy(logits, targets, VOCAB),
        lambda logits: F.cross_entropy(logits[:, :VOCAB].float(), targets),
        liger and (lambda logits: liger.liger_cross_entropy(logits, targets))))
    yield head_case(32 * 1024, 768, VOCAB, PADDED, options, fused=True)


def explicit_attention(q, k, v, softmax):
    """(B, nh, T, hd) each -> (B, nh, T, hd), with all T x T scores in memory, as model.py's attention='explicit' does."""
    return softmax(q @ k.transpose(-2, -1), q.size(-1) ** -0.5) @ v


def beside(ours, plain, peer=None):
    return {'ours': ours, 'torch': plain, 'compile': torch.compile(plain), **({'liger': peer} if peer else {})}


def cpu_cases(dtype, preset):
    """Yields the Cases of what a CPU runs in our training step, at the shapes of both presets unless one is named."""
    options, presets = {'dtype': dtype, 'device': 'cpu'}, ('demo', 'gpt2') if preset == 'auto' else (preset,)
    for name in presets:
        B, nh, T, hd = {'demo': (16, 4, 256, 64), 'gpt2': (8, 12, 512, 64)}[name]
        qkv = tuple(random_input(B, nh, T, hd, **options) for _ in range(3))
        yield Case(f'attention {B}x{nh}x{T}x{hd}', 'product', 6 * B * nh * T * T * hd, qkv,
                   {'ours': attention.blocked_attention,
                    'torch': lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)})
    for name in presets:
        shape = {'demo': (4096, 256, 4096, 4096), 'gpt2': (2048, 768, VOCAB, PADDED)}[name]
        yield head_case(*shape, options, fused=False)


def head_case(N, C, vocab_size, V, options, fused):
    """The Case of the output head with its loss: (N, C) hidden states and (V, C) weights, whose first vocab_size rows count."""
    x, w = random_input(N, C, **options), random_input(V, C, scale=0.02, **options)
    targets = torch.randint(vocab_size, (N,), device=options['device'])
    ours, in_chunks = (functools.partial(function, targets=targets, vocab_size=vocab_size) for function in
                       (cross_entropy.linear_cross_entropy, cross_entropy.linear_cross_entropy_torch))

    def plain(x, w):
        return F.cross_entropy(F.linear(x, w)[:, :vocab_size].float(), targets)

    functions, liger = {'ours': in_chunks, 'torch': plain}, import_liger()
    if fused:
        functions = beside(ours, plain, liger and (lambda x, w: liger.liger_fused_linear_cross_entropy(x, w, targets)))
        functions['ours without triton'] = in_chunks
    if hasattr(torch.nn, 'LinearCrossEntropyOptions'):  # of torch 2.13; without options it has all logits at once
        functions['F.linear_cross_entropy'] = lambda x, w: F.linear_cross_entropy(  # padding counts there
            x, w, targets, options=torch.nn.LinearCrossEntropyOptions())
    return Case(f'linear_cross_entropy {N}x{C}x{V}', 'product', 6 * N * C * V, (x, w), functions)


def import_liger():
    """Liger's functions, or None where liger-kernel is not installed."""
    try:
        from liger_kernel.transformers import functional
    except ImportError:
        return None
    return functional
