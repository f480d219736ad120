"""Trains GPT-2: on one CPU, one GPU, or many.

    python train.py config/demo.py                                      # one process
    torchrun --nproc_per_node=8 train.py config/train_gpt2.py           # 8 GPUs
    torchrun --nproc_per_node=2 train.py config/demo.py --device=cpu    # 2 CPU processes

Data is a folder of shards (corpus.py, fineweb.py and wikitext.py make them). Everything that the run leaves is in
OUT_DIR: checkpoints, metrics.jsonl, loss.png, samples. Stop it with Ctrl-C or SIGTERM and start it again with the same
command: it goes on where it was, with the same loss curve, on any number of processes. The sequences of step s are a
function of (seed, s) alone.
"""
import math
import os
import signal
import sys
import time
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import checkpoint
import device as machine
import plot
import shards
from configurator import BadInput, choice, configure, one_line_errors, optional
from model import GPT, GPTConfig

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
    'sample_interval': 1000,  # steps between samples of text; 0 for none
    'sample_tokens': 100,  # length of a sample
    'checkpoint_interval': 1000,  # steps between checkpoints
    'log_interval': 1,  # steps between rows of metrics.jsonl
    # machine
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('auto', 'bfloat16', 'float16', 'float32'),  # of matrix products; weights stay float32
    'compile': optional(bool),  # torch.compile; None: on a GPU yes, on a CPU no
}
BAD_STEPS_ALLOWED = 5  # non-finite gradients in a row before the run stops
PATIENCE_S = 2  # a signal that comes again later than this ends the run at once; torchrun passes each one on twice
CPU_MICRO_BATCH_TOKENS = 8192  # what a CPU's caches and threads like
FIXED_BY_WEIGHTS = ('n_layer', 'n_head', 'n_embd', 'bias', 'block_size', 'vocab_size')


def main(config):
    for split in ('train', 'val'):
        shards.find_shards(config['data_dir'], split)
    process = Process(config)
    meta = shards.load_meta(config['data_dir'], quiet=not process.is_first)
    tokenizer = shards.load_tokenizer(config['data_dir'])
    resumed = find_checkpoint(config, meta)
    model = build_model(config, meta, resumed).to(process.device)
    n_sequences = sequences_per_process(config, process)
    compiled = compile_model(model, config, process)
    micro_batch = config['micro_batch'] or find_micro_batch(compiled, n_sequences, process)
    train_data, val_data = open_data(config, micro_batch, process)
    optimizers = build_optimizers(model, config, process.device)
    scaler = torch.amp.GradScaler(process.device.type, enabled=process.dtype == torch.float16)
    progress = restore(resumed, optimizers, scaler, train_data)
    del resumed
    # All that can be wrong with the input has been checked; from here on things are written.
    if process.is_first:
        prepare_out_dir(config, meta)
        announce(config, process, model, micro_batch, n_sequences, train_data, val_data, progress)
    finished = train(config, process, model, compiled, optimizers, scaler, progress,
                     train_data, val_data, tokenizer, meta)
    if finished and process.is_first:
        summarize(config, progress, meta, process)
    process.end()


class Process:
    """This process among those that torchrun started, or the only one: rank, device, number format, sums over all."""

    def __init__(self, config):
        self.rank = int(os.environ.get('RANK', 0))
        self.world_size = int(os.environ.get('WORLD_SIZE', 1))
        self.is_first = self.rank == 0
        self.device = machine.pick_device(config['device'], int(os.environ.get('LOCAL_RANK', 0)))
        self.dtype = machine.pick_dtype(config['dtype'], self.device)
        machine.set_threads(self.device, int(os.environ.get('LOCAL_WORLD_SIZE', 1)))
        machine.keep_freed_memory(self.device)
        torch.set_float32_matmul_precision('high')  # TF32 for what stays float32
        if self.device.type == 'cuda':
            torch.cuda.set_device(self.device)
        if self.world_size > 1:
            dist.init_process_group('nccl' if self.device.type == 'cuda' else 'gloo')

    def sum(self, values):
        """The sums of a list of numbers (or scalar tensors) over all processes, as a list of floats."""
        values = torch.stack([torch.as_tensor(value, dtype=torch.float64).to(self.device) for value in values])
        if self.world_size > 1:
            dist.all_reduce(values)
        return values.tolist()

    def autocast(self):
        return machine.autocast(self.device, self.dtype)

    def say(self, message):
        if self.is_first:
            tqdm.write(message)

    def end(self):
        if self.world_size > 1:
            dist.destroy_process_group()


@dataclass
class Progress:
    """Where a run stands: all that a checkpoint holds beside weights and optimizer states."""
    step: int = 0
    sequence_index: int = 0  # position in the data
    tokens: int = 0
    elapsed_s: float = 0.0  # wall-clock time over all starts
    train_s: float = 0.0  # of which in optimizer steps
    best_val_loss: float = math.inf
    row: dict = field(default_factory=lambda: {'step': 0, 'tokens': 0})  # this step's metrics, not yet written


def find_checkpoint(config, meta):
    """The newest checkpoint of OUT_DIR if this run goes on from it, else None. Raises BadInput if it would be lost."""
    out_dir, init_from = config['out_dir'], config['init_from']
    newest = checkpoint.list_checkpoints(out_dir)
    if init_from != 'resume' and not newest:
        return None
    path, state = checkpoint.load_newest(out_dir)
    restarted = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0  # by torchrun, after a worker died
    if init_from not in ('auto', 'resume', state['config']['init_from']) and not restarted or \
            init_from == 'scratch' and not restarted:
        raise BadInput(f'{out_dir} already holds {os.path.basename(path)}; --init_from=resume goes on from it, '
                       f'another --out_dir starts anew')
    if state['tokenizer_sha256'] != meta['tokenizer_sha256']:
        raise BadInput(f'{path} was trained with another tokenizer than that of {config["data_dir"]}; '
                       f'use the data it was trained on, or another --out_dir')
    config['vocab_size'] = meta['vocab_size']
    for key in FIXED_BY_WEIGHTS:
        if config[key] != state['config'][key]:
            raise BadInput(f'{path} was trained with {key}={state["config"][key]}, not {config[key]}; '
                           f'start with the same settings, or with another --out_dir')
    config['init_from'] = state['config']['init_from']
    return state


def build_model(config, meta, resumed):
    """The GPT of this run on the CPU: from the checkpoint, from published weights, or fresh. Completes `config`."""
    init_from = config['init_from']
    config['vocab_size'] = meta['vocab_size']
    if resumed is not None or init_from in ('auto', 'scratch'):
        torch.manual_seed(config['seed'])
        model = GPT(checkpoint.model_config(config))
        if resumed is not None:
            model.load_state_dict(resumed.pop('model'))
        return model
    model, _, source = checkpoint.load_model(init_from, dropout=config['dropout'], kernels=config['kernels'],
                                             attention=config['attention'])
    if checkpoint.tokenizer_sha256(source) != meta['tokenizer_sha256'] or model.config.vocab_size != meta['vocab_size']:
        raise BadInput(f'{source} has another tokenizer than the data in {config["data_dir"]}; '
                       f'tokenize the text with its own (corpus.py --tokenizer=...)')
    if config['block_size'] > model.config.block_size:
        raise BadInput(f'block_size={config["block_size"]} is more than the {model.config.block_size} of {source}; '
                       f'--block_size={model.config.block_size} or less')
    model.crop_block_size(config['block_size'])
    config.update({key: getattr(model.config, key) for key in FIXED_BY_WEIGHTS})
    return model


def sequences_per_process(config, process):
    """Sequences of an optimizer step that fall to each process."""
    total, block_size, world_size = config['total_batch_tokens'], config['block_size'], process.world_size
    unit = block_size * world_size * max(1, config['micro_batch'])
    if total < 1 or total % unit:
        nearest = max(1, round(total / unit)) * unit
        parts = [f'block_size {block_size}', f'{world_size} processes', f'micro_batch {config["micro_batch"]}']
        used = [part for part, n in zip(parts, (2, world_size, config['micro_batch'])) if n > 1]
        raise BadInput(f'total_batch_tokens={total} does not divide by {" x ".join(used)} = {unit}; '
                       f'the nearest that does is --total_batch_tokens={nearest}')
    if config['micro_batch'] < 0:
        raise BadInput(f'micro_batch={config["micro_batch"]} should be at least 1, or 0 for the largest that fits')
    return total // block_size // world_size


def compile_model(model, config, process):
    """The model, compiled if that is wanted and possible. Samples are taken from the plain model: their shapes change."""
    wanted = process.device.type == 'cuda' if config['compile'] is None else config['compile']
    reason = machine.why_no_compile(process.device) if wanted else None
    if reason:
        process.say(f'not compiled: {reason}')
    return torch.compile(model) if wanted and not reason else model


def find_micro_batch(model, n_sequences, process):
    """The largest divisor of n_sequences that a forward and backward pass fits into memory with."""
    T = (model.config if isinstance(model, GPT) else model._orig_mod.config).block_size
    if process.device.type != 'cuda':
        return largest_divisor(n_sequences, max(1, CPU_MICRO_BATCH_TOKENS // T))
    n_params = sum(p.numel() for p in model.parameters())
    micro_batch = largest_divisor(n_sequences, 64)
    while not fits(model, micro_batch, T, n_params, process):
        if micro_batch == 1:
            raise BadInput(f'out of memory even with one sequence of {T} tokens; try a smaller --n_layer or --block_size')
        smaller = largest_divisor(n_sequences, micro_batch // 2)
        process.say(f'micro_batch {micro_batch} does not fit into memory; trying {smaller}')
        micro_batch = smaller
    return micro_batch


def fits(model, micro_batch, T, n_params, process):
    """Whether all processes get through a forward and backward pass, with room left for AdamW's two moments."""
    failed = False
    try:
        moments = torch.empty(2 * n_params, device=process.device)
        idx = torch.zeros(micro_batch, T, dtype=torch.long, device=process.device)
        with process.autocast():
            loss = model(idx, idx)
        loss.backward()
        del moments, loss
    except torch.OutOfMemoryError:
        failed = True
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return process.sum([failed])[0] == 0


def largest_divisor(n, limit):
    return max(d for d in range(1, min(n, limit) + 1) if n % d == 0)


def open_data(config, micro_batch, process):
    """The loaders of the training and the validation split."""
    return [shards.BatchLoader(config['data_dir'], split, config['block_size'], micro_batch, config['seed'],
                               process.rank, process.world_size) for split in ('train', 'val')]


def build_optimizers(model, config, device):
    """[AdamW], or [Muon, AdamW] with Muon (Jordan et al. 2024) for the blocks' matrices. Decay is for matrices alone.

    Every parameter group keeps its highest rate as 'peak_lr'; the schedule scales all of them alike.
    """
    lr, decay = config['learning_rate'], config['weight_decay']
    parameters = [p for p in model.parameters() if p.requires_grad]
    blocks = [p for p in model.transformer.h.parameters() if p.dim() == 2] if config['optimizer'] == 'muon' else []
    in_blocks = {id(p) for p in blocks}
    rest = [p for p in parameters if id(p) not in in_blocks]
    groups = [{'params': [p for p in rest if p.dim() == 2], 'weight_decay': decay, 'peak_lr': lr},
              {'params': [p for p in rest if p.dim() != 2], 'weight_decay': 0.0, 'peak_lr': lr}]
    optimizers = [torch.optim.AdamW(groups, lr=lr, betas=(config['beta1'], config['beta2']),
                                    fused=device.type in ('cuda', 'cpu'))]
    if blocks:
        groups = [{'params': blocks, 'weight_decay': decay, 'peak_lr': config['muon_lr']}]
        optimizers.append(torch.optim.Muon(groups, lr=config['muon_lr'], momentum=0.95))
    return optimizers


def restore(resumed, optimizers, scaler, train_data):
    """Puts optimizers and data where the checkpoint was; returns the Progress."""
    if resumed is None:
        return Progress()
    for optimizer, state in zip(optimizers, resumed['optimizers']):
        optimizer.load_state_dict(state)
    scaler.load_state_dict(resumed['scaler'])
    progress = Progress(**{key: resumed[key] for key in Progress.__dataclass_fields__})
    train_data.seek(progress.sequence_index)
    return progress


def prepare_out_dir(config, meta):
    os.makedirs(os.path.join(config['out_dir'], 'samples'), exist_ok=True)
    checkpoint.remove_leftovers(config['out_dir'])
    checkpoint.copy_tokenizer(config['data_dir'], config['out_dir'], meta)


def announce(config, process, model, micro_batch, n_sequences, train_data, val_data, progress):
    """Says what runs, in a few lines, so that no choice made by the machine is silent."""
    n_val = n_val_sequences(config, val_data)
    start = f'goes on at step {progress.step:,}' if progress.step else f'starts from {config["init_from"]}'.replace('auto', 'scratch')
    passes = config['max_steps'] * config['total_batch_tokens'] / train_data.n_tokens
    process.say(f'{config["out_dir"]}: {start}; {process.world_size} x {machine.describe(process.device)}, '
                f'{str(process.dtype).removeprefix("torch.")}')
    process.say(f'model: {model.n_params():,} parameters ({config["n_layer"]} layers, {config["n_head"]} heads, '
                f'width {config["n_embd"]}, block {config["block_size"]}, vocabulary {config["vocab_size"]:,})')
    process.say(f'batch: {config["total_batch_tokens"]:,} tokens = {process.world_size} processes x '
                f'{n_sequences // micro_batch} micro-batches x {micro_batch} sequences x {config["block_size"]} tokens')
    process.say(f'data: {train_data.n_tokens:,} tokens to train on, seen {passes:.3g} times; '
                f'{n_val * config["block_size"]:,} to validate on')


def train(config, process, model, compiled, optimizers, scaler, progress, train_data, val_data, tokenizer, meta):
    """The loop. Each turn finishes the metrics of the step that was done, then does the next. True when all are done."""
    out_dir, max_steps = config['out_dir'], config['max_steps']
    if progress.step >= max_steps and any(row['step'] == progress.step for row in checkpoint.read_metrics(out_dir)):
        process.say(f'{out_dir} has had all of its {max_steps:,} steps; a larger --max_steps trains on')
        return False
    stop = StopSignals(process)
    parallel = DistributedDataParallel(compiled, gradient_as_bucket_view=True) if process.world_size > 1 else compiled
    token_bytes = torch.from_numpy(tokenizer.token_lengths()).to(process.device)  # (vocab_size,)
    peak_flops = machine.measure_peak_flops(process.device, process.dtype)
    writer = checkpoint.BackgroundWriter(out_dir)
    metrics = checkpoint.MetricsFile(out_dir, before_step=progress.step) if process.is_first else None
    bar = tqdm(total=max_steps, initial=progress.step, unit='step', dynamic_ncols=True, disable=not process.is_first,
               mininterval=0.2 if sys.stderr.isatty() else 15)
    started, bad_steps = time.perf_counter() - progress.elapsed_s, 0
    while True:
        row, last = progress.row, progress.step == max_steps
        if last or is_due(progress.step, config['eval_interval']):
            row.update(evaluate(config, process, compiled, val_data, token_bytes))
            note_best(config, process, progress, row['val_loss'])
        if process.is_first:
            if last or 'val_loss' in row or is_due(progress.step, config['log_interval']):
                metrics.append(row)
            if config['sample_interval'] and (last or progress.step and is_due(progress.step, config['sample_interval'])):
                write_sample(config, process, model, tokenizer, progress.step)
            if 'val_loss' in row:
                report_validation(row)
                plot.draw_if_possible(out_dir)
        if last:
            break
        outcome = train_step(config, process, model, parallel, optimizers, scaler, progress, train_data, stop)
        bad_steps = 0 if outcome['finite'] else bad_steps + 1
        if not outcome['finite']:
            process.say(f'step {progress.step:,}: the gradient is not finite; step skipped')
        if bad_steps == BAD_STEPS_ALLOWED:
            writer.wait()
            good = checkpoint.list_checkpoints(out_dir)
            raise Diverged(f'{bad_steps} steps in a row without a finite gradient; the last good checkpoint is '
                           f'{good[0] if good else "none"}. Try a lower --learning_rate')
        progress.elapsed_s = time.perf_counter() - started
        progress.row = {**outcome['row'], 'elapsed_s': round(progress.elapsed_s, 3),
                        'mfu': round(outcome['row']['tokens_per_s'] * model.flops_per_token() /
                                     (peak_flops * process.world_size), 4)}
        bar.update()
        bar.set_postfix_str(f'loss {outcome["row"]["loss"]:.3f}, {outcome["row"]["tokens_per_s"]:,.0f} tok/s, '
                            f'MFU {progress.row["mfu"]:.0%}', refresh=False)
        if process.is_first and (outcome['stop'] or progress.step == max_steps or
                                 is_due(progress.step, config['checkpoint_interval'])):
            writer.save(checkpoint_state(config, model, optimizers, scaler, progress, meta))
        if outcome['stop']:
            break
    bar.close()
    writer.wait()
    if progress.step < max_steps:
        process.say(f'stopped and saved at step {progress.step:,}; the same command goes on: python {" ".join(sys.argv)}')
    return progress.step == max_steps


class Diverged(Exception):
    """Training cannot go on; the message says why and what to go back to."""


class StopSignals:
    """SIGTERM and Ctrl-C finish the step and save; once more, after PATIENCE_S, ends the program at once."""

    def __init__(self, process):
        self.first_at, self.process = None, process
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle)

    def handle(self, number, frame):
        if self.first_at is None:
            self.first_at = time.monotonic()
            self.process.say('finishing this step and saving; once more ends at once')
        elif time.monotonic() - self.first_at > PATIENCE_S:
            os._exit(128 + number)

    @property
    def requested(self):
        return self.first_at is not None


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


def train_step(config, process, model, parallel, optimizers, scaler, progress, data, stop):
    """One optimizer step over all processes: {'row': metrics, 'finite': bool, 'stop': bool}. Moves `progress` on."""
    started = time.perf_counter()
    factor = learning_rate_factor(progress.step, config)
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group['lr'] = group['peak_lr'] * factor
    n_micro = config['total_batch_tokens'] // (config['block_size'] * data.batch_size * process.world_size)
    loss_sum = torch.zeros((), device=process.device)
    for micro_step in range(n_micro):
        x, y = next_batch(data, config, process)
        parallel.require_backward_grad_sync = micro_step == n_micro - 1  # what DDP.no_sync sets
        with process.autocast():
            loss = parallel(x, y)
        scaler.scale(loss / n_micro).backward()
        loss_sum += loss.detach()
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config['grad_clip'] or math.inf)
    loss_sum, grad_norm, stops = process.sum([loss_sum / n_micro, grad_norm, stop.requested])
    loss, grad_norm = loss_sum / process.world_size, grad_norm / process.world_size
    finite = math.isfinite(loss) and math.isfinite(grad_norm)
    if finite or scaler.is_enabled():  # the scaler skips by itself, and lowers its scale
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    step_s = time.perf_counter() - started
    progress.step += 1
    progress.tokens += config['total_batch_tokens']
    progress.sequence_index = data.sequence_index
    progress.train_s += step_s
    row = {'step': progress.step, 'tokens': progress.tokens, 'loss': loss, 'lr': config['learning_rate'] * factor,
           'grad_norm': grad_norm, 'tokens_per_s': round(config['total_batch_tokens'] / step_s, 1),
           'memory_gb': round(machine.peak_memory(process.device) / 1e9, 3)}
    return {'row': row, 'finite': finite or math.isfinite(loss) and scaler.is_enabled(), 'stop': stops > 0}


def next_batch(data, config, process):
    """The next (x, y) on the device; dropout is seeded by the position in the data, so a resumed run drops the same."""
    if config['dropout']:
        torch.manual_seed(config['seed'] + (data.sequence_index + process.rank * data.batch_size) * 1_000_003)
    x, y = data.next()
    if process.device.type == 'cuda':
        x, y = x.pin_memory(), y.pin_memory()
    return x.to(process.device, non_blocking=True), y.to(process.device, non_blocking=True)


def n_val_sequences(config, val_data):
    return max(1, min(config['eval_tokens'] // config['block_size'], val_data.n_sequences))


@torch.no_grad()
def evaluate(config, process, model, data, token_bytes):
    """Validation loss in nats a token, perplexity and bits per byte, over the same sequences at every call.

    Every process takes its share; sums and counts are added up, not means. Sequences past the last are masked, so
    that shapes stay the same and nothing is compiled again.
    """
    n_sequences = n_val_sequences(config, data)
    data.seek(0)
    model.eval()
    nats = torch.zeros((), dtype=torch.float64, device=process.device)
    n_tokens = torch.zeros((), dtype=torch.int64, device=process.device)
    n_bytes = torch.zeros((), dtype=torch.int64, device=process.device)
    while data.sequence_index < n_sequences:
        here = min(data.batch_size, max(0, n_sequences - data.sequence_index - process.rank * data.batch_size))
        x, y = (tensor.to(process.device) for tensor in data.next())  # (B, T) each
        n_tokens += y[:here].numel()
        n_bytes += token_bytes[y[:here]].sum()
        y[here:] = -1
        if here:
            with process.autocast():
                nats += model(x, y) * y[:here].numel()
    model.train()
    nats, n_tokens, n_bytes = process.sum([nats, n_tokens, n_bytes])
    loss = nats / n_tokens
    return {'val_loss': loss, 'val_ppl': math.exp(min(loss, 700)), 'val_bpb': nats / math.log(2) / max(1, n_bytes)}


def note_best(config, process, progress, val_loss):
    """Remembers the best loss, and which checkpoint has it; only steps that are saved can be the best checkpoint."""
    progress.best_val_loss = min(progress.best_val_loss, val_loss)
    saved = progress.step and (is_due(progress.step, config['checkpoint_interval']) or progress.step == config['max_steps'])
    if process.is_first and saved and val_loss < checkpoint.read_best(config['out_dir'])[1]:
        checkpoint.write_best(config['out_dir'], progress.step, val_loss)


def write_sample(config, process, model, tokenizer, step):
    """Prints a sample that starts a document, and writes it to OUT_DIR/samples."""
    start = torch.tensor([[tokenizer.eot]], device=process.device)
    with process.autocast():
        tokens = model.generate(start, config['sample_tokens'], temperature=0.8, top_k=50, seed=config['seed'],
                                stop_tokens=(tokenizer.eot,))
    text = tokenizer.decode([token for token in tokens[0].tolist() if token != tokenizer.eot])
    with shards.whole_file(os.path.join(config['out_dir'], 'samples', f'step_{step:07d}.txt')) as file:
        file.write(text.encode())
    process.say(f'--- sample at step {step:,}\n{text}\n---')


def report_validation(row):
    tqdm.write(f'step {row["step"]:,}: validation loss {row["val_loss"]:.4f}, perplexity {row["val_ppl"]:.2f}, '
               f'{row["val_bpb"]:.4f} bits per byte')


def checkpoint_state(config, model, optimizers, scaler, progress, meta):
    """Everything that a bit-exact continuation needs."""
    return {'model': model.state_dict(), 'optimizers': [optimizer.state_dict() for optimizer in optimizers],
            'scaler': scaler.state_dict(), 'config': config, 'tokenizer_sha256': meta['tokenizer_sha256'],
            **vars(progress)}


def summarize(config, progress, meta, process):
    """The run in a few lines, at its end."""
    rows = [row for row in checkpoint.read_metrics(config['out_dir']) if 'val_loss' in row]
    best = min(rows, key=lambda row: row['val_loss'])
    print(f'done: {progress.step:,} steps, {progress.tokens:,} tokens in {progress.elapsed_s / 3600:.2f} h, '
          f'{progress.tokens / max(progress.train_s, 1e-9):,.0f} tokens/s while training, '
          f'peak memory {machine.peak_memory(process.device) / 1e9:.2f} GB')
    print(f'best validation loss {best["val_loss"]:.4f} (perplexity {best["val_ppl"]:.2f}) at step {best["step"]:,}; '
          f'the last is {rows[-1]["val_loss"]:.4f}')
    compressor = meta.get('val_xz_bits_per_byte')
    print(f'held-out text: {rows[-1]["val_bpb"]:.4f} bits per byte' +
          (f' (xz -9e needs {compressor:.4f} for the same text)' if compressor else ''))
    plot = os.path.join(config['out_dir'], 'loss.png')
    print(f'loss curve: {plot if os.path.exists(plot) else "pip install matplotlib; python plot.py draws it"}')
    print(f'samples: python sample.py --out_dir={config["out_dir"]}')


if __name__ == '__main__':
    with one_line_errors():
        try:
            main(configure(DEFAULTS))
        except Diverged as error:
            sys.exit(f'train.py: {error}')
