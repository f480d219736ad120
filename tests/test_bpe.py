import collections
import contextlib
import doctest
import functools
import json
import os
import pickle
import subprocess
import sys
import types
import unicodedata

import numpy as np
import pytest
import regex
import tiktoken
import tokenizers
import transformers
from conftest import run_script
from hypothesis import given, settings
from hypothesis import strategies as st

import bpe
import bpe_textbook
from bpe import EOT, Tokenizer
from bpe_textbook import encode_slowly, learn_merges_slowly
from runtime.errors import BadInput

# The pattern as the GPT-2 release has it, in which bpe.py's faster one must find the same chunks.
PUBLISHED_PATTERN = regex.compile(r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")
STDLIB_FILES = ('argparse', 'ast', 'asyncio/events', 'collections/__init__', 'json/decoder', 'os', 'typing')

few_characters = st.text('ab \n\'s1!é😀', max_size=60)
any_text = st.text(st.one_of(
    st.characters(exclude_categories=()),  # all of Unicode: controls, surrogates and unassigned ones too
    st.sampled_from("aeiou  \t\n\r\x1c\x85\xa0\u3000'sdmtlvre019.,;!?()<|>"),
    st.sampled_from('ñßλЖ語한नमस्ते😀👩‍🚀🇫🇷é²½Ⅷ٣\ufeff\ufffd'),
), max_size=40)
repeated = st.sampled_from([' ', '\n', ' \n', '\t', 'a', '0', '!', '😀', '  x'])
runs = st.builds(lambda text, n: text * n, repeated, st.integers(1, 400))
odd_text = st.one_of(any_text, st.lists(st.one_of(any_text, runs), max_size=4).map(''.join))


@pytest.fixture(scope='session')
def source_texts():
    texts = []
    for name in STDLIB_FILES:
        with open(os.path.join(os.path.dirname(os.__file__), f'{name}.py'), encoding='utf-8') as file:
            texts.append(file.read())
    return texts


@pytest.fixture(scope='session')
def own(source_texts):
    odd = 'Voilà: ñandú, 語語語, 😀😀 and the don\'t of 2024\n' * 40
    return Tokenizer.train([*source_texts, odd], 1500, progress=False)


@pytest.fixture(scope='session')
def own_file(own, tmp_path_factory):
    path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.json'
    own.save(path)
    return path


@pytest.fixture(scope='session')
def gpt2(test_data):
    return Tokenizer.gpt2(test_data / 'gpt2')


@pytest.fixture(scope='session')
def tiktoken_gpt2(test_data):
    return tiktoken.get_encoding('gpt2')


def as_utf16(text):
    return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


def words_of(tokenizer, ids):
    return [tokenizer.token_bytes(i).decode() for i in ids]


# ---- training


def train_with_tokenizers(texts, vocab_size):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOT], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def merges_as_words(tokenizer_json):
    return [tuple(merge.split(' ') if isinstance(merge, str) else merge) for merge in tokenizer_json['model']['merges']]


def test_the_examples_in_the_textbook_come_out_as_written():
    assert doctest.testmod(bpe_textbook) == (0, 4)


def test_the_textbook_example_is_merged_as_in_the_textbook():
    tokenizer = Tokenizer.train(['aaabdaaabac'], 257 + 3, progress=False)
    assert words_of(tokenizer, tokenizer.encode('aaabdaaabac')) == ['aaab', 'd', 'aaab', 'a', 'c']


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.one_of(few_characters, st.text('ab', max_size=30)).filter(bool), st.integers(1, 40),
                       max_size=12), st.integers(1, 60))
def test_training_learns_what_the_textbook_learns(chunk_counts, n_merges):
    assert bpe.learn_merges(chunk_counts, n_merges) == learn_merges_slowly(chunk_counts, n_merges)


def test_training_learns_the_merges_of_hugging_faces_trainer(source_texts):
    theirs = train_with_tokenizers(source_texts, 3000)
    ours = Tokenizer.train(source_texts, 3000, progress=False)
    assert merges_as_words(json.loads(ours.to_json())) == merges_as_words(json.loads(theirs.to_str()))


@settings(deadline=None, max_examples=150)
@given(st.lists(few_characters, max_size=4), st.integers(1, 12))
def test_texts_cut_in_pieces_have_the_chunks_of_the_whole(texts, size):
    for text in texts:
        parts = list(bpe.cut(text, size))
        assert ''.join(parts) == text
        assert [chunk for part in parts for chunk in bpe.CHUNK.findall(part)] == PUBLISHED_PATTERN.findall(text)


@settings(deadline=None, max_examples=500)
@given(odd_text)
def test_chunks_are_those_of_the_published_pattern(text):
    assert bpe.CHUNK.findall(text) == PUBLISHED_PATTERN.findall(text)


def test_several_processes_count_what_one_counts(source_texts, monkeypatch):
    expected = collections.Counter(chunk for text in source_texts for chunk in PUBLISHED_PATTERN.findall(text))
    monkeypatch.setattr(bpe, 'COUNTED_AT_ONCE', 10_000)
    monkeypatch.setattr(bpe, 'COUNTED_ALONE', 2)
    assert bpe.count_chunks(iter(source_texts), processes=3) == expected
    assert bpe.count_chunks([''.join(source_texts)], processes=1) == collections.Counter(
        PUBLISHED_PATTERN.findall(''.join(source_texts)))


def test_texts_are_read_as_they_are_counted(monkeypatch):
    monkeypatch.setattr(bpe, 'COUNTED_AT_ONCE', 100)
    counted = []
    monkeypatch.setattr(bpe, 'count_piece', lambda piece: counted.append(piece) or {})
    ahead = []

    def texts():
        for i in range(1, 51):
            ahead.append(i - sum(map(len, counted)))
            yield 'x' * 60

    bpe.count_chunks(texts(), processes=1)
    assert sum(map(len, counted)) == 50 and max(ahead) <= 2


def test_training_takes_a_generator_and_text_with_surrogates():
    lone, pair = 'ab\ud800ab ' * 9, 'ab\ud83d\ude00ab ' * 9
    clean = ['ab\ufffdab ' * 9, 'ab😀ab ' * 9]
    assert Tokenizer.train((text for text in (lone, pair)), 262, progress=False).merges == Tokenizer.train(
        clean, 262, progress=False).merges


def test_vocab_size_counts_bytes_merges_and_special_tokens(source_texts):
    tokenizer = Tokenizer.train(source_texts, 300, ('<|endoftext|>', '<|user|>'), progress=False)
    assert tokenizer.vocab_size == 300 and len(tokenizer.merges) == 300 - 256 - 2
    assert tokenizer.special_tokens == {'<|endoftext|>': 298, '<|user|>': 299} and tokenizer.eot == 298
    assert Tokenizer.train(source_texts, 300, ('<|user|>',), progress=False).vocab_size == 300


def test_the_smallest_vocabulary_is_plain_bytes():
    tokenizer = Tokenizer.train([], 257, progress=False)
    ids = tokenizer.encode('naïve 😀')
    assert len(ids) == len('naïve 😀'.encode()) and max(ids) < 256
    assert tokenizer.decode(ids) == 'naïve 😀' and tokenizer.eot == 256


@pytest.mark.parametrize('texts, vocab_size, special_tokens, message', [
    (['some text'], 256, (EOT,), 'at least 257'),
    (['some text'], 65537, (EOT,), 'at most 65536'),
    (['aaaa bbbb'], 4096, (EOT,), 'too little text for vocab_size=4096: at 262 every word'),
    ([''], 300, (EOT,), 'too little text'),
    (['abab'], 258, ('ab',), "'ab' is an ordinary token"),
])
def test_a_vocabulary_that_cannot_be_is_refused_in_one_line(texts, vocab_size, special_tokens, message):
    with pytest.raises(BadInput, match=message) as error:
        Tokenizer.train(texts, vocab_size, special_tokens, progress=False)
    assert '\n' not in str(error.value)


# ---- encoding and decoding


@settings(deadline=None, max_examples=400)
@given(texts=st.lists(odd_text, min_size=1, max_size=4))
def test_our_own_vocabulary_gives_the_same_ids_by_every_way(own, own_file, texts):
    theirs = tokenizers_from(own_file)
    batch = own.encode_batch(texts)
    for text, ids in zip(texts, batch):
        assert own.encode(text) == own.encode_array(text).tolist() == ids
        assert theirs.encode(as_utf16(text)).ids == own.encode(text, allowed_special='all')
        assert own.decode(ids) == as_utf16(text)


@functools.cache
def tokenizers_from(path):
    return tokenizers.Tokenizer.from_file(str(path))


@pytest.mark.slow
@settings(deadline=None, max_examples=500)
@given(texts=st.lists(odd_text, min_size=20, max_size=20))
def test_gpt2_ids_equal_tiktokens_on_ten_thousand_odd_strings(gpt2, tiktoken_gpt2, texts):
    for text in texts:
        ids = gpt2.encode(text)
        assert ids == tiktoken_gpt2.encode_ordinary(text) == gpt2.encode_array(text).tolist()
        assert gpt2.decode(ids) == as_utf16(text)
        assert gpt2.encode(text, allowed_special='all') == tiktoken_gpt2.encode(text, allowed_special='all')


LONG_RUNS = [kind * n for kind in ('a', 'ab', ' ', '\n', '\r\n', 'é', '中', '😀', '0', '!', 'a b', '\u0301', '\u3000', '\0', "'s", EOT)
             for n in (1, 2, 3, 50, 5001, 70_000)]


@pytest.mark.parametrize('with_gigatoken', [True, False])
def test_arrays_have_the_ids_of_the_list_with_and_without_gigatoken(gpt2, own, with_gigatoken):
    if with_gigatoken:
        pytest.importorskip('gigatoken')
    for tokenizer in (gpt2, own):
        tokenizer = Tokenizer(tokenizer.tokens, tokenizer.special_tokens)
        if not with_gigatoken:
            vars(tokenizer)['_gigatoken'] = None
        assert bool(tokenizer._gigatoken) == with_gigatoken
        for text in ['', '\ud83d', *LONG_RUNS]:
            assert tokenizer.encode_array(text).tolist() == tokenizer.encode(text)
        assert tokenizer.encode_array('a').dtype == np.uint16


def test_a_gigatoken_that_gives_other_ids_is_said_and_not_used(own, monkeypatch, capsys):
    class Wrong:
        @classmethod
        def from_json(cls, text):
            return cls()

        def encode(self, text):
            return np.zeros(3, dtype=np.uint32)

    monkeypatch.setitem(sys.modules, 'gigatoken', types.SimpleNamespace(Tokenizer=Wrong))
    tokenizer = Tokenizer(own.tokens, own.special_tokens)
    assert tokenizer.encode_array('some text').tolist() == own.encode('some text')
    assert 'gigatoken gives other ids' in capsys.readouterr().err


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(text=odd_text.map(as_utf16))
def test_the_textbook_encodes_as_the_fast_way_does(own, gpt2, tiktoken_gpt2, text):
    text = ''.join(c for c in text if unicodedata.category(c) != 'Cn')  # letters or not, by the version of Unicode
    assert encode_slowly(text, own.merges) == own.encode(text)
    assert encode_slowly(text, gpt2.merges) == tiktoken_gpt2.encode_ordinary(text)


@pytest.mark.slow
def test_gpt2_ids_equal_tiktokens_on_all_of_wikitext_2(gpt2, tiktoken_gpt2, test_data):
    for name in ('train', 'valid', 'test'):
        text = (test_data / 'wikitext-2' / f'{name}.txt').read_text(encoding='utf-8')
        expected = tiktoken_gpt2.encode_ordinary(text)
        assert gpt2.encode(text) == expected
        assert np.array_equal(gpt2.encode_array(text), expected)
        assert gpt2.encode_batch([text]) == [expected]
        assert gpt2.decode(expected) == text
        lines = text.splitlines(keepends=True)[:3000]
        assert gpt2.encode_batch(lines) == tiktoken_gpt2.encode_ordinary_batch(lines)


@pytest.mark.slow
def test_gpt2_is_the_same_from_tiktoken_and_from_its_two_files(gpt2, tiktoken_gpt2):
    through_tiktoken = Tokenizer.gpt2()
    assert through_tiktoken.to_json() == gpt2.to_json()
    assert (gpt2.vocab_size, gpt2.eot, len(gpt2.merges)) == (50257, 50256, 50000)
    assert all(gpt2.token_bytes(i) == tiktoken_gpt2.decode_single_token_bytes(i) for i in range(50257))


@pytest.mark.slow
def test_a_million_white_space_characters_are_encoded(own):
    for blank in ('  ', ' \n'):
        text = f'x{blank * 600_000}y{blank * 600_000}'
        ids = own.encode(text)
        assert own.decode(ids) == text and own.encode_batch(['', text]) == [[], ids]
        # the chunks of the whole: x, all white space but the last sign, that sign with y, all white space
        ends = [own.encode(f'{blank[-1]}y'), own.encode(blank * 600_000)]
        assert ids == own.encode('x') + own.encode((blank * 600_000)[:-1]) + ends[0] + ends[1]


def test_batches_of_any_sizes_come_back_in_order(own, source_texts):
    texts = ['', 'a', *source_texts, ''.join(source_texts), ' ' * 70_000, '', *(f'{i} ' * i for i in range(300))]
    expected = [own.encode_array(text).tolist() for text in texts]
    assert own.encode_batch(iter(texts)) == expected
    assert own.encode_batch(texts, threads=1) == own.encode_batch(texts, threads=5) == expected
    assert own.encode_batch([]) == []


def test_special_tokens_are_made_only_where_they_are_allowed(source_texts, tmp_path):
    tokenizer = Tokenizer.train(source_texts, 400, (EOT, '<|user|>'), progress=False)
    text = f'{EOT}hi <|user|> {EOT}{EOT} there'
    encode = tokenizer.encode
    assert not {398, 399} & set(encode(text))
    assert [i for i in encode(text, allowed_special='all') if i > 397] == [398, 399, 398, 398]
    assert [i for i in encode(text, allowed_special={'<|user|>'}) if i > 397] == [399]
    assert tokenizer.decode(encode(text)) == tokenizer.decode(encode(text, allowed_special='all')) == text
    with pytest.raises(BadInput, match='not special tokens'):
        encode(text, allowed_special=['<|nobody|>'])
    tokenizer.save(tmp_path / 'tokenizer.json')
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / 'tokenizer.json'))
    assert theirs.encode(text).ids == tokenizer.encode(text, allowed_special='all')
    assert theirs.decode(theirs.encode(text).ids, skip_special_tokens=False) == text


def test_bytes_that_are_no_text_decode_and_unknown_ids_are_refused(own):
    ids = own.encode('\U00013000')
    assert len(ids) == 4 and own.decode(ids[:3]) == own.decode(ids[1:2]) == '\ufffd'
    assert own.decode(np.array(own.encode('some text'), dtype=np.uint16)) == 'some text'
    for bad in (-1, own.vocab_size):
        with pytest.raises(BadInput, match=f'token id {bad} is not in a vocabulary of 1500'):
            own.decode([bad])


def test_token_lengths_add_up_to_the_bytes_of_the_text(own):
    text = 'naïve 😀 text\n' * 3
    lengths = own.token_lengths()
    assert lengths.shape == (1500,) and lengths.dtype == np.int64 and lengths[own.eot] == 0
    assert lengths[own.encode_array(text)].sum() == len(text.encode())


def test_a_tokenizer_goes_through_pickle_small_and_whole(own):
    own.encode('some text')
    data = pickle.dumps(own)
    again = pickle.loads(data)
    assert len(data) < 60_000
    assert again.to_json() == own.to_json() and again.encode('a new text') == own.encode('a new text')


# ---- files


def test_a_saved_tokenizer_loads_and_saves_as_the_same(own, own_file, tmp_path):
    again = Tokenizer.load(own_file)
    again.save(tmp_path / 'again.json')
    assert (tmp_path / 'again.json').read_bytes() == own_file.read_bytes()
    assert again.encode('def f(x):\n    return x') == own.encode('def f(x):\n    return x')
    assert (again.vocab_size, again.eot) == (1500, 1499)
    assert os.listdir(tmp_path) == ['again.json']


def test_transformers_reads_the_file_as_it_is(own, own_file):
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(own_file), clean_up_tokenization_spaces=False)
    text = f'class A: pass  # é 😀 don\'t{EOT}\n\n  x'
    assert theirs.encode(text) == own.encode(text, allowed_special='all')
    assert theirs.decode(theirs.encode(text)) == text and len(theirs) == own.vocab_size


def test_gpt2_saved_as_tokenizer_json_encodes_alike_in_tokenizers(gpt2, test_data, tmp_path):
    gpt2.save(tmp_path / 'gpt2.json')
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / 'gpt2.json'))
    text = (test_data / 'wikitext-2-raw' / 'test.txt').read_text(encoding='utf-8')[:200_000] + EOT
    assert theirs.encode(text).ids == gpt2.encode(text, allowed_special='all')
    assert Tokenizer.load(tmp_path / 'gpt2.json').merges == gpt2.merges


def test_a_file_of_hugging_faces_trainer_loads_with_its_own_ids(source_texts, tmp_path):
    theirs = train_with_tokenizers(source_texts, 1000)  # special tokens first: every other id is one higher than ours
    theirs.save(str(tmp_path / 'theirs.json'))
    tokenizer = Tokenizer.load(tmp_path / 'theirs.json')
    assert tokenizer.eot == 0
    for text in (*source_texts[:3], EOT):
        assert tokenizer.encode(text, allowed_special='all') == theirs.encode(text).ids


BYTE_LEVEL = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': True}


def split_and_byte_level(pattern, behavior='Isolated'):
    split = {'type': 'Split', 'pattern': {'Regex': pattern}, 'behavior': behavior, 'invert': False}
    return {'type': 'Sequence', 'pretokenizers': [split, {**BYTE_LEVEL, 'use_regex': False}]}


def resaved_by_transformers(path):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token=EOT, pad_token='<|pad|>').save_pretrained(path.parent / 'saved')
    AutoTokenizer.from_pretrained(path.parent / 'saved').save_pretrained(path.parent / 'again')
    return path.parent / 'again' / 'tokenizer.json'


def edited(**parts):
    def edit(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))
        return path
    return edit


@pytest.mark.parametrize('save', [
    resaved_by_transformers,
    edited(post_processor={'type': 'TemplateProcessing', 'single': [{'Sequence': {'id': 'A', 'type_id': 0}}],
                           'pair': [{'Sequence': {'id': 'A', 'type_id': 0}}, {'Sequence': {'id': 'B', 'type_id': 1}}], 'special_tokens': {}}),
    edited(post_processor={'type': 'Sequence', 'processors': [BYTE_LEVEL]}, normalizer={'type': 'Sequence', 'normalizers': []}),
    edited(pre_tokenizer={'type': 'Sequence', 'pretokenizers': [BYTE_LEVEL]}),
    edited(pre_tokenizer=split_and_byte_level(PUBLISHED_PATTERN.pattern)),
    edited(truncation={'direction': 'Right', 'max_length': 9999, 'strategy': 'LongestFirst', 'stride': 0})])
def test_files_of_other_tools_whose_further_steps_do_nothing_give_their_ids(source_texts, tmp_path, save):
    train_with_tokenizers(source_texts, 500).save(str(tmp_path / 'tokenizer.json'))
    path = save(tmp_path / 'tokenizer.json')
    ours, theirs = Tokenizer.load(path), tokenizers.Tokenizer.from_file(str(path))
    text = source_texts[0][:3000] + ' é 中文 😀  \n\n\t 123' + EOT
    assert ours.encode(text, allowed_special='all') == theirs.encode(text).ids


def change(*keys, to):
    def edit(data):
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = to
    return edit


def swap_merges(data):
    merges = data['model']['merges']
    merges[0], merges[1] = merges[1], merges[0]


@pytest.mark.parametrize('edit, message', [
    (change('model', 'type', to='WordPiece'), 'its model is not BPE'),
    (change('normalizer', to={'type': 'NFC'}), 'normalizes'),
    (change('pre_tokenizer', to=None), 'pre_tokenizer'),
    (change('pre_tokenizer', 'add_prefix_space', to=True), 'prefix space'),
    (change('pre_tokenizer', 'use_regex', to=False), "GPT-2's pattern"),
    (change('post_processor', to={'type': 'TemplateProcessing', 'single': [{'SpecialToken': {'id': EOT, 'type_id': 0}}]}), 'adds tokens'),
    (change('post_processor', to={'type': 'Sequence', 'processors': [{'type': 'ByteLevel'}, {'type': 'RobertaProcessing'}]}), 'adds tokens'),
    (change('post_processor', to={'type': 'TemplateProcessing'}), "KeyError: 'single'"),
    (change('normalizer', to={'type': 'Sequence', 'normalizers': [{'type': 'Lowercase'}]}), 'normalizes'),
    (change('pre_tokenizer', to={'type': 'Sequence', 'pretokenizers': [{'type': 'Digits'}, BYTE_LEVEL]}), "GPT-2's pattern"),
    (change('pre_tokenizer', to=split_and_byte_level(r'\p{N}{1,3}|[^0-9]+')), "GPT-2's pattern"),
    (change('pre_tokenizer', to=split_and_byte_level(PUBLISHED_PATTERN.pattern, behavior='Removed')), "GPT-2's pattern"),
    (change('model', 'end_of_word_suffix', to='</w>'), 'prefix or a suffix'),
    (change('added_tokens', 0, 'lstrip', to=True), 'not a plain special token'),
    (change('added_tokens', 0, 'id', to=7), 'should be 0 .. 299'),
    (change('added_tokens', to=[]), 'merges are not in the order'),
    (change('model', 'vocab', 'a', to=5000), 'should be 0 .. 299'),
    (change('model', 'vocab', to={'a': 0}), 'should be 0 .. 1'),
    (change('model', 'vocab', to={str(i): i for i in range(70_000)}), '70001 is too large'),
    (change('model', 'vocab', to=[['▁a', -1.5]]), 'not the tokenizer.json of a byte-level BPE'),
    (change('model', to=3), 'not the tokenizer.json of a byte-level BPE'),
    (lambda data: data['model']['vocab'].pop('!'), 'KeyError|should be 0|lacks'),
    (lambda data: data['model']['merges'].pop(), 'merges are not in the order'),
    (lambda data: data.pop('model'), 'not the tokenizer.json of a byte-level BPE'),
    (swap_merges, 'merges are not in the order'),
])
def test_another_kind_of_tokenizer_is_refused_in_one_line(source_texts, tmp_path, edit, message):
    data = json.loads(Tokenizer.train(source_texts[:1], 300, progress=False).to_json())
    edit(data)
    (tmp_path / 'tokenizer.json').write_text(json.dumps(data), encoding='utf-8')
    with pytest.raises(BadInput, match=message) as error:
        Tokenizer.load(tmp_path / 'tokenizer.json')
    assert '\n' not in str(error.value) and 'tokenizer.json' in str(error.value)


@pytest.mark.parametrize('depth', [200, 440])
def test_steps_nested_as_deep_as_json_allows_are_read_or_refused(source_texts, tmp_path, depth):
    data = json.loads(Tokenizer.train(source_texts[:1], 300, progress=False).to_json())
    for _ in range(depth):
        data['pre_tokenizer'] = {'type': 'Sequence', 'pretokenizers': [data['pre_tokenizer']]}
    (tmp_path / 'tokenizer.json').write_text(json.dumps(data), encoding='utf-8')
    with contextlib.suppress(BadInput):
        assert Tokenizer.load(tmp_path / 'tokenizer.json').vocab_size == 300


@pytest.mark.parametrize('content, message', [
    (None, 'no file'), (b'{"model": ', 'not JSON'), (b'\xff\xfe\x00', 'not JSON'), (b'[' * 100_000, 'not JSON'),
    (b'[1]', 'byte-level'),
])
def test_a_file_that_is_missing_or_no_json_is_refused_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / 'tokenizer.json').write_bytes(content)
    with pytest.raises(BadInput, match=message) as error:
        Tokenizer.load(tmp_path / 'tokenizer.json')
    assert '\n' not in str(error.value)


def test_a_gpt2_folder_without_its_files_is_refused_in_one_line(tmp_path):
    with pytest.raises(BadInput, match='encoder.json'):
        Tokenizer.gpt2(tmp_path)
    (tmp_path / 'encoder.json').write_text('{"a": 0}')
    with pytest.raises(BadInput, match='vocab.bpe'):
        Tokenizer.gpt2(tmp_path)
    (tmp_path / 'vocab.bpe').write_text('#version: 0.2\na b\n')
    with pytest.raises(BadInput, match='no encoder.json and vocab.bpe as GPT-2'):
        Tokenizer.gpt2(tmp_path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(own, tmp_path, monkeypatch):
    (tmp_path / 'tokenizer.json').write_text('old')

    def full_disk(fd):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full_disk)
    with pytest.raises(BadInput, match='the disk is full'):
        own.save(tmp_path / 'tokenizer.json')
    assert os.listdir(tmp_path) == ['tokenizer.json'] and (tmp_path / 'tokenizer.json').read_text() == 'old'


# ---- command line


def run(*args):
    environment = os.environ | {'PYTHONUTF8': '1'}
    return subprocess.run([sys.executable, bpe.__file__, *args], env=environment, capture_output=True, text=True,
                          encoding='utf-8', timeout=60)


def test_a_text_is_shown_cut_with_its_ids(own, own_file):
    text = 'def café(self): 😀<|endoftext|>'
    result = run(f'--show={text}', f'--tokenizer={own_file}')
    assert result.returncode == 0, result.stderr
    pieces, ids, counted = result.stdout.splitlines()
    assert pieces.startswith('def| c|a') and [int(i) for i in ids.split()] == own.encode(text, allowed_special='all')
    assert f'{len(ids.split())} tokens' in counted


def test_a_tokenizer_that_is_not_there_ends_the_command_in_one_line():
    result = run('--show=x', '--tokenizer=nowhere.json')
    assert result.returncode == 2 and result.stderr.startswith('bpe.py: no file nowhere.json')


def test_a_part_of_a_character_is_shown_as_its_bytes(own_file, capsys):
    assert run_script('bpe.py', '--show=中', f'--tokenizer={own_file}') == 0
    assert capsys.readouterr().out.startswith('\\xe4|\\xb8|\\xad\n')


def test_without_network_a_tokenizer_that_is_here_is_named(tmp_path, monkeypatch):
    import tiktoken

    def offline(name):
        raise ConnectionError

    monkeypatch.setattr(tiktoken, 'get_encoding', offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match='could not be fetched.*corpus.py --vocab_size=4096 trains one'):
        Tokenizer.gpt2()
    (tmp_path / 'data' / 'mine').mkdir(parents=True)
    (tmp_path / 'data' / 'mine' / 'tokenizer.json').touch()
    with pytest.raises(BadInput, match='--tokenizer=data/mine/tokenizer.json is here'):
        Tokenizer.gpt2()
