"""Models that know the whole video before its first label: evaluated in two passes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image
from settled import settle

import vidseg
from vidseg.data.clip import Video, VideoDataset
from vidseg.evaluation.datasets import evaluate
from vidseg.evaluation.result import FrameFigures, Observed
from vidseg.evaluation.videos import evaluate_videos
from vidseg.methods import create
from vidseg.methods.cffmpp import CFFMPlus
from vidseg.weights import save

CLASSES = ("road", "car", "sky")
PALETTE = ((250, 0, 0), (0, 250, 0), (0, 0, 250))
SIZE = (40, 56)
LENGTHS = {"a": 12, "b": 10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two videos of noise that darkens, and true labels of theirs."""
    root = tmp_path_factory.mktemp("videos")
    for name, length in LENGTHS.items():
        rng = np.random.default_rng(list(name.encode()))
        for part in ("frames", "labels"):
            (root / part / name).mkdir(parents=True)
        for k in range(length):
            pixels = rng.integers(0, 250 - 15 * k, (*SIZE, 3), dtype=np.uint8)
            truth = rng.integers(0, 3, SIZE, dtype=np.uint8)
            Image.fromarray(pixels).save(root / "frames" / name / f"{k:03}.png")
            Image.fromarray(truth).save(root / "labels" / name / f"{k:03}.png")
    return root


def opened(root: Path, **labelled: tuple[int, ...]) -> VideoDataset:
    """The videos with labels on these frames; on all where none are named."""
    videos = []
    for name in labelled or LENGTHS:
        frames = tuple(sorted((root / "frames" / name).glob("*.png")))
        numbers = tuple(range(len(frames)))
        wanted = labelled.get(name, numbers)
        files = (root / "labels" / name / path.name for path in frames)
        labels = tuple(file if i in wanted else None for i, file in enumerate(files))
        videos.append(Video(name, frames, labels, numbers))
    return VideoDataset("street/val", videos, CLASSES, PALETTE)


def maps_of(model, dataset, **options) -> dict[tuple[str, int], np.ndarray]:
    seen: dict[tuple[str, int], np.ndarray] = {}

    def observe(frame: Observed, figures: FrameFigures) -> None:
        del figures
        if frame.truth is not None:
            seen[frame.video.name, frame.frame_index] = frame.labels

    evaluate(model, dataset, observe=observe, **options)
    return seen


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one == other).mean() > 0.999)  # argmax of nearly equal logits may turn


@pytest.fixture(scope="module")
def model() -> CFFMPlus:
    return settle(CFFMPlus.tiny(3))


@pytest.fixture(scope="module")
def running() -> CFFMPlus:
    return settle(CFFMPlus.tiny(3, prototypes="running"))


@pytest.fixture(scope="module")
def whole(model, folder) -> dict[tuple[str, int], np.ndarray]:
    return maps_of(model, opened(folder))


def test_evaluated_labels_are_those_of_segment(model, running, folder, whole):
    for name in LENGTHS:
        for result in vidseg.segment(model, folder / "frames" / name):
            assert same(result.labels, whole[name, result.index])
    maps = maps_of(running, opened(folder))
    results = list(vidseg.segment(running, folder / "frames" / "a"))
    assert all(same(result.labels, maps["a", result.index]) for result in results)
    assert any((maps[key] != whole[key]).any() for key in maps), "prototypes have no influence"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_window_reads_the_context_of_the_whole_video(model, folder, whole, batch_size):
    dataset = opened(folder, a=(1, 9), b=(8,))
    windows = maps_of(model, dataset, batch_size=batch_size)
    assert windows.keys() == {("a", 1), ("a", 9), ("b", 8)}
    assert all(same(labels, whole[key]) for key, labels in windows.items())
    assert evaluate(model, dataset).conventions["run_as"] == "windows"


def test_streams_in_lockstep_have_contexts_of_their_own(model, running, folder, whole):
    for one, expected in ((model, whole), (running, maps_of(running, opened(folder)))):
        both = maps_of(one, opened(folder), batch_size=2)
        assert both.keys() == expected.keys()
        assert all(same(labels, expected[key]) for key, labels in both.items())


def test_what_has_no_end_of_memory_always_streams(running, folder):
    sparse = opened(folder, a=(11,))
    result = evaluate(running, sparse)
    assert result.conventions["run_as"] == "stream"
    assert result.num_frames == 1
    streamed = maps_of(running, opened(folder, a=tuple(range(12))))
    assert same(maps_of(running, sparse)["a", 11], streamed["a", 11])


def test_every_view_has_a_context_of_its_own(model, folder, monkeypatch):
    options = {"scales": (1.0, 1.5), "flip": True}
    seen = []
    summarize = CFFMPlus.summarize

    def watched(self, video, **rest):
        seen.append(video.clone())
        return summarize(self, video, **rest)

    monkeypatch.setattr(CFFMPlus, "summarize", watched)
    stream = maps_of(model, opened(folder, b=tuple(range(10))), **options)
    assert [tuple(video.shape[-2:]) for video in seen] == 2 * [(64, 64)] + 2 * [(64, 96)]
    assert torch.equal(seen[1], seen[0].flip(-1))
    window = maps_of(model, opened(folder, b=(9,)), **options)
    assert same(window["b", 9], stream["b", 9])


def test_windows_in_space_share_the_context_of_the_frame(model, folder):
    sliding = ((32, 32), (24, 24))
    maps = maps_of(model, opened(folder, b=(9,)), sliding=sliding)
    results = list(
        vidseg.segment(
            model, folder / "frames" / "b", sliding=vidseg.inference.SlidingWindow(model, *sliding)
        )
    )
    assert same(maps["b", 9], results[9].labels)


def test_contexts_on_file_are_read(model, folder, whole, tmp_path):
    zero = torch.zeros(1, 6, 16)
    with pytest.raises(FileNotFoundError, match=r"absent, which should hold .*, is no folder"):
        evaluate(model, opened(folder), context=tmp_path / "absent")
    vidseg.Prototypes(zero, "a").save(tmp_path / "a.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no context of the video b in .*centers\.pt; "):
        evaluate(model, opened(folder), context=tmp_path)
    (tmp_path / "b").mkdir()
    torch.save(zero, tmp_path / "b" / "centers.pt")
    maps = maps_of(model, opened(folder), context=tmp_path, batch_size=2)
    given = vidseg.segment(model, folder / "frames" / "b", context=vidseg.Prototypes(zero))
    assert all(same(result.labels, maps["b", result.index]) for result in given)
    assert any((maps[key] != whole[key]).any() for key in maps)
    vidseg.Prototypes(zero, "a").save(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="the context is of a, the video is b"):
        evaluate(model, opened(folder), context=tmp_path)


def test_a_causal_model_takes_no_context(running, folder, tmp_path):
    with pytest.raises(ValueError, match="CFFMPlus reads no context of whole videos here"):
        evaluate(running, opened(folder), context=tmp_path)


def test_contexts_of_two_sizes_do_not_run_together(model, folder, tmp_path):
    for name, count in (("a", 6), ("b", 7)):
        vidseg.Prototypes(torch.zeros(1, count, 16)).save(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"contexts of one shape, got \(1, 7, 16\), \(1, 6, 16\)"):
        evaluate(model, opened(folder), context=tmp_path, batch_size=2)


def test_plain_videos_are_read_twice(model, folder, tmp_path):
    source = folder / "frames" / "a"
    maps = []
    result = evaluate_videos(
        model, [source], max_frames=6, observe=lambda frame, _: maps.append(frame.labels)
    )
    assert "found in a first pass" in result.conventions["context"]
    expected = [result.labels for result in vidseg.segment(model, source)]
    assert len(maps) == 6
    assert all(same(a, b) for a, b in zip(maps, expected, strict=False))
    vidseg.Prototypes(torch.zeros(1, 6, 16), "a").save(tmp_path / "a.safetensors")
    given = evaluate_videos(model, [source], max_frames=1, context=tmp_path)
    assert given.conventions["context"] == f"of the whole video, from {tmp_path}"


def test_command_takes_a_folder_of_contexts(tmp_path, capsys):
    torch.manual_seed(0)
    weights = tmp_path / "model.safetensors"
    save(create("cffmpp_tiny", num_classes=11), weights)
    words = ["evaluate", weights, "--data", "synthetic", "--option", "num_videos=1"]
    words += ["--option", "num_frames=4", "--option", "size=[32,48]", "--flow", "none", "--json"]
    assert run(*words, "--quiet") == 0
    saved = json.loads(capsys.readouterr().out)
    assert "first pass" in saved["conventions"]["context"]
    assert run(*words, "--context", tmp_path) == 1
    assert "no context of the video" in capsys.readouterr().err
