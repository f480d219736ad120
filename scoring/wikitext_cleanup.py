"""WikiText's text as people write it, in two ways: as lm-evaluation-harness does it, and in a way that can be undone.

    He said : " It 's a 1 @,@ 000 @-@ year riddle . "   ->   He said: "It's a 1,000-year riddle."

WikiText is published as tokens with spaces between them, and models are trained on ordinary text. `pages` and `clean_page`
are the harness's; what they change cannot be recovered. `detokenize` can be undone for any text (`retokenize` in
tests/test_wikitext_cleanup.py), so a probability of the cleaned text is one of the original. Knows nothing about models.
"""
import itertools
import re

# ---- the harness's clean-up -------------------------------------------------------------------------


def pages(text: str) -> list[str]:
    """The pages of WikiText as EleutherAI/wikitext_document_level cuts them; other text is one page."""
    found, page = [], []
    for line in text.split('\n'):
        title = line.replace('= = =', '===').replace('= =', '==').strip()
        if title.startswith('= ') and title.endswith(' =') and page:
            found.append('\n'.join(page))
            page = []
        page.append(line)
    found = [page for page in found if page.strip()]
    return [*found, '\n'.join(page)]


def strip_inside(opening, closing):
    """(pattern, replacement) that take away white space inside a pair of signs, as the harness's `\\(\\s*([^\\)]*?)\\s*\\)`.

    That pattern takes quadratic time where an opening sign has no closing one: each reads on to the end. This one matches
    there too, and changes nothing, so that nothing is read twice.
    """
    return (f'{re.escape(opening)}([^{re.escape(closing)}]*)({re.escape(closing)}?)',
            lambda found: f'{opening}{found[1].strip()}{closing}' if found[2] else found[0])


# The rules of task `wikitext`, version 2 of lm-evaluation-harness, in its order and with its mistakes: figures compare
# with the harness's only if every rule changes the same.
HARNESS_RULES = [(re.compile(pattern), replacement) for pattern, replacement in [
    (r"s '", "s'"), (r"/' [0-9]/", "/'[0-9]/"), (r' @-@ ', '-'), (r' @,@ ', ','), (r' @\.@ ', '.'),
    (r' : ', ': '), (r' ; ', '; '), (r' \. ', '. '), (r' ! ', '! '), (r' \? ', '? '), (r' , ', ', '),
    strip_inside('(', ')'), strip_inside('[', ']'), strip_inside('{', '}'), strip_inside('"', '"'), strip_inside("'", "'"),
    (r'= = = =', '===='), (r'= = =', '==='), (r'= =', '=='), (r' ° ', '°'),
    (r' \n', '\n'), (r'\n ', '\n'), (r' N ', ' 1 '), (r" 's", "'s")]]


def clean_page(page: str) -> str:
    for pattern, replacement in HARNESS_RULES:
        page = pattern.sub(replacement, page)
    return page


# ---- a clean-up that can be undone ------------------------------------------------------------------

LINES = re.compile(r'[^\n]*\n|[^\n]+')
WIKITEXT_LINE = re.compile(r' ([^ \n]+ )*\n')
TO_THE_LEFT = set(""", . ... ; : ! ? ) ] % 's 't 're 've 'm 'll 'd ° …""".split())  # no space before them
TO_THE_RIGHT = set('( [ $ £ € #'.split())  # no space after them
BETWEEN = {'@-@': '-', '@,@': ',', '@.@': '.'}  # no space on either side; WikiText's token: the sign
BETWEEN_TOKENS = {sign: token for token, sign in BETWEEN.items()}
CONTRACTIONS = frozenset(token for token in TO_THE_LEFT if token[0] == "'")
FIRST = frozenset('([$£€#"')
LAST = frozenset(',.;:!?)]%°…"')
INNER = re.compile(r'(?<=[^\W_]|>)([-,.])(?=[^\W_]|<)')
INITIALS = re.compile(r'(?:[A-Za-z]\.)+')
ABBREVIATIONS = frozenset(f'{word}.' for word in 'No Nos St Mr Mrs Ms Dr Jr Sr Lt Col Gen Capt Sgt Maj Adm Rev Prof Inc Co '
                          'Corp Ltd Bros vs etc Ph.D Mt Ft Vol pp Gov Sen Rep Hon'.split())
LONGEST_ABBREVIATION = max(map(len, ABBREVIATIONS))


def detokenize(text: str) -> str:
    """WikiText's tokens as words, line by line.

    A line of WikiText begins with a space, has one space between tokens and one at its end. A line of another form is kept
    and gets a space in front, by which it is known. Tokens that could not be found again in a word are
    written apart, and a token that would be cut even then gets a backslash in front.
    """
    return ''.join(map(detokenize_line, LINES.findall(text)))


def detokenize_line(line):
    if not WIKITEXT_LINE.fullmatch(line):
        return ' ' + line
    words, in_quotes = [], False
    no_space = False  # between the last token and the next
    for token in line.split(' ')[1:-1]:
        to_the_left = token in TO_THE_LEFT or token in BETWEEN or token == '"' and in_quotes
        if words and (no_space or to_the_left or token == '=' == words[-1][-1]):
            words[-1].append(token)
        else:
            words.append([token])
        in_quotes ^= token == '"'
        no_space = token in TO_THE_RIGHT or token in BETWEEN or token == '"' and in_quotes
    return ' '.join(itertools.chain.from_iterable(map(join_tokens, words))) + '\n'


def join_tokens(tokens):
    """[the word that the tokens make], or one string for each token if `split_word` would not find them in the word."""
    word = ''.join(BETWEEN.get(token, token) for token in tokens)
    if split_word(word) == tokens:
        return [word]
    return [token if split_word(token) == [token] else '\\' + token for token in tokens]


def split_word(word):
    """The tokens of a word, as WikiText would have them. Takes linear time, so nothing is cut off or looked at twice."""
    if word.startswith('\\'):
        return [word[1:]]
    if word in BETWEEN or word and set(word) == {'.'} and word != '.':
        return [word]
    if word and set(word) == {'='}:
        return list(word)
    start, end = 0, len(word)
    while end - start > 1 and word[start] in FIRST:
        start += 1
    initials = INITIALS.match(word, start)
    end_of_initials, last = initials.end() if initials else start, []

    def is_abbreviation():
        if end <= end_of_initials:
            return (end - start) % 2 == 0
        return end - start <= LONGEST_ABBREVIATION and word[start:end] in ABBREVIATIONS

    while end - start > 1 and not is_abbreviation():
        n = ending_length(word, start, end)
        if n == 0:
            break
        last.append(word[end - n:end])
        end -= n
    # every second part is a sign between words
    parts = [word[start:end]] if is_abbreviation() else INNER.split(word[start:end])
    return [*word[:start], *(BETWEEN_TOKENS[part] if i % 2 else part for i, part in enumerate(parts)), *reversed(last)]


def ending_length(word, start, end):
    """How many characters the last token of word[start:end] has if that is not all of it, else 0."""
    last = word[max(start, end - 3):end]
    if last in CONTRACTIONS or last[-2:] in CONTRACTIONS:
        n = 3 if last in CONTRACTIONS and len(last) == 3 else 2
    else:
        n = int(last[-1] in LAST)
        while last[-1] == '.' and end - n > start and word[end - n - 1] == '.':
            n += 1
    return n if n < end - start else 0
