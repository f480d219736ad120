import math


def learning_rate(step, warmup_steps, max_steps, highest, lowest):
    if step < warmup_steps:
        return highest * (step + 1) / warmup_steps
    passed = (step - warmup_steps) / (max_steps - warmup_steps)
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * passed)) / 2
