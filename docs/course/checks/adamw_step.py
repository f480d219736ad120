"""What the exercise adamw_step is compared with; examine.py describes the parts."""
import functools

import torch

HINTS = (
    'Follow the four lines of the text one by one, each as one or two lines of Python. beta1 ** step is a power, no '
    'product.',
    'The order matters little but for one thing: correct m and v after they have been updated, into new names, and '
    'return the ones that were not corrected.',
)


def cases():
    zeros = torch.zeros(3)
    yield 'the first step, without weight decay', (torch.randn(3), torch.randn(3), zeros, zeros, 1, 0.1, 0.9, 0.95, 1e-8, 0.0)
    yield 'the first step, with weight decay', (torch.randn(3), torch.randn(3), zeros, zeros, 1, 0.1, 0.9, 0.95, 1e-8, 0.5)
    yield 'the tenth step', (torch.randn(3), torch.randn(3), torch.randn(3), torch.rand(3), 10, 0.1, 0.9, 0.95, 1e-8, 0.1)
    yield 'a large eps', (torch.randn(3), torch.randn(3), torch.randn(3), torch.rand(3), 10, 0.1, 0.9, 0.95, 0.5, 0.1)
    yield 'a gradient of 0', (torch.ones(2), torch.zeros(2), torch.zeros(2), torch.zeros(2), 1, 0.1, 0.9, 0.95, 1e-8, 0.0)


def expected(weight, gradient, m, v, step, lr, beta1, beta2, eps, weight_decay):
    p = torch.nn.Parameter(weight.clone())
    p.grad = gradient.clone()
    optimizer = torch.optim.AdamW([p], lr, (beta1, beta2), eps, weight_decay)
    state = {'step': torch.tensor(step - 1.0), 'exp_avg': m.clone(), 'exp_avg_sq': v.clone()}
    optimizer.state[p] = state
    optimizer.step()
    return p.detach(), state['exp_avg'], state['exp_avg_sq']


def variant(weight, gradient, m, v, step, lr, beta1, beta2, eps, decay, corrects=True, decoupled=True, eps_inside=False,
            root=True, keeps=True):
    if decoupled:
        weight = weight * (1 - lr * decay)
    else:
        gradient = gradient + decay * weight
    m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient ** 2
    mc, vc = (m / (1 - beta1 ** step), v / (1 - beta2 ** step)) if corrects else (m, v)
    size = (vc + eps).sqrt() if eps_inside else (vc.sqrt() if root else vc) + eps
    return weight - lr * mc / size, *((m, v) if keeps else (mc, vc))


FAULTS = {
    'the averages are not corrected for their beginning at zero (line 3)': functools.partial(variant, corrects=False),
    'weight decay is added to the gradient, as in Adam; AdamW multiplies the weight (line 1)':
        functools.partial(variant, decoupled=False),
    'eps is under the root; it is added to the root': functools.partial(variant, eps_inside=True),
    'the root of v is missing': functools.partial(variant, root=False),
    'the corrected averages are returned; the next step needs those of line 2': functools.partial(variant, keeps=False),
    'weight decay is missing': lambda *args: variant(*args[:-1], 0.0),
    'weight decay should be multiplied by lr': lambda *args: variant(args[0] * (1 - args[-1]), *args[1:-1], 0.0),
    'steps count from 1 here, so the power is `step`': lambda w, g, m, v, step, *rest: variant(w, g, m, v, step + 1, *rest),
}
