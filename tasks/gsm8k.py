"""Problems in GSM8K's form (Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems"), from several sources.

    from tasks.gsm8k import answer_of, read_problems
    problems = read_problems('gsm8k', 'test')            # of the Hugging Face hub
    problems = read_problems('my.jsonl')                 # a file: an object with question and answer on each line
    problems = read_problems('generated', 'train', 1000, seed=0)

The answer of a problem is its solution, with calls such as `<<48/2=24>>24`, and `#### 24` as the last line. This file knows
nothing about tokens or models.
"""
import itertools
import os
import re
from fractions import Fraction

from tqdm import tqdm

from chat_template import CALL
from runtime.errors import BadInput
from runtime.words import split_list
from sources import hub_rows, read_rows
from tasks.calculator import parse_number
from tasks.tool_use import check_call
from tasks.word_problems import generate_problems

# GSM8K's own pattern (grade_school_math/dataset.py of its release), with the fractions of the calculator beside its numbers
ANSWER = re.compile(r'#### (-?[0-9.,]+(?:/0*[1-9][0-9]*)?)')


def split_sources(names: str) -> list[str]:
    """The sources in a list with commas between them; a file's name may have commas itself."""
    return [names] if os.path.exists(names) else split_list(names)


def read_problems(source: str, split: str = 'train', n_generated: int = 0, seed: int = 0) -> list[dict]:
    """The problems of one source as [{'question', 'answer', 'kind'}].

    source: 'generated', 'gsm8k' or the path of a .jsonl file. Raises BadInput if that holds something else.
    split: 'train' or 'test', of generated problems and of the hub's
    n_generated, seed: of generated problems; all others are taken whole
    """
    if source == 'generated':
        generator = itertools.islice(generate_problems(split, seed), n_generated)
        return list(tqdm(generator, total=n_generated, desc=f'making {split} problems', unit=' problems'))
    if source != 'gsm8k' and not os.path.exists(source):
        raise BadInput(f'no file {source}; a source is generated, gsm8k or a .jsonl file')
    rows = hub_rows('openai/gsm8k', 'main', split) if source == 'gsm8k' else read_rows(source)
    problems = [check_problem(place, row) for place, row in rows]
    if not problems:
        raise BadInput(f'{source} has no problems; each line should be one, with a question and an answer')
    return problems


def check_problem(place, row):
    """A row as a problem. Raises BadInput, with its place, if it is none."""
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ('question', 'answer')):
        raise BadInput(f'{place}: a problem is an object with a question and an answer, both text')
    if answer_of(row['answer']) is None:
        raise BadInput(f'{place}: the answer has no line such as "#### 24", its number behind "#### "')
    return {'question': row['question'], 'answer': row['answer'], 'kind': row.get('kind') or kind_by_length(row['answer'])}


def kind_by_length(solution):
    """The kind of a problem that names none: the number of calls in its solution."""
    n_calls = len(CALL.findall(solution))
    return '1 step' if n_calls == 1 else f'{n_calls} steps' if n_calls < 6 else '6 or more steps'


def answer_of(solution: str) -> Fraction | None:
    """The number behind the first `#### ` of a solution that has one, whatever follows it, or None."""
    answer = ANSWER.search(solution)
    try:
        return parse_number(answer[1].replace(',', '')) if answer else None
    except ValueError:
        return None


def check_calls(problems: list[dict]) -> tuple[int, list[tuple]]:
    """(number of calls in the solutions, those whose result the calculator does not confirm).

    The second is a list of (number of the problem from 1, the call, what the calculator says).
    """
    calls = [(number, call) for number, problem in enumerate(problems, 1) for call in CALL.finditer(problem['answer'])]
    checked = [(number, call[0], *check_call(call[1], call[2])) for number, call in calls]
    return len(calls), [(number, call, result) for number, call, is_right, result in checked if not is_right]
