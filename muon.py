"""Muon: a step along the momentum of each matrix, made orthogonal.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; in numbers it is torch.optim.Muon with its
default settings. That one works matrix by matrix: about 1,700 launches a step for GPT-2, most of them too small to fill a
GPU. Here matrices of equal shape go through the iteration together, in batched products.

Several processes share out the work: each parameter has one owner, which alone keeps its momentum and computes its update,
and then every process receives the updates of all. Weights stay the same on all processes, bit for bit. A checkpoint holds
the momentum of all parameters, so that a run can go on on another number of processes.
"""

import math
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

import runtime  # noqa: F401 - which says so when this file is run: it only defines things

MOMENTUM = 0.95
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # a, b, c of the iteration: the steepest at 0, not the most exact at 1
ITERATIONS = 5
EPS = 1e-7
MAX_NUMEL = 2**26  # weights that a process works on at once, in about 12 bytes of temporary memory each


class Batch(NamedTuple):
    """Parameters of one group and shape that are updated together. The owner of params[i] is (first_owner + i) % world_size."""
    group: int  # index in param_groups
    params: list[Tensor]
    first_owner: int


class Muon(torch.optim.Optimizer):
    """For parameters of two dimensions, all of which must have a gradient when `step` is called.

    groups: dicts with 'params', 'lr', 'weight_decay' and perhaps 'n_stacked': how many matrices each parameter holds, one above
        the other. It is 3 for a c_attn.weight, (3C, C), with queries, keys and values. Each is made orthogonal for itself.
    dtype: of the iteration; weights, gradients and momentum keep their own.
    one_by_one: a process works on one parameter at a time. Updates then have the same bits on any number of processes: how a
        batched product is rounded may depend on the number of matrices in it.
    """

    def __init__(self, groups: list[dict], rank: int = 0, world_size: int = 1, dtype: torch.dtype = torch.bfloat16,
                 one_by_one: bool = False):
        super().__init__(groups, {'n_stacked': 1})
        self.rank, self.world_size, self.dtype = rank, world_size, dtype
        self.batches = make_batches(self.param_groups, world_size, one_by_one)
        self.owners = {p: (batch.first_owner + i) % world_size for batch in self.batches for i, p in enumerate(batch.params)}
        for p, owner in self.owners.items():
            if owner == rank:
                self.state[p]['momentum_buffer'] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self):
        """One step of all parameters. Under several processes all must call it, with the same gradients."""
        started = [self.start_update(batch) for batch in self.batches]  # one batch is exchanged while the next is computed
        for batch, (updates, exchange) in zip(self.batches, started):
            if exchange:
                exchange.wait()
            self.finish_update(batch, updates)

    def start_update(self, batch):
        """-> (updates, exchange). updates, (world_size, most params of an owner, rows, cols), are there after exchange.wait();
        exchange is None if there is only one process. An owner of fewer params leaves the last ones undefined."""
        per_owner = math.ceil(len(batch.params) / self.world_size)
        updates = batch.params[0].new_empty(self.world_size, per_owner, *batch.params[0].shape, dtype=self.dtype)
        mine = batch.params[(self.rank - batch.first_owner) % self.world_size::self.world_size]
        if mine:
            self.compute_updates(mine, self.param_groups[batch.group]['n_stacked'], out=updates[self.rank, :len(mine)])
        if self.world_size == 1:
            return updates, None
        return updates, dist.all_gather(list(updates.unbind()), updates[self.rank], async_op=True)

    def compute_updates(self, params, n_stacked, out):
        """Writes the orthogonal updates of parameters of one shape to `out`, (len(params), rows, cols)."""
        grads = [p.grad for p in params]
        momenta = [self.state[p]['momentum_buffer'] for p in params]
        torch._foreach_lerp_(momenta, grads, 1 - MOMENTUM)
        torch._foreach_copy_(list(out.unbind()), torch._foreach_lerp(grads, momenta, MOMENTUM))  # Nesterov's momentum
        matrices = out.view(len(params) * n_stacked, -1, out.size(2))
        matrices.copy_(orthogonalize(matrices))

    def finish_update(self, batch, updates):
        """Takes the step: decoupled weight decay, then the updates times the learning rate for matrices of this shape."""
        group = self.param_groups[batch.group]
        rows, cols = batch.params[0].shape
        lr = group['lr'] * math.sqrt(max(1, rows / group['n_stacked'] / cols))
        updates = updates.to(batch.params[0].dtype)  # once for all, as mixed types would be added parameter by parameter
        in_order = [updates[(batch.first_owner + i) % self.world_size, i // self.world_size] for i in range(len(batch.params))]
        torch._foreach_mul_(batch.params, 1 - group['lr'] * group['weight_decay'])
        torch._foreach_add_(batch.params, in_order, alpha=-lr)

    def state_dict(self) -> dict:
        """In the format of torch.optim.Muon; complete on the first process. Under several processes all must call it."""
        state = super().state_dict()
        if self.world_size > 1:
            params = [p for group in self.param_groups for p in group['params']]
            for i, p in enumerate(params):
                momentum = self.state[p]['momentum_buffer'] if self.owners[p] == self.rank else torch.empty_like(p)
                dist.broadcast(momentum, src=self.owners[p])
                if self.rank == 0:
                    state['state'][i] = {'momentum_buffer': momentum.cpu()}  # a GPU might not have room for all of them
        return state

    def load_state_dict(self, state: dict):
        """state: a complete one, of which this process keeps its share."""
        params = [p for group in self.param_groups for p in group['params']]
        mine = {i: state['state'][i] for i, p in enumerate(params) if self.owners[p] == self.rank}
        super().load_state_dict({**state, 'state': mine})


def make_batches(param_groups, world_size, one_by_one=False):
    """The parameters of all groups in batches, dealt out to the processes in turn, from one batch to the next."""
    batches, n_dealt = [], 0
    for group, settings in enumerate(param_groups):
        by_shape = {}
        for p in settings['params']:
            by_shape.setdefault(p.shape, []).append(p)
        for shape, params in by_shape.items():
            size = world_size * (1 if one_by_one else max(1, MAX_NUMEL // shape.numel()))
            for start in range(0, len(params), size):
                batches.append(Batch(group, params[start:start + size], n_dealt % world_size))
                n_dealt += len(batches[-1].params)
    return batches


def orthogonalize(matrices: Tensor) -> Tensor:
    """(n, rows, cols) -> the same, where each matrix U S Vᵀ has become nearly U Vᵀ: singular values of about 0.7 to 1.2.

    Newton and Schulz's iteration with a polynomial of degree 5 in the singular values: X <- a X + (b X Xᵀ + c (X Xᵀ)²) X.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT if is_tall else matrices  # X Xᵀ is the smaller of the two products
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=EPS)  # so that no singular value is above 1
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
