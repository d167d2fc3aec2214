"""One's own data in common layouts becomes one layout, with every pixel in its class."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from painted import make_video, number_of
from PIL import Image

from vidseg.data import open_dataset
from vidseg.data.check import check_dataset
from vidseg.data.layouts import READERS, Asked, read_layout
from vidseg.data.layouts.mask_classes import read_names
from vidseg.data.layouts.matching import match, sources
from vidseg.data.layouts.shapes import ellipse, fill_polygon, rectangle
from vidseg.data.prepare_folder import prepare_folder
from vidseg.lock import FolderLock

SIZE = (12, 16)
NAMES = ("background", "road", "car")
PALETTE = ((0, 0, 0), (128, 64, 128), (0, 0, 142))


def truth_of(number: int) -> np.ndarray:
    """A road whose edge and a car whose place tell the frame's number."""
    labels = np.zeros(SIZE, np.uint8)
    labels[4 + number % 3 :] = 1
    labels[6:9, number : number + 4] = 2
    return labels


def save_frame(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*SIZE, 3), 20 * number, np.uint8)
    image[0, :, 0] = np.arange(SIZE[1]) * 10
    Image.fromarray(image).save(path)


def save_mask(path: Path, labels: np.ndarray, how: str = "indices") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if how == "colours":
        Image.fromarray(np.array(PALETTE, np.uint8)[labels]).save(path)
        return
    picture = Image.fromarray(labels)
    if how == "palette":
        picture.putpalette([v for colour in PALETTE for v in colour])
    picture.save(path)


def name_classes(folder: Path, name: str = "classes.txt") -> None:
    lines = [f"{n} {r} {g} {b}" for n, (r, g, b) in zip(NAMES, PALETTE, strict=True)]
    (folder / name).write_text("\n".join(lines))


def flat(root: Path) -> None:
    for number in range(1, 11):
        save_frame(root / "images" / f"{number}.jpg", number)
        if number % 2:
            save_mask(root / "masks" / f"{number}.png", truth_of(number))
    name_classes(root)


def flat_with_splits(root: Path) -> None:
    for split, numbers in (("training", range(6)), ("valid", range(6, 11))):
        for number in numbers:
            save_frame(root / "imgs" / split / f"street_{number:03d}.png", number)
            path = root / "labels" / split / f"street_{number:03d}_mask.PNG"
            save_mask(path, truth_of(number), "colours")
    name_classes(root)


def segnet(root: Path) -> None:
    for split, numbers in (("train", range(6)), ("val", range(6, 10))):
        for number in numbers:
            save_frame(root / split / f"a_{number:03d}.png", number)
            save_mask(root / f"{split}annot" / f"a_{number:03d}.png", truth_of(number))
    lines = [f"{i} {n} {r} {g} {b}" for i, (n, (r, g, b)) in enumerate(zip(NAMES, PALETTE))]  # noqa: B905
    (root / "classes.txt").write_text("\n".join(lines))


def beside_each_other(root: Path) -> None:
    for number in range(10):
        save_frame(root / f"IMG_{number:04d}.JPG", number)
        save_mask(root / f"IMG_{number:04d}.png", truth_of(number))
    name_classes(root)


def voc(root: Path) -> None:
    stems = [f"{drive}_{number:06d}" for drive in ("a", "b") for number in range(5)]
    for i, stem in enumerate(stems):
        save_frame(root / "JPEGImages" / f"{stem}.jpg", i)
        save_mask(root / "SegmentationClass" / f"{stem}.png", truth_of(i), "palette")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(stems[:5]))
    (lists / "val.txt").write_text("\n".join(stems[5:]) + "\n")
    text = "# label:color_rgb:parts:actions\n"
    for name, colour in zip(NAMES, PALETTE, strict=True):
        text += f"{name}:{','.join(map(str, colour))}::\n"
    (root / "labelmap.txt").write_text(text)


def davis(root: Path) -> None:
    for drive in range(2):
        for number in range(5):
            name = f"{'ab'[drive]}/{number:05d}"
            i = 5 * drive + number
            save_frame(root / "JPEGImages" / "480p" / f"{name}.jpg", i)
            save_mask(root / "Annotations" / "480p" / f"{name}.png", truth_of(i), "palette")
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "train.txt").write_text("a\n")
    (root / "ImageSets" / "2017" / "val.txt").write_text("b\n")
    name_classes(root)


def panoptic(root: Path) -> None:
    ids = np.array([70000, 513, 3])
    for split, numbers in (("train", range(5)), ("val", range(5, 10))):
        images, annotations = [], []
        for number in numbers:
            name = f"{split}_{number:06d}"
            save_frame(root / f"{split}2017" / f"{name}.jpg", number)
            segment = ids[truth_of(number)]
            rgb = np.stack([segment % 256, segment // 256 % 256, segment // 65536], -1)
            place = root / "annotations" / f"panoptic_{split}2017" / f"{name}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rgb.astype(np.uint8)).save(place)
            images.append({"id": number, "file_name": f"{name}.jpg"})
            segments = [
                {"id": int(i), "category_id": c} for i, c in zip(ids, (7, 11, 200), strict=True)
            ]
            annotations.append(
                {"image_id": number, "file_name": f"{name}.png", "segments_info": segments}
            )
        categories = [
            {"id": c, "name": name, "isthing": 0, "color": list(colour)}
            for c, name, colour in zip((7, 11, 200), NAMES, PALETTE, strict=True)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"panoptic_{split}2017.json").write_text(json.dumps(content))


def corners(number: int) -> tuple[list[list[float]], list[list[float]]]:
    """Polygons of the road and of the car."""
    top = 4 + number % 3
    road = [[0.0, top], [16.0, top], [16.0, 12.0], [0.0, 12.0]]
    return road, [[number, 6.0], [number + 4, 9.0]]


def labelme(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(10):
        save_frame(root / f"cam_{number}.jpg", number)
        road, car = corners(number)
        shapes: list[dict[str, Any]] = [
            {"label": "road", "points": road, "shape_type": "polygon"},
            {"label": "car", "points": car, "shape_type": "rectangle"},
            {"label": "car", "points": [[1, 1], [2, 2]], "shape_type": "line"},
        ]
        if number == 3:  # the car as a mask
            buffer = io.BytesIO()
            Image.fromarray(np.full((3, 4), 255, np.uint8)).save(buffer, "PNG")
            text = base64.b64encode(buffer.getvalue()).decode()
            ends = [[number, 6], [number + 3, 8]]
            shapes[1] = {"label": "car", "points": ends, "shape_type": "mask", "mask": text}
        path = f"..\\pictures\\cam_{number}.jpg"
        content = {"shapes": shapes, "imagePath": path, "imageHeight": 12, "imageWidth": 16}
        (root / f"cam_{number}.json").write_text(json.dumps(content))
    name_classes(root, "labels.txt")


CVAT_LABELS = "".join(
    f"<label><name>{name}</name><color>#{bytes(colour).hex()}</color></label>"
    for name, colour in zip(NAMES, PALETTE, strict=True)
)


def cvat(root: Path) -> None:
    road_shapes, car_shapes = "", ""
    for number in range(10):
        save_frame(root / "images" / f"shot{number + 1}.png", number)
        road, ((left, top), (right, bottom)) = corners(number)
        text = ";".join(f"{x},{y}" for x, y in road)
        road_shapes += f'<polygon frame="{number}" outside="0" points="{text}" z_order="0"/>'
        if number == 4:
            car_shapes += (
                f'<mask frame="{number}" outside="0" left="{left - 1}" top="{top:g}" width="5" '
                'height="3" rle="1, 4, 1, 4, 1, 4" z_order="1"/>'
            )
            continue
        car_shapes += (
            f'<box frame="{number}" outside="0" xtl="{left}" ytl="{top}" xbr="{right}" '
            f'ybr="{bottom}" z_order="1"/>'
        )
    car_shapes += '<box frame="10" outside="1" xtl="0" ytl="0" xbr="9" ybr="9" z_order="1"/>'
    (root / "annotations.xml").write_text(
        f"<annotations><meta><task><labels>{CVAT_LABELS}</labels></task></meta>"
        f'<track id="0" label="car">{car_shapes}</track>'
        f'<track id="1" label="road">{road_shapes}</track></annotations>'
    )


def cvat_images(root: Path) -> None:
    text = f"<annotations><meta><task><labels>{CVAT_LABELS}</labels></task></meta>"
    for number in range(10):
        save_frame(root / "images" / f"a_{number}.png", number)
        road, ((left, top), (right, bottom)) = corners(number)
        points = ";".join(f"{x},{y}" for x, y in road)
        text += (
            f'<image id="{number}" name="a_{number}.png" width="16" height="12">'
            f'<polygon label="road" points="{points}"/>'
            f'<box label="car" xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}" z_order="2"/>'
            "</image>"
        )
    (root / "annotations.xml").write_text(f"{text}</annotations>")


LAYOUTS: dict[Callable[[Path], None], tuple[str, int]] = {
    flat: ("flat", 5),
    flat_with_splits: ("flat", 11),
    beside_each_other: ("flat", 10),
    segnet: ("flat", 10),
    voc: ("voc", 10),
    davis: ("davis", 10),
    panoptic: ("coco-panoptic", 10),
    labelme: ("labelme", 10),
    cvat: ("cvat", 10),
    cvat_images: ("cvat", 10),
}


def number_in(image: np.ndarray) -> int:
    return round(int(image[5, 5, 1]) / 20)


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_every_layout_becomes_one(tmp_path: Path, make: Callable[[Path], None]) -> None:
    layout, labelled = LAYOUTS[make]
    source, out = tmp_path / "source", tmp_path / "out"
    make(source)
    for junk in ("._1.jpg", ".DS_Store", "Thumbs.db"):
        for folder in [source, *(p for p in source.rglob("*") if p.is_dir())]:
            (folder / junk).write_bytes(b"x")
    assert read_layout(source).what.startswith(f"{layout}: ")
    done = prepare_folder(source, out, fps=10)
    assert not done.has_damage, done.problems
    seen = []
    for split in ("train", "val"):
        dataset = open_dataset("folder", out, split)
        assert dataset.classes == NAMES
        assert dataset.palette.tolist() == [list(colour) for colour in PALETTE]
        for video in dataset.videos:
            assert video.rate_hz == 10
            numbers = [number_in(dataset.read_frame(path)) for path in video.frames]
            assert numbers == sorted(numbers)
            for number, label in zip(numbers, video.labels, strict=True):
                if label is not None:
                    assert (dataset.read_label(label) == truth_of(number)).all(), label
                    seen.append(number)
    assert len(seen) == len(set(seen)) == labelled
    assert check_dataset("folder", out).faults == []
    again = prepare_folder(source, out, fps=10)
    assert (again.written, again.kept) == (0, done.written)


def test_every_reader_is_tried_here() -> None:
    assert {layout for layout, _ in LAYOUTS.values()} | {"video"} == set(READERS)


@pytest.mark.parametrize(("first", "offset"), [(0, None), (1, -1)])
def test_a_video_file_with_masks_by_frame_number(tmp_path: Path, first: int, offset) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    film = make_video(source / "clip.mp4", 30, size=(48, 96), rate=12)
    for number in (5, 25, 29):
        labels = np.full((48, 96), number % 3, np.uint8)
        save_mask(source / "masks" / f"m{number + first:04d}.png", labels)
    name_classes(source)
    if offset is not None:
        with pytest.raises(
            ValueError, match=r"frames 0\.\.29, and masks are numbered 6\.\.30; .*-1"
        ):
            prepare_folder(source, out)
    done = prepare_folder(film, out, asked=Asked(offset=offset), before=3)
    assert not done.has_damage
    train, val = (open_dataset("folder", out, split) for split in ("train", "val"))
    kept = {path.stem: train.read_frame(path) for v in train.videos for path in v.frames}
    assert list(kept) == [f"{n:06d}" for n in (2, 3, 4, 5, 22, 23, 24, 25)]
    assert all(number_of(image) == int(stem) for stem, image in kept.items())
    # What train has a label of is not even seen in val.
    assert [path.stem for path in val.videos[0].frames] == [f"{n:06d}" for n in (26, 27, 28, 29)]
    assert (val.videos[0].rate_hz, val.num_labelled) == (12, 1)
    (label,) = [label for label in val.videos[0].labels if label]
    assert (val.read_label(label) == 29 % 3).all()
    assert prepare_folder(source, out, asked=Asked(offset=offset), before=3).written == 0


def test_masks_beyond_the_end_of_a_video_are_told(tmp_path: Path) -> None:
    film = make_video(tmp_path / "clip.mp4", 10, size=(48, 96))
    save_mask(tmp_path / "clip" / "90.png", np.zeros((48, 96), np.uint8))
    with pytest.raises(ValueError, match=r"frames 0\.\.9, and masks are numbered 90\.\.90"):
        prepare_folder(film, tmp_path / "out")


def test_cvat_on_a_video_file_and_key_frames_alone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make_video(tmp_path / "in" / "clip.mp4", 20, size=(48, 96))
    boxes = "".join(
        f'<box frame="{n}" outside="0" xtl="10" ytl="5" xbr="20" ybr="15"/>' for n in (3, 4, 8)
    )
    (tmp_path / "in" / "annotations.xml").write_text(
        f'<annotations><track id="0" label="car">{boxes}</track>'
        '<track id="1" label="car"><box frame="6" outside="0" xtl="0" ytl="0" xbr="9" ybr="9"/>'
        '<box frame="7" outside="1" xtl="0" ytl="0" xbr="9" ybr="9"/></track></annotations>'
    )
    done = prepare_folder(tmp_path / "in", tmp_path / "out", val_share=0)
    assert any("leaves frames between the key frames" in problem for problem in done.problems)
    (video,) = open_dataset("folder", tmp_path / "out", "train").videos
    assert [p.stem for p in video.labels if p] == ["000003", "000004", "000008"]  # 6 is unsure
    labels = open_dataset("folder", tmp_path / "out", "train").read_label(video.labels[-1])
    expected = np.zeros((48, 96), np.uint8)
    expected[5:15, 10:20] = 1
    assert (labels == expected).all()


def test_youtube_vos_has_categories_and_davis_has_objects(tmp_path: Path) -> None:
    for video in ("u", "v"):
        for number in range(3):
            frame = tmp_path / "in" / "train" / "JPEGImages" / video / f"{number:05d}.jpg"
            save_frame(frame, number)
            mask = frame.parents[2] / "Annotations" / video / f"{number:05d}.png"
            save_mask(mask, truth_of(number), "palette")
    found = read_layout(tmp_path / "in")
    assert tuple(found.classes.palette) == ("background", "object")
    assert (found.items[0].mask(SIZE) == (truth_of(0) > 0)).all()
    objects = {"u": {"1": "dog", "2": "cat"}, "v": {"1": "cat", "2": "cat"}}
    videos = {
        v: {"objects": {number: {"category": name} for number, name in of.items()}}
        for v, of in objects.items()
    }
    (tmp_path / "in" / "train" / "meta.json").write_text(json.dumps({"videos": videos}))
    found = read_layout(tmp_path / "in")
    assert tuple(found.classes.palette) == ("background", "cat", "dog")
    by_video = {item.video: item for item in found.items}
    assert (by_video["u"].mask(SIZE) == np.array([0, 2, 1])[truth_of(2)]).all()
    assert (by_video["v"].mask(SIZE) == np.array([0, 1, 1])[truth_of(2)]).all()


@pytest.mark.parametrize(
    ("values", "classes", "labels"),
    [
        ([0, 255], ["background", "foreground"], [0, 1]),
        ([0, 1, 255], ["background", "class_1"], [0, 1, 255]),
        ([3, 8, 65535], ["class_3", "class_8"], [0, 1, 255]),
    ],
)
def test_classes_are_taken_from_masks_that_nobody_named(tmp_path, values, classes, labels) -> None:
    dtype = np.uint16 if max(values) > 255 else np.uint8
    for number in range(4):
        path = tmp_path / "in" / "frames" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (len(values), 1), (number, 0, 0)).save(path)
        save_mask(tmp_path / "in" / "gt" / f"{number}.png", np.array([values], dtype))
    done = prepare_folder(tmp_path / "in", tmp_path / "out")
    assert any("no file names the classes" in problem for problem in done.problems)
    dataset = open_dataset("folder", tmp_path / "out", "train")
    assert dataset.classes == tuple(classes)
    assert dataset.read_label(dataset.videos[0].labels[0]).tolist() == [labels]


def test_classes_of_colours_and_of_names_counted_from_1(tmp_path: Path) -> None:
    flat(tmp_path / "in")
    (tmp_path / "in" / "classes.txt").unlink()
    for path in (tmp_path / "in" / "masks").iterdir():
        labels = np.array(Image.open(path))
        save_mask(path, labels, "colours")
    found = read_layout(tmp_path / "in")
    assert tuple(found.classes.palette) == ("background", "class_00008e", "class_804080")
    (tmp_path / "names.txt").write_text("background\nroad\ncar\n")
    with pytest.raises(ValueError, match="gives no colours; a line is a name and a colour"):
        read_layout(tmp_path / "in", asked=Asked(classes=tmp_path / "names.txt"))
    for path in (tmp_path / "in" / "masks").iterdir():
        save_mask(path, truth_of(int(path.stem)) + 1)
    found = read_layout(tmp_path / "in", asked=Asked(classes=tmp_path / "names.txt"))
    assert "masks count the classes of names.txt from 1; 0 is taken for void" in found.problems
    first = next(item for item in found.items if item.mask)
    assert (first.mask(SIZE) == truth_of(int(first.name))).all()


def test_shifted_numbers_are_refused_until_they_are_explained(tmp_path: Path) -> None:
    for number in range(6):
        save_frame(tmp_path / "in" / "images" / f"{number + 1}.jpg", number)
        save_mask(tmp_path / "in" / "masks" / f"{number}.png", truth_of(number))
    name_classes(tmp_path / "in")
    with pytest.raises(ValueError, match=r"numbered 0\.\.5, and as many frames 1\.\.6; --offset 1"):
        prepare_folder(tmp_path / "in", tmp_path / "out")
    done = prepare_folder(tmp_path / "in", tmp_path / "out", asked=Asked(offset=1))
    assert not done.has_damage
    dataset = open_dataset("folder", tmp_path / "out", "train")
    (video,) = dataset.videos
    for frame, label in zip(video.frames, video.labels, strict=True):
        assert (dataset.read_label(label) == truth_of(number_in(dataset.read_frame(frame)))).all()


def test_names_are_matched_whole_then_bare_then_by_number() -> None:
    where = Path("masks")
    assert match(["1", "2", "10"], ["2", "10"], None, where) == ({"2": "2", "10": "10"}, [])
    pairs, orphans = match(["A_01", "A_02", "A_03"], ["a_02_gt", "a_04_gt"], None, where)
    assert (pairs, orphans) == ({"A_02": "a_02_gt"}, ["a_04_gt"])
    assert match(["f1", "f2"], ["m0002"], None, where) == ({"f2": "m0002"}, [])
    assert sources(["kitchen", "garden"], "v") == {"kitchen": "v", "garden": "v"}
    named = sources(["0006R0_f00930", "0006R0_f00960", "b.frame12"], "v")
    assert list(named.values()) == ["0006R0", "0006R0", "b"]
    assert sources(["a_1.5", "a_1.25"], "v") == {"a_1.5": "a", "a_1.25": "a"}


def test_other_files_are_not_in_the_way(tmp_path: Path) -> None:
    flat(tmp_path)
    (tmp_path / "settings.json").write_text("{ // no JSON")
    (tmp_path / "images" / "instances.json").write_text('{"categories": [], "annotations": []}')
    (tmp_path / "masks" / "box.xml").write_text("<annotation></annotation>")
    assert read_layout(tmp_path).what.startswith("flat: ")


def test_shapes_are_drawn_by_the_centres_of_pixels() -> None:
    def drawn(points) -> np.ndarray:
        labels = np.zeros((8, 8), np.uint8)
        fill_polygon(labels, points, 1)
        return labels

    square = drawn([(1, 2), (4, 2), (4, 6), (1, 6)])
    assert (square[2:6, 1:4] == 1).all()
    assert square.sum() == 12
    assert drawn([(1.4, 1.4), (1.6, 1.4), (1.6, 1.6), (1.4, 1.6)]).sum() == 1
    assert drawn([(-5, -5), (20, -5), (20, 20), (-5, 20)]).sum() == 64
    assert drawn(rectangle(4, 2, 1, 6)).tolist() == square.tolist()
    assert drawn(rectangle(2, 3, 6, 5, 90)).sum() == 8
    rows, columns = np.mgrid[:8, :8] + 0.5
    inside = (columns - 4) ** 2 / 9 + (rows - 4) ** 2 / 4 < 1
    assert (drawn(ellipse(4, 4, 3, 2)) == inside).all()
    # Even-odd: the middle of a five-pointed star is no part of it.
    angles = np.arange(5) * 4 * np.pi / 5
    star = drawn(list(zip(4 + 4 * np.sin(angles), 4 - 4 * np.cos(angles), strict=True)))
    assert star[4, 4] == 0
    assert star.sum() > 3


def test_what_cannot_be_read_is_left_out_and_told(tmp_path: Path, capsys) -> None:
    flat(tmp_path / "in")
    (tmp_path / "in" / "masks" / "3.png").write_bytes(b"no picture")
    save_mask(tmp_path / "in" / "masks" / "5.png", np.zeros((4, 4), np.uint8))
    save_mask(tmp_path / "in" / "masks" / "77.png", np.zeros(SIZE, np.uint8))
    assert run("data", "prepare", "folder", tmp_path / "in", "--out", tmp_path / "out") == 1
    told = capsys.readouterr()
    assert "3.png cannot be read" in told.err
    assert "5.png is 4x4, its frame is 16x12; it is left out" in told.err
    assert "1 masks have no frame, left out: 77" in told.err
    assert "found flat: " in told.out
    assert f"vidseg data check folder {tmp_path / 'out'}" in told.out


def test_a_source_that_is_nothing_says_what_was_looked_for(tmp_path: Path, capsys) -> None:
    (tmp_path / "in" / "photos").mkdir(parents=True)
    assert run("data", "prepare", "folder", tmp_path / "in", "--out", tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert all(f"{layout}: no " in told for layout in READERS)
    assert run("data", "prepare", "folder", tmp_path / "no", "--out", tmp_path / "out") == 1
    assert "no such file or folder" in capsys.readouterr().err
    words = ("--out", tmp_path / "out", "--layout", "davs")
    assert run("data", "prepare", "folder", tmp_path / "in", *words) == 1
    assert "did you mean 'davis'" in capsys.readouterr().err
    flat(tmp_path / "in")
    inner = tmp_path / "in" / "out"
    assert run("data", "prepare", "folder", tmp_path / "in", "--out", inner) == 1
    assert "give a folder beside it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": [{"label": 3}]}, r"shapes\[0\]: 'label' must be text, got 3"),
        ({"shapes": [{"label": "road", "points": [[0, "x"]]}]}, "pairs of numbers"),
        ({"shapes": [{"label": "road", "points": [[0, 0]]}]}, "no 'polygon' with 1 points"),
        ({"shapes": {}}, "'shapes' must be a list"),
        ({"shapes": [{"label": "moon", "points": []}]}, "does not name moon"),
        ({"imagePath": "../../etc/passwd"}, None),
    ],
)
def test_malformed_labelme_files_name_the_field(tmp_path: Path, change, message) -> None:
    labelme(tmp_path)
    path = tmp_path / "cam_0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    if message is None:  # only the last part of a path counts, then the name of the JSON
        assert next(i for i in read_layout(tmp_path).items if i.name == "cam_0").mask is not None
        return
    with pytest.raises(ValueError, match=message) as error:
        read_layout(tmp_path)
    assert "cam_0.json" in str(error.value) or "labels.txt" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<polygon frame="0" points="1,2;3"/>', "points must be pairs of numbers"),
        ('<polygon frame="0" points="1,2;3,4"/>', "needs 3 points, got 2"),
        ('<box frame="-1" xtl="0" ytl="0" xbr="1" ybr="1"/>', "frame must be 0"),
        ('<box frame="0" xtl="nan" ytl="0" xbr="1" ybr="1"/>', "'xtl' must be a number"),
        ('<box frame="0" ytl="0" xbr="1" ybr="1"/>', "'xtl' must be text, got None"),
        ('<mask frame="0" left="0" top="0" width="2" height="2" rle="1,2"/>', "fill its 2x2 px"),
        ('<mask frame="0" left="0" top="0" width="99999" height="99999" rle="1"/>', "fill its"),
        ("<box", "is no XML"),
    ],
)
def test_malformed_cvat_files_name_the_place(tmp_path: Path, text: str, message: str) -> None:
    save_frame(tmp_path / "images" / "0.png", 0)
    content = f'<annotations><track id="4" label="car">{text}</track></annotations>'
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_layout(tmp_path, "cvat")
    assert "a.xml" in str(error.value)


def test_xml_with_entities_is_not_read(tmp_path: Path) -> None:
    entity = '<!DOCTYPE a [<!ENTITY b "ha">]>'
    (tmp_path / "a.xml").write_text(f"{entity}<annotations>&b;</annotations>")
    with pytest.raises(ValueError, match="declares entities"):
        read_layout(tmp_path, "cvat")


def test_names_in_a_panoptic_json_cannot_lead_out(tmp_path: Path) -> None:
    panoptic(tmp_path / "in")
    Image.new("RGB", (16, 12)).save(tmp_path / "secret.png")
    path = tmp_path / "in" / "annotations" / "panoptic_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["file_name"] = "../secret.png"
    content["annotations"][1]["segments_info"][0]["category_id"] = 5
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"annotations\[1\]\.segments_info\[0\]: category_id 5"):
        read_layout(tmp_path / "in")
    content["annotations"][1]["segments_info"][0]["category_id"] = 7
    path.write_text(json.dumps(content))
    found = read_layout(tmp_path / "in")
    assert len(found.items) == 9
    assert "1 files of the JSON are not in" in found.problems[0]


def test_renamed_classes_stay_and_another_source_is_refused(tmp_path: Path) -> None:
    flat(tmp_path / "in")
    prepare_folder(tmp_path / "in", tmp_path / "out")
    path = tmp_path / "out" / "classes.json"
    path.write_text(path.read_text().replace("road", "street"))
    prepare_folder(tmp_path / "in", tmp_path / "out")
    assert open_dataset("folder", tmp_path / "out", "train").classes[1] == "street"
    (tmp_path / "two.txt").write_text("background 0 0 0\nroad 1 1 1\nx 2 2 2\ny 3 3 3")
    with pytest.raises(ValueError, match="names 3 classes, and the source has 4"):
        prepare_folder(tmp_path / "in", tmp_path / "out", asked=Asked(classes=tmp_path / "two.txt"))


@pytest.mark.parametrize(
    ("text", "names", "ignored"),
    [
        ("a\nb c\n\n# no\n", {"a": None, "b c": None}, []),
        ("a 1 2 3\nb c,4,5,6\n7 8 9 d", {"a": (1, 2, 3), "b c": (4, 5, 6), "d": (7, 8, 9)}, []),
        ("# l\na:1,2,3::\n__ignore__:9,9,9::", {"a": (1, 2, 3)}, [(9, 9, 9)]),
        ("0: a\n1: b", {"a": None, "b": None}, []),
        ("1 a 1 2 3\n2 b 4 5 6", {"a": (1, 2, 3), "b": (4, 5, 6)}, []),
    ],
)
def test_files_of_class_names(tmp_path: Path, text: str, names, ignored) -> None:
    (tmp_path / "c.txt").write_text(text)
    assert read_names(tmp_path / "c.txt") == (names, ignored)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\na", "line 2: the class 'a' occurs twice"),
        ("a 1 2 300", "line 1 is no class and colour"),
        ("# nothing", "must name 1..255 classes"),
    ],
)
def test_malformed_class_names_say_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_names(tmp_path / "c.txt")


def test_masks_of_0_and_255_are_two_classes_that_a_file_names(tmp_path: Path) -> None:
    for number in range(4):
        save_frame(tmp_path / "in" / "images" / f"{number}.png", number)
        mask = np.where(truth_of(number) == 2, 255, 0).astype(np.uint8)
        save_mask(tmp_path / "in" / "masks" / f"{number}.png", mask)
    (tmp_path / "in" / "classes.txt").write_text("road 0 0 0\nlane 255 255 255")
    found = read_layout(tmp_path / "in")
    assert "255 is taken for lane" in found.problems[0]
    assert (found.items[1].mask(SIZE) == (truth_of(1) == 2)).all()


def test_one_process_writes_a_folder(tmp_path: Path, capsys) -> None:
    flat(tmp_path / "in")
    words = ("data", "prepare", "folder", tmp_path / "in", "--out", tmp_path / "out")
    with FolderLock(tmp_path / "out"):
        assert run(*words) == 1
        assert "choose another --out" in capsys.readouterr().err
    assert run(*words) == 0
    assert run("data", "check", "folder", tmp_path / "out") == 0
    (tmp_path / "export.zip").write_bytes(b"PK")
    assert run("data", "prepare", "folder", tmp_path / "export.zip", "--out", tmp_path / "o") == 1
    assert "is packed; unpack it" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
