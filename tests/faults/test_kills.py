"""Commands killed at random moments: nothing half-written stays, and the next run mends it.

Each command is killed 20 times by SIGKILL at seeded moments. After every kill each output is the
one of an undisturbed run or is not there; then one more run, undisturbed, must end with outputs
equal to the byte, and without a file that a killed run left.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from vspw_shaped import write_vspw

from vidseg.atomic import settle
from vidseg.training.checkpoint import read_state

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="SIGKILL")]

NUM_KILLS = 20
FEWEST_KILLS = 3  # some commands end before their moment comes
# A server that has imported all of it forks in milliseconds; a fresh Python takes seconds.
CONTEXT = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")


@pytest.fixture(scope="module", autouse=True)
def preloaded() -> None:
    CONTEXT.set_forkserver_preload(
        ["vidseg.training.loop", "vidseg.inference.stream", "vidseg.evaluation.datasets"]
    )


def call(words: list[str], log: str) -> None:
    """Be the command, as a process of its own."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        from vidseg.cli.main import main

        main(words)


def start(tmp_path: Path, *words: object) -> multiprocessing.Process:
    process = CONTEXT.Process(
        target=call, args=([str(word) for word in words], str(tmp_path / "log.txt"))
    )
    process.start()
    return process  # pyright: ignore[reportReturnType]


def finish(tmp_path: Path, *words: object) -> float:
    """Run a command undisturbed; -> its seconds."""
    begin_s = time.monotonic()
    process = start(tmp_path, *words)
    process.join(120)
    assert process.exitcode == 0, (tmp_path / "log.txt").read_text()[-2000:]
    return time.monotonic() - begin_s


def kill_often(
    tmp_path: Path, seed: int, longest_s: float, words: list[object], check: Callable[[], None]
) -> int:
    """Kill a command at `NUM_KILLS` moments; -> how many it did not live to the end of."""
    moments = random.Random(seed)
    killed = 0
    for _ in range(NUM_KILLS):
        process = start(tmp_path, *words)
        process.join(moments.uniform(0.02, longest_s))
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join(20)
        check()
    return killed


def files_of(*places: Path) -> dict[str, bytes]:
    """Name -> content of all files below; locks apart, which stay for the next writer."""
    found = {}
    for place in places:
        for path in [place, *sorted(place.rglob("*"))] if place.exists() else ():
            if path.is_file() and not path.name.endswith(".lock"):
                found[str(path.relative_to(place.parent))] = path.read_bytes()
    return found


def no_litter(folder: Path) -> None:
    left = [path for path in folder.rglob("*") if ".part" in path.name]
    assert left == []


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A folder of frames; a model labels them in about a second."""
    folder = tmp_path / "frames"
    folder.mkdir()
    values = np.random.default_rng(0)
    for t in range(24):
        image = values.integers(0, 255, (24, 32, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(image).save(folder / f"{t:03d}.png")
    return folder


def test_segment(tmp_path: Path, video: Path, weights_file: Path) -> None:
    def words(out: str) -> list[object]:
        formats = ("--format", "overlay,npz,jsonl", "--size", "full", "--quiet")
        return ["segment", video, "--model", weights_file, "--out", tmp_path / out, *formats]

    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    seconds = finish(tmp_path, *words("whole"))
    expected = files_of(tmp_path / "whole")
    assert len(expected) == 3

    def check() -> None:
        settle(tmp_path / "killed")
        found = {n: b for n, b in files_of(tmp_path / "killed").items() if ".part" not in n}
        renamed = {name.replace("killed", "whole", 1): content for name, content in found.items()}
        assert renamed.keys() in (set(), expected.keys())
        for name, content in renamed.items():
            assert content == expected[name], name

    line = [*words("killed"), "--force"]
    assert kill_often(tmp_path, 1, 0.8 * seconds, line, check) >= FEWEST_KILLS
    finish(tmp_path, *line)
    check()
    no_litter(tmp_path / "killed")


def test_evaluate_over_an_earlier_set(tmp_path: Path, weights_file: Path) -> None:
    options = ("num_videos=2", "num_frames=6", "size=[48, 64]")
    options = [word for option in options for word in ("--option", option)]

    def words(split: str) -> list[object]:
        data = ["--data", "synthetic", "--split", split, "--flow", "none", "--quiet", *options]
        return ["evaluate", weights_file, *data, "--out", tmp_path / "out", "--force"]

    seconds = finish(tmp_path, *words("val"))
    earlier = timeless(tmp_path / "out")
    finish(tmp_path, *words("test"))
    later = timeless(tmp_path / "out")
    assert earlier.keys() == later.keys()
    assert earlier != later
    finish(tmp_path, *words("val"))
    states: list[dict[str, object]] = []

    def check() -> None:
        settle(tmp_path / "out")
        states.append(timeless(tmp_path / "out"))
        assert states[-1] in (earlier, later)

    assert kill_often(tmp_path, 2, 0.8 * seconds, words("test"), check) >= FEWEST_KILLS
    finish(tmp_path, *words("test"))
    assert timeless(tmp_path / "out") == later
    no_litter(tmp_path / "out")


def timeless(folder: Path) -> dict[str, object]:
    """What the files of an evaluation say, without how long it took; each must be readable."""
    found: dict[str, object] = {}
    for path in sorted(folder.iterdir()):
        if path.name.endswith((".lock", ".html")) or ".part" in path.name:
            continue  # the report holds the times as pictures
        if path.suffix == ".json":
            values = json.loads(path.read_text())
            found[path.name] = (values["num_frames"], values["classes"])
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[path.name] = {
                    name: arrays[name].tobytes() for name in arrays.files if "confusion" in name
                }
        else:
            found[path.name] = len(path.read_bytes().splitlines())
    return found


def test_prepare(tmp_path: Path) -> None:
    raw = write_vspw(tmp_path / "raw", {"train": (6,), "val": (5,), "test": (4,)})

    def words(out: str) -> list[object]:
        source = ["--raw", raw or tmp_path / "raw", "--out", tmp_path / out]
        return ["data", "prepare", "vspw", *source, "--short-side", 48, "--quiet"]

    seconds = finish(tmp_path, *words("whole"))
    expected = files_of(tmp_path / "whole")

    def check() -> None:
        for name, content in files_of(tmp_path / "killed").items():
            if ".part" not in name:
                assert content == expected[name.replace("killed", "whole", 1)], name

    assert kill_often(tmp_path, 3, 0.8 * seconds, words("killed"), check) >= FEWEST_KILLS
    finish(tmp_path, *words("killed"))
    found = files_of(tmp_path / "killed")
    assert {name.replace("killed", "whole", 1): c for name, c in found.items()} == expected
    no_litter(tmp_path / "killed")


SMALL_RUN = (
    "name=tiny",
    "model={name: fcn_tiny}",
    "data.options={num_videos: 2, num_frames: 3, size: [48, 64]}",
    "data.crop=[32, 48]",
    "data.scale=[1.0, 1.0]",
    "validation.every=0",
    "optimiser.lr=0.05",
    "checkpoint.every=2",
    "iterations=60",
    "batch_size=4",
    "ema=0.9",
    "workers=0",
    "log_every=1",
    "trackers=[]",
)


def test_train(tmp_path: Path) -> None:
    """One run, killed again and again, ends with the bits of one that was left alone."""

    def words(out: str, *more: object) -> list[object]:
        return [
            "train",
            "fcn_tiny_synthetic",
            *SMALL_RUN,
            "--out",
            tmp_path / out,
            "--quiet",
            *more,
        ]

    seconds = finish(tmp_path, *words("straight"))

    def check() -> None:
        checkpoints = sorted((tmp_path / "killed" / "checkpoints").glob("step-*.pt"))
        for path in checkpoints:
            read_state(path)  # whole, or it raises

    kill_often(tmp_path, 4, seconds / 3, words("killed", "--resume"), check)
    finish(tmp_path, *words("killed", "--resume"))
    runs = [tmp_path / "straight", tmp_path / "killed"]
    weights = [(run / "last.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    losses = [_losses(run / "metrics.jsonl") for run in runs]
    assert losses[0] == losses[1]
    assert list(losses[0]) == list(range(1, 61))
    no_litter(tmp_path / "killed")


def _losses(path: Path) -> dict[int, float]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records if "loss" in record}
