"""The log-probability of texts under a model: what HellaSwag, perplexity and all other scores here are made of.

    model, tokenizer, process, compiled = open_for_evaluation(config)
    values = log_likelihoods(model, [(context, continuation), ...], process)   # (N,), in nats

Knows nothing about where texts come from, nor what becomes of their log-probabilities.
"""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import pretrained
from bpe import Tokenizer
from model import GPT
from runtime import hardware
from runtime.errors import BadInput
from runtime.process import Process

HEAD_ROWS = 1024  # hidden states whose logits are in memory at once: 200 MB with GPT-2's vocabulary, and as much for the loss


def open_for_evaluation(config: dict) -> tuple[GPT, Tokenizer, Process, bool]:
    """(model, tokenizer, process, whether to compile), after a line that says what runs.

    config: with init_from, out_dir, batch_size, device, dtype and compile.
    """
    if config['batch_size'] < 1:
        raise BadInput(f'batch_size={config["batch_size"]} should be at least 1')
    process = Process(config, float32_precision='highest')
    model, tokenizer, source = pretrained.load(config['init_from'] or config['out_dir'],
                                               kernels='torch', attention='auto', dropout=0.0)
    why_not = hardware.why_no_compile(process.device) if config['compile'] else None
    if why_not:
        process.print0(f'not compiled: {why_not}')
    process.print0(f'{source}: {model.n_params():,} parameters, {hardware.describe(process.device)}, '
                   f'{str(process.dtype).removeprefix("torch.")}')
    return model.to(process.device), tokenizer, process, config['compile'] and not why_not


@torch.no_grad()
def log_likelihoods(model: GPT, pairs: Sequence[tuple], process: Process, batch_size: int = 32, *, progress: str = '',
                    check_stop: Callable[[], None] | None = None, compiled: bool = False) -> Tensor:
    """(N,) float64 on the CPU, the same on every process: log p(continuation | context) of N pairs, in nats.

    pairs: (context, continuation), each a list or 1-D tensor of token ids. A context has at least one token, and both
        together have at most block_size + 1, since the last token is predicted but not read.
    process: every process must call this. They take the batches in turns, so the batches, and with them the figures, do
        not depend on the number of processes.
    progress: what the progress bar says; no bar if empty.
    check_stop: called after each batch, equally often on every process; it raises to stop (runtime.stop.StopSignals.check).
    """
    hidden = torch.compile(model.hidden, dynamic=True) if compiled else model.hidden  # one graph for all lengths
    # The longest first, so that running out of memory shows at once; and rows of a batch have about the same length.
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
    batches = [order[i:i + batch_size] for i in range(0, len(order), batch_size)]
    totals = torch.zeros(len(pairs), dtype=torch.float64)
    training = model.training
    model.eval()
    try:
        with tqdm(total=len(pairs), desc=progress, unit=' rows', leave=False,
                  disable=not (progress and process.is_first)) as bar:
            for first in range(0, len(batches), process.world_size):
                turn = batches[first:first + process.world_size]
                if process.rank < len(turn):
                    batch = turn[process.rank]
                    idx, targets = pad_right([pairs[i] for i in batch])
                    with process.autocast():
                        totals[batch] = sum_over_targets(model, hidden, idx, targets, process.device)
                bar.update(sum(map(len, turn)))
                if check_stop:
                    check_stop()
    finally:
        model.train(training)
    return torch.tensor(process.sum(totals), dtype=torch.float64)


def pad_right(pairs):
    """(B, T) int64 inputs, and targets that are -1 where nothing is predicted.

    Rows are filled up at the right, where no token of a causal model sees the filling; so there is no need for a mask.
    """
    T = max(len(context) + len(continuation) for context, continuation in pairs) - 1
    idx, targets = torch.zeros(len(pairs), T, dtype=torch.int64), torch.full((len(pairs), T), -1)
    for row, (context, continuation) in enumerate(pairs):
        begin, end = len(context), len(context) + len(continuation)
        idx[row, :begin] = torch.as_tensor(context)
        idx[row, begin:end - 1] = torch.as_tensor(continuation[:-1])
        targets[row, begin - 1:end - 1] = torch.as_tensor(continuation)
    return idx, targets


def sum_over_targets(model, hidden, idx, targets, device):
    """(B, T) inputs and targets on the CPU -> (B,) float64: each row's sum of the log-probabilities of its targets."""
    counted = targets >= 0
    x, ids = hidden(idx.to(device))[counted.to(device)], targets[counted].to(device)  # (M, C), (M,)
    losses = [F.cross_entropy(model.head(some_x).float(), some_ids, reduction='none')
              for some_x, some_ids in zip(x.split(HEAD_ROWS), ids.split(HEAD_ROWS))]
    nats = torch.zeros(targets.shape, dtype=torch.float64)
    nats[counted] = torch.cat(losses).double().cpu()
    return -nats.sum(dim=1)
