"""A model as one GGUF file, which llama.cpp runs as it is.

    gguf_file.save(model, tokenizer, 'model.gguf', dtype='q8_0')

The names are those of llama.cpp's GPT-2. Its tokenizer is told to cut words as GPT-2 does (`gpt-2`), which all tokenizers here
do. Norms, biases and positions are float32 always, and matrices in dtype. Needs `pip install gguf`.
"""
import importlib.util
import json

import pretrained
from chat_template import JINJA, has_chat_tokens, stop_tokens
from model import GPT
from runtime.errors import BadInput
from runtime.files import atomic_write

DTYPES = {'float32': 'F32', 'float16': 'F16', 'bfloat16': 'BF16', 'q8_0': 'Q8_0'}  # of matrices: ours, gguf's
BLOCK = 32  # numbers of a row that share a scale in q8_0
NAMES = {'ln_1': 'attn_norm', 'attn.c_attn': 'attn_qkv', 'attn.c_proj': 'attn_output', 'ln_2': 'ffn_norm', 'mlp.c_fc': 'ffn_up',
         'mlp.c_proj': 'ffn_down'}  # within a block: ours, llama.cpp's
NORMAL, CONTROL = 1, 3  # types of tokens


def save(model: GPT, tokenizer, path: str, dtype: str = 'float32'):
    """Writes the file. Raises BadInput if it cannot hold what the model computes."""
    if importlib.util.find_spec('gguf') is None:
        raise BadInput('format=gguf needs a package that is not installed: pip install gguf')
    if model.config.n_layer == 0:
        raise BadInput('a model without layers has no counterpart in llama.cpp, whose GPT-2 adds positions')
    if problem := pretrained.why_not_gpt2(model.config):
        raise BadInput(f'{problem}, and llama.cpp would; restore it to export')
    if dtype == 'q8_0' and model.config.n_embd % BLOCK:
        raise BadInput(f'dtype=q8_0 needs a width that is a multiple of {BLOCK}, but n_embd={model.config.n_embd}; '
                       '--dtype=float16 takes any')
    import gguf
    with atomic_write(path) as file:
        writer = gguf.GGUFWriter(file.name, 'gpt2')
        file_type = 'ALL_F32' if dtype == 'float32' else f'MOSTLY_{DTYPES[dtype]}'
        describe(writer, model.config, gguf.LlamaFileType[file_type])
        add_tokenizer(writer, tokenizer)
        kind = gguf.GGMLQuantizationType[DTYPES[dtype]]
        for name, tensor in tensors(model):
            is_matrix = tensor.dim() == 2 and name != 'position_embd.weight'
            array = tensor.float().numpy()
            if is_matrix and dtype != 'float32':
                writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
            else:
                writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def describe(writer, config, file_type):
    writer.add_file_type(file_type)
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(1e-5)


def add_tokenizer(writer, tokenizer):
    """The vocabulary in the form of a Hugging Face tokenizer.json, in which bytes are printable characters."""
    data = json.loads(tokenizer.to_json())
    words = {number: word for word, number in data['model']['vocab'].items()}
    words |= {token['id']: token['content'] for token in data['added_tokens']}
    special = {token['id'] for token in data['added_tokens']}
    writer.add_tokenizer_model('gpt2')
    writer.add_tokenizer_pre('gpt-2')
    writer.add_token_list([words[number] for number in range(tokenizer.vocab_size)])
    writer.add_token_types([CONTROL if number in special else NORMAL for number in range(tokenizer.vocab_size)])
    writer.add_token_merges([merge if isinstance(merge, str) else ' '.join(merge) for merge in data['model']['merges']])
    writer.add_bos_token_id(tokenizer.eot)
    writer.add_eos_token_id(tokenizer.eot)
    writer.add_add_bos_token(False)
    if has_chat_tokens(tokenizer):
        writer.add_chat_template(JINJA)
        writer.add_eot_token_id(stop_tokens(tokenizer)[0])


def tensors(model):
    """Yields (name, tensor) of all weights, and biases of 0 where the model has none. The head is the embedding."""
    state = model.state_dict()
    yield 'token_embd.weight', state['transformer.wte.weight'][:model.config.vocab_size]
    yield 'position_embd.weight', state['transformer.wpe.weight']
    layers = {f'transformer.h.{i}.{ours}': f'blk.{i}.{theirs}'
              for i in range(model.config.n_layer) for ours, theirs in NAMES.items()}
    for ours, theirs in {**layers, 'transformer.ln_f': 'output_norm'}.items():
        weight = state[f'{ours}.weight']
        yield f'{theirs}.weight', weight
        yield f'{theirs}.bias', state.get(f'{ours}.bias', weight.new_zeros(len(weight)))
