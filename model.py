"""GPT-2: the architecture, its weights in and out.

    from model import GPT, GPTConfig
    model = GPT(GPTConfig(n_layer=6))
    loss = model(idx, targets)                    # (B, T), (B, T) -> scalar
    text = model.generate(idx, max_new_tokens=50, temperature=0.8, seed=1)
    model = GPT.from_pretrained('gpt2')           # OpenAI's weights, or a folder in Hugging Face's layout

The model is the one of Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section
2.3: pre-norm Transformer decoder blocks, learned positions, tanh-GELU, the output head tied to the token
embedding. This file knows nothing about text, tokenizers, data files, optimizers or checkpoints.
"""
import json
import os
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from runtime.errors import BadInput
from runtime.files import make_folder, atomic_write, write_json
from inference.engine import Engine, Request
from kernels import attention, cross_entropy, layer_norm, softmax

PUBLISHED_SIZES = {  # (n_layer, n_head, n_embd), from table 2 of the paper; block 1024 and 50,257 tokens for all
    'gpt2': (12, 12, 768), 'gpt2-medium': (24, 16, 1024), 'gpt2-large': (36, 20, 1280), 'gpt2-xl': (48, 25, 1600)}

KERNELS = 'torch', 'triton'
ATTENTIONS = 'auto', 'sdpa', 'explicit'


@dataclass
class GPTConfig:
    block_size: int = 1024
    vocab_size: int = 50257
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True  # in the linear layers and layer norms, as GPT-2 has it
    kernels: str = 'torch'  # or 'triton': our fused kernels
    attention: str = 'auto'  # or 'sdpa': the library's, 'explicit': with the whole (T, T) matrix of weights in memory

    def __post_init__(self):
        for name, words in (('kernels', KERNELS), ('attention', ATTENTIONS)):
            if getattr(self, name) not in words:
                raise BadInput(f'{name}={getattr(self, name)} should be one of {", ".join(words)}')
        for name in ('block_size', 'vocab_size', 'n_head', 'n_embd'):
            if getattr(self, name) < 1:
                raise BadInput(f'{name}={getattr(self, name)} should be at least 1')
        if self.n_layer < 0:
            raise BadInput(f'n_layer={self.n_layer} should be 0 (a bigram model) or more')
        if not 0 <= self.dropout < 1:
            raise BadInput(f'dropout={self.dropout} should be at least 0 and below 1')
        if self.n_embd % self.n_head:
            fitting = [n for n in range(1, self.n_embd + 1) if self.n_embd % n == 0]
            nearest = min(fitting, key=lambda n: abs(n - self.n_head))
            raise BadInput(f'n_embd={self.n_embd} does not divide by n_head={self.n_head}; n_head={nearest} does')

    @property
    def padded_vocab_size(self):
        """Rows of the embedding in memory: matrix units want multiples of 128."""
        return -(-self.vocab_size // 128) * 128


class LayerNorm(nn.Module):
    """Adds an update to the residual stream and normalizes the sum, so that one kernel may do both at once."""

    def __init__(self, config):
        super().__init__()
        self.add_norm = layer_norm.add_layer_norm if config.kernels == 'triton' else layer_norm.add_layer_norm_reference
        self.norm = layer_norm.layer_norm if config.kernels == 'triton' else layer_norm.layer_norm_reference
        self.weight = nn.Parameter(torch.ones(config.n_embd))
        self.bias = nn.Parameter(torch.zeros(config.n_embd)) if config.bias else None

    def forward(self, residual, update=None):
        """(B, T, C), (B, T, C) or None -> the normalized sum and the sum itself, (B, T, C) each."""
        if update is None:
            return self.norm(residual, self.weight, self.bias, 1e-5), residual
        return self.add_norm(residual, update, self.weight, self.bias, 1e-5)


class CausalSelfAttention(nn.Module):

    def __init__(self, config):
        super().__init__()
        self.n_head, self.dropout, self.attention = config.n_head, config.dropout, config.attention
        self.softmax = softmax.causal_softmax if config.kernels == 'triton' else softmax.causal_softmax_reference
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)  # q, k, v in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x, mask=None, attend=None):
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, nh, T, hd) each
        y = attend(q, k, v) if attend else self.attend(q, k, v, mask)
        return F.dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, C)), self.dropout, self.training)

    def attend(self, q, k, v, mask=None):
        """softmax(q kᵀ / sqrt(hd)) v: T queries that each see the keys up to their own, or those that a mask
        (B, 1, T, T) allows."""
        dropout = self.dropout if self.training else 0.0
        if mask is not None:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        if self.attention == 'explicit':
            weights = self.softmax(q @ k.transpose(-2, -1), q.size(-1) ** -0.5)  # (B, nh, T, T)
            return F.dropout(weights, dropout) @ v
        if self.attention == 'auto' and q.device.type == 'cpu' and torch.is_grad_enabled() and not dropout:
            return attention.blocked_attention(q, k, v)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)


class MLP(nn.Module):

    def __init__(self, config):
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x):
        x = F.gelu(self.c_fc(x), approximate='tanh')  # (B, T, 4C)
        return F.dropout(self.c_proj(x), self.dropout, self.training)


class Block(nn.Module):

    def __init__(self, config):
        super().__init__()
        self.ln_1 = LayerNorm(config)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = LayerNorm(config)
        self.mlp = MLP(config)

    def forward(self, residual, update, mask=None, attend=None):
        """The stream and the last layer's update, not yet added -> the same, one layer on; (B, T, C) each."""
        x, residual = self.ln_1(residual, update)
        x, residual = self.ln_2(residual, self.attn(x, mask, attend))
        return residual, self.mlp(x)


class GPT(nn.Module):

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.activation_checkpointing = False  # recompute blocks in the backward pass instead of keeping what is in them
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(config.padded_vocab_size, config.n_embd),
            wpe=nn.Embedding(config.block_size, config.n_embd),
            h=nn.ModuleList(Block(config) for _ in range(config.n_layer)),
            ln_f=LayerNorm(config),
        ))
        self.init_weights()
        self.register_state_dict_post_hook(drop_padding)
        self.register_load_state_dict_pre_hook(add_padding)

    @torch.no_grad()
    def init_weights(self):
        """N(0, 0.02); residual projections smaller by 1/sqrt(2·n_layer), so that the stream's variance does not
        grow with depth (section 2.3 of the paper). The padding rows are zero and never get a gradient."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = (2 * self.config.n_layer) ** -0.5 if name.endswith('c_proj.weight') else 1.0
                nn.init.normal_(parameter, std=0.02 * scale)
            elif name.endswith('bias'):
                nn.init.zeros_(parameter)
        self.transformer.wte.weight[self.config.vocab_size:] = 0
        if self.config.n_layer == 0:  # a bigram model: what follows a token does not depend on where it stands
            self.transformer.wpe.weight.zero_().requires_grad_(False)

    def forward(self, idx, targets=None):
        """(B, T) int64 -> logits (B, T, vocab_size); with targets (B, T), the mean loss over those that are not -1."""
        x = self.hidden(idx)  # (B, T, C)
        return self.head(x) if targets is None else self.loss(x, targets)

    def hidden(self, idx, positions=None, mask=None, attend=None):
        """(B, T) tokens -> what the head sees, (B, T, C).

        positions (B, T) and mask (B, 1, T, T) say where each token stands and which others it sees, where that is not
        one text from left to right: several continuations of the same beginning in one row, for example.
        attend: a function for each layer that takes the place of its attention, (B, nh, T, hd) queries, keys and
        values -> the same; generation attends with it to keys and values that it has kept.
        """
        T = idx.size(1)
        if positions is None and T > self.config.block_size:
            raise ValueError(f'{T} tokens do not fit into block_size={self.config.block_size}')
        places = self.transformer.wpe.weight[:T] if positions is None else self.transformer.wpe(positions)
        x = self.transformer.wte(idx) + places
        residual, update = F.dropout(x, self.config.dropout, self.training), None
        for i, block in enumerate(self.transformer.h):
            if self.activation_checkpointing and self.training:
                residual, update = checkpoint(block, residual, update, use_reentrant=False)
            else:
                residual, update = block(residual, update, mask, attend[i] if attend else None)
        x, _ = self.transformer.ln_f(residual, update)
        return x

    def head(self, x):
        """(..., C) -> logits (..., vocab_size)"""
        return F.linear(x, self.transformer.wte.weight)[..., :self.config.vocab_size]

    def loss(self, x, targets):
        """(B, T, C) hidden states and (B, T) targets -> scalar mean cross entropy in nats."""
        fused = self.config.kernels == 'triton'
        head_and_loss = cross_entropy.linear_cross_entropy if fused else cross_entropy.linear_cross_entropy_torch
        return head_and_loss(x, self.transformer.wte.weight, targets, self.config.vocab_size)

    def n_params(self):
        """Number of parameters as published: tied head counted once, padding not at all."""
        padding = (self.config.padded_vocab_size - self.config.vocab_size) * self.config.n_embd
        return sum(p.numel() for p in self.parameters()) - padding

    def flops_per_token(self):
        """Floating-point operations of forward and backward per token: 6 for each weight that multiplies, and
        12·n_layer·n_embd·block_size for attention (Chowdhery et al. 2022, "PaLM", appendix B)."""
        config = self.config
        matrices = sum(p.numel() for p in self.transformer.h.parameters() if p.dim() == 2)
        head = config.vocab_size * config.n_embd
        return 6 * (matrices + head) + 12 * config.n_layer * config.n_embd * config.block_size

    def generate(self, idx, max_new_tokens, temperature=1.0, top_k=None, top_p=None, seed=None, stop_tokens=()):
        """Continues (B, T) tokens by up to max_new_tokens -> (B, T + new). See generation.py for what the settings mean.

        Row r draws from a generator of its own seeded with seed + r. A row that has written a stop token is filled up
        with it; generation ends when all rows have.
        """
        new = list(self.stream(idx, max_new_tokens, temperature, top_k, top_p, seed, stop_tokens))
        return torch.cat([idx, *(column[:, None] for column in new)], dim=1)

    def stream(self, idx, max_new_tokens, temperature=1.0, top_k=None, top_p=None, seed=None, stop_tokens=()):
        """Yields the next token of every row, (B,) int64, up to max_new_tokens times, as `generate` does."""
        if idx.dim() != 2 or idx.numel() == 0:
            raise BadInput(f'a prompt of shape {tuple(idx.shape)} should be (B, T) with at least one token')
        engine = Engine(self, max_batch=len(idx))
        sequences = [engine.add(Request(row, max_new_tokens, temperature, top_k, top_p,
                                        None if seed is None else seed + r, tuple(stop_tokens)))[0]
                     for r, row in enumerate(idx.tolist())]
        for _ in range(max_new_tokens):
            if not engine.step():
                return
            yield torch.tensor([sequence.tokens[-1] for sequence in sequences], device=idx.device)

    def crop_block_size(self, block_size):
        """Gives up the positions from block_size on, for training and generation with a shorter context."""
        self.config.block_size = block_size
        self.transformer.wpe.weight = nn.Parameter(self.transformer.wpe.weight[:block_size].detach().clone())
        self.transformer.wpe.num_embeddings = block_size

    @torch.no_grad()
    def crop_vocab(self, vocab_size):
        """Gives up the tokens from vocab_size on, which are another program's padding."""
        self.config.vocab_size = vocab_size
        weight = torch.zeros(self.config.padded_vocab_size, self.config.n_embd)
        weight[:vocab_size] = self.transformer.wte.weight[:vocab_size]
        self.transformer.wte = nn.Embedding.from_pretrained(weight, freeze=False)

    @classmethod
    def from_pretrained(cls, name, **overrides):
        """A model from OpenAI's weights ('gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl', fetched from the hub) or
        from a folder with config.json and model.safetensors, both in Hugging Face's GPT-2 layout.

        overrides: fields of GPTConfig that hold no weights (dropout, kernels). Files are mapped into memory, so that
        the weights are there once. Raises BadInput naming a tensor that is missing, too many, or of another shape.
        """
        folder = name if os.path.isdir(name) else download(name)
        config = read_config(os.path.join(folder, 'config.json'), overrides)
        with torch.device('meta'):
            model = cls(config)
        return load_weights(model, folder)

    def save_pretrained(self, folder, eot=None, dtype=None):
        """Writes config.json and model.safetensors as transformers.GPT2LMHeadModel reads them.

        eot: id of the token that ends a document, for transformers to start and stop at.
        dtype: of the weights in the file, if not that of the model.
        """
        from safetensors.torch import save_file
        make_folder(folder)
        tensors = {}
        for name, tensor in self.state_dict().items():
            tensor = (tensor.t() if is_conv1d(name) else tensor).to('cpu', dtype)
            tensors[name] = tensor.contiguous()
            if not self.config.bias and name.endswith('.weight') and not name.endswith(('wte.weight', 'wpe.weight')):
                tensors[name.replace('.weight', '.bias')] = torch.zeros(tensor.size(-1), dtype=tensor.dtype)
        config = {
            'model_type': 'gpt2', 'architectures': ['GPT2LMHeadModel'], 'activation_function': 'gelu_new',
            'n_positions': self.config.block_size, 'n_ctx': self.config.block_size,
            'vocab_size': self.config.vocab_size, 'n_layer': self.config.n_layer, 'n_head': self.config.n_head,
            'n_embd': self.config.n_embd, 'layer_norm_epsilon': 1e-5, 'initializer_range': 0.02,
            'embd_pdrop': self.config.dropout, 'attn_pdrop': self.config.dropout, 'resid_pdrop': self.config.dropout,
            'bos_token_id': eot, 'eos_token_id': eot, 'tie_word_embeddings': True,
            'torch_dtype': str(tensors['transformer.wte.weight'].dtype).removeprefix('torch.'),
        }
        with atomic_write(os.path.join(folder, 'model.safetensors')) as file:
            save_file(tensors, file.name, metadata={'format': 'pt'})
            with open(file.name, 'rb') as written:  # another file than the one opened, which only its owner could read
                os.chmod(file.name, os.fstat(file.fileno()).st_mode & 0o777)
                os.fsync(written.fileno())
        write_json(os.path.join(folder, 'config.json'), config)


def drop_padding(model, state, prefix, _):
    """Saved weights have vocab_size rows."""
    key = prefix + 'transformer.wte.weight'
    state[key] = state[key][:model.config.vocab_size]


def add_padding(model, state, prefix, *_):
    """Loaded weights get their padding rows back, as zeros."""
    key = prefix + 'transformer.wte.weight'
    rows = model.config.padded_vocab_size - model.config.vocab_size
    if key in state and state[key].size(0) == model.config.vocab_size and rows:
        state[key] = F.pad(state[key], (0, 0, 0, rows))


def is_conv1d(name):
    """Whether Hugging Face's GPT-2 keeps this matrix transposed, as (in, out)."""
    return name.endswith(('c_attn.weight', 'c_proj.weight', 'c_fc.weight'))


def download(name):
    """The folder of a published model, fetched from the hub on first use."""
    if name not in PUBLISHED_SIZES:
        raise BadInput(f'no folder {name!r}, and no published GPT-2 of that name; there are {", ".join(PUBLISHED_SIZES)}')
    from huggingface_hub import snapshot_download
    try:
        return snapshot_download(f'openai-community/{name}', allow_patterns=['config.json', '*.safetensors'])
    except OSError as error:  # what requests, httpx and the hub's own errors have in common
        raise BadInput(f'{name} could not be fetched from the hub: {type(error).__name__}; '
                       f'check the network, or name a folder with config.json and model.safetensors') from error


def read_config(path, overrides):
    """GPTConfig from Hugging Face's config.json; refuses variants of GPT-2 that this model is not."""
    try:
        with open(path, encoding='utf-8') as file:
            config = json.load(file)
        sizes = {ours: config[theirs] for ours, theirs in (
            ('block_size', 'n_positions'), ('vocab_size', 'vocab_size'), ('n_layer', 'n_layer'), ('n_head', 'n_head'),
            ('n_embd', 'n_embd'))}
    except FileNotFoundError:
        raise BadInput(f'{os.path.dirname(path)} has no config.json; a folder saved by transformers or export.py has') from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise BadInput(f'{path} is not JSON') from None
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path} has no {error}, as a GPT-2's has") from None
    for key, value in sizes.items():
        if type(value) is not int:
            raise BadInput(f'{path}: {key} is {value!r}, but should be a whole number')
    expected = {'model_type': 'gpt2', 'activation_function': 'gelu_new', 'layer_norm_epsilon': 1e-5,
                'scale_attn_weights': True, 'scale_attn_by_inverse_layer_idx': False, 'tie_word_embeddings': True}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise BadInput(f'{path}: {key} is {config[key]!r}, but GPT-2 has {value!r}')
    if config.get('n_inner') not in (None, 4 * sizes['n_embd']):
        raise BadInput(f'{path}: n_inner is {config["n_inner"]!r}, but GPT-2 has 4 times n_embd')
    try:
        return GPTConfig(**{**sizes, 'bias': True, **overrides})
    except BadInput as error:
        raise BadInput(f'{path}: {error}') from None


def load_weights(model, folder):
    """Fills a model made on the meta device from the safetensors of a folder in Hugging Face's layout."""
    from safetensors import SafetensorError, safe_open
    state = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework='pt') as file:
                for key in file.keys():
                    name = key if key.startswith(('transformer.', 'lm_head.')) else 'transformer.' + key
                    tensor = file.get_tensor(key)  # not read yet: a view of the file
                    state[name] = tensor.t() if is_conv1d(name) and tensor.dim() == 2 else tensor
        except FileNotFoundError:
            raise BadInput(f'{folder} has no {os.path.basename(path)}') from None
        except (SafetensorError, OSError) as error:
            raise BadInput(f'{path} cannot be read: {error}') from None
    return fill(model, state, folder)


def weight_files(folder):
    """Paths of a folder's safetensors: one, or those that its index names."""
    index = os.path.join(folder, 'model.safetensors.index.json')
    if os.path.exists(os.path.join(folder, 'model.safetensors')) or not os.path.exists(index):
        return [os.path.join(folder, 'model.safetensors')]
    try:
        with open(index, encoding='utf-8') as file:
            names = sorted(set(json.load(file)['weight_map'].values()))
        return [os.path.join(folder, os.path.basename(name)) for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f'{index} is not an index of safetensors ({type(error).__name__}: {error})') from None


def fill(model, state, source):
    """Gives a model the tensors of a state dict with its own names and shapes. Raises BadInput naming what differs.

    Leaves out what is no weight: the head, which is the embedding, and the masks of attention.
    """
    state = {name: tensor for name, tensor in state.items()
             if name != 'lm_head.weight' and not name.endswith(('.attn.bias', '.attn.masked_bias'))}
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(wanted.keys() | state.keys(), key=str):
        if name not in state:
            raise BadInput(f'{source} lacks the tensor {name}')
        if name not in wanted:
            raise BadInput(f'{source} has a tensor {name} that a model of its config does not have')
        if not isinstance(state[name], torch.Tensor) or tuple(state[name].shape) != wanted[name]:
            raise BadInput(f'{source}: {name} has shape {tuple(getattr(state[name], "shape", ()))}, but a model of its config '
                           f'has {wanted[name]}')
    if model.transformer.wte.weight.is_meta:
        model.to_empty(device='cpu')
    model.load_state_dict(state)
    return model
