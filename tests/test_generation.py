"""The engine: many sequences in one batch against each alone, and against what is computed without it."""
import concurrent.futures
import copy
import gc
import random
import weakref

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_model import make_model, uncached

import architecture
from inference import native, sampling
from inference.cpu_layout import can_pack
from inference.engine import Engine, Request, Sequence, generate, window_start
from inference.sampling import Settings, numbers_of, penalize, sample, way_of
from model import GPT, GPTConfig
from runtime import hardware
from runtime.errors import BadInput


@pytest.fixture(params=['cpp', 'pytorch'])
def decoding(request, monkeypatch):
    """Once by step.cpp, and once as it is where there is no compiler."""
    if request.param == 'pytorch':
        monkeypatch.setattr(native, 'library', lambda: 'it needs a C++ compiler')
    elif isinstance(native.library(), str):
        pytest.skip(native.library())


def run(engine):
    while engine.n_running:
        engine.step()


def write_alone(model, request):
    engine = Engine(model, max_batch=1)
    (sequence,) = engine.add(request)
    run(engine)
    return sequence


def write_busily(engine, requests, seed=0):
    """All requests through one engine: they join at random steps, as places become free."""
    rng, waiting, sequences = random.Random(seed), list(requests), []
    while waiting or engine.n_running:
        while waiting and engine.free and rng.random() < 0.5:
            sequences += engine.add(waiting.pop(0))
        engine.step()
    return sequences


def random_requests(n, seed, **how):
    rng = random.Random(seed)
    return [Request([rng.randrange(61) for _ in range(rng.randint(1, 40))], rng.randint(1, 40), **how) for _ in range(n)]


@pytest.mark.usefixtures('decoding')
def test_greedy_texts_of_a_busy_batch_equal_the_uncached_ones():
    model = make_model(block_size=16)
    requests = random_requests(20, seed=1, temperature=0)
    for sequence in write_busily(Engine(model, max_batch=4), requests):
        expected = uncached(model, torch.tensor([sequence.request.ids]), sequence.request.max_new_tokens)
        assert sequence.ids == expected[0].tolist() and sequence.finish_reason == 'length'


SETTINGS = [dict(temperature=0.7), dict(top_k=5), dict(top_p=0.8), dict(top_k=20, top_p=0.5, temperature=1.5),
            dict(temperature=0), dict(repetition_penalty=1.3, top_k=10)]


def mixed_requests(n):
    requests = random_requests(n, seed=2)
    for i, request in enumerate(requests):
        request.seed = i
        for name, value in SETTINGS[i % len(SETTINGS)].items():
            setattr(request, name, value)
    return requests


@pytest.mark.usefixtures('decoding')
@pytest.mark.parametrize('dtype', [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.skipif(
    not hardware.cpu_has_bf16_units() or not can_pack(torch.bfloat16), reason='no bf16 units in this CPU'))])
def test_a_seeded_text_is_the_same_alone_and_among_others(dtype):
    model = make_model(block_size=32).to(dtype)
    requests = mixed_requests(18)
    together = write_busily(Engine(model, max_batch=5), requests)
    assert [sequence.tokens for sequence in together] == [write_alone(model, request).tokens for request in requests]


@pytest.mark.usefixtures('decoding')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_text_that_was_paused_is_the_one_that_was_not(dtype):
    """Keys and values that are kept give the same bits, with others in the slot meanwhile, also after the window has moved."""
    model = make_model(block_size=32).to(dtype)
    requests = mixed_requests(6)
    for request in requests:
        request.max_new_tokens = 60
    expected = [write_alone(model, request).tokens for request in requests]
    rng, engine = random.Random(0), Engine(model, max_batch=3)
    waiting, texts = list(requests), []
    paused = []
    while waiting or paused or engine.n_running:
        while engine.free and (waiting or paused):
            if waiting and rng.random() < 0.5 or not paused:
                texts += engine.add(waiting.pop(0))
            else:
                engine.resume([paused.pop(rng.randrange(len(paused)))])
        engine.step()
        if engine.n_running and rng.random() < 0.3:
            paused.append(rng.choice(engine.running))
            engine.pause(paused[-1])
    assert [text.tokens for text in texts] == expected


@pytest.mark.usefixtures('decoding')
def test_a_paused_text_whose_keys_are_not_kept_goes_on_by_the_textbook():
    model = make_model(block_size=32)
    engine = Engine(model, max_batch=1)
    (text,) = engine.add(Request([1, 2, 3], 50, temperature=0))
    while text.finish_reason is None:
        engine.step()
        if len(text.tokens) in (5, 20, 40):
            engine.pause(text, keep=False)
            assert text.saved is None and engine.free == 1
            engine.resume([text])
    assert text.tokens == write_alone(model, Request([1, 2, 3], 50, temperature=0)).tokens


def test_a_seed_gives_one_random_number_to_each_token_that_is_sampled():
    model = make_model(block_size=256)
    engine = Engine(model, max_batch=2)
    (sequence,) = engine.add(Request([1, 2, 3], 150, seed=5))
    generator, ids = torch.Generator().manual_seed(5), [1, 2, 3]
    for step in range(150):
        if step in (30, 31, 120):  # others that come and go, and tokens that are not sampled
            engine.add(Request([4], 1, seed=step))
            engine.force(sequence, [7, 8])
            ids += [7, 8]
        if sequence.finish_reason:
            break
        engine.step()
        cumulative = model(torch.tensor([ids]))[0, -1].softmax(dim=-1).cumsum(dim=0)
        ids.append(torch.searchsorted(cumulative, torch.rand((), generator=generator) * cumulative[-1], right=True).item())
    assert sequence.ids == ids and len(ids) == 153


@pytest.mark.usefixtures('decoding')
def test_samples_share_the_prefill_and_sample_i_has_seed_plus_i(monkeypatch):
    model, filled = make_model(block_size=64), []
    prefill_slot = Engine.prefill_slot
    monkeypatch.setattr(Engine, 'prefill_slot', lambda self, *args: (filled.append(args), prefill_slot(self, *args)))
    engine = Engine(model, max_batch=4)
    samples = engine.add(Request([5, 6, 7, 8], 20, seed=10), n=4)
    run(engine)
    assert len(filled) == 1
    for i, sequence in enumerate(samples):
        assert sequence.tokens == write_alone(model, Request([5, 6, 7, 8], 20, seed=10 + i)).tokens
    assert len({tuple(sequence.tokens) for sequence in samples}) == 4


@pytest.mark.usefixtures('decoding')
def test_removing_a_sequence_frees_its_slot_and_changes_no_other():
    model = make_model(block_size=32)
    requests = [Request([i, i + 1, i + 2], 20, temperature=0) for i in range(4)]
    engine = Engine(model, max_batch=3)
    first, second, third = (engine.add(request)[0] for request in requests[:3])
    with pytest.raises(RuntimeError, match='1 slots are needed, 0 of 3'):
        engine.add(requests[3])
    for _ in range(5):
        assert engine.step() == [first, second, third]
    engine.remove(first)
    assert engine.free == 1 and engine.n_running == 2 and len(first.tokens) == 5
    (fourth,) = engine.add(requests[3])
    run(engine)
    for sequence, request in zip((second, third, fourth), requests[1:]):
        assert sequence.ids == uncached(model, torch.tensor([request.ids]), 20)[0].tolist()


@pytest.mark.usefixtures('decoding')
@settings(max_examples=15, deadline=None)
@given(before=st.integers(0, 12), forced=st.lists(st.integers(0, 60), min_size=1, max_size=20))
def test_forced_tokens_are_read_as_if_they_had_been_sampled(before, forced):
    model = make_model(block_size=16)
    engine = Engine(model, max_batch=2)
    sequence, other = (engine.add(Request(ids, 40, temperature=0, logprobs=0))[0] for ids in ([1, 2, 3], [9]))
    for _ in range(before):
        engine.step()
    engine.force(sequence, forced)
    run(engine)
    start = uncached(model, torch.tensor([[1, 2, 3]]), before)[0].tolist() + forced
    assert sequence.ids == uncached(model, torch.tensor([start]), 40 - before - len(forced))[0].tolist()
    assert other.ids == uncached(model, torch.tensor([[9]]), 40)[0].tolist()
    assert sequence.forced == set(range(before, before + len(forced)))
    assert [i for i, entry in enumerate(sequence.logprobs) if entry is None] == sorted(sequence.forced)


@pytest.mark.parametrize('token', [61, 10**12, -1])
def test_forcing_a_token_outside_the_vocabulary_is_refused(token):
    engine = Engine(make_model())
    (sequence,) = engine.add(Request([1], 5))
    engine.step()
    with pytest.raises(IndexError, match='outside the vocabulary of 61'):
        engine.force(sequence, [2, token])
    assert len(sequence.tokens) == 1


def test_forcing_up_to_the_limit_ends_a_sequence():
    engine = Engine(make_model(), max_batch=1)
    (sequence,) = engine.add(Request([1], 3))
    engine.step()
    engine.force(sequence, [4, 5])
    assert sequence.finish_reason == 'length' and engine.free == 1 and sequence.tokens[1:] == [4, 5]


def test_a_tool_is_asked_after_each_step_and_its_tokens_are_appended():
    engine = Engine(make_model(), max_batch=1)
    (sequence,) = engine.add(Request([1], 6, tool=lambda sequence: [4, 5] if len(sequence.tokens) == 2 else None))
    run(engine)
    assert sequence.tokens[2:4] == [4, 5] and sequence.forced == {2, 3} and len(sequence.tokens) == 6


def test_removing_a_sequence_that_has_ended_does_nothing():
    engine = Engine(make_model(), max_batch=2)
    short, long = engine.add(Request([1], 1))[0], engine.add(Request([2], 5))[0]
    engine.step()
    engine.remove(short)
    assert short.finish_reason == 'length' and engine.running == [long]


def test_a_stop_token_ends_a_text_and_is_the_finish_reason():
    model = make_model()
    free = write_alone(model, Request([3, 4], 40, seed=1))
    stopped = write_alone(model, Request([3, 4], 40, seed=1, stop_tokens=(free.tokens[7],)))
    assert stopped.tokens == free.tokens[:free.tokens.index(free.tokens[7]) + 1] and stopped.finish_reason == 'stop'


@pytest.mark.usefixtures('decoding')
def test_logprobs_are_log_softmax_of_the_models_own_logits():
    model, ids = make_model(block_size=64), [7, 8, 9, 10]
    sequence = write_alone(model, Request(ids, 12, temperature=0.5, top_k=3, seed=2, logprobs=4, echo_logprobs=True))
    expected = model(torch.tensor([sequence.ids[:-1]]))[0].double().log_softmax(dim=-1)
    reported = sequence.prompt_logprobs + sequence.logprobs
    assert reported[0] is None and len(sequence.prompt_logprobs) == 4 and len(sequence.logprobs) == 12
    for row, token, (logprob, top) in zip(expected, sequence.ids[1:], reported[1:]):
        assert logprob == pytest.approx(row[token].item(), abs=1e-4)
        assert [id for id, _ in top] == row.topk(4).indices.tolist()
        assert [value for _, value in top] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)


@pytest.mark.usefixtures('decoding')
@torch.no_grad()
def test_with_weights_that_make_every_part_of_the_model_show_generation_computes_what_the_model_does():
    model = GPT(GPTConfig(**{**architecture.TINY, 'block_size': 64})).eval()
    architecture.fill(model)
    sequence = write_alone(model, Request([0, 1, 4, 9], 40, seed=1, logprobs=0, echo_logprobs=True))
    expected = model(torch.tensor([sequence.ids[:-1]]))[0].log_softmax(dim=-1)
    reported = [logprob for logprob, _ in (sequence.prompt_logprobs + sequence.logprobs)[1:]]
    assert reported == pytest.approx([row[token].item() for row, token in zip(expected, sequence.ids[1:])], abs=1e-4)


def test_a_prompts_logprobs_come_without_any_new_token():
    sequence = write_alone(make_model(), Request([1, 2, 3], 0, logprobs=1, echo_logprobs=True))
    assert sequence.tokens == [] and sequence.finish_reason == 'length'
    assert sequence.prompt_logprobs[0] is None and len(sequence.prompt_logprobs) == 3
    assert write_alone(make_model(), Request([1], 0, logprobs=1, echo_logprobs=True)).prompt_logprobs == [None]
    assert write_alone(make_model(), Request([1], 0)).finish_reason == 'length'


def test_only_the_window_of_a_long_prompt_has_logprobs():
    sequence = write_alone(make_model(block_size=16), Request(list(range(30)), 0, logprobs=0, echo_logprobs=True))
    start = window_start(30, 16)
    assert [i for i, entry in enumerate(sequence.prompt_logprobs) if entry is None] == list(range(start + 1))


@pytest.mark.usefixtures('decoding')
def test_a_repetition_penalty_equals_that_of_transformers():
    torch.manual_seed(0)
    logits, texts = torch.randn(3, 61), [[1, 2, 2, 5], [60], [0, 9]]
    sequences = [Sequence(Request(text, 5, repetition_penalty=penalty), None)
                 for text, penalty in zip(texts, (1.3, 0.7, 1.0))]
    changed = penalize(logits, sequences)
    for row, text, penalty, before in zip(changed, texts, (1.3, 0.7, 1.0), logits):
        expected = transformers.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([text]), before[None].clone())
        torch.testing.assert_close(row, expected[0])


def sample_rows(logits, request, uniforms):
    """(n, V), (n,) -> (n,): all rows by the same request."""
    top_k, temperature, top_p = (torch.full((len(logits), 1), number) for number in numbers_of(request, logits.size(1)))
    return sample(logits, {way_of(request, logits.size(1)): None}, Settings(top_k, temperature, top_p, uniforms[:, None]))


def frequencies(logits, n=40_000, **how):
    """How often each token is drawn, n times, by rows of one batch."""
    uniforms = torch.rand(n, generator=torch.Generator().manual_seed(0))
    tokens = sample_rows(logits.expand(n, -1), Request([0], 1, **how), uniforms)
    return torch.bincount(tokens, minlength=logits.numel()), n


def assert_drawn_from(counts, n, kept, probabilities):
    """Only kept tokens are drawn, and as often as their probabilities say."""
    assert counts[kept].sum() == n and (counts[kept] > 0).all()
    if len(kept) > 1:
        expected = probabilities.double() / probabilities.double().sum() * n
        assert stats.chisquare(counts[kept].numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize('temperature', [0.5, 1.0, 2.0])
def test_sampled_frequencies_match_the_softmax(temperature):
    logits = torch.randn(20, generator=torch.Generator().manual_seed(3))
    assert_drawn_from(*frequencies(logits, temperature=temperature), torch.arange(20), (logits / temperature).softmax(dim=0))


def test_top_k_samples_from_exactly_the_k_likeliest():
    logits = torch.randn(20, generator=torch.Generator().manual_seed(3))
    kept = logits.topk(5).indices
    assert_drawn_from(*frequencies(logits, top_k=5), kept, logits[kept].softmax(dim=0))
    assert (frequencies(logits, top_k=1)[0] > 0).nonzero().item() == logits.argmax()
    assert (frequencies(logits, top_k=1000)[0] > 0).all()


@pytest.mark.parametrize('extra', [0, 3000])  # with a long tail of tokens that are all but impossible
@pytest.mark.parametrize('p, kept', [(0.3, 1), (0.5, 2), (0.69, 2), (0.75, 3), (0.9, 4), (1.0, 5)])
def test_top_p_samples_from_the_smallest_set_that_reaches_p(p, kept, extra):
    probabilities = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    logits = torch.cat([probabilities.log(), torch.full((extra,), -80.0)])
    assert_drawn_from(*frequencies(logits, 4000, top_p=p), torch.arange(kept), probabilities[:kept])
    assert_drawn_from(*frequencies(logits, 4000, top_p=p, top_k=5), torch.arange(kept), probabilities[:kept])


@pytest.mark.slow
def test_a_nucleus_wider_than_the_first_sort_is_exact():
    n_tokens = 2 * sampling.NUCLEUS_AT_FIRST
    logits = torch.linspace(0, -0.5, n_tokens)[torch.randperm(n_tokens, generator=torch.Generator().manual_seed(0))]
    probabilities = logits.softmax(dim=0)
    kept = (probabilities.sort(descending=True).values.double().cumsum(0) < 0.9).sum().item() + 1
    counts, n = frequencies(logits, 20_000, top_p=0.9)
    allowed = probabilities.topk(kept).indices
    assert counts[allowed].sum() == n and (counts[allowed] > 0).float().mean() > 0.99
    narrow = torch.zeros(n_tokens).index_fill(0, torch.tensor([5]), 20.0)  # a row of each kind in one batch
    rows = torch.stack([logits, narrow])
    both = [sample_rows(rows, Request([0], 1, top_p=0.9), torch.tensor([u, u])) for u in torch.linspace(0, 0.999, 50)]
    assert {row[1].item() for row in both} == {5} and len({row[0].item() for row in both}) > 40


def test_a_tiny_temperature_is_greedy_without_overflow():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(3)) * 100
    for how in (dict(), dict(top_k=7), dict(top_p=0.9)):
        request = Request([0], 1, temperature=1e-30, **how)
        assert sample_rows(logits[None], request, torch.tensor([0.7])).item() == logits.argmax()


@pytest.mark.parametrize('how, word', [
    (dict(ids=[]), 'prompt'), (dict(ids=[61]), '61'), (dict(ids=[-1]), 'vocabulary'),
    (dict(max_new_tokens=-1), 'max_new_tokens'),
    (dict(temperature=-0.1), 'temperature'), (dict(temperature=float('nan')), 'temperature'), (dict(top_k=0), 'top_k'),
    (dict(top_p=0.0), 'top_p'), (dict(top_p=1.1), 'top_p'), (dict(repetition_penalty=0.0), 'repetition_penalty'),
    (dict(seed=2**80), 'seed'), (dict(logprobs=-1), 'logprobs')])
def test_a_wrong_setting_is_refused_by_name_and_takes_no_slot(how, word):
    engine = Engine(make_model(), max_batch=1)
    with pytest.raises(BadInput, match=word):
        engine.add(Request(**{'ids': [1], 'max_new_tokens': 5, **how}))
    assert engine.free == 1


@pytest.mark.usefixtures('decoding')
def test_autocast_decides_the_type_that_generation_computes_in():
    model = make_model(block_size=32)
    idx = torch.randint(61, (1, 5))
    with torch.autocast('cpu', torch.bfloat16):
        text = generate(model, idx, 8, temperature=0)
        expected = uncached(model, idx, 8)
    assert torch.equal(text, expected)


def test_generate_lays_the_weights_out_once_and_again_when_they_have_changed(monkeypatch):
    model, made = make_model(), []
    monkeypatch.setattr('inference.engine.Engine', lambda *args: (made.append(1), Engine(*args))[1])
    idx = torch.tensor([[1, 2, 3]])

    def text(**how):
        return generate(model, idx, 20, temperature=0, **how).tolist()

    first = text()
    assert text() == first and len(made) == 1
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.mul_(-3)
    changed = text()
    assert len(made) == 2 and changed == uncached(model, idx, 20).tolist()
    model.transformer.wpe.weight.data = model.transformer.wpe.weight.data.flip(0)
    assert text() == uncached(model, idx, 20).tolist() and len(made) == 3
    for change in (lambda data: data[:, 1::2].neg_(), lambda data: data[1::2, 1::2].neg_(), lambda data: data.numpy().__imul__(-1)):
        change(model.transformer.h[1].mlp.c_proj.weight.data)
        assert text() == uncached(model, idx, 20).tolist()
    del made[:3]
    model.transformer.wte.weight.data[[3, 5]] = model.transformer.wte.weight.data[[5, 3]].clone()
    assert text() == uncached(model, idx, 20).tolist() and len(made) == 4
    assert generate(model, idx.repeat(2, 1), 20, temperature=0).tolist() == text() * 2


def test_several_threads_may_generate_with_one_model():
    model, idx = make_model(), torch.tensor([[1, 2, 3]])
    expected = {n: generate(model, idx, n, temperature=0).tolist() for n in range(1, 30)}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for n, found in pool.map(lambda n: (n, generate(model, idx, n, temperature=0).tolist()), list(expected) * 4):
            assert found == expected[n]


def test_models_of_float64_and_those_made_for_inference_are_written_too():
    model, idx = make_model(), torch.tensor([[1, 2, 3]])
    expected = generate(model, idx, 10, temperature=0)
    assert torch.equal(generate(copy.deepcopy(model).double(), idx, 10, temperature=0), expected)
    with torch.inference_mode():
        assert torch.equal(generate(copy.deepcopy(model), idx, 10, temperature=0), expected)


def test_what_generate_keeps_goes_with_the_model():
    model = make_model()
    generate(model, torch.tensor([[1]]), 2)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
