"""Compiled generation: which graphs there are, what they write, and how often the CPU waits for the device."""
import contextlib
import random
import types

import pytest
import torch
from test_generation import mixed_requests, run, write_alone, write_busily
from test_model import make_model, uncached
from torch._dynamo.utils import counters
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from inference.decode import attend_one_fused
from inference.engine import Engine, Request
from inference.graphs import Graphs


@pytest.fixture
def backend(monkeypatch):
    """A compiler that takes no time, and counts of what it is given."""
    compile = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda function, **how: compile(function, backend='eager', **how))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_compiled_engine_writes_the_same_texts(backend):
    model = make_model(block_size=24)
    requests = mixed_requests(8)
    for i, request in enumerate(requests):
        request.logprobs = 2 if i == 4 else None
    together = write_busily(Engine(model, max_batch=3, compile=True), requests)
    alone = [write_alone(model, request) for request in requests]
    assert [sequence.tokens for sequence in together] == [sequence.tokens for sequence in alone]
    for ours, theirs in zip(together[4].logprobs, alone[4].logprobs):
        assert ours[0] == pytest.approx(theirs[0], abs=1e-4) and [i for i, _ in ours[1]] == [i for i, _ in theirs[1]]


@pytest.mark.slow
def test_the_default_compiler_writes_the_same_texts():
    model = make_model(block_size=24)
    requests = mixed_requests(6)
    together = write_busily(Engine(model, max_batch=2, compile=True), requests)
    assert [sequence.tokens for sequence in together] == [write_alone(model, request).tokens for request in requests]


@pytest.mark.slow
def test_each_shape_is_compiled_once_whoever_joins_and_leaves(backend):
    rng, engine = random.Random(0), Engine(make_model(block_size=1024, n_head=1, n_embd=8), max_batch=16, compile=True)
    shapes, decode_into = set(), engine.decoder.decode_into
    engine.decoder.decode_into = lambda *shape: (shapes.add(shape), decode_into(*shape))
    for longest in (200, 450, 1000):
        write_busily(engine, [Request([1] * rng.randint(1, longest), rng.randint(1, 40), top_k=rng.choice([None, 10, 100]))
                              for _ in range(30)])
    rows, compiled = {B for B, _ in shapes}, engine.decoder.graphs.compiled
    assert rows == {1, 2, 4, 8, 16} and {S for _, S in shapes} == {256, 512, 1024} and len(shapes) > 10
    assert sum(function.__name__ == 'run_layer' for function, _ in compiled) == len(shapes)  # all layers share a graph
    assert sum(function.__name__ == 'sample_rows' for function, _ in compiled) <= 3 * len(rows)
    assert counters['stats']['unique_graphs'] == len(compiled)
    assert not counters['graph_break']


@pytest.mark.slow
def test_after_the_warm_up_nothing_is_compiled_any_more(backend):
    model = make_model(block_size=300, n_layer=1)
    engine = Engine(model, max_batch=3, compile=True)
    engine.warm_up()
    n_graphs = counters['stats']['unique_graphs']
    requests = [Request([1, 2] * 120, 30, seed=i, **how) for i, how in enumerate(
        [dict(temperature=0), dict(), dict(top_k=40), dict(top_p=0.9), dict(top_k=5, top_p=0.5)])]
    together = write_busily(engine, requests)
    assert n_graphs == counters['stats']['unique_graphs'] == len(engine.decoder.graphs.compiled)
    assert [sequence.tokens for sequence in together] == [write_alone(model, request).tokens for request in requests]


class Recorder:
    """Stands for torch.cuda: what is called under graph() is recorded, and not done."""

    def __init__(self):
        self.recording, self.done, self.pools = None, [], []
        self.CUDAGraph = self.make_graph

    def graph_pool_handle(self):
        return 'pool'

    def make_graph(self):
        graph = types.SimpleNamespace(kernels=[])
        graph.replay = lambda: self.done.extend(('replayed', kernel) for kernel in graph.kernels)
        return graph

    @contextlib.contextmanager
    def graph(self, graph, pool, capture_error_mode):
        self.recording = graph
        self.pools.append(pool)
        yield
        self.recording = None

    def launch(self, *kernel):
        if self.recording:
            self.recording.kernels.append(kernel)
        else:
            self.done.append(('launched', kernel))


def test_on_a_gpu_a_shape_is_launched_then_recorded_then_only_replayed(monkeypatch):
    gpu = Recorder()
    monkeypatch.setattr(torch, 'cuda', gpu)
    graphs = Graphs(types.SimpleNamespace(type='cuda'))
    for shape in (1, 1, 1, 2, 1, 2):
        n_before = len(gpu.done)
        graphs.run(gpu.launch, shape)
        assert len(gpu.done) == n_before + 1  # each run computes once
    assert gpu.done == [('launched', (1,)), ('replayed', (1,)), ('replayed', (1,)), ('launched', (2,)), ('replayed', (1,)),
                        ('replayed', (2,))]
    assert gpu.pools == ['pool', 'pool']


class Operations(TorchDispatchMode):
    """Counts the operations that PyTorch dispatches."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('compile', [False, True])
def test_a_token_is_one_wait_for_the_device_and_nothing_sent_to_it(monkeypatch, backend, compile):
    engine = Engine(make_model(block_size=64), max_batch=4, compile=compile)
    for how in (dict(temperature=0), dict(top_k=5), dict(top_p=0.8), dict()):
        engine.add(Request([1, 2, 3], 50, **how))
    for _ in range(3):
        engine.step()
    waits = []
    for name in ('tolist', 'item', 'cpu', 'numpy', '__bool__', '__int__', '__float__', '__index__'):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *args, name=name, plain=plain: (waits.append(name), plain(*args))[1])
    with contextlib.nullcontext() if compile else Operations() as operations:  # it cannot look into compiled code
        for _ in range(20):
            engine.step()
    assert waits == ['tolist'] * 20
    if not compile:
        allowed = {'nonzero'} if engine.decoder.on_cpu else set()  # of rows whose nucleus is wide: see sample_nucleus
        from_python = {'lift_fresh', 'lift', '_local_scalar_dense', 'nonzero'} - allowed
        assert len(operations.names) > 20 and not from_python & set(operations.names)


def test_one_query_a_row_attends_as_the_library_does_in_float64():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 1, 16), torch.randn(3, 2, 40, 16), torch.randn(3, 2, 40, 16)
    visible = (torch.arange(40) <= torch.tensor([[0], [17], [39]]))[:, None, None]
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=visible)
    torch.testing.assert_close(attend_one_fused(q, k, v, visible).double(), expected, atol=1e-6, rtol=1e-5)


def test_on_a_gpu_attention_never_plans_for_a_shape(monkeypatch):
    """The branch for GPUs, on a CPU: cuDNN's attention is switched off, and the texts are the same."""
    model, backends = make_model(block_size=16), []
    engine = Engine(model, max_batch=2)
    engine.decoder.on_cpu, engine.decoder.step = False, None
    attend = F.scaled_dot_product_attention

    def spy(*args, **kwargs):
        backends.append((torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cuda.flash_sdp_enabled()))
        return attend(*args, **kwargs)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', spy)
    (sequence,) = engine.add(Request([1, 2, 3], 30, temperature=0))
    run(engine)
    assert set(backends) == {(False, True)} and len(backends) > 30
    assert torch.backends.cuda.cudnn_sdp_enabled()
    assert sequence.ids == uncached(model, torch.tensor([[1, 2, 3]]), 30)[0].tolist()
