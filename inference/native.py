"""step.cpp for Python: compiles it once a machine, and lays out a model's weights for it.

    step = Step(model, kind, n_slots, keys, values)   # keys, values: of each layer, (n_slots, nh, block_size, hd) float32
    step(tokens, positions, logits)                   # (n,) int64 twice -> into (n, V) float32

kind: 'float32', 'bfloat16', 'int8' or 'int4', what the linear layers' weights are read as. The compiled library is kept in
~/.cache/scratchgpt, or where XDG_CACHE_HOME says, under a name that follows from the source, the processor and what is in it.
"""
import contextlib
import ctypes
import dataclasses
import functools
import glob
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

import architecture
from inference.quantized import int4_parts, int8_parts, without_common
from model import GPT, GPTConfig
from runtime.errors import BadInput
from runtime.files import atomic_write
from runtime.hardware import cpu_info

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'step.cpp')
FLAGS = ['-std=c++17', '-O3', '-march=native', '-fno-math-errno', '-fno-trapping-math', '-shared', '-fPIC', '-w']
FLAGS_OF_X86 = ['-mprefer-vector-width=512']
KINDS = 'FLOAT32', 'BFLOAT16', 'INT8', 'INT4'  # step.cpp's Kind
STEP = 32  # step.cpp's: rows of weights have a multiple of so many columns
COMPILE_LIMIT_S = 300
TRIED = 12  # tokens on which step.cpp and model.py have to agree


def why_not(model: GPT) -> str | None:
    """None, or the one-line reason why a model's steps cannot be computed by step.cpp here."""
    if isinstance(library(), str):
        return library()
    if not agrees(model.config):
        return 'inference/step.cpp computes GPT-2, and model.py something else'
    if not is_plain(model):
        return 'parts of this model were replaced, or have hooks, of which inference/step.cpp knows nothing'
    return None


@functools.lru_cache(maxsize=16)
def agrees_about(fields: tuple) -> bool:
    """Whether model.py computes GPT-2, and step.cpp what model.py does, for the logits of a narrow model of these fields."""
    config = GPTConfig(**dict(fields))
    tiny = narrow_model(config)
    ids = torch.arange(TRIED)[None] ** 2 % tiny.config.vocab_size  # (1, T)
    shape = (1, tiny.config.n_head, tiny.config.block_size, tiny.config.n_embd // tiny.config.n_head)
    caches = [[torch.zeros(shape, dtype=torch.float32) for _ in range(config.n_layer)] for _ in range(2)]
    step, logits = Step(tiny, 'float32', 1, *caches), torch.empty(TRIED, 1, tiny.config.vocab_size, dtype=torch.float32)
    for t in range(TRIED):
        step(ids[0, t:t + 1], torch.tensor([t]), logits[t])
    theirs = tiny(ids)[0]
    return architecture.is_gpt2(config) and torch.allclose(logits[:, 0], theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


def agrees(config):
    with torch.inference_mode(False), torch.no_grad(), torch.autocast('cpu', enabled=False):
        return agrees_about(fields_of(config))


def narrow_model(config):
    """A model of the same code and depth, with other weights."""
    with torch.random.fork_rng(devices=[]):  # of the initial weights, which are replaced
        model = GPT(dataclasses.replace(config, n_head=2, n_embd=16, vocab_size=11, dropout=0.0, kernels='torch',
                                        block_size=max(TRIED, config.block_size))).eval().float()
    architecture.fill(model)
    return model


def is_plain(model):
    """Whether all parts of a model are those that model.py makes, with the functions that it gives them, and without hooks."""
    return parts_of(model) == made_parts(fields_of(model.config)) and not any(
        module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@functools.lru_cache(maxsize=16)
def made_parts(fields: tuple) -> list:
    with torch.device('meta'):
        return parts_of(GPT(GPTConfig(**dict(fields))))


def parts_of(model):
    """[(name, type, {attribute: function})] of all modules."""
    return [(name, type(module), {key: value for key, value in vars(module).items() if callable(value)})
            for name, module in model.named_modules()]


def fields_of(config):
    """A config as something that a cache can know it by."""
    return tuple(sorted(dataclasses.asdict(config).items()))


# ---- the library --------------------------------------------------------------------------------------

@functools.cache
def library() -> ctypes.CDLL | str:
    """step.cpp, compiled for this processor, or the one-line reason why there is none."""
    try:
        with open(SOURCE, 'rb') as file:
            source = file.read()
    except OSError as error:
        return f'{SOURCE} cannot be read: {error.strerror}'
    flags = [*FLAGS, *(FLAGS_OF_X86 if platform.machine() in ('x86_64', 'AMD64') else [])]
    key = hashlib.sha256(repr((source, flags, processor())).encode()).hexdigest()[:16]
    if kept := load_kept(key):
        return kept
    compilers = [name for name in (os.environ.get('CXX'), 'g++', 'clang++', 'c++') if name and shutil.which(name)]
    if not compilers:
        return 'it needs a C++ compiler (apt install g++)'
    print('compiling inference/step.cpp, once for this machine', file=sys.stderr)
    for compiler in compilers:
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, 'step.so')
                compile_library(compiler, flags, path)
                keep(path, key)
                return load_kept(key) or declare(ctypes.CDLL(path))
        except (OSError, subprocess.SubprocessError) as error:
            reason = f'{compiler} could not compile inference/step.cpp: {str(error).splitlines()[0]}'
    return reason


def processor() -> str:
    """What -march=native may depend on: the same folder may be used by machines of several kinds."""
    return (cpu_info('flags') or cpu_info('Features') or platform.processor()) + platform.machine()


def compile_library(compiler, flags, path):
    """Raises SubprocessError. Without OpenMP, where the compiler has none, there is one thread."""
    for openmp in (['-fopenmp'], []):
        run = subprocess.run([compiler, *flags, *openmp, '-o', path, SOURCE], capture_output=True, text=True, errors='replace',
                             timeout=COMPILE_LIMIT_S)
        if run.returncode == 0:
            return
    raise subprocess.SubprocessError(run.stderr.strip() or f'exit code {run.returncode}')


def cache_folder() -> str | None:
    """The folder of compiled libraries; None where there is no home, or where others could put into it what we would run."""
    base = os.environ.get('XDG_CACHE_HOME', '')
    base = base if os.path.isabs(base) else os.path.expanduser('~/.cache')
    if not os.path.isabs(base) or not hasattr(os, 'getuid'):
        return None
    folder = os.path.join(base, 'scratchgpt')
    with contextlib.suppress(OSError):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        status = os.stat(folder)
        if status.st_uid == os.getuid() and not status.st_mode & 0o022:
            return folder
    return None


def keep(path, key):
    """Copies a library into the cache, under a name that has a hash of it. Where that fails, it is compiled again next time."""
    if folder := cache_folder():
        with open(path, 'rb') as file:
            content = file.read()
        name = f'step_{key}_{hashlib.sha256(content).hexdigest()[:16]}.so'
        with contextlib.suppress(BadInput), atomic_write(os.path.join(folder, name), writer=str(os.getpid())) as copy:
            copy.write(content)


def load_kept(key) -> ctypes.CDLL | None:
    """The library of this key that is in the cache and whole."""
    folder = cache_folder()
    for path in glob.glob(os.path.join(glob.escape(folder), f'step_{key}_*.so')) if folder else ():
        with contextlib.suppress(OSError):
            with open(path, 'rb') as file:
                digest = hashlib.sha256(file.read()).hexdigest()[:16]
            if path.endswith(f'_{digest}.so'):
                return declare(ctypes.CDLL(path))
    return None


def declare(cpp):
    cpp.scratch_size.restype = ctypes.c_int64
    cpp.scratch_size.argtypes = [ctypes.POINTER(Model), ctypes.c_int64]
    cpp.digest_of.restype = ctypes.c_uint64
    cpp.digest_of.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    cpp.step.restype = None
    cpp.step.argtypes = [ctypes.POINTER(Model), ctypes.c_int64, *[ctypes.c_void_p] * 4, ctypes.c_int64]
    return cpp


def digest(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """A number for each tensor on the CPU that follows from all its bits and their order. Only where there is a `library()`."""
    found = []
    for tensor in tensors:
        tensor = tensor.detach().contiguous()
        found.append(library().digest_of(tensor.data_ptr(), tensor.numel() * tensor.element_size()))
    return tuple(found)


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
        self.memory = torch.zeros(self.cpp.scratch_size(self.model, self.n_threads), dtype=torch.float32, device='cpu')

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
