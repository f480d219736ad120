"""What a run tells about itself: the lines at its start and end, and run.json, by which a curve can be traced.

Knows a model and its data only by numbers.
"""
import glob
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys

import torch

from runtime import hardware
from runtime.files import warn_if_unwritable, write_json
from runtime.gpu_peak import makers_peak_flops
from runtime.metrics import best_row, read_metrics
from runtime.words import duration, plural

OVERFITTING_PASSES = 20
LEARNED_BY_HEART = 0.1  # nats above the best validation loss, at the end
LONG_STEP_S = 60


def announce(config: dict, process, n_params: int, train_data, n_val_tokens: int, step: int):
    """Says in a few lines what runs, so that no choice that the machine made is silent."""
    micro_batch, train_tokens = train_data.batch_size, train_data.n_tokens
    origin = 'scratch' if config['init_from'] == 'auto' else config['init_from']
    n_micro = config['total_batch_tokens'] // (config['block_size'] * process.world_size * micro_batch)
    passes = config['max_steps'] * config['total_batch_tokens'] / train_tokens
    process.print0(f'{config["out_dir"]}: {f"resumes at step {step:,}" if step else f"starts from {origin}"}; '
                   f'{process.world_size} x {hardware.describe(process.device)}, {str(process.dtype).removeprefix("torch.")}')
    process.print0(f'model: {n_params:,} parameters ({plural(config["n_layer"], "layer")}, '
                   f'{plural(config["n_head"], "head")}, width {config["n_embd"]}, block {config["block_size"]}, '
                   f'vocabulary {config["vocab_size"]:,})')
    process.print0(f'batch: {config["total_batch_tokens"]:,} tokens a step = '
                   f'{plural(process.world_size, "process", "processes")} x '
                   f'{plural(n_micro, "micro-batch", "micro-batches")} x '
                   f'{plural(micro_batch, "sequence")} x {plural(config["block_size"], "token")}')
    seen = f'seen {passes:,.0f} times' if passes >= 100 else f'seen {passes:.3g} times' if passes >= 1 else \
        f'of which {100 * passes:.3g}% will be seen'
    process.print0(f'data: {train_tokens:,} tokens to train on, {seen}; {n_val_tokens:,} to validate on')
    if passes >= OVERFITTING_PASSES:
        process.print0(f'the data repeats {passes:,.0f} times; expect that the model learns it by heart '
                       f'(--max_steps={math.ceil(config["max_steps"] * 5 / passes)} repeats it 5 times; --dropout=0.2 helps)')
    if config['tensorboard']:
        folder = os.path.join(config['out_dir'], 'tensorboard')
        process.print0(f'curves in a browser: tensorboard --logdir={shlex.quote(folder)}')


def announce_speed(config: dict, process, flops_per_token: int, peak_flops: float):
    """Says what MFU is a share of, and warns when a step should take longer than a minute: settings for GPUs on a CPU."""
    process.print0(f'MFU is the share that training reaches of {peak_flops / 1e12:.3g} TFLOP/s, the speed of a large matrix '
                   f'product here')
    seconds = config['total_batch_tokens'] * flops_per_token / (peak_flops / 2)
    if seconds > LONG_STEP_S:
        process.print0(f'a step of {config["total_batch_tokens"]:,} tokens will take about {duration(seconds)} here; '
                       f'config/demo.py has settings for a CPU')


def peak_rates(process) -> dict[str, float]:
    """FLOP/s of all processes together, by the keys of metrics.jsonl that say what share of them a step has reached.

    mfu: as measured in a matrix product; mfu_of_maker: as the GPU's maker gives it, where that is known.
    """
    rates = {'mfu': hardware.measure_peak_flops(process.device, process.dtype)}
    on_gpu = process.device.type == 'cuda' and process.dtype != torch.float32
    if on_gpu and (makers := makers_peak_flops(torch.cuda.get_device_name(process.device))):
        rates['mfu_of_maker'] = makers
    return {key: rate * process.world_size for key, rate in rates.items()}


def speed(config: dict, process, flops_per_token: int, rates: dict, step_s: float, elapsed_s: float) -> dict:
    """What a row of metrics.jsonl says of the machine. rates: as of peak_rates."""
    tokens_per_s = config['total_batch_tokens'] / step_s
    return {'tokens_per_s': round(tokens_per_s, 1),
            **{key: round(tokens_per_s * flops_per_token / rate, 4) for key, rate in rates.items()},
            'memory_gb': round(hardware.peak_memory(process.device) / 1e9, 3), 'elapsed_s': round(elapsed_s, 3)}


def print_scores(scores: dict, step: int, process):
    of_tasks = ''.join(f', {name} {score:.4g}' for name, score in scores.items()
                       if name.endswith(('_acc', '_acc_norm', '_word_perplexity')))
    process.print0(f'step {step:,}: validation loss {scores["val_loss"]:.4f}, perplexity {scores["val_ppl"]:.2f}, '
                   f'{scores["val_bpb"]:.4f} bits per byte{of_tasks}')


def write_run_info(config: dict, process, step: int):
    """OUT_DIR/run_STEP.json for a start at that step: the command, the config, the commit, the machine, all packages."""
    path = os.path.join(config['out_dir'], f'run_{step:07d}.json')
    with warn_if_unwritable(path):
        write_json(path, {
            'command': sys.argv, 'config': config, 'commit': git('rev-parse', 'HEAD'),
            'changed_files': (git('status', '--porcelain') or '').splitlines(), 'python': platform.python_version(),
            'device': hardware.describe(process.device), 'world_size': process.world_size, 'packages': installed_packages()})


def installed_packages():
    """['numpy==2.4.6', ...], by the names of the folders that pip leaves; reading what is in them takes a second."""
    paths = [path for folder in sys.path for path in glob.glob(os.path.join(glob.escape(folder), '*-*.dist-info'))]
    return sorted({'=='.join(os.path.basename(path).removesuffix('.dist-info').split('-')) for path in paths})


def git(*arguments):
    """What git prints about the code that runs, or None where it is no checkout or git is missing."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        return subprocess.run(['git', '-C', folder, *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def summarize(config: dict, process, progress, done: bool, xz_bits_per_byte: float | None, next_command: str):
    """Says how the run ended, in a few lines. progress: its step, tokens, elapsed_s and train_s; next_command: what to try."""
    if not done:
        where = f'stopped and saved at step {progress.step:,}' if progress.step else 'stopped before the end of the first step'
        process.print0(f'{where}; the same command resumes it{command_here(process)}')
        return
    metrics = read_metrics(config['out_dir'])
    rows = [row for row in metrics if 'val_loss' in row]
    process.print0(f'done: {progress.step:,} steps, {progress.tokens:,} tokens in {duration(progress.elapsed_s)}, '
                   f'{progress.tokens / max(progress.train_s, 1e-9):,.0f} tokens/s while training, '
                   f'peak memory {hardware.peak_memory(process.device) / 1e9:.2f} GB')
    best, last = best_row(rows), rows[-1]
    if best:
        later = f'; the last is {last["val_loss"]:.4f}' if last['step'] > best['step'] else ', the last'
        process.print0(f'best validation loss {best["val_loss"]:.4f} (perplexity {math.exp(best["val_loss"]):.2f}) at step '
                       f'{best["step"]:,}{later}')
    process.print0(f'held-out text: {last.get("val_bpb", math.nan):.4f} bits per byte' +
                   (f'; the compressor xz -9e needs {xz_bits_per_byte:.4f} for the same text' if xz_bits_per_byte else ''))
    plot_path = os.path.join(config['out_dir'], 'loss.png')
    process.print0(f'loss curve: {plot_path}' if os.path.exists(plot_path) else
                   f'loss curve: `pip install matplotlib`, then `python plot.py {config["out_dir"]}` draws it')
    if best and last['val_loss'] > best['val_loss'] + LEARNED_BY_HEART and has_fallen(metrics, best['step']):
        process.print0('since then it has learned the text by heart: fewer steps, more text or --dropout=0.2 would be better')
        best_path = os.path.join(config['out_dir'], f'ckpt_{best["step"]:07d}.pt')
        if os.path.exists(best_path):
            command = next_command.replace(f'--out_dir={config["out_dir"]}', f'--init_from={best_path}')
            process.print0(f'try it as it was then: {command}')
        return
    process.print0(f'try it: {next_command}')
    if progress.step >= config['max_steps']:
        process.print0(f'to train on: the same command with a larger --max_steps, such as --max_steps={2 * progress.step}')


def has_fallen(metrics, step):
    """Whether the training loss is lower at the end than around a step: means over up to 20 rows."""
    losses = [(row['step'], row['loss']) for row in metrics if 'loss' in row]
    then, now = [loss for at, loss in losses if at <= step][-20:], [loss for _, loss in losses][-20:]
    return bool(then) and statistics.fmean(now) < statistics.fmean(then)


def print_done(config: dict, process, step: int, limit: str):
    """Says that there is nothing to do. limit: the setting that ended the run."""
    process.print0(f'{config["out_dir"]} is done: it is at step {step:,}, and {limit} is {config[limit]:,}; with a larger '
                   f'--{limit} it trains on')


def command_here(process):
    """The command that started this run, for the end of a line; nothing where other machines had one of their own."""
    if process.world_size == 1:
        return f': python {shlex.join(sys.argv)}'
    n_here = os.environ.get('LOCAL_WORLD_SIZE')
    return f': torchrun --nproc_per_node={n_here} {shlex.join(sys.argv)}' if n_here == str(process.world_size) else ''
