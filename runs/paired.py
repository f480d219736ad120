"""Whether one of two sweeps has the lower losses, seed by seed: the paired t-test.

    python -m runs.sweep config/demo.py --optimizer=adamw --seed=1,2,3,4,5 --sweep_dir=out/adamw
    python -m runs.sweep config/demo.py --max_steps=400 --seed=1,2,3,4,5 --sweep_dir=out/muon
    python -m runs.paired out/adamw out/muon

Two runs of the same seed read the same text in the same order, so their difference has less noise than the losses themselves.
The table has the last validation loss of each; p is the chance of such a difference, or a larger one, if there were none.
"""
import importlib.util
import math
import os
import statistics
import sys

from runtime.errors import BadInput, one_line_errors
from runtime.files import read_json
from runtime.tables import table


def main(arguments):
    if not arguments or any(argument in ('-h', '--help') for argument in arguments):
        print(f'usage: python -m runs.paired SWEEP_DIR SWEEP_DIR\n\n{__doc__}')
        sys.exit(0)
    if len(arguments) != 2:
        raise BadInput(f'two folders of sweeps are compared, not {len(arguments)}; --help says more')
    if not importlib.util.find_spec('scipy'):
        raise BadInput('the test needs scipy: pip install scipy')
    first, second = map(read_sweep, arguments)
    seeds = sorted(first.keys() & second.keys(), key=int)
    if len(seeds) < 2:
        raise BadInput(f'{arguments[0]} and {arguments[1]} should have at least two seeds in common, not {len(seeds)}')
    print(compare(seeds, first, second, arguments))


def read_sweep(folder):
    """{seed: result} of a sweep over seeds alone."""
    path = os.path.join(folder, 'sweep.json')
    if not os.path.exists(path):
        raise BadInput(f'{folder} has no sweep.json; python -m runs.sweep writes one')
    sweep = read_json(path)
    others = [key for key in sweep['varied'] if key != 'seed']
    if others or 'seed' not in sweep['varied']:
        raise BadInput(f'{folder} should be a sweep over seeds alone, such as --seed=1,2,3; it varies '
                       f'{", ".join(sweep["varied"])}')
    return {run['seed']: run for run in sweep['runs']}


def compare(seeds, first, second, names):
    from scipy.stats import ttest_rel
    losses = [[sweep[seed]['loss'] for seed in seeds] for sweep in (first, second)]
    differences = [b - a for a, b in zip(*losses)]
    rows = [('', *(f'seed {seed}' for seed in seeds), 'mean', 'deviation', 'tokens')]
    for name, sweep, values in zip(names, (first, second), losses):
        rows.append((name, *(f'{value:.4f}' for value in values), f'{statistics.fmean(values):.4f}',
                     f'{statistics.stdev(values):.4f}', f'{sweep[seeds[0]]["tokens"]:,}'))
    rows.append(('difference', *(f'{value:+.4f}' for value in differences), f'{statistics.fmean(differences):+.4f}',
                 f'{statistics.stdev(differences):.4f}', f'{second[seeds[0]]["tokens"] / first[seeds[0]]["tokens"]:.1%}'))
    test = ttest_rel(losses[1], losses[0])
    p = f'p = {test.pvalue:.2g}' if math.isfinite(test.pvalue) else 'no p: all differences are equal'
    return f'{table(rows)}\n{p} (paired t-test, two-sided, {len(seeds)} seeds)'


if __name__ == '__main__':
    with one_line_errors():
        main(sys.argv[1:])
