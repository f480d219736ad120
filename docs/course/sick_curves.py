"""How a loss curve looks when something is wrong: a small model, trained without a mistake and then with one at a time.

    python docs/course/sick_curves.py --data_dir=data/stdlib          # about 15 minutes on two CPU cores
    python docs/course/sick_curves.py --case=future                   # one of the runs alone

A mistake is a setting, or a function that breaks a part of the program for that run. Draws OUT_DIR/sick_curves.png, and prints
the last losses. Run again, it makes only what is missing.
"""
import math
import os
import statistics
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)

from torch.nn import functional as F

import model
import optim
import plot
import shards
import train
from configurator import choice, configure
from runs.sweep import is_finished, run_to_end
from runtime.errors import one_line_errors
from runtime.files import make_folder
from runtime.metrics import read_metrics
from runtime.tables import table

SETTINGS = {'n_layer': 3, 'n_head': 4, 'n_embd': 128, 'block_size': 128, 'total_batch_tokens': 4096, 'max_steps': 600,
            'optimizer': 'adamw', 'learning_rate': 1e-3, 'warmup_steps': 30, 'eval_interval': 100, 'eval_tokens': 65_536,
            'sample_interval': 0, 'checkpoint_interval': 0}


def repeat_few_sequences():
    """Training sees the same 64 sequences again and again."""
    next_batch = shards.BatchLoader.next

    def next_of_few(loader):
        if loader.split == 'train':
            position = loader.sequence_index
            loader.seek(position % 64)
            batch = next_batch(loader)
            loader.seek(position + loader.batch_size)
            return batch
        return next_batch(loader)
    shards.BatchLoader.next = next_of_few


def do_not_shift_targets():
    """The target of a token is the token itself."""
    change_targets(lambda x, y: x)


def take_targets_of_another_sequence():
    """The rows of the inputs and those of the targets do not belong together."""
    change_targets(lambda x, y: y.roll(1, dims=0))


def change_targets(targets):
    next_batch = shards.BatchLoader.next

    def next_with_other_targets(loader):
        x, y = next_batch(loader)
        return x, targets(x, y)
    shards.BatchLoader.next = next_with_other_targets


def show_the_future():
    """Attention without its causal mask."""
    model.CausalSelfAttention.causal_attention = lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v)


def keep_old_gradients():
    """Gradients are not set to zero after a step, so each step adds to those of all steps before."""
    step_if_finite = optim.Optimizers.step_if_finite

    def step_and_keep(optimizers, loss, grad_norm):
        params = [p for optimizer in optimizers.list for group in optimizer.param_groups for p in group['params']]
        gradients = [p.grad for p in params]
        row = step_if_finite(optimizers, loss, grad_norm)
        for p, gradient in zip(params, gradients):
            p.grad = gradient
        return row
    optim.Optimizers.step_if_finite = step_and_keep


def overflow_float16():
    """Gradients of a loss that is multiplied by 2**20, in float16: above 65,504 they are infinite, and the step is skipped.
    PyTorch's GradScaler would lower the factor, and train.py would end after five such steps in a row."""
    step_if_finite = optim.Optimizers.step_if_finite

    def step_in_float16(optimizers, loss, grad_norm):
        gradients = [p.grad for optimizer in optimizers.list for group in optimizer.param_groups for p in group['params']]
        largest = max(gradient.abs().max().item() for gradient in gradients) * max(1, grad_norm)  # before it was clipped to 1
        return step_if_finite(optimizers, loss, grad_norm if largest * 2**20 <= 65_504 else math.inf)
    optim.Optimizers.step_if_finite = step_in_float16
    train.MAX_SKIPPED_STEPS = math.inf


# name: (title of its picture, settings, what breaks the program)
CASES = {
    'healthy': ('healthy', {}, None),
    'high_rate': ('learning rate 30 times as high', {'learning_rate': 3e-2}, None),
    'low_rate': ('learning rate 30 times as low', {'learning_rate': 3e-5}, None),
    'no_warmup': ('no warm-up, rate 10 times as high', {'learning_rate': 1e-2, 'warmup_steps': 0}, None),
    'repeated': ('the same 64 sequences again and again', {}, repeat_few_sequences),
    'unshifted': ('targets that are not shifted', {}, do_not_shift_targets),
    'unrelated': ('targets of another sequence', {}, take_targets_of_another_sequence),
    'future': ('attention sees the future', {}, show_the_future),
    'float16': ('float16 gradients that overflow', {}, overflow_float16),
    'old_gradients': ('gradients that are never set to zero', {}, keep_old_gradients),
}
DEFAULTS = {
    'data_dir': 'data/stdlib',  # folder of shards
    'out_dir': 'out/sick_curves',  # a folder for each run, and the picture
    'case': choice('all', *CASES),  # which runs
    'max_steps': SETTINGS['max_steps'],
    'threads': 0,  # as train.py's
}


def main(config):
    if config['case'] != 'all':
        train_case(config, config['case'])
        return
    make_folder(config['out_dir'])
    for number, case in enumerate(CASES, 1):
        settings = settings_of(config, case)
        if not is_finished(settings['out_dir'], settings):
            print(f'run {number} of {len(CASES)}: {CASES[case][0]}', flush=True)
            flags = [f'--{key}={config[key]}' for key in ('data_dir', 'out_dir', 'max_steps', 'threads')]
            # In a process of its own, so that what one case breaks is whole again in the next.
            run_to_end([__file__, f'--case={case}', *flags], f'the run with case={case}')
    losses = {case: losses_of(os.path.join(config['out_dir'], case)) for case in CASES}
    print(last_losses(losses))
    path = os.path.join(config['out_dir'], 'sick_curves.png')
    draw(losses, path)
    print(path)


def settings_of(config, case):
    _, changed, _ = CASES[case]
    own = {key: config[key] for key in ('data_dir', 'max_steps', 'threads')}
    return {**SETTINGS, **changed, **own, 'out_dir': os.path.join(config['out_dir'], case)}


def train_case(config, case):
    _, _, break_it = CASES[case]
    if break_it:
        break_it()
    train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings_of(config, case).items()]))


def losses_of(folder):
    """[(steps, training losses), (steps, validation losses)]"""
    rows = read_metrics(folder)
    return [list(zip(*[(row['step'], row[key]) for row in rows if math.isfinite(row.get(key) or math.nan)]))
            for key in ('loss', 'val_loss')]


def last_losses(losses):
    rows = [('mistake', 'training loss, last 20 steps', 'validation loss, last')]
    for case, (title, _, _) in CASES.items():
        (_, training), (_, validations) = losses[case]
        rows.append((title, f'{statistics.fmean(training[-20:]):.3f}', f'{validations[-1]:.3f}'))
    return table(rows)


def draw(losses, path):
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8.4, 11), layout='constrained')
    healthy, _ = losses['healthy']
    for axes, case in zip(figure.subplots(math.ceil(len(CASES) / 2), 2, sharex=True, sharey=True).flat, CASES):
        training, validation = losses[case]
        if case != 'healthy':
            axes.plot(*healthy, color='0.75', label='training when healthy')
        axes.plot(*training, color='C3', linewidth=1, label='training')
        axes.plot(*validation, 'o', color='C0', markersize=4, label='validation')
        axes.set_title(CASES[case][0], fontsize=11)
        axes.set_ylim(0, 10)
        plot.tidy(axes)
    figure.axes[1].legend(frameon=False, fontsize=9, loc='lower left')
    figure.supxlabel('step', fontsize=10)
    figure.supylabel('loss (nats per token)', fontsize=10)
    plot.save(figure, path, dpi=100)


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
