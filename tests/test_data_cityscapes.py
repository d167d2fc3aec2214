"""Cityscapes in the official layout, tiny and real."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidseg.classes import CITYSCAPES
from vidseg.data import ClipDataset, EvalTransform, open_dataset, preceding, snippets
from vidseg.data.cityscapes import label_id_table

STEM = "aachen_000000_{:06d}"


def save_frame(root: Path, folder: str, stem: str, suffix: str = ".png") -> None:
    city = root / folder / "train" / stem.split("_")[0]
    city.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (len(folder), 0, 0)).save(city / f"{stem}_leftImg8bit{suffix}")


def save_label(root: Path, stem: str, tail: str, values: list[list[int]]) -> Path:
    path = root / tail.split("_")[0] / "train" / stem.split("_")[0] / f"{stem}_{tail}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Frames 15..21 of one snippet, 19 labelled; another snippet without predecessors."""
    for number in range(15, 22):
        save_frame(tmp_path, "leftImg8bit_sequence", STEM.format(number), ".jpg")
    save_frame(tmp_path, "leftImg8bit", STEM.format(19))
    save_frame(tmp_path, "leftImg8bit", "aachen_000001_000019")
    save_label(tmp_path, STEM.format(19), "gtFine_labelTrainIds", [[0, 18, 255]])
    save_label(tmp_path, "aachen_000001_000019", "gtFine_labelIds", [[7, 33, 0, 29, 26]])
    Image.new("RGB", (8, 6)).save(
        tmp_path / "gtFine" / "train" / "aachen" / f"{STEM.format(19)}_gtFine_color.png"
    )
    return tmp_path


def test_snippets_take_memory_from_the_sequence(root: Path):
    dataset = open_dataset("cityscapes", root, "train")
    assert [(v.name, len(v), v.fps) for v in dataset.videos] == [
        ("aachen_000000_000015", 7, 17.0),
        ("aachen_000001_000019", 1, 17.0),
    ]
    first, lone = snippets(dataset, preceding(2))
    assert [path.parent.parent.parent.name for path in first.frames] == [
        "leftImg8bit_sequence",
        "leftImg8bit_sequence",
        "leftImg8bit",
    ]
    assert first.frame_indices == (2, 3, 4)
    assert lone.frame_indices == (0, 0, 0)
    assert len(snippets(dataset, preceding(2, start="skip"))) == 1


def test_train_ids_pass_and_label_ids_are_mapped(root: Path):
    dataset = open_dataset("cityscapes", root, "train")
    first, lone = snippets(dataset, preceding(0))
    assert dataset.read_label(first.label).tolist() == [[0, 18, 255]]
    assert dataset.read_label(lone.label).tolist() == [[0, 18, 255, 255, 13]]


def test_train_ids_win_over_label_ids(root: Path):
    save_label(root, STEM.format(19), "gtFine_labelIds", [[7, 33, 0]])
    dataset = open_dataset("cityscapes", root, "train")
    assert snippets(dataset, preceding(0))[0].label.stem.endswith("labelTrainIds")


def test_the_label_id_table_is_the_official_one():
    table = label_id_table()
    assert {i: int(t) for i, t in enumerate(table) if 0 <= t < 19} == {
        7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
        26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
    }  # fmt: skip
    assert (table[34:255] == -1).all()
    assert table[255] == table[0] == 255
    assert len(CITYSCAPES.names) == len(CITYSCAPES.palette) == 19


def test_label_values_out_of_range_name_the_file(root: Path):
    path = save_label(root, STEM.format(19), "gtFine_labelTrainIds", [[19, 33, 1]])
    dataset = open_dataset("cityscapes", root, "train")
    with pytest.raises(ValueError, match=rf"{path.name}: label values \[19, 33\] mean nothing"):
        dataset.read_label(path)
    path = save_label(root, STEM.format(19), "gtFine_labelIds", [[34, 1]])
    with pytest.raises(ValueError, match=r"label values \[34\] mean nothing"):
        dataset.read_label(path)


def test_the_authors_label_folder_holds_train_ids_by_any_name(root: Path):
    (root / "gtFine").rename(root / "gtFine_19")
    dataset = open_dataset("cityscapes", root, "train", labels="gtFine_19")
    lone = dataset.videos[1].labels[0]
    assert lone is not None
    Image.fromarray(np.array([[0, 18]], np.uint8)).save(lone)
    assert lone.stem.endswith("labelIds")
    assert dataset.read_label(lone).tolist() == [[0, 18]]


def test_dense_machine_labels(root: Path):
    for number in range(15, 22):
        save_label(root, STEM.format(number), "gtPseudo_labelTrainIds", [[1]])
    dataset = open_dataset("cityscapes", root, "train", labels="gtPseudo")
    assert dataset.num_labelled == 7
    assert len(snippets(dataset, preceding(2, start="skip"))) == 5


def test_a_missing_frame_ends_a_video_unless_the_step_allows_it(root: Path):
    (root / "leftImg8bit_sequence/train/aachen" / f"{STEM.format(17)}_leftImg8bit.jpg").unlink()
    dataset = open_dataset("cityscapes", root, "train")
    assert [v.numbers for v in dataset.videos[:2]] == [(15, 16), (18, 19, 20, 21)]
    thinned = open_dataset("cityscapes", root, "train", max_step=2)
    assert thinned.videos[0].numbers == (15, 16, 18, 19, 20, 21)


def test_folds_take_some_sequences(root: Path):
    dataset = open_dataset("cityscapes", root, "train", sequences=["aachen_000001"])
    assert [video.name for video in dataset.videos] == ["aachen_000001_000019"]
    with pytest.raises(ValueError, match=r"no sequence 'aachen_00000'; did you mean 'aachen_0"):
        open_dataset("cityscapes", root, "train", sequences=["aachen_00000"])
    with pytest.raises(ValueError, match="must be a list of names"):
        open_dataset("cityscapes", root, "train", sequences="aachen_000001")


def test_what_is_missing_is_said(root: Path, tmp_path_factory: pytest.TempPathFactory):
    with pytest.raises(FileNotFoundError, match=r"neither leftImg8bit/vall .* leftImg8bit/train"):
        open_dataset("cityscapes", root, "vall")
    with pytest.raises(FileNotFoundError, match=r"gtCoarse.train is missing; .*: gtFine"):
        open_dataset("cityscapes", root, "train", labels="gtCoarse")
    save_label(root, "aachen_000009_000019", "gtFine_labelTrainIds", [[1]])
    with pytest.raises(FileNotFoundError, match="1 missing: aachen_000009_000019"):
        open_dataset("cityscapes", root, "train")
    shutil.rmtree(root / "gtFine" / "train")
    (root / "gtFine" / "train").mkdir()
    with pytest.raises(ValueError, match="no frame is labelled"):
        snippets(open_dataset("cityscapes", root, "train"), preceding(0))
    empty = tmp_path_factory.mktemp("empty")
    (empty / "leftImg8bit" / "train").mkdir(parents=True)
    (empty / "gtFine" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match="no frames found"):
        open_dataset("cityscapes", empty, "train")


def test_strange_file_names_are_named(root: Path):
    Image.new("RGB", (8, 6)).save(root / "leftImg8bit" / "train" / "aachen" / "holiday.png")
    with pytest.raises(ValueError, match=r"holiday\.png: a Cityscapes image is named like"):
        open_dataset("cityscapes", root, "train")


def test_real_cityscapes(shared: Path):
    root = shared / "data" / "cityscapes"
    train = open_dataset("cityscapes", root, "train")
    assert (len(train.videos), train.num_frames, train.num_labelled) == (8, 182, 8)
    assert len(snippets(train, preceding(4, start="skip"))) == 6
    dense = open_dataset("cityscapes", root, "train", labels="gtPseudo")
    assert dense.num_labelled == 180
    val = open_dataset("cityscapes", root, "val")
    assert [(v.numbers[0], v.numbers[-1]) for v in val.videos] == [(47548, 47562)]
    (sample,) = ClipDataset(val, snippets(val, preceding(4, start="skip")), EvalTransform())
    assert sample["frames"].shape == (5, 3, 512, 1024)
    assert set(sample["labels"].unique().tolist()) <= {*range(19), 255}
