"""A killed run resumes bit for bit; a checkpoint is whole or not there."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vidseg.training.checkpoint import Checkpoints, read_state, write_state
from vidseg.training.folder import read_metrics, resolve
from vidseg.training.loop import train

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


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    with process:
        try:
            output, _ = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, output


def run_here(tmp_path: Path, run: str, *overrides: str, resume: bool = False, report=None):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE)
    config = resolve(recipe, overrides, tmp_path / run, resume=resume)
    return train(config, tmp_path / run, resume=resume, report=report)


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


def check_same_runs(one: Path, other: Path) -> None:
    states = [read_state(run / "checkpoints/step-00000008.pt") for run in (one, other)]
    same_bits(*states)
    assert states[0]["averaged"] is not None
    losses = [{r["step"]: r["loss"] for r in read_metrics(r) if "loss" in r} for r in (one, other)]
    assert losses[0] == losses[1]
    assert list(losses[0]) == list(range(1, 9))
    weights = [(run / "last.safetensors").read_bytes() for run in (one, other)]
    assert weights[0] == weights[1]


# 6 labelled frames, 4 a step: step 5 is in the middle of an epoch, and after the checkpoint at 4
# there is a step that the killed run took in vain.


def test_a_run_killed_in_mid_epoch_resumes_bit_for_bit(tmp_path: Path) -> None:
    killed = launch(tmp_path, "killed", 5)
    run_here(tmp_path, "straight")
    status, output = end_of(killed)
    assert status == -signal.SIGKILL, output
    assert Checkpoints(tmp_path / "killed/checkpoints", 2).step == 4
    run_here(tmp_path, "killed", "workers=2", resume=True)
    check_same_runs(tmp_path / "straight", tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_killed_in_mid_epoch_resume_bit_for_bit(tmp_path: Path) -> None:
    killed = launch(tmp_path, "killed", 5, processes=2)
    straight = launch(tmp_path, "straight", -1, processes=2)
    ends = [end_of(killed), end_of(straight)]
    assert ends[0][0] != 0, ends[0][1]
    assert ends[1][0] == 0, ends[1][1]
    assert Checkpoints(tmp_path / "killed/checkpoints", 2).step == 4, ends[0][1]
    status, output = end_of(launch(tmp_path, "killed", -1, "workers=2", processes=2))
    assert status == 0, output
    check_same_runs(tmp_path / "straight", tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_with_motion_terms_resume_bit_for_bit(tmp_path: Path) -> None:
    """The temporal loss, a teacher, and the ConvLSTM that is trained beside the student."""
    spec = "model={name: pspnet_tiny, options: {channels: 48}}"
    run_here(tmp_path, "teacher", spec, "iterations=1", "validation.every=0", "seed=5")
    terms = (
        spec,
        "data.neighbours={offsets: [1], triplet: true}",
        f"loss.temporal={{occlusion: true, flow: dis-ultrafast, flow_cache: {tmp_path}/flow}}",
        f"loss.distillation={{teacher: {tmp_path}/teacher, precision: bf16, pixel: 1, "
        "pair_wise: 1, pair_wise_frames: 1, multi_frame: 1, multi_frame_of: channels}",
    )
    killed = launch(tmp_path, "killed", 5, *terms, processes=2)
    straight = launch(tmp_path, "straight", -1, *terms, processes=2)
    ends = [end_of(killed), end_of(straight)]
    assert ends[0][0] != 0, ends[0][1]
    assert ends[1][0] == 0, ends[1][1]
    assert Checkpoints(tmp_path / "killed/checkpoints", 2).step == 4, ends[0][1]
    status, output = end_of(launch(tmp_path, "killed", -1, "workers=2", processes=2))
    assert status == 0, output
    check_same_runs(tmp_path / "straight", tmp_path / "killed")
    logged = [r for r in read_metrics(tmp_path / "killed") if "loss" in r]
    for name in ("main", "temporal", "pixel", "pair_wise", "pair_wise_frames", "multi_frame"):
        assert all(record[name] > 0 for record in logged), name


def test_a_longer_run_goes_on_where_the_shorter_one_ended(tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    run_here(tmp_path, "run", "iterations=2", "validation.every=0")
    steps = []
    run_here(tmp_path, "run", "iterations=3", "seed=5", resume=True, report=steps.append)
    assert [record["step"] for record in steps] == [3]
    assert "seed: 0 -> 5" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_process_group_writes_a_checkpoint_first(tmp_path, number) -> None:
    def interrupt(record: dict) -> None:
        if record["step"] == 3:
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                os.kill(process.pid, number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run_here(tmp_path, "run", "validation.every=0", "workers=1", report=interrupt)
    assert not multiprocessing.active_children()
    assert signal.getsignal(number) is before
    assert Checkpoints(tmp_path / "run/checkpoints", 2).step in (3, 4)
    assert not (tmp_path / "run/run.lock").exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run_here(tmp_path, "run", "iterations=2", "validation.every=0")
    with pytest.raises(ValueError, match="of another model than fcn_tiny"):
        run_here(tmp_path, "run", "model={name: fcn_tiny}", "iterations=4", resume=True)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, {"weights": torch.zeros(10)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"step-00000001\.pt is intact.*--resume") as error:
            checkpoints.save(2, {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG
    assert "step-00000002.pt" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]
    state = checkpoints.load()
    assert state is not None
    assert state["step"] == 1


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (5, 10, 15):
        checkpoints.save(step, {})
    assert [path.name for path in checkpoints.paths()] == ["step-00000010.pt", "step-00000015.pt"]
    assert checkpoints.step == 15


class Payload:
    def __reduce__(self):
        return os.system, ("exit 7",)


def test_a_checkpoint_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    write_state(tmp_path / "step-00000001.pt", {"step": 1, "trap": Payload()})
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        Checkpoints(tmp_path, keep=1).load()


def flipped(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        path = checkpoints.save(step, {"weights": torch.full((1000,), float(step))})
    content = path.read_bytes()
    cuts = {"cut": content[:500], "empty": b"", "text": b"no checkpoint"}
    path.write_bytes(cuts.get(damage, content))
    if damage == "flipped":  # a bit of a weight
        flipped(path, content.index(torch.full((1000,), 2.0).numpy().tobytes()) + 100)
    state = checkpoints.load()
    assert state is not None
    assert state["step"] == 1
    assert re.search(r"step-00000002\.pt cannot be read .*; going on from the one", caplog.text)
    checkpoints.save(2, {"weights": torch.zeros(1)})
    assert [path.name for path in checkpoints.paths()] == ["step-00000001.pt", "step-00000002.pt"]
    for path in checkpoints.paths():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"step-00000002\.pt .*and there is no earlier one"):
        checkpoints.load()


def test_a_checkpoint_that_could_not_be_read_goes_when_there_is_a_newer_run(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (10, 20):
        checkpoints.save(step, {})
    checkpoints.paths()[-1].write_bytes(b"")
    assert checkpoints.load() is not None
    checkpoints.save(12, {})
    assert [path.name for path in checkpoints.paths()] == ["step-00000010.pt", "step-00000012.pt"]


def test_no_flipped_bit_of_a_checkpoint_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.pt"
    weights = {
        f"layer{k}": torch.randn(40, generator=torch.Generator().manual_seed(k)) for k in (0, 1)
    }
    state = {"step": 1, "weights": weights, "best": {"mean_iou": 0.25}}
    write_state(path, state)
    content, refused = path.read_bytes(), 0
    for place in random.Random(0).sample(range(len(content)), 400):
        path.write_bytes(content)
        flipped(path, place)
        try:
            found = read_state(path)
        except ValueError:
            refused += 1
            continue
        # Of what is no content: padding, dates, versions.
        assert found["best"] == state["best"]
        assert found["step"] == 1
        assert all(torch.equal(found["weights"][name], weights[name]) for name in weights)
    assert 100 < refused < 400
