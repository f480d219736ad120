import math

import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from torch.nn import functional as F

import evaluate as perplexity
from bpe import Tokenizer
from runtime.errors import BadInput
from model import GPT, GPTConfig
from evaluate import clean_page, detokenize, pages, retokenize, windows
from runtime.process import Process

TEXT = ''.join(f' \n = Page {i} = \n \n It \'s the {i} @,@ 000 th , " so to say " , of <unk> . \n = = Part = = \n \n Ends : \n'
               for i in range(6))


@pytest.fixture(scope='module')
def process():
    return Process({'device': 'cpu', 'dtype': 'float32'}, float32_precision='highest')


@pytest.fixture(scope='module')
def tokenizer(texts):
    return Tokenizer.train(texts, 300, progress=False)


def make_model(scale=0.3, **fields):
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**dict(block_size=16, vocab_size=300, n_layer=2, n_head=2, n_embd=32), **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn_like(parameter)
        model.transformer.wte.weight[model.config.vocab_size:] = 0
    return model.eval()


@torch.no_grad()
def score_slowly(model, ids, eot, stride):
    """One token after the other, each with the context that its window gives it."""
    block_size, nats = model.config.block_size, 0.0
    for i, token in enumerate(ids):
        end = block_size + max(0, -(-(i + 1 - block_size) // stride)) * stride  # of the first window that reaches it
        begin = max(0, min(end, len(ids)) - block_size)
        context = [ids[begin - 1] if begin else eot, *ids[begin:i]]
        nats -= F.log_softmax(model(torch.tensor([context]))[0, -1].double(), dim=-1)[token].item()
    return nats


@pytest.mark.parametrize('stride', [None, 16, 7, 1])
def test_a_score_is_the_sum_over_single_tokens_each_with_the_context_of_its_window(process, stride):
    model = make_model()
    documents = [torch.randint(300, (n,)).tolist() for n in (1, 15, 16, 17, 40, 0, 33)]
    expected = sum(score_slowly(model, ids, 299, stride or 16) for ids in documents)
    for batch_size in (1, 4, 100):
        assert perplexity.score(model, documents, 299, process, stride, batch_size) == pytest.approx(expected, rel=1e-5)


@given(n=st.integers(0, 300), block_size=st.integers(1, 40), data=st.data())
def test_windows_predict_every_token_once_and_never_hold_more_than_a_block(n, block_size, data):
    stride = data.draw(st.integers(1, block_size))
    spans = list(windows(n, block_size, stride))
    assert [token for _, first, end in spans for token in range(first, end)] == list(range(n))
    assert all(0 <= begin <= first < end <= begin + block_size for begin, first, end in spans)
    assert all(end - begin == block_size and end - first <= stride for begin, first, end in spans[1:])


def test_a_model_that_guesses_has_its_vocabulary_as_perplexity_and_the_bits_of_that_per_byte(process, tokenizer):
    model = make_model()
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
    result = perplexity.measure(model, tokenizer, TEXT, process, 'plain')
    n_tokens = len(tokenizer.encode(TEXT))
    assert (result['tokens'], result['words'], result['bytes']) == (n_tokens, len(TEXT.split()), len(TEXT.encode()))
    assert result['token_perplexity'] == pytest.approx(300, rel=1e-5)
    assert result['bits_per_byte'] == pytest.approx(n_tokens * math.log2(300) / len(TEXT.encode()), rel=1e-5)
    assert result['word_perplexity'] == pytest.approx(300 ** (n_tokens / len(TEXT.split())), rel=1e-4)


@pytest.mark.parametrize('protocol', perplexity.PROTOCOLS)
def test_the_batch_size_changes_no_figure(process, tokenizer, protocol):
    model = make_model()
    results = [perplexity.measure(model, tokenizer, TEXT, process, protocol, batch_size=n) for n in (1, 3, 64)]
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-4)


@pytest.mark.parametrize('text', ['', '\n', ' \n \n'])
def test_a_text_without_words_is_refused(process, tokenizer, text):
    with pytest.raises(BadInput, match='no text'):
        perplexity.measure(make_model(), tokenizer, text, process, 'plain')


@pytest.mark.parametrize('stride', [0, -1, 17])
def test_a_stride_that_leaves_gaps_or_goes_nowhere_is_refused(process, tokenizer, stride):
    with pytest.raises(BadInput, match=f'stride={stride} should be 1 to 16'):
        perplexity.measure(make_model(), tokenizer, TEXT, process, 'plain', stride)


# ---- the harness's protocol -------------------------------------------------------------------------


def test_pages_begin_at_titles_and_lose_nothing_but_blank_lines_before_the_first():
    cut = pages(TEXT)
    assert len(cut) == 6
    assert '\n'.join(cut) == TEXT.removeprefix(' \n')
    assert [page.split('\n')[0] for page in cut] == [f' = Page {i} = ' for i in range(6)]
    assert pages('a text\nof no wiki') == ['a text\nof no wiki']


@settings(deadline=None)
@given(st.lists(st.sampled_from(["s '", ' @-@ ', ' @,@ ', ' @.@ ', ' : ', ' . ', ' , ', '( ', ' )', '" ', " '", '= = =', '= =',
                                 ' N ', " 's", ' \n', '\n ', ' ° ', 'word', '7', '[ ', ' ]', '{ ', ' }', ' ? ', ' ! ', ' ; ',
                                 "/' 5/", ' '])).map(''.join))
def test_the_clean_up_is_that_of_the_harness(page):
    theirs = pytest.importorskip('lm_eval.tasks.wikitext.preprocess_wikitext', reason='pip install lm-eval')
    assert clean_page(page) == theirs.wikitext_detokenizer({'page': page})


def test_words_and_bytes_are_counted_before_the_clean_up(tokenizer):
    texts, n_words, n_bytes = perplexity.prepare(' = T = \n \n a @-@ b \n', 'harness')
    assert texts == [' = T =\n\na-b\n']
    assert (n_words, n_bytes) == (8, len(' = T = \n \n a @-@ b \n'))  # 6 and the empty ones at both ends, as the harness has it


# ---- GPT-2's protocol -------------------------------------------------------------------------------

TOKEN = st.one_of(st.sampled_from('a The U.S. 1 000 , . : ; ! ? ( ) [ ] " \' \'s \'t @-@ @,@ @.@ = - -- <unk> $ £ # % ° … ... '
                                  'Mr. St. etc. c. \\ \\\\ "" 1,000 x-y don\'t n\'t ( \'\' ."'.split()),
                  st.text(st.characters(exclude_characters=' \n', exclude_categories=['Cs']), min_size=1, max_size=4))
LINE = st.lists(TOKEN).map(lambda tokens: ' ' + ''.join(f'{token} ' for token in tokens) + '\n')


@settings(deadline=None, max_examples=500)
@given(st.lists(LINE, max_size=3).map(''.join))
def test_the_papers_clean_up_can_be_undone_for_lines_of_wikitext(text):
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
def test_the_papers_clean_up_can_be_undone_for_any_text(text):
    assert retokenize(detokenize(text)) == text


@pytest.mark.parametrize('name', ['wikitext-2/valid.txt', 'wikitext-2/test.txt', 'wikitext-2-raw/test.txt', 'wikitext-2/train.txt'])
def test_the_papers_clean_up_can_be_undone_for_real_wikitext_2(test_data, name):
    text = (test_data / name).read_bytes().decode()[:2_000_000]  # all of it, but for train.txt
    cleaned = detokenize(text)
    assert retokenize(cleaned) == text
    assert cleaned.count('@') < 0.02 * text.count('@'), 'signs between words are left'
    if 'train' not in name:
        assert cleaned.count(' , ') < 0.01 * text.count(' , ') and cleaned.count(' . ') < 0.02 * text.count(' . ')


def test_the_papers_clean_up_writes_as_people_do():
    assert detokenize(' He said : " It \'s a 1 @,@ 000 @-@ year riddle ( of <unk> ) . " \n') == \
        'He said: "It\'s a 1,000-year riddle (of <unk>)."\n'
    assert detokenize(' \n = = Early life = = \n \n') == '\n== Early life ==\n\n'
    assert detokenize(' Mr. <unk> left the U.S. in 3 @.@ 5 days \n') == 'Mr. <unk> left the U.S. in 3.5 days\n'


def test_the_papers_words_are_wikitexts_tokens_and_line_ends():
    text = ' \n = Title = \n It \'s 1 @,@ 000 . \n'
    assert perplexity.prepare(text, 'gpt2')[1:] == (3 + 6 + 3, len(text.encode()))
