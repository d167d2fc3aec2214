"""Pictures of label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidseg.video import render

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def test_colours_follow_the_palette_and_void_is_black() -> None:
    picture = render.colourise(np.array([[0, 1], [2, 255]]), PALETTE)
    assert picture.tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 0, 0]]]
    with pytest.raises(ValueError, match="integers"):
        render.colourise(np.zeros((2, 2)), PALETTE)


@pytest.mark.parametrize("opacity", [0.0, 0.25, 0.5, 1.0])
def test_overlay_blends_and_leaves_void_alone(opacity: float) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    labels = rng.integers(0, 3, (6, 8)).astype(np.uint8)
    labels[2:4] = 255
    picture = render.overlay(image, labels, PALETTE, opacity=opacity)
    known = labels != 255
    blended = (1 - opacity) * image + opacity * render.colourise(labels, PALETTE)
    assert np.abs(picture[known] - blended[known]).max() <= 1
    assert np.array_equal(picture[~known], image[~known])


def test_overlay_refuses_what_does_not_fit() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(ValueError, match="do not fit"):
        render.overlay(image, np.zeros((4, 5), int), PALETTE)
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 1.5"):
        render.overlay(image, np.zeros((4, 6), int), PALETTE, opacity=1.5)


def test_contours_are_where_regions_meet() -> None:
    labels = np.zeros((6, 6), np.uint8)
    labels[:, 3:] = 1
    assert render.borders(labels).tolist() == [[False, False, True, True, False, False]] * 6
    assert render.borders(labels, width_px=2).tolist() == [[False, *[True] * 4, False]] * 6
    assert not render.borders(np.ones((4, 4), int)).any()
    outlined = render.overlay(
        np.zeros((6, 6, 3), np.uint8), labels, PALETTE, opacity=0, contour=True
    )
    assert outlined[0].tolist() == [[0] * 3] * 2 + [[255, 0, 0], [0, 255, 0]] + [[0] * 3] * 2


def test_side_by_side() -> None:
    left, right = np.zeros((4, 3, 3), np.uint8), np.ones((4, 5, 3), np.uint8)
    assert render.side_by_side(left, right).shape == (4, 8, 3)
    with pytest.raises(ValueError, match="one height"):
        render.side_by_side(left, right[:3])


@pytest.mark.parametrize("width_px", [96, 480, 1920])
@pytest.mark.parametrize("num_classes", [1, 3, 19, 150])
def test_legend_shows_every_colour_within_the_width(num_classes: int, width_px: int) -> None:
    palette = render.default_palette(num_classes)
    names = [f"class number {k}" for k in range(num_classes)]
    strip = render.legend(names, palette, width_px)
    assert strip.shape[1:] == (width_px, 3)
    assert strip.shape[0] % 2 == 0
    shown = {tuple(pixel) for pixel in np.unique(strip.reshape(-1, 3), axis=0)}
    assert {tuple(colour) for colour in palette} <= shown


def test_legend_goes_below_the_picture() -> None:
    picture = np.full((40, 96, 3), 7, np.uint8)
    whole = render.with_legend(picture, ("a", "b", "c"), PALETTE)
    assert np.array_equal(whole[:40], picture)
    assert whole.shape[0] > 40
    with pytest.raises(ValueError, match="one colour each"):
        render.legend(("a",), PALETTE, 96)


def test_default_colours_are_distinct_and_stable() -> None:
    palette = render.default_palette(150)
    assert len(np.unique(palette, axis=0)) == 150
    assert np.array_equal(palette[:19], render.default_palette(19))
    near = np.abs(palette[:19, None].astype(int) - palette[None, :19]).sum(-1)
    assert near[~np.eye(19, dtype=bool)].min() > 40


def test_label_pictures_keep_the_indices(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [255, 2, 1]], np.uint8)
    path = render.save_picture(tmp_path / "labels.png", render.label_picture(labels, PALETTE))
    with Image.open(path) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.array(picture), labels)
        assert picture.convert("RGB").getpixel((1, 0)) == (0, 255, 0)
    with pytest.raises(ValueError, match=r"save labels as \.png"):
        render.save_picture(tmp_path / "labels.jpg", render.label_picture(labels, PALETTE))
    with pytest.raises(ValueError, match="cannot save a picture"):
        render.save_picture(tmp_path / "labels.mp4", render.label_picture(labels, PALETTE))
    assert [p.name for p in tmp_path.iterdir()] == ["labels.png"]
