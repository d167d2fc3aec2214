"""A file is whole under its name, or the one before is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from vidseg.atomic import remove_stale, replacing, settle, together, write_text


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


KILLED_HALFWAY = """
import os, signal, sys
from pathlib import Path
from vidseg.atomic import replacing, together

folder = Path(sys.argv[1])
if sys.argv[2] == "file":
    with replacing(folder / "a.txt") as file:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
renames = 0
rename = Path.replace

def replace(self, target):
    # The plan is the first rename, then come the files.
    global renames
    renames += 1
    if renames == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)

Path.replace = replace
with together(folder, drop=lambda: [folder / "old.txt"]) as stage:
    for name in ("a", "b", "c"):
        (stage / f"{name}.txt").write_text("new")
"""


def kill_halfway(folder: Path, where: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_HALFWAY, str(folder), where], check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.part").write_text("somebody else's")
    kill_halfway(tmp_path, "file")
    assert len(list(tmp_path.iterdir())) == 2
    with replacing(tmp_path / "a.txt") as held:  # what is being written stays
        held.write(b"first")
        write_text(tmp_path / "a.txt", "second")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.txt.part", "a.txt"]
    assert (tmp_path / "a.txt").read_text() == "first"
    kill_halfway(tmp_path, "file")
    remove_stale(tmp_path.parent, below=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.txt.part", "a.txt"]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


OLD = {"a.txt": "old", "b.txt": "old", "old.txt": "old", "mine.txt": "mine"}
NEW = {"a.txt": "new", "b.txt": "new", "c.txt": "new", "mine.txt": "mine"}


def write_old(folder: Path) -> None:
    for name, text in OLD.items():
        (folder / name).write_text(text)


@pytest.mark.parametrize("rename", [1, 2, 3, 4])
def test_a_kill_between_two_renames_leaves_one_of_two_sets(tmp_path: Path, rename: int) -> None:
    write_old(tmp_path)
    kill_halfway(tmp_path, str(rename))
    settle(tmp_path)
    assert contents(tmp_path) == (OLD if rename == 1 else NEW)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("rename", [1, 2, 3, 4])
def test_a_full_disk_in_the_midst_of_a_set_leaves_the_set_before(
    tmp_path: Path, monkeypatch, rename: int
) -> None:
    write_old(tmp_path)
    renames, replace = 0, Path.replace

    def full(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == rename:
            raise OSError(28, "No space left on device", str(self))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)

    def write_new() -> None:
        with together(tmp_path, drop=lambda: [tmp_path / "old.txt"]) as stage:
            for name in ("a", "b", "c"):
                (stage / f"{name}.txt").write_text("new")

    with pytest.raises(OSError, match="No space left on device") as caught:
        write_new()
    named = {1: "", 2: "a.txt", 3: "b.txt", 4: "c.txt"}[rename]
    assert Path(str(caught.value.filename)) == tmp_path / named
    assert contents(tmp_path) == OLD
    assert not list(tmp_path.glob(".*"))


def test_a_set_of_files_comes_with_its_folders(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps/theirs.png").write_text("theirs")
    with together(tmp_path) as stage:
        (stage / "maps").mkdir()
        (stage / "maps/0.png").write_text("0")
        (stage / "video.mp4").write_text("film")
        assert not (tmp_path / "video.mp4").exists()
    assert (tmp_path / "maps/0.png").read_text() == "0"
    assert (tmp_path / "maps/theirs.png").read_text() == "theirs"
    assert (tmp_path / "video.mp4").read_text() == "film"
    with suppress(KeyError), together(tmp_path) as stage:
        (stage / "video.mp4").write_text("other")
        raise KeyError
    assert (tmp_path / "video.mp4").read_text() == "film"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_plan_that_somebody_put_there_moves_nothing_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    stage = tmp_path / "out/.vidseg-0123456789abcdef.part"
    (stage / "after").mkdir(parents=True)
    (stage / "after/evil").write_text("evil")
    (stage / "plan.json").write_text(json.dumps({"moves": ["../precious"], "drops": []}))
    with pytest.raises(ValueError, match="leads out of its folder"):
        settle(tmp_path / "out")
    (stage / "plan.json").write_text(json.dumps({"moves": [], "drops": ["../precious"]}))
    with pytest.raises(ValueError, match="leads out of its folder"):
        settle(tmp_path / "out")
    settle(tmp_path / "out")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not stage.exists()


def test_links_and_devices_are_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "out").symlink_to(tmp_path / "precious")
    write_text(tmp_path / "out", "new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "out").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    for name in ("pipe", "null"):
        with pytest.raises(OSError, match="is a device or a pipe, wanted a file"):
            write_text(tmp_path / name, "new")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write_text(tmp_path, "new")
    assert not list(tmp_path.glob(".*"))


def test_a_name_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("\u00e9" * 120 + "a" * 15)
    write_text(path, "whole")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


def test_two_writers_write_one_file_by_themselves(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    # In one process, as threads are, or processes of one number in two containers.
    with replacing(path) as slow:
        slow.write(b"slow")
        with replacing(path) as quick:
            quick.write(b"quick")
        assert path.read_bytes() == b"quick"
        slow.write(b" and whole")
    assert path.read_bytes() == b"slow and whole"
    assert list(tmp_path.iterdir()) == [path]
