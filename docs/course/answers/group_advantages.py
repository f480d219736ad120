import torch


def group_advantages(rewards):
    centered = rewards - rewards.mean(dim=1, keepdim=True)
    deviation = centered.square().mean(dim=1, keepdim=True).sqrt()  # (P, 1)
    return torch.where(deviation > 0, centered / deviation, 0.0)
