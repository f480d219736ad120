"""What a run finds in its folder, and what happens to its folder while it runs: nothing of it may cost a checkpoint or a row."""
import json
import math
import os
import pathlib
import pickle
import shutil
import signal
import sys
import types

import pytest
import torch
from conftest import merged_metrics, run_script

import checkpoint
import plot
import resume
import train
from configurator import configure
from runtime.errors import BadInput, Diverged, warn_once
from runtime.files import make_folder
from runtime.lock import FolderLock
from runtime.metrics import Metrics, read_metrics

TINY = {'n_layer': 1, 'n_head': 1, 'n_embd': 16, 'block_size': 16, 'total_batch_tokens': 64, 'micro_batch': 4, 'max_steps': 8,
        'warmup_steps': 2, 'learning_rate': 3e-3, 'eval_interval': 2, 'eval_tokens': 64, 'sample_interval': 0,
        'checkpoint_interval': 2, 'device': 'cpu', 'dtype': 'float32'}
STEPS = 10  # that the runs of this file come to when they are started again


@pytest.fixture
def run(tmp_path, data_dir, monkeypatch):
    """Trains in this process, without drawing: run('name', key=value, ...) -> its metrics without the clock."""
    monkeypatch.setattr(plot, 'draw', lambda *arguments: None)
    monkeypatch.setattr(train.hardware, 'measure_peak_flops', lambda *arguments: 1e12)
    warn_once.cache_clear()

    def run(name, **settings):
        settings = {**TINY, 'data_dir': data_dir, 'out_dir': str(tmp_path / name), **settings}
        train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))
        return merged_metrics(tmp_path / name)
    return run


@pytest.fixture(scope='module')
def folders(tmp_path_factory, data_dir):
    """{(optimizer, step): folder of a run that has come to step 8, or to its end at step 10}."""
    made = {}
    for optimizer in ('adamw', 'muon'):
        for steps in (8, STEPS):
            folder = tmp_path_factory.mktemp(f'{optimizer}{steps}')
            settings = {**TINY, 'max_steps': STEPS, 'optimizer': optimizer, 'data_dir': data_dir, 'out_dir': folder}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(plot, 'draw', lambda *arguments: None)
                if steps < STEPS:
                    patch.setattr(train, 'train_step', stopping_at(steps))
                train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))
            made[optimizer, steps] = folder
    return made


def stopping_at(step):
    real = train.train_step

    def train_step(model, raw_model, optimizers, batches, config, process, stop):
        if batches.loader.sequence_index == step * 4:
            raise train.Stopped
        return real(model, raw_model, optimizers, batches, config, process, stop)
    return train_step


def edited(change):
    """An edit of a folder that changes the dict of its newest checkpoint."""
    def edit(folder):
        path = folder / 'ckpt_0000008.pt'
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)
    return edit


def without(*keys):
    return edited(lambda state: delete(state, keys))


def delete(value, keys):
    for key in keys[:-1]:
        value = value[key]
    del value[keys[-1]]


def with_(value, *keys):
    def change(state):
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value(state[keys[-1]]) if callable(value) else value
    return edited(change)


def content(name, value):
    """An edit that replaces a file: by bytes, or by a function of those it has."""
    def edit(folder):
        path = folder / name
        path.write_bytes(value(path.read_bytes()) if callable(value) else value)
    return edit


def folder_instead(name):
    def edit(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
    return edit


def removed(name):
    return lambda folder: (folder / name).unlink()


def line(value):
    """An edit that puts a line into the middle of the metrics."""
    def insert(old):
        rows = old.splitlines(keepends=True)
        return b''.join([*rows[:5], value, b'\n', *rows[5:]])
    return content('metrics.jsonl', insert)


NEWEST, MOMENTS = 'ckpt_0000008.pt', ('optimizers', 0, 'state', 0)
WTE = 'model', 'transformer.wte.weight'
DEEP = b'[' * 100_000
EDITS = {
    **{f'a checkpoint without {key}': without(key) for key in (
        'model', 'config', 'step', 'optimizers', 'scaler', 'text', 'sequence_index', 'tokens', 'elapsed_s', 'train_s',
        'best_val_loss', 'best_step', 'architecture')},
    'an architecture in words': with_(['GPT-2'], 'architecture'),
    'a step that is a word': with_('x', 'step'),
    'a step below 0': with_(-1, 'step'),
    'a step of another file': with_(99, 'step'),
    'a position that is NaN': with_(math.nan, 'sequence_index'),
    'a huge position': with_(10 ** 30, 'sequence_index'),
    'no number of tokens': with_(None, 'tokens'),
    'a best loss that is NaN': with_(math.nan, 'best_val_loss'),
    'a config that is a list': with_([], 'config'),
    'a config with a tensor': with_(torch.ones(2), 'config', 'seed'),
    'a config without n_layer': without('config', 'n_layer'),
    'a config with a word for n_layer': with_('two', 'config', 'n_layer'),
    'a config without init_from': without('config', 'init_from'),
    'a config without optimizer': without('config', 'optimizer'),
    'a text without its length': without('text', 'val_tokens'),
    'no weights': with_({}, 'model'),
    'weights in a list': with_([1], 'model'),
    'a weight less': without(*WTE),
    'a weight more': edited(lambda state: state['model'].update(extra=torch.ones(1))),
    'a weight of another shape': with_(lambda weight: weight[:-1].clone(), *WTE),
    'whole numbers as weights': with_(lambda weight: weight.long(), *WTE),
    'half precision': with_(lambda weight: weight.half(), *WTE),
    'a weight that is NaN': edited(lambda state: state['model']['transformer.wte.weight'].view(-1)[7:8].fill_(math.nan)),
    'a weight that is a number': with_(1.0, *WTE),
    'optimizers in a dict': with_({}, 'optimizers'),
    'an optimizer less': with_(lambda states: states[:-1], 'optimizers'),
    'an optimizer that is a number': with_(5, 'optimizers', 0),
    'an optimizer without groups': without('optimizers', 0, 'param_groups'),
    'a group less': with_(lambda groups: groups[:-1], 'optimizers', 0, 'param_groups'),
    'a group that is a number': with_(5, 'optimizers', 0, 'param_groups', 0),
    'a group with other parameters': with_(lambda params: params[::-1], 'optimizers', 0, 'param_groups', 1, 'params'),
    'a moment that is too short': with_(lambda moment: moment[:1].clone(), *MOMENTS, 'exp_avg'),
    'a moment of whole numbers': with_(lambda moment: moment.long(), *MOMENTS, 'exp_avg_sq'),
    'a moment less': without(*MOMENTS, 'exp_avg'),
    'a moment that is infinite': with_(lambda moment: moment + math.inf, *MOMENTS, 'exp_avg'),
    'a sparse moment': with_(lambda moment: moment.to_sparse(), *MOMENTS, 'exp_avg'),
    'a step count for each weight': with_(lambda _: torch.ones(500), *MOMENTS, 'step'),
    'a parameter without a state': without(*MOMENTS),
    'a state that is a number': with_(5, *MOMENTS),
    'a scaler that is a list': with_([], 'scaler'),
    'a checkpoint cut short': content(NEWEST, lambda old: old[:-1000]),
    'a flipped bit': content(NEWEST, lambda old: old[:9000] + bytes([old[9000] ^ 1]) + old[9001:]),
    'an empty checkpoint': content(NEWEST, b''),
    'a checkpoint of text': content(NEWEST, b'hello'),
    'a checkpoint that runs code': content(NEWEST, pickle.dumps(pathlib.PurePosixPath('x'))),
    'a folder named like a checkpoint': folder_instead(NEWEST),
    'a newer file of text': content('ckpt_9999999.pt', b'hello'),
    'a name with too many digits': content(f'ckpt_{"9" * 40}.pt', b'hello'),
    'three newer files of text': lambda folder: [(folder / f'ckpt_{n}.pt').write_bytes(b'x') for n in (20, 21, 22)],
    'best.json that is empty': content('best.json', b''),
    'best.json that is no JSON': content('best.json', b'{"step": 8'),
    'best.json that is a list': content('best.json', b'[1]'),
    'best.json that is an object without keys': content('best.json', b'{}'),
    'best.json with a word': content('best.json', b'{"step": "a", "val_loss": 1.0}'),
    'best.json with NaN': content('best.json', b'{"step": 8, "val_loss": NaN}'),
    'best.json that is not UTF-8': content('best.json', b'\xff\xfe\x00'),
    'best.json that is deep': content('best.json', DEEP),
    'best.json of a checkpoint that is not there': content('best.json', b'{"step": 7, "val_loss": 0.1}'),
    'a folder named best.json': folder_instead('best.json'),
    'no best.json': removed('best.json'),
    'a row that is not UTF-8': line(b'\xff\xfe{"step": 8}'),
    'a row with a zero byte': line(b'{"step": 8, \0}'),
    'a row that is a list': line(b'[1]'),
    'a row that is a number': line(b'5'),
    'an empty row': line(b''),
    'a row without step': line(b'{"loss": 1.0}'),
    'a row with a word for step': line(b'{"step": "x", "loss": 1.0}'),
    'a row with a list': line(b'{"step": 8, "loss": [1]}'),
    'a deep row': line(DEEP),
    'a row with a huge number': line(b'{"step": ' + b'9' * 5000 + b'}'),
    'a row twice': content('metrics.jsonl', lambda old: old + old.splitlines(keepends=True)[-1]),
    'a last row that was cut short': content('metrics.jsonl', lambda old: old + b'{"step": 9, "lo'),
    'metrics that end within a row': content('metrics.jsonl', lambda old: old[:-5]),
    'metrics of zero bytes': content('metrics.jsonl', lambda old: bytes(len(old))),
    'empty metrics': content('metrics.jsonl', b''),
    'a folder named metrics.jsonl': folder_instead('metrics.jsonl'),
    'no metrics': removed('metrics.jsonl'),
    'a folder named run_0000008.json': folder_instead('run_0000008.json'),
    'an unfinished checkpoint': content('ckpt_0000010.pt.tmp', b'x'),
    'a folder named like an unfinished one': folder_instead('ckpt_0000010.pt.tmp.tmp'),
}
LOSE_ROWS = [EDITS[name] for name in ('metrics that end within a row', 'metrics of zero bytes', 'empty metrics', 'no metrics',
                                        'a folder named metrics.jsonl')]
MUON_EDITS = {
    'an optimizer less': with_(lambda states: states[:-1], 'optimizers'),
    'a momentum of another shape': with_(lambda momentum: momentum[:1].clone(), 'optimizers', 1, 'state', 0, 'momentum_buffer'),
    'a momentum less': without('optimizers', 1, 'state', 0, 'momentum_buffer'),
    'a parameter without a state': without('optimizers', 1, 'state', 0),
}


def weights(folder, step=STEPS):
    return checkpoint.load(checkpoint.checkpoint_path(str(folder), step))['model']


def check_nothing_is_lost(edit, optimizer, folders, tmp_path, run):
    """The edited run ends with the same weights as one that nothing happened to, and what was whole before is still there."""
    shutil.copytree(folders[optimizer, 8], tmp_path / 'a')
    edit(tmp_path / 'a')
    rows, whole = run('a', max_steps=STEPS, optimizer=optimizer), folders[optimizer, STEPS]
    assert rows[-2:] == merged_metrics(whole)[-2:]
    assert rows == merged_metrics(whole) or edit in LOSE_ROWS
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(tmp_path / 'a')[name]), name
    paths = checkpoint.list_checkpoints(str(tmp_path / 'a'))
    assert len(paths) >= 3 and all(checkpoint.load(path) for path in paths)
    assert checkpoint.read_best(str(tmp_path / 'a')) == checkpoint.read_best(str(whole)) or not (tmp_path / 'a' / 'best.json').is_file()


@pytest.mark.slow
@pytest.mark.parametrize('name', EDITS)
def test_no_edit_of_its_folder_costs_a_run_more_than_the_edited_file(name, folders, tmp_path, run):
    check_nothing_is_lost(EDITS[name], 'adamw', folders, tmp_path, run)


@pytest.mark.slow
@pytest.mark.parametrize('name', MUON_EDITS)
def test_no_edit_of_muons_states_costs_more_than_the_edited_file(name, folders, tmp_path, run):
    check_nothing_is_lost(MUON_EDITS[name], 'muon', folders, tmp_path, run)


def during(monkeypatch, step, sabotage):
    """Calls sabotage() in the middle of a run, before it makes that step."""
    real = train.train_step

    def train_step(model, raw_model, optimizers, batches, config, process, stop):
        if batches.loader.sequence_index == (step - 1) * 4:
            sabotage()
        return real(model, raw_model, optimizers, batches, config, process, stop)
    monkeypatch.setattr(train, 'train_step', train_step)


def remove_tree(folder):
    for _ in range(10):  # a checkpoint may just be written in it
        shutil.rmtree(folder, ignore_errors=True)


SABOTAGE = {
    'the folder is removed': remove_tree,
    'the metrics are removed': lambda folder: (folder / 'metrics.jsonl').unlink(),
    'a folder takes the place of the metrics': folder_instead('metrics.jsonl'),
    'a folder takes the place of best.json': folder_instead('best.json'),
    'best.json is removed': removed('best.json'),
    'the samples are removed': lambda folder: shutil.rmtree(folder / 'samples'),
    'a file takes the place of the samples': lambda folder: (shutil.rmtree(folder / 'samples'), (folder / 'samples').touch()),
    'the newest checkpoint is removed': lambda folder: pathlib.Path(checkpoint.list_checkpoints(str(folder))[0]).unlink(),
    'a folder takes the place of the next checkpoint': lambda folder: (folder / 'ckpt_0000006.pt').mkdir(),
    'a folder takes the place of an unfinished checkpoint': lambda folder: (folder / 'ckpt_0000006.pt.tmp').mkdir(),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', SABOTAGE)
def test_trouble_with_files_beside_the_checkpoints_never_ends_a_run(name, folders, tmp_path, run, monkeypatch):
    during(monkeypatch, 6, lambda: SABOTAGE[name](tmp_path / 'a'))
    rows = run('a', max_steps=STEPS, sample_interval=2, sample_tokens=4)
    for name, tensor in weights(folders['adamw', STEPS]).items():
        assert torch.equal(tensor, weights(tmp_path / 'a')[name]), name
    assert rows[-5:] == merged_metrics(folders['adamw', STEPS])[-5:]


@pytest.mark.slow
@pytest.mark.parametrize('number', [None, signal.SIGINT, signal.SIGTERM])
def test_no_step_is_lost_where_the_reader_of_the_output_is_gone(folders, tmp_path, run, monkeypatch, number):
    """As Ctrl-C does in `train.py 2>&1 | tee log`, which ends tee before the run."""
    reader, writer = os.pipe()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patch, open(writer, 'w', buffering=1) as output:
        patch.setattr(sys, 'stdout', output)
        patch.setattr(sys, 'stderr', output)
        during(patch, 6, lambda: (os.close(reader), number and os.kill(os.getpid(), number)))
        run('a', max_steps=STEPS)
        assert sys.stdout is output
    for known, handler in handlers.items():
        signal.signal(known, handler)
    assert checkpoint.step_of(checkpoint.list_checkpoints(str(tmp_path / 'a'))[0]) == (6 if number else STEPS)
    monkeypatch.setattr(plot, 'draw', lambda *arguments: None)
    assert run('a', max_steps=STEPS) == merged_metrics(folders['adamw', STEPS])


@pytest.mark.slow
@pytest.mark.parametrize('name', ['stdout', 'stderr'])
def test_a_full_disk_under_the_log_ends_no_run(folders, tmp_path, run, monkeypatch, name):
    with open(tmp_path / 'log', 'w', buffering=1) as log, open('/dev/full', 'w') as full, monkeypatch.context() as patch:
        patch.setattr(sys, name, log)
        during(patch, 6, lambda: os.dup2(full.fileno(), log.fileno()))
        assert run('a', max_steps=STEPS) == merged_metrics(folders['adamw', STEPS])


@pytest.mark.slow
def test_rows_wait_in_memory_while_their_file_cannot_be_written(folders, tmp_path, run, monkeypatch, capsys):
    real, fails = open, []

    def failing_open(path, mode='r', *arguments, **settings):
        if str(path).endswith('metrics.jsonl') and mode == 'ab' and fails:
            raise OSError(5, 'Input/output error')
        return real(path, mode, *arguments, **settings)
    monkeypatch.setattr('builtins.open', failing_open)
    during(monkeypatch, 3, lambda: fails.append(True))
    during(monkeypatch, 8, fails.clear)
    assert run('a', max_steps=STEPS) == merged_metrics(folders['adamw', STEPS])
    assert capsys.readouterr().err.count('metrics.jsonl was not written') == 1


@pytest.mark.slow
def test_a_run_whose_last_rows_cannot_be_written_says_so_and_fails(tmp_path, run, monkeypatch):
    real, fails = open, []

    def failing_open(path, mode='r', *arguments, **settings):
        if str(path).endswith('metrics.jsonl') and mode == 'ab' and fails:
            raise OSError(30, 'Read-only file system')
        return real(path, mode, *arguments, **settings)
    monkeypatch.setattr('builtins.open', failing_open)
    during(monkeypatch, 8, lambda: fails.append(True))
    with pytest.raises(BadInput, match='the last 2 rows of metrics could not be written to'):
        run('a')
    assert checkpoint.load_newest(str(tmp_path / 'a'))[1]['step'] == 8


@pytest.mark.slow
def test_a_run_whose_last_checkpoint_cannot_be_written_says_so_and_fails(tmp_path, run, monkeypatch):
    during(monkeypatch, 10, lambda: (tmp_path / 'a' / 'ckpt_0000010.pt.tmp').mkdir())
    with pytest.raises(BadInput, match='step 10 was not written'):
        run('a', max_steps=STEPS)
    assert checkpoint.load_newest(str(tmp_path / 'a'))[1]['step'] == 8


def test_an_exception_of_matplotlib_is_a_warning(tmp_path, run, monkeypatch, capsys):
    def draw(*arguments):
        raise KeyError('no such font')
    monkeypatch.setattr(plot, 'draw', draw)
    run('a')
    assert capsys.readouterr().err.count('the plot was not drawn: KeyError') == 1


def test_a_second_run_in_a_folder_is_refused_and_changes_nothing(tmp_path, run):
    run('a')
    before = {path: path.read_bytes() for path in (tmp_path / 'a').iterdir() if path.is_file()}
    with FolderLock(str(tmp_path / 'a')) as lock, pytest.raises(BadInput, match=f'a is in use by process {os.getpid()} on .*--out_dir'):
        lock.take()
        run('a', max_steps=STEPS)
    held = (tmp_path / 'a' / 'lock').read_bytes()
    assert {**before, tmp_path / 'a' / 'lock': held} == {path: path.read_bytes() for path in (tmp_path / 'a').iterdir() if path.is_file()}
    run('a', max_steps=STEPS)


def test_of_two_runs_that_start_at_once_in_a_new_folder_one_is_refused(tmp_path, run, monkeypatch):
    real = train.prepare_out_dir

    def prepare_out_dir(*arguments):  # the other one, started before this, gets here first
        monkeypatch.setattr(train, 'prepare_out_dir', real)
        run('a')
        real(*arguments)
    monkeypatch.setattr(train, 'prepare_out_dir', prepare_out_dir)
    with pytest.raises(BadInput, match='another run wrote to .* meanwhile'):
        run('a')
    assert checkpoint.load_newest(str(tmp_path / 'a'))[1]['step'] == 8


def test_a_holder_whose_name_finds_no_room_on_the_disk_has_the_lock_all_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('runtime.lock.open', lambda path, *arguments, **settings: open('/dev/full', *arguments, **settings), raising=False)
    with FolderLock(str(tmp_path)) as lock:
        lock.take()
        assert 'lock was not written' in capsys.readouterr().err
        with pytest.raises(BadInput, match='in use'), FolderLock(str(tmp_path)) as another:
            another.take()


def test_a_folder_that_cannot_be_locked_is_said(tmp_path, run, monkeypatch, capsys):
    def flock(*_):
        raise OSError(37, 'No locks available')
    monkeypatch.setattr('runtime.lock.fcntl.flock', flock)
    run('a')
    assert 'cannot be locked (OSError: [Errno 37] No locks available)' in capsys.readouterr().err


def test_what_was_just_written_resumed_from_or_best_is_never_removed(tmp_path):
    for step in (2, 4, 6, 90, 91, 92):
        pathlib.Path(checkpoint.checkpoint_path(str(tmp_path), step)).touch()
    writer = checkpoint.BackgroundWriter(str(tmp_path), step=4, best=(2, 1.0))
    for step in (8, 10, 12, 14):
        writer.save({'step': step, 'model': {}, 'config': {}})
    writer.wait()
    assert {2, 4, 10, 12, 14} <= {checkpoint.step_of(path) for path in checkpoint.list_checkpoints(str(tmp_path))}


def test_best_json_names_no_checkpoint_that_could_not_be_written(tmp_path, monkeypatch):
    writer = checkpoint.BackgroundWriter(str(tmp_path))
    for step, val_loss in ((2, 1.0), (4, 0.5)):
        if step == 4:
            monkeypatch.setattr(checkpoint, 'save', lambda *arguments: (_ for _ in ()).throw(OSError(28, 'No space left')))
        writer.step = step
        writer.save({'step': step, 'model': {}, 'config': {}})
        writer.note_best(step, val_loss)
    assert checkpoint.read_best(str(tmp_path)) == (2, 1.0)


def test_every_changed_setting_is_said_on_resume(tmp_path, run, capsys):
    run('a')
    run('a', max_steps=STEPS, seed=5, learning_rate=1e-3, weight_decay=0.5, beta1=0.8, micro_batch=2)
    said = capsys.readouterr().out
    for words in ('max_steps=10, which was 8 until step 8', 'seed=5, which was 1337 until step 8; from here on the sequences',
                  'learning_rate=0.001, which was 0.003', 'weight_decay=0.5, which was 0.1', 'beta1=0.8, which was 0.9',
                  'micro_batch=2, which was 4'):
        assert f'changed: {words}' in said, words
    assert said.count('changed: ') == 6


def test_two_validation_texts_are_not_mixed_in_one_curve(tmp_path, run, capsys):
    run('a')
    assert 'xz -9e' not in capsys.readouterr().out  # which stands for all of the text; the run validates on a part of it
    with pytest.raises(BadInput, match='validated on 64 tokens, not 128.*--eval_tokens=64'):
        run('a', max_steps=STEPS, eval_tokens=128)


@pytest.mark.slow
def test_the_same_command_resumes_a_run_that_began_with_weights_of_other_sizes(tmp_path, run, monkeypatch):
    run('weights')
    settings = {'init_from': str(tmp_path / 'weights'), 'n_layer': 3, 'n_head': 2, 'n_embd': 32, 'bias': False}
    whole = run('whole', **settings)
    with monkeypatch.context() as patch:
        patch.setattr(train, 'train_step', stopping_at(5))
        run('a', **settings)
    assert run('a', **settings) == whole
    with pytest.raises(BadInput, match='was trained with n_layer=1, not 3'):
        run('a', **{**settings, 'init_from': 'resume'})


@pytest.mark.slow
def test_weights_that_fail_push_no_good_checkpoint_out_of_the_folder(tmp_path, run, monkeypatch):
    real, steps = train.train_step, []

    def train_step(model, raw_model, *arguments):
        row = real(model, raw_model, *arguments)
        steps.append(row)
        if len(steps) == 6:
            with torch.no_grad():
                raw_model.transformer.wte.weight.fill_(math.nan)
        return row
    monkeypatch.setattr(train, 'train_step', train_step)
    with pytest.raises(Diverged, match='last good checkpoint is .*ckpt_0000005.pt'):
        run('a', max_steps=30, checkpoint_interval=1, eval_interval=0)
    assert [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(str(tmp_path / 'a'))] == [6, 5, 4]


def test_json_never_has_nan_and_a_row_with_it_is_read_as_one(tmp_path):
    metrics = Metrics({'out_dir': str(tmp_path), 'tensorboard': False, 'wandb': False}, 0)
    metrics.log(step=1, tokens=5, loss=math.nan, grad_norm=math.inf)
    assert json.loads((tmp_path / 'metrics.jsonl').read_text(), parse_constant=pytest.fail)['loss'] is None
    assert math.isnan(read_metrics(str(tmp_path))[0]['loss'])


def test_a_fresh_run_has_a_new_id_at_weights_and_biases_and_a_resumed_one_keeps_its_own(tmp_path, monkeypatch):
    ids = []
    monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=lambda id, **settings: ids.append(id)))
    for from_step in (0, 5, 9, 0, 3):
        Metrics({'out_dir': str(tmp_path), 'tensorboard': False, 'wandb': True}, from_step)
    assert ids == [ids[0]] * 3 + [ids[3]] * 2 and ids[0] != ids[3]
    (tmp_path / 'wandb_id').write_bytes(b'\xff' * 1000)
    Metrics({'out_dir': str(tmp_path), 'tensorboard': False, 'wandb': True}, 3)
    assert ids[-1] not in ids[:-1] and (tmp_path / 'wandb_id').read_text() == ids[-1]


def test_one_row_without_a_number_leaves_the_rest_of_a_smoothed_curve_as_it_is():
    losses = [5 - i / 100 for i in range(300)]
    smoothed = plot.smooth([*losses[:150], math.nan, *losses[151:]])
    assert all(math.isfinite(value) for value in smoothed)
    assert smoothed == pytest.approx(plot.smooth(losses), abs=0.02)


def test_rows_and_new_folders_are_brought_to_the_disk_with_every_checkpoint(tmp_path, run, monkeypatch):
    synced, real = [], os.fsync

    def fsync(descriptor):
        synced.append(os.readlink(f'/proc/self/fd/{descriptor}'))
        real(descriptor)
    monkeypatch.setattr(os, 'fsync', fsync)
    run('new/a')
    folder = tmp_path / 'new' / 'a'
    assert {str(tmp_path), str(tmp_path / 'new'), str(folder)} <= set(synced)
    first = synced.index(str(folder / 'ckpt_0000002.pt.tmp'))
    assert str(folder / 'metrics.jsonl') in synced[:first + 2]
    assert synced.count(str(folder / 'metrics.jsonl')) >= 4


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('optimizer', ['adamw', 'muon'])
@pytest.mark.parametrize('bad', ['loss', 'gradient of a bias', 'gradient of a matrix'])
def test_a_skipped_step_leaves_every_weight_and_state_as_it_was(tmp_path, run, monkeypatch, dtype, optimizer, bad):
    states, real_step, real_scale = [], train.train_step, train.Optimizers.scale

    def train_step(model, raw_model, optimizers, *arguments):
        def state():
            of_both = [value for of_optimizer in optimizers.list for of_param in of_optimizer.state.values()
                       for value in of_param.values()]
            return [tensor.clone() for tensor in [*raw_model.parameters(), *of_both]]
        before = state()
        row = real_step(model, raw_model, optimizers, *arguments)
        states.append((before, state(), 'skipped' in row))
        return row

    def scale(optimizers, loss):
        if len(states) != 4:
            return real_scale(optimizers, loss)
        if bad == 'loss':
            return real_scale(optimizers, loss * math.nan)
        block = [p for group in optimizers.list[-1].param_groups for p in group['params']] if bad.endswith('matrix') else \
            [p for group in optimizers.list[0].param_groups for p in group['params'] if p.dim() == 1]
        handle = block[0].register_hook(lambda grad: (handle.remove(), grad * math.inf)[1])
        return real_scale(optimizers, loss)
    monkeypatch.setattr(train, 'train_step', train_step)
    monkeypatch.setattr(train.Optimizers, 'scale', scale)
    run('a', dtype=dtype, optimizer=optimizer)
    skipped = [i for i, (_, _, was_skipped) in enumerate(states) if was_skipped]
    assert 4 in skipped and len(skipped) < 8
    for i, (before, after, was_skipped) in enumerate(states):
        same = len(before) == len(after) and all(map(torch.equal, before, after))
        assert same == was_skipped, i


def test_a_folder_is_made_with_those_above_it_and_a_file_in_the_way_is_named(tmp_path):
    make_folder(str(tmp_path / 'a' / 'b' / 'c'))
    assert (tmp_path / 'a' / 'b' / 'c').is_dir()
    (tmp_path / 'file').touch()
    with pytest.raises(BadInput, match='file cannot be made a folder'):
        make_folder(str(tmp_path / 'file' / 'b'))


def test_the_best_checkpoint_is_found_by_the_metrics_where_best_json_is_wrong(tmp_path, run):
    run('a')
    folder = str(tmp_path / 'a')
    best = checkpoint.read_best(folder)
    (tmp_path / 'a' / 'best.json').write_text('{"step": 7, "val_loss": 0.1}')
    assert resume.find_best(folder) == best


@pytest.mark.parametrize('row', [{'loss': 10 ** 400}, {'loss': 1e308}, {'tokens': 10 ** 400, 'loss': 1.0}, {'val_loss': 10 ** 400}])
def test_a_number_too_large_to_be_drawn_is_left_out_of_the_plot(tmp_path, row):
    rows = [{'step': 1, 'tokens': 5, 'loss': 1.0}] * 50 + [{'step': 2, 'tokens': 6, **row}] * 2
    (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    assert run_script('plot.py', f'--out_dir={tmp_path}') == 0
    assert (tmp_path / 'loss.png').stat().st_size > 1000


def test_a_picture_of_no_known_kind_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "tokens": 5, "loss": 1.0}\n')
    assert run_script('plot.py', f'--out_dir={tmp_path}', f'--to={tmp_path}/a.xyz') == 2
    assert 'a.xyz should end in one of .' in capsys.readouterr().err


@pytest.mark.parametrize('n_rows', [1, 99, 200, 1000, 4321])
def test_a_long_run_is_read_in_few_rows_evenly_spaced_with_all_validations(tmp_path, n_rows):
    metrics = Metrics({'out_dir': str(tmp_path), 'tensorboard': False, 'wandb': False}, 0)
    metrics.waiting = [json.dumps({'step': i, 'val_loss' if i % 100 == 0 else 'loss': 1.0}) + '\n' for i in range(n_rows)]
    metrics.write()
    rows = read_metrics(str(tmp_path), most=50)
    steps = [row['step'] for row in rows if 'loss' in row]
    assert [row['step'] for row in rows if 'val_loss' in row] == list(range(0, n_rows, 100))
    assert min(n_rows - 1, 50) <= len(steps) <= 100 and steps == sorted(steps)
    gaps = {b - a for a, b in zip(steps, steps[1:])}
    assert not gaps or max(gaps) <= 2 * n_rows / len(steps)
