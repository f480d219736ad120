"""Speed and memory, measured beside what a user would run instead.

    python -m bench                                    # all parts, small, for the machine at hand: some minutes
    python -m bench train --peer_dir=PATH              # a training step; PATH: a checkout of nanoGPT, if there is one
    python -m bench train --preset=gpt2 --contenders=eager,ours         # the 124M model
    python -m bench sample --preset=gpt2               # generation, token by token
    python -m bench kernels                            # norms, attention, softmax, loss, one by one
    python -m bench data                               # documents to shards
    python -m bench step                               # without a GPU: what a training step is computed to take on an H100
    python -m bench bpe --json=bpe.json                # training and encoding against Hugging Face's tokenizers; as JSON too
    python -m bench weights                            # not part of all: what int8 and int4 cost out/demo in quality
    python -m bench neighbour                          # not part of all: beside a program that keeps one core busy
    python -m bench soak                               # not part of all, an hour: do memory, files or threads grow
    python -m bench reproducible --steps=200           # not part of all: the same bits on any number of processes, and its cost

What is compared takes turns on the same data, so that a busy machine slows all of it. A figure is the median of the
turns; its spread is (largest - smallest) / median. In the parts train and sample, every contender has a process of its
own at each turn: its peak memory and its allocator are its own. MFU is the share of the rate of a matrix product, and
bandwidth that of a copy, both measured in the same run. What cannot run here is left out with a warning.
"""
import sys

from bench.bpe import measure_bpe
from bench.data import measure_data
from bench.kernels import measure_kernels
from bench.neighbour import measure_neighbour
from bench.report import describe_run, run_text, table_text
from bench.reproducible import measure_reproducible
from bench.sample import measure_generation
from bench.soak import measure_soak
from bench.step import measure_step
from bench.train import measure_training
from bench.weights import measure_weights
from configurator import check_bounds, choice, configure, optional
from runtime.errors import BadInput, one_line_errors
from runtime.files import write_json

PARTS = {'train': measure_training, 'sample': measure_generation, 'kernels': measure_kernels, 'data': measure_data,
         'bpe': measure_bpe, 'step': measure_step, 'weights': measure_weights, 'neighbour': measure_neighbour,
         'reproducible': measure_reproducible, 'soak': measure_soak}
# Each takes the config and yields (title, rows), the same title again when it has more rows.
LONG = 'weights', 'neighbour', 'reproducible', 'soak'  # parts that are measured only when they are named
DEFAULTS = {
    # every part
    'turns': 3,  # how often each thing is measured
    'device': 'auto',  # auto, cuda, cuda:1, cpu
    'json': optional(str),  # write the results to this file
    # parts train and sample; of kernels on a CPU the preset alone
    'preset': choice('auto', 'demo', 'gpt2'),  # shape of the model; auto: gpt2 (124M) on a GPU, else config/demo.py's
    'n_layer': optional(int),  # instead of the preset's
    'n_head': optional(int),  # instead of the preset's
    'n_embd': optional(int),  # instead of the preset's
    'block_size': optional(int),  # instead of the preset's (gpt2: 1024 on a GPU, 512 on a CPU)
    'vocab_size': optional(int),  # instead of the preset's
    'peer_dir': optional(str),  # a checkout of nanoGPT: its model.py is imported from there
    'contenders': optional(str),  # which, with commas between; the first is the baseline; None: all
    'turn_s': 5.0,  # seconds of each contender's turn, after its warm-up
    # part train
    'dropout': 0.0,  # of all contenders' models
    'batch_size': optional(int),  # sequences in a step, all in one pass (demo 16; gpt2 8, on a GPU 64)
    # part sample
    'new_tokens': 200,  # tokens to generate
    # parts data and bpe
    'input': optional(str),  # text: files, globs, folders; None: Python's standard library
    # part data
    'data_mb': 20,  # size of the documents to make shards of
    # part bpe
    'vocab_sizes': '4096,32768',  # sizes to train, with commas between; the last one encodes
    # part weights
    'init_from': 'out/demo',  # a trained model
    'quality_tokens': 50_000,  # of held-out text
    # part soak
    'minutes': 30.0,  # of serving
    'soak_steps': 30_000,  # of training, at least 100
    'every_s': 3.0,  # seconds between two looks at the process
    'data_dir': optional(str),  # shards to train on; None: made of a little source text (weights: data/stdlib)
    # part reproducible
    'steps': 200,  # of each run whose weights are compared
}


def main(argv):
    is_named = bool(argv) and not argv[0].startswith('-')
    parts = argv[:1] if is_named else [part for part in PARTS if part not in LONG]
    if parts[0] not in PARTS:
        raise BadInput(f'no part {parts[0]!r}; `python -m bench PART` measures one of {", ".join(PARTS)}; without PART most')
    config = configure(DEFAULTS, argv[1:] if is_named else argv)
    check_bounds(config, 'turns', at_least=1)
    measure_parts(parts, config, argv)


def measure_parts(parts, config, argv):
    """Prints each table and writes it to the JSON file, there after every measurement: a later failure loses nothing."""
    run = {'parts': parts, **describe_run(argv, config['device']), 'tables': []}
    print(run_text(run), flush=True)

    def save(title, rows):
        """A table, which takes the place of what there was of it."""
        run['tables'] = [table for table in run['tables'] if table['title'] != title] + [{'title': title, 'rows': rows}]
        if config['json']:
            write_json(config['json'], run)

    for part in parts:
        try:
            measure_part(part, config, save)
        except (BadInput, ImportError) as error:
            if len(parts) == 1:
                raise BadInput(str(error)) from error
            print(f'\n{part}: not measured: {error}', flush=True)


def measure_part(part, config, save):
    """Saves each table whenever it has grown, and prints it when nothing more comes for it."""
    shown = None
    try:
        for title, rows in PARTS[part](config):
            if shown and shown[0] != title:
                print(table_text(*shown), flush=True)
            shown = title, rows
            save(title, rows)
    finally:
        if shown:
            print(table_text(*shown), flush=True)


if __name__ == '__main__':
    with one_line_errors():
        main(sys.argv[1:])
