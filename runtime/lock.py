"""One run at a time in a folder: a lock that the kernel gives back when its holder ends, however it ends.

    with FolderLock('out/demo') as lock:
        lock.take_if_used_before()      # held from here on, where an earlier run has left the file FOLDER/lock
        lock.take()                     # held from here on in any case; the folder must be there

The file stays, since removing it would let two processes lock two files of the same name. On NFS, Linux asks the server,
so the lock holds between machines; where a file system has no locks, a warning says so.
"""
import os
import platform
import time

from runtime.errors import BadInput, first_line, warn_once
from runtime.files import warn_if_unwritable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class FolderLock:
    """Raises BadInput, naming the holder, where another process has the lock."""

    def __init__(self, folder: str):
        self.folder, self.path, self.file = folder, os.path.join(folder, 'lock'), None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.file:
            self.file.close()

    def take_if_used_before(self):
        """Takes the lock where that makes no new file: a run that is refused for another reason then leaves no trace."""
        if os.path.exists(self.path):
            self.take()

    def take(self):
        """Takes the lock, unless it is held already."""
        if self.file:
            return
        try:
            self.file = open(self.path, 'a+b', buffering=0)  # so that closing it writes nothing
        except OSError as error:
            raise BadInput(f'{self.path} cannot be written ({error.strerror}); name a folder that can be') from None
        try:
            if fcntl is None:
                raise OSError(f'{platform.system()} has no flock')
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.seek(0)
            holder = self.file.readline(200).decode(errors='replace').strip() or 'another run'
            raise BadInput(f'{self.folder} is in use by {holder}; stop that one, or start with another --out_dir') from None
        except OSError as error:
            warn_once(f'{self.folder} cannot be locked ({first_line(error)}): make sure that no other run uses it')
        holder = f'process {os.getpid()} on {platform.node()}, started {time.strftime("%Y-%m-%d %H:%M:%S %Z")}\n'
        with warn_if_unwritable(self.path):
            self.file.truncate(0)
            self.file.write(holder.encode())
