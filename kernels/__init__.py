"""Fused GPU kernels in Triton, each beside the plain PyTorch that it is tested against.

    from kernels import unavailable
    from kernels.layer_norm import layer_norm, add_layer_norm
    from kernels.softmax import causal_softmax
    from kernels.cross_entropy import cross_entropy, linear_cross_entropy, linear_cross_entropy_torch

What these have in common: they move bytes and compute little, so their speed is memory bandwidth divided by
bytes moved, and fusing pays by the bytes that are no longer moved. All sums are in float32 whatever the inputs
are. Sums over rows are made in a fixed order, without atomics, and block sizes follow from the width alone
instead of being tuned at run time: a run repeats bit for bit on the same machine.

Every kernel is a `torch.library` custom op with its shapes and its gradient registered, so torch.compile traces
through without a graph break. The modules import where Triton is missing; `unavailable` says why a kernel cannot
run. With TRITON_INTERPRET=1 set before the first import the kernels run on the CPU, slowly, for tests.
"""
import contextlib
import types

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # no wheels for macOS; the plain PyTorch paths need none
    triton, tl = None, types.SimpleNamespace(constexpr=None)

INTERPRETED = triton is not None and triton.knobs.runtime.interpret
MIN_CAPABILITY = (8, 0)  # the first NVIDIA generation with bfloat16


def unavailable(device):
    """Why Triton kernels cannot run on `device` (a torch.device or its name), in one line; None where they can."""
    device = torch.device(device)
    if triton is None:
        return 'the Triton kernels need triton, which is not installed (pip install triton; Linux only)'
    if INTERPRETED:
        return None
    if device.type != 'cuda':
        return f'the Triton kernels need a CUDA GPU, not {device.type} (TRITON_INTERPRET=1 runs them slowly on the CPU)'
    if not torch.cuda.is_available():
        return 'the Triton kernels need a CUDA GPU, and torch sees none'
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < MIN_CAPABILITY:
        return (f'the Triton kernels need compute capability {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} or newer; '
                f'{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}')
    return None


def jit(kernel):
    """triton.jit, or nothing where Triton is missing, so that the modules still import."""
    return kernel if triton is None else triton.jit(kernel)


def power_of_two(n):
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def on_device(tensor):
    """A context in which kernels are launched on the tensor's GPU and not on the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def resident_programs(tensor, per_processor):
    """How many programs of a kernel that loops over its work to start: `per_processor` for each multiprocessor."""
    processors = torch.cuda.get_device_properties(tensor.device).multi_processor_count if tensor.is_cuda else 1
    return processors * per_processor


def autocast_dtype(tensor):
    """The type that autocast gives matrix products on the tensor's device, or None where autocast is off."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
