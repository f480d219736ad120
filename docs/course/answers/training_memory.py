def training_memory(n_params, n_gpus, zero_stage):
    averages = 8 / n_gpus if zero_stage >= 1 else 8
    gradient = 4 / n_gpus if zero_stage >= 2 else 4
    weight = 4 / n_gpus if zero_stage >= 3 else 4
    return n_params * (weight + gradient + averages)
