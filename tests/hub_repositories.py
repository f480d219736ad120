"""The repositories of the Hugging Face hub that our scripts know, with their real layout and columns, and little in them.

Each function returns {path: bytes} for Hub.commit; `commit_all` makes all of them.
"""
import io
import itertools
import json
import random

import numpy as np
import pyarrow
import pyarrow.parquet
import safetensors.torch
import torch

import shards
from tasks.word_problems import generate_problems

WORDS = 'the quick brown fox jumps over a lazy dog while its old friend reads about rivers , wars and music .'.split()
GPT2 = {'vocab_size': 50257, 'n_positions': 1024, 'n_ctx': 1024, 'n_embd': 16, 'n_layer': 2, 'n_head': 2}


def sentences(n, seed=0, words=(3, 60)):
    rng = random.Random(seed)
    return [' '.join(rng.choices(WORDS, k=rng.randint(*words))).capitalize() for _ in range(n)]


def parquet(rows, row_group_size=50):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=row_group_size)
    return file.getvalue()


def card(configs=None, text=''):
    """A README.md that says which files belong to which split: {configuration: {split: pattern}}."""
    lines = ['---', 'license: odc-by']
    if configs:
        lines.append('configs:')
    for name, splits in (configs or {}).items():
        lines += [f'- config_name: {name}', '  data_files:']
        for split, pattern in splits.items():
            lines += [f'  - split: {split}', f'    path: {pattern}']
    return '\n'.join([*lines, '---', text, '']).encode()


def fineweb(n_files=12, n_rows=120, seed=0):
    """FineWeb and FineWeb-Edu: all of it by crawls, and samples."""
    files = {'README.md': card({'default': {'train': 'data/*/*'}, 'CC-MAIN-2013-20': {'train': 'data/CC-MAIN-2013-20/*'},
                                'sample-10BT': {'train': 'sample/10BT/*'}, 'sample-100BT': {'train': 'sample/100BT/*'}}),
             '.gitattributes': b'*.parquet filter=lfs'}
    places = {f'sample/10BT/{i:03d}_00000.parquet': i for i in range(n_files)}
    places |= {'sample/100BT/000_00000.parquet': 100, 'data/CC-MAIN-2013-20/train-00000-of-00001.parquet': 200,
               'data/CC-MAIN-2024-10/train-00000-of-00001.parquet': 201}
    for path, number in places.items():
        files[path] = parquet([{
            'text': text, 'id': f'<urn:uuid:{number}-{i}>', 'dump': 'CC-MAIN-2013-20', 'url': f'http://example.org/{i}',
            'file_path': 's3://commoncrawl/warc.gz', 'language': 'en', 'language_score': 0.98, 'token_count': len(text.split()),
            'score': 3.1, 'int_score': 3} for i, text in enumerate(sentences(n_rows, f'{seed} {number}', (50, 400)))])
    return files


def wikitext():
    """Four configurations; each line of text is a row, and an empty one where it is blank."""
    splits = 'test', 'train', 'validation'
    names = [f'wikitext-{size}-{kind}v1' for size in ('103', '2') for kind in ('raw-', '')]
    files = {'README.md': card({name: {split: f'{name}/{split}-*' for split in splits} for name in names})}
    for name in names:
        for split in splits:
            lines = ['']
            for number, text in enumerate(sentences(40 if split == 'train' else 6, f'{name} {split}')):
                lines += [f' = Article {number} = \n', '', f' {text} \n', f' {text.lower()} <unk> \n', '']
            n_files = 2 if split == 'train' and '103' in name else 1
            for i in range(n_files):
                part = lines[i * len(lines) // n_files:(i + 1) * len(lines) // n_files]
                files[f'{name}/{split}-{i:05d}-of-{n_files:05d}.parquet'] = parquet([{'text': line} for line in part])
    return files


def hellaswag():
    files = {'README.md': card(text='HellaSwag')}
    for split, n in (('train', 20), ('validation', 12), ('test', 5)):
        files[f'data/{split}-00000-of-00001.parquet'] = parquet([{
            'ind': i, 'activity_label': 'Removing ice from car', 'ctx_a': text, 'ctx_b': 'then the man', 'ctx': f'{text} then the man',
            'endings': sentences(4, i, (3, 9)), 'source_id': 'activitynet~v_1', 'split': split, 'split_type': 'indomain',
            'label': '' if split == 'test' else str(i % 4)} for i, text in enumerate(sentences(n, split, (5, 20)))])
    return files


def converted(config, split, rows):
    """The hub's own copy of a dataset that is published as a program."""
    return {'README.md': card(), f'{config}/{split}/0000.parquet': parquet(rows)}


def tasks():
    """{name: files} of the other datasets that evaluate.py has tasks of."""
    lines, labels = sentences(12, 'tasks', (5, 20)), [0, 1, 1, 0] * 3

    def school(**fields):
        return [{'id': str(i), **dict.fromkeys(fields, line), 'answerKey': 'ABC'[i % 3], 'choices': {
            'text': sentences(3, i, (2, 5)), 'label': ['A', 'B', 'C']}} for i, line in enumerate(lines)]

    def in_splits(configs):
        """{config or '': rows}, the same ones in each split."""
        splits = {name or 'default': {split: f'{name or "data"}/{split}-*' for split in ('train', 'validation', 'test')} for name in configs}
        return {'README.md': card(splits), **{f'{name or "data"}/{split}-00000-of-00001.parquet': parquet(rows)
                                              for name, rows in configs.items() for split in ('train', 'validation', 'test')}}

    made = {
        'baber/piqa': {'': [{'goal': line, 'sol1': line[:20], 'sol2': line[5:25], 'label': label} for line, label in zip(lines, labels)]},
        'lighteval/siqa': {'': [{'context': line, 'question': 'Why?', 'answerA': 'a', 'answerB': 'b', 'answerC': 'c', 'label': str(label + 1)}
                                for line, label in zip(lines, labels)]},
        'allenai/winogrande': {'winogrande_xl': [{'sentence': f'{line} _ {line}', 'option1': 'Ann', 'option2': 'Bob', 'answer': str(label + 1)}
                                                 for line, label in zip(lines, labels)]},
        'allenai/ai2_arc': {'ARC-Easy': school(question=1), 'ARC-Challenge': school(question=1)},
        'allenai/openbookqa': {'main': school(question_stem=1)},
        'aps/super_glue': {
            'boolq': [{'question': line, 'passage': line, 'idx': i, 'label': label} for i, (line, label) in enumerate(zip(lines, labels))],
            'copa': [{'premise': line, 'choice1': 'It was.', 'choice2': 'It is.', 'question': ('cause', 'effect')[label], 'idx': i, 'label': label}
                     for i, (line, label) in enumerate(zip(lines, labels))]},
        'EleutherAI/lambada_openai': {'default': [{'text': line} for line in lines]},
        'cimec/lambada': {'': [{'text': line.lower(), 'domain': 'Romance'} for line in lines]},
        'afmck/text8': {'': [{'text': 'the quick brown fox'}]},
        'cam-cst/cbt': {kind: [{'sentences': lines, 'question': 'The XXXXX ran .', 'answer': 'dog', 'options': ['dog', 'cat']}] * 3
                        for kind in ('CN', 'NE')},
    }
    return {**{name: in_splits(configs) for name, configs in made.items()},
            'ptb-text-only/ptb_text_only': converted('penn_treebank', 'test', [{'sentence': line.lower()} for line in lines]),
            'billion-word-benchmark/lm1b': converted('plain_text', 'test', [{'text': line} for line in lines]),
            'LTCB/enwik8': converted('enwik8', 'train', [{'text': line} for line in lines])}


def gsm8k():
    files = {'README.md': card({name: {split: f'{name}/{split}-*' for split in ('train', 'test')} for name in ('main', 'socratic')})}
    for name in ('main', 'socratic'):
        for split, n in (('train', 60), ('test', 20)):
            problems = itertools.islice(generate_problems(split, 0), n)
            files[f'{name}/{split}-00000-of-00001.parquet'] = parquet([
                {'question': problem['question'], 'answer': problem['answer']} for problem in problems])
    return files


def smoltalk():
    """Conversations as lists of messages."""
    files = {'README.md': card(text='smol-smoltalk')}
    for split, n in (('train', 40), ('test', 5)):
        files[f'data/{split}-00000-of-00001.parquet'] = parquet([{
            'messages': [{'content': text, 'role': 'user'}, {'content': text[::-1], 'role': 'assistant'}], 'source': 'smol-magpie'}
            for text in sentences(n, f'smoltalk {split}')])
    return files


def tinystories():
    """No configurations: which files belong to a split, their names say. Beside them lie text files."""
    files = {'README.md': card(text='TinyStories'), 'TinyStories-train.txt': b'Once upon a time\n', 'TinyStoriesV2-GPT4-valid.txt': b''}
    for i in range(4):
        files[f'data/train-{i:05d}-of-00004-2d5a1467fff1081b.parquet'] = parquet([{'text': text} for text in sentences(50, i)])
    files['data/validation-00000-of-00001-869c898b519ad725.parquet'] = parquet([{'text': text} for text in sentences(10, 'val')])
    return files


def synth():
    """Files at the root, which all are train."""
    return {'README.md': card(text='SYNTH'), **{f'synth_{i:03d}.parquet': parquet([{
        'synth_id': f'{i} {j}', 'language': 'en', 'exercise': 'memorization', 'model': 'qwen', 'query': f'What is {j}?',
        'query_seed_url': '', 'synthetic_reasoning': text, 'synthetic_answer': text[:20], 'constraints': '', 'words': 10}
        for j, text in enumerate(sentences(40, i))]) for i in (1, 2)}}


def shards_of_fineweb(folder, n_train=4):
    """Shards of GPT-2's tokens in llm.c's format; `folder` is where they are made."""
    rng = np.random.default_rng(0)
    shards.write_shards([np.array([50256, *rng.integers(0, 50256, 3999)], dtype=np.uint16)] * n_train, folder, 'fineweb', 'train', 4000)
    shards.write_shards([np.array([50256, *rng.integers(0, 50256, 999)], dtype=np.uint16)], folder, 'fineweb', 'val', 4000, first=0)
    return {'README.md': b'', **{path.name: path.read_bytes() for path in folder.glob('*.bin')}}


def gpt2(sharded=False, seed=0, **changes):
    """OpenAI's GPT-2 as Hugging Face stores it: (in, out) matrices, masks among the tensors, no prefix before the names."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    c = GPT2['n_embd']
    shapes = {'attn.c_attn': (c, 3 * c), 'attn.c_proj': (c, c), 'mlp.c_fc': (c, 4 * c), 'mlp.c_proj': (4 * c, c)}
    names = [f'h.{i}.{name}' for i in range(GPT2['n_layer']) for name in ('ln_1', 'ln_2', *shapes)] + ['ln_f']
    for name in names:
        shape = shapes.get(name.split('.', 2)[-1], (c,))
        tensors[f'{name}.weight'] = torch.randn(shape, generator=generator) * 0.3 + (1 if len(shape) == 1 else 0)
        tensors[f'{name}.bias'] = torch.randn(shape[-1], generator=generator) * 0.1
    for i in range(GPT2['n_layer']):
        tensors[f'h.{i}.attn.bias'] = torch.ones(1, 1, 1024, 1024).tril()
    tensors['wte.weight'] = torch.randn(GPT2['vocab_size'], c, generator=generator) * 0.3
    tensors['wpe.weight'] = torch.randn(GPT2['n_positions'], c, generator=generator) * 0.1
    config = {'activation_function': 'gelu_new', 'architectures': ['GPT2LMHeadModel'], 'attn_pdrop': 0.1, 'bos_token_id': 50256,
              'embd_pdrop': 0.1, 'eos_token_id': 50256, 'initializer_range': 0.02, 'layer_norm_epsilon': 1e-05, 'model_type': 'gpt2',
              'resid_pdrop': 0.1, 'task_specific_params': {'text-generation': {'do_sample': True, 'max_length': 50}}, **GPT2, **changes}
    files = {'README.md': card(text='GPT-2'), 'config.json': json.dumps(config).encode(), 'pytorch_model.bin': b'a pickle',
             'flax_model.msgpack': b'x', 'onnx/decoder_model.safetensors': b'no weights', 'generation_config.json': b'{}'}
    if not sharded:
        return {**files, 'model.safetensors': safetensors.torch.save(tensors, {'format': 'pt'})}
    parts = {f'model-0000{i + 1}-of-00002.safetensors': dict(list(tensors.items())[i::2]) for i in range(2)}
    index = {'metadata': {}, 'weight_map': {name: path for path, part in parts.items() for name in part}}
    return {**files, 'model.safetensors.index.json': json.dumps(index).encode(),
            **{path: safetensors.torch.save(part, {'format': 'pt'}) for path, part in parts.items()}}


def commit_all(hub, folder):
    """folder: an empty one to work in."""
    for name in ('fineweb-edu', 'fineweb'):
        hub.commit(f'datasets/HuggingFaceFW/{name}', fineweb(seed=name))
    for name in ('gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl'):
        hub.commit(f'models/openai-community/{name}', gpt2(sharded=name == 'gpt2-xl'))
    for name, files in (('Salesforce/wikitext', wikitext()), ('Rowan/hellaswag', hellaswag()), ('openai/gsm8k', gsm8k()),
                        ('HuggingFaceTB/smol-smoltalk', smoltalk()),
                        ('roneneldan/TinyStories', tinystories()), ('PleIAs/SYNTH', synth()),
                        ('kjj0/fineweb10B-gpt2', shards_of_fineweb(folder)), *tasks().items()):
        hub.commit(f'datasets/{name}', files)
