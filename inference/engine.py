"""Writes text with a GPT: sequences that come and go share one batch, and each reads as if it were alone.

    from inference.engine import Engine, Request
    engine = Engine(model, max_batch=16)
    (sequence,) = engine.add(Request(ids, max_new_tokens=50, temperature=0.8, seed=1, stop_tokens=(eot,)))
    while sequence.finish_reason is None:
        for sequence in engine.step():        # one more token for each sequence that runs
            print(sequence.tokens[-1])

The engine keeps the keys and values of `max_batch` sequences in memory that is allocated once. A step first computes
those of whatever a sequence has not computed yet (its prompt, tokens forced upon it, a window that moved on) except
for its last token, and then feeds all last tokens together: one row each, in shapes that stay the same.

How the window moves: positions are learned, so when the context is full and moves on, every key and value changes and
must be computed again. It therefore moves rarely and far: when block_size tokens are in it, the oldest half is
dropped, and the model sees between block_size/2 and block_size tokens of context (`window_start`). Recomputing every
token without a cache under the same rule gives the same text.

What is the same whatever else runs: every sequence draws from a generator of its own, prompts are computed one by one,
and all settings apply row by row. What is left is rounding, as matrix products may add in another order when there
are more rows: a text differs only where two tokens are closer than that, in float32 hardly ever. For bfloat16 on a CPU,
the step is put together from products that keep their order. This file knows nothing about text or tokenizers.
"""
import contextlib
import copy
import functools
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
from torch.nn import functional as F

from runtime.errors import BadInput

LENGTH_STEP = 64  # the keys read in a step are a multiple of this: few shapes, and sums in an order that stays
ROWS_AT_LEAST = 2  # in a step on a CPU: a single row is multiplied another way, with sums in another order
NUCLEUS_AT_MOST = 1024  # of the likeliest tokens are looked at first, as sorting a vocabulary is slow on a CPU


@dataclass
class Request:
    """What to write. Raises nothing: `Engine.add` checks it."""
    ids: list  # the prompt's tokens
    max_new_tokens: int
    temperature: float = 1.0  # 0: always the likeliest token
    top_k: int | None = None  # only the k likeliest
    top_p: float | None = None  # only the likeliest that together have probability p (Holtzman et al. 2020)
    seed: int | None = None  # the same seed gives the same text; None: torch's global state decides
    stop_tokens: tuple = ()  # the text ends with any of these
    repetition_penalty: float = 1.0  # divides the logits of tokens that are there already (Keskar et al. 2019, "CTRL")
    logprobs: int | None = None  # also report log-probabilities: of the chosen token, and of so many of the likeliest
    echo_logprobs: bool = False  # the prompt's own tokens' log-probabilities too
    tool: Callable | None = None  # tool(sequence) -> token ids to put behind what was written, or None


class Full(Exception):
    """No place is free for another sequence."""


class Sequence:
    """A text in the making.

    tokens: what was written so far, a stop token included; forced: indices into it of those that `Engine.force` put there
    logprobs: for each of them (log-probability, [(id, log-probability) of the likeliest]), if the request asks for it;
              they are the model's own, before temperature and the like. None for a forced token.
    prompt_logprobs: the same for the prompt, None where nothing in the window comes before a token
    finish_reason: None while it runs, 'stop' after a stop token, 'length' after max_new_tokens
    """

    def __init__(self, request, seed):
        self.request, self.tokens, self.forced, self.finish_reason = request, [], set(), None
        self.logprobs = None if request.logprobs is None else []
        self.prompt_logprobs = [None] * len(request.ids) if request.echo_logprobs and request.logprobs is not None else None
        self.text = list(request.ids)  # prompt and tokens
        self.start, self.cached = 0, 0  # where the window begins, and how much of it has its keys and values
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def append(self, token):
        self.tokens.append(token)
        self.text.append(token)


class Engine:
    """Continuous batching over preallocated keys and values. Not thread-safe: one thread calls all methods."""

    def __init__(self, model, max_batch=16, compile=False):
        """model: a GPT. Its weights are taken as they are now; on a CPU in a copy laid out for fast products.

        compile: make one graph of the step that all sequences take together, with CUDA graphs on a GPU. The first step
        of every new size is slow; there are few, as rows are filled up to a power of two. On a CPU it does not pay, as
        packed weights cannot be in a graph.
        """
        if max_batch < 1:
            raise BadInput(f'max_batch={max_batch} should be at least 1')
        weight = model.transformer.wte.weight
        self.config, self.device, self.max_batch = model.config, weight.device, max_batch
        self.on_cpu = self.device.type == 'cpu'
        dtype = compute_dtype(model)
        self.model, self.head = inference_copy(model, dtype, pack=can_pack(dtype) and not compile)
        shape = (max_batch, self.config.n_head, self.config.block_size, self.config.n_embd // self.config.n_head)
        self.keys, self.values = ([empty_cache(shape, self.device, dtype) for _ in range(self.config.n_layer)]
                                  for _ in range(2))
        self.running = []  # a sequence's index is its place in the cache
        self.compile, self.last_logits = compile, self.logits_of_last
        if compile:
            for cache in (*self.keys, *self.values):
                torch._dynamo.mark_static_address(cache)  # else a CUDA graph would copy it at every step
            self.last_logits = torch.compile(self.logits_of_last, dynamic=False,
                                             mode=None if self.on_cpu else 'reduce-overhead')

    @property
    def n_running(self):
        return len(self.running)

    @property
    def free(self):
        """How many more sequences fit."""
        return self.max_batch - len(self.running)

    def add(self, request, n=1):
        """n samples of a request -> their [Sequence], which the next step begins with. Sample i draws from seed + i.

        Raises BadInput if the request is wrong, and Full if fewer than n places are free.
        """
        check_request(self.config, request)
        if n > self.free:
            raise Full(f'{n} places are needed, {self.free} of {self.max_batch} are free')
        added = [Sequence(request, None if request.seed is None else request.seed + i) for i in range(n)]
        self.running += added
        return added

    def remove(self, sequence):
        """Ends a sequence at once and frees its place, which the last one moves into."""
        place, last = self.running.index(sequence), self.running.pop()
        if last is not sequence:
            self.running[place] = last
            self.copy_place(len(self.running), place, last.cached)

    def force(self, sequence, ids):
        """Appends tokens to a running sequence as if it had written them; they count in max_new_tokens."""
        for token in ids:
            sequence.forced.add(len(sequence.tokens))
            sequence.append(token)
            if sequence.logprobs is not None:
                sequence.logprobs.append(None)
        if len(sequence.tokens) >= sequence.request.max_new_tokens:
            sequence.finish_reason = 'length'
            self.remove(sequence)

    @torch.no_grad()
    def step(self):
        """One more token for every sequence that runs -> those sequences. The finished ones leave.

        A sequence of no new tokens at all comes back once, for the log-probabilities of its prompt.
        """
        self.catch_up()
        stepped = list(self.running)
        for sequence in [sequence for sequence in stepped if not sequence.request.max_new_tokens]:
            self.finish(sequence, 'length')
        if self.running:
            self.write()
        for sequence in stepped:
            if sequence.request.tool and sequence.finish_reason is None and (ids := sequence.request.tool(sequence)):
                self.force(sequence, ids)
        return stepped

    def write(self):
        """Feeds all last tokens, and appends what follows them."""
        running, logits = list(self.running), self.decode()
        requests = [sequence.request for sequence in running]
        uniforms = torch.tensor([torch.rand((), generator=sequence.generator).item() if sequence.request.temperature else 0.0
                                 for sequence in running])
        chosen = choose(penalize(logits, running), requests, to_device(uniforms, self.device))
        rows = [row for row, request in enumerate(requests) if request.logprobs is not None]
        if rows:
            counts = [requests[row].logprobs for row in rows]
            for row, logprobs in zip(rows, logprob_rows(logits[rows], chosen[rows], counts)):
                running[row].logprobs.append(logprobs)
        for sequence, token in zip(running, chosen.tolist()):
            sequence.append(token)
            if token in sequence.request.stop_tokens:
                self.finish(sequence, 'stop')
            elif len(sequence.tokens) >= sequence.request.max_new_tokens:
                self.finish(sequence, 'length')

    def finish(self, sequence, reason):
        sequence.finish_reason = reason
        self.remove(sequence)

    def catch_up(self):
        """Computes the keys and values of all tokens but the last of each window, where they are missing."""
        fresh = {}  # {what was computed: its place}, so that samples of one prompt share it
        for place, sequence in enumerate(self.running):
            start = window_start(len(sequence.text), self.config.block_size)
            if start != sequence.start:
                sequence.start, sequence.cached = start, 0
            missing = sequence.text[start + sequence.cached:-1]
            if not missing:
                continue
            request = sequence.request
            key = (tuple(sequence.text[start:]), request.echo_logprobs, request.logprobs) if not sequence.tokens else None
            if key in fresh:
                self.copy_place(fresh[key], place, len(missing))
                sequence.prompt_logprobs = self.running[fresh[key]].prompt_logprobs
            else:
                self.fill(place, sequence, missing)
            sequence.cached += len(missing)
            if key:
                fresh[key] = place

    def fill(self, place, sequence, missing):
        """Computes keys and values of T tokens that follow the cached ones of a place."""
        seen, T = sequence.cached, len(missing)
        idx = torch.tensor([missing], device=self.device)
        positions = torch.arange(seen, seen + T, device=self.device)[None]  # (1, T)
        mask = None
        if seen:
            mask = torch.arange(seen + T, device=self.device) <= positions[0, :, None]  # (T, seen + T)

        def attend(keys, values, q, k, v):
            """(1, nh, T, hd) each -> (1, nh, T, hd)"""
            keys[place, :, seen:seen + T], values[place, :, seen:seen + T] = k[0], v[0]
            if seen:
                k, v = (cache[place:place + 1, :, :seen + T].to(q.dtype) for cache in (keys, values))
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=not seen)

        x = self.hidden(idx, positions, attend)  # (1, T, C)
        if sequence.prompt_logprobs and not sequence.tokens:
            following = torch.tensor(sequence.text[sequence.start + 1:], device=self.device)
            sequence.prompt_logprobs[-T:] = logprob_rows(self.head(x[0]), following, [sequence.request.logprobs] * T)

    def decode(self):
        """Logits (n, V) of what follows each running sequence."""
        n, cached = len(self.running), [sequence.cached for sequence in self.running]
        n_places = min(self.max_batch, 2 ** (n - 1).bit_length()) if self.compile else n
        n_rows = max(n_places, ROWS_AT_LEAST) if self.on_cpu else n_places
        length_step = 4 * LENGTH_STEP if self.compile else LENGTH_STEP
        length = min(self.config.block_size, -(-(max(cached) + 1) // length_step) * length_step)
        rows = torch.tensor([[sequence.text[-1] for sequence in self.running] + [0] * (n_rows - n),
                             cached + [0] * (n_rows - n)])
        idx, positions = to_device(rows, self.device)[:, :, None]  # (n_rows, 1) each
        for sequence in self.running:
            sequence.cached += 1
        return self.last_logits(idx, positions, n_places, length)[:n]

    def logits_of_last(self, idx, positions, n, length):
        """(n_rows, 1) last tokens and their positions -> (n_rows, V). The first n rows attend to `length` keys, as far as
        these are not after their positions; the others are there for the sake of the shape."""
        visible = (torch.arange(length, device=self.device) <= positions[:n])[:, None, None]  # (n, 1, 1, length)
        rows, columns = torch.arange(n, device=self.device), positions[:n, 0]
        attend_one = attend_by_products if self.on_cpu else F.scaled_dot_product_attention

        def attend(keys, values, q, k, v):
            """(n_rows, nh, 1, hd) each -> (n_rows, nh, 1, hd)"""
            keys[rows, :, columns], values[rows, :, columns] = k[:n, :, 0].to(keys.dtype), v[:n, :, 0].to(keys.dtype)
            y = attend_one(q[:n].to(keys.dtype), keys[:n, :, :length], values[:n, :, :length], visible).to(q.dtype)
            return F.pad(y, (0, 0, 0, 0, 0, 0, 0, len(q) - n))

        return self.head(self.hidden(idx, positions, attend)[:, 0])

    def hidden(self, idx, positions, attend):
        """The model on (B, T) tokens, with `attend` at work on each layer's keys and values."""
        layers = [functools.partial(attend, keys, values) for keys, values in zip(self.keys, self.values)]
        with torch.autocast('cpu', enabled=False) if self.on_cpu else contextlib.nullcontext():
            return self.model.hidden(idx, positions=positions, attend=layers)

    def copy_place(self, source, target, length):
        for cache in (*self.keys, *self.values):
            cache[target, :, :length] = cache[source, :, :length]


def stream(model, idx, max_new_tokens, temperature=1.0, top_k=None, top_p=None, seed=None, stop_tokens=()):
    """Yields the next token of every row of (B, T) tokens, (B,) int64, up to max_new_tokens times.

    Row r draws from a generator of its own seeded with seed + r. A row that has written a stop token repeats it;
    generation ends when all rows have written one.
    """
    if idx.dim() != 2 or idx.numel() == 0:
        raise BadInput(f'a prompt of shape {tuple(idx.shape)} should be (B, T) with at least one token')
    engine = Engine(model, max_batch=len(idx))
    sequences = [engine.add(Request(row, max_new_tokens, temperature, top_k, top_p,
                                    None if seed is None else seed + r, tuple(stop_tokens)))[0]
                 for r, row in enumerate(idx.tolist())]
    for _ in range(max_new_tokens):
        if not engine.step():
            return
        yield torch.tensor([sequence.tokens[-1] for sequence in sequences], device=idx.device)


def generate(model, idx, max_new_tokens, **settings):
    """(B, T) tokens -> (B, T + new), as `stream` continues them."""
    new = list(stream(model, idx, max_new_tokens, **settings))
    return torch.cat([idx, *(column[:, None] for column in new)], dim=1)


def attend_by_products(q, k, v, visible):
    """softmax(q kᵀ / sqrt(hd)) v for one query a row, (n, nh, 1, hd) -> the same.

    On a CPU this is faster than the library's kernel for one query, and each row's sums keep their order in a batch.
    """
    scores = (k @ q.transpose(-2, -1)).transpose(-2, -1) * q.size(-1) ** -0.5  # (n, nh, 1, length)
    return scores.masked_fill(~visible, -torch.inf).softmax(dim=-1) @ v


# ---- a copy of the model, laid out for generation --------------------------------------------------------


def inference_copy(model, dtype, pack):
    """(a copy of a GPT in evaluation mode, its head), with all weights shared on a GPU.

    On a CPU the linear layers multiply in `dtype`, with their weights laid out for speed if `pack`; between them the
    numbers are float32, as they are under autocast.
    """
    on_cpu = model.transformer.wte.weight.device.type == 'cpu'

    def norm(x, weight, bias, eps):
        return F.layer_norm(x, weight.shape, weight, bias, eps).to(dtype)

    def add_norm(residual, update, weight, bias, eps):
        total = residual + update
        return norm(total, weight, bias, eps), total

    def copy_module(module):
        if on_cpu and isinstance(module, nn.Linear):
            return Linear(module.weight, module.bias, dtype, pack)
        twin = copy.copy(module)
        twin.training = False
        twin._modules = {name: copy_module(child) for name, child in module._modules.items()}
        if on_cpu and module is not model.transformer.wte:
            twin._parameters = {name: parameter if parameter is None else nn.Parameter(parameter.detach().float(), False)
                                for name, parameter in module._parameters.items()}
        if on_cpu and isinstance(module, type(model.transformer.ln_f)):
            twin.norm, twin.add_norm = norm, add_norm
        return twin

    twin = copy_module(model)
    return twin, Head(model, dtype, pack) if on_cpu else lambda x: twin.head(x).float()


class Linear(nn.Module):
    """y = x Wᵀ + b. Packed, W is in the order in which oneDNN reads it: for one row 2.6 times as fast as F.linear."""

    def __init__(self, weight, bias, dtype, pack):
        super().__init__()
        self.weight, self.packed = weight.detach().to(dtype), pack
        self.bias = None if bias is None else bias.detach().to(dtype)
        if pack:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, ROWS_AT_LEAST)

    def forward(self, x):
        """(..., K) -> (..., N)"""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, 'none', [], '')
        return F.linear(x, self.weight, self.bias)


class Head(nn.Module):
    """Logits in float32 from products in a narrow type.

    What the rows of an embedding have in common adds the same number to all logits, and the larger a logit, the fewer
    digits are left of what distinguishes it: around 100, bfloat16 has steps of 0.5. So that number is computed apart,
    in float32, and the product is that of the rest.
    """

    def __init__(self, model, dtype, pack):
        super().__init__()
        weight, self.vocab_size = model.transformer.wte.weight.detach(), model.config.vocab_size
        common = weight[:self.vocab_size].mean(dim=0, dtype=torch.float32).to(weight.dtype)
        self.common = common.float()
        self.linear = Linear(weight - common, None, dtype, pack)

    def forward(self, x):
        """(n, C) -> (n, vocab_size) float32"""
        return self.linear(x)[..., :self.vocab_size].float() + (x.float() @ self.common)[..., None]


def can_pack(dtype):
    """Whether oneDNN has fast products of this type here."""
    supported = {torch.float32: lambda: True, torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
                 torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported}
    return torch.backends.mkldnn.is_available() and platform.machine() in ('x86_64', 'AMD64') and supported[dtype]()


def compute_dtype(model):
    """The type in which keys and values arise: autocast's where it is on, else the weights'."""
    weight = model.transformer.wte.weight
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def empty_cache(shape, device, dtype):
    """Zeros, as what was never written is multiplied by 0. On a CPU in float32, in which one query attends faster,
    and in memory that the system hands out when it is first written to."""
    if device.type == 'cpu':
        return torch.from_numpy(np.zeros(shape, np.float32))
    return torch.zeros(shape, device=device, dtype=dtype)


def to_device(tensor, device):
    """A small tensor made on the CPU, without waiting for what a GPU is at."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == 'cuda' else tensor.to(device)


# ---- windows, settings, choices -------------------------------------------------------------------------


def window_start(length, block_size):
    """Where the window begins when `length` tokens are known: 0 while they fit, then in steps of half a block."""
    step = max(1, block_size // 2)
    return max(0, -(-(length - block_size) // step) * step)


def check_request(config, request):
    """Raises BadInput naming the setting that is out of range."""
    if not request.ids:
        raise BadInput('the prompt has no tokens; it should have at least one')
    if not all(isinstance(token, int) and 0 <= token < config.vocab_size for token in request.ids):
        raise BadInput(f'the prompt has a token outside the vocabulary of {config.vocab_size}')
    if request.max_new_tokens < 0:
        raise BadInput(f'max_new_tokens={request.max_new_tokens} should be 0 or more')
    if not 0 <= request.temperature < math.inf:
        raise BadInput(f'temperature={request.temperature} should be 0 (the likeliest token) or more')
    if request.top_k is not None and request.top_k < 1:
        raise BadInput(f'top_k={request.top_k} should be at least 1, or None for all tokens')
    if request.top_p is not None and not 0 < request.top_p <= 1:
        raise BadInput(f'top_p={request.top_p} should be above 0 and at most 1')
    if not 0 < request.repetition_penalty < math.inf:
        raise BadInput(f'repetition_penalty={request.repetition_penalty} should be above 0; 1 changes nothing')
    if request.seed is not None and not -2**63 <= request.seed < 2**63:
        raise BadInput(f'seed={request.seed} should fit into 64 bits')
    if request.logprobs is not None and not 0 <= request.logprobs <= config.vocab_size:
        raise BadInput(f'logprobs={request.logprobs} should be between 0 and the vocabulary of {config.vocab_size}')


def penalize(logits, sequences):
    """(n, V) logits with those of tokens that are in a sequence's text already made less likely by its penalty."""
    if all(sequence.request.repetition_penalty == 1 for sequence in sequences):
        return logits
    logits = logits.clone()
    for row, sequence in zip(logits, sequences):
        if sequence.request.repetition_penalty != 1:
            there = torch.tensor(sorted(set(sequence.text)), device=logits.device)
            penalty = sequence.request.repetition_penalty
            row[there] = torch.where(row[there] > 0, row[there] / penalty, row[there] * penalty)
    return logits


def choose(logits, requests, uniforms):
    """(n, V) float32 logits, a request for each row, and (n,) uniform numbers in [0, 1) -> (n,) tokens.

    Each row's token is a function of that row alone: rows are taken together where they want the same.
    """
    groups = {}
    for row, request in enumerate(requests):
        groups.setdefault(kind_of_choice(request), []).append(row)
    tokens = torch.empty(len(requests), dtype=torch.int64, device=logits.device)
    for (draw, top_k), rows in groups.items():
        everything = len(rows) == len(requests)
        settings = torch.tensor([[requests[row].temperature for row in rows], [requests[row].top_p or 1.0 for row in rows]])
        temperature, top_p = to_device(settings, logits.device)[:, :, None]  # (rows, 1) each
        chosen = draw(logits if everything else logits[rows], top_k, temperature, top_p,
                      uniforms[:, None] if everything else uniforms[rows, None])
        if everything:
            return chosen
        tokens[rows] = chosen
    return tokens


def kind_of_choice(request):
    if request.temperature == 0:
        return take_likeliest, None
    if request.top_k is not None:
        return draw_from_likeliest, request.top_k
    if request.top_p is not None and request.top_p < 1:
        return draw_from_nucleus, None
    return draw_from_all, None


def take_likeliest(logits, top_k, temperature, top_p, uniforms):
    return logits.argmax(dim=-1)


def draw_from_all(logits, top_k, temperature, top_p, uniforms):
    """Inverts the cumulative distribution over the vocabulary in its own order."""
    cumulative = probabilities_of(logits, temperature).cumsum(dim=-1)  # (n, V)
    token = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    return token.clamp(max=logits.size(1) - 1).squeeze(1)


def draw_from_likeliest(logits, top_k, temperature, top_p, uniforms):
    logits, tokens = logits.topk(min(top_k, logits.size(1)))  # (n, K), falling
    probabilities = probabilities_of(logits, temperature)
    return draw_from_sorted(probabilities, tokens, top_p * probabilities.sum(dim=-1, keepdim=True), uniforms)


def draw_from_nucleus(logits, top_k, temperature, top_p, uniforms):
    """Sorts the whole vocabulary only for rows whose nucleus may be larger than NUCLEUS_AT_MOST, and on a GPU, where
    to ask how large it is would make the CPU wait."""
    probabilities = probabilities_of(logits, temperature)  # (n, V)
    if logits.device.type != 'cpu' or logits.size(1) <= NUCLEUS_AT_MOST:
        return draw_from_sorted(*probabilities.sort(dim=-1, descending=True), top_p, uniforms)
    largest, tokens = probabilities.topk(NUCLEUS_AT_MOST)
    chosen = draw_from_sorted(largest, tokens, top_p, uniforms)
    wide = (largest.sum(dim=-1) < top_p[:, 0]).nonzero().squeeze(1)
    if len(wide):
        chosen[wide] = draw_from_sorted(*probabilities[wide].sort(dim=-1, descending=True), top_p[wide], uniforms[wide])
    return chosen


def draw_from_sorted(probabilities, tokens, share, uniforms):
    """Draws one of (n, K) tokens with falling probabilities: of the fewest that have this share (n, 1) together."""
    cumulative = probabilities.cumsum(dim=-1)
    last = (cumulative < share).sum(dim=-1, keepdim=True).clamp(max=tokens.size(1) - 1)  # it reaches the share
    rank = torch.searchsorted(cumulative, uniforms * cumulative.gather(1, last), right=True)
    return tokens.gather(1, torch.minimum(rank, last)).squeeze(1)


def probabilities_of(logits, temperature):
    """softmax(logits / temperature); the largest logit is taken off first, so that no temperature is too small."""
    return ((logits - logits.amax(dim=-1, keepdim=True)) / temperature).softmax(dim=-1)


def logprob_rows(logits, chosen, counts):
    """(n, V) logits, (n,) tokens, how many of the likeliest for each -> [(log-probability, [(id, log-probability)])]."""
    logprobs = logits.log_softmax(dim=-1)
    of_chosen = logprobs.gather(1, chosen[:, None]).squeeze(1).tolist()
    values, ids = (top.tolist() for top in logprobs.topk(max(counts)))
    return [(own, list(zip(row_ids[:count], row_values[:count])))
            for own, row_ids, row_values, count in zip(of_chosen, ids, values, counts)]
