"""The bytes of weights, gradients and optimizer states on each GPU, with ZeRO's three stages.

To check it: python -m docs.course.check training_memory
"""


def training_memory(n_params, n_gpus, zero_stage):
    """
    Returns the bytes on one GPU, as a float.

    Everything is float32, 4 bytes: the weight, its gradient, and AdamW's two averages. Without ZeRO (stage 0) each
    GPU has all of them for all parameters. Stage 1 shares out the two averages, so that each GPU has an n_gpus-th
    of them. Stage 2 shares out the gradients, too, and stage 3 the weights, too (Rajbhandari et al. 2020). This
    repo has stage 1.
    """
    raise NotImplementedError
