def bytes_moved(n_elements, element_bytes, fused):
    tensors = 4 if fused else 5  # fused: two read, two written; else the sum is read once more
    return tensors * n_elements * element_bytes
