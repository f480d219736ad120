"""Draws the metrics of one run, or of several to compare: loss, learning rate and throughput over tokens; prints a table.

    python plot.py out/demo                                     # writes out/demo/loss.png
    python plot.py out/adamw out/muon --to=comparison.png       # one colour a run
    python plot.py --out_dir='out/lr_*'                         # all runs whose folders are called so

train.py does the first by itself, each minute and at its end, where matplotlib is installed. This file knows nothing of
training but the names in metrics.jsonl.
"""
import glob
import importlib.util
import itertools
import math
import os
import statistics
import subprocess
import sys
import time

from configurator import configure
from runtime.errors import BadInput, first_line, one_line_errors, warn_once
from runtime.files import atomic_write, folders_near
from runtime.metrics import best_row, metrics_path, read_metrics
from runtime.tables import table

HERE = os.path.dirname(os.path.abspath(__file__))
POINTS = 4000  # the most of a curve that are read: a picture shows no more
MARKED_PASSES = 8  # where there are more, the first alone is marked
LARGEST = 1e100  # beyond it, sums and scales overflow
IN_EVERY_VALIDATION = {'step', 'tokens', 'val_loss', 'val_ppl', 'val_bpb'}
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
        pattern = os.path.dirname(pattern) if os.path.basename(pattern) == os.path.basename(metrics_path('')) else pattern
        found = [pattern] if os.path.isdir(pattern) else sorted(glob.glob(pattern))
        runs = [folder for folder in found if os.path.exists(metrics_path(folder))]
        if not runs:
            others = folders_near(pattern, 'metrics.jsonl')
            advice = f'there are runs in {others}' if others else 'a run of train.py writes one'
            name = pattern or f'out_dir={patterns}: a folder without a name'
            raise BadInput(f'{name} has no metrics.jsonl to draw; {advice}')
        folders += runs
    return list(dict.fromkeys(folders))


class LossCurve:
    """OUT_DIR/loss.png of a run that goes on. A picture ends no run: whatever goes wrong with it becomes a warning.

    Each minute it is drawn by a process of its own, so that training neither waits for it nor keeps the memory that it takes.
    """

    def __init__(self, out_dir, is_first=True, every_s=60):
        self.folders, self.path, self.every_s = [out_dir], os.path.join(out_dir, 'loss.png'), every_s
        self.draws = is_first and importlib.util.find_spec('matplotlib')  # on the first process, where there is matplotlib
        self.background, self.begun_at = None, time.monotonic()

    def draw_if_due(self):
        if not self.draws or time.monotonic() - self.begun_at < self.every_s:
            return
        self.end_background()
        code = f'import sys; sys.path.insert(0, {HERE!r}); import plot; plot.draw([sys.argv[1]], sys.argv[2])'
        try:
            self.background = subprocess.Popen([sys.executable, '-c', code, *self.folders, self.path],
                                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                               start_new_session=True)  # which Ctrl-C does not reach
        except OSError as error:
            self.warn(error)
        self.begun_at = time.monotonic()

    def end_background(self):
        """Ends the process that draws, which has had a minute, and warns if it has not drawn."""
        if self.background is None:
            return
        try:
            _, errors = self.background.communicate(timeout=10)
            if self.background.returncode:
                self.warn(errors.decode(errors='replace').strip().rpartition('\n')[2])
        except subprocess.TimeoutExpired:
            self.background.kill()
            self.background.communicate()
            self.warn('drawing takes too long')
        self.background = None

    def draw(self):
        """Draws it here, at the run's end."""
        if not self.draws or not read_metrics(self.folders[0], POINTS):
            return
        self.end_background()
        try:
            draw(self.folders, self.path)
        except Exception as error:  # matplotlib meets fonts, caches and settings of the user, and raises what it likes
            self.warn(first_line(error))

    def warn(self, reason):
        warn_once(f'the plot was not drawn: {reason}; the run goes on')


def draw(folders: list[str], path: str):
    """Writes the picture of the runs in `folders`. Raises BadInput where a folder has no metrics."""
    from matplotlib.figure import Figure
    runs = [read_run(folder) for folder in folders]
    scores = other_scores(runs)
    figure = Figure(figsize=(10, 10 if scores else 7.5), layout='constrained')
    kind, kinds = os.path.splitext(path)[1].lstrip('.') or 'png', figure.canvas.get_supported_filetypes()
    if kind.lower() not in kinds:
        raise BadInput(f'{path} should end in one of .{", .".join(kinds)}')
    names = [os.path.basename(os.path.normpath(folder)) for folder in folders]
    rows = [['loss', 'loss'], ['rate', 'speed'], *([['scores', 'scores']] if scores else [])]
    axes = figure.subplot_mosaic(rows, height_ratios=(2, 1, 1)[:len(rows)])
    for i, (folder, (_, trained, validated)) in enumerate(zip(folders, runs)):
        name, style = names[i] if len(set(names)) == len(names) else folder, {'color': f'C{i}', 'linewidth': 1}
        tokens = column(trained, 'tokens', 1e6)
        axes['loss'].plot(tokens, column(trained, 'loss'), **style, alpha=0.25)
        axes['loss'].plot(tokens, smooth(column(trained, 'loss')), **style, label=f'{name}: training, smoothed')
        axes['rate'].plot(tokens, column(trained, 'lr'), **style)
        axes['speed'].plot(tokens, column(trained, 'tokens_per_s', 1e3), **style)
        if validated:
            losses, bits = column(validated, 'val_loss'), column(validated, 'val_bpb')
            end = f'{losses[-1]:.3f}{"" if math.isnan(bits[-1]) else f" ({bits[-1]:.3f} bits per byte)"} at the end'
            axes['loss'].plot(column(validated, 'tokens', 1e6), losses, **style, linestyle='--',
                              marker='o', markersize=4, label=f'{name}: validation, {end}')
        for line, key in zip(itertools.cycle(('-', '--', ':', '-.')), scores):
            axes['scores'].plot(column(validated, 'tokens', 1e6), column(validated, key), **style, linestyle=line,
                                marker='.', label=f'{name}: {key}')
    if len(runs) == 1:
        mark_changes(axes['loss'], runs[0][1])
    axes['loss'].legend(frameon=False)
    if scores:
        axes['scores'].legend(frameon=False)
    axes['speed'].set_ylim(bottom=0)
    for key, label in (('loss', 'loss (nats)'), ('rate', 'learning rate'), ('speed', 'thousand tokens per second'),
                       ('scores', 'other scores'))[:len(axes)]:
        axes[key].set(xlabel='million tokens', ylabel=label)
        tidy(axes[key])
    save(figure, path, kind)


def mark_changes(axes, trained):
    for tokens, what in changes(trained):
        axes.axvline(tokens / 1e6, color='0.5', linewidth=1, linestyle=':')
        axes.text(tokens / 1e6, 0.8, what, transform=axes.get_xaxis_transform(), rotation=90, ha='right', va='top',
                  color='0.35')


def changes(trained):
    """[(tokens, what)]: where a pass over the data begins again, and where the learning rate begins to fall. Both bend a
    curve."""
    tokens, rates, epochs = (column(trained, key) for key in ('tokens', 'lr', 'epoch'))
    passes = [(tokens[i], f'pass {after // 1 + 1:.0f} over the data')
              for i, (before, after) in enumerate(itertools.pairwise(epochs), 1) if before // 1 < after // 1]
    last_highest = max((i for i, rate in enumerate(rates) if rate == max(rates)), default=0)
    falls = [(tokens[last_highest], 'the learning rate falls')] if 0 < last_highest < len(rates) - 1 else []
    return (passes if len(passes) <= MARKED_PASSES else passes[:1]) + falls


def tidy(axes):
    """The look of all curves: a faint grid, and lines on the left and below alone."""
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)


def save(figure, path: str, kind: str = 'png', dpi: int = 120):
    """Writes a picture whole or not at all."""
    with atomic_write(path) as file:
        figure.savefig(file, format=kind, dpi=dpi)


def compare(folders: list[str]) -> str:
    """The runs side by side in text: where they ended, how good they were, how fast, and what else was validated."""
    runs = [(folder, *read_run(folder)) for folder in folders]
    others = other_scores(run[1:] for run in runs)
    lines = [('run', 'steps', 'tokens', 'last validation', 'best', 'bits per byte', 'tokens/s', *others)]
    for folder, rows, trained, validated in runs:
        losses, bits = column(validated, 'val_loss') or [math.nan], column(validated, 'val_bpb') or [math.nan]
        best = best_row(validated) or {'val_loss': math.nan}
        speed, tokens = statistics.median(column(trained, 'tokens_per_s') or [math.nan]), column(rows, 'tokens')
        scores = [[value for value in column(validated, key) if not math.isnan(value)] for key in others]
        lines.append((folder, f'{rows[-1]["step"]:,}', f'{tokens[-1]:,.0f}', f'{losses[-1]:.4f}', f'{best["val_loss"]:.4f}',
                      '-' if math.isnan(bits[-1]) else f'{bits[-1]:.4f}', f'{speed:,.0f}',
                      *(f'{score[0]:.4f} to {score[-1]:.4f}' if score else '-' for score in scores)))
    return table(lines)


def other_scores(runs):
    """What validations say beside what all of them do, such as HellaSwag's accuracy. runs: as of read_run."""
    return sorted({key for *_, validated in runs for row in validated for key in row} - IN_EVERY_VALIDATION)


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
