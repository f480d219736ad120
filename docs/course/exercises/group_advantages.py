"""The advantages of GRPO: how much better a solution is than the others of its group.

To check it: python -m docs.course.check group_advantages
"""
import torch


def group_advantages(rewards):
    """
    rewards: (P, G): of G solutions to each of P problems, 1 for a right answer and 0 for a wrong one
    Returns (P, G): each reward less the mean of its group, divided by the standard deviation of the group, the root
    of the mean of the squared differences from the mean.

    Where all of a group have the same reward, there is nothing to learn, and their advantages are 0.
    """
    raise NotImplementedError
