"""Tool use: a model that writes `<<48/2=` gets the calculator's result and `>>` put behind it, and writes on from there.

    tool = Calculator(tokenizer)
    (sequence,) = engine.add(Request(encode_question(question, tokenizer), max_new_tokens=200, tool=tool))
    while sequence.finish_reason is None:
        engine.step()                             # calls tool(sequence) after each new token

A problem is `<|endoftext|>`, the question, a line end and the solution; the next `<|endoftext|>` ends the solution. Only the
solution and that end count as targets (the mask of shards.py). What the model writes is encoded in pieces, cut where the
calculator takes over (chat_template.py).

This file does not know where problems come from, nor how a model is trained.
"""
import numpy as np

from chat_template import encode_answer
from tasks.calculator import MAX_CHARACTERS, calculate, parse_number

# ---------------------------------------------------------------------------- text to tokens

def encode_problem(problem: dict, tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of a {'question', 'answer'}, (n,) uint16, and whether each counts as a target, (n,) bool."""
    prompt, solution = encode_question(problem['question'], tokenizer), encode_answer(problem['answer'], tokenizer)
    counted = np.zeros(len(prompt) + len(solution), dtype=bool)
    counted[0] = counted[len(prompt):] = True  # the first token ends the problem before
    return np.array(prompt + solution, dtype=np.uint16), counted


def encode_question(question: str, tokenizer) -> list[int]:
    """The prompt for a solution."""
    return [tokenizer.eot, *tokenizer.encode(question.strip() + '\n')]


def decode_solution(tokens: list[int], tokenizer) -> str:
    """The text of a solution without the <|endoftext|> behind it."""
    return tokenizer.decode([token for token in tokens if token != tokenizer.eot])


# ---------------------------------------------------------------------------- the calculator

class Calculator:
    """A tool for `inference.engine.Request`: answers the calls in the sequences that a model writes.

    It keeps no state, so one serves any number of sequences. A call that cannot be worked out stays as it is.
    """

    def __init__(self, tokenizer):
        calculate('solve(x=1, x)')  # imports sympy, which takes a moment, now rather than in the middle of a text
        self.tokenizer = tokenizer

    def __call__(self, sequence) -> list[int] | None:
        """The tokens of the result and `>>` if the text now ends in a call up to its =, else None.

        sequence: has `ids`, all token ids including the prompt's, and `finish_reason`, None while it is being written
        """
        if sequence.finish_reason is not None or not self.tokenizer.token_bytes(sequence.ids[-1]).endswith(b'='):
            return None
        _, opening, expression = self.tokenizer.decode(sequence.ids[-MAX_CHARACTERS - 8:]).rpartition('<<')
        if not opening:
            return None
        try:
            return self.tokenizer.encode(f'{calculate(expression[:-1])}>>')
        except ValueError:
            return None


def check_call(expression: str, written: str) -> tuple[bool, str]:
    """(whether the calculator confirms the written result of an expression, what the calculator says)."""
    try:
        result = calculate(expression)
        return result == written or parse_number(result) == parse_number(written), result
    except ValueError as error:
        return False, str(error)
