"""Writing text with a trained model: the engine, sampling, text streams, the server's worker. Knows nothing of training."""
import sys

import torch

import pretrained
from bpe import Tokenizer
from model import GPT
from runtime import hardware


def open_model(config: dict) -> tuple[GPT, Tokenizer, str]:
    """(model, tokenizer, source) of a script's init_from or out_dir, after a line on stderr that says what they are.

    config: also device and dtype, which the model is moved to. Seeds torch's generator by chance, so that texts without a
    seed differ each time.
    """
    device = hardware.pick_device(config['device'])
    dtype = hardware.pick_dtype(config['dtype'], device)
    model, tokenizer, source = pretrained.load(config['init_from'] or config['out_dir'])
    print(f'{source}: {model.n_params():,} parameters, {hardware.describe(device)}, {str(dtype).removeprefix("torch.")}',
          file=sys.stderr)
    torch.seed()
    return model.to(device, dtype), tokenizer, source


def may_compile(wanted: bool | None, device) -> bool:
    """What a script's key `compile` means here; None: on a GPU yes, on a CPU no. Where it cannot be, a line says why."""
    wanted = device.type == 'cuda' if wanted is None else wanted
    reason = hardware.why_no_compile(device) if wanted else None
    if reason:
        print(f'not compiled: {reason}', file=sys.stderr)
    return wanted and not reason
