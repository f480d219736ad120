"""What the device does in generation: keys and values in slots, prefill of one slot, decoding of all, sampling.

    decoder = Decoder(model, max_batch=16, compile=True)
    decoder.load(sequences)                      # when one joins, leaves, or is changed from outside
    logits = decoder.decode(n, last_position)    # of the token after each sequence's last one, (n, V)
    ids = decoder.sample()                       # n tokens: the only time that the CPU waits for the device

What decoding reads stays on the device from token to token, a column for each slot: the last token and its position, the
settings that it is sampled with, random numbers for the next tokens. A step counts them on by itself, so while the same
sequences run, nothing is sent to the device.

On a CPU, decoding is one call of a C++ program (inference/native.py). Without a C++ compiler, or for a model that is not GPT-2,
it is made of PyTorch's operations.

Compiled, decoding runs in few shapes: rows are padded to a power of two, keys to a power of two from 256 on. Decoding is
a graph for each pair of the two, sampling one for rows and way. On a GPU they are replayed as CUDA graphs, launched one
behind the other without waiting. The part of a graph that torch.compile makes is a layer, and all layers share it: a
model of 48 layers compiles as fast as one of 12. Knows nothing about when sequences begin and end.

Letters in shapes: B rows of a step, n <= B of them slots in use, T tokens, S keys that a step attends to, R slots,
C = n_embd, nh = n_head, hd = C / nh, V = vocab_size.
"""
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from inference import native
from inference.cpu_layout import MIN_ROWS, attend_one_query, inference_copy, mask_of
from inference.graphs import Graphs
from inference.sampling import GREEDY, LEAST_K, NUCLEUS, WHOLE, Settings, numbers_of, sample, sample_one_way, to_device, way_of
from model import GPT
from runtime.errors import BadInput

LENGTH_STEP = 64  # without compiling, S is a multiple of this: few shapes, and sums in an order that stays
LEAST_LENGTH = 256  # compiled, S is this times a power of two
N_AHEAD = 64  # random numbers that are drawn ahead for each sequence
TOKEN, POSITION, DRAW, TOP_K, WAY = range(5)  # rows of Decoder.integers
TEMPERATURE, TOP_P, UNIFORMS = range(3)  # rows of Decoder.numbers; the random numbers are all from UNIFORMS on
KIND_OF = {torch.float32: 'float32', torch.bfloat16: 'bfloat16', torch.float16: 'float32'}  # float16 is widened before
BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # cuDNN plans anew for each shape


class Decoder:

    def __init__(self, model: GPT, max_batch: int, compile: bool, weights: str = 'auto'):
        """Takes the weights as they are now; on a CPU, in a copy laid out for fast products.

        weights: 'int8' or 'int4' on a CPU, else 'auto'. Raises BadInput where they cannot be had.
        """
        self.config, self.max_batch = model.config, max_batch
        self.device = model.transformer.wte.weight.device
        self.on_cpu = self.device.type == 'cpu'
        dtype = compute_dtype(model)
        why_not = native.why_not(model) if self.on_cpu and not compile else 'it is for CPUs, without --compile'
        if weights != 'auto' and why_not:
            raise BadInput(f'weights={weights} cannot be had: {why_not}; leave it out')
        self.model, self.head = inference_copy(model, dtype, may_pack=not compile, weights=weights)
        shape = (max_batch, self.config.n_head, self.config.block_size, self.config.n_embd // self.config.n_head)
        self.keys = [empty_cache(shape, self.device, dtype) for _ in range(self.config.n_layer)]  # (R, nh, block_size, hd)
        self.values = [empty_cache(shape, self.device, dtype) for _ in range(self.config.n_layer)]
        n_columns = max(max_batch, MIN_ROWS)
        kind = KIND_OF[dtype] if weights == 'auto' else weights
        self.step = None if why_not else native.Step(model, kind, max_batch, self.keys, self.values)
        self.integers = torch.zeros(5, n_columns, dtype=torch.int64, device=self.device)
        self.numbers = torch.ones(UNIFORMS + N_AHEAD, n_columns, device=self.device)
        self.rows_of = {}  # {way to sample: the slots that are sampled so}
        self.n_ahead = 0  # steps for which there are random numbers
        self.graphs = Graphs(self.device) if compile else None
        self.logits_of = {}  # {B: (B, V)}, where the graphs of B rows leave their logits
        self.logits = None  # (n, V), of the last step

    def use_threads(self, n: int):
        """On a CPU: how many threads make a step."""
        if self.step:
            self.step.n_threads = n
        else:
            torch.set_num_threads(n)

    def load(self, sequences: list):
        """Sends what decoding must know of the sequences in the slots 0, 1, 2, ... to the device."""
        integers = torch.zeros(self.integers.shape, dtype=torch.int64)
        numbers = torch.ones(self.numbers.shape)
        integers[DRAW], integers[TOP_K] = -1, 1  # each step counts on before it samples; rows without a sequence sample too
        rows_of = {}
        for slot, sequence in enumerate(sequences):
            top_k, temperature, top_p = numbers_of(sequence.request, self.config.vocab_size)
            way = way_of(sequence.request, self.config.vocab_size)
            integers[:, slot] = torch.tensor([sequence.ids[-1], sequence.cached, -1, top_k, way])
            numbers[:UNIFORMS, slot] = torch.tensor([temperature, top_p])
            if way != GREEDY:
                numbers[UNIFORMS:, slot] = sequence.uniforms(N_AHEAD)
            rows_of.setdefault(way, []).append(slot)
        self.integers.copy_(to_device(integers, self.device))
        self.numbers.copy_(to_device(numbers, self.device))
        self.rows_of = {way: to_device(torch.tensor(slots), self.device) for way, slots in rows_of.items()}
        self.n_ahead = N_AHEAD

    def prefill(self, slot: int, ids: list[int], cached: int) -> Tensor:
        """Computes the keys and values of T tokens that follow the cached ones of a slot. Returns their final hidden states,
        (T, C)."""
        T = len(ids)
        idx = to_device(torch.tensor([ids]), self.device)  # (1, T)
        positions = torch.arange(cached, cached + T, device=self.device)[None]  # (1, T)
        mask = torch.arange(cached + T, device=self.device) <= positions[0, :, None] if cached else None  # (T, cached + T)

        def attend_with(keys, values):
            def attend(q, k, v):
                """(1, nh, T, hd) each -> (1, nh, T, hd)"""
                keys[slot, :, cached:cached + T], values[slot, :, cached:cached + T] = k[0], v[0]
                if cached:
                    k, v = (cache[slot:slot + 1, :, :cached + T].to(q.dtype) for cache in (keys, values))
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=not cached)
            return attend

        with self.context():
            return self.model.hidden(idx, positions, list(map(attend_with, self.keys, self.values)))[0]

    def copy_slot(self, source: int, target: int, length: int):
        """Copies the first keys and values of a slot to another one."""
        for cache in (*self.keys, *self.values):
            cache[target, :, :length] = cache[source, :, :length]

    def read_slot(self, slot: int, length: int) -> list[Tensor]:
        """A copy of the first keys and values of a slot, (nh, length, hd) of each layer."""
        return [cache[slot, :, :length].clone() for cache in (*self.keys, *self.values)]

    def write_slot(self, slot: int, saved: list[Tensor]):
        """Puts into a slot what `read_slot` took out of one."""
        for cache, part in zip((*self.keys, *self.values), saved):
            cache[slot, :, :part.size(1)] = part

    def decode(self, n: int, last: int) -> Tensor:
        """Logits (n, V) of what follows the last tokens in the first n slots, of which none has a position beyond `last`.

        Compiled, they are overwritten at the next step.
        """
        self.n_ahead -= 1
        if self.step:
            self.logits = torch.empty(n, self.config.vocab_size, dtype=torch.float32, device='cpu')
            self.step(self.integers[TOKEN, :n], self.integers[POSITION, :n], self.logits)
            self.integers[POSITION:DRAW + 1] += 1
        elif self.graphs:
            B, S = padded(n, 1, self.max_batch), padded(last + 1, LEAST_LENGTH, self.config.block_size)
            if B not in self.logits_of:
                self.logits_of[B] = torch.empty(B, self.config.vocab_size, device=self.device)
            self.graphs.run(self.decode_into, B, S)
            self.logits = self.logits_of[B][:n]
        else:
            S = min(self.config.block_size, -(-(last + 1) // LENGTH_STEP) * LENGTH_STEP)
            self.logits = self.decode_rows(n, S)
        return self.logits

    def decode_into(self, n: int, S: int):
        self.decode_rows(n, S, self.logits_of[n])

    def decode_rows(self, n: int, S: int, out: Tensor | None = None) -> Tensor:
        """Logits (n, V), in `out` if given. Slots attend to the first S keys, up to their own positions."""
        transformer, attend_one = self.model.transformer, self.pick_attention()
        with self.context():
            x, places, visible = self.call(embed, self.model, self.integers, shape=(n, S))
            if attend_one is attend_one_query:
                visible = mask_of(visible)
            for block, keys, values in zip(transformer.h, self.keys, self.values):
                x = self.call(run_layer, block, x, keys, values, places, visible, attend_one, shape=(n, S))
            return self.call(finish, transformer.ln_f, self.head, x, self.integers, out, shape=(n,))

    def pick_attention(self):
        """The function that attends with one query a row."""
        if self.graphs:
            return attend_one_fused
        return attend_one_query if self.on_cpu else F.scaled_dot_product_attention

    def call(self, function, *arguments, shape):
        return self.graphs.call(function, *arguments, shape=shape) if self.graphs else function(*arguments, *shape)

    def sample(self, changed: Tensor | None = None) -> list[int]:
        """The next token of each slot, by the logits of the last step, or by `changed` ones, (n, V)."""
        n = len(self.logits)
        if self.graphs and changed is None:
            for way in self.rows_of:
                self.graphs.run(self.sample_into, padded(n, 1, self.max_batch), way)
        else:
            logits = self.logits if changed is None else changed
            self.integers[TOKEN, :n] = sample(logits, self.rows_of, settings_of(self.integers, self.numbers, n))
        return self.integers[TOKEN, :n].tolist()

    def sample_into(self, n: int, way: int):
        self.call(sample_rows, self.logits_of[n], self.integers, self.numbers, shape=(n, way))

    @torch.no_grad()
    def warm_up(self):
        """Compiles and records all graphs of decoding, and those of the usual ways to sample, while no sequence runs."""
        self.load([])
        rows = sorted({padded(n, 1, self.max_batch) for n in range(1, self.max_batch + 1)})
        lengths = sorted({padded(S, LEAST_LENGTH, self.config.block_size) for S in range(1, self.config.block_size + 1)})
        for B in rows:
            for S in lengths:
                for _ in range(2):
                    self.decode(B, S - 1)
            for way in (GREEDY, WHOLE, NUCLEUS, LEAST_K):
                for _ in range(2):
                    self.graphs.run(self.sample_into, B, way)
        self.load([])

    def context(self):
        """The context that the model runs in."""
        return torch.autocast('cpu', enabled=False) if self.on_cpu else sdpa_kernel(BACKENDS)


# ---------------------------------------------------------------------------- the parts of a step, each compiled by itself

def embed(model, integers, n, S):
    """The last tokens of n slots -> (B, 1, C), their places in the cache as two indices (n,), the keys they see (n, 1, 1, S).

    There may be rows behind the n ones that only fill the shape.
    """
    device = integers.device
    B = max(n, model.min_rows)
    slots, positions = torch.arange(n, device=device), integers[POSITION, :n].clone()
    x = model.embed(integers[TOKEN, :B, None], integers[POSITION, :B, None])
    visible = torch.arange(S, device=device) <= positions[:, None]
    return x, (slots, positions), visible[:, None, None]


def run_layer(block, x, keys, values, places, visible, attend_one, n, S):
    """(B, 1, C) -> (B, 1, C), after the keys and values of the first n rows were put to their places."""
    slots, positions = places

    def attend(q, k, v):
        """(B, nh, 1, hd) each -> (B, nh, 1, hd)"""
        keys[slots, :, positions], values[slots, :, positions] = k[:n, :, 0].to(keys.dtype), v[:n, :, 0].to(keys.dtype)
        y = attend_one(q[:n].to(keys.dtype), keys[:n, :, :S], values[:n, :, :S], visible).to(q.dtype)
        return F.pad(y, (0, 0, 0, 0, 0, 0, 0, len(q) - n)) if len(q) > n else y

    return block(x, attend)


def finish(norm, head, x, integers, out, n):
    """(B, 1, C) -> logits (n, V), in `out` if given. Counts on to the next position and random number."""
    logits = head(norm(x)[:, 0])[:n]
    integers[POSITION:DRAW + 1] += 1
    return logits if out is None else out.copy_(logits)


def sample_rows(logits, integers, numbers, n, way):
    """Puts a token into each of the n columns that are sampled in this way, by (n, V) logits."""
    tokens = sample_one_way(logits, way, settings_of(integers, numbers, n))
    integers[TOKEN, :n] = torch.where(integers[WAY, :n] == way, tokens, integers[TOKEN, :n])


def settings_of(integers, numbers, n):
    """Settings of the first n slots."""
    uniforms = numbers[UNIFORMS:, :n].gather(0, integers[DRAW:DRAW + 1, :n])  # (1, n)
    return Settings(integers[TOP_K, :n, None], numbers[TEMPERATURE, :n, None], numbers[TOP_P, :n, None], uniforms.T)


def attend_one_fused(q, k, v, visible):
    """softmax(q kᵀ / sqrt(hd)) v for one query a row: (n, nh, 1, hd), (n, nh, S, hd) twice -> (n, nh, 1, hd).

    To be compiled. Sums of products, instead of matrix products with one row: the compiler fuses them with the mask and the
    softmax, reads k and v once, where they lie, and keeps float32 in registers. visible: (n, 1, 1, S), the keys a row sees.
    """
    scores = (q.float() * k.float()).sum(dim=-1)[:, :, None] * q.size(-1) ** -0.5  # (n, nh, 1, S)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
    return (weights.transpose(-2, -1) * v.float()).sum(dim=-2, keepdim=True)


def padded(number: int, least: int, most: int) -> int:
    """The smallest of least, 2 least, 4 least, ... that has room for a number, but not more than `most`."""
    size = least
    while size < number:
        size *= 2
    return min(size, most)


def compute_dtype(model):
    """The type of the keys and values that a forward pass makes: autocast's where it is on, else the weights'."""
    weight = model.transformer.wte.weight
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return torch.float32 if dtype == torch.float64 else dtype


def empty_cache(shape, device, dtype):
    """Zeros, because what was never written is multiplied by 0. On a CPU in float32, in which one query attends faster,
    and in memory that the system provides when it is first written to."""
    if device.type == 'cpu':
        return torch.from_numpy(np.zeros(shape, np.float32))
    return torch.zeros(shape, device=device, dtype=dtype)
