import types

import pytest
import torch
from torch.nn import functional as F

from model import GPT, GPTConfig
from runtime.stop import Stopped
from scoring.likelihood import log_likelihoods, share_contexts


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return GPT(GPTConfig(block_size=16, vocab_size=40, n_layer=1, n_head=2, n_embd=16))


PAIRS = [(list(range(n)), list(range(m))) for n, m in ((1, 1), (3, 5), (16, 1), (1, 16), (7, 2), (4, 4), (2, 9))]


@pytest.mark.parametrize('batch_size', [1, 3, 100])
@torch.no_grad()
def test_each_pair_is_scored_as_if_it_were_alone(process, model, batch_size):
    values = log_likelihoods(model, PAIRS, process, batch_size)
    tensors = log_likelihoods(model, [tuple(map(torch.tensor, pair)) for pair in PAIRS], process, batch_size)
    assert torch.equal(values, tensors)
    for value, (context, continuation) in zip(values, PAIRS, strict=True):
        logits = model(torch.tensor([(context + continuation)[:-1]]))[0, len(context) - 1:]
        nats = F.cross_entropy(logits, torch.tensor(continuation), reduction='sum').item()
        assert value.item() == pytest.approx(-nats, abs=1e-4)


def test_the_longest_rows_come_first(process, model, monkeypatch):
    lengths, hidden = [], model.hidden
    monkeypatch.setattr(model, 'hidden', lambda idx, *rest: lengths.append(idx.size(1)) or hidden(idx, *rest))
    log_likelihoods(model, PAIRS, process, batch_size=2)
    assert lengths == sorted(lengths, reverse=True) and len(lengths) == 4


def test_endings_of_one_context_share_a_row_and_do_not_see_each_other(process, model):
    context = [3, 1, 4]
    pairs = [(context, [1, 5, 9]), (context, [2, 6]), (list(context), [5]), ([1, 5], [3, 5])]
    assert [len(row) for row in share_contexts(pairs, range(4))] == [3, 1]
    together = log_likelihoods(model, pairs, process)
    alone = torch.cat([log_likelihoods(model, [pair], process) for pair in pairs])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    changed = log_likelihoods(model, [(context, [7, 7, 7]), *pairs[1:]], process)
    assert torch.equal(changed[1:], together[1:])


def test_equal_texts_get_equal_values(process, model):
    context = [3, 1, 4, 1, 5]
    pairs = [(context, [9, 2]), (context, [6]), (context, [9, 2]), ([2], [7]), (list(context), [9, 2])]
    values = log_likelihoods(model, pairs, process, batch_size=1)
    assert values[0] == values[2] == values[4] and len(set(values.tolist())) == 3


def test_a_stop_ends_it_between_batches_and_restores_training_mode(process, model):
    calls = []

    def check_stop():
        calls.append(model.training)
        if len(calls) == 2:
            raise Stopped

    model.train()
    with pytest.raises(Stopped):
        log_likelihoods(model, PAIRS, process, batch_size=1, check_stop=check_stop)
    assert calls == [False, False] and model.training
    log_likelihoods(model, PAIRS, process)
    assert model.training


def test_more_processes_than_batches_leave_some_without_work(model):
    ranks = [types.SimpleNamespace(rank=rank, world_size=3, is_first=rank == 0, device=torch.device('cpu'),
                                   autocast=torch.no_grad, sum=lambda values: values.tolist()) for rank in range(3)]
    shares = [log_likelihoods(model, PAIRS, rank, batch_size=4) for rank in ranks]
    assert not shares[2].any()
    alone = types.SimpleNamespace(**{**vars(ranks[0]), 'world_size': 1})
    torch.testing.assert_close(sum(shares), log_likelihoods(model, PAIRS, alone, batch_size=4))
