"""Pictures as players show them: turned, mirrored, of the right pixels and colours."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vidseg.video import hdr
from vidseg.video.hdr import ToStandard
from vidseg.video.reader import VideoWriter, read_video

CORNERS = np.kron(
    np.array([[[250, 0, 0], [0, 250, 0], [0, 0, 250]], [[0] * 3, [128] * 3, [250] * 3]]),
    np.ones((32, 32, 1)),
).astype(np.uint8)  # (64, 96, 3): no two of its turns and reflections are equal
# (a, b, c, d) of the display matrix -> what is shown of a stored picture.
SHOWN = {
    (1, 0, 0, 1): lambda image: image,
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (-1, 0, 0, -1): lambda image: image[::-1, ::-1],
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
    (0, -1, -1, 0): lambda image: image[::-1, ::-1].swapaxes(0, 1),
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (0, -1, 1, 0): lambda image: np.rot90(image),
}


def make_file(path: Path, aspect: Fraction = Fraction(1)) -> Path:
    with VideoWriter(path, fps=25, quality=5, pixel_aspect=aspect) as writer:
        for _ in range(3):
            writer.write(CORNERS)
    return path


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a display matrix into the track header of an MP4 or MOV file."""
    content = bytearray(path.read_bytes())
    a, b, c, d = (value * 65536 for value in matrix)
    place = content.index(b"tkhd") + 4 + 40  # version 0: the matrix is behind 40 bytes
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("matrix", SHOWN)
def test_every_display_matrix_is_followed(
    tmp_path: Path, matrix: tuple[int, int, int, int], suffix: str
) -> None:
    path = make_file(tmp_path / f"a.{suffix}")
    stored = next(read_video(path)).image
    assert np.abs(stored.astype(int) - CORNERS).mean() < 8
    set_matrix(path, matrix)
    got = next(read_video(path)).image
    want = SHOWN[matrix](stored)
    assert got.shape == want.shape
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("matrix", SHOWN)
def test_pixels_are_as_wide_as_they_are_shown(
    tmp_path: Path, matrix: tuple[int, int, int, int]
) -> None:
    path = make_file(tmp_path / "a.mp4", Fraction(4, 3))
    set_matrix(path, matrix)
    with read_video(path) as reader:
        assert reader.pixel_aspect == (Fraction(4, 3) if matrix[0] else Fraction(3, 4))
        with VideoWriter(tmp_path / "out.mp4", fps=25, pixel_aspect=reader.pixel_aspect) as writer:
            writer.write(next(reader).image)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream: Any = container.streams.video[0]
        shown = stream.width * stream.sample_aspect_ratio / stream.height
    assert shown == (Fraction(96 * 4, 64 * 3) if matrix[0] else Fraction(64 * 3, 96 * 4))


def hdr_video(path: Path, transfer: int, codes: list[float], primaries: int = 9) -> Path:
    """Grey stripes of given codes, tagged as HDR or wide colours."""
    luma = np.repeat(np.array([64 + code * 876 for code in codes]), 16).round().astype(np.uint16)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = len(luma), 64, "yuv420p10le"
        stream.options = {"qp": "4"}
        codec = stream.codec_context
        codec.color_trc, codec.color_primaries, codec.colorspace = transfer, primaries, 9
        codec.color_range = 1
        for _ in range(2):
            frame = av.VideoFrame(len(luma), 64, "yuv420p10le")
            rows = [np.tile(luma, (64, 1)), *[np.full((32, len(luma) // 2), 512, np.uint16)] * 2]
            for plane, values in zip(frame.planes, rows, strict=True):
                padded = np.zeros((plane.height, plane.line_size // 2), np.uint16)
                padded[:, : values.shape[1]] = values
                plane.update(padded.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey_of(light: float) -> float:
    """The code of BT.1886 for light of 0 to 1."""
    return 255 * min(light, 1) ** (1 / 2.4)


@pytest.mark.parametrize(("name", "transfer"), [("PQ", hdr.PQ), ("HLG", hdr.HLG)])
def test_hdr_becomes_standard_and_is_said(tmp_path: Path, name: str, transfer: int) -> None:
    nits = [1, 5, 10, 20, 100, 1000]
    if transfer == hdr.PQ:
        codes = [float(hdr.pq_code(value)) for value in nits]
    else:  # BT.2100: on a screen of 1000 cd/m2, displayed = 1000 * scene ** 1.2
        scene = np.linspace(0, 1, 100_001)
        light = 1000 * hdr.hlg_scene(scene) ** 1.2
        codes = [float(np.interp(value, light, scene)) for value in nits]
    with read_video(hdr_video(tmp_path / "a.mp4", transfer, codes)) as reader:
        image = next(reader).image
    assert len(reader.notes) == 1
    assert f"HDR pictures ({name})" in reader.notes[0]
    assert "BT.2390" in reader.notes[0]
    got = [float(image[:, 16 * k + 4 : 16 * k + 12].mean()) for k in range(6)]
    assert got[:4] == pytest.approx([grey_of(value / 100) for value in nits[:4]], abs=4)
    assert 200 < got[4] < 230  # 100 cd/m2 make room for what is brighter
    assert got[5] > 250
    assert np.ptp(image.astype(int), axis=2).max() <= 4  # grey stays grey


def test_wide_colours_become_those_of_screens(tmp_path: Path) -> None:
    path = hdr_video(tmp_path / "a.mp4", 1, [0.2, 0.5, 0.9])
    with read_video(path) as reader:
        image = next(reader).image
    assert reader.notes == ["wide colours (BT.2020) are mapped to those of BT.709"]
    got = [float(image[:, 16 * k + 4 : 16 * k + 12].mean()) for k in range(3)]
    assert got == pytest.approx([51, 127.5, 229.5], abs=3)
    green = np.array([[[30_000, 60_000, 20_000]]], np.uint16)
    red, _, blue = ToStandard(1, hdr.BT2020)(green)[0, 0]
    assert red < 30_000 // 257
    assert blue < 20_000 // 257


def test_standard_colours_are_left_alone(tmp_path: Path) -> None:
    with read_video(make_file(tmp_path / "a.mp4")) as reader:
        next(reader)
    assert reader.notes == []


def test_the_curve_is_that_of_the_recommendation() -> None:
    nits = np.array([0.01, 1, 10, 25, 50, 100, 203, 500, 1000, 4000], float)
    shown = hdr.tone_map(nits)
    np.testing.assert_allclose(shown[:4], nits[:4], rtol=1e-6)
    assert (np.diff(shown) >= 0).all()
    assert shown[-2:] == pytest.approx([100, 100], rel=1e-6)
    assert 69 < shown[5] < 70
    assert hdr.pq_nits(np.array([0.0, 0.5081, 0.5807, 0.7518, 1.0])) == pytest.approx(
        [0, 100, 203, 1000, 10_000], rel=5e-3, abs=1e-6
    )
