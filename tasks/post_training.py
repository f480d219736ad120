"""What dpo.py and grpo.py share: a model to start from, and a loop that can be killed anywhere and goes on exactly there.

    post_train(config, Task)

A task has: `text`, what identifies its data (as of resume.identify); gradient(step, check_stop), which leaves this process's
share of the gradient in the parameters and returns (row of metrics, tokens); evaluate(check_stop), the scores of held-out
data, of which val_loss, the lower the better, picks the best checkpoint. Both depend on the weights and on (seed, step)
alone, so a resumed run repeats what it was stopped in.

train.py is the loop for everything whose data is shards. Checkpoints, metrics and their names are the same here.
"""
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

import checkpoint
import plot
import pretrained
import resume
from configurator import check_bounds
from model import GPT
from optim import MAX_SKIPPED_STEPS, Optimizers
from resume import Progress
from runtime import report
from runtime.errors import BadInput, Diverged, unwritable_output_is_dropped
from runtime.files import make_folder
from runtime.lock import FolderLock
from runtime.metrics import Metrics
from runtime.process import Process
from runtime.stop import Stopped, StopSignals
from scoring.likelihood import pack, score_tokens

FIXED = {'dropout': 0.0, 'kernels': 'torch', 'attention': 'auto', 'beta1': 0.9, 'beta2': 0.95, 'zero': False,
         'reproducible': False, 'tensorboard': False, 'wandb': False}  # keys of train.py that have one value here


def post_train(config: dict, Task: Callable):
    """Trains the model of init_from on Task(config, process, model, tokenizer)."""
    check_bounds(config, 'max_steps', 'micro_batch', at_least=1)
    check_bounds(config, 'learning_rate', above=0)
    check_bounds(config, 'warmup_steps', 'weight_decay', 'grad_clip', 'eval_interval', 'checkpoint_interval', at_least=0)
    check_bounds(config, 'seed', at_least=0, at_most=10**9)
    config = {**config, **FIXED, 'data_dir': config['source']}
    if not resume.has_weights(config):
        raise BadInput(f'init_from={config["init_from"]} should name weights: a run, a checkpoint, a folder, or gpt2')
    if os.path.exists(os.path.join(config['out_dir'], 'config.json')):
        raise BadInput(f'out_dir={config["out_dir"]} is a folder of weights; name another one')
    process = Process(config)
    with process.lost_in_one_line(), FolderLock(config['out_dir']) as lock:
        process.on_first(lock.take_if_used_before)
        run(config, process, lock, Task)
    process.end()


def run(config, process, lock, Task):
    model, tokenizer, source = pretrained.load(config['init_from'], **{key: FIXED[key] for key in pretrained.CHOSEN_BY_RUN})
    model.to(process.device)
    config = {**config, **vars(model.config), 'dtype': str(process.dtype).removeprefix('torch.'),
              'start_sha256': pretrained.sha256_of_weights(model)}
    task = Task(config, process, model, tokenizer)
    optimizers = Optimizers(model, config, process)
    saved = resume.first_usable(resume.find(config, task.text), config, task.text, model, optimizers)
    if saved and saved['config'].get('start_sha256') != config['start_sha256']:
        raise BadInput(f'{source} has other weights than {config["out_dir"]} was started from; start with those, or with '
                       'another --out_dir')
    progress = resume.restore(saved, model, optimizers) if saved else Progress()
    process.check_same_step(progress.step)
    process.print0(f'{config["out_dir"]}: {f"resumes at step {progress.step:,}" if saved else f"starts from {source}"}; '
                   f'{model.n_params():,} parameters, {config["dtype"]}')
    if progress.step >= config['max_steps']:
        report.print_done(config, process, progress.step, 'max_steps')
        return
    if saved:
        resume.report_changes(config, task.text, saved, process.print0)
    process.on_first(lambda: prepare_out_dir(config, tokenizer, process, lock, progress.step))
    with unwritable_output_is_dropped():
        loop(config, process, model, optimizers, task, progress)


def prepare_out_dir(config, tokenizer, process, lock, step):
    make_folder(config['out_dir'])
    lock.take()
    checkpoint.remove_unfinished(config['out_dir'])
    checkpoint.set_newer_aside(config['out_dir'], step)
    tokenizer.save(f'{config["out_dir"]}/tokenizer.json')  # so that the checkpoints can be used by themselves
    report.write_run_info(config, process, step)


def loop(config, process, model, optimizers, task, progress):
    """Each turn saves and evaluates where that is due, and then makes a step, as train.train does."""
    def save():
        resume.save(writer, model, optimizers, config, task.text, progress, process)
        metrics.sync()

    def check_stop():
        if process.world_size == 1:  # several processes may have different numbers of micro-batches
            stop.check()

    stop = StopSignals(process)
    metrics = Metrics(config, progress.step, process.is_first)
    best = resume.find_best(config['out_dir']) if process.is_first and progress.step else None
    writer = checkpoint.BackgroundWriter(config['out_dir'], progress.step, best)
    curve = plot.LossCurve(config['out_dir'], process.is_first)
    started, n_skipped, stopped = time.perf_counter() - progress.elapsed_s, 0, False
    bar = tqdm(total=config['max_steps'], initial=progress.step, unit='step', dynamic_ncols=True, disable=not process.is_first,
               mininterval=0.2 if sys.stderr.isatty() else 15)
    try:
        while True:
            step, last = progress.step, progress.step >= config['max_steps']
            if last or is_due(step, config['checkpoint_interval']) and not n_skipped:
                save()
            if last or is_due(step, config['eval_interval']):
                scores = task.evaluate(check_stop)
                metrics.log(step=step, tokens=progress.tokens, **scores)
                process.print0(f'step {step:,}: ' + ', '.join(f'{key} {value:.4f}' for key, value in scores.items()))
                curve.draw_if_due()
                resume.update_best(scores['val_loss'], progress, writer, process)
            if last:
                break
            step_started = time.perf_counter()
            optimizers.set_learning_rate(min(1.0, (step + 1) / max(1, config['warmup_steps'])))
            row, n_tokens = task.gradient(step, check_stop)
            row |= take_step(model, optimizers, row.pop('loss'), config, process)
            step_s = time.perf_counter() - step_started
            progress.step, progress.tokens = step + 1, progress.tokens + n_tokens
            progress.train_s, progress.elapsed_s = progress.train_s + step_s, time.perf_counter() - started
            metrics.log(step=progress.step, tokens=progress.tokens, **row, tokens_per_s=round(n_tokens / step_s, 1),
                        elapsed_s=round(progress.elapsed_s, 3))
            bar.update()
            bar.set_postfix_str(', '.join(f'{key} {value:.3g}' for key, value in row.items()), refresh=False)
            n_skipped = n_skipped + 1 if 'skipped' in row and not optimizers.scales_up else 0
            if n_skipped == MAX_SKIPPED_STEPS:
                writer.wait()
                raise Diverged(f'{n_skipped} steps in a row without a finite loss and gradient; try a lower --learning_rate')
            stop.check()
    except Stopped:  # what was being computed is dropped; a resumed run computes it again
        stopped = True
        model.zero_grad(set_to_none=True)
        save()
    bar.close()
    writer.wait()
    curve.draw()
    process.on_first(writer.raise_if_unsaved)
    process.on_first(metrics.raise_if_unsaved)
    end = f'stopped and saved at step {progress.step:,}; the same command resumes it' if stopped else \
        f'done: {progress.step:,} steps; lowest val_loss {progress.best_val_loss:.4f} at step {progress.best_step:,}'
    process.print0(f'{config["out_dir"]}: {end}')


def is_due(step, interval):
    return interval > 0 and step % interval == 0


def take_step(model, optimizers, loss, config, process):
    """Adds up the gradients and the loss of all processes and makes an optimizer step. Returns its row of metrics."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:  # there was nothing to learn from
                parameter.grad = torch.zeros_like(parameter)
            if process.world_size > 1:
                dist.all_reduce(parameter.grad)
    optimizers.unscale_gradients()
    grad_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config['grad_clip'] or math.inf))
    return optimizers.step_if_finite(process.sum([loss])[0], grad_norm)


def token_logprobs(model: GPT, pairs: list[tuple], process: Process) -> tuple[Tensor, Tensor]:
    """(log p of each token of the continuations, (M,) float32; the number of the pair that each is of, (M,)).

    pairs: (context, continuation), each a list of token ids, of together at most block_size + 1.
    """
    idx, positions, _, places, ids, owners = pack([[i] for i in range(len(pairs))], pairs)
    idx, positions, places, ids, owners = (tensor.to(process.device) for tensor in (idx, positions, places, ids, owners))
    with process.autocast():
        x = model.hidden(idx, positions).flatten(0, 1)[places]  # (M, C)
        return -score_tokens(model, x, ids, never=None)[:, 0], owners


def identify(tokenizer, train: list, val: list) -> dict:
    """What tells the data of one run from another's, in the form of resume.identify: lengths are numbers of rows."""
    def sha256(values):
        return hashlib.sha256(repr(values).encode()).hexdigest()
    return {'tokenizer_sha256': sha256(tokenizer.to_json()), 'train_tokens': len(train), 'train_sha256': sha256(train),
            'val_tokens': len(val), 'val_sha256': sha256(val)}


def numbers_of_step(step, batch, n, seed):
    """Which of n rows a step takes: (batch,) numbers. Each epoch has all rows once, in an order of its own."""
    epochs, places = np.divmod(np.arange(step * batch, (step + 1) * batch), n)
    orders = {epoch: np.random.default_rng((seed, int(epoch))).permutation(n) for epoch in np.unique(epochs)}
    return [int(orders[epoch][place]) for epoch, place in zip(epochs, places)]
