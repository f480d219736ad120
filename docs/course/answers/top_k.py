import torch


def top_k(logits, temperature, k):
    logits = logits / temperature
    values, tokens = logits.topk(k)
    return torch.zeros_like(logits).scatter(0, tokens, values.softmax(dim=0))
