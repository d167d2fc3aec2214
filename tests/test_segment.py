"""Segmenting videos: the Python stream, its memory, and the command with all its outputs."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import av
import command_line
import numpy as np
import pytest
import torch
from painted import SIZE, cut_short, make_video, number_of, paint
from PIL import Image
from settled import settle
from torch import nn

import vidseg
from vidseg.adapters.sliding import SlidingWindow
from vidseg.card import Card
from vidseg.cli.destinations import plan_outputs
from vidseg.cli.segment import parse_time
from vidseg.inference import outputs as outputs_module
from vidseg.inference.stream import DamagedVideoWarning
from vidseg.video.cuts import CutDetector
from vidseg.video.reader import FrameReader, read_video
from vidseg.weights import save

CLASSES = ("road", "car", "sky", "tree")
PALETTE = ((128, 64, 128), (0, 0, 142), (70, 130, 180), (107, 142, 35))


@pytest.fixture
def model() -> vidseg.VideoSegmenter:
    torch.manual_seed(0)
    return vidseg.create("tmanet_tiny", num_classes=4, memory_frames=2).eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    network = vidseg.create("fcn_tiny", num_classes=4)
    save(network, path, classes=CLASSES, palette=PALETTE, licence="for tests only")
    return path


@pytest.fixture
def street(tmp_path: Path) -> Path:
    return make_video(tmp_path / "street.mp4", 12, sound="aac")


class Brightness(nn.Module):
    """Class k where the red channel lies in the k-th quarter: labels that can be checked."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        red = frames[:, :1] * 58.395 + 123.675
        centres = torch.tensor([31.5, 95.5, 159.5, 223.5]).reshape(1, 4, 1, 1)
        return -(red - centres).abs()


def brightness(card: Card | None = None) -> vidseg.PerFrame:
    model = vidseg.PerFrame(Brightness(), num_classes=4)
    model.card = card or Card()
    return model


def test_labels_are_those_of_stepping_through_the_video(model, street: Path) -> None:
    memory, count = None, 0
    for result, frame in zip(vidseg.segment(model, street), read_video(street), strict=True):
        pixels = model.card.normalise(frame.image)[None]
        with torch.inference_mode():
            segmentation, memory = model.step(pixels, memory)
        assert np.array_equal(result.labels, segmentation.labels()[0, 0].numpy())
        assert np.array_equal(result.image, frame.image)
        assert (result.index, result.time_s) == (frame.index, frame.time_s)
        assert result.labels.dtype == np.uint8
        count += 1
    assert count == 12


def test_arrays_go_in_like_a_video(model, street: Path) -> None:
    images = [frame.image for frame in read_video(street)]
    expected = [result.labels for result in vidseg.segment(model, street)]
    for source in (images, iter(images)):
        results = vidseg.segment(model, source)
        assert all(np.array_equal(r.labels, e) for r, e in zip(results, expected, strict=True))


@pytest.mark.parametrize("chunk_frames", [3, 5, 12, 50])
def test_chunks_change_nothing(model, street: Path, chunk_frames: int) -> None:
    ones = [result.labels for result in vidseg.segment(model, street)]
    chunks = [r.labels for r in vidseg.segment(model, street, chunk_frames=chunk_frames)]
    # Another batch size may round scores otherwise, so ties may fall otherwise.
    assert all((a == b).mean() > 0.999 for a, b in zip(ones, chunks, strict=True))


def test_labels_come_at_the_size_of_the_frame() -> None:
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3)).astype(np.uint8)
    result = next(vidseg.segment(brightness(Card()), read_images(image)()))
    assert np.array_equal(result.labels, image[..., 0] // 64)
    halves = np.zeros((37, 53, 3), np.uint8)
    halves[:, 30:] = 200
    for multiple in (8, 32):  # stretched to the multiple and back: the border moves by a pixel
        result = next(
            vidseg.segment(brightness(Card(size_multiple=multiple)), read_images(halves)())
        )
        assert result.labels.shape == (37, 53)
        assert np.array_equal(result.labels[:, :28], halves[:, :28, 0] // 64)
        assert np.array_equal(result.labels[:, 32:], halves[:, 32:, 0] // 64)


def read_images(*images: np.ndarray):
    """A source that can be opened again and again."""
    from fractions import Fraction

    from vidseg.video.reader import Frame

    def make() -> FrameReader:
        frames = (Frame(k, k / 25, image) for k, image in enumerate(images))
        return FrameReader("frames", frames, fps=Fraction(25), num_frames=len(images))

    return make


def test_nothing_is_read_before_it_is_asked_for(model) -> None:
    asked = []

    def frames():
        from vidseg.video.reader import Frame

        for k in range(10):
            asked.append(k)
            yield Frame(k, k / 25, paint(k))

    reader = FrameReader("frames", frames(), fps=read_images()().fps, num_frames=10)
    results = vidseg.segment(model, reader)
    assert asked == []
    next(results)
    assert asked == [0]
    next(results)
    assert asked == [0, 1]
    results.close()


def test_memory_stays_bounded_however_long_the_video(tmp_path: Path) -> None:
    path = make_video(tmp_path / "long.mp4", 900, size=(96, 144), options={"g": "50"})
    alive: list[weakref.ref] = []
    most, before = 0, 0
    for result in vidseg.segment(brightness(), path):
        alive = [ref for ref in alive if ref() is not None] + [weakref.ref(result)]
        most = max(most, len(alive))
        if result.index == 150:
            before = resident_bytes()
    assert most <= 2
    # Keeping the images alone would take 31 MB, the labels 10.
    assert resident_bytes() - before < 8e6


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_consumer_is_not_left_in_inference_mode(model, street: Path) -> None:
    for _ in vidseg.segment(model, street, end=0.1):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
    assert not any(p.is_inference() for p in model.parameters())


def scenes() -> list[np.ndarray]:
    """Six frames of one moving scene, six of another."""
    rng = np.random.default_rng(0)
    views = []
    for brightness_range in ((0, 90), (60, 256)):
        blocks = rng.integers(*brightness_range, (10, 20, 3))
        view = np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)
        views += [view[8:72, k : k + 96] for k in range(6)]
    return views


def test_a_scene_cut_resets_the_memory_only_where_asked(model) -> None:
    frames = scenes()
    kept = list(vidseg.segment(model, read_images(*frames)()))
    assert [r.index for r in kept if r.is_cut] == [6]
    reset = list(vidseg.segment(model, read_images(*frames)(), reset_on_cut=True, chunk_frames=4))
    assert [r.index for r in reset if r.is_cut] == [6]
    alone = list(vidseg.segment(model, read_images(*frames[6:])()))
    for k in range(6):
        assert (reset[6 + k].labels == alone[k].labels).mean() > 0.999
    # The tiny network is untrained: what it remembers must show in the labels of the cut frame.
    assert (kept[6].labels != alone[0].labels).any()


def test_motion_exposure_and_noise_are_no_cuts() -> None:
    rng = np.random.default_rng(0)
    world = np.kron(rng.integers(0, 256, (20, 60, 3)), np.ones((16, 16, 1)))
    detector = CutDetector()
    for k in range(40):
        view = world[20:276, 6 * k : 6 * k + 400]
        gain = 1.6 if k % 9 == 5 else 0.5 if k % 9 == 7 else 1.0
        noisy = view * gain + rng.normal(0, 8, view.shape)
        assert not detector.is_cut(np.clip(noisy, 0, 255).astype(np.uint8)), k


def test_windows_of_large_frames(model, street: Path) -> None:
    expected = list(vidseg.segment(SlidingWindow(model, (48, 64)), street))
    results = list(vidseg.segment(model, street, sliding=(48, 64)))
    for a, b in zip(results, expected, strict=True):
        assert np.array_equal(a.labels, b.labels)
        assert a.labels.shape == SIZE


def test_what_a_result_offers(tmp_path: Path) -> None:
    image = np.zeros((16, 24, 3), np.uint8)
    image[:, 12:] = 255
    model = brightness(Card(classes=CLASSES, palette=PALETTE))
    result = next(vidseg.segment(model, read_images(image)()))
    assert result.shares() == {"road": 0.5, "car": 0.0, "sky": 0.0, "tree": 0.5}
    assert result.overlay().shape == (16, 24, 3)
    assert np.array_equal(result.overlay(opacity=1.0)[0, 0], PALETTE[0])
    assert result.side_by_side().shape == (16, 48, 3)
    assert result.overlay(legend=True).shape[0] > 16
    with Image.open(result.save(tmp_path / "labels.png", "labels")) as picture:
        assert np.array_equal(np.array(picture), result.labels)
    with Image.open(result.save(tmp_path / "overlay.jpg")) as picture:
        assert picture.size == (24, 16)
    with pytest.raises(ValueError, match="kind must be"):
        result.save(tmp_path / "x.png", "depth")  # pyright: ignore[reportArgumentType]


def test_models_without_names_get_some() -> None:
    result = next(vidseg.segment(brightness(), read_images(paint(3))()))
    assert result.classes == ("class 0", "class 1", "class 2", "class 3")
    assert len({tuple(colour) for colour in result.palette}) == 4


def test_bad_calls_are_refused_at_once(model, street: Path) -> None:
    with pytest.raises(TypeError, match=r"vidseg\.PerFrame"):
        vidseg.segment(nn.Conv2d(3, 4, 1), street)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="no such file"):
        vidseg.segment(model, "nowhere.mp4")
    with pytest.raises(ValueError, match="give start, end and every to read_video"):
        vidseg.segment(model, read_video(street), start=1)
    with pytest.raises(ValueError, match="chunk_frames"):
        vidseg.segment(model, street, chunk_frames=0)
    with pytest.raises(ValueError, match="up to 255 classes"):
        vidseg.segment(vidseg.PerFrame(nn.Conv2d(3, 300, 1), num_classes=300), street)


def test_a_model_that_needs_the_whole_video_refuses_a_camera(model) -> None:
    reader = read_images(paint(0))()
    reader.is_live = True
    model.causal = False
    with pytest.raises(ValueError, match="record it to a file first"):
        vidseg.segment(model, reader)


def test_a_damaged_video_warns_after_its_last_frame(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", 100)
    results = vidseg.segment(brightness(), cut_short(path))
    with pytest.warns(DamagedVideoWarning, match="damaged after frame"):
        count = len(list(results))
    assert 20 < count < 100
    assert results.damage is not None


def test_a_real_video(shared: Path, model) -> None:
    source = shared / "data/video/solidWhiteRight.mp4"
    results = list(vidseg.segment(model, source, start=2, end=2.2, size=(136, 240)))
    assert [r.index for r in results] == [50, 51, 52, 53, 54]
    assert all(r.labels.shape == (540, 960) and not r.is_cut for r in results)


# The command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch, weights: Path):
    """Run `vidseg segment` in an empty folder; gives (exit code, stdout, stderr)."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run_line(*words: object) -> tuple[int, str, str]:
        code = command_line.run("segment", *words, "--model", weights)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_line


def test_with_no_options_it_writes_an_overlay_here(run, street: Path) -> None:
    code, out, err = run(street)
    assert code == 0, err
    assert out.count("for tests only") == 1
    assert "street_vidseg.mp4: 12 frames" in out
    assert [p.name for p in Path.cwd().iterdir()] == ["street_vidseg.mp4"]
    frames = list(read_video("street_vidseg.mp4"))
    assert len(frames) == 12
    assert frames[0].image.shape[0] > SIZE[0]  # the legend
    with av.open("street_vidseg.mp4") as container:
        assert container.streams.audio[0].codec_context.name == "aac"


def test_all_outputs_in_one_pass(run, street: Path, weights: Path) -> None:
    code, _, err = run(street, "--format", "overlay,labels", "-f", "npz", "-f", "jsonl")
    assert code == 0, err
    expected = list(vidseg.segment(vidseg.load(weights), street))
    lines = [json.loads(line) for line in Path("street_vidseg.jsonl").read_text().splitlines()]
    with np.load("street_vidseg.npz") as archive:
        assert archive["classes"].tolist() == list(CLASSES)
        assert archive["palette"].tolist() == [list(colour) for colour in PALETTE]
        assert archive["indices"].tolist() == list(range(12))
        assert archive["times_s"] == pytest.approx([k / 25 for k in range(12)])
        for result, line in zip(expected, lines, strict=True):
            name = f"{result.index:06d}"
            assert np.array_equal(archive[name], result.labels)
            with Image.open(f"street_vidseg_labels/{name}.png") as picture:
                assert np.array_equal(np.array(picture), result.labels)
            assert line["index"] == result.index
            assert line["shares"] == pytest.approx(result.shares(), abs=1e-6)
    assert len(list(read_video("street_vidseg.mp4"))) == 12
    assert not list(Path.cwd().glob(".*"))


def test_the_look_of_the_overlay(run, street: Path) -> None:
    looks = (
        (["--no-legend"], SIZE),
        (["--no-legend", "--side-by-side"], (SIZE[0], 2 * SIZE[1])),
        (["--no-legend", "--contour", "--opacity", "0"], SIZE),
    )
    for options, size in looks:
        code, _, err = run(street, "--out", "a.mp4", "--force", *options)
        assert code == 0, err
        image = next(read_video("a.mp4")).image
        assert image.shape[:2] == size
    code, _, err = run(street, "--opacity", "1.5")
    assert code == 2


def test_a_part_of_a_video(run, street: Path) -> None:
    code, _, err = run(
        street, "--start", "0.08", "--end", "0:00.4", "--every", "3", "--out", "a.npz"
    )
    assert code == 0, err
    with np.load("a.npz") as archive:
        assert archive["indices"].tolist() == [2, 5, 8]


def test_images_in_and_a_picture_out(run, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(4):
        Image.fromarray(paint(k)).save(folder / f"{k}.png")
    code, _, err = run(folder, "--fps", "10")
    assert code == 0, err
    assert read_video("images_vidseg.mp4").fps == 10
    code, _, err = run(folder / "*.png", "--format", "labels", "--out", "maps")
    assert code == 0, err
    assert len(list(Path("maps").glob("*.png"))) == 4
    code, _, err = run(folder / "2.png", "--no-legend")
    assert code == 0, err
    with Image.open("2_vidseg.png") as picture:
        assert picture.size == (SIZE[1], SIZE[0])


def test_prototypes_are_saved_and_given_again(street: Path, tmp_path: Path, capsys) -> None:
    model = vidseg.create("cffmpp_tiny", num_classes=4)
    save(settle(model), tmp_path / "model.safetensors")
    words = ["segment", street, "--model", tmp_path / "model.safetensors", "--format", "npz"]
    kept = tmp_path / "kept" / "street.safetensors"
    assert command_line.run(*words, "-o", tmp_path / "a.npz", "--save-context", kept) == 0
    assert f"{kept}: prototypes of the video" in capsys.readouterr().out
    assert vidseg.Prototypes.load(kept).video == str(street)
    assert command_line.run(*words, "-o", tmp_path / "b.npz", "--context", kept) == 0
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert len(np.unique(a["000003"])) > 1
        assert all(np.array_equal(a[name], b[name]) for name in a.files)
    vidseg.Prototypes(torch.zeros(1, 6, 16), "park").save(tmp_path / "park.safetensors")
    capsys.readouterr()
    more = ["-o", tmp_path / "c.npz"]
    assert command_line.run(*words, *more, "--context", tmp_path / "park.safetensors") == 1
    assert "the context is of park, the video is" in capsys.readouterr().err
    assert command_line.run(*words, *more, "--save-context", tmp_path / "c.pt") == 1
    assert "--save-context wants a .safetensors file" in capsys.readouterr().err
    assert command_line.run(*words, *more, "--save-context", kept) == 1
    assert "exists already" in capsys.readouterr().err


def test_it_does_not_write_over_files_unless_forced(run, street: Path) -> None:
    Path("a.mp4").write_text("precious")
    code, _, err = run(street, "--out", "a.mp4")
    assert code == 1
    assert "a.mp4 exists already; pass --force" in err
    assert Path("a.mp4").read_text() == "precious"
    assert run(street, "--out", "a.mp4", "--force")[0] == 0
    assert len(list(read_video("a.mp4"))) == 12
    code, _, err = run(street, "--out", street, "--force")
    assert code == 1
    assert "is the source" in err
    assert len(list(read_video(street))) == 12


def test_force_never_removes_frames_or_pictures(run, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(3):
        Image.fromarray(paint(k)).save(folder / f"{k:06d}.png")
    for source in (folder, folder / "*.png", folder / "000001.png"):
        code, _, err = run(source, "--format", "labels", "--out", folder, "--force")
        assert code == 1
        assert "is the source" in err or "holds the source's frames" in err
    maps = tmp_path / "maps"
    assert run(folder, "--format", "labels", "--out", maps)[0] == 0
    Image.fromarray(paint(0)).save(maps / "2024_holiday.png")
    Image.fromarray(paint(0)).save(maps / "000009.png")
    assert run(folder, "--format", "labels", "--out", maps, "--every", "2", "--force")[0] == 0
    left = sorted(path.stem for path in maps.iterdir())
    assert left == ["000000", "000002", "000009", "2024_holiday"]
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "overlya"], "did you mean 'overlay'?"),
        (["--out", "a.gif"], "no format is called .gif; use .npz, .jsonl, .mp4"),
        (["--out", "a.npz", "--format", "labels"], "--format says labels"),
        (["--start", "1m"], "a time is seconds, M:SS or H:MM:SS, got '1m'"),
        (["--sliding", "769"], "HEIGHTxWIDTH"),
        (["--device", "cuda:9"], "--device cuda:9"),
        (["--context", "a.safetensors"], "does not; leave them out"),
        (["--start", "50"], "last frame is at 0.440 s"),
    ],
)
def test_user_errors_are_one_message(run, street: Path, options: list[str], message: str) -> None:
    if "cuda:9" in options and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, _, err = run(street, *options)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert not list(Path.cwd().iterdir())


def test_a_damaged_file_is_kept_up_to_the_damage_with_exit_code_1(run, tmp_path: Path) -> None:
    source = cut_short(make_video(tmp_path / "a.mkv", 100))
    code, out, err = run(source, "--format", "overlay,jsonl")
    assert code == 1
    assert "warning:" in err
    assert "is damaged after frame" in err
    count = len(list(read_video("short_a_vidseg.mp4")))
    assert 20 < count < 100
    assert len(Path("short_a_vidseg.jsonl").read_text().splitlines()) == count
    assert f"short_a_vidseg.mp4: {count} frames" in out


def test_damage_in_the_middle_ends_a_run_only_with_strict(run, tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.avi", 30, codec="mjpeg", pix_fmt="yuvj420p")
    content = bytearray(source.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    source.write_bytes(content)
    code, _, err = run(source, "--out", "all.npz")
    assert code == 1
    assert "1 frame cannot be decoded" in err
    with np.load("all.npz") as archive:
        numbers = archive["indices"].tolist()
    lost = set(range(30)) - set(numbers)
    assert len(lost) == 1
    code, _, err = run(source, "--out", "strict.npz", "--strict")
    assert code == 1
    with np.load("strict.npz") as archive:
        assert archive["indices"].tolist() == list(range(min(lost)))


def test_what_is_no_damage_is_a_note(run, tmp_path: Path) -> None:
    parts = [
        make_video(tmp_path / f"{k}.ts", 4, size=size)
        for k, size in enumerate([(64, 144), (32, 72)])
    ]
    joined = tmp_path / "10:20:30.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    code, out, err = run(joined, "--out", "10:20.mp4")
    assert code == 0
    assert "10:20.mp4: 8 frames" in out
    assert "note: frames of 72x32 are scaled to 144x64, the size of the first" in err
    code, _, err = run(joined, "--out", "b.mp4", "--all-tracks")
    assert code == 1
    assert "--all-tracks wants an overlay that is an .mkv" in err


@pytest.mark.parametrize("kind", ["overlay", "npz", "jsonl"])
def test_a_full_disk_leaves_nothing(run, street: Path, kind: str, monkeypatch) -> None:
    adds = {
        "overlay": outputs_module.OverlayVideo,
        "npz": outputs_module.LabelArchive,
        "jsonl": outputs_module.ShareLines,
    }
    add, done = adds[kind].add, []

    def add_until_full(self, result) -> None:
        if len(done) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done.append(add(self, result))

    monkeypatch.setattr(adds[kind], "add", add_until_full)
    code, _, err = run(street, "--format", "overlay,npz,jsonl")
    assert code == 1
    assert re.search(r"street_vidseg\.\w+: No space left on device; free some space", err)
    assert not list(Path.cwd().iterdir())


def test_a_disk_that_is_full_at_the_end_leaves_nothing(run, street: Path, monkeypatch) -> None:
    def fail(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(outputs_module.LabelArchive, "close", fail)
    code, _, err = run(street, "--format", "npz,overlay,jsonl")
    assert code == 1
    assert "street_vidseg.npz: No space left on device" in err
    assert not list(Path.cwd().iterdir())


def test_times_and_names() -> None:
    assert [parse_time(t) for t in (None, "7", "1:02.5", "1:00:00")] == [None, 7, 62.5, 3600]
    assert plan_outputs("a/street.mp4", None, []) == {"overlay": Path("street_vidseg.mp4")}
    assert plan_outputs("frames/*.png", None, ["npz"]) == {"npz": Path("frames_vidseg.npz")}
    assert plan_outputs("0", None, []) == {"overlay": Path("camera0_vidseg.mp4")}
    assert plan_outputs("rtsp://host/live?x=1", None, []) == {"overlay": Path("live_vidseg.mp4")}
    assert plan_outputs("a.mp4", "b.mov", ["overlay,npz"]) == {
        "overlay": Path("b.mov"),
        "npz": Path("b.npz"),
    }
    assert plan_outputs("a.mp4", "results/", ["jsonl"]) == {"jsonl": Path("results/a_vidseg.jsonl")}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_playable_files(
    tmp_path: Path, weights: Path, number: signal.Signals
) -> None:
    make_video(tmp_path / "long.mp4", 3000, size=(96, 144))
    command = [sys.executable, "-m", "vidseg.cli.main", "segment", "long.mp4"]
    process = subprocess.Popen(
        [*command, "--model", str(weights), "--format", "overlay,npz,jsonl"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(part.stat().st_size for part in tmp_path.glob(".vidseg-*/after/.*.part")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopped after" in output
    assert "Traceback" not in output
    frames = [k for k, _ in enumerate(read_video(tmp_path / "long_vidseg.mp4"))]
    assert 0 < len(frames) < 3000
    lines = (tmp_path / "long_vidseg.jsonl").read_text().splitlines()
    with np.load(tmp_path / "long_vidseg.npz") as archive:
        assert len(archive["indices"]) == len(frames)
    assert len(lines) == len(frames)
    assert not list(tmp_path.glob(".*"))


def test_help_teaches(run, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run("segment", "--help") == 0
    out = capsys.readouterr().out
    assert "vidseg segment street.mp4 --format overlay,labels,jsonl" in out
    assert "exit code 130" in " ".join(out.split())


def test_frame_numbers_survive_the_whole_way(run, street: Path) -> None:
    assert run(street, "--opacity", "0", "--no-legend", "--out", "a.mp4")[0] == 0
    assert [number_of(frame.image) for frame in read_video("a.mp4")] == list(range(12))
