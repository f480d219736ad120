"""Preferences: trains a model to prefer the better of two answers (Rafailov et al. 2023, "Direct Preference Optimization").

    python -m tasks.dpo --init_from=out/chat --source=pairs.jsonl --out_dir=out/dpo

Each row has a prompt (or an instruction with its input), a chosen and a rejected answer; see tasks/conversations.py. The loss
of a pair is -log sigmoid(beta (log p(chosen)/r(chosen) - log p(rejected)/r(rejected))), where p is the model and r the model
that training began with, whose log-probabilities are computed once at each start, before the first step. Stopped and started
again with the same command, it resumes, on a CPU with the same bits.
"""
from torch.nn import functional as F

from chat_template import encode_answer, encode_prompt, need_chat_tokens, stop_tokens
from configurator import check_bounds, choice, configure, optional
from data_folder import find_threshold, hash_of
from runtime.errors import BadInput, one_line_errors
from runtime.words import plural
from scoring.likelihood import log_likelihoods
from tasks.conversations import first_question, read_preferences
from tasks.post_training import identify, numbers_of_step, post_train, token_logprobs

DEFAULTS = {
    'init_from': 'out/chat',  # the model to start from, which is also the reference: a run, a checkpoint or a folder
    'out_dir': 'out/dpo',  # folder of this run: checkpoints, metrics, plot
    # data
    'source': 'data/preferences.jsonl',  # files, a folder, a glob, or a dataset on the hub
    'dataset_config': optional(str),  # of the hub: its configuration, where it has several
    'dataset_split': 'train',  # of the hub: its split
    'val_fraction': 0.1,  # share of the prompts held out
    'seed': 0,  # of the order of the pairs
    # loss
    'beta': 0.1,  # how much the model may differ from the reference: the larger, the less
    # batch
    'batch_pairs': 32,  # pairs in an optimizer step, over all processes
    'micro_batch': 8,  # pairs in a forward pass
    'max_steps': 100,  # optimizer steps
    # optimizer
    'optimizer': choice('adamw', 'muon'),  # muon: Muon for the blocks' matrices, AdamW for the rest
    'learning_rate': 1e-5,  # constant after the warm-up
    'muon_lr': 1e-3,  # of Muon's matrices
    'warmup_steps': 10,  # steps of linear warm-up
    'weight_decay': 0.0,  # on matrices and embeddings
    'grad_clip': 1.0,  # largest norm of the gradient; 0 turns clipping off
    # evaluation and output
    'eval_interval': 20,  # steps between scores of the held-out pairs
    'checkpoint_interval': 20,  # steps between checkpoints
    # machine
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('auto', 'bfloat16', 'float16', 'float32'),  # of matrix products; weights stay float32
    'threads': 0,  # of each process on a CPU; 0 shares out the cores
}


def main(config):
    check_bounds(config, 'beta', above=0)
    check_bounds(config, 'batch_pairs', at_least=1)
    check_bounds(config, 'val_fraction', above=0, below=1)
    post_train(config, Preferences)


class Preferences:
    """The task for post_training.py. pairs: {'train' and 'val': [(prompt, chosen, rejected) as token ids]}"""

    def __init__(self, config, process, model, tokenizer):
        need_chat_tokens(tokenizer, config['init_from'])
        self.config, self.process, self.model = config, process, model
        rows = read_preferences(config['source'], config['dataset_config'], config['dataset_split'])
        self.pairs = encode_pairs(rows, tokenizer, config, process)
        self.text = identify(tokenizer, self.pairs['train'], self.pairs['val'])
        self.reference = {split: both_logprobs(model, pairs, process, config['micro_batch'], f'reference, {split}')
                          for split, pairs in self.pairs.items()}  # (n, 2) each

    def gradient(self, step, check_stop):
        """Leaves this process's share of the step's gradient. Returns the row of metrics, and tokens of all processes."""
        chosen = numbers_of_step(step, self.config['batch_pairs'], len(self.pairs['train']), self.config['seed'])
        own = chosen[self.process.rank::self.process.world_size]
        loss = margin = n_right = 0.0
        for first in range(0, len(own), self.config['micro_batch']):
            check_stop()
            numbers = own[first:first + self.config['micro_batch']]
            continuations = flatten([self.pairs['train'][i] for i in numbers])
            logprobs, owners = token_logprobs(self.model, continuations, self.process)
            totals = logprobs.new_zeros(len(continuations)).index_add(0, owners, logprobs).view(-1, 2)  # chosen, rejected
            reference = self.reference['train'][numbers].to(totals)
            losses, margins = dpo_losses(totals, reference, self.config['beta'])
            (losses.sum() / len(chosen)).backward()
            loss += losses.sum().item() / len(chosen)
            margin += margins.sum().item() / len(chosen)
            n_right += count_right(margins) / len(chosen)
        margin, n_right = self.process.sum([margin, n_right])
        n_tokens = sum(2 * len(prompt) + len(better) + len(worse) for prompt, better, worse in
                       (self.pairs['train'][i] for i in chosen))
        return {'loss': loss, 'accuracy': n_right, 'margin': margin}, n_tokens

    def evaluate(self, check_stop):
        """Loss, and the share of held-out pairs whose better answer gained more probability than the other."""
        totals = both_logprobs(self.model, self.pairs['val'], self.process, self.config['micro_batch'], check_stop=check_stop)
        losses, margins = dpo_losses(totals, self.reference['val'], self.config['beta'])
        return {'val_loss': losses.mean().item(), 'val_accuracy': count_right(margins) / len(margins)}


def dpo_losses(totals, reference, beta):
    """(losses, margins) of n pairs, (n,) each, from log-probabilities of their better and worse answer, (n, 2).

    A margin is the difference of the implicit rewards, in nats (section 4 of the paper).
    """
    rewards = beta * (totals - reference)
    margins = rewards[:, 0] - rewards[:, 1]
    return -F.logsigmoid(margins), margins


def count_right(margins):
    """How many margins are above 0; one of 0, as before the first step, counts half."""
    return (margins.sign().sum().item() + len(margins)) / 2


def both_logprobs(model, pairs, process, micro_batch, description='', check_stop=None):
    """The log-probabilities of the better and the worse answer of n pairs, (n, 2) float64, the same on every process."""
    values = log_likelihoods(model, flatten(pairs), process, 2 * micro_batch, progress=description, check_stop=check_stop)
    return values.view(-1, 2)


def flatten(pairs):
    """[(prompt, chosen), (prompt, rejected), ...]"""
    return [(prompt, answer) for prompt, *answers in pairs for answer in answers]


def encode_pairs(rows, tokenizer, config, process):
    """{'train' and 'val': [(prompt, chosen, rejected) as token ids]}, split as tasks.chat splits conversations."""
    end, pairs, n_long = stop_tokens(tokenizer)[0], {'train': [], 'val': []}, 0
    threshold = find_threshold([first_question(messages) for messages, *_ in rows], config['val_fraction'],
                               advice='give more rows')
    for messages, *answers in rows:
        prompt = encode_prompt(messages, tokenizer)
        answers = [[*encode_answer(answer, tokenizer), end] for answer in answers]
        if len(prompt) + max(map(len, answers)) > config['block_size'] + 1:
            n_long += 1
        else:
            pairs['val' if hash_of(first_question(messages)) < threshold else 'train'].append((prompt, *answers))
    if n_long:
        process.print0(f'left out {plural(n_long, "pair")} of {len(rows):,} that are longer than the context of '
                       f'{config["block_size"]} tokens')
    if not pairs['train'] or not pairs['val']:
        raise BadInput(f'{config["source"]} has too few pairs that fit into {config["block_size"]} tokens: some to train on '
                       'and some to hold out')
    process.print0(f'{plural(len(pairs["train"]), "pair")} to train on, {plural(len(pairs["val"]), "pair")} held out')
    return pairs


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
