import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, merged_metrics, run_script
from test_evaluate import evaluate_to_json
from torch.nn import functional as F

import checkpoint
import plot
import pretrained
import shards
import train
from bpe import Tokenizer
from configurator import configure
from inference.engine import generate
from model import GPT
from runtime.errors import BadInput
from runtime.metrics import read_metrics
from runtime.process import Process

TINY = {'n_layer': 2, 'n_head': 2, 'n_embd': 32, 'block_size': 32, 'total_batch_tokens': 256, 'micro_batch': 4,
        'max_steps': 12, 'warmup_steps': 2, 'learning_rate': 3e-3, 'eval_interval': 4, 'eval_tokens': 700,
        'sample_interval': 0, 'checkpoint_interval': 4, 'device': 'cpu', 'dtype': 'float32'}


@pytest.fixture
def run(tmp_path, data_dir):
    """Trains a tiny model in this process: run('name', key=value, ...) -> its metrics without the clock."""
    def run(name, **settings):
        settings = {**TINY, 'data_dir': data_dir, 'out_dir': str(tmp_path / name), **settings}
        train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))
        return merged_metrics(tmp_path / name)
    return run


def weights(out_dir, step):
    return checkpoint.load(checkpoint.checkpoint_path(str(out_dir), step))['model']


@pytest.fixture
def stop_at(monkeypatch):
    """Makes the run behave, at a step, as if SIGTERM had come during it."""
    def stop_at(step):
        real = train.train_step

        def train_step(model, raw_model, optimizers, batches, config, process, stop):
            if batches.loader.sequence_index == (step - 1) * 8:
                stop.first_at = 0.0
            return real(model, raw_model, optimizers, batches, config, process, stop)
        monkeypatch.setattr(train, 'train_step', train_step)
    yield stop_at


@pytest.mark.slow
@pytest.mark.parametrize('optimizer, dropout, micro_batch', [('adamw', 0.0, 4), ('adamw', 0.2, 8), ('muon', 0.0, 8), ('muon', 0.2, 2)])
@pytest.mark.parametrize('stops', [(5,), (1, 4, 8, 11)])
def test_a_run_that_was_stopped_and_resumed_is_bit_for_bit_the_uninterrupted_one(
        run, stop_at, monkeypatch, tmp_path, optimizer, dropout, micro_batch, stops):
    settings = {'optimizer': optimizer, 'dropout': dropout, 'micro_batch': micro_batch}
    whole = run('whole', **settings)
    for stop in stops:
        stop_at(stop)
        run('parts', **settings)
        left_out = micro_batch < 8  # told to stop between two micro-batches, it does not finish the step
        newest = [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(str(tmp_path / 'parts'))[:1]]
        assert newest == [stop - left_out] or stop == 1 and left_out and newest == []
        assert merged_metrics(tmp_path / 'parts')[-1]['step'] < 12
        monkeypatch.undo()
    assert run('parts', **settings) == whole
    assert len(whole) == 13 and sum('val_loss' in row for row in whole) == 4
    for name, tensor in weights(tmp_path / 'whole', 12).items():
        assert torch.equal(tensor, weights(tmp_path / 'parts', 12)[name]), name


@pytest.mark.slow
def test_losses_do_not_depend_on_the_micro_batch(run):
    losses = {micro_batch: [row.get('loss') for row in run(f'micro{micro_batch}', micro_batch=micro_batch)][1:]
              for micro_batch in (1, 2, 8)}
    assert losses[1] == pytest.approx(losses[8], abs=1e-5) and losses[2] == pytest.approx(losses[8], abs=1e-5)


def test_the_loss_of_the_first_steps_is_that_of_a_plain_loop_over_the_same_sequences(run, data_dir):
    rows = run('ours', max_steps=3, warmup_steps=0, schedule='constant', weight_decay=0.1)
    torch.manual_seed(1337)
    model = GPT(pretrained.model_config({**configure(train.DEFAULTS, []), **TINY, 'vocab_size': 300}))
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW([{'params': matrices, 'weight_decay': 0.1}, {'params': vectors, 'weight_decay': 0.0}],
                                  lr=3e-3, betas=(0.9, 0.95))
    data = shards.BatchLoader(data_dir, 'train', 32, 8, 1337)
    for step in range(3):
        x, y = data.next()
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        assert rows[step + 1]['loss'] == pytest.approx(loss.item(), abs=1e-5)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert rows[step + 1]['grad_norm'] == pytest.approx(norm.item(), rel=1e-3)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.slow
def test_validation_is_the_mean_over_the_same_sequences_whatever_the_micro_batch(run, tmp_path, data_dir):
    rows = [run(f'v{micro_batch}', micro_batch=micro_batch)[-1] for micro_batch in (1, 8)]
    assert rows[0]['val_loss'] == pytest.approx(rows[1]['val_loss'], abs=1e-5)
    model, tokenizer, _ = pretrained.load(str(tmp_path / 'v8'))
    tokens = torch.from_numpy(shards.read_shard(os.path.join(data_dir, 'tiny_val_000000.bin')).astype('int64'))
    n = 700 // 32
    x, y = tokens[:n * 32].view(n, 32), tokens[1:n * 32 + 1].view(n, 32)
    with torch.no_grad():
        nats = F.cross_entropy(model.eval()(x).flatten(0, 1).double(), y.flatten(), reduction='sum').item()
    n_bytes = sum(len(tokenizer.decode([i]).encode()) if i < 128 else len(tokenizer.token_bytes(i))
                  for i in y.flatten().tolist() if i != tokenizer.eot)
    assert rows[1]['val_loss'] == pytest.approx(nats / (n * 32), rel=1e-5)
    assert rows[1]['val_ppl'] == pytest.approx(math.exp(nats / (n * 32)), rel=1e-5)
    assert rows[1]['val_bpb'] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-5)


def test_training_learns(run):
    rows = run('learns', max_steps=60, eval_interval=60)
    assert rows[-1]['val_loss'] < rows[0]['val_loss'] - 1.0


def test_the_learning_rate_warms_up_and_then_follows_its_schedule():
    config = {'learning_rate': 1.0, 'min_lr': 0.1, 'warmup_steps': 10, 'max_steps': 110, 'wsd_decay': 0.5}
    factor = lambda step, schedule: train.learning_rate_factor(step, {**config, 'schedule': schedule})  # noqa: E731
    for schedule in ('cosine', 'wsd', 'constant'):
        assert [factor(step, schedule) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert [factor(step, 'constant') for step in (10, 60, 109)] == [1.0, 1.0, 1.0]
    assert [factor(step, 'cosine') for step in (10, 35, 60, 110)] == pytest.approx(
        [1.0, 0.1 + 0.45 * (1 + math.sqrt(0.5)), 0.55, 0.1])
    assert [factor(step, 'wsd') for step in (10, 55, 82.5, 110)] == pytest.approx([1.0, 1.0, 0.55, 0.1])


@pytest.mark.parametrize('schedule', ['cosine', 'wsd', 'constant'])
@pytest.mark.parametrize('learning_rate', [1e-5, 3e-3, 10.0])
def test_no_learning_rate_rises_after_the_warm_up_unless_min_lr_says_so(schedule, learning_rate):
    config = configure(train.DEFAULTS, [f'--learning_rate={learning_rate}', f'--schedule={schedule}', '--max_steps=50'])
    factors = [train.learning_rate_factor(step, {**config, 'warmup_steps': 5}) for step in range(50)]
    assert factors[5:] == sorted(factors[5:], reverse=True) and factors[4] == max(factors) == 1
    assert factors[-1] >= 0.1 and (factors[-1] == 1 if schedule == 'constant' else factors[-1] < 0.2)


def test_a_min_lr_above_the_learning_rate_is_refused_where_the_schedule_ends_at_it(run, capsys):
    for schedule in ('cosine', 'wsd'):
        with pytest.raises(BadInput, match='min_lr=0.1 is above learning_rate=0.003.*leave min_lr out'):
            run('a', min_lr=0.1, schedule=schedule)
    assert run('a', min_lr=0.1, schedule='constant', max_steps=1)[-1]['step'] == 1


def test_the_newest_three_checkpoints_and_the_best_are_kept(tmp_path):
    writer = checkpoint.BackgroundWriter(str(tmp_path))
    for step in range(1, 8):
        writer.step = step
        writer.save({'step': step, 'model': {}, 'config': {}})
        if step == 2:
            writer.note_best(2, 1.0)
    writer.wait()
    assert [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(str(tmp_path))] == [7, 6, 5, 2]
    assert not list(tmp_path.glob('*.tmp'))


@pytest.mark.slow
@pytest.mark.parametrize('damage', ['cut', 'flip', 'empty', 'text'])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(run, tmp_path, capsys, damage):
    whole = run('a')
    path = tmp_path / 'a' / 'ckpt_0000012.pt'
    content = bytearray(path.read_bytes())
    if damage == 'flip':
        content[len(content) // 2] ^= 1
    path.write_bytes({'cut': content[:-1000], 'flip': content, 'empty': b'', 'text': b'hello'}[damage])
    assert run('a') == whole
    assert 'ckpt_0000012.pt' in capsys.readouterr().err


def test_a_checkpoint_holds_plain_names_and_never_runs_code(run, tmp_path):
    run('a', max_steps=4)
    state = checkpoint.load(str(tmp_path / 'a' / 'ckpt_0000004.pt'))
    assert all(name.startswith('transformer.') for name in state['model'])
    assert state['model']['transformer.wte.weight'].untyped_storage().nbytes() == 300 * 32 * 4
    evil = tmp_path / 'evil.pt'
    torch.save({'model': {}, 'config': {}, 'step': pathlib.PurePosixPath('x')}, evil)
    with pytest.raises(BadInput, match='not loaded'):
        checkpoint.load(str(evil))


@pytest.mark.slow
def test_a_finished_run_says_so_and_a_larger_max_steps_trains_on(run, capsys):
    first = run('a')
    capsys.readouterr()
    assert run('a') == first and 'is done: it is at step 12, and max_steps is 12;' in capsys.readouterr().out
    assert len(run('a', max_steps=14)) == 15


def test_fewer_steps_than_are_made_end_the_run_at_once(run, capsys):
    run('a', max_steps=6)
    rows = run('a', max_steps=5)
    assert rows[-1]['step'] == 6 and 'val_loss' in rows[-1]


def test_samples_and_a_plot_are_left_in_the_folder(run, tmp_path, capsys):
    run('a', sample_interval=6, sample_tokens=20)
    assert sorted(path.name for path in (tmp_path / 'a' / 'samples').iterdir()) == ['step_0000006.txt', 'step_0000012.txt']
    assert (tmp_path / 'a' / 'loss.png').read_bytes().startswith(b'\x89PNG')
    output = capsys.readouterr().out
    assert '--- sample at step 12' in output and 'best validation loss' in output and 'bits per byte' in output


@pytest.mark.slow
def test_every_start_leaves_what_it_can_be_traced_by(run, tmp_path):
    run('a', max_steps=4)
    run('a', max_steps=6)
    starts = [json.loads((tmp_path / 'a' / name).read_text()) for name in ('run_0000000.json', 'run_0000004.json')]
    assert [start['config']['max_steps'] for start in starts] == [4, 6]
    assert f'torch=={torch.__version__}'.split('+')[0] in ' '.join(starts[0]['packages'])
    commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert starts[1]['commit'] == (commit or None)


@pytest.mark.slow
def test_a_signal_during_an_evaluation_saves_and_the_evaluation_is_repeated(run, monkeypatch, tmp_path):
    whole, real = run('whole'), shards.BatchLoader.next

    def next_batch(loader):
        if loader.split == 'val' and len(checkpoint.list_checkpoints(str(tmp_path / 'parts'))):
            os.kill(os.getpid(), signal.SIGTERM)
        return real(loader)
    monkeypatch.setattr(shards.BatchLoader, 'next', next_batch)
    assert 'val_loss' not in run('parts')[-1]
    monkeypatch.undo()
    assert run('parts') == whole


@pytest.mark.slow
def test_training_starts_from_given_weights_with_a_shorter_block(run, tmp_path):
    first = run('a')
    again = run('b', init_from=str(tmp_path / 'a'), max_steps=1, learning_rate=1e-9, min_lr=0.0)
    assert again[0]['val_loss'] == pytest.approx(first[-1]['val_loss'], abs=1e-6)
    model, tokenizer, _ = pretrained.load(str(tmp_path / 'a'))
    pretrained.save(model, str(tmp_path / 'hf'))
    tokenizer.save(tmp_path / 'hf' / 'tokenizer.json')
    shorter = run('c', init_from=str(tmp_path / 'hf'), block_size=16, max_steps=1)
    assert abs(shorter[0]['val_loss'] - first[-1]['val_loss']) < 0.5
    with pytest.raises(BadInput, match='block_size=64.*32'):
        run('d', init_from=str(tmp_path / 'hf'), block_size=64)
    assert not (tmp_path / 'd').exists()


def test_a_block_size_that_is_not_given_is_that_of_the_weights_and_stays_it_without_them(run, tmp_path):
    run('a', max_steps=1)
    run('b', init_from=str(tmp_path / 'a'), block_size=None, max_steps=1)
    os.rename(tmp_path / 'a', tmp_path / 'gone')
    assert run('b', init_from=str(tmp_path / 'a'), block_size=None, max_steps=2)[-1]['step'] == 2
    assert checkpoint.load(str(tmp_path / 'b' / 'ckpt_0000002.pt'))['config']['block_size'] == 32
    assert pretrained.block_size_of(str(tmp_path / 'b' / 'ckpt_0000001.pt')) == 32


def test_data_for_weights_with_a_tokenizer_of_their_own_is_made_with_that_one(run, tmp_path, data_dir, texts):
    run('a', max_steps=1)
    tokenizer = f'--tokenizer={tmp_path}/a/tokenizer.json'
    with pytest.raises(BadInput, match=f'config/finetune.py needs .* --source=mytext.txt {tokenizer} --out_dir='):
        run('b', init_from=str(tmp_path / 'a'), data_dir=str(tmp_path / 'finetune'))
    shutil.copytree(data_dir, tmp_path / 'other')
    meta = json.loads((tmp_path / 'other' / 'meta.json').read_text())
    changed = Tokenizer.train([text[::-1] for text in texts], 300, progress=False).to_json()
    (tmp_path / 'other' / 'tokenizer.json').write_text(changed)
    meta['tokenizer_sha256'] = hashlib.sha256(changed.encode()).hexdigest()
    (tmp_path / 'other' / 'meta.json').write_text(json.dumps(meta))
    with pytest.raises(BadInput, match=f'another tokenizer than .*: python corpus.py --source=TEXTS {tokenizer} --out_dir='):
        run('b', init_from=str(tmp_path / 'a'), data_dir=str(tmp_path / 'other'))


@pytest.mark.slow
def test_tasks_are_scored_at_intervals_as_by_evaluate(run, tmp_path):
    source = tmp_path / 'hellaswag.jsonl'
    source.write_text(''.join(json.dumps({
        'activity_label': 'Coding', 'ctx': f'def f{i}(x):', 'ctx_a': f'def f{i}(x):', 'ctx_b': '',
        'endings': [f'return {j} * x' for j in range(4)], 'label': i % 4}) + '\n' for i in range(12)))
    settings = {'eval_tasks': 'hellaswag', 'eval_tasks_interval': 8, 'eval_tasks_source': source, 'eval_tasks_limit': 10,
                'block_size': 64}
    rows = run('a', **settings)
    assert [row['step'] for row in rows if 'hellaswag_acc' in row] == [0, 8, 12]
    scores = evaluate_to_json(str(tmp_path / 'a'), tmp_path / 'a.json', tasks='hellaswag', source=source, limit=10)['tasks']['hellaswag']
    for metric in ('acc', 'acc_norm', 'acc_norm_stderr'):
        assert rows[-1][f'hellaswag_{metric}'] == scores[metric]
    with pytest.raises(BadInput, match='eval_tasks_interval=3'):
        run('b', **{**settings, 'eval_tasks_interval': 3})
    rows = run('c', **{**settings, 'eval_tasks_interval': 0})
    assert [row['step'] for row in rows if 'hellaswag_acc' in row] == [0, 4, 8, 12]


@pytest.mark.slow
def test_a_run_without_a_better_loss_for_long_enough_ends_and_a_kill_at_the_end_changes_nothing(run, tmp_path, capsys):
    settings = dict(learning_rate=1e-9, min_lr=0.0, max_steps=100, eval_interval=2, patience=3, checkpoint_interval=5)
    rows = run('a', **settings)  # learns nothing: rounding alone decides which validation is the best
    losses = {row['step']: row['val_loss'] for row in rows if 'val_loss' in row}
    end, best = max(losses), min(losses, key=losses.get)
    assert end - best == 6 and end < 100
    assert 'done: ' in capsys.readouterr().out
    run('a', **settings)
    assert 'is done' in capsys.readouterr().out
    os.remove(checkpoint.checkpoint_path(str(tmp_path / 'a'), end))  # as if killed before that one was whole
    assert run('a', **settings) == rows
    rows = run('a', **{**settings, 'patience': 4})
    assert rows[-1]['step'] > end


def test_processes_that_found_different_checkpoints_all_say_so(monkeypatch):
    steps = [3000, 2000]
    process = Process({'device': 'cpu', 'dtype': 'float32'})
    monkeypatch.setattr(process, 'gather', lambda step: steps)
    for step in steps:
        with pytest.raises(BadInput, match='out_dir must be a folder that all'):
            process.check_same_step(step)
    steps[1] = 3000
    process.check_same_step(3000)


@pytest.mark.slow
def test_data_that_has_grown_since_the_checkpoint_is_said(run, tmp_path, data_dir, capsys):
    run('a', max_steps=4)
    grown = tmp_path / 'grown'
    shutil.copytree(data_dir, grown)
    tokens = shards.read_shard(str(grown / 'tiny_train_000001.bin'))
    shards.write_shards([tokens], str(grown), 'tiny', 'train', first=9)
    capsys.readouterr()
    run('a', data_dir=str(grown))
    assert 'another order' in capsys.readouterr().out


def test_scratch_and_other_shapes_refuse_to_write_over_a_run(run, tmp_path):
    run('a', max_steps=4)
    for settings, words in ((dict(init_from='scratch'), ['ckpt_0000004.pt', '--init_from=resume']),
                            (dict(n_layer=3), ['n_layer=2', '3']), (dict(init_from='gpt2'), ['ckpt_0000004.pt'])):
        with pytest.raises(BadInput) as error:
            run('a', **settings)
        assert all(word in str(error.value) for word in words)
    with pytest.raises(BadInput, match='has no checkpoint'):
        run('b', init_from='resume')


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('g++') is None, reason='torch.compile needs a C++ compiler')
def test_training_evaluating_and_sampling_work_compiled_and_nothing_is_compiled_twice(run, tmp_path):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = run('plain', sample_interval=4, sample_tokens=40)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 0
    compiled = run('compiled', sample_interval=4, sample_tokens=40, compile=True)
    assert [row['val_loss'] for row in compiled if 'val_loss' in row] == pytest.approx(
        [row['val_loss'] for row in plain if 'val_loss' in row], abs=1e-3)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 2  # one to train, one to evaluate
    assert 'recompiles' not in torch._dynamo.utils.counters
    assert all(name.startswith('transformer.') for name in weights(tmp_path / 'compiled', 12))


def command(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = run_script(*arguments)
    return code, out.getvalue(), err.getvalue()


def break_copies_of(data_dir, folder):
    """folder/cut, with a shard that is too short, and folder/wrong_id, with one that has a token of no vocabulary."""
    for name in ('cut', 'wrong_id'):
        shutil.copytree(data_dir, folder / name)
        shard = folder / name / 'tiny_train_000001.bin'
        content = bytearray(shard.read_bytes())
        content[5000:5002] = (60_000).to_bytes(2, 'little')
        shard.write_bytes(content if name == 'wrong_id' else content[:-100])


@pytest.mark.parametrize('case', ['no data', 'truncated shard', 'token id', 'batch', 'micro batch', 'heads', 'unreadable',
                                  'resume', 'weights', 'device', 'block', 'warm-up'])
def test_bad_input_gives_one_line_and_exit_code_2_and_writes_nothing(tmp_path, data_dir, case):
    out_dir = tmp_path / 'out'
    (tmp_path / 'garbage.pt').write_bytes(b'not a checkpoint')
    break_copies_of(data_dir, tmp_path)
    flags, words = {
        'no data': (['--data_dir=nowhere'], ['nowhere', 'python corpus.py --source=TEXTS']),
        'truncated shard': ([f'--data_dir={tmp_path}/cut'], ['tiny_train_000001.bin', 'cut short']),
        'token id': ([f'--data_dir={tmp_path}/wrong_id'], ['60000', '300']),
        'batch': (['--total_batch_tokens=1000'], ['total_batch_tokens=1000', '--total_batch_tokens=1024']),
        'micro batch': (['--micro_batch=3'], ['micro_batch 3', '--total_batch_tokens=']),
        'heads': (['--n_head=3'], ['n_head=3', 'n_head=']),
        'unreadable': ([f'--init_from={tmp_path}/garbage.pt'], ['garbage.pt']),
        'resume': (['--init_from=resume'], ['no checkpoint']),
        'weights': (['--init_from=nothing-like-it'], ['nothing-like-it']),
        'device': (['--device=tpu'], ['device=tpu']),
        'warm-up': (['--warmup_steps=-5'], ['warmup_steps=-5', 'at least 0']),
        'block': (['--block_size=100_000', '--total_batch_tokens=100_000', '--micro_batch=1'], ['--block_size=']),
    }[case]
    settings = {**TINY, 'data_dir': data_dir, 'out_dir': str(out_dir)}
    code, out, err = command('train.py', *(f'--{key}={value}' for key, value in settings.items()), *flags)
    assert code == 2 and err.count('\n') == 1, err
    assert all(word in err for word in words), err
    assert not out_dir.exists()


def test_settings_that_will_disappoint_are_said_before_the_first_step(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train.hardware, 'measure_peak_flops', lambda device, dtype: 1e4)
    run('slow', max_steps=1, warmup_steps=0, min_lr=0, schedule='wsd', wsd_decay=1.0)
    assert 'will take about' in capsys.readouterr().out
    monkeypatch.setattr(train, 'train', lambda *arguments: None)
    run('long', max_steps=20_000)
    said = capsys.readouterr().out
    assert 'expect that the model learns it by heart (--max_steps=' in said and '--dropout=0.2' in said


@pytest.mark.slow
def test_a_learning_rate_that_goes_up_again_is_said(run, capsys):
    run('a', schedule='wsd', wsd_decay=0.5)
    assert 'goes back up' not in capsys.readouterr().out
    run('a', schedule='wsd', wsd_decay=0.5, max_steps=24)
    assert 'come down to 0.00075 and goes back up to 0.003' in capsys.readouterr().out


def test_a_run_that_has_learned_its_text_by_heart_says_so_and_which_checkpoint_was_better(run, tmp_path, monkeypatch, capsys):
    def validate(losses):
        losses = iter(losses)
        monkeypatch.setattr(train, 'validation_loss', lambda *_: dict.fromkeys(('val_loss', 'val_ppl', 'val_bpb'), next(losses)))

    validate([5.0, 4.0, 4.5, 4.6])
    run('a')
    said = capsys.readouterr().out
    assert 'has learned the text by heart: fewer steps, more text or --dropout=0.2' in said
    best = tmp_path / 'a' / 'ckpt_0000004.pt'
    assert f'try it as it was then: python sample.py --init_from={best}\n' in said and best.exists() and 'to train on:' not in said
    validate([5.0, 4.0, 4.5, 4.6])
    monkeypatch.setattr('runtime.report.has_fallen', lambda *_: False)  # as after a rate that went up again
    run('b')
    assert 'by heart' not in capsys.readouterr().out


def test_a_file_in_the_place_of_the_runs_folder_is_left_alone(run, tmp_path):
    (tmp_path / 'a').write_text('mine')
    with pytest.raises(BadInput, match='is a file; it should be a folder'):
        run('a')
    assert (tmp_path / 'a').read_text() == 'mine'


@pytest.mark.parametrize('path', sorted((ROOT / 'config').glob('*.py')), ids=lambda path: path.stem)
def test_every_config_is_short_says_what_it_is_for_and_fits(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 26 and text.startswith('# ')
    config = configure(train.DEFAULTS, [str(path)])
    config['block_size'] = config['block_size'] or 1024
    pretrained.model_config({**config, 'vocab_size': 50257})
    assert config['total_batch_tokens'] % config['block_size'] == 0
    assert config['warmup_steps'] < config['max_steps']


@pytest.mark.slow
def test_sampling_writes_what_the_model_generates_and_the_same_for_a_seed(run, tmp_path):
    run('a')
    flags = [f'--out_dir={tmp_path / "a"}', '--prompt=def ', '--seed=3', '--max_new_tokens=20', '--device=cpu', '--dtype=float32']
    code, out, err = command('sample.py', *flags)
    assert code == 0 and out.startswith('def ') and 'tokens/s' in err
    model, tokenizer, _ = pretrained.load(str(tmp_path / 'a'))
    idx = torch.tensor([tokenizer.encode('def ')])
    tokens = generate(model, idx, 20, temperature=0.8, top_k=50, seed=3, stop_tokens=(tokenizer.eot,))[0].tolist()
    assert out == tokenizer.decode([token for token in tokens if token != tokenizer.eot]) + '\n'
    assert command('sample.py', *flags)[1] == out
    piped = subprocess.run([sys.executable, 'sample.py', *flags[:1], *flags[2:], '--prompt_file=-'], cwd=ROOT, text=True,
                           input='def ', capture_output=True)
    assert piped.stdout == out


@pytest.mark.slow
@pytest.mark.parametrize('flags, word', [(['--prompt_file=none.txt'], 'none.txt'), (['--temperature=-1'], 'temperature'),
                                         (['--out_dir=nowhere/at/all'], 'nowhere/at/all'), (['--num_samples=0'], 'num_samples'),
                                         (['--init_from=gpt5'], 'gpt5')])
def test_sampling_from_bad_input_gives_one_line(run, tmp_path, flags, word):
    run('a', max_steps=1)
    code, out, err = command('sample.py', f'--out_dir={tmp_path / "a"}', *flags)
    assert code == 2 and word in err.splitlines()[-1] and out.strip() == ''
    assert 'Traceback' not in err


@pytest.mark.slow
def test_the_loss_curve_is_drawn_each_minute_by_another_process(run, tmp_path, monkeypatch):
    run('a')
    picture = tmp_path / 'a' / 'loss.png'
    picture.unlink()
    clock, curve = [0.0], plot.LossCurve(str(tmp_path / 'a'))
    monkeypatch.setattr(plot.time, 'monotonic', lambda: curve.begun_at + clock[0])
    clock[0] = 59
    curve.draw_if_due()
    assert curve.background is None
    clock[0] = 61
    curve.draw_if_due()
    curve.end_background()
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_whatever_goes_wrong_with_drawing_is_a_warning(tmp_path, capsys):
    curve = plot.LossCurve(str(tmp_path), every_s=0)  # where there are no metrics
    curve.draw_if_due()
    curve.end_background()
    assert 'the plot was not drawn: ' in (err := capsys.readouterr().err) and 'metrics.jsonl has no row yet' in err and err.count('\n') == 1


def test_plots_of_several_runs_go_into_one_picture(run, tmp_path):
    run('a')
    run('b', learning_rate=1e-3)
    code, out, err = command('plot.py', f'--out_dir={tmp_path / "a"},{tmp_path / "b"}', f'--to={tmp_path / "both.png"}')
    assert code == 0 and (tmp_path / 'both.png').read_bytes().startswith(b'\x89PNG')
    last = read_metrics(str(tmp_path / 'b'))[-1]
    assert [str(tmp_path / 'b'), '12', '3,072', f'{last["val_loss"]:.4f}'] in [line.split()[:4] for line in out.splitlines()]
    assert command('plot.py', str(tmp_path / 'a'), str(tmp_path / 'b'))[1].splitlines() == [
        *out.splitlines()[:-1], str(tmp_path / 'comparison.png')]
    code, out, err = command('plot.py', f'--out_dir={tmp_path / "none"}')
    assert code == 2 and err == f'plot.py: {tmp_path}/none has no metrics.jsonl to draw; there are runs in {tmp_path}/a, {tmp_path}/b\n'


def test_runs_to_plot_are_folders_and_globs(tmp_path):
    for name in ('lr_1', 'lr_2', 'other'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'metrics.jsonl').write_text('{"step": 0}\n')
    (tmp_path / 'lr_notes.txt').write_text('')
    (tmp_path / 'lr_none').mkdir()
    lr_1, lr_2, other = (str(tmp_path / name) for name in ('lr_1', 'lr_2', 'other'))
    assert plot.find_runs(f'{other},{tmp_path}/lr_*') == [other, lr_1, lr_2]
    assert plot.find_runs(f'{lr_1},{tmp_path}/lr_?') == [lr_1, lr_2]
    for nothing in (f'{tmp_path}/x*', str(tmp_path), f'{tmp_path}/lr_none', f'{lr_1},'):
        with pytest.raises(BadInput, match='has no metrics.jsonl'):
            plot.find_runs(nothing)
    with pytest.raises(BadInput, match=f'there are runs in {re.escape(f"{lr_1}, {lr_2}, {other}")}$'):
        plot.find_runs(str(tmp_path))


@pytest.mark.slow
def test_metrics_after_a_kill_in_the_middle_of_a_line_can_be_read_and_gone_on_with(run, tmp_path):
    whole = run('whole')
    run('a', max_steps=8)
    path = tmp_path / 'a' / 'metrics.jsonl'
    path.write_bytes(path.read_bytes() + json.dumps({'step': 9, 'loss': 1.0}).encode()[:10])
    assert [row['step'] for row in run('a')] == [row['step'] for row in whole]


def test_a_smoothed_curve_is_the_mean_of_neighbours_and_never_leaves_their_range():
    losses = [8 / (1 + step / 20) + 0.3 * (-1) ** step for step in range(400)]
    smoothed = plot.smooth(losses)
    for i, value in enumerate(smoothed):
        near = losses[max(0, i - 20):i + 21]
        assert min(near) <= value <= max(near)
        assert i > 8 or value == pytest.approx(losses[i])
    assert smoothed[200] == pytest.approx(sum(losses[180:221]) / 41)
    assert smoothed[-1] == pytest.approx(sum(losses[-21:]) / 21)


def test_a_picture_marks_where_data_are_read_again_and_where_the_learning_rate_falls(run, data_dir):
    n_sequences = shards.BatchLoader(data_dir, 'train', 32, 8, 0).n_sequences
    per_pass = math.ceil(n_sequences / 8)  # steps of 8 sequences, of 32 tokens each
    rows = run('a', max_steps=2 * per_pass + 2, eval_interval=0, schedule='wsd', wsd_decay=0.25)
    trained = [row for row in rows if 'loss' in row]
    assert trained[-1]['epoch'] == pytest.approx((2 * per_pass + 2) * 8 / n_sequences)
    begins = [math.ceil(k * n_sequences / 8) * 256 for k in (1, 2)]
    last_highest = max(i for i, row in enumerate(trained) if row['lr'] == pytest.approx(3e-3))
    assert plot.changes(trained) == [(begins[0], 'pass 2 over the data'), (begins[1], 'pass 3 over the data'),
                                     (trained[last_highest]['tokens'], 'the learning rate falls')]
    assert plot.changes([{**row, 'lr': 1.0, 'epoch': i} for i, row in enumerate(trained)])[1:] == []  # too many lines for a picture
    assert plot.changes([{key: row[key] for key in ('tokens', 'loss', 'lr')} for row in trained[:5]]) == []  # warm-up alone


def test_a_run_that_is_not_there_is_refused_with_those_that_are(run, tmp_path):
    with pytest.raises(BadInput, match='config/demo.py'):
        pretrained.load(str(tmp_path / 'nope'))
    run('a', max_steps=4)
    with pytest.raises(BadInput, match=f'no config.json; there are checkpoints in {re.escape(str(tmp_path / "a"))}'):
        pretrained.load(str(tmp_path))
    with pytest.raises(BadInput, match=f'nope does not exist; there are checkpoints in {re.escape(str(tmp_path / "a"))}'):
        pretrained.load(str(tmp_path / 'nope'))
