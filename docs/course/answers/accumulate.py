def accumulate(model, micro_batches):
    n_targets = sum((y != -1).sum().item() for _, y in micro_batches)
    total = 0.0
    for x, y in micro_batches:
        loss = model(x, y) * (y != -1).sum() / n_targets  # its share of the mean over all targets
        loss.backward()
        total += loss.item()
    return total
