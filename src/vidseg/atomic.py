"""Files that appear under their name only when they are whole and on disk."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for writing under a temporary name; it is flushed to disk, then renamed.

    Args:
        path: the file; one of this name is replaced, or kept if anything goes wrong.
        shared: several processes or threads, on one machine or more, may write this file at once,
            so each has a temporary name of its own. Otherwise what a killed process left is
            written over.

    Yields:
        A binary file to write.

    Raises:
        OSError: it could not be written (a full disk); names `path`.
    """
    own = f".{secrets.token_hex(4)}" if shared else ""
    part = path.with_name(f".{path.name}{own}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all; errors as `replacing`."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))
