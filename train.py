"""Trains GPT-2: on one CPU, one GPU, or many.

    python train.py config/demo.py                                      # one process
    torchrun --nproc_per_node=8 train.py config/train_gpt2.py           # 8 GPUs
    torchrun --nproc_per_node=2 train.py config/demo.py --device=cpu    # 2 CPU processes

Data is a folder of shards, which corpus.py, fineweb.py and wikitext.py make. Everything that the run leaves is in
OUT_DIR: checkpoints, metrics.jsonl, loss.png, samples. Stop it with Ctrl-C or SIGTERM and start it again with the same
command: it resumes where it was, with the same loss curve, on any number of processes, since the sequences of step s
are a function of (seed, s) alone.
"""
import importlib.util
import math
import os
import sys
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import checkpoint
import hellaswag
import kernels
import plot
import pretrained
import shards
from bpe import Tokenizer
from configurator import choice, configure, optional
from inference.engine import generate
from model import GPT
from optim import Optimizers
from runtime import hardware, report
from runtime.errors import BadInput, one_line_errors, warn
from runtime.files import atomic_write, copy_file, make_folder, warn_if_unwritable
from runtime.metrics import Metrics, read_metrics
from runtime.micro_batch import choose_micro_batch, sequences_per_process, suggest_smaller
from runtime.process import Process
from runtime.stop import Stopped, StopSignals

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
MAX_BAD_STEPS = 5  # steps in a row without a finite loss and gradient before the run ends


def main(config):
    check_config(config)
    process = Process(config)
    data = open_data(config, process)
    state = checkpoint.resume(config, data.meta)  # None for a fresh run
    weights = None if state else load_weights(config, data.meta)  # None where init_from names none
    config = complete_config(config, data.meta, state, weights)
    model = build_model(config, state, weights).to(process.device)
    forward = compile_model(model, config, process)
    data.train.batch_size = data.val.batch_size = choose_micro_batch(forward, config, process)
    if process.world_size > 1:
        forward = DistributedDataParallel(forward, gradient_as_bucket_view=True)
    optimizers = Optimizers(model, config, process)
    progress = restore(state, optimizers, data.train)
    check_same_step(progress.step, process)
    report.announce(config, process, model.n_params(), data.train.n_tokens, n_val_sequences(config, data.val) * config['block_size'],
                    data.train.batch_size, progress.step)
    if is_done(config, progress.step):
        limit = '--max_steps' if progress.step >= config['max_steps'] else '--patience'
        process.print0(f'{config["out_dir"]} is at its end, step {progress.step:,}; a larger {limit} trains on')
    else:
        warn_if_rate_rises(config, state, process)
        del state, weights  # their memory is the run's
        prepare_out_dir(config, data.meta, progress.step, process)  # nothing is written before everything has been checked
        train(config, process, model, forward, optimizers, data, progress)
        if is_done(config, progress.step):
            report.summarize(config, process, progress, data.meta.get('val_xz_bits_per_byte'))
        else:
            where = f'stopped and saved at step {progress.step:,}' if progress.step else 'stopped before the end of the first step'
            process.print0(f'{where}; the same command resumes it: python {" ".join(sys.argv)}')
    process.end()


def check_config(config):
    """Checks what can be checked before anything is loaded. Raises BadInput."""
    for key in ('tensorboard', 'wandb'):
        if config[key] and importlib.util.find_spec(key) is None:
            raise BadInput(f'{key}=True needs a package that is not here: pip install {key}')
    for key in ('learning_rate', 'muon_lr', 'max_steps'):
        if config[key] <= 0:
            raise BadInput(f'{key}={config[key]} should be above 0')
    for key in ('min_lr', 'warmup_steps', 'weight_decay', 'grad_clip', 'eval_interval', 'checkpoint_interval', 'sample_interval'):
        if config[key] < 0:
            raise BadInput(f'{key}={config[key]} should be 0 or more')
    if config['hellaswag_interval'] and (config['eval_interval'] < 1 or config['hellaswag_interval'] % config['eval_interval']):
        raise BadInput(f'hellaswag_interval={config["hellaswag_interval"]} should be a multiple of '
                       f'eval_interval={config["eval_interval"]}')


class Data(NamedTuple):
    train: shards.BatchLoader
    val: shards.BatchLoader
    meta: dict  # what meta.json says of the shards
    tokenizer: Tokenizer
    questions: dict  # of HellaSwag; empty where it is not wanted


def open_data(config, process):
    """The training and validation data. Raises BadInput where it cannot be used."""
    train, val = (shards.BatchLoader(config['data_dir'], split, config['block_size'], 1, config['seed'],
                                     process.rank, process.world_size) for split in ('train', 'val'))
    meta = shards.load_meta(config['data_dir'], quiet=not process.is_first)
    tokenizer = shards.load_tokenizer(config['data_dir'])
    questions = {}
    if config['hellaswag_interval']:
        examples = hellaswag.load(config['hellaswag_source'], config['hellaswag_examples'])
        questions = hellaswag.prepare(examples, tokenizer, config['block_size'], ['harness'])
    return Data(train, val, meta, tokenizer, questions)


def load_weights(config, meta):
    """The model that init_from names, with this run's block_size, or None. Raises BadInput if it does not fit the data."""
    if config['init_from'] in ('auto', 'scratch'):
        return None
    model, _, source = pretrained.load(config['init_from'], dropout=config['dropout'], kernels=config['kernels'],
                                       attention=config['attention'])
    if pretrained.tokenizer_sha256(source) != meta['tokenizer_sha256'] or model.config.vocab_size != meta['vocab_size']:
        raise BadInput(f'{source} has another tokenizer than the data in {config["data_dir"]}; '
                       f'tokenize the text with its own (corpus.py --tokenizer=...)')
    if config['block_size'] > model.config.block_size:
        raise BadInput(f'block_size={config["block_size"]} is more than the {model.config.block_size} of {source}; '
                       f'--block_size={model.config.block_size} or less')
    pretrained.crop_block_size(model, config['block_size'])
    return model


def complete_config(config, meta, state, weights):
    """The config with what the data, the checkpoint or the given weights determine."""
    config = {**config, 'vocab_size': meta['vocab_size']}
    if state:
        config['init_from'] = state['config']['init_from']
    if weights:
        config.update({key: getattr(weights.config, key) for key in checkpoint.FIXED_BY_WEIGHTS})
    return config


def build_model(config, state, weights):
    """The GPT of this run on the CPU: the given weights, those of the checkpoint, or fresh ones."""
    if weights:
        model = weights
    else:
        torch.manual_seed(config['seed'])
        model = GPT(pretrained.model_config(config))
        if state:
            model.load_state_dict(state['model'])
    model.activation_checkpointing = config['activation_checkpointing']
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


@dataclass
class Progress:
    """Where a run stands: what a checkpoint holds beside weights and optimizer states."""
    step: int = 0  # optimizer steps made
    sequence_index: int = 0  # position in the data
    tokens: int = 0
    elapsed_s: float = 0.0  # wall-clock time over all starts
    train_s: float = 0.0  # of which in optimizer steps
    best_val_loss: float = math.inf
    best_step: int = 0  # where it was


def restore(state, optimizers, train_data):
    """Puts optimizers and data where the checkpoint was; returns the Progress."""
    if state is None:
        return Progress()
    optimizers.load_state_dict(state)
    if state['train_tokens'] != train_data.n_tokens:
        warn(f'the data had {state["train_tokens"]:,} tokens to train on and now has {train_data.n_tokens:,}: '
             f'from here on the sequences come in another order than they would have')
    progress = Progress(**{key: state[key] for key in Progress.__dataclass_fields__})
    train_data.seek(progress.sequence_index)
    return progress


def check_same_step(step, process):
    """Raises BadInput, in all processes, if they do not all resume at the same step."""
    steps = process.gather(step)
    if min(steps) != max(steps):
        raise BadInput(f'the processes found different checkpoints (steps {min(steps):,.0f} to {max(steps):,.0f}): out_dir must '
                       f'be a folder that all machines share')


def prepare_out_dir(config, meta, step, process):
    if process.is_first:
        make_folder(os.path.join(config['out_dir'], 'samples'))
        checkpoint.remove_unfinished(config['out_dir'])
        if meta['tokenizer'] != 'gpt2':  # so that the checkpoints can be used without the data
            copy_file(os.path.join(config['data_dir'], meta['tokenizer']), os.path.join(config['out_dir'], 'tokenizer.json'))
        report.write_run_info(config, process, step)


def train(config, process, model, forward, optimizers, data, progress):
    """The loop. Each turn saves, evaluates and samples where that is due, and then makes the next optimizer step."""
    stop = StopSignals(process)
    writer = checkpoint.BackgroundWriter(config['out_dir'], progress.step)
    metrics = Metrics(config, progress.step) if process.is_first else None
    peak_flops = hardware.measure_peak_flops(process.device, process.dtype) * process.world_size
    report.warn_if_slow(config, process, model.flops_per_token(), peak_flops)
    started, bad_steps = time.perf_counter() - progress.elapsed_s, 0
    bar = tqdm(total=config['max_steps'], initial=progress.step, unit='step', dynamic_ncols=True,
               disable=not process.is_first, mininterval=0.2 if sys.stderr.isatty() else 15)
    try:
        while True:
            step, last = progress.step, progress.step == config['max_steps']
            if last or is_due(step, config['checkpoint_interval']):
                save(writer, model, optimizers, config, data, progress, process)
            if last or is_due(step, config['eval_interval']):
                validation = evaluate(forward, data, config, process, stop)
                if data.questions and (last or is_due(step, config['hellaswag_interval'])):
                    scores = hellaswag.accuracies(model, data.questions, process, check_stop=stop.check)
                    validation |= {f'hellaswag_{name}': scores[name] for name in ('acc', 'acc_norm', 'acc_norm_stderr')}
                update_best(validation['val_loss'], config, progress, writer, process)
                report_validation(validation, metrics, config, progress, process)
                if out_of_patience(step, progress.best_step, config):
                    save(writer, model, optimizers, config, data, progress, process)
                    break
            if process.is_first and step and config['sample_interval'] and (last or is_due(step, config['sample_interval'])):
                write_sample(model, data.tokenizer, config, step, process)
            if last:
                break
            factor = learning_rate_factor(step, config)
            optimizers.set_learning_rate(factor)
            began = time.perf_counter()
            loss, grad_norm, finite = train_step(model, forward, optimizers, data.train, config, process, stop)
            step_s = time.perf_counter() - began
            advance(progress, config, data.train, step_s, time.perf_counter() - started)
            tokens_per_s = config['total_batch_tokens'] / step_s
            mfu = tokens_per_s * model.flops_per_token() / peak_flops
            if process.is_first and (is_due(progress.step, config['log_interval']) or progress.step == config['max_steps']):
                metrics.log(step=progress.step, tokens=progress.tokens, loss=loss, lr=config['learning_rate'] * factor,
                            grad_norm=grad_norm, tokens_per_s=round(tokens_per_s, 1), mfu=round(mfu, 4),
                            memory_gb=round(hardware.peak_memory(process.device) / 1e9, 3),
                            elapsed_s=round(progress.elapsed_s, 3))
            bar.update()
            bar.set_postfix_str(f'loss {loss:.3f}, {tokens_per_s:,.0f} tok/s, MFU {mfu:.0%}', refresh=False)
            bad_steps = 0 if finite else bad_steps + 1
            check_finite(bad_steps, config, progress, writer, process)
            stop.check()
    except Stopped:  # in the middle of a step or an evaluation, which is left out
        model.zero_grad(set_to_none=True)
        data.train.seek(progress.sequence_index)
        save(writer, model, optimizers, config, data, progress, process)
    bar.close()
    writer.wait()


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


def train_step(model, forward, optimizers, train_data, config, process, stop):
    """One optimizer step over all processes -> (loss, norm of the gradient before clipping, whether both were finite).

    Micro-batch by micro-batch, with one exchange of gradients after the last. Loss and gradient are averaged over all
    non-ignored targets of the global batch. If they are not finite, the weights stay as they are. Raises Stopped
    between two micro-batches on a CPU, where a step may take minutes.
    """
    n_micro = sequences_per_process(config, process) // train_data.batch_size
    n_targets = max(1, train_data.count_targets(config['total_batch_tokens'] // config['block_size']))
    loss = torch.zeros((), device=process.device)
    with suggest_smaller(train_data.batch_size):
        for micro_step in range(n_micro):
            if micro_step and process.device.type == 'cpu':
                stop.check()
            x, y = next_batch(train_data, config, process)  # (B, T) each
            forward.require_backward_grad_sync = micro_step == n_micro - 1  # what DDP.no_sync() sets
            with process.autocast():
                micro_loss = forward(x, y) * ((y != -1).sum() * process.world_size / n_targets)
            optimizers.scale(micro_loss).backward()
            loss += micro_loss.detach()
    grad_norm = optimizers.clip_gradients(config['grad_clip'])
    loss, grad_norm = (total / process.world_size for total in process.sum([loss, grad_norm]))
    finite = math.isfinite(loss) and (math.isfinite(grad_norm) or optimizers.skips_overflow())
    if finite:
        optimizers.step()
    model.zero_grad(set_to_none=True)
    return loss, grad_norm, finite


def next_batch(train_data, config, process):
    """The next (x, y) on the device. Dropout is seeded by the position in the data, so that a resumed run drops the same."""
    if config['dropout']:
        position = train_data.sequence_index + process.rank * train_data.batch_size
        torch.manual_seed(config['seed'] + position * 1_000_003)
    x, y = train_data.next()
    if process.device.type == 'cuda':
        x, y = x.pin_memory(), y.pin_memory()
    return x.to(process.device, non_blocking=True), y.to(process.device, non_blocking=True)


def advance(progress, config, train_data, step_s, elapsed_s):
    progress.step += 1
    progress.tokens += config['total_batch_tokens']
    progress.sequence_index = train_data.sequence_index
    progress.train_s += step_s
    progress.elapsed_s = elapsed_s


class Diverged(Exception):
    """Training cannot continue; the message says why and which checkpoint to go back to."""


def check_finite(bad_steps, config, progress, writer, process):
    """Says that a step was skipped. Raises Diverged after MAX_BAD_STEPS in a row."""
    if bad_steps:
        process.print0(f'step {progress.step:,}: loss or gradient is not finite; the step was skipped')
    if bad_steps == MAX_BAD_STEPS:
        writer.wait()
        good = checkpoint.list_checkpoints(config['out_dir'])
        raise Diverged(f'{bad_steps} steps in a row without a finite loss and gradient; the last good checkpoint is '
                       f'{good[0] if good else "none"}. Try a lower --learning_rate or --dtype=float32')


def n_val_sequences(config, val_data):
    return max(1, min(config['eval_tokens'] // config['block_size'], val_data.n_sequences))


@torch.no_grad()
def evaluate(forward, data, config, process, stop):
    """Validation loss in nats a token, perplexity and bits per byte, over the same sequences at every call.

    Every process takes its share; sums and counts are added up, not means. Sequences past the last are masked, so
    that shapes stay the same and nothing is compiled again. Raises Stopped.
    """
    val, n_sequences = data.val, n_val_sequences(config, data.val)
    token_bytes = torch.from_numpy(data.tokenizer.token_lengths()).to(process.device)  # (V,)
    nats, n_tokens, n_bytes = (torch.zeros((), dtype=torch.float32 if process.device.type == 'mps' else torch.float64,
                                           device=process.device) for _ in range(3))
    val.seek(0)
    forward.eval()
    try:
        while val.sequence_index < n_sequences:
            n_here = min(val.batch_size, max(0, n_sequences - val.sequence_index - process.rank * val.batch_size))
            x, y = (tensor.to(process.device) for tensor in val.next())  # (B, T) each
            y[n_here:] = -1
            counted = y != -1
            n_bytes += token_bytes[y[counted]].sum()
            n_tokens += counted.sum()
            with process.autocast():
                nats += forward(x, y) * counted.sum()
            stop.check()
    finally:
        forward.train()
    nats, n_tokens, n_bytes = process.sum([nats, n_tokens, n_bytes])
    loss = nats / max(1, n_tokens)
    return {'val_loss': loss, 'val_ppl': math.exp(min(loss, 700)), 'val_bpb': nats / math.log(2) / max(1, n_bytes)}


def update_best(val_loss, config, progress, writer, process):
    """Notes the best validation loss so far, and in best.json which checkpoint has it."""
    if val_loss < progress.best_val_loss:
        progress.best_val_loss, progress.best_step = val_loss, progress.step
    if process.is_first and writer.step == progress.step and val_loss < checkpoint.read_best(config['out_dir'])[1]:
        writer.wait()
        if os.path.exists(checkpoint.checkpoint_path(config['out_dir'], progress.step)):
            with warn_if_unwritable('best.json'):
                checkpoint.write_best(config['out_dir'], progress.step, val_loss)


def report_validation(validation, metrics, config, progress, process):
    """Prints and logs the scores of a validation, and draws the curves anew."""
    hellaswag_words = f', HellaSwag acc_norm {validation["hellaswag_acc_norm"]:.4f}' if 'hellaswag_acc_norm' in validation else ''
    process.print0(f'step {progress.step:,}: validation loss {validation["val_loss"]:.4f}, perplexity {validation["val_ppl"]:.2f}, '
                   f'{validation["val_bpb"]:.4f} bits per byte{hellaswag_words}')
    if process.is_first:
        metrics.log(step=progress.step, tokens=progress.tokens, **validation)
        with warn_if_unwritable('the plot'):
            plot.draw_if_possible(config['out_dir'])


def write_sample(model, tokenizer, config, step, process):
    """Prints a text that starts a document, and writes it to OUT_DIR/samples."""
    start = torch.tensor([[tokenizer.eot]], device=process.device)
    with process.autocast():
        ids = generate(model, start, config['sample_tokens'], temperature=0.8, top_k=50, seed=config['seed'],
                       stop_tokens=(tokenizer.eot,))
    text = tokenizer.decode([i for i in ids[0].tolist() if i != tokenizer.eot])
    with warn_if_unwritable('the sample'), atomic_write(os.path.join(config['out_dir'], 'samples', f'step_{step:07d}.txt')) as file:
        file.write(text.encode())
    process.print0(f'--- sample at step {step:,}\n{text}\n---')


def save(writer, model, optimizers, config, data, progress, process):
    """Writes everything that a bit-exact continuation needs: copied now, written in the background by the first process."""
    if progress.step in (0, writer.step):
        return
    writer.step = progress.step
    states = optimizers.state_dict()
    if process.is_first:
        writer.save({'model': model.state_dict(), **states, 'config': config,
                     'tokenizer_sha256': data.meta['tokenizer_sha256'], 'train_tokens': data.train.n_tokens, **vars(progress)})


def out_of_patience(step, best_step, config):
    """Whether so many validations in a row have brought no better loss that the run ends."""
    return 0 < config['patience'] * config['eval_interval'] <= step - best_step


def is_done(config, step):
    """Whether the run has come to its end, and the validation there is written down."""
    rows = [row for row in read_metrics(config['out_dir']) if 'val_loss' in row]
    if not rows or rows[-1]['step'] != step:
        return False
    best = min(rows, key=lambda row: row['val_loss'])
    return step >= config['max_steps'] or out_of_patience(step, best['step'], config)


def warn_if_rate_rises(config, state, process):
    """Says so if a resumed run starts with a much higher learning rate than it stopped with."""
    step = state['step'] if state else 0
    if step > config['warmup_steps']:
        before = state['config']['learning_rate'] * learning_rate_factor(step - 1, state['config'])
        now = config['learning_rate'] * learning_rate_factor(step, config)
        if now > 1.5 * before:
            process.print0(f'the learning rate had come down to {before:.2g} and goes back up to {now:.2g}: '
                           f'the loss will rise first')


if __name__ == '__main__':
    with one_line_errors():
        try:
            main(configure(DEFAULTS))
        except Diverged as error:
            sys.exit(f'train.py: {error}')
