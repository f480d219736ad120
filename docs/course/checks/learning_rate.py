"""What the exercise learning_rate is compared with; examine.py describes the parts."""
import functools
import math

HINTS = (
    'Two cases: step < warmup_steps, and all others. Step 0 is the first step, so its rate is 1 times highest / '
    'warmup_steps.',
    'In the warm-up: highest * (step + 1) / warmup_steps. After it: the formula of the text, in which passed counts '
    'from the end of the warm-up.',
)


def cases():
    for step in (0, 1, 9, 10, 11, 55, 99):
        yield f'step {step} of 100; a warm-up of 10, a highest rate of 1e-3, a lowest of 1e-4', (step, 10, 100, 1e-3, 1e-4)
    yield 'step 0 without a warm-up', (0, 0, 100, 1e-3, 1e-4)
    yield 'step 50 of 100 without a warm-up, down to 0', (50, 0, 100, 1.0, 0.0)


def run(learning_rate, *args):
    rate = learning_rate(*args)
    return None if rate is None else {'rate / highest': rate / args[3]}


def expected(step, warmup_steps, max_steps, highest, lowest):
    from train import learning_rate_factor
    return highest * learning_rate_factor(step, {'warmup_steps': warmup_steps, 'max_steps': max_steps, 'schedule': 'cosine',
                                                 'learning_rate': highest, 'min_lr': lowest})


def variant(step, warmup_steps, max_steps, highest, lowest, first=1, after_warmup=True, to_zero=False, half=True):
    if step < warmup_steps:
        return highest * (step + first) / warmup_steps
    begin = warmup_steps if after_warmup else 0
    passed = (step - begin) / (max_steps - begin)
    lowest = 0.0 if to_zero else lowest
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * passed * (1 if half else 2))) / 2


def linear(step, warmup_steps, max_steps, highest, lowest):
    if step < warmup_steps:
        return expected(step, warmup_steps, max_steps, highest, lowest)
    return highest + (lowest - highest) * (step - warmup_steps) / (max_steps - warmup_steps)


FAULTS = {
    'the warm-up begins at 0, so the first step changes nothing; its rates should be 1, 2, 3, ... times highest / warmup_steps':
        functools.partial(variant, first=0),
    'the cosine begins at step 0; it should begin after the warm-up': functools.partial(variant, after_warmup=False),
    'the cosine goes down to 0; it should go down to the lowest rate': functools.partial(variant, to_zero=True),
    'the cosine goes through a whole wave, down and up again; half a wave is right': functools.partial(variant, half=False),
    'the rate goes down along a line; it should follow a cosine': linear,
    'there is no warm-up': lambda step, warmup, *rest: variant(step, 0, *rest),
}
