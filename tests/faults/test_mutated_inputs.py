"""Damaged files of every kind that is read: no traceback, no hang, and the message names the file.

Each reader gets a file that it reads, then a seeded number of mutations of it. A mutation may leave
the file readable; what it may not do is end in anything but a message (an error that the command
line shows as one line) that names the file, or take longer than a few seconds.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vidseg
from vidseg.array_files import read_array
from vidseg.cli.main import USER_ERRORS
from vidseg.comparison.record import read_evaluation
from vidseg.data import open_dataset
from vidseg.data.classes_file import read_classes
from vidseg.data.lists import Lists
from vidseg.training.checkpoint import read_state, write_state
from vidseg.training.folder import read_metrics
from vidseg.training.recipe import load_config
from vidseg.video.images import read_image, read_stored
from vidseg.video.reader import read_video
from vidseg.video.writer import VideoWriter
from vidseg.weights import save

pytestmark = pytest.mark.slow

MUTATIONS = 20  # of each reader's file
LIMIT_S = 10
HOSTILE = (
    *("[" * 100_000, "null", "NaN", "1e999", "-1", "0", '""', "{}", "[]", "9" * 5000, "true"),
    *('"' + "x" * 20_000 + '"', "1000000000", '"[/red]"', "!!timestamp x", "&a [*a]", '"\\ud800"'),
)
RECIPE = """
name: mine
model: {name: fcn_tiny, options: {}}
data: {kind: synthetic, crop: [64, 96], scale: [0.5, 2.0], options: {num_videos: 1}}
optimiser: {lr: 0.01, betas: [0.9, 0.999]}
iterations: 10
batch_size: 2
workers: 0
"""


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def flip(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 4, 64))):
        changed[draw.randrange(min(len(changed), draw.choice((64, 10**9))))] = draw.randrange(256)
    return bytes(changed)


def double(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content))
    return content[:start] + content[start : start + 200] + content[start:]


def replace_value(content: bytes, draw: random.Random) -> bytes:
    """Put something hostile in the place of a value of a text; elsewhere, noise in its place."""
    start = draw.randrange(len(content))
    end = start + draw.randrange(1, 12)
    return content[:start] + draw.choice(HOSTILE).encode() + content[end:]


def replace_number(content: bytes, draw: random.Random) -> bytes:
    places = [i for i in range(len(content)) if content[i : i + 1].isdigit()]
    if not places:
        return flip(content, draw)
    place = draw.choice(places)
    return content[:place] + draw.choice(HOSTILE).encode() + content[place + 1 :]


WAYS = (cut, flip, flip, double, replace_value, replace_number, replace_number)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise AssertionError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def write_weights(path: Path) -> None:
    torch.manual_seed(0)
    classes = ("a", "[/b]", "c")
    palette = ((0, 0, 0), (1, 1, 1), (2, 2, 2))
    save(vidseg.create("fcn_tiny", num_classes=3), path, classes=classes, palette=palette)


def write_classes(path: Path) -> None:
    content = {"classes": {"a": [0, 0, 0], "b": [1, 1, 1]}, "fps": 25, "ignore": [255, [9, 9, 9]]}
    path.write_text(json.dumps(content))


def write_metrics(path: Path) -> None:
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n')


def write_checkpoint(path: Path) -> None:
    write_state(path, {"step": 4, "model": {"weight": torch.ones(8, 8)}, "best": None})


def write_prototypes(path: Path) -> None:
    vidseg.Prototypes(torch.ones(1, 4, 8), "street").save(path)


def write_picture(path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 3, (40, 56), dtype=np.uint8)
    picture = Image.fromarray(image)
    if path.suffix == ".png":
        picture = picture.convert("P")
    picture.save(path)


def write_video(path: Path) -> None:
    with VideoWriter(path, fps=25) as writer:
        for shade in range(12):
            writer.write(np.full((32, 48, 3), 20 * shade, np.uint8))


def write_array(path: Path) -> None:
    np.save(path, np.arange(30.0).reshape(3, 10))


def watch(path: Path) -> None:
    """Read a video to its end, or to the damage that it tells."""
    with read_video(path) as reader:
        for _ in reader:
            pass


def read_records(path: Path) -> None:
    read_metrics(path.parent)


READERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "model.safetensors": (write_weights, vidseg.load),
    "mine.yaml": (lambda path: path.write_text(RECIPE) and None, load_config),
    "classes.json": (write_classes, read_classes),
    "metrics.jsonl": (write_metrics, read_records),
    "step-00000004.pt": (write_checkpoint, read_state),
    "street.safetensors": (write_prototypes, vidseg.Prototypes.load),
    "0.png": (write_picture, read_stored),
    "1.jpg": (write_picture, read_image),
    "2.tif": (write_picture, read_stored),
    "3.gif": (write_picture, read_stored),
    "scores.npy": (write_array, read_array),
    "clip.mp4": (write_video, watch),
    "clip.mkv": (write_video, watch),
}


def attempt(read: Callable[[Path], object], path: Path, named: tuple[str, ...]) -> bool:
    """Read a damaged file: whether it was refused, in words that name it."""
    with warnings.catch_warnings(), within(LIMIT_S):
        warnings.simplefilter("ignore")
        try:
            read(path)
        except USER_ERRORS as error:
            said = str(error)
        else:
            return False
    assert any(name in said for name in named), f"no file named: {said:.300}"
    assert "Traceback" not in said
    return True


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    write, read = READERS[name]
    path = tmp_path / name
    write(path)
    read(path)  # it is right as it is
    content = path.read_bytes()
    draw = random.Random(name)
    refused = 0
    for number in range(MUTATIONS):
        way = draw.choice(WAYS)
        path.write_bytes(way(content, draw))
        try:
            refused += attempt(read, path, (name,))
        except Exception as error:
            shutil.copy(path, tmp_path / f"kept-{number}-{name}")
            raise AssertionError(f"mutation {number} ({way.__name__}) of {name}") from error
    assert refused > 0


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from command_line import run

    root = tmp_path_factory.mktemp("evaluated")
    save(vidseg.create("fcn_tiny", num_classes=11), root / "m.safetensors")
    words = ("--data", "synthetic", "--option", "num_videos=1", "--option", "num_frames=3")
    size = ("--option", "size=[48, 64]", "--flow", "none", "--out", root / "ev")
    assert run("evaluate", root / "m.safetensors", *words, *size) == 0
    return root / "ev"


@pytest.mark.parametrize("name", ["metrics.json", "counts.npz"])
def test_a_damaged_evaluation_is_named(tmp_path: Path, evaluation: Path, name: str) -> None:
    folder = tmp_path / "ev"
    shutil.copytree(evaluation, folder)
    content = (folder / name).read_bytes()
    draw = random.Random(name)
    refused = 0
    for _ in range(MUTATIONS):
        (folder / name).write_bytes(draw.choice(WAYS)(content, draw))
        refused += attempt(lambda _: read_evaluation(folder), folder, (name, str(folder)))
    assert refused > 0


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    open_dataset("synthetic", root, "val", num_videos=1, num_frames=3, size=(48, 64))
    frames = sorted(root.glob("val/*/frames/*"))
    path = root / "val.txt"
    lines = "".join(
        f"{frame.relative_to(root)} {str(frame.relative_to(root)).replace('frames', 'masks')}\n"
        for frame in frames
    )
    draw = random.Random(0)
    for _ in range(MUTATIONS):
        path.write_bytes(draw.choice(WAYS)(lines.encode(), draw))
        attempt(lambda path: open_lists(root, path), path, ("val.txt", str(root)))


def open_lists(root: Path, path: Path) -> object:
    from vidseg.data.lists import names_of

    lists: Lists = path
    return names_of(lists), open_dataset("camvid", root, "val", lists=path)
