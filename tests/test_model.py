import json
import math

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import pretrained
from inference.engine import generate, window_start
from kernels.attention import blocked_attention
from model import GPT, GPTConfig
from pretrained import PUBLISHED_SIZES
from runtime.errors import BadInput


def make_model(**fields):
    """A small model whose weights are large enough that its choices differ."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**dict(block_size=16, vocab_size=61, n_layer=2, n_head=2, n_embd=32), **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model.transformer.wte.weight[model.config.vocab_size:] = 0
    return model.eval()


@pytest.mark.parametrize('shape', [dict(n_layer=3, n_head=4, n_embd=64, vocab_size=200, block_size=24),
                                   dict(n_layer=2, n_head=3, n_embd=48, vocab_size=128, block_size=50)])
def test_logits_equal_those_of_transformers_on_the_same_weights(tmp_path, shape):
    torch.manual_seed(1)
    config = transformers.GPT2Config(n_positions=shape['block_size'], **{k: v for k, v in shape.items() if k != 'block_size'})
    theirs = transformers.GPT2LMHeadModel(config).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)
    ours = pretrained.load_huggingface(str(tmp_path)).eval()
    idx = torch.randint(shape['vocab_size'], (3, shape['block_size']))
    torch.testing.assert_close(ours(idx), theirs(idx).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize('bias', [True, False])
def test_transformers_loads_what_is_saved_and_gives_the_same_logits(tmp_path, bias):
    ours = make_model(bias=bias)
    pretrained.save(ours, str(tmp_path), eot=0)
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report['missing_keys'] and not report['unexpected_keys']
    idx = torch.randint(61, (2, 16))
    torch.testing.assert_close(theirs.eval()(idx).logits, ours(idx), atol=1e-4, rtol=0)


@pytest.mark.parametrize('name, count', [('gpt2', 124_439_808), ('gpt2-medium', 354_823_168),
                                         ('gpt2-large', 774_030_080), ('gpt2-xl', 1_557_611_200)])
def test_parameter_counts_are_those_of_the_published_models(name, count):
    n_layer, n_head, n_embd = PUBLISHED_SIZES[name]
    with torch.device('meta'):
        assert GPT(GPTConfig(n_layer=n_layer, n_head=n_head, n_embd=n_embd)).n_params() == count


def test_loss_of_a_fresh_model_is_that_of_guessing():
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=64, vocab_size=5000, n_layer=4, n_head=4, n_embd=128))
    idx, targets = torch.randint(5000, (2, 4, 64))
    assert abs(model(idx, targets).item() - math.log(5000)) < 0.1


def test_residual_projections_start_smaller_by_the_root_of_twice_the_layers():
    torch.manual_seed(0)
    block = GPT(GPTConfig(n_layer=8, n_embd=256, n_head=4, vocab_size=128)).transformer.h[3]
    assert block.attn.c_attn.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for projection in (block.attn.c_proj, block.mlp.c_proj):
        assert projection.weight.std().item() == pytest.approx(0.02 / 4, rel=0.02)


def test_a_tiny_model_overfits_one_batch():
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=16, vocab_size=50, n_layer=2, n_head=2, n_embd=64))
    idx, targets = torch.randint(50, (2, 4, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = model(idx, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05


def test_loss_is_the_mean_over_the_targets_that_are_not_minus_one():
    model = make_model()
    idx, targets = torch.randint(61, (2, 3, 16))
    targets[0, :5] = targets[2, 7:] = -1
    expected = F.cross_entropy(model(idx).double().flatten(0, 1), targets.flatten(), ignore_index=-1)
    assert model(idx, targets).item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradients_equal_those_of_plain_autograd_through_the_logits():
    model = make_model()
    idx, targets = torch.randint(61, (2, 3, 16))
    model(idx, targets).backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    F.cross_entropy(model(idx).flatten(0, 1), targets.flatten()).backward()
    for gradient, parameter in zip(ours, model.parameters()):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-6, rtol=1e-4)


def test_padding_rows_of_the_embedding_change_nothing_and_learn_nothing():
    model = make_model()
    idx, targets = torch.randint(61, (2, 2, 16))
    logits, loss = model(idx), model(idx, targets)
    text = generate(model, idx, 5, seed=1)
    model.transformer.wte.weight.data[61:] = 50.0
    assert model.transformer.wte.weight.shape == (128, 32) and model(idx).shape == (2, 16, 61)
    assert torch.equal(model(idx), logits) and torch.equal(model(idx, targets), loss)
    assert torch.equal(generate(model, idx, 5, seed=1), text)
    model(idx, targets).backward()
    assert not model.transformer.wte.weight.grad[61:].any() and model.transformer.wte.weight.grad[:61].any()


def test_padding_rows_are_not_in_saved_weights(tmp_path):
    from safetensors import safe_open
    model = make_model()
    assert model.state_dict()['transformer.wte.weight'].shape == (61, 32)
    pretrained.save(model, str(tmp_path))
    with safe_open(tmp_path / 'model.safetensors', framework='pt') as file:
        assert file.get_tensor('transformer.wte.weight').shape == (61, 32)
    again = GPT(model.config)
    again.load_state_dict(model.state_dict())
    assert not again.transformer.wte.weight[61:].any()


def test_without_layers_it_is_a_bigram_model_that_sees_one_token_and_not_its_place():
    model = GPT(GPTConfig(block_size=16, vocab_size=61, n_layer=0, n_head=2, n_embd=32)).eval()
    idx = torch.randint(61, (1, 16))
    idx[0, 12] = idx[0, 3]
    logits = model(idx)
    torch.testing.assert_close(logits[0, 12], logits[0, 3])
    idx[0, 11] = (idx[0, 11] + 1) % 61
    torch.testing.assert_close(model(idx)[0, 12], logits[0, 12])
    assert generate(model, idx, 30, seed=0).shape == (1, 46)


def test_no_token_sees_a_later_one():
    model = make_model()
    idx = torch.randint(61, (1, 16))
    before = model(idx)
    idx[0, 9:] = (idx[0, 9:] + 1) % 61
    after = model(idx)
    torch.testing.assert_close(after[0, :9], before[0, :9])
    assert not torch.allclose(after[0, 9], before[0, 9])


@pytest.mark.parametrize('T', [1, 5, 128, 129, 300])
def test_blocked_attention_equals_the_library_in_float64(T):
    torch.manual_seed(T)
    inputs = torch.randn(3, 2, 3, T, 16, dtype=torch.float64)
    results = []
    for attend in (blocked_attention, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)):
        q, k, v = (tensor.clone().requires_grad_() for tensor in inputs)
        y = attend(q, k, v)
        y.backward(inputs[0].sin())
        results.append((y, q.grad, k.grad, v.grad))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('attention', ['auto', 'explicit'])
def test_every_way_to_attend_gives_the_same_loss_and_gradients(attention):
    idx, targets = torch.randint(61, (2, 2, 16))
    losses, gradients = [], []
    for how in ('sdpa', attention):
        model = make_model(attention=how).train()
        losses.append(model(idx, targets))
        losses[-1].backward()
        gradients.append(model.transformer.h[0].attn.c_attn.weight.grad)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def uncached(model, idx, n):
    """Greedy text by the obvious way: every token from the whole window."""
    for _ in range(n):
        window = idx[:, window_start(idx.size(1), model.config.block_size):]
        idx = torch.cat([idx, model(window)[:, -1:].argmax(dim=-1)], dim=1)
    return idx


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 40), n=st.integers(0, 40), rows=st.integers(1, 3), block_size=st.sampled_from([1, 2, 7, 16]))
def test_cached_greedy_text_is_the_uncached_text_also_past_the_block_size(length, n, rows, block_size):
    model = make_model(block_size=block_size)
    idx = torch.randint(61, (rows, length), generator=torch.Generator().manual_seed(length))
    assert torch.equal(generate(model, idx, n, temperature=0), uncached(model, idx, n))


def test_generation_equals_that_of_transformers(tmp_path):
    model = make_model(block_size=64)
    pretrained.save(model, str(tmp_path), eot=0)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    idx = torch.randint(1, 61, (1, 4))
    expected = theirs.generate(idx, max_new_tokens=60, do_sample=False, eos_token_id=None, attention_mask=torch.ones_like(idx))
    assert torch.equal(generate(model, idx, 60, temperature=0), expected)


def test_a_window_never_holds_more_than_a_block_nor_less_than_half_of_one():
    for block_size in (1, 2, 3, 16, 17):
        for length in range(1, 100):
            seen = length - window_start(length, block_size)
            assert min(length, max(1, block_size // 2)) <= seen <= block_size


def test_a_row_with_a_seed_is_written_the_same_alone_and_in_a_batch():
    model = make_model()
    idx = torch.randint(61, (4, 6))
    together = generate(model, idx, 30, seed=7)
    for row in range(4):
        assert torch.equal(generate(model, idx[row:row + 1], 30, seed=7 + row), together[row:row + 1])
    assert not torch.equal(generate(model, idx, 30, seed=8), together)


def test_a_row_that_stops_is_filled_with_its_stop_token_and_all_stopped_ends_it():
    model = make_model()
    idx = torch.randint(61, (3, 4))
    free = generate(model, idx, 40, seed=1)
    stop = free[0, 10].item()
    stopped = generate(model, idx, 40, seed=1, stop_tokens=(stop,))
    for row in range(3):
        new = free[row, 4:].tolist()
        end = new.index(stop) + 1 if stop in new else len(new)
        assert stopped[row, 4:4 + end].tolist() == new[:end][:stopped.size(1) - 4]
        assert set(stopped[row, 4 + end:].tolist()) <= {stop}
    alone = generate(model, idx[:1], 40, seed=1, stop_tokens=(stop,))
    assert alone[0, -1] == stop and (alone[0, 4:] == stop).sum() == 1


def test_generation_leaves_the_model_in_the_mode_it_was_in_and_the_random_state_alone():
    model = make_model(dropout=0.5).train()
    idx = torch.randint(61, (1, 4))
    state = torch.get_rng_state()
    first = generate(model, idx, 10, seed=1)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, generate(model, idx, 10, seed=1))


@pytest.mark.slow
def test_the_model_traces_into_one_graph_and_gives_the_same_loss():
    model = make_model(attention='sdpa')
    idx, targets = torch.randint(61, (2, 2, 16))
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(compiled(idx, targets), model(idx, targets))


@pytest.mark.parametrize('fields, words', [
    (dict(n_embd=30, n_head=4), ['n_embd=30', 'n_head=3']), (dict(n_layer=-1), ['n_layer=-1']),
    (dict(block_size=0), ['block_size=0']), (dict(dropout=1.0), ['dropout=1.0']), (dict(kernels='cuda'), ['kernels=cuda']),
    (dict(kernels='triton', n_embd=9216), ['8192', '9216', 'kernels=torch']),
    (dict(attention='flash'), ['attention=flash'])])
def test_a_shape_that_cannot_be_is_refused_by_name(fields, words):
    with pytest.raises(ValueError) as error:
        GPTConfig(**fields)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize('how, word', [(dict(temperature=-1), 'temperature'), (dict(top_k=0), 'top_k'),
                                       (dict(top_p=0.0), 'top_p'), (dict(top_p=1.5), 'top_p')])
def test_sampling_settings_out_of_range_are_refused_by_name(how, word):
    with pytest.raises(BadInput, match=word):
        generate(make_model(), torch.zeros(1, 1, dtype=torch.long), 5, **how)


def damage_config(folder, **changes):
    path = folder / 'config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_weights_that_do_not_fit_are_refused_naming_the_tensor(tmp_path):
    from safetensors.torch import load_file, save_file
    pretrained.save(make_model(), str(tmp_path))
    weights = load_file(tmp_path / 'model.safetensors')
    name = 'transformer.h.1.mlp.c_fc.weight'
    for changed, words in (({k: v for k, v in weights.items() if k != name}, ['lacks', name]),
                           ({**weights, 'transformer.h.9.x': weights[name].clone()}, ['transformer.h.9.x']),
                           ({**weights, name: weights[name][:, :5].contiguous()}, [name, '(5, 32)', '(128, 32)'])):
        save_file(changed, tmp_path / 'model.safetensors')
        with pytest.raises(BadInput) as error:
            pretrained.load_huggingface(str(tmp_path))
        assert all(word in str(error.value) for word in words)


def test_a_folder_that_is_no_gpt2_is_refused(tmp_path):
    with pytest.raises(BadInput, match='config.json'):
        pretrained.load_huggingface(str(tmp_path))
    with pytest.raises(BadInput, match='gpt2-medium'):
        pretrained.load_huggingface('gpt3')
    pretrained.save(make_model(), str(tmp_path))
    damage_config(tmp_path, activation_function='relu')
    with pytest.raises(BadInput, match='activation_function'):
        pretrained.load_huggingface(str(tmp_path))
