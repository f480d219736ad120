"""What a run leaves in OUT_DIR: checkpoints that are whole or absent, and the metrics.

    OUT_DIR/ckpt_0002000.pt   model, optimizers, config, step, position in the data, best loss, time and tokens so far
    OUT_DIR/best.json         the step and validation loss of the best checkpoint
    OUT_DIR/tokenizer.json    if the tokenizer is not GPT-2's own
    OUT_DIR/metrics.jsonl     a row a step

A checkpoint is a zip archive as torch.save writes it, with a CRC-32 of every tensor, which is checked before anything
of it is used. It loads with weights_only=True: nothing of a file is ever executed. It is written under a temporary
name, flushed and renamed, so a kill at any moment leaves the older ones intact. The newest 3 and the best are kept.
This file knows nothing about training; what is in the dict is the caller's.
"""
import contextlib
import glob
import json
import os
import pickle
import re
import sys
import threading
import zipfile

import torch

from bpe import Tokenizer
from runtime.errors import BadInput
from model import GPT, GPTConfig, fill
from runtime.files import sha256_of, atomic_write, write_json

NEWEST_KEPT = 3
PADDING_AT_MOST = 1024  # rows that other programs add to an embedding for the sake of the hardware


def checkpoint_path(out_dir, step):
    return os.path.join(out_dir, f'ckpt_{step:07d}.pt')


def step_of(path):
    return int(re.search(r'ckpt_(\d+)\.pt$', path).group(1))


def list_checkpoints(out_dir):
    """Paths of the checkpoints in a folder, newest first."""
    paths = [path for path in glob.glob(os.path.join(glob.escape(out_dir), 'ckpt_*.pt'))
             if re.search(r'ckpt_\d+\.pt$', path)]
    return sorted(paths, key=step_of, reverse=True)


def read_best(out_dir):
    """(step, validation loss) of the best checkpoint so far, or (None, infinity)."""
    try:
        with open(os.path.join(out_dir, 'best.json')) as file:
            best = json.load(file)
        return best['step'], best['val_loss']
    except FileNotFoundError:
        return None, float('inf')


def write_best(out_dir, step, val_loss):
    write_json(os.path.join(out_dir, 'best.json'), {'step': step, 'val_loss': val_loss})


def remove_leftovers(out_dir):
    """Removes half-written files of a run that was killed."""
    for path in glob.glob(os.path.join(glob.escape(out_dir), '*.tmp')):
        os.remove(path)


def save(out_dir, state):
    """Writes state (a dict with 'step') as a checkpoint and removes what is no longer kept.

    Raises BadInput if the disk is full; everything older is then still there.
    """
    path = checkpoint_path(out_dir, state['step'])
    with atomic_write(path) as file:
        torch.save(state, file)
    keep = {*list_checkpoints(out_dir)[:NEWEST_KEPT], checkpoint_path(out_dir, read_best(out_dir)[0] or 0)}
    for old in list_checkpoints(out_dir):
        if old not in keep:
            os.remove(old)
    return path


class BackgroundWriter:
    """Saves checkpoints in a thread of its own: the loop waits only for a copy in memory, into the same memory each time."""

    def __init__(self, out_dir):
        self.out_dir, self.thread, self.buffers = out_dir, None, {}

    def save(self, state):
        """Copies the state's tensors now and writes them while the caller goes on; at most one write at a time."""
        self.wait()
        snapshot = self.copy(state, ())
        self.thread = threading.Thread(target=self.write, args=(snapshot,))
        self.thread.start()

    def copy(self, state, place):
        """A copy of nested dicts and lists with every tensor on the CPU; `place` is the path of keys to here."""
        if isinstance(state, torch.Tensor):
            buffer = self.buffers.get(place)
            if buffer is None or buffer.shape != state.shape or buffer.dtype != state.dtype:
                buffer = self.buffers[place] = torch.empty_like(state, device='cpu', memory_format=torch.contiguous_format)
            return buffer.copy_(state.detach())
        if isinstance(state, dict):
            return {key: self.copy(value, (*place, key)) for key, value in state.items()}
        if isinstance(state, (list, tuple)):
            return type(state)(self.copy(value, (*place, i)) for i, value in enumerate(state))
        return state

    def write(self, snapshot):
        try:
            save(self.out_dir, snapshot)
        except (BadInput, OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as RuntimeError
            warn(f'checkpoint of step {snapshot["step"]} was not written: {first_line(error)}; '
                 f'the older ones are intact, the run goes on')

    def wait(self):
        if self.thread is not None:
            self.thread.join()
            self.thread = None


def load(path):
    """The dict of a checkpoint, on the CPU. Raises BadInput naming the file if it is damaged or something else."""
    state = read_archive(path)
    if not {'model', 'config', 'step'} <= state.keys():
        raise BadInput(f'{path} is not a checkpoint of train.py: it lacks model, config or step')
    return state


def read_archive(path):
    """The dict that torch.save wrote, without executing anything of the file. Raises BadInput as `load` does."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise BadInput(f'{path} is damaged: {damaged} fails its checksum')
        state = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise BadInput(f'no checkpoint {path}') from None
    except pickle.UnpicklingError:
        raise BadInput(f'{path} holds more than tensors and plain values, and is not loaded') from None
    except (zipfile.BadZipFile, RuntimeError, OSError, ValueError, EOFError, KeyError, NotImplementedError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f'{path} is no readable checkpoint: {first_line(error)}') from None
    if not isinstance(state, dict):
        raise BadInput(f'{path} is no checkpoint: it holds a {type(state).__name__}')
    return state


def load_newest(out_dir):
    """(path, dict) of the newest checkpoint that is undamaged, warning of each that is not."""
    paths = list_checkpoints(out_dir)
    for path in paths:
        try:
            return path, load(path)
        except BadInput as error:
            warn(f'{error}; taking the one before')
    reason = 'none of its checkpoints is readable' if paths else 'it has no checkpoint'
    raise BadInput(f'{out_dir}: {reason}{runs_beside(out_dir)}')


def find(path):
    """(path, dict) for a checkpoint file, or for the newest in a run's folder."""
    if os.path.isdir(path):
        return load_newest(path)
    if not os.path.exists(path):
        raise BadInput(f'{path} does not exist{runs_beside(path)}')
    return path, load(path)


def runs_beside(path):
    """'; ...' that names the runs in the same folder, or says how to make one."""
    parent = os.path.dirname(os.path.normpath(path))
    runs = sorted({os.path.dirname(found) for found in glob.glob(os.path.join(glob.escape(parent), '*', 'ckpt_*.pt'))})
    return f'; there are checkpoints in {", ".join(runs)}' if runs else '; `python train.py config/demo.py` makes some in out/demo'


def load_model(path, **overrides):
    """(GPT, Tokenizer, where from) of a run's folder, a checkpoint, a folder in Hugging Face's layout or a GPT-2 name.

    A checkpoint is train.py's or nanoGPT's, whose files hold `model_args`. Padding that a vocabulary has beyond the
    tokenizer's is cut off. overrides: fields of GPTConfig that hold no weights.
    """
    if is_pretrained(path):
        model, tokenizer = GPT.from_pretrained(path, **overrides), folder_tokenizer(path)
    elif os.path.isfile(path) and 'model_args' in (state := read_archive(path)):
        model, tokenizer = nanogpt_model(state, path, overrides), folder_tokenizer(os.path.dirname(path))
    elif os.path.isdir(path) and not list_checkpoints(path):
        raise BadInput(f'{path} has neither a checkpoint such as ckpt_0001000.pt, as train.py writes them, nor a config.json')
    else:
        path, state = find(path)
        model = fill(GPT(model_config(state['config'], **overrides)), state['model'], path)
        tokenizer = folder_tokenizer(os.path.dirname(path))
    return fit_vocabulary(model, tokenizer, path), tokenizer, path


def is_pretrained(path):
    """Whether a path is a folder in Hugging Face's layout, or the name of a published model."""
    if os.path.isdir(path):
        return os.path.exists(os.path.join(path, 'config.json'))
    return not (os.path.exists(path) or looks_like_run(path))


def nanogpt_model(state, path, overrides):
    """The GPT of a checkpoint of nanoGPT: its linear layers are ours, its names may have torch.compile's prefix."""
    arguments, weights = state['model_args'], state.get('model')
    fields = ('block_size', 'vocab_size', 'n_layer', 'n_head', 'n_embd', 'bias')
    if not isinstance(arguments, dict) or not isinstance(weights, dict):
        raise BadInput(f'{path}: model and model_args should be dicts, as nanoGPT writes them')
    for key in fields[:-1]:
        if type(arguments.get(key)) is not int:
            raise BadInput(f'{path}: its model_args have no whole number for {key}')
    config = GPTConfig(**{**{key: arguments[key] for key in fields if key in arguments}, **overrides})
    return fill(GPT(config), {str(name).removeprefix('_orig_mod.'): tensor for name, tensor in weights.items()}, path)


def fit_vocabulary(model, tokenizer, path):
    """Cuts off padding. Raises BadInput if the model is not one for this tokenizer."""
    rows, tokens = model.config.vocab_size, tokenizer.vocab_size
    if tokens > rows or rows >= tokens + PADDING_AT_MOST:
        raise BadInput(f'{path} has a vocabulary of {rows} tokens, but its tokenizer has {tokens}; put the tokenizer.json it '
                       f'was trained with beside it')
    if tokens < rows:
        model.crop_vocab(tokens)
    return model


def looks_like_run(path):
    """Whether a path that does not exist was meant as a file or folder rather than as a model's name."""
    return os.sep in path or path.endswith('.pt') or not path.startswith('gpt2')


def model_config(config, **overrides):
    """GPTConfig from the config dict of a run."""
    fields = GPTConfig.__dataclass_fields__
    return GPTConfig(**{**{key: config[key] for key in fields if key in config}, **overrides})


def folder_tokenizer(folder):
    """The tokenizer beside a model: tokenizer.json, or GPT-2's own where there is none."""
    path = os.path.join(folder, 'tokenizer.json')
    return Tokenizer.load(path) if os.path.exists(path) else Tokenizer.gpt2()


def tokenizer_sha256(path):
    """The hash of the tokenizer.json beside a model, as meta.json has it; None stands for GPT-2's own."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    file = os.path.join(folder, 'tokenizer.json')
    return sha256_of(file) if os.path.exists(file) else None


def copy_tokenizer(data_dir, out_dir, meta):
    """Puts the data's tokenizer beside the checkpoints, so that they can be used without the data."""
    if meta['tokenizer'] != 'gpt2':
        with open(os.path.join(data_dir, meta['tokenizer']), 'rb') as source, \
                atomic_write(os.path.join(out_dir, 'tokenizer.json')) as target:
            target.write(source.read())


class MetricsFile:
    """OUT_DIR/metrics.jsonl, appended to; a resumed run first cuts it back to the step that it resumes from."""

    def __init__(self, out_dir, before_step):
        self.path, self.waiting = os.path.join(out_dir, 'metrics.jsonl'), []
        rows = [row for row in read_metrics(out_dir) if row['step'] < before_step]
        with atomic_write(self.path) as file:
            file.write(''.join(json.dumps(row) + '\n' for row in rows).encode())

    def append(self, row):
        """Adds a row. Where the disk is full, it waits in memory for the next call."""
        self.waiting.append(json.dumps(row) + '\n')
        size = os.path.getsize(self.path)
        try:
            with open(self.path, 'ab') as file:
                file.write(''.join(self.waiting).encode())
            self.waiting = []
        except OSError as error:
            os.truncate(self.path, size)  # what was written of the line
            if len(self.waiting) == 1:
                warn(f'{self.path} could not be written to: {first_line(error)}; the run goes on')


@contextlib.contextmanager
def losing_at_most(what):
    """Turns a full disk into a warning: for what a run can do without."""
    try:
        yield
    except (BadInput, OSError) as error:
        warn(f'{what} was not written: {first_line(error)}; the run goes on')


def read_metrics(out_dir):
    """The rows of a run's metrics; a last line that was cut short by a kill does not count."""
    path = os.path.join(out_dir, 'metrics.jsonl')
    if not os.path.exists(path):
        return []
    with open(path) as file:
        lines = file.read().split('\n')[:-1]
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise BadInput(f'{path} has a line that is not JSON: {error}') from None


def warn(message):
    print(f'warning: {message}', file=sys.stderr, flush=True)


def first_line(error):
    return f'{type(error).__name__}: {error}'.splitlines()[0]
