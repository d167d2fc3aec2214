"""Which frames: videos, windows, snippets, and clips by sample number."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vidseg.data import (
    ClipDataset,
    EvalTransform,
    TrainTransform,
    Video,
    VideoDataset,
    drawn,
    open_dataset,
    preceding,
    snippets,
)
from vidseg.data.clip import split_at_gaps

CLASSES = ("road", "car", "sky")
PALETTE = ((128, 64, 128), (0, 0, 142), (70, 130, 180))


def make_video(
    folder: Path, name: str, length: int, labelled: set[int], size: tuple[int, int] = (12, 16)
) -> Video:
    """Noise frames and noise labels on disk."""
    rng = np.random.default_rng([len(name), length])
    folder.mkdir(parents=True, exist_ok=True)
    frames, labels = [], []
    for i in range(length):
        frame = folder / f"{name}_{i:03d}.png"
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(frame)
        frames.append(frame)
        labels.append(folder / f"{name}_{i:03d}_label.png" if i in labelled else None)
        if labels[-1]:
            Image.fromarray(rng.integers(0, 3, size, dtype=np.uint8)).save(labels[-1])
    return Video(name, tuple(frames), tuple(labels), tuple(range(length)), 25.0)


@pytest.fixture
def street(tmp_path: Path) -> VideoDataset:
    videos = [make_video(tmp_path, "a", 4, {0, 2, 3}), make_video(tmp_path, "bb", 3, {1, 2})]
    return VideoDataset("street", videos, CLASSES, PALETTE)


def nameless(numbers: list[int]) -> Video:
    frames = tuple(Path(f"v_{n}.png") for n in numbers)
    return Video("v", frames, (None,) * len(frames), tuple(numbers), 30.0)


def test_a_video_checks_itself():
    with pytest.raises(ValueError, match="as many labels"):
        Video("v", (Path("a"),), (), (0,))
    with pytest.raises(ValueError, match="as many labels"):
        Video("v", (), (), ())
    with pytest.raises(ValueError, match="must rise, got 3 after 3"):
        nameless([1, 3, 3])


def test_a_video_knows_its_frame_rate():
    assert nameless([10, 12, 14]).fps == 15.0
    assert nameless([7]).fps == 30.0
    assert Video("v", (Path("a"),), (None,), (0,)).fps is None


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
    st.integers(1, 40),
)
def test_splitting_keeps_every_frame_and_cuts_only_gaps(steps: list[int], limit: int):
    numbers = [0, *np.cumsum(steps).tolist()]
    parts = split_at_gaps(nameless(numbers), limit)
    assert [n for part in parts for n in part.numbers] == numbers
    assert all(np.diff(part.numbers).max(initial=0) <= limit for part in parts)
    assert all(later.numbers[0] - earlier.numbers[-1] > limit for earlier, later in pairwise(parts))


def test_the_usual_step_sets_the_gap():
    parts = split_at_gaps(nameless([0, 30, 61, 90, 120, 390, 420]))
    assert [part.name for part in parts] == ["v_000000", "v_000390"]
    assert [part.name for part in split_at_gaps(nameless([0, 30, 60]))] == ["v"]
    pairs = split_at_gaps(nameless([0, 29, 30, 59, 60]))
    assert [part.numbers for part in pairs] == [(0,), (29, 30), (59, 60)]
    assert pairs[1].fps == 30


def test_preceding_frames_at_the_start_of_a_video():
    assert preceding(4)(6) == (2, 3, 4, 5, 6)
    assert preceding(4)(1) == (0, 0, 0, 0, 1)
    assert preceding(0)(1) == (1,)
    assert preceding(2, start="skip")(2) == (0, 1, 2)
    assert preceding(2, start="skip")(1) == ()


def test_drawn_frames_are_distinct_in_time_order_and_within_range():
    for t in range(10, 60):
        window = drawn(3, 8, seed=1)(t)
        assert window[-1] == t
        assert len(set(window)) == 4
        assert list(window) == sorted(window)
        assert t - 8 <= window[0]
    assert drawn(4, 4)(9) == preceding(4)(9)


def test_drawn_frames_differ_between_videos_and_seeds_but_not_between_calls(street: VideoDataset):
    draws = {drawn(3, 10, seed=seed).for_video(v)(50) for seed in range(4) for v in "abc"}
    assert len(draws) > 6
    assert drawn(3, 10, seed=5)(50) == drawn(3, 10, seed=5)(50)
    first, second = snippets(street, drawn(1, 3, 7)), snippets(street, drawn(1, 3, 7))
    assert first == second


def test_every_offset_is_drawn_about_equally_often():
    offsets = [t - i for t in range(100, 1100) for i in drawn(2, 5)(t)[:-1]]
    counts = np.bincount(offsets, minlength=6)[1:]
    assert counts.sum() == 2000
    assert np.all(np.abs(counts - 400) < 80)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preceding(-1), "0 or more memory frames"),
        (lambda: drawn(3, 2), "got 3 frames within 2"),
        (lambda: preceding(1, start="clamp"), 'must be "repeat" or "skip"'),  # type: ignore[arg-type]
    ],
)
def test_impossible_windows_are_refused(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_snippets_list_every_labelled_frame(street: VideoDataset):
    found = snippets(street, preceding(2))
    assert [(s.video.name, s.label_index, s.frame_indices) for s in found] == [
        ("a", 0, (0, 0, 0)),
        ("a", 2, (0, 1, 2)),
        ("a", 3, (1, 2, 3)),
        ("bb", 1, (0, 0, 1)),
        ("bb", 2, (0, 1, 2)),
    ]
    assert [s.label_index for s in snippets(street, preceding(2, start="skip"))] == [2, 3, 2]
    assert found[1].name == "a/a_002"


def test_malformed_windows_are_refused(street: VideoDataset):
    with pytest.raises(ValueError, match=r"must end with 0 and stay in 0..3, got \(0, 1\)"):
        snippets(street, lambda t: (t, t + 1))
    with pytest.raises(ValueError, match="left all out"):
        snippets(street, preceding(9, start="skip"))
    bare = VideoDataset("bare", [nameless([0, 1])], CLASSES, PALETTE)
    with pytest.raises(ValueError, match="no frame is labelled"):
        snippets(bare, preceding(0))


def test_a_clip_holds_the_files(street: VideoDataset):
    clips = ClipDataset(street, snippets(street, preceding(1)), EvalTransform((0, 0, 0), (1, 1, 1)))
    sample = clips[1]
    video = street.videos[0]
    assert sample["name"] == "a/a_002"
    assert sample["frames"].dtype == torch.float32
    for frame, path in zip(sample["frames"], video.frames[1:3], strict=True):
        np.testing.assert_array_equal(frame.permute(1, 2, 0).numpy(), np.array(Image.open(path)))
    label = video.labels[2]
    assert label is not None
    np.testing.assert_array_equal(sample["labels"].numpy(), np.array(Image.open(label)))
    assert sample["labels"].dtype == torch.int64
    assert len(list(clips)) == len(clips) == 5


def test_each_epoch_is_another_order_of_all_snippets(street: VideoDataset):
    index = snippets(street, preceding(1))
    clips = ClipDataset(street, index, EvalTransform(), seed=3, shuffle=True)
    orders = [tuple(clips.snippet(5 * epoch + i).name for i in range(5)) for epoch in range(8)]
    assert all(sorted(order) == sorted(s.name for s in index) for order in orders)
    assert len(set(orders)) > 4
    plain = ClipDataset(street, index, EvalTransform(), seed=3)
    assert [plain.snippet(n) for n in range(10)] == index * 2


def test_a_sample_is_a_function_of_seed_and_number(street: VideoDataset):
    transform = TrainTransform(crop=(8, 8), photometric="frame")
    index = snippets(street, preceding(1))
    clips = ClipDataset(street, index, transform, seed=1, shuffle=True)
    first = clips[7]["frames"]
    list(clips)
    assert torch.equal(clips[7]["frames"], first)
    assert torch.equal(pickle.loads(pickle.dumps(clips))[7]["frames"], first)
    other = ClipDataset(street, index, transform, seed=2, shuffle=True)
    assert not torch.equal(other[7]["frames"], first)
    alone = ClipDataset(street, index[:1], transform, seed=1)
    assert not torch.equal(alone[0]["frames"], alone[1]["frames"])


def test_workers_change_nothing(street: VideoDataset):
    clips = ClipDataset(
        street, snippets(street, preceding(1)), TrainTransform(crop=(8, 8)), seed=4, shuffle=True
    )
    numbers = list(range(3, 9))
    plain = torch.utils.data.DataLoader(clips, batch_size=2, sampler=numbers)
    spread = torch.utils.data.DataLoader(clips, batch_size=2, sampler=numbers, num_workers=2)
    for here, there in zip(plain, spread, strict=True):
        assert here["name"] == there["name"]
        assert torch.equal(here["frames"], there["frames"])
        assert torch.equal(here["labels"], there["labels"])


def test_bad_indices_and_seeds_are_refused(street: VideoDataset):
    clips = ClipDataset(street, snippets(street, preceding(0)), EvalTransform())
    with pytest.raises(IndexError, match="start at 0"):
        clips[-1]
    with pytest.raises(ValueError, match="0 or more"):
        ClipDataset(street, clips.snippets, EvalTransform(), seed=-1)
    with pytest.raises(ValueError, match="at least one snippet"):
        ClipDataset(street, [], EvalTransform())


def test_mixed_sizes_name_the_file(street: VideoDataset):
    video = street.videos[0]
    clips = ClipDataset(street, snippets(street, preceding(1)), EvalTransform())
    Image.new("RGB", (20, 12)).save(video.frames[1])
    with pytest.raises(ValueError, match=r"a_001.png is 20x12, but .*a_002.png .* 16x12"):
        clips[1]
    label = video.labels[3]
    assert label is not None
    Image.new("L", (8, 6)).save(label)
    Image.new("RGB", (16, 12)).save(video.frames[2])
    with pytest.raises(ValueError, match=r"a_003_label.png is 8x6, but its frame .* is 16x12"):
        clips[2]


def test_damaged_and_missing_files_are_named(street: VideoDataset):
    frame, label = street.videos[0].frames[0], street.videos[0].labels[0]
    assert label is not None
    frame.write_bytes(frame.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"a_000\.png cannot be read as an image"):
        street.read_frame(frame)
    Image.new("F", (4, 4)).save(frame, "tiff")
    with pytest.raises(ValueError, match=r"a_000\.png has F pixels of 32 bits"):
        street.read_frame(frame)
    frame.write_text("no image")
    with pytest.raises(ValueError, match=r"a_000\.png cannot be read as an image"):
        street.read_frame(frame)
    frame.unlink()
    with pytest.raises(FileNotFoundError, match=r"a_000.png does not exist"):
        street.read_frame(frame)
    label.unlink()
    with pytest.raises(FileNotFoundError, match=r"a_000_label.png does not exist"):
        street.read_label(label)


def test_label_values_out_of_range_are_named(street: VideoDataset):
    label = street.videos[0].labels[0]
    assert label is not None
    Image.fromarray(np.array([[0, 1], [7, 255]], np.uint8)).save(label)
    with pytest.raises(ValueError, match=r"a_000_label.png: label values \[7\] mean nothing"):
        street.read_label(label)
    Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8)).save(label)
    assert street.read_label(label).tolist() == [[0, 1], [2, 255]]


def test_labels_must_be_one_channel_of_bytes(street: VideoDataset):
    label = street.videos[0].labels[0]
    assert label is not None
    Image.new("RGB", (4, 4)).save(label)
    with pytest.raises(ValueError, match="one channel of class indices, got a colour image"):
        street.read_label(label)
    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(label)
    with pytest.raises(ValueError, match=r"must be 0..255, got up to 300"):
        street.read_label(label)


def test_a_palette_image_gives_indices_not_colours(street: VideoDataset):
    label = street.videos[0].labels[0]
    assert label is not None
    image = Image.fromarray(np.array([[0, 2]], np.uint8), mode="P")
    image.putpalette([9, 9, 9, 8, 8, 8, 7, 7, 7])
    image.save(label)
    assert street.read_label(label).tolist() == [[0, 2]]


def test_a_dataset_checks_itself():
    video = nameless([0])
    with pytest.raises(ValueError, match="no frames found"):
        VideoDataset("x", [], CLASSES, PALETTE)
    with pytest.raises(ValueError, match=r"must be unique, these are not: \['v'\]"):
        VideoDataset("x", [video, video], CLASSES, PALETTE)
    with pytest.raises(ValueError, match=r"palette must be \(3, 3\)"):
        VideoDataset("x", [video], CLASSES, PALETTE[:2])


def test_open_dataset_explains_what_is_wrong(tmp_path: Path):
    with pytest.raises(ValueError, match="did you mean 'cityscapes'"):
        open_dataset("cityscape", tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_dataset("camvid", tmp_path / "nowhere")
    with pytest.raises(TypeError, match="no option 'protocoll'; did you mean 'protocol'"):
        open_dataset("camvid", tmp_path, protocoll="11")
    with pytest.raises(ValueError, match="needs its folder"):
        open_dataset("camvid")
