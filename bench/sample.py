"""The part sample: generation of one text, token by token. A contender's function writes new_tokens behind PROMPT tokens."""
import functools
import itertools
import json
import os
import tempfile
from statistics import median

import torch

from bench.contenders import (
    compare_contenders,
    complete,
    describe_model,
    made_up_tokenizer,
    nanogpt_model,
    our_model,
    time_calls,
    transformers_model,
)
from bench.turns import alone, spread, take_turns
from runtime import hardware
from runtime.errors import BadInput
from runtime.parallel import available_cores

PROMPT = 16
SAMPLING = {'temperature': 0.8, 'top_k': 50}


def measure_generation(config):
    """Yields (title, rows) of the contenders, then of the engine's steps."""
    config = complete(config)
    n_tokens = config['new_tokens'] = min(config['new_tokens'], config['block_size'] - PROMPT)
    if n_tokens < 1:
        raise BadInput(f'block_size should be at least {PROMPT + 1}, as the prompt has {PROMPT}, and new_tokens at least 1')
    title = f'Generating {n_tokens} tokens after {PROMPT}, one sequence, top_k 50: {describe_model(config)}'
    for rows, _ in compare_contenders(CONTENDERS, config, lambda config: config['new_tokens']):
        yield title, rows
    yield alone(measure_steps, config)


def random_prompt(config, device):
    """(1, PROMPT) token ids."""
    return torch.randint(config['vocab_size'], (1, PROMPT), device=device)


def setup_ours(config, device, compile=False, weights='auto', dtype='auto'):
    from inference.engine import Engine, Request
    if compile and device.type != 'cuda':
        raise BadInput('compiled generation does not pay on a CPU')
    if compile and (reason := hardware.why_no_compile(device)):
        raise BadInput(reason)
    prompt = random_prompt(config, device)[0].tolist()
    model = our_model(config, device).to(hardware.pick_dtype(dtype, device)).eval()
    engine = Engine(model, max_batch=1, compile=compile, weights=weights)

    def generate():
        engine.add(Request(prompt, config['new_tokens'], **SAMPLING))
        while engine.n_running:
            engine.step()
    return generate


def setup_transformers(config, device, dtype='auto'):
    prompt = random_prompt(config, device)
    model = transformers_model(config, device).to(hardware.pick_dtype(dtype, device)).eval()

    def generate():
        model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=config['new_tokens'],
                       min_new_tokens=config['new_tokens'], do_sample=True, pad_token_id=0, **SAMPLING)
    return generate


def setup_llama_cpp(config, device, kind):
    """llama.cpp on the GGUF file that export.py writes, which its own tool has made one of that kind."""
    import llama_cpp

    import gguf_file
    with tempfile.TemporaryDirectory() as folder:
        whole, path = os.path.join(folder, 'whole.gguf'), os.path.join(folder, 'model.gguf')
        gguf_file.save(our_model(config, 'cpu'), made_up_tokenizer(config['vocab_size']), whole)
        llama_cpp.llama_log_set(say_nothing(), None)
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype = getattr(llama_cpp, f'LLAMA_FTYPE_MOSTLY_{kind}')
        if llama_cpp.llama_model_quantize(whole.encode(), path.encode(), settings):
            raise BadInput(f'llama.cpp could not make a file of {kind}')
        model = llama_cpp.Llama(path, n_ctx=config['block_size'], n_threads=available_cores(), verbose=False)
    prompt = random_prompt(config, device)[0].tolist()

    def generate():
        model.reset()
        tokens = model.generate(prompt, temp=SAMPLING['temperature'], top_k=SAMPLING['top_k'], top_p=1.0, min_p=0.0,
                                repeat_penalty=1.0)
        for _ in itertools.islice(tokens, config['new_tokens']):
            pass
    return generate


@functools.cache
def say_nothing():
    """What llama.cpp calls with its log; kept, as it is called as long as the process lives."""
    import llama_cpp
    return llama_cpp.llama_log_callback(lambda *_: None)


def setup_ctranslate2(config, device, kind):
    """CTranslate2 on the folder that export.py writes."""
    import ctranslate2

    import export
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, 'exported'), os.path.join(folder, 'converted')
        export.export(our_model(config, 'cpu'), made_up_tokenizer(config['vocab_size']), source)
        ctranslate2.converters.TransformersConverter(source).convert(target, quantization=kind)
        with open(os.path.join(target, 'vocabulary.json'), encoding='utf-8') as file:
            words = json.load(file)
        model = ctranslate2.Generator(target, device='cpu', intra_threads=available_cores(), compute_type=kind)
    prompt = [words[number] for number in random_prompt(config, device)[0].tolist()]

    def generate():
        model.generate_batch([prompt], max_length=config['new_tokens'], min_length=config['new_tokens'], end_token=[],
                             sampling_topk=SAMPLING['top_k'], sampling_temperature=SAMPLING['temperature'],
                             include_prompt_in_result=False)
    return generate


def setup_nanogpt(config, device):
    prompt = random_prompt(config, device)
    model = nanogpt_model(config, device, config['vocab_size']).eval()
    dtype = hardware.pick_dtype('auto' if device.type == 'cuda' else 'float32', device)

    def generate():
        with torch.no_grad(), hardware.autocast(device, dtype):
            model.generate(prompt, config['new_tokens'], **SAMPLING)
    return generate


CONTENDERS = {  # {name: (what it is, setup)}; what others use stands first, as the first is the baseline
    'nanogpt': ('nanoGPT as its sample.py runs: autocast on a GPU, float32 on a CPU, no cache', setup_nanogpt),
    'transformers_float32': ('GPT2LMHeadModel.generate with its defaults, its cache',
                             functools.partial(setup_transformers, dtype='float32')),
    'transformers': ('GPT2LMHeadModel.generate, weights in the format that ours has, its cache', setup_transformers),
    **{f'llama_cpp_{kind.lower()}': (f'llama.cpp, {kind.lower()}', functools.partial(setup_llama_cpp, kind=kind))
       for kind in ('BF16', 'Q8_0', 'Q4_0')},
    'ctranslate2_int8': ('CTranslate2, int8', functools.partial(setup_ctranslate2, kind='int8')),
    'ours_float32': ('inference/engine.py, float32', functools.partial(setup_ours, dtype='float32')),
    'ours': ('inference/engine.py as sample.py runs it on a CPU, its cache, not compiled', setup_ours),
    'ours_int8': ('the same with --weights=int8', functools.partial(setup_ours, weights='int8')),
    'ours_int4': ('the same with --weights=int4', functools.partial(setup_ours, weights='int4')),
    'ours_compiled': ('inference/engine.py as sample.py runs it on a GPU: compiled, as CUDA graphs',
                      functools.partial(setup_ours, compile=True)),
}


def measure_steps(config):
    """(title, rows) of our engine's steps: a long prompt, and a token for one sequence and for 16 together."""
    from inference.engine import Engine, Request
    device = hardware.pick_device(config['device'])
    torch.manual_seed(0)
    model = our_model(config, device).to(hardware.pick_dtype('auto', device)).eval()
    compile = device.type == 'cuda' and not hardware.why_no_compile(device)
    engines = {n: Engine(model, max_batch=n, compile=compile) for n in (1, 16)}
    n_prompt = min(512, config['block_size'])
    prompt = torch.randint(config['vocab_size'], (n_prompt,)).tolist()

    def prefill():
        engines[1].add(Request(prompt, 1, **SAMPLING))
        engines[1].step()

    def step_seconds(n):
        """Of a step of n sequences that have just begun."""
        sequences = engines[n].add(Request(prompt[:PROMPT], config['block_size'], **SAMPLING), n)
        engines[n].step()
        seconds = median(time_calls(engines[n].step, device, warm_up=0, at_least=16))
        for sequence in sequences:
            engines[n].remove(sequence)
        return seconds

    steps = {  # {name: (tokens, function)}
        f'prompt of {n_prompt} tokens': (n_prompt, lambda: median(time_calls(prefill, device, at_least=3))),
        f'a token after {PROMPT}': (1, lambda: step_seconds(1)),
        f'16 sequences, a token after {PROMPT}': (16, lambda: step_seconds(16)),
    }
    times = take_turns({name: function for name, (_, function) in steps.items()}, config['turns'], warm_up=0)
    return f'Steps of generation{", compiled" if compile else ""}: {describe_model(config)}', [
        {'what': name, 'ms': 1000 * median(seconds), 'tokens/s': steps[name][0] / median(seconds), 'spread': spread(seconds)}
        for name, seconds in times.items()]
