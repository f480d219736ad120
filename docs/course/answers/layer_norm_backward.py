import torch


def layer_norm_backward(dy, x, weight, eps=1e-5):
    centered = x - x.mean(dim=-1, keepdim=True)
    root = torch.sqrt(centered.square().mean(dim=-1, keepdim=True) + eps)  # (M, 1)
    n = centered / root
    g = dy * weight
    dx = (g - g.mean(dim=-1, keepdim=True) - n * (g * n).mean(dim=-1, keepdim=True)) / root
    return dx, (dy * n).sum(dim=0), dy.sum(dim=0)
