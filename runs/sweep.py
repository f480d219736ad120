"""Runs train.py with every combination of some settings' values, one after the other, and compares the results.

    python -m runs.sweep config/demo.py --learning_rate=1e-3,2e-3,4e-3 --seed=1,2,3
    python -m runs.sweep config/demo.py --optimizer=adamw,muon --max_steps=300 --sweep_dir=out/optimizers

All arguments are train.py's, but a number, a word of a few or a True or False may have several values, with commas between.
Run again, it goes on where it was: a finished run is not made again, and one that was interrupted resumes. SWEEP_DIR gets a
folder for each run, sweep.md with the table, sweep.json with its numbers, curves.png and, where a number is varied,
sweep.png: the last validation loss over it. Seeds are put together: mean and standard deviation over them.
"""
import importlib.util
import itertools
import math
import os
import shlex
import statistics
import subprocess
import sys

import plot
import train
from configurator import as_settings, choice, configure, key_of, split_arguments
from runtime.errors import BadInput, one_line_errors
from runtime.files import atomic_write, make_folder, read_json, write_json
from runtime.metrics import best_row, metrics_path, read_metrics
from runtime.tables import table

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main(arguments):
    sweep_dir, arguments = own_setting(arguments)
    settings = as_settings(train.DEFAULTS)
    files, flags = split_arguments(arguments, settings)
    varied, fixed = {}, []
    for key, flag in {key_of(flag): flag for flag in flags}.items():  # the last one of a setting counts
        text = flag.partition('=')[2]
        if ',' in text and (settings[key].kind is not str or isinstance(settings[key], choice)):
            varied[key] = [value for value in text.split(',') if value]
        else:
            fixed.append(flag)
    if 'out_dir' in map(key_of, fixed):
        raise BadInput('every run of a sweep has its own out_dir; --sweep_dir names the folder of all')
    if not varied:
        raise BadInput('nothing is varied: give a setting several values, as in --learning_rate=1e-3,2e-3')
    combinations = [dict(zip(varied, values)) for values in itertools.product(*varied.values())]
    configs = [configure(train.DEFAULTS, [*files, *fixed, *flags_of(chosen)]) for chosen in combinations]  # checks all of them
    sweep_dir = sweep_dir or os.path.join('out', 'sweep_' + '_'.join(varied))
    make_folder(sweep_dir)
    fixed = [*files, *fixed]
    check_same(sweep_dir, fixed)
    folders = [os.path.join(sweep_dir, '_'.join(f'{key}_{value}' for key, value in chosen.items())) for chosen in combinations]
    for number, (chosen, config, folder) in enumerate(zip(combinations, configs, folders), 1):
        line = f'run {number} of {len(folders)}: {", ".join(f"{key}={value}" for key, value in chosen.items())}'
        if is_finished(folder, config):
            print(f'{line}: finished before', flush=True)
            continue
        print(line, flush=True)
        run_to_end([os.path.join(ROOT, 'train.py'), *fixed, *flags_of(chosen), f'--out_dir={folder}'], folder)
        if number < len(folders):
            report(sweep_dir, varied, combinations[:number], folders[:number], fixed)
    print(report(sweep_dir, varied, combinations, folders, fixed))
    print(sweep_dir)


def own_setting(arguments):
    """(--sweep_dir's value or None, the other arguments)"""
    if any(argument in ('-h', '--help') for argument in arguments) or not arguments:
        print(f'usage: python -m runs.sweep [CONFIG.py ...] [--key=value[,value ...] ...] [--sweep_dir=FOLDER]\n\n{__doc__}\n'
              'python train.py --help lists the settings')
        sys.exit(0)
    mine = [argument for argument in arguments if argument.startswith(('--sweep_dir=', '--sweep-dir='))]
    return (mine[-1].partition('=')[2] if mine else None), [argument for argument in arguments if argument not in mine]


def flags_of(chosen):
    return [f'--{key}={value}' for key, value in chosen.items()]


def is_finished(folder, config):
    rows = read_metrics(folder) if os.path.exists(metrics_path(folder)) else []
    return any('val_loss' in row and row['step'] >= config['max_steps'] for row in rows)


def run_to_end(command: list[str], name: str):
    """Runs a Python script with its arguments in a process of its own. Raises BadInput with `name` if it fails."""
    code = subprocess.run([sys.executable, *command]).returncode
    if code:
        raise BadInput(f'{name} ended with exit code {code}; the same command goes on from here')


def check_same(sweep_dir, fixed):
    """Runs of other settings do not belong into the same table."""
    path = os.path.join(sweep_dir, 'sweep.json')
    earlier = read_json(path).get('fixed') if os.path.exists(path) else None
    if earlier not in (None, fixed):
        raise BadInput(f'{sweep_dir} has runs of {shlex.join(earlier) or "the defaults"}; give the same, or name another '
                       '--sweep_dir')


def report(sweep_dir, varied, combinations, folders, fixed):
    """Writes the tables and pictures of the runs so far; returns the table."""
    results = [{**chosen, **result_of(folder)} for chosen, folder in zip(combinations, folders)]
    text = runs_table(varied, results)
    if 'seed' in varied and len(varied) > 1:
        text += '\n\n' + seeds_table(varied, results)
    with atomic_write(os.path.join(sweep_dir, 'sweep.md')) as file:
        file.write((text + '\n').encode())
    write_json(os.path.join(sweep_dir, 'sweep.json'), {'fixed': fixed, 'varied': varied, 'runs': results})
    if importlib.util.find_spec('matplotlib'):
        plot.draw(folders, os.path.join(sweep_dir, 'curves.png'))
        draw_losses(varied, results, os.path.join(sweep_dir, 'sweep.png'))
    return text


def result_of(folder):
    rows = read_metrics(folder)
    validated = [row for row in rows if 'val_loss' in row]
    speeds = [row['tokens_per_s'] for row in rows if 'tokens_per_s' in row]
    return {'tokens': rows[-1]['tokens'], 'loss': validated[-1]['val_loss'], 'best': best_row(validated)['val_loss'],
            'bits_per_byte': validated[-1]['val_bpb'], 'tokens_per_s': statistics.median(speeds),
            'elapsed_s': max(row.get('elapsed_s', 0) for row in rows)}


def runs_table(varied, results):
    lines = [(*varied, 'tokens', 'last validation', 'best', 'bits per byte', 'tokens/s', 'minutes')]
    for result in results:
        numbers = (f'{result[key]:.4f}' for key in ('loss', 'best', 'bits_per_byte'))
        lines.append((*(result[key] for key in varied), f'{result["tokens"]:,}', *numbers, f'{result["tokens_per_s"]:,.0f}',
                      f'{result["elapsed_s"] / 60:.1f}'))
    return table(lines)


def seeds_table(varied, results):
    """What is left when the runs that differ in their seed alone are put together."""
    others = [key for key in varied if key != 'seed']
    lines = [(*others, 'seeds', 'last validation', 'standard deviation', 'bits per byte')]
    for values, same in grouped(results, others):
        losses, bits = [result['loss'] for result in same], [result['bits_per_byte'] for result in same]
        deviation = f'{statistics.stdev(losses):.4f}' if len(same) > 1 else '-'
        lines.append((*values, str(len(same)), f'{statistics.fmean(losses):.4f}', deviation, f'{statistics.fmean(bits):.4f}'))
    return table(lines)


def grouped(results, keys):
    """[(their values of these keys, the results that have them)], in the order in which they come up."""
    groups = {}
    for result in results:
        groups.setdefault(tuple(result[key] for key in keys), []).append(result)
    return list(groups.items())


def draw_losses(varied, results, path):
    """The last validation loss over the first number that is varied: a dot for each run, a line for each choice of the rest."""
    numbers = [key for key in varied if key != 'seed' and all(is_number(value) for value in varied[key])]
    if not numbers:
        return
    from matplotlib.figure import Figure
    axis, rest = numbers[0], [key for key in varied if key not in ('seed', numbers[0])]
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.subplots()
    for i, (values, same) in enumerate(grouped(results, rest)):
        points = sorted((float(at[0]), [result['loss'] for result in runs]) for at, runs in grouped(same, [axis]))
        label = ', '.join(f'{key}={value}' for key, value in zip(rest, values)) or None
        axes.plot([x for x, _ in points], [statistics.fmean(losses) for _, losses in points], color=f'C{i}', label=label)
        axes.plot([x for x, losses in points for _ in losses], [loss for _, losses in points for loss in losses], 'o',
                  color=f'C{i}', markersize=4)
    values = [float(value) for value in varied[axis]]
    if min(values) > 0 and max(values) >= 4 * min(values):
        axes.set_xscale('log')
    if rest:
        axes.legend(frameon=False)
    axes.set(xlabel=axis, ylabel='last validation loss (nats)')
    plot.tidy(axes)
    plot.save(figure, path)


def is_number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


if __name__ == '__main__':
    with one_line_errors():
        main(sys.argv[1:])
