"""What the exercise group_advantages is compared with; examine.py describes the parts."""
import torch

import tasks.grpo

HINTS = (
    'A group is a row: means over dim=1, with keepdim=True. Where the standard deviation is 0, a division gives NaN; '
    'torch.where, or a tiny number added to the deviation, avoids it.',
    'centered = rewards - rewards.mean(dim=1, keepdim=True); deviation = centered.square().mean(dim=1, '
    'keepdim=True).sqrt(); the result is centered / (deviation + 1e-6).',
)


def cases():
    yield 'one group, half of it right', (torch.tensor([[1.0, 0.0, 0.0, 1.0]]),)
    yield 'one group with one right solution', (torch.tensor([[0.0, 0.0, 1.0, 0.0]]),)
    yield 'two groups, an easy and a hard problem', (torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]]),)
    yield 'a group in which all are right', (torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]),)


def expected(rewards):
    return tasks.grpo.group_advantages(rewards)


FAULTS = {
    'the mean is that of all groups together; each problem has its own': lambda rewards: (
        rewards - rewards.mean()) / rewards.std(correction=0),
    'mean and deviation are taken over the problems, dim=0; a group is a row': lambda rewards: expected(rewards.T).T,
    'it is not divided by the standard deviation': lambda rewards: rewards - rewards.mean(dim=1, keepdim=True),
    'the standard deviation is that with G - 1, as torch.std has it by default; divide by G': lambda rewards: (
        rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std(dim=1, keepdim=True) + 1e-6),
    'it is divided by the variance, not by its root': lambda rewards: (
        rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.var(dim=1, correction=0, keepdim=True) + 1e-6),
    'where all of a group have the same reward, this divides 0 by 0': lambda rewards: (
        rewards - rewards.mean(dim=1, keepdim=True)) / rewards.std(dim=1, correction=0, keepdim=True),
    'the mean is not subtracted': lambda rewards: rewards / (rewards.std(dim=1, correction=0, keepdim=True) + 1e-6),
}
