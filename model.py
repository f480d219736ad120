"""GPT-2: the network and nothing else.

    from model import GPT, GPTConfig
    model = GPT(GPTConfig(n_layer=6))
    logits = model(idx)                               # (B, T) -> (B, T, V)
    loss = model(idx, targets)                        # (B, T), (B, T) -> scalar
    idx = model.generate(idx, max_new_tokens=50)      # slow and simple; inference/engine.py is the fast one

The model of Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3: pre-norm
Transformer decoder blocks, learned positions, tanh-GELU, the output head tied to the token embedding. Knows nothing
about text, files, optimizers or training: pretrained.py loads and saves weights, train.py trains.

Letters in shapes: B sequences, T tokens, C = n_embd, nh = n_head, hd = C / nh, V = vocab_size.
"""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recompute_in_backward

from kernels import MAX_COLS, autocast_dtype, cross_entropy, layer_norm, linear, softmax
from kernels.attention import blocked_attention
from kernels.dropout import dropout


@dataclass
class GPTConfig:
    """Sizes of a model, and which code computes it. A wrong value raises ValueError with a message for the user."""
    block_size: int = 1024
    vocab_size: int = 50257
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True  # in the linear layers and layer norms, as GPT-2 has it
    # 'torch': plain PyTorch. 'triton': our fused loss, bias gradients, layer norm and (if explicit) softmax. 'mixed': the
    # first two of these, and the norms as torch.compile writes them, which then move no more bytes than ours.
    kernels: str = 'torch'
    # How attention is computed. 'sdpa': PyTorch's fused kernel. 'explicit': softmax(q kᵀ) v with the whole (T, T) matrix in
    # memory. 'auto': blocked attention for training on CPUs, and 'sdpa' everywhere else.
    attention: str = 'auto'

    def __post_init__(self):
        for name, allowed in (('kernels', ('torch', 'mixed', 'triton')), ('attention', ('auto', 'sdpa', 'explicit'))):
            if getattr(self, name) not in allowed:
                raise ValueError(f'{name}={getattr(self, name)} should be one of {", ".join(allowed)}')
        for name in ('block_size', 'vocab_size', 'n_head', 'n_embd'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name}={getattr(self, name)} should be at least 1')
        if self.n_layer < 0:
            raise ValueError(f'n_layer={self.n_layer} should be 0 (a bigram model) or more')
        if not 0 <= self.dropout < 1:
            raise ValueError(f'dropout={self.dropout} should be at least 0 and below 1')
        if self.kernels == 'triton' and self.n_embd > MAX_COLS:
            raise ValueError(f'kernels=triton takes n_embd of up to {MAX_COLS}, not {self.n_embd}; kernels=torch has no limit')
        if self.n_embd % self.n_head:
            divisors = [n for n in range(1, self.n_embd + 1) if self.n_embd % n == 0]
            nearest = min(divisors, key=lambda n: abs(n - self.n_head))
            raise ValueError(f'n_embd={self.n_embd} should be a multiple of n_head={self.n_head}; n_head={nearest} fits')

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding in memory: matrix units want multiples of 128."""
        return math.ceil(self.vocab_size / 128) * 128


class LayerNorm(nn.Module):
    """Layer norm, alone or fused with the residual add before it."""

    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.n_embd))
        self.bias = nn.Parameter(torch.zeros(config.n_embd)) if config.bias else None
        fused = config.kernels == 'triton'
        self.norm = layer_norm.layer_norm if fused else layer_norm.layer_norm_reference
        self.add_norm = layer_norm.add_layer_norm if fused else layer_norm.add_layer_norm_reference

    def forward(self, x):
        """(B, T, C) -> (B, T, C)"""
        return self.norm(x, self.weight, self.bias, 1e-5)

    def add_and_norm(self, x, update):
        """(B, T, C), (B, T, C) -> x + update and its layer norm, (B, T, C) each"""
        y, x = self.add_norm(x, update, self.weight, self.bias, 1e-5)
        return x, y


class CausalSelfAttention(nn.Module):

    def __init__(self, config):
        super().__init__()
        self.n_head, self.dropout, self.attention_kind = config.n_head, config.dropout, config.attention
        self.linear_qkv = linear.linear_qkv_reference if config.kernels == 'torch' else linear.linear_qkv
        self.softmax = softmax.causal_softmax if config.kernels == 'triton' else softmax.causal_softmax_reference
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)  # q, k and v in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x, attention_fn=None):
        """(B, T, C) -> (B, T, C). attention_fn: a function that replaces `self.causal_attention`."""
        B, T, C = x.shape
        q, k, v = self.linear_qkv(x, self.c_attn, self.n_head)  # (B, nh, T, hd) each
        y = (attention_fn or self.causal_attention)(q, k, v)  # (B, nh, T, hd)
        y = y.transpose(1, 2).reshape(B, T, C)
        return dropout(self.c_proj(y), self.dropout, self.training)

    def causal_attention(self, q, k, v):
        """softmax(q kᵀ / sqrt(hd)) v, where each token sees itself and those before it; (B, nh, T, hd) each."""
        p = self.dropout if self.training else 0.0
        if self.attention_kind == 'explicit':
            weights = self.softmax(q @ k.transpose(-2, -1), q.size(-1) ** -0.5)  # (B, nh, T, T)
            return dropout(weights, self.dropout, self.training) @ v
        compiling = torch.compiler.is_compiling()
        if torch.is_grad_enabled() and trains_in_blocks(self.attention_kind, q.device, p, compiling):
            return blocked_attention(q, k, v, p)  # exact and causal too, and on CPUs three times as fast as PyTorch's
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)


def trains_in_blocks(attention: str, device: torch.device, dropout: float, compiled: bool) -> bool:
    """Whether GPTConfig's `attention` means kernels/attention.py in training."""
    return attention == 'auto' and device.type == 'cpu' and not (dropout and compiled)


class MLP(nn.Module):

    def __init__(self, config):
        super().__init__()
        self.dropout = config.dropout
        self.linear_gelu = linear.linear_gelu_reference if config.kernels == 'torch' else linear.linear_gelu
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x):
        x = self.linear_gelu(x, self.c_fc)  # (B, T, 4C)
        return dropout(self.c_proj(x), self.dropout, self.training)  # (B, T, C)


class Block(nn.Module):

    def __init__(self, config):
        super().__init__()
        self.ln_1 = LayerNorm(config)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = LayerNorm(config)
        self.mlp = MLP(config)

    def forward(self, x, attention_fn=None):
        """The residual stream, (B, T, C) -> (B, T, C): x = x + attn(ln_1(x)), then x = x + mlp(ln_2(x))."""
        update = self.attn(self.ln_1(x), attention_fn)
        x, y = self.ln_2.add_and_norm(x, update)  # x = x + update; y = ln_2(x): one kernel with kernels='triton'
        return x + self.mlp(y)


def drop_padding(model, state, prefix, _local_metadata):
    """A hook of state_dict(): saved weights have vocab_size rows, without the padding."""
    key = prefix + 'transformer.wte.weight'
    state[key] = state[key][:model.config.vocab_size]


def add_padding(model, state, prefix, *_):
    """A hook of load_state_dict(): loaded weights get their padding rows back, as zeros."""
    key = prefix + 'transformer.wte.weight'
    rows = model.config.padded_vocab_size - model.config.vocab_size
    if key in state and state[key].size(0) == model.config.vocab_size and rows:
        state[key] = F.pad(state[key], (0, 0, 0, rows))


class GPT(nn.Module):

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.activation_checkpointing = False  # recompute each block in the backward pass instead of keeping its activations
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(config.padded_vocab_size, config.n_embd),  # also the output head, see `head`
            wpe=nn.Embedding(config.block_size, config.n_embd),
            h=nn.ModuleList(Block(config) for _ in range(config.n_layer)),
            ln_f=LayerNorm(config),
        ))
        self.init_weights()
        self.register_state_dict_post_hook(drop_padding)
        self.register_load_state_dict_pre_hook(add_padding)

    @torch.no_grad()
    def init_weights(self):
        """N(0, 0.02), with residual projections smaller by 1/sqrt(2·n_layer), so that the variance of the residual
        stream does not grow with depth (section 2.3 of the paper). Padding rows are zero, and as the loss leaves them
        out, they stay zero."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = (2 * self.config.n_layer) ** -0.5 if name.endswith('c_proj.weight') else 1.0
                nn.init.normal_(parameter, std=0.02 * scale)
            elif name.endswith('bias'):
                nn.init.zeros_(parameter)
        self.transformer.wte.weight[self.config.vocab_size:] = 0
        if self.config.n_layer == 0:  # a bigram model: the next token does not depend on the position
            self.transformer.wpe.weight.zero_().requires_grad_(False)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> Tensor:
        """(B, T) int64 -> logits (B, T, V); with targets (B, T), the mean loss in nats over targets that are not -1."""
        x = self.hidden(idx)  # (B, T, C)
        return self.head(x) if targets is None else self.loss(x, targets)

    def hidden(self, idx: Tensor, positions: Tensor | None = None, attention_fns: Sequence[Callable] | None = None) -> Tensor:
        """(B, T) tokens -> the final hidden states, (B, T, C).

        positions: (B, T), the position of each token; None for 0, 1, 2, ...
        attention_fns: for each layer a function (q, k, v) -> y, (B, nh, T, hd) each, that replaces its causal attention.
            Generation reads cached keys and values with it, and evaluation scores several continuations of one context.
        """
        x = self.embed(idx, positions)  # (B, T, C)
        for i, block in enumerate(self.transformer.h):
            if self.activation_checkpointing and self.training:
                x = recompute_in_backward(block, x, use_reentrant=False)
            else:
                x = block(x, attention_fns[i] if attention_fns else None)
        return self.transformer.ln_f(x)

    def embed(self, idx: Tensor, positions: Tensor | None = None) -> Tensor:
        """(B, T) tokens and their positions -> the residual stream as the first block gets it, (B, T, C)."""
        T = idx.size(1)
        if positions is None and T > self.config.block_size:
            raise ValueError(f'{T} tokens do not fit into block_size={self.config.block_size}')
        wpe = self.transformer.wpe.weight[:T] if positions is None else self.transformer.wpe(positions)
        x = dropout(self.transformer.wte(idx) + wpe, self.config.dropout, self.training)
        # Under bfloat16 autocast, so is all of the residual stream; float16 has not the range for it.
        return x.bfloat16() if autocast_dtype(x) == torch.bfloat16 else x

    def head(self, x: Tensor) -> Tensor:
        """(..., C) -> logits (..., V)"""
        return F.linear(x, self.transformer.wte.weight)[..., :self.config.vocab_size]

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """(B, T, C) hidden states and (B, T) targets -> scalar mean cross entropy in nats; logits are never whole in memory."""
        plain = self.config.kernels == 'torch'
        head_and_loss = cross_entropy.linear_cross_entropy_torch if plain else cross_entropy.linear_cross_entropy
        return head_and_loss(x, self.transformer.wte.weight, targets, self.config.vocab_size)

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
        """(B, T) -> (B, T + max_new_tokens): recomputes the last block_size tokens for every new one.

        Call model.eval() first, else dropout is active.
        """
        for _ in range(max_new_tokens):
            logits = self.head(self.hidden(idx[:, -self.config.block_size:])[:, -1]).float()  # (B, V)
            if top_k is not None:
                kth = logits.topk(min(top_k, self.config.vocab_size)).values[:, -1:]
                logits = logits.masked_fill(logits < kth, -torch.inf)
            if temperature < 1e-5:  # divided by less, logits may be too large for float32
                token = logits.argmax(dim=-1, keepdim=True)
            else:
                token = torch.multinomial((logits / temperature).softmax(dim=-1), 1)
            idx = torch.cat([idx, token], dim=1)
        return idx

    def n_params(self) -> int:
        """Number of parameters as published: the tied head is counted once, padding is not counted."""
        padding = (self.config.padded_vocab_size - self.config.vocab_size) * self.config.n_embd
        return sum(p.numel() for p in self.parameters()) - padding

    def flops_per_token(self) -> int:
        """Floating-point operations of forward and backward per token: 6 for each weight of a matrix, and
        12·n_layer·n_embd·block_size for attention (Chowdhery et al. 2022, "PaLM", appendix B)."""
        config = self.config
        matrices = sum(p.numel() for p in self.transformer.h.parameters() if p.dim() == 2)
        head = config.vocab_size * config.n_embd
        return 6 * (matrices + head) + 12 * config.n_layer * config.n_embd * config.block_size
