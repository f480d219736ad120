import torch


def layer_norm(x, weight, bias, eps=1e-5):
    centered = x - x.mean(dim=-1, keepdim=True)
    variance = centered.square().mean(dim=-1, keepdim=True)  # (B, T, 1)
    return centered / torch.sqrt(variance + eps) * weight + bias
