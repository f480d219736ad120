"""One step of AdamW: a step for each number, divided by how large its gradients have been.

To check it: python -m docs.course.check adamw_step
"""
import torch


def adamw_step(weight, gradient, m, v, step, lr, beta1, beta2, eps, weight_decay):
    """
    weight, gradient, m, v: tensors of one shape; m and v are the running averages, zeros before the first step
    step: 1 for the first step
    Returns (weight, m, v) after the step.

    1. Weight decay: the weight is multiplied by 1 - lr * weight_decay.
    2. m becomes beta1 * m + (1 - beta1) * gradient, and v becomes beta2 * v + (1 - beta2) * gradient².
    3. Both begin at zero and are too small at first. Corrected: m' = m / (1 - beta1 ** step), v' = v / (1 - beta2 ** step).
    4. The weight goes down by lr * m' / (sqrt(v') + eps). The m and v that are returned are those of line 2.
    """
    raise NotImplementedError
