"""VSPW's layout: lists, frames and masks, and what its files hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vspw_shaped import file_values, write_vspw

import vidseg
from vidseg.classes import VSPW
from vidseg.data import ClipDataset, EvalTransform, open_dataset, preceding, snippets, vspw
from vidseg.data.vspw import label_table


def save(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two videos to train on, of 3 and 2 frames, and one of the test split."""
    for name, count in (("12_b", 3), ("7_a", 2), ("9_t", 1)):
        for t in range(count):
            frame = save(
                tmp_path / "data" / name / "origin" / f"{5 * t:08d}.png", [[[9, 9, 9]] * 3]
            )
            Image.open(frame).save(frame.with_suffix(".jpg"))
            frame.unlink()
            if name != "9_t":
                save(tmp_path / "data" / name / "mask" / f"{5 * t:08d}.png", [[0, 1, 124]])
    (tmp_path / "train.txt").write_text("12_b\n7_a\n")
    (tmp_path / "test.txt").write_text("9_t")
    return tmp_path


def test_the_classes_are_the_published_ones() -> None:
    """Spot checks against label_num_dic_final.json, whose numbers are one higher."""
    assert len(VSPW.names) == len(set(VSPW.names)) == len(VSPW.palette) == 124
    numbers = {"wall": 1, "window": 9, "road": 19, "sky": 29, "water": 40, "tent": 47,
               "car": 49, "person": 61, "tree": 67, "table_or_desk": 90, "Microwave_oven": 102,
               "screen_or_television": 115, "train": 124}  # fmt: skip
    assert {name: VSPW.names.index(name) + 1 for name in numbers} == numbers
    assert (VSPW.palette[0], VSPW.palette[48], VSPW.palette[123]) == (
        (120, 120, 120),
        (140, 140, 140),
        (133, 255, 0),
    )
    assert {VSPW.palette.count(colour) for colour in VSPW.palette} == {1, 2}
    for method in (vidseg.METHODS["segformer"], vidseg.METHODS["cffm"], vidseg.METHODS["cffmpp"]):
        assert method.official_classes[124] is VSPW


def test_videos_and_labels(root: Path) -> None:
    dataset = open_dataset("vspw", root, "train")
    assert [(v.name, v.numbers, v.fps, v.labelled) for v in dataset.videos] == [
        ("12_b", (0, 1, 2), 15.0, (0, 1, 2)),
        ("7_a", (0, 1), 15.0, (0, 1)),
    ]
    assert dataset.classes == VSPW.names
    assert isinstance(dataset, vspw.VSPW)
    assert dataset.official_score == "vspw"
    first, *_ = snippets(dataset, preceding(2))
    assert dataset.read_label(first.label).tolist() == [[255, 0, 123]]


def test_the_table_is_a_shift_by_one() -> None:
    """As the authors: subtract one in uint8, then send 255 and 254 to 255."""
    values = np.arange(256, dtype=np.uint8)
    shifted = values - np.uint8(1)
    shifted[shifted == 254] = 255
    known = np.r_[0:125, 255]
    assert (label_table()[known] == shifted[known]).all()
    assert (np.delete(label_table(), known) == -1).all()


def test_other_values_name_the_file(root: Path) -> None:
    path = save(root / "data" / "7_a" / "mask" / "00000005.png", [[125, 252, 254]])
    dataset = open_dataset("vspw", root, "train")
    with pytest.raises(ValueError, match=rf"{path}: label values \[125, 252, 254\] mean nothing"):
        dataset.read_label(path)
    with pytest.raises(ValueError, match=r"allowed: 0\.\.124, 255"):
        dataset.read_label(path)


@pytest.mark.parametrize(
    "text",
    ["12_b\n7_a", "12_b\r\n7_a\r\n", "\n  12_b \n\n7_a\t\n\n", "\ufeff12_b\n7_a\n"],
    ids=["no last newline", "Windows", "spaces", "byte order mark"],
)
def test_lists_as_people_write_them(root: Path, text: str) -> None:
    (root / "train.txt").write_bytes(text.encode())
    dataset = open_dataset("vspw", root, "train")
    assert [video.name for video in dataset.videos] == ["12_b", "7_a"]


def test_the_test_split_has_no_labels(root: Path) -> None:
    dataset = open_dataset("vspw", root, "test")
    assert (dataset.num_frames, dataset.num_labelled) == (1, 0)
    with pytest.raises(ValueError, match="no frame is labelled"):
        snippets(dataset, preceding(0))


def test_some_videos(root: Path) -> None:
    dataset = open_dataset("vspw", root, "train", videos=["7_a"])
    assert [video.name for video in dataset.videos] == ["7_a"]
    with pytest.raises(ValueError, match=r"train has no video '7_b'; did you mean '7_a'"):
        open_dataset("vspw", root, "train", videos=["7_b"])
    with pytest.raises(ValueError, match=r"must be a list of names, such as .* got the text '7_a'"):
        open_dataset("vspw", root, "train", videos="7_a")


def test_what_is_wrong_with_the_lists_is_said(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"val\.txt is missing; .*: test\.txt, train\.txt"):
        open_dataset("vspw", root, "val")
    (root / "val.txt").write_text("7_a\n12_b\n7_a\n")
    with pytest.raises(ValueError, match=r"val\.txt names videos twice: 7_a"):
        open_dataset("vspw", root, "val")
    (root / "val.txt").write_text("7_a\n7_b\n8_c\n")
    with pytest.raises(FileNotFoundError, match=r"lists more videos; .*; 2 missing: 7_b, 8_c"):
        open_dataset("vspw", root, "val")
    (root / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"val\.txt is empty"):
        open_dataset("vspw", root, "val")


def test_what_is_wrong_with_a_video_is_said(root: Path) -> None:
    frames = root / "data" / "12_b" / "origin"
    (frames / "00000005.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"no frame of their stem; 1 missing: 00000005"):
        open_dataset("vspw", root, "train")
    shutil.rmtree(frames)
    with pytest.raises(FileNotFoundError, match=r"12_b.origin is missing; it holds the frames"):
        open_dataset("vspw", root, "train")
    frames.mkdir()
    with pytest.raises(FileNotFoundError, match=r"12_b.origin holds no \.jpg or \.png"):
        open_dataset("vspw", root, "train")


def test_a_frame_may_lack_its_mask(root: Path) -> None:
    (root / "data" / "12_b" / "mask" / "00000005.png").unlink()
    dataset = open_dataset("vspw", root, "train")
    assert [video.labelled for video in dataset.videos] == [(0, 2), (0, 1)]


def test_sizes_that_differ_stop_a_clip(root: Path) -> None:
    save(root / "data" / "7_a" / "mask" / "00000005.png", [[1, 1]])
    dataset = open_dataset("vspw", root, "train", videos=["7_a"])
    clips = ClipDataset(dataset, snippets(dataset, preceding(1)), EvalTransform())
    assert clips[0]["labels"].tolist() == [[255, 0, 123]]
    with pytest.raises(ValueError, match="labels and frames must have one size"):
        clips[1]


def test_rendered_streets_in_this_layout(tmp_path: Path) -> None:
    root = write_vspw(tmp_path, {"train": (2,), "test": (1,)}, (24, 32))
    dataset = open_dataset("vspw", root, "train")
    labels = dataset.read_label(snippets(dataset, preceding(0))[1].label)
    assert labels.shape == (24, 32)
    present = set(np.unique(labels).tolist())
    assert present <= {*(file_values()[:11] - 1).tolist(), 255}
    assert VSPW.names.index("road") in present


def test_masks_of_other_suffixes_and_hidden_files(root: Path) -> None:
    mask = root / "data" / "7_a" / "mask" / "00000000.png"
    mask.rename(mask.with_suffix(".PNG"))
    other = root / "data" / "7_a" / "mask" / "00000005.png"
    Image.open(other).save(other.with_suffix(".tif"))
    other.unlink()
    for folder in ("origin", "mask"):
        (root / "data" / "7_a" / folder / "._00000000.png").write_bytes(b"x")
    dataset = open_dataset("vspw", root, "train")
    assert (dataset.num_frames, dataset.num_labelled) == (5, 5)
    label = dataset.videos[1].labels[1]
    assert label is not None
    assert dataset.read_label(label).tolist() == [[255, 0, 123]]
