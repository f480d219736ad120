"""Files: written atomically, found by pattern, and read as text or JSON with one clear line for what is wrong.

A file is written under a temporary name, flushed to the disk and renamed, so that a kill, a full disk or a power cut
leaves either the old file or the new one.
"""
import codecs
import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator

from tqdm import tqdm

from runtime.errors import BadInput, first_line, warn_once

READ_BYTES = 1 << 20  # at a time


@contextlib.contextmanager
def atomic_write(path, writer=''):
    """A binary file to write that takes the name `path` once it is complete and on the disk.

    A kill leaves at most PATH.tmp, which the next writer replaces. Jobs that may write the same path at once name
    themselves as `writer`: PATH.WRITER.tmp. Raises BadInput if the disk is full or the folder cannot be written to.
    """
    unfinished = f'{path}.{writer}.tmp' if writer else f'{path}.tmp'
    try:
        file = open(unfinished, 'wb')
    except OSError as error:
        raise BadInput(f'{path} cannot be written: {error.strerror}') from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync_folder(os.path.dirname(path) or '.')
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.remove(unfinished)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            folder = os.path.dirname(path) or '.'
            raise BadInput(f'the disk is full: {path} could not be written. What stands in {folder} is whole; '
                           'free some space and run again to resume') from error
        raise


def make_folder(path):
    """Makes a folder and those above it, so that they survive a power cut.

    Raises BadInput if that is impossible, for example because a file has its name.
    """
    path = os.path.abspath(path)
    if os.path.isdir(path):
        return
    make_folder(os.path.dirname(path))
    try:
        os.makedirs(path, exist_ok=True)
        sync_folder(os.path.dirname(path))
    except OSError as error:
        raise BadInput(f'{path} cannot be made a folder ({error.strerror}); name another') from error


@contextlib.contextmanager
def warn_if_unwritable(what):
    """Turns the failure to write a file into a warning, given once, where the run can go on without that file."""
    try:
        yield
    except (BadInput, OSError) as error:
        warn_once(f'{what} was not written: {first_line(error)}; the run goes on')


def sync_folder(folder):
    """Makes a rename inside `folder` survive a power cut, where the system lets a folder be opened."""
    if os.name == 'posix':
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def copy_file(source, target):
    """A copy of a file, written atomically."""
    with open(source, 'rb') as original, atomic_write(target) as copy:
        shutil.copyfileobj(original, copy)


def write_json(path, value, writer=''):
    with atomic_write(path, writer) as file:
        file.write((json.dumps(value, indent=1) + '\n').encode())


def read_json(path, advice='delete it and make the data again'):
    """The object in a JSON file. Raises BadInput, with what to do, if it is missing or is no JSON object."""
    try:
        with open(path, encoding='utf-8') as file:
            value = json.load(file)
    except FileNotFoundError:
        raise BadInput(f'no file {path}; {advice}') from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f'{path} is not JSON ({error}); {advice}') from error
    if not isinstance(value, dict):
        raise BadInput(f'{path} should hold a JSON object; {advice}')
    return value


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def find_files(patterns: str) -> list[str]:
    """The files that a path, a folder, a glob, or several of them with commas between, stand for, sorted.

    Hidden files of a folder and its __pycache__ are left out. Raises BadInput naming a pattern without files.
    """
    found = set()
    for pattern in [patterns] if os.path.exists(patterns) else patterns.split(','):
        if os.path.isdir(pattern):
            wanted = os.path.join(glob.escape(pattern), '**')
        else:
            wanted = glob.escape(pattern) if os.path.exists(pattern) else pattern  # a file's name may have brackets
        files = [path for path in glob.glob(wanted, recursive=True)
                 if os.path.isfile(path) and '__pycache__' not in path.split(os.sep)]
        if not files:
            raise BadInput(f'no file at {pattern}')
        found.update(files)
    return sorted(found)


def is_binary(path: str) -> bool:
    """Whether a file has a zero byte in its first 8 KiB, which text in UTF-8 has not."""
    with open_to_read(path) as file:
        return b'\0' in file.read(8192)


def read_text(path: str) -> Iterator[str]:
    """Yields a text file in pieces. Bytes that are not UTF-8 become U+FFFD, which a line on stderr says at the end."""
    decoder = codecs.getincrementaldecoder('utf-8-sig')(errors='replace')
    replaced, block = 0, None
    with open_to_read(path) as file:
        while block != b'':
            block = file.read(READ_BYTES)
            text = decoder.decode(block, final=not block)
            replaced += text.count('\ufffd') - block.count('\ufffd'.encode())
            yield text
    if replaced > 0:
        tqdm.write(f'{path}: {replaced} places are not UTF-8 and became U+FFFD', file=sys.stderr)


def open_to_read(path):
    try:
        return open(path, 'rb')
    except OSError as error:
        raise BadInput(f'{path} cannot be read: {error.strerror}') from error
