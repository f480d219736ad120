"""The Hugging Face hub: every wait for it has an end, trouble that passes is waited out, and other trouble is one line.

    rows = hub.fetch('openai/gsm8k', lambda: datasets.load_dataset('openai/gsm8k', 'main'), '{name}: {what}')
    folder, digests = hub.download('openai-community/gpt2', ['config.json', '*.safetensors'])

An answer, or the next part of one, is waited for HF_HUB_DOWNLOAD_TIMEOUT seconds (10 if it is not set). huggingface_hub tries
most requests five times again by itself; each wait is said on stderr. Knows nothing about models and data.
"""
import errno
import functools
import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable

from tqdm import tqdm

from runtime.errors import BadInput, first_line
from runtime.files import sha256_of

PAUSES_S = 1, 4, 16  # before the next tries of `fetch`
NOT_FETCHED = '{name} could not be fetched from the hub: {what}'
PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}


class DamagedDownload(OSError):
    """A file came that is not the one that the hub has."""


def fetch(name: str, ask: Callable, wrong: str, folder: str | None = None):
    """What ask() returns, which is called again where the trouble may pass. Raises BadInput: `wrong` with {what} it was.

    folder: where ask() writes, if that is not the hub's cache.
    """
    prepare()
    say(f'{name}: asking the Hugging Face hub')
    for pause in (*PAUSES_S, None):
        try:
            return ask()
        except Exception as error:  # the hub, the network and the readers of files raise dozens of kinds
            what, lasts = explain(error, name, folder)
            if lasts is not False or pause is None:
                raise BadInput(wrong.format(name=name, what=what)) from error
            say(f'{name}: {what}; trying again in {pause} s')
            time.sleep(pause)


def download(name: str, patterns: list[str], repo_type: str = 'model', folder: str | None = None,
             wrong: str = NOT_FETCHED) -> tuple[str, dict]:
    """(folder, {file name: sha256}) of the files of a repository that match, each with the sha256 that the hub has for it.

    folder: where they go, or None for the hub's cache. What is there and whole is kept.
    """
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    def ask():
        info = huggingface_hub.HfApi().repo_info(name, repo_type=repo_type, files_metadata=True)
        place = huggingface_hub.snapshot_download(name, repo_type=repo_type, local_dir=folder, allow_patterns=patterns)
        files = {file.rfilename: file for file in info.siblings}
        digests = {path: checked_sha256(os.path.join(place, path), files[path])
                   for path in filter_repo_objects(files, allow_patterns=patterns)}
        if missing := [path for path, digest in digests.items() if digest is None]:
            raise DamagedDownload(f'{missing[0]} did not come as the hub has it, by its size and sha256')
        return place, digests

    return fetch(name, ask, wrong, folder)


def checked_sha256(path, file):
    """The sha256 of a downloaded file. None if it is not there, or not the hub's: then it is removed, to be fetched anew."""
    if not os.path.exists(path):  # snapshot_download takes any folder for the answer where the hub fails in between
        return None
    digest = sha256_of(path)
    if file.lfs is None or digest == file.lfs.sha256:
        return digest
    os.remove(os.path.realpath(path))
    if os.path.islink(path):
        os.remove(path)
    return None


# ---- what went wrong --------------------------------------------------------------------------------


def explain(error: BaseException, name: str, folder: str | None = None) -> tuple[str, bool | None]:
    """(what went wrong, whether it lasts: False where another try may help, None where nobody knows)."""
    from huggingface_hub import constants, errors
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:  # libraries wrap what the network raised
        chain.append(cause)

    def found(*kinds):
        return next((one for one in chain if isinstance(one, kinds)), None)

    for one in chain:
        if isinstance(one, OSError) and (one.errno in (errno.ENOSPC, errno.EDQUOT) or 'Not enough disk space' in str(one)):
            place = folder or f'{constants.HF_HOME}, or set HF_HOME to a folder on another disk'
            return f'the disk is full; free some space in {place}, and run again to resume', True
        if isinstance(one, OSError) and one.errno in (errno.EACCES, errno.EROFS):
            return f'{one.filename or folder or constants.HF_HOME} cannot be written: {one.strerror}', True
    if found(errors.OfflineModeIsEnabled):
        return 'it is not in the cache, and HF_HUB_OFFLINE is set', True
    kinds = {kind.__name__: one for one in chain for kind in type(one).__mro__}
    not_found = str(kinds.get('DatasetNotFoundError', ''))  # of datasets, which hides the hub's own error
    if found(errors.GatedRepoError) or 'gated' in not_found:
        return (f'only those whom its owners let in may read it: ask for access on its page at {constants.ENDPOINT}, and set '
                'HF_TOKEN to a token of your account'), True
    if found(errors.RepositoryNotFoundError) or not_found:
        return 'there is nothing of that name, or it is private', True
    if missing := found(errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError):
        return f'{missing.response.url.path} is not there any more', True
    if refused := found(errors.HfHubHTTPError):
        status = refused.response.status_code
        return f'the answer was HTTP status {status}', status not in PASSING_STATUS
    if 'TimeoutException' in kinds:  # of httpx or httpx2, whichever the library builds on
        return f'no answer for {constants.HF_HUB_DOWNLOAD_TIMEOUT} s; HF_HUB_DOWNLOAD_TIMEOUT sets how long to wait', False
    if 'ConnectError' in kinds:
        return f"{constants.ENDPOINT} cannot be reached ({first_line(kinds['ConnectError'])}): check the network", None
    if found(errors.LocalEntryNotFoundError) or "Couldn't reach" in str(error):  # after five tries; datasets hides the reason
        return f'{constants.ENDPOINT} cannot be reached: check the network', None
    if damaged := found(DamagedDownload):
        return str(damaged), False
    if 'TransportError' in kinds:
        return first_line(kinds['TransportError']), False
    return first_line(error), False if found(ConnectionError, TimeoutError) or 'Consistency check' in str(error) else None


# ---- huggingface_hub's own tries --------------------------------------------------------------------


@functools.cache
def prepare():
    """Lets huggingface_hub say each of its waits in one line, and gives an end to those for which it has none."""
    import huggingface_hub.utils
    warnings.filterwarnings('ignore', module='huggingface_hub')  # that the disk is nearly full: said when it is
    log = logging.getLogger('huggingface_hub')
    log.handlers, log.propagate = [SaysWaits()], False
    log.setLevel(max(log.level, logging.WARNING))
    session = huggingface_hub.utils.get_session()
    hooks = {**session.event_hooks, 'request': [*session.event_hooks['request'], end_every_wait]}
    huggingface_hub.set_client_factory(lambda: type(session)(event_hooks=hooks, follow_redirects=True))


def end_every_wait(request):
    """Sets the waits of a request that would have no end: the library gives none to most of its questions."""
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
    waits = request.extensions['timeout']
    request.extensions['timeout'] = {kind: HF_HUB_DOWNLOAD_TIMEOUT if seconds is None else seconds
                                     for kind, seconds in waits.items()}


class SaysWaits(logging.Handler):
    """Makes one line of what huggingface_hub logs when it tries again: the trouble first, the wait after it."""

    def __init__(self):
        super().__init__()
        self.trouble = threading.local()

    def emit(self, record):
        message = re.sub(r' (?:thrown while requesting \w+|from) https?:\S+', '', record.getMessage()).replace('\n', '; ')
        if ' thrown while requesting ' in record.getMessage():
            self.trouble.text = message
        elif record.name.endswith('._http'):
            say(f'the hub: {getattr(self.trouble, "text", "")}. {message}')
        elif record.name.endswith('.file_download') or record.levelno >= logging.ERROR:
            say(f'the hub: {message}')


def say(message):
    """A line on stderr, which leaves a progress bar in one piece."""
    tqdm.write(message, file=sys.stderr)
