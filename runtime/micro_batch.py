"""How many sequences go through the model at once: the micro-batch, as set or as large as fits into memory.

Knows a model only as a function from (B, T) tokens and targets to a loss.
"""
import contextlib

import torch

from runtime import hardware
from runtime.errors import BadInput, raised_by_all
from runtime.words import plural

CPU_MICRO_BATCH_TOKENS = 8192  # what a CPU's caches and threads are fastest with
NCCL_BYTES = 2**31  # what the exchange of gradients may take of a GPU's memory, beside PyTorch's own


@raised_by_all()
def check_model_fits(config: dict, process):
    """Raises BadInput for a model whose weights and gradients alone, 8 bytes a parameter, are more than the memory."""
    n_embd = config['n_embd']
    n_params = n_embd * (12 * n_embd * config['n_layer'] + config['vocab_size'] + config['block_size'])
    memory = hardware.total_memory(process.device)
    if 8 * n_params > memory:
        raise BadInput(f'n_layer={config["n_layer"]}, n_embd={n_embd} and block_size={config["block_size"]} make a model of '
                       f'{n_params / 1e9:,.1f} billion parameters, too large for the {memory / 1e9:,.1f} GB of memory here; '
                       f'make one of them smaller')


def choose_micro_batch(forward, config: dict, process) -> int:
    """Sequences in a forward pass: as set, or the largest divisor of this process's share that fits into memory."""
    if config['reproducible']:
        check_units(config, process)
    n_sequences = sequences_per_process(config, process)
    if config['micro_batch']:
        return config['micro_batch']
    if process.device.type != 'cuda':
        return largest_divisor(n_sequences, max(1, CPU_MICRO_BATCH_TOKENS // config['block_size']))
    micro_batch = largest_divisor(n_sequences, 64)
    while not fits(forward, micro_batch, config, process):
        if micro_batch == 1:
            raise BadInput(f'out of memory even with one sequence of {config["block_size"]} tokens; '
                           f'try --activation_checkpointing=True, or a smaller --block_size or --n_layer')
        smaller = largest_divisor(n_sequences, micro_batch // 2)
        process.print0(f'micro_batch {micro_batch} does not fit into memory; trying {smaller}')
        micro_batch = smaller
    return micro_batch


@raised_by_all()
def check_units(config, process):
    """Raises BadInput if the micro-batches of a step cannot be the leaves of a tree of which each process has a subtree."""
    if config['micro_batch'] < 1:
        raise BadInput('reproducible=True needs a --micro_batch: gradients are added up micro-batch by micro-batch')
    if not is_power_of_2(process.world_size):
        raise BadInput(f'reproducible=True needs 1, 2, 4, 8, ... processes, not {process.world_size}')
    n_units, rest = divmod(config['total_batch_tokens'], config['block_size'] * config['micro_batch'])
    if not rest and not is_power_of_2(n_units):
        more = 2 ** n_units.bit_length()
        raise BadInput(f'reproducible=True needs a power of two of micro-batches in a step, not {n_units}; '
                       f'--total_batch_tokens={config["block_size"] * config["micro_batch"] * more} makes {more}')


def is_power_of_2(n):
    return n.bit_count() == 1


def describe_units(config, process, n_params):
    """What reproducible=True needs and costs, in one line."""
    n_units = config['total_batch_tokens'] // (config['block_size'] * config['micro_batch'])
    n_gradients = (n_units // process.world_size).bit_length() + 1  # the subtrees, and the one that is being added
    threads = f', --threads={torch.get_num_threads()}' if process.device.type == 'cpu' else ''
    return (f'reproducible: the same bits on 1 to {n_units} processes (a power of two) of equal machines, with the same '
            f'batch and micro_batch{threads}; gradients take up to {n_gradients} x {4 * n_params / 1e6:,.0f} MB, and are '
            f'exchanged after the backward pass, not during it')


@raised_by_all()
def sequences_per_process(config, process):
    """Sequences of an optimizer step that each process computes. Raises BadInput if they cannot be shared out evenly."""
    total, block_size, micro_batch = config['total_batch_tokens'], config['block_size'], config['micro_batch']
    if micro_batch < 0:
        raise BadInput(f'micro_batch={micro_batch} should be at least 1, or 0 for the largest that fits')
    unit = block_size * process.world_size * max(1, micro_batch)
    if total < 1 or total % unit:
        nearest = max(1, round(total / unit)) * unit
        raise BadInput(f'total_batch_tokens={total} should be a multiple of block_size {block_size} x '
                       f'{plural(process.world_size, "process", "processes")} x micro_batch {max(1, micro_batch)} = {unit}; '
                       f'the nearest is --total_batch_tokens={nearest}')
    return total // block_size // process.world_size


def largest_divisor(n, limit):
    return max(d for d in range(1, min(n, limit) + 1) if n % d == 0)


def fits(forward, micro_batch, config, process):
    """Whether all processes get through a forward and backward pass, with room left for AdamW's two moments."""
    failed = False
    parameters = list(forward.parameters())
    forward.require_backward_grad_sync = False  # DDP's exchange would wait for a process that ran out of memory
    try:
        moments = torch.empty(2 * sum(p.numel() for p in parameters), device=process.device)
        reserve = torch.empty(NCCL_BYTES if process.world_size > 1 else 0, dtype=torch.uint8, device=process.device)
        idx = torch.zeros(micro_batch, config['block_size'], dtype=torch.long, device=process.device)
        with process.autocast():
            loss = forward(idx, idx)
        loss.backward()
        del moments, reserve, loss
    except torch.OutOfMemoryError:
        failed = True
    for parameter in parameters:
        parameter.grad = None
    torch.cuda.empty_cache()
    return process.sum([failed])[0] == 0


@contextlib.contextmanager
def out_of_memory_hint(micro_batch):
    """Turns running out of memory in training into a line that says which settings need less."""
    try:
        yield
    except torch.OutOfMemoryError:
        smaller = largest_divisor(micro_batch, max(1, micro_batch // 2))
        raise BadInput(f'out of memory with micro_batch={micro_batch}; --micro_batch={smaller} needs less, and '
                       f'--activation_checkpointing=True less still') from None
