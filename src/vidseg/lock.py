"""One writer at a time: a lock on what a command writes, which says who holds it."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

log = logging.getLogger("vidseg")

RUN_LOCK = "run.lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class FolderLock:
    """Keeps a second process from writing the same folder; a context manager.

    The kernel holds the lock, on the file `run.lock`, and lets go of it when the process ends in
    whatever way; so a file that a killed process left locks nothing. The file says who holds it,
    and is removed at the end. Forked workers do not keep the lock.

    Args:
        folder: the folder; it is made, and removed again if nothing was written into it.
        advice: what else to do where it is held; ends the message.

    Raises:
        FileExistsError: on entering, if somebody else holds it; says who.
        OSError: the folder cannot be written; names it.
    """

    def __init__(self, folder: Path | str, *, advice: str = "choose another --out") -> None:
        self.folder = Path(folder)
        self._lock = _Lock(self.folder / RUN_LOCK, what=str(self.folder), advice=advice)

    def __enter__(self) -> Self:
        self._is_made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self._is_made:
            with suppress(OSError):  # not empty: that is what it was made for
                self.folder.rmdir()


@contextmanager
def writing(paths: Iterable[Path]) -> Iterator[None]:
    """Keep other processes from writing the same files or folders, by a hidden file beside each.

    Args:
        paths: what will be written; their folders exist.

    Raises:
        FileExistsError: somebody else writes one of them; says who.
    """
    with ExitStack() as stack:
        for path in sorted(set(paths)):
            file = path.with_name(f".{path.name}.lock")
            lock = _Lock(file, what=str(path), advice="choose another --out")
            lock.acquire()
            stack.callback(lock.release)
        yield


class _Lock:
    def __init__(self, file: Path, *, what: str, advice: str) -> None:
        self._file, self._what, self._advice = file, what, advice
        self._lock = FileLock(file, timeout=0, thread_local=False, on_acquired=_sign)

    def acquire(self) -> None:
        try:
            self._lock.acquire()
        except Timeout:
            raise FileExistsError(
                f"{_holder(self._file)} is writing {self._what}; wait for it, stop it, or "
                f"{self._advice}"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise OSError(error.errno, error.strerror or str(error), self._what) from error
            log.warning("%s: the file system has no locks; let one process write", self._what)

    def release(self) -> None:
        if self._lock.is_locked:
            # While it is held: whoever waits for this file then sees that it is gone.
            with suppress(OSError):
                self._file.unlink(missing_ok=True)
            self._lock.release()


def _sign(descriptor: int) -> None:
    """Write into a lock file who holds it."""
    holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
    with suppress(OSError):  # a full disk: the lock holds without a name in it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder, 0)


def _holder(file: Path) -> str:
    """Describe the holder of a lock file."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return f"process {int(found['pid'])} on {found['host']!s:.100}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
