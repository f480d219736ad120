"""Writing text with a trained model: the engine, sampling, text streams, the server's worker. Knows nothing of training."""
import sys

import torch

import pretrained
from bpe import Tokenizer
from inference import native
from model import GPT
from runtime import hardware


def open_model(config: dict) -> tuple[GPT, Tokenizer, str]:
    """(model, tokenizer, source) of a script's init_from or out_dir, after a line on stderr that says what they are.

    config: also device and dtype, which the model is moved to, and in some scripts weights. Seeds torch's generator by
    chance, so that texts without a seed differ each time.
    """
    device = hardware.pick_device(config['device'])
    dtype = hardware.pick_dtype(config['dtype'], device)
    model, tokenizer, source = pretrained.load(config['init_from'] or config['out_dir'])
    weights = config.get('weights', 'auto')
    kind = str(dtype).removeprefix('torch.') if weights == 'auto' else f'{weights} weights'
    print(f'{source}: {model.n_params():,} parameters, {hardware.describe(device)}, {kind}', file=sys.stderr)
    if device.type == 'cpu' and (reason := native.why_not(model)):
        print(f'it writes slower than it could: {reason}', file=sys.stderr)
    torch.seed()
    return model.to(device, dtype), tokenizer, source


def may_compile(wanted: bool | None, device: torch.device) -> bool:
    """hardware.may_compile, with its line on stderr."""
    return hardware.may_compile(wanted, device, lambda line: print(line, file=sys.stderr))
