"""The GGUF file: read back by the gguf package, and run by llama.cpp where llama_cpp is installed (and CTranslate2 on the folder)."""
import dataclasses
import importlib.util

import pytest
import torch
from conftest import run_script
from test_export import make_model

import export
import gguf_file
import pretrained
from bpe import EOT, Tokenizer
from chat_template import JINJA, with_chat_tokens
from inference.engine import Engine, Request
from model import GPT, GPTConfig
from runtime.errors import BadInput

gguf = pytest.importorskip('gguf')


@pytest.fixture(scope='module')
def tokenizer(texts):
    return Tokenizer.train(texts, 300, progress=False)


def read(path):
    """(fields by name, tensors by name, dequantized)"""
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type)) for tensor in reader.tensors}
    return {name: field.contents() for name, field in reader.fields.items()}, tensors


@pytest.mark.parametrize('dtype, error', [('float32', 0), ('float16', 1e-3), ('bfloat16', 8e-3), ('q8_0', 1 / 127)])
@pytest.mark.parametrize('bias', [True, False])
def test_the_file_holds_every_weight_as_precisely_as_its_type(tmp_path, tokenizer, dtype, error, bias):
    model = make_model(bias=bias)
    gguf_file.save(model, tokenizer, str(tmp_path / 'model.gguf'), dtype)
    fields, tensors = read(tmp_path / 'model.gguf')
    state = model.state_dict()
    assert len(tensors) == 2 + 3 * 12 + 2
    pairs = {'token_embd.weight': state['transformer.wte.weight'][:300], 'position_embd.weight': state['transformer.wpe.weight'],
             'blk.2.attn_qkv.weight': state['transformer.h.2.attn.c_attn.weight'],
             'blk.0.ffn_down.weight': state['transformer.h.0.mlp.c_proj.weight'],
             'blk.1.ffn_norm.weight': state['transformer.h.1.ln_2.weight'],
             'output_norm.bias': state['transformer.ln_f.bias'] if bias else torch.zeros(64)}
    for name, expected in pairs.items():
        exact = expected.dim() == 1 or name.startswith('position')
        largest = expected.abs().amax(dim=-1, keepdim=True)
        assert ((tensors[name] - expected).abs() <= (0 if exact else error * largest)).all(), name
    assert fields['general.architecture'] == 'gpt2' and fields['gpt2.context_length'] == 256
    assert (fields['gpt2.block_count'], fields['gpt2.attention.head_count'], fields['gpt2.embedding_length']) == (3, 4, 64)


def test_its_tokenizer_is_ours(tmp_path, tokenizer):
    gguf_file.save(make_model(), tokenizer, str(tmp_path / 'model.gguf'))
    fields, _ = read(tmp_path / 'model.gguf')
    assert fields['tokenizer.ggml.pre'] == 'gpt-2' and len(fields['tokenizer.ggml.tokens']) == 300
    assert fields['tokenizer.ggml.tokens'][tokenizer.eot] == EOT
    assert [fields['tokenizer.ggml.token_type'][number] for number in (0, tokenizer.eot)] == [1, 3]
    assert fields['tokenizer.ggml.eos_token_id'] == tokenizer.eot and len(fields['tokenizer.ggml.merges']) == 300 - 257
    assert 'tokenizer.chat_template' not in fields


def test_a_chat_model_brings_its_template_and_the_end_of_an_answer(tmp_path, tokenizer):
    chatting = with_chat_tokens(tokenizer)
    gguf_file.save(make_model(vocab_size=chatting.vocab_size), chatting, str(tmp_path / 'model.gguf'))
    fields, _ = read(tmp_path / 'model.gguf')
    assert fields['tokenizer.chat_template'] == JINJA
    assert fields['tokenizer.ggml.tokens'][fields['tokenizer.ggml.eot_token_id']] == '<|end|>'


def test_what_the_format_cannot_hold_is_refused_and_nothing_is_left(tmp_path, tokenizer, monkeypatch):
    path = tmp_path / 'model.gguf'
    with pytest.raises(BadInput, match='multiple of 32.*--dtype=float16'):
        gguf_file.save(make_model(n_embd=40, n_head=5), tokenizer, str(path), 'q8_0')
    with pytest.raises(BadInput, match='without layers'):
        gguf_file.save(GPT(GPTConfig(n_layer=0, n_head=1, n_embd=8, vocab_size=300, block_size=8)), tokenizer, str(path))
    monkeypatch.setattr(pretrained.architecture, 'GPT2', [0.0])
    with pytest.raises(BadInput, match='does not compute GPT-2 any more'):
        gguf_file.save(make_model(), tokenizer, str(path))
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(BadInput, match='pip install gguf'):
        gguf_file.save(make_model(), tokenizer, str(path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('flags, words', [
    (['--format=gguf'], '--to=NAME.gguf names the file'),
    (['--format=gguf', '--to={folder}'], 'is a folder; name the file'),
    (['--dtype=q8_0', '--to={folder}/x'], 'is for --format=gguf'),
    (['--to={folder}/x.gguf'], 'is the name of a GGUF file; add --format=gguf'),
])
def test_wrong_flags_are_one_line(tmp_path, flags, words, capsys):
    assert run_script('export.py', *(flag.format(folder=tmp_path) for flag in flags)) == 2
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == 1


def test_a_gguf_file_is_not_loaded_here_and_the_line_says_whose_it_is(tmp_path):
    (tmp_path / 'model.gguf').write_bytes(b'GGUF')
    with pytest.raises(BadInput, match='a file for llama.cpp'):
        pretrained.load(str(tmp_path / 'model.gguf'))


def make_decided_model(**fields):
    """One whose likeliest token is far ahead of the next, so that no rounding of another program matters."""
    model = make_model(**fields)
    with torch.no_grad():
        model.transformer.wte.weight *= 4
    return model


def is_our_text(written, model, ids):
    """Whether these 24 tokens are ours; a different one is, too, where ours was hardly likelier (llama.cpp has GELU from a table)."""
    engine = Engine(model, max_batch=1)
    (sequence,) = engine.add(Request(ids, len(written), temperature=0, logprobs=2))
    while engine.n_running:
        engine.step()
    for theirs, ours, (_, likeliest) in zip(written, sequence.tokens, sequence.logprobs, strict=True):
        if theirs != ours:
            return theirs == likeliest[1][0] and likeliest[0][1] - likeliest[1][1] < 0.1
    return len(written) == 24


@pytest.fixture(params=['tiny', 'demo', pytest.param('124M', marks=pytest.mark.long)])
def decided(request, tokenizer):
    """(a decided model, its tokenizer): a tiny one, one of make demo's shape, and one of GPT-2's shape and vocabulary."""
    if request.param == '124M':
        return make_decided_model(**dataclasses.asdict(GPTConfig())), Tokenizer.gpt2()
    return make_decided_model(**{'tiny': {}, 'demo': dict(n_layer=4, n_head=4, n_embd=256, block_size=256)}[request.param]), tokenizer


@pytest.mark.skipif(importlib.util.find_spec('llama_cpp') is None, reason='llama_cpp is not installed')
def test_llama_cpp_writes_our_text_and_cuts_words_as_we_do(tmp_path, decided, texts):
    from llama_cpp import Llama
    (model, tokenizer), path = decided, str(tmp_path / 'model.gguf')
    gguf_file.save(model, tokenizer, path)
    theirs = Llama(path, n_ctx=256, verbose=False, n_threads=1, type_k=0, type_v=0)  # 0: float32
    for text in texts[:10]:
        ids = tokenizer.encode(text[:60])
        assert theirs.tokenize(text[:60].encode(), add_bos=False, special=False) == ids
        theirs.reset()
        written = []
        for token in theirs.generate(ids, temp=0.0, repeat_penalty=1.0):
            written.append(token)
            if len(written) == 24:
                break
        assert is_our_text(written, model, ids)


@pytest.mark.skipif(importlib.util.find_spec('ctranslate2') is None, reason='ctranslate2 is not installed')
def test_ctranslate2_writes_our_text_from_the_folder(tmp_path, decided, texts):
    import ctranslate2
    model, tokenizer = decided
    export.export(model, tokenizer, str(tmp_path / 'folder'))
    ctranslate2.converters.TransformersConverter(str(tmp_path / 'folder')).convert(str(tmp_path / 'theirs'))
    generator = ctranslate2.Generator(str(tmp_path / 'theirs'), device='cpu', intra_threads=1)
    words = pretrained.load_tokenizer(str(tmp_path / 'folder'))
    assert words.tokens == tokenizer.tokens
    import transformers
    names = transformers.AutoTokenizer.from_pretrained(str(tmp_path / 'folder'))
    for text in texts[:10]:
        ids = tokenizer.encode(text[:60])
        (result,) = generator.generate_batch([names.convert_ids_to_tokens(ids)], max_length=24, sampling_topk=1,
                                             include_prompt_in_result=False, end_token=[])
        assert is_our_text(result.sequences_ids[0], model, ids)


def test_a_decided_model_is_decided():
    model = make_decided_model()
    engine = Engine(model, max_batch=1)
    (sequence,) = engine.add(Request([1, 2, 3], 20, temperature=0, logprobs=2))
    while engine.n_running:
        engine.step()
    gaps = [likeliest[0][1] - likeliest[1][1] for _, likeliest in sequence.logprobs]
    assert min(gaps) > 0.01
