"""What stands beside the figures (command, machine, versions, commit), and tables of them."""
import contextlib
import importlib.metadata
import os
import platform
import subprocess

LIBRARIES = ('torch', 'triton', 'transformers', 'liger-kernel', 'numpy', 'tokenizers', 'tiktoken', 'regex')
PATHS = ('--peer_dir=', '--json=', '--input=')


def describe_run(argv: list[str], device: str) -> dict:
    """Where the figures come from. Paths are left out, so that a result can be published as it is."""
    import torch

    from bpe import available_cores
    from runtime import hardware
    device = hardware.pick_device(device)
    arguments = [f'{arg.partition("=")[0]}=PATH' if arg.startswith(PATHS) else arg for arg in argv]
    versions = {'python': platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        'command': ' '.join(['python -m bench', *arguments]),
        'machine': {'cpu': cpu_name(), 'cores': available_cores(), 'cpu_bf16': hardware.cpu_has_bf16_units(),
                    'gpu': torch.cuda.get_device_name(device) if device.type == 'cuda' else None,
                    'system': platform.platform()},
        'versions': versions,
        'commit': commit(),
    }


def cpu_name():
    if os.path.exists('/proc/cpuinfo'):
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            for line in file:
                if line.startswith('model name'):
                    return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def commit():
    """The commit of this checkout, with -dirty where a file has been changed since; unknown without git."""
    def git(*arguments):
        folder = os.path.dirname(os.path.abspath(__file__))
        return subprocess.run(['git', *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    try:
        return git('rev-parse', 'HEAD') + '-dirty' * bool(git('status', '--porcelain', '--untracked-files=no'))
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


def print_run(run: dict):
    machine, dirty = run['machine'], '-dirty' * run['commit'].endswith('-dirty')
    print(f'`{run["command"]}` at commit {run["commit"][:10]}{dirty}\n')
    print(f'{machine["gpu"] + "; " if machine["gpu"] else ""}{machine["cpu"]}, {machine["cores"]} cores'
          f'{" with bf16 units" * machine["cpu_bf16"]}; {", ".join(map(" ".join, run["versions"].items()))}', flush=True)


def print_table(title: str, rows: list[dict]):
    """A table in Markdown. rows: dicts with the same keys; floats are shown with three digits, None as nothing."""
    def show(value):
        if isinstance(value, float):
            return f'{value:.3g}' if value < 1000 else f'{value:,.0f}'
        return '' if value is None else str(value)

    lines = [list(rows[0]), *([show(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ['-' * width for width in widths])
    print(f'\n{title}\n')
    for line in lines:
        print(f'| {" | ".join(cell.ljust(width) for cell, width in zip(line, widths))} |', flush=True)
