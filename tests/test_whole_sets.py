"""What a command writes comes together or not at all, over what was there only when told to."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from command_line import run

from vidseg.lock import FolderLock, writing
from vidseg.methods import create
from vidseg.video.reader import read_video
from vidseg.video.writer import VideoWriter
from vidseg.weights import save

SIZE = (48, 64)
SETS = {
    "evaluate": ("metrics.json", "metrics.csv", "counts.npz", "report.html"),
    "compare": ("compare.json", "compare.html"),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a video, and two evaluations of it."""
    folder = tmp_path_factory.mktemp("given")
    save(create("fcn_tiny", num_classes=3), folder / "model.safetensors")
    rng = np.random.default_rng(0)
    with VideoWriter(folder / "street.mp4", fps=10) as writer:
        for _ in range(3):
            writer.write(rng.integers(0, 256, (*SIZE, 3), np.uint8))
    for name in ("one", "other"):
        assert run(*words("evaluate", folder, folder / name)) == 0
    return folder


def words(command: str, given: Path, out: Path) -> tuple[object, ...]:
    if command == "compare":
        return "compare", given / "one", given / "other", "--resamples", 100, "--out", out
    model, video = given / "model.safetensors", given / "street.mp4"
    return "evaluate", model, "--video", video, "--flow", "none", "--out", out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("command", SETS)
def test_a_set_is_replaced_only_when_told_to(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    line = words(command, given, tmp_path)
    (tmp_path / SETS[command][1]).write_text("of something else")
    assert run(*line) == 1
    assert f"holds {SETS[command][1]} already; pass --force" in capsys.readouterr().err
    assert contents(tmp_path) == {SETS[command][1]: b"of something else"}
    (tmp_path / "note").write_text("mine")
    assert run(*line, "--force") == 0
    assert contents(tmp_path).keys() == {*SETS[command], "note"}
    assert (tmp_path / "note").read_text() == "mine"


@pytest.mark.parametrize("command", SETS)
def test_a_set_has_one_writer_who_is_named(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with FolderLock(tmp_path):
        assert run(*words(command, given, tmp_path)) == 1
    assert re.search(rf"process {os.getpid()} on \S+ is writing", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", SETS)
def test_a_full_disk_leaves_the_set_before(
    given: Path, tmp_path: Path, capsys, monkeypatch, command: str
) -> None:
    out = tmp_path / "out"
    line = words(command, given, out)
    assert run(*line) == 0
    for name in SETS[command]:
        (out / name).write_text("before")
    before, fsync = contents(out), os.fsync
    for full_at in range(1, 30):
        calls = 0

        def full(descriptor: int, full_at: int = full_at) -> None:
            nonlocal calls
            calls += 1
            if calls == full_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        code = run(*line, "--force")
        monkeypatch.setattr(os, "fsync", fsync)
        if code == 0:
            break
        assert "No space left on device" in capsys.readouterr().err
        # The last ones are of the folder, after the renames: the set is there, and whole.
        assert contents(out) == before or b"before" not in contents(out).values()
        if b"before" not in contents(out).values():
            break
        assert contents(out) == before, full_at
    assert full_at > len(SETS[command])
    assert contents(out).keys() == {*SETS[command]}


def test_an_evaluation_does_not_touch_a_run(given: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(given / "model.safetensors", folder / "best.safetensors")
    (folder / "metrics.csv").write_text("step,loss\n")
    before = contents(folder)
    video = given / "street.mp4"
    assert run("evaluate", folder, "--video", video, "--flow", "none", "--out", folder) == 1
    assert "holds metrics.csv already" in capsys.readouterr().err
    assert contents(folder) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from vidseg.cli.main import main

rename, renames = Path.replace, 0

def replace(self, target):
    global renames
    if ".vidseg-" not in str(target):
        renames += 1
        if renames == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)

Path.replace = replace
main(sys.argv[1:])
"""


def test_a_kill_between_two_renames_is_mended_by_whoever_reads_it(
    given: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    shutil.copytree(given / "one", out)
    line = [*words("evaluate", given, out), "--max-frames", "2", "--force"]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, line)], check=False)
    assert done.returncode < 0
    assert len([p for p in out.iterdir() if p.name.endswith(".part")]) == 1
    assert run("compare", out, out, "--resamples", 100) == 0
    assert contents(out).keys() == {*SETS["evaluate"], "run.lock"}  # which locks nothing
    assert '"num_frames": 2' in (out / "metrics.json").read_text()
    assert run(*line) == 0
    assert contents(out).keys() == {*SETS["evaluate"]}


def test_label_maps_are_replaced_only_when_told_to(given: Path, tmp_path: Path, capsys) -> None:
    root, maps = tmp_path / "data", tmp_path / "maps"
    frames = root / "val/a/frames"
    frames.mkdir(parents=True)
    (root / "classes.json").write_text(
        '{"classes": {"a": [0, 0, 0], "b": [1, 1, 1], "c": [2, 2, 2]}}'
    )
    (root / "val/a/masks").mkdir()
    from PIL import Image

    for k in range(2):
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(frames / f"{k}.png")
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / f"val/a/masks/{k}.png")
    line = ["evaluate", given / "model.safetensors", "--data", "folder", "--root", root]
    line += ["--flow", "none", "--save-labels", maps]
    with writing([maps]):
        assert run(*line) == 1
    assert "is writing" in capsys.readouterr().err
    assert run(*line) == 0
    (maps / "a/0.png").write_bytes(b"before")
    assert run(*line) == 1
    assert "holds a/0.png, a/1.png already; pass --force" in capsys.readouterr().err
    assert run(*line, "--force") == 0
    assert (maps / "a/0.png").read_bytes()[:4] == b"\x89PNG"
    assert {path.name for path in tmp_path.rglob("*.*")} >= {"0.png", "1.png"}
    assert not list(tmp_path.glob(".*"))


FORMATS = ("street_vidseg.mp4", "street_vidseg.npz", "street_vidseg.jsonl", "street_vidseg_labels")


def segment(given: Path, out: Path, *more: object) -> list[object]:
    line = ["segment", given / "street.mp4", "--model", given / "model.safetensors"]
    return [*line, "--format", "overlay,npz,jsonl,labels", "--out", f"{out}/", *more]


def all_contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_formats_of_a_video_come_together(given: Path, tmp_path: Path, monkeypatch) -> None:
    from vidseg.inference import outputs

    assert run(*segment(given, tmp_path)) == 0
    before = all_contents(tmp_path)
    assert len(before) == 3 + 3
    assert {path.name for path in tmp_path.iterdir()} == {*FORMATS}

    def full(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # The last of the four: the others are written by then.
    monkeypatch.setattr(outputs.LabelPictures, "close", full)
    assert run(*segment(given, tmp_path, "--force", "--every", 2)) == 1
    assert all_contents(tmp_path) == before
    monkeypatch.undo()
    (tmp_path / "street_vidseg_labels/theirs.png").write_bytes(b"theirs")
    (tmp_path / "street_vidseg_labels/000007.png").write_bytes(b"theirs, too")
    assert run(*segment(given, tmp_path, "--force", "--every", 2)) == 0
    names = {path.name for path in (tmp_path / "street_vidseg_labels").iterdir()}
    assert names == {"000000.png", "000002.png", "theirs.png", "000007.png"}
    with np.load(tmp_path / "street_vidseg.npz") as archive:
        assert archive["indices"].tolist() == [0, 2]


def test_the_same_outputs_have_one_writer_who_is_named(given: Path, tmp_path: Path, capsys) -> None:
    with writing([tmp_path / "street_vidseg.jsonl"]):
        assert run(*segment(given, tmp_path)) == 1
        assert re.search(rf"process {os.getpid()} on \S+ is writing", capsys.readouterr().err)
        other = ["--out", tmp_path / "other.jsonl"]  # of another name, into the same folder
        line = ["segment", given / "street.mp4", "--model", given / "model.safetensors"]
        assert run(*line, *other) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["other.jsonl"]


@pytest.mark.parametrize("frame", [0, 1, 2])
@pytest.mark.parametrize("place", range(4))
def test_an_interrupt_leaves_the_same_frames_in_all(
    given: Path, tmp_path: Path, monkeypatch, frame: int, place: int
) -> None:
    """Ctrl-C while the output of that place writes that frame: all write it, then it counts."""
    from vidseg.inference import outputs

    kinds = ("OverlayVideo", "LabelArchive", "ShareLines", "LabelPictures")
    kind = getattr(outputs, kinds[place])
    add = kind.add

    def interrupted(self, result) -> None:
        if result.index == frame:
            os.kill(os.getpid(), signal.SIGINT)
        add(self, result)

    monkeypatch.setattr(kind, "add", interrupted)
    assert run(*segment(given, tmp_path)) == 130
    wanted = list(range(frame + 1))
    assert [k for k, _ in enumerate(read_video(tmp_path / FORMATS[0]))] == wanted
    with np.load(tmp_path / FORMATS[1]) as archive:
        assert archive["indices"].tolist() == wanted
    assert len((tmp_path / FORMATS[2]).read_text().splitlines()) == frame + 1
    assert len(list((tmp_path / FORMATS[3]).iterdir())) == frame + 1
    assert {path.name for path in tmp_path.iterdir()} == {*FORMATS}


TINY = ("iterations=2", "batch_size=1", "workers=0", "validation.every=0", "data.crop=[32,32]")
TINY += ("data.options={num_videos: 1, num_frames: 2, size: [32,48]}", "trackers=[]")


@pytest.mark.parametrize("name", ["best.safetensors", "metrics.csv", "report.html", "config.yaml"])
def test_a_run_replaces_nothing_of_something_else(tmp_path: Path, capsys, name: str) -> None:
    (tmp_path / name).write_text("of something else")
    assert run("train", "fcn_tiny_synthetic", *TINY, "--out", tmp_path) == 1
    assert f"holds {name} of something else; choose another --out" in capsys.readouterr().err
    assert contents(tmp_path) == {name: b"of something else"}


def test_a_run_that_ended_before_its_first_step_is_begun_anew(tmp_path: Path) -> None:
    line = ("train", "fcn_tiny_synthetic", *TINY, "--out", tmp_path / "run")
    assert run(*line, "model.initial_weights=none.safetensors") == 1
    assert (tmp_path / "run/config.yaml").is_file()
    assert run(*line) == 0
    names = {"config.yaml", "environment.json", "metrics.jsonl", "metrics.csv"}
    assert contents_of_files(tmp_path / "run") == {*names, "last.safetensors"}


def contents_of_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_no_input_is_replaced(given: Path, tmp_path: Path, capsys) -> None:
    model, video = tmp_path / "model.safetensors", tmp_path / "street.mp4"
    shutil.copy(given / "model.safetensors", model)
    shutil.copy(given / "street.mp4", video)
    (tmp_path / "link.mp4").hardlink_to(video)
    before = contents(tmp_path)
    line = ["segment", video, "--model", model, "--force"]
    for out in (video, tmp_path / "link.mp4"):
        assert run(*line, "--out", out) == 1
        assert "is the source; give another --out" in capsys.readouterr().err
    assert run(*line, "--out", tmp_path / "o.mp4", "--save-context", model) == 1
    assert "is read by this run" in capsys.readouterr().err
    assert run("convert", "fcn", model, "--out", model, "--force") == 1
    assert "is the checkpoint itself" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_demo_replaces_nothing_of_something_else(tmp_path: Path, capsys) -> None:
    (tmp_path / "metrics.json").write_text("of an evaluation")
    assert run("demo", "--out", tmp_path) == 1
    assert "holds metrics.json already; pass --force" in capsys.readouterr().err
    assert contents(tmp_path) == {"metrics.json": b"of an evaluation"}


def test_a_prepared_folder_has_one_writer_who_is_named(tmp_path: Path, capsys) -> None:
    with FolderLock(tmp_path / "out"):
        assert run("data", "prepare", "vspw", "--raw", tmp_path, "--out", tmp_path / "out") == 1
    assert re.search(rf"process {os.getpid()} on \S+ is writing", capsys.readouterr().err)


def test_frames_before_an_error_of_the_source_are_kept(
    given: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    from vidseg.inference import stream

    following = stream.SegmentedVideo.__next__

    def broken(self):
        result = following(self)
        if result.index == 2:
            raise ValueError("no more")
        return result

    monkeypatch.setattr(stream.SegmentedVideo, "__next__", broken)
    assert run(*segment(given, tmp_path)) == 1
    said = capsys.readouterr().err
    assert "kept 2 frames in" in said
    assert "error: no more" in said
    assert len((tmp_path / FORMATS[2]).read_text().splitlines()) == 2
    assert len(list((tmp_path / FORMATS[3]).iterdir())) == 2


def test_label_maps_of_others_are_never_removed(given: Path, tmp_path: Path) -> None:
    from PIL import Image

    labels = tmp_path / "street_vidseg_labels"
    labels.mkdir()
    theirs = Image.fromarray(np.zeros(SIZE, np.uint8)).convert("P")
    theirs.save(labels / "000077.png")  # of our form, and not ours
    before = (labels / "000077.png").read_bytes()
    assert run(*segment(given, tmp_path, "--force")) == 0
    assert run(*segment(given, tmp_path, "--force", "--every", 3)) == 0
    assert {path.name for path in labels.iterdir()} == {"000000.png", "000077.png"}
    assert (labels / "000077.png").read_bytes() == before


def test_an_archive_of_a_long_video_takes_little_memory(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from vidseg.inference.outputs import LabelArchive

    archive = LabelArchive(tmp_path / "long.npz")
    palette, labels = np.zeros((2, 3), np.uint8), np.zeros((2, 2), np.uint8)

    def add(numbers: range) -> None:
        for k in numbers:
            names = {"index": k, "time_s": k / 25, "labels": labels}
            archive.add(SimpleNamespace(**names, classes=("a", "b"), palette=palette))  # type: ignore[arg-type]

    add(range(200))
    tracemalloc.start()
    add(range(200, 2200))
    grown_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    archive.close()
    assert grown_bytes < 2000 * 32 + 20_000
    with np.load(tmp_path / "long.npz") as found:
        assert found["indices"].tolist() == list(range(2200))
        assert found["times_s"][-1] == 2199 / 25
        assert np.array_equal(found["002199"], labels)
    assert [path.name for path in tmp_path.iterdir()] == ["long.npz"]
