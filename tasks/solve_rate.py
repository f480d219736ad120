"""How many word problems a model solves: with the calculator, without it, and by a vote of several solutions.

    python -m tasks.solve_rate --out_dir=out/math                                          generated test problems
    python -m tasks.solve_rate --source=gsm8k --out_dir=out/gsm8k --limit=0 --max_new_tokens=300

The vote (Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning in Language Models") takes the answer that
most of several sampled solutions give. Prints a table by kind of problem, with what is wrong with the unsolved ones.
"""
import collections
import itertools
import json
import operator

from tqdm import tqdm

from chat_template import CALL
from configurator import check_bounds, choice, configure, optional
from inference import open_model
from inference.engine import Engine, Request
from runtime.errors import one_line_errors
from runtime.files import atomic_write
from runtime.tables import table
from tasks.gsm8k import answer_of, read_problems, split_sources
from tasks.tool_use import Calculator, check_call, decode_solution, encode_question

DEFAULTS = {
    'source': 'generated',  # generated, gsm8k (from the hub), .jsonl files; several with commas between
    'limit': 500,  # problems of each source at most; 0: all of a file, 500 generated ones
    'out_dir': 'out/math',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead: a checkpoint, a folder in Hugging Face's layout, or gpt2[-medium|-large|-xl]
    'max_new_tokens': 200,  # longest solution, in tokens
    'votes': 8,  # sampled solutions for the majority vote; 0 for none
    'temperature': 0.7,  # of the samples for the vote
    'seed': 0,  # of generated problems and of the samples
    'details': optional(str),  # write every problem with its solutions to this .jsonl file
    'batch_size': 64,  # solutions written side by side
    # machine
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('auto', 'bfloat16', 'float16', 'float32'),  # of the weights and the arithmetic
}
FAILURES = ('wrong number', 'bad call', 'no answer')


def main(config):
    check_bounds(config, 'max_new_tokens', at_least=1)
    check_bounds(config, 'limit', at_least=0, at_most=10**8)
    check_bounds(config, 'votes', at_least=0, at_most=10_000)
    check_bounds(config, 'batch_size', at_least=1, at_most=10_000)
    check_bounds(config, 'temperature', 'seed', at_least=0)
    problems = []
    for source in split_sources(config['source']):
        problems += read_problems(source, 'test', config['limit'] or 500, config['seed'])[:config['limit'] or None]
    model, tokenizer, _ = open_model(config)
    engine, calculator = Engine(model, config['batch_size']), Calculator(tokenizer)

    def solve_all(description, n_samples=1, **settings):
        """The texts of n_samples solutions for each problem, one list."""
        prompts = (encode_question(problem['question'], tokenizer) for problem in problems for _ in range(n_samples))
        requests = [Request(prompt, config['max_new_tokens'], stop_tokens=(tokenizer.eot,), seed=config['seed'] + i, **settings)
                    for i, prompt in enumerate(prompts)]
        return [decode_solution(sequence.tokens, tokenizer) for sequence in generate_many(engine, requests, description)]

    helped = solve_all('with calculator', temperature=0, tool=calculator)
    alone = solve_all('without calculator', temperature=0)
    samples = solve_all('samples for the vote', config['votes'], temperature=config['temperature'], tool=calculator)
    results = [{'kind': problem['kind'], 'question': problem['question'], 'reference': problem['answer'],
                'with': helped[i], 'without': alone[i], 'samples': samples[i * config['votes']:(i + 1) * config['votes']]}
               for i, problem in enumerate(problems)]
    print(format_table(results, config['votes']))
    if config['details']:
        with atomic_write(config['details']) as file:
            file.writelines(json.dumps(result, ensure_ascii=False).encode() + b'\n' for result in results)
        print(f'every problem with its solutions: {config["details"]}')


def generate_many(engine: Engine, requests: list[Request], description: str | None = None) -> list:
    """The finished Sequences of all requests, in their order. Keeps the engine full."""
    sequences, waiting = [], iter(requests)
    with tqdm(total=len(requests), desc=description, unit=' solutions', disable=not (description and requests)) as bar:
        while len(sequences) < len(requests) or engine.n_running:
            for request in itertools.islice(waiting, engine.free):
                sequences += engine.add(request)
            bar.update(sum(sequence.finish_reason is not None for sequence in engine.step()))
    return sequences


def format_table(results, n_votes):
    """Solve rates by kind of problem, and what is wrong with the solutions that failed with the calculator."""
    rows = [['kind', 'problems', 'with calculator', 'without', *([f'vote of {n_votes}'] if n_votes else []), *FAILURES]]
    for kind in [*sorted({result['kind'] for result in results}), 'all']:
        chosen = [result for result in results if kind in (result['kind'], 'all')]
        columns = [[answer_of(result['with']) for result in chosen], [answer_of(result['without']) for result in chosen]]
        if n_votes:
            columns.append([majority_answer(result['samples']) for result in chosen])
        references = [answer_of(result['reference']) for result in chosen]
        rates = [sum(map(operator.eq, answers, references)) / len(chosen) for answers in columns]
        failures = collections.Counter(find_failure(result['with']) for result, answer, reference
                                       in zip(chosen, columns[0], references) if answer != reference)
        rows.append([kind, str(len(chosen)), *(f'{rate:.1%}' for rate in rates), *(str(failures[name]) for name in FAILURES)])
    return table(rows)


def majority_answer(solutions):
    """The answer that most solutions give, the first of them where several do; None if none has an answer."""
    answers = [answer for answer in map(answer_of, solutions) if answer is not None]
    return collections.Counter(answers).most_common(1)[0][0] if answers else None


def find_failure(solution):
    """What is wrong with a solution that did not give the right answer: one of FAILURES."""
    if answer_of(solution) is None:
        return 'no answer'
    return 'wrong number' if all(check_call(*call)[0] for call in CALL.findall(solution)) else 'bad call'


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
