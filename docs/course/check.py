"""The exercises of the walk-through: lists them, and compares what you wrote with what is right.

    python -m docs.course.check                      # lists all exercises by page
    python -m docs.course.check attention            # checks your docs/course/exercises/attention.py
    python -m docs.course.check 2                    # checks all exercises of page 2
    python -m docs.course.check attention --hint=1   # a hint; --hint=2 says nearly everything
    python -m docs.course.check attention --file=docs/course/answers    # checks our solution, which is there to read

An exercise is a file exercises/NAME.py with a function NAME to fill in; its text says what the function should do.
"""
import importlib.util
import os
import subprocess
import sys

from configurator import check_bounds, configure
from docs.course import examine
from runtime.errors import BadInput, one_line_errors

DEFAULTS = {
    'exercise': '',  # names of exercises or numbers of pages, with commas between; empty lists all
    'hint': 0,  # 1 or 2: prints this hint instead of checking
    'file': '',  # the file to check, or a folder with a file NAME.py; empty: docs/course/exercises
    'seconds': 10.0,  # that your function may take for one case
}
PAGES = {
    1: ('count_pairs', 'merge', 'encode'),
    2: ('layer_norm', 'gelu', 'attention', 'count_parameters', 'initial_std'),
    3: ('sequence_order', 'accumulate', 'learning_rate', 'adamw_step', 'clip_gradients', 'orthogonalize'),
    4: ('vector_add', 'causal_softmax', 'online_softmax', 'layer_norm_backward', 'bytes_moved'),
    5: ('ring_all_reduce', 'mfu', 'training_memory'),
    6: ('top_k', 'top_p', 'cached_attention', 'utf8_stream'),
    7: ('parse_call', 'calculate', 'solution_targets'),
    9: ('encode_conversation', 'dpo_loss', 'group_advantages'),
}
IN_INTERPRETER = ('vector_add', 'causal_softmax')  # Triton kernels, which need no GPU there
EXERCISES = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'exercises')


def main(config):
    """The exit code: 0 if everything that was checked is right."""
    check_bounds(config, 'hint', at_least=0, at_most=2)
    check_bounds(config, 'seconds', above=0)
    names = find_names(config['exercise'])
    if not names:
        print('\n'.join(list_exercises()))
    if config['hint']:
        for name in names:
            print('\n'.join(examine.wrap(f'{name}: {examine.load_check(name).HINTS[config["hint"] - 1]}')))
        return 0
    return max([check(name, config) for name in names], default=0)


def list_exercises():
    lines = []
    for page, names in PAGES.items():
        lines += [f'page {page}', *(f'  {name:20}  {describe(name)}' for name in names)]
    return [*lines, '', 'Fill in the function in docs/course/exercises/NAME.py, then: python -m docs.course.check NAME']


def describe(name):
    """What an exercise asks for: the first line of the file that we deliver."""
    with open(os.path.join(EXERCISES, f'{name}.py'), encoding='utf-8') as file:
        return file.readline().strip('"\n').rstrip('.')


def find_names(text):
    """The exercises that a text such as 'attention,3' means."""
    names = []
    for word in filter(None, text.split(',')):
        if word.isdecimal() and int(word) in PAGES:
            names += PAGES[int(word)]
        elif any(word in of_page for of_page in PAGES.values()):
            names.append(word)
        else:
            raise BadInput(f'no exercise {word:.60}; `python -m docs.course.check` lists them')
    return names


def check(name, config):
    """Says whether a function is right. Returns 0 if it is, else 1."""
    path = find_file(name, config['file'])
    if name in IN_INTERPRETER and not has_interpreter(name):
        arguments = [f'--file={path}', f'--seconds={config["seconds"]}']
        environment = {**os.environ, 'TRITON_INTERPRET': '1'}  # which must be set before Triton is imported
        return subprocess.run([sys.executable, '-m', 'docs.course.check', name, *arguments], env=environment).returncode
    is_right, lines = examine.examine(name, path, config['seconds'])
    print('\n'.join(lines), flush=True)
    return 0 if is_right else 1


def find_file(name, given):
    """The file with the reader's function."""
    path = given or EXERCISES
    path = os.path.join(path, f'{name}.py') if os.path.isdir(path) else path
    if not os.path.isfile(path):
        raise BadInput(f'no file {path}; --file should be a file with the function {name}, or a folder with a file {name}.py')
    return os.path.abspath(path)


def has_interpreter(name):
    """Whether Triton will run kernels in its interpreter in this process. Raises BadInput where there is no Triton."""
    if importlib.util.find_spec('triton') is None:
        raise BadInput(f'the exercise {name} needs Triton, which is not installed here (pip install triton; Linux only)')
    return os.environ.get('TRITON_INTERPRET') == '1'


if __name__ == '__main__':
    with one_line_errors():
        sys.exit(main(configure(DEFAULTS, positional='exercise')))
