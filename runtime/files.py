"""Files: written atomically, found by pattern, and opened with one clear line for what is wrong.

A file is written under a temporary name, flushed to the disk and renamed, so that a kill, a full disk or a power cut
leaves either the old file or the new one.
"""
import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import stat

from runtime.errors import BadInput, first_line, warn_once, why_not_json
from runtime.words import plural, split_list

READ_BYTES = 1 << 20        # at a time
JSON_BYTES = 32 << 20       # the most that is read as one JSON value: as Python objects it takes up to 24 times as much
FOLDERS_NAMED = 5           # at most, in a message


@contextlib.contextmanager
def atomic_write(path, writer=''):
    """A binary file to write that takes the name `path` once it is complete and on the disk.

    A kill leaves at most PATH.tmp, which the next writer replaces. Jobs that may write the same path at once name
    themselves as `writer`: PATH.WRITER.tmp. Raises BadInput if the disk is full or the file cannot be written.
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
            raise BadInput(f'the disk is full: {path} could not be written; free some space. What stands in {folder} is '
                           'whole') from error
        if isinstance(error, OSError):
            raise BadInput(f'{path} cannot be written: {error.strerror or error}') from error
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
    with open_to_read(source) as original, atomic_write(target) as copy:
        shutil.copyfileobj(original, copy)


def write_json(path, value, writer=''):
    with atomic_write(path, writer) as file:
        file.write((json.dumps(value, indent=1) + '\n').encode())


def read_json(path, advice='delete it and make the data again'):
    """The object in a JSON file. Raises BadInput, with what to do, if it is missing, huge or no JSON object."""
    if not os.path.exists(path):
        raise BadInput(f'no file {path}; {advice}')
    with open_to_read(path) as file:
        text = file.read(JSON_BYTES + 1)
    if len(text) > JSON_BYTES:
        raise BadInput(f'{path} is larger than the {JSON_BYTES >> 20} MB that are read of a JSON file; {advice}')
    try:
        value = json.loads(text.decode('utf-8-sig'))
    except (ValueError, RecursionError) as error:
        raise BadInput(f'{path} is not JSON ({why_not_json(error)}); {advice}') from error
    if not isinstance(value, dict):
        raise BadInput(f'{path} should hold a JSON object; {advice}')
    return value


def size_of(path):
    with open_to_read(path) as file:
        return os.fstat(file.fileno()).st_size


def sha256_of(path):
    digest = hashlib.sha256()
    with open_to_read(path) as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def find_files(patterns: str) -> list[str]:
    """The files that a path, a folder, a glob, or several of them with commas between, stand for, sorted.

    A part of a glob that exists as it is written means itself, so a folder's name may have brackets. Hidden files of a folder
    and its __pycache__ are left out. Linked folders are followed, but for those above, and no file is taken twice, so that a
    loop of links adds nothing. Links that are left out are said on stderr. Raises BadInput naming a pattern without files.
    """
    found = {}  # by what a file is, whatever its names are
    is_one = os.path.exists(patterns) or any(map(os.path.isfile, expand(patterns)))  # a name may have commas
    for pattern in [patterns] if is_one else split_list(patterns):
        paths = [pattern] if os.path.exists(pattern) else expand(pattern)
        if os.path.isdir(pattern):
            paths = [path for folder in folders_below(pattern) for path in entries(folder)]
        if broken := [path for path in paths if os.path.islink(path) and not os.path.exists(path)]:
            warn_once(f'{pattern}: left out {plural(len(broken), "link")} to what is not there, such as {broken[0]}')
        files = [path for path in paths if os.path.isfile(path)]
        if not files:
            raise BadInput(f'the folder {pattern} is empty' if os.path.isdir(pattern) else f'no file at {pattern!r}')
        for path in files:
            status = os.stat(path)
            found.setdefault((status.st_dev, status.st_ino), path)
    return sorted(found.values())


def folders_near(path: str, name: str) -> str:
    """The folders with a file of that name, which may be a glob, for a message: those in `path`, else those beside it."""
    for parent in (path, os.path.dirname(os.path.normpath(path))):
        found = sorted({os.path.dirname(file) for file in glob.glob(os.path.join(glob.escape(parent), '*', name))})
        if found:
            return ', '.join(found[:FOLDERS_NAMED]) + (f' and {len(found) - FOLDERS_NAMED} more'
                                                       if len(found) > FOLDERS_NAMED else '')
    return ''


def expand(pattern):
    """The paths that a glob stands for. `**` are all folders below, each of them once."""
    paths = ['/' if pattern.startswith('/') else '']
    for part in filter(None, re.sub(r'(^|/)\*\*$', r'\1**/*', pattern).split('/')):
        if part == '**':
            paths = [folder for path in paths for folder in folders_below(path or '.')]
        else:
            paths = [found for path in paths for found in (
                [os.path.join(path, part)] if os.path.lexists(os.path.join(path, part))
                else sorted(glob.glob(os.path.join(glob.escape(path), part)))) if not found.endswith('__pycache__')]
    return paths


def folders_below(top):
    """The folder and all below it but hidden ones and __pycache__: first those that are inside, then those that are linked.

    A link to a folder above it is not followed, which a line on stderr says.
    """
    def refuse(error):
        raise BadInput(f'{error.filename} cannot be read: {error.strerror}') from error

    tops, seen, begin = [top], set(), os.path.realpath(top)
    for top in tops:
        for folder, names, _ in os.walk(top, onerror=refuse):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                names.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            names[:] = sorted(name for name in names if not name.startswith('.') and name != '__pycache__')
            for path in filter(os.path.islink, (os.path.join(folder, name) for name in names)):
                if begin.startswith(os.path.join(os.path.realpath(path), '')):
                    warn_once(f'left out {path}: it is a link to a folder above {tops[0]}')
                else:
                    tops.append(path)
            yield folder


def entries(folder):
    """The paths of what is in a folder and not hidden, sorted."""
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if not name.startswith('.')]


def open_to_read(path, buffering=-1):
    """A file opened for reading bytes. Raises BadInput, also for a pipe or a device: opening one may wait without end."""
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # open() has its own words for a folder
            raise BadInput(f'{path} cannot be read: it is not a file')
        return open(path, 'rb', buffering)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        if isinstance(error, BadInput):
            raise
        raise BadInput(f'{path} cannot be read: {error.strerror if isinstance(error, OSError) else error}') from error
