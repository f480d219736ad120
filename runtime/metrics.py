"""The metrics of a run: a row of JSON for every logged step and every validation, and copies of them for dashboards.

    metrics = Metrics(config, from_step=0)
    metrics.log(step=1, tokens=4096, loss=8.3)           # a line of OUT_DIR/metrics.jsonl
    rows = read_metrics(out_dir)

A training row has the key 'loss', a validation row 'val_loss'; both have 'step' and 'tokens'. No row stands twice,
however often the run was stopped and resumed. Knows nothing about training but these names.
"""
import json
import os
import re

from runtime.errors import BadInput, first_line, warn
from runtime.files import atomic_write


class Metrics:
    """Writes rows to metrics.jsonl and, where the config says so, to TensorBoard and Weights & Biases."""

    def __init__(self, config: dict, from_step: int, is_first: bool = True):
        """is_first: whether this process writes; on the others `log` does nothing.

        A run that resumes at from_step trains the steps after it and repeats the validation at it, so the rows of both that
        an earlier start has left are removed first.
        """
        out_dir, self.writes = config['out_dir'], is_first
        if not is_first:
            return
        self.path, self.waiting, self.board, self.wandb = os.path.join(out_dir, 'metrics.jsonl'), [], None, None
        kept = [row for row in read_metrics(out_dir) if row['step'] < from_step + ('loss' in row)]
        with atomic_write(self.path) as file:
            file.write(''.join(json.dumps(row) + '\n' for row in kept).encode())
        if config['tensorboard']:
            from torch.utils.tensorboard import SummaryWriter
            self.board = SummaryWriter(os.path.join(out_dir, 'tensorboard'), purge_step=from_step)
        if config['wandb']:
            import wandb
            name = re.sub(r'\W+', '-', out_dir)
            wandb.init(project='scratchgpt', id=name, name=name, config=config, resume='allow', dir=out_dir)
            self.wandb = wandb

    def log(self, **row):
        """Writes a row, a dict with 'step'. Where the disk is full, it waits in memory for the next call."""
        if not self.writes:
            return
        self.waiting.append(json.dumps(row) + '\n')
        size = os.path.getsize(self.path)
        try:
            with open(self.path, 'ab') as file:
                file.write(''.join(self.waiting).encode())
            self.waiting = []
        except OSError as error:
            os.truncate(self.path, size)  # remove what was written of the line
            if len(self.waiting) == 1:
                warn(f'{self.path} could not be written to: {first_line(error)}; the run goes on')
        if self.board:
            for key, value in row.items():
                self.board.add_scalar(key, value, row['step'])
        if self.wandb:
            self.wandb.log(row, step=row['step'])


def read_metrics(out_dir: str) -> list[dict]:
    """The rows of a run's metrics. A last line that was cut short by a kill does not count."""
    path = os.path.join(out_dir, 'metrics.jsonl')
    if not os.path.exists(path):
        return []
    with open(path) as file:
        lines = file.read().split('\n')[:-1]
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise BadInput(f'{path} has a line that is not JSON: {error}') from None
