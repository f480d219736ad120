"""Functions of fixed shapes: compiled one by one, and on a GPU replayed as CUDA graphs.

    graphs = Graphs(device)
    y = graphs.call(layer, x, shape=(4, 256))     # layer(x, 4, 256), compiled for these two numbers alone
    graphs.run(decode, 4, 256)                    # decode(4, 256): many kernels, launched as one

torch.compile keeps what it has compiled by the code object of a function, and gives up after 8 versions of one
(torch._dynamo.config.recompile_limit). So every shape gets a code object of its own, and there is no limit to reach.

A CUDA graph is a recording of kernels with their addresses. We record it ourselves, as mode='reduce-overhead' would check
some hundred guards at each call, and works in the thread alone in which it was first used. Knows nothing about models.
"""
import types
from collections.abc import Callable

import torch


class Graphs:
    """What was compiled and recorded for the tensors of one engine. Use it from one thread at a time."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == 'cuda'
        self.compiled, self.recorded, self.called = {}, {}, set()
        self.pool = torch.cuda.graph_pool_handle() if self.on_gpu else None  # all recordings share their working memory

    def call(self, function: Callable, *arguments, shape: tuple[int, ...]):
        """function(*arguments, *shape), compiled for this shape. The first call compiles, which takes seconds.

        Arguments may differ from call to call in their addresses and values, but not in their shapes.
        """
        key = function, shape
        if key not in self.compiled:
            self.compiled[key] = torch.compile(with_own_code(function), dynamic=False, fullgraph=True)
        return self.compiled[key](*arguments, *shape)

    def run(self, function: Callable, *shape: int):
        """function(*shape), which on a GPU is recorded at the second call and replayed from then on.

        The first call compiles and loads all that a recording may only use. The function must read and write tensors that
        stay where they are, return nothing, and never wait for the GPU. What it makes on the way is gone afterwards.
        """
        key = function, shape
        if key in self.recorded:
            self.recorded[key].replay()
        elif self.on_gpu and key in self.called:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode='thread_local'):
                function(*shape)  # recorded, not computed
            self.recorded[key] = graph
            graph.replay()
        else:
            function(*shape)
            self.called.add(key)


def with_own_code(function: Callable) -> Callable:
    """The same function, for which torch.compile keeps versions of its own."""
    code = function.__code__.replace()
    return types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
