"""What this machine can do: device, number format, compiler, threads, and its measured peak.

What is chosen here is what the keys device, dtype and compile mean by auto. Knows nothing about the model.
"""
import contextlib
import ctypes
import math
import os
import platform
import re
import shutil
import subprocess
import time

import torch

from runtime.errors import BadInput, first_line
from runtime.parallel import available_cores
from runtime.words import plural

DRIVER_OF_CUDA = {'11': 450, '12': 525, '13': 580}  # oldest driver for a major version: NVIDIA's "CUDA Compatibility"
MAX_THREADS = 1024
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def pick_device(name: str = 'auto', local_rank: int = 0) -> torch.device:
    """For the key `device`: 'auto' takes CUDA, then MPS, then the CPU. Raises BadInput for what is not there."""
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
        if name == 'cpu' and (reason := why_unused_gpu()):
            raise BadInput(f'{reason}; --device=cpu runs on the CPU')
    n_processes, n_gpus = int(os.environ.get('LOCAL_WORLD_SIZE', 1)), torch.cuda.device_count()
    if name == 'cuda' and n_processes > n_gpus > 0:  # all processes say so, and not the later ones alone
        raise BadInput(f'torch sees {plural(n_gpus, "CUDA device")} here for {plural(n_processes, "process", "processes")}; '
                       f'--nproc_per_node={n_gpus} gives each its own')
    if name == 'cuda':
        name = f'cuda:{local_rank}'
    if not re.fullmatch(r'cpu|mps|cuda:\d{1,9}', name):
        raise BadInput(f'device={name} should be auto, cpu, cuda, cuda:N or mps')
    # torch.device would take cuda:999 for another number, since it keeps 8 bits of it
    if name.startswith('cuda:') and int(name.removeprefix('cuda:')) >= torch.cuda.device_count():
        raise BadInput(f'device={name}, but torch sees {plural(torch.cuda.device_count(), "CUDA device")} here; '
                       f'--device=auto takes the best there is')
    device = torch.device(name)
    if device.type == 'mps' and not torch.backends.mps.is_available():
        raise BadInput('device=mps, but this is no Mac with Metal; --device=auto takes the best there is')
    return device


def why_unused_gpu() -> str | None:
    """Why torch cannot use the NVIDIA GPU that is here, in one line; None if there is none, or if it was hidden on purpose."""
    if os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1') or not shutil.which('nvidia-smi'):
        return None
    query = ['nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader']
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    if not (match := re.match(r'(.+), *([\d.]+)', answer)):
        return None
    gpu, driver = match.groups()
    cuda = torch.version.cuda
    needed = DRIVER_OF_CUDA.get((cuda or '').partition('.')[0], 0)
    if cuda is None:
        reason = 'is built for CPUs alone: install one for CUDA, as pytorch.org says'
    elif int(driver.partition('.')[0]) < needed:
        reason = f'has CUDA {cuda}, which needs driver {needed} or newer: update it, or install a torch for an older CUDA'
    else:
        reason = f'cannot use it: {why_cuda_fails()}'
    return f'nvidia-smi shows {gpu} with driver {driver}, but torch {torch.__version__} {reason}'


def why_cuda_fails():
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return 'it finds no device'


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """For the key `dtype`: 'auto' takes bf16 where matrix units have it, fp16 on older GPUs, else fp32."""
    if name != 'auto':
        return DTYPES[name]
    if device.type == 'cuda':
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return torch.bfloat16 if device.type == 'cpu' and cpu_has_bf16_units() else torch.float32


def cpu_has_bf16_units() -> bool:
    """Whether the CPU multiplies bf16 matrices in hardware (AVX512-bf16 or AMX; known on Linux alone)."""
    return not {'avx512_bf16', 'amx_bf16'}.isdisjoint(cpu_info('flags').split())


def cpu_name() -> str:
    return cpu_info('model name') or platform.processor() or platform.machine()


def cpu_info(field):
    """What Linux says about the first core; '' elsewhere."""
    if not os.path.exists('/proc/cpuinfo'):
        return ''
    with open('/proc/cpuinfo') as file:
        return next((line.partition(':')[2].strip() for line in file if line.startswith(field)), '')


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """The context in which forward passes run; fp32 needs none."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def why_no_compile(device: torch.device) -> str | None:
    """None, or the one-line reason why torch.compile cannot work here."""
    if platform.system() == 'Windows':
        return 'torch.compile needs a Visual C++ environment on Windows'
    if device.type == 'cuda':
        try:
            import triton  # noqa: F401
        except ImportError:
            return 'torch.compile needs triton (pip install triton)'
        return None if torch.cuda.get_device_capability(device) >= (7, 0) else 'torch.compile needs a GPU of 2017 or later'
    if not any(shutil.which(name) for name in ('g++', 'clang++', 'c++')):
        return 'torch.compile needs a C++ compiler (apt install g++)'
    return None


def may_compile(wanted: bool | None, device: torch.device, say) -> bool:
    """What a script's key `compile` means here; None: on a GPU yes, on a CPU no. Where it cannot be, `say` gets a line."""
    wanted = device.type == 'cuda' if wanted is None else wanted
    reason = why_no_compile(device) if wanted else None
    if reason:
        say(f'not compiled: {reason}')
    return wanted and not reason


def set_threads(device, local_world_size, threads=0):
    """Threads of a process on a CPU. 0: its share of this machine's cores; torchrun by itself gives each a single thread."""
    if not 0 <= threads <= MAX_THREADS:
        raise BadInput(f'threads={threads} should be from 1 to {MAX_THREADS}, or 0 for a share of the cores')
    if threads:
        torch.set_num_threads(threads)
    elif device.type == 'cpu' and local_world_size > 1 and os.environ.get('OMP_NUM_THREADS') == '1':
        torch.set_num_threads(max(1, available_cores() // local_world_size))


def keep_freed_memory(device):
    """On Linux, lets the C library keep the memory that a step frees for the next one, instead of giving it back.

    Activations are large and come and go at every step; new pages for them each time would cost a CPU run some percent.
    """
    libc = ctypes.CDLL(None) if device.type == 'cpu' and platform.system() == 'Linux' else None
    if hasattr(libc, 'mallopt'):
        trim_threshold, mmap_max, arena_max = -1, -4, -8  # malloc.h; autograd's threads get the main arena's memory too
        for option, value in ((mmap_max, 0), (trim_threshold, 2 ** 31 - 1), (arena_max, 1)):
            libc.mallopt(option, value)


def describe(device: torch.device) -> str:
    """The device in words, for logs."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{cpu_name()}, {plural(torch.get_num_threads(), "thread")}' if device.type == 'cpu' else device.type


def synchronize(device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()


def measure_peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product, the best of several: what MFU is a share of."""
    n = 8192 if device.type == 'cuda' else 2048 if dtype == torch.bfloat16 else 512
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    best = 0.0
    for _ in range(10):
        synchronize(device)
        started = time.perf_counter()
        a @ b
        synchronize(device)
        best = max(best, 2 * n ** 3 / (time.perf_counter() - started))
    return best


def total_memory(device: torch.device) -> float:
    """Bytes of a GPU's memory, or of main memory; infinity where it is not known."""
    if device.type == 'cuda':
        return torch.cuda.get_device_properties(device).total_memory
    if 'SC_PHYS_PAGES' not in getattr(os, 'sysconf_names', ()):
        return math.inf
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU, or that this process took of main memory."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    if platform.system() == 'Windows':
        return 0
    import resource
    unit = 1 if platform.system() == 'Darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
