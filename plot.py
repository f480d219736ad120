"""Draws the metrics of one run, or of several to compare: loss, learning rate and throughput over tokens; prints a table.

    python plot.py --out_dir=out/demo                                   # writes out/demo/loss.png
    python plot.py --out_dir=out/adamw,out/muon --to=comparison.png     # one colour a run

train.py does the first by itself at every validation where matplotlib is installed. This file knows nothing of
training but the names in metrics.jsonl.
"""
import importlib.util
import io
import itertools
import math
import os
import statistics

from configurator import configure
from runtime.errors import BadInput, one_line_errors
from runtime.files import atomic_write
from runtime.metrics import read_metrics
from runtime.tables import table

DEFAULTS = {
    'out_dir': 'out',  # folder of the run, or several separated by commas
    'to': '',  # the picture; empty: loss.png in the folder of the first run
}


def main(config):
    folders = config['out_dir'].split(',')
    path = config['to'] or os.path.join(folders[0], 'loss.png')
    if importlib.util.find_spec('matplotlib') is None:
        raise BadInput('plots need matplotlib: pip install matplotlib')
    draw(folders, path)
    print(compare(folders))
    print(path)


def draw_if_possible(out_dir):
    """OUT_DIR/loss.png, where matplotlib is installed."""
    if importlib.util.find_spec('matplotlib') is not None:
        draw([out_dir], os.path.join(out_dir, 'loss.png'))


def draw(folders, path):
    """Writes the picture of the runs in `folders`. Raises BadInput where a folder has no metrics."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(10, 7.5), layout='constrained')
    grid = figure.add_gridspec(2, 2, height_ratios=(2, 1))
    loss, rate, speed = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    for i, folder in enumerate(folders):
        rows = read_metrics(folder)
        trained = [row for row in rows if 'loss' in row]
        validated = [row for row in rows if 'val_loss' in row]
        if not rows:
            raise BadInput(f'{folder} has no metrics.jsonl with a row in it; a run of train.py writes one')
        name, colour = os.path.basename(os.path.normpath(folder)), f'C{i}'
        tokens = [row['tokens'] / 1e6 for row in trained]
        losses = [row['loss'] for row in trained]
        loss.plot(tokens, losses, color=colour, alpha=0.25, linewidth=0.8)
        loss.plot(tokens, smooth(losses), color=colour, linewidth=1.5, label=f'{name}: training, smoothed')
        if validated:
            last = validated[-1]
            loss.plot([row['tokens'] / 1e6 for row in validated], [row['val_loss'] for row in validated], color=colour,
                      marker='o', markersize=4, linestyle='--', linewidth=1,
                      label=f'{name}: validation, {last["val_loss"]:.3f} ({last["val_bpb"]:.3f} bits per byte) at the end')
        rate.plot(tokens, [row['lr'] for row in trained], color=colour)
        speed.plot(tokens, [row['tokens_per_s'] / 1e3 for row in trained], color=colour)
    loss.set_ylabel('loss (nats per token)')
    loss.legend(frameon=False)
    rate.set_ylabel('learning rate')
    speed.set_ylabel('thousand tokens per second')
    speed.set_ylim(bottom=0)
    for axis in (loss, rate, speed):
        axis.set_xlabel('million tokens')
        axis.grid(alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format=os.path.splitext(path)[1].lstrip('.') or 'png', dpi=120)
    with atomic_write(path) as file:
        file.write(picture.getvalue())


def compare(folders):
    """The runs side by side in text: where they ended, how good they were, how fast."""
    lines = [('run', 'steps', 'tokens', 'last validation', 'best', 'bits per byte', 'tokens/s')]
    for folder in folders:
        rows = read_metrics(folder)
        validated = [row for row in rows if 'val_loss' in row]
        speeds = [row['tokens_per_s'] for row in rows if 'tokens_per_s' in row]
        last = validated[-1] if validated else {}
        lines.append((folder, f'{rows[-1]["step"]:,}', f'{rows[-1]["tokens"]:,}', f'{last.get("val_loss", math.nan):.4f}',
                      f'{min((row["val_loss"] for row in validated), default=math.nan):.4f}',
                      f'{last.get("val_bpb", math.nan):.4f}', f'{statistics.median(speeds or [math.nan]):,.0f}'))
    return table(lines)


def smooth(values, reach=20):
    """Means over up to `reach` neighbours on both sides; over fewer at the start, where the loss falls fast."""
    sums = [0.0, *itertools.accumulate(values)]
    windows = [(max(0, i - min(reach, i // 10)), min(len(values), i + min(reach, i // 10) + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in windows]


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
