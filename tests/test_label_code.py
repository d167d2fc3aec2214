"""What label files stand for: indices, palettes in any order, colours, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vidseg.data.classes_file import describe_classes, read_classes
from vidseg.data.label_code import LabelCode

SKY, ROAD, CAR = (70, 130, 180), (128, 64, 128), (0, 0, 142)
CODE = LabelCode([SKY, ROAD, CAR], ["sky", "road", "car"])
TRUTH = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def with_palette(path: Path, indices: np.ndarray, palette: list[tuple[int, int, int]]) -> Path:
    picture = Image.fromarray(np.asarray(indices, np.uint8))
    picture.putpalette([value for colour in palette for value in colour])
    picture.save(path)
    return path


def saved(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
    picture = Image.fromarray(np.asarray(values))
    (picture if mode is None else picture.convert(mode)).save(path)
    return path


@given(order=st.permutations(range(4)), pixels=st.lists(st.integers(0, 3), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_palettes_in_any_order_give_the_class_of_the_colour(tmp_path_factory, order, pixels):
    colours = [SKY, ROAD, CAR, (9, 9, 9)]
    code = LabelCode(colours, ["sky", "road", "car", "pole"])
    truth = np.array([pixels], np.uint8)
    place = np.argsort(order)
    path = tmp_path_factory.mktemp("palette") / "0.png"
    with_palette(path, place[truth], [colours[i] for i in order])
    assert code.read(path).tolist() == truth.tolist()


def test_a_palette_of_other_colours_is_decoration(tmp_path: Path):
    pascal = [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    assert CODE.read(with_palette(tmp_path / "0.png", TRUTH, pascal)).tolist() == TRUTH.tolist()


def test_a_palette_that_contradicts_the_classes_is_refused(tmp_path: Path):
    path = with_palette(tmp_path / "0.png", TRUTH, [ROAD, (0, 0, 0), CAR])
    with pytest.raises(ValueError, match=r"disagree: index 0 has \(128, 64, 128\), the"):
        CODE.read(path)
    # Both readings agree where the one known colour is at its index.
    path = with_palette(tmp_path / "1.png", TRUTH, [SKY, (0, 0, 0), (1, 1, 1)])
    assert CODE.read(path).tolist() == TRUTH.tolist()


def test_void_in_palettes(tmp_path: Path):
    """As vidseg writes them: 255 is void, whatever colour pads the palette."""
    black = LabelCode([(0, 0, 0), ROAD], ["other", "road"])
    void = np.array([[0, 1, 255]], np.uint8)
    path = with_palette(tmp_path / "0.png", void, [(0, 0, 0), ROAD, *[(0, 0, 0)] * 254])
    assert black.read(path).tolist() == void.tolist()
    turned = np.array([[1, 0, 255]], np.uint8)
    path = with_palette(tmp_path / "1.png", turned, [ROAD, (0, 0, 0), *[(7, 7, 7)] * 254])
    assert black.read(path).tolist() == void.tolist()
    ignored = LabelCode([SKY, ROAD, CAR], "src", ignore_colours=[(0, 0, 0)])
    path = with_palette(tmp_path / "2.png", [[0, 1, 2, 3]], [(0, 0, 0), CAR, ROAD, SKY])
    assert ignored.read(path).tolist() == [[255, 2, 1, 0]]


@pytest.mark.parametrize(
    ("grey", "indices", "labels"),
    [
        ((2, 0, 1), [[1, 2, 0]], [[0, 1, 2]]),
        ((0, 2, 255), [[0, 1, 2]], [[0, 2, 255]]),
        ((0, 127, 254), [[0, 1, 2]], [[0, 1, 2]]),
        ((0, 255), [[0, 1, 1]], [[0, 1, 1]]),
        ((0, 1, 2), [[0, 1, 2]], [[0, 1, 2]]),
        ((200, 100, 0), [[0, 1, 2]], None),
        ((255, 0), [[1, 0, 0]], None),
    ],
)
def test_grey_stored_as_a_palette(tmp_path: Path, grey, indices, labels):
    path = with_palette(tmp_path / "0.png", np.array(indices), [(g, g, g) for g in grey])
    if labels is None:
        with pytest.raises(ValueError, match="grey in another order"):
            CODE.read(path)
    else:
        assert CODE.read(path).tolist() == labels


def test_classes_of_one_colour_are_told_apart_by_their_indices_alone(tmp_path: Path):
    code = LabelCode([SKY, ROAD, ROAD], ["sky", "road", "lane"])
    path = with_palette(tmp_path / "0.png", TRUTH, [SKY, ROAD, ROAD])
    assert code.read(path).tolist() == TRUTH.tolist()
    with pytest.raises(ValueError, match=r"disagree: .*the colour of road and lane"):
        code.read(with_palette(tmp_path / "1.png", TRUTH, [ROAD, SKY, ROAD]))
    with pytest.raises(ValueError, match="the classes road, lane have one colour"):
        code.read(saved(tmp_path / "2.png", np.array([[SKY, ROAD]], np.uint8)))


@pytest.mark.parametrize("suffix", ["png", "PNG", "bmp", "tif", "TIFF", "gif", "webp", "ppm"])
def test_every_lossless_picture_is_read(tmp_path: Path, suffix: str):
    path = tmp_path / f"0.{suffix}"
    colours = np.array([SKY, ROAD, CAR], np.uint8)[TRUTH]
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(colours).save(path, **options)
    assert CODE.read(path).tolist() == TRUTH.tolist()
    if suffix not in ("webp", "ppm"):
        Image.fromarray(TRUTH).save(path)
        assert CODE.read(path).tolist() == TRUTH.tolist()


@pytest.mark.parametrize("mode", ["LA", "I;16", "I", "1", "RGBA"])
def test_modes_that_hold_indices_or_colours(tmp_path: Path, mode: str):
    path = tmp_path / ("0.tif" if mode == "I" else "0.png")
    if mode == "RGBA":
        pixels = np.array([SKY, ROAD, CAR], np.uint8)[TRUTH]
        Image.fromarray(pixels).convert("RGBA").save(path)
        assert CODE.read(path).tolist() == TRUTH.tolist()
    elif mode == "1":
        Image.fromarray(TRUTH[:, :2] == 1).save(path)
        assert CODE.read(path).tolist() == (TRUTH[:, :2] == 1).astype(int).tolist()
    else:
        values = TRUTH.astype({"I;16": np.uint16, "I": np.int32}.get(mode, np.uint8))
        picture = Image.fromarray(values)
        (picture.convert("LA") if mode == "LA" else picture).save(path)
        assert CODE.read(path).tolist() == TRUTH.tolist()


def test_void_of_16_bits(tmp_path: Path):
    path = saved(tmp_path / "0.png", np.array([[0, 2, 65535, 255]], np.uint16))
    assert CODE.read(path).tolist() == [[0, 2, 255, 255]]
    strict = LabelCode([SKY, ROAD, CAR], "src", ignore_values=[255])
    with pytest.raises(ValueError, match=r"label values \[65535\] mean nothing"):
        strict.read(path)
    path = saved(tmp_path / "1.png", np.array([[0, 26001]], np.uint16))
    with pytest.raises(ValueError, match=r'\[26001\] mean nothing .*"values" of classes.json'):
        CODE.read(path)


def test_what_is_refused_says_why(tmp_path: Path):
    path = tmp_path / "0.jpg"
    Image.fromarray(TRUTH).save(path)
    with pytest.raises(ValueError, match=r"0\.jpg is a JPEG, which blends labels .* as PNG"):
        CODE.read(path)
    path.rename(tmp_path / "0.png")  # the content counts, not the name
    with pytest.raises(ValueError, match=r"0\.png is a JPEG"):
        CODE.read(tmp_path / "0.png")
    pages = [Image.fromarray(TRUTH), Image.fromarray(TRUTH)]
    pages[0].save(tmp_path / "0.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="holds 2 pictures"):
        CODE.read(tmp_path / "0.tif")
    with pytest.raises(ValueError, match="grey stored as RGB"):
        CODE.read(saved(tmp_path / "1.png", TRUTH, "RGB"))
    counted = saved(tmp_path / "2.png", TRUTH + 1)
    with pytest.raises(ValueError, match=r'\[3\] mean .*counted from 1: \{"0": null, "1": "sky"'):
        CODE.read(counted)


def test_values_say_what_masks_hold(tmp_path: Path):
    file = tmp_path / "classes.json"
    content = {
        "classes": {"background": [0, 0, 0], "lane": [255, 255, 255]},
        "values": {"0": "background", "255": "lane", "65535": "lane", "7": None},
    }
    file.write_text(json.dumps(content), encoding="utf-8-sig")
    classes = read_classes(file)
    path = saved(tmp_path / "0.png", np.array([[0, 255, 7, 65535]], np.uint16))
    assert classes.code().read(path).tolist() == [[0, 1, 255, 1]]
    path = saved(tmp_path / "1.png", np.array([[0, 1]], np.uint8))
    with pytest.raises(ValueError, match=r"label values \[1\] mean nothing"):
        classes.code().read(path)
    file.write_text(describe_classes(classes))
    assert read_classes(file) == classes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("[0, 255]", "must say what the mask values stand for"),
        ('{"x": "a"}', "values are 0..65535, .* got 'x'"),
        ('{"70000": "a"}', "values are 0..65535"),
        ('{"0": "car"}', "value 0 stands for 'car', which is no class; choose one of: a, b"),
        ('{"0": 1}', "value 0 stands for 1, which is no class"),
        ('{"0": "a"}', "no value stands for b"),
        ('{"0": "a", "00": "b"}', "value 0 is given twice"),
        ('{"0": "a", "255": "b"}, "ignore": [255]', r'\[255\] are in "ignore" and stand for a'),
    ],
)
def test_malformed_values_are_explained(tmp_path: Path, values: str, message: str):
    text = '{"classes": {"a": [0, 0, 0], "b": [1, 1, 1]}, "values": %s}' % values  # noqa: UP031
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_classes(tmp_path / "classes.json")


def test_predictions_and_labels_of_plain_videos_follow_their_palettes(tmp_path: Path, capsys):
    """One right label map in the class's colours, its palette turned around, scores 100 %."""
    from vidseg.data import open_dataset
    from vidseg.evaluation.predictions import evaluate_predictions

    place = dict(num_videos=1, num_frames=2, size=(32, 48))  # noqa: C408
    dataset = open_dataset("synthetic", split="val", **place)
    (video,) = dataset.videos
    colours = [tuple(colour) for colour in dataset.palette.tolist()]
    assert len(set(colours)) == len(colours)
    (tmp_path / video.name).mkdir()
    for frame, label in zip(video.frames, video.labels, strict=True):
        truth = dataset.read_label(label)
        turned = np.where(truth == 255, 255, len(colours) - 1 - truth)
        path = tmp_path / video.name / f"{frame.stem}.png"
        with_palette(path, turned, colours[::-1])
    assert evaluate_predictions(tmp_path, dataset).mean_iou == 1.0


@pytest.mark.parametrize("suffix", ["png", "gif", "tif", "bmp"])
def test_damaged_label_files_name_themselves(tmp_path: Path, suffix: str):
    """Any byte may be wrong: what cannot be read is one ValueError that names the file."""
    path = tmp_path / f"0.{suffix}"
    with_palette(path, np.tile(TRUTH, (4, 5)), [SKY, ROAD, CAR])
    sound, rng = path.read_bytes(), np.random.default_rng(3)
    refused = 0
    for _ in range(80):
        content = bytearray(sound)
        for place in rng.integers(0, len(content), 3):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content[: rng.integers(1, len(content) + 1)])
        try:
            assert CODE.read(path).dtype == np.uint8
        except ValueError as error:
            refused += 1
            assert str(path) in str(error)  # noqa: PT017
    assert refused > 20
