"""Compiled generation: which graphs there are, what they write, and how often the CPU waits for the device."""
import contextlib
import random

import pytest
import torch
from test_generation import mixed_requests, run, write_alone, write_busily
from test_model import make_model
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from inference import graphs
from inference.cpu_layout import attend_one_query
from inference.decode import LEAST_LENGTH, attend_one_fused, padded
from inference.engine import Engine, Request


@pytest.fixture
def backend(monkeypatch):
    """A compiler that takes no time, and counts of what it is given."""
    compile = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda function, **how: compile(function, backend='aot_eager', **how))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


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
    requests = mixed_requests(4)
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
