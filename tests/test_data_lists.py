"""List files in the format of ETC's authors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidseg.data import open_dataset
from vidseg.data.pairs import Neighbours, PairDataset
from vidseg.data.transforms import TrainTransform
from vidseg.evaluation.datasets import evaluate
from vidseg.flow import DIS
from vidseg.methods import create

CITY = "{city}_000000_{number:06d}"
SIZE = (48, 32)


def image_of(city: str, number: int, folder: str = "leftImg8bit", split: str = "val") -> str:
    stem = CITY.format(city=city, number=number)
    return f"{folder}/{split}/{city}/{stem}_leftImg8bit.png"


def label_of(city: str, number: int, coding: str = "labelTrainIds") -> str:
    stem = CITY.format(city=city, number=number)
    return f"gtFine/val/{city}/{stem}_gtFine_{coding}.png"


def save(path: Path, seed: int | None = None) -> None:
    """An image of noise, or a label map of roads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if seed is None:
        Image.new("L", SIZE).save(path)
    else:
        rng = np.random.default_rng(seed)
        Image.fromarray(rng.integers(0, 256, (*SIZE[::-1], 3), np.uint8)).save(path)


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of 30 frames whose 20th is labelled, one in each folder of frames."""
    root = tmp_path_factory.mktemp("cityscapes")
    for city, folder in (("bonn", "leftImg8bit"), ("ulm", "leftImg8bit_sequence")):
        for number in range(30):
            save(root / image_of(city, number, folder), number)
        save(root / label_of(city, 19))
    lists = root / "lists"
    for city in ("bonn", "ulm"):
        frames = [image_of(city, number) for number in range(30)]
        write(lists / "val_sam" / f"{city}_clip.txt", *frames)
    write(lists / "val_video_list_sam.lst", "bonn_clip.txt", "ulm_clip.txt")
    flat = [image_of(city, number) for city in ("bonn", "ulm") for number in range(30)]
    write(lists / "val_video_img_sam.lst", *flat)
    pairs = [f"{image_of(c, 19)}\t{label_of(c, 19, 'labelIds')}" for c in ("bonn", "ulm")]
    write(lists / "val.lst", *pairs)
    write(lists / "test.lst", image_of("bonn", 3), image_of("bonn", 4), image_of("ulm", 9))
    return root


def described(dataset) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(video.name, len(video), video.labelled) for video in dataset.videos]


@pytest.mark.parametrize("lists", ["lists/val_video_list_sam.lst", "lists/val_sam"])
def test_a_list_of_a_clip_is_a_video(lists: str, root: Path):
    dataset = open_dataset("cityscapes", root, lists=lists)
    assert described(dataset) == [("bonn_clip", 30, (19,)), ("ulm_clip", 30, (19,))]
    assert dataset.videos[1].frames[0].parent.parent.parent.name == "leftImg8bit_sequence"
    assert dataset.read_label(dataset.videos[0].labels[19]).shape == SIZE[::-1]
    assert dataset.name == f"cityscapes/{Path(lists).stem}"


def test_tc_over_all_frames_and_accuracy_over_the_labelled_ones(root: Path):
    """Frames 0..28 of a clip are each paired with the next: 29 pairs of 30 frames."""
    dataset = open_dataset("cityscapes", root, lists="lists/val_sam")
    model = create("fcn_tiny", num_classes=19)
    result = evaluate(
        model, dataset, flow=DIS("ultrafast"), tc="etc-official", every_frame=True, flip=True
    )
    assert (result.num_frames, result.num_scored, result.total.num_pairs) == (60, 2, 58)
    assert result.figures["temporal_consistency"] is not None
    assert result.figures["mean_iou"] is not None
    assert int(result.total.consistency.counts.sum()) == 58 * SIZE[0] * SIZE[1]


def test_clips_without_labels_have_tc_alone(root: Path, tmp_path: Path):
    clip = write(tmp_path / "clip.txt", *(image_of("bonn", number) for number in range(4)))
    lists = [write(tmp_path / "all.lst", str(clip))]
    dataset = open_dataset("cityscapes", root, lists=lists, labels="gtFine")
    assert described(dataset) == [("clip", 4, ())]
    model = create("fcn_tiny", num_classes=19)
    result = evaluate(model, dataset, flow=DIS("ultrafast"), every_frame=True)
    assert (result.num_frames, result.num_scored, result.total.num_pairs) == (4, 0, 3)
    assert result.absent["mean_iou"] == "there are no true labels"
    with pytest.raises(ValueError, match="--every-frame"):
        evaluate(model, dataset)


def test_images_with_labels_bring_their_neighbours(root: Path):
    dataset = open_dataset("cityscapes", root, "val", lists="lists/val.lst")
    # labelIds are listed, and only the train ids made from them are there.
    assert described(dataset) == [
        ("bonn_000000", 30, (19,)),
        ("ulm_000000", 30, (19,)),
    ]
    pairs = PairDataset(
        dataset, TrainTransform(crop=(16, 24), photometric="none"), Neighbours((-1, 1))
    )
    assert len(pairs) == 2
    assert pairs[0]["neighbours"].shape == (1, 3, 16, 24)


def test_images_alone_are_those_that_are_listed(root: Path):
    dataset = open_dataset("cityscapes", root, lists="lists/test.lst")
    assert described(dataset) == [("bonn_000000", 2, ()), ("ulm_000000", 1, ())]
    flat = open_dataset("cityscapes", root, lists=["lists/val_video_img_sam.lst"])
    assert described(flat) == [("bonn_000000", 30, (19,)), ("ulm_000000", 30, (19,))]


def test_camvid_with_raw_frames(tmp_path: Path):
    for number in range(10, 16):
        save(tmp_path / f"images_sequence/0006R0_f{number:05d}.png", number)
        save(tmp_path / f"images_sequence/0016E5_{number:05d}.png", number)
    save(tmp_path / "images/0006R0_f00012.png", 0)
    save(tmp_path / "labels/0006R0_f00012_L.png")
    line = "images/0006R0_f00012.png labels/0006R0_f00012_L.png   images_sequence/0006R0_f00012.png"
    write(tmp_path / "three.lst", line)
    dataset = open_dataset("camvid", tmp_path, lists="three.lst", protocol="12")
    assert described(dataset) == [("0006R0", 6, (2,))]
    assert dataset.videos[0].frames[2].parent.name == "images"
    assert dataset.read_label(dataset.videos[0].labels[2]).max() == 0  # void
    write(tmp_path / "two.lst", " ".join(line.split()[:2]))
    assert described(open_dataset("camvid", tmp_path, lists="two.lst")) == [("0006R0", 1, (0,))]
    write(
        tmp_path / "other.lst", line.replace("images_sequence/0006R0_f", "images_sequence/0016E5_")
    )
    with pytest.raises(ValueError, match=r"other\.lst, line 1 .* of different videos"):
        open_dataset("camvid", tmp_path, lists="other.lst")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([f"{image_of('bonn', 19)} {label_of('ulm', 19)}"], "line 1 .* of another frame"),
        ([f"{image_of('bonn', 19)} {label_of('bonn', 19)}", "alone.png"], "line 2 has 1 columns"),
        (["a.png b.png c.png d.png"], "4 columns; a list has one"),
        ([image_of("bonn", 77), image_of("bonn", 78)], "2 missing: .*000077"),
        ([f"{image_of('bonn', 3)} {label_of('bonn', 3)}"], "1 missing: gtFine"),
        (["frankfurt_clip"], "line 1 names neither an image"),
        ([], "is empty"),
    ],
)
def test_malformed_lists_say_where(lines: list[str], message: str, root: Path, tmp_path: Path):
    path = write(tmp_path / "bad.lst", *lines)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_dataset("cityscapes", root, lists=path)


def test_clips_of_frames_that_do_not_belong_together(root: Path, tmp_path: Path):
    write(tmp_path / "clips/mixed.txt", image_of("bonn", 1), image_of("ulm", 2))
    with pytest.raises(ValueError, match=r"mixed\.txt, line 2: .* of another video"):
        open_dataset("cityscapes", root, lists=tmp_path / "clips")
    write(tmp_path / "clips/mixed.txt", *(image_of("bonn", number) for number in (1, 2, 5, 6)))
    gap = open_dataset("cityscapes", root, lists=tmp_path / "clips")
    assert described(gap) == [("mixed_000001", 2, ()), ("mixed_000005", 2, ())]
    with pytest.raises(FileNotFoundError, match="there is no list"):
        open_dataset("cityscapes", root, lists="nowhere.lst")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no list"):
        open_dataset("cityscapes", root, lists=tmp_path / "empty")
    with pytest.raises(ValueError, match="leave sequences out"):
        open_dataset("cityscapes", root, lists="lists/val.lst", sequences=["bonn_000000"])
