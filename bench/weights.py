"""The part weights: what weights of 8 and 4 bits cost a trained model in quality, on text that it has not been trained on.

Bits per byte are of each token but the first of a window, by the steps that write text. Agreement is over greedy texts that the
model writes with its weights as they are: at each of their tokens, whether the likeliest one by rounded weights is the same.
"""
import math

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import pretrained
import shards
from inference.decode import POSITION, TOKEN, Decoder
from inference.engine import Engine, Request
from runtime import hardware
from runtime.errors import BadInput

N_TEXTS = 20  # greedy texts, of new_tokens each
ROWS = 16  # texts that are predicted at once


def measure_weights(config):
    """Yields (title, rows)."""
    device = hardware.pick_device(config['device'])
    if device.type != 'cpu':
        raise BadInput('weights of 8 and 4 bits are for CPUs; --device=cpu measures them')
    model, tokenizer, _ = pretrained.load(config['init_from'])
    model.to(hardware.pick_dtype('auto', device))
    size, folder = model.config.block_size, config['data_dir'] or 'data/stdlib'
    loader = shards.BatchLoader(folder, 'val', size, batch_size=1, seed=0, meta=shards.load_meta(folder))
    n_windows = min(loader.n_sequences, max(1, config['quality_tokens'] // size))
    windows = [loader.next()[0][0].tolist() for _ in range(n_windows)]
    n_bytes = sum(len(tokenizer.token_bytes(token)) for window in windows for token in window[1:])
    prompts = [window[:16] for window in windows[:N_TEXTS]]
    written, rows, bits = write(model, prompts, config['new_tokens']), [], {}
    for name in ('auto', 'int8', 'int4'):
        decoder = Decoder(model, ROWS, compile=False, weights=name)
        nats = sum(F.cross_entropy(logits, ids, reduction='sum').item() for logits, ids in predict(decoder, windows))
        agreed = torch.cat([(logits.argmax(dim=-1) == ids)[15:] for logits, ids in predict(decoder, written)]).float()
        bits[name] = nats / math.log(2) / n_bytes
        rows.append({'weights': name, 'bits per byte': f'{bits[name]:.4f}', 'more': f'{bits[name] / bits["auto"] - 1:.2%}',
                     'same token': f'{agreed.mean():.1%}'})
    n_tokens = sum(map(len, windows)) - len(windows)
    yield (f'Quality of {model.n_params():,} parameters, {n_tokens:,} tokens of held-out text; same token: at '
           f'{sum(len(text) - 16 for text in written):,} tokens of greedy texts'), rows


def write(model, prompts, n_tokens):
    """Greedy texts with the weights as they are, prompts included."""
    engine = Engine(model, max_batch=len(prompts))
    room = model.config.block_size - len(prompts[0])
    sequences = [engine.add(Request(prompt, min(n_tokens, room), temperature=0))[0] for prompt in prompts]
    while engine.n_running:
        engine.step()
    return [sequence.ids for sequence in sequences]


@torch.no_grad()
def predict(decoder, texts):
    """Yields, for each text, the logits of each token but the first, (T - 1, V), and these tokens, (T - 1,)."""
    for begin in range(0, len(texts), ROWS):
        rows = [torch.tensor(text) for text in texts[begin:begin + ROWS]]
        ids = pad_sequence(rows, batch_first=True)  # (n, T)
        logits = []
        for t in range(ids.size(1) - 1):
            decoder.integers[TOKEN, :len(rows)], decoder.integers[POSITION] = ids[:, t], t
            logits.append(decoder.decode(len(rows), t).clone())
        for row, of_row in zip(rows, torch.stack(logits, dim=1)):
            yield of_row[:len(row) - 1], row[1:]
