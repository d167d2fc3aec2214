"""A file is whole under its name, or the one before is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vidseg.atomic import replacing, write_text


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    write_text(path, "two \u00e9\n")
    assert path.read_bytes() == b"two \xc3\xa9\n"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_keeps_the_file_before_and_names_it(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "one")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.txt'"):
        write_text(path, "two")
    with pytest.raises(TypeError), replacing(path) as file:
        file.write("two")  # type: ignore[arg-type]
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.part").write_text("half")
    write_text(tmp_path / "a.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_two_writers_write_one_file_by_themselves(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    # In one process, as threads are, or processes of one number in two containers.
    with replacing(path, shared=True) as slow:
        slow.write(b"slow")
        with replacing(path, shared=True) as quick:
            quick.write(b"quick")
        assert path.read_bytes() == b"quick"
        slow.write(b" and whole")
    assert path.read_bytes() == b"slow and whole"
    assert list(tmp_path.iterdir()) == [path]
