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


# The rules of task `wikitext`, version 2 of lm-evaluation-harness, in its order and with its mistakes: figures compare
# with the harness's only if every rule is the same.
HARNESS_RULES = [(re.compile(pattern), replacement) for pattern, replacement in [
    (r"s '", "s'"), (r"/' [0-9]/", "/'[0-9]/"), (r' @-@ ', '-'), (r' @,@ ', ','), (r' @\.@ ', '.'),
    (r' : ', ': '), (r' ; ', '; '), (r' \. ', '. '), (r' ! ', '! '), (r' \? ', '? '), (r' , ', ', '),
    (r'\(\s*([^\)]*?)\s*\)', r'(\1)'), (r'\[\s*([^\]]*?)\s*\]', r'[\1]'), (r'{\s*([^}]*?)\s*}', r'{\1}'),
    (r'"\s*([^"]*?)\s*"', r'"\1"'), (r"'\s*([^']*?)\s*'", r"'\1'"),
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
CONTRACTIONS = tuple(token for token in TO_THE_LEFT if token[0] == "'")
FIRST = re.compile(r'[(\[$£€#"]')
LAST = re.compile(r'[,.;:!?)\]%°…"]$')
DOTS = re.compile(r'\.{2,}$')
INNER = re.compile(r'(?<=[^\W_]|>)([-,.])(?=[^\W_]|<)')
ABBREVIATION = re.compile(r'(?:[A-Za-z]\.)+|(?:No|Nos|St|Mr|Mrs|Ms|Dr|Jr|Sr|Lt|Col|Gen|Capt|Sgt|Maj|Adm|Rev|Prof|Inc|Co|Corp'
                          r'|Ltd|Bros|vs|etc|Ph\.D|Mt|Ft|Vol|pp|Gov|Sen|Rep|Hon)\.')


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
    """The tokens of a word, as WikiText would have them."""
    if word.startswith('\\'):
        return [word[1:]]
    if word in BETWEEN or DOTS.fullmatch(word):
        return [word]
    if word and set(word) == {'='}:
        return list(word)
    first, last = [], []
    while len(word) > 1 and FIRST.match(word):
        first.append(word[0])
        word = word[1:]
    while len(word) > 1 and not ABBREVIATION.fullmatch(word):
        ending = next((e for e in CONTRACTIONS if word.endswith(e) and len(word) > len(e)), None)
        ending = ending or (DOTS.search(word) or LAST.search(word) or [None])[0]
        if ending is None or word in (ending, *CONTRACTIONS):
            break
        last.insert(0, ending)
        word = word[:-len(ending)]
    parts = [word] if ABBREVIATION.fullmatch(word) else INNER.split(word)  # every second part is a sign between words
    return [*first, *(BETWEEN_TOKENS[part] if i % 2 else part for i, part in enumerate(parts)), *last]
