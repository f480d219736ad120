import torch


def top_p(logits, p):
    falling, tokens = logits.softmax(dim=0).sort(descending=True)
    before = falling.cumsum(dim=0) - falling  # what the tokens before each one have together
    kept = torch.where(before < p, falling, 0.0)
    return torch.zeros_like(logits).scatter(0, tokens, kept / kept.sum())
