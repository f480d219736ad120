"""Files that are written atomically, and what else many places do with small files.

A file is written under a temporary name, flushed to the disk and renamed, so that a kill, a full disk or a power cut
leaves either the old file or the new one. Knows nothing about what is in them.
"""
import contextlib
import errno
import hashlib
import json
import os
import shutil

from runtime.errors import BadInput, first_line, warn


@contextlib.contextmanager
def atomic_write(path, writer=''):
    """A binary file to write that takes the name `path` once it is complete and on the disk.

    A kill leaves at most PATH.tmp, which the next writer of the same path replaces. Where several jobs may write
    the same path at once, each names itself as `writer`, and its unfinished file is PATH.WRITER.tmp. A full disk or
    a folder that cannot be written to raises BadInput, and the unfinished file is removed.
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
    """Makes a folder and those above it. Raises BadInput where that cannot be, as where a file has its name."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise BadInput(f'{path} cannot be made a folder ({error.strerror}); name another') from error


@contextlib.contextmanager
def warn_if_unwritable(what):
    """Turns the failure to write a file into a warning, where the run can go on without that file."""
    try:
        yield
    except (BadInput, OSError) as error:
        warn(f'{what} was not written: {first_line(error)}; the run goes on')


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


def read_json(path):
    try:
        with open(path, encoding='utf-8') as file:
            value = json.load(file)
    except (OSError, ValueError) as error:
        raise BadInput(f'{path} cannot be read as JSON ({error}); delete it and make the data again') from error
    if not isinstance(value, dict):
        raise BadInput(f'{path} should hold a JSON object; delete it and make the data again')
    return value


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
