"""Loader processes: the same batches whatever they travel by, one line for what fails in one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run
from torch import Tensor

from vidseg.data.files import MissingFilesError
from vidseg.training import loading
from vidseg.training.loading import StepSampler, load_batches

linux = pytest.mark.skipif(sys.platform != "linux", reason="forked workers")


class Numbers:
    """Samples as those of a data set; `fail` is called in the worker before number 5."""

    def __init__(self, fail: Any = None) -> None:
        self.fail = fail

    def __len__(self) -> int:
        return 100

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number == 5 and self.fail is not None:
            self.fail()
        generator = torch.Generator().manual_seed(number)
        frames = torch.rand(2, 3, 4, 5, generator=generator)
        return {"frames": frames, "labels": frames[0, 0].long(), "name": f"n{number}", "step": 7}


def batches_of(samples: Numbers, workers: int) -> Iterator[dict[str, Any]]:
    return load_batches(samples, StepSampler(0, 6, 2), workers, pin=False)


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return list(left) == list(right) and all(
        torch.equal(value, right[name]) if isinstance(value, Tensor) else value == right[name]
        for name, value in left.items()
    )


@linux
@pytest.mark.parametrize("way", ["shared", "few files", "no shared memory"])
def test_batches_are_the_same_by_every_way(monkeypatch, way: str) -> None:
    expected = list(batches_of(Numbers(), 0))
    if way == "few files":
        monkeypatch.setattr(loading, "FEW_FILES", 10**9)
    if way == "no shared memory":

        def full(samples: Any) -> Any:
            if isinstance(samples[0], dict):
                raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>")
            return torch.utils.data.default_collate(samples)

        monkeypatch.setattr(loading, "default_collate", full)
    found = list(batches_of(Numbers(), 2))
    assert len(found) == len(expected) == 6
    assert all(map(same, found, expected))
    assert not multiprocessing.active_children()


def out_of_memory() -> None:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def damaged() -> None:
    raise ValueError("frames/00001.png cannot be read as an image")


def missing() -> None:
    raise MissingFilesError(Path("frames"), ["a", "b"], "frames have no label")


def no_disk() -> None:
    raise PermissionError(13, "Permission denied", "frames/1.png")


def many_files() -> None:
    raise OSError(24, "Too many open files")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def bus_error() -> None:
    os.kill(os.getpid(), signal.SIGBUS)


def broken() -> None:
    raise ZeroDivisionError("a fault of ours")


@linux
@pytest.mark.parametrize(
    ("fail", "kind", "message"),
    [
        (damaged, ValueError, r"^frames/00001\.png cannot be read as an image$"),
        (missing, FileNotFoundError, r"^frames: frames have no label; 2 missing: a, b$"),
        (no_disk, PermissionError, r"Permission denied: 'frames/1\.png'$"),
        (many_files, OSError, r"^too many open files; .*ulimit -n.*, or set workers=0$"),
        (out_of_memory, MemoryError, r"^out of memory.*batch_size, data\.crop or workers$"),
        (killed, ChildProcessError, r"was killed \(Killed\); lower workers, batch_size or data"),
        (bus_error, ChildProcessError, r"was killed \(Bus error\); .*/dev/shm.*data\.crop"),
        (broken, RuntimeError, "a fault of ours"),
    ],
)
def test_what_fails_in_a_worker_is_one_line_and_ends_at_once(fail, kind, message: str) -> None:
    begin_s = time.monotonic()
    with pytest.raises(kind, match=message) as error:
        list(batches_of(Numbers(fail), 2))
    if fail is not broken:
        assert "\n" not in str(error.value)
    del error  # torch's own error holds the loader
    while multiprocessing.active_children():
        assert time.monotonic() - begin_s < 5
        time.sleep(0.01)


@linux
def test_sigterm_to_the_group_leaves_the_workers_to_the_main_process() -> None:
    batches = batches_of(Numbers(), 2)
    found = [next(batches), next(batches)]  # one of each worker
    for process in multiprocessing.active_children():
        os.kill(process.pid or 0, signal.SIGTERM)
        os.kill(process.pid or 0, signal.SIGINT)
    found += batches
    assert len(found) == 6
    begin_s = time.monotonic()
    waiting = batches_of(Numbers(lambda: time.sleep(60)), 2)
    next(waiting)
    time.sleep(0.5)
    waiting.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert not multiprocessing.active_children()
    assert time.monotonic() - begin_s < 15


@linux
def test_workers_end_with_a_killed_main_process() -> None:
    program = (
        "import multiprocessing, time, test_loading as t\n"
        "batches = t.batches_of(t.Numbers(lambda: time.sleep(60)), 2)\n"
        "next(batches)\n"
        "print(*[p.pid for p in multiprocessing.active_children()], flush=True)\n"
        "time.sleep(60)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        assert process.stdout is not None
        pids = list(map(int, process.stdout.readline().split()))
        process.kill()
    assert len(pids) == 2
    end_s = time.monotonic() + 5
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < end_s
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether a process is there, and not only waiting for somebody to ask how it ended."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()[:200]
    except (FileNotFoundError, ProcessLookupError):
        return False


@linux
def test_a_damaged_frame_ends_training_in_one_line(tmp_path: Path, capsys) -> None:
    """Through the command, with workers: the file is named, and the folder is free again."""
    from vidseg.data import open_dataset

    root = tmp_path / "mine"
    open_dataset("synthetic", root, "train", num_videos=1, num_frames=4, size=(48, 64))
    frame = sorted(root.glob("train/*/frames/*"))[1]
    frame.write_bytes(frame.read_bytes()[:100])
    words = ["data.kind=folder", f"data.root={root}", "data.options={}", "validation.every=0"]
    words += ["iterations=3", "batch_size=4", "data.crop=[48,64]", "workers=2", "trackers=[]"]
    assert run("train", "fcn_tiny_synthetic", *words, "--out", tmp_path / "run") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert str(frame) in said
    assert not (tmp_path / "run" / "run.lock").exists()
