"""The log-probability of texts under a model: what HellaSwag, perplexity and all other scores here are made of.

    model, tokenizer, process, source = open_for_evaluation(config)
    values = log_likelihoods(model, [(context, continuation), ...], process)   # (N,), in nats
    values, guessed = measure(model, pairs, process, never=stop_words)         # and whether the model guesses them

Knows nothing about where texts come from, nor what becomes of their log-probabilities.
"""
import functools
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import pretrained
from bpe import Tokenizer
from configurator import check_bounds
from model import GPT
from runtime import hardware
from runtime.process import Process

HEAD_ROWS = 1024  # hidden states whose logits are in memory at once: 200 MB with GPT-2's vocabulary, and as much for the loss


def open_for_evaluation(config: dict) -> tuple[GPT, Tokenizer, Process, str]:
    """(model, tokenizer, process, what was loaded) by the keys init_from, out_dir, batch_size, device and dtype, after a line
    that says what runs."""
    check_bounds(config, 'batch_size', at_least=1)
    process = Process(config, float32_precision='highest')
    model, tokenizer, source = pretrained.load(config['init_from'] or config['out_dir'],
                                               kernels='torch', attention='auto', dropout=0.0)
    process.print0(f'{source}: {model.n_params():,} parameters, {hardware.describe(process.device)}, '
                   f'{str(process.dtype).removeprefix("torch.")}')
    return model.to(process.device), tokenizer, process, source


def log_likelihoods(model: GPT, pairs: Sequence[tuple], process: Process, batch_size: int = 32, **options) -> Tensor:
    """(N,) float64 on the CPU: log p(continuation | context) of N pairs, in nats. All arguments are those of `measure`."""
    return measure(model, pairs, process, batch_size, **options)[0]


@torch.no_grad()
def measure(model: GPT, pairs: Sequence[tuple], process: Process, batch_size: int = 32, *, never: Sequence[int] | None = None,
            compiled: bool = False, progress: str = '', check_stop: Callable[[], None] | None = None) -> tuple[Tensor, Tensor]:
    """(log p(continuation | context) of N pairs in nats, (N,) float64; whether the model guesses them, (N, 2) bool).

    Both are on the CPU, and the same on every process. A continuation is guessed if each of its tokens is the likeliest after
    those before it; in the second column, the likeliest of those that are not in `never`. Without `never`, False throughout.

    pairs: (context, continuation), each a list or 1-D tensor of token ids. A context has at least one token, and both
        together have at most block_size + 1, since the last token is predicted but not read. Neighbours with the same
        context, such as the endings of one question, share one row, so that their context is computed once.
    process: every process must call this. They take the batches in turns, so the batches, and with them the figures, do
        not depend on the number of processes.
    compiled: through torch.compile, which pays where there are many batches.
    progress: what the progress bar says; no bar if empty.
    check_stop: called after each batch, equally often on every process; it raises to stop (runtime.stop.StopSignals.check).
    """
    same_as = first_of_equals(pairs)
    rows = share_contexts(pairs, sorted(set(same_as)))
    # The longest first, so that running out of memory shows at once; and rows of a batch have about the same length.
    rows.sort(key=lambda row: -row_length(row, pairs))
    batches = [rows[i:i + batch_size] for i in range(0, len(rows), batch_size)]
    totals = torch.zeros(len(pairs), 3, dtype=torch.float64)  # of each pair: nats, and tokens not guessed in both ways
    read = compiled_hidden_states() if compiled else hidden_states
    never = None if never is None else torch.tensor(never, dtype=torch.int64, device=process.device)
    training = model.training
    model.eval()
    try:
        with tqdm(total=sum(map(len, rows)), desc=progress, unit=' texts', leave=False,
                  disable=not (progress and process.is_first)) as bar:
            for first in range(0, len(batches), process.world_size):
                turn = batches[first:first + process.world_size]
                if process.rank < len(turn):
                    *inputs, places, ids, owners = pack(turn[process.rank], pairs)
                    inputs = [None if tensor is None else tensor.to(process.device) for tensor in inputs]
                    with process.autocast():
                        x = read(model, *inputs).flatten(0, 1)[places.to(process.device)]  # (M, C)
                        of_tokens = score_tokens(model, x, ids.to(process.device), never)
                    totals.index_add_(0, owners, of_tokens.double().cpu())
                bar.update(sum(len(row) for batch in turn for row in batch))
                if check_stop:
                    check_stop()
    finally:
        model.train(training)
    totals = torch.tensor(process.sum(totals), dtype=torch.float64).view(-1, 3)[same_as]
    return -totals[:, 0], totals[:, 1:] == 0


def first_of_equals(pairs):
    """For each pair the number of the first that is equal to it: equal texts get equal values, whatever rounding does."""
    numbers = {}
    return [numbers.setdefault((tuple(context), tuple(continuation)), i) if isinstance(context, list) else i
            for i, (context, continuation) in enumerate(pairs)]


def share_contexts(pairs, numbers):
    """The numbers of pairs as rows: neighbours are in one if their contexts are equal lists."""
    groups = itertools.groupby(numbers, key=lambda i: pairs[i][0] if isinstance(pairs[i][0], list) else i)
    return [list(group) for _, group in groups]


def row_length(row, pairs):
    """Tokens that are read: the context once, and all of each continuation but its last token."""
    return len(pairs[row[0]][0]) + sum(len(pairs[i][1]) - 1 for i in row)


def pack(rows, pairs):
    """Tensors for a forward pass over B rows of at most T tokens, with M targets in all.

    idx, positions (B, T); mask (B, 1, T, T), which keeps the continuations of a row from seeing each other, or None where
    every row has one only; for each target the place in the flattened (B, T) that predicts it, its id, and its pair, (M,).
    Rows are filled up at the right, which no token of a causal model sees.
    """
    T = max(row_length(row, pairs) for row in rows)
    idx, positions = torch.zeros(2, len(rows), T, dtype=torch.int64)
    part = torch.zeros(len(rows), T, dtype=torch.int64)  # 0 in the context, 1, 2, ... in the continuations
    places, ids, owners = [], [], []
    for b, row in enumerate(rows):
        context = pairs[row[0]][0]
        n = end = len(context)
        idx[b, :n], positions[b, :n] = torch.as_tensor(context), torch.arange(n)
        for k, i in enumerate(row, 1):
            continuation = torch.as_tensor(pairs[i][1])
            begin, end = end, end + len(continuation) - 1
            idx[b, begin:end] = continuation[:-1]
            positions[b, begin:end], part[b, begin:end] = torch.arange(n, n + end - begin), k
            places += [torch.tensor([b * T + n - 1]), torch.arange(b * T + begin, b * T + end)]
            ids.append(continuation)
            owners.append(torch.full_like(continuation, i))
    mask = None
    if any(len(row) > 1 for row in rows):
        visible = (part[:, :, None] == part[:, None, :]) | (part == 0)[:, None, :]  # (B, T, T)
        mask = (visible & torch.ones(T, T, dtype=torch.bool).tril())[:, None]
    return idx, positions, mask, torch.cat(places), torch.cat(ids), torch.cat(owners)


def hidden_states(model, idx, positions, mask):
    """What the last layer makes of B rows, (B, T, C)."""
    def attend(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return model.hidden(idx, positions, None if mask is None else [attend] * model.config.n_layer)


@functools.cache
def compiled_hidden_states():
    return torch.compile(hidden_states, dynamic=True)


def score_tokens(model, x, ids, never):
    """(M, 3) float32 for each of M targets: its cross entropy, and 1 where it is not the guess, in both ways of `measure`."""
    parts = []
    for some_x, some_ids in zip(x.split(HEAD_ROWS), ids.split(HEAD_ROWS)):
        logits = model.head(some_x).float()
        nats = F.cross_entropy(logits, some_ids, reduction='none')
        missed = [torch.ones_like(nats)] * 2
        if never is not None:
            missed = [logits.argmax(dim=1) != some_ids, logits.index_fill(1, never, -torch.inf).argmax(dim=1) != some_ids]
        parts.append(torch.stack([nats, *missed], dim=1))
    return torch.cat(parts)
