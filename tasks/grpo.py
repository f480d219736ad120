"""Reinforcement with rewards that can be checked: word problems, whose answer is right or wrong.

    python -m tasks.grpo --init_from=out/math --out_dir=out/grpo                          generated problems
    python -m tasks.grpo --init_from=out/chat --source=gsm8k --out_dir=out/grpo_gsm8k     GSM8K, from the hub [network]

Group relative policy optimization (Shao et al. 2024, "DeepSeekMath", section 4.1): for each problem the model writes a group
of solutions, the calculator answering its calls. A solution's advantage is its reward, 1 if the answer is right, less the
group's mean, divided by the group's standard deviation. The gradient is that of the mean over all written tokens of advantage
x log-probability; tokens that the calculator wrote do not count. Each batch of solutions makes one step, so the ratio of the
paper is 1 and its clipping never applies. With kl_coef, the paper's estimate of the distance to the first model is added.

Stopped and started again with the same command, it resumes, on a CPU with the same bits.
"""
import copy
import itertools

import torch

import chat_template
from configurator import check_bounds, choice, configure
from inference.engine import Engine, Request
from runtime.errors import BadInput, one_line_errors
from runtime.words import plural
from tasks.gsm8k import answer_of, read_problems
from tasks.post_training import identify, numbers_of_step, post_train, token_logprobs
from tasks.solve_rate import generate_many
from tasks.tool_use import Calculator, encode_question
from tasks.word_problems import generate_problems

DEFAULTS = {
    'init_from': 'out/math',  # the model to start from: a run, a checkpoint or a folder
    'out_dir': 'out/grpo',  # folder of this run: checkpoints, metrics, plot
    # problems
    'source': 'generated',  # generated, gsm8k (from the hub), or a .jsonl file, whose last tenth is held out
    'n_eval': 200,  # held-out problems that are solved, greedily, to see how good the model is
    'seed': 0,  # of the problems, their order, and the samples
    # batch
    'batch_problems': 32,  # problems in an optimizer step, over all processes
    'group_size': 8,  # solutions of each
    'rollout_batch': 128,  # solutions that are written side by side
    'micro_batch': 16,  # solutions in a forward pass
    'max_steps': 100,  # optimizer steps
    # solutions
    'max_new_tokens': 200,  # longest solution, in tokens
    'temperature': 1.0,  # of the samples; other than 1, they are not quite the model's own
    'kl_coef': 0.0,  # weight of the distance to the first model; 0: it is neither computed nor kept
    # optimizer
    'optimizer': choice('adamw', 'muon'),  # muon: Muon for the blocks' matrices, AdamW for the rest
    'learning_rate': 5e-5,  # constant after the warm-up
    'muon_lr': 1e-3,  # of Muon's matrices
    'warmup_steps': 5,  # steps of linear warm-up
    'weight_decay': 0.0,  # on matrices and embeddings
    'grad_clip': 1.0,  # largest norm of the gradient; 0 turns clipping off
    # evaluation and output
    'eval_interval': 20,  # steps between scores of the held-out problems
    'checkpoint_interval': 20,  # steps between checkpoints
    # machine
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('auto', 'bfloat16', 'float16', 'float32'),  # of matrix products; weights stay float32
    'threads': 0,  # of each process on a CPU; 0 shares out the cores
}


def main(config):
    check_bounds(config, 'n_eval', 'batch_problems', 'rollout_batch', 'max_new_tokens', at_least=1, at_most=10**6)
    check_bounds(config, 'group_size', at_least=2, at_most=10**4)
    check_bounds(config, 'temperature', above=0)
    check_bounds(config, 'kl_coef', at_least=0)
    post_train(config, WordProblems)


class WordProblems:
    """The task for post_training.py."""

    def __init__(self, config, process, model, tokenizer):
        self.config, self.process, self.model, self.tokenizer = config, process, model, tokenizer
        self.calculator = Calculator(tokenizer)
        self.is_chat = chat_template.has_chat_tokens(tokenizer)
        self.stop_tokens = chat_template.stop_tokens(tokenizer) if self.is_chat else (tokenizer.eot,)
        self.first_model = copy.deepcopy(model).requires_grad_(False) if config['kl_coef'] else None
        self.problems, self.val = read_splits(config)
        self.problems = self.problems and self.fitting(self.problems)
        self.text = identify(tokenizer, self.problems or [config['seed']], self.val)

    def fitting(self, problems):
        """Those whose question leaves room in the context for a solution."""
        whole = [problem for problem in problems if len(self.encode(problem['question'])) < self.config['block_size']]
        if len(whole) < len(problems):
            self.process.print0(f'left out {plural(len(problems) - len(whole), "problem")} of {len(problems):,} whose question '
                                f'fills the context of {self.config["block_size"]} tokens')
        if not whole:
            raise BadInput(f'{self.config["source"]} has no problem whose question is shorter than the context of '
                           f'{self.config["block_size"]} tokens; start from a model with a longer one')
        return whole

    def problems_of_step(self, step):
        """The problems of a step, on all processes. Generated ones never come twice."""
        n, seed = self.config['batch_problems'], self.config['seed']
        if self.problems is None:
            return list(itertools.islice(generate_problems('train', f'{seed} {step}'), n))
        return [self.problems[i] for i in numbers_of_step(step, n, len(self.problems), seed)]

    def write_solutions(self, problems, n, **settings):
        """The finished sequences of n solutions of each problem. settings: of Request, a list of seeds among them."""
        seeds = settings.pop('seeds', [None] * len(problems) * n)
        with self.process.autocast():
            engine = Engine(self.model, min(self.config['rollout_batch'], n * len(problems)))
            repeated = [self.encode(problem['question']) for problem in problems for _ in range(n)]
            return generate_many(engine, [
                Request(ids, self.config['max_new_tokens'], seed=seed, stop_tokens=self.stop_tokens, tool=self.calculator,
                        **settings) for ids, seed in zip(repeated, seeds)])

    def encode(self, question):
        if self.is_chat:
            return chat_template.encode_prompt([{'role': 'user', 'content': question}], self.tokenizer)
        return encode_question(question, self.tokenizer)

    def reward(self, sequence, problem):
        """1.0 if the solution's answer is that of the problem."""
        answer = answer_of(self.tokenizer.decode(sequence.tokens))
        return float(answer is not None and answer == answer_of(problem['answer']))

    def gradient(self, step, check_stop):
        """Leaves this process's share of the step's gradient. Returns the row of metrics, and tokens of all processes."""
        config, group = self.config, self.config['group_size']
        rank, world_size = self.process.rank, self.process.world_size
        numbers = range(rank, config['batch_problems'], world_size)
        all_problems = self.problems_of_step(step)
        problems = [all_problems[i] for i in numbers]
        seeds = [((config['seed'] * 1_000_003 + step) * config['batch_problems'] + i) * group + j
                 for i in numbers for j in range(group)]
        sequences = self.write_solutions(problems, group, temperature=config['temperature'], seeds=seeds) if problems else []
        rewards = torch.tensor([self.reward(sequence, problems[i // group]) for i, sequence in enumerate(sequences)])
        advantages = group_advantages(rewards.view(-1, group)).flatten().tolist()
        n_written = sum(len(sequence.tokens) - len(sequence.forced) for sequence in sequences)
        n_read = sum(len(sequence.ids) for sequence in sequences)
        reward, n_written, n_read = self.process.sum([rewards.sum(), n_written, n_read])
        learned = [(sequence, advantage) for sequence, advantage in zip(sequences, advantages)
                   if (advantage or self.first_model) and len(sequence.ids) <= config['block_size'] + 1]
        learned.sort(key=lambda pair: len(pair[0].ids))  # so that the rows of a forward pass have about the same length
        loss = 0.0
        for first in range(0, len(learned), config['micro_batch']):
            check_stop()
            batch = learned[first:first + config['micro_batch']]
            batch_loss = self.loss(*zip(*batch)) / n_written
            batch_loss.backward()
            loss += batch_loss.item()
        return {'loss': loss, 'reward': reward / (config['batch_problems'] * group), 'tokens_written': n_written}, int(n_read)

    def loss(self, sequences, advantages):
        """The sum over the tokens that the model wrote of -advantage x log-probability, and of kl_coef x distance."""
        pairs = [(sequence.ids[:-len(sequence.tokens)], sequence.tokens) for sequence in sequences]
        logprobs, owners = token_logprobs(self.model, pairs, self.process)  # (M,) each
        own = [i not in sequence.forced for sequence in sequences for i in range(len(sequence.tokens))]
        own = torch.tensor(own, device=logprobs.device)
        losses = policy_losses(logprobs, torch.tensor(advantages, device=logprobs.device)[owners])
        if self.first_model:
            with torch.no_grad():
                before, _ = token_logprobs(self.first_model, pairs, self.process)
            losses = losses + self.config['kl_coef'] * distances(logprobs, before)
        return (losses * own).sum()

    @torch.no_grad()
    def evaluate(self, check_stop):
        """The share of the held-out problems that are solved with the likeliest tokens; val_loss is that of the others."""
        own = self.val[self.process.rank::self.process.world_size]
        size, n_solved = self.config['rollout_batch'], 0.0
        for first in range(0, len(own), size):
            check_stop()
            problems = own[first:first + size]
            n_solved += sum(map(self.reward, self.write_solutions(problems, 1, temperature=0), problems))
        rate = self.process.sum([n_solved])[0] / len(self.val)
        return {'val_loss': 1 - rate, 'solve_rate': rate}


def group_advantages(rewards):
    """(P, G) rewards of G solutions to each of P problems -> advantages, (P, G); 0 where all of a group got the same."""
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, correction=0, keepdim=True) + 1e-6)


def policy_losses(logprobs, advantages):
    """What each token adds to the loss, (M,): the ratio to the model that wrote it, which is 1, has this gradient."""
    return -advantages * (logprobs - logprobs.detach()).exp()


def distances(logprobs, before):
    """For each token an unbiased estimate of the divergence from the first model, (M,) (equation 4 of the paper)."""
    log_ratio = before - logprobs
    return log_ratio.exp() - log_ratio - 1


def read_splits(config):
    """(problems to train on, None for generated ones that never end; held-out problems)"""
    source, n_eval = config['source'], config['n_eval']
    if source == 'generated':
        return None, read_problems(source, 'test', n_eval, seed=0)
    problems = read_problems(source, 'train')
    if source == 'gsm8k':
        return problems, read_problems(source, 'test')[:n_eval]
    if len(problems) < 2:
        raise BadInput(f'{source} has {plural(len(problems), "problem")}, but some are trained on and some are held out; give '
                       'two or more')
    n_val = max(1, len(problems) // 10)
    return problems[:-n_val], problems[-n_val:][:n_eval]


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
