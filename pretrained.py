"""Weights in and out: Hugging Face's layout, checkpoints of train.py, checkpoints of nanoGPT.

    model, tokenizer, source = pretrained.load('gpt2')             # OpenAI's weights, fetched from the hub on first use
    model, tokenizer, source = pretrained.load('out/demo')         # the newest checkpoint of a run
    model = pretrained.load_huggingface('FOLDER', dropout=0.1)     # config.json and model.safetensors
    pretrained.save(model, 'FOLDER', eot=tokenizer.eot)            # the same, as transformers.GPT2LMHeadModel reads it

Nothing of a file is ever executed: safetensors holds tensors alone, and checkpoints are read with weights_only=True.
All functions raise BadInput that names the file and what is wrong with it. Knows nothing about training.
"""
import contextlib
import hashlib
import math
import os

import torch
import torch.nn as nn

import architecture
import checkpoint
from bpe import Tokenizer
from configurator import shown
from model import GPT, GPTConfig
from runtime import hub
from runtime.errors import BadInput, first_line, warn
from runtime.files import atomic_write, make_folder, open_to_read, read_json, write_json

PUBLISHED_SIZES = {  # (n_layer, n_head, n_embd), from table 2 of the paper; block_size 1024 and 50,257 tokens for all
    'gpt2': (12, 12, 768), 'gpt2-medium': (24, 16, 1024), 'gpt2-large': (36, 20, 1280), 'gpt2-xl': (48, 25, 1600)}
FLOATS = torch.float16, torch.bfloat16, torch.float32, torch.float64
MAX_SIZE, MAX_LAYERS = 1 << 24, 10_000  # of a model: more is a mistake, which would take hours to fail
MAX_PADDING = 1024  # rows that other programs add to an embedding for the sake of the hardware
CHOSEN_BY_RUN = 'dropout', 'kernels', 'attention'  # fields of GPTConfig that go with any weights
NANOGPT_FIELDS = ('block_size', 'vocab_size', 'n_layer', 'n_head', 'n_embd', 'bias')


def load(path: str, *, strict: bool = False, **overrides) -> tuple[GPT, Tokenizer, str]:
    """(model, tokenizer, source) of a run's folder, a checkpoint file, a folder in Hugging Face's layout or a GPT-2 name.

    A checkpoint is train.py's, or nanoGPT's, whose files hold `model_args`. Embedding rows beyond the tokenizer's
    vocabulary are padding and are dropped. overrides: fields of GPTConfig that hold no weights. source: what was loaded.
    strict: refuse weights that were trained with another architecture than model.py has now, instead of warning.
    """
    if is_huggingface(path):
        model, tokenizer = load_huggingface(path, strict=strict, **overrides), load_tokenizer(path)
    elif os.path.exists(path) and not os.path.isdir(path) and 'model_args' in (state := checkpoint.read_archive(path)):
        model, tokenizer = from_nanogpt(state, path, overrides, strict), load_tokenizer(os.path.dirname(path))
    elif os.path.isdir(path) and not checkpoint.list_checkpoints(path):
        raise BadInput(f'{path} has no checkpoint such as ckpt_0001000.pt, and no config.json{checkpoint.runs_near(path)}')
    else:
        path, state = checkpoint.find(path)
        config = {**state['config'], 'kernels': 'torch', **overrides}
        model = make_model(config, state['model'], path, state['architecture'], strict)
        tokenizer = load_tokenizer(os.path.dirname(path))
    return fit_vocabulary(model, tokenizer, path), tokenizer, path


def load_to_train(config: dict, tokenizer: Tokenizer) -> GPT:
    """The model that init_from names, with this run's block_size. Raises BadInput if it does not fit the data.

    config: of the run; tokenizer: of its data, which may have special tokens that the weights have no rows for yet.
    """
    model, own, source = load(config['init_from'], **{key: config[key] for key in CHOSEN_BY_RUN})
    if not tokenizer.extends(own):
        raise BadInput(f'{config["data_dir"]} was made with another tokenizer than {source}; make data with its own: python '
                       f'corpus.py --source=TEXTS --tokenizer={tokenizer_file(source) or "gpt2"} --out_dir=ANOTHER_FOLDER')
    if config['block_size'] > model.config.block_size:
        raise BadInput(f'block_size={config["block_size"]} is more than the {model.config.block_size} of {source}; '
                       f'leave it out, or --block_size={model.config.block_size} or less')
    crop_block_size(model, config['block_size'])
    resize_vocabulary(model, tokenizer.vocab_size)
    return model


def block_size_of(path: str) -> int:
    """The longest context of what `load` reads from there, without reading its weights into memory."""
    if is_huggingface(path):
        folder = path if os.path.isdir(path) else download(path)
        return read_config(os.path.join(folder, 'config.json'), {})['block_size']
    state = checkpoint.read_archive(path, mapped=True) if os.path.isfile(path) else checkpoint.find(path)[1]
    config = state.get('model_args', state.get('config'))
    block_size = config.get('block_size') if isinstance(config, dict) else None
    if type(block_size) is not int:
        raise BadInput(f'{path} is no checkpoint of a GPT: it does not say its block_size')
    return block_size


def is_huggingface(path):
    """Whether a path is a folder in Hugging Face's layout, or the name of a published model."""
    if os.path.isdir(path):
        return os.path.exists(os.path.join(path, 'config.json'))
    return not os.path.exists(path) and path.startswith('gpt2') and os.sep not in path and not path.endswith('.pt')


def model_config(config: dict) -> GPTConfig:
    """GPTConfig from a config dict, which may have other keys too. Raises BadInput.

    kernels=auto means plain PyTorch here; train.py, which knows the device, has chosen before (kernels.choose).
    """
    fields = {key: config[key] for key in GPTConfig.__dataclass_fields__ if key in config}
    if fields.get('kernels') == 'auto':
        fields['kernels'] = 'torch'
    for key, value in fields.items():
        kind = type(getattr(GPTConfig, key))
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise BadInput(f'{key} is {shown(value)}, but should be {"a whole number" if kind is int else kind.__name__}')
        largest = MAX_LAYERS if key == 'n_layer' else MAX_SIZE
        if kind is int and value > largest:
            raise BadInput(f'{key}={shown(value)} should be at most {largest}')
    try:
        return GPTConfig(**fields)
    except ValueError as error:
        raise BadInput(str(error)) from None


def load_tokenizer(folder):
    """The tokenizer beside a model: tokenizer.json, or GPT-2's where there is none."""
    path = os.path.join(folder, 'tokenizer.json')
    return Tokenizer.load(path) if os.path.exists(path) else Tokenizer.gpt2()


def tokenizer_file(path):
    """The tokenizer.json beside a model, or None, which stands for GPT-2's."""
    file = os.path.join(path if os.path.isdir(path) else os.path.dirname(path), 'tokenizer.json')
    return file if os.path.exists(file) else None


def from_nanogpt(state, path, overrides, strict):
    """The GPT of a checkpoint of nanoGPT. Its linear layers are stored as ours; names may have torch.compile's prefix."""
    arguments, weights = state['model_args'], state.get('model')
    if not isinstance(arguments, dict) or not isinstance(weights, dict):
        raise BadInput(f'{path} is not a checkpoint of nanoGPT, which has tensors in `model` and sizes in `model_args`')
    for key in NANOGPT_FIELDS[:-1]:
        if type(arguments.get(key)) is not int:
            raise BadInput(f'{path}: its model_args have no whole number for {key}')
    weights = {str(name).removeprefix('_orig_mod.'): tensor for name, tensor in weights.items()}
    config = {**{key: arguments[key] for key in NANOGPT_FIELDS if key in arguments}, **overrides}
    return make_model(config, weights, path, strict=strict)


def make_model(config, state, source, trained_as=architecture.GPT2, strict=False):
    """The GPT of a config dict with the tensors of a state dict. Takes no memory before everything has been checked.

    Leaves out what is no weight of its own: the head, which is the embedding, and the masks of attention. Raises BadInput
    naming what does not fit, or is no number. trained_as: the fingerprint of the architecture that the weights are of.
    """
    state = {name: tensor for name, tensor in state.items()
             if name != 'lm_head.weight' and not str(name).endswith(('.attn.bias', '.attn.masked_bias'))}
    try:
        config = model_config(config)
    except BadInput as error:
        raise BadInput(f'{source}: {error}') from None
    if config.n_layer > len(state):
        raise BadInput(f'{source} lacks the tensors of {config.n_layer} layers; it has {len(state)} tensors in all')
    check_architecture(config, source, trained_as, strict)
    with torch.device('meta'):
        model = GPT(config)
    check_weights(model, state, source)
    # A table that the constructor computes, such as one of rotary positions, is in no file. Random weights take time.
    model = GPT(config) if list(model.buffers()) else model.to_empty(device='cpu')
    model.load_state_dict(state)
    check_finite(model, source)
    return model


def check_architecture(config, source, trained_as, strict):
    """Warns, or raises BadInput if strict, where model.py has another architecture than the weights were trained with."""
    if not architecture.same(architecture.fingerprint(config), trained_as):
        before = "GPT-2's" if architecture.same(trained_as, architecture.GPT2) else 'another'
        problem = f'{source} was trained with {before} architecture, and model.py has been changed since'
        if strict:
            raise BadInput(f'{problem}; restore model.py, or train anew')
        warn(f'{problem}: its weights give other results here than they did there')


def check_weights(model, state, source):
    """Raises BadInput unless a state dict has the model's names, and tensors of numbers in its shapes."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(wanted.keys() | state.keys(), key=str):
        if name not in state:
            raise BadInput(f'{source} lacks the tensor {name}')
        if name not in wanted:
            raise BadInput(f'{source} has a tensor {name} that a model of its config does not have')
        if not isinstance(state[name], torch.Tensor) or tuple(state[name].shape) != wanted[name]:
            raise BadInput(f'{source}: {name} has shape {tuple(getattr(state[name], "shape", ()))}, but a model of its config '
                           f'has {wanted[name]}')
        if state[name].dtype not in FLOATS:
            raise BadInput(f'{source}: {name} holds {str(state[name].dtype).removeprefix("torch.")}, which no weights are')
    needed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if needed > sum({storage.data_ptr(): storage.nbytes() for tensor in state.values()
                     if (storage := tensor.untyped_storage())}.values()):
        raise BadInput(f'{source} has tensors that share their numbers, as no model of its config does')


@torch.no_grad()
def check_finite(model, source):
    """Raises BadInput if a weight is NaN or infinite."""
    for name, tensor in model.state_dict().items():
        if not all(map(math.isfinite, map(float, tensor.aminmax()))):
            raise BadInput(f'{source}: {name} has values that are NaN or infinite; take an earlier checkpoint')


def fit_vocabulary(model, tokenizer, path):
    """Drops padding rows. Raises BadInput if the model does not belong to this tokenizer."""
    rows, tokens = model.config.vocab_size, tokenizer.vocab_size
    if tokens > rows or rows >= tokens + MAX_PADDING:
        raise BadInput(f'{path} has a vocabulary of {rows} tokens, but its tokenizer has {tokens}; put the tokenizer.json it '
                       f'was trained with beside it')
    resize_vocabulary(model, tokens)
    return model


def sha256_of_weights(model: GPT) -> str:
    """What tells the weights of one model from another's."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def resize_vocabulary(model, vocab_size):
    """Drops embedding rows behind vocab_size, or adds some, each the mean of those that were trained.

    So a new token has about the probability of an average one at first (Hewitt 2021, "Initializing New Word Embeddings for
    Pretrained Language Models").
    """
    trained = model.transformer.wte.weight[:model.config.vocab_size].detach()
    if vocab_size == len(trained):
        return
    model.config.vocab_size = vocab_size
    weight = torch.zeros(model.config.padded_vocab_size, model.config.n_embd)
    weight[:vocab_size] = trained.mean(dim=0)
    weight[:len(trained)][:vocab_size] = trained[:vocab_size]
    model.transformer.wte = nn.Embedding.from_pretrained(weight, freeze=False)


def crop_block_size(model, block_size):
    """Drops position embeddings beyond block_size, for training and generation with a shorter context."""
    model.config.block_size = block_size
    model.transformer.wpe.weight = nn.Parameter(model.transformer.wpe.weight[:block_size].detach().clone())
    model.transformer.wpe.num_embeddings = block_size


# ---------------------------------------------------------------------------- Hugging Face's layout

def load_huggingface(path: str, *, strict: bool = False, **overrides) -> GPT:
    """The model of a folder with config.json and model.safetensors, or a published one by its name ('gpt2', 'gpt2-xl', ...).

    Files are mapped into memory, so that the weights are in memory once. strict: as in `load`.
    """
    folder = path if os.path.isdir(path) else download(path)
    return make_model(read_config(os.path.join(folder, 'config.json'), overrides), read_weights(folder), folder, strict=strict)


def download(name):
    """The folder of a published model, fetched from the hub on first use."""
    if name not in PUBLISHED_SIZES:
        raise BadInput(f'no folder {name!r}, and no published GPT-2 of that name; there are {", ".join(PUBLISHED_SIZES)}')
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    repository, patterns = f'openai-community/{name}', ['config.json', 'model*.safetensors', 'model.safetensors.index.json']
    with contextlib.suppress(LocalEntryNotFoundError):
        folder = snapshot_download(repository, allow_patterns=patterns, local_files_only=True)
        if all(map(os.path.exists, [os.path.join(folder, 'config.json'), *weight_files(folder)])):
            return folder
    folder, _ = hub.download(repository, patterns, wrong='{name} could not be fetched from the hub: {what}. A folder with '
                             'config.json and model.safetensors can be named instead')
    return folder


def read_config(path, overrides):
    """What Hugging Face's config.json says, for `model_config`. Refuses variants of GPT-2 that this model does not compute."""
    config = read_json(path, advice='a folder saved by transformers or export.py has one')
    for key in ('n_positions', 'vocab_size', 'n_layer', 'n_head', 'n_embd'):
        if type(config.get(key)) is not int:
            raise BadInput(f'{path}: {key} is {shown(config[key])}, but should be a whole number' if key in config else
                           f"{path} has no {key}, as a GPT-2's has")
    sizes = {'block_size': config['n_positions'], **{key: config[key] for key in ('vocab_size', 'n_layer', 'n_head', 'n_embd')}}
    expected = {'model_type': 'gpt2', 'activation_function': 'gelu_new', 'layer_norm_epsilon': 1e-5,
                'scale_attn_weights': True, 'scale_attn_by_inverse_layer_idx': False, 'tie_word_embeddings': True}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise BadInput(f'{path}: {key} is {shown(config[key])}, but GPT-2 has {value!r}')
    if config.get('n_inner') not in (None, 4 * sizes['n_embd']):
        raise BadInput(f'{path}: n_inner is {shown(config["n_inner"])}, but GPT-2 has 4 times n_embd')
    return {**sizes, 'bias': True, **overrides}


def read_weights(folder):
    """{our name: tensor} of the safetensors in a folder, one file or several."""
    from safetensors import SafetensorError, safe_open
    state = {}
    for path in weight_files(folder):
        if not os.path.exists(path):
            raise BadInput(f'{folder} has no {os.path.basename(path)}')
        try:
            open_to_read(path).close()  # a pipe in its place would be waited for
            with safe_open(path, framework='pt') as file:
                for key in file.keys():
                    name = key if key.startswith(('transformer.', 'lm_head.')) else 'transformer.' + key
                    tensor = file.get_tensor(key)  # a view of the file, not read yet
                    state[name] = tensor.t() if is_transposed(name) and tensor.dim() == 2 else tensor
        except (SafetensorError, OSError) as error:
            raise BadInput(f'{path} cannot be read: {first_line(error)}') from None
    return state


def weight_files(folder):
    """Paths of a folder's safetensors: one file, or those that its index names."""
    single = os.path.join(folder, 'model.safetensors')
    index = single + '.index.json'
    if os.path.exists(single) or not os.path.exists(index):
        return [single]
    names = read_json(index, advice='it names the files of weights beside it').get('weight_map')
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise BadInput(f'{index} is not an index of safetensors: it has no weight_map of file names')
    return [os.path.join(folder, os.path.basename(name)) for name in sorted(set(names.values()))]


def is_transposed(name):
    """Whether Hugging Face's GPT-2 stores this matrix as (in, out), where a linear layer has (out, in)."""
    return name.endswith(('c_attn.weight', 'c_proj.weight', 'c_fc.weight'))


def why_not_gpt2(config: GPTConfig) -> str | None:
    """None if model.py computes GPT-2 with this config, or what is other, in words: a setting of it, or model.py itself."""
    if architecture.is_gpt2(config):
        return None
    known = {*checkpoint.FIXED_BY_WEIGHTS, *CHOSEN_BY_RUN}
    chosen = ' and '.join(f'{key}={value}' for key, value in vars(config).items()
                          if key not in known and value != getattr(GPTConfig, key))
    return f'with {chosen}, model.py does not compute GPT-2' if chosen else 'model.py does not compute GPT-2 any more'


def save(model: GPT, folder: str, eot: int | None = None, dtype: torch.dtype | None = None, *, strict: bool = False):
    """Writes config.json and model.safetensors as transformers.GPT2LMHeadModel reads them.

    eot: id of the token that ends a document, for transformers to start and stop at. dtype: of the weights in the file.
    Warns, or raises BadInput if strict, where model.py does not compute GPT-2: transformers computes that with these files.
    """
    if problem := why_not_gpt2(model.config):
        if strict:
            raise BadInput(f'{problem}, and this format has no words for what it computes; sample.py, serve.py and evaluate.py '
                           'run the changed model from its checkpoint')
        warn(f'{problem}, but transformers will compute GPT-2 with {folder}')
    from safetensors.torch import save_file
    make_folder(folder)
    tensors = {}
    for name, tensor in model.state_dict().items():
        tensor = (tensor.t() if is_transposed(name) else tensor).to('cpu', dtype)
        tensors[name] = tensor.contiguous()
        if not model.config.bias and name.endswith('.weight') and not name.endswith(('wte.weight', 'wpe.weight')):
            tensors[name.replace('.weight', '.bias')] = torch.zeros(tensor.size(-1), dtype=tensor.dtype)
    with atomic_write(os.path.join(folder, 'model.safetensors')) as file:
        save_file(tensors, file.name, metadata={'format': 'pt'})
        with open(file.name, 'rb') as written:  # save_file makes a new file, which only its owner could read
            os.chmod(file.name, os.fstat(file.fileno()).st_mode & 0o777)
            os.fsync(written.fileno())
    c = model.config
    write_json(os.path.join(folder, 'config.json'), {
        'model_type': 'gpt2', 'architectures': ['GPT2LMHeadModel'], 'activation_function': 'gelu_new',
        'n_positions': c.block_size, 'n_ctx': c.block_size, 'vocab_size': c.vocab_size,
        'n_layer': c.n_layer, 'n_head': c.n_head, 'n_embd': c.n_embd,
        'layer_norm_epsilon': 1e-5, 'initializer_range': 0.02,
        'embd_pdrop': c.dropout, 'attn_pdrop': c.dropout, 'resid_pdrop': c.dropout,
        'bos_token_id': eot, 'eos_token_id': eot, 'tie_word_embeddings': True,
        'torch_dtype': str(tensors['transformer.wte.weight'].dtype).removeprefix('torch.'),
    })
