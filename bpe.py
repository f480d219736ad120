"""Byte-level BPE from first principles: train one on any text, encode, decode, save, load; GPT-2's own too.

    python bpe.py --show='Hello world' --tokenizer=data/stdlib/tokenizer.json    # see how a text is cut into tokens
    python corpus.py --source=texts/ --vocab_size=4096                           # train one, with the data it is for

The algorithm itself is in bpe_textbook.py, in a hundred lines to be read first. `learn_merges` learns the same merges
thousands of times faster, and `Tokenizer.encode` gives the same ids through tiktoken's Rust. `encode_array`, which data scripts
call, does so through gigatoken's where that is installed (`pip install gigatoken`), about twenty times as fast.

Files are Hugging Face `tokenizer.json`. This module knows nothing about shards, data sets or models.
"""
import collections
import concurrent.futures
import functools
import glob
import heapq
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager

import numpy as np
import regex
from tqdm import tqdm

from bpe_textbook import CHARACTER_OF_BYTE, CHUNK, ID_OF_BYTE, SPLIT_PATTERN, merge_all, to_characters, tokens_of
from configurator import configure
from runtime.errors import BadInput, first_line, one_line_errors, warn_once
from runtime.files import JSON_BYTES, atomic_write, open_to_read, read_json
from runtime.parallel import available_cores, in_pieces

DEFAULTS = {
    'show': 'Hello world',  # the text that is printed cut into coloured tokens, with their ids
    'tokenizer': 'gpt2',    # gpt2, a tokenizer.json, or a folder with GPT-2's two files
}

# as OpenAI published it and others write it into files; SPLIT_PATTERN cuts in the same places in linear time
PUBLISHED_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
EDGE_OF_WHITE_SPACE = regex.compile(r'(?<=\S)\s|\s(?=\S)')
EOT = '<|endoftext|>'
MAX_VOCAB = 65536              # ids are stored as uint16
MAX_SPECIAL_TOKENS, MAX_SPECIAL_LENGTH = 1000, 256  # in a file; tiktoken looks for each of them in all text
MAX_MERGE_STEPS = 1 << 22      # to check a file's merges; GPT-2's take 0.3 million
COUNTED_AT_ONCE = 1 << 20      # characters: large enough to send to another process
COUNTED_ALONE = 16             # pieces of that size: counted in the time that other processes need to start
ENCODED_AT_ONCE = 1 << 16      # characters: tiktoken fails on a million white-space characters in a row
BYTE_OF_CHARACTER = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}
SAMPLE = (  # text of many kinds, on which gigatoken has to agree with tiktoken
    "I'LL we've  don't 's\r\n\n\tx = 12345; // 50%!?\u00a0\u3000\u2028 caf\u00e9 e\u0301 \u0928\u092e\u0938\u094d "
    f'\u4e2d\u6587 \U0001f469\u200d\U0001f4bb {EOT} \u00bd\u2167 \u0661\u0662\0\x7f'
    f'{" " * 5000}{chr(10) * 3000}{"ab" * 3000}{chr(233) * 3000}')
NOTHING, GAP = -1, -2          # in training: no token begins in this cell; a cell between two chunks


# ---- training: counting chunks ----------------------------------------------------------------------


def count_chunks(texts: Iterable[str], progress: bool = False, processes: int | None = None) -> dict[str, int]:
    """How often each chunk of GPT-2's pattern occurs: {chunk: count}.

    texts: read once and a bounded piece at a time, so together they may be larger than memory.
    processes: what comes after the first 16 MB is counted by so many; default: all cores.
    """
    others = (processes or available_cores()) - 1
    pieces = in_pieces((part for text in texts for part in cut(text, COUNTED_AT_ONCE)), COUNTED_AT_ONCE)
    counts, pending = collections.Counter(), collections.deque()
    with tqdm(desc='counting', unit=' characters', unit_scale=True, disable=not progress) as bar, ExitStack() as stack:
        for number, piece in enumerate(pieces):
            if number == COUNTED_ALONE and others:
                spawn = multiprocessing.get_context('spawn')
                pool = stack.enter_context(concurrent.futures.ProcessPoolExecutor(others, mp_context=spawn))
            if number >= COUNTED_ALONE and len(pending) < 2 * others:
                pending.append(pool.submit(count_piece, piece))
            else:  # this process counts too, whenever the others have enough to do
                counts.update(count_piece(piece))
            bar.update(sum(map(len, piece)))
            while pending and pending[0].done():
                counts.update(pending.popleft().result())
        for future in pending:
            counts.update(future.result())
    return counts


def count_piece(texts):
    counts = collections.Counter()
    for text in texts:
        counts.update(CHUNK.findall(without_surrogates(text)))
    return counts


def cut(text, size):
    """A text in parts of `size` characters or somewhat more, whose chunks are the chunks of the whole.

    Such places are: where white space begins, as no chunk has any behind other characters; and before the
    last sign of white space, which belongs to what follows. A text without any stays whole.
    """
    start = 0
    while len(text) - start > size:
        place = EDGE_OF_WHITE_SPACE.search(text, start + size)
        if not place:
            break
        yield text[start:place.start()]
        start = place.start()
    yield text[start:]


# ---- training: learning merges ----------------------------------------------------------------------


def learn_merges(chunk_counts: dict[str, int], n_merges: int, progress: bool = False) -> list[tuple[int, int]]:
    """What bpe_textbook.learn_merges_slowly learns, thousands of times faster.

    All places of a pair come up in the one merge that makes the newer of its two tokens; from then on the pair
    only becomes rarer. So each pair is put in a heap once, with its places and its count of that moment, and
    the pair on top is counted again before it is believed: what others still have is too high or right, never
    too low. Pairs rarer than a threshold are left out, which is nearly all of them; when the frequent ones
    are used up, the next round counts everything again with a lower threshold.
    """
    merges = []
    begin, weight = lay_out(chunk_counts)
    length = np.empty(256 + n_merges, dtype=np.int64)
    with tqdm(total=n_merges, desc='merging', unit=' merges', disable=not progress) as bar:
        while len(merges) < n_merges:
            # Each token gets one cell again. `begin` has the id of the token that begins in a cell, `end` of
            # the one that ends there; a token made in this round is as long as its parts.
            begin, weight = begin[begin != NOTHING], weight[begin != NOTHING]
            end = begin.copy()
            length[:256 + len(merges)] = 1
            left = np.flatnonzero((begin[:-1] != GAP) & (begin[1:] != GAP))
            pairs = group_pairs(begin[left], begin[left + 1], left, weight)
            if not pairs:
                break
            threshold = min(count for count, *_ in pairs)
            heap = [(-count, a, b, places) for count, a, b, places in pairs]
            heapq.heapify(heap)
            while heap and len(merges) < n_merges:
                count, a, b, first = heapq.heappop(heap)
                first = first[(begin[first] == a) & (begin[first + length[a]] == b)]
                count_now = int(weight[first].sum())
                if count_now < -count:
                    if count_now >= threshold:
                        heapq.heappush(heap, (-count_now, a, b, first))
                    continue
                new = 256 + len(merges)
                merges.append((a, b))
                bar.update()
                length[new] = length[a] + length[b]
                if a == b:
                    first = without_overlaps(first, length[a])
                after = first + length[new]
                begin[first] = new
                begin[first + length[a]] = NOTHING
                end[after - 1] = new
                left, right = end[first - 1], begin[after]
                followed, preceded = right != GAP, (left != GAP) & (left != new)  # new after new is in `followed`
                for pairs in (
                    group_pairs(new, right[followed], first[followed], weight, threshold),
                    group_pairs(left[preceded], new, (first - length[left])[preceded], weight, threshold),
                ):
                    for count, a, b, places in pairs:
                        heapq.heappush(heap, (-count, a, b, places))
    return merges


def lay_out(chunk_counts):
    """(cells, weights): the byte ids of all chunks in a row with a gap around each, and how often each chunk occurs."""
    chunks = [chunk.encode() for chunk in chunk_counts]
    # 0xFF is in no UTF-8 text, so it can stand between chunks.
    row = np.frombuffer(b'\xff' + b''.join(chunk + b'\xff' for chunk in chunks), dtype=np.uint8)
    id_of_byte = np.array([ID_OF_BYTE[byte] for byte in range(256)], dtype=np.int32)
    id_of_byte[0xFF] = GAP
    lengths = np.fromiter((len(chunk) + 1 for chunk in chunks), dtype=np.int64, count=len(chunks))
    counts = np.fromiter(chunk_counts.values(), dtype=np.int64, count=len(chunks))
    return id_of_byte[row], np.concatenate([[0], np.repeat(counts, lengths)])


def group_pairs(left, right, places, weight, threshold=None):
    """[(count, left id, right id, places in ascending order)] of the pairs that occur at least `threshold` times;
    by default, a 16th as often as the most frequent pair.

    left, right: ids, arrays or a number; places: where each pair begins; weight: how often each cell occurs.
    """
    if len(places) == 0 or (threshold and weight[places].sum() < threshold):
        return []
    # Pair and place in one number: sorting it is far faster than a stable argsort of the pairs.
    left, right = np.asarray(left, dtype=np.uint64), np.asarray(right, dtype=np.uint64)
    ordered = np.sort(left << np.uint64(48) | right << np.uint64(32) | places.astype(np.uint64))
    keys, places = ordered >> np.uint64(32), (ordered & np.uint64(0xFFFFFFFF)).astype(np.int64)
    starts = np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])
    stops = np.append(starts[1:], len(keys))
    counts = np.add.reduceat(weight[places], starts)
    threshold = threshold or counts.max() // 16
    return [(int(counts[i]), int(keys[starts[i]]) >> 16, int(keys[starts[i]]) & 0xFFFF, places[starts[i]:stops[i]])
            for i in np.flatnonzero(counts >= threshold)]


def without_overlaps(places, length):
    """Of the places of a pair x x in ascending order, those at which merging from the left finds it."""
    index = np.arange(len(places))
    run_begins = np.concatenate([[True], np.diff(places) != length])
    index_in_run = index - np.maximum.accumulate(np.where(run_begins, index, 0))
    return places[index_in_run % 2 == 0]


# ---- the tokenizer ----------------------------------------------------------------------------------


class Tokenizer:
    """A byte-level BPE with GPT-2's split pattern.

    tokens          {bytes: id}; tokens merged earlier have smaller ids
    special_tokens  {text: id}; made from text only where `encode` is told to allow them
    vocab_size      tokens and special tokens together; ids are 0 .. vocab_size - 1
    eot             id of <|endoftext|>, which stands before every document
    merges          [(left id, right id)] in the order in which they were learned
    """

    def __init__(self, tokens: dict[bytes, int], special_tokens: dict[str, int]):
        """Raises BadInput if ids or any of the 256 bytes are missing, or if ids need more than 16 bits."""
        self.tokens, self.special_tokens, self.vocab_size = tokens, special_tokens, len(tokens) + len(special_tokens)
        if self.vocab_size > MAX_VOCAB:
            raise BadInput(f'a vocabulary of {self.vocab_size} is too large: ids have 16 bits, so {MAX_VOCAB} is the most')
        bytes_of_id = {i: token for token, i in tokens.items()} | {i: token.encode() for token, i in special_tokens.items()}
        if bytes_of_id.keys() != set(range(self.vocab_size)):
            raise BadInput(f'the ids of a vocabulary of {self.vocab_size} should be 0 .. {self.vocab_size - 1}, each of '
                           'them once')
        missing = [byte for byte in range(256) if bytes([byte]) not in tokens]
        if missing:
            raise BadInput(f'the vocabulary lacks {len(missing)} of the 256 bytes, so it is not a byte-level BPE')
        self._bytes = [bytes_of_id[i] for i in range(self.vocab_size)]
        self._of_thread = threading.local()

    # -- making one

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, special_tokens: Iterable[str] = (EOT,), progress: bool = True,
              processes: int | None = None) -> 'Tokenizer':
        """A tokenizer of exactly vocab_size entries for these texts, which are read once (see count_chunks).

        Special tokens have the last ids. Raises BadInput when vocab_size is below 256 + special tokens or above
        65536, when the texts are too small to learn so many merges from, and when a special token is a word of them.
        """
        special_tokens = list(special_tokens)
        smallest = 256 + len(special_tokens)
        n_merges = vocab_size - smallest
        if not smallest <= vocab_size <= MAX_VOCAB:
            raise BadInput(f'vocab_size={vocab_size} should be at least {smallest} (256 bytes and {len(special_tokens)} '
                           f'special tokens) and at most {MAX_VOCAB}, as ids have 16 bits')
        merges = learn_merges(count_chunks(texts, progress, processes), n_merges, progress) if n_merges else []
        if len(merges) < n_merges:
            raise BadInput(f'there is too little text for vocab_size={vocab_size}: at {smallest + len(merges)} every word '
                           'in it is one token; take that or less')
        tokens = {token: i for i, token in enumerate(tokens_of(merges))}
        for word in set(special_tokens).intersection(map(to_characters, tokens)):
            raise BadInput(f'special token {word!r} is an ordinary token too; name it like <|{word}|>')
        tokenizer = cls(tokens, {token: len(tokens) + i for i, token in enumerate(special_tokens)})
        tokenizer.merges = merges
        return tokenizer

    @classmethod
    def gpt2(cls, folder: str | None = None) -> 'Tokenizer':
        """GPT-2's own vocabulary: through tiktoken, or from a folder with encoder.json and vocab.bpe."""
        if folder is not None:
            return read_gpt2_folder(folder)
        import tiktoken
        try:
            encoding = tiktoken.get_encoding('gpt2')
        except Exception as error:
            made = sorted(glob.glob(os.path.join('data', '*', 'tokenizer.json')), key=os.path.getsize, reverse=True)
            own = f'--tokenizer={made[0]} is here, and ' if made else ''
            raise BadInput(f'GPT-2\'s vocabulary could not be fetched ({type(error).__name__}): connect once, give a folder '
                           f'with encoder.json and vocab.bpe, or another vocabulary: {own}corpus.py --vocab_size=4096 '
                           f'trains one') from error
        return cls(dict(encoding._mergeable_ranks), dict(encoding._special_tokens))

    @classmethod
    def load(cls, path: str) -> 'Tokenizer':
        """The tokenizer in a Hugging Face tokenizer.json. Raises BadInput if it is not a byte-level BPE as here."""
        data = read_json(path, advice='`python corpus.py --source=TEXTS --vocab_size=4096` trains a byte-level BPE')
        with refusal_in_one_line(f'{path} is not the tokenizer.json of a byte-level BPE'):
            check_settings(data)
            special_tokens = {token['content']: token['id'] for token in data['added_tokens']}
            # tokenizers writes a merge as 'a b' up to 0.19 and as ['a', 'b'] since
            merges = [merge.split(' ') if isinstance(merge, str) else merge for merge in data['model']['merges']]
            return from_words(data['model']['vocab'], merges, special_tokens)

    def with_special_tokens(self, names: Iterable[str]) -> 'Tokenizer':
        """This tokenizer with further special tokens behind its last id; those that it has already stay as they are."""
        new = [name for name in names if name not in self.special_tokens]
        special_tokens = self.special_tokens | {name: self.vocab_size + i for i, name in enumerate(new)}
        tokenizer = Tokenizer(self.tokens, special_tokens)
        if 'merges' in vars(self):
            tokenizer.merges = self.merges
        return tokenizer

    def extends(self, other: 'Tokenizer') -> bool:
        """Whether it gives the ids of the other one for all text, and may have further special tokens behind them."""
        return self.tokens == other.tokens and self.special_tokens.items() >= other.special_tokens.items()

    def save(self, path: str):
        """Writes a Hugging Face tokenizer.json: the same tokenizer always gives the same bytes."""
        with atomic_write(path) as file:
            file.write(self.to_json().encode())

    def to_json(self) -> str:
        """The text of a tokenizer.json with which `tokenizers.Tokenizer.from_file` gives the same ids as we do."""
        word_of_id = {i: to_characters(token) for token, i in self.tokens.items()}
        word_of_id |= {i: token for token, i in self.special_tokens.items()}
        byte_level = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': True}
        return json.dumps({
            'version': '1.0',
            'truncation': None,
            'padding': None,
            'added_tokens': [{'id': i, 'content': token, 'single_word': False, 'lstrip': False, 'rstrip': False,
                              'normalized': False, 'special': True} for token, i in self.special_tokens.items()],
            'normalizer': None,
            'pre_tokenizer': byte_level,
            'post_processor': None,
            'decoder': byte_level,
            'model': {
                'type': 'BPE', 'dropout': None, 'unk_token': None, 'continuing_subword_prefix': None,
                'end_of_word_suffix': None, 'fuse_unk': False, 'byte_fallback': False, 'ignore_merges': False,
                'vocab': {word_of_id[i]: i for i in range(self.vocab_size)},
                'merges': [f'{word_of_id[a]} {word_of_id[b]}' for a, b in self.merges],
            },
        }, ensure_ascii=False, indent=1)

    # -- text to ids and back

    def encode(self, text: str, allowed_special: Iterable[str] = ()) -> list[int]:
        """The ids of a text. Special tokens are ordinary text unless they are in allowed_special, or that is 'all'.

        A str with surrogates is read as UTF-16 would be: pairs are one character, lone ones become U+FFFD.
        """
        if allowed_special:
            allowed = set(self.special_tokens if allowed_special == 'all' else allowed_special)
            if unknown := allowed - self.special_tokens.keys():
                raise BadInput(f'{sorted(unknown)} are not special tokens here; there are {list(self.special_tokens)}')
            return self._encoding.encode(text, allowed_special=allowed, disallowed_special=())
        ids = []
        for piece in cut(text, ENCODED_AT_ONCE):
            ids += self._encoding.encode_ordinary(piece)
        return ids

    def encode_array(self, text: str) -> np.ndarray:
        """The ids of a text as a uint16 array, without special tokens: the quickest way to many tokens."""
        text = without_surrogates(text)
        if self._gigatoken:
            return self._gigatoken.encode(text).astype(np.uint16)
        pieces = cut(text, ENCODED_AT_ONCE)
        return np.concatenate([self._encoding.encode_to_numpy(piece, disallowed_special=()) for piece in pieces],
                              dtype=np.uint16, casting='unsafe')

    def encode_batch(self, texts: Iterable[str], threads: int | None = None) -> list[list[int]]:
        """The ids of each text, without special tokens, on all cores or on as many threads as given."""
        def encode_group(group):
            return [self.encode(text) for text in group]

        pool = thread_pool(threads or available_cores(), os.getpid())
        return [ids for group in pool.map(encode_group, in_pieces(texts, ENCODED_AT_ONCE)) for ids in group]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are not UTF-8, as when a character is cut in two, become U+FFFD."""
        return b''.join([self.token_bytes(i) for i in ids]).decode('utf-8', errors='replace')

    def token_bytes(self, i: int) -> bytes:
        """The UTF-8 bytes that a token stands for."""
        if not 0 <= i < self.vocab_size:
            raise BadInput(f'token id {i} is not in a vocabulary of {self.vocab_size}')
        return self._bytes[i]

    def token_lengths(self) -> np.ndarray:
        """(vocab_size,) int64: how many UTF-8 bytes of text each token stands for, 0 for special tokens."""
        lengths = np.array([len(token) for token in self._bytes], dtype=np.int64)
        lengths[list(self.special_tokens.values())] = 0
        return lengths

    @functools.cached_property
    def _gigatoken(self):
        """gigatoken's tokenizer with these tokens; None where the package is missing, or gives other ids for a sample."""
        try:
            import gigatoken
        except ImportError:
            return None
        plain = {**json.loads(self.to_json()), 'added_tokens': []}  # in a text, a special token's name is text
        tokenizer = gigatoken.Tokenizer.from_json(json.dumps(plain))
        ids = [token for piece in cut(SAMPLE, ENCODED_AT_ONCE) for token in self._encoding.encode_ordinary(piece)]
        if tokenizer.encode(SAMPLE).tolist() != ids:
            warn_once('gigatoken gives other ids than tiktoken and is not used; another version of it may be right')
            return None
        return tokenizer

    @property
    def eot(self) -> int:
        if EOT not in self.special_tokens:
            raise BadInput(f'this tokenizer has no special token {EOT}, which has to stand before every document')
        return self.special_tokens[EOT]

    @functools.cached_property
    def merges(self) -> list[tuple[int, int]]:
        """There is only one possibility: a token is made of the two tokens that the earlier merges leave of its bytes.

        Raises BadInput if they leave more for some token.
        """
        merged = {}
        for token, i in sorted(self.tokens.items(), key=lambda item: item[1]):
            if len(token) > 1:
                pair = tuple(merge_all([self.tokens[bytes([byte])] for byte in token], merged))
                if len(pair) != 2:
                    raise BadInput(f'token {i} ({to_characters(token)}) is not what merging two earlier tokens gives')
                merged[pair] = i
        return list(merged)

    @property
    def _encoding(self):
        """tiktoken with our vocabulary, one for each thread: where threads share one, all but the first are slower."""
        if not hasattr(self._of_thread, 'encoding'):
            import tiktoken
            self._of_thread.encoding = tiktoken.Encoding(
                'scratchgpt', pat_str=SPLIT_PATTERN, mergeable_ranks=self.tokens, special_tokens=self.special_tokens)
        return self._of_thread.encoding

    def __reduce__(self):
        return Tokenizer, (self.tokens, self.special_tokens)


@functools.cache
def thread_pool(threads, pid):
    """Threads that stay, as each makes its own tiktoken encoding first. `pid`: a forked process has no threads yet."""
    return concurrent.futures.ThreadPoolExecutor(threads)


def without_surrogates(text):
    """The text as UTF-16 (and tiktoken) reads it: surrogate pairs as one character, lone surrogates as U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


# ---- files ------------------------------------------------------------------------------------------


def read_gpt2_folder(folder):
    """OpenAI's release: encoder.json has the ids, vocab.bpe a line of version and then a merge a line."""
    encoder = read_json(os.path.join(folder, 'encoder.json'), advice="it is one of the two files of GPT-2's release")
    with (refusal_in_one_line(f"{folder} has no encoder.json and vocab.bpe as GPT-2's"),
          open_to_read(os.path.join(folder, 'vocab.bpe')) as file):
        merges = [line.split() for line in file.read(JSON_BYTES).decode().split('\n')[1:] if line]
        return from_words(encoder, merges, {EOT: encoder[EOT]})


@contextmanager
def refusal_in_one_line(what):
    """Turns whatever is wrong with the content of a file into a BadInput."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f'{what}: {error}') from error
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadInput(f'{what}: {first_line(error)}') from error


def check_settings(data):
    """Raises BadInput for a tokenizer.json that cuts, changes or frames text in another way than this module.

    Steps that do nothing are taken out first: transformers 5 saves templates without any token, and lists of one step.
    """
    model = data['model']
    normalizers, processors = steps_of(data.get('normalizer')), steps_of(data.get('post_processor'))
    refused = {
        'its model is not BPE': model.get('type', 'BPE') != 'BPE',
        'its tokens have a prefix or a suffix': model.get('continuing_subword_prefix') or model.get('end_of_word_suffix'),
        'it normalizes text first': normalizers,
        "its pre_tokenizer is not ByteLevel with GPT-2's pattern and without a prefix space":
            not cuts_as_gpt2(steps_of(data.get('pre_tokenizer'))),
        'its post_processor adds tokens': not all(map(adds_nothing, processors)),
        'an added token is not a plain special token': any(
            token.get('single_word') or token.get('lstrip') or token.get('rstrip') or not token.get('special', True)
            for token in data['added_tokens']),
    }
    for what, is_so in refused.items():
        if is_so:
            raise BadInput(what)


def steps_of(part):
    """The steps of a part of a tokenizer.json, which may be nothing, one step, or a sequence with others inside."""
    if not part:
        return []
    if part['type'] != 'Sequence':
        return [part]
    (inside,) = (part[key] for key in ('normalizers', 'pretokenizers', 'processors') if key in part)
    return [step for inner in inside for step in steps_of(inner)]


def cuts_as_gpt2(steps):
    """Whether pre-tokenizers are ByteLevel, which has GPT-2's pattern in it, or that pattern and then ByteLevel without it."""
    *before, byte_level = steps or [{}]
    is_split = [step.get('type') == 'Split' and step.get('pattern') == {'Regex': PUBLISHED_PATTERN} and not step.get('invert')
                and step.get('behavior') == 'Isolated' for step in before]
    return (byte_level.get('type') == 'ByteLevel' and not byte_level.get('add_prefix_space')
            and (is_split == [True] or not before and byte_level.get('use_regex', True)))


def adds_nothing(processor):
    """Whether a post-processor leaves the ids of a text as they are: it moves offsets, or is a template of the text alone."""
    if processor['type'] == 'TemplateProcessing':
        return all('Sequence' in piece for piece in processor['single'])
    return processor['type'] == 'ByteLevel'


def from_words(vocab, merges, special_tokens):
    """A Tokenizer of {word: id} and [(left word, right word)] in GPT-2's characters for bytes, and {special token: id}."""
    if any(type(i) is not int for i in (*vocab.values(), *special_tokens.values())):
        raise BadInput('an id is not a whole number')
    if len(special_tokens) > MAX_SPECIAL_TOKENS:
        raise BadInput(f'it has {len(special_tokens):,} added tokens; {MAX_SPECIAL_TOKENS:,} is the most')
    if not all(1 <= len(token) <= MAX_SPECIAL_LENGTH for token in special_tokens):
        raise BadInput(f'the text of an added token should have 1 to {MAX_SPECIAL_LENGTH} characters')
    tokens = {bytes(BYTE_OF_CHARACTER[character] for character in word): i
              for word, i in vocab.items() if word not in special_tokens}
    tokenizer = Tokenizer(tokens, special_tokens)
    tokenizer.merges = [(vocab.get(left), vocab.get(right)) for left, right in merges]
    check_merges(tokens, tokenizer.merges)
    return tokenizer


def check_merges(tokens, merges):
    """Raises BadInput unless a list of merges, [(left id, right id)], gives the same ids as merging what has the smallest id.

    Hugging Face's tokenizers does the first, tiktoken the second, and for anything that was trained they agree. They do
    if each token is what the merges before its own leave of its bytes, cut where its own joins it. No merge may cross that
    cut earlier, so we undo the merges at the cut from the last to the first and look at the pair that stands across it. Equal
    merges go from left to right.
    """
    bytes_of = {i: token for token, i in tokens.items()}
    made = [tokens.get(bytes_of.get(left, b'') + bytes_of.get(right, b'')) for left, right in merges]
    if made != sorted(i for token, i in tokens.items() if len(token) > 1):
        raise BadInput('its merges are not in the order of the ids they make, or some are missing or never used')
    made_at = dict.fromkeys(tokens.values(), -1) | {i: n for n, i in enumerate(made)}  # -1: the 256 bytes
    merged_at = {pair: n for n, pair in enumerate(merges)}
    steps = 0
    for n, (left, right) in enumerate(merges):
        limit = n  # the first merge that cannot have crossed the cut any more
        is_right = made_at[left] < n and made_at[right] < n
        while is_right:
            steps += 1
            if made_at[left] > made_at[right]:
                limit = made_at[left]
                left = merges[limit][1]
            elif made_at[right] >= 0:
                limit = made_at[right] + 1
                right = merges[limit - 1][0]
            else:
                break
            is_right = merged_at.get((left, right), limit) >= limit
        if not is_right:
            raise BadInput(f'token {made[n]} is not what merging two earlier tokens gives')
        if steps > MAX_MERGE_STEPS:
            raise BadInput('its tokens are too long and too many to be checked')


def open_tokenizer(name: str) -> Tokenizer:
    """'gpt2', a tokenizer.json, or a folder with encoder.json and vocab.bpe."""
    if name == 'gpt2':
        return Tokenizer.gpt2()
    return Tokenizer.gpt2(name) if os.path.isdir(name) else Tokenizer.load(name)


# ---- command line -----------------------------------------------------------------------------------


def main(config):
    """Prints a text with a background colour for each token, or bars between them where colours are not; then ids."""
    tokenizer = open_tokenizer(config['tokenizer'])
    ids = tokenizer.encode(config['show'], allowed_special='all')
    print(side_by_side(ids, tokenizer))
    print(*ids)
    n_bytes = sum(len(tokenizer.token_bytes(i)) for i in ids)
    print(f'{len(ids)} tokens, {n_bytes / max(1, len(ids)):.2f} bytes per token')


def side_by_side(ids: Iterable[int], tokenizer: Tokenizer, colours: tuple[int, ...] = (103, 106, 102, 105)) -> str:
    """The text of tokens for a terminal, with these background colours in turn; elsewhere with bars between them."""
    # of a part of a character, its bytes are shown
    pieces = [tokenizer.token_bytes(i).decode('utf-8', errors='backslashreplace') for i in ids]
    if not sys.stdout.isatty() or 'NO_COLOR' in os.environ:
        return '|'.join(pieces)
    return ''.join(f'\x1b[30;{colours[n % len(colours)]}m{piece}' for n, piece in enumerate(pieces)) + '\x1b[0m'


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
