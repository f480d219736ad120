"""What stands beside the figures (command, machine, versions, commit), tables of them, and the reason where there are none."""
import contextlib
import importlib.metadata
import platform
import re

import torch

from runtime import hardware
from runtime.errors import program_name
from runtime.parallel import available_cores
from runtime.report import git

LIBRARIES = ('torch', 'triton', 'transformers', 'liger-kernel', 'numpy', 'tokenizers', 'tiktoken', 'regex', 'llama-cpp-python',
             'ctranslate2')
PATHS = ('--peer_dir=', '--json=', '--input=', '--data_dir=', '--init_from=')


def describe_run(argv: list[str], device: str) -> dict:
    """Where the figures come from. Paths are left out, so that a result can be published as it is."""
    device = hardware.pick_device(device)
    arguments = [f'{arg.partition("=")[0]}=PATH' if arg.startswith(PATHS) else arg for arg in argv]
    versions = {'python': platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        'command': ' '.join([program_name(), *arguments]),
        'machine': {'cpu': hardware.cpu_name(), 'cores': available_cores(), 'cpu_bf16': hardware.cpu_has_bf16_units(),
                    'gpu': torch.cuda.get_device_name(device) if device.type == 'cuda' else None,
                    'system': platform.platform()},
        'versions': versions,
        'commit': git('describe', '--always', '--dirty', '--abbrev=10', '--exclude=*') or 'unknown',
    }


def run_text(run: dict) -> str:
    """What describe_run says, in two lines."""
    machine = run['machine']
    return (f'`{run["command"]}` at commit {run["commit"]}\n\n'
            f'{machine["gpu"] + "; " if machine["gpu"] else ""}{machine["cpu"]}, {machine["cores"]} cores'
            f'{" with bf16 units" * machine["cpu_bf16"]}; {", ".join(map(" ".join, run["versions"].items()))}')


def table_text(title: str, rows: list[dict]) -> str:
    """A table in Markdown. rows: dicts with the same keys; floats are shown with three digits, None as nothing."""
    def show(value):
        if isinstance(value, float):
            return f'{value:.3g}' if value < 1000 else f'{value:,.0f}'
        return '' if value is None else str(value)

    lines = [list(rows[0]), *([show(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ['-' * width for width in widths])
    rows = (f'| {" | ".join(cell.ljust(width) for cell, width in zip(line, widths))} |' for line in lines)
    return '\n'.join(['', title, '', *rows])


def error_line(log: str) -> str:
    """The line of a log that says what went wrong: of an exception, of pytest or of a script of ours; '' if there is none."""
    pattern = r'(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Diverged)\b.*|FAILED .*|(?:python -m [\w.]+|\w+\.py): .*'
    lines = [line.strip() for line in log.splitlines()]
    said = [line for line in lines if re.fullmatch(pattern, line)]
    return said[-1] if said else ''
