import bz2
import gzip
import itertools
import json
import lzma
import os
import random
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import corpus
import data_folder
import shards
import sources
from bpe import Tokenizer
from runtime import text_files
from runtime.errors import BadInput

DEFAULTS = {key: getattr(value, 'default', value) for key, value in corpus.DEFAULTS.items()}


def run(source, out_dir, **changes):
    """Makes shards, of plain bytes unless told otherwise."""
    changes = {'vocab_size': 257 if 'tokenizer' not in changes else 0, 'workers': 2, **changes}
    corpus.main({**DEFAULTS, 'source': str(source), 'out_dir': str(out_dir), **changes})


def documents_of(out_dir, split):
    """The text of every document of a split, decoded from its shards."""
    tokenizer = shards.load_tokenizer(str(out_dir))
    tokens = np.concatenate([shards.read_shard(path) for path in shards.find_shards(str(out_dir), split)])
    pieces = np.split(tokens, np.flatnonzero(tokens == tokenizer.eot))
    assert len(pieces[0]) == 0, 'the stream should start with <|endoftext|>'
    return [tokenizer.decode(piece[1:]) for piece in pieces[1:]]


def all_documents(out_dir):
    return sorted(documents_of(out_dir, 'train') + documents_of(out_dir, 'val'))


def files_of(out_dir):
    return {name: open(os.path.join(out_dir, name), 'rb').read() for name in os.listdir(out_dir)}


def write_folder(folder, texts):
    for i, text in enumerate(texts):
        path = folder / f'{i % 3}' / f'{i}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return folder


TEXTS = [f'Text number {i}.\n\nWith a second paragraph, ünïcödé and 🙂.\r\n' * (1 + i % 3) for i in range(60)]


# ---------------------------------------------------------------------------- sources

def test_each_file_of_a_folder_comes_back_as_a_document(tmp_path):
    write_folder(tmp_path / 'in', TEXTS)
    (tmp_path / 'in' / '.hidden').write_text('not this')
    (tmp_path / 'in' / '__pycache__').mkdir()
    (tmp_path / 'in' / '__pycache__' / 'x.txt').write_text('nor this')
    (tmp_path / 'in' / 'image.png').write_bytes(b'\x89PNG\0\0\0')
    run(tmp_path / 'in', tmp_path / 'out')
    assert all_documents(tmp_path / 'out') == sorted(TEXTS)


def test_globs_and_lists_name_the_same_files_as_the_folder(tmp_path):
    folder = write_folder(tmp_path / 'in', TEXTS)
    run(f'{folder}/**/*.txt', tmp_path / 'glob')
    run(f'{folder}/0,{folder}/1,{folder}/2/*', tmp_path / 'list')
    assert all_documents(tmp_path / 'glob') == all_documents(tmp_path / 'list') == sorted(TEXTS)


@pytest.mark.parametrize('name', ['t.jsonl', 't.jsonl.gz', 't.jsonl.bz2', 't.jsonl.xz', 't.json', 't.parquet'])
def test_rows_of_a_table_are_documents_from_the_named_column(tmp_path, name):
    path = tmp_path / name
    rows = [{'n': i, 'body': text} for i, text in enumerate(TEXTS)]
    lines = ''.join(json.dumps(row) + '\n' for row in rows).encode()
    if name.endswith('parquet'):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        contents = {'t.jsonl': lines, 't.jsonl.gz': gzip.compress(lines), 't.jsonl.bz2': bz2.compress(lines),
                    't.jsonl.xz': lzma.compress(lines), 't.json': json.dumps(rows).encode()}
        path.write_bytes(contents[name])
    run(path, tmp_path / 'out', text_column='body')
    assert all_documents(tmp_path / 'out') == sorted(TEXTS)
    with pytest.raises(BadInput, match="no column 'text'; name one of these with --text_column: n, body"):
        run(path, tmp_path / 'out2')


@pytest.mark.parametrize('name', ['synth.jsonl', 'synth.parquet'])
def test_synth_becomes_question_reasoning_and_answer(tmp_path, name):
    rows = [{'query': f'What is {i}?', 'synthetic_reasoning': f'{i} is\na number', 'synthetic_answer': f'Number {i}.',
             'language': 'en', 'exercise': 'x', 'model': 'm', 'words': 3} for i in range(80)]
    if name.endswith('parquet'):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    else:
        (tmp_path / name).write_text(''.join(json.dumps(row) + '\n' for row in rows))
    run(tmp_path / name, tmp_path / 'out', num_samples=70)
    assert all_documents(tmp_path / 'out') == sorted(
        f'Q: What is {i}?\n\nReasoning:\n{i} is\na number\n\nA: Number {i}.' for i in range(70))


def test_a_dataset_on_the_hub_is_found_by_its_name_and_asked_for_only_until_its_data_is_made(tmp_path, monkeypatch, capsys):
    (tmp_path / 'PleIAs' / 'SYNTH').mkdir(parents=True)
    rows = [{'query': str(i), 'synthetic_reasoning': 'r', 'synthetic_answer': 'a'} for i in range(40)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / 'PleIAs' / 'SYNTH' / 'train-0.parquet')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'cache'))
    run('SYNTH', tmp_path / 'out', num_samples=30)
    assert len(all_documents(tmp_path / 'out')) == 30
    monkeypatch.setattr(sources, 'hub_files', lambda *_: pytest.fail('finished data needs no network'))
    run('SYNTH', tmp_path / 'out', num_samples=30)
    assert 'already made, with the same settings' in capsys.readouterr().out
    with pytest.raises(BadInput, match='made with num_samples=30, not 20'):
        run('SYNTH', tmp_path / 'out', num_samples=20)


def test_a_folder_is_the_same_with_a_slash_behind_it_and_a_missing_one_is_not_asked_for_on_the_hub(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, 'hub_files', lambda *_: pytest.fail('no hub has a name that ends in /'))
    monkeypatch.chdir(write_folder(tmp_path, [f'text {i}' for i in range(40)]).parent)
    run(f'{tmp_path.name}/', 'out')
    run(tmp_path.name, 'out')
    assert 'already made, with the same settings' in capsys.readouterr().out
    with pytest.raises(BadInput, match="no file at 'missing/'"):
        run('missing/', tmp_path / 'other')
    shutil.rmtree('out')


def test_the_stdlib_is_without_tests_and_generated_tables(tmp_path):
    run('stdlib', tmp_path / 'out', num_samples=60)
    root = os.path.dirname(os.__file__)
    with open(os.path.join(root, 'ast.py'), encoding='utf-8', newline='') as file:
        assert file.read() in all_documents(tmp_path / 'out')
    files = [os.path.relpath(path, root).replace(os.sep, '/') for path in sources.stdlib_files()]
    assert {'argparse.py', 'json/decoder.py', 'asyncio/events.py'} <= set(files)
    unwanted = r'(^|/)(tests?|idle_test|encodings|pydoc_data|lib2to3|site-packages)/|sysconfigdata'
    assert not [name for name in files if re.search(unwanted, name)]
    assert 4e6 < sum(os.path.getsize(os.path.join(root, name)) for name in files) < 20e6


def test_blocks_of_a_text_file_are_together_the_file(tmp_path):
    text = '\n\n'.join(f'Paragraph {i}, ' + 'word ' * (i % 50) for i in range(900))
    (tmp_path / 'book.txt').write_text(text)
    run(tmp_path / 'book.txt', tmp_path / 'out')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'book.txt').write_text(text)
    run(tmp_path / 'folder', tmp_path / 'out2')
    train, val = documents_of(tmp_path / 'out', 'train'), documents_of(tmp_path / 'out', 'val')
    assert len(train) > 80 and val and all(document in text for document in val)
    assert sum(map(len, train + val)) == len(text)
    assert all(document.endswith('\n\n') for document in train + val if not text.endswith(document))
    assert all_documents(tmp_path / 'out2') == all_documents(tmp_path / 'out')


@given(st.lists(st.sampled_from(['x' * 300, 'word', ' ', '\n', '\n\n']), max_size=60), st.integers(256, 1500))
def test_blocks_are_the_text_whatever_the_pieces_it_comes_in(pieces, size):
    blocks = list(sources.cut_into_blocks(iter(pieces), size))
    assert ''.join(blocks) == ''.join(pieces)
    assert blocks == list(sources.cut_into_blocks(iter([''.join(pieces)]), size))
    assert all(size <= len(block) <= 2 * size for block in blocks[:-1])


@pytest.mark.parametrize('separator, in_file', [(None, '<|endoftext|>'), ('\\n', '\n'), ('%%', '%%')])
def test_separators_cut_a_text_file_into_documents(tmp_path, separator, in_file):
    names = [f'name {i}' for i in range(300)]
    (tmp_path / 'names.txt').write_text(in_file.join(names) + in_file)
    run(tmp_path / 'names.txt', tmp_path / 'out', document_separator=separator)
    assert all_documents(tmp_path / 'out') == sorted(names)


def test_text_that_spells_a_special_token_stays_text(tmp_path):
    texts = [f'{i}: a <|endoftext|> in a document' for i in range(30)]
    (tmp_path / 't.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
    run(tmp_path / 't.jsonl', tmp_path / 'out')
    assert all_documents(tmp_path / 'out') == sorted(texts)


def test_bytes_that_are_not_utf8_are_replaced_and_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(text_files, 'REPLACED_IN', [])
    write_folder(tmp_path / 'in', TEXTS)
    (tmp_path / 'in' / 'latin1.txt').write_bytes(b'caf\xe9 and na\xefve, but \xef\xbf\xbd was there before')
    (tmp_path / 'in' / 'bom.txt').write_bytes(b'\xef\xbb\xbfwith a byte order mark')
    run(tmp_path / 'in', tmp_path / 'out')
    assert 'caf\ufffd and na\ufffdve, but \ufffd was there before' in all_documents(tmp_path / 'out')
    assert 'with a byte order mark' in all_documents(tmp_path / 'out')
    err = capsys.readouterr().err
    assert err.count('latin1.txt: 2 places are not utf-8') == 1 and err.count('U+FFFD') == 1


@pytest.mark.parametrize('kind', ['parquet', 'csv'])
def test_a_table_with_two_columns_of_a_name_is_refused(tmp_path, kind):
    path = tmp_path / f'twice.{kind}'
    if kind == 'csv':
        path.write_text('text,text\na,b\n')
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(['a'])] * 2, ['text', 'text']), path)
    with pytest.raises(BadInput, match="several columns 'text'"):
        list(sources.read_table(str(path), 'text'))


def test_another_encoding_is_guessed_and_read_when_it_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(text_files, 'REPLACED_IN', [])
    texts = [f'Déjà vu à Orléans, {i}: «l’été»\n' * 3 for i in range(25)]
    folder = tmp_path / 'in'
    folder.mkdir()
    for i, text in enumerate(texts):
        (folder / f'{i}.txt').write_bytes(text.encode('cp1252'))
    run(folder, tmp_path / 'wrong')
    lines = [line for line in capsys.readouterr().err.splitlines() if 'utf-8' in line]
    assert len(lines) == 2 and '--encoding=cp1252, or convert it: iconv -f cp1252 -t utf-8' in lines[0]
    assert 'further files like it are not named' in lines[1]
    run(folder, tmp_path / 'out', encoding='windows-1252')
    assert all_documents(tmp_path / 'out') == sorted(texts)
    with pytest.raises(BadInput, match="made with encoding='cp1252', not 'utf-8'"):
        run(folder, tmp_path / 'out')
    with pytest.raises(BadInput, match='encoding=.rot13. is not the name of a text encoding'):
        run(folder, tmp_path / 'out2', encoding='rot13')


@pytest.mark.parametrize('name, bom', [('utf-16-le', b'\xff\xfe'), ('utf-16-be', b'\xfe\xff'), ('utf-32-le', b'\xff\xfe\0\0'), ('utf-8', b'\xef\xbb\xbf')])
def test_a_byte_order_mark_says_how_any_kind_of_file_is_encoded(tmp_path, name, bom):
    texts = [f'Zürich {i} – 東京\n' for i in range(30)]
    contents = {'a.txt': '<|endoftext|>'.join(texts), 'a.jsonl': ''.join(json.dumps({'text': text}, ensure_ascii=False) + '\n' for text in texts),
                'a.json': json.dumps([{'text': text} for text in texts], ensure_ascii=False),
                'a.csv': 'text,n\n' + ''.join(f'"{text}",1\n' for text in texts)}
    for file, content in contents.items():
        (tmp_path / file).write_bytes(bom + content.encode(name))
        assert list(sources.read_documents(sources.find_source(str(tmp_path / file)))) == texts, file


def test_what_holds_no_text_is_left_out_and_counted(tmp_path, capsys):
    folder = write_folder(tmp_path / 'in', TEXTS)
    files = {'a.png': b'\x89PNG\0\0\0', 'b.pdf': b'%PDF-1.4\n%\xe2\xe3 text', 'c.dat': bytes(random.Random(0).choices(range(1, 256), k=5000)),
             'd.txt': b'', 'e.txt': b' \n\r\n', 'f.txt': 'UTF-16 without a mark'.encode('utf-16-le')}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / 'ansi.log').write_text('\x1b[31mred\x1b[0m\n')
    run(folder, tmp_path / 'out')
    assert all_documents(tmp_path / 'out') == sorted([*TEXTS, '\x1b[31mred\x1b[0m\n'])
    line = 'left out 6 of 67 files: 3 binary, 2 empty, 1 UTF-16 without a byte order mark'
    assert f'{line}; --verbose=True names them\n' in capsys.readouterr().err
    sources.find_source(str(folder), verbose=True)
    err = capsys.readouterr().err
    assert err.startswith(f'{line}\n') and all(f'{folder / name}: ' in err for name in files)
    with pytest.raises(BadInput, match='f.txt holds no text: UTF-16 without.*--encoding=utf-16-le'):
        run(folder / 'f.txt', tmp_path / 'out2')
    assert list(sources.read_documents(sources.find_source(str(folder / 'f.txt'), encoding='utf-16-le'), encoding='utf-16-le')) == ['UTF-16 without a mark']


# ---------------------------------------------------------------------------- names and kinds of files

@pytest.mark.parametrize('name', ['log[1].txt', '[a]*?.txt', '*', 'a, b.txt', '-x.txt', '100%s {0}.txt', 'naïve 日本.txt', 'line\nend.txt', ' space ', "it's.txt",
                                  os.fsdecode(b'caf\xe9.txt')])
@pytest.mark.parametrize('in_folder', [False, True])
def test_a_name_of_any_characters_names_that_file_alone(tmp_path, name, in_folder):
    for other in ('log1.txt', 'a.txt', 'ab', 'b.txt'):
        (tmp_path / other).write_text('another text')
    path = tmp_path / name / 'x.txt' if in_folder else tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('Right.\n\n' * 300)
    for source in [str(path), *([str(path.parent), f'{path.parent}/*.txt', f'{path.parent}/**'] if in_folder else [])]:
        assert sources.find_source(source).files == [str(path)]
    run(path, tmp_path / 'out')
    assert set(''.join(all_documents(tmp_path / 'out')).split()) == {'Right.'}


def test_linked_folders_are_followed_and_no_file_is_read_twice(tmp_path):
    inside, outside = tmp_path / 'in', tmp_path / 'elsewhere'
    for path in (inside / 'a' / '1.txt', inside / 'b' / '2.txt', outside / 'deep' / '3.txt', outside / '__pycache__' / '4.txt'):
        path.parent.mkdir(parents=True)
        path.write_text(path.name)
    for link, target in (('loop', '.'), ('a/loop', '..'), ('a/other', '../b'), ('linked', outside), ('again', outside), ('1.txt', 'a/1.txt'), ('broken', 'nowhere')):
        (inside / link).symlink_to(target)
    os.link(inside / 'b' / '2.txt', inside / 'b' / '5.txt')
    (tmp_path / 'entry').symlink_to(inside)
    for source in (inside, f'{inside}/**', f'{inside}/**/*.txt', tmp_path / 'entry', f'{inside}/a,{inside}/b,{inside}/linked,{inside}'):
        documents = sources.read_documents(sources.find_source(str(source)))
        assert sorted(documents) == ['1.txt', '2.txt', '3.txt'], source


def test_links_that_are_left_out_are_said(tmp_path, capsys):
    inside, outside = tmp_path / 'above' / 'in', tmp_path / 'elsewhere'
    for path in (inside / 'a' / '1.txt', inside.parent / 'other.txt', outside / '2.txt'):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    for link, target in ((inside / 'up', '..'), (inside / 'a' / 'root', '/'), (outside / 'back', inside.parent), (inside / 'linked', outside),
                         (inside / 'b.txt', 'nowhere'), (inside / 'a' / 'c.txt', 'c.txt')):
        link.symlink_to(target)
    for source in (inside, f'{inside}/**'):
        assert sources.find_source(str(source)).files == [str(inside / 'a' / '1.txt'), str(inside / 'linked' / '2.txt')]
    lines = capsys.readouterr().err.splitlines()
    above = [f'warning: left out {inside / link}: it is a link to a folder above {inside}' for link in ('up', 'a/root', 'linked/back')]
    assert sorted(lines[:3]) == sorted(above)
    broken = f'left out 2 links to what is not there, such as {inside / "b.txt"}'
    assert lines[3] == f'warning: {inside}: {broken}' and lines[-1] == f'warning: {inside}/**: {broken}'
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / 'x.txt').symlink_to('nowhere')
    with pytest.raises(BadInput, match='is empty'):
        sources.find_source(str(tmp_path / 'broken'))
    assert 'left out 1 link to what is not there, such as' in capsys.readouterr().err


def test_a_comma_too_many_changes_nothing_and_a_name_that_is_empty_is_shown(tmp_path):
    (tmp_path / 'a.txt').write_text('a')
    for source in (f'{tmp_path}/a.txt,', f',{tmp_path}/a.txt,,'):
        assert sources.find_source(source).files == [f'{tmp_path}/a.txt']
    for source, shown in (('', "''"), (',', "','"), (f'{tmp_path}/a.txt, b.txt', "' b.txt'")):
        with pytest.raises(BadInput, match=f'no file at {shown}; --source takes'):
            sources.find_source(source)


@pytest.mark.parametrize('pack', [gzip.compress, bz2.compress, lzma.compress, None])
def test_compressed_text_is_read_and_endings_may_be_in_capitals(tmp_path, pack):
    import pyarrow
    ending = {gzip.compress: '.GZ', bz2.compress: '.bz2', lzma.compress: '.XZ', None: '.Zst'}[pack]
    pack = pack or (lambda data: pyarrow.compress(data, 'zstd', asbytes=True))
    text = ''.join(f'Paragraph {i}.\n\n' for i in range(3000))
    (tmp_path / f'x.txt{ending}').write_bytes(pack(text.encode()))
    (tmp_path / f'x.JSONL{ending}').write_bytes(pack(''.join(json.dumps({'text': text}) + '\n' for text in TEXTS).encode()))
    (tmp_path / f'x.Csv{ending}').write_bytes(pack(b'n,text\n1,"a, b"\n\n2,c\n'))
    assert ''.join(sources.read_documents(sources.find_source(str(tmp_path / f'x.txt{ending}')))) == text
    assert list(sources.read_documents(sources.find_source(str(tmp_path / f'x.JSONL{ending}')))) == TEXTS
    assert list(sources.read_documents(sources.find_source(str(tmp_path / f'x.Csv{ending}')))) == ['a, b', 'c']


def test_a_gz_that_is_filled_up_with_zeros_is_read_and_other_bytes_behind_its_end_are_refused(tmp_path):
    text = ''.join(f'Paragraph {i}.\n\n' for i in range(3000)).encode()
    packed = gzip.compress(text[:1000]) + gzip.compress(text[1000:])
    (tmp_path / 'x.txt.gz').write_bytes(packed + bytes(10_240 - len(packed) % 10_240))
    assert ''.join(sources.read_documents(sources.find_source(str(tmp_path / 'x.txt.gz')))).encode() == text
    for wrong in (packed + b'more', packed[:-100], packed[:500] + b'\xff' * 50 + packed[550:]):
        (tmp_path / 'x.txt.gz').write_bytes(wrong)
        with pytest.raises(BadInput, match='x.txt.gz is cut short or damaged'):
            list(sources.read_documents(sources.find_source(str(tmp_path / 'x.txt.gz'))))


def test_rows_of_csv_and_tsv_are_what_pythons_writer_wrote(tmp_path):
    import csv
    texts = ['plain', 'a "quoted", word', 'two\nlines', 'crlf\r\ntext', 'tab\there', '', ' space ', 'é😀']
    for name, dialect in (('x.csv', 'excel'), ('x.TSV', 'excel-tab')):
        with open(tmp_path / name, 'w', newline='', encoding='utf-8') as file:
            csv.writer(file, dialect).writerows([['id', 'body'], *enumerate(texts)])
        found = [text for _, rows, _ in sources.read_table(str(tmp_path / name), 'body') for text in rows]
        assert found == texts
        with pytest.raises(BadInput, match="no column 'text'; name one of these with --text_column: id, body"):
            list(sources.read_table(str(tmp_path / name), 'text'))
    for content, message in (('text,n\na,b,c\n', 'line 2: 3 values, where the first line names 2'), ('text\n"open', 'line 2: unexpected end'), ('', 'no column')):
        (tmp_path / 'bad.csv').write_text(content)
        with pytest.raises(BadInput, match=message):
            list(sources.read_table(str(tmp_path / 'bad.csv'), 'text'))


def test_a_csv_without_names_is_told_that_its_first_line_should_have_them(tmp_path):
    for name, content, words in (('a.csv', 'Hello world,5\nMore,6\n', 'name one of these with --text_column: Hello world, 5'),
                                 ('a.tsv', 'Hello\t5\n', 'name one of these with --text_column: Hello, 5'), ('b.csv', '', 'it has none at all')):
        (tmp_path / name).write_text(content)
        with pytest.raises(BadInput, match=f"{name}, whose first line should name its columns, has no column 'text'; {words}"):
            list(sources.read_table(str(tmp_path / name), 'text'))


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_lines_of_a_csv_end_as_any_system_ends_them(tmp_path, end):
    texts = ['plain', 'two\rlines', 'three\r\nlines\n', 'a "quote"', '']
    lines = ['n,text', *('{},"{}"'.format(i, text.replace('"', '""')) for i, text in enumerate(texts))]
    (tmp_path / 'x.csv').write_bytes(end.join([*lines, '']).encode())
    assert [text for _, rows, _ in sources.read_table(str(tmp_path / 'x.csv'), 'text') for text in rows] == texts
    (tmp_path / 'x.csv').write_bytes(end.join(['n,text', '1,a', '2,b,c']).encode())
    with pytest.raises(BadInput, match='line 3: 3 values, where the first line names 2'):
        list(sources.read_table(str(tmp_path / 'x.csv'), 'text'))


@pytest.mark.parametrize('kind', ['string', 'large_string', 'string_view', 'dictionary'])
def test_every_arrow_type_of_text_is_read(tmp_path, kind):
    texts = ['a', None, 'bb', 'a', ''] * 300
    column = pyarrow.array(texts, getattr(pyarrow, kind)()) if kind != 'dictionary' else pyarrow.array(texts).dictionary_encode()
    (tmp_path / 'in').mkdir()
    pyarrow.parquet.write_table(pyarrow.table({'text': column}), tmp_path / 'in' / '0.parquet')
    pyarrow.parquet.write_table(pyarrow.table({'text': pyarrow.nulls(9)}), tmp_path / 'in' / '1.PARQUET')  # a part without any
    assert list(sources.read_documents(sources.find_source(str(tmp_path / 'in')))) == [text for text in texts if text]


@pytest.mark.parametrize('column, kind', [([['a']], 'list<'), ([1], 'int64'), ([{'a': 'b'}], 'struct<'), ([b'a'], 'binary')])
def test_a_parquet_column_of_something_else_is_refused(tmp_path, column, kind):
    pyarrow.parquet.write_table(pyarrow.table({'text': column}), tmp_path / 'x.parquet')
    with pytest.raises(BadInput, match=f"x.parquet: column 'text' holds {kind}.*not text; name another --text_column"):
        list(sources.read_table(str(tmp_path / 'x.parquet'), 'text'))


def test_a_parquet_file_with_bytes_that_are_not_utf8_is_refused_in_one_line(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({'text': pyarrow.array([b'caf\xe9']).view(pyarrow.string())}), tmp_path / 'x.parquet')
    with pytest.raises(BadInput, match='x.parquet is not a readable parquet file: UnicodeDecodeError'):
        list(sources.read_table(str(tmp_path / 'x.parquet'), 'text'))


# ---------------------------------------------------------------------------- where documents end

@pytest.mark.parametrize('n_files', [1, 3, 25])
def test_a_separator_after_the_first_megabyte_cuts_every_file_of_a_source(tmp_path, n_files):
    documents = ['word ' * 250_000, 'second', 'third']
    for i in range(n_files):
        (tmp_path / f'{i}.txt').write_text('<|endoftext|>'.join([*documents[:1 if i else 3], f'last of {i}']))
    found = list(sources.read_documents(sources.find_source(str(tmp_path))))
    assert found[1:4] == ['second', 'third', 'last of 0'] and not any('<|endoftext|>' in document for document in found)
    assert len(found) == 4 + 2 * (n_files - 1)


def test_a_few_files_are_cut_into_blocks_so_that_little_is_held_out(tmp_path):
    texts = [''.join(f'Book {book}, paragraph {i}.\n\n' for i in range(3000)) for book in 'AB']
    for book, text in zip('AB', texts):
        (tmp_path / f'{book}.txt').write_text(text)
    run(tmp_path, tmp_path / 'out')
    train, val = documents_of(tmp_path / 'out', 'train'), documents_of(tmp_path / 'out', 'val')
    assert 0.005 < sum(map(len, val)) / sum(map(len, texts)) < 0.15
    assert all(any(f'Book {book}' in text for text in train) for book in 'AB') and sum(map(len, train + val)) == sum(map(len, texts))


def test_shards_are_not_put_beside_the_texts_nor_in_the_place_of_a_file(tmp_path):
    folder = write_folder(tmp_path / 'in', TEXTS)
    before = sorted(os.listdir(folder))
    with pytest.raises(BadInput, match='is where the texts are; name another folder, such as data/in'):
        run(folder, folder)
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(BadInput, match='is a file; it should be a folder'):
        run(folder, tmp_path / 'file')
    assert sorted(os.listdir(folder)) == before and (tmp_path / 'file').read_text() == 'mine'


def test_a_line_says_into_what_a_few_files_are_cut(tmp_path, capsys):
    (tmp_path / 'book.txt').write_text(''.join(f'Paragraph {i}.\n\n' for i in range(3000)))
    run(tmp_path / 'book.txt', tmp_path / 'out')
    assert '1 file, so few that text without <|endoftext|> is cut at line ends: every 498 characters or more' in capsys.readouterr().err
    run(tmp_path / 'book.txt', tmp_path / 'out2', document_separator='7.')
    run(write_folder(tmp_path / 'in', TEXTS), tmp_path / 'out3')
    assert 'so few' not in capsys.readouterr().err


def test_a_share_that_documents_make_larger_is_said(tmp_path, capsys):
    (tmp_path / 'two.jsonl').write_text('{"text": "one of them"}\n{"text": "and another"}\n')
    run(tmp_path / 'two.jsonl', tmp_path / 'out')
    assert '50% of the text is held out, not 5%: documents stay whole and copies together, and there are 2' in capsys.readouterr().err
    run(write_folder(tmp_path / 'in', TEXTS), tmp_path / 'out2', val_fraction=0.3)
    assert 'held out' not in capsys.readouterr().err
    assert '1 document ' in data_folder.summary('x', shards.load_meta(str(tmp_path / 'out')))


def test_blocks_end_at_blank_lines_with_carriage_returns_too(tmp_path):
    text = ''.join(f'Paragraph {i}\r\nhas two lines.\r\n\r\n' for i in range(300))
    blocks = list(sources.cut_into_blocks([text], 300))
    assert ''.join(blocks) == text and all(block.endswith('\r\n\r\n') for block in blocks[:-1])


# ---------------------------------------------------------------------------- train and val

@given(texts=st.lists(st.text(st.characters(codec='utf-8'), min_size=1, max_size=30).filter(lambda text: not text.isspace()), min_size=1,
                      max_size=6), val_fraction=st.floats(0.01, 0.99))
def test_the_end_of_all_text_can_be_held_out(texts, val_fraction):
    whole = ''.join(texts)
    n_train = int(len(whole) * (1 - val_fraction))
    if not n_train:
        with pytest.raises(BadInput, match='too few to hold out'):
            corpus.split_at_end(lambda: texts, val_fraction)
        return
    found = list(corpus.split_at_end(lambda: texts, val_fraction)())
    train, val = (''.join(text for split, text in found if split == name) for name in ('train', 'val'))
    assert train == whole[:n_train] and val == whole[n_train:] and all(text for _, text in found)


def test_nanogpts_split_of_a_file_is_the_same_as_ours(tmp_path):
    """Its data/shakespeare_char/prepare.py: n = len(data); data[:int(n * 0.9)] and the rest."""
    data = ''.join(f'Speaker {i}:\nA line.\n\n' for i in range(2000))
    (tmp_path / 'input.txt').write_text(data)
    run(tmp_path / 'input.txt', tmp_path / 'out', hold_out='end', val_fraction=0.1)
    n = len(data)
    assert documents_of(tmp_path / 'out', 'train') == [data[:int(n * 0.9)]]
    assert documents_of(tmp_path / 'out', 'val') == [data[int(n * 0.9):]]


def test_the_split_depends_on_a_documents_text_alone(tmp_path):
    write_folder(tmp_path / 'in', TEXTS)
    run(tmp_path / 'in', tmp_path / 'a', val_fraction=0.3)
    (tmp_path / 'b.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in reversed(TEXTS)))
    run(tmp_path / 'b.jsonl', tmp_path / 'b', val_fraction=0.3)
    val = documents_of(tmp_path / 'a', 'val')
    assert sorted(val) == sorted(documents_of(tmp_path / 'b', 'val'))
    assert 8 <= len(val) <= 28
    run(tmp_path / 'b.jsonl', tmp_path / 'c', val_fraction=0.1)
    assert set(documents_of(tmp_path / 'c', 'val')) < set(val)  # a smaller share is part of a larger one


def test_copies_of_a_document_are_never_on_both_sides(tmp_path):
    (tmp_path / 't.jsonl').write_text(''.join(json.dumps({'text': f'text {i % 40}'}) + '\n' for i in range(400)))
    run(tmp_path / 't.jsonl', tmp_path / 'out', val_fraction=0.4)
    train, val = documents_of(tmp_path / 'out', 'train'), documents_of(tmp_path / 'out', 'val')
    assert len(train + val) == 400 and not set(train) & set(val)


@pytest.mark.parametrize('n', [2, 3, 10])
@pytest.mark.parametrize('val_fraction', [0.001, 0.5, 0.999])
def test_few_documents_still_leave_one_on_each_side(tmp_path, n, val_fraction):
    write_folder(tmp_path / 'in', TEXTS[:n])
    run(tmp_path / 'in', tmp_path / 'out', val_fraction=val_fraction)
    assert documents_of(tmp_path / 'out', 'train') and documents_of(tmp_path / 'out', 'val')


# ---------------------------------------------------------------------------- tokenizer and meta.json

def test_a_tokenizer_is_trained_on_train_documents_alone(tmp_path):
    generator = random.Random(0)
    write_folder(tmp_path / 'in', [''.join(generator.choices('abcdefgh', k=6)) * 20 for _ in range(60)])
    run(tmp_path / 'in', tmp_path / 'out', vocab_size=300, val_fraction=0.3)
    trained = Tokenizer.train(documents_of(tmp_path / 'out', 'train'), 300)
    trained.save(tmp_path / 'expected.json')
    assert (tmp_path / 'out' / 'tokenizer.json').read_bytes() == (tmp_path / 'expected.json').read_bytes()


def test_a_given_tokenizer_is_used_and_kept_beside_the_shards(tmp_path):
    Tokenizer.train(TEXTS, 280).save(tmp_path / 'mine.json')
    write_folder(tmp_path / 'in', TEXTS)
    run(tmp_path / 'in', tmp_path / 'out', tokenizer=str(tmp_path / 'mine.json'))
    assert shards.load_meta(str(tmp_path / 'out'))['vocab_size'] == 280
    assert all_documents(tmp_path / 'out') == sorted(TEXTS)


def test_gpt2s_vocabulary_gives_tiktokens_ids(tmp_path, test_data):
    import tiktoken
    encoding = tiktoken.get_encoding('gpt2')
    write_folder(tmp_path / 'in', TEXTS)
    run(tmp_path / 'in', tmp_path / 'out', tokenizer='gpt2')
    meta = shards.load_meta(str(tmp_path / 'out'))
    assert (meta['tokenizer'], meta['vocab_size'], meta['eot']) == ('gpt2', 50257, 50256)
    tokens = np.concatenate([shards.read_shard(path) for path in shards.find_shards(str(tmp_path / 'out'), 'train')])
    assert tokens.tolist() == list(itertools.chain(*(
        [50256, *encoding.encode_ordinary(text)] for text in documents_of(tmp_path / 'out', 'train'))))


def test_meta_counts_what_is_there_and_compares_with_xz(tmp_path):
    write_folder(tmp_path / 'in', TEXTS)
    run(tmp_path / 'in', tmp_path / 'out', vocab_size=270, shard_tokens=1000)
    meta = shards.load_meta(str(tmp_path / 'out'))
    val = documents_of(tmp_path / 'out', 'val')
    in_order = sorted((str(path), path.read_bytes().decode()) for path in (tmp_path / 'in').glob('*/*'))
    data = ''.join(text for _, text in in_order if text in val).encode()
    xz = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    assert meta['val_bytes'] == len(data) and meta['val_documents'] == len(val)
    assert meta['val_xz_bits_per_byte'] == pytest.approx(8 * len(xz) / len(data), abs=0.02)
    assert sum('_train_' in name for name in meta['shards']) > 3
    assert 'bytes/token' in shards.check_folder(str(tmp_path / 'out'))


# ---------------------------------------------------------------------------- again

def test_the_same_settings_give_the_same_bytes_only_once(tmp_path, capsys):
    write_folder(tmp_path / 'in', TEXTS)
    for workers in (1, 4):
        run(tmp_path / 'in', tmp_path / str(workers) / 'x', vocab_size=300, workers=workers)
    assert files_of(tmp_path / '1' / 'x') == files_of(tmp_path / '4' / 'x')
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / '1' / 'x').iterdir()}
    capsys.readouterr()
    run(tmp_path / 'in', tmp_path / '1' / 'x', vocab_size=300)
    assert 'already made, with the same settings' in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / '1' / 'x').iterdir()} == times


def test_other_settings_and_input_are_refused_without_a_change(tmp_path):
    folder = write_folder(tmp_path / 'in', TEXTS)
    run(folder, tmp_path / 'out', vocab_size=300)
    before = files_of(tmp_path / 'out')
    with pytest.raises(BadInput, match='made with vocab_size=300, not 280'):
        run(folder, tmp_path / 'out', vocab_size=280)
    (folder / '0' / '0.txt').write_text('changed')
    with pytest.raises(BadInput, match='made from other input files'):
        run(folder, tmp_path / 'out', vocab_size=300)
    assert files_of(tmp_path / 'out') == before


def test_what_a_killed_run_leaves_is_not_taken_for_data(tmp_path, kill_at):
    folder = write_folder(tmp_path / 'in', TEXTS)
    run(folder, tmp_path / 'whole' / 'x', shard_tokens=1000)
    for n in itertools.count():
        kill_at(n)
        try:
            run(folder, tmp_path / f'{n}' / 'x', shard_tokens=1000)
            break
        except KeyboardInterrupt:
            with pytest.raises(BadInput, match='unfinished|no train shards|no data folder'):
                shards.BatchLoader(str(tmp_path / f'{n}' / 'x'), 'train', 8, 1, seed=0)
        kill_at(-1)
        run(folder, tmp_path / f'{n}' / 'x', shard_tokens=1000)
        assert files_of(tmp_path / f'{n}' / 'x') == files_of(tmp_path / 'whole' / 'x')
    assert n > 5


def test_a_killed_run_resumes_after_the_last_whole_shard(tmp_path, monkeypatch, kill_at, capsys):
    folder = write_folder(tmp_path / 'in', TEXTS)
    encode = data_folder.encode_document
    monkeypatch.setattr(data_folder, 'PIECE_CHARACTERS', 700)
    run(folder, tmp_path / 'whole' / 'x', shard_tokens=1000, vocab_size=280)
    encoded = []
    monkeypatch.setattr(data_folder, 'encode_document', lambda tokenizer, text: encoded.append(text) or encode(tokenizer, text))
    for _ in range(100):
        kill_at(6)
        try:
            run(folder, tmp_path / 'x', shard_tokens=1000, vocab_size=280)
            break
        except KeyboardInterrupt:
            encoded.clear()
    assert files_of(tmp_path / 'x') == files_of(tmp_path / 'whole' / 'x')
    assert 'resumes after 2 whole shards' in capsys.readouterr().out
    assert len([text for text in encoded if text in documents_of(tmp_path / 'x', 'train')]) < len(TEXTS) / 2


def test_a_kill_and_then_other_settings_or_losses_change_no_byte(tmp_path, kill_at):
    folder = write_folder(tmp_path / 'in', TEXTS)
    for changes, loses in (({'num_samples': 50}, None), ({}, 'x_train_000001.bin'), ({}, 'tokenizer.json')):
        kill_at(5)
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / 'x', shard_tokens=1000)
        kill_at(-1)
        assert (tmp_path / 'x' / 'x_unfinished.json').exists()
        if loses:
            os.remove(tmp_path / 'x' / loses)
        run(folder, tmp_path / 'x', shard_tokens=1000, **changes)
        run(folder, tmp_path / 'whole' / 'x', shard_tokens=1000, **changes)
        assert files_of(tmp_path / 'x') == files_of(tmp_path / 'whole' / 'x')
        shutil.rmtree(tmp_path / 'x')
        shutil.rmtree(tmp_path / 'whole')


def test_progress_of_another_version_is_one_clear_error(tmp_path):
    (tmp_path / 'x').mkdir()
    (tmp_path / 'x' / 'x_unfinished.json').write_text('{"shards": {}}')
    with pytest.raises(BadInput, match='x_unfinished.json is damaged or not of this version; delete it'):
        run(write_folder(tmp_path / 'in', TEXTS), tmp_path / 'x')


# ---------------------------------------------------------------------------- bad input

def test_each_bad_input_is_one_line_and_writes_nothing(tmp_path):
    folder = write_folder(tmp_path / 'in', TEXTS)
    (tmp_path / 'empty.txt').write_bytes(b'')
    (tmp_path / 'blank.txt').write_text(' \n\n ')
    (tmp_path / 'binary.bin').write_bytes(bytes(range(256)))
    (tmp_path / 'utf16.txt').write_text('hello', encoding='utf-16-le')
    (tmp_path / 'nothing').mkdir()
    (tmp_path / 'pictures').mkdir()
    for i in range(2):
        (tmp_path / 'pictures' / f'{i}.png').write_bytes(b'\0' * 9)
    (tmp_path / 'one.jsonl').write_text('{"text": "a single document"}\n')
    (tmp_path / 'mixed').mkdir()
    (tmp_path / 'mixed' / 'a.txt').write_text('a')
    (tmp_path / 'mixed' / 'b.jsonl').write_text('{"text": "b"}')
    tokenizer = Tokenizer.train(TEXTS, 280, special_tokens=('<|other|>',))
    tokenizer.save(tmp_path / 'without_eot.json')
    (tmp_path / 'not_json.json').write_text('{')
    cases = [
        (tmp_path / 'empty.txt', {}, 'holds no text: empty'), (tmp_path / 'blank.txt', {}, 'holds no text: empty'),
        (tmp_path / 'binary.bin', {}, 'holds no text'), (tmp_path / 'utf16.txt', {}, 'UTF-16'),
        (tmp_path / 'nothing', {}, 'is empty'), (tmp_path / 'pictures', {}, 'binary'),
        (tmp_path / 'missing.txt', {}, 'no file at'), (tmp_path / 'one.jsonl', {}, 'only one document'),
        (tmp_path / 'mixed', {}, 'tables .* and text files .* together'),
        (folder, {'vocab_size': 256}, 'from 257'), (folder, {'vocab_size': 70_000}, 'to 65536'),
        (folder, {'vocab_size': 60_000}, 'vocab_size=60000'), (folder, {'val_fraction': 0.0}, 'val_fraction'),
        (folder, {'vocab_size': 300, 'tokenizer': 'x.json'}, 'not both'),
        (folder, {'tokenizer': str(tmp_path / 'without_eot.json')}, 'no special token'),
        (folder, {'tokenizer': str(tmp_path / 'not_json.json')}, 'not_json.json'),
        (folder, {'tokenizer': str(tmp_path / 'missing.json')}, 'no file'),
    ]
    for source, changes, message in cases:
        with pytest.raises(BadInput, match=message) as error:
            run(source, tmp_path / 'out', **changes)
        assert '\n' not in str(error.value)
        assert not (tmp_path / 'out').exists(), (source, changes)


def test_a_folder_with_shards_of_something_else_is_refused(tmp_path):
    folder = write_folder(tmp_path / 'in', TEXTS)
    shards.write_shards([np.arange(9, dtype=np.uint16)], tmp_path / 'out', 'fineweb')
    with pytest.raises(BadInput, match=r'other shards \(fineweb_train_000001\.bin\)'):
        run(folder, tmp_path / 'out')
    assert os.listdir(tmp_path / 'out') == ['fineweb_train_000001.bin']


@pytest.mark.slow
def test_the_command_line_makes_shards_or_ends_with_2(tmp_path):
    def run_script(*arguments):
        script = os.path.join(os.path.dirname(corpus.__file__), 'corpus.py')
        return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, cwd=tmp_path)

    (tmp_path / 'names.txt').write_text('\n'.join(f'name {i}' for i in range(2000)))
    made = run_script('--source=names.txt', '--vocab_size=300')
    assert made.returncode == 0 and 'bytes/token' in made.stdout
    assert shards.load_meta(str(tmp_path / 'data' / 'names'))['vocab_size'] == 300
    bad = run_script('--source=missing.txt', '--out_dir=bad')
    assert bad.returncode == 2 and bad.stderr.startswith('corpus.py: no file') and bad.stderr.count('\n') == 1
    assert not (tmp_path / 'bad').exists()
