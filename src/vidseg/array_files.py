"""numpy's files, read within bounds: what a header claims is checked before memory is taken."""

from __future__ import annotations

import hashlib
import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from vidseg.atomic import replacing

MAX_BYTES = 2**32
DIGEST_BYTES = 32


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file with a sha256 of its values behind them, which `np.load` passes over.

    Args:
        path: the file; its folder exists.
        array: of numbers.

    Raises:
        OSError: it could not be written; names the file.
    """
    array = np.ascontiguousarray(array)
    with replacing(path) as file:
        np.save(file, array, allow_pickle=False)
        file.write(hashlib.sha256(array.data).digest())


def read_array(path: Path) -> np.ndarray:
    """Read a .npy file; what `write_array` wrote is checked by its sha256.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or claims more than it holds; names the file.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size, may_have_digest=True)
    except Exception as error:  # numpy's reader raises whatever the parsing of a head meets
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path}: wanted an array of numpy, got a damaged file: {error}") from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a .npz file, by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, claims more than it holds, or holds more than 4 GiB; names the
            file and the array.
    """
    name = ""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_BYTES:
                raise ValueError(f"it claims more than {MAX_BYTES} bytes")
            arrays = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    arrays[name] = _read(file, member.file_size)
            return arrays
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        where = f"{path}: {name}" if name else f"{path}"
        raise ValueError(f"{where}: wanted arrays of numpy, got a damaged file: {error}") from None


def _read(file: IO[bytes], size_bytes: int, *, may_have_digest: bool = False) -> np.ndarray:
    """Read an array whose header says how many bytes follow; that many must follow."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"its format {version} is unknown")
    shape, is_fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds objects of Python, which are not read")
    wanted = math.prod(shape) * dtype.itemsize
    left = size_bytes - file.tell()
    has_digest = may_have_digest and left == wanted + DIGEST_BYTES
    if (wanted != left and not has_digest) or min(shape, default=0) < 0:
        raise ValueError(f"its head announces {wanted} bytes, it holds {left}")
    content = bytearray(file.read(wanted if has_digest else -1))
    if has_digest and file.read() != hashlib.sha256(content).digest():
        raise ValueError("its sha256 is not that of its values")
    values = np.frombuffer(content, dtype)
    return values.reshape(shape, order="F" if is_fortran else "C")
