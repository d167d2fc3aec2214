"""A killed run resumes bit for bit; a checkpoint is whole or not there."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vidseg.training.checkpoint import Checkpoints, RunLock, read_state, write_state
from vidseg.training.config import load_config
from vidseg.training.folder import read_metrics

RECIPE = """
name: tiny
model: {name: tmanet_tiny, options: {memory_frames: 2}}
data:
  kind: synthetic
  options: {num_videos: 2, num_frames: 3, size: [48, 64]}
  crop: [32, 48]
  scale: [0.8, 1.2]
validation: {every: 4, options: {num_videos: 1, num_frames: 2, size: [48, 64]}, samples: 0}
optimiser: {kind: adamw, lr: 1e-3}
checkpoint: {every: 2, keep: 2}
iterations: 8
batch_size: 4
ema: 0.9
workers: 0
log_every: 1
trackers: []
"""

SCRIPT = """
import os, signal, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from vidseg.training.folder import resolve
from vidseg.training.loop import train
recipe, folder, kill_at, *overrides = sys.argv[1:]
folder = Path(folder)
resume = (folder / "config.yaml").exists()
pids = folder.with_name(folder.name + ".pids")
with pids.open("a") as file:
    file.write(f"{os.getpid()} {os.getppid()}\\n")
def report(record):
    if "loss" in record and record["step"] == int(kill_at):
        victims = [int(p) for line in pids.read_text().splitlines() for p in line.split()]
        for pid in sorted(set(victims) - {os.getpid(), int(os.environ["TEST_PID"])}):
            os.kill(pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
train(resolve(recipe, overrides, folder, resume=resume), folder, resume=resume, report=report)
"""


def launch(tmp_path: Path, run: str, kill_at: int, *overrides: str, processes: int = 1):
    recipe, script = tmp_path / "tiny.yaml", tmp_path / "run.py"
    recipe.write_text(RECIPE)
    script.write_text(SCRIPT)
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    words = [*launcher, str(script), str(recipe), str(tmp_path / run), str(kill_at), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TEST_PID": str(os.getpid())}
    (tmp_path / f"{run}.pids").unlink(missing_ok=True)
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def end_of(process) -> tuple[int, str]:
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def same_bits(one: object, other: object, where: str = "state") -> None:
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor), where
        assert torch.equal(one, other), f"{where} differs"
    elif isinstance(one, dict):
        assert isinstance(other, dict)
        assert one.keys() == other.keys(), where
        for key in one:
            same_bits(one[key], other[key], f"{where}.{key}")
    elif one == one:  # NaN equals nothing
        assert one == other, f"{where}: {one} != {other}"


def check_resumed_run_is_the_straight_one(tmp_path: Path, processes: int) -> None:
    # 6 labelled frames, 4 a step: step 5 is in the middle of an epoch, and after the checkpoint
    # at 4 there is a step that the killed run did in vain.
    straight = launch(tmp_path, "straight", -1, processes=processes)
    killed = launch(tmp_path, "killed", 5, processes=processes)
    status, output = end_of(killed)
    assert status != 0, output
    assert Checkpoints(tmp_path / "killed/checkpoints", 2).step == 4, output
    status, output = end_of(launch(tmp_path, "killed", -1, "workers=2", processes=processes))
    assert status == 0, output
    status, output = end_of(straight)
    assert status == 0, output
    states = [read_state(tmp_path / run / "checkpoints/step-00000008.pt") for run in _RUNS]
    same_bits(*states)
    assert states[0]["averaged"] is not None
    losses = [
        {r["step"]: r["loss"] for r in read_metrics(tmp_path / run) if "loss" in r} for run in _RUNS
    ]
    assert losses[0] == losses[1]
    assert list(losses[0]) == list(range(1, 9))
    weights = [(tmp_path / run / "best.safetensors").read_bytes() for run in _RUNS]
    assert weights[0] == weights[1]


_RUNS = ("straight", "killed")


def test_a_run_killed_in_mid_epoch_resumes_bit_for_bit(tmp_path: Path) -> None:
    check_resumed_run_is_the_straight_one(tmp_path, processes=1)


@pytest.mark.slow
def test_two_processes_killed_in_mid_epoch_resume_bit_for_bit(tmp_path: Path) -> None:
    check_resumed_run_is_the_straight_one(tmp_path, processes=2)
