"""The metrics of a run: a row of JSON for every logged step and every validation, and copies of them for dashboards.

    metrics = Metrics(config, from_step=0)
    metrics.log(step=1, tokens=4096, loss=8.3)           # a line of OUT_DIR/metrics.jsonl
    rows = read_metrics(out_dir)

A training row has the key 'loss', a validation row 'val_loss'; both have 'step' and 'tokens'. No row stands twice,
however often the run was stopped and resumed. JSON has no NaN and no infinity: both are written as null and read as NaN.
Trouble with the files never ends a run: it is said once, and the rows wait in memory. Knows nothing about training but
these names.
"""
import json
import math
import os
import re
import secrets

from runtime.errors import BadInput, first_line, warn_once
from runtime.files import atomic_write, copy_file, open_to_read, warn_if_unwritable
from runtime.words import plural


class Metrics:
    """Writes rows to metrics.jsonl and, where the config says so, to TensorBoard and Weights & Biases."""

    def __init__(self, config: dict, from_step: int, is_first: bool = True):
        """is_first: whether this process writes; on the others `log` does nothing.

        A run that resumes at from_step trains the steps after it and repeats the validation at it, so the rows of both that
        an earlier start has left are removed first. Where lines are removed that are no rows, metrics.jsonl.damaged keeps
        the file as it was; it is also the name of a folder that was found in the place of the file.
        """
        out_dir, self.writes = config['out_dir'], is_first
        if not is_first:
            return
        self.path, self.board, self.wandb = metrics_path(out_dir), None, None
        rows, self.is_damaged = parse(self.path, math.inf)
        earlier = {(row['step'], 'val_loss' in row): row for row in rows if row['step'] < from_step + ('loss' in row)}
        self.earlier = [earlier[key] for key in sorted(earlier)]  # None: they are in the file
        self.waiting, self.whole_bytes = [], None  # lines; the file's size without what a failed write has left of them
        self.write()
        if config['tensorboard']:
            from torch.utils.tensorboard import SummaryWriter
            self.board = SummaryWriter(os.path.join(out_dir, 'tensorboard'), purge_step=from_step)
        if config['wandb']:
            import wandb
            name = re.sub(r'\W+', '-', out_dir)
            wandb.init(project='scratchgpt', id=wandb_id(out_dir, from_step), name=name, config=config, resume='allow',
                       dir=out_dir)
            self.wandb = wandb

    def log(self, **row):
        """Writes a row, a dict with 'step'. Where the file cannot be written, it waits in memory for the next call."""
        if not self.writes:
            return
        self.waiting.append(to_line(row))
        self.write()
        if self.board:
            with warn_if_unwritable('TensorBoard\'s copy of the metrics'):
                for key, value in row.items():
                    self.board.add_scalar(key, value, row['step'])
        if self.wandb:
            self.wandb.log(row, step=row['step'])

    def sync(self):
        """Brings the rows to the disk, so that a power cut leaves them: called with every checkpoint."""
        if self.writes:
            self.write(sync=True)

    def raise_if_unsaved(self):
        """Raises BadInput at the end of a run whose last rows could not be written."""
        self.sync()
        if self.waiting:
            raise BadInput(f'the run is over, but the last {plural(len(self.waiting), "row")} of metrics could not be written '
                           f'to {self.path} and are lost')

    def write(self, sync=False):
        with warn_if_unwritable(self.path):
            if os.path.isdir(self.path):
                os.replace(self.path, f'{self.path}.damaged')
            if self.earlier is not None:
                if self.is_damaged:
                    copy_file(self.path, f'{self.path}.damaged')
                with atomic_write(self.path) as file:
                    file.write(''.join(map(to_line, self.earlier)).encode())
                self.earlier = None
            with open(self.path, 'ab') as file:
                if self.whole_bytes is not None:
                    file.truncate(min(self.whole_bytes, file.tell()))
                self.whole_bytes = file.seek(0, os.SEEK_END)
                file.write(''.join(self.waiting).encode())
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            self.waiting, self.whole_bytes = [], None


def wandb_id(out_dir, from_step):
    """The id of a run at Weights & Biases, which OUT_DIR/wandb_id keeps; a fresh run has a new one.

    Under the id of an earlier run in a folder of the same name, Weights & Biases would drop all rows up to its last step.
    """
    path = os.path.join(out_dir, 'wandb_id')
    if from_step and os.path.exists(path):
        with open_to_read(path) as file:
            id = file.read(100)
        if re.fullmatch(rb'[0-9a-f]{16}', id):
            return id.decode()
    id = secrets.token_hex(8)
    with warn_if_unwritable(path), atomic_write(path) as file:
        file.write(id.encode())
    return id


def metrics_path(out_dir):
    return os.path.join(out_dir, 'metrics.jsonl')


def to_line(row):
    row = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
    return json.dumps(row) + '\n'


def read_metrics(out_dir: str, most: float = math.inf) -> list[dict]:
    """The rows of a run's metrics; [] where there are none. Warns of lines that are no rows, and leaves them out.

    most: of training rows; of more, every second one is left out, of the rest again, and so on. So a picture of a long run
    takes no more memory than that of a short one.
    """
    return parse(metrics_path(out_dir), most)[0]


def parse(path, most):
    """(rows, whether there are lines that are none). A last line that was cut short by a kill does not count."""
    rows, damaged, n_trained, step = [], [], 0, 1
    try:
        with open(path, 'rb') as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b'\n'):
                    break
                row = parse_row(line)
                if row is None:
                    damaged.append(number)
                elif 'loss' not in row:
                    rows.append(row)
                else:
                    n_trained += 1
                    if n_trained % step == 0:
                        rows.append(row)
                    if n_trained >= 2 * step * most:
                        step *= 2
                        rows = thin_out(rows)
    except FileNotFoundError:
        return [], False
    except OSError as error:
        warn_once(f'{path} cannot be read: {first_line(error)}')
        return [], False
    if damaged:
        warn_once(f'{path}: left out {plural(len(damaged), "line")} that cannot be read as a row of metrics; '
                  f'the first is line {damaged[0]}')
    return rows, bool(damaged)


def thin_out(rows):
    """Without every other training row, beginning with the first."""
    trained = [i for i, row in enumerate(rows) if 'loss' in row]
    left_out = set(trained[::2])
    return [row for i, row in enumerate(rows) if i not in left_out]


def parse_row(line):
    """The dict of a line, with NaN for null, or None where it is no row."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get('step')) is not int or row['step'] < 0:
        return None
    row = {key: math.nan if value is None else value for key, value in row.items()}
    is_number = (isinstance(value, float) or isinstance(value, int) and abs(value) < 2**63 for value in row.values())
    return row if all(is_number) else None


def best_row(rows: list[dict]) -> dict | None:
    """The validation row with the lowest loss, the earliest of several; None where none has a finite one."""
    rows = [row for row in rows if math.isfinite(row.get('val_loss', math.nan))]
    return min(rows, key=lambda row: row['val_loss'], default=None)
