"""Word problems: makes training data of them, solves them with a calculator in the loop, and counts how many come out right.

    python math_solver.py --do=prepare --data_dir=data/math                     # generated problems, as shards
    python math_solver.py --do=prepare --source=gsm8k --tokenizer=gpt2 --data_dir=data/gsm8k
    python train.py config/math_small.py                                        # any training of train.py
    python math_solver.py --do=solve --out_dir=out/math --question='Tom has 48 pens. He sells half of them. How many are left?'
    python math_solver.py --do=score --out_dir=out/math                         # solved with, without, by vote

A solution is text with calls in it, `<<48/2=24>>24`. While the model writes, everything from `<<` to `=` that calculator.py
can work out gets its result and `>>` put behind it; where it cannot, the text stays as it is and the model goes on. The
last line of a solution is `#### ` and the answer.

A problem becomes tokens as `<|endoftext|>`, question and line end, and solution; the end of a solution is the next
`<|endoftext|>`. Only the solution and that end count as targets (the mask of shards.py). Text is cut at the places where
the calculator comes in, and the pieces are encoded one by one, so that the model meets the same tokens in training as when
the program writes them. In a vocabulary of our own no number is a token: numbers are read and copied digit by digit.

This file knows nothing about how a model is trained.
"""
import collections
import itertools
import json
import os
import re
import sys
from fractions import Fraction

import numpy as np
from tqdm import tqdm

import pretrained
from runtime import hardware
import shards
from bpe import Tokenizer
from tasks.calculator import MAX_CHARACTERS, calculate
from configurator import choice, configure, optional
from runtime.errors import BadInput, one_line_errors
from corpus import ask_hub, describe, open_tokenizer, prepare_folder
from runtime.files import atomic_write, write_json
from inference.engine import Engine, Request
from tasks.word_problems import problems

DEFAULTS = {
    'do': choice('solve', 'score', 'prepare'),  # what to do
    'source': 'generated',  # problems to prepare or score: generated, gsm8k (from the hub), .jsonl files; several with commas between
    'seed': 0,  # of generated problems and of sampled solutions
    # prepare
    'data_dir': 'data/math',  # the folder of shards to make
    'n_problems': 100_000,  # generated ones; files are taken whole
    'n_val': 500,  # problems held out for the validation loss; of files, the last ones
    'tokenizer': optional(str),  # gpt2, or a tokenizer.json; None: one of vocab_size is trained on the problems
    'vocab_size': 1024,  # of the tokenizer to train
    # solve and score
    'out_dir': 'out/math',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead of out_dir: a checkpoint file, a folder in Hugging Face's layout, or gpt2[-medium|-large|-xl]
    'question': '',  # solve: the problem; empty: standard input
    'calculator': True,  # solve: whether calls are answered
    'max_new_tokens': 200,  # longest solution, in tokens
    'temperature': 0.0,  # solve: 0 takes the likeliest token; score: of the vote's samples, 0 for 0.7
    'limit': 500,  # score: so many problems at most; 0 for all of a file
    'votes': 8,  # score: samples for the majority vote; 0 for none
    'details': optional(str),  # score: write every problem with its solutions to this .jsonl file
    'batch_size': 64,  # score: solutions written side by side
    # machine
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('auto', 'bfloat16', 'float16', 'float32'),  # of the weights and the arithmetic
}
CALL = re.compile(r'<<([^<>]*)=([^<>=]*)>>')  # what comes before the last = is the expression
ANSWER = re.compile(r'####\s*(.*)')
HUB_NAME = 'openai/gsm8k'
VOTE_TEMPERATURE = 0.7
NUMBERS = re.compile(r'[0-9]+')


def main(config):
    for key, least in (('n_problems', 1), ('n_val', 1), ('max_new_tokens', 1), ('limit', 0), ('votes', 0), ('batch_size', 1)):
        if config[key] < least:
            raise BadInput(f'{key}={config[key]} should be at least {least}')
    {'prepare': prepare, 'solve': solve, 'score': score}[config['do']](config)


# ---------------------------------------------------------------------------- problems from anywhere

def read_problems(source, split, n, seed):
    """The problems of a source, [{'question', 'answer', 'kind'}]: n generated ones, or all of a file.

    split: 'train' or 'test', of generated problems and of the hub's. Raises BadInput on what is no such file.
    """
    if source == 'generated':
        return list(tqdm(itertools.islice(problems(split, seed), n), total=n, desc=f'making {split} problems', unit=' problems'))
    if source == 'gsm8k':
        rows = hub_rows(split)
    else:
        rows = json_rows(source)
    found = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ('question', 'answer')):
            raise BadInput(f'{source}, line {number}: a problem is an object with a question and an answer, both text')
        if answer_of(row['answer']) is None:
            raise BadInput(f'{source}, line {number}: the answer does not end in #### and a number')
        found.append({'question': row['question'], 'answer': row['answer'], 'kind': row.get('kind') or kind_of(row['answer'])})
    if not found:
        raise BadInput(f'{source} has no problems')
    return found


def kind_of(solution):
    """What problems are told apart by where nothing else is known: the number of calls in their solution."""
    n_calls = len(CALL.findall(solution))
    return '1 step' if n_calls == 1 else f'{n_calls} steps' if n_calls < 6 else '6 or more steps'


def json_rows(path):
    """The rows of a .jsonl file."""
    try:
        with open(path, encoding='utf-8') as file:
            return [json.loads(line) for line in file if line.strip()]
    except OSError as error:
        raise BadInput(f'source {path}: {error.strerror}; generated, gsm8k or a .jsonl file is one') from None
    except ValueError as error:
        raise BadInput(f'{path} is not a .jsonl file: {error}') from None


def hub_rows(split):
    """The rows of GSM8K (Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems")."""
    import datasets
    ask_hub(HUB_NAME)
    try:
        return list(datasets.load_dataset(HUB_NAME, 'main', split=split))
    except Exception as error:  # the hub, the network and the library raise dozens of kinds
        raise BadInput(f'{HUB_NAME} could not be fetched from the hub ({type(error).__name__}); download its {split}.jsonl '
                       f'and give that as --source') from error


def answer_of(solution):
    """The number behind the last #### of a solution as a Fraction, or None."""
    found = ANSWER.findall(solution)
    if not found:
        return None
    try:
        return Fraction(found[-1].strip().rstrip('.').replace(',', '').replace('$', ''))
    except (ValueError, ZeroDivisionError):
        return None


def check_calls(found):
    """(number of calls, those whose result the calculator does not confirm) in the solutions of some problems.

    The second is a list of (number of the problem from 1, the call, what the calculator says).
    """
    n_calls, unconfirmed = 0, []
    for number, problem in enumerate(found, 1):
        for expression, written in CALL.findall(problem['answer']):
            n_calls += 1
            confirmed, result = check_call(expression, written)
            if not confirmed:
                unconfirmed.append((number, f'<<{expression}={written}>>', result))
    return n_calls, unconfirmed


def check_call(expression, written):
    """(whether an expression comes out as written, what the calculator says to it)."""
    try:
        result = calculate(expression)
        return result == written or Fraction(result) == Fraction(written), result
    except ValueError as error:
        return False, str(error)


# ---------------------------------------------------------------------------- prepare

def prepare(config):
    """Problems of all sources to masked shards in data_dir; nothing where they are there already."""
    data_dir = config['data_dir']
    settings = {key: config[key] for key in ('source', 'n_problems', 'n_val', 'seed', 'tokenizer', 'vocab_size')}
    if is_made(data_dir, settings):
        return
    train, val = [], []
    for source in config['source'].split(','):
        if source == 'generated':
            found = read_problems(source, 'train', config['n_problems'] + config['n_val'], config['seed'])
        else:
            found = read_problems(source, 'train', 0, 0)
            report_calls(source, found)
        n_val = min(config['n_val'], len(found) // 10)
        train += found[:len(found) - n_val]
        val += found[len(found) - n_val:]
    if not val:
        raise BadInput(f'{len(train)} problems are too few: a tenth of them is held out')
    np.random.default_rng(config['seed']).shuffle(train)
    tokenizer = make_tokenizer(train, config)
    name = re.sub(r'\W+', '_', os.path.basename(os.path.normpath(data_dir))).strip('_') or 'math'
    tokenizer_file = None if config['tokenizer'] == 'gpt2' else tokenizer.to_json().encode()
    prepare_folder(data_dir, name, tokenizer_file)
    written = {}
    for split, first, chosen in (('train', 1, train), ('val', 0, val)):
        documents = (encode_problem(problem, tokenizer) for problem in tqdm(chosen, desc=f'encoding {split}', unit=' problems'))
        written |= shards.write_shards(documents, data_dir, name, split, first=first, masked=True)
    write_json(os.path.join(data_dir, 'meta.json'), {
        **describe(tokenizer, tokenizer_file), 'source': config['source'], 'train_documents': len(train),
        'val_documents': len(val), 'settings': settings, 'shards': written})
    n_tokens = sum(entry['tokens'] for entry in written.values())
    print(f'{data_dir}: {len(train):,} problems to train on and {len(val):,} to validate on, {n_tokens:,} tokens, '
          f'{n_tokens / (len(train) + len(val)):.0f} a problem; vocabulary {tokenizer.vocab_size:,}')


def is_made(data_dir, settings):
    """True, after saying so, if the folder holds what these settings make; BadInput if it holds something else."""
    if not os.path.exists(os.path.join(data_dir, 'meta.json')):
        return False
    meta = shards.load_meta(data_dir)
    for key, value in settings.items():
        if (there := meta.get('settings', {}).get(key)) != value:
            raise BadInput(f'{data_dir} already holds data made with {key}={there!r}, not {value!r}; take another --data_dir, or '
                           'delete that folder first')
    if not all(os.path.exists(os.path.join(data_dir, name)) for name in meta['shards']):
        return False
    print(f'{data_dir} is already made, with the same settings: {meta["train_documents"]:,} problems to train on')
    return True


def report_calls(source, found):
    n_calls, unconfirmed = check_calls(found)
    if n_calls:
        print(f'{source}: {n_calls:,} calls in {len(found):,} solutions, of which {n_calls - len(unconfirmed):,} '
              f'({(n_calls - len(unconfirmed)) / n_calls:.2%}) come out as written{"; the others:" if unconfirmed else ""}')
    for number, call, result in unconfirmed:
        print(f'  problem {number}: {call} ({result})')


def make_tokenizer(found, config):
    """The tokenizer that is named, or a new one that never joins digits: it is trained on what stands between numbers."""
    if config['tokenizer']:
        tokenizer = open_tokenizer(config['tokenizer'])
        tokenizer.eot  # one without <|endoftext|> is refused before anything is written
        return tokenizer
    texts = (piece for problem in found for text in (problem['question'], problem['answer']) for piece in NUMBERS.split(text))
    return Tokenizer.train(texts, config['vocab_size'], progress=False, processes=1)


def encode_problem(problem, tokenizer):
    """A problem as (tokens, which of them count as targets): (n,) uint16 and (n,) bool."""
    prompt, solution = encode_question(problem['question'], tokenizer), encode_solution(problem['answer'], tokenizer)
    counted = np.zeros(len(prompt) + len(solution), dtype=bool)
    counted[0] = counted[len(prompt):] = True  # the first token ends the problem before
    return np.array(prompt + solution, dtype=np.uint16), counted


def encode_question(question, tokenizer):
    """The tokens after which a model writes the solution."""
    return [tokenizer.eot, *tokenizer.encode(question.strip() + '\n')]


def encode_solution(solution, tokenizer):
    """A solution's tokens, in pieces: up to the = of a call, its result with >>, and what follows."""
    ids, end = [], 0
    for call in CALL.finditer(solution):
        result = call.start(2)
        for piece in (solution[end:result], solution[result:call.end()]):
            ids += tokenizer.encode(piece)
        end = call.end()
    return ids + tokenizer.encode(solution[end:])


# ---------------------------------------------------------------------------- the calculator in the loop

class Calculator:
    """Watches sequences that a model writes, and says what to put behind the calls in them.

        calculator = Calculator(tokenizer)
        for sequence in engine.step():
            if ids := calculator(sequence):
                engine.force(sequence, ids)

    It keeps nothing between calls, so one serves any number of sequences. Any object does as a sequence that has `ids`,
    all tokens so far with the prompt's, and `finish_reason`, None while it is being written.
    """

    def __init__(self, tokenizer):
        calculate('solve(x=1, x)')  # imports sympy, which takes a moment, now rather than in the middle of a text
        self.tokenizer = tokenizer
        self.ends_in_equals = {i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i).endswith(b'=')}

    def __call__(self, sequence):
        """The tokens of the result and `>>` if the text now ends in a call up to its =, else None."""
        if sequence.finish_reason is not None or sequence.ids[-1] not in self.ends_in_equals:
            return None
        result = self.result(self.tokenizer.decode(sequence.ids[-MAX_CHARACTERS - 8:]))
        return None if result is None else self.tokenizer.encode(f'{result}>>')

    def result(self, text):
        """The result of the call that a text ends in, such as '... <<48/2=', or None if there is none."""
        before, opened, expression = text.rpartition('<<')
        if not opened or not expression.endswith('='):
            return None
        try:
            return calculate(expression[:-1])
        except ValueError:
            return None


def write_solutions(engine, prompts, settings, calculator=None, bar=None):
    """Solutions of many prompts, written side by side as far as the engine has places.

    prompts:  lists of tokens; settings: keyword arguments of a Request for each
    Returns a list of Sequences in the order of the prompts.
    """
    sequences, n_finished = [], 0
    waiting = zip(prompts, settings)
    while n_finished < len(prompts):
        for prompt, keywords in itertools.islice(waiting, engine.free):
            sequences += engine.add(Request(prompt, **keywords))
        for sequence in engine.step():
            if calculator and (ids := calculator(sequence)):
                engine.force(sequence, ids)
            if sequence.finish_reason is not None:
                n_finished += 1
                if bar is not None:
                    bar.update()
    return sequences


def solution_text(sequence, tokenizer):
    return tokenizer.decode([token for token in sequence.tokens if token != tokenizer.eot])


# ---------------------------------------------------------------------------- solve

def open_model(config):
    """(engine's model, tokenizer) on the device, after a line that says what it is."""
    device = hardware.pick_device(config['device'])
    dtype = hardware.pick_dtype(config['dtype'], device)
    model, tokenizer, source = pretrained.load(config['init_from'] or config['out_dir'])
    print(f'{source}: {model.n_params():,} parameters, {hardware.describe(device)}, {str(dtype).removeprefix("torch.")}',
          file=sys.stderr)
    return model.to(device, dtype), tokenizer


def solve(config):
    """Writes one solution as it is made, what the calculator wrote in colour, and its answer."""
    question = config['question'] or sys.stdin.read()
    if not question.strip():
        raise BadInput('which problem? --question="Tom has 48 pens. ..."')
    model, tokenizer = open_model(config)
    engine, calculator = Engine(model, max_batch=1), Calculator(tokenizer) if config['calculator'] else None
    (sequence,) = engine.add(Request(encode_question(question, tokenizer), config['max_new_tokens'], config['temperature'],
                                     seed=config['seed'], stop_tokens=(tokenizer.eot,)))
    shown = ''
    while sequence.finish_reason is None:
        engine.step()
        shown = show(shown, sequence, tokenizer, filled_in=False)
        if calculator and (ids := calculator(sequence)):
            engine.force(sequence, ids)
            shown = show(shown, sequence, tokenizer, filled_in=True)
    answer = answer_of(shown)
    if answer is None:
        reason = f'it was not done after {config["max_new_tokens"]} tokens' if sequence.finish_reason == 'length' else 'it gave none'
        print(f'\n\nno answer: {reason}')
    else:
        print(f'\n\nanswer: {ANSWER.findall(shown)[-1].strip()}')


def show(shown, sequence, tokenizer, filled_in):
    """Prints what has come to a solution since `shown`, and returns all of it."""
    text = solution_text(sequence, tokenizer)
    new = text[len(shown):]
    if text.endswith('\ufffd'):  # the rest of a character is still to come
        return shown
    if filled_in and sys.stdout.isatty():
        new = f'\033[1;36m{new}\033[0m'
    print(new, end='', flush=True)
    return text


# ---------------------------------------------------------------------------- score

def score(config):
    """Solves many problems with the calculator, without it and by vote, and prints the rates by kind."""
    found = []
    for source in config['source'].split(','):
        found += read_problems(source, 'test', config['limit'] or 500, config['seed'])[:config['limit'] or None]
    model, tokenizer = open_model(config)
    engine, calculator = Engine(model, config['batch_size']), Calculator(tokenizer)
    prompts = [encode_question(problem['question'], tokenizer) for problem in found]
    results = [{'kind': problem['kind'], 'question': problem['question'], 'reference': problem['answer']} for problem in found]
    fixed = {'max_new_tokens': config['max_new_tokens'], 'stop_tokens': (tokenizer.eot,)}
    for column, tool in (('with', calculator), ('without', None)):
        with tqdm(total=len(found), desc=f'{column} calculator', unit=' problems') as bar:
            sequences = write_solutions(engine, prompts, [{**fixed, 'temperature': 0}] * len(prompts), tool, bar)
        for result, sequence in zip(results, sequences):
            result[column] = solution_text(sequence, tokenizer)
    if config['votes']:
        repeated = [prompt for prompt in prompts for _ in range(config['votes'])]
        settings = [{**fixed, 'temperature': config['temperature'] or VOTE_TEMPERATURE, 'seed': config['seed'] + i}
                    for i in range(len(repeated))]
        with tqdm(total=len(repeated), desc=f'{config["votes"]} samples each', unit=' samples') as bar:
            texts = [solution_text(sequence, tokenizer)
                     for sequence in write_solutions(engine, repeated, settings, calculator, bar)]
        for i, result in enumerate(results):
            result['samples'] = texts[i * config['votes']:(i + 1) * config['votes']]
    print(table_of(results, config['votes']))
    if config['details']:
        with atomic_write(config['details']) as file:
            file.writelines(json.dumps(result, ensure_ascii=False).encode() + b'\n' for result in results)
        print(f'every problem with its solutions: {config["details"]}')


def majority(solutions):
    """The answer that most solutions give, the first of them where several do; None if none has an answer."""
    answers = [answer for answer in map(answer_of, solutions) if answer is not None]
    return collections.Counter(answers).most_common(1)[0][0] if answers else None


def failure(solution):
    """What is wrong with a solution whose answer is not the right one: 'no answer', 'bad call' or 'wrong number'."""
    if answer_of(solution) is None:
        return 'no answer'
    right = all(check_call(*call)[0] for call in CALL.findall(solution))
    return 'wrong number' if right else 'bad call'


def table_of(results, n_votes):
    """Solve rates by kind of problem, and what is wrong with the solutions that failed with the calculator."""
    reasons = ('wrong number', 'bad call', 'no answer')
    head = ['kind', 'problems', 'with calculator', 'without', *([f'vote of {n_votes}'] if n_votes else []), *reasons]
    kinds = [*sorted({result['kind'] for result in results}), 'all']
    rows = []
    for kind in kinds:
        chosen = [result for result in results if kind in (result['kind'], 'all')]
        right = collections.Counter()
        for result in chosen:
            reference = answer_of(result['reference'])
            solved = answer_of(result['with']) == reference
            right['with'] += solved
            right['without'] += answer_of(result['without']) == reference
            right['vote'] += majority(result.get('samples', [])) == reference
            if not solved:
                right[failure(result['with'])] += 1
        rates = [f'{right[column] / len(chosen):.1%}' for column in ('with', 'without', *(['vote'] if n_votes else []))]
        rows.append([kind, str(len(chosen)), *rates, *(str(right[reason]) for reason in reasons)])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return '\n'.join('  '.join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
                     for row in [head, *rows])


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
