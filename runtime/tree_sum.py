"""The gradient of a step with the same bits on any number of processes: added up in one fixed binary tree.

    gradients = TreeSum(model.parameters(), process)
    for x, y in units:                      # of this process
        model(x, y).backward()
        gradients.add_unit()
    gradients.finish()                      # every p.grad is the sum over the units of all processes

(a + b) + c and a + (b + c) are rounded differently, so a sum depends on its order. Here the order is fixed. The leaves of
the tree are the gradients of units: forward and backward passes over equally many sequences, in the order of the data.
Neighbours are added first, then neighbouring pairs, and so on. Process r of W has the r-th of W equal parts of the units.
Both numbers are powers of two, so that its part is a whole subtree; the upper log2(W) levels join the processes.

Knows a model only by its parameters.
"""
import torch
import torch.distributed as dist
from torch import Tensor


class TreeSum:
    """Holds the sums of the largest complete subtrees so far: at most log2(units of this process) + 1 gradients."""

    def __init__(self, params, process):
        self.params, self.world_size = [p for p in params if p.requires_grad], process.world_size
        self.subtrees, self.n_units = [], 0

    def add_unit(self):
        """Takes away the gradients that a backward pass has left in p.grad, which becomes None, and adds them to the tree."""
        n_params = sum(p.numel() for p in self.params)
        padding = self.params[0].new_zeros(-n_params % self.world_size)  # so that every process gets a slice of the same size
        self.subtrees.append(torch.cat([p.grad.flatten() for p in self.params] + [padding]))
        for p in self.params:
            p.grad = None
        self.n_units += 1
        complete = self.n_units
        while complete % 2 == 0:  # like the carry when one is added to a binary number
            right = self.subtrees.pop()
            self.subtrees[-1] += right
            complete //= 2

    def finish(self):
        """Joins the subtrees of all processes. All must call this, after the same number of units, a power of two.

        p.grad becomes a view of one flat tensor with the same layout on any number of processes: sums on a GPU may
        depend on how their input is aligned.
        """
        total, = self.subtrees
        if self.world_size > 1:
            join_processes(total, self.world_size)
        for p in self.params:
            p.grad, total = total[:p.numel()].view_as(p), total[p.numel():]


def join_processes(flat: Tensor, world_size: int):
    """Replaces a flat tensor of each process by the sum over all, on every process. Its size is a multiple of world_size.

    An all-reduce would add in an order of the library's own. Here each process gets one slice of all the tensors, adds them
    up as the tree says, and sends the sum to all. This moves as many bytes as an all-reduce does.
    """
    slices = torch.empty_like(flat).view(world_size, -1)  # one of each process, in the order of their units
    dist.all_to_all_single(slices, flat.view(world_size, -1))
    while len(slices) > 1:
        slices = slices[::2] + slices[1::2]
    dist.all_gather(list(flat.view(world_size, -1)), slices[0])
