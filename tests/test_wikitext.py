import json
import math
import os
import pretrained
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from runtime import hardware
import shards
import wikitext
from bpe import Tokenizer
from runtime.errors import BadInput
from model import GPT, GPTConfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEFAULTS = {key: getattr(value, 'default', value) for key, value in wikitext.DEFAULTS.items()}


def text_of(first, n):
    """Articles as the raw files have them: headings between equals signs, blank lines that are a space."""
    return ''.join(f' \n = Article {i} = \n \n Some text = not a heading , number {i} . \n'
                   ' = 5 = is none . \n = = Section = = \n \n More @-@ text . \n' for i in range(first, first + n))


SPLITS = {'train': text_of(0, 40), 'valid': text_of(40, 5), 'test': text_of(45, 5)}


def write_folder(folder, name='{}.txt'):
    folder.mkdir(exist_ok=True)
    for split, text in SPLITS.items():
        (folder / name.format(split)).write_text(text)
    return str(folder)


def run(**changes):
    wikitext.main({**DEFAULTS, 'vocab_size': 257, 'workers': 2, **changes})


def documents_of(out_dir, split):
    tokenizer = shards.load_tokenizer(str(out_dir))
    tokens = np.concatenate([shards.read_shard(path) for path in shards.find_shards(str(out_dir), split)])
    return [tokenizer.decode(piece[1:]) for piece in np.split(tokens, np.flatnonzero(tokens == tokenizer.eot))[1:]]


@pytest.mark.parametrize('name', ['{}.txt', 'wiki.{}.raw', 'wiki.{}.tokens'])
def test_the_official_splits_are_kept_and_each_article_is_a_document(tmp_path, name):
    run(source=write_folder(tmp_path / 'in', name), out_dir=str(tmp_path / 'out'))
    assert ''.join(documents_of(tmp_path / 'out', 'train')) == SPLITS['train']
    assert ''.join(documents_of(tmp_path / 'out', 'val')) == SPLITS['valid']
    assert (tmp_path / 'out' / 'test.txt').read_text() == SPLITS['test']
    assert len(documents_of(tmp_path / 'out', 'train')) == 40
    found = [re.findall('Article (.*) =', text) for text in documents_of(tmp_path / 'out', 'val')]
    assert found == [[str(i)] for i in range(40, 45)]


def test_the_hubs_tables_of_lines_give_the_same_text_as_the_raw_files(tmp_path, monkeypatch):
    repository = tmp_path / 'Salesforce' / 'wikitext' / 'wikitext-2-raw-v1'
    repository.mkdir(parents=True)
    config = ['---\nconfigs:\n- config_name: wikitext-2-raw-v1\n  data_files:']
    for split, text in SPLITS.items():
        split = 'validation' if split == 'valid' else split
        config.append(f'  - split: {split}\n    path: wikitext-2-raw-v1/{split}-*')
        lines = [line if line.strip() else '' for line in text.splitlines(keepends=True)]  # as the hub has blank lines
        for i in range(2):
            table = pyarrow.table({'text': lines[i * len(lines) // 2:(i + 1) * len(lines) // 2]})
            pyarrow.parquet.write_table(table, repository / f'{split}-0000{i}-of-00002.parquet', row_group_size=7)
    (repository.parent / 'README.md').write_text('\n'.join([*config, '---', '']))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'cache'))
    run(out_dir=str(tmp_path / 'hub'))
    run(source=write_folder(tmp_path / 'in'), out_dir=str(tmp_path / 'local'))
    assert documents_of(tmp_path / 'hub', 'train') == documents_of(tmp_path / 'local', 'train')
    assert documents_of(tmp_path / 'hub', 'val') == documents_of(tmp_path / 'local', 'val')
    assert (tmp_path / 'hub' / 'test.txt').read_text() == SPLITS['test']


def test_articles_are_the_same_whatever_pieces_the_text_comes_in():
    whole = list(wikitext.articles([SPLITS['train']]))
    for size in (1, 7, 50):
        pieces = [SPLITS['train'][i:i + size] for i in range(0, len(SPLITS['train']), size)]
        assert list(wikitext.articles(pieces)) == whole


def test_real_wikitext_keeps_every_character_in_60_validation_articles(tmp_path, test_data):
    text = (test_data / 'wikitext-2' / 'valid.txt').read_text()
    articles = list(wikitext.articles([text]))
    assert len(articles) == 60
    assert ''.join(articles) == text


def test_run_again_it_ends_at_once_and_other_settings_are_refused(tmp_path, capsys):
    source = write_folder(tmp_path / 'in')
    run(source=source, out_dir=str(tmp_path / 'out'))
    capsys.readouterr()
    run(source=source, out_dir=str(tmp_path / 'out'))
    assert 'already made' in capsys.readouterr().out
    with pytest.raises(BadInput, match='vocab_size=257, not 300'):
        run(source=source, out_dir=str(tmp_path / 'out'), vocab_size=300)


def test_bad_folders_are_one_line_and_write_nothing(tmp_path):
    (tmp_path / 'train_only').mkdir()
    (tmp_path / 'train_only' / 'train.txt').write_text('a')
    (tmp_path / 'blank').mkdir()
    for split in ('train', 'valid'):
        (tmp_path / 'blank' / f'{split}.txt').write_text(' \n')
    write_folder(tmp_path / 'twice')
    write_folder(tmp_path / 'twice', 'wiki.{}.raw')
    for name, message in (('missing', 'no folder'), ('train_only', 'valid.txt'), ('blank', 'no text'),
                          ('twice', 'several files')):
        with pytest.raises(BadInput, match=message) as error:
            run(source=str(tmp_path / name), out_dir=str(tmp_path / 'out'))
        assert '\n' not in str(error.value)
        assert not os.path.exists(tmp_path / 'out')


def test_meta_names_the_source_and_the_tokenizer(tmp_path):
    run(source=write_folder(tmp_path / 'in'), out_dir=str(tmp_path / 'out'), vocab_size=300)
    meta = json.loads((tmp_path / 'out' / 'meta.json').read_text())
    assert (meta['source'], meta['tokenizer'], meta['vocab_size']) == ('wikitext-2', 'tokenizer.json', 300)
    assert meta['val_bytes'] == len(SPLITS['valid'].encode())


# ---- evaluation -------------------------------------------------------------------------------------


def write_model(folder, tokenizer, **fields):
    """A random model in Hugging Face's layout, with weights large enough for its guesses to differ."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{'block_size': 64, 'vocab_size': tokenizer.vocab_size, 'n_layer': 2, 'n_head': 2, 'n_embd': 32, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    pretrained.save(model, str(folder), eot=tokenizer.eot)
    tokenizer.save(folder / 'tokenizer.json')
    return str(folder)


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory, texts):
    return write_model(tmp_path_factory.mktemp('model'), Tokenizer.train(texts, 300, progress=False))


def evaluate(capsys, model_folder, **changes):
    """What it prints: (counts, figures, everything)."""
    capsys.readouterr()
    wikitext.main({**DEFAULTS, 'eval': True, 'init_from': model_folder, 'device': 'cpu', **changes})
    return read_figures(capsys.readouterr().out)


def read_figures(text):
    tokens, words, n_bytes, *figures = [float(number.replace(',', '')) for number in re.findall(
        r'([\d,]+) tokens, ([\d,]+) words, ([\d,]+) bytes\n.*perplexity ([\d.]+), word perplexity ([\d.]+), ([\d.]+) bits', text)[0]]
    return (tokens, words, n_bytes), figures, text


def test_a_split_is_scored_as_the_harness_does_and_any_file_as_it_is(tmp_path, capsys, model_folder):
    folder = write_folder(tmp_path / 'in')
    counts, _, text = evaluate(capsys, model_folder, source=folder)
    assert 'protocol harness' in text and counts[2] == len(SPLITS['test'].encode()) - 2 - 4  # the blank line, and ends of pages
    counts, plain, text = evaluate(capsys, model_folder, source=os.path.join(folder, 'test.txt'))
    assert 'protocol plain' in text and counts[1:] == (len(SPLITS['test'].split()), len(SPLITS['test'].encode()))
    for count, perplexity in zip(counts, plain[:2]):
        assert math.log2(perplexity) * count == pytest.approx(plain[2] * counts[2], rel=1e-4)
    assert evaluate(capsys, model_folder, source=folder, split='val')[0] != counts
    sliding = evaluate(capsys, model_folder, source=os.path.join(folder, 'test.txt'), stride=16)
    assert sliding[0] == counts and sliding[1] != plain and 'move on by 16' in sliding[2]


def test_a_folder_with_the_wanted_split_alone_is_enough_to_evaluate(tmp_path, capsys, model_folder):
    (tmp_path / 'wiki.test.tokens').write_text(SPLITS['test'])
    (tmp_path / 'x_val_000000.bin').write_bytes(b'no text')
    assert evaluate(capsys, model_folder, source=str(tmp_path))[0][0] > 100
    with pytest.raises(BadInput, match='has no file for the val split, such as valid.txt'):
        evaluate(capsys, model_folder, source=str(tmp_path), split='val')


@pytest.mark.parametrize('changes, message', [
    (dict(init_from=None), 'needs a model'), (dict(batch_size=0), 'batch_size=0'), (dict(stride=65), 'stride=65 should be 1 to 64'),
    (dict(source='missing'), 'no folder'), (dict(init_from='gpt7'), 'gpt7')])
def test_bad_evaluations_are_one_line(tmp_path, capsys, model_folder, changes, message):
    with pytest.raises(BadInput, match=message) as error:
        evaluate(capsys, model_folder, **{'source': write_folder(tmp_path / 'in'), **changes})
    assert '\n' not in str(error.value)


def test_two_processes_under_torchrun_and_other_batches_give_the_figures_of_one(tmp_path, capsys, model_folder):
    source = write_folder(tmp_path / 'in')
    source = os.path.join(source, 'test.txt')
    counts, figures, _ = evaluate(capsys, model_folder, source=source, stride=16)
    assert evaluate(capsys, model_folder, source=source, stride=16, batch_size=3)[1] == pytest.approx(figures, rel=1e-4)
    settings = {'eval': True, 'init_from': model_folder, 'source': source, 'stride': 16, 'device': 'cpu'}
    spread = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
                             ROOT / 'wikitext.py', *[f'--{key}={value}' for key, value in settings.items()]],
                            capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert spread.returncode == 0, spread.stderr
    assert read_figures(spread.stdout)[0] == counts
    assert read_figures(spread.stdout)[1] == pytest.approx(figures, rel=1e-4)


@pytest.mark.skipif(hardware.why_no_compile(torch.device('cpu')) is not None, reason='torch.compile needs a C++ compiler')
def test_compiled_it_gives_the_same_figures(tmp_path, capsys, model_folder):
    source = write_folder(tmp_path / 'in')
    figures = evaluate(capsys, model_folder, source=source)[1]
    assert evaluate(capsys, model_folder, source=source, compile=True)[1] == pytest.approx(figures, rel=1e-4)


def test_lm_eval_measures_the_same_on_real_pages(tmp_path, capsys, test_data):
    lm_eval = pytest.importorskip('lm_eval', reason='pip install lm-eval')
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    folder = write_model(tmp_path / 'model', Tokenizer.gpt2(), block_size=256, n_embd=16)
    text = (test_data / 'wikitext-2-raw' / 'test.txt').read_text()[:60_000]
    (tmp_path / 'test.txt').write_text(text)
    _, ours, _ = evaluate(capsys, folder, source=str(tmp_path))
    titles = [match.start() for match in re.finditer(r'^ = [^=].*[^=] = $', text, re.MULTILINE)]
    pages = [text[begin:end].removesuffix('\n') for begin, end in zip(titles, [*titles[1:], len(text) + 1])]
    (tmp_path / 'pages.jsonl').write_text(''.join(json.dumps({'page': page}) + '\n' for page in pages))
    their_task = pathlib.Path(lm_eval.__file__).parent / 'tasks' / 'wikitext'
    shutil.copy(their_task / 'preprocess_wikitext.py', tmp_path)
    settings = (their_task / 'wikitext.yaml').read_text()
    settings = re.sub(r'^(dataset_path|dataset_name|training_split|validation_split|test_split|dataset_kwargs|task):.*\n', '', settings,
                      flags=re.MULTILINE)
    (tmp_path / 'task.yaml').write_text(f'task: from_a_file\ndataset_path: json\ntest_split: train\n'
                                        f'dataset_kwargs: {{data_files: {tmp_path / "pages.jsonl"}}}\n' + settings)
    theirs = lm_eval.simple_evaluate(
        HFLM(pretrained=folder, device='cpu', dtype='float32', batch_size=8), tasks=['from_a_file'], bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False))['results']['from_a_file']
    assert len(pages) > 1
    assert ours[1:] == pytest.approx([theirs['word_perplexity,none'], theirs['bits_per_byte,none']], rel=1e-3)
