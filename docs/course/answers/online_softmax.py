import math


def online_softmax(blocks):
    maximum, total = -math.inf, 0.0
    for block in blocks:
        larger = max(maximum, block.max().item())
        total = total * math.exp(maximum - larger) + (block - larger).exp().sum().item()
        maximum = larger
    return maximum, total
