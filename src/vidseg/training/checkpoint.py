"""The state of a run on disk: written whole or not at all, read without running code."""

import logging
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from vidseg.atomic import replacing
from vidseg.lock import FolderLock

log = logging.getLogger("vidseg.training")


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


def read_state(path: Path) -> dict[str, Any]:
    """Read what `write_state` wrote; code in it is refused, not run.

    torch passes over the checksums in the file (CRC-32, as in every zip); here they are compared.

    Args:
        path: the file.

    Returns:
        The state, tensors on the CPU.

    Raises:
        ValueError: damaged, or not a checkpoint of a run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is not the one written in it")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a checkpoint ({reason})") from error
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
        """The checkpoint files, oldest first."""
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
        paths = self.paths()
        here = paths.index(path)
        # Newer ones could not be read, when the run went on from before them.
        for other in (*paths[: max(here + 1 - self.keep, 0)], *paths[here + 1 :]):
            other.unlink(missing_ok=True)
        return path

    @property
    def step(self) -> int:
        """Steps done in the newest; 0 if there is none."""
        paths = self.paths()
        return int(paths[-1].stem.removeprefix("step-")) if paths else 0

    def load(self) -> dict[str, Any] | None:
        """The newest state that can be read, with a warning of those that cannot.

        Returns:
            The state; None if there is no checkpoint.

        Raises:
            ValueError: there are some, and none can be read.
        """
        error = None
        for path in reversed(self.paths()):
            try:
                state = read_state(path)
            except ValueError as found:
                log.warning("%s; going on from the one before", found)
                error = error or found
            else:
                return state
        if error is not None:
            raise ValueError(f"{error}, and there is no earlier one; start anew with another --out")
        return None


class RunLock(FolderLock):
    """Keeps a second process from writing the same run folder; as `FolderLock`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            advice="choose another --out. Workers of torchrun outlive a killed launcher",
        )
