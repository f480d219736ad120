"""Ends with exit code 0 if this Python can run bench/gpu.py as it is, else with a line that says what is missing: with 1
where an environment of its own may help, and with 2 where this machine has no GPU.

    python -m bench.usable                             # needs a GPU, which torch sees
    python -m bench.usable --device=cpu                # needs packages alone
"""
import importlib.util
import os
import shutil
import sys

NEEDED = ('torch', 'triton', 'numpy', 'regex', 'tqdm')


def why_not(arguments: list[str]) -> str | None:
    """None, or the reason why this Python cannot run bench/gpu.py with these arguments."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return f'it has no {", ".join(missing)}'
    import torch
    if '--device=cpu' in arguments or torch.cuda.is_available():
        return None
    return f'its torch {torch.__version__} sees no CUDA device'


def has_gpu() -> bool:
    """Whether there is a GPU of NVIDIA's, by its driver, which needs no package."""
    return bool(shutil.which('nvidia-smi')) or os.path.exists('/dev/nvidiactl') or os.path.exists('/dev/dxg')


if __name__ == '__main__':
    reason = why_not(sys.argv[1:])
    if reason and '--device=cpu' not in sys.argv and not has_gpu():
        print('this machine has no NVIDIA GPU: there is no nvidia-smi; `make gpu ARGS=--device=cpu` measures what needs none',
              file=sys.stderr)
        sys.exit(2)
    sys.exit(reason and f'{sys.executable} is not used: {reason}')
