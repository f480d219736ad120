"""Byte-level BPE from first principles: train one on any text, encode, decode, save, load; GPT-2's own too.

    python bpe.py --input=texts/ --vocab_size=32768 --out=tokenizer.json    # train on files, a glob or a folder
    python bpe.py --show='Hello world' --tokenizer=tokenizer.json           # see how a text is cut into tokens

The algorithm itself is in bpe_textbook.py, in a hundred lines to be read first. `learn_merges` learns the same merges
thousands of times faster, and `Tokenizer.encode` gives the same ids through tiktoken's Rust.

Files are Hugging Face `tokenizer.json`. This module knows nothing about shards, data sets or models.
"""
import collections
import concurrent.futures
import functools
import heapq
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterable

import numpy as np
import regex
from tqdm import tqdm

from bpe_textbook import CHARACTER_OF_BYTE, CHUNK, ID_OF_BYTE, SPLIT_PATTERN, merge_all, to_characters, tokens_of
from configurator import configure, optional
from runtime.errors import BadInput, one_line_errors
from runtime.files import atomic_write, find_files, is_binary, read_json, read_text
from runtime.parallel import available_cores, in_pieces

DEFAULTS = {
    'input': optional(str),             # train on this: a file, a glob or a folder, or several with commas between
    'vocab_size': 32768,                # bytes, merges and special tokens counted together
    'special_tokens': '<|endoftext|>',  # tokens that ordinary text never makes, with commas between
    'out': 'tokenizer.json',            # where the trained tokenizer goes
    'show': optional(str),              # print this text cut into coloured tokens, with their ids
    'tokenizer': 'gpt2',                # what --show uses: gpt2, a tokenizer.json, or a folder with GPT-2's two files
}

EDGE_OF_WHITE_SPACE = regex.compile(r'(?<=\S)\s|\s(?=\S)')
EOT = '<|endoftext|>'
MAX_VOCAB = 65536              # ids are stored as uint16
COUNTED_AT_ONCE = 1 << 20      # characters: large enough to send to another process
COUNTED_ALONE = 16 << 20       # characters: counted in the time that other processes need to start
ENCODED_AT_ONCE = 1 << 16      # characters: tiktoken fails on a million white-space characters in a row
BYTE_OF_CHARACTER = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}
NOTHING, GAP = -1, -2          # in training: no token begins in this cell; a cell between two chunks


# ---- training: counting chunks ----------------------------------------------------------------------


def count_chunks(texts: Iterable[str], progress: bool = False, processes: int | None = None) -> dict[str, int]:
    """How often each chunk of GPT-2's pattern occurs: {chunk: count}.

    texts: read once and a bounded piece at a time, so together they may be larger than memory.
    processes: what comes after the first 16 MB is counted by so many; default: all cores.
    """
    processes = processes or available_cores()
    counts, seen = collections.Counter(), 0
    pieces = in_pieces((part for text in texts for part in cut(text, COUNTED_AT_ONCE)), COUNTED_AT_ONCE)
    with tqdm(desc='counting', unit=' characters', unit_scale=True, disable=not progress) as bar:
        for piece in pieces:
            counts.update(count_piece(piece))
            seen += sum(map(len, piece))
            bar.update(sum(map(len, piece)))
            if processes > 1 and seen >= COUNTED_ALONE:
                count_in_processes(pieces, counts, processes, bar)
    return counts


def count_in_processes(pieces, counts, processes, bar):
    """Adds the chunks of all pieces to counts. This process counts too, whenever the others have enough to do."""
    spawn = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(processes - 1, mp_context=spawn) as executor:
        pending = collections.deque()
        for piece in pieces:
            if len(pending) < 2 * (processes - 1):
                pending.append(executor.submit(count_piece, piece))
            else:
                counts.update(count_piece(piece))
            bar.update(sum(map(len, piece)))
            while pending and pending[0].done():
                counts.update(pending.popleft().result())
        while pending:
            counts.update(pending.popleft().result())


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

    vocab_size      bytes, merges and special tokens together; ids are 0 .. vocab_size - 1
    eot             id of <|endoftext|>, which stands before every document
    special_tokens  {text: id}; made from text only where `encode` is told to allow them
    merges          [(left id, right id)] in the order in which they were learned
    name            'gpt2', the file it was loaded from, or None
    """

    def __init__(self, tokens: dict[bytes, int], special_tokens: dict[str, int], merges: list | None = None,
                 name: str | None = None):
        """tokens: {bytes: id}, where tokens merged earlier have smaller ids; special_tokens: {text: id}; merges: as
        above, or None to find them when they are first asked for. Raises BadInput if ids are missing or too many."""
        check_vocabulary(tokens, special_tokens)
        self.tokens, self.special_tokens, self._merges, self.name = tokens, special_tokens, merges, name
        self.vocab_size = len(tokens) + len(special_tokens)
        self._of_thread = threading.local()
        self._bytes = [b''] * self.vocab_size
        for token, i in tokens.items():
            self._bytes[i] = token
        for token, i in special_tokens.items():
            self._bytes[i] = token.encode()

    # -- making one

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, special_tokens: Iterable[str] = (EOT,), progress: bool = True,
              processes: int | None = None) -> 'Tokenizer':
        """A tokenizer of exactly vocab_size entries for these texts, which are read once (see count_chunks).

        Special tokens have the last ids. Raises BadInput when vocab_size is below 256 + special tokens or above
        65536, and when the texts are too small to learn so many merges from.
        """
        special_tokens = list(special_tokens)
        check_special_tokens(special_tokens)
        n_merges = vocab_size - 256 - len(special_tokens)
        if n_merges < 0:
            raise BadInput(f'vocab_size={vocab_size} is too small: 256 bytes and {len(special_tokens)} special '
                           f'tokens need at least {256 + len(special_tokens)}')
        if vocab_size > MAX_VOCAB:
            raise BadInput(f'vocab_size={vocab_size} is too large: ids have 16 bits, so {MAX_VOCAB} is the most')
        merges = []
        if n_merges:
            chunk_counts = count_chunks(texts, progress, processes)
            if not chunk_counts:
                raise BadInput('there is no text to learn a vocabulary from')
            merges = learn_merges(chunk_counts, n_merges, progress)
        if len(merges) < n_merges:
            raise BadInput(f'there is too little text for vocab_size={vocab_size}: at '
                           f'{256 + len(merges) + len(special_tokens)} every word in it is one token; take that or less')
        tokens = {token: i for i, token in enumerate(tokens_of(merges))}
        return cls(tokens, {token: len(tokens) + i for i, token in enumerate(special_tokens)}, merges)

    @classmethod
    def gpt2(cls, folder: str | None = None) -> 'Tokenizer':
        """GPT-2's own vocabulary: through tiktoken, or from a folder with encoder.json and vocab.bpe."""
        if folder is not None:
            return read_gpt2_folder(folder)
        import tiktoken
        try:
            encoding = tiktoken.get_encoding('gpt2')
        except Exception as error:
            raise BadInput(f'GPT-2\'s vocabulary could not be fetched ({type(error).__name__}): connect once, give '
                           f'a folder with encoder.json and vocab.bpe, or take a vocabulary of your own: corpus.py '
                           f'--vocab_size=4096 trains one') from error
        return cls(dict(encoding._mergeable_ranks), dict(encoding._special_tokens), name='gpt2')

    @classmethod
    def load(cls, path: str) -> 'Tokenizer':
        """The tokenizer in a Hugging Face tokenizer.json. Raises BadInput if it is not a byte-level BPE as here."""
        return read_tokenizer_json(path)

    def save(self, path: str):
        """Writes a Hugging Face tokenizer.json: the same tokenizer always gives the same bytes."""
        with atomic_write(path) as file:
            file.write(self.to_json().encode())

    def to_json(self) -> str:
        """The text of a tokenizer.json with which `tokenizers.Tokenizer.from_file` gives the same ids as we do."""
        words = {to_characters(token): i for token, i in self.tokens.items()} | self.special_tokens
        word_of_id = {i: word for word, i in words.items()}
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
        ids = []
        for part, special in self._parts(text, allowed_special):
            if special is not None:
                ids.append(special)
            for piece in cut(part, ENCODED_AT_ONCE):
                ids += self._encoding.encode_ordinary(piece)
        return ids

    def encode_array(self, text: str) -> np.ndarray:
        """The ids of a text as a uint16 array, without special tokens: the quickest way to many tokens."""
        pieces = cut(without_surrogates(text), ENCODED_AT_ONCE)
        arrays = [self._encoding.encode_to_numpy(piece, disallowed_special=()).astype(np.uint16) for piece in pieces]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def encode_batch(self, texts: Iterable[str], threads: int | None = None) -> list[list[int]]:
        """The ids of each text as lists, without special tokens, on all cores or on as many threads as given."""
        threads, texts = threads or available_cores(), list(texts)
        parts = ((number, part) for number, text in enumerate(texts) for part in cut(text, ENCODED_AT_ONCE))
        groups = list(in_pieces(parts, ENCODED_AT_ONCE, length=lambda numbered: len(numbered[1])))

        def encode_group(group):
            encode = self._encoding.encode_ordinary
            return [encode(part) for _, part in group]

        run = map if threads == 1 or len(groups) < 2 else thread_pool(threads, os.getpid()).map
        ids = [[] for _ in texts]
        for group, results in zip(groups, run(encode_group, groups)):
            for (number, _), result in zip(group, results):
                ids[number] += result
        return ids

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

    @property
    def eot(self) -> int:
        if EOT not in self.special_tokens:
            raise BadInput(f'this tokenizer has no special token {EOT}, which has to stand before every document')
        return self.special_tokens[EOT]

    @property
    def merges(self) -> list[tuple[int, int]]:
        if self._merges is None:
            self._merges = find_merges(self.tokens)
        return self._merges

    # -- made when first needed

    @property
    def _encoding(self):
        """tiktoken with our vocabulary, one for each thread: where threads share one, all but the first are slower."""
        if not hasattr(self._of_thread, 'encoding'):
            import tiktoken
            self._of_thread.encoding = tiktoken.Encoding(
                'scratchgpt', pat_str=SPLIT_PATTERN, mergeable_ranks=self.tokens, special_tokens=self.special_tokens)
        return self._of_thread.encoding

    def _parts(self, text, allowed_special):
        """Cuts a text at allowed special tokens: (text, None) or ('', id of a special token)."""
        allowed = list(self.special_tokens if allowed_special == 'all' else allowed_special)
        for token in allowed:
            if token not in self.special_tokens:
                raise BadInput(f'{token!r} is not a special token here; there are {list(self.special_tokens)}')
        if not allowed:
            return [(text, None)]
        parts = regex.split('(' + '|'.join(map(regex.escape, allowed)) + ')', text)
        return [('', self.special_tokens[part]) if i % 2 else (part, None) for i, part in enumerate(parts)]

    def __reduce__(self):
        return Tokenizer, (self.tokens, self.special_tokens, self._merges, self.name)


@functools.cache
def thread_pool(threads, pid):
    """Threads that stay, as each makes its own tiktoken encoding first. `pid`: a forked process has no threads yet."""
    return concurrent.futures.ThreadPoolExecutor(threads)


def find_merges(tokens):
    """The merges behind a vocabulary {bytes: id}, [(left id, right id)] in the order of ids.

    There is only one possibility: a token is made of the two tokens that the earlier merges leave of its bytes.
    Raises BadInput if they leave more for some token.
    """
    merges, merged = [], {}
    for token, i in sorted(tokens.items(), key=lambda item: item[1]):
        if len(token) > 1:
            pair = tuple(merge_all([tokens[token[k:k + 1]] for k in range(len(token))], merged))
            if len(pair) != 2:
                raise BadInput(f'token {i} ({to_characters(token)}) is not what merging two earlier tokens gives')
            merges.append(pair)
            merged[pair] = i
    return merges


def without_surrogates(text):
    """The text as UTF-16 (and tiktoken) reads it: surrogate pairs as one character, lone surrogates as U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


# ---- files ------------------------------------------------------------------------------------------


def to_bytes(word):
    """The bytes that a word of a vocabulary file stands for; KeyError if a character stands for none."""
    return bytes(BYTE_OF_CHARACTER[character] for character in word)


def check_vocabulary(tokens, special_tokens):
    """Raises BadInput unless this is a vocabulary that 16-bit ids and tokenizer.json can hold."""
    size = len(tokens) + len(special_tokens)
    if size > MAX_VOCAB:
        raise BadInput(f'a vocabulary of {size} is too large: ids have 16 bits, so {MAX_VOCAB} is the most')
    if sorted([*tokens.values(), *special_tokens.values()]) != list(range(size)):
        raise BadInput(f'the ids of a vocabulary of {size} should be 0 .. {size - 1}, each of them once')
    missing = [byte for byte in range(256) if bytes([byte]) not in tokens]
    if missing:
        raise BadInput(f'the vocabulary lacks {len(missing)} of the 256 bytes, so it is not a byte-level BPE')
    check_special_tokens(list(special_tokens))
    for special in special_tokens:
        if special.encode() in tokens or set(special) <= set(BYTE_OF_CHARACTER) and to_bytes(special) in tokens:
            raise BadInput(f'special token {special!r} is an ordinary token too; name it like <|{special}|>')


def check_special_tokens(special_tokens):
    for i, special in enumerate(special_tokens):
        others = special_tokens[:i] + special_tokens[i + 1:]
        if not special or any(other.startswith(special) for other in others):
            raise BadInput(f'special token {special!r} is empty, or there twice, or another one begins with it')


def read_tokenizer_json(path):
    data = read_json(path, advice=f'`python bpe.py --input=TEXTS --out={path}` trains a byte-level BPE')
    try:
        check_settings(data, path)
        vocab = data['model']['vocab']
        special_tokens = {token['content']: token['id'] for token in data['added_tokens']}
        if len(vocab) > MAX_VOCAB:
            raise BadInput(f'{path} has {len(vocab)} tokens; tokens are stored in 16 bits, so {MAX_VOCAB} are the most')
        tokens = {to_bytes(word): i for word, i in vocab.items() if word not in special_tokens}
        # tokenizers writes a merge as 'a b' up to 0.19 and as ['a', 'b'] since
        merges = [tuple(merge.split(' ') if isinstance(merge, str) else merge) for merge in data['model']['merges']]
        merges = [(vocab[a], vocab[b]) for a, b in merges]
        return checked_tokenizer(tokens, special_tokens, merges, os.path.basename(path), path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, BadInput):
            raise
        what = f'{type(error).__name__} {error}'
        raise BadInput(f'{path} is not the tokenizer.json of a byte-level BPE: {what}') from error


def check_settings(data, path):
    """Raises BadInput for a tokenizer.json that cuts, changes or frames text in another way than this module."""
    def refuse(what):
        raise BadInput(f'{path} is not a byte-level BPE as GPT-2\'s: {what}')

    model, before, after = data['model'], data['pre_tokenizer'] or {}, data['post_processor'] or {}
    if model.get('type', 'BPE') != 'BPE':
        refuse(f"its model is {model['type']}")
    if data['normalizer'] is not None:
        refuse('it normalizes text first')
    if before.get('type') != 'ByteLevel' or before.get('add_prefix_space') or not before.get('use_regex', True):
        refuse("its pre_tokenizer is not ByteLevel with GPT-2's pattern and without a prefix space")
    if after.get('type', 'ByteLevel') != 'ByteLevel':
        refuse(f"its post_processor {after['type']} adds tokens")
    for setting in ('dropout', 'continuing_subword_prefix', 'end_of_word_suffix', 'byte_fallback'):
        if model.get(setting):
            refuse(f'it sets {setting}')
    for token in data['added_tokens']:
        if any(token.get(setting) for setting in ('single_word', 'lstrip', 'rstrip')) or not token.get('special', True):
            refuse(f"added token {token['content']!r} is not a plain special token")


def read_gpt2_folder(folder):
    """OpenAI's release: encoder.json has the ids, vocab.bpe a line of version and then a merge a line."""
    encoder_path, merges_path = os.path.join(folder, 'encoder.json'), os.path.join(folder, 'vocab.bpe')
    encoder = read_json(encoder_path, advice="it is one of the two files of GPT-2's release")
    try:
        with open(merges_path, encoding='utf-8') as file:
            merges = [tuple(line.split()) for line in file.read().split('\n')[1:] if line]
        special_tokens = {EOT: encoder[EOT]}
        tokens = {to_bytes(word): i for word, i in encoder.items() if word not in special_tokens}
        merges = [(encoder[a], encoder[b]) for a, b in merges]
    except OSError as error:
        raise BadInput(f'{merges_path} cannot be read: {error.strerror}') from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f'{type(error).__name__} {error}'
        raise BadInput(f'{folder} has no encoder.json and vocab.bpe as GPT-2\'s: {what}') from error
    return checked_tokenizer(tokens, special_tokens, merges, 'gpt2', folder)


def checked_tokenizer(tokens, special_tokens, merges, name, path):
    """A Tokenizer from a file. tiktoken merges what gives the smallest id, Hugging Face by the list of merges: BadInput
    if they could differ, which they do not for anything that was trained."""
    try:
        tokenizer = Tokenizer(tokens, special_tokens, merges, name)
        if find_merges(tokens) != merges:
            raise BadInput('its merges are not in the order of the ids they make, or some are missing or never used')
    except BadInput as error:
        raise BadInput(f'{path}: {error}') from error
    return tokenizer


# ---- command line -----------------------------------------------------------------------------------


def main(config):
    if config['show'] is not None:
        show(config['show'], open_tokenizer(config['tokenizer']))
    elif config['input']:
        train_on_files(config)
    else:
        raise BadInput('say what to do: --input=FILES trains on them, --show=TEXT prints the tokens of a text')


def open_tokenizer(name: str) -> Tokenizer:
    """'gpt2', a tokenizer.json, or a folder with encoder.json and vocab.bpe."""
    if name == 'gpt2':
        return Tokenizer.gpt2()
    return Tokenizer.gpt2(name) if os.path.isdir(name) else Tokenizer.load(name)


def show(text, tokenizer):
    """Prints a text with a background colour for each token, or bars between them where colours are not; then ids."""
    ids = tokenizer.encode(text, allowed_special='all')
    pieces = [tokenizer.token_bytes(i).decode('utf-8', errors='replace') for i in ids]
    if sys.stdout.isatty() and 'NO_COLOR' not in os.environ:
        print(''.join(f'\x1b[30;{(103, 106, 102, 105)[n % 4]}m{piece}' for n, piece in enumerate(pieces)) + '\x1b[0m')
    else:
        print('|'.join(pieces))
    print(*ids)
    print(f'{len(ids)} tokens, {len(without_surrogates(text).encode()) / max(1, len(ids)):.2f} bytes per token')


def train_on_files(config):
    if not os.path.isdir(os.path.dirname(config['out']) or '.') or os.path.isdir(config['out']):
        raise BadInput(f'--out={config["out"]} should be a file in a folder that exists')
    found = find_files(config['input'])
    paths = [path for path in found if not is_binary(path)]
    if not paths:
        raise BadInput(f'{config["input"]}: binary, and a vocabulary is learned from text')
    special_tokens = [token for token in config['special_tokens'].split(',') if token]
    tokenizer = Tokenizer.train(read_texts(paths), config['vocab_size'], special_tokens)
    tokenizer.save(config['out'])
    if len(paths) < len(found):
        print(f'left out {len(found) - len(paths)} binary files, first {min(set(found) - set(paths))}')
    print(f'{config["out"]}: {tokenizer.vocab_size} tokens, learned from {len(paths)} files')


def read_texts(paths):
    """The files' texts, long ones in parts whose chunks are those of the whole."""
    for path in paths:
        rest = ''
        for text in read_text(path):
            *parts, rest = cut(rest + text, COUNTED_AT_ONCE)
            yield from parts
        yield rest


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
