"""Each fault of a data set is found and named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from PIL import Image

from vidseg.data import Video
from vidseg.data.check import check_dataset, find_missing, find_splits, grouped


def save_frame(path: Path, seed: int, size: tuple[int, int] = (6, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def save_label(path: Path, value: int = 1, size: tuple[int, int] = (6, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """CamVid, 480x360 layout: five frames in train, three in val; no fault."""
    for i in range(5):
        save_frame(tmp_path / "train" / f"0006R0_f{30 * i:05d}.png", i)
        save_label(tmp_path / "trainannot" / f"0006R0_f{30 * i:05d}.png", i)
    for i in range(3):
        save_frame(tmp_path / "val" / f"0016E5_{7959 + 2 * i:05d}.png", 100 + i)
        save_label(tmp_path / "valannot" / f"0016E5_{7959 + 2 * i:05d}.png", 11)
    return tmp_path


def faults(root: Path, **options) -> list[tuple[str, str]]:
    return [(f.kind, f.path.name) for f in check_dataset("camvid", root, **options).faults]


def test_a_sound_data_set_has_no_fault(root: Path):
    found = check_dataset("camvid", root)
    assert found.faults == []
    train = found.splits["train"]
    assert (train["videos"], train["frames"], train["labelled"]) == (1, 5, 5)
    assert train["sizes"] == {"8x6": 5}
    assert train["class_share"]["building"] == 0.2
    assert found.splits["val"]["class_share"]["ignored"] == 1.0


def test_missing_frames(root: Path):
    for folder in ("train", "trainannot"):
        (root / folder / "0006R0_f00060.png").unlink()
    assert faults(root) == [("missing frame", "0006R0_f00090.png")]
    assert faults(root, splits=["val"], memory_frames=1) == [("missing frame", "0016E5_07959.png")]


@pytest.mark.parametrize(
    ("numbers", "lost"),
    [((0, 30, 61, 90), []), ((0, 1, 3, 4, 5), [3]), ((0, 2, 4, 10, 12, 14), [10]), ((5,), [])],
)
def test_holes_in_the_numbering(numbers: tuple[int, ...], lost: list[int]):
    frames = tuple(Path(f"{n}.png") for n in numbers)
    video = Video("v", frames, (None,) * len(frames), numbers)
    assert [fault.path for fault in find_missing(video)] == [Path(f"{n}.png") for n in lost]


def test_labels_without_frames_and_frames_without_labels(root: Path):
    (root / "train" / "0006R0_f00060.png").unlink()
    (root / "train" / "0006R0_f00090.png").unlink()
    (root / "valannot" / "0016E5_07959.png").unlink()
    assert faults(root) == [
        ("missing file", "0006R0_f00060"),
        ("missing file", "0006R0_f00090"),
        ("missing file", "0016E5_07959"),
    ]


def test_sizes(root: Path):
    save_frame(root / "train" / "0006R0_f00030.png", 1, (6, 10))
    save_label(root / "valannot" / "0016E5_07961.png", 1, (3, 4))
    found = check_dataset("camvid", root)
    assert [(f.kind, f.path.name) for f in found.faults] == [
        ("size", "0006R0_f00030.png"),
        ("size", "0006R0_f00030.png"),
        ("size", "0016E5_07961.png"),
    ]
    assert "is 10x6" in found.faults[0].message
    assert "is 8x6, its frame" in found.faults[1].message
    assert found.splits["train"]["sizes"] == {"8x6": 4, "10x6": 1}


def test_label_values_and_unreadable_files(root: Path):
    save_label(root / "trainannot" / "0006R0_f00030.png", 12)
    (root / "valannot" / "0016E5_07961.png").write_bytes(b"no image")
    frame = root / "val" / "0016E5_07963.png"
    frame.write_bytes(frame.read_bytes()[:-30])
    found = check_dataset("camvid", root)
    assert [(f.kind, f.path.name) for f in found.faults] == [
        ("label", "0006R0_f00030.png"),
        ("label", "0016E5_07961.png"),
        ("frame", "0016E5_07963.png"),
    ]
    assert "label values [12]" in found.faults[0].message


def test_duplicates_also_between_splits(root: Path):
    save_frame(root / "train" / "0006R0_f00090.png", 0)
    save_frame(root / "val" / "0016E5_07961.png", 4)
    found = check_dataset("camvid", root)
    assert [(f.kind, f.path.name) for f in found.faults] == [
        ("duplicate", "0006R0_f00090.png"),
        ("duplicate", "0016E5_07961.png"),
    ]
    assert "0006R0_f00120.png" in found.faults[1].message


def test_small_gaps_of_cityscapes_are_missing_frames(tmp_path: Path):
    for n in (15, 16, 18, 19):
        name = f"ulm_000000_{n:06d}_leftImg8bit.png"
        save_frame(tmp_path / "leftImg8bit_sequence" / "train" / "ulm" / name, n)
    label = "ulm_000000_000019_gtFine_labelTrainIds.png"
    save_label(tmp_path / "gtFine" / "train" / "ulm" / label)
    found = check_dataset("cityscapes", tmp_path)
    assert [(f.kind, f.message) for f in found.faults] == [
        ("missing frame", "1 missing between 16 and 18")
    ]
    assert find_splits("cityscapes", tmp_path) == ["train"]


def test_folders_that_hold_nothing(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no split"):
        check_dataset("camvid", tmp_path)
    with pytest.raises(ValueError, match="did you mean 'camvid'"):
        check_dataset("canvid", tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_dataset("camvid", tmp_path / "nowhere")
    (tmp_path / "trainannot").mkdir()
    (tmp_path / "train").mkdir()
    assert faults(tmp_path) == [("open", "train")]


def test_the_command_ends_with_1_for_a_fault(root: Path, capsys):
    assert run("data", "check", "camvid", root) == 0
    assert "no faults" in capsys.readouterr().out
    save_label(root / "trainannot" / "0006R0_f00030.png", 99)
    assert run("data", "check", "camvid", root) == 1
    told = capsys.readouterr()
    assert told.err.count("0006R0_f00030.png") == 1
    assert "1 fault" in told.out


def test_the_command_writes_json(root: Path, capsys):
    save_label(root / "trainannot" / "0006R0_f00030.png", 99)
    line = (
        "data",
        "check",
        "camvid",
        root,
        "--split",
        "train",
        "--option",
        "protocol=12",
        "--json",
    )
    assert run(*line) == 1
    told = json.loads(capsys.readouterr().out)
    assert list(told["splits"]) == ["train"]
    assert told["faults"][0]["kind"] == "label"
    assert told["faults"][0]["file"].endswith("trainannot/0006R0_f00030.png")
    assert run("data", "check", "camvid", root, "--option", "protocoll=12") == 1
    assert "did you mean 'protocol'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["camvid", "cityscapes"])
def test_real_data_has_no_fault(shared: Path, kind: str):
    splits = ["val"]
    found = check_dataset(kind, shared / "data" / kind, splits=splits)
    assert found.faults == []
    assert found.splits["val"]["frames"] == {"camvid": 101, "cityscapes": 15}[kind]


def make_own(root: Path, masks: dict[str, list[int]], classes: int = 2, **content) -> Path:
    """Kind folder: a video a split, whose masks are half 0 and half the given values."""
    for split, values in masks.items():
        for i, value in enumerate(values):
            save_frame(root / split / "yard" / "frames" / f"{i}.png", 1000 * len(split) + i)
            mask = save_label(root / split / "yard" / "masks" / f"{i}.png", value)
            if value != 255:
                pixels = np.array(Image.open(mask))
                pixels[:3] = 0
                Image.fromarray(pixels).save(mask)
    names = ["background", "lane", "car", "pole"][:classes]
    colours = {name: [10 * i, 0, 0] for i, name in enumerate(names)}
    (root / "classes.json").write_text(json.dumps({"classes": colours, "fps": 10, **content}))
    return root


def test_masks_of_0_and_255_have_a_class_without_a_pixel(tmp_path: Path):
    root = make_own(tmp_path, {"train": [255, 255], "val": [255]})
    for path in root.glob("*/yard/masks/*"):  # half 0, half 255
        pixels = np.array(Image.open(path))
        pixels[:3] = 0
        Image.fromarray(pixels).save(path)
    (fault,) = check_dataset("folder", root).faults
    assert fault.kind == "class"
    assert "no label has a pixel of the class lane; there is nothing but back" in fault.message
    assert '"values": {"0": "background", "255": "lane"}' in fault.message
    content = json.loads((root / "classes.json").read_text())
    content["values"] = {"0": "background", "255": "lane"}
    (root / "classes.json").write_text(json.dumps(content))
    found = check_dataset("folder", root)
    assert (found.faults, found.notes) == ([], [])
    assert found.splits["train"]["class_share"]["lane"] == 0.5


def test_labels_that_are_void_throughout(tmp_path: Path):
    root = make_own(tmp_path, {"train": [255, 255], "val": [255, 1]})
    found = check_dataset("folder", root)
    assert [fault.kind for fault in found.faults] == ["class"]
    assert "/train: not one pixel of its 2 labels counts, all are void" in found.faults[0].message
    assert "/val: 1 of 2 labels are void throughout" in found.notes[0].message


def test_classes_that_are_missing_are_noted(tmp_path: Path):
    root = make_own(tmp_path, {"train": [1, 2], "val": [1]}, classes=4)
    found = check_dataset("folder", root)
    assert found.faults == []
    told = [note.message for note in found.notes]
    assert told == [
        f"{root.name}/val has no pixel of the class car",
        "no label has a pixel of the class pole",
    ]


def test_masks_counted_from_1(tmp_path: Path):
    root = make_own(tmp_path, {"train": [4, 4, 3]}, classes=4)
    found = check_dataset("folder", root)
    assert "label values [4] mean nothing" in found.faults[0].message
    assert 'counted from 1: {"0": null, "1": "background", ...}' in found.faults[0].message


def test_folders_that_are_not_read(tmp_path: Path):
    root = make_own(tmp_path, {"train": [1, 1], "val": [1]})
    (root / "train" / "yard" / "masks" / "notes.txt").write_text("x")
    (root / "val" / "yard" / "masks").rename(root / "val" / "yard" / "labels")
    found = check_dataset("folder", root)
    assert [(f.kind, f.path.name) for f in found.faults] == [("unread", "labels")]
    assert [n.path.name for n in found.notes if n.kind == "unread"] == ["notes.txt"]
    assert any("no frame of" in note.message for note in found.notes)


def test_equal_faults_are_told_once(tmp_path: Path, capsys):
    root = make_own(tmp_path, {"train": [7] * 9, "val": [8]})
    assert run("data", "check", "folder", root) == 1
    told = capsys.readouterr()
    assert told.err.count("label values [7]") == 1
    assert "label (9 times): " in told.err
    assert "masks/1.png, " in told.err
    assert "and 5 more" in told.err
    assert "label values [8]" in told.err
    assert told.out.rstrip().endswith("10 faults")
    run("data", "check", "folder", root, "--json")
    assert len(json.loads(capsys.readouterr().out)["faults"]) == 10


def test_sizes_and_blended_colours_are_grouped(tmp_path: Path):
    root = make_own(tmp_path, {"train": [1] * 6})
    masks = root / "train" / "yard" / "masks"
    for i in range(3):
        save_label(masks / f"{i}.png", 1, (3, 4))
        save_frame(masks / f"{i + 3}.png", i)
    groups = grouped(check_dataset("folder", root).faults)
    assert [(group[0].kind, len(group)) for group in groups] == [("size", 3), ("label", 3)]


def test_every_video_that_cannot_be_opened_is_named(tmp_path: Path):
    root = make_own(tmp_path, {"train": [1, 1]})
    for name in ("a", "b"):
        save_frame(root / "train" / name / "frames" / "1.png", ord(name))
        save_label(root / "train" / name / "masks" / "2.png")
    (root / "train" / "c").mkdir()
    found = check_dataset("folder", root)
    assert [(f.kind, f.path.parent.parent.name or f.path.name) for f in found.faults[:2]] == [
        ("missing file", "a"),
        ("missing file", "b"),
    ]
    assert (found.faults[2].kind, found.faults[2].path.name) == ("open", "c")
    assert found.splits["train"]["labelled"] == 2


def test_three_classes_and_masks_of_0_and_255(tmp_path: Path):
    root = make_own(tmp_path, {"train": [255]}, classes=3)
    mask = root / "train" / "yard" / "masks" / "0.png"
    pixels = np.array(Image.open(mask))
    pixels[:3] = 0
    Image.fromarray(pixels).save(mask)
    (fault,) = check_dataset("folder", root).faults
    assert "the classes lane, car; there is nothing but background" in fault.message
    assert 'if it stands for a class, say so with "values"' in fault.message
