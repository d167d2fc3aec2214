"""Files that appear under their names only when they are whole and on disk, alone or together."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from vidseg.inside import inside
from vidseg.interrupts import hold_interrupts

try:
    import fcntl
except ImportError:  # Windows: nothing tells what is left over from what is being written
    fcntl = None

_PART = re.compile(r"\..*vidseg-[0-9a-f]{16}\.part", re.DOTALL)
_NAME_CHARACTERS = 40  # of the final name in a temporary one, which may have 255 bytes
_ONE_BY_ONE = 64


class Part:
    """A file beside a path, which takes its name once it is whole, or goes.

    Its name cannot be known before, and the file is made here, never reached through a link. Any
    number of processes may write one file at once; the last one wins. What killed processes left of
    this file is removed. A link under the final name is replaced; what it leads to is left alone.

    Args:
        path: the final name.

    Attributes:
        path: the temporary name.
        file: open for writing, binary.

    Raises:
        OSError: it cannot be written there, or the final name is that of a folder or a device.
    """

    def __init__(self, path: Path) -> None:
        _check_replaceable(path)
        remove_stale(path.parent, _prefix(path))
        self._final = path
        self.path, self.file = _begin(path)

    def finish(self) -> None:
        """Flush the file to disk, and give it its name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        if os.name != "posix":
            self.file.close()  # Windows renames no open file
        self.path.replace(self._final)
        self.file.close()
        _sync_folder(self._final.parent)

    def discard(self) -> None:
        """Give the file up, unless it is finished; nothing is left behind."""
        with contextlib.suppress(OSError, ValueError):  # a full disk refuses what is buffered
            self.file.close()
        _remove(self.path)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing under a temporary name; it is flushed to disk, then renamed.

    Args:
        path: the file; one of this name is replaced, or kept if anything goes wrong.

    Yields:
        A binary file to write; see `Part`.

    Raises:
        OSError: it could not be written (a full disk), or is a folder or a device; names `path`.
    """
    with _naming(path):
        part = Part(path)
        try:
            yield part.file
            part.finish()
        finally:
            part.discard()


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all; errors as `replacing`.

    Bytes of file names that are not UTF-8 become escapes, which JSON gives back as they were.
    """
    with replacing(path) as file:
        file.write(text.encode("utf-8", errors="backslashreplace"))


@contextlib.contextmanager
def together(folder: Path, *, drop: Callable[[], Iterable[Path]] | None = None) -> Iterator[Path]:
    """Write files of a folder that appear all at once, or not at all.

    They are written into a hidden folder beside, put to disk, and renamed one after the other.
    Before the first rename the list of all is on disk: where a process is killed between two
    renames, the next one that comes to the folder finishes them (`settle`). An error puts back what
    was there before.

    Args:
        folder: where the files belong; it is made. Files of the same names are replaced, others
            stay as they are.
        drop: gives files below `folder` that go as the others come; asked at the end.

    Yields:
        The hidden folder to write into; folders in it are merged with those of their name.

    Raises:
        OSError: something could not be written; names the file as it would have been called.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settle(folder)
    with contextlib.ExitStack() as stack:
        stage = _begin_stage(folder, stack)
        stack.enter_context(_naming(folder, stage / "after"))
        yield stage / "after"
        with hold_interrupts():
            moves = _files(stage / "after")
            drops = {path.relative_to(folder).as_posix() for path in drop()} if drop else set()
            for name in moves:
                _check_replaceable(folder / name)
            _put_to_disk([stage / "after" / name for name in moves])
            plan = {"moves": moves, "drops": sorted(drops - {*moves})}
            write_text(stage / "plan.json", json.dumps(plan))
            _swap(folder, stage)


def settle(folder: Path) -> None:
    """Finish, or clear away, what processes that were killed in `together` left in a folder.

    Args:
        folder: need not exist. What another process is writing is left alone.
    """
    with contextlib.suppress(OSError):  # one that may only be read has nobody writing it
        for stage in sorted(folder.glob(".vidseg-*.part")):
            hold = _hold(stage) if _PART.fullmatch(stage.name) and stage.is_dir() else None
            if hold is None:
                continue
            try:
                _swap(folder, stage)
                _remove(stage)
            finally:
                os.close(hold)


def remove_stale(folder: Path, prefix: str = ".", *, below: bool = False) -> None:
    """Remove what killed processes left of files that they were writing.

    Args:
        folder: where it is looked for; need not exist.
        prefix: of the temporary names.
        below: look into the folders in it, too.
    """
    found = folder.rglob(".*.part") if below else folder.glob(".*.part")
    for part in sorted(found) if folder.is_dir() else ():
        is_ours = part.name.startswith(prefix) and _PART.fullmatch(part.name)
        if is_ours and part.is_file() and (hold := _hold(part)) is not None:
            _remove(part)
            os.close(hold)


def _prefix(path: Path) -> str:
    return f".{path.name[:_NAME_CHARACTERS]}.vidseg-"


def _begin(path: Path) -> tuple[Path, IO[bytes]]:
    """Make and open a temporary file beside a path, held until it is closed."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        part = path.with_name(f"{_prefix(path)}{secrets.token_hex(8)}.part")
        descriptor = os.open(part, flags, 0o666)
        if _take(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return part, open(descriptor, "w+b")  # noqa: PTH123
        os.close(descriptor)  # `remove_stale` of another process came between


def _begin_stage(folder: Path, stack: contextlib.ExitStack) -> Path:
    """Make a hidden folder, held until the stack closes, which removes it."""
    while True:
        stage = folder / f".vidseg-{secrets.token_hex(8)}.part"
        stage.mkdir()
        stack.callback(_remove, stage)
        if fcntl is not None:
            descriptor = os.open(stage, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            if _take(descriptor) is False or not stage.is_dir():
                continue  # `settle` of another process came between
        (stage / "after").mkdir()
        return stage


def _take(descriptor: int) -> bool | None:
    """Lock a file or folder while it is open; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _hold(path: Path) -> int | None:
    """A descriptor that locks what nobody is writing any more; None for anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    if _take(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _check_replaceable(path: Path) -> None:
    """Refuse to put a file in the place of a folder, or of a device that a command was sent to."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder, wanted a file", str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "is a device or a pipe, wanted a file", str(path))


def _files(folder: Path) -> list[str]:
    """Names of all files below a folder, with "/" between their parts, sorted."""
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _put_to_disk(files: list[Path]) -> None:
    if len(files) > _ONE_BY_ONE and hasattr(os, "sync"):
        os.sync()  # a million label maps, in one go
        return
    for file in files:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())


def _swap(folder: Path, stage: Path) -> None:
    """Do what the plan of a stage says, or the rest of it; without a plan, nothing."""
    plan = _read_plan(stage / "plan.json")
    undo: list[tuple[Path, Path | None]] = []
    try:
        for name in plan.get("drops", ()):
            _keep(folder, stage, name, undo)
            inside(folder, name).unlink(missing_ok=True)
        for name in plan.get("moves", ()):
            staged, target = inside(stage / "after", name), inside(folder, name)
            if staged.is_file():  # else it was moved before a kill
                target.parent.mkdir(parents=True, exist_ok=True)
                _keep(folder, stage, name, undo)
                staged.replace(target)
    except (OSError, ValueError):
        for target, kept in reversed(undo):
            if kept is None:
                target.unlink(missing_ok=True)
            else:
                kept.replace(target)
        raise
    finally:
        (stage / "plan.json").unlink(missing_ok=True)
    for place in {inside(folder, name).parent for name in plan.get("moves", ())}:
        _sync_folder(place)


def _keep(folder: Path, stage: Path, name: str, undo: list[tuple[Path, Path | None]]) -> None:
    """Keep a second name of a file that is to be replaced, to put it back after an error."""
    target, kept = inside(folder, name), inside(stage / "before", name)
    if not os.path.lexists(target):
        undo.append((target, None))
        return
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.unlink(missing_ok=True)
    try:
        os.link(target, kept, follow_symlinks=False)
    except OSError:  # a file system without hard links
        target.replace(kept)
    undo.append((target, kept))


def _read_plan(path: Path) -> dict[str, list[str]]:
    """The plan of a stage; empty where there is none, or not one that `together` wrote."""
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        return {key: [str(name) for name in plan[key]] for key in ("drops", "moves")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _sync_folder(folder: Path) -> None:
    """A rename is on disk only when its folder is."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(place: Path, stage: Path | None = None) -> Iterator[None]:
    """Say which file an error of the operating system is about, by its final name."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        named = None if error.filename is None else Path(os.fsdecode(error.filename))
        if named is not None and stage is not None and named.is_relative_to(stage):
            place /= named.relative_to(stage)
        elif named is not None and not _PART.search(str(named)):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(place)) from error
