"""Trains GPT-2: on one CPU, one GPU, or many.

    python train.py config/demo.py                                      # one process
    torchrun --nproc_per_node=8 train.py config/train_gpt2.py           # 8 GPUs
    torchrun --nproc_per_node=2 train.py config/demo.py --device=cpu    # 2 CPU processes

Data is a folder of shards (corpus.py, fineweb.py and wikitext.py make them). Everything that the run leaves is in
OUT_DIR: checkpoints, metrics.jsonl, loss.png, samples. Stop it with Ctrl-C or SIGTERM and start it again with the same
command: it resumes where it was, with the same loss curve, on any number of processes. The sequences of step s are a
function of (seed, s) alone.
"""
import importlib.util
import math
import os
import re
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Callable

import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import checkpoint
import pretrained
from runtime import hardware
import hellaswag
import kernels
import plot
import shards
from bpe import Tokenizer
from configurator import choice, configure, optional
from runtime.errors import BadInput, one_line_errors
from runtime.files import make_folder, atomic_write
from model import GPT
from runtime.process import Process
from runtime.stop import Stopped

DEFAULTS = {
    # run
    'out_dir': 'out',  # folder of this run: checkpoints, metrics, samples, plot
    'init_from': 'auto',  # auto (resume if OUT_DIR has a checkpoint, else scratch), scratch, resume, gpt2[-medium|-large|-xl], or a path to weights
    'seed': 1337,  # of the initial weights, the order of the data, and dropout
    # data
    'data_dir': 'data/stdlib',  # folder of shards with a meta.json
    # model
    'block_size': 1024,  # longest context, in tokens
    'n_layer': 12,  # blocks; 0 makes a bigram model
    'n_head': 12,  # attention heads
    'n_embd': 768,  # width
    'dropout': 0.0,  # 0 for one pass over much data, 0.1-0.2 for many passes over little
    'bias': True,  # biases in linear layers and layer norms, as GPT-2 has them
    'kernels': choice('torch', 'triton'),  # triton: our fused kernels
    'attention': choice('auto', 'sdpa', 'explicit'),  # auto: the fastest that is exact; explicit: with the whole matrix of weights
    # batch
    'total_batch_tokens': 524_288,  # tokens an optimizer step, over all processes
    'micro_batch': 0,  # sequences a forward pass and process; 0 finds the largest that fits
    'max_steps': 19_073,  # optimizer steps
    # optimizer
    'optimizer': choice('adamw', 'muon'),  # muon: Muon for the blocks' matrices, AdamW for the rest
    'learning_rate': 6e-4,  # the highest, reached after the warm-up
    'min_lr': 6e-5,  # the lowest, at the end of the schedule
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
    'hellaswag_interval': 0,  # steps between HellaSwag scores, together with a validation; 0 for none
    'hellaswag_examples': 1000,  # how many of its 10,042 examples, the first ones
    'hellaswag_source': optional(str),  # a .jsonl file as published; None: from the hub
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
    'activation_checkpointing': False,  # recompute each block in the backward pass: a third more time, far less memory
    'zero': False,  # several processes: each keeps the optimizer states of its share of the weights alone (ZeRO-1)
}
BAD_STEPS_ALLOWED = 5  # non-finite gradients in a row before the run stops
PATIENCE_S = 2  # a signal that comes again later than this ends the run at once; torchrun passes each one on twice
CPU_MICRO_BATCH_TOKENS = 8192  # what a CPU's caches and threads like
PASSES_TO_LEARN_BY_HEART = 100
LONG_STEP_S = 60  # a step that takes longer is said to
FIXED_BY_WEIGHTS = ('n_layer', 'n_head', 'n_embd', 'bias', 'block_size', 'vocab_size')


def main(config):
    check_input(config)
    process = Process(config)
    meta = shards.load_meta(config['data_dir'], quiet=not process.is_first)
    tokenizer = shards.load_tokenizer(config['data_dir'])
    resumed = find_checkpoint(config, meta)
    model = build_model(config, meta, resumed).to(process.device)
    compiled = compile_model(model, config, process)
    micro_batch = choose_micro_batch(compiled, config, process)
    train_data, val_data = open_data(config, micro_batch, process)
    thirds = split_qkv(model) if config['optimizer'] == 'muon' else []
    optimizers = build_optimizers(model, thirds, config, process)
    scaler = torch.amp.GradScaler(process.device.type, enabled=process.dtype == torch.float16)
    questions = load_hellaswag(config, tokenizer) if config['hellaswag_interval'] else {}
    progress = restore(resumed, optimizers, scaler, train_data)
    check_agreement(progress.step, process)
    del resumed  # its memory is the run's
    run = Run(config, process, model, compiled, thirds, optimizers, scaler, train_data, val_data, tokenizer, meta, questions, progress)
    announce(run)
    if is_done(run):
        limit = '--max_steps' if progress.step >= config['max_steps'] else '--patience'
        process.print0(f'{config["out_dir"]} is at its end, step {progress.step:,}; a larger {limit} trains on')
    else:
        # All that can be wrong with the input has been checked; from here on things are written.
        prepare_out_dir(run)
        train(run)
        summarize(run)
    process.end()


@dataclass
class Progress:
    """Where a run stands: all that a checkpoint holds beside weights and optimizer states."""
    step: int = 0
    sequence_index: int = 0  # position in the data
    tokens: int = 0
    elapsed_s: float = 0.0  # wall-clock time over all starts
    train_s: float = 0.0  # of which in optimizer steps
    best_val_loss: float = math.inf
    best_step: int = 0  # where it was
    validated_step: int = -1  # the last one whose validation has been counted
    row: dict = field(default_factory=lambda: {'step': 0, 'tokens': 0})  # this step's metrics, not yet written


@dataclass
class Run:
    """What the loop works with."""
    config: dict
    process: Process
    model: GPT  # the plain model: samples are taken from it, since their shapes change
    compiled: Callable  # the same weights, compiled if that is wanted
    thirds: list  # of `split_qkv`
    optimizers: list
    scaler: torch.amp.GradScaler
    train_data: shards.BatchLoader
    val_data: shards.BatchLoader
    tokenizer: Tokenizer
    meta: dict  # of the data
    questions: dict  # of HellaSwag; empty if it is not wanted
    progress: Progress


def check_input(config):
    """What can be checked before anything is loaded. Raises BadInput."""
    for split in ('train', 'val'):
        shards.find_shards(config['data_dir'], split)
    for key in ('tensorboard', 'wandb'):
        if config[key] and importlib.util.find_spec(key) is None:
            raise BadInput(f'{key}=True needs a package that is not here: pip install {key}')
    for key in ('learning_rate', 'muon_lr', 'max_steps'):
        if config[key] <= 0:
            raise BadInput(f'{key}={config[key]} should be above 0')
    for key in ('min_lr', 'warmup_steps', 'weight_decay', 'grad_clip', 'eval_interval', 'checkpoint_interval', 'sample_interval'):
        if config[key] < 0:
            raise BadInput(f'{key}={config[key]} should be 0 or more')


def find_checkpoint(config, meta):
    """The newest checkpoint of OUT_DIR if this run goes on from it, else None. Raises BadInput if it would be lost."""
    out_dir, init_from = config['out_dir'], config['init_from']
    if init_from != 'resume' and not checkpoint.list_checkpoints(out_dir):
        return None
    path, state = checkpoint.load_newest(out_dir)
    began_from = state['config']['init_from']
    restarted = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0  # by torchrun, after a worker died
    goes_on = restarted or init_from in ('auto', 'resume') or init_from == began_from != 'scratch'
    if not goes_on:
        raise BadInput(f'{out_dir} already holds {os.path.basename(path)}; --init_from=resume resumes it, '
                       f'another --out_dir starts anew')
    if state['tokenizer_sha256'] != meta['tokenizer_sha256']:
        raise BadInput(f'{path} was trained with another tokenizer than that of {config["data_dir"]}; '
                       f'use the data it was trained on, or another --out_dir')
    config['vocab_size'] = meta['vocab_size']
    for key in FIXED_BY_WEIGHTS:
        if config[key] != state['config'][key]:
            raise BadInput(f'{path} was trained with {key}={state["config"][key]}, not {config[key]}; '
                           f'start with the same settings, or with another --out_dir')
    if len(state['optimizers']) != (2 if config['optimizer'] == 'muon' and config['n_layer'] else 1):
        raise BadInput(f'{path} was trained with optimizer={state["config"]["optimizer"]}, not {config["optimizer"]}; '
                       f'start with the same settings, or with another --out_dir')
    config['init_from'] = began_from
    return state


def build_model(config, meta, resumed):
    """The GPT of this run on the CPU: from the checkpoint, from published weights, or fresh. Completes `config`."""
    config['vocab_size'] = meta['vocab_size']
    if resumed is None and config['init_from'] not in ('auto', 'scratch'):
        model = load_weights(config, meta)
    else:
        torch.manual_seed(config['seed'])
        model = GPT(pretrained.model_config(config))
        if resumed is not None:
            model.load_state_dict(resumed.pop('model'))
    model.activation_checkpointing = config['activation_checkpointing']
    return model


def load_weights(config, meta):
    """The model that init_from names, with this run's block_size; its shape goes into `config`."""
    model, _, source = pretrained.load(config['init_from'], dropout=config['dropout'], kernels=config['kernels'],
                                             attention=config['attention'])
    if pretrained.tokenizer_sha256(source) != meta['tokenizer_sha256'] or model.config.vocab_size != meta['vocab_size']:
        raise BadInput(f'{source} has another tokenizer than the data in {config["data_dir"]}; '
                       f'tokenize the text with its own (corpus.py --tokenizer=...)')
    if config['block_size'] > model.config.block_size:
        raise BadInput(f'block_size={config["block_size"]} is more than the {model.config.block_size} of {source}; '
                       f'--block_size={model.config.block_size} or less')
    pretrained.crop_block_size(model, config['block_size'])
    config.update({key: getattr(model.config, key) for key in FIXED_BY_WEIGHTS})
    return model


def compile_model(model, config, process):
    """The model, compiled if that is wanted and possible."""
    if config['kernels'] == 'triton' and kernels.unavailable(process.device):
        raise BadInput(f'kernels=triton: {kernels.unavailable(process.device)}; --kernels=torch runs everywhere')
    wanted = process.device.type == 'cuda' if config['compile'] is None else config['compile']
    reason = hardware.why_no_compile(process.device) if wanted else None
    if reason:
        process.print0(f'not compiled: {reason}')
    return torch.compile(model) if wanted and not reason else model


def choose_micro_batch(compiled, config, process):
    """Sequences in a forward pass: as set, or the largest divisor of this process's share that fits into memory."""
    n_sequences = sequences_per_process(config, process)
    if config['micro_batch']:
        return config['micro_batch']
    if process.device.type != 'cuda':
        return largest_divisor(n_sequences, max(1, CPU_MICRO_BATCH_TOKENS // config['block_size']))
    micro_batch = largest_divisor(n_sequences, 64)
    while not fits(compiled, micro_batch, config, process):
        if micro_batch == 1:
            raise BadInput(f'out of memory even with one sequence of {config["block_size"]} tokens; '
                           f'try --activation_checkpointing=True, or a smaller --block_size or --n_layer')
        smaller = largest_divisor(n_sequences, micro_batch // 2)
        process.print0(f'micro_batch {micro_batch} does not fit into memory; trying {smaller}')
        micro_batch = smaller
    return micro_batch


def sequences_per_process(config, process):
    """Sequences of an optimizer step that fall to each process. Raises BadInput if they do not come out even."""
    total, block_size, micro_batch = config['total_batch_tokens'], config['block_size'], config['micro_batch']
    if micro_batch < 0:
        raise BadInput(f'micro_batch={micro_batch} should be at least 1, or 0 for the largest that fits')
    unit = block_size * process.world_size * max(1, micro_batch)
    if total < 1 or total % unit:
        nearest = max(1, round(total / unit)) * unit
        raise BadInput(f'total_batch_tokens={total} does not divide by block_size {block_size} x {process.world_size} '
                       f'processes x micro_batch {max(1, micro_batch)} = {unit}; the nearest that does is '
                       f'--total_batch_tokens={nearest}')
    return total // block_size // process.world_size


def largest_divisor(n, limit):
    return max(d for d in range(1, min(n, limit) + 1) if n % d == 0)


def fits(compiled, micro_batch, config, process):
    """Whether all processes get through a forward and backward pass, with room left for AdamW's two moments."""
    failed = False
    parameters = list(compiled.parameters())
    try:
        moments = torch.empty(2 * sum(p.numel() for p in parameters), device=process.device)
        idx = torch.zeros(micro_batch, config['block_size'], dtype=torch.long, device=process.device)
        with process.autocast():
            loss = compiled(idx, idx)
        loss.backward()
        del moments, loss
    except torch.OutOfMemoryError:
        failed = True
    for parameter in parameters:
        parameter.grad = None
    torch.cuda.empty_cache()
    return process.sum([failed])[0] == 0


def open_data(config, micro_batch, process):
    """The loaders of the training and the validation split."""
    return [shards.BatchLoader(config['data_dir'], split, config['block_size'], micro_batch, config['seed'],
                               process.rank, process.world_size) for split in ('train', 'val')]


def load_hellaswag(config, tokenizer):
    """The questions, tokenized. Raises BadInput where they cannot be had, or would never be asked."""
    if config['eval_interval'] < 1 or config['hellaswag_interval'] % config['eval_interval']:
        raise BadInput(f'hellaswag_interval={config["hellaswag_interval"]} should be a multiple of '
                       f'eval_interval={config["eval_interval"]}')
    examples = hellaswag.load(config['hellaswag_source'], config['hellaswag_examples'])
    return hellaswag.prepare(examples, tokenizer, config['block_size'], ['harness'])


def split_qkv(model):
    """[(c_attn.weight, its parts for q, k and v)] of all blocks: parameters that share the memory of the whole.

    Muon makes a matrix's update orthogonal, and these are three maps that are only stored together: taken as three, the
    demo's model reaches a loss lower by 0.08 (at 1.3 million tokens).
    """
    weights = [block.attn.c_attn.weight for block in model.transformer.h]
    return [(weight, [torch.nn.Parameter(part) for part in weight.detach().chunk(3)]) for weight in weights]


def hand_on_gradients(thirds):
    """Gives the parts of `split_qkv` their rows of the whole's gradient, in the same memory."""
    for weight, parts in thirds:
        for part, grad in zip(parts, weight.grad.chunk(3)):
            part.grad = grad


def build_optimizers(model, thirds, config, process):
    """[AdamW], or [AdamW, Muon] with Muon (Jordan et al. 2024) for the blocks' matrices. Decay is for matrices alone.

    Every parameter group keeps its highest rate as 'peak_lr'; the schedule scales all of them alike.
    """
    lr, decay = config['learning_rate'], config['weight_decay']
    in_blocks = [p for p in model.transformer.h.parameters() if p.dim() == 2 and config['optimizer'] == 'muon']
    of_muon = {id(p) for p in in_blocks}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in of_muon]
    groups = [{'params': [p for p in rest if p.dim() == 2], 'weight_decay': decay, 'peak_lr': lr},
              {'params': [p for p in rest if p.dim() != 2], 'weight_decay': 0.0, 'peak_lr': lr}]
    optimizers = [make_optimizer(torch.optim.AdamW, groups, config, process, lr=lr, fused=process.device.type != 'mps',
                                 betas=(config['beta1'], config['beta2']))]
    if in_blocks:
        parts = {id(weight): parts for weight, parts in thirds}
        matrices = [part for p in in_blocks for part in parts.get(id(p), [p])]
        groups = [{'params': matrices, 'weight_decay': decay, 'peak_lr': config['muon_lr']}]
        optimizers.append(make_optimizer(torch.optim.Muon, groups, config, process, lr=config['muon_lr']))
    return optimizers


def make_optimizer(kind, groups, config, process, **settings):
    if config['zero'] and process.world_size > 1:
        from torch.distributed.optim import ZeroRedundancyOptimizer
        return ZeroRedundancyOptimizer(groups, optimizer_class=kind, **settings)
    return kind(groups, **settings)


def restore(resumed, optimizers, scaler, train_data):
    """Puts optimizers, scaler and data where the checkpoint was; returns the Progress."""
    if resumed is None:
        return Progress()
    for optimizer, state in zip(optimizers, resumed['optimizers']):
        optimizer.load_state_dict(state)
    if resumed['scaler']:
        scaler.load_state_dict(resumed['scaler'])
    if resumed['train_tokens'] != train_data.n_tokens:
        warn(f'the data had {resumed["train_tokens"]:,} tokens to train on and now has {train_data.n_tokens:,}: '
                        f'from here on the sequences come in another order than they would have')
    progress = Progress(**{key: resumed[key] for key in Progress.__dataclass_fields__})
    train_data.seek(progress.sequence_index)
    return progress


def announce(run):
    """Says what runs, in a few lines, so that no choice made by the machine is silent."""
    config, process, batch = run.config, run.process, run.train_data.batch_size
    origin = config['init_from'] if config['init_from'] != 'auto' else 'scratch'
    n_micro = sequences_per_process(config, process) // batch
    passes = config['max_steps'] * config['total_batch_tokens'] / run.train_data.n_tokens
    process.print0(f'{config["out_dir"]}: {f"resumes at step {run.progress.step:,}" if run.progress.step else f"starts from {origin}"}; '
                f'{process.world_size} x {hardware.describe(process.device)}, {str(process.dtype).removeprefix("torch.")}')
    process.print0(f'model: {run.model.n_params():,} parameters ({config["n_layer"]} layers, {config["n_head"]} heads, '
                f'width {config["n_embd"]}, block {config["block_size"]}, vocabulary {config["vocab_size"]:,})')
    process.print0(f'batch: {config["total_batch_tokens"]:,} tokens = {process.world_size} processes x {n_micro} '
                f'micro-batches x {batch} sequences x {config["block_size"]} tokens')
    process.print0(f'data: {run.train_data.n_tokens:,} tokens to train on, seen {f"{passes:,.0f}" if passes >= 100 else f"{passes:.3g}"} '
                f'times; {n_val_sequences(run) * config["block_size"]:,} to validate on')
    if passes >= PASSES_TO_LEARN_BY_HEART:
        process.print0(f'so many passes learn the text by heart; --max_steps={math.ceil(config["max_steps"] * 10 / passes)} makes 10 of them')
    before, now = run.progress.row.get('lr', math.inf), config['learning_rate'] * learning_rate_factor(run.progress.step, config)
    if run.progress.step > config['warmup_steps'] and now > 1.5 * before and not is_done(run):
        process.print0(f'the learning rate had come down to {before:.2g} and goes back up to {now:.2g}: the loss will rise first')


def check_agreement(step, process):
    """Raises BadInput, in all processes, if they do not all stand at the same step."""
    steps, squares = process.sum([step, step ** 2])
    if squares * process.world_size != steps ** 2:
        raise BadInput(f'the processes found different checkpoints (this one step {step:,}): out_dir must be a folder that all '
                       f'machines share')


def is_done(run):
    """Whether the run has come to its end and this is written down."""
    rows = read_metrics(run.config['out_dir'])
    ended = run.progress.step >= run.config['max_steps'] or is_out_of_patience(run)
    return ended and any(row['step'] == run.progress.step for row in rows)


def is_out_of_patience(run):
    """Whether so many validations in a row have brought no better loss that the run ends."""
    progress, patience = run.progress, run.config['patience'] * run.config['eval_interval']
    return progress.validated_step == progress.step and 0 < patience <= progress.step - progress.best_step


def prepare_out_dir(run):
    out_dir = run.config['out_dir']
    if run.process.is_first:
        make_folder(os.path.join(out_dir, 'samples'))
        checkpoint.remove_leftovers(out_dir)
        checkpoint.copy_tokenizer(run.config['data_dir'], out_dir, run.meta)


def train(run):
    """The loop. Each turn finishes the metrics of the step that was made, then makes the next, until all are made."""
    config, process, progress = run.config, run.process, run.progress
    stop = StopSignals(process)
    log = open_logs(run) if process.is_first else None
    writer = checkpoint.BackgroundWriter(config['out_dir'])
    parallel = run.compiled
    if process.world_size > 1:
        parallel = DistributedDataParallel(run.compiled, gradient_as_bucket_view=True)
    peak_flops = hardware.measure_peak_flops(process.device, process.dtype) * process.world_size
    say_if_slow(run, peak_flops)
    bar = tqdm(total=config['max_steps'], initial=progress.step, unit='step', dynamic_ncols=True,
               disable=not process.is_first, mininterval=0.2 if sys.stderr.isatty() else 15)
    started, bad_steps = time.perf_counter() - progress.elapsed_s, 0
    stopped = not finish_row(run, log, stop)
    while progress.step < config['max_steps'] and not stopped and not is_out_of_patience(run):
        step = progress.step
        finite, stopped = train_step(run, parallel, stop)
        if progress.step == step:  # told to stop in the middle of a step, which is left out
            save(run, writer)
            break
        bad_steps = 0 if finite else bad_steps + 1
        if bad_steps:
            process.print0(f'step {progress.step:,}: loss or gradient is not finite; the step was skipped')
        if bad_steps == BAD_STEPS_ALLOWED:
            writer.wait()
            give_up(config, bad_steps)
        row = progress.row
        progress.elapsed_s = time.perf_counter() - started
        row.update(elapsed_s=round(progress.elapsed_s, 3),
                   mfu=round(row['tokens_per_s'] * run.model.flops_per_token() / peak_flops, 4))
        bar.update()
        bar.set_postfix_str(f'loss {row["loss"]:.3f}, {row["tokens_per_s"]:,.0f} tok/s, MFU {row["mfu"]:.0%}', refresh=False)
        if stopped or progress.step == config['max_steps'] or is_due(progress.step, config['checkpoint_interval']):
            save(run, writer)
        if not stopped:
            stopped = not finish_row(run, log, stop)
            if stopped or is_out_of_patience(run):
                save(run, writer)
    bar.close()
    writer.wait()


def say_if_slow(run, peak_flops):
    """Says how long a step will take where that is long: settings for GPUs were started on something else."""
    seconds = run.config['total_batch_tokens'] * run.model.flops_per_token() / (peak_flops / 2)
    if seconds > LONG_STEP_S:
        run.process.print0(f'a step of {run.config["total_batch_tokens"]:,} tokens will take about {seconds / 60:,.0f} minutes here; '
                        f'config/demo.py has settings for a CPU')


class StopSignals:
    """SIGTERM and Ctrl-C let the step end (on a CPU, the micro-batch) and save; once more, after PATIENCE_S, ends at once."""

    def __init__(self, process):
        self.first_at, self.process = None, process
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle)

    def handle(self, number, frame):
        if self.first_at is None:
            self.first_at = time.monotonic()
            self.process.print0('stopping and saving; once more ends at once')
        elif time.monotonic() - self.first_at > PATIENCE_S:
            os._exit(128 + number)

    @property
    def requested(self):
        return self.first_at is not None


def open_logs(run):
    """A function that writes a row of metrics to all places where they are wanted."""
    config, step = run.config, run.progress.step
    sinks = [checkpoint.MetricsFile(config['out_dir'], before_step=step).append]
    if config['tensorboard']:
        from torch.utils.tensorboard import SummaryWriter
        board = SummaryWriter(os.path.join(config['out_dir'], 'tensorboard'), purge_step=step)
        sinks.append(lambda row: [board.add_scalar(key, value, row['step']) for key, value in row.items() if key != 'step'])
    if config['wandb']:
        import wandb
        name = re.sub(r'\W+', '-', config['out_dir'])
        wandb.init(project='scratchgpt', id=name, name=name, config=config, resume='allow', dir=config['out_dir'])
        sinks.append(lambda row: wandb.log(row, step=row['step']))
    return lambda row: [sink(row) for sink in sinks]


def finish_row(run, log, stop):
    """Evaluates, logs and samples where that is due after the present step. False if a signal came in between."""
    config, progress, row = run.config, run.progress, run.progress.row
    last = progress.step == config['max_steps']
    if last or is_due(progress.step, config['eval_interval']):
        validation = evaluate(run, stop)
        if validation is None:
            return False
        row.update(validation)
        if run.questions and (last or is_due(progress.step, config['hellaswag_interval'])):
            scores = score_hellaswag(run, stop)
            if scores is None:
                return False
            row.update(scores)
        note_best(run)
        report_validation(run.process, row)
    if not run.process.is_first:
        return True
    if last or 'val_loss' in row or is_due(progress.step, config['log_interval']):
        log(row)
    if config['sample_interval'] and progress.step and (last or is_due(progress.step, config['sample_interval'])):
        write_sample(run)
    if 'val_loss' in row:
        with warn_if_unwritable('the plot'):
            plot.draw_if_possible(config['out_dir'])
    return True


def is_due(step, interval):
    return interval > 0 and step % interval == 0


def learning_rate_factor(step, config):
    """Share of the peak learning rate at a step, counted from 0: linear warm-up, then the schedule."""
    warmup, max_steps, lowest = config['warmup_steps'], config['max_steps'], config['min_lr'] / config['learning_rate']
    if step < warmup:
        return (step + 1) / warmup
    if config['schedule'] == 'constant':
        return 1.0
    begin = warmup if config['schedule'] == 'cosine' else max(warmup, max_steps * (1 - config['wsd_decay']))
    passed = min(1.0, max(0.0, (step - begin) / max(1, max_steps - begin)))
    if config['schedule'] == 'wsd':
        return 1 - passed * (1 - lowest)
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * passed))


def train_step(run, parallel, stop):
    """One optimizer step over all processes: moves the progress on, leaves the metrics in its row.

    Returns whether loss and gradient were finite (else the weights are as they were), and whether any process
    was told to stop. If that came between two micro-batches of a CPU, nothing has moved.
    """
    config, process, progress = run.config, run.process, run.progress
    started = time.perf_counter()
    factor = learning_rate_factor(progress.step, config)
    for group in (group for optimizer in run.optimizers for group in optimizer.param_groups):
        group['lr'] = group['peak_lr'] * factor
    loss = backward(run, parallel, stop)
    if loss is None:
        run.model.zero_grad(set_to_none=True)
        run.train_data.seek(progress.sequence_index)
        return True, True
    hand_on_gradients(run.thirds)
    for optimizer in run.optimizers:
        run.scaler.unscale_(optimizer)
    grad_norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), config['grad_clip'] or math.inf)
    loss, grad_norm, stops = process.sum([loss, grad_norm, stop.requested])
    loss, grad_norm = loss / process.world_size, grad_norm / process.world_size
    finite = math.isfinite(loss) and math.isfinite(grad_norm)
    overflow = run.scaler.is_enabled() and math.isfinite(loss)  # the scaler skips the step and lowers its scale
    if finite or overflow:
        for optimizer in run.optimizers:
            run.scaler.step(optimizer)
        run.scaler.update()
    run.model.zero_grad(set_to_none=True)
    step_s = time.perf_counter() - started
    progress.step += 1
    progress.tokens += config['total_batch_tokens']
    progress.sequence_index = run.train_data.sequence_index
    progress.train_s += step_s
    progress.row = {'step': progress.step, 'tokens': progress.tokens, 'loss': loss, 'lr': config['learning_rate'] * factor,
                    'grad_norm': grad_norm, 'tokens_per_s': round(config['total_batch_tokens'] / step_s, 1),
                    'memory_gb': round(hardware.peak_memory(process.device) / 1e9, 3)}
    return finite or overflow, stops > 0


def backward(run, parallel, stop):
    """Gradients of a whole batch, micro-batch by micro-batch; processes exchange them after the last. Returns the loss.

    Both are means over the batch's targets that count, however these are spread over micro-batches and processes.
    On a CPU, where a step may take minutes, None if a process was told to stop on the way.
    """
    config, process = run.config, run.process
    n_micro = sequences_per_process(config, process) // run.train_data.batch_size
    n_targets = max(1, run.train_data.count_targets(config['total_batch_tokens'] // config['block_size']))
    total = torch.zeros((), device=process.device)
    for micro_step in range(n_micro):
        if micro_step and process.device.type == 'cpu' and process.sum([stop.requested])[0]:
            return None
        x, y = next_batch(run)
        parallel.require_backward_grad_sync = micro_step == n_micro - 1  # what DDP.no_sync sets
        try:
            with process.autocast():
                loss = parallel(x, y) * ((y != -1).sum() * process.world_size / n_targets)
            run.scaler.scale(loss).backward()
        except torch.OutOfMemoryError:
            raise BadInput(f'out of memory with micro_batch={len(x)}; --micro_batch={largest_divisor(len(x), max(1, len(x) // 2))} '
                           f'needs less, and --activation_checkpointing=True less still') from None
        total += loss.detach()
    return total


def next_batch(run):
    """The next (x, y) on the device. Dropout is seeded by the position in the data: a resumed run drops the same."""
    config, data, device = run.config, run.train_data, run.process.device
    if config['dropout']:
        torch.manual_seed(config['seed'] + (data.sequence_index + run.process.rank * data.batch_size) * 1_000_003)
    x, y = data.next()
    if device.type == 'cuda':
        x, y = x.pin_memory(), y.pin_memory()
    return x.to(device, non_blocking=True), y.to(device, non_blocking=True)


def n_val_sequences(run):
    return max(1, min(run.config['eval_tokens'] // run.config['block_size'], run.val_data.n_sequences))


@torch.no_grad()
def evaluate(run, stop):
    """Validation loss in nats a token, perplexity and bits per byte, over the same sequences at every call.

    Every process takes its share; sums and counts are added up, not means. Sequences past the last are masked, so
    that shapes stay the same and nothing is compiled again. None if a process was told to stop on the way.
    """
    process, data, n_sequences = run.process, run.val_data, n_val_sequences(run)
    token_bytes = torch.from_numpy(run.tokenizer.token_lengths()).to(process.device)  # (vocab_size,)
    nats, n_tokens, n_bytes = (torch.zeros((), dtype=torch.float32 if process.device.type == 'mps' else torch.float64,
                                           device=process.device) for _ in range(3))
    data.seek(0)
    run.compiled.eval()
    while data.sequence_index < n_sequences:
        here = min(data.batch_size, max(0, n_sequences - data.sequence_index - process.rank * data.batch_size))
        x, y = (tensor.to(process.device) for tensor in data.next())  # (B, T) each
        y[here:] = -1
        counted = y != -1
        n_bytes += token_bytes[y[counted]].sum()
        n_tokens += counted.sum()
        with process.autocast():
            nats += run.compiled(x, y) * counted.sum()
        if process.sum([stop.requested])[0]:
            break
    run.compiled.train()
    nats, n_tokens, n_bytes, stops = process.sum([nats, n_tokens, n_bytes, stop.requested])
    if stops:
        return None
    loss = nats / max(1, n_tokens)
    return {'val_loss': loss, 'val_ppl': math.exp(min(loss, 700)), 'val_bpb': nats / math.log(2) / max(1, n_bytes)}


def score_hellaswag(run, stop):
    """The harness's accuracies on the first examples of HellaSwag; None if a process was told to stop on the way."""
    def check():
        if run.process.sum([stop.requested])[0]:
            raise Stopped

    try:
        results = hellaswag.accuracies(run.model, run.questions, run.process, check_stop=check)
    except Stopped:
        return None
    return {f'hellaswag_{name}': results[name] for name in ('acc', 'acc_norm', 'acc_norm_stderr')}


def note_best(run):
    """Remembers the best loss, and which checkpoint has it; only steps that are saved can be the best checkpoint."""
    config, progress = run.config, run.progress
    val_loss = progress.row['val_loss']
    progress.validated_step = progress.step
    if val_loss < progress.best_val_loss:
        progress.best_val_loss, progress.best_step = val_loss, progress.step
    saved = progress.step and (is_due(progress.step, config['checkpoint_interval']) or progress.step == config['max_steps'])
    if run.process.is_first and saved and val_loss < checkpoint.read_best(config['out_dir'])[1]:
        with warn_if_unwritable('best.json'):
            checkpoint.write_best(config['out_dir'], progress.step, val_loss)


def report_validation(process, row):
    process.print0(f'step {row["step"]:,}: validation loss {row["val_loss"]:.4f}, perplexity {row["val_ppl"]:.2f}, '
                f'{row["val_bpb"]:.4f} bits per byte' +
                (f', HellaSwag acc_norm {row["hellaswag_acc_norm"]:.4f}' if 'hellaswag_acc_norm' in row else ''))


def write_sample(run):
    """Prints a sample that starts a document, and writes it to OUT_DIR/samples."""
    config, tokenizer, step = run.config, run.tokenizer, run.progress.step
    start = torch.tensor([[tokenizer.eot]], device=run.process.device)
    with run.process.autocast():
        tokens = generate(run.model, start, config['sample_tokens'], temperature=0.8, top_k=50, seed=config['seed'],
                                    stop_tokens=(tokenizer.eot,))
    text = tokenizer.decode([token for token in tokens[0].tolist() if token != tokenizer.eot])
    path = os.path.join(config['out_dir'], 'samples', f'step_{step:07d}.txt')
    with warn_if_unwritable('the sample'), atomic_write(path) as file:
        file.write(text.encode())
    run.process.print0(f'--- sample at step {step:,}\n{text}\n---')


def save(run, writer):
    """Everything that a bit-exact continuation needs, copied now and written in the background by the first process."""
    if not run.progress.step:
        return
    if run.config['zero'] and run.process.world_size > 1:
        for optimizer in run.optimizers:
            optimizer.consolidate_state_dict(to=0)
    if run.process.is_first:
        writer.save({'model': run.model.state_dict(), 'optimizers': [o.state_dict() for o in run.optimizers],
                     'scaler': run.scaler.state_dict(), 'config': run.config,
                     'tokenizer_sha256': run.meta['tokenizer_sha256'], 'train_tokens': run.train_data.n_tokens,
                     **vars(run.progress)})


class Diverged(Exception):
    """Training cannot continue; the message says why and what to go back to."""


def give_up(config, bad_steps):
    good = checkpoint.list_checkpoints(config['out_dir'])
    raise Diverged(f'{bad_steps} steps in a row without a finite loss and gradient; the last good checkpoint is '
                   f'{good[0] if good else "none"}. Try a lower --learning_rate or --dtype=float32')


def summarize(run):
    """The run in a few lines, at its end or where it was stopped."""
    config, progress, process = run.config, run.progress, run.process
    if not is_done(run):
        done = f'stopped and saved at step {progress.step:,}' if progress.step else 'stopped before the end of the first step'
        process.print0(f'{done}; the same command resumes it: python {" ".join(sys.argv)}')
        return
    rows = [row for row in read_metrics(config['out_dir']) if 'val_loss' in row]
    best = min(rows, key=lambda row: row['val_loss'])
    process.print0(f'done: {progress.step:,} steps, {progress.tokens:,} tokens in {progress.elapsed_s / 3600:.2f} h, '
                f'{progress.tokens / max(progress.train_s, 1e-9):,.0f} tokens/s while training, '
                f'peak memory {hardware.peak_memory(process.device) / 1e9:.2f} GB')
    process.print0(f'best validation loss {best["val_loss"]:.4f} (perplexity {best["val_ppl"]:.2f}) at step {best["step"]:,}; '
                f'the last is {rows[-1]["val_loss"]:.4f}')
    compressor = run.meta.get('val_xz_bits_per_byte')
    process.print0(f'held-out text: {rows[-1]["val_bpb"]:.4f} bits per byte' +
                (f' (xz -9e needs {compressor:.4f} for the same text)' if compressor else ''))
    plot_path = os.path.join(config['out_dir'], 'loss.png')
    process.print0(f'loss curve: {plot_path}' if os.path.exists(plot_path) else
                'loss curve: `pip install matplotlib`, then `python plot.py` draws it')
    process.print0(f'samples: python sample.py --out_dir={config["out_dir"]}')


if __name__ == '__main__':
    with one_line_errors():
        try:
            main(configure(DEFAULTS))
        except Diverged as error:
            sys.exit(f'train.py: {error}')
