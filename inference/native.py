"""step.cpp for Python: compiles it once a machine, and lays out a model's weights for it.

    step = Step(model, kind, n_slots, keys, values)   # keys, values: of each layer, (n_slots, nh, block_size, hd) float32
    step(tokens, positions, logits)                   # (n,) int64 twice -> into (n, V) float32

kind: 'float32', 'bfloat16', 'int8' or 'int4', what the linear layers' weights are read as. The compiled library is kept in
~/.cache/scratchgpt, or where XDG_CACHE_HOME says, under a name that follows from the source, the compiler and the processor.
"""
import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile

import torch
from torch import Tensor
from torch.nn import functional as F

import architecture
from inference.quantized import int4_parts, int8_parts, without_common
from model import GPT
from runtime.files import atomic_write

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'step.cpp')
COMPILERS = 'g++', 'clang++', 'c++'
FLAGS = ['-std=c++17', '-O3', '-march=native', '-fno-math-errno', '-fno-trapping-math', '-shared', '-fPIC', '-w']
FLAGS_OF_X86 = ['-mprefer-vector-width=512']
KINDS = 'FLOAT32', 'BFLOAT16', 'INT8', 'INT4'  # step.cpp's Kind
STEP = 32  # step.cpp's: rows of weights have a multiple of so many columns
COMPILE_LIMIT_S = 300


def why_not(model: GPT) -> str | None:
    """None, or the one-line reason why a model's steps cannot be computed by step.cpp here."""
    if isinstance(library(), str):
        return library()
    if not architecture.is_gpt2(model.config):
        return 'inference/step.cpp computes GPT-2, and model.py something else'
    return None


# ---- the library --------------------------------------------------------------------------------------

@functools.cache
def library() -> ctypes.CDLL | str:
    """step.cpp, compiled for this processor, or the one-line reason why there is none."""
    compiler = next((name for name in COMPILERS if shutil.which(name)), None)
    if compiler is None:
        return 'it needs a C++ compiler (apt install g++)'
    with open(SOURCE, 'rb') as file:
        source = file.read()
    flags = [*FLAGS, *(FLAGS_OF_X86 if platform.machine() in ('x86_64', 'AMD64') else [])]
    version = subprocess.run([compiler, '--version'], capture_output=True, text=True).stdout
    key = hashlib.sha256(repr((source, flags, version, processor())).encode()).hexdigest()[:16]
    cache = os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'scratchgpt')
    kept = os.path.join(cache, f'step_{key}.so')
    try:
        if os.path.exists(kept) and is_ours(cache):
            return declare(ctypes.CDLL(kept))
        print('compiling inference/step.cpp, once for this machine', file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            compiled = os.path.join(folder, 'step.so')
            compile_library(compiler, flags, compiled)
            with contextlib.suppress(OSError):  # where nothing can be kept, it is compiled again the next time
                os.makedirs(cache, mode=0o700, exist_ok=True)
                with open(compiled, 'rb') as file, atomic_write(kept) as copy:
                    shutil.copyfileobj(file, copy)
            return declare(ctypes.CDLL(compiled))
    except (OSError, subprocess.SubprocessError) as error:
        return f'{compiler} could not compile inference/step.cpp: {str(error).splitlines()[0]}'


def is_ours(folder):
    """Whether nobody else can put into a folder what this process would then run."""
    status = os.stat(folder)
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def processor() -> str:
    """What -march=native may depend on: the same folder may be used by machines of several kinds."""
    if not os.path.exists('/proc/cpuinfo'):
        return platform.processor()
    with open('/proc/cpuinfo') as file:
        return next((line for line in file if line.startswith(('flags', 'Features'))), '') + platform.machine()


def compile_library(compiler, flags, path):
    """Raises SubprocessError. Without OpenMP, where the compiler has none, there is one thread."""
    for openmp in (['-fopenmp'], []):
        run = subprocess.run([compiler, *flags, *openmp, '-o', path, SOURCE], capture_output=True, text=True,
                             timeout=COMPILE_LIMIT_S)
        if run.returncode == 0:
            return
    raise subprocess.SubprocessError(run.stderr.strip() or f'exit code {run.returncode}')


def declare(cpp):
    cpp.scratch_size.restype = ctypes.c_int64
    cpp.scratch_size.argtypes = [ctypes.POINTER(Model), ctypes.c_int64]
    cpp.step.restype = None
    cpp.step.argtypes = [ctypes.POINTER(Model), ctypes.c_int64, *[ctypes.c_void_p] * 4, ctypes.c_int64]
    return cpp


# ---- the structures of step.cpp -----------------------------------------------------------------------

def structure(name, **fields):
    return type(name, (ctypes.Structure,), {'_fields_': list(fields.items())})


INTEGER, POINTER = ctypes.c_int64, ctypes.c_void_p
Product = structure('Product', weight=POINTER, scales=POINTER, bias=POINTER, N=INTEGER, K=INTEGER)
Norm = structure('Norm', weight=POINTER, bias=POINTER)
Layer = structure('Layer', ln_1=Norm, ln_2=Norm, qkv=Product, proj=Product, fc=Product, fc_proj=Product, keys=POINTER,
                  values=POINTER)
Model = structure('Model', n_layer=INTEGER, n_head=INTEGER, C=INTEGER, block_size=INTEGER, n_slots=INTEGER, kind=INTEGER,
                  embedding_kind=INTEGER, wte=POINTER, wpe=POINTER, layers=POINTER, ln_f=Norm, head=Product, common=POINTER)


class Step:

    def __init__(self, model: GPT, kind: str, n_slots: int, keys: list[Tensor], values: list[Tensor]):
        """Takes the weights as they are now. Only where `why_not` has no reason."""
        self.cpp, self.kept = library(), []  # kept: what C++ has pointers to
        config, transformer = model.config, model.transformer
        embedding = torch.bfloat16 if transformer.wte.weight.dtype == torch.bfloat16 else torch.float32
        head = transformer.wte.weight.detach()[:config.vocab_size]
        common = None
        if kind in ('int8', 'int4'):
            head, common = without_common(head)
        layers = (Layer * config.n_layer)(*(
            Layer(self.norm(block.ln_1), self.norm(block.ln_2),
                  *(self.product(kind, linear.weight, linear.bias) for linear in
                    (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)),
                  self.keep(key), self.keep(value))
            for block, key, value in zip(transformer.h, keys, values)))
        self.model = Model(config.n_layer, config.n_head, config.n_embd, config.block_size, n_slots,
                           KINDS.index(kind.upper()), embedding == torch.bfloat16,
                           self.keep(transformer.wte.weight.detach().to(embedding)),
                           self.keep(transformer.wpe.weight.detach().to(embedding)), ctypes.addressof(layers),
                           self.norm(transformer.ln_f), self.product(kind, head, None),
                           None if common is None else self.keep(padded(common.float())))
        self.kept.append(layers)
        self.n_threads = torch.get_num_threads()  # or fewer, from step to step
        self.memory = torch.zeros(self.cpp.scratch_size(self.model, self.n_threads))

    def __call__(self, tokens: Tensor, positions: Tensor, logits: Tensor):
        """(n,), (n,) int64 -> the next logits, into (n, V) float32; keys and values of slots 0 to n - 1 get theirs."""
        addresses = [tensor.data_ptr() for tensor in (tokens, positions, logits, self.memory)]
        self.cpp.step(self.model, len(tokens), *addresses, self.n_threads)

    def keep(self, tensor: Tensor) -> int:
        """The address of a tensor's numbers, which stay there as long as this object."""
        tensor = tensor.detach().contiguous()
        self.kept.append(tensor)
        return tensor.data_ptr()

    def norm(self, norm):
        bias = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
        return Norm(self.keep(padded(norm.weight.float())), self.keep(padded(bias.float())))

    def product(self, kind, weight, bias):
        weight, scales = padded(weight.detach()), None
        if kind in ('float32', 'bfloat16'):
            numbers = weight.to(getattr(torch, kind))
        elif kind == 'int8':
            numbers, scales = int8_parts(weight)
        else:
            numbers, scales, offsets = int4_parts(weight)
            halves = numbers.view(len(numbers), -1, 2, 16)
            numbers = halves[:, :, 0] | halves[:, :, 1] << 4
            scales = torch.stack([scales, offsets], dim=-1)
        return Product(self.keep(numbers), None if scales is None else self.keep(scales),
                       None if bias is None else self.keep(bias.float()), *weight.shape)


def padded(tensor: Tensor) -> Tensor:
    """With zeros behind its last columns, up to a multiple of STEP."""
    return F.pad(tensor, (0, -tensor.size(-1) % STEP))
