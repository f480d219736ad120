"""Speed and memory, measured beside what a user would run instead.

    python bench.py                                    # all parts, small, for the machine at hand: some minutes
    python bench.py train --peer_dir=PATH              # a training step; PATH: a checkout of nanoGPT, if there is one
    python bench.py train --preset=gpt2 --peer_dir=PATH                 # the 124M model
    python bench.py train --preset=gpt2 --n_layer=24 --n_head=16 --n_embd=1024 --contenders=ours,ours_compiled
    python bench.py sample --preset=gpt2               # generation, token by token
    python bench.py kernels                            # norms, attention, softmax, loss, one by one
    python bench.py data                               # documents to shards, and shards to batches
    python bench.py bpe --large_mb=1000                # training and encoding against Hugging Face's tokenizers
    python bench.py train --json=train.json --markdown=True             # figures for programs, tables for a README

What is compared takes turns on the same data, so that a busy machine slows all of it, and a figure is the median of
the turns. In the parts train and sample, every contender has a process of its own at each turn: its peak memory and
its allocator are its own. MFU is the share of the rate of a matrix product, and bandwidth that of a copy, both
measured in the same run. What a contender is, is said in the function that sets it up. Nothing here knows how the
parts of the project work inside.
"""
import concurrent.futures
import contextlib
import copy
import importlib.metadata
import importlib.util
import itertools
import json
import multiprocessing
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types

from tqdm import tqdm

from configurator import choice, configure, optional
from runtime.errors import BadInput, one_line_errors

DEFAULTS = {
    # output
    'json': optional(str),         # write the results to this file
    'markdown': False,             # print markdown tables
    'turns': 3,                    # how often each thing is measured
    # parts train and sample
    'preset': choice('auto', 'demo', 'gpt2'),  # shape of the model; auto: gpt2 (124M) on a GPU, else config/demo.py's
    'n_layer': optional(int),      # instead of the preset's
    'n_head': optional(int),       # instead of the preset's
    'n_embd': optional(int),       # instead of the preset's
    'block_size': optional(int),   # instead of the preset's (gpt2: 1024 on a GPU, 512 on a CPU)
    'vocab_size': optional(int),   # instead of the preset's
    'batch_size': optional(int),   # sequences in a step, all in one pass (demo 16; gpt2 8, on a GPU 64)
    'peer_dir': optional(str),     # a checkout of nanoGPT: its model.py is imported from there
    'contenders': optional(str),   # which, with commas between; the first is the baseline; None: all that run here
    'turn_s': 5.0,                 # seconds of each contender's turn, after its warm-up
    'new_tokens': 200,             # sample: tokens to generate
    'device': 'auto',              # auto, cuda, cuda:1, cpu
    # part data
    'data_mb': 20,                 # size of the documents to make shards of
    # part bpe
    'input': optional(str),        # text for data and bpe: files, globs, folders; None: Python's standard library
    'vocab_sizes': '4096,32768',   # sizes to train, with commas between; the last one encodes
    'large_mb': 0,                 # size of a text on which training's memory is measured; 0 leaves that out
}
PRESETS = {
    'demo': {'n_layer': 4, 'n_head': 4, 'n_embd': 256, 'block_size': 256, 'vocab_size': 4096, 'batch_size': 16},
    'gpt2': {'n_layer': 12, 'n_head': 12, 'n_embd': 768, 'block_size': 512, 'vocab_size': 50257, 'batch_size': 8},
}
ON_A_GPU = {'demo': {}, 'gpt2': {'block_size': 1024, 'batch_size': 64}}
KERNEL_ROUNDS = 5  # of each turn of the part kernels


def main(parts, config, argv):
    if config['turns'] < 1:
        raise BadInput(f'turns={config["turns"]} should be at least 1')
    about = {'command': ' '.join(['python bench.py', *without_paths(argv)]), **describe_machine(config['device'])}
    print_about(about)
    tables = []
    for part in parts:
        try:
            for title, rows in PARTS[part](config):  # every part gives its tables one by one, as they are measured
                print_table(title, rows, config['markdown'])
                tables.append((title, rows))
        except BadInput as error:
            if len(parts) == 1:
                raise
            print(f'\n{part}: not measured: {error}', flush=True)
    if config['json']:
        result = {'parts': parts, **about, 'tables': [{'title': title, 'rows': rows} for title, rows in tables]}
        with open(config['json'], 'w', encoding='utf-8') as file:
            json.dump(result, file, indent=1, ensure_ascii=False)


# ---- measuring and reporting --------------------------------------------------------------------------


def take_turns(things, turns):
    """{name: median seconds} of {name: function}, every function called once a turn after one call to warm up."""
    seconds = {name: [] for name in things}
    for turn in range(turns + 1):
        for name, thing in things.items():
            started = time.perf_counter()
            thing()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def take_turns_alone(things, turns):
    """{name: [result of every turn]} of {name: (function, arguments)}, each call in a new process of its own."""
    results = {name: [] for name in things}
    schedule = list(itertools.product(range(turns), things))
    for _, name in (bar := tqdm(schedule, leave=False, dynamic_ncols=True)):
        bar.set_description(name)
        function, arguments = things[name]
        try:
            results[name].append(alone(function, *arguments))
        except concurrent.futures.process.BrokenProcessPool:
            raise BadInput(f'{name} was killed, probably for want of memory; try a smaller --batch_size') from None
    return results


def alone(function, *arguments):
    """What the function returns in a new process, which ends after it."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as executor:
        return executor.submit(function, *arguments).result()


def time_calls(call, device, turn_s, warm_up=1, least=2):
    """Seconds of each call: `least` calls or more until `turn_s` is full, after `warm_up` that do not count."""
    from runtime import hardware
    seconds = []
    for number in itertools.count():
        hardware.synchronize(device)
        started = time.perf_counter()
        call()
        hardware.synchronize(device)
        if number >= warm_up:
            seconds.append(time.perf_counter() - started)
        if len(seconds) >= least and sum(seconds) >= turn_s:
            return seconds


def without_paths(argv):
    """The arguments as they may be published: of files and folders, their names are nobody's business."""
    return [f'{arg.partition("=")[0]}=PATH' if arg.startswith(('--peer_dir=', '--json=', '--input=')) else arg
            for arg in argv]


def print_about(about):
    machine, versions = about['machine'], ', '.join(f'{name} {v}' for name, v in about['versions'].items() if v)
    print(f'`{about["command"]}` at commit {about["commit"][:10]}{"-dirty" * about["commit"].endswith("-dirty")}\n')
    print(f'{machine["gpu"] + "; " if machine["gpu"] else ""}{machine["cpu"]}, {machine["cores"]} cores'
          f'{" with bf16 units" * machine["cpu_bf16"]}; {versions}', flush=True)


def print_table(title, rows, markdown):
    """rows: dicts with the same keys; floats are shown with three digits, None as nothing."""
    def show(value):
        if value is None:
            return ''
        return str(value) if not isinstance(value, float) else f'{value:.3g}' if value < 1000 else f'{value:,.0f}'

    lines = [list(rows[0]), *([show(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    border, between = ('| ', ' | ') if markdown else ('', '  ')
    if markdown:
        lines.insert(1, ['-' * width for width in widths])
    print(f'\n{title}\n')
    for line in lines:
        print((border + between.join(cell.ljust(width) for cell, width in zip(line, widths)) + border[::-1]).rstrip(),
              flush=True)


def describe_machine(device):
    import torch

    import bpe
    from runtime import hardware
    device = hardware.pick_device(device)
    libraries = {}
    for name in ('torch', 'triton', 'transformers', 'liger-kernel', 'numpy', 'tokenizers', 'tiktoken', 'regex'):
        try:
            libraries[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            libraries[name] = None
    return {
        'machine': {'cpu': cpu_name(), 'cores': bpe.available_cores(), 'cpu_bf16': hardware.cpu_has_bf16_units(),
                    'gpu': torch.cuda.get_device_name(device) if device.type == 'cuda' else None,
                    'system': platform.platform()},
        'versions': {'python': platform.python_version(), **libraries},
        'commit': git('rev-parse', 'HEAD') + ('-dirty' if git('status', '--porcelain', '--untracked-files=no') else ''),
    }


def cpu_name():
    if os.path.exists('/proc/cpuinfo'):
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            for line in file:
                if line.startswith('model name'):
                    return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def git(*args):
    folder = os.path.dirname(os.path.abspath(__file__))
    try:
        return subprocess.run(['git', *args], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


# ---- train ----------------------------------------------------------------------------------------------


def bench_train(config):
    settings = model_settings(config)
    contenders = choose_contenders(config, train_contenders(config, settings))
    things = {name: (train_alone, (setup, settings, changes)) for name, (_, setup, changes) in contenders.items()}
    results = take_turns_alone({'product': (measure_product, (settings,)), **things}, config['turns'])
    product = statistics.median(result['product'] for result in results['product'])
    flops = results['product'][0]['flops_per_token']
    n_tokens = settings['batch_size'] * settings['block_size']
    rows, base = [], None
    for name, (label, _, _) in contenders.items():
        seconds = [result['seconds'] for result in results[name]]
        rate = n_tokens / statistics.median(seconds)
        peak = max(result['peak_bytes'] for result in results[name])
        base = base or (rate, peak)
        rows.append({'contender': name, 'tokens/s': rate, 'turns differ by': f'{max(seconds) / min(seconds) - 1:.0%}',
                     f'times {next(iter(contenders))}': rate / base[0], 'MFU': f'{rate * flops / product:.0%}',
                     'peak GiB': peak / 2**30, 'of its memory': f'{peak / base[1]:.2f}',
                     'loss of step 3': results[name][0]['loss'], 'what it is': label})
    yield (f'Training step (forward, backward, clip, AdamW): {describe_settings(settings)}, batch '
           f'{settings["batch_size"]} x {settings["block_size"]} tokens; MFU is of {product / 1e9:,.0f} GFLOP/s, '
           f'{flops / 1e9:.3f} GFLOP a token'), rows


def model_settings(config):
    """The model's shape, the batch and the device of this run."""
    from runtime import hardware
    from model import GPTConfig
    kind = hardware.pick_device(config['device']).type
    preset = config['preset'] if config['preset'] != 'auto' else 'gpt2' if kind == 'cuda' else 'demo'
    settings = {**PRESETS[preset], **(ON_A_GPU[preset] if kind == 'cuda' else {})}
    settings.update({key: config[key] for key in settings if config[key] is not None})
    GPTConfig(**{key: value for key, value in settings.items() if key != 'batch_size'})  # raises BadInput
    if settings['batch_size'] < 1:
        raise BadInput(f'batch_size={settings["batch_size"]} should be at least 1')
    return {**settings, 'device': config['device'], 'turn_s': config['turn_s'], 'peer_dir': config['peer_dir']}


def describe_settings(settings):
    return (f'{settings["n_layer"]} layers, {settings["n_head"]} heads, width {settings["n_embd"]}, '
            f'vocabulary {settings["vocab_size"]:,}')


def check_peer(peer_dir):
    if not os.path.isfile(os.path.join(peer_dir, 'model.py')):
        raise BadInput(f'peer_dir={peer_dir} has no model.py; it should be a checkout of nanoGPT')


def choose_contenders(config, available):
    """Of {name: (label, ...)} those that --contenders names, in its order, or all."""
    if config['contenders'] is None:
        return available
    names = config['contenders'].split(',')
    for name in names:
        if name not in available:
            raise BadInput(f'--contenders: {name!r} cannot run here; there are {", ".join(available)}'
                           f'{"" if config["peer_dir"] else " (and nanogpt with --peer_dir)"}')
    return {name: available[name] for name in names}


def train_contenders(config, settings):
    """{name: (what it is, function that sets it up, arguments)} of all that can run here; the first is the baseline."""
    from runtime import hardware
    device = hardware.pick_device(config['device'])
    on_gpu = device.type == 'cuda'
    dtype = str(hardware.pick_dtype('auto', device)).removeprefix('torch.')
    compiles = hardware.why_no_compile(device) is None
    everything = {}
    if config['peer_dir']:
        check_peer(config['peer_dir'])
        if on_gpu:
            everything['nanogpt'] = ('nanoGPT as its train.py runs: bf16, compiled', setup_nanogpt,
                                     {'dtype': dtype, 'compiled': True})
        else:
            everything['nanogpt'] = ('nanoGPT as its train.py runs on a CPU: float32, eager', setup_nanogpt, {})
            everything['nanogpt_autocast'] = (f'the same under {dtype} autocast', setup_nanogpt, {'dtype': dtype})
    everything['eager'] = (f'plain PyTorch: SDPA, whole logits, {dtype} autocast', setup_plain, {'dtype': dtype})
    if compiles:
        everything['compile'] = ('the same with torch.compile', setup_plain, {'dtype': dtype, 'compiled': True})
    if importlib.util.find_spec('transformers'):
        everything['transformers'] = (f'GPT2LMHeadModel, SDPA, {dtype} autocast', setup_transformers, {'dtype': dtype})
    if on_gpu:
        everything['explicit'] = ('ours with the whole attention matrix, plain PyTorch', setup_ours,
                                  {'attention': 'explicit', 'compile': False})
        everything['explicit_triton'] = ('the same with our fused kernels', setup_ours,
                                         {'attention': 'explicit', 'kernels': 'triton', 'compile': False})
        everything['ours_eager'] = ('train.py --compile=False', setup_ours, {'compile': False})
        everything['ours_triton'] = ('train.py --kernels=triton', setup_ours, {'kernels': 'triton'})
    elif compiles:
        everything['ours_compiled'] = ('train.py --compile=True', setup_ours, {'compile': True})
    everything['ours'] = ("train.py's own step and defaults" + ('' if on_gpu else ', its allocator setting included'),
                          setup_ours, {})
    return everything


def measure_product(settings):
    """The rate of a matrix product in the best number format of the device, and a token's FLOPs of the model."""
    import torch

    from runtime import hardware
    from model import GPT, GPTConfig
    device = hardware.pick_device(settings['device'])
    with torch.device('meta'):
        model = GPT(GPTConfig(**{key: settings[key] for key in PRESETS['demo'] if key != 'batch_size'}))
    return {'product': hardware.measure_peak_flops(device, hardware.pick_dtype('auto', device)),
            'flops_per_token': model.flops_per_token()}


def train_alone(setup, settings, changes):
    """One contender's turn: median seconds of a step, peak memory of the process, and the loss."""
    import torch

    from runtime import hardware
    device = hardware.pick_device(settings['device'])
    torch.manual_seed(0)
    shape = settings['batch_size'], settings['block_size']
    x, y = (torch.randint(settings['vocab_size'], shape, device=device) for _ in range(2))
    losses = []
    step = setup(settings, device, x, y, **changes)  # makes one step and returns its loss as a float
    seconds = time_calls(lambda: losses.append(step()), device, settings['turn_s'])
    return {'seconds': statistics.median(seconds), 'peak_bytes': hardware.peak_memory(device), 'loss': losses[2]}


def setup_ours(settings, device, x, y, **changes):
    """train.py's train_step on a batch that stays the same, with AdamW as all others have it."""
    import torch

    import pretrained
    import train
    from model import GPT
    n_tokens = settings['batch_size'] * settings['block_size']
    config = {key: getattr(value, 'default', value) for key, value in train.DEFAULTS.items()}
    config.update({key: settings[key] for key in ('device', *PRESETS['demo']) if key != 'batch_size'})
    config.update(micro_batch=settings['batch_size'], total_batch_tokens=n_tokens, warmup_steps=0, **changes)
    process = train.Process(config)
    model = GPT(pretrained.model_config(config)).to(device)
    compiled = train.compile_model(model, config, process)
    batch = x.cpu(), y.cpu()
    batches = types.SimpleNamespace(batch_size=settings['batch_size'], sequence_index=0, next=lambda: batch,
                                    count_targets=lambda n_sequences: n_sequences * settings['block_size'])
    scaler = torch.amp.GradScaler(device.type, enabled=process.dtype == torch.float16)
    run = train.Run(config, process, model, compiled, [], train.build_optimizers(model, [], config, process), scaler, batches,
                    val_data=None, tokenizer=None, meta=None, questions={}, progress=train.Progress())
    stop = types.SimpleNamespace(requested=False)

    def step():
        train.train_step(run, compiled, stop)
        return run.progress.row['loss']
    return step


def setup_plain(settings, device, x, y, dtype, compiled=False):
    """The model in PyTorch's own operations: SDPA, all logits at once, F.cross_entropy, fused AdamW."""
    import torch
    from torch.nn import functional as F

    from model import GPT, GPTConfig
    shape = {key: settings[key] for key in PRESETS['demo'] if key != 'batch_size'}
    model = GPT(GPTConfig(**shape, attention='sdpa')).to(device)
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    return plain_step(model, optimizer, device, dtype,
                      lambda: F.cross_entropy(forward(x).flatten(0, 1).float(), y.flatten()))


def setup_transformers(settings, device, x, y, dtype):
    import torch
    import transformers
    model = transformers.GPT2LMHeadModel(transformers_config(settings)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    return plain_step(model, optimizer, device, dtype, lambda: model(x, labels=x, use_cache=False).loss)


def transformers_config(settings):
    import transformers
    return transformers.GPT2Config(
        n_layer=settings['n_layer'], n_head=settings['n_head'], n_embd=settings['n_embd'],
        n_positions=settings['block_size'], vocab_size=settings['vocab_size'], resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=None)


def setup_nanogpt(settings, device, x, y, dtype='float32', compiled=False):
    """Its model and its optimizer, in the order of the steps of its train.py; float32 without autocast is its way
    on CPUs. Its vocabulary is padded as it advises, to a multiple of 64."""
    import torch
    torch.set_float32_matmul_precision('high')  # it allows TF32
    with contextlib.redirect_stdout(None):
        model = nanogpt_model(settings, vocab_size=-(-settings['vocab_size'] // 64) * 64).to(device)
        optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), device.type)
    forward = torch.compile(model) if compiled else model
    return plain_step(model, optimizer, device, dtype, lambda: forward(x, y)[1])


def nanogpt_model(settings, vocab_size):
    """nanoGPT's model.py, imported from the checkout under a name of its own."""
    spec = importlib.util.spec_from_file_location('nanogpt_model', os.path.join(settings['peer_dir'], 'model.py'))
    module = sys.modules['nanogpt_model'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shape = {key: settings[key] for key in ('n_layer', 'n_head', 'n_embd', 'block_size')}
    return module.GPT(module.GPTConfig(**shape, vocab_size=vocab_size, dropout=0.0, bias=True))


def plain_step(model, optimizer, device, dtype, compute_loss):
    """A function that makes one training step as most scripts write it, and returns the loss."""
    import torch

    from runtime import hardware

    def step():
        with hardware.autocast(device, hardware.DTYPES[dtype]):
            loss = compute_loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()
    return step


# ---- sample ---------------------------------------------------------------------------------------------


def bench_sample(config):
    settings = model_settings(config)
    settings['new_tokens'] = min(config['new_tokens'], settings['block_size'] - 16)
    if settings['new_tokens'] < 1:
        raise BadInput('block_size should be at least 17, for a prompt of 16 tokens, and new_tokens at least 1')
    contenders = choose_contenders(config, sample_contenders(config))
    things = {name: (sample_alone, (setup, settings, changes)) for name, (_, setup, changes) in contenders.items()}
    results = take_turns_alone(things, config['turns'])
    rows, base = [], None
    for name, (label, _, _) in contenders.items():
        rate = settings['new_tokens'] / statistics.median(result['seconds'] for result in results[name])
        base = base or rate
        rows.append({'contender': name, 'tokens/s': rate, f'times {next(iter(contenders))}': rate / base,
                     'peak GiB': max(result['peak_bytes'] for result in results[name]) / 2**30, 'what it is': label})
    yield (f'Generating {settings["new_tokens"]} tokens after 16, one sequence, top_k 50: '
           f'{describe_settings(settings)}, block {settings["block_size"]}'), rows
    yield alone(steps_of_generation, settings, config['turns'])


def sample_contenders(config):
    from runtime import hardware
    device = hardware.pick_device(config['device'])
    dtype = str(hardware.pick_dtype('auto', device)).removeprefix('torch.')
    everything = {}
    if config['peer_dir']:
        check_peer(config['peer_dir'])
        nanogpt_dtype = dtype if device.type == 'cuda' else 'float32'
        everything['nanogpt'] = (f'nanoGPT as its sample.py runs: {nanogpt_dtype}, no cache', generate_nanogpt,
                                 {'dtype': nanogpt_dtype})
    if importlib.util.find_spec('transformers'):
        for weights in dict.fromkeys(('float32', dtype)):
            everything[f'transformers_{weights}'] = (f'GPT2LMHeadModel.generate, {weights} weights'
                                                     f'{", its default" * (weights == "float32")}, its cache',
                                                     generate_transformers, {'dtype': weights})
    everything['ours'] = (f'model.generate as sample.py calls it: {dtype} weights, cached', generate_ours,
                          {'dtype': dtype})
    return everything


def steps_of_generation(settings, turns):
    """(title, rows): what a token costs in generation.py's engine, beside what it could cost at least or most.

    products: every weight matrix times one vector with F.linear, and nothing else. recomputed: the whole context for
    the sake of one token, as generation without a cache does it. Every thing is timed by the median of its calls in a
    turn, and all take turns.
    """
    import torch
    from torch.nn import functional as F

    from runtime import hardware
    from inference.engine import Engine, Request
    from model import GPT, GPTConfig
    device = hardware.pick_device(settings['device'])
    dtype = hardware.pick_dtype('auto', device)
    torch.manual_seed(0)
    wide = GPT(GPTConfig(**{key: settings[key] for key in PRESETS['demo'] if key != 'batch_size'})).to(device).eval()
    model = copy.deepcopy(wide).to(dtype)
    matrices = [p.detach() for p in model.transformer.h.parameters() if p.dim() == 2] + [model.transformer.wte.weight.detach()]
    vectors = [torch.randn(1, matrix.size(1), device=device, dtype=dtype) for matrix in matrices]
    block = settings['block_size']
    context, n_prompt = block * 15 // 16, min(512, block)
    engines = {n: Engine(model, max_batch=n) for n in (1, 16)}
    prompt = torch.randint(settings['vocab_size'], (1, block), device=device)

    def step(n, length):
        """Seconds of a step of n sequences that have `length` tokens."""
        engine, seconds = engines[n], []
        sequences = engine.add(Request(prompt[0, :length].tolist(), block, temperature=0.8, top_k=50), n)
        engine.step()
        for _ in range(min(16, block - length - 1)):
            seconds += time_calls(engine.step, device, 0, warm_up=0, least=1)
        for sequence in sequences:
            engine.remove(sequence)
        return statistics.median(seconds)

    def forward(model, length):
        """Seconds until the logits of the last of `length` tokens are there."""
        call = lambda: model.head(model.hidden(prompt[:, :length])[:, -1:])  # noqa: E731
        return statistics.median(time_calls(call, device, 0, least=3))

    def prefill():
        """Seconds until the first token after a prompt is there."""
        request = Request(prompt[0, :n_prompt].tolist(), 1, temperature=0.8, top_k=50)
        return statistics.median(time_calls(lambda: (engines[1].add(request), engines[1].step()), device, 0, least=3))

    things = {
        'products of one token': lambda: statistics.median(time_calls(
            lambda: [F.linear(vector, matrix) for vector, matrix in zip(vectors, matrices)], device, 0, least=10)),
        'a token after 16': lambda: step(1, 16),
        f'a token after {context}': lambda: step(1, context),
        f'recomputed, {context} tokens': lambda: forward(model, context),
        f'recomputed, {context} tokens, float32': lambda: forward(wide, context),
        '16 sequences, a token after 16': lambda: step(16, 16),
        f'16 sequences, a token after {context}': lambda: step(16, context),
        f'forward pass of {n_prompt} tokens': lambda: forward(model, n_prompt),
        f'prompt of {n_prompt} tokens and a token': prefill,
    }
    with torch.no_grad():
        measured = {name: [] for name in things}
        for _ in range(turns):
            for name, thing in things.items():
                measured[name].append(thing())
    ms = {name: 1000 * statistics.median(seconds) for name, seconds in measured.items()}
    products, token, late, again, again_wide, batch, late_batch, whole, prompted = ms
    compared = {token: (ms[token] / ms[products], 'of the products'), late: (ms[late] / ms[products], 'of the products'),
                again: (ms[again] / ms[late], 'times a token with the cache'),
                again_wide: (ms[again_wide] / ms[late], 'times a token with the cache'),
                batch: (16 * ms[token] / ms[batch], 'times the tokens/s of one sequence'),
                late_batch: (16 * ms[late] / ms[late_batch], 'times the tokens/s of one sequence'),
                prompted: ((ms[prompted] - ms[token]) / ms[whole], 'of the forward pass, without the token')}
    rows = [{'what': name, 'ms': ms[name], 'tokens/s': {token: 1, late: 1, batch: 16, late_batch: 16}.get(name, 0) * 1000
             / ms[name] or None, 'ratio': compared.get(name, (None,))[0], 'to': compared.get(name, (0, None))[1]}
            for name in ms]
    return f'Steps of generation in {str(dtype).removeprefix("torch.")}: {describe_settings(settings)}', rows


def sample_alone(setup, settings, changes):
    """One contender's turn: median seconds of a text, and peak memory of the process."""
    import torch

    from runtime import hardware
    device = hardware.pick_device(settings['device'])
    torch.manual_seed(0)
    prompt = torch.randint(settings['vocab_size'], (1, 16), device=device)
    generate = setup(settings, device, prompt, **changes)
    with torch.no_grad():
        seconds = time_calls(generate, device, settings['turn_s'], least=1)
    return {'seconds': statistics.median(seconds), 'peak_bytes': hardware.peak_memory(device)}


def generate_ours(settings, device, prompt, dtype):
    from runtime import hardware
    from model import GPT, GPTConfig
    model = GPT(GPTConfig(**{key: settings[key] for key in PRESETS['demo'] if key != 'batch_size'}))
    model = model.to(device, hardware.DTYPES[dtype]).eval()
    return lambda: model.generate(prompt, settings['new_tokens'], temperature=0.8, top_k=50)


def generate_transformers(settings, device, prompt, dtype):
    import transformers

    from runtime import hardware
    model = transformers.GPT2LMHeadModel(transformers_config(settings)).to(device, hardware.DTYPES[dtype]).eval()
    mask = prompt.new_ones(prompt.shape)
    return lambda: model.generate(prompt, attention_mask=mask, max_new_tokens=settings['new_tokens'], do_sample=True,
                                  min_new_tokens=settings['new_tokens'], temperature=0.8, top_k=50, pad_token_id=0)


def generate_nanogpt(settings, device, prompt, dtype):
    from runtime import hardware
    with contextlib.redirect_stdout(None):
        model = nanogpt_model(settings, settings['vocab_size']).to(device).eval()

    def generate():
        with hardware.autocast(device, hardware.DTYPES[dtype]):
            model.generate(prompt, settings['new_tokens'], temperature=0.8, top_k=50)
    return generate


# ---- kernels --------------------------------------------------------------------------------------------


def bench_kernels(config):
    import torch

    from runtime import hardware
    device = hardware.pick_device(config['device'])
    dtype = hardware.pick_dtype('auto', device)
    source = torch.empty(2**30 if device.type == 'cuda' else 2**27, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = hardware.measure_peak_flops(device, dtype)
    rows, copies = [], []
    hardware.keep_freed_memory(device)  # for all of them: the allocator is not what is compared here
    for name, must_move, flops, inputs, functions in gpu_cases(dtype) if device.type == 'cuda' else cpu_cases(dtype):
        calls = {label: forward_backward(function, inputs) for label, function in functions.items()}
        calls['copy'] = lambda: target.copy_(source)
        times = {label: [] for label in calls}
        for turn in range(config['turns'] + 1):
            for label, call in calls.items():
                seconds = kernel_seconds(call, device)
                if turn:
                    times[label].append(seconds)
        medians = {label: statistics.median(samples) for label, samples in times.items()}
        copies.append(2 * source.numel() / medians['copy'])
        for label in functions:
            rows.append({'forward and backward of': name, 'by': label, 'ms': medians[label] * 1e3,
                         'times ours': medians['ours'] / medians[label],
                         'of copy': f'{must_move / medians[label] / copies[-1]:.0%}' if must_move else None,
                         'of product': f'{flops / medians[label] / product:.0%}' if flops else None,
                         'peak MiB': peak_of_call(calls[label], device)})
        torch._dynamo.reset()
    yield (f'Kernels in {str(dtype).removeprefix("torch.")}; copy {statistics.median(copies) / 1e9:,.1f} GB/s, '
           f'product {product / 1e9:,.0f} GFLOP/s'), rows


def kernel_seconds(call, device):
    """Seconds of one call; on a GPU without its launch, by filling the queue first."""
    import torch
    if device.type != 'cuda':
        return statistics.median(time_calls(call, device, turn_s=0.0, least=KERNEL_ROUNDS))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(20_000_000)
    begin.record()
    for _ in range(KERNEL_ROUNDS):
        call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / KERNEL_ROUNDS


def forward_backward(function, inputs):
    """A call of forward and backward with ready-made gradients of the outputs."""
    import torch

    def outputs_of():
        outputs = function(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)
    gradients = [torch.ones_like(out) if out.dim() == 0 else torch.randn_like(out) for out in outputs_of()]
    return lambda: torch.autograd.grad(outputs_of(), inputs, gradients)


def peak_of_call(call, device):
    """MiB that a call takes on a GPU beside its inputs; None elsewhere."""
    import torch
    if device.type != 'cuda':
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def random_input(*shape, dtype, device, scale=1.0):
    import torch
    return (torch.randn(*shape, device=device) * scale).to(dtype).requires_grad_()


def gpu_cases(dtype):
    """(name, bytes that must move, floating-point operations, inputs, {by: function}) at GPT-2's shapes.

    Bytes are those of each input read once and each result written once.
    """
    import torch
    from torch.nn import functional as F

    import kernels
    from kernels import cross_entropy, layer_norm, softmax
    if kernels.unavailable('cuda'):
        raise BadInput(kernels.unavailable('cuda'))
    peers, size, vocab_size, V = liger(), dtype.itemsize, 50257, 50304
    options = {'dtype': dtype, 'device': 'cuda'}

    def with_peer(functions, name, function=None):
        return {**functions, 'liger': function or peers[name]} if name in peers else functions

    for N, C in ((64 * 1024, 768), (32 * 1024, 1600)):
        residual, x, w, b = (random_input(*shape, **options) for shape in ((N, C), (N, C), (C,), (C,)))

        def plain(x, w, b):
            return F.layer_norm(x, w.shape, w, b)

        def plain_add(residual, x, w, b):
            total = residual + x
            return F.layer_norm(total, w.shape, w, b), total
        yield f'layer_norm {N}x{C}', 5 * size * N * C, 0, (x, w, b), with_peer(
            {'ours': layer_norm.layer_norm, 'torch': plain, 'compile': torch.compile(plain)}, 'layer_norm')
        yield (f'add_layer_norm {N}x{C}', 8 * size * N * C, 0, (residual, x, w, b),
               {'ours': layer_norm.add_layer_norm, 'torch': plain_add, 'compile': torch.compile(plain_add)})
        del residual, x

    scores = random_input(8, 12, 1024, 1024, **options)
    hidden = torch.ones(1024, 1024, dtype=torch.bool, device='cuda').triu(1)

    def plain_softmax(scores):
        return (scores * 0.125).masked_fill(hidden, -torch.inf).softmax(-1)
    yield ('causal_softmax 8x12x1024x1024', int(3.5 * size * scores.numel()), 0, (scores,),
           {'ours': lambda scores: softmax.causal_softmax(scores, 0.125), 'torch': plain_softmax,
            'compile': torch.compile(plain_softmax)})
    del scores

    N = 16 * 1024
    logits, targets = random_input(N, V, **options), torch.randint(vocab_size, (N,), device='cuda')

    def plain_loss(logits):
        return F.cross_entropy(logits[:, :vocab_size].float(), targets, ignore_index=-1)
    # Ours and Liger's leave the gradient in the logits; the next call works on those numbers, which costs it the same.
    yield f'cross_entropy {N}x{V}', 2 * size * logits.numel(), 0, (logits,), with_peer(
        {'ours': lambda logits: cross_entropy.cross_entropy(logits, targets, vocab_size), 'torch': plain_loss,
         'compile': torch.compile(plain_loss)}, 'cross_entropy', lambda logits: peers['cross_entropy'](logits, targets))
    del logits
    yield head_case(32 * 1024, 768, vocab_size, V, options, fused=True)


def cpu_cases(dtype):
    """The same for what a CPU runs in our training step."""
    from torch.nn import functional as F

    from kernels import attention
    options = {'dtype': dtype, 'device': 'cpu'}
    for B, nh, T, hd in ((16, 4, 256, 64), (8, 12, 512, 64)):
        qkv = tuple(random_input(B, nh, T, hd, **options) for _ in range(3))
        yield (f'attention {B}x{nh}x{T}x{hd}', 0, 6 * B * nh * T * T * hd, qkv,
               {'ours': attention.blocked_attention,
                'torch': lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)})
    yield head_case(4096, 256, 4096, 4096, options, fused=False)
    yield head_case(2048, 768, 50257, 50304, options, fused=False)


def head_case(N, C, vocab_size, V, options, fused):
    """The output head with its loss."""
    import torch
    from torch.nn import functional as F

    from kernels import cross_entropy
    x, w = random_input(N, C, **options), random_input(V, C, scale=0.02, **options)
    targets = torch.randint(vocab_size, (N,), device=options['device'])

    def plain(x, w):
        return F.cross_entropy(F.linear(x, w)[:, :vocab_size].float(), targets, ignore_index=-1)
    in_torch = lambda x, w: cross_entropy.linear_cross_entropy_torch(x, w, targets, vocab_size)  # noqa: E731
    functions = {'ours': in_torch, 'torch': plain}
    if fused:
        functions = {'ours': lambda x, w: cross_entropy.linear_cross_entropy(x, w, targets, vocab_size),
                     'ours without triton': in_torch, 'torch': plain, 'compile': torch.compile(plain)}
        if 'linear_cross_entropy' in liger():
            functions['liger'] = lambda x, w: liger()['linear_cross_entropy'](x, w, targets)
    if hasattr(F, 'linear_cross_entropy'):
        functions['F.linear_cross_entropy'] = lambda x, w: F.linear_cross_entropy(x, w, targets)  # padding counts there
    return f'linear_cross_entropy {N}x{C}x{V}', 0, 6 * N * C * V, (x, w), functions


def liger():
    """Liger's functions by the names of ours; empty where liger-kernel is not installed."""
    try:
        from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction
        from liger_kernel.ops.layer_norm import LigerLayerNormFunction
    except ImportError:
        return {}

    def loss_of(result):
        return result[0] if isinstance(result, tuple) else result
    return {
        'layer_norm': lambda x, w, b: LigerLayerNormFunction.apply(x, w, b, 1e-5),
        'cross_entropy': lambda x, targets: loss_of(LigerCrossEntropyFunction.apply(x, targets, None, -1)),
        'linear_cross_entropy': lambda x, w, targets: loss_of(
            LigerFusedLinearCrossEntropyFunction.apply(x, w, targets, None, None, -1)),
    }


# ---- data -----------------------------------------------------------------------------------------------


def bench_data(config):
    import bpe
    documents = cut_documents(read_bench_texts(config['input']), config['data_mb'] * 1_000_000)
    n_bytes = sum(len(text.encode()) for text in documents)
    bpe.Tokenizer.gpt2()  # raises BadInput where it cannot be had
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, 'documents.jsonl')
        with open(source, 'w', encoding='utf-8') as file:
            file.writelines(json.dumps({'text': text}) + '\n' for text in documents)
        numbers = itertools.count()
        seconds = take_turns({
            'a pool of processes, a document a task': lambda: shards_by_pool(documents, folder),
            'fineweb.py': lambda: shards_by_fineweb(source, os.path.join(folder, f'shards{next(numbers)}')),
        }, config['turns'])
        base = next(iter(seconds.values()))
        rows = [{'what': what, 'MB/s': n_bytes / 1e6 / s, 'times the pool': base / s} for what, s in seconds.items()]
        yield (f'{n_bytes / 1e6:.1f} MB of text, {len(documents):,} documents, to shards of GPT-2 tokens '
               f'on {bpe.available_cores()} cores'), rows
        yield compare_loading(os.path.join(folder, 'shards0'), config['turns'])


def cut_documents(texts, n_bytes, size=4000):
    """The texts in documents of about a web page's size, over and over up to n_bytes."""
    pages = [text[start:start + size] for text in texts for start in range(0, len(text), size)]
    documents, sent = [], 0
    for page in itertools.cycle(pages):
        documents.append(page)
        sent += len(page)
        if sent >= n_bytes:
            return documents


def shards_by_fineweb(source, out_dir):
    import fineweb
    config = {key: getattr(value, 'default', value) for key, value in fineweb.DEFAULTS.items()}
    with contextlib.redirect_stdout(None), open(os.devnull, 'w') as nowhere, contextlib.redirect_stderr(nowhere):
        fineweb.main({**config, 'source': source, 'out_dir': out_dir, 'shard_tokens': 1_000_000})


def shards_by_pool(documents, folder, shard_tokens=1_000_000):
    """What most scripts do: every process tokenizes a document and sends it back to be put into a shard. The documents
    are in memory already, which ours has to read and parse."""
    import numpy as np

    import bpe
    buffer, filled = np.empty(shard_tokens, dtype=np.uint16), 0
    with multiprocessing.get_context('spawn').Pool(bpe.available_cores()) as pool, \
            open(os.path.join(folder, 'pool.bin'), 'wb') as file:
        for tokens in pool.imap(tokenize_document, documents, chunksize=16):
            while filled + len(tokens) >= shard_tokens:
                buffer[filled:], tokens = tokens[:shard_tokens - filled], tokens[shard_tokens - filled:]
                buffer.tofile(file)
                filled = 0
            buffer[filled:filled + len(tokens)] = tokens
            filled += len(tokens)
        buffer[:filled].tofile(file)


def tokenize_document(text):
    import numpy as np
    import tiktoken
    encoding = tiktoken.get_encoding('gpt2')  # which keeps it
    return np.array([encoding.eot_token, *encoding.encode_ordinary(text)], dtype=np.uint16)


def compare_loading(data_dir, turns, n_sequences=64, block_size=1024, n_batches=20):
    """Batches for training: BatchLoader, and the random windows of a memory map that most scripts cut."""
    import numpy as np
    import torch

    import shards
    loader = shards.BatchLoader(data_dir, 'train', block_size, n_sequences, seed=0)
    tokens = np.concatenate([shards.read_shard(path) for path in shards.find_shards(data_dir, 'train')])

    def random_windows():
        starts = torch.randint(len(tokens) - block_size, (n_sequences,))
        return [torch.stack([torch.from_numpy(tokens[i:i + block_size].astype(np.int64)) for i in starts + shift])
                for shift in (0, 1)]

    seconds = take_turns({'random windows': lambda: [random_windows() for _ in range(n_batches)],
                          'shards.BatchLoader': lambda: [loader.next() for _ in range(n_batches)]}, turns)
    n_tokens = n_batches * n_sequences * block_size
    rows = [{'what': what, 'million tokens/s': n_tokens / 1e6 / s, 'of a training step at 1 million tokens/s':
             f'{1e6 * s / n_tokens:.2%}'} for what, s in seconds.items()]
    return f'Batches of {n_sequences} x {block_size} tokens out of {len(tokens):,}', rows


# ---- bpe ------------------------------------------------------------------------------------------------


def bench_bpe(config):
    try:
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise BadInput('this part compares with tokenizers: pip install -r requirements-dev.txt') from error
    vocab_sizes = [int(size) for size in config['vocab_sizes'].split(',') if size.isdigit()]
    if not vocab_sizes:
        raise BadInput(f"--vocab_sizes={config['vocab_sizes']} should be numbers with commas between, as in 4096,32768")
    texts = read_bench_texts(config['input'])
    training, ours = compare_training(texts, vocab_sizes, config['turns'])
    yield training
    yield compare_encoding(texts, ours, config['turns'])
    if config['large_mb']:
        # In a process of its own, as the peak of memory is one number per process.
        row = alone(train_on_much, texts, config['large_mb'], vocab_sizes[-1])
        yield f"Training on a stream of {config['large_mb']} MB", [row]


def read_bench_texts(patterns):
    import sources
    from runtime.files import find_files, is_binary
    paths = [path for path in find_files(patterns) if not is_binary(path)] if patterns else sources.stdlib_files()
    texts = []
    for path in paths:
        with open(path, encoding='utf-8', errors='replace', newline='') as file:
            texts.append(file.read())
    return texts


def compare_training(texts, vocab_sizes, turns):
    import tokenizers

    import bpe
    n_bytes = sum(len(text.encode()) for text in texts)
    rows = []
    for vocab_size in vocab_sizes:
        trained = {}

        def train_ours():
            trained['ours'] = bpe.Tokenizer.train(texts, vocab_size, progress=False)

        def train_theirs():
            trained['theirs'] = tokenizers.Tokenizer(tokenizers.models.BPE())
            trained['theirs'].pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
            trained['theirs'].train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
                vocab_size=vocab_size, special_tokens=[bpe.EOT], show_progress=False,
                initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))

        seconds = take_turns({'ours': train_ours, 'theirs': train_theirs}, turns)
        our_tokens = sum(map(len, trained['ours'].encode_batch(texts)))
        their_tokens = sum(len(out.ids) for out in trained['theirs'].encode_batch(texts, add_special_tokens=False))
        tokens_of_chunks = sum(map(len, trained['ours'].encode_batch(bpe.count_chunks(texts))))
        naive_s = naive_seconds_per_token_and_merge(texts) * (vocab_size - 257) * tokens_of_chunks
        rows.append({
            'vocab': vocab_size, 'bpe.py s': seconds['ours'], 'tokenizers s': seconds['theirs'],
            'time ratio': seconds['ours'] / seconds['theirs'],
            'bytes/token': n_bytes / our_tokens, "tokenizers' bytes/token": n_bytes / their_tokens,
            'naive s (at least, extrapolated)': naive_s, 'naive ratio': naive_s / seconds['ours'],
        })
    title = f'Training on {n_bytes / 1e6:.2f} MB, {len(texts)} documents, {bpe.available_cores()} cores'
    return (title, rows), trained['ours']


def naive_seconds_per_token_and_merge(texts, n_characters=200_000, n_merges=5):
    """What training costs that counts all pairs of all different chunks again for every merge, as the textbook does.

    Measured on the beginning of the text. A merge costs time for each token there is; as there are never fewer
    tokens than at the end of training, (tokens at the end) x (merges) x this is less than it would really take.
    """
    import bpe
    from bpe_textbook import learn_merges_slowly
    counts = bpe.count_chunks([''.join(texts)[:n_characters]], processes=1)
    started = time.perf_counter()
    learn_merges_slowly(counts, n_merges)
    return (time.perf_counter() - started) / n_merges / sum(len(chunk.encode()) for chunk in counts)


def compare_encoding(texts, ours, turns):
    """One document after the other on one core, then all of them on all cores; the same vocabulary for both."""
    import tokenizers

    import bpe
    cores = bpe.available_cores()
    with tempfile.TemporaryDirectory() as folder:
        ours.save(os.path.join(folder, 'tokenizer.json'))
        theirs = tokenizers.Tokenizer.from_file(os.path.join(folder, 'tokenizer.json'))
    one_core, all_cores = '1 core, document by document', f'{cores} cores, a batch'
    calls = {
        ('tokenizers encode', one_core): lambda: [theirs.encode(text, add_special_tokens=False).ids for text in texts],
        ('bpe.py encode', one_core): lambda: [ours.encode(text) for text in texts],
        ('bpe.py encode_array', one_core): lambda: [ours.encode_array(text) for text in texts],
        ('bpe.py encode_batch', '1 core, a batch'): lambda: ours.encode_batch(texts, threads=1),
        ('tokenizers encode_batch_fast', all_cores): lambda: [out.ids for out in theirs.encode_batch_fast(texts)],
        ('bpe.py encode_batch', all_cores): lambda: ours.encode_batch(texts),
    }
    if [ours.encode(text) for text in texts[:50]] != [theirs.encode(text).ids for text in texts[:50]]:
        raise BadInput('the two encoders disagree: what follows would compare different work')
    seconds = take_turns(calls, turns)
    n_bytes = sum(len(text.encode()) for text in texts)
    base = seconds['tokenizers encode', one_core]
    rows = [{'what': what, 'how': how, 'MB/s': n_bytes / 1e6 / seconds[what, how],
             'times tokenizers encode': base / seconds[what, how]} for what, how in calls]
    scaling = seconds['bpe.py encode_batch', '1 core, a batch'] / seconds['bpe.py encode_batch', all_cores]
    return f'Encoding {n_bytes / 1e6:.2f} MB, vocabulary {ours.vocab_size}; encode_batch scales by {scaling:.2f}', rows


def train_on_much(texts, n_mb, vocab_size):
    """Trains on a stream of n_mb MB made from the texts; a row with time and peak memory of all processes."""
    import bpe
    started = time.perf_counter()
    counts = bpe.count_chunks(grow(texts, n_mb * 1_000_000), progress=True)
    counted_s = time.perf_counter() - started
    merges = bpe.learn_merges(counts, vocab_size - 257, progress=True)
    unit = 2**10 if sys.platform == 'darwin' else 1  # ru_maxrss is in bytes there, else in KiB
    own, other = (resource.getrusage(who).ru_maxrss / unit / 2**20
                  for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {'vocab': len(merges) + 257, 'different chunks': len(counts), 'counting s': counted_s,
            'merging s': time.perf_counter() - started - counted_s,
            'peak GiB (sum over processes)': own + other * (bpe.available_cores() - 1)}


def grow(texts, n_characters):
    """The texts over and over, each time with 2% of other new words, which large corpora never stop having."""
    rng, sent = random.Random(0), 0
    while sent < n_characters:
        for text in texts:
            letters = ''.join(rng.choices('etaoinshrdlu', k=len(text) // 50))
            text += ' '.join(letters[i:i + 8] for i in range(0, len(letters), 8))
            sent += len(text)
            yield text
            if sent >= n_characters:
                break


PARTS = {'train': bench_train, 'sample': bench_sample, 'kernels': bench_kernels, 'data': bench_data, 'bpe': bench_bpe}


if __name__ == '__main__':
    argv = sys.argv[1:]
    with one_line_errors():
        if argv and not argv[0].startswith('-') and argv[0] not in PARTS:
            raise BadInput(f'no part {argv[0]!r}; `python bench.py PART` measures one of {", ".join(PARTS)}, '
                           f'and `python bench.py` all')
        parts = [sys.argv.pop(1)] if argv and argv[0] in PARTS else list(PARTS)
        main(parts, configure(DEFAULTS), argv)
