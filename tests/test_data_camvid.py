"""CamVid: both layouts, the three protocols, and the real 480x360 copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidseg.data import open_dataset, preceding, snippets
from vidseg.data.camvid import parse_stem


def save_frame(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (value % 256, 0, 0)).save(path)


def save_label(path: Path, values: list[list[int]] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values or [[0, 1]] * 2, np.uint8)).save(path)


def make_small(root: Path, split: str, stems: list[str]) -> Path:
    for stem in stems:
        save_frame(root / split / f"{stem}.jpg")
        save_label(root / f"{split}annot" / f"{stem}.png", [[0, 10, 11]])
    return root


def make_authors(root: Path, stems: list[str], raw: list[str]) -> Path:
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "train.txt").write_text("\n".join(stems) + "\n")
    for stem in stems:
        save_frame(root / "images" / f"{stem}.png")
        save_label(root / "labels" / f"{stem}_L.png", [[0, 1, 11]])
    for stem in raw:
        save_frame(root / "images_sequence" / f"{stem}.png")
    return root


def test_names_of_both_forms():
    assert parse_stem(Path("x/Seq05VD_f00030.png")) == ("Seq05VD", 30)
    assert parse_stem(Path("0001TP_006690.png")) == ("0001TP", 6690)
    assert parse_stem(Path("0006R0_f-0001.png")) == ("0006R0", -1)
    with pytest.raises(ValueError, match="named like"):
        parse_stem(Path("thumbs.png"))


def test_small_layout_splits_sources_and_gaps(tmp_path: Path):
    numbers = [390, 420, 450, 2400, 2430, 2460]
    stems = [f"0016E5_{n:05d}" for n in numbers] + ["0006R0_f00930", "0006R0_f00960"]
    dataset = open_dataset("camvid", make_small(tmp_path, "train", stems), "train")
    assert [(v.name, v.numbers, v.fps) for v in dataset.videos] == [
        ("0006R0", (930, 960), 1.0),
        ("0016E5_000390", (390, 420, 450), 1.0),
        ("0016E5_002400", (2400, 2430, 2460), 1.0),
    ]
    assert dataset.num_labelled == 8
    assert dataset.name == "camvid/train"


@pytest.mark.parametrize(
    ("protocol", "classes", "first", "small", "authors"),
    [
        ("11", 11, "sky", [0, 10, 255], [255, 0, 10]),
        ("11-void-counted", 11, "sky", [0, 10, 255], [255, 0, 10]),
        ("12", 12, "void", [1, 11, 0], [0, 1, 11]),
    ],
)
def test_protocols(tmp_path: Path, protocol, classes, first, small, authors):
    make_small(tmp_path / "small", "train", ["0016E5_00390"])
    make_authors(tmp_path / "authors", ["0016E5_00390"], ["0016E5_00389"])
    for folder, wanted in (("small", small), ("authors", authors)):
        dataset = open_dataset("camvid", tmp_path / folder, "train", protocol=protocol)
        assert dataset.num_classes == classes
        assert dataset.classes[0] == first
        assert dataset.palette[dataset.classes.index("car")].tolist() == [64, 0, 128]
        assert dataset.void_is_error == (protocol == "11-void-counted")
        label = next(label for label in dataset.videos[0].labels if label)
        assert dataset.read_label(label).tolist() == [wanted]


def test_void_value_overrides_the_custom_of_the_layout(tmp_path: Path):
    make_authors(tmp_path, ["0016E5_00390"], ["0016E5_00389"])
    dataset = open_dataset("camvid", tmp_path, "train", void_value=11)
    label = dataset.videos[0].labels[1]
    assert label is not None
    assert dataset.read_label(label).tolist() == [[0, 1, 255]]


def test_value_12_is_out_of_range(tmp_path: Path):
    make_small(tmp_path, "val", ["0016E5_07959"])
    label = tmp_path / "valannot" / "0016E5_07959.png"
    save_label(label, [[12, 30]])
    dataset = open_dataset("camvid", tmp_path, "val")
    with pytest.raises(ValueError, match=r"0016E5_07959.png: label values \[12, 30\]"):
        dataset.read_label(label)


def test_authors_layout_joins_raw_and_labelled_frames(tmp_path: Path):
    raw = [f"0006R0_f{n:05d}" for n in range(926, 935)] + [f"0001TP_{n:06d}" for n in range(5)]
    make_authors(tmp_path, ["0006R0_f00930"], raw)
    dataset = open_dataset("camvid", tmp_path, "train")
    assert len(dataset.videos) == 1, "sources without a listed frame are left out"
    (snippet,) = snippets(dataset, preceding(4))
    assert [path.parent.name for path in snippet.frames] == ["images_sequence"] * 4 + ["images"]
    assert [path.stem for path in snippet.frames] == [f"0006R0_f{n:05d}" for n in range(926, 931)]
    assert dataset.videos[0].fps == 30.0


def test_authors_layout_with_labelled_frames_alone(tmp_path: Path):
    make_authors(tmp_path, [f"0006R0_f{n:05d}" for n in (930, 960, 990)], [])
    with pytest.raises(FileNotFoundError, match='frames="labelled"'):
        open_dataset("camvid", tmp_path, "train")
    dataset = open_dataset("camvid", tmp_path, "train", frames="labelled")
    assert dataset.videos[0].numbers == (930, 960, 990)


def test_labelled_frames_are_found_among_raw_ones(tmp_path: Path):
    make_authors(tmp_path, ["0006R0_f00930"], ["0006R0_f00929", "0006R0_f00930"])
    (tmp_path / "images" / "0006R0_f00930.png").unlink()
    for which, length in (("all", 2), ("labelled", 1)):
        dataset = open_dataset("camvid", tmp_path, "train", frames=which)
        assert len(dataset.videos[0]) == length
        assert dataset.videos[0].frames[-1].parent.name == "images_sequence"


def test_missing_files_are_listed(tmp_path: Path):
    stems = ["0006R0_f00930", "0006R0_f00960"]
    make_authors(tmp_path / "a", stems, ["0006R0_f00929"])
    (tmp_path / "a" / "labels" / "0006R0_f00960_L.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 missing: 0006R0_f00960"):
        open_dataset("camvid", tmp_path / "a", "train")
    make_authors(tmp_path / "b", stems, ["0006R0_f00929"])
    (tmp_path / "b" / "images" / "0006R0_f00930.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 missing: 0006R0_f00930"):
        open_dataset("camvid", tmp_path / "b", "train")
    with pytest.raises(FileNotFoundError, match=r"val\.txt is missing"):
        open_dataset("camvid", tmp_path / "b", "val")
    make_small(tmp_path / "c", "test", stems)
    (tmp_path / "c" / "test" / "0006R0_f00930.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="labels have no frame; 1 missing: 0006R0_f00930"):
        open_dataset("camvid", tmp_path / "c", "test")


def test_wrong_folders_and_names(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no CamVid folder"):
        open_dataset("camvid", tmp_path, "train")
    with pytest.raises(ValueError, match="split of CamVid must be one of"):
        open_dataset("camvid", tmp_path, "validation")
    with pytest.raises(ValueError, match="protocol of CamVid must be one of"):
        open_dataset("camvid", tmp_path, "val", protocol="13")
    (tmp_path / "val").mkdir()
    (tmp_path / "valannot").mkdir()
    with pytest.raises(ValueError, match="no frames found"):
        open_dataset("camvid", tmp_path, "val")
    save_frame(tmp_path / "val" / "thumbs.png")
    with pytest.raises(FileNotFoundError, match="frames have no label; 1 missing: thumbs"):
        open_dataset("camvid", tmp_path, "val")
    save_label(tmp_path / "valannot" / "thumbs.png")
    with pytest.raises(ValueError, match=r"thumbs\.png: a CamVid file is named like"):
        open_dataset("camvid", tmp_path, "val")
    make_small(tmp_path, "test", ["0016E5_00390", "0016E5_f00390"])
    with pytest.raises(ValueError, match=r"0016E5_f00390\.jpg and .* have one frame number"):
        open_dataset("camvid", tmp_path, "test")


@pytest.mark.parametrize(
    ("split", "count", "videos", "fps"),
    [("train", 367, 5, 1), ("val", 101, 1, 15), ("test", 233, 2, 1)],
)
def test_real_camvid(shared: Path, split: str, count: int, videos: int, fps: int):
    dataset = open_dataset("camvid", shared / "data" / "camvid", split)
    assert dataset.num_labelled == dataset.num_frames == count
    assert len(dataset.videos) == videos
    assert {video.fps for video in dataset.videos} == {fps}
    video = dataset.videos[-1]
    label = video.labels[-1]
    assert label is not None
    assert dataset.read_frame(video.frames[-1]).shape == (360, 480, 3)
    values = np.unique(dataset.read_label(label))
    assert dataset.classes.index("road") in values
    assert set(values.tolist()) <= {*range(11), 255}
