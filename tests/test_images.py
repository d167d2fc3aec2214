"""Image files: upright, of every kind of pixels, in the order of their numbers."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidseg.data import open_dataset
from vidseg.video.images import in_order, picture_files, read_image, read_stored, read_values

SHADES = np.random.default_rng(0).integers(0, 256, (3, 4, 3))
PICTURE = np.kron(SHADES, np.ones((16, 16, 1))).astype(np.uint8)  # (48, 64, 3)
# What a viewer shows of pixels stored as PICTURE, by EXIF orientation.
UPRIGHT = {
    1: PICTURE,
    2: PICTURE[:, ::-1],
    3: PICTURE[::-1, ::-1],
    4: PICTURE[::-1],
    5: PICTURE.transpose(1, 0, 2),
    6: np.rot90(PICTURE, -1),
    7: np.rot90(PICTURE, 2).transpose(1, 0, 2),
    8: np.rot90(PICTURE, 1),
}
CLASSES = '{"classes": {"one": [1, 1, 1], "two": [2, 2, 2]}}'
EXACT = {"png": {}, "tif": {}, "webp": {"lossless": True}}
LOSSY = {"jpg": {"quality": 95, "subsampling": 0}}


def oriented(path: Path, image: Image.Image, orientation: int, **options: object) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [*EXACT, *LOSSY])
def test_every_orientation_comes_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    options = (EXACT | LOSSY)[suffix]
    stored = Image.fromarray(PICTURE)
    got = read_image(oriented(tmp_path / f"a.{suffix}", stored, orientation, **options))
    want = UPRIGHT[orientation]
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).mean() < (1 if suffix in LOSSY else 1e-9)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_labels_are_turned_like_frames(tmp_path: Path, orientation: int) -> None:
    indices = PICTURE[..., 0] % 7
    labels = Image.fromarray(indices)
    labels.putpalette(list(range(21)))
    got = read_values(oriented(tmp_path / "a.png", labels, orientation))
    frame = UPRIGHT[orientation]
    np.testing.assert_array_equal(got, frame[..., 0] % 7)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_training_sees_what_segment_sees(tmp_path: Path, orientation: int) -> None:
    folder = tmp_path / "train" / "a"
    (folder / "frames").mkdir(parents=True)
    (folder / "masks").mkdir()
    (tmp_path / "classes.json").write_text(CLASSES)
    stored = Image.fromarray(PICTURE)
    frame = oriented(folder / "frames" / "00000.jpg", stored, orientation, quality=95)
    labels = oriented(folder / "masks" / "00000.png", Image.new("L", (64, 48), 1), orientation)
    data = open_dataset("folder", tmp_path, "train")
    np.testing.assert_array_equal(data.read_frame(frame), read_image(frame))
    assert data.read_label(labels).shape == UPRIGHT[orientation].shape[:2]


GREY = np.asarray(Image.fromarray(PICTURE).convert("L"))
PIXELS = {
    "grey.png": (Image.fromarray(GREY), GREY),
    "grey_alpha.png": (Image.fromarray(np.stack([GREY, 255 - GREY], 2), "LA"), GREY),
    "alpha.png": (Image.fromarray(np.dstack([PICTURE, GREY]), "RGBA"), PICTURE),
    "cmyk.tif": (Image.fromarray(PICTURE).convert("CMYK"), PICTURE),
    "bit.png": (Image.fromarray(GREY > 127), np.where(GREY > 127, 255, 0)),
    "deep.png": (Image.fromarray(GREY.astype(np.uint16) * 256 + 255), GREY),
    "deep.tif": (Image.fromarray(GREY.astype(np.uint16) * 256 + 255), GREY),
    "deep.pgm": (Image.fromarray(GREY.astype(np.uint16) * 256 + 255), GREY),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", PIXELS)
def test_every_kind_of_pixels_becomes_rgb(tmp_path: Path, name: str) -> None:
    image, want = PIXELS[name]
    image.save(tmp_path / name)
    got = read_image(tmp_path / name)
    assert (got.shape, got.dtype) == (PICTURE.shape, np.uint8)
    np.testing.assert_array_equal(got, want if want.ndim == 3 else np.dstack([want] * 3))


def test_a_cmyk_jpeg_as_printers_store_it(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).convert("CMYK").save(tmp_path / "a.jpg", quality=95, subsampling=0)
    got = read_image(tmp_path / "a.jpg")
    assert np.abs(got.astype(int) - PICTURE).mean() < 1


def test_palettes_give_colours_to_frames_and_indices_to_labels(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "a.png", transparency=1)
    assert read_image(tmp_path / "a.png")[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert read_values(tmp_path / "a.png").tolist() == [[0, 1], [2, 1]]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bit.png")
    assert read_values(tmp_path / "bit.png").tolist() == [[1, 0]]
    Image.fromarray(np.array([[40000, 7]], np.uint16)).save(tmp_path / "deep.png")
    assert read_values(tmp_path / "deep.png").tolist() == [[40000, 7]]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=rf"a\.tif has {mode} pixels of 32 bits"):
        read_image(tmp_path / "a.tif")


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file: .*a\.png"):
        read_image(tmp_path / "a.png")
    for name, content in (("a.png", b"no image"), ("b.png", b""), ("c.jpg", b"\xff\xd8\xff\xe0")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name[0]}\.\w+ cannot be read as an image"):
            read_image(tmp_path / name)
    Image.fromarray(PICTURE).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read as an image.*[Tt]runcated"):
        read_image(tmp_path / "a.jpg")


def test_damaged_exif_costs_no_picture(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\1\x12")
    assert read_image(tmp_path / "a.jpg").shape == PICTURE.shape
    Image.fromarray(PICTURE).save(tmp_path / "a.jpg", exif=b"Exif\0\0not tiff")
    assert read_image(tmp_path / "a.jpg").shape == PICTURE.shape


@pytest.mark.parametrize(
    "names",
    [
        "f f_1 f_2 f_9 f_10 f_11",
        "1690000000.0 1690000000.25 1690000000.5 1690000000.75 1690000001.0 1690000001.125",
        "t0,25_a t0,5_a t1,0_a",
        "1.1 1.2 1.9 1.10 1.11 2.1",
        "2024.5.1 2024.05.9 2024.5.10",
        "1.50 1.75 2.00",
        "a_1_2 a_1_10 a_2_1",
    ],
)
def test_pictures_come_in_the_order_of_their_numbers(tmp_path: Path, names: str) -> None:
    paths = [tmp_path / f"{name}.png" for name in names.split()]
    assert in_order(sorted(paths)) == in_order(paths[::-1]) == paths


def test_folders_come_in_turn(tmp_path: Path) -> None:
    names = ["day2/1.png", "day2/2.png", "day2/10.png", "day10/0.png", "day10/3.png"]
    assert in_order([tmp_path / name for name in names[::-1]]) == [tmp_path / n for n in names]


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    for name in ("2.png", "._2.png", "10.PNG", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in picture_files(tmp_path)] == ["2.png", "10.PNG"]


def test_a_data_set_that_went_over_a_mac(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "a"
    (folder / "frames").mkdir(parents=True)
    (folder / "masks").mkdir()
    (tmp_path / "train" / ".ipynb_checkpoints" / "frames").mkdir(parents=True)
    (tmp_path / "classes.json").write_text(CLASSES)
    for k in range(2):
        Image.fromarray(PICTURE).save(folder / "frames" / f"{k:05d}.jpg")
        Image.new("L", (64, 48), 1).save(folder / "masks" / f"{k:05d}.png")
        (folder / "frames" / f"._{k:05d}.jpg").write_bytes(b"\0\5\x16\7")
        (folder / "masks" / f"._{k:05d}.png").write_bytes(b"\0\5\x16\7")
    data = open_dataset("folder", tmp_path, "train")
    assert [[path.name for path in video.frames] for video in data.videos] == [
        ["00000.jpg", "00001.jpg"]
    ]


def png_of(width: int, height: int, depth: int = 8, colour: int = 3) -> bytes:
    """A palette picture of one colour, of any size, in a few kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    rows = zlib.compressobj(9)
    row = bytes(1 + (width * depth + 7) // 8)
    pixels = b"".join(rows.compress(row) for _ in range(min(height, 10_000))) + rows.flush()
    parts = [(b"IHDR", head), (b"PLTE", bytes(3)), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("side", [9500, 14000, 60000])
def test_a_picture_larger_than_any_frame_is_refused_by_its_head(tmp_path: Path, side: int) -> None:
    path = tmp_path / "0.png"
    path.write_bytes(png_of(side, side, depth=1))
    assert path.stat().st_size < 200_000
    for read in (read_image, read_stored):
        with pytest.raises(ValueError, match=r"0\.png cannot be read as an image: .*pixels"):
            read(path)
    path.write_bytes(png_of(300, 200, depth=1))
    assert read_image(path).shape == (200, 300, 3)
