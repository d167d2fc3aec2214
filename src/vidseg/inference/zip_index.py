"""The index of a zip with more entries than memory should hold."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path


class ZipIndex:
    """The entries of a zip while it is written, on disk: an hour of video has 90 000 of them.

    Takes the place of `zipfile.ZipFile.filelist`.

    Args:
        folder: where its file lies, which has no name.
    """

    _KEPT = ("CRC", "compress_size", "file_size", "header_offset", "compress_type")
    _KEPT += ("flag_bits", "external_attr", "create_version", "extract_version")

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile("w+", dir=folder, encoding="utf-8")  # noqa: SIM115
        self._count = 0
        self.close = self._file.close

    def append(self, entry: zipfile.ZipInfo) -> None:
        """Take in what was written."""
        kept = [entry.filename, entry.date_time, *(getattr(entry, name) for name in self._KEPT)]
        self._file.write(json.dumps(kept) + "\n")
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[zipfile.ZipInfo]:
        self._file.seek(0)
        for line in self._file:
            name, date_time, *kept = json.loads(line)
            entry = zipfile.ZipInfo(name, tuple(date_time))
            for attribute, value in zip(self._KEPT, kept, strict=True):
                setattr(entry, attribute, value)
            yield entry
