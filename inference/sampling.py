"""From logits to tokens: penalties, sampling, log-probabilities.

Each row's token is a function of that row, its request and one uniform random number alone, whatever else is in the batch.

Letters in shapes: n rows, V = vocab_size, K likeliest tokens.
"""
import torch
from torch import Tensor

NUCLEUS_AT_FIRST = 1024  # of the likeliest tokens are sorted first for top_p: sorting a vocabulary is slow on a CPU


def penalize(logits: Tensor, sequences: list) -> Tensor:
    """(n, V) -> (n, V): tokens that a sequence already has become less likely by its repetition penalty."""
    if all(sequence.request.repetition_penalty == 1 for sequence in sequences):
        return logits
    logits = logits.clone()
    for row, sequence in zip(logits, sequences):
        penalty = sequence.request.repetition_penalty
        if penalty != 1:
            seen_ids = torch.tensor(sorted(set(sequence.ids)), device=logits.device)
            row[seen_ids] = torch.where(row[seen_ids] > 0, row[seen_ids] / penalty, row[seen_ids] * penalty)
    return logits


def sample(logits: Tensor, requests: list, uniforms: Tensor) -> Tensor:
    """(n, V) float32 logits, a request for each row, (n,) uniform numbers in [0, 1) -> (n,) tokens.

    Rows that are sampled in the same way are sampled together.
    """
    groups = {}
    for row, request in enumerate(requests):
        groups.setdefault(sampler_of(request), []).append(row)
    tokens = torch.empty(len(requests), dtype=torch.int64, device=logits.device)
    for (sampler, top_k), rows in groups.items():
        settings = torch.tensor([[requests[row].temperature for row in rows], [requests[row].top_p or 1.0 for row in rows]])
        temperature, top_p = to_device(settings, logits.device)[:, :, None]  # (rows, 1) each
        if len(groups) == 1:
            return sampler(logits, top_k, temperature, top_p, uniforms[:, None])
        tokens[rows] = sampler(logits[rows], top_k, temperature, top_p, uniforms[rows, None])
    return tokens


def sampler_of(request):
    """(the function that samples for a request, its top_k)"""
    if request.temperature == 0:
        return greedy, None
    if request.top_k is not None:
        return sample_top_k, request.top_k
    if request.top_p is not None and request.top_p < 1:
        return sample_top_p, None
    return sample_all, None


def greedy(logits, top_k, temperature, top_p, uniforms):
    return logits.argmax(dim=-1)


def sample_all(logits, top_k, temperature, top_p, uniforms):
    """Inverts the cumulative distribution over the vocabulary in its own order."""
    cumulative = probabilities_of(logits, temperature).cumsum(dim=-1)  # (n, V)
    token = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)  # (n, 1)
    return token.clamp(max=logits.size(1) - 1).squeeze(1)


def sample_top_k(logits, top_k, temperature, top_p, uniforms):
    """top_p is a share of the probability that the k likeliest have together."""
    logits, tokens = logits.topk(min(top_k, logits.size(1)))  # (n, K) each, falling
    probabilities = probabilities_of(logits, temperature)
    return sample_sorted(probabilities, tokens, top_p * probabilities.sum(dim=-1, keepdim=True), uniforms)


def sample_top_p(logits, top_k, temperature, top_p, uniforms):
    """Sorts the whole vocabulary only for rows whose nucleus may be larger than NUCLEUS_AT_FIRST; on a GPU always, because
    the CPU would have to wait for the GPU to learn how large it is."""
    probabilities = probabilities_of(logits, temperature)  # (n, V)
    if logits.device.type != 'cpu' or logits.size(1) <= NUCLEUS_AT_FIRST:
        return sample_sorted(*probabilities.sort(dim=-1, descending=True), top_p, uniforms)
    largest, tokens = probabilities.topk(NUCLEUS_AT_FIRST)
    chosen = sample_sorted(largest, tokens, top_p, uniforms)
    wide = (largest.sum(dim=-1) < top_p[:, 0]).nonzero().squeeze(1)
    if len(wide):
        chosen[wide] = sample_sorted(*probabilities[wide].sort(dim=-1, descending=True), top_p[wide], uniforms[wide])
    return chosen


def sample_sorted(probabilities, tokens, share, uniforms):
    """Samples one of (n, K) tokens with falling probabilities, among the fewest that together have this share, (n, 1)."""
    cumulative = probabilities.cumsum(dim=-1)
    last = (cumulative < share).sum(dim=-1, keepdim=True).clamp(max=tokens.size(1) - 1)  # the one that reaches the share
    rank = torch.searchsorted(cumulative, uniforms * cumulative.gather(1, last), right=True)
    return tokens.gather(1, torch.minimum(rank, last)).squeeze(1)


def probabilities_of(logits, temperature):
    """softmax(logits / temperature); the largest logit is subtracted first, so that no temperature is too small."""
    return ((logits - logits.amax(dim=-1, keepdim=True)) / temperature).softmax(dim=-1)


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
