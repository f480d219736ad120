"""Fused GPU kernels in Triton, each beside the plain PyTorch that it is tested against.

    from kernels import unavailable
    from kernels.layer_norm import layer_norm, add_layer_norm
    from kernels.softmax import causal_softmax
    from kernels.cross_entropy import cross_entropy, linear_cross_entropy, linear_cross_entropy_torch
    from kernels.linear import linear_gelu, linear_qkv

These operations move many bytes and compute little: their speed is memory bandwidth divided by bytes moved, and
fusing saves time because fewer bytes are moved. All sums are in float32, whatever the type of the inputs. Sums over
rows are made in a fixed order, without atomics, and block sizes follow from the number of columns instead of being
tuned at run time: what these kernels compute repeats bit for bit on the same machine. Kernels take rows of adjacent
elements; inputs with other strides are copied first.

Every kernel is a `torch.library` custom op with its shapes and its gradient registered, so torch.compile traces
through without a graph break. The modules can be imported where Triton is missing; `unavailable` says why a kernel
cannot run. With TRITON_INTERPRET=1 set before the first import the kernels run on the CPU, slowly, for tests.
"""
import contextlib
import types

import torch
from torch import Tensor

from runtime.errors import BadInput

try:
    import triton
    import triton.language as tl
except ImportError:  # no wheels for macOS; the plain PyTorch paths need none
    triton, tl = None, types.SimpleNamespace(constexpr=None)

INTERPRETED = triton is not None and triton.knobs.runtime.interpret
MIN_CAPABILITY = (8, 0)  # the first NVIDIA generation with bfloat16
MAX_COLS = 8192  # of layer norm and softmax, whose programs hold whole rows in registers
TILE, MAX_WARPS = 1024, 16  # of such a program: the fewest elements that it holds, and the most warps that share them


def unavailable(device: torch.device | str) -> str | None:
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


def choose(wanted: str, device: torch.device, compiled: bool) -> str:
    """What `kernels` of a GPTConfig should be: as wanted, or the fastest exact choice for 'auto'.

    On a GPU 'mixed' if torch.compile is used and 'triton' if not; 'torch' elsewhere. Raises BadInput where the wanted ones
    cannot run.
    """
    reason = unavailable(device)
    if wanted == 'auto':
        return 'torch' if reason or INTERPRETED else 'mixed' if compiled else 'triton'
    if wanted != 'torch' and reason:
        raise BadInput(f'kernels={wanted}: {reason}; --kernels=torch runs everywhere')
    return wanted


def jit(kernel):
    """triton.jit; where Triton is missing it changes nothing, so that the modules can still be imported."""
    return kernel if triton is None else triton.jit(kernel)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least n. Triton has the same, but may be missing."""
    return 1 << max(0, n - 1).bit_length()


def tile_shape(n_cols: int, per_warp: int) -> tuple[int, int, int]:
    """(rows, columns, warps) of the tile that a program holds in registers: one row, or several that make up TILE elements.

    There is a warp for every `per_warp` elements, up to MAX_WARPS.

    Raises ValueError where one row is too wide.
    """
    if n_cols > MAX_COLS:
        raise ValueError(f'the Triton kernels of layer norm and softmax take rows of up to {MAX_COLS:,} columns, '
                         f'not {n_cols:,}; --kernels=torch has no such limit')
    block = next_power_of_2(n_cols)
    tile = max(TILE, block)
    return tile // block, block, min(MAX_WARPS, tile // per_warp)


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager:
    """A context in which kernels are launched on the tensor's GPU, which may not be the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The type that autocast gives matrix products on the tensor's device, or None where autocast is off."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
