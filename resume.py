"""How a run goes on from what it left in OUT_DIR: from the newest checkpoint that is whole, with the settings of now.

    text = resume.identify(meta, train_tokens, val_tokens)               # which text is trained and validated on
    saved = resume.find(config, text)                                    # the dict of a checkpoint, or None for a fresh run
    saved = resume.first_usable(saved, config, text, model, optimizers)  # it, or an older one if it cannot be used
    progress = resume.restore(saved, model, optimizers)                  # then train_data.seek(progress.sequence_index)
    resume.report_changes(config, text, saved, print)
    resume.save(writer, model, optimizers, config, text, progress, process)

Nothing of a checkpoint is put to use before all of it has been compared with the model and the optimizers that are to take
it: an optimizer that runs fused writes to addresses that it computes from its states' shapes.
"""
import hashlib
import math
import os
from dataclasses import dataclass

import architecture
import checkpoint
import pretrained
from model import GPTConfig
from runtime.errors import BadInput, raised_by_all, warn
from runtime.metrics import best_row, read_metrics

TEXT = {'tokenizer_sha256', 'train_tokens', 'train_sha256', 'val_tokens', 'val_sha256'}  # what `identify` gives
LARGEST = 2 ** 62  # a number that a run can come to
ANOTHER_ORDER = 'from here on the sequences come in another order than they would have'
ANOTHER_MEANING = {  # what a change means for the rest of the run, where that is not plain
    'seed': ANOTHER_ORDER, 'train_tokens': ANOTHER_ORDER, 'train_sha256': 'the text to train on is another from here on'}


@dataclass
class Progress:
    """Where a run stands. A checkpoint holds these fields beside weights and optimizer states."""
    step: int = 0  # optimizer steps made
    sequence_index: int = 0  # position in the data
    tokens: int = 0
    elapsed_s: float = 0.0  # wall-clock time over all starts
    train_s: float = 0.0  # of which in optimizer steps
    best_val_loss: float = math.inf
    best_step: int = 0  # the step with that loss

    def advance(self, config, train_data, step_s, elapsed_s):
        """Counts a step that was made."""
        self.step += 1
        self.tokens += config['total_batch_tokens']
        self.sequence_index = train_data.sequence_index
        self.train_s += step_s
        self.elapsed_s = elapsed_s


def identify(meta: dict, train_tokens: int, val_tokens: int) -> dict:
    """What tells one text from another, to keep in a checkpoint. meta: of the data; tokens: as many as are used."""
    def sha256_of_split(split):
        hashes = sorted(str(entry.get('sha256')) for name, entry in meta.get('shards', {}).items() if f'_{split}_' in name)
        return hashlib.sha256(' '.join(hashes).encode()).hexdigest()
    return {'tokenizer_sha256': meta['tokenizer_sha256'],
            'train_tokens': train_tokens, 'train_sha256': sha256_of_split('train'),
            'val_tokens': val_tokens, 'val_sha256': sha256_of_split('val')}


@raised_by_all()
def find(config: dict, text: dict, mapped: bool = False, before: float = math.inf) -> dict | None:
    """The newest checkpoint of OUT_DIR if this run goes on from it, or None for a fresh run.

    config: of the run; text: what identifies its data; mapped: as in checkpoint.load; before: the step that it must be
    before. Raises BadInput if the two do not fit the checkpoint, or if a fresh run would overwrite it.
    """
    out_dir, init_from = config['out_dir'], config['init_from']
    if init_from != 'resume' and not checkpoint.list_checkpoints(out_dir):
        return None
    path, state = checkpoint.load_newest(out_dir, mapped, before)
    problem = what_is_missing(state)
    if problem:
        return find(config, text, mapped, before=damaged(path, problem, state))
    saved, before, config = state['config'], state['text'], with_sizes_of_weights(config, state['config'])
    restarted = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0  # by torchrun, after a worker died
    if not (restarted or init_from in ('auto', 'resume') or init_from == saved['init_from'] != 'scratch'):
        resumes = saved['init_from'] if has_weights(saved) else 'resume'
        raise BadInput(f'{out_dir} already holds {os.path.basename(path)}; --init_from={resumes} resumes it, '
                       f'another --out_dir starts anew')
    another = 'use the data it was trained on, or another --out_dir'
    if before['tokenizer_sha256'] != text['tokenizer_sha256']:
        raise BadInput(f'{path} was trained with another tokenizer than that of {config["data_dir"]}; {another}')
    fixed = {key: field.default for key, field in GPTConfig.__dataclass_fields__.items() if key not in pretrained.CHOSEN_BY_RUN}
    for key, default in {**fixed, 'optimizer': None}.items():  # a field may be newer than the checkpoint
        then, now = saved.get(key, default), config.get(key, default)
        if then != now:
            raise BadInput(f'{path} was trained with {key}={then}, not {now}; '
                           f'start with the same settings, or with another --out_dir')
    if not architecture.same(state['architecture'], architecture.fingerprint(pretrained.model_config(config))):
        raise BadInput(f'{path} was trained with another architecture than model.py has now, and one curve cannot show two; '
                       f'start with another --out_dir, or restore model.py')
    if before['val_tokens'] != text['val_tokens']:
        same = f'--eval_tokens={before["val_tokens"]} goes on, or another --out_dir' if 'eval_tokens' in config else another
        raise BadInput(f'{path} was validated on {before["val_tokens"]:,} tokens, not {text["val_tokens"]:,}: their losses do '
                       f'not compare; {same}')
    if before['val_sha256'] != text['val_sha256']:
        raise BadInput(f'{path} was validated on another text than that of {config["data_dir"]}; {another}')
    return state


def has_weights(config: dict) -> bool:
    """Whether init_from names weights to start from."""
    return config['init_from'] not in ('auto', 'scratch', 'resume')


def with_sizes_of_weights(config: dict, saved: dict) -> dict:
    """The config of a run that init_from gives its weights, with their model as its checkpoint has it; others as they are.

    The first start had the model from the weights, whatever its settings were, and the same command has to resume it.
    """
    if not has_weights(config) or config['init_from'] != saved['init_from']:
        return config
    chosen = *pretrained.CHOSEN_BY_RUN, 'block_size', 'vocab_size'
    return {**config, **{key: saved[key] for key in GPTConfig.__dataclass_fields__ if key in saved and key not in chosen}}


def what_is_missing(state):
    """None if a checkpoint has what a run goes on with beside tensors, or what is wrong with it."""
    for key, field in Progress.__dataclass_fields__.items():
        value = state.get(key)
        is_number = type(value) in (int, field.type) and 0 <= value < LARGEST
        if not is_number and not (key == 'best_val_loss' and value == math.inf):
            return f'it should have {key}, a number from 0'
    if not isinstance(state.get('text'), dict) or state['text'].keys() != TEXT:
        return 'it should have text, which identifies its data'
    lacking = [key for key in ('optimizer', 'init_from') if not isinstance(state['config'].get(key), str)]
    return f'its config lacks {lacking[0]}' if lacking else None


def first_usable(saved, config, text, model, optimizers, mapped=False):
    """`saved`, or the newest older checkpoint whose tensors fit the model and the optimizers, warning of those that do not."""
    while saved is not None:
        problem = checkpoint.how_tensors_differ(saved['model'], model.state_dict())
        problem = f'model: {problem}' if problem else optimizers.what_is_wrong(saved)
        if problem is None:
            break
        path = checkpoint.checkpoint_path(config['out_dir'], saved['step'])
        saved = find(config, text, mapped, before=damaged(path, problem, saved))
    return saved


def damaged(path, problem, state):
    """Warns of a damaged checkpoint; returns the step that the next one to try must be before."""
    warn(f'{path} is damaged: {problem}; taking the one before')
    return state['step']


def restore(saved: dict, model, optimizers) -> Progress:
    """Puts model and optimizers where the checkpoint was."""
    model.load_state_dict(saved['model'])
    optimizers.load_state_dict(saved)
    return Progress(**{key: saved[key] for key in Progress.__dataclass_fields__})


def save(writer, model, optimizers, config, text, progress, process):
    """Writes everything that a bit-exact continuation needs: copied now, written in the background by the first process."""
    if progress.step in (0, writer.step):  # nothing to save, or saved already
        return
    writer.step = progress.step
    states = optimizers.state_dict()  # on all processes: under ZeRO each has a share of it
    if process.is_first:
        writer.save({'model': model.state_dict(), **states, 'config': config, 'text': text, **vars(progress),
                     'architecture': architecture.fingerprint(model.config)})


def update_best(val_loss, progress, writer, process):
    """Remembers the best validation of the run, and in best.json the best one at a step that has a checkpoint."""
    if val_loss < progress.best_val_loss:
        progress.best_val_loss, progress.best_step = val_loss, progress.step
    if process.is_first:
        writer.note_best(progress.step, val_loss)


def report_changes(config: dict, text: dict, saved: dict, say):
    """Says what differs from before the checkpoint, a line for each key, since a curve that bends there must be explained."""
    for now, before in ((config, saved['config']), (text, saved['text'])):
        for key, value in now.items():
            if before.get(key) != value:
                length = 8 if key.endswith('sha256') else None
                was = f'which was {str(before[key])[:length]} until' if key in before else 'a key that was not there at'
                meaning = f'; {ANOTHER_MEANING[key]}' if key in ANOTHER_MEANING else ''
                say(f'changed: {key}={str(value)[:length]}, {was} step {saved["step"]:,}{meaning}')


def find_best(out_dir: str) -> tuple[int, float] | None:
    """(step, validation loss) of the best checkpoint that is there, by the metrics; by best.json where they have none."""
    saved = {checkpoint.step_of(path) for path in checkpoint.list_checkpoints(out_dir)}
    best = best_row([row for row in read_metrics(out_dir) if row['step'] in saved])
    return (best['step'], best['val_loss']) if best else checkpoint.read_best(out_dir)
