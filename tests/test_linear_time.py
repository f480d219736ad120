"""Clean-ups and searches read a text once, whatever is in it, and give what the patterns that they stand for give."""
import contextlib
import re
import signal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chat_template
import sources
import wikitext
from bpe import CHUNK, Tokenizer, check_merges, cut
from bpe_textbook import ID_OF_BYTE
from evals import questions
from evals.perplexity import PROTOCOLS
from runtime.errors import BadInput
from scoring import treebank_cleanup, wikitext_cleanup
from tasks import calculator, gsm8k, tool_use, word_problems

UNITS = ['(', '[', '{', '"', "'", ' ', '\n', '0', '.', '=', '<<', '<<=', '<<a=', '#', '####', 'a', '\t', '\u3000', 'é', "'s", '..a', 'a.!',
         '( ', ' )', '[title] ', '1/', '1.', '1_', '9e', ' = a = \n', ' = ', '$<<', '<|', '  a', '\r\n', '@-@ ', ' @.@', '\\']
USES = {
    'the harness': PROTOCOLS['harness'], "GPT-2's paper": PROTOCOLS['gpt2'], 'the Treebank': PROTOCOLS['ptb'], '1BW': PROTOCOLS['lm1b'],
    "children's books": treebank_cleanup.clean_book, 'HellaSwag': questions.clean_wikihow, 'articles': lambda text: list(wikitext.articles(text[i:i + 100] for i in range(0, len(text), 100))),
    'blocks': lambda text: list(sources.cut_into_blocks([text], 300)), 'chunks': CHUNK.findall, 'cut': lambda text: list(cut(text, 1000)),
    'calls': chat_template.CALL.findall, 'kinds': gsm8k.kind_by_length, 'answers': gsm8k.answer_of, 'results': lambda text: tool_use.check_call('1', text),
    'numerals': word_problems.NUMERAL.findall, 'variables': word_problems.VARIABLE.findall, 'options': word_problems.OPTIONS.findall,
}


@contextlib.contextmanager
def interrupted_after(seconds):
    """Ends what takes more seconds of the processor: far more than linear time needs, far less than quadratic."""
    def interrupt(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize('use', USES)
def test_100_kilobytes_of_anything_are_read_in_linear_time(use):
    for unit in UNITS:
        for before in ('', ' = ', '<<1='):
            with interrupted_after(1):
                USES[use](before + (unit * 100_000)[:100_000])


@pytest.mark.parametrize('text', [unit * (100_000 // len(unit)) for unit in ('a', '(', ' ', '\n', '0', "'s", 'é', '<|endoftext|>')])
def test_100_kilobytes_of_anything_are_tokenized_in_linear_time(tokenizer, text):
    with interrupted_after(1):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_separator_is_looked_for_once_in_every_place(tmp_path):
    text = 'ab' * 3_000_000 + '--' + 'c' * 3_000_000 + '-'
    (tmp_path / 'x.txt').write_text(text)
    with interrupted_after(2):
        assert list(sources.cut_file(str(tmp_path / 'x.txt'), '--')) == text.split('--')


@given(st.text('-ab', max_size=40), st.sampled_from(['-', '--', '-a-']), st.integers(1, 9))
def test_a_separator_is_found_wherever_a_file_is_read_in_pieces(text, separator, size):
    pieces = [text[start:start + size] for start in range(0, len(text), size)] or ['']
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, 'read_text', lambda path: iter(pieces))
        assert list(sources.cut_file('x', separator)) == text.split(separator)


@given(st.lists(st.sampled_from(['\n', '\r\n', 'a', 'b\r']), max_size=30), st.sampled_from(['\n', '\n\n', 'a\n', '\na']), st.integers(1, 5))
def test_line_ends_of_a_separator_are_found_with_carriage_returns_too(parts, separator, size):
    text = ''.join(parts)
    pieces = [text[start:start + size] for start in range(0, len(text), size)] or ['']
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, 'read_text', lambda path: iter(pieces))
        documents = list(sources.cut_file('x', separator))
    assert documents == re.split(separator.replace('\n', '\r?\n'), text)


# ---------------------------------------------------------------------------- the same as before

MARKUP = st.lists(st.sampled_from(['[', ']', '(', ')', '{', '}', '"', "'", ' ', '  ', '\n', '\t', '\x1c', '\u3000', 'a', ' [title]', '[step]', '.', '!']))


@settings(max_examples=500, deadline=None)
@given(MARKUP.map(''.join))
def test_hellaswags_clean_up_is_the_harnesss(text):
    theirs = text.strip().replace(' [title]', '. ')
    assert questions.clean_wikihow(text) == re.sub(r'\[.*?\]', '', theirs).replace('  ', ' ')


@settings(max_examples=500, deadline=None)
@given(MARKUP.map(''.join))
def test_white_space_inside_pairs_goes_as_the_harnesss_patterns_take_it(text):
    expected = text
    for pattern, replacement in ((r'\(\s*([^\)]*?)\s*\)', r'(\1)'), (r'\[\s*([^\]]*?)\s*\]', r'[\1]'), (r'{\s*([^}]*?)\s*}', r'{\1}'),
                                 (r'"\s*([^"]*?)\s*"', r'"\1"'), (r"'\s*([^']*?)\s*'", r"'\1'")):
        expected = re.sub(pattern, replacement, expected)
    for signs in ('()', '[]', '{}', '""', "''"):
        text = re.sub(*wikitext_cleanup.strip_inside(*signs), text)
    assert text == expected


def split_word_slowly(word):
    """The tokens of a word by patterns, as `split_word` describes them."""
    contractions = {token for token in wikitext_cleanup.TO_THE_LEFT if token[0] == "'"}
    words = '|'.join(re.escape(word) for word in wikitext_cleanup.ABBREVIATIONS)
    abbreviation, first, last = re.compile(rf'(?:[A-Za-z]\.)+|{words}'), [], []
    if word.startswith('\\'):
        return [word[1:]]
    if word in wikitext_cleanup.BETWEEN or re.fullmatch(r'\.{2,}', word):
        return [word]
    if word and set(word) == {'='}:
        return list(word)
    while len(word) > 1 and re.match(r'[(\[$£€#"]', word):
        first.append(word[0])
        word = word[1:]
    while len(word) > 1 and not abbreviation.fullmatch(word):
        ending = next((e for e in contractions if word.endswith(e) and len(word) > len(e)), None)
        ending = ending or (re.search(r'\.{2,}$', word) or re.search(r'[,.;:!?)\]%°…"]$', word) or [None])[0]
        if ending is None or word in (ending, *contractions):
            break
        last.insert(0, ending)
        word = word[:-len(ending)]
    parts = [word] if abbreviation.fullmatch(word) else wikitext_cleanup.INNER.split(word)
    return [*first, *(wikitext_cleanup.BETWEEN_TOKENS[part] if i % 2 else part for i, part in enumerate(parts)), *last]


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(['.', '..', ',', 'a', 'B.', '1', "'", '"', '(', '[', ')', ']', '$', '-', '<', '>', '@-@', '=', '\\', '!', '…', 'Ph.D.',
                                 'St.', "'s", "'ll", 'No.', '%']), max_size=8).map(''.join))
def test_words_are_split_as_the_patterns_split_them(word):
    assert wikitext_cleanup.split_word(word) == split_word_slowly(word)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_merges_are_accepted_if_they_are_the_only_possible_ones(data):
    tokens, merges = {bytes([byte]): i for byte, i in ID_OF_BYTE.items()}, []
    for _ in range(data.draw(st.integers(1, 8))):
        left, right = (data.draw(st.sampled_from([b'a', b'b', *list(tokens)[256:]])) for _ in range(2))
        if left + right not in tokens:
            merges.append((tokens[left], tokens[right]))
            tokens[left + right] = len(tokens)
    try:
        possible = Tokenizer(dict(tokens), {}).merges == merges  # found by replaying the merges for every token
    except BadInput:
        possible = False
    if possible:
        check_merges(tokens, merges)
    else:
        with pytest.raises(BadInput, match='is not what merging two earlier tokens gives'):
            check_merges(tokens, merges)


@given(st.fractions())
def test_numbers_are_read_as_fraction_reads_them(number):
    assert calculator.parse_number(str(number)) == number
    assert gsm8k.answer_of(f'so\n#### {number}.') == number


@pytest.mark.parametrize('text', ['1e999999999', '1/0', '9' * 100_000, '', 'nan', '1__0', '1e5', '.', '-', '0/00'])
def test_a_number_that_would_take_forever_is_none(text):
    with pytest.raises(ValueError), interrupted_after(1):
        calculator.parse_number(text)
    with interrupted_after(1):
        assert gsm8k.answer_of(f'#### {text}') in (None, 1, 0) and not tool_use.check_call('1', text)[0]
    assert calculator.parse_number('12.50') == Fraction(25, 2)
