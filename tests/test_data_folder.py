"""People's own videos: frames, masks and a classes.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidseg.data import open_dataset, preceding, snippets

ROAD, CAR = [128, 64, 128], [0, 0, 142]


def make_video(root: Path, name: str, stems: list[str], masked: list[str]) -> Path:
    folder = root / "train" / name
    for part in ("frames", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for stem in stems:
        Image.new("RGB", (8, 6)).save(folder / "frames" / f"{stem}.jpg")
    for stem in masked:
        Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(folder / "masks" / f"{stem}.png")
    return folder


def describe(root: Path, **content) -> None:
    content = {"classes": {"road": ROAD, "car": CAR}, **content}
    (root / "classes.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    describe(tmp_path, fps=25)
    make_video(tmp_path, "yard", ["9", "10", "11", "100", "101"], ["10", "101"])
    make_video(tmp_path, "lane", ["f_005", "f_010", "f_015"], ["f_015"])
    return tmp_path


def test_videos_of_any_frame_rate(root: Path):
    dataset = open_dataset("folder", root, "train")
    assert [(v.name, v.numbers, v.fps) for v in dataset.videos] == [
        ("lane", (5, 10, 15), 5.0),
        ("yard_000009", (9, 10, 11), 25.0),
        ("yard_000100", (100, 101), 25.0),
    ]
    assert dataset.classes == ("road", "car")
    assert dataset.palette.tolist() == [ROAD, CAR]
    assert [s.frame_indices for s in snippets(dataset, preceding(1))] == [(1, 2), (0, 1), (0, 1)]


def test_masks_of_indices_or_colours(root: Path):
    dataset = open_dataset("folder", root, "train")
    mask = root / "train" / "lane" / "masks" / "f_015.png"
    assert dataset.read_label(mask).tolist() == [[0, 1, 255]]
    Image.fromarray(np.array([[CAR, ROAD]], np.uint8)).save(mask)
    assert dataset.read_label(mask).tolist() == [[1, 0]]
    Image.fromarray(np.array([[CAR, [1, 2, 3]]], np.uint8)).save(mask)
    with pytest.raises(ValueError, match=r"1 colours belong to no class, such as \[\(1, 2, 3\)\]"):
        dataset.read_label(mask)
    Image.fromarray(np.array([[0, 2]], np.uint8)).save(mask)
    with pytest.raises(ValueError, match=r"f_015.png: label values \[2\] mean nothing"):
        dataset.read_label(mask)


def test_what_is_ignored_can_be_said(root: Path):
    describe(root, ignore=[9, [0, 0, 0]])
    dataset = open_dataset("folder", root, "train")
    mask = root / "train" / "lane" / "masks" / "f_015.png"
    Image.fromarray(np.array([[0, 9]], np.uint8)).save(mask)
    assert dataset.read_label(mask).tolist() == [[0, 255]]
    Image.fromarray(np.array([[CAR, [0, 0, 0]]], np.uint8)).save(mask)
    assert dataset.read_label(mask).tolist() == [[1, 255]]
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(mask)
    with pytest.raises(ValueError, match=r"\[255\] mean nothing"):
        dataset.read_label(mask)


def test_videos_without_masks_are_unlabelled(root: Path):
    make_video(root, "night", ["1", "2"], [])
    dataset = open_dataset("folder", root, "train")
    assert dataset.num_frames == 10
    assert dataset.num_labelled == 3


def test_missing_parts_are_named(root: Path):
    with pytest.raises(FileNotFoundError, match=r"no split 'trian'; did you mean 'train'"):
        open_dataset("folder", root, "trian")
    folder = make_video(root, "bad", ["1"], ["2"])
    with pytest.raises(FileNotFoundError, match="masks have no frame of their stem; 1 missing: 2"):
        open_dataset("folder", root, "train")
    (folder / "masks" / "2.png").unlink()
    (folder / "frames" / "1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no \.png or \.jpg"):
        open_dataset("folder", root, "train")
    (folder / "frames").rmdir()
    with pytest.raises(FileNotFoundError, match="it holds the images of a video"):
        open_dataset("folder", root, "train")
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match="no frames found"):
        open_dataset("folder", root, "empty")
    (root / "classes.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"classes\.json is missing; .*like"):
        open_dataset("folder", root, "train")


@pytest.mark.parametrize("stems", [["first", "second"], ["a_1", "b_1"]])
def test_frames_need_numbers_of_their_own(tmp_path: Path, stems: list[str]):
    describe(tmp_path)
    make_video(tmp_path, "v", stems, [])
    with pytest.raises(ValueError, match="needs a number of its own at the end"):
        open_dataset("folder", tmp_path, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "it should look like"),
        ("[]", "must name the classes"),
        ('{"classes": ["road"]}', "must name the classes"),
        ('{"classes": {}}', "1..255 classes, got 0"),
        ('{"classes": {"road": [0, 0]}}', r"colour of 'road' must be \[red, green, blue\]"),
        ('{"classes": {"road": [0, 0, 256]}}', r"colour of 'road' must be"),
        ('{"classes": {"\\ud800": [0, 0, 0]}}', "names must be text"),
        ('{"classes": {"%s": [0, 0, 0]}}' % ("x" * 300), "names must be text"),
        ('{"classes": {"a": [0, 0, 0]}, "fps": 1%s}' % ("0" * 400), "fps must be"),
        ("[" * 100_000, r"classes\.json: .*deep"),
        ('{"classes": {"a": [0, 0, 0], "a": [1, 1, 1]}}', r"\['a'\] given twice"),
        ('{"classes": {"road": [0, 0, 0]}, "fsp": 3}', "unknown key 'fsp'; did you mean 'fps'"),
        ('{"classes": {"road": [0, 0, 0]}, "fps": 0}', "fps must be a number above 0 .*, got 0"),
        ('{"classes": {"road": [0, 0, 0]}, "ignore": 0}', r"must lie in 1..65535, .* got \[0\]"),
        ('{"classes": {"road": [0, 0, 0]}, "ignore": ["x"]}', "colour of 'ignore' must be"),
    ],
)
def test_a_malformed_classes_json_is_explained(tmp_path: Path, content: str, message: str):
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_dataset("folder", tmp_path, "train")


@pytest.mark.parametrize("suffix", ["PNG", "tif", "TIFF", "bmp", "gif"])
def test_masks_of_other_suffixes_are_read(root: Path, suffix: str):
    masks = root / "train" / "yard" / "masks"
    picture = Image.fromarray(np.array([[0, 1, 255]], np.uint8))
    picture.save(masks / f"11.{suffix}")
    (masks.parent / "frames" / "100.jpg").rename(masks.parent / "frames" / "100.JPG")
    dataset = open_dataset("folder", root, "train")
    assert (dataset.num_frames, dataset.num_labelled) == (8, 4)
    assert dataset.read_label(masks / f"11.{suffix}").tolist() == [[0, 1, 255]]
    assert dataset.passed_over == ()


def test_masks_that_cannot_be_read_are_named(root: Path):
    masks = root / "train" / "yard" / "masks"
    Image.new("L", (8, 6)).save(masks / "11.jpg")
    dataset = open_dataset("folder", root, "train")
    with pytest.raises(ValueError, match=r"11\.jpg is a JPEG"):
        dataset.read_label(masks / "11.jpg")
    (masks / "11.jpg").rename(masks / "11.npy")
    with pytest.raises(ValueError, match=r"masks/11\.npy is no picture that is read"):
        open_dataset("folder", root, "train")
    (masks / "11.npy").unlink()
    for suffix in ("bmp", "tif"):
        Image.new("L", (8, 6)).save(masks / f"11.{suffix}")
    with pytest.raises(ValueError, match=r"are masks of one frame; keep one"):
        open_dataset("folder", root, "train")


def test_what_is_not_read_is_known(root: Path):
    yard = root / "train" / "yard"
    (yard / "labels").mkdir()
    (yard / "masks" / "notes.txt").write_text("x")
    (yard / "masks" / "10.json").write_text("{}")
    Image.new("L", (8, 6)).save(yard / "masks" / "10.bmp")
    dataset = open_dataset("folder", root, "train")
    assert sorted(path.name for path in dataset.passed_over) == [
        "10.bmp",
        "10.json",
        "labels",
        "notes.txt",
    ]


def test_what_systems_leave_behind_is_passed_over(root: Path):
    before = open_dataset("folder", root, "train").videos
    yard = root / "train" / "yard"
    for folder in (root, root / "train", yard, yard / "frames", yard / "masks"):
        for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
            (folder / name).mkdir()
            (folder / name / "x.png").write_bytes(b"x")
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._10.png", "._10.jpg"):
            (folder / name).write_bytes(b"x")
    dataset = open_dataset("folder", root, "train")
    assert (dataset.videos, dataset.passed_over) == (before, ())


@pytest.mark.parametrize(
    ("stems", "numbers", "fps"),
    [
        (["10", "8", "9"], (8, 9, 10), 25.0),
        (["0.04", "0.08", "0.12", "0.1"], (4, 8, 10, 12), 50.0),
        (["1690000000.25", "1690000000.5", "1690000000.0", "1690000000.75"], None, 4.0),
        (["seq1.0001", "seq1.0002", "seq1.0003"], (1, 2, 3), 25.0),
        (["1.9", "1.10", "1.11"], (9, 10, 11), 25.0),
        (["t_0.5", "t_0.25", "t_0.75"], (25, 50, 75), 4.0),
    ],
)
def test_numbers_and_times_in_names(tmp_path: Path, stems, numbers, fps):
    describe(tmp_path, fps=25)
    make_video(tmp_path, "v", stems, stems[:1])
    (video,) = open_dataset("folder", tmp_path, "train").videos
    assert video.fps == fps
    if numbers is not None:
        assert video.numbers == numbers
    stems_in_time = [path.stem for path in video.frames]
    if fps != 25.0:
        assert stems_in_time == sorted(stems, key=lambda stem: float(stem.removeprefix("t_")))


def test_a_video_without_a_folder_of_its_own_is_explained(tmp_path: Path):
    describe(tmp_path)
    (tmp_path / "train" / "frames").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="a folder for each video lies between"):
        open_dataset("folder", tmp_path, "train")
