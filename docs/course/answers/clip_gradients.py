import torch


def clip_gradients(gradients, max_norm):
    norm = torch.sqrt(sum(gradient.square().sum() for gradient in gradients))
    factor = max_norm / norm if norm > max_norm else 1.0
    return [gradient * factor for gradient in gradients]
