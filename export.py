"""A checkpoint -> a folder in Hugging Face's layout, which transformers, vLLM and llama.cpp's converter read as it is.

    python export.py --out_dir=out/demo --to=exported                   # the newest checkpoint of a run
    python export.py --init_from=out/demo/ckpt_0000800.pt --to=exported --dtype=bfloat16

    from transformers import pipeline                                   # pip install transformers
    pipeline('text-generation', 'exported')('def parse', do_sample=False)

Writes model.safetensors and config.json (pretrained.py), tokenizer.json (bpe.py), tokenizer_config.json,
generation_config.json, and for a model that was trained on conversations chat_template.jinja (chat_template.py).
"""
import os
import sys

import checkpoint
import pretrained
from bpe import EOT
from chat_template import JINJA, has_chat_tokens, stop_tokens
from configurator import choice, configure, optional
from runtime import hardware
from runtime.errors import BadInput, one_line_errors
from runtime.files import atomic_write, write_json

DEFAULTS = {
    'out_dir': 'out',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead of out_dir: a checkpoint file (also nanoGPT's), a folder, or gpt2[-medium|-large|-xl]
    'to': optional(str),  # the folder to write
    'dtype': choice('float32', 'bfloat16', 'float16'),  # of the weights
}


def main(config):
    if not config['to']:
        raise BadInput('--to=DIR names the folder to write')
    if os.path.isfile(config['to']):
        raise BadInput(f'--to={config["to"]} is a file; it should be a folder, new or to be written over')
    if os.path.isdir(config['to']) and checkpoint.list_checkpoints(config['to']):
        raise BadInput(f'--to={config["to"]} is the folder of a run; name another one')
    model, tokenizer, source = pretrained.load(config['init_from'] or config['out_dir'], strict=True)
    export(model, tokenizer, config['to'], hardware.DTYPES[config['dtype']])
    print(f'{source}: {model.n_params():,} parameters -> {config["to"]}', file=sys.stderr)
    print(f"try it (it needs transformers): python -c \"from transformers import pipeline; "
          f"print(pipeline('text-generation', {config['to']!r})('The')[0]['generated_text'])\"", file=sys.stderr)


def export(model, tokenizer, folder, dtype=None):
    """Writes everything that a program needs to load and run the model; each file is written atomically."""
    if model.config.n_layer == 0:
        raise BadInput('a model without layers has no counterpart in transformers, whose GPT-2 adds positions')
    pretrained.save(model, folder, eot=tokenizer.eot, dtype=dtype, strict=True)
    tokenizer.save(os.path.join(folder, 'tokenizer.json'))
    write_json(os.path.join(folder, 'tokenizer_config.json'), {
        'tokenizer_class': 'PreTrainedTokenizerFast', 'model_max_length': model.config.block_size,
        'bos_token': EOT, 'eos_token': EOT, 'pad_token': EOT,
        'clean_up_tokenization_spaces': False,  # older versions of transformers take spaces away otherwise
    })
    write_json(os.path.join(folder, 'generation_config.json'), {
        'bos_token_id': tokenizer.eot, 'pad_token_id': tokenizer.eot,
        'eos_token_id': list(stop_tokens(tokenizer)) if has_chat_tokens(tokenizer) else tokenizer.eot})
    if has_chat_tokens(tokenizer):
        with atomic_write(os.path.join(folder, 'chat_template.jinja')) as file:
            file.write(JINJA.encode())


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
