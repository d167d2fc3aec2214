"""CamVid from raw videos and Cityscapes from labelIds: names, resuming, damage, the command."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from command_line import run
from PIL import Image

from vidseg.classes import CAMVID
from vidseg.data import open_dataset, preceding, snippets
from vidseg.data.prepare import prepare_cityscapes
from vidseg.data.prepare_camvid import GROUPS, find_shift, prepare_camvid, split_of


def picture(k: int) -> np.ndarray:
    """Frame k: a bright column that wanders, so that neighbours differ."""
    image = np.full((24, 32, 3), 40, np.uint8)
    image[:, (3 * k) % 29 : (3 * k) % 29 + 3] = 220
    return image


def write_video(path: Path, length: int, first: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("ffv1", rate=Fraction(30), width=32, height=24)
        stream.pix_fmt = "bgr0"
        for k in range(length):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(first + k), "rgb24")))
        container.mux(stream.encode())
    return path


def shown(path: Path) -> int:
    """The number of the picture (0..9) that a file shows."""
    image = np.array(Image.open(path))
    return next(k for k in range(10) if np.abs(image.astype(int) - picture(k)).max() < 8)


def write_label(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_video(tmp_path / "raw" / "0016E5.MXF", 9)
    write_video(tmp_path / "raw" / "01TP_extract.avi", 4)
    return tmp_path / "raw"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    write_label(tmp_path / "labels" / "0016E5_00004.png", [[0, 10, 11]])
    write_label(tmp_path / "labels" / "0016E5_00008_L.png", [[128, 64, 128]] * 2)
    write_label(tmp_path / "labels" / "0001TP_006662.png", [[[128, 0, 192], [60, 40, 222]]])
    (tmp_path / "labels" / "0016E5_00008_L.png").unlink()
    return tmp_path / "labels"


def test_frames_get_the_numbers_of_their_labels(raw: Path, tmp_path: Path):
    out = tmp_path / "out"
    done = prepare_camvid(raw, out)
    names = sorted(path.name for path in (out / "images_sequence").iterdir())
    assert names == [f"0001TP_{n:06d}.png" for n in range(6660, 6664)] + [
        f"0016E5_{n:05d}.png" for n in range(9)
    ]
    assert [shown(out / "images_sequence" / f"0016E5_{n:05d}.png") for n in range(9)] == [*range(9)]
    assert shown(out / "images_sequence" / "0001TP_006662.png") == 2
    assert (done.written, done.kept) == (13, 0)
    assert len(done.problems) == 2, "two of the four videos are not there"
    assert "no 0006R0.*" in done.problems[1]


def test_mxf_with_frames_out_of_order(tmp_path: Path):
    (tmp_path / "raw").mkdir()
    with av.open(str(tmp_path / "raw" / "0006R0.MXF"), "w", format="mxf") as container:
        stream = container.add_stream("mpeg2video", rate=Fraction(30), width=320, height=240)
        stream.pix_fmt, stream.bit_rate = "yuv420p", 8_000_000
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 12, 2
        for k in range(30):
            image = np.full((240, 320, 3), 40, np.uint8)
            image[:, 10 * k : 10 * k + 10] = 230
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    prepare_camvid(tmp_path / "raw", tmp_path / "out")
    files = sorted((tmp_path / "out" / "images_sequence").iterdir())
    assert [path.stem for path in files] == [f"0006R0_f{n:05d}" for n in range(30)]
    columns = [int(np.array(Image.open(path)).sum((0, 2)).argmax()) // 10 for path in files]
    assert columns == [*range(30)]


def test_the_authors_numbering_is_one_lower(raw: Path, tmp_path: Path):
    out = tmp_path / "out"
    prepare_camvid(raw, out, numbering="authors")
    assert shown(out / "images_sequence" / "0016E5_-0001.png") == 0
    assert shown(out / "images_sequence" / "0016E5_00004.png") == 5
    assert shown(out / "images_sequence" / "0001TP_006662.png") == 2
    with pytest.raises(ValueError, match="made with numbering='authors'"):
        prepare_camvid(raw, out)


def test_the_result_opens_as_camvid(raw: Path, labels: Path, tmp_path: Path):
    out = tmp_path / "out"
    prepare_camvid(raw, out, labels=labels)
    dataset = open_dataset("camvid", out, "train")
    first, second = snippets(dataset, preceding(2))
    assert [path.stem for path in first.frames] == [f"0001TP_{n:06d}" for n in range(6660, 6663)]
    assert dataset.read_label(first.label).tolist() == [[3, 4]]
    assert dataset.read_label(second.label).tolist() == [[0, 10, 255]]
    twelve = open_dataset("camvid", out, "train", protocol="12")
    assert twelve.read_label(second.label).tolist() == [[1, 11, 0]]


def test_a_second_run_only_adds_what_is_missing(raw: Path, labels: Path, tmp_path: Path):
    out = tmp_path / "out"
    first = prepare_camvid(raw, out, labels=labels)
    sequence = out / "images_sequence"
    before = {path: path.stat().st_mtime_ns for path in sequence.iterdir()}
    (sequence / "0016E5_00005.png").unlink()
    (sequence / ".0016E5_00006.png.vidseg-0123456789abcdef.part").write_text("left by a killed run")
    second = prepare_camvid(raw, out, labels=labels)
    assert first.written == 13 + 2 + 1
    assert (second.written, second.kept) == (1, 12 + 2 + 1)
    assert shown(sequence / "0016E5_00005.png") == 5
    after = {path: path.stat().st_mtime_ns for path in sequence.iterdir()}
    assert after.keys() == before.keys()
    assert sum(before[path] != after[path] for path in before) == 1


def test_a_complete_video_is_not_decoded_again(raw: Path, tmp_path: Path):
    prepare_camvid(raw, tmp_path / "out")
    for path in raw.iterdir():
        path.write_bytes(b"cannot be decoded any more")
    done = prepare_camvid(raw, tmp_path / "out")
    assert (done.written, done.kept) == (0, 13)


def test_a_run_that_dies_leaves_whole_files_only(raw: Path, tmp_path: Path, monkeypatch):
    out, calls = tmp_path / "out", []
    genuine = os.fsync

    def full_disk(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        genuine(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        prepare_camvid(raw, out)
    monkeypatch.undo()
    for path in (out / "images_sequence").iterdir():
        assert path.suffix == ".png"
        Image.open(path).load()
    prepare_camvid(raw, out)
    assert len(list((out / "images_sequence").iterdir())) == 13


def test_only_the_frames_before_labels_are_kept(raw: Path, labels: Path, tmp_path: Path):
    done = prepare_camvid(raw, tmp_path / "out", labels=labels, before=1)
    names = {path.stem for path in (tmp_path / "out" / "images_sequence").iterdir()}
    assert names == {"0016E5_00003", "0016E5_00004", "0001TP_006661", "0001TP_006662"}
    assert len(done.problems) == 2
    again = prepare_camvid(raw, tmp_path / "out", labels=labels, before=1)
    assert (again.written, again.kept) == (0, 2 + 1 + 4)
    with pytest.raises(ValueError, match="needs labels or split lists"):
        prepare_camvid(raw, tmp_path / "other", before=1)


def test_a_video_that_ends_before_its_labels_is_told(raw: Path, labels: Path, tmp_path: Path):
    write_label(labels / "0016E5_00030.png", [[0]])
    done = prepare_camvid(raw, tmp_path / "out", labels=labels, before=1)
    assert any("ends with frame 8, but frames up to 30" in problem for problem in done.problems)
    assert done.has_damage


def test_a_damaged_video_gives_what_it_has(raw: Path, tmp_path: Path):
    path = write_video(raw / "0016E5.MXF", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    done = prepare_camvid(raw, tmp_path / "out")
    written = len(list((tmp_path / "out" / "images_sequence").glob("0016E5_*")))
    assert 0 < written < 60
    assert any(f"damaged after frame {written - 1}" in problem for problem in done.problems)
    state = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert state["frames"] == {"0001TP": 4}, "a damaged video is not taken for complete"
    (raw / "0016E5.MXF").write_text("no video at all")
    with pytest.raises(ValueError, match=r"0016E5.MXF cannot be decoded"):
        prepare_camvid(raw, tmp_path / "other")


def test_split_lists_of_ones_own(raw: Path, labels: Path, tmp_path: Path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "test.txt").write_text("/SegNet/CamVid/test/0016E5_00004.png /x/0016E5_00004.png\n")
    prepare_camvid(raw, tmp_path / "out", labels=labels, splits=lists)
    assert (tmp_path / "out" / "annotations" / "test.txt").read_text() == "0016E5_00004\n"
    assert not (tmp_path / "out" / "annotations" / "train.txt").exists()
    (lists / "test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no train\.txt"):
        prepare_camvid(raw, tmp_path / "out", labels=labels, splits=lists)


def test_the_usual_split_has_the_usual_counts(shared: Path):
    root = shared / "data" / "camvid"
    for split, count in (("train", 367), ("val", 101), ("test", 233)):
        stems = [path.stem for path in (root / split).iterdir()]
        assert [split_of(stem) for stem in stems] == [split] * count


def test_shifted_numbers_are_noticed(raw: Path, tmp_path: Path):
    stills = tmp_path / "stills"
    stills.mkdir()
    for n in (3, 5):
        Image.fromarray(picture(n)).save(stills / f"0016E5_{n:05d}.png")
    done = prepare_camvid(raw, tmp_path / "good", images=stills)
    assert not [problem for problem in done.problems if "are shifted" in problem]
    assert (tmp_path / "good" / "images" / "0016E5_00003.png").is_file()
    shifted = prepare_camvid(raw, tmp_path / "bad", images=stills, numbering="authors")
    (problem,) = [problem for problem in shifted.problems if "are shifted" in problem]
    assert "0016E5" in problem
    assert "numbers are -1 " in problem
    assert find_shift(tmp_path / "bad", stills) == [problem]


def test_labels_in_colour_are_grouped_as_usual(raw: Path, tmp_path: Path):
    colours = [colour for group in GROUPS.values() for colour in group]
    assert len(set(colours)) == len(colours) == 33, "32 of CamVid, and SegNet's pavement"
    wanted = [i for i, group in enumerate(GROUPS.values()) for _ in group]
    write_label(tmp_path / "labels" / "0016E5_00004.png", [colours])
    prepare_camvid(raw, tmp_path / "out", labels=tmp_path / "labels")
    made = np.array(Image.open(tmp_path / "out" / "labels" / "0016E5_00004_L.png"))
    assert made.tolist() == [wanted]
    for colour, group in zip(CAMVID.palette, list(GROUPS.values())[1:], strict=True):
        assert group[0] == colour


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[12, 0]], r"0016E5_00004\.png: label values \[12\] mean nothing"),
        ([[[1, 2, 3]]], r"0016E5_00004\.png: 1 colours belong to no class"),
    ],
)
def test_bad_labels_are_named(raw: Path, tmp_path: Path, values, message: str):
    write_label(tmp_path / "labels" / "0016E5_00004.png", values)
    with pytest.raises(ValueError, match=message):
        prepare_camvid(raw, tmp_path / "out", labels=tmp_path / "labels")


def test_wrong_folders_are_named(raw: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="none of CamVid's raw videos"):
        prepare_camvid(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="holds no label"):
        prepare_camvid(raw, tmp_path / "out", labels=tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        prepare_camvid(tmp_path / "nowhere", tmp_path / "out")


# --- Cityscapes


@pytest.fixture
def city(tmp_path: Path) -> Path:
    root = tmp_path / "city"
    frames = root / "leftImg8bit_sequence" / "train" / "ulm"
    frames.mkdir(parents=True)
    for n in range(10, 25):
        Image.new("RGB", (8, 6), (n, 0, 0)).save(frames / f"ulm_000000_{n:06d}_leftImg8bit.png")
    label = root / "gtFine" / "train" / "ulm" / "ulm_000000_000019_gtFine_labelIds.png"
    write_label(label, [[7, 33, 3, 3, 7, 7, 7, 7]] * 6)
    return root


def test_cityscapes_keeps_the_frames_around_a_label(city: Path, tmp_path: Path):
    out = tmp_path / "out"
    done = prepare_cityscapes(city, out, before=2, after=1)
    assert (done.written, done.kept, done.problems) == (5, 0, [])
    (video,) = open_dataset("cityscapes", out, "train").videos
    assert video.numbers == (17, 18, 19, 20)
    label = video.labels[2]
    assert label is not None
    assert np.array(Image.open(label))[0, :3].tolist() == [0, 18, 255]
    again = prepare_cityscapes(city, out, before=2, after=1)
    assert (again.written, again.kept) == (0, 5)


def test_cityscapes_in_place_converts_labels_only(city: Path):
    done = prepare_cityscapes(city, city)
    assert done.written == 1
    names = {path.name for path in (city / "gtFine" / "train" / "ulm").iterdir()}
    assert names == {
        "ulm_000000_000019_gtFine_labelIds.png",
        "ulm_000000_000019_gtFine_labelTrainIds.png",
    }
    assert len(list((city / "leftImg8bit_sequence" / "train" / "ulm").iterdir())) == 15


def test_cityscapes_can_link(city: Path, tmp_path: Path):
    prepare_cityscapes(city, tmp_path / "out", before=1, link=True)
    frames = list((tmp_path / "out" / "leftImg8bit_sequence").rglob("*.png"))
    assert len(frames) == 2
    assert all(path.is_symlink() for path in frames)
    moved = city.rename(tmp_path / "moved")
    again = prepare_cityscapes(moved, tmp_path / "out", before=1, link=True)
    assert (again.written, again.kept) == (2, 1)
    assert all(path.exists() for path in frames)


def test_cityscapes_tells_missing_frames_and_bad_labels(city: Path, tmp_path: Path):
    done = prepare_cityscapes(city, tmp_path / "out", before=12)
    assert "3 missing: ulm_000000_000007" in done.problems[0]
    label = city / "gtFine" / "train" / "ulm" / "ulm_000000_000019_gtFine_labelIds.png"
    write_label(label, [[40]])
    with pytest.raises(ValueError, match=r"labelIds\.png: label values \[40\]"):
        prepare_cityscapes(city, tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="gtCoarse holds no"):
        prepare_cityscapes(city, tmp_path / "other", labels="gtCoarse")
    with pytest.raises(ValueError, match="0 or more frames"):
        prepare_cityscapes(city, tmp_path / "other", before=-1)


# --- the command


def test_the_command_prepares_and_checks(raw: Path, labels: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    line = ("data", "prepare", "camvid", "--raw", raw, "--out", out, "--labels", labels)
    assert run(*line) == 0
    told = capsys.readouterr()
    assert "16 files written, 0 kept" in told.out
    assert "has no 0006R0.*" in told.err
    assert "0016E5.MXF: 9 frames" in told.err, "progress in plain lines"
    assert run(*line) == 0
    assert "0 files written, 16 kept" in capsys.readouterr().out


def test_the_command_ends_with_1_for_a_damaged_video(raw: Path, tmp_path: Path, capsys):
    path = write_video(raw / "0016E5.MXF", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert run("data", "prepare", "camvid", "--raw", raw, "--out", tmp_path / "out") == 1
    told = capsys.readouterr()
    assert "0016E5.MXF is damaged after frame" in told.err
    assert "files written" in told.out


def test_the_command_prepares_cityscapes(city: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert run("data", "prepare", "cityscapes", "--raw", city, "--out", out, "--before", 2) == 0
    assert "4 files written" in capsys.readouterr().out
    assert run("data", "check", "cityscapes", out, "--memory-frames", 2) == 0
    assert "no faults" in capsys.readouterr().out


def test_errors_are_one_line_without_a_traceback(tmp_path: Path, capsys):
    assert run("data", "prepare", "camvid", "--raw", tmp_path / "no", "--out", tmp_path) == 1
    told = capsys.readouterr().err
    assert "is no folder" in told
    assert "Traceback" not in told
