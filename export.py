"""A checkpoint -> a folder in Hugging Face's layout for transformers, vLLM and CTranslate2, or a GGUF file for llama.cpp.

    python export.py --out_dir=out/demo --to=exported                   # the newest checkpoint of a run
    python export.py --init_from=out/demo/ckpt_0000800.pt --to=exported --dtype=bfloat16
    python export.py --out_dir=out/demo --format=gguf --to=demo.gguf --dtype=q8_0

    from transformers import pipeline                                   # pip install transformers
    pipeline('text-generation', 'exported')('def parse', do_sample=False)

The folder has model.safetensors and config.json (pretrained.py), tokenizer.json (bpe.py), tokenizer_config.json,
generation_config.json, and for a model that was trained on conversations chat_template.jinja (chat_template.py). The file has
all of that in it (gguf_file.py).
"""
import os
import sys

import checkpoint
import gguf_file
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
    'to': optional(str),  # the folder or file to write
    'format': choice('huggingface', 'gguf'),  # a folder, or a file for llama.cpp
    'dtype': choice('float32', 'bfloat16', 'float16', 'q8_0'),  # of the weights; q8_0, in gguf alone: 8 bits
}


def main(config):
    in_one_file = config['format'] == 'gguf'
    if not config['to']:
        raise BadInput('--to=NAME.gguf names the file to write' if in_one_file else '--to=DIR names the folder to write')
    if config['dtype'] == 'q8_0' and not in_one_file:
        raise BadInput('dtype=q8_0 is for --format=gguf; a folder takes float32, bfloat16 or float16')
    if in_one_file and os.path.isdir(config['to']):
        raise BadInput(f'--to={config["to"]} is a folder; name the file to write, such as {config["to"]}/model.gguf')
    if config['to'].endswith('.gguf') and not in_one_file:
        raise BadInput(f'--to={config["to"]} is the name of a GGUF file; add --format=gguf, or name a folder')
    if os.path.isfile(config['to']) and not in_one_file:
        raise BadInput(f'--to={config["to"]} is a file; it should be a folder, new or to be written over')
    if os.path.isdir(config['to']) and checkpoint.list_checkpoints(config['to']):
        raise BadInput(f'--to={config["to"]} is the folder of a run; name another one')
    files = os.listdir(config['to']) if os.path.isdir(config['to']) else []
    if files and 'config.json' not in files:
        raise BadInput(f'--to={config["to"]} is a folder with other files; name a new one, or one that was exported before')
    model, tokenizer, source = pretrained.load(config['init_from'] or config['out_dir'], strict=True)
    if in_one_file:
        gguf_file.save(model, tokenizer, config['to'], config['dtype'])
    else:
        export(model, tokenizer, config['to'], hardware.DTYPES[config['dtype']])
    print(f'{source}: {model.n_params():,} parameters -> {config["to"]}', file=sys.stderr)
    print(how_to_try(config['to'], in_one_file, has_chat_tokens(tokenizer)), file=sys.stderr)


def how_to_try(path, in_one_file, is_chat):
    """A command that runs what was written."""
    if in_one_file:
        return f'try it (it needs llama.cpp): llama-cli -m {path} {"-cnv" if is_chat else "-no-cnv -p The"}'
    prompt, of_answer = ("[{'role': 'user', 'content': 'Hello!'}]", "[-1]['content']") if is_chat else ("'The'", '')
    return ('try it (it needs transformers): python -c "from transformers import pipeline; '
            f"print(pipeline('text-generation', {path!r})({prompt})[0]['generated_text']{of_answer})\"")


def export(model, tokenizer, folder, dtype=None):
    """Writes everything that a program needs to load and run the model; each file is written atomically."""
    if model.config.n_layer == 0:
        raise BadInput('a model without layers has no counterpart in transformers, whose GPT-2 adds positions')
    pretrained.save(model, folder, eot=tokenizer.eot, dtype=dtype, strict=True)
    tokenizer.save(os.path.join(folder, 'tokenizer.json'))
    write_json(os.path.join(folder, 'tokenizer_config.json'), {
        'tokenizer_class': 'PreTrainedTokenizerFast', 'model_max_length': model.config.block_size,
        'bos_token': EOT, 'eos_token': EOT, 'pad_token': EOT,
        'unk_token': EOT,  # no text has one, but CTranslate2 asks for it
        'clean_up_tokenization_spaces': False,  # older versions of transformers take spaces away otherwise
    })
    write_json(os.path.join(folder, 'generation_config.json'), {
        'bos_token_id': tokenizer.eot, 'pad_token_id': tokenizer.eot,
        'max_length': model.config.block_size,  # transformers' pipeline would write 256 tokens, whatever the context is
        'eos_token_id': list(stop_tokens(tokenizer)) if has_chat_tokens(tokenizer) else tokenizer.eot})
    if has_chat_tokens(tokenizer):
        with atomic_write(os.path.join(folder, 'chat_template.jinja')) as file:
            file.write(JINJA.encode())


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
