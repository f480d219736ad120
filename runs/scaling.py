"""How the loss falls with the size of the model and the number of tokens: a series of runs, and the law that fits them.

    python -m runs.scaling --data_dir=data/torch
    python -m runs.scaling --data_dir=data/torch --depths=2,3,4 --tokens=500_000,1_000_000 --out_dir=out/small_series

One dial, the depth d, sets the shape of a model: d layers and d heads, 32 d wide. Each depth is trained on each number of
tokens with the settings of config/scaling.py, from scratch and with its own schedule. Then a law is fitted
(runs/scaling_law.py): once to all runs, and once without those that took more than a third of the operations of the largest,
to see whether it forecasts that one. Run again, it goes on where it was. OUT_DIR gets a folder for each run, scaling.md,
scaling.json and scaling.png.
"""
import importlib.util
import os

import torch

import plot
import pretrained
import shards
import train
from configurator import check_bounds, configure
from model import GPT
from runs.sweep import is_finished, result_of, run_to_end
from runtime.errors import BadInput, one_line_errors
from runtime.files import atomic_write, make_folder, write_json
from runtime.tables import table
from runtime.words import plural

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONFIG = os.path.join(ROOT, 'config', 'scaling.py')
HEAD_SIZE = 32
DEFAULTS = {
    'data_dir': 'data/torch',  # folder of shards; a text that the longest run does not see twice
    'out_dir': 'out/scaling',  # of the series
    'depths': '2,3,4,5,6,8',  # the dial: layers and heads; the width is 32 times as much
    'tokens': '750_000,1_500_000,3_000_000,6_000_000',  # each depth is trained on each of these
    'forecast_flops': 8 * 3600 * 400e12,  # a budget to forecast for: 8 GPUs for an hour at 400 TFLOP/s each
}


def main(config):
    check_bounds(config, 'forecast_flops', above=0)
    if not all(importlib.util.find_spec(name) for name in ('scipy', 'matplotlib')):
        raise BadInput('the fit and its picture need scipy and matplotlib: pip install scipy matplotlib')
    depths, numbers = numbers_of(config, 'depths'), numbers_of(config, 'tokens')
    if len(depths) < 3 or len(numbers) < 3:
        raise BadInput(f'{plural(len(depths), "depth")} and {plural(len(numbers), "number")} of tokens do not show how the '
                       'loss depends on them; give at least 3 of each')
    shards.find_shards(config['data_dir'], 'train')
    settings = configure(train.DEFAULTS, [CONFIG])
    settings['vocab_size'] = shards.load_meta(config['data_dir'])['vocab_size']
    planned = [planned_run(config, settings, depth, n_tokens) for n_tokens in numbers for depth in depths]
    n_smaller = len(smaller_than_the_largest(planned))
    if n_smaller < 5:
        raise BadInput(f'{plural(n_smaller, "run")} of {len(planned)} would take at most a third of the operations of the '
                       'largest, and its forecast needs 5; give more depths or numbers of tokens, or some further apart')
    make_folder(config['out_dir'])
    print(f'{len(planned)} runs of {sum(run["flops"] for run in planned):.3g} floating-point operations in all')
    for number, run in enumerate(planned, 1):
        print(f'run {number} of {len(planned)}: depth {run["depth"]}, {run["n_tokens"]:,} tokens', flush=True)
        own = run['settings']
        if not is_finished(own['out_dir'], own):
            flags = [f'--{key}={value}' for key, value in own.items()]
            run_to_end([os.path.join(ROOT, 'train.py'), CONFIG, *flags], own['out_dir'])
    text = report(config, [{**run, **result_of(run['settings']['out_dir'])} for run in planned])
    print(text)
    print(config['out_dir'])


def numbers_of(config, key):
    """'2,3' -> [2, 3]"""
    try:
        numbers = sorted({int(text) for text in config[key].split(',')})
    except ValueError:
        raise BadInput(f'{key}={config[key]} should be whole numbers with commas between') from None
    if numbers[0] < 1:
        raise BadInput(f'{key}={config[key]}: {numbers[0]} should be at least 1')
    return numbers


def planned_run(config, settings, depth, n_tokens):
    """What is known of a run before it is made. Its parameters are those that compute: all but the table of positions."""
    batch = settings['total_batch_tokens']
    own = {'data_dir': config['data_dir'], 'n_layer': depth, 'n_head': depth, 'n_embd': HEAD_SIZE * depth,
           'max_steps': max(1, round(n_tokens / batch)),
           'out_dir': os.path.join(config['out_dir'], f'depth_{depth}_tokens_{n_tokens}')}
    with torch.device('meta'):
        model = GPT(pretrained.model_config({**settings, **own}))
    n_tokens = own['max_steps'] * batch
    return {'depth': depth, 'n_tokens': n_tokens, 'n_params': model.n_params() - model.transformer.wpe.weight.numel(),
            'flops': model.flops_per_token() * n_tokens, 'settings': own}


def smaller_than_the_largest(results):
    """Those of at most a third of its operations: what the largest is forecast from."""
    most = max(result['flops'] for result in results)
    return [result for result in results if result['flops'] <= most / 3]


def report(config, results):
    """Fits the law, writes tables and picture; returns the tables."""
    from runs.scaling_law import Run, fit, resampled  # needs scipy
    runs = [Run(result['n_params'], result['n_tokens'], result['loss']) for result in results]
    law = fit(runs)
    laws = resampled(runs, law)
    largest = max(results, key=lambda result: result['flops'])
    smaller = smaller_than_the_largest(results)
    before = fit([Run(result['n_params'], result['n_tokens'], result['loss']) for result in smaller])
    size = largest['n_params'], largest['n_tokens']
    text = '\n\n'.join([
        runs_table(results, law),
        law_table(law, laws),
        f'forecast of the largest run (depth {largest["depth"]}, {largest["n_tokens"]:,} tokens) from the {len(smaller)} runs '
        f'of at most a third of its operations: {before.loss(*size):.4f}; measured: {largest["loss"]:.4f}, '
        f'{100 * (before.loss(*size) / largest["loss"] - 1):+.2f}%',
        optimum_table(config, law, laws),
    ])
    with atomic_write(os.path.join(config['out_dir'], 'scaling.md')) as file:
        file.write((text + '\n').encode())
    write_json(os.path.join(config['out_dir'], 'scaling.json'), {
        'law': law._asdict(), 'law_of_smaller_runs': before._asdict(),
        'runs': [{key: value for key, value in result.items() if key != 'settings'} for result in results]})
    draw(results, law, os.path.join(config['out_dir'], 'scaling.png'))
    return text


def runs_table(results, law):
    rows = [('depth', 'parameters', 'tokens', 'operations', 'loss', 'law', 'difference', 'bits per byte', 'tokens/s')]
    for result in results:
        loss, by_law = result['loss'], law.loss(result['n_params'], result['n_tokens'])
        rows.append((str(result['depth']), f'{result["n_params"]:,}', f'{result["n_tokens"]:,}', f'{result["flops"]:.2e}',
                     f'{loss:.4f}', f'{by_law:.4f}', f'{100 * (by_law / loss - 1):+.2f}%', f'{result["bits_per_byte"]:.4f}',
                     f'{result["tokens_per_s"]:,.0f}'))
    return table(rows)


def law_table(law, laws):
    rows = [('loss = E + A / parameters^alpha + B / tokens^beta', 'fitted', '90% of the resampled fits')]
    for name, value in law._asdict().items():
        low, high = interval([getattr(other, name) for other in laws])
        rows.append((name, f'{value:.4g}', f'{low:.4g} to {high:.4g}'))
    return table(rows)


def optimum_table(config, law, laws):
    """The best size for some budgets of operations: those of the series, and the one to forecast for."""
    rows = [('budget of operations', 'best parameters', '90%', 'tokens', 'loss', '90%')]
    for flops in (1e13, 1e14, 1e15, config['forecast_flops']):
        n_params, n_tokens = law.optimum(flops)
        sizes = interval([other.optimum(flops)[0] for other in laws])
        losses = interval([other.loss(*other.optimum(flops)) for other in laws])
        rows.append((f'{flops:.3g}', f'{n_params:,.3g}', ' to '.join(f'{size:.3g}' for size in sizes), f'{n_tokens:,.3g}',
                     f'{law.loss(n_params, n_tokens):.3f}', ' to '.join(f'{loss:.3f}' for loss in losses)))
    return table(rows)


def interval(values, share=0.9):
    """The bounds between which the middle `share` of the values lies."""
    values = sorted(values)
    cut = round((1 - share) / 2 * (len(values) - 1))
    return values[cut], values[-1 - cut]


def draw(results, law, path):
    """Left: the loss over the tokens, with the law's line for each size. Right: over the operations, with the law's best."""
    import numpy as np
    from matplotlib.figure import Figure
    figure = Figure(figsize=(12, 5), layout='constrained')
    left, right = figure.subplots(1, 2, sharey=True)
    flops = [result['flops'] for result in results]
    for i, depth in enumerate(sorted({result['depth'] for result in results})):
        same = [result for result in results if result['depth'] == depth]
        n_params, tokens = same[0]['n_params'], [result['n_tokens'] for result in same]
        between = np.geomspace(min(tokens), max(tokens))
        for axes, x in ((left, tokens), (right, [result['flops'] for result in same])):
            axes.plot(x, [result['loss'] for result in same], 'o', color=f'C{i}', label=f'{n_params / 1e6:.2g} million')
        left.plot(between, law.loss(n_params, between), color=f'C{i}', linewidth=1)
        right.plot(same[0]['flops'] / tokens[0] * between, law.loss(n_params, between), color=f'C{i}', linewidth=1)
    budgets = np.geomspace(min(flops), max(flops))
    right.plot(budgets, [law.loss(*law.optimum(budget)) for budget in budgets], 'k--', linewidth=1, label='the best by the law')
    for axes, label in ((left, 'training tokens'), (right, 'floating-point operations')):
        axes.set(xscale='log', xlabel=label)
        plot.tidy(axes)
    left.set_ylabel('validation loss (nats per token)')
    right.legend(frameon=False, title='parameters')
    plot.save(figure, path)


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
