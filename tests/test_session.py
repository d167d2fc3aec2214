"""One stream that a program feeds, and the size at which a model sees its frames."""

from __future__ import annotations

import json
import logging
import pickle
from dataclasses import replace
from pathlib import Path

import command_line
import numpy as np
import pytest
import torch
from painted import make_video
from PIL import Image
from settled import settle

import vidseg
from vidseg.card import Card
from vidseg.data import open_dataset
from vidseg.evaluation.datasets import evaluate
from vidseg.evaluation.videos import evaluate_videos
from vidseg.inference.runner import Runner, View, make_views
from vidseg.inference.stream import segment
from vidseg.training.loop import train
from vidseg.video.reader import Frame


@pytest.fixture
def model() -> vidseg.VideoSegmenter:
    torch.manual_seed(0)
    return settle(vidseg.create("tmanet_tiny", num_classes=4, memory_frames=2)).eval()


def drift(count: int, size: tuple[int, int] = (32, 48), seed: int = 0) -> list[np.ndarray]:
    """Frames of one scene: a still picture and a little noise."""
    rng = np.random.default_rng(seed)
    still = np.kron(rng.integers(40, 200, (size[0] // 8, size[1] // 8, 3)), np.ones((8, 8, 1)))
    return [(still + rng.integers(0, 30, still.shape)).astype(np.uint8) for _ in range(count)]


def night(size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """A frame of another scene than `drift` has."""
    cells = np.random.default_rng(9).integers(0, 2, (size[0] // 8, size[1] // 8, 3)) * 60
    return np.kron(cells, np.ones((8, 8, 1))).astype(np.uint8)


def test_a_session_says_what_segment_says(model):
    images = drift(5)
    session = vidseg.Session(model)
    pushed = [session.push(image) for image in images]
    for ours, theirs in zip(pushed, segment(model, images), strict=True):
        assert np.array_equal(ours.labels, theirs.labels)
        assert (ours.index, ours.time_s, ours.is_cut) == (theirs.index, theirs.time_s, False)
        assert ours.classes == theirs.classes


def test_memory_can_be_taken_out_kept_and_put_back(model):
    images = drift(6)
    session = vidseg.Session(model)
    assert session.memory is None
    for image in images[:3]:
        session.push(image)
    kept = session.memory
    went_on = [session.push(image).labels for image in images[3:]]
    bytes_of_it = pickle.dumps(kept)
    other = vidseg.Session(model)
    for where, memory in ((session, kept), (other, pickle.loads(bytes_of_it))):
        where.memory = memory
        again = [where.push(image).labels for image in images[3:]]
        assert all(map(np.array_equal, again, went_on))
    assert pickle.dumps(kept) == bytes_of_it
    assert session.push(images[0]).index == 9


def test_a_memory_of_another_stream_is_no_cut(model):
    """A server takes memories out and in: the last frame it saw says nothing about this one."""
    session = vidseg.Session(model)
    session.push(night())
    kept = session.memory
    for image in drift(4):
        session.push(image)
    session.memory = kept
    result = session.push(night())
    assert not result.is_cut
    assert session.memory.frames_seen == 2


def test_reset_starts_anew(model):
    images = drift(4)
    session = vidseg.Session(model)
    first = [session.push(image) for image in images]
    session.reset()
    assert session.memory is None
    again = [session.push(image) for image in images]
    assert [(r.index, r.time_s) for r in again] == [(r.index, r.time_s) for r in first]
    assert all(np.array_equal(a.labels, b.labels) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("reset_on_cut", [True, False])
def test_a_cut_resets(model, reset_on_cut):
    session = vidseg.Session(model, reset_on_cut=reset_on_cut)
    for image in drift(4):
        session.push(image)
    result = session.push(night())
    assert result.is_cut
    assert session.memory.frames_seen == (1 if reset_on_cut else 2)
    fresh = vidseg.Session(model).push(night())
    assert np.array_equal(result.labels, fresh.labels) == reset_on_cut


def test_a_frame_of_another_size_begins_a_scene(model):
    session = vidseg.Session(model, reset_on_cut=False)
    for image in drift(3):
        session.push(image)
    frames = [*drift(2, (32, 48)), *drift(2, (48, 64))]
    results = list(
        session.run((Frame(k, k / 25, image) for k, image in enumerate(frames)), chunk_frames=4)
    )
    assert [result.is_cut for result in results] == [False, False, True, False]
    assert results[2].labels.shape == (48, 64)
    fresh = vidseg.Session(model).push(frames[2])
    assert np.array_equal(results[2].labels, fresh.labels)


def test_time_comes_with_the_frame_or_the_rate(model):
    session = vidseg.Session(model, fps=10)
    image = drift(1)[0]
    assert [session.push(image).time_s for _ in range(3)] == [0.0, 0.1, 0.2]
    assert session.push(image, time_s=7.5).time_s == 7.5
    result = session.push(Frame(40, 1.6, image))
    assert (result.index, result.time_s) == (40, 1.6)


def test_memory_does_not_grow(model):
    session = vidseg.Session(model)
    sizes = set()
    for image in drift(12):
        session.push(image)
        sizes.add(session.memory.nbytes)
    assert len(sizes) == 1


def test_what_is_wrong_is_said(model):
    session = vidseg.Session(model)
    with pytest.raises(TypeError, match="frame 0 must be a numpy array of uint8, got float64"):
        session.push(np.zeros((32, 48, 3)))
    with pytest.raises(ValueError, match=r"frame 0 must be \(H, W, 3\), RGB, got \(32, 48\)"):
        session.push(np.zeros((32, 48), np.uint8))
    assert session.push(drift(1)[0]).index == 0
    with pytest.raises(TypeError, match="memory must be what another session's"):
        session.memory = [1, 2]
    session.memory = vidseg.Memory()
    with pytest.raises(ValueError, match="pass the memory that this model returned"):
        session.push(drift(1)[0])
    with pytest.raises(TypeError, match="wrap an image model"):
        vidseg.Session(torch.nn.Identity())
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, fp16"):
        vidseg.Session(model, precision="int8")
    with pytest.raises(ValueError, match="not both"):
        vidseg.Session(model, size=(32, 48), fit=(32, 48))
    with pytest.raises(ValueError, match='of at least 1 px, or "full"'):
        vidseg.Session(model, size=(0, 48))
    with pytest.raises(ValueError, match="takes no context"):
        vidseg.Session(model, context=object())


def test_a_model_of_whole_videos_needs_to_know_one():
    torch.manual_seed(0)
    model = vidseg.create("cffmpp_tiny", num_classes=3).eval()
    image = drift(1, (32, 64))[0]
    with pytest.raises(ValueError, match=r"Session\(model, context="):
        vidseg.Session(model).push(image)
    with torch.no_grad():
        known = model.summarize(model.card.normalise(image)[None, None])
    assert vidseg.Session(model, context=known).push(image).labels.shape == (32, 64)


def test_precision_is_that_of_the_pass(model):
    image = drift(1)[0]
    exact, rounded = (
        Runner(model, precision=precision)(image[None, None]).memories[0].nbytes
        for precision in ("fp32", "bf16")
    )
    assert rounded < exact


def test_results_show_themselves(model):
    result = vidseg.Session(model).push(drift(1)[0])
    assert repr(result).startswith("<frame 0 at 0.00 s, 48x32: class ")
    assert len(repr(result)) < 100
    assert result._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"


# The size of the card


@pytest.mark.parametrize(
    ("card", "frame", "seen"),
    [
        (Card(), (2160, 3840), (2160, 3840)),  # it knows none
        (Card(size=(360, 480)), (1080, 1920), (312, 554)),
        (Card(size=(360, 480)), (1920, 1080), (554, 312)),
        (Card(size=(360, 480)), (270, 480), (270, 480)),  # never enlarged
        (Card(size=(480, 853), size_multiple=32), (1080, 1920), (480, 864)),
        (Card(size=(480, 853), size_multiple=32), (481, 853), (480, 864)),
        (Card(size=(713, 713), size_multiple=8, size_offset=1), (1080, 1920), (537, 953)),
        (Card(size=(2, 2), size_multiple=32), (64, 640), (32, 32)),
    ],
)
def test_a_card_knows_a_size(card, frame, seen):
    assert card.known_size(frame) == seen
    assert Card.from_json(card.to_json()) == card


@pytest.mark.parametrize("size", [(96, 300), (301, 77), (2160, 3840), (65, 65)])
@pytest.mark.parametrize(("multiple", "offset"), [(1, 0), (8, 1), (32, 0)])
def test_the_known_size_has_its_pixels_and_the_frames_aspect(size, multiple, offset):
    card = Card(size=(64, 64), size_multiple=multiple, size_offset=offset)
    height, width = card.known_size(size)
    scale = (64 * 64 / (size[0] * size[1])) ** 0.5
    assert abs(height - scale * size[0]) <= multiple
    assert abs(width - scale * size[1]) <= multiple
    assert card.next_side(height) == height <= card.next_side(size[0])
    assert card.next_side(width) == width <= card.next_side(size[1])


def sizes_seen(model: vidseg.VideoSegmenter) -> list[tuple[int, int]]:
    """The sizes that the encoder is shown from now on, as they come."""
    seen: list[tuple[int, int]] = []
    encode = model.encode
    model.encode = lambda frames: seen.append(tuple(frames.shape[-2:])) or encode(frames)
    return seen


def at_home(model: vidseg.VideoSegmenter, size: tuple[int, int]) -> vidseg.VideoSegmenter:
    model.card = replace(model.card, size=size)
    return model


def test_large_frames_are_seen_at_the_size_that_the_card_knows(model, caplog):
    seen = sizes_seen(at_home(model, (32, 48)))
    images = drift(3, (64, 128))
    with caplog.at_level(logging.INFO, "vidseg"):
        results = list(segment(model, images))
    assert seen == [(28, 55)] * 3
    assert results[0].labels.shape == (64, 128)
    told = "seeing 128x64 at 55x28, the size this model knows; --size full for all of it"
    assert caplog.messages == [told]
    seen.clear()
    caplog.clear()
    with caplog.at_level(logging.INFO, "vidseg"):
        for options in (
            {"size": "full"},
            {"size": (40, 56)},
            {"fit": (40, 56)},
            {"sliding": (64, 64)},
        ):
            next(segment(model, images, **options))
        vidseg.Session(model).push(drift(1)[0])
    assert seen == [(64, 128), (40, 56), (28, 56), (64, 64), (32, 48)]
    assert caplog.messages == []


def test_views_scale_what_the_card_knows():
    views = make_views(scales=(0.5, 1.0))
    assert [view.size_of((128, 128), Card(size=(64, 64))) for view in views] == [(32, 32), (64, 64)]
    assert View().size_of((128, 128), Card(size=(64, 64))) == (128, 128)


def test_data_sets_with_a_protocol_keep_their_size(model, tmp_path):
    seen = sizes_seen(at_home(model, (24, 32)))
    synthetic = open_dataset("synthetic", split="val", num_videos=1, num_frames=2, size=(48, 64))
    network_classes = {"classes": synthetic.classes}
    model.card = replace(model.card, **network_classes)
    root = tmp_path / "mine"
    for part in ("frames", "masks"):
        (root / "val" / "a" / part).mkdir(parents=True)
    colours = dict(zip("abcd", ([1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]), strict=True))
    (root / "classes.json").write_text(json.dumps({"classes": colours}))
    for k, image in enumerate(drift(2, (48, 64))):
        Image.fromarray(image).save(root / "val" / "a" / "frames" / f"{k}.png")
        mask = Image.fromarray((image[..., 0] % 4).astype(np.uint8))
        mask.save(root / "val" / "a" / "masks" / f"{k}.png")
    folder = open_dataset("folder", root, "val")
    model.card = replace(model.card, classes=tuple("abcd"))
    result = evaluate(model, folder)
    assert seen == [(24, 32)] * 2
    assert result.conventions["size"] == "as many pixels as 24x32 at most, aspect kept"
    seen.clear()
    assert "size" not in evaluate(model, folder, size="full").conventions
    assert evaluate(model, folder, size=(40, 40)).conventions["size"] == "40x40"
    assert seen == [(48, 64)] * 2 + [(40, 40)] * 2
    assert synthetic.seen_size == "full"
    assert folder.seen_size is None


def test_videos_are_measured_as_they_are_segmented(model, tmp_path):
    at_home(model, (32, 48))
    video = make_video(tmp_path / "a.mp4", 3, size=(64, 144))
    labels = [result.labels for result in segment(model, video, reset_on_cut=True)]
    found = []
    result = evaluate_videos(
        model, [video], observe=lambda frame, figures: found.append(frame.labels)
    )
    assert all(map(np.array_equal, found, labels))
    assert result.conventions["size"] == "as many pixels as 32x48 at most, aspect kept"
    precise = evaluate_videos(model, [video], size="full", precision="bf16").conventions
    assert precise["precision"] == "bf16"
    assert "size" not in precise


def test_the_size_is_said_once_for_all_videos(model, tmp_path, caplog):
    at_home(model, (32, 48))
    videos = [make_video(tmp_path / f"{name}.mp4", 2, size=(64, 144)) for name in "ab"]
    with caplog.at_level(logging.INFO, "vidseg.inference"):
        evaluate_videos(model, videos)
    assert [text for text in caplog.messages if text.startswith("seeing")] == [
        "seeing 144x64 at 59x26, the size this model knows; --size full for all of it"
    ]


def test_training_writes_the_size_into_the_card(tmp_path):
    from small_runs import config_with

    config = config_with("data.base_size=[32,32]", "data.crop=[16,16]")
    trained = train(config, tmp_path / "run")
    assert trained.model.card.size == (24, 32)  # frames of 48x64 in a box of 32x32
    assert vidseg.load(tmp_path / "run").card.size == (24, 32)


def test_every_command_takes_the_same_sizes(tmp_path, capsys):
    video = make_video(tmp_path / "wide.mp4", 2, size=(480, 720))
    assert (
        command_line.run("segment", video, "--format", "jsonl", "--out", tmp_path / "a.jsonl") == 0
    )
    told = "seeing 720x480 at 509x339, the size this model knows; --size full for all of it"
    assert capsys.readouterr().err.count(told) == 1
    words = ("evaluate", "--video", video, "--flow", "none", "--json")
    assert command_line.run(*words, "--size", "full", "--max-frames", 1) == 0
    assert "seeing" not in capsys.readouterr().err
    assert command_line.run(*words, "--fit", "120x180", "--precision", "bf16") == 0
    conventions = json.loads(capsys.readouterr().out)["conventions"]
    assert conventions["fit"] == "within 120x180, aspect kept"
    assert conventions["precision"] == "bf16"
    assert command_line.run(*words, "--fit", "120x180", "--size", "full") == 1
    assert "not both" in capsys.readouterr().err
    assert not list(Path(tmp_path).glob("*.part*"))
