import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_wikitext_cleanup import LINE

from scoring.treebank_cleanup import clean_book, detokenize_treebank, split_word
from scoring.wikitext_cleanup import LINES

TOKEN = st.one_of(st.sampled_from("no it was n't $ N <unk> mr. 's ' 'll % # u.s. \\ ca n't's $$ 's's".split()),
                  st.text("$#%'nts\\a", min_size=1, max_size=5))
TREEBANK_LINE = st.lists(TOKEN).map(lambda tokens: ' ' + ''.join(f'{token} ' for token in tokens) + '\n')


def retokenize_treebank(text):
    """The text that `detokenize_treebank` was given."""
    return ''.join(map(retokenize_line, LINES.findall(text)))


def retokenize_line(line):
    if line.startswith(' '):
        return line[1:]
    tokens = [token for word in line[:-1].split(' ') for token in split_word(word)]
    return ' ' + ''.join(f'{token} ' for token in tokens if token) + '\n'


@settings(deadline=None, max_examples=500)
@given(st.lists(TREEBANK_LINE | LINE, max_size=3).map(''.join))
def test_detokenizing_can_be_undone_for_lines_of_the_treebank(text):
    assert retokenize_treebank(detokenize_treebank(text)) == text


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=['Cs'])) | st.text(" \n\\$%'s", max_size=12))
@example(' ')
@example('\n')
@example(" $ \\ n't \n")
def test_detokenizing_can_be_undone_for_any_text(text):
    assert retokenize_treebank(detokenize_treebank(text)) == text


def test_words_are_joined_as_people_write_them():
    text = " but it does n't cost $ N <unk> and the fund 's up N % \n"
    assert detokenize_treebank(text) == "but it doesn't cost $N <unk> and the fund's up N%\n"


@pytest.mark.parametrize('tokens, text', [
    ("`` Oh , I do n't know , '' said Mr. Fox .", '"Oh, I don\'t know," said Mr. Fox.'),
    ("He -LRB- the king 's man -RRB- said : ` So ! '", "He (the king's man) said: 'So!'"), ("the boys ' hats ; wo n't", "the boys' hats; won't")])
def test_a_books_tokens_are_joined_as_a_book_has_them(tokens, text):
    assert clean_book(tokens) == text
