"""The gradient of a batch from micro-batches that have unequal numbers of targets.

To check it: python -m docs.course.check accumulate
"""


def accumulate(model, micro_batches):
    """
    model: model(x, y) is the mean loss over those targets y that are not -1, a scalar
    micro_batches: [(x, y), ...]: inputs and targets, (B, T) each; each y has at least one target that is not -1
    Leaves in model.parameters() the gradient of the mean loss over all targets of all micro-batches, as if they
    were one batch.
    Returns this mean loss as a float.

    The gradients are zero (None) at the beginning, and backward() adds to what is there. Only one micro-batch at a
    time fits into memory: call model(x, y) and backward() once for each.
    """
    raise NotImplementedError
