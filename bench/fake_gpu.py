"""What torch.compile would run on an H100, for a machine that has none: its kernels, their bytes, without running them.

    for kernel in lower(model, x, y): ...      # Kernel(name, ops, bytes), forward pass first

The graphs of forward and backward pass are traced on the CPU with tensors that have shapes but no memory, moved to a
device 'cuda' that is not there, and lowered by Inductor as for compute capability 9.0. Inductor then knows how many bytes
each kernel reads and writes. This needs private parts of torch 2.13 and changes torch for the whole process: call it in
a process of its own. It prints bytes and numbers of kernels, never times.
"""
import os
import types
from typing import NamedTuple

os.environ['TORCHINDUCTOR_COMPILE_THREADS'] = '1'  # else Inductor starts processes that look for a GPU

import torch
import torch._inductor.config
from functorch.compile import make_boxed_func
from torch._dynamo.device_interface import CudaInterface
from torch._functorch.aot_autograd import aot_function
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

H100 = types.SimpleNamespace(
    name='NVIDIA H100 80GB HBM3', major=9, minor=0, multi_processor_count=132, total_memory=80 * 2**30, warp_size=32,
    regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024,
    shared_memory_per_block=49152, shared_memory_per_block_optin=232448, shared_memory_per_multiprocessor=233472,
    L2_cache_size=50 * 2**20, gcnArchName='', is_integrated=False)
CUDA = torch.device('cuda:0')


class Kernel(NamedTuple):
    name: str  # of the product, the operator of ours or attention's; '' for a kernel that Inductor writes
    ops: tuple[str, ...]  # the aten operators that were fused into it
    bytes: int  # read and written, by Inductor's count


def lower(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, compute_loss) -> list[Kernel]:
    """The kernels of a training step under bf16 autocast, from compute_loss(model, x, y) to the gradients.

    x, y: (B, T) int64; only their shapes count. The model's weights are not read.
    """
    pretend_h100()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    names, weights = zip(*model.named_parameters())
    with mode:
        weights = [torch.empty(weight.shape, requires_grad=True) for weight in weights]
        x, y = torch.empty_like(x, device='cpu'), torch.empty_like(y, device='cpu')
    kernels = []

    def loss(*inputs):
        *weights, x, y = inputs
        with torch.autocast('cpu', torch.bfloat16, cache_enabled=False):
            return (torch.func.functional_call(Loss(model, compute_loss), {f'model.{name}': weight for name, weight in
                                                                          zip(names, weights)}, (x, y)),)

    def compiler(graph, inputs, backward):
        results = [node.meta['val'] if isinstance(node, torch.fx.Node) else node
                   for node in graph.graph.find_nodes(op='output')[0].args[0]]
        kernels.extend(lower_graph(graph, inputs, mode, backward))
        return make_boxed_func(lambda *_: results)

    with mode:
        compiled = aot_function(
            loss, fw_compiler=lambda graph, inputs: compiler(graph, inputs, False),
            bw_compiler=lambda graph, inputs: compiler(graph, inputs, True),
            partition_fn=lambda graph, inputs, **options: min_cut_rematerialization_partition(
                graph, inputs, compiler='inductor', **options), decompositions=select_decomp_table())
        compiled(*weights, x, y)[0].backward()
    return kernels


class Loss(torch.nn.Module):

    def __init__(self, model, compute_loss):
        super().__init__()
        self.model, self.compute_loss = model, compute_loss

    def forward(self, x, y):
        return self.compute_loss(self.model, x, y)


def lower_graph(graph, inputs, mode, backward):
    """[Kernel] of one graph, after it was moved to the GPU."""
    def to_gpu(value):
        if not isinstance(value, torch.Tensor):
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device='cuda')

    def device_to_gpu(value):
        return CUDA if isinstance(value, torch.device) else value

    for node in graph.graph.nodes:
        node.args, node.kwargs = pytree.tree_map(device_to_gpu, node.args), pytree.tree_map(device_to_gpu, dict(node.kwargs))
    with mode, V.set_fake_mode(mode):
        inputs = [to_gpu(value) for value in inputs]
        before = {node: node.meta['val'] for node in graph.graph.nodes if 'val' in node.meta}
        for node, value in before.items():
            node.meta['val'] = pytree.tree_map(to_gpu, value)
        lowering = GraphLowering(graph, example_inputs=inputs, shape_env=None, is_backward=backward, is_inference=False)
        with V.set_graph_handler(lowering), V.set_extern_kernel_nodes([]), V.set_debug_handler(DebugContext()):
            lowering.run(*inputs)
            lowering.codegen()
            _, counts, _ = lowering.count_bytes()
    for node, value in before.items():
        node.meta['val'] = value
    return [describe(node, 4 * count) for node, count in counts if count]  # Inductor counts in units of 4 bytes


def describe(node, n_bytes):
    inner, name = node.node, ''
    if type(node).__name__ == 'ExternKernelSchedulerNode':
        name = str(getattr(inner, 'python_kernel_name', None) or type(inner).__name__)
    return Kernel(name, tuple(sorted({str(origin.target) for origin in origins(node)})), n_bytes)


def origins(node):
    for part in node.get_nodes():
        if part.node is not None:
            yield from part.node.get_origins()


def pretend_h100():
    """Makes torch and Triton believe in an H100 as far as compiling for it asks."""
    import triton
    from triton.backends.compiler import GPUTarget
    driver = types.SimpleNamespace(
        get_current_target=lambda: GPUTarget('cuda', 90, 32), get_current_device=lambda: 0, get_current_stream=lambda *_: 0,
        get_device_interface=lambda: torch.cuda, get_active_torch_device=lambda: CUDA, is_active=lambda: True,
        set_current_device=lambda _: None, get_benchmarker=lambda *_, **__: None, binary_ext='cubin')
    triton.runtime.driver.set_active(driver)
    torch._C._ensureCUDADeviceGuardSet()
    answers = {
        torch.cuda: dict(is_available=True, device_count=1, current_device=0, get_device_properties=H100, _lazy_init=None,
                         get_device_capability=(9, 0), synchronize=None, is_initialized=False, is_bf16_supported=True,
                         get_rng_state=torch.zeros(16, dtype=torch.uint8), set_rng_state=None),
        torch._C: dict(_cuda_getDevice=0, _cuda_getDeviceCount=1, _cuda_getCurrentRawStream=0, _cuda_setDevice=None,
                       _cuda_exchangeDevice=0, _cuda_maybeExchangeDevice=0),
        CudaInterface: dict(is_available=True, get_compute_capability=90, current_device=0, is_triton_capable=True,
                            raise_if_triton_unavailable=None, get_device_properties=H100),
        CudaInterface.Worker: dict(get_device_properties=H100),
    }
    for owner, functions in answers.items():
        for name, answer in functions.items():
            function = (lambda value: lambda *_, **__: value)(answer)
            setattr(owner, name, staticmethod(function) if isinstance(owner, type) else function)
    torch.version.cuda = torch.version.cuda or '13.0'
    torch._inductor.config.fx_graph_cache = False
