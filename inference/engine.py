"""Cached generation: sequences join and leave one running batch, and each reads as if it were alone.

    from inference.engine import Engine, Request, generate
    engine = Engine(model, max_batch=16)
    (sequence,) = engine.add(Request(ids, max_new_tokens=50, temperature=0.8, seed=1, stop_tokens=(eot,)))
    while sequence.finish_reason is None:
        engine.step()                                # one more token for each running sequence
    idx = generate(model, idx, max_new_tokens=50)    # the same for a tensor of prompts, (B, T) -> (B, T + new)

The engine has `max_batch` slots, whose keys and values are allocated once. A sequence may give its slot to another one for a
while (`pause`, `resume`). A step is made of two parts:

    prefill  one sequence after the other, the keys and values that are missing of all its tokens but the last: those of
             a new prompt, of tokens that `force` appended, or of a window that has moved
    decode   the last tokens of all sequences together, a row each, in shapes that hardly ever change

This file decides what runs; inference/decode.py computes it.

Positions are learned, so all keys and values change when the context window moves. It therefore moves rarely and far:
when it holds block_size tokens, the older half is dropped (`window_start`).

A sequence does not depend on what else runs: each has its own random generator, prompts are computed one by one, and
sampling works row by row. What remains is rounding, since a matrix product may add in another order when there are more
rows. This file knows nothing about text.

Letters in shapes: n running sequences, T tokens, V = vocab_size.
"""
import contextlib
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inference import native
from inference.decode import Decoder, compute_dtype
from inference.sampling import logprob_rows, penalize
from inference.threads import Threads
from model import GPT
from runtime.errors import BadInput


@dataclass
class Request:
    """What to write. Raises BadInput that names the setting which is out of range."""
    ids: list[int]  # the prompt
    max_new_tokens: int
    temperature: float = 1.0  # 0: always the likeliest token
    top_k: int | None = None  # only the k likeliest
    top_p: float | None = None  # only the likeliest that together have probability p (Holtzman et al. 2020)
    seed: int | None = None  # the same seed gives the same text; None: torch's global generator decides
    stop_tokens: tuple[int, ...] = ()  # the text ends with any of these
    repetition_penalty: float = 1.0  # divides the logits of tokens that the text already has (Keskar et al. 2019, "CTRL")
    logprobs: int | None = None  # report the log-probability of each new token, and of so many of the likeliest
    echo_logprobs: bool = False  # those of the prompt's tokens too
    tool: Callable | None = None  # tool(sequence) -> token ids to append after what was written, or None

    def __post_init__(self):
        for name, is_right, expected in (
                ('max_new_tokens', self.max_new_tokens >= 0, '0 or more'),
                ('temperature', 0 <= self.temperature < math.inf, '0 (the likeliest token) or more'),
                ('top_k', self.top_k is None or self.top_k >= 1, 'at least 1, or None for all tokens'),
                ('top_p', self.top_p is None or 0 < self.top_p <= 1, 'above 0 and at most 1'),
                ('repetition_penalty', 0 < self.repetition_penalty < math.inf, 'above 0; 1 changes nothing'),
                ('seed', self.seed is None or -2**63 <= self.seed < 2**63, 'a number of 64 bits'),
                ('logprobs', self.logprobs is None or self.logprobs >= 0, '0 or more')):
            if not is_right:
                raise BadInput(f'{name}={getattr(self, name)} should be {expected}')


class Sequence:
    """A text in the making.

    ids: the prompt and all new tokens; tokens: the new ones, a stop token included
    forced: indices into `tokens` of those that `Engine.force` appended
    logprobs: if asked for, for each new token (log-probability, [(id, log-probability) of the likeliest]) by the model's
        own distribution, before temperature and the like; None for a forced token
    prompt_logprobs: the same for the prompt; None for a token that has nothing before it in the window
    finish_reason: None while it runs; 'stop' after a stop token or `Engine.remove`, 'length' after max_new_tokens
    """

    def __init__(self, request: Request, seed: int | None):
        self.request, self.ids, self.tokens, self.forced, self.finish_reason = request, list(request.ids), [], set(), None
        self.logprobs = None if request.logprobs is None else []
        self.prompt_logprobs = [None] * len(request.ids) if request.echo_logprobs and request.logprobs is not None else None
        self.start, self.cached = 0, 0  # where the window begins in ids, and how many of its tokens are in the cache
        self.seed, self.generator = seed, None
        self.saved = None  # its keys and values while it is paused
        self.n_passed, self.ahead = 0, torch.empty(0)  # random numbers: of so many tokens, and those drawn for later ones

    def uniforms(self, n: int) -> Tensor:
        """(n,) numbers in [0, 1), one for each of the next n tokens that are sampled, whether they will be needed or not."""
        if self.generator is None:
            seed = int(torch.randint(2**63 - 1, ())) if self.seed is None else self.seed
            self.generator = torch.Generator().manual_seed(seed)
        n_sampled = len(self.tokens) - len(self.forced)
        left = self.ahead[n_sampled - self.n_passed:]
        self.n_passed, self.ahead = n_sampled, torch.cat([left, torch.rand(n - len(left), generator=self.generator)])
        return self.ahead

    def append(self, token):
        self.tokens.append(token)
        self.ids.append(token)


class Engine:
    """Continuous batching over preallocated keys and values. Not thread-safe."""

    def __init__(self, model: GPT, max_batch: int = 16, compile: bool = False, weights: str = 'auto'):
        """Takes the weights as they are now; on a CPU, in a copy laid out for fast products.

        compile: compiles decoding and sampling, and on a GPU replays them as CUDA graphs (inference/decode.py). The first
        two steps of every new shape are slow, or `warm_up` is. It does not pay on a CPU: packed weights cannot be in a graph.
        weights: 'int8' or 'int4' on a CPU (inference/quantized.py); 'auto': in the type that the model has.
        """
        if max_batch < 1:
            raise BadInput(f'max_batch={max_batch} should be at least 1')
        self.config, self.max_batch = model.config, max_batch
        self.decoder = Decoder(model, max_batch, compile, weights)
        self.threads = Threads(torch.get_num_threads() if self.decoder.on_cpu else 1, self.decoder.use_threads)
        self.running = []  # a sequence's index is its slot
        self.changed = True  # whether the device does not know all of the running sequences

    def warm_up(self):
        """Compiles what is to be compiled, so that no sequence waits for it. Call it while none is running."""
        self.decoder.warm_up()
        self.changed = True

    @property
    def n_running(self) -> int:
        return len(self.running)

    @property
    def free(self) -> int:
        """How many more sequences fit."""
        return self.max_batch - len(self.running)

    def add(self, request: Request, n: int = 1) -> list[Sequence]:
        """Starts n samples of a request with the next step. Sample i draws from seed + i.

        Raises BadInput if the prompt is empty or has a token outside the vocabulary.
        """
        if not request.ids or min(request.ids) < 0 or max(request.ids) >= self.config.vocab_size:
            raise BadInput(f'the prompt should have at least one token, all of the vocabulary of {self.config.vocab_size}')
        self.check_free(n)
        added = [Sequence(request, None if request.seed is None else request.seed + i) for i in range(n)]
        self.running += added
        self.changed = True
        return added

    def check_free(self, n):
        if n > self.free:
            raise RuntimeError(f'{n} slots are needed, {self.free} of {self.max_batch} are free')

    def remove(self, sequence: Sequence, reason: str = 'stop'):
        """Ends a sequence and frees its slot, which the last one moves into. Does nothing to one that has ended."""
        if sequence in self.running:
            sequence.finish_reason = reason
            self.free_slot(sequence)

    def pause(self, sequence: Sequence, keep: bool = True):
        """Frees the slot of a running sequence, which goes on after `resume` as if nothing had been between.

        keep: keeps its keys and values in memory of their own. Otherwise they are computed anew, which may round differently.
        """
        if keep:
            sequence.saved = self.decoder.read_slot(self.running.index(sequence), sequence.cached)
        else:
            sequence.cached = 0
        self.free_slot(sequence)

    def resume(self, sequences: list[Sequence]):
        """Lets paused sequences go on with the next step."""
        self.check_free(len(sequences))
        for sequence in sequences:
            if sequence.saved:
                self.decoder.write_slot(len(self.running), sequence.saved)
            sequence.saved = None
            self.running.append(sequence)
        self.changed = True

    def free_slot(self, sequence):
        self.changed = True
        slot, last = self.running.index(sequence), self.running.pop()
        if last is not sequence:
            self.running[slot] = last
            self.decoder.copy_slot(len(self.running), slot, last.cached)

    def force(self, sequence: Sequence, ids: list[int]):
        """Appends tokens to a running sequence as if it had written them; they count in max_new_tokens.

        Raises IndexError for tokens outside the vocabulary.
        """
        if ids and not 0 <= min(ids) <= max(ids) < self.config.vocab_size:
            raise IndexError(f'there is a token outside the vocabulary of {self.config.vocab_size}: {ids}')
        self.changed = True
        for token in ids:
            sequence.forced.add(len(sequence.tokens))
            sequence.append(token)
            if sequence.logprobs is not None:
                sequence.logprobs.append(None)
        if len(sequence.tokens) >= sequence.request.max_new_tokens:
            self.remove(sequence, 'length')

    @torch.no_grad()
    def step(self) -> list[Sequence]:
        """One more token for every running sequence. Returns these sequences; those that have ended leave the batch.

        A sequence of no new tokens at all is returned once, with the log-probabilities of its prompt.
        """
        self.prefill()
        stepped = list(self.running)
        for sequence in stepped:
            if not sequence.request.max_new_tokens:
                self.remove(sequence, 'length')
        if self.running:
            self.decode()
        for sequence in stepped:
            if sequence.request.tool and sequence.finish_reason is None and (ids := sequence.request.tool(sequence)):
                self.force(sequence, ids)
        return stepped

    def prefill(self):
        """Computes the keys and values of all tokens but the last of each window, where they are missing."""
        filled = {}  # {what was computed: its slot}, so that samples of one prompt share it
        for slot, sequence in enumerate(self.running):
            start = window_start(len(sequence.ids), self.config.block_size)
            if start != sequence.start:
                sequence.start, sequence.cached, self.changed = start, 0, True
            missing = sequence.ids[start + sequence.cached:-1]
            if not missing:
                continue
            request = sequence.request
            key = None if sequence.tokens else (tuple(sequence.ids[start:]), request.echo_logprobs, request.logprobs)
            if key in filled:
                self.decoder.copy_slot(filled[key], slot, len(missing))
                sequence.prompt_logprobs = self.running[filled[key]].prompt_logprobs
            else:
                self.prefill_slot(slot, sequence, missing)
            sequence.cached += len(missing)
            if key:
                filled[key] = slot

    def prefill_slot(self, slot, sequence, missing):
        """Computes the keys and values of T tokens that follow the cached ones of a slot."""
        x = self.decoder.prefill(slot, missing, sequence.cached)  # (T, C)
        if sequence.prompt_logprobs and not sequence.tokens:
            following = torch.tensor(sequence.ids[sequence.start + 1:], device=x.device)
            counts = [sequence.request.logprobs] * len(missing)
            sequence.prompt_logprobs[-len(missing):] = logprob_rows(self.decoder.head(x), following, counts)

    def decode(self):
        """Appends a token to every running sequence."""
        running = list(self.running)
        if self.changed or self.decoder.n_ahead == 0:
            self.decoder.load(running)
        self.changed = True  # until this step has come to its end
        with self.threads.step(len(running)):
            logits = self.decoder.decode(len(running), max(sequence.cached for sequence in running))  # (n, V)
            if any(sequence.request.repetition_penalty != 1 for sequence in running):
                tokens = self.decoder.sample(penalize(logits, running))
            else:
                tokens = self.decoder.sample()
        rows = [row for row, sequence in enumerate(running) if sequence.logprobs is not None]
        if rows:
            chosen = torch.tensor([tokens[row] for row in rows], device=logits.device)
            counts = [running[row].request.logprobs for row in rows]
            for row, logprobs in zip(rows, logprob_rows(logits[rows], chosen, counts)):
                running[row].logprobs.append(logprobs)
        self.changed = False
        for sequence in running:  # all of them, before a slot is copied
            sequence.cached += 1
        for sequence, token in zip(running, tokens):
            sequence.append(token)
            if token in sequence.request.stop_tokens:
                self.remove(sequence, 'stop')
            elif len(sequence.tokens) >= sequence.request.max_new_tokens:
                self.remove(sequence, 'length')


def generate(model: GPT, idx: Tensor, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None,
             top_p: float | None = None, seed: int | None = None, stop_tokens: tuple[int, ...] = ()) -> Tensor:
    """(B, T) tokens -> (B, T + new), where new is max_new_tokens, or less if all rows have written a stop token.

    Row r draws from a generator of its own, seeded with seed + r. A row that has written a stop token repeats it.
    """
    sequences = []
    with engine_of(model, len(idx)) as engine:
        for r, row in enumerate(idx.tolist()):
            row_seed = None if seed is None else seed + r
            sequences += engine.add(Request(row, max_new_tokens, temperature, top_k, top_p, row_seed, stop_tokens))
        while engine.n_running:
            engine.step()
    longest = max(len(sequence.tokens) for sequence in sequences)
    new = [sequence.tokens + sequence.tokens[-1:] * (longest - len(sequence.tokens)) for sequence in sequences]
    return torch.cat([idx, torch.tensor(new, dtype=idx.dtype, device=idx.device)], dim=1)


@contextlib.contextmanager
def engine_of(model, max_batch):
    """An engine with the model's weights as they are now. Where step.cpp writes the text, to lay them out takes longer than
    a short text does: so the one of the latest call is kept, as long as the model, and taken again if nothing has changed.
    """
    is_kept = model.transformer.wte.weight.device.type == 'cpu' and not native.why_not(model)
    state = (max_batch, compute_dtype(model), torch.get_num_threads(), native.digest(model.parameters())) if is_kept else None
    kept_state, engine = latest_engines.pop(model, (None, None))  # out of reach of other threads meanwhile
    if engine is None or state != kept_state:
        engine = None  # before there is another
        engine = Engine(model, max_batch)
    yield engine
    if is_kept:  # and nothing has ended it early
        latest_engines[model] = state, engine


latest_engines = weakref.WeakKeyDictionary()  # {model: (state, engine)}


def window_start(length: int, block_size: int) -> int:
    """Where the context window begins in a text of `length` tokens: 0 while all fit, then in steps of half a block."""
    step = max(1, block_size // 2)
    return max(0, -(-(length - block_size) // step) * step)
