"""Ends with exit code 0 if this Python has what `make gpu` needs and sees a GPU, else with a line that says what is missing.

    python -m bench.has_gpu
"""
import importlib.util
import sys

NEEDED = ('torch', 'triton', 'numpy', 'regex', 'tqdm')


def why_not():
    """None, or the one-line reason why this Python cannot be used."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return f'it has no {", ".join(missing)}'
    import torch
    return None if torch.cuda.is_available() else f'its torch {torch.__version__} sees no CUDA device'


if __name__ == '__main__':
    reason = why_not()
    sys.exit(reason and f'{sys.executable} is not used: {reason}')
