"""Checkpoints: saved atomically, checked before use, resumed from the newest that is undamaged.

    OUT_DIR/ckpt_0002000.pt           model, optimizers, config, step, position in the data, best loss, time and tokens so far
    OUT_DIR/ckpt_0002000.pt.damaged   one that could not be used, when its run went on from an older one
    OUT_DIR/best.json                 the step and validation loss of the best checkpoint

A checkpoint is a zip archive as torch.save writes it, with a CRC-32 of every tensor, which is checked before anything
of it is used. It loads with weights_only=True: nothing of a file is ever executed. It is written under a temporary
name, flushed and renamed, so a kill at any moment leaves the older ones intact. The newest 3, the best, and the one that
the run resumed from are kept. This file knows nothing about models or training: what is in the dict is the caller's.
"""
import glob
import json
import math
import os
import pickle
import re
import threading
import warnings
import zipfile
from collections.abc import Iterable

import torch

from runtime.errors import BadInput, first_line, warn, warn_once
from runtime.files import atomic_write, folders_near, make_folder, open_to_read, warn_if_unwritable, write_json

NEWEST_KEPT = 3
PLAIN = bool, int, float, str, type(None)  # what the values of a config are
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


def read_best(out_dir: str) -> tuple[int, float] | None:
    """(step, validation loss) of the best checkpoint so far; None where best.json is missing or, with a warning, no use."""
    path = os.path.join(out_dir, 'best.json')
    try:
        with open(path, 'rb') as file:
            best = json.loads(file.read(1000))
        step, val_loss = best['step'], best['val_loss']
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        warn_once(f'{path} is not readable: {first_line(error)}')
        return None
    if type(step) is not int or step < 1 or type(val_loss) is not float or not math.isfinite(val_loss):
        warn_once(f'{path} should have a step, a whole number above 0, and a val_loss')
        return None
    return step, val_loss


def remove_unfinished(out_dir):
    """Removes the unfinished files of a run that was killed."""
    for path in glob.glob(os.path.join(glob.escape(out_dir), '*.tmp')):
        with warn_if_unwritable(f'the removal of {path}'):
            os.remove(path)


def set_newer_aside(out_dir, step):
    """Renames the checkpoints after `step`, from which a run has just resumed since they are damaged."""
    for path in list_checkpoints(out_dir):
        if step_of(path) > step:
            with warn_if_unwritable(f'{path}.damaged'):
                os.replace(path, f'{path}.damaged')


def save(out_dir: str, state: dict, keep_too: Iterable[int] = ()) -> str:
    """Writes state (a dict with 'step') as a checkpoint and removes what is no longer kept. keep_too: further steps to keep.

    Raises BadInput if the disk is full; everything older is then still there.
    """
    step = state['step']
    path = checkpoint_path(out_dir, step)
    make_folder(out_dir)  # it may have been removed since
    with atomic_write(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # of torch's zip writer, after an error of the file
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
    older = [path for path in list_checkpoints(out_dir) if step_of(path) < step]
    for old in older[NEWEST_KEPT - 1:]:
        if step_of(old) not in keep_too:
            with warn_if_unwritable(f'the removal of {old}'):
                os.remove(old)
    return path


class BackgroundWriter:
    """Saves checkpoints in a thread: the training loop waits only for the copy into CPU memory, which is reused each time.

    step: the newest one that a checkpoint was made of. best: its (step, validation loss), or None. error: why the last
    write failed, or None.
    """

    def __init__(self, out_dir: str, step: int = 0, best: tuple[int, float] | None = None):
        self.out_dir, self.step, self.resumed_step, self.best = out_dir, step, step, best
        self.thread, self.buffers, self.error = None, {}, None

    def save(self, state):
        """Copies the state's tensors now and writes them while the caller goes on; at most one write at a time."""
        self.wait()
        snapshot = self.copy(state, ())
        self.thread = threading.Thread(target=self.write, args=(snapshot,))
        self.thread.start()

    def note_best(self, step, val_loss):
        """Writes best.json if the validation loss of a step that has been saved is the lowest of those."""
        if step and step == self.step and (self.best is None or val_loss < self.best[1]):
            self.wait()
            if self.error is None:
                self.best = step, val_loss
                with warn_if_unwritable('best.json'):
                    write_json(os.path.join(self.out_dir, 'best.json'), {'step': step, 'val_loss': val_loss})

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
        self.error = None
        try:
            save(self.out_dir, snapshot, {self.resumed_step, self.best[0] if self.best else 0})
        except (BadInput, OSError, RuntimeError) as error:
            self.error = f'the checkpoint of step {snapshot["step"]:,} was not written: {first_line(error)}'
            warn(f'{self.error}; the older ones are intact, the run goes on')

    def raise_if_unsaved(self):
        """Raises BadInput at the end of a run whose last checkpoint was not written."""
        if self.error:
            raise BadInput(f'{self.error}; the run is over and has none of its last steps')

    def wait(self):
        if self.thread is not None:
            self.thread.join()
            self.thread = None


def load(path: str, mapped: bool = False) -> dict:
    """The dict of a checkpoint, on the CPU. Raises BadInput naming the file if it is damaged or something else.

    mapped: the tensors stay in the file, which the processes of a machine share in memory, until they are copied.
    """
    state = read_archive(path, mapped)
    for key, kind in {'model': dict, 'config': dict, 'step': int, 'architecture': list}.items():
        if not isinstance(state.get(key), kind) or state[key] is True:
            raise BadInput(f'{path} is not a checkpoint of train.py: it has no {key}, or a wrong one')
    if any(type(value) not in PLAIN for value in state['config'].values()):
        raise BadInput(f'{path} is not a checkpoint of train.py: its config has more than numbers and words')
    if any(type(number) is not float for number in state['architecture']):
        raise BadInput(f'{path} is not a checkpoint of train.py: its architecture should be numbers')
    for key in FIXED_BY_WEIGHTS:
        if type(state['config'].get(key)) is not (bool if key == 'bias' else int):
            raise BadInput(f'{path} is not a checkpoint of train.py: its config has no {key}')
    return state


def how_tensors_differ(found: dict, wanted: dict) -> str | None:
    """None if a dict has the tensors that another has, alike but for the device and finite, or what is wrong with it."""
    for name in sorted(found.keys() ^ wanted.keys(), key=str):
        return f'{name} is {"missing" if name in wanted else "none of its tensors"}'
    for name, tensor in wanted.items():
        value = found[name]
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            return f'{name} is no tensor'
        if value.shape != tensor.shape or value.dtype != tensor.dtype:
            return f'{name} is {value.dtype} of shape {tuple(value.shape)}, not {tensor.dtype} of {tuple(tensor.shape)}'
        if not torch.isfinite(value).all():
            return f'{name} has values that are not finite'
    return None


def read_archive(path, mapped=False):
    """The dict that torch.save wrote, without executing anything of the file. Raises BadInput as `load` does."""
    if not os.path.exists(path):
        raise BadInput(f'no checkpoint {path}')
    if path.endswith('.gguf'):
        raise BadInput(f'{path} is a file for llama.cpp; give the checkpoint or the folder that it was made from')
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


def load_newest(out_dir: str, mapped: bool = False, before: float = math.inf) -> tuple[str, dict]:
    """(path, dict) of the newest checkpoint that is undamaged, warning of each that is not. before: the step it is before."""
    paths = list_checkpoints(out_dir)
    for path in paths:
        if step_of(path) < before:
            try:
                state = load(path, mapped)
                if state['step'] == step_of(path):
                    return path, state
                warn(f'{path} holds step {state["step"]}; taking the one before')
            except BadInput as error:
                warn(f'{error}; taking the one before')
    reason = 'none of its checkpoints can be used' if paths else 'it has no checkpoint'
    raise BadInput(f'{out_dir}: {reason}{runs_near(out_dir)}')


def find(path: str) -> tuple[str, dict]:
    """(path, dict) for a checkpoint file, or for the newest in a run's folder."""
    if os.path.isdir(path):
        return load_newest(path)
    if not os.path.exists(path):
        others = [os.path.basename(other) for other in list_checkpoints(os.path.dirname(path) or '.')]
        where = '' if os.path.isabs(path) else f' in {os.getcwd()}'
        raise BadInput(f'{path} does not exist{where}'
                       f'{"; beside it there is " + ", ".join(others[:3]) if others else runs_near(path)}')
    return path, load(path)


def runs_near(path):
    """The end of an error message: names the runs in a folder or beside it, or says how to make one."""
    runs = folders_near(path, 'ckpt_*.pt')
    return f'; there are checkpoints in {runs}' if runs else '; `python train.py config/demo.py` trains a model in out/demo'
