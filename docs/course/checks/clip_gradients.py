"""What the exercise clip_gradients is compared with; examine.py describes the parts."""
import torch

HINTS = (
    'There is one norm and one factor for all tensors. Add up the squares of all of them before you take the root.',
    'norm = the root of sum(g.square().sum() for g in gradients); factor = max_norm / norm if norm > max_norm else 1; '
    'multiply each tensor by the factor.',
)


def cases():
    yield 'one tensor of norm 5, which becomes 1', ([torch.tensor([3.0, 4.0])], 1.0)
    yield 'two tensors of different sizes', ([torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([12.0])], 1.0)
    yield 'a norm below the limit', ([torch.tensor([0.3, 0.4]), torch.tensor([0.1])], 1.0)
    yield 'only zeros', ([torch.zeros(2), torch.zeros(3)], 1.0)
    yield 'another limit', ([torch.tensor([6.0]), torch.tensor([8.0])], 5.0)


def run(clip_gradients, gradients, max_norm):
    clipped = clip_gradients(gradients, max_norm)
    return list(clipped) if clipped is not None else None


def expected(gradients, max_norm):
    parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return [parameter.grad for parameter in parameters]


def scaled(gradients, max_norm, norm, only_down=True):
    factor = max_norm / norm
    return [gradient * (min(1.0, factor) if only_down else factor) for gradient in gradients]


FAULTS = {
    'each tensor is clipped by its own norm; the norm should be that of all of them together':
        lambda gradients, limit: [part for g in gradients for part in scaled([g], limit, max(g.norm(), torch.tensor(1e-9)))],
    'gradients below the limit are scaled up to it; they should stay as they are':
        lambda gradients, limit: scaled(gradients, limit, sum(g.square().sum() for g in gradients).sqrt(), only_down=False),
    'each number is cut off at the limit, which changes the direction':
        lambda gradients, limit: [g.clamp(-limit, limit) for g in gradients],
    'the root of the sum of squares is missing':
        lambda gradients, limit: scaled(gradients, limit, max(sum(g.square().sum() for g in gradients), torch.tensor(1e-9))),
    'the norms of the tensors are added up; it is their squares that should be':
        lambda gradients, limit: scaled(gradients, limit, max(sum(g.norm() for g in gradients), torch.tensor(1e-9))),
}
