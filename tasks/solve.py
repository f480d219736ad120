"""Solves one word problem with a trained model, and shows the solution while it is written.

    python -m tasks.solve --out_dir=out/math --question='Tom has 48 pens. He sells half of them. How many are left?'

It takes the likeliest token always; sample.py --calculator=True draws at random. On a terminal, what the calculator writes is
coloured. tasks/solve_rate.py counts how many of many problems come out right.
"""
import codecs
import sys

from configurator import check_bounds, choice, configure, optional
from inference import open_model
from inference.engine import Engine, Request
from runtime.errors import BadInput, one_line_errors
from tasks.calculator import format_number
from tasks.gsm8k import answer_of
from tasks.tool_use import Calculator, decode_solution, encode_question

DEFAULTS = {
    'question': '',  # the problem; empty: standard input
    'out_dir': 'out/math',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead: a checkpoint, a folder in Hugging Face's layout, or gpt2[-medium|-large|-xl]
    'calculator': True,  # whether the calculator answers calls
    'max_new_tokens': 200,  # longest solution, in tokens
    # machine
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('auto', 'bfloat16', 'float16', 'float32'),  # of the weights and the arithmetic
}


def main(config):
    check_bounds(config, 'max_new_tokens', at_least=1)
    question = config['question'] or sys.stdin.read()
    if not question.strip():
        raise BadInput('which problem? --question="Tom has 48 pens. ..."')
    model, tokenizer, _ = open_model(config)
    engine = Engine(model, max_batch=1)
    tool = Calculator(tokenizer) if config['calculator'] else None
    (sequence,) = engine.add(Request(encode_question(question, tokenizer), config['max_new_tokens'], temperature=0,
                                     stop_tokens=(tokenizer.eot,), tool=tool))
    decoder, n_shown = codecs.getincrementaldecoder('utf-8')(errors='replace'), 0  # a character may take several tokens
    while sequence.finish_reason is None:
        engine.step()
        for i, token in enumerate(sequence.tokens[n_shown:], n_shown):
            text = '' if token == tokenizer.eot else decoder.decode(tokenizer.token_bytes(token))
            coloured = i in sequence.forced and sys.stdout.isatty()
            print(f'\033[1;36m{text}\033[0m' if coloured else text, end='', flush=True)
        n_shown = len(sequence.tokens)
    solution = decode_solution(sequence.tokens, tokenizer)
    if (answer := answer_of(solution)) is not None:
        print(f'\n\nanswer: {format_number(answer)}')
    elif sequence.finish_reason == 'length':
        print(f'\n\nno answer: the solution was not finished after {config["max_new_tokens"]} tokens')
    else:
        print('\n\nno answer: the solution has none')


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
