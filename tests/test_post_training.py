"""DPO and GRPO: losses and gradients beside references, what they teach, and runs that are killed."""
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, merged_metrics
from torch.nn import functional as F

import checkpoint
import export
import pretrained
from bpe import Tokenizer
from chat_template import encode_answer, encode_prompt, stop_tokens, with_chat_tokens
from configurator import configure
from model import GPT, GPTConfig
from runtime.errors import BadInput
from tasks import dpo, grpo
from tasks.dpo import dpo_losses
from tasks.grpo import distances, group_advantages, policy_losses
from tasks.post_training import numbers_of_step, token_logprobs


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    """A folder with a tiny random model that knows the tokens of a conversation."""
    tokenizer = with_chat_tokens(Tokenizer.train(['good bad'], 257, progress=False))
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=96, vocab_size=tokenizer.vocab_size, n_layer=1, n_head=2, n_embd=16))
    folder = str(tmp_path_factory.mktemp('start'))
    export.export(model, tokenizer, folder)
    return folder


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
    """A file of 60 preferences: the better answer says good, the worse one says bad."""
    path = tmp_path_factory.mktemp('pairs') / 'pairs.jsonl'
    rows = [{'prompt': f'Is {i} good?', 'chosen': f'{i} is good', 'rejected': f'{i} is bad'} for i in range(60)]
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return str(path)


def flags(module, **settings):
    tiny = {'device': 'cpu', 'dtype': 'float32', 'threads': 1, 'max_steps': 4, 'micro_batch': 4, 'eval_interval': 2,
            'checkpoint_interval': 2, 'warmup_steps': 1}
    tiny |= {'batch_pairs': 8} if module is dpo else {'batch_problems': 4, 'group_size': 2, 'n_eval': 4, 'max_new_tokens': 12}
    return [f'--{key}={value}' for key, value in {**tiny, **settings}.items()]


def run(module, **settings):
    module.main(configure(module.DEFAULTS, flags(module, **settings)))


# ---------------------------------------------------------------------------- losses and gradients

def reference_logprob(model, prompt, answer):
    """log p of an answer, one token after the other, in float64."""
    ids = torch.tensor([prompt + answer])
    logits = model(ids[:, :-1]).double()[0]
    return sum(logits[len(prompt) - 1 + i].log_softmax(-1)[token] for i, token in enumerate(answer))


def test_dpo_loss_and_gradient_are_those_of_the_papers_formula(start, process):
    tokenizer = pretrained.load_tokenizer(start)
    texts = [('Is it?', 'yes, good', 'no'), ('Why?', 'because', 'bad bad bad'), ('2+3?', '<<2+3=5>>5', '6')]
    rows = [(encode_prompt([{'role': 'user', 'content': prompt}], tokenizer),
             *([*encode_answer(answer, tokenizer), stop_tokens(tokenizer)[0]] for answer in answers)) for prompt, *answers in texts]
    first, _, _ = pretrained.load(start, kernels='torch')
    gradients = []
    for by_hand in (True, False):
        model, _, _ = pretrained.load(start, kernels='torch')
        with torch.no_grad():
            for i, parameter in enumerate(model.parameters()):  # another model than the reference
                parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
        if by_hand:
            loss = 0
            for prompt, better, worse in rows:
                gain = [reference_logprob(model, prompt, answer) - reference_logprob(first, prompt, answer).detach()
                        for answer in (better, worse)]
                loss = loss - torch.log(1 / (1 + torch.exp(-0.3 * (gain[0] - gain[1])))) / len(rows)
        else:
            flat = dpo.flatten(rows)
            logprobs, owners = token_logprobs(model, flat, process)
            totals = logprobs.new_zeros(6).index_add(0, owners, logprobs).view(-1, 2)
            loss = dpo_losses(totals, dpo.both_logprobs(first, rows, process, 4).to(totals), 0.3)[0].mean()
        loss.backward()
        gradients.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    assert gradients[0][0] == pytest.approx(gradients[1][0], abs=1e-5)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=0, atol=1e-5)
    assert gradients[0][1].abs().max() > 0.01


def test_the_policy_gradient_is_that_of_the_expected_reward():
    """A policy of one step over 5 actions, for which the expectation can be written down."""
    torch.manual_seed(0)
    logits, reward = torch.randn(5, dtype=torch.float64, requires_grad=True), torch.tensor([0., 1, 0, 1, 0], dtype=torch.float64)
    probabilities = logits.softmax(0)
    (expected,) = torch.autograd.grad(-(probabilities * reward).sum(), logits)
    baseline = (probabilities * reward).sum().detach()
    logprobs = logits.log_softmax(0)
    losses = policy_losses(logprobs, reward - baseline)
    (ours,) = torch.autograd.grad((probabilities.detach() * losses).sum(), logits)
    torch.testing.assert_close(ours, expected)


def test_advantages_are_rewards_in_standard_deviations_of_their_group():
    rewards = torch.tensor([[0., 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]])
    expected = [[(reward - sum(row) / 4) / max(1e-6, math.sqrt(sum((r - sum(row) / 4) ** 2 for r in row) / 4)) for reward in row]
                for row in rewards.tolist()]
    torch.testing.assert_close(group_advantages(rewards), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_the_estimate_of_the_distance_is_unbiased_and_never_negative():
    torch.manual_seed(0)
    new, old = torch.randn(2, 7, dtype=torch.float64).log_softmax(-1)
    estimates = distances(new, old)
    assert (estimates >= 0).all()
    torch.testing.assert_close((new.exp() * estimates).sum(), F.kl_div(old, new, log_target=True, reduction='sum'))


def test_every_epoch_takes_every_row_once_in_another_order():
    taken = list(itertools.chain.from_iterable(numbers_of_step(step, 6, 20, seed=3) for step in range(10)))
    epochs = [taken[i:i + 20] for i in range(0, 60, 20)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]


def test_tokens_that_the_calculator_wrote_have_no_gradient(start, process):
    config = configure(grpo.DEFAULTS, flags(grpo)) | {'block_size': 96}
    model, tokenizer, _ = pretrained.load(start, kernels='torch')
    task = grpo.WordProblems(config, process, model, tokenizer)
    (sequence,) = task.write_solutions([{'question': 'How many?'}], 1, temperature=0)
    wrote = token_logprobs(model, [(sequence.ids[:-len(sequence.tokens)], sequence.tokens)], process)[0]
    sequence.forced = set(range(2, len(sequence.tokens)))
    loss = task.loss([sequence], [1.0])
    grads = torch.autograd.grad(loss, model.transformer.ln_f.weight, retain_graph=True)
    expected = torch.autograd.grad(-wrote[:2].sum(), model.transformer.ln_f.weight)
    torch.testing.assert_close(grads, expected)


# ---------------------------------------------------------------------------- what they teach

@pytest.mark.slow
def test_dpo_teaches_to_prefer_the_better_answer(start, pairs, tmp_path):
    run(dpo, init_from=start, source=pairs, out_dir=tmp_path / 'out', max_steps=60, learning_rate=3e-3, val_fraction=0.2)
    scores = [row for row in merged_metrics(tmp_path / 'out') if 'val_accuracy' in row]
    assert scores[0]['val_loss'] == pytest.approx(math.log(2), abs=1e-6)  # the model is the reference
    assert scores[-1]['val_accuracy'] > 0.95 and scores[-1]['val_loss'] < 0.3
    model, _, _ = pretrained.load(str(tmp_path / 'out'))  # a run like any other
    assert model.config.n_embd == 16


@pytest.mark.slow
def test_grpo_makes_what_is_rewarded_likelier(start, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo.WordProblems, 'reward', lambda self, sequence, problem: float(
        sum(token < 128 for token in sequence.tokens) > len(sequence.tokens) / 2))
    run(grpo, init_from=start, out_dir=tmp_path / 'out', max_steps=40, learning_rate=1e-2, group_size=8, eval_interval=40)
    rewards = [row['reward'] for row in merged_metrics(tmp_path / 'out') if 'reward' in row]
    assert sum(rewards[-5:]) / 5 > 0.9 > 0.8 > sum(rewards[:5]) / 5


# ---------------------------------------------------------------------------- interrupted runs

def weights(folder):
    return checkpoint.find(str(folder))[1]['model']


@pytest.mark.parametrize('module, Task', [(dpo, dpo.Preferences), (grpo, grpo.WordProblems)])
def test_a_killed_run_resumes_bit_for_bit(module, Task, start, pairs, tmp_path, monkeypatch):
    settings = {'init_from': start, 'max_steps': 6} | ({'source': pairs} if module is dpo else {'kl_coef': 0.1})
    run(module, out_dir=tmp_path / 'whole', **settings)
    gradient = Task.gradient
    for n in (1, 3, 4):
        calls = itertools.count(1)

        def killed(task, step, check_stop, calls=calls, n=n):
            row = gradient(task, step, check_stop)
            if next(calls) == n:
                raise MemoryError
            return row

        monkeypatch.setattr(Task, 'gradient', killed)
        with pytest.raises(MemoryError):
            run(module, out_dir=tmp_path / 'killed', **settings)
    monkeypatch.setattr(Task, 'gradient', gradient)
    run(module, out_dir=tmp_path / 'killed', **settings)
    whole, killed = weights(tmp_path / 'whole'), weights(tmp_path / 'killed')
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert merged_metrics(tmp_path / 'whole') == merged_metrics(tmp_path / 'killed')


@pytest.mark.slow
def test_ctrl_c_saves_and_the_run_goes_on_from_there(start, tmp_path):
    settings = {'init_from': start, 'max_steps': 80, 'eval_interval': 20}
    run(grpo, out_dir=tmp_path / 'whole', **settings)
    command = [sys.executable, '-m', 'tasks.grpo', *flags(grpo, out_dir=tmp_path / 'stopped', **settings)]
    metrics = tmp_path / 'stopped' / 'metrics.jsonl'
    for _ in range(2):
        before = metrics.read_bytes() if metrics.exists() else None
        child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        while child.poll() is None and (not metrics.exists() or metrics.read_bytes() == before):
            time.sleep(0.05)  # until it has begun
        time.sleep(random.uniform(0, 0.5))
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate()
        assert child.returncode == 0, errors.decode()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    whole, stopped = weights(tmp_path / 'whole'), weights(tmp_path / 'stopped')
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    assert merged_metrics(tmp_path / 'whole') == merged_metrics(tmp_path / 'stopped')


@pytest.mark.slow
@pytest.mark.parametrize('module', [dpo, grpo])
def test_two_processes_come_to_the_same_weights_as_one(module, start, pairs, tmp_path):
    settings = {'init_from': start, 'learning_rate': 1e-3} | ({'source': pairs} if module is dpo else {})
    run(module, out_dir=tmp_path / 'one', **settings)
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', '-m',
                    f'tasks.{module.__name__.rpartition(".")[2]}', *flags(module, out_dir=tmp_path / 'two', **settings)],
                   cwd=ROOT, env=environment, check=True, capture_output=True)
    one, two = weights(tmp_path / 'one'), weights(tmp_path / 'two')
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=2e-5)


# ---------------------------------------------------------------------------- bad input

@pytest.mark.parametrize('module, settings, word', [
    (dpo, {'init_from': 'auto'}, 'init_from'), (dpo, {'source': 'nowhere.jsonl'}, 'nowhere'), (dpo, {'beta': 0}, 'beta'),
    (dpo, {'val_fraction': 1.0}, 'val_fraction'), (grpo, {'group_size': 1}, 'group_size'), (grpo, {'source': 'nowhere'}, 'nowhere'),
    (grpo, {'temperature': 0}, 'temperature'), (grpo, {'init_from': 'missing'}, 'missing')])
def test_settings_that_cannot_be_give_one_line_and_leave_nothing(module, settings, word, start, pairs, tmp_path):
    given = {'init_from': start, 'out_dir': tmp_path / 'out'} | ({'source': pairs} if module is dpo else {}) | settings
    with pytest.raises(BadInput, match=word) as caught:
        run(module, **given)
    assert '\n' not in str(caught.value) and not (tmp_path / 'out').exists()


def test_another_start_than_before_is_refused(start, pairs, tmp_path):
    run(dpo, init_from=start, source=pairs, out_dir=tmp_path / 'a', max_steps=2)
    run(dpo, init_from=tmp_path / 'a', source=pairs, out_dir=tmp_path / 'b', max_steps=2)
    run(dpo, init_from=start, source=pairs, out_dir=tmp_path / 'a', max_steps=4)
    with pytest.raises(BadInput, match='has other weights than'):
        run(dpo, init_from=tmp_path / 'a', source=pairs, out_dir=tmp_path / 'b', max_steps=4)
    with pytest.raises(BadInput, match='is a folder of weights'):
        run(dpo, init_from=start, source=pairs, out_dir=start)


def test_dpo_needs_a_model_that_knows_conversations(pairs, tmp_path):
    tokenizer = Tokenizer.train(['good bad'], 257, progress=False)
    export.export(GPT(GPTConfig(block_size=32, vocab_size=257, n_layer=1, n_head=2, n_embd=8)), tokenizer, str(tmp_path / 'plain'))
    with pytest.raises(BadInput, match='not trained on conversations'):
        run(dpo, init_from=tmp_path / 'plain', source=pairs, out_dir=tmp_path / 'out')


def test_other_data_is_not_trained_on_in_the_same_folder(start, pairs, tmp_path):
    run(dpo, init_from=start, source=pairs, out_dir=tmp_path / 'out', max_steps=2)
    other = tmp_path / 'other.jsonl'
    other.write_text(''.join(json.dumps({'prompt': f'{i}', 'chosen': 'a', 'rejected': 'b'}) + '\n' for i in range(60)))
    with pytest.raises(BadInput, match='another text|validated on'):
        run(dpo, init_from=start, source=other, out_dir=tmp_path / 'out')
