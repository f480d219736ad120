"""The text stream against the obvious reference: decode everything, cut at the first stop string."""
import codecs
import types

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine import Request
from inference.text import TextStream


class Pieces:
    """A tokenizer with the tokens that a test names; token 0 ends a document."""
    eot = 0

    def __init__(self, pieces):
        self.pieces = [b'<end>', *pieces]

    def token_bytes(self, i):
        return self.pieces[i]


def stream(pieces, stops=(), n_at_once=1, prompt=(), echo=False, n_hidden=0, logprobs=0, ends_with_eot=False):
    """Yields the TextStream after each read, when n of these tokens come between two of them."""
    ids = list(range(1, len(prompt) + 1))
    new = [len(ids) + 1 + i for i in range(len(pieces))] + [0] * ends_with_eot
    sequence = types.SimpleNamespace(
        request=Request(ids, len(new), logprobs=logprobs, stop_tokens=(0,)), tokens=[], logprobs=[(-1.0, [])] * len(new),
        prompt_logprobs=[None, *[(-2.0, [])] * (len(ids) - 1)] if ids else [], finish_reason=None)
    text = TextStream(sequence, Pieces([*prompt, *pieces]), stops, n_echoed=len(ids) - n_hidden if echo else 0)
    for i in range(0, max(1, len(new)), n_at_once):
        sequence.tokens += new[i:i + n_at_once]
        if len(sequence.tokens) == len(new):
            sequence.finish_reason = 'stop' if ends_with_eot else 'length'
        text.read()
        yield text
        if text.finish_reason:
            return


def write(pieces, stops=(), **how):
    """The finished text."""
    return list(stream(pieces, stops, **how))[-1]


def pieces_of(pieces, stops=(), **how):
    """What each read adds to the text."""
    shown, added = '', []
    for text in stream(pieces, stops, **how):
        added.append(text.text[len(shown):])
        shown = text.text
    return added


def cut_by_hand(text, stops):
    """The text before the first stop string that is complete, found character by character; and whether there is one."""
    for end in range(len(text) + 1):
        found = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[:min(found)], True
    return text, False


@st.composite
def cut_bytes(draw, data):
    """Bytes cut into tokens anywhere, also within characters."""
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)]) if a < b]


TEXTS = st.text(alphabet='ab\né€🙂', max_size=30).map(str.encode)
ANY_BYTES = st.lists(st.sampled_from([b'a', b'b', b'\n', b'\xc3', b'\xa9', b'\xe2', b'\x82\xac', b'\xff']),
                     max_size=30).map(b''.join)
STOPS = st.lists(st.text(alphabet='ab\né🙂\ufffd', min_size=1, max_size=4), max_size=3)


@settings(max_examples=400, deadline=None)
@given(st.one_of(TEXTS, ANY_BYTES), STOPS, st.integers(1, 4), st.booleans(), st.data())
def test_a_text_equals_everything_decoded_and_cut(written, stops, n_at_once, ends_with_eot, data):
    pieces = data.draw(cut_bytes(written))
    reads = [(text.text, text.finish_reason) for text in stream(
        pieces, stops, n_at_once=n_at_once, ends_with_eot=ends_with_eot)]
    expected, stopped = cut_by_hand(written.decode(errors='replace'), stops)
    assert reads[-1] == (expected, 'stop' if stopped or ends_with_eot else 'length')
    for text, reason in reads[:-1]:
        assert expected.startswith(text) and reason is None


@settings(max_examples=200, deadline=None)
@given(TEXTS, STOPS, st.integers(1, 4), st.data())
def test_no_character_is_held_back_longer_than_necessary(written, stops, n_at_once, data):
    pieces = data.draw(cut_bytes(written))
    for text in stream(pieces, stops, n_at_once=n_at_once):
        so_far = codecs.getdecoder('utf-8')(b''.join(pieces[:text.n_read]), 'ignore')[0]
        if text.finish_reason is None:
            held = so_far[len(text.text):]
            assert so_far.startswith(text.text)
            assert held == '' or any(stop.startswith(held) for stop in stops)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='abé€🙂', min_size=1, max_size=20), st.data())
def test_each_token_is_given_once_with_its_offset(written, data):
    pieces = data.draw(cut_bytes(written.encode()))
    tokens = write(pieces, ['aba'], n_at_once=2).tokens
    cut, stopped = cut_by_hand(written, ['aba'])
    assert [token.id for token in tokens] == list(range(1, len(tokens) + 1))
    assert len(tokens) == len(pieces) or stopped
    ends = [sum(map(len, pieces[:i])) for i in range(len(tokens))]
    assert [token.offset for token in tokens] == [
        len(codecs.getdecoder('utf-8')(b''.join(pieces)[:end], 'ignore')[0]) for end in ends]
    assert all(token.offset < len(cut) for token in tokens) or not stopped


def test_what_may_become_a_stop_string_is_held_back_until_it_cannot():
    assert pieces_of([b'a', b'\n', b'\n', b'b'], ['\n\n\n']) == ['a', '', '', '\n\nb']
    assert pieces_of([b'a', b'\n', b'\n', b'\n', b'b'], ['\n\n\n']) == ['a', '', '', '']
    assert pieces_of([b'a', b'\n'], ['\n\n']) == ['a', '\n']


def test_a_character_that_is_never_completed_becomes_a_replacement_character():
    assert write([b'a', b'\xf0\x9f']).text == 'a\ufffd'


def test_the_token_that_ends_a_document_is_the_last_one_and_spells_nothing():
    text = write([b'a', b'\xf0\x9f'], ends_with_eot=True)
    assert text.text == 'a\ufffd' and [(token.id, token.offset) for token in text.tokens] == [(1, 0), (2, 1), (0, 2)]
    assert [token.id for token in write([b'a', b'b'], ['b'], ends_with_eot=True).tokens] == [1]
    assert [token.id for token in write([b'a', b'\xf0'], ['\ufffd'], ends_with_eot=True).tokens] == [1]


def test_a_prompt_that_ends_within_a_character_is_completed_by_the_text():
    euro = '€'.encode()
    assert write([euro[2:], b'!'], prompt=[b'5', euro[:2]]).text == '€!'
    text = write([euro[2:], b'!'], prompt=[b'5', euro[:2]], echo=True)
    assert text.text == '5€!'
    assert [(token.offset, token.logprob) for token in text.tokens] == [(0, None), (1, -2.0), (1, -1.0), (2, -1.0)]


def test_an_echoed_prompt_holds_no_stop_string_and_no_hidden_token():
    assert write([b'b', b'x', b'b'], ['x'], prompt=[b'x', b'a'], echo=True).text == 'xab'
    text = write([b'b'], prompt=[b'x', b'a'], echo=True, n_hidden=1)
    assert text.text == 'ab' and [token.id for token in text.tokens] == [2, 3]


def test_tokens_are_kept_only_where_log_probabilities_are_asked_for():
    assert write([b'a', b'b'], logprobs=None).tokens == []
