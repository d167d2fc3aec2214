"""One writer at a time, and the next one is told who it is."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from vidseg.lock import FolderLock, writing
from vidseg.training.checkpoint import RunLock

HELD = r"process {} on \S+ is writing .*; wait for it, stop it, or choose another --out"


@pytest.mark.parametrize("kind", [FolderLock, RunLock])
def test_a_folder_has_one_writer(tmp_path: Path, kind: type[FolderLock]) -> None:
    with kind(tmp_path), pytest.raises(FileExistsError, match=HELD.format(os.getpid())):
        FolderLock(tmp_path).__enter__()
    with FolderLock(tmp_path / "made"):
        (tmp_path / "made/file").touch()
    with suppress(KeyError), FolderLock(tmp_path / "for/nothing"):
        raise KeyError
    assert {path.name for path in tmp_path.rglob("*")} == {"made", "file", "for"}


def test_what_is_written_beside_other_things_is_locked_by_its_name(tmp_path: Path) -> None:
    ours, theirs = [tmp_path / "a.mp4", tmp_path / "a.npz"], [tmp_path / "b.mp4"]
    with writing(ours), writing(theirs), pytest.raises(FileExistsError, match=r"writing .*a\.npz"):
        writing([*theirs, tmp_path / "a.npz"][1:]).__enter__()
    with writing(ours), pytest.raises(FileExistsError):
        writing([tmp_path / "0.mp4", *ours]).__enter__()
    with writing([tmp_path / "0.mp4"]):  # what the refused one took is free again
        pass
    assert not list(tmp_path.iterdir())


HOLDER = """
import multiprocessing, sys, time
from vidseg.lock import FolderLock

with FolderLock(sys.argv[1]):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    time.sleep(0.5)  # the child lets go of the lock first thing
    print(child.pid, flush=True)
    child.join()
"""


def test_a_killed_holder_holds_no_more_though_its_child_lives(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(FileExistsError, match=HELD.format(holder.pid)):
                FolderLock(tmp_path).__enter__()
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            os.kill(child, 0)
            assert (tmp_path / "run.lock").is_file()
            with FolderLock(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
    assert not list(tmp_path.iterdir())


def test_three_processes_and_a_stale_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")

    def hold(start: object, results: object) -> None:
        start.wait()  # type: ignore[attr-defined]
        try:
            with FolderLock(tmp_path):
                begin_s = time.monotonic()
                time.sleep(0.01)
                results.put((begin_s, time.monotonic()))  # type: ignore[attr-defined]
        except FileExistsError as error:
            results.put(str(error))  # type: ignore[attr-defined]

    dead = context.Process(target=int)
    dead.start()
    dead.join()
    for _ in range(15):
        stale = {"pid": dead.pid, "host": socket.gethostname()}
        (tmp_path / "run.lock").write_text(json.dumps(stale))
        start, results = context.Barrier(3), context.SimpleQueue()
        processes = [context.Process(target=hold, args=(start, results)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        found = [results.get() for _ in range(3)]
        held = sorted(times for times in found if isinstance(times, tuple))
        assert held, found
        assert all(end <= begin for (_, end), (begin, _) in pairwise(held))
    assert not list(tmp_path.iterdir())


def test_a_lock_behind_a_link_writes_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "out/run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="out"):
        FolderLock(tmp_path / "out").__enter__()
    assert (tmp_path / "precious").read_text() == "precious"
