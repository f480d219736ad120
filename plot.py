"""Draws the metrics of one run, or of several to compare: loss, learning rate and throughput over tokens; prints a table.

    python plot.py out/demo                                     # writes out/demo/loss.png
    python plot.py out/adamw out/muon --to=comparison.png       # one colour a run
    python plot.py --out_dir='out/lr_*'                         # all runs whose folders are called so

train.py does the first by itself at every validation where matplotlib is installed. This file knows nothing of
training but the names in metrics.jsonl.
"""
import glob
import importlib.util
import math
import os
import statistics

from configurator import configure
from runtime.errors import BadInput, first_line, one_line_errors, warn_once
from runtime.files import atomic_write, folders_near
from runtime.metrics import best_row, metrics_path, read_metrics
from runtime.tables import table

POINTS = 4000  # the most of a curve that are read: a picture shows no more
LARGEST = 1e100  # beyond it, sums and scales overflow
DEFAULTS = {
    'out_dir': 'out',  # folder of the run, or several with commas between; * and ? stand for parts of names
    'to': '',  # the picture; empty: loss.png in the folder of the run, or comparison.png beside the first of several
}


def main(config):
    folders = find_runs(config['out_dir'])
    path = config['to'] or (os.path.join(folders[0], 'loss.png') if len(folders) == 1 else
                            os.path.join(os.path.dirname(os.path.normpath(folders[0])), 'comparison.png'))
    if not importlib.util.find_spec('matplotlib'):
        raise BadInput('plots need matplotlib: pip install matplotlib')
    draw(folders, path)
    print(compare(folders))
    print(path)


def find_runs(patterns: str) -> list[str]:
    """The folders of the runs that folders and globs, with commas between, stand for. Raises BadInput where one has no run."""
    folders = []
    for pattern in patterns.split(','):
        found = [pattern] if os.path.isdir(pattern) else sorted(glob.glob(pattern))
        runs = [folder for folder in found if os.path.exists(metrics_path(folder))]
        if not runs:
            others = folders_near(pattern, 'metrics.jsonl')
            advice = f'there are runs in {others}' if others else 'a run of train.py writes one'
            name = pattern or f'out_dir={patterns}: a folder without a name'
            raise BadInput(f'{name} has no metrics.jsonl to draw; {advice}')
        folders += runs
    return list(dict.fromkeys(folders))


def draw_if_possible(out_dir: str):
    """OUT_DIR/loss.png, where matplotlib is installed. A picture ends no run: whatever goes wrong becomes a warning."""
    if importlib.util.find_spec('matplotlib'):
        try:
            draw([out_dir], os.path.join(out_dir, 'loss.png'))
        except Exception as error:  # matplotlib meets fonts, caches and settings of the user, and raises what it likes
            warn_once(f'the plot was not drawn: {first_line(error)}; the run goes on')


def draw(folders: list[str], path: str):
    """Writes the picture of the runs in `folders`. Raises BadInput where a folder has no metrics."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(10, 7.5), layout='constrained')
    kind, kinds = os.path.splitext(path)[1].lstrip('.') or 'png', figure.canvas.get_supported_filetypes()
    if kind.lower() not in kinds:
        raise BadInput(f'{path} should end in one of .{", .".join(kinds)}')
    names = [os.path.basename(os.path.normpath(folder)) for folder in folders]
    axes = figure.subplot_mosaic([['loss', 'loss'], ['rate', 'speed']], height_ratios=(2, 1))
    for i, folder in enumerate(folders):
        name, style = names[i] if len(set(names)) == len(names) else folder, {'color': f'C{i}', 'linewidth': 1}
        _, trained, validated = read_run(folder)
        tokens = column(trained, 'tokens', 1e6)
        axes['loss'].plot(tokens, column(trained, 'loss'), **style, alpha=0.25)
        axes['loss'].plot(tokens, smooth(column(trained, 'loss')), **style, label=f'{name}: training, smoothed')
        axes['rate'].plot(tokens, column(trained, 'lr'), **style)
        axes['speed'].plot(tokens, column(trained, 'tokens_per_s', 1e3), **style)
        if validated:
            losses, bits = column(validated, 'val_loss'), column(validated, 'val_bpb')
            end = f'{losses[-1]:.3f} ({bits[-1]:.3f} bits per byte) at the end'
            axes['loss'].plot(column(validated, 'tokens', 1e6), losses, **style, linestyle='--',
                              marker='o', markersize=4, label=f'{name}: validation, {end}')
    axes['loss'].legend(frameon=False)
    axes['speed'].set_ylim(bottom=0)
    for key, label in (('loss', 'loss (nats per token)'), ('rate', 'learning rate'), ('speed', 'thousand tokens per second')):
        axes[key].set(xlabel='million tokens', ylabel=label)
        axes[key].grid(alpha=0.3)
        axes[key].spines[['top', 'right']].set_visible(False)
    with atomic_write(path) as file:
        figure.savefig(file, format=kind, dpi=120)


def compare(folders: list[str]) -> str:
    """The runs side by side in text: where they ended, how good they were, how fast."""
    lines = [('run', 'steps', 'tokens', 'last validation', 'best', 'bits per byte', 'tokens/s')]
    for folder in folders:
        rows, trained, validated = read_run(folder)
        losses, bits = column(validated, 'val_loss') or [math.nan], column(validated, 'val_bpb') or [math.nan]
        best = best_row(validated) or {'val_loss': math.nan}
        speed, tokens = statistics.median(column(trained, 'tokens_per_s') or [math.nan]), column(rows, 'tokens')
        lines.append((folder, f'{rows[-1]["step"]:,}', f'{tokens[-1]:,.0f}', f'{losses[-1]:.4f}', f'{best["val_loss"]:.4f}',
                      f'{bits[-1]:.4f}', f'{speed:,.0f}'))
    return table(lines)


def read_run(folder):
    """(all rows of a run's metrics, those of training, those of validation)"""
    rows = read_metrics(folder, POINTS)
    if not rows:
        raise BadInput(f'{folder}: its metrics.jsonl has no row yet; a run writes one after its first step')
    return rows, [row for row in rows if 'loss' in row], [row for row in rows if 'val_loss' in row]


def column(rows, key, unit=1):
    """NaN where a row has no such number, or one that is too large to be drawn."""
    return [value / unit if abs(value) < LARGEST else math.nan for value in (row.get(key, math.nan) for row in rows)]


def smooth(values, reach=20):
    """Means over up to `reach` finite neighbours on both sides; over fewer at the start, where the loss falls fast."""
    reaches = [min(reach, i // 10) for i in range(len(values))]
    return [mean_of_finite(values[i - n:i + n + 1]) for i, n in enumerate(reaches)]


def mean_of_finite(values):
    finite = [value for value in values if math.isfinite(value)]
    return statistics.fmean(finite) if finite else math.nan


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS, positional='out_dir'))
