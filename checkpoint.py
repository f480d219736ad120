"""Checkpoints: saved atomically, checked before use, resumed from the newest that is undamaged.

    OUT_DIR/ckpt_0002000.pt   model, optimizers, config, step, position in the data, best loss, time and tokens so far
    OUT_DIR/best.json         the step and validation loss of the best checkpoint

A checkpoint is a zip archive as torch.save writes it, with a CRC-32 of every tensor, which is checked before anything
of it is used. It loads with weights_only=True: nothing of a file is ever executed. It is written under a temporary
name, flushed and renamed, so a kill at any moment leaves the older ones intact. The newest 3 and the best are kept.
This file knows nothing about models or training: what is in the dict is the caller's.
"""
import glob
import json
import os
import pickle
import re
import threading
import warnings
import zipfile

import torch

from runtime.errors import BadInput, first_line, warn
from runtime.files import atomic_write, open_to_read, warn_if_unwritable, write_json

NEWEST_KEPT = 3
PICKLE_BYTES, PICKLE_BYTES_PER_TENSOR = 1 << 18, 1 << 10  # the most that a checkpoint says beside and of its tensors
MAX_DEPTH = 32  # of values inside each other
FIXED_BY_WEIGHTS = 'n_layer', 'n_head', 'n_embd', 'bias', 'block_size', 'vocab_size'


def checkpoint_path(out_dir, step):
    return os.path.join(out_dir, f'ckpt_{step:07d}.pt')


def step_of(path):
    return int(re.search(r'ckpt_(\d+)\.pt$', path).group(1))


def list_checkpoints(out_dir: str) -> list[str]:
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


def remove_unfinished(out_dir):
    """Removes the unfinished files of a run that was killed."""
    for path in glob.glob(os.path.join(glob.escape(out_dir), '*.tmp')):
        os.remove(path)


def save(out_dir: str, state: dict) -> str:
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
    """Saves checkpoints in a thread: the training loop waits only for the copy into CPU memory, which is reused each time.

    step: the newest one that a checkpoint was made of.
    """

    def __init__(self, out_dir, step=0):
        self.out_dir, self.step, self.thread, self.buffers = out_dir, step, None, {}

    def save(self, state):
        """Copies the state's tensors now and writes them while the caller goes on; at most one write at a time."""
        self.wait()
        snapshot = self.copy(state, ())
        self.thread = threading.Thread(target=self.write, args=(snapshot,))
        self.thread.start()

    def note_best(self, step, val_loss):
        """Writes best.json if the validation loss of a step that has been saved is the lowest of those."""
        if step == self.step and val_loss < read_best(self.out_dir)[1]:
            self.wait()
            if os.path.exists(checkpoint_path(self.out_dir, step)):
                with warn_if_unwritable('best.json'):
                    write_best(self.out_dir, step, val_loss)

    def copy(self, state, path):
        """A copy of nested dicts and lists with every tensor on the CPU; `path` is the tuple of keys that leads here."""
        if isinstance(state, torch.Tensor):
            buffer = self.buffers.get(path)
            if buffer is None or buffer.shape != state.shape or buffer.dtype != state.dtype:
                buffer = self.buffers[path] = torch.empty_like(state, device='cpu', memory_format=torch.contiguous_format)
            return buffer.copy_(state.detach())
        if isinstance(state, dict):
            return {key: self.copy(value, (*path, key)) for key, value in state.items()}
        if isinstance(state, (list, tuple)):
            return type(state)(self.copy(value, (*path, i)) for i, value in enumerate(state))
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


def load(path: str, mapped: bool = False) -> dict:
    """The dict of a checkpoint, on the CPU. Raises BadInput naming the file if it is damaged or something else.

    mapped: the tensors stay in the file, which the processes of a machine share in memory, until they are copied.
    """
    state = read_archive(path, mapped)
    if not {'model', 'config', 'step'} <= state.keys():
        raise BadInput(f'{path} is not a checkpoint of train.py: it lacks model, config or step')
    return state


def read_archive(path, mapped=False):
    """The dict that torch.save wrote, without executing anything of the file. Raises BadInput as `load` does."""
    if not os.path.exists(path):
        raise BadInput(f'no checkpoint {path}')
    try:
        with open_to_read(path) as file, zipfile.ZipFile(file) as archive:
            check_entries(path, archive)
            damaged = archive.testzip()
        if damaged:
            raise BadInput(f'{path} is damaged: {damaged} fails its checksum')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of pickles that torch.save does not write; what is in them is checked
            state = torch.load(path, map_location='cpu', weights_only=True, mmap=mapped)
        check_sizes(path, state)
    except pickle.UnpicklingError:
        raise BadInput(f'{path} holds more than tensors and plain values, and is not loaded') from None
    except Exception as error:  # zipfile and torch's reader of pickles raise a dozen kinds for damaged files
        if isinstance(error, BadInput):
            raise
        raise BadInput(f'{path} is no readable checkpoint: {first_line(error)}') from None
    if not isinstance(state, dict):
        raise BadInput(f'{path} is no checkpoint: it holds a {type(state).__name__}')
    return state


def check_entries(path, archive):
    """Raises BadInput for an archive that could become larger in memory than it is: torch.save compresses nothing."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise BadInput(f'{path} is not as torch.save writes it: its entries are compressed')
    if sum(entry.file_size for entry in entries) > os.path.getsize(path):
        raise BadInput(f'{path} is damaged: its entries overlap')
    most = PICKLE_BYTES + PICKLE_BYTES_PER_TENSOR * len(entries)
    if any(entry.file_size > most for entry in entries if entry.filename.endswith('data.pkl')):
        raise BadInput(f'{path} is not as train.py writes it: more than {most:,} bytes of it are not tensors')


def check_sizes(path, state):
    """Raises BadInput for values inside more values than a checkpoint has, and tensors that one number is shown as."""
    level, seen = [state], set()
    for _ in range(MAX_DEPTH):
        level = [value for value in {id(value): value for value in level}.values() if id(value) not in seen]
        seen.update(map(id, level))
        for value in level:
            if isinstance(value, torch.Tensor) and (
                    value.layout != torch.strided or value.is_meta or
                    value.numel() * value.element_size() > value.untyped_storage().nbytes()):
                raise BadInput(f'{path} has a tensor of shape {tuple(value.shape)}, but not the numbers for it')
        level = [part for value in level if isinstance(value, (dict, list, tuple, set))
                 for part in (value.values() if isinstance(value, dict) else value)]
    if level:
        raise BadInput(f'{path} is no checkpoint: it has values more than {MAX_DEPTH} deep inside each other')


def resume(config: dict, meta: dict, mapped: bool = False) -> dict | None:
    """The newest checkpoint of OUT_DIR if this run goes on from it, or None for a fresh run.

    config: of the run; meta: of its data; mapped: as in `load`. Raises BadInput if the two do not fit the checkpoint,
    or if a fresh run would overwrite it.
    """
    out_dir, init_from = config['out_dir'], config['init_from']
    if init_from != 'resume' and not list_checkpoints(out_dir):
        return None
    path, state = load_newest(out_dir, mapped)
    saved = state['config']
    restarted = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0  # by torchrun, after a worker died
    if not (restarted or init_from in ('auto', 'resume') or init_from == saved['init_from'] != 'scratch'):
        raise BadInput(f'{out_dir} already holds {os.path.basename(path)}; --init_from=resume resumes it, '
                       f'another --out_dir starts anew')
    if state['tokenizer_sha256'] != meta['tokenizer_sha256']:
        raise BadInput(f'{path} was trained with another tokenizer than that of {config["data_dir"]}; '
                       f'use the data it was trained on, or another --out_dir')
    now = {**config, 'vocab_size': meta['vocab_size']}
    for key in (*FIXED_BY_WEIGHTS, 'optimizer'):
        if now[key] != saved[key]:
            raise BadInput(f'{path} was trained with {key}={saved[key]}, not {now[key]}; '
                           f'start with the same settings, or with another --out_dir')
    return state


def load_newest(out_dir: str, mapped: bool = False) -> tuple[str, dict]:
    """(path, dict) of the newest checkpoint that is undamaged, warning of each that is not."""
    paths = list_checkpoints(out_dir)
    for path in paths:
        try:
            return path, load(path, mapped)
        except BadInput as error:
            warn(f'{error}; taking the one before')
    reason = 'none of its checkpoints is readable' if paths else 'it has no checkpoint'
    raise BadInput(f'{out_dir}: {reason}{runs_beside(out_dir)}')


def find(path: str) -> tuple[str, dict]:
    """(path, dict) for a checkpoint file, or for the newest in a run's folder."""
    if os.path.isdir(path):
        return load_newest(path)
    if not os.path.exists(path):
        raise BadInput(f'{path} does not exist{runs_beside(path)}')
    return path, load(path)


def runs_beside(path):
    """The end of an error message: names the runs in the same folder, or says how to make one."""
    parent = os.path.dirname(os.path.normpath(path))
    runs = sorted({os.path.dirname(found) for found in glob.glob(os.path.join(glob.escape(parent), '*', 'ckpt_*.pt'))})
    if runs:
        return f'; there are checkpoints in {", ".join(runs)}'
    return '; `python train.py config/demo.py` makes some in out/demo'
