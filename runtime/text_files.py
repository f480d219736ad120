"""Text files: told from binary ones, unpacked and decoded. Whoever reads text that a user names reads it through here.

    for piece in read_text('book.txt.gz'): ...

A byte order mark says how a file is encoded, whatever the caller believes, and is no part of the text. Line ends stay as they
are. This module knows nothing of documents.
"""
import codecs
import gzip
import itertools
import lzma
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from runtime.errors import BadInput, first_line
from runtime.files import READ_BYTES, open_to_read
from runtime.words import plural

OPENERS = {'.gz': gzip.open, '.xz': lzma.open}  # pyarrow reads no .xz, and no .gz that was filled up with zeros, as tapes do
COMPRESSIONS = {'.bz2': 'bz2', '.zst': 'zstd'}
EXPANDS_FREELY = 32 << 20  # bytes that any compressed file may become
MAX_EXPANSION = 100        # times its size that a larger one may become; text that people wrote becomes 3 to 10 times
LOOKED_AT = 8192           # bytes from which it is told whether a file is text
BYTE_ORDER_MARKS = {codecs.BOM_UTF32_LE: 'utf-32', codecs.BOM_UTF32_BE: 'utf-32', codecs.BOM_UTF16_LE: 'utf-16',
                    codecs.BOM_UTF16_BE: 'utf-16', codecs.BOM_UTF8: 'utf-8-sig'}  # the longer ones first: one begins another
WITHOUT_MARK = {'utf-8-sig': 'utf-8', 'utf-16': 'utf-16-le', 'utf-32': 'utf-32-le'}
CONTROLS = re.compile('[\x00-\x06\x0e-\x1a\x1c-\x1f]')  # what no text has; line ends, tabs and ESC are none of them
ASCII, HIGH_CONTROLS, REPLACEMENT = bytes(range(0x80)), bytes(range(0x80, 0xA0)), '\ufffd'
REPLACED_IN = []           # files in which something became U+FFFD: each is read several times, but said once


def read_text(path: str, encoding: str = 'utf-8', max_expansion: int = MAX_EXPANSION) -> Iterator[str]:
    """Yields a text file in pieces; one that ends in .gz, .bz2, .xz or .zst is unpacked.

    Bytes that are not of the encoding become U+FFFD, which a line on stderr says at the end. Raises BadInput if the file
    holds binary data, or becomes too large when it is unpacked (`check_expansion`).
    """
    with open_to_read(path) as file:
        pieces = decoded(unpacked(file, path, max_expansion), path, encoding)
        first = next(pieces)
        if looks_binary(first[:LOOKED_AT]):
            raise BadInput(f'{path} holds binary data, not text; convert it first')
        yield from itertools.chain([first], pieces)


def what_is_wrong(path: str, encoding: str = 'utf-8') -> str | None:
    """Why there is nothing to read in a text file, told from its beginning: 'empty', 'binary', 'UTF-16 ...'; else None."""
    with open_to_read(path) as file:
        start = next(unpacked(file, path, piece_bytes=LOOKED_AT), b'')[:LOOKED_AT]
    text = codecs.getincrementaldecoder(encoding_of(start, encoding))(errors='replace').decode(start)
    if len(start) < LOOKED_AT and not text.strip():
        return 'empty'
    zeros = sorted((start[::2].count(0), start[1::2].count(0)))
    if zeros[0] == 0 and zeros[1] > len(start) / 50 and '\0' in text:
        return 'UTF-16 without a byte order mark'
    return 'binary' if looks_binary(text) else None


def looks_binary(text):
    """Whether the beginning of a file, decoded, is no text. Random bytes have one control character in ten."""
    return '\0' in text or text.startswith('%PDF-') or len(CONTROLS.findall(text)) > len(text) / 20


# ---- bytes to text ----------------------------------------------------------------------------------


def known_encoding(name: str) -> str:
    """Python's own name of an encoding, for text without a byte order mark: utf-8 for UTF8, utf-16-le for UTF-16.

    Raises BadInput if there is none, or one that is not for text.
    """
    try:
        found = WITHOUT_MARK.get(codecs.lookup(name).name, codecs.lookup(name).name)
        bytes(range(256)).decode(found, 'replace')  # refuses what is for other things than text, such as bz2
        codecs.getincrementaldecoder(found)('replace').decode(bytes(range(256)), final=True)
        return found
    except (LookupError, TypeError, ValueError) as error:
        raise BadInput(f'encoding={name!r} is not the name of a text encoding, such as utf-8, latin-1 or cp1251') from error


def encoding_of(start: bytes, otherwise: str) -> str:
    """The encoding that a byte order mark at the start of a file names, or `otherwise`."""
    return next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if start.startswith(mark)), otherwise)


def decoded(pieces: Iterable[bytes], path: str, encoding: str = 'utf-8') -> Iterator[str]:
    """Yields the text of a file that comes in pieces of bytes: at least one piece, and the byte order mark left out."""
    pieces, start = iter(pieces), b''
    for piece in pieces:
        start += piece
        if len(start) >= 4:  # of a byte order mark
            break
    encoding = encoding_of(start, encoding)
    strict, lenient = (codecs.getincrementaldecoder(encoding)(errors) for errors in ('strict', 'replace'))
    n_replaced, guess = 0, ''
    for piece in itertools.chain([start], pieces, [b'']):
        state = strict.getstate()
        try:
            text = strict.decode(piece, final=not piece)
        except UnicodeDecodeError:
            lenient.setstate(state)
            text = lenient.decode(piece, final=not piece)
            strict.setstate(lenient.getstate())
            n_replaced += text.count(REPLACEMENT) - piece.count(REPLACEMENT.encode())  # which may have been there before
            guess = guess or encoding == 'utf-8' and guess_encoding(piece, text)
        yield text
    if n_replaced > 0 and path not in REPLACED_IN:
        REPLACED_IN.append(path)
        report_replaced(path, n_replaced, encoding, guess)


def guess_encoding(piece, text):
    """The encoding that bytes which did not all decode as UTF-8 look like; '' where most of what is not ASCII did decode."""
    n_replaced, n_high = text.count(REPLACEMENT), len(piece.translate(None, delete=ASCII))
    if n_replaced < len(text) - (len(piece) - n_high) - n_replaced:
        return ''
    if n_high > 0.3 * len(piece):
        return 'another'
    return 'latin-1' if len(piece.translate(None, delete=HIGH_CONTROLS)) == len(piece) else 'cp1252'


def report_replaced(path, n_replaced, encoding, guess):
    """A line on stderr for the first of the files in REPLACED_IN, one for all others: a folder may have thousands."""
    line = f'{path}: {plural(n_replaced, "place is", "places are")} not {encoding} and became U+FFFD'
    if guess == 'another':
        line += '; another encoding is named with --encoding=NAME'
    elif guess:
        line += f'; it looks like {guess}: give --encoding={guess}, or convert it: iconv -f {guess} -t utf-8'
    if len(REPLACED_IN) == 2:
        line = f'{path} is not {encoding} in places either; further files like it are not named'
    if len(REPLACED_IN) <= 2:
        tqdm.write(line, file=sys.stderr)


# ---- compressed files -------------------------------------------------------------------------------


def unpacked(file, path: str, max_expansion: int = MAX_EXPANSION, piece_bytes: int = READ_BYTES) -> Iterator[bytes]:
    """Yields what is in a file that was opened for reading bytes, decompressed if its name says so, in pieces."""
    ending, size, n_bytes, content = os.path.splitext(path)[1].lower(), n_bytes_of(file), 0, file
    try:
        if ending in OPENERS:
            content = OPENERS[ending](file)
        elif ending in COMPRESSIONS:
            import pyarrow
            content = pyarrow.CompressedInputStream(file, COMPRESSIONS[ending])
        while piece := content.read(piece_bytes):
            n_bytes += len(piece)
            if content is not file:
                check_expansion(path, n_bytes, size if file.closed else file.tell(), max_expansion)
            yield piece
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise BadInput(f'{path} is cut short or damaged ({first_line(error)}); repair or remove it') from error


def check_expansion(path, n_bytes, n_packed, max_expansion):
    """Raises BadInput if n_packed bytes of a file have become too many."""
    if max_expansion and n_bytes > max(EXPANDS_FREELY, max_expansion * n_packed):
        raise BadInput(f'{path} becomes {n_bytes / max(1, n_packed):,.1f} times its size when it is unpacked, far more than '
                       f'text would; if that is right, allow it with a larger --max_expansion than {max_expansion} (0: any)')


def n_bytes_of(file):
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    return n_bytes
