"""What Triton's compiler makes of a kernel for a GPU that need not be there: registers, spills, memory, widths of accesses.

    with recorded_launches(norm_kernels) as launches:      # the kernels of a module are recorded, and do not run
        layer_norm(x, weight, bias)                        # tensors may be on the CPU
    code = compile_kernel(launches[0].kernel, launches[0].arguments, launches[0].num_warps, capability=90)
    code = compile_kernel(kernel, dict(x=torch.empty(64, 768), C=768, eps=1e-5, BLOCK_C=1024), num_warps=1, capability=90)
"""
import collections
import contextlib
import functools
import re
import subprocess
import tempfile
from typing import Any, NamedTuple
from unittest import mock

import torch

from kernels import triton

# Of an SM: warps, programs, bytes of shared memory. CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
SM_LIMITS = {80: (64, 32, 164 * 1024), 89: (48, 24, 100 * 1024), 90: (64, 32, 228 * 1024), 100: (64, 32, 228 * 1024)}
SM_REGISTERS, REGISTER_UNIT = 65536, 256  # a warp gets a multiple of the unit
RESERVED_SHARED = 1024  # bytes of shared memory that CUDA keeps for itself in each program
TYPES = {torch.float32: 'fp32', torch.bfloat16: 'bf16', torch.float16: 'fp16', torch.float64: 'fp64', torch.int64: 'i64',
         torch.int32: 'i32'}
GLOBAL_ACCESS = re.compile(r'\b(ld|st)\.global[\w.:]*?(?:\.v(\d))?\.[bfsu](\d+)\b')
ASYNC_COPY = re.compile(r'\bcp\.async\.c[ag]\.shared\.global\S* \[[^]]*\], \[[^]]*\], 0x([0-9a-f]+)')


class Launch(NamedTuple):
    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]  # by name: tensors, numbers, None, and the constants
    num_warps: int


class Code(NamedTuple):
    registers: int  # of a thread
    spills: int  # bytes of a thread that found no place in registers
    shared: int  # bytes of a program
    loads: collections.Counter  # {bytes: how many instructions load that much from global memory}
    stores: collections.Counter
    resident: int  # programs on an SM at a time
    ptx: str


@contextlib.contextmanager
def recorded_launches(*modules):
    """A list that gets a Launch for each launch of the modules' kernels, which do not run."""
    launches = []
    with contextlib.ExitStack() as stack:
        for module in modules:
            for name, value in list(vars(module).items()):
                if name.endswith('_kernel'):
                    stack.enter_context(mock.patch.object(module, name, Recorder(value, launches)))
        yield launches


class Recorder:
    """Stands in for a kernel and is launched as one: recorder[grid](...)."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        def record(*args, num_warps=4, **constants):
            arguments = dict(zip(self.kernel.arg_names, args)) | constants
            self.launches.append(Launch(self.kernel, grid, arguments, num_warps))
        return record


def compile_kernel(kernel, arguments: dict[str, Any], num_warps: int, capability: int) -> Code:
    """The Code of a kernel specialized as Triton specializes it at a launch with these arguments: by types, None, integers
    that are 1, and pointers and integers that 16 divides."""
    signature, constants, divisible = {}, {}, []
    for i, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = '*' + TYPES[value.dtype]
            divisible += [i] if value.data_ptr() % 16 == 0 else []
        elif parameter.is_constexpr or value is None or isinstance(value, int) and value == 1:
            signature[parameter.name], constants[i] = 'constexpr', value
        elif isinstance(value, int):
            signature[parameter.name] = 'i32'
            divisible += [i] if value % 16 == 0 else []
        else:
            signature[parameter.name] = 'fp32'
    return compile_specialized(kernel, tuple(signature.items()), tuple(constants.items()), tuple(divisible), num_warps,
                               capability)


@functools.cache
def compile_specialized(kernel, signature, constants, divisible, num_warps, capability):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    source = ASTSource(fn=kernel, signature=dict(signature), constexprs={(i,): value for i, value in constants},
                       attrs={(i,): [['tt.divisibility', 16]] for i in divisible})
    result = triton.compile(source, target=GPUTarget('cuda', capability, 32), options={'num_warps': num_warps})
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(result.asm['cubin'])
        file.flush()
        usage = subprocess.run([triton.knobs.nvidia.cuobjdump.path, '-res-usage', file.name], check=True, capture_output=True,
                               text=True).stdout
    registers, stack = (int(re.search(rf'{name}:(\d+)', usage)[1]) for name in ('REG', 'STACK'))
    ptx, shared = result.asm['ptx'], result.metadata.shared
    loads, stores = collections.Counter(), collections.Counter()
    for kind, vector, bits in GLOBAL_ACCESS.findall(ptx):
        (loads if kind == 'ld' else stores)[int(vector or 1) * int(bits) // 8] += 1
    loads.update(int(size, 16) for size in ASYNC_COPY.findall(ptx))
    return Code(registers, stack, shared, loads, stores, resident_programs(registers, shared, num_warps, capability), ptx)


def resident_programs(registers, shared, num_warps, capability):
    """Programs that run at once on an SM."""
    max_warps, max_programs, shared_memory = SM_LIMITS[capability]
    of_a_warp = -(-registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    return min(max_programs, max_warps // num_warps, SM_REGISTERS // (of_a_warp * num_warps),
               shared_memory // (shared + RESERVED_SHARED))


def narrow(accesses):
    """How many of these accesses move less than 16 bytes."""
    return sum(count for size, count in accesses.items() if size < 16)
