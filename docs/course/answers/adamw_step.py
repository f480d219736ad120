import torch


def adamw_step(weight, gradient, m, v, step, lr, beta1, beta2, eps, weight_decay):
    weight = weight * (1 - lr * weight_decay)
    m = beta1 * m + (1 - beta1) * gradient
    v = beta2 * v + (1 - beta2) * gradient ** 2
    corrected_m = m / (1 - beta1 ** step)
    corrected_v = v / (1 - beta2 ** step)
    return weight - lr * corrected_m / (torch.sqrt(corrected_v) + eps), m, v
