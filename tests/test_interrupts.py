"""Ctrl-C and SIGTERM mean the same in every command: exit code 130, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidseg.interrupts import begin_ending, hold_interrupts, interruptible
from vidseg.methods import create
from vidseg.weights import save

SIZE = (60, 90)
NUM_FRAMES = 400


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw VSPW of one video, the same as a data set, and a model."""
    folder = tmp_path_factory.mktemp("given")
    frames, masks = folder / "data/long/origin", folder / "data/long/mask"
    frames.mkdir(parents=True)
    masks.mkdir()
    Image.fromarray(np.full((*SIZE, 3), 99, np.uint8)).save(frames / "00000000.jpg")
    Image.fromarray(np.ones(SIZE, np.uint8)).save(masks / "00000000.png")
    for k in range(1, NUM_FRAMES):
        (frames / f"{k:08d}.jpg").hardlink_to(frames / "00000000.jpg")
        (masks / f"{k:08d}.png").hardlink_to(masks / "00000000.png")
    (folder / "val.txt").write_text("long\n")
    save(create("fcn_tiny", num_classes=124), folder / "model.safetensors")
    return folder


def lines(given: Path) -> dict[str, list[object]]:
    of_data = ["--data", "vspw", "--root", given, "--split", "val", "--flow", "none"]
    recipe = ["iterations=100000", "batch_size=1", "workers=1", "validation.every=0"]
    recipe += ["data.crop=[32,32]", "data.options={num_videos: 1, num_frames: 2, size: [32,48]}"]
    model = given / "model.safetensors"
    return {
        "evaluate": ["evaluate", model, *of_data, "--save-labels", "maps", "--out", "out"],
        "prepare": ["data", "prepare", "vspw", "--raw", given, "--out", "out", "--short-side", 48],
        "train": ["train", "fcn_tiny_synthetic", *recipe, "trackers=[]", "--out", "out"],
        "demo": ["demo", "--out", "out"],
        "segment": ["segment", given / "data/long/origin", "--model", model, "-f", "npz,labels"],
    }


SIGNS = {
    "evaluate": "maps/.vidseg-*/after/long/00000002.png",
    "prepare": "out/data/long/origin/0000000[1-9].jpg",
    "train": "out/metrics.jsonl",
    "demo": "out/run.lock",
    "segment": ".vidseg-*/after/*_labels/000002.png",
}


@pytest.mark.parametrize("command", SIGNS)
def test_a_command_ends_with_130_and_leaves_no_litter(
    given: Path, tmp_path: Path, command: str
) -> None:
    words = [sys.executable, "-m", "vidseg.cli.main", *map(str, lines(given)[command])]
    with subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        deadline_s = time.monotonic() + 60
        while not list(tmp_path.glob(SIGNS[command])):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        # The others come while the first is being answered.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
            time.sleep(0.02)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    litter = [path for path in tmp_path.rglob("*") if path.name[0] == "." or path.suffix == ".lock"]
    assert not litter, output
    if command == "evaluate":
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_sigterm_is_an_interrupt_and_what_follows_at_once_is_passed_over() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    with interruptible():
        begin_ending()
        os.kill(os.getpid(), signal.SIGTERM)
    with interruptible(), pytest.raises(KeyboardInterrupt):
        interrupt_while_held()


def interrupt_while_held() -> None:
    done = False
    try:
        with hold_interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            done = True
    finally:
        assert done
