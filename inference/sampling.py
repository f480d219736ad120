"""From logits to tokens: penalties, sampling, log-probabilities.

Each row's token is a function of that row, its request and one uniform random number alone, whatever else is in the batch.
A request decides on one of a few ways to sample (`way_of`), its numbers are in tensors: so nothing that differs from row
to row, or from text to text, is fixed in a compiled graph.

Letters in shapes: n rows, V = vocab_size, K likeliest tokens.
"""
from typing import NamedTuple

import torch
from torch import Tensor

NUCLEUS_AT_FIRST = 1024  # of the likeliest tokens are sorted first for top_p: sorting a vocabulary is slow on a CPU
GREEDY, WHOLE, NUCLEUS = 0, -1, -2  # ways to sample; every other way is the number K of tokens that top_k sorts
GREEDY_BELOW = 1e-5  # temperature: a logit that is divided by less may be too large for float32
LEAST_K, K_STEP = 64, 4  # K is 64, 256, 1024, ...: few ways, and the same for a request whatever else is in the batch


class Settings(NamedTuple):
    """What rows are sampled with, (n, 1) each."""
    top_k: Tensor  # int64
    temperature: Tensor  # float32, as the others
    top_p: Tensor
    uniforms: Tensor  # random numbers in [0, 1)


def way_of(request, vocab_size: int) -> int:
    """GREEDY, WHOLE, NUCLEUS, or for a request with top_k the smallest K that has room for it, or for the vocabulary."""
    if request.temperature < GREEDY_BELOW:
        return GREEDY
    if request.top_k is not None:
        way = LEAST_K
        while way < min(request.top_k, vocab_size):
            way *= K_STEP
        return way
    return NUCLEUS if request.top_p is not None and request.top_p < 1 else WHOLE


def numbers_of(request, vocab_size: int) -> tuple[int, float, float]:
    """(top_k, temperature, top_p) with numbers that change nothing where the request has none."""
    return min(request.top_k or vocab_size, vocab_size), request.temperature or 1.0, request.top_p or 1.0


def sample(logits: Tensor, rows_of: dict[int, Tensor], settings: Settings) -> Tensor:
    """(n, V) float32 logits, {way: the rows that are sampled so, int64} -> (n,) tokens."""
    if len(rows_of) == 1:
        (way,) = rows_of
        return sample_one_way(logits, way, settings)
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    for way, rows in rows_of.items():
        tokens[rows] = sample_one_way(logits[rows], way, Settings(*(numbers[rows] for numbers in settings)))
    return tokens


def sample_one_way(logits: Tensor, way: int, settings: Settings) -> Tensor:
    """(n, V) float32 logits -> (n,) tokens, all rows in the same way."""
    if way == GREEDY:
        return logits.argmax(dim=-1)
    if way == WHOLE:
        return sample_whole(logits, settings)
    if way == NUCLEUS:
        return sample_nucleus(logits, settings)
    return sample_top_k(logits, way, settings)


def sample_whole(logits, settings):
    """Inverts the cumulative distribution over the vocabulary in its own order."""
    cumulative = probabilities_of(logits, settings.temperature).cumsum(dim=-1)  # (n, V)
    token = torch.searchsorted(cumulative, settings.uniforms * cumulative[:, -1:], right=True)  # (n, 1)
    return token.clamp(max=logits.size(1) - 1).squeeze(1)


def sample_top_k(logits, K, settings):
    """top_p is a share of the probability that the k likeliest have together."""
    logits, tokens = logits.topk(min(K, logits.size(1)))  # (n, K) each, falling
    ranks = torch.arange(logits.size(1), device=logits.device)
    probabilities = probabilities_of(logits.masked_fill(ranks >= settings.top_k, -torch.inf), settings.temperature)
    share = settings.top_p * probabilities.sum(dim=-1, keepdim=True)
    return sample_sorted(probabilities, tokens, share, settings)


def sample_nucleus(logits, settings):
    """On a CPU, sorts the whole vocabulary only for rows whose nucleus may be larger than NUCLEUS_AT_FIRST. On a GPU and in
    a compiled graph always, because the CPU would have to wait to learn how large it is."""
    probabilities = probabilities_of(logits, settings.temperature)  # (n, V)
    sort_all = logits.device.type != 'cpu' or torch.compiler.is_compiling()
    if sort_all or logits.size(1) <= NUCLEUS_AT_FIRST:
        return sample_sorted(*probabilities.sort(dim=-1, descending=True), settings.top_p, settings)
    largest, tokens = probabilities.topk(NUCLEUS_AT_FIRST)
    chosen = sample_sorted(largest, tokens, settings.top_p, settings)
    wide = (largest.sum(dim=-1) < settings.top_p[:, 0]).nonzero().squeeze(1)
    if len(wide):
        settings = Settings(*(numbers[wide] for numbers in settings))
        chosen[wide] = sample_sorted(*probabilities[wide].sort(dim=-1, descending=True), settings.top_p, settings)
    return chosen


def sample_sorted(probabilities, tokens, share, settings):
    """Samples one of the first top_k of (n, K) tokens with falling probabilities, among the fewest that together have this
    share, (n, 1)."""
    cumulative = probabilities.cumsum(dim=-1)
    last = (cumulative < share).sum(dim=-1, keepdim=True)  # the one that reaches the share
    last = torch.minimum(last, settings.top_k.clamp(max=tokens.size(1)) - 1)
    rank = torch.searchsorted(cumulative, settings.uniforms * cumulative.gather(1, last), right=True)
    return tokens.gather(1, torch.minimum(rank, last)).squeeze(1)


def probabilities_of(logits, temperature):
    """softmax(logits / temperature); the largest logit is subtracted first, so that no temperature is too small."""
    return ((logits - logits.amax(dim=-1, keepdim=True)) / temperature).softmax(dim=-1)


def penalize(logits: Tensor, sequences: list) -> Tensor:
    """(n, V) -> (n, V): tokens that a sequence already has become less likely by its repetition penalty."""
    logits = logits.clone()
    for row, sequence in zip(logits, sequences):
        penalty = sequence.request.repetition_penalty
        if penalty != 1:
            seen_ids = to_device(torch.tensor(sorted(set(sequence.ids))), logits.device)
            row[seen_ids] = torch.where(row[seen_ids] > 0, row[seen_ids] / penalty, row[seen_ids] * penalty).nan_to_num()
    return logits


def logprob_rows(logits: Tensor, chosen: Tensor, counts: list[int]) -> list:
    """(n, V) logits, (n,) tokens, how many of the likeliest for each -> [(log-probability, [(id, log-probability)])]."""
    logprobs = logits.log_softmax(dim=-1)
    of_chosen = logprobs.gather(1, chosen[:, None]).squeeze(1).tolist()
    values, ids = (top.tolist() for top in logprobs.topk(min(max(counts), logits.size(1))))
    return [(own, list(zip(row_ids[:count], row_values[:count])))
            for own, row_ids, row_values, count in zip(of_chosen, ids, values, counts)]


def to_device(tensor, device):
    """A small tensor made on the CPU, without waiting for what a GPU is doing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == 'cuda' else tensor.to(device)
