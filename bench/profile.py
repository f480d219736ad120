"""One training step under torch.profiler: which kernels take its time, and a trace to look at.

    python -m bench.profile                            # the 124M model, 64 x 1024 tokens
    python -m bench.profile --trace=trace.json.gz      # and what ran when, for https://ui.perfetto.dev
    python -m bench.profile --device=cpu               # the model of config/demo.py, by operators

The step is train.py's own with its defaults. Times are those of the kernels alone; the step is timed without the profiler.
"""
import os
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from bench.contenders import complete, describe_model, time_calls
from bench.report import table_text
from bench.train import setup_ours
from configurator import choice, configure, optional
from runtime import hardware
from runtime.errors import one_line_errors, warn
from runtime.files import write_json

DEFAULTS = {
    'device': choice('cuda', 'cpu'),
    'json': optional(str),  # write the tables to this file
    'trace': optional(str),  # write what ran when to this file, which should end in .json.gz
}
MOST_KERNELS = 25  # rows of the table
MOST_BYTES = 2_000_000  # of the trace, so that it can lie beside the results


def main(config):
    device = hardware.pick_device(config['device'])
    bench = complete({'preset': 'auto', 'device': config['device'], 'peer_dir': None})
    torch.manual_seed(0)
    step = setup_ours(bench, device)
    step_s = median(time_calls(step, device, warm_up=3, at_least=5))
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == 'cuda' else [])]) as profiler:
        step()
        hardware.synchronize(device)
    title = (f'Profile of a training step of {1000 * step_s:.1f} ms: {describe_model(bench)}, '
             f'batch {bench["batch_size"]} x {bench["block_size"]} tokens')
    rows = kernel_rows(profiler, device, step_s)
    print(table_text(title, rows))
    if config['json']:
        write_json(config['json'], {'tables': [{'title': title, 'rows': rows}]})
    if config['trace']:
        save_trace(profiler, config['trace'])


def kernel_rows(profiler, device, step_s):
    """The rows of the longest kernels, of the others together, and of all; on a CPU of operators."""
    if device.type == 'cuda':  # ranges that a program named, such as Optimizer.step, have the time of their kernels again
        events = [(event.key, event.count, event.self_device_time_total) for event in profiler.key_averages()
                  if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation]
    else:
        events = [(event.key, event.count, event.self_cpu_time_total) for event in profiler.key_averages()]
    events.sort(key=lambda event: -event[2])
    longest, others = events[:MOST_KERNELS], events[MOST_KERNELS:]
    groups = [*longest, ('the others', sum(count for _, count, _ in others), sum(us for _, _, us in others)),
              ('all', sum(count for _, count, _ in events), sum(us for _, _, us in events))]
    return [{'kernel' if device.type == 'cuda' else 'operator': name.replace('|', '/')[:90], 'calls': count, 'ms': us / 1000,
             'of the step': f'{us / 1e6 / step_s:.1%}'} for name, count, us in groups]


def save_trace(profiler, path):
    """Writes the trace, unless it is too large to lie beside the results."""
    profiler.export_chrome_trace(path)
    if os.path.getsize(path) > MOST_BYTES:
        warn(f'the trace has {os.path.getsize(path):,} bytes, more than {MOST_BYTES:,}: it is not kept')
        os.remove(path)


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
