"""The maximum and the sum of exponentials of a long row that is read once, block by block.

To check it: python -m docs.course.check online_softmax
"""
import math

import torch


def online_softmax(blocks):
    """
    blocks: yields the row in pieces, tensors of one dimension; each piece can be read only once
    Returns (maximum, total): the largest number x of the row, and the sum of e to the power of (x - maximum), as
    floats.

    Keep the maximum so far and the total so far. When a block has a larger number, the total so far is one of
    powers of (x - old maximum): multiply it by e to the power of (old maximum - new maximum), then add the new
    block. The result should not depend on where the row was cut, and e to the power of a large number should never
    be computed.
    """
    raise NotImplementedError
