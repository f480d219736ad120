"""Trains GPT-2: on one CPU, one GPU, or many.

    python train.py config/demo.py                                      # one process
    torchrun --nproc_per_node=8 train.py config/train_gpt2.py           # 8 GPUs
    torchrun --nproc_per_node=2 train.py config/demo.py --device=cpu    # 2 CPU processes

Data is a folder of shards, which corpus.py, fineweb.py and wikitext.py make. Everything that the run leaves is in
OUT_DIR: checkpoints, metrics.jsonl, loss.png, samples. Stop it with Ctrl-C or SIGTERM and start it again with the same
command: it resumes where it was. The sequences of step s depend on (seed, s) alone, so the loss curve is the same on any
number of processes, but for rounding and for what dropout draws; with --reproducible=True it is the same bit for bit.
"""
import runtime.waiting  # noqa: F401  before torch

# isort: split
import importlib.util
import math
import os
import sys
import time
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import checkpoint
import kernels
import plot
import pretrained
import resume
import shards
from bpe import Tokenizer
from chat_template import has_chat_tokens
from configurator import check_bounds, choice, configure, optional
from evals import measure
from evals.tasks import choose_tasks
from inference.engine import generate
from model import GPT, trains_in_blocks
from optim import MAX_SKIPPED_STEPS, Optimizers
from resume import Progress
from runtime import hardware, report
from runtime.batches import DeviceBatches
from runtime.errors import BadInput, Diverged, one_line_errors, unwritable_output_is_dropped
from runtime.files import atomic_write, copy_file, make_folder, warn_if_unwritable
from runtime.lock import FolderLock
from runtime.metrics import Metrics, best_row, read_metrics
from runtime.micro_batch import check_model_fits, choose_micro_batch, describe_units, out_of_memory_hint, sequences_per_process
from runtime.process import Process
from runtime.stop import Stopped, StopSignals
from runtime.tree_sum import TreeSum
from runtime.watch import Watch

# A value, or choice(...) with the default first, or optional(type) for a setting that may be None.
DEFAULTS = {
    # run
    'out_dir': 'out',  # folder of this run: checkpoints, metrics, samples, plot
    'init_from': 'auto',  # auto (resume, else scratch), scratch, resume, gpt2[-medium|-large|-xl], or a path to weights
    'seed': 1337,  # of the initial weights, the order of the data, and dropout
    # data
    'data_dir': 'data/stdlib',  # folder of shards with a meta.json
    # model
    'block_size': optional(int),  # longest context, in tokens; None: that of the weights in init_from, else 1024
    'n_layer': 12,  # blocks; 0 makes a bigram model
    'n_head': 12,  # attention heads
    'n_embd': 768,  # width
    'dropout': 0.0,  # 0 for one pass over much data, 0.1-0.2 for many passes over little
    'bias': True,  # biases in linear layers and layer norms, as GPT-2 has them
    'kernels': choice('auto', 'torch', 'mixed', 'triton'),  # auto: the fastest exact ones; see GPTConfig in model.py
    'attention': choice('auto', 'sdpa', 'explicit'),  # see GPTConfig in model.py
    # batch
    'total_batch_tokens': 524_288,  # tokens per optimizer step, over all processes
    'micro_batch': 0,  # sequences per forward pass on each process; 0 finds the largest that fits
    'max_steps': 19_073,  # optimizer steps
    # optimizer
    'optimizer': choice('adamw', 'muon'),  # muon: Muon for the blocks' matrices, AdamW for the rest
    'learning_rate': 6e-4,  # the highest, reached after the warm-up
    'min_lr': optional(float),  # the lowest, at the end of the schedule; None: a tenth of learning_rate
    'muon_lr': 0.02,  # highest learning rate of Muon's matrices; follows the same schedule
    'schedule': choice('cosine', 'wsd', 'constant'),  # after the warm-up; wsd: constant, then linearly down in the last part
    'warmup_steps': 715,  # steps of linear warm-up
    'wsd_decay': 0.2,  # wsd: share of all steps in which the rate goes down
    'weight_decay': 0.1,  # on matrices and embeddings, not on biases and norms
    'beta1': 0.9,  # AdamW
    'beta2': 0.95,  # AdamW
    'grad_clip': 1.0,  # largest norm of the gradient; 0 turns clipping off
    # evaluation and output
    'eval_interval': 250,  # steps between validations
    'eval_tokens': 2_097_152,  # validation tokens, the same ones every time (at most what there is)
    'patience': 0,  # validations in a row without a better loss after which the run ends; 0: none
    'eval_tasks': '',  # tasks of evaluate.py that are scored too, with commas between, such as hellaswag,lambada
    'eval_tasks_interval': 0,  # steps between these scores, a multiple of eval_interval; 0: at every validation
    'eval_tasks_limit': 1000,  # how many rows of each task are used
    'eval_tasks_source': optional(str),  # the file of the only task, or a folder with a file for each; None: the hub
    'sample_interval': 1000,  # steps between samples of text; 0 for none
    'sample_tokens': 100,  # length of a sample
    'checkpoint_interval': 1000,  # steps between checkpoints
    'log_interval': 1,  # steps between rows of metrics.jsonl
    'tensorboard': False,  # the metrics for TensorBoard too, in OUT_DIR/tensorboard
    'wandb': False,  # the metrics to Weights & Biases too
    # machine
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('auto', 'bfloat16', 'float16', 'float32'),  # of matrix products; weights stay float32
    'compile': optional(bool),  # torch.compile; None: on a GPU yes, on a CPU no
    'threads': 0,  # of each process on a CPU; 0 shares out the cores, or is 1 with reproducible=True
    'deterministic': False,  # on a GPU, too, a run repeats bit for bit; slower. On a CPU it does so anyway
    'reproducible': False,  # the same bits on 1, 2, 4, 8, ... processes too; needs a micro_batch and implies deterministic
    'activation_checkpointing': False,  # recompute each block in the backward pass: a third more time, far less memory
    'zero': False,  # several processes: each keeps only a share of AdamW's states (ZeRO-1), as it always does of Muon's
    'timeout_s': 600,  # several processes: one that waits longer for the others, in seconds, ends with an error
}


def main(config):
    check_config(config)
    process = Process(config)  # rank, device, number format
    with process.lost_in_one_line(), FolderLock(config['out_dir']) as lock:
        run(config, process, lock)
    process.end()


def run(config, process, lock):
    process.on_first(lock.take_if_used_before)
    config = {**config, 'block_size': config['block_size'] or inherited_block_size(config)}
    data = open_data(config, process)
    n_val_tokens = count_val_sequences(config, data.val) * config['block_size']
    text = resume.identify(data.meta, data.train.n_tokens, n_val_tokens)
    config = {**config, 'vocab_size': data.meta['vocab_size'], 'dtype': str(process.dtype).removeprefix('torch.')}
    mapped = process.device.type == 'cuda'  # where all tensors are copied anyway: no need for a copy of each process before
    found = checkpoint.list_checkpoints(config['out_dir'])
    saved = resume.find(config, text, mapped)  # the dict of a checkpoint, or None for a fresh run
    config = resume.with_sizes_of_weights(config, saved['config']) if saved else config
    check_model_fits(config, process)
    compiled = hardware.may_compile(config['compile'], process.device, process.print0)
    raw_model, config = build_model(config, data.tokenizer, saved, process, compiled)
    model = wrap(raw_model, process, compiled, config['reproducible'])
    data.train.batch_size = data.val.batch_size = choose_micro_batch(model, config, process)
    optimizers = Optimizers(raw_model, config, process)
    saved = resume.first_usable(saved, config, text, raw_model, optimizers, mapped)
    progress = resume.restore(saved, raw_model, optimizers) if saved else Progress()
    data.train.seek(progress.sequence_index)
    process.check_same_step(progress.step)
    report.announce(config, process, raw_model.n_params(), data.train, n_val_tokens, progress.step)
    if config['reproducible']:
        process.print0(describe_units(config, process, raw_model.n_params()))
    process.print0(f'kernels: {raw_model.config.kernels}; attention: {attention_backend(raw_model, process, compiled)}')
    if is_done(config, progress, process):
        limit = 'max_steps' if progress.step >= config['max_steps'] else 'patience'
        report.print_done(config, process, progress.step, limit)
        return
    if saved:
        resume.report_changes(config, text, saved, process.print0)
        warn_if_rate_rises(config, saved, process)
        del saved  # frees the memory of its tensors
    # Nothing is written before everything is checked.
    process.on_first(lambda: prepare_out_dir(config, data.meta, progress.step, process, lock, found))
    with unwritable_output_is_dropped():
        train(config, process, model, raw_model, optimizers, data, text, progress)
        is_whole_text = n_val_tokens + config['block_size'] >= data.val.n_tokens
        report.summarize(config, process, progress, is_done(config, progress, process),
                         data.meta.get('val_xz_bits_per_byte') if is_whole_text else None, how_to_try(config, data))


def how_to_try(config, data):
    """The command with which a model of this data shows what it has learned."""
    if has_chat_tokens(data.tokenizer):
        return f'python sample.py --out_dir={config["out_dir"]} --chat=True --calculator=True'
    if data.train.masked:  # word problems, whose questions are not learned
        return f'python -m tasks.solve --out_dir={config["out_dir"]}'
    return f'python sample.py --out_dir={config["out_dir"]}'


def check_config(config):
    """Checks what can be checked before anything is loaded. Raises BadInput."""
    tokenizer = pretrained.tokenizer_file(config['init_from']) or 'gpt2' if resume.has_weights(config) else None
    for split in ('train', 'val'):
        shards.find_shards(config['data_dir'], split, tokenizer)
    if os.path.isfile(config['out_dir']):
        raise BadInput(f'out_dir={config["out_dir"]} is a file; it should be a folder, new or of this run')
    for key in ('tensorboard', 'wandb'):
        if config[key] and importlib.util.find_spec(key) is None:
            raise BadInput(f'{key}=True needs a package that is not installed: pip install {key}')
    check_bounds(config, 'learning_rate', 'muon_lr', above=0)
    check_bounds(config, 'max_steps', 'eval_tokens', 'eval_tasks_limit', 'log_interval', 'timeout_s', at_least=1)
    check_bounds(config, 'min_lr', 'warmup_steps', 'weight_decay', 'grad_clip', 'eval_interval', 'checkpoint_interval',
                 'sample_interval', 'sample_tokens', 'eval_tasks_interval', 'patience', at_least=0)
    check_bounds(config, 'beta1', 'beta2', at_least=0, below=1)
    check_bounds(config, 'wsd_decay', at_least=0, at_most=1)
    check_bounds(config, 'block_size', at_least=1)
    if (config['min_lr'] or 0) > config['learning_rate'] and config['schedule'] != 'constant':
        raise BadInput(f'min_lr={config["min_lr"]} is above learning_rate={config["learning_rate"]}, which the schedule should '
                       f'lower; leave min_lr out, and it is a tenth of learning_rate')
    interval = config['eval_tasks_interval']
    if interval and (config['eval_interval'] < 1 or interval % config['eval_interval']):
        raise BadInput(f'eval_tasks_interval={interval} should be a multiple of eval_interval={config["eval_interval"]}')
    if config['eval_tasks']:
        choose_tasks(config['eval_tasks'], key='eval_tasks')


def inherited_block_size(config):
    """What block_size=None means: that of the weights in init_from, which a run that resumes has from its own checkpoint."""
    if not resume.has_weights(config):
        return 1024
    resumes = checkpoint.list_checkpoints(config['out_dir'])
    return pretrained.block_size_of(config['out_dir'] if resumes else config['init_from'])


class Data(NamedTuple):
    train: shards.BatchLoader
    val: shards.BatchLoader
    meta: dict  # of meta.json: vocab_size, tokenizer_sha256, ...
    tokenizer: Tokenizer
    tasks: list[measure.Prepared]  # those of eval_tasks


def open_data(config, process):
    """The training and validation data. Raises BadInput where it cannot be used."""
    meta = shards.load_meta(config['data_dir'], quiet=not process.is_first)
    tokenizer = shards.load_tokenizer(config['data_dir'], meta)
    in_turns = {'rank': process.rank, 'world_size': process.world_size}
    train, val = (shards.BatchLoader(config['data_dir'], split, config['block_size'], batch_size=1, seed=config['seed'],
                                     meta=meta, **places)  # the batch size is set once the model is there
                  for split, places in (('train', {} if config['reproducible'] else in_turns), ('val', in_turns)))
    if meta.get('context', config['block_size']) != config['block_size']:
        process.print0(f'{config["data_dir"]} was made for block_size={meta["context"]}; with {config["block_size"]}, '
                       'documents are cut at any place')
    tasks = []
    if config['eval_tasks']:
        asked = measure.read_tasks(choose_tasks(config['eval_tasks']), config['eval_tasks_source'], config['eval_tasks_limit'])
        tasks = measure.prepare(asked, tokenizer, config['block_size'])
    return Data(train, val, meta, tokenizer, tasks)


def build_model(config, tokenizer, saved, process, compiled):
    """(GPT, complete config) of this run: fresh, or with the weights that init_from names, if it does not resume."""
    chosen = {**config, 'kernels': kernels.choose(config['kernels'], process.device, compiled)}
    if saved is None and resume.has_weights(config):
        model = pretrained.load_to_train(chosen, tokenizer)
        config = {**config, **{key: value for key, value in vars(model.config).items() if key not in pretrained.CHOSEN_BY_RUN}}
    else:
        torch.manual_seed(config['seed'])
        model = GPT(pretrained.model_config(chosen))
        if saved:
            config = {**config, 'init_from': saved['config']['init_from']}
    model.activation_checkpointing = config['activation_checkpointing']
    return model.to(process.device), config


def wrap(raw_model, process, compiled, reproducible=False):
    """What computes losses: the GPT, averaging gradients over processes, and compiled. The GPT in it stays as it is.

    Compiled after it was wrapped: torch.compile then cuts its graph where a bucket of gradients is complete, and they are
    exchanged while the rest of the backward pass runs. If reproducible, it averages nothing: TreeSum does.
    """
    model = raw_model
    if process.world_size > 1 and not reproducible:
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    # Only static shapes: after trying two sizes of a micro-batch, it would make a slower graph for any size.
    return torch.compile(model, dynamic=False) if compiled else model


def attention_backend(model, process, compiled):
    """What computes attention in training, in words."""
    config = model.config
    if config.attention == 'explicit':
        return 'explicit, with all of its weights in memory'
    if trains_in_blocks(config.attention, process.device, config.dropout, compiled):
        return 'kernels/attention.py, by blocks of queries'
    shape = 1, config.n_head, config.block_size, config.n_embd // config.n_head
    q = torch.empty(shape, device=process.device, dtype=process.dtype)
    return f'PyTorch, {SDPBackend(torch._fused_sdp_choice(q, q, q, None, config.dropout, True)).name.lower()}'


def is_done(config, progress, process):
    """Whether the run has ended: whether the validation at its end is in metrics.jsonl, as the first process reads it."""
    def ends_there():
        rows = [row for row in read_metrics(config['out_dir']) if 'val_loss' in row]
        best = best_row(rows)
        ended = progress.step >= config['max_steps'] or best and out_of_patience(progress.step, best['step'], config)
        return bool(rows and rows[-1]['step'] == progress.step and ended)
    return process.sum([process.is_first and ends_there()]) == [1]


def out_of_patience(step, best_step, config):
    """Whether `patience` validations in a row have brought no better loss."""
    steps = config['patience'] * config['eval_interval']
    return steps > 0 and step - best_step >= steps


def warn_if_rate_rises(config, saved, process):
    """Warns if a resumed run starts with a much higher learning rate than it stopped with."""
    step, rate = saved['step'], saved['config'].get('learning_rate')
    if step > config['warmup_steps'] and rate:
        before = rate * learning_rate_factor(step - 1, {**config, **saved['config']})
        now = config['learning_rate'] * learning_rate_factor(step, config)
        if now > 1.5 * before:
            process.print0(f'the learning rate had come down to {before:.2g} and goes back up to {now:.2g}: '
                           f'the loss will rise first')


def prepare_out_dir(config, meta, step, process, lock, found):
    """Makes OUT_DIR ready for this run alone. found: the checkpoints that were in it when one was chosen."""
    make_folder(os.path.join(config['out_dir'], 'samples'))
    lock.take()
    if checkpoint.list_checkpoints(config['out_dir']) != found:
        raise BadInput(f'another run wrote to {config["out_dir"]} meanwhile; start again to resume it')
    checkpoint.remove_unfinished(config['out_dir'])
    checkpoint.set_newer_aside(config['out_dir'], step)
    if meta['tokenizer'] != 'gpt2':  # so that the checkpoints can be used without the data
        copy_file(os.path.join(config['data_dir'], meta['tokenizer']), os.path.join(config['out_dir'], 'tokenizer.json'))
    report.write_run_info(config, process, step)


def train(config, process, model, raw_model, optimizers, data, text, progress):
    """The loop. Each iteration saves, validates and samples if that is due, and then makes an optimizer step.

    It saves first: a resumed run repeats the validation at its step, so a checkpoint need not hold its result.
    """
    def save_now():
        resume.save(writer, raw_model, optimizers, config, text, progress, process)
        metrics.sync()

    stop = StopSignals(process)
    watch = Watch(process)
    metrics = Metrics(config, progress.step, process.is_first)
    best = resume.find_best(config['out_dir']) if process.is_first and progress.step else None
    writer = checkpoint.BackgroundWriter(config['out_dir'], progress.step, best)
    batches = DeviceBatches(data.train, process.device)
    rates = report.peak_rates(process)
    flops_per_token = raw_model.flops_per_token()
    report.announce_speed(config, process, flops_per_token, rates['mfu'])
    curve = plot.LossCurve(config['out_dir'], process.is_first)
    bar = tqdm(total=config['max_steps'], initial=progress.step, unit='step', dynamic_ncols=True,
               disable=not process.is_first, mininterval=0.2 if sys.stderr.isatty() else 15)
    run_started = time.perf_counter() - progress.elapsed_s
    n_skipped = 0
    try:
        while True:
            step, last = progress.step, progress.step >= config['max_steps']
            if last or is_due(step, config['checkpoint_interval']) and not n_skipped:  # its weights may be no good any more
                watch.begin(f'the checkpoint of step {step:,}')
                save_now()
            if last or is_due(step, config['eval_interval']):
                watch.begin(f'the validation at step {step:,}')
                scores = evaluate(model, raw_model, data, config, process, stop, step, last)
                metrics.log(step=step, tokens=progress.tokens, **scores)
                report.print_scores(scores, step, process)
                curve.draw_if_due()
                resume.update_best(scores['val_loss'], progress, writer, process)
                if out_of_patience(step, progress.best_step, config):
                    save_now()
                    break
            if config['sample_interval'] and step and (last or is_due(step, config['sample_interval'])):
                write_sample(raw_model, data.tokenizer, config, step, process)
            if last:
                break
            watch.begin(f'step {step + 1:,}')
            step_started = time.perf_counter()
            optimizers.set_learning_rate(learning_rate_factor(step, config))
            row = train_step(model, raw_model, optimizers, batches, config, process, stop)
            step_s = time.perf_counter() - step_started
            progress.advance(config, data.train, step_s, time.perf_counter() - run_started)
            row |= report.speed(config, process, flops_per_token, rates, step_s, progress.elapsed_s)
            if progress.step >= config['max_steps'] or is_due(progress.step, config['log_interval']):
                epoch = progress.sequence_index / data.train.n_sequences
                metrics.log(step=progress.step, tokens=progress.tokens, epoch=epoch, **row)
            bar.update()
            bar.set_postfix_str(f'loss {row["loss"]:.3f}, {row["tokens_per_s"]:,.0f} tokens/s, MFU {row["mfu"]:.0%}',
                                refresh=False)
            if 'skipped' in row:
                process.print0(f'step {progress.step:,}: loss or gradient is not finite; the step was skipped')
            may_be_the_scale = math.isfinite(row['loss']) and optimizers.scales_up
            n_skipped = n_skipped + 1 if 'skipped' in row and not may_be_the_scale else 0
            if n_skipped == MAX_SKIPPED_STEPS:
                curve.draw()
                writer.wait()
                good = [path for path in checkpoint.list_checkpoints(config['out_dir'])
                        if checkpoint.step_of(path) < progress.step - n_skipped]  # of that step are the weights that failed
                last_good = f'the last good checkpoint is {good[0]}' if good else 'no checkpoint was made before'
                raise Diverged(f'{n_skipped} steps in a row without a finite loss and gradient; {last_good}. '
                               f'Try a lower --learning_rate or --dtype=float32')
            stop.raise_if_noticed()
    except Stopped:  # an unfinished step or validation is dropped; a resumed run makes it again
        raw_model.zero_grad(set_to_none=True)
        data.train.seek(progress.sequence_index)
        save_now()
    watch.end()
    bar.close()
    writer.wait()
    curve.draw()
    process.on_first(writer.raise_if_unsaved)
    process.on_first(metrics.raise_if_unsaved)


def is_due(step, interval):
    return interval > 0 and step % interval == 0


def learning_rate_factor(step, config):
    """Share of the peak learning rate at a step, counted from 0: linear warm-up, then the schedule."""
    warmup, max_steps = config['warmup_steps'], config['max_steps']
    min_factor = 0.1 if config['min_lr'] is None else config['min_lr'] / config['learning_rate']
    if step < warmup:
        return (step + 1) / warmup
    if config['schedule'] == 'constant':
        return 1.0
    if config['schedule'] == 'cosine':
        passed = min(1.0, (step - warmup) / max(1, max_steps - warmup))
        return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * passed))
    begin = max(warmup, max_steps * (1 - config['wsd_decay']))  # 'wsd': warm-up, stable, decay (Hu et al. 2024, "MiniCPM")
    passed = min(1.0, max(0.0, (step - begin) / max(1, max_steps - begin)))
    return 1 - passed * (1 - min_factor)


def train_step(model, raw_model, optimizers, batches, config, process, stop):
    """One optimizer step over all processes -> its row of metrics.jsonl.

    Loss and gradient are averaged over all non-ignored targets of the global batch; grad_norm is the gradient's before
    clipping. If either is not finite, weights and states stay as they are and the row says 'skipped'. On a CPU, where a
    step may take minutes, it raises Stopped between two micro-batches.

    If reproducible, a process takes micro-batches that follow each other in the data, and their gradients are added up by
    TreeSum; else the processes take them in turns, and DDP averages the gradients.

    The CPU waits for the GPU once, for loss and norm: before that it launches all of forward and backward, and fetches the
    next batch; after it, the update, with which the next step begins.
    """
    train_data = batches.loader
    n_micro = sequences_per_process(config, process) // train_data.batch_size
    n_sequences = config['total_batch_tokens'] // config['block_size']  # of the whole step
    n_targets = max(1, train_data.count_targets(n_sequences))
    tree = TreeSum(raw_model.parameters(), process) if config['reproducible'] else None
    start = train_data.sequence_index
    own = process.rank * n_sequences // process.world_size if tree else 0  # where this process begins, after the start
    averaged_over = 1 if tree else process.world_size
    losses = torch.zeros(process.world_size, n_micro, device=process.device)  # of all processes; the others' stay 0 here
    train_data.seek(start + own)
    with out_of_memory_hint(train_data.batch_size):
        for micro_step in range(n_micro):
            if micro_step and process.device.type == 'cpu':
                stop.check()
            x, y = next_batch(batches, config, process)  # (B, T) each
            model.require_backward_grad_sync = micro_step == n_micro - 1  # DDP exchanges gradients after the last one only
            # model(x, y) is the mean over the targets of x, y; its share of all targets makes the sum of all the mean over all.
            # DDP divides gradients by world_size, which is undone here.
            share = (y != -1).sum() * averaged_over / n_targets
            with process.autocast():
                loss = model(x, y) * share
            optimizers.scale(loss).backward()
            losses[process.rank, micro_step] = loss.detach()
            if tree:
                tree.add_unit()
        if tree:
            tree.finish()
    optimizers.unscale_gradients()
    grad_norm = torch.nn.utils.clip_grad_norm_(raw_model.parameters(), config['grad_clip'] or math.inf)
    train_data.seek(start + n_sequences + own)
    batches.prefetch()
    train_data.seek(start + n_sequences)
    *losses, grad_norm = stop.sum_and_notice([losses, grad_norm])
    loss, grad_norm = math.fsum(losses) / averaged_over, grad_norm / process.world_size  # fsum: exact, then rounded once
    return optimizers.step_if_finite(loss, grad_norm)


def next_batch(batches, config, process):
    """The next (x, y), (B, T) each, on the device. Dropout is seeded by the position in the data: a resumed run repeats it."""
    if config['dropout']:
        position = batches.loader.sequence_index + batches.loader.rank * batches.loader.batch_size
        torch.manual_seed(config['seed'] + position * 1_000_003)
    return batches.next()


def count_val_sequences(config, val_data):
    return max(1, min(config['eval_tokens'] // config['block_size'], val_data.n_sequences))


def evaluate(model, raw_model, data, config, process, stop, step, last):
    """{'val_loss': ..., 'val_ppl': ..., 'val_bpb': ...}, and the scores of eval_tasks where they are due. Raises Stopped.

    All processes call this and get the same scores. Further evaluations of a run belong here.
    """
    scores = validation_loss(model, data, config, process, stop)
    if last or not config['eval_tasks_interval'] or is_due(step, config['eval_tasks_interval']):
        for task in data.tasks:
            results = measure.run(task, raw_model, process, check_stop=stop.check)
            scores |= {f'{task.asked.name}_{name}': score for name, score in results.items() if name != 'examples'}
    return scores


@torch.no_grad()
def validation_loss(model, data, config, process, stop):
    """Loss in nats per token, perplexity and bits per byte, over the same sequences at every call.

    The processes take the batches in turns; sums and counts are added up, not means. Sequences past the last are masked,
    so that shapes stay the same and nothing is compiled again.
    """
    val, n_sequences = data.val, count_val_sequences(config, data.val)
    token_bytes = torch.from_numpy(data.tokenizer.token_lengths()).to(process.device)  # (V,)
    n_tokens, n_bytes = torch.zeros(2, dtype=torch.int64, device=process.device)
    n_turns = math.ceil(n_sequences / (val.batch_size * process.world_size))
    nats = torch.zeros(n_turns, process.world_size, device=process.device)  # of all processes; the others' stay 0 here
    val.seek(0)
    model.eval()
    try:
        for turn in range(n_turns):
            first = val.sequence_index + process.rank * val.batch_size  # of this process's batch
            x, y = (tensor.to(process.device) for tensor in val.next())  # (B, T) each
            y[max(0, n_sequences - first):] = -1
            is_target = y != -1
            n_bytes += (token_bytes[y.clamp(min=0)] * is_target).sum()
            n_tokens += is_target.sum()
            with process.autocast():
                nats[turn, process.rank] = model(x, y) * is_target.sum()
            stop.check()
    finally:
        model.train()
    *nats, n_tokens, n_bytes = process.sum([nats, n_tokens, n_bytes])
    nats = math.fsum(nats)
    loss = nats / max(1, n_tokens)
    return {'val_loss': loss, 'val_ppl': math.exp(min(loss, 700)), 'val_bpb': nats / math.log(2) / max(1, n_bytes)}


def write_sample(raw_model, tokenizer, config, step, process):
    """The first process prints a text that starts a document, and writes it to OUT_DIR/samples."""
    if not process.is_first:
        return
    start = torch.tensor([[tokenizer.eot]], device=process.device)
    with process.autocast():
        ids = generate(raw_model, start, config['sample_tokens'], temperature=0.8, top_k=50, seed=config['seed'],
                       stop_tokens=(tokenizer.eot,))
    text = tokenizer.decode([i for i in ids[0].tolist() if i != tokenizer.eot])
    path = os.path.join(config['out_dir'], 'samples', f'step_{step:07d}.txt')
    with warn_if_unwritable('the sample'), atomic_write(path) as file:
        file.write(text.encode())
    process.print0(f'--- sample at step {step:,}\n{text}\n---')


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
