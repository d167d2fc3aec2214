"""VSPW, checked and made anew: each of its known faults is found, and mended or told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from PIL import Image
from vspw_shaped import write_vspw

from vidseg.data import open_dataset
from vidseg.data.check import check_dataset
from vidseg.data.prepare_vspw import prepare_vspw

LENGTHS = {"train": (10, 11), "val": (10,), "test": (10,)}


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vspw(tmp_path_factory.mktemp("streets"), LENGTHS, (24, 40))


@pytest.fixture
def root(streets: Path, tmp_path: Path) -> Path:
    """Two videos to train on, one to validate on, one to test on; no fault."""
    return Path(shutil.copytree(streets, tmp_path / "vspw"))


def frame(root: Path, video: str, number: int) -> Path:
    return root / "data" / video / "origin" / f"{number:08d}.jpg"


def mask(root: Path, video: str, number: int) -> Path:
    return root / "data" / video / "mask" / f"{number:08d}.png"


def change(path: Path, values: object) -> Path:
    Image.fromarray(np.array(values, np.uint8)).save(path)
    return path


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def faults(root: Path, **options) -> list[tuple[str, str]]:
    return [(f.kind, f.path.name) for f in check_dataset("vspw", root, **options).faults]


# --- check


def test_a_sound_folder_has_no_fault(root: Path) -> None:
    found = check_dataset("vspw", root)
    assert found.faults == []
    assert list(found.splits) == ["train", "val", "test"]
    train, test = found.splits["train"], found.splits["test"]
    assert (train["videos"], train["frames"], train["labelled"]) == (2, 21, 21)
    assert (test["frames"], test["labelled"]) == (10, 0)
    assert train["class_share"]["road"] > 0.1


def test_lists_and_folders_that_disagree(root: Path) -> None:
    (root / "train.txt").write_text("train_0\ntrain_1\ntrain_1\n")
    (root / "val.txt").write_text("train_0\nval_0")
    (root / "test.txt").write_text("test_1\n")
    found = check_dataset("vspw", root, splits=["val", "test"]).faults
    assert [(f.kind, f.path.name) for f in found[:5]] == [
        ("list", "train.txt"),
        ("list", "val.txt"),
        ("list", "val.txt"),
        ("list", "test_0"),
        ("missing file", "test_1"),
    ]
    assert "names train_1, which train.txt names already" in found[0].message
    assert "no newline at its end" in found[1].message
    assert "names train_0, which train.txt names already" in found[2].message


def test_short_videos(root: Path) -> None:
    frame(root, "train_0", 9).unlink()
    mask(root, "train_0", 9).unlink()
    (fault,) = check_dataset("vspw", root).faults
    assert (fault.kind, fault.path.name) == ("short", "train_0")
    assert fault.message == "9 frames; a clip of CFFM's training spans 10"


def test_videos_in_a_text_are_no_list(root: Path) -> None:
    (fault,) = check_dataset("vspw", root, splits=["train"], videos="[train_0]").faults
    assert (fault.kind, fault.path.name) == ("open", "train")
    assert "must be a list of names" in fault.message


def test_one_bad_video_does_not_hide_the_others(root: Path) -> None:
    frame(root, "train_0", 3).unlink()
    shutil.rmtree(root / "data" / "val_0" / "origin")
    mask(root, "train_1", 2).unlink()
    change(mask(root, "train_1", 4), np.full((24, 40), 252))
    assert faults(root) == [
        ("missing file", "00000003"),
        ("missing file", "00000002.jpg"),
        ("label", "00000004.png"),
        ("open", "val"),
    ]


def test_masks(root: Path) -> None:
    change(mask(root, "train_0", 1), np.full((24, 40), 125))
    change(mask(root, "train_0", 2), np.zeros((24, 40)))
    change(mask(root, "train_0", 3), np.ones((12, 20)))
    change(mask(root, "train_0", 4), np.ones((24, 40, 3)))
    found = check_dataset("vspw", root, splits=["train"]).faults
    assert [(f.kind, f.path.name) for f in found] == [
        ("label", "00000001.png"),
        ("label", "00000002.png"),
        ("size", "00000003.png"),
        ("label", "00000004.png"),
    ]
    assert "label values [125]" in found[0].message
    assert found[1].message == "is void throughout"
    assert "is 20x12, its frame" in found[2].message
    assert "got a colour image" in found[3].message


def test_files_that_cannot_be_read(root: Path) -> None:
    frame(root, "train_0", 1).write_bytes(b"")
    for path in (frame(root, "train_0", 2), mask(root, "train_0", 3)):
        path.write_bytes(path.read_bytes()[:-40])
    change(frame(root, "train_0", 4), np.zeros((20, 40, 3)))
    assert faults(root, splits=["train"]) == [
        ("frame", "00000001.jpg"),
        ("frame", "00000002.jpg"),
        ("label", "00000003.png"),
        ("size", "00000004.jpg"),
        ("size", "00000004.png"),
    ]


# --- prepare


def test_frames_shrink_and_masks_take_the_nearest(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = prepare_vspw(root, out, short_side=12)
    assert (done.written, done.kept, done.problems) == (10 + 2 * 31 + 3, 0, [])
    assert check_dataset("vspw", out).faults == []
    small, large = read(frame(out, "train_0", 5)), read(frame(root, "train_0", 5))
    assert small.shape == (12, 20, 3)
    means = large.reshape(12, 2, 20, 2, 3).mean((1, 3))
    assert np.abs(small - means).mean() < 4, "each is the mean of four, but for JPEG"
    labels = read(mask(root, "train_0", 5))
    of_four = labels.reshape(12, 2, 20, 2).transpose(0, 2, 1, 3).reshape(12, 20, 4)
    assert (read(mask(out, "train_0", 5))[..., None] == of_four).any(-1).all()
    assert (out / "train.txt").read_bytes() == b"train_0\ntrain_1\n"


def test_a_short_side_of_480(root: Path, tmp_path: Path) -> None:
    """1080 rows of 1920 become 480 of 853; a video on end becomes 480 wide."""
    for video, shape in (("val_0", (1080, 1920)), ("test_0", (960, 540))):
        for path in (root / "data" / video).glob("*/*"):
            path.unlink()
        change(frame(root, video, 0), np.zeros((*shape, 3)))
    change(mask(root, "val_0", 0), np.full((1080, 1920), 5))
    prepare_vspw(root, tmp_path / "out")
    assert read(frame(tmp_path / "out", "val_0", 0)).shape == (480, 853, 3)
    assert read(mask(tmp_path / "out", "val_0", 0)).shape == (480, 853)
    assert read(frame(tmp_path / "out", "test_0", 0)).shape == (853, 480, 3)


def test_known_faults_are_mended_and_told(root: Path, tmp_path: Path) -> None:
    change(mask(root, "train_0", 1), [[0, 252], [255, 124]])
    change(mask(root, "train_0", 2), np.full((24, 40, 3), 7))
    change(frame(root, "train_0", 3), np.zeros((20, 40, 3)))
    (root / "val.txt").write_text("val_0\nval_0")
    out = tmp_path / "out"
    done = prepare_vspw(root, out, short_side=12)
    assert not done.has_damage
    told = "\n".join(done.problems)
    assert "train_0: 1 masks with the values [252], which are no class and now 255" in told
    assert "2 masks of another size than their frame, resized" in told
    assert "1 masks in RGB, now of one channel" in told
    assert "1 frames of another size than the first, resized" in told
    assert "val.txt has no newline at its end" in told
    assert "val.txt names val_0, which val.txt names already" in told
    assert check_dataset("vspw", out).faults == []
    mended = read(mask(out, "train_0", 1))
    assert [mended[0, 0], mended[0, -1], mended[-1, 0], mended[-1, -1]] == [0, 255, 255, 124]
    assert (read(mask(out, "train_0", 2)) == 7).all()


def test_what_cannot_be_mended_is_left_out(root: Path, tmp_path: Path, capsys) -> None:
    frame(root, "train_0", 1).write_bytes(b"")
    colours = np.zeros((24, 40, 3))
    colours[0, 0] = (6, 230, 230)
    change(mask(root, "train_0", 2), colours)
    frame(root, "train_0", 3).unlink()
    shutil.rmtree(root / "data" / "train_1")
    out = tmp_path / "out"
    done = prepare_vspw(root, out, short_side=12)
    assert done.has_damage
    assert len(done.problems) == 4
    told = "\n".join(done.problems)
    assert "train.txt lists more videos; 1 missing: train_1" in told
    assert "masks have no frame; 1 missing: 00000003" in told
    assert "00000001.jpg cannot be read as an image" in told
    assert "00000002.png is in colours" in told
    (video,) = open_dataset("vspw", out, "train").videos
    assert [path.stem[-1] for path in video.frames] == list("02456789")
    assert [label is None for label in video.labels] == [False, True, *6 * [False]]
    again = ("data", "prepare", "vspw", "--raw", root, "--out", out, "--short-side", 12)
    assert run(*again) == 1
    assert "warning: " in capsys.readouterr().err


def test_a_second_run_only_adds_what_is_missing(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = prepare_vspw(root, out, short_side=12)
    mask(out, "train_0", 5).unlink()
    part = frame(out, "train_0", 5).with_name(".00000005.jpg.vidseg-0123456789abcdef.part")
    part.write_text("left by a killed run")
    second = prepare_vspw(root, out, short_side=12)
    assert (second.written, second.kept) == (1, first.written - 1)
    assert not part.exists()


def test_another_size_goes_to_another_folder(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_vspw(root, out, short_side=24)
    with pytest.raises(ValueError, match=r"train_0 has frames of 40x24 from .* makes 50x30; give"):
        prepare_vspw(root, out, short_side=30)
    assert prepare_vspw(root, out, short_side=24).written == 0


def test_a_run_that_dies_leaves_whole_files_only(root: Path, tmp_path: Path, monkeypatch) -> None:
    calls: list[int] = []
    genuine = os.fsync

    def full_disk(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) >= 5:
            raise OSError(28, "No space left on device")
        genuine(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        prepare_vspw(root, tmp_path / "out", short_side=12)
    monkeypatch.undo()
    left = [path for path in (tmp_path / "out").rglob("*.*") if path.is_file()]
    assert 1 <= len(left) <= 4
    for path in left:
        Image.open(path).load()
    prepare_vspw(root, tmp_path / "out", short_side=12)
    assert check_dataset("vspw", tmp_path / "out").faults == []


def test_what_needs_no_change_can_be_linked(root: Path, tmp_path: Path) -> None:
    change(mask(root, "train_0", 1), np.full((24, 40), 200))
    out = tmp_path / "out"
    prepare_vspw(root, out, short_side=24, link=True)
    assert frame(out, "train_0", 1).is_symlink()
    assert mask(out, "train_0", 2).is_symlink()
    assert not mask(out, "train_0", 1).is_symlink()
    moved = root.rename(tmp_path / "moved")
    again = prepare_vspw(moved, out, short_side=24, link=True)
    assert (again.written, again.kept) == (10 + 2 * 31 - 1, 1 + 3)


def test_wrong_folders_and_sizes_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is where the original is"):
        prepare_vspw(root, root)
    with pytest.raises(ValueError, match="short_side must be 1 px"):
        prepare_vspw(root, tmp_path / "out", short_side=0)
    with pytest.raises(FileNotFoundError, match=r"none of train\.txt, val\.txt .*; give the one"):
        prepare_vspw(tmp_path, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="absent is no folder; give the one that holds"):
        prepare_vspw(tmp_path / "absent", tmp_path / "out")
    shutil.rmtree(root / "data")
    with pytest.raises(FileNotFoundError, match="none of the videos that are listed"):
        prepare_vspw(root, tmp_path / "out")
