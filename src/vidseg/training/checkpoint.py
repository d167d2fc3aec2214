"""The state of a run on disk: written whole or not at all, read without running code."""

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import IO, Any

import torch

from vidseg.atomic import replacing

STALE_S = 60.0
HEARTBEAT_S = 10.0


def _sync_folder(folder: Path) -> None:
    """A rename is on disk only when its folder is."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Recorder:
    """torch.save hides a failed write behind an error about positions; this keeps the cause."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values as one file, atomically.

    Args:
        path: the file.
        state: what `read_state` will give back.

    Raises:
        OSError: it could not be written; a file of that name stays as it was.
    """
    with replacing(path) as file:
        recorder = _Recorder(file)
        try:
            torch.save(state, recorder)  # pyright: ignore[reportArgumentType]
        except Exception as error:
            if recorder.error is not None:
                raise recorder.error from error
            raise
    _sync_folder(path.parent)


def read_state(path: Path) -> dict[str, Any]:
    """Read what `write_state` wrote; code in it is refused, not run.

    Args:
        path: the file.

    Returns:
        The state, tensors on the CPU.

    Raises:
        ValueError: damaged, or not a checkpoint of a run.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({str(error).splitlines()[0]}); delete it to "
            "resume from the one before"
        ) from error
    if not isinstance(state, dict) or "step" not in state:
        raise ValueError(f"{path} is not the checkpoint of a training run")
    return state


class Checkpoints:
    """The newest checkpoints of a run.

    Args:
        folder: where they lie, as step-00000400.pt.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def paths(self) -> list[Path]:
        """All of them, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state after `step` steps, then let go of the oldest ones.

        Raises:
            OSError: it could not be written; says which checkpoint there is to resume from.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.pt"
        try:
            write_state(path, {**state, "step": step})
        except OSError as error:
            rest = [p.name for p in self.paths()]
            kept = f"{rest[-1]} is intact" if rest else "there is no earlier one"
            raise OSError(
                error.errno,
                f"{error.strerror}; this checkpoint was not written, {kept}; make room, then go on "
                "with --resume",
                str(path),
            ) from error
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    @property
    def step(self) -> int:
        """Steps done in the newest; 0 if there is none."""
        paths = self.paths()
        return int(paths[-1].stem.removeprefix("step-")) if paths else 0

    def load(self) -> dict[str, Any] | None:
        """The newest state; None if there is none. Raises ValueError if it is damaged."""
        paths = self.paths()
        return read_state(paths[-1]) if paths else None


class RunLock:
    """Keeps a second process from writing the same run folder; a context manager.

    The workers of torchrun outlive a killed launcher, and would go on writing. The lock is a file
    with the holder's process number and host, touched every 10 s. It is free once its process is
    dead (seen from the same host) or has not touched it for a minute.

    Args:
        folder: the run folder.

    Raises:
        FileExistsError: on entering, if another process holds it; says which.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.lock"
        self._mine = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "RunLock":
        mine = self._mine = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        for _ in range(2):
            try:
                with self.path.open("x", encoding="utf-8") as file:
                    file.write(mine)
                break
            except FileExistsError:
                self._clear_if_dead()
        else:
            raise FileExistsError(f"another process has just taken {self.path}; try again")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(FileNotFoundError):
            # A process that was suspended for long may have lost the lock to another.
            if self.path.read_text(encoding="utf-8") == self._mine:
                self.path.unlink()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _clear_if_dead(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            age_s = time.time() - self.path.stat().st_mtime
            try:
                holder = json.loads(self.path.read_text(encoding="utf-8"))
                pid, host = int(holder["pid"]), str(holder["host"])
            except (ValueError, KeyError, TypeError):
                pid, host = -1, "an unknown host"
            dead = age_s > STALE_S or (host == socket.gethostname() and not _is_alive(pid))
            if not dead:
                raise FileExistsError(
                    f"process {pid} on {host} is writing {self.path.parent} (seen {age_s:.0f} s "
                    "ago); wait for it, stop it, or choose another --out. Workers of torchrun "
                    "outlive a killed launcher"
                )
            self.path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
