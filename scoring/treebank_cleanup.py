"""The Penn Treebank's way of writing tokens, as people write words.

    but it does n't cost $ N <unk> and the fund 's up N %   ->   but it doesn't cost $N <unk> and the fund's up N%

`detokenize_treebank` can be undone for any text (`retokenize_treebank` in tests/test_treebank_cleanup.py), so a probability
of the cleaned text is one of the original. `clean_book`, for books whose text went through the Treebank's tokenizer, cannot.
Knows nothing about models.
"""
import itertools
import re

from scoring.wikitext_cleanup import LINES, WIKITEXT_LINE

TO_THE_LEFT = ("n't", "'re", "'ve", "'ll", "'s", "'d", "'m", "'", '%')  # the longer of two ends first; no space before them
TO_THE_RIGHT = '$', '#'  # no space after them


def detokenize_treebank(text: str) -> str:
    """The Treebank's tokens as words, line by line, as Mikolov's version has them: a space before and behind each token.

    A line of another form is kept and gets a space in front, by which it is known. Tokens that could not be found again in a
    word are written apart, and a token that would be cut even then gets a backslash in front.
    """
    return ''.join(map(detokenize_line, LINES.findall(text)))


def detokenize_line(line):
    if not WIKITEXT_LINE.fullmatch(line):
        return ' ' + line
    words = []
    for token in line.split(' ')[1:-1]:
        if words and (token in TO_THE_LEFT or words[-1][-1] in TO_THE_RIGHT):
            words[-1].append(token)
        else:
            words.append([token])
    return ' '.join(itertools.chain.from_iterable(map(join_tokens, words))) + '\n'


def join_tokens(tokens):
    """[the word that the tokens make], or one string for each token if `split_word` would not find them in the word."""
    if split_word(''.join(tokens)) == tokens:
        return [''.join(tokens)]
    return [token if split_word(token) == [token] else '\\' + token for token in tokens]


def split_word(word):
    """The tokens of a word, as the Treebank would have them. Takes linear time, so nothing is cut off or looked at twice."""
    if word.startswith('\\'):
        return [word[1:]]
    start, end, last = 0, len(word), []
    while end - start > 1 and word[start] in TO_THE_RIGHT:
        start += 1
    while suffix := next((suffix for suffix in TO_THE_LEFT if word.endswith(suffix, start + 1, end)), ''):
        last.append(suffix)
        end -= len(suffix)
    return [*word[:start], word[start:end], *reversed(last)]


BOOK_RULES = [(re.compile(pattern), replacement) for pattern, replacement in [
    (r'-LRB- ?', '('), (r' ?-RRB-', ')'), (r'-LCB- ?', '{'), (r' ?-RCB-', '}'), (r'-LSB- ?', '['), (r' ?-RSB-', ']'),
    (r'`` ?', '"'), (r" ?''", '"'), (r'` ?', "'"),
    (r" (n't|'(?:s|re|ve|ll|d|m)?)(?=\W|$)", r'\1'), (r' ([,.;:!?%])(?=\W|$)', r'\1')]]


def clean_book(text: str) -> str:
    """Tokens of the Treebank, quotation marks and brackets among them, as a book has them."""
    for pattern, replacement in BOOK_RULES:
        text = pattern.sub(replacement, text)
    return text
