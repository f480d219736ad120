import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scoring.wikitext_cleanup import LINES, clean_page, detokenize, pages, split_word

TEXT = ''.join(f' \n = Page {i} = \n \n It \'s the {i} @,@ 000 th , " so to say " , of <unk> . \n = = Part = = \n \n Ends : \n'
               for i in range(6))
TOKEN = st.one_of(st.sampled_from('a The U.S. 1 000 , . : ; ! ? ( ) [ ] " \' \'s \'t @-@ @,@ @.@ = - -- <unk> $ £ # % ° … ... '
                                  'Mr. St. etc. c. \\ \\\\ "" 1,000 x-y don\'t n\'t ( \'\' ."'.split()),
                  st.text(st.characters(exclude_characters=' \n', exclude_categories=['Cs']), min_size=1, max_size=4))
LINE = st.lists(TOKEN).map(lambda tokens: ' ' + ''.join(f'{token} ' for token in tokens) + '\n')


def retokenize(text):
    """The text that `detokenize` was given."""
    return ''.join(map(retokenize_line, LINES.findall(text)))


def retokenize_line(line):
    if line.startswith(' '):
        return line[1:]
    tokens = [token for word in line[:-1].split(' ') for token in split_word(word)]
    return ' ' + ''.join(f'{token} ' for token in tokens if token) + '\n'


def test_pages_begin_at_titles_and_lose_only_the_blank_start():
    cut = pages(TEXT)
    assert len(cut) == 6
    assert '\n'.join(cut) == TEXT.removeprefix(' \n')
    assert [page.split('\n')[0] for page in cut] == [f' = Page {i} = ' for i in range(6)]
    assert pages('a text\nof no wiki') == ['a text\nof no wiki']


@settings(deadline=None)
@given(st.lists(st.sampled_from(["s '", ' @-@ ', ' @,@ ', ' @.@ ', ' : ', ' . ', ' , ', '( ', ' )', '" ', " '", '= = =', '= =',
                                 ' N ', " 's", ' \n', '\n ', ' ° ', 'word', '7', '[ ', ' ]', '{ ', ' }', ' ? ', ' ! ', ' ; ',
                                 "/' 5/", ' '])).map(''.join))
def test_a_page_is_cleaned_as_the_harness_cleans_it(page):
    theirs = pytest.importorskip('lm_eval.tasks.wikitext.preprocess_wikitext', reason='pip install lm-eval')
    assert clean_page(page) == theirs.wikitext_detokenizer({'page': page})


@settings(deadline=None, max_examples=500)
@given(st.lists(LINE, max_size=3).map(''.join))
def test_detokenizing_can_be_undone_for_lines_of_wikitext(text):
    assert retokenize(detokenize(text)) == text
    assert len(detokenize(text).split('\n')) == len(text.split('\n'))


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=['Cs'])) | st.text(' \n\\="a.', max_size=12))
@example('')
@example(' ')
@example('\n')
@example(' \n')
@example('no newline at the end ')
@example(' \\ \r\n')
def test_detokenizing_can_be_undone_for_any_text(text):
    assert retokenize(detokenize(text)) == text


@pytest.mark.slow
@pytest.mark.parametrize('name', ['wikitext-2/valid.txt', 'wikitext-2/test.txt', 'wikitext-2/train.txt',
                                  'wikitext-2-raw/test.txt'])
def test_detokenizing_can_be_undone_for_real_wikitext_2(test_data, name):
    text = (test_data / name).read_bytes().decode()[:2_000_000]  # all of it, but for train.txt
    cleaned = detokenize(text)
    assert retokenize(cleaned) == text
    assert cleaned.count('@') < 0.02 * text.count('@'), 'signs between words are left'
    if 'train' not in name:
        assert cleaned.count(' , ') < 0.01 * text.count(' , ') and cleaned.count(' . ') < 0.02 * text.count(' . ')


def test_detokenized_text_is_written_as_people_write():
    assert detokenize(' He said : " It \'s a 1 @,@ 000 @-@ year riddle ( of <unk> ) . " \n') == \
        'He said: "It\'s a 1,000-year riddle (of <unk>)."\n'
    assert detokenize(' \n = = Early life = = \n \n') == '\n== Early life ==\n\n'
    assert detokenize(' Mr. <unk> left the U.S. in 3 @.@ 5 days \n') == 'Mr. <unk> left the U.S. in 3.5 days\n'
