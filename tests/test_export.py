import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import safetensors.torch
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import export
import pretrained
import sample
import train
from bpe import Tokenizer
from configurator import configure
from inference.engine import generate
from model import GPT, GPTConfig
from runtime.errors import BadInput

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = [dict(n_layer=3, n_head=4, n_embd=64, vocab_size=300, block_size=256),
          dict(n_layer=1, n_head=5, n_embd=40, vocab_size=384, block_size=300),
          dict(n_layer=2, n_head=1, n_embd=16, vocab_size=50257, block_size=224)]


def make_model(**fields):
    """A small model whose weights are large enough that its choices differ."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**SHAPES[0], **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
        model.transformer.wte.weight[model.config.vocab_size:] = 0
    return model.eval()


def make_theirs(shape):
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        n_positions=shape['block_size'], **{key: value for key, value in shape.items() if key != 'block_size'})).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return theirs


@pytest.fixture(scope='module')
def tokenizer(texts):
    return Tokenizer.train(texts, 300, progress=False)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tokenizer):
    """A model exported in Hugging Face's layout."""
    folder = str(tmp_path_factory.mktemp('exported'))
    export.export(make_model(), tokenizer, folder)
    return folder


def tensors_of(folder):
    """{name: its bytes} of a folder's safetensors."""
    tensors = safetensors.torch.load_file(os.path.join(folder, 'model.safetensors'))
    return {name: (tensor.dtype, tensor.shape, tensor.numpy().tobytes()) for name, tensor in tensors.items()}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- weights that travel ----------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize('shape', SHAPES)
def test_weights_go_to_transformers_and_back_with_the_same_logits_text_and_bytes(tmp_path, shape):
    theirs = make_theirs(shape)
    theirs.save_pretrained(tmp_path / 'theirs')
    ours = pretrained.load_huggingface(str(tmp_path / 'theirs')).eval()
    pretrained.save(ours, str(tmp_path / 'ours'))
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'ours').eval()
    idx = torch.randint(shape['vocab_size'], (3, shape['block_size']))
    torch.testing.assert_close(ours(idx), theirs(idx).logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(back(idx).logits, ours(idx), atol=1e-4, rtol=0)
    text = generate(ours, idx[:, :8], 200, temperature=0)
    assert text.unique().numel() > 8
    for model in (theirs, back):
        assert torch.equal(text, model.generate(idx[:, :8], attention_mask=torch.ones(3, 8), max_new_tokens=200,
                                                do_sample=False, eos_token_id=None, pad_token_id=0))
    assert tensors_of(tmp_path / 'ours') == tensors_of(tmp_path / 'theirs')


def test_saved_twice_the_files_are_the_same_to_the_last_byte(tmp_path):
    pretrained.save(make_model(), str(tmp_path / 'a'), eot=7)
    pretrained.save(pretrained.load_huggingface(str(tmp_path / 'a')), str(tmp_path / 'b'), eot=7)
    for name in ('model.safetensors', 'config.json'):
        assert sha256(tmp_path / 'a' / name) == sha256(tmp_path / 'b' / name)


def test_whoever_may_read_the_folder_may_read_the_weights(tmp_path):
    before = os.umask(0o022)
    try:
        pretrained.save(make_model(), str(tmp_path / 'a'))
    finally:
        os.umask(before)
    assert {(path.name, oct(path.stat().st_mode & 0o777)) for path in (tmp_path / 'a').iterdir()} == {
        ('config.json', '0o644'), ('model.safetensors', '0o644')}


@torch.no_grad()
@pytest.mark.parametrize('layout', ['openai', 'shards'])
def test_other_layouts_of_the_same_weights_load_too(tmp_path, layout):
    """OpenAI's weights on the hub have no prefix, and the masks of attention among them; large models are cut up."""
    theirs = make_theirs(SHAPES[0])
    theirs.save_pretrained(tmp_path, max_shard_size='100KB' if layout == 'shards' else '1GB')
    if layout == 'shards':
        assert len(list(tmp_path.glob('*.safetensors'))) > 2
    else:
        tensors = safetensors.torch.load_file(tmp_path / 'model.safetensors')
        tensors = {name.removeprefix('transformer.'): tensor for name, tensor in tensors.items()}
        for i in range(3):
            tensors[f'h.{i}.attn.bias'] = torch.ones(1, 1, 256, 256).tril()
            tensors[f'h.{i}.attn.masked_bias'] = torch.tensor(-1e4)
        tensors['lm_head.weight'] = tensors['wte.weight'].clone()
        safetensors.torch.save_file(tensors, tmp_path / 'model.safetensors')
    idx = torch.randint(300, (2, 100))
    torch.testing.assert_close(pretrained.load_huggingface(str(tmp_path)).eval()(idx), theirs(idx).logits, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_weights_load_without_transformers(folder):
    code = ('import sys; import pretrained; pretrained.load_huggingface(sys.argv[1]); '
            'sys.exit("transformers" in sys.modules)')
    assert subprocess.run([sys.executable, '-c', code, folder], cwd=ROOT, timeout=240).returncode == 0


@torch.no_grad()
def test_half_precision_weights_are_the_rounded_ones_and_load_as_float32(tmp_path, tokenizer):
    model = make_model()
    export.export(model, tokenizer, str(tmp_path), torch.bfloat16)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == torch.bfloat16
    loaded = pretrained.load_huggingface(str(tmp_path))
    for (name, ours), (_, reloaded) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert reloaded.dtype == torch.float32
        assert torch.equal(ours.bfloat16().float(), reloaded), name


# ---- nanoGPT's checkpoints --------------------------------------------------------------------------


def write_nanogpt(path, theirs, padded_vocab, prefix='', bias=True, **changes):
    """ckpt.pt as nanoGPT's train.py writes it: linear layers as nn.Linear has them, the head beside the embedding."""
    weights = {}
    for name, tensor in theirs.state_dict().items():
        if name.endswith('.bias') and not bias:
            continue
        transposed = name.endswith(('c_attn.weight', 'c_proj.weight', 'c_fc.weight'))
        weights[name] = tensor.t().contiguous() if transposed else tensor
    padding = torch.randn(padded_vocab - theirs.config.vocab_size, theirs.config.n_embd)
    weights['transformer.wte.weight'] = torch.cat([weights['transformer.wte.weight'], padding])
    weights['lm_head.weight'] = weights['transformer.wte.weight']
    for i in range(theirs.config.n_layer):  # where its PyTorch had no fused attention
        weights[f'transformer.h.{i}.attn.bias'] = torch.ones(1, 1, 32, 32).tril()
    arguments = dict(n_layer=theirs.config.n_layer, n_head=theirs.config.n_head, n_embd=theirs.config.n_embd, bias=bias,
                     block_size=theirs.config.n_positions, vocab_size=padded_vocab, dropout=0.0)
    state = {'model': {prefix + name: tensor for name, tensor in weights.items()}, 'model_args': arguments,
             'optimizer': {'state': {}, 'param_groups': []}, 'iter_num': 2000, 'best_val_loss': torch.tensor(3.1),
             'config': {'dataset': 'openwebtext', 'learning_rate': 6e-4}}
    torch.save({**state, **changes}, path)


@torch.no_grad()
@pytest.mark.parametrize('prefix', ['', '_orig_mod.'])
@pytest.mark.parametrize('bias', [True, False])
def test_a_checkpoint_of_nanogpt_gives_its_logits_without_the_padding(tmp_path, tokenizer, prefix, bias):
    theirs = make_theirs(SHAPES[0])
    if not bias:
        for name, parameter in theirs.named_parameters():
            if name.endswith('.bias'):
                parameter.zero_()
    write_nanogpt(tmp_path / 'ckpt.pt', theirs, 320, prefix, bias)
    tokenizer.save(tmp_path / 'tokenizer.json')
    model, loaded_tokenizer, _ = pretrained.load(str(tmp_path / 'ckpt.pt'))
    idx = torch.randint(300, (2, 100))
    torch.testing.assert_close(model.eval()(idx), theirs(idx).logits, atol=1e-4, rtol=0)
    assert model.config.bias == bias and loaded_tokenizer.vocab_size == 300


@torch.no_grad()
def test_a_checkpoint_of_nanogpt_with_gpt2s_padded_vocabulary_exports_to_transformers(tmp_path, test_data):
    theirs = make_theirs(SHAPES[2])
    write_nanogpt(tmp_path / 'ckpt.pt', theirs, 50304, '_orig_mod.')
    run_export(init_from=tmp_path / 'ckpt.pt', to=tmp_path / 'out')
    assert tensors_of(tmp_path / 'out')['transformer.wte.weight'][1] == (50257, 16)
    idx = torch.randint(50257, (2, 100))
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out').eval()
    torch.testing.assert_close(back(idx).logits, theirs(idx).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize('changes, message', [
    (dict(model_args=None), 'sizes in `model_args`'), (dict(model=7), 'tensors in `model`'),
    (dict(model_args={'n_layer': 3}), 'no whole number for block_size'),
    (dict(model={}), 'lacks the tensor'), (dict(model={'transformer.wte.weight': 'text'}), 'lacks the tensor')])
def test_a_damaged_checkpoint_of_nanogpt_is_refused_by_name(tmp_path, changes, message):
    write_nanogpt(tmp_path / 'ckpt.pt', make_theirs(SHAPES[0]), 320, **changes)
    with pytest.raises(BadInput, match=message) as error:
        pretrained.load(str(tmp_path / 'ckpt.pt'))
    assert 'ckpt.pt' in str(error.value) and '\n' not in str(error.value)


# ---- exported folders -------------------------------------------------------------------------------


def run_export(**changes):
    export.main(configure(export.DEFAULTS, [f'--{key}={value}' for key, value in changes.items()]))


@pytest.mark.slow
def test_transformers_runs_an_exported_model_as_it_is_with_the_text_of_sample_py(tmp_path, data_dir, capsys):
    settings = {'out_dir': tmp_path / 'run', 'data_dir': data_dir, 'n_layer': 2, 'n_head': 2, 'n_embd': 32, 'block_size': 64,
                'total_batch_tokens': 1024, 'max_steps': 30, 'warmup_steps': 2, 'learning_rate': 1e-2, 'eval_tokens': 640,
                'sample_interval': 0, 'device': 'cpu', 'dtype': 'float32'}
    train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))
    run_export(out_dir=tmp_path / 'run', to=tmp_path / 'out')
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {
        'config.json', 'generation_config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'}
    pipeline = transformers.pipeline('text-generation', str(tmp_path / 'out'))
    prompt = 'def walk(top):\n    """é '
    theirs = pipeline(prompt, max_new_tokens=30, do_sample=False)[0]['generated_text']
    capsys.readouterr()
    sample.main(configure(sample.DEFAULTS, [f'--out_dir={tmp_path / "run"}', f'--prompt={prompt}', '--temperature=0',
                                            '--max_new_tokens=30', '--device=cpu', '--dtype=float32']))
    assert capsys.readouterr().out == theirs + '\n'
    assert len(theirs) > len(prompt)
    to_the_end = pipeline(prompt, do_sample=False)[0]['generated_text']  # its default would be longer than the context
    assert len(pipeline.tokenizer(to_the_end)['input_ids']) <= 64 and to_the_end.startswith(theirs)


def test_the_exported_tokenizer_is_the_same_in_transformers(folder, tokenizer, texts):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in [*texts[:20], ' a , b .  don \'t \n\n', 'é 語 <|endoftext|>', '']:
        ids = theirs(text)['input_ids']
        assert ids == tokenizer.encode(text, allowed_special=('<|endoftext|>',))
        assert theirs.decode(ids) == text
    assert (theirs.eos_token_id, theirs.bos_token_id, theirs.vocab_size) == (tokenizer.eot, tokenizer.eot, 300)


def test_transformers_stops_an_exported_model_at_the_end_of_a_document(tmp_path, tokenizer):
    model = make_model()
    with torch.no_grad():  # what comes next is always <|endoftext|>
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(model.transformer.wte.weight[tokenizer.eot])
        model.transformer.wte.weight[tokenizer.eot] *= 3
    export.export(model, tokenizer, str(tmp_path))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    text = theirs.generate(torch.tensor([[5, 6]]), attention_mask=torch.ones(1, 2), max_new_tokens=20, do_sample=False)
    assert text.tolist() == [[5, 6, tokenizer.eot]]


@torch.no_grad()
def test_an_exported_model_loads_here_by_its_folder_with_its_tokenizer(folder, tokenizer):
    model, loaded_tokenizer, _ = pretrained.load(folder, dropout=0.25)
    idx = torch.randint(300, (2, 50))
    assert torch.equal(model.eval()(idx), make_model()(idx))
    assert model.config.dropout == 0.25 and loaded_tokenizer.encode('def x') == tokenizer.encode('def x')


def test_export_refuses_to_write_into_a_run_or_over_a_file(tmp_path, folder):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'ckpt_0000001.pt').touch()
    (tmp_path / 'file').touch()
    for to, message in (('run', 'folder of a run'), ('file', 'is a file')):
        with pytest.raises(BadInput, match=message):
            run_export(init_from=folder, to=tmp_path / to)
    with pytest.raises(BadInput, match='--to=DIR'):
        run_export(init_from=folder)


# ---- bad input --------------------------------------------------------------------------------------


class Planted:
    """Unpickled by a program that trusts its input, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


@pytest.mark.parametrize('keys', [('model_args', 'model'), ('config', 'step', 'model'), ('x',)])
def test_a_pickle_with_code_in_it_is_refused_with_one_line_and_not_run(tmp_path, keys):
    torch.save({key: Planted(tmp_path / 'planted') for key in keys}, tmp_path / 'ckpt.pt')
    with pytest.raises(BadInput, match='ckpt.pt holds more than tensors and plain values, and is not loaded') as error:
        pretrained.load(str(tmp_path / 'ckpt.pt'))
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'planted').exists()
    torch.load(tmp_path / 'ckpt.pt', weights_only=False)
    assert (tmp_path / 'planted').exists(), 'the file would have done something'


@pytest.mark.slow
def test_bad_weights_end_the_script_with_one_line_and_nothing_written(tmp_path, folder):
    torch.save({'model': Planted(tmp_path / 'planted'), 'model_args': {}}, tmp_path / 'ckpt.pt')
    (tmp_path / 'empty').mkdir()
    for source, words in ((tmp_path / 'ckpt.pt', 'holds more than tensors'), (tmp_path / 'empty', 'no config.json')):
        ended = subprocess.run([sys.executable, ROOT / 'export.py', f'--init_from={source}', f'--to={tmp_path / "out"}'],
                               capture_output=True, text=True, timeout=240)
        assert (ended.returncode, ended.stdout, ended.stderr.count('\n')) == (2, '', 1), ended.stderr
        assert ended.stderr.startswith(f'export.py: {source}') and words in ended.stderr
        assert not (tmp_path / 'out').exists() and not (tmp_path / 'planted').exists()


def change_tensor(folder, name, change):
    path = os.path.join(folder, 'model.safetensors')
    tensors = safetensors.torch.load_file(path)
    changed = change(tensors.pop(name, None))
    safetensors.torch.save_file(tensors if changed is None else {**tensors, name: changed}, path)


def change_config(folder, **changes):
    path = pathlib.Path(folder, 'config.json')
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


FIRST = 'transformer.h.0.attn.c_attn.weight'


@pytest.mark.parametrize('damage, message', [
    (lambda f: os.remove(f + '/model.safetensors'), 'has no model.safetensors'),
    (lambda f: change_tensor(f, FIRST, lambda tensor: None), f'lacks the tensor {FIRST}'),
    (lambda f: change_tensor(f, 'transformer.surplus', lambda _: torch.ones(2)), 'transformer.surplus'),
    (lambda f: change_tensor(f, FIRST, lambda tensor: tensor.t().contiguous()), rf'{FIRST} has shape \(64, 192\).*\(192, 64\)'),
    (lambda f: change_config(f, n_layer=4), 'lacks the tensor transformer.h.3'),
    (lambda f: change_config(f, n_head=7), 'n_embd=64 should be a multiple of n_head=7'),
    (lambda f: change_config(f, vocab_size='300'), "vocab_size is '300'"),
    (lambda f: change_config(f, activation_function='relu'), "activation_function is 'relu'"),
    (lambda f: pathlib.Path(f, 'config.json').write_text('{'), 'is not JSON'),
    (lambda f: pathlib.Path(f, 'config.json').write_text('[]'), 'config.json'),
    (lambda f: pathlib.Path(f, 'model.safetensors').write_bytes(b'\xff' * 100), 'cannot be read'),
    (lambda f: os.remove(f + '/tokenizer.json'), 'vocabulary of 300 tokens, but its tokenizer has 50257')])
def test_a_damaged_folder_is_one_line_that_names_what_is_wrong(tmp_path, folder, damage, message, request):
    if 'tokenizer' in message:
        request.getfixturevalue('test_data')  # GPT-2's own is what stands in
    copy = str(tmp_path / 'copy')
    subprocess.run(['cp', '-r', folder, copy], check=True)
    damage(copy)
    with pytest.raises(BadInput, match=message) as error:
        pretrained.load(copy)
    assert '\n' not in str(error.value) and copy in str(error.value)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1, exclude_max=True), flips=st.lists(st.integers(0, 2000), max_size=3))
def test_whatever_is_wrong_with_a_file_of_weights_it_is_refused_or_loads(tmp_path, folder, cut, flips):
    data = bytearray(pathlib.Path(folder, 'model.safetensors').read_bytes())
    for place in flips:
        data[place] ^= 0x11
    if not flips:
        data = data[:int(cut * len(data))]
    (tmp_path / 'model.safetensors').write_bytes(data)
    (tmp_path / 'config.json').write_bytes(pathlib.Path(folder, 'config.json').read_bytes())
    try:
        pretrained.load_huggingface(str(tmp_path))
    except BadInput as error:
        assert '\n' not in str(error)
    else:
        assert flips, 'a file that was cut short must not load'


@pytest.mark.parametrize('name, message', [
    ('gpt2-huge', 'no published GPT-2 of that name; there are gpt2, gpt2-medium, gpt2-large, gpt2-xl'),
    ('missing.pt', 'does not exist'), ('some/folder', 'does not exist')])
def test_a_model_that_is_nowhere_is_refused_by_name(name, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        pretrained.load(name)
