import json
import os
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import shards
import sources
import wikitext
from runtime.errors import BadInput

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
def test_official_splits_are_kept_and_articles_are_documents(tmp_path, name):
    run(source=write_folder(tmp_path / 'in', name), out_dir=str(tmp_path / 'out'))
    assert ''.join(documents_of(tmp_path / 'out', 'train')) == SPLITS['train']
    assert ''.join(documents_of(tmp_path / 'out', 'val')) == SPLITS['valid']
    assert (tmp_path / 'out' / 'test.txt').read_text() == SPLITS['test']
    assert len(documents_of(tmp_path / 'out', 'train')) == 40
    found = [re.findall('Article (.*) =', text) for text in documents_of(tmp_path / 'out', 'val')]
    assert found == [[str(i)] for i in range(40, 45)]


@pytest.mark.parametrize('raw, name', [(True, 'wikitext-2-raw-v1'), (False, 'wikitext-2-v1')])
def test_tables_of_the_hub_give_the_text_of_raw_files(tmp_path, monkeypatch, raw, name):
    repository = tmp_path / 'Salesforce' / 'wikitext' / name
    repository.mkdir(parents=True)
    config = [f'---\nconfigs:\n- config_name: {name}\n  data_files:']
    for split, text in SPLITS.items():
        split = 'validation' if split == 'valid' else split
        config.append(f'  - split: {split}\n    path: {name}/{split}-*')
        lines = [line if line.strip() else '' for line in text.splitlines(keepends=True)]  # as the hub has blank lines
        for i in range(2):
            table = pyarrow.table({'text': lines[i * len(lines) // 2:(i + 1) * len(lines) // 2]})
            pyarrow.parquet.write_table(table, repository / f'{split}-0000{i}-of-00002.parquet', row_group_size=7)
    (repository.parent / 'README.md').write_text('\n'.join([*config, '---', '']))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'cache'))
    run(out_dir=str(tmp_path / 'hub'), raw=raw)
    run(source=write_folder(tmp_path / 'in'), out_dir=str(tmp_path / 'local'))
    assert documents_of(tmp_path / 'hub', 'train') == documents_of(tmp_path / 'local', 'train')
    assert documents_of(tmp_path / 'hub', 'val') == documents_of(tmp_path / 'local', 'val')
    assert (tmp_path / 'hub' / 'test.txt').read_text() == SPLITS['test']
    (tmp_path / 'hub' / 'test.txt').unlink()
    run(out_dir=str(tmp_path / 'hub'), raw=raw)
    assert (tmp_path / 'hub' / 'test.txt').read_text() == SPLITS['test']
    monkeypatch.setattr(sources, 'hub_files', lambda *_: pytest.fail('finished data needs no network'))
    run(out_dir=str(tmp_path / 'hub'), raw=raw)


def test_windows_line_ends_and_names_in_capitals_change_nothing(tmp_path):
    write_folder(tmp_path / 'in')
    (tmp_path / 'windows').mkdir()
    for split, text in SPLITS.items():
        (tmp_path / 'windows' / f'Wiki.{split.upper()}.TXT').write_bytes(b'\xef\xbb\xbf' + text.replace('\n', '\r\n').encode())
    for name in ('in', 'windows'):
        run(source=str(tmp_path / name), out_dir=str(tmp_path / 'out' / name))
    for split in ('train', 'val'):
        assert documents_of(tmp_path / 'out' / 'windows', split) == documents_of(tmp_path / 'out' / 'in', split)
    assert (tmp_path / 'out' / 'windows' / 'test.txt').read_bytes() == SPLITS['test'].encode()


def test_articles_are_the_same_whatever_pieces_the_text_comes_in():
    whole = list(wikitext.articles([SPLITS['train']]))
    for size in (1, 7, 50):
        pieces = [SPLITS['train'][i:i + size] for i in range(0, len(SPLITS['train']), size)]
        assert list(wikitext.articles(pieces)) == whole


def test_real_wikitext_has_60_validation_articles(tmp_path, test_data):
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
    for name, message in (('missing', 'no file or folder'), ('train_only', 'valid.txt'), ('blank', 'no text'),
                          ('twice', 'several files')):
        with pytest.raises(BadInput, match=message) as error:
            run(source=str(tmp_path / name), out_dir=str(tmp_path / 'out'))
        assert '\n' not in str(error.value)
        assert not os.path.exists(tmp_path / 'out')


def test_a_form_of_the_text_is_asked_of_the_hub_alone(tmp_path):
    with pytest.raises(BadInput, match='raw=False is for the hub'):
        run(source=write_folder(tmp_path / 'in'), out_dir=str(tmp_path / 'out'), raw=False)
    assert not (tmp_path / 'out').exists()


def test_meta_names_the_source_and_the_tokenizer(tmp_path):
    run(source=write_folder(tmp_path / 'in'), out_dir=str(tmp_path / 'out'), vocab_size=300)
    meta = json.loads((tmp_path / 'out' / 'meta.json').read_text())
    assert (meta['source'], meta['tokenizer'], meta['vocab_size']) == ('wikitext-2', 'tokenizer.json', 300)
    assert meta['val_bytes'] == len(SPLITS['valid'].encode())


def test_a_lost_test_text_is_written_again(tmp_path):
    source = write_folder(tmp_path / 'in')
    run(source=source, out_dir=str(tmp_path / 'out'))
    (tmp_path / 'out' / 'test.txt').unlink()
    run(source=source, out_dir=str(tmp_path / 'out'))
    assert (tmp_path / 'out' / 'test.txt').read_text() == SPLITS['test']


def test_shards_in_a_folder_are_not_taken_for_its_splits(tmp_path):
    (tmp_path / 'wiki.test.tokens').write_text(SPLITS['test'])
    (tmp_path / 'x_val_000000.bin').write_bytes(b'no text')
    files = sources.wikitext_files(source=str(tmp_path), needed=['test'])
    assert files == {'test': [str(tmp_path / 'wiki.test.tokens')]}
    assert ''.join(sources.read_split(files['test'])) == SPLITS['test']
    with pytest.raises(BadInput, match='has no file for the val split, such as valid.txt'):
        sources.wikitext_files(source=str(tmp_path), needed=['val'])
