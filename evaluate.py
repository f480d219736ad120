"""How well a model predicts a text: perplexity by token and by word, bits per byte.

A perplexity by token depends on the vocabulary; by word and by byte it does not, so those are what compares models.
Each figure is exp(nats / count), where the count is that of the text before anything was done to it. Three protocols
are in use, and their figures do not compare:

    harness   lm-evaluation-harness's task `wikitext`: every page by itself, after a clean-up of spaces that cannot be
              undone; words are what stands between white space
    gpt2      the paper's (Radford et al. 2019, section 3.1): the whole text in one, after a clean-up that can be undone,
              so that a probability of the cleaned text is one of the original; words are WikiText's, line ends included
    plain     the whole text in one, as it is: for any text

`wikitext.py --eval=True` runs all of them. This module knows nothing about where texts come from.
"""
import itertools
import math
import re

import torch
from tqdm import tqdm

from runtime.errors import BadInput

PROTOCOLS = 'harness', 'gpt2', 'plain'
ROW_UNIT = 128  # windows are filled up to a multiple of it, so that few shapes occur


def measure(model, tokenizer, text, process, protocol='plain', stride=None, batch_size=8, progress=False, compiled=False):
    """{'tokens', 'words', 'bytes', 'nats', 'token_perplexity', 'word_perplexity', 'bits_per_byte'} of a text.

    stride: how far the window of block_size tokens moves on; None: by its length, so that windows do not overlap.
    Small strides give every token more context, lower perplexities and take longer.
    process: as in process.py; every process takes its share of the windows and gets the same result.
    compiled: torch.compile the model first.
    """
    texts, n_words, n_bytes = prepare(text, protocol)
    documents = tokenizer.encode_batch(texts)
    n_tokens = sum(map(len, documents))
    if not n_tokens or not n_words:
        raise BadInput('there is no text to measure the perplexity on')
    nats = score(model, documents, tokenizer.eot, process, stride, batch_size, progress, compiled)
    return {'tokens': n_tokens, 'words': n_words, 'bytes': n_bytes, 'nats': nats,
            'token_perplexity': math.exp(min(nats / n_tokens, 700)), 'word_perplexity': math.exp(min(nats / n_words, 700)),
            'bits_per_byte': nats / n_bytes / math.log(2)}


def prepare(text, protocol):
    """(what the model reads, in documents; the number of words and of bytes in the original)."""
    if protocol == 'harness':
        originals = pages(text)
        n_words = sum(len(re.split(r'\s+', page)) for page in originals)  # as the harness counts: a space at the end adds one
        return [clean_page(page) for page in originals], n_words, sum(len(page.encode()) for page in originals)
    if protocol == 'gpt2':
        return [detokenize(text)], len(text.split()) + text.count('\n'), len(text.encode())
    return [text], len(text.split()), len(text.encode())


@torch.no_grad()
def score(model, documents, eot, process, stride=None, batch_size=8, progress=False, compiled=False):
    """The sum over all tokens of all documents of -log p(token | those before it), in nats.

    Every document is predicted from <|endoftext|> on. The processes take the batches in turns, so that the batches are
    the same however many there are.
    """
    block_size = model.config.block_size
    if stride is not None and not 1 <= stride <= block_size:
        raise BadInput(f'stride={stride} should be 1 to {block_size}, the longest context of the model')
    spans = [(d, *span) for d, ids in enumerate(documents) for span in windows(len(ids), block_size, stride or block_size)]
    spans.sort(key=lambda span: span[1] - span[3])  # the longest first
    batches = [spans[i:i + batch_size] for i in range(0, len(spans), batch_size)]
    forward = torch.compile(model) if compiled else model
    training = model.training
    model.eval()
    nats = torch.zeros((), dtype=torch.float64)
    try:
        with tqdm(total=len(spans), desc='perplexity', unit=' windows', disable=not progress or process.rank > 0,
                  leave=False) as bar:
            for i, batch in enumerate(batches):
                if i % process.world_size == process.rank:
                    x, y = make_batch(documents, batch, eot, batch_size, block_size)
                    with process.autocast():
                        mean = forward(x.to(process.device), y.to(process.device))
                    nats += mean.double().cpu() * (y >= 0).sum()
                bar.update(len(batch))
    finally:
        model.train(training)
    return process.sum([nats])[0]


def windows(n_tokens, block_size, stride):
    """Yields (begin, first, end): with tokens begin - 1 .. end - 2 read, those from `first` to end - 1 are new.

    The first window predicts as much as fits; each one after it moves on by `stride` tokens, or to the end of the text,
    and predicts the tokens that no window before it has. Token -1 is <|endoftext|>.
    """
    first = 0
    while first < n_tokens:
        end = min(first + (stride if first else block_size), n_tokens)
        yield max(0, end - block_size), first, end
        first = end


def make_batch(documents, spans, eot, n_rows, block_size):
    """(n_rows, T) inputs and targets; what is no target of its window is -1."""
    T = min(block_size, -(-max(end - begin for _, begin, _, end in spans) // ROW_UNIT) * ROW_UNIT)
    x = torch.zeros(n_rows, T, dtype=torch.int64)
    y = torch.full((n_rows, T), -1)
    for row, (d, begin, first, end) in enumerate(spans):
        ids = documents[d]
        x[row, :end - begin] = torch.tensor([ids[begin - 1] if begin else eot, *ids[begin:end - 1]])
        y[row, first - begin:end - begin] = torch.tensor(ids[first:end])
    return x, y


# ---- the harness's clean-up -------------------------------------------------------------------------


def pages(text):
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


# In this order; task `wikitext`, version 2 of lm-evaluation-harness, with the slips that its rules have.
HARNESS_RULES = [(re.compile(pattern), replacement) for pattern, replacement in [
    (r"s '", "s'"), (r"/' [0-9]/", "/'[0-9]/"), (r' @-@ ', '-'), (r' @,@ ', ','), (r' @\.@ ', '.'),
    (r' : ', ': '), (r' ; ', '; '), (r' \. ', '. '), (r' ! ', '! '), (r' \? ', '? '), (r' , ', ', '),
    (r'\(\s*([^\)]*?)\s*\)', r'(\1)'), (r'\[\s*([^\]]*?)\s*\]', r'[\1]'), (r'{\s*([^}]*?)\s*}', r'{\1}'),
    (r'"\s*([^"]*?)\s*"', r'"\1"'), (r"'\s*([^']*?)\s*'", r"'\1'"),
    (r'= = = =', '===='), (r'= = =', '==='), (r'= =', '=='), (r' ° ', '°'),
    (r' \n', '\n'), (r'\n ', '\n'), (r' N ', ' 1 '), (r" 's", "'s")]]


def clean_page(page):
    for pattern, replacement in HARNESS_RULES:
        page = pattern.sub(replacement, page)
    return page


# ---- a clean-up that can be undone ------------------------------------------------------------------

LINES = re.compile(r'[^\n]*\n|[^\n]+')
WIKITEXT_LINE = re.compile(r' ([^ \n]+ )*\n')
TO_THE_LEFT = set(""", . ... ; : ! ? ) ] % 's 't 're 've 'm 'll 'd ° …""".split())  # written right behind what is before them
TO_THE_RIGHT = set('( [ $ £ € #'.split())  # written right before what follows
BETWEEN = {'@-@': '-', '@,@': ',', '@.@': '.'}  # written without spaces on both sides
OF_BETWEEN = {sign: token for token, sign in BETWEEN.items()}
ENDINGS = tuple(token for token in TO_THE_LEFT if token[0] == "'")
FIRST = re.compile(r'[(\[$£€#"]')
LAST = re.compile(r'[,.;:!?)\]%°…"]$')
DOTS = re.compile(r'\.{2,}$')
INNER = re.compile(r'(?<=[^\W_]|>)([-,.])(?=[^\W_]|<)')
ABBREVIATION = re.compile(r'(?:[A-Za-z]\.)+|(?:No|Nos|St|Mr|Mrs|Ms|Dr|Jr|Sr|Lt|Col|Gen|Capt|Sgt|Maj|Adm|Rev|Prof|Inc|Co|Corp|Ltd'
                          r'|Bros|vs|etc|Ph\.D|Mt|Ft|Vol|pp|Gov|Sen|Rep|Hon)\.')


def detokenize(text):
    """WikiText as people write: ' He said : " It 's a 1 @,@ 000 @-@ year riddle . " ' -> 'He said: "It's a 1,000-year riddle."'

    `retokenize` undoes it for any text. A line of WikiText begins with a space, has one between tokens and one at its end;
    lines of another form are kept, behind a space. Words whose tokens could not be told apart again are written apart,
    and get a backslash if that is not enough.
    """
    return ''.join(map(detokenize_line, LINES.findall(text)))


def detokenize_line(line):
    if not WIKITEXT_LINE.fullmatch(line):
        return ' ' + line
    words, quoted = [], False
    sticks = False  # whether what comes next is written right behind what was last
    for token in line.split(' ')[1:-1]:
        before = token in TO_THE_LEFT or token in BETWEEN or token == '"' and quoted
        if words and (sticks or before or token == '=' == words[-1][-1]):
            words[-1].append(token)
        else:
            words.append([token])
        quoted ^= token == '"'
        sticks = token in TO_THE_RIGHT or token in BETWEEN or token == '"' and quoted
    return ' '.join(itertools.chain.from_iterable(map(write_word, words))) + '\n'


def write_word(tokens):
    """Tokens that belong together as one word, or apart if `read_word` could not find them in it."""
    word = ''.join(BETWEEN.get(token, token) for token in tokens)
    if read_word(word) == tokens:
        return [word]
    return [token if read_word(token) == [token] else '\\' + token for token in tokens]


def retokenize(text):
    """The text that `detokenize` was given."""
    return ''.join(map(retokenize_line, LINES.findall(text)))


def retokenize_line(line):
    if line.startswith(' '):
        return line[1:]
    tokens = itertools.chain.from_iterable(map(read_word, line[:-1].split(' ')))
    return ' ' + ''.join(f'{token} ' for token in tokens if token) + '\n'


def read_word(word):
    """The tokens of a word."""
    if word.startswith('\\'):
        return [word[1:]]
    if word in BETWEEN:
        return [word]
    if word and set(word) == {'='}:
        return list(word)
    if DOTS.fullmatch(word):
        return [word]
    first, last = [], []
    while len(word) > 1 and FIRST.match(word):
        first.append(word[0])
        word = word[1:]
    while len(word) > 1 and not ABBREVIATION.fullmatch(word):
        ending = next((e for e in ENDINGS if word.endswith(e) and len(word) > len(e)), None)
        ending = ending or (DOTS.search(word) or LAST.search(word) or [None])[0]
        if ending is None or word in (ending, *ENDINGS):
            break
        last.insert(0, ending)
        word = word[:-len(ending)]
    parts = [word] if ABBREVIATION.fullmatch(word) else INNER.split(word)  # every second one is a sign between
    return [*first, *(OF_BETWEEN[part] if i % 2 else part for i, part in enumerate(parts)), *last]
