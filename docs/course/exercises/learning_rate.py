"""The learning rate at a step: a linear warm-up, then half a cosine wave down to the lowest rate.

To check it: python -m docs.course.check learning_rate
"""
import math


def learning_rate(step, warmup_steps, max_steps, highest, lowest):
    """
    step: from 0 to max_steps - 1
    Returns the rate of this step.

    Warm-up: the rates of the first warmup_steps steps are 1, 2, 3, ... times highest / warmup_steps. So the first
    step has no rate of 0, and the last of them has the highest. After it:

        passed = (step - warmup_steps) / (max_steps - warmup_steps)              # goes from 0 to 1
        rate = lowest + (highest - lowest) * (1 + cos(pi * passed)) / 2
    """
    raise NotImplementedError
