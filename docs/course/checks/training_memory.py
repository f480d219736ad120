"""What the exercise training_memory is compared with; examine.py describes the parts."""
HINTS = (
    'For each parameter there are 4 + 4 + 8 bytes. Which of these three are divided by n_gpus at each stage?',
    'Stage 0: 4 + 4 + 8; stage 1: 4 + 4 + 8 / n_gpus; stage 2: 4 + 4 / n_gpus + 8 / n_gpus; stage 3: all 16 / n_gpus.',
)


def cases():
    yield 'one parameter on one GPU', (1, 1, 0)
    for stage in range(4):
        yield f'1,558 million parameters on 8 GPUs, stage {stage}', (1_557_611_200, 8, stage)
    yield '124 million parameters on 2 GPUs, stage 1', (124_439_808, 2, 1)


def run(training_memory, *args):
    result = training_memory(*args)
    return None if result is None else float(result)


def expected(n_params, n_gpus, zero_stage):
    return n_params * sum(size / (n_gpus if zero_stage >= stage else 1) for size, stage in ((4, 3), (4, 2), (8, 1)))


def bytes_at(*stages):
    """stages: for each stage the bytes of a parameter as (those that all GPUs have, those that are shared out)."""
    return lambda n_params, n_gpus, stage: n_params * (stages[stage][0] + stages[stage][1] / n_gpus)


FAULTS = {
    'AdamW has two averages of 4 bytes, not one': bytes_at((12, 0), (8, 4), (4, 8), (0, 12)),
    'the gradients are missing': bytes_at((12, 0), (4, 8), (4, 8), (0, 12)),
    'stage 1 shares out the averages alone; weights and gradients stay whole': bytes_at((16, 0), (0, 16), (0, 16), (0, 16)),
    'each number has 4 bytes': bytes_at((4, 0), (2, 2), (1, 3), (0, 4)),
    'ZeRO has no effect': bytes_at((16, 0), (16, 0), (16, 0), (16, 0)),
    'stages 2 and 3 share out what the stages before share out, too': bytes_at((16, 0), (8, 8), (12, 4), (12, 4)),
}
