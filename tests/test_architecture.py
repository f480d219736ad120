"""Whether a change of what model.py computes is noticed, and nothing else is."""
import dataclasses

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

import architecture
import evaluate
import export
import model as model_py
import plot
import pretrained
import sample
import train
from bpe import Tokenizer
from configurator import configure
from kernels import linear
from model import GPT, GPTConfig
from runtime.errors import BadInput

SETTINGS = {'n_layer': 1, 'n_head': 2, 'n_embd': 16, 'block_size': 32, 'total_batch_tokens': 128, 'micro_batch': 4, 'max_steps': 2,
            'eval_tokens': 64, 'sample_interval': 0, 'device': 'cpu', 'dtype': 'float32'}


def relu_squared(x, layer):
    return F.relu(layer(x)).square()


def attention(**options):
    return lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)


def window(size):
    def causal_attention(self, q, k, v):
        ago = torch.arange(q.size(2))[:, None] - torch.arange(q.size(2))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=(ago >= 0) & (ago < size))
    return causal_attention


def parallel(self, x, attention_fn=None):
    return x + self.attn(self.ln_1(x), attention_fn) + self.mlp(self.ln_2(x))


def built_with(cls, change):
    """__init__ of a class that also changes what it has made."""
    original = cls.__init__

    def init(self, config):
        original(self, config)
        change(self, config)
    return init


def untie(model, config):
    model.lm_head = nn.Linear(config.n_embd, config.padded_vocab_size, bias=False)
    model.head = lambda x: model.lm_head(x)[..., :config.vocab_size]


CHANGES = {
    'ReLU squared': (linear, 'linear_gelu_reference', relu_squared),
    'the exact GELU': (linear, 'linear_gelu_reference', lambda x, layer: F.gelu(layer(x))),
    'RMS norm': (model_py.LayerNorm, 'forward', lambda self, x: F.rms_norm(x, x.shape[-1:], self.weight)),
    'another epsilon': (model_py.LayerNorm, 'forward', lambda self, x: self.norm(x, self.weight, self.bias, 8e-6)),
    'another scale of attention': (model_py.CausalSelfAttention, 'causal_attention', attention(scale=0.3)),
    'attention to the last 512 tokens': (model_py.CausalSelfAttention, 'causal_attention', window(512)),
    'attention to the last 1023 tokens': (model_py.CausalSelfAttention, 'causal_attention', window(1023)),
    'attention and MLP side by side': (model_py.Block, 'forward', parallel),
    'no positions': (GPT, 'embed', lambda self, idx, positions=None: self.transformer.wte(idx)),
    'capped logits': (GPT, 'head', lambda self, x: 50 * torch.tanh(F.linear(x, self.transformer.wte.weight)[..., :11] / 50)),
    'a head of its own': (GPT, '__init__', built_with(GPT, untie)),
    'a loss with a penalty': (GPT, 'loss', lambda self, x, targets: F.cross_entropy(self.head(x).flatten(0, 1), targets.flatten(),
                                                                                    label_smoothing=0.01)),
    'a number that is not used yet': (model_py.MLP, '__init__', built_with(
        model_py.MLP, lambda mlp, config: setattr(mlp, 'gate', nn.Parameter(torch.ones(1))))),
}


@pytest.mark.parametrize('name', CHANGES)
def test_a_change_of_what_the_model_computes_shows(name, monkeypatch):
    monkeypatch.setattr(*CHANGES[name])
    assert not architecture.same(architecture.fingerprint(GPTConfig()), architecture.GPT2)


def gelu_written_out(x, layer):
    h = layer(x)
    return h * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (h + 0.044715 * h ** 3))


def explicit(self, q, k, v):
    weights = (q @ k.transpose(-2, -1) / q.size(-1) ** 0.5).masked_fill(torch.ones(q.size(2), q.size(2)).triu(1) > 0, -torch.inf)
    return weights.softmax(dim=-1) @ v


def another_order(block, config):
    block._modules = dict(reversed(block._modules.items()))


@pytest.mark.parametrize('change', [
    (linear, 'linear_gelu_reference', gelu_written_out), (model_py.CausalSelfAttention, 'causal_attention', explicit),
    (model_py.Block, '__init__', built_with(model_py.Block, another_order))])
def test_other_code_that_computes_the_same_does_not_show(change, monkeypatch):
    monkeypatch.setattr(*change)
    assert architecture.same(architecture.fingerprint(GPTConfig()), architecture.GPT2)


def test_sizes_dropout_and_kernels_do_not_show_but_a_setting_of_the_architecture_does(monkeypatch):
    other = GPTConfig(n_layer=1, n_head=3, n_embd=6, block_size=5, vocab_size=7, dropout=0.5, bias=False, kernels='mixed')
    assert architecture.same(architecture.fingerprint(other), architecture.GPT2)
    WithSetting = dataclasses.make_dataclass('WithSetting', [('activation', str, 'gelu')], bases=(GPTConfig,))

    def choose(mlp, config):
        if config.activation == 'relu2':
            mlp.linear_gelu = relu_squared
    monkeypatch.setattr(model_py.MLP, '__init__', built_with(model_py.MLP, choose))
    assert architecture.same(architecture.fingerprint(WithSetting()), architecture.GPT2)
    assert not architecture.same(architecture.fingerprint(WithSetting(activation='relu2')), architecture.GPT2)


@torch.no_grad()
def test_the_constant_is_what_transformers_computes_with_the_same_parameters(tmp_path):
    ours = GPT(GPTConfig(**architecture.TINY))
    architecture.fill(ours)
    pretrained.save(ours, str(tmp_path))
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    idx = torch.arange(1024)[None] ** 2 % 11
    logits = theirs(idx).logits
    loss = F.cross_entropy(logits[0].double(), torch.cat([idx[0, 1:], idx[0, :1]]))
    n_params = sum(parameter.numel() for parameter in theirs.parameters())
    numbers = [*logits[0, [0, 1, 2, 500, 1023], 1:5].flatten().tolist(), loss.item(), float(n_params)]
    assert numbers == pytest.approx(architecture.GPT2, rel=1e-5, abs=1e-5)


def test_a_fingerprint_is_made_in_full_precision_and_leaves_that_and_random_numbers_as_they_were(monkeypatch):
    seen, forward = [], GPT.forward
    monkeypatch.setattr(GPT, 'forward', lambda *arguments: seen.append(torch.get_float32_matmul_precision()) or forward(*arguments))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('medium')
    try:
        architecture.fingerprint(GPTConfig())
        assert torch.get_float32_matmul_precision() == 'medium' and seen == ['highest', 'highest']
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(torch.rand(3), expected)


# ---- what scripts do ------------------------------------------------------------------------------------


@pytest.fixture(scope='module', autouse=True)
def no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot, 'draw', lambda *arguments: None)
        yield


def train_tiny(out_dir, data_dir, **changes):
    settings = {**SETTINGS, 'data_dir': data_dir, 'out_dir': out_dir, **changes}
    train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))


@pytest.fixture(scope='module')
def gelu_run(tmp_path_factory, data_dir):
    out_dir = tmp_path_factory.mktemp('gelu')
    train_tiny(out_dir, data_dir)
    return str(out_dir)


def run(script, **settings):
    script.main(configure(script.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))


def use(script, out_dir, tmp_path):
    (tmp_path / 'x.txt').write_text('def f(x):\n    return x\n')
    run(script, out_dir=out_dir, device='cpu', dtype='float32',
        **({'max_new_tokens': 2} if script is sample else {'tasks': 'text', 'source': tmp_path / 'x.txt'}))


@pytest.mark.parametrize('script', [sample, evaluate])
def test_a_model_that_was_changed_since_is_said_in_one_line_and_used(script, gelu_run, tmp_path, capsys, monkeypatch):
    use(script, gelu_run, tmp_path)
    assert 'warning' not in capsys.readouterr().err
    monkeypatch.setattr(*CHANGES['ReLU squared'])
    use(script, gelu_run, tmp_path)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if 'warning' in line]
    assert line == (f"warning: {gelu_run}/ckpt_0000002.pt was trained with GPT-2's architecture, and model.py has been changed "
                    f"since: its weights give other results here than they did there")


def test_a_run_is_not_resumed_with_another_model_but_its_weights_may_begin_another_run(gelu_run, tmp_path, data_dir, capsys, monkeypatch):
    monkeypatch.setattr(*CHANGES['ReLU squared'])
    with pytest.raises(BadInput, match='ckpt_0000002.pt was trained with another architecture than model.py has now.*another --out_dir') as error:
        train_tiny(gelu_run, data_dir, max_steps=4)
    assert '\n' not in str(error.value)
    train_tiny(tmp_path, data_dir, init_from=gelu_run)
    assert 'has been changed since' in capsys.readouterr().err


def test_a_changed_model_trains_and_goes_on_but_is_not_exported_as_gpt2(tmp_path, data_dir, capsys, monkeypatch):
    with monkeypatch.context() as changed:
        changed.setattr(*CHANGES['ReLU squared'])
        train_tiny(tmp_path / 'run', data_dir)
        train_tiny(tmp_path / 'run', data_dir, max_steps=4)
        use(sample, tmp_path / 'run', tmp_path)
        assert 'warning' not in capsys.readouterr().err
        with pytest.raises(BadInput, match='model.py does not compute GPT-2 any more') as error:
            run(export, out_dir=tmp_path / 'run', to=tmp_path / 'exported')
        assert '\n' not in str(error.value)
    with pytest.raises(BadInput, match='ckpt_0000004.pt was trained with another architecture, and model.py has been changed since'):
        run(export, out_dir=tmp_path / 'run', to=tmp_path / 'exported')
    assert not (tmp_path / 'exported').exists()


def test_weights_of_gpt2_in_a_changed_model_are_said_and_not_exported(tmp_path, texts, capsys, monkeypatch):
    tokenizer = Tokenizer.train(texts, 300, progress=False)
    export.export(GPT(GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=16, vocab_size=300)), tokenizer, str(tmp_path / 'hub'))
    monkeypatch.setattr(*CHANGES['ReLU squared'])
    pretrained.load(str(tmp_path / 'hub'))
    assert "hub was trained with GPT-2's architecture, and model.py has been changed since" in capsys.readouterr().err
    with pytest.raises(BadInput, match='restore model.py'):
        run(export, init_from=tmp_path / 'hub', to=tmp_path / 'exported')
    assert not (tmp_path / 'exported').exists()


def test_tables_that_the_constructor_computes_are_there_after_loading(gelu_run, monkeypatch):
    monkeypatch.setattr(GPT, '__init__', built_with(GPT, lambda model, config: model.register_buffer(
        'table', torch.arange(1000.0), persistent=False)))
    assert torch.equal(pretrained.load(gelu_run)[0].table, torch.arange(1000.0))
