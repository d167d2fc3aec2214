"""Video consistency: against its definition, and that order and grouping change nothing."""

import functools
import math

import numpy as np
import pytest
import torch

from vidseg.metrics import VideoConsistency, video_consistency

OPTIONS = [{}, {"correct": True}, {"protocol": "vspw-official"}]


def random_video(seed: int, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and truth that mostly stay, with void in the truth."""
    rng = np.random.default_rng(seed)
    labels, truth = rng.integers(0, 3, (2, num_frames, 5, 7), dtype=np.uint8)
    truth[rng.random(truth.shape) < 0.3] = 255
    for t in range(1, num_frames):
        for maps in (labels, truth):
            stays = rng.random((5, 7)) < 0.85
            maps[t][stays] = maps[t - 1][stays]
    return labels, truth


def shares_by_definition(labels, truth, n, protocol="vidseg", correct=False):
    """Window by window and pixel by pixel, as the definitions read."""
    is_official = protocol == "vspw-official"
    num_frames, height, width = truth.shape
    if is_official and num_frames <= 16:
        return []
    shares = []
    for start in range(num_frames - n + (0 if is_official else 1)):
        hits = total = 0
        for y in range(height):
            for x in range(width):
                true, given = truth[start : start + n, y, x], labels[start : start + n, y, x]
                if len(set(true)) > 1 or (true[0] == 255 and not is_official):
                    continue
                total += 1
                hits += len(set(given)) == 1 and (not correct or (given == true).all())
        if total:
            shares.append(hits / total)
    return shares


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("n", [2, 8, 16])
def test_equals_the_definition(options, n):
    shares, measured = [], VideoConsistency(n, **options)
    for seed, num_frames in enumerate([20, 16, 17, 9, 1]):
        labels, truth = random_video(seed, num_frames)
        measured.update(labels, truth)
        shares += shares_by_definition(labels, truth, n, **options)
    assert measured.num_windows == len(shares) > 0
    assert measured.mean_consistency() == math.fsum(shares) / len(shares)


@pytest.mark.parametrize("options", OPTIONS)
def test_order_and_split_over_processes_change_nothing(options):
    videos = [random_video(seed, 17 + seed) for seed in range(6)]

    def measured(some) -> VideoConsistency:
        consistency = VideoConsistency(4, **options)
        for labels, truth in some:
            consistency.update(labels, truth)
        return consistency

    expected = measured(videos).mean_consistency()
    assert measured(videos[::-1]).mean_consistency() == expected
    parts = [measured(videos[4:]), measured([]), measured(videos[:1]), measured(videos[1:4])]
    merged = functools.reduce(VideoConsistency.merge, parts)
    assert merged.mean_consistency() == expected


def test_frames_may_come_one_at_a_time_and_of_any_integer_kind():
    labels, truth = random_video(0, 12)
    expected = video_consistency(labels, truth, 3)
    assert video_consistency(iter(labels), (t.astype(np.int64) for t in truth), 3) == expected
    assert video_consistency(torch.from_numpy(labels), torch.from_numpy(truth).int(), 3) == expected
    assert 0 < expected < 1


@pytest.mark.parametrize("options", OPTIONS)
def test_videos_may_be_under_way_at_once(options):
    videos = [random_video(seed, 18 + seed) for seed in range(3)]
    apart, together = VideoConsistency(4, **options), VideoConsistency(4, **options)
    expected = []
    for labels, truth in videos:
        before = apart.total, apart.num_windows
        apart.update(labels, truth)
        expected.append((apart.total - before[0], apart.num_windows - before[1]))
    running = [together.video() for _ in videos]
    # The memory of a frame is filled again, as by a decoder.
    buffers = np.empty((2, 5, 7), np.uint8)
    for t in range(20):
        for video, frames in zip(running, videos, strict=True):
            if t < len(frames[0]):
                buffers[:] = frames[0][t], frames[1][t]
                video.add(*buffers)
    assert together.num_windows == 0  # until they are finished
    assert [video.finish() for video in running[::-1]] == expected[::-1]
    assert (together.total, together.num_windows) == (apart.total, apart.num_windows)


def test_a_finished_video_takes_no_more():
    video = VideoConsistency(2).video()
    assert video.finish() == (0, 0)
    with pytest.raises(ValueError, match="is finished"):
        video.add(np.zeros((2, 2), int), np.zeros((2, 2), int))
    with pytest.raises(ValueError, match="is finished"):
        video.finish()


def test_a_frame_that_is_refused_leaves_the_video_as_it_was():
    labels, truth = random_video(0, 6)
    video = VideoConsistency(3).video()
    for t in range(6):
        video.add(labels[t], truth[t])
        with pytest.raises(ValueError, match="one size"):
            video.add(labels[t, 1:], truth[t, 1:])
    expected = VideoConsistency(3)
    expected.update(labels, truth)
    assert video.finish() == (expected.total, expected.num_windows)


def test_values_that_are_no_class_are_refused_where_the_classes_are_known():
    frames, measured = np.zeros((3, 2, 2), np.uint8), VideoConsistency(2, num_classes=3)
    measured.update(frames + 2, np.full_like(frames, 255))
    with pytest.raises(ValueError, match=r"labels must be 0\.\.2, got 3"):
        measured.update(frames + 3, frames)
    with pytest.raises(ValueError, match=r"truth must be 0\.\.2 or 255 \(void\), got 254"):
        measured.update(frames, frames + 254)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        VideoConsistency(2, num_classes=0)
    with pytest.raises(ValueError, match="same settings"):
        measured.merge(VideoConsistency(2))


def test_a_label_of_void_never_stays_where_labels_may_be_void():
    truth = np.zeros((3, 1, 4), np.uint8)
    labels = np.array([[[0, 255, 255, 1]], [[0, 255, 0, 1]], [[0, 255, 0, 1]]], np.uint8)
    for correct, staying in ((False, 2), (True, 1)):
        measured = VideoConsistency(3, correct=correct, void_labels="miss", num_classes=2)
        measured.update(labels, truth)
        assert measured.total == staying / 4
    with pytest.raises(ValueError, match=r'got 255 .*void_labels="miss"'):
        video_consistency(labels, truth, 3)


def test_a_frame_of_more_than_a_word_of_pixels_is_counted_whole():
    # 64 pixels go into a word; 130 fill two words and a bit of the third.
    truth = np.zeros((4, 10, 13), np.uint8)
    labels = truth.copy()
    labels[2:, -1, -2:] = 1
    assert video_consistency(labels, truth, 3) == 128 / 130
    truth[:, 0, 0] = 255
    assert video_consistency(labels, truth, 3) == 127 / 129


def test_labels_that_stay_wrong_are_consistent_but_not_correct():
    truth = np.zeros((4, 3, 3), np.uint8)
    assert video_consistency(truth + 1, truth, 4) == 1
    assert video_consistency(truth + 1, truth, 4, correct=True) == 0
    assert video_consistency(truth, truth, 4, correct=True) == 1


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("num_frames", [0, 1, 3])
def test_a_video_shorter_than_n_has_no_figure_and_changes_none(options, num_frames):
    short = np.zeros((num_frames, 5, 7), np.uint8)
    assert math.isnan(video_consistency(short, short, 4, **options))
    measured = VideoConsistency(4, **options)
    measured.update(*random_video(0, 20))
    before = measured.mean_consistency()
    measured.update(short, short)
    assert measured.mean_consistency() == before


def test_nothing_but_void_has_no_figure():
    void = np.full((4, 2, 2), 255)
    assert math.isnan(video_consistency(void * 0, void, 2))
    assert math.isnan(VideoConsistency(2).mean_consistency())


@pytest.mark.parametrize(
    ("labels", "truth", "message"),
    [
        (np.zeros((4, 2, 2), int), np.zeros((4, 2, 3), int), "one shape"),
        (np.zeros((4, 2, 2), int), np.zeros((3, 2, 2), int), "one shape"),
        (np.zeros((4, 2), int), np.zeros((4, 2), int), r"must be \(T, H, W\)"),
        ([np.zeros((2, 2), int)], [np.zeros((2, 3), int)], r"got \(2, 2\) and \(2, 3\)"),
        ([np.zeros((2, s), int) for s in (2, 3)],) * 2 + ("one size",),
        ([np.zeros((2, 2), int)] * 2, [np.zeros((2, 2), int)], "as many frames"),
        (np.full((4, 2, 2), -1), np.zeros((4, 2, 2), int), "labels must be 0 or more, got -1"),
        (np.zeros((4, 2, 2), int), np.full((4, 2, 2), -3), "truth must be 0 or more, got -3"),
        (np.full((4, 2, 2), 255), np.zeros((4, 2, 2), int), "255"),
    ],
)
def test_bad_videos_are_refused_and_leave_no_trace(labels, truth, message):
    measured = VideoConsistency(2)
    with pytest.raises(ValueError, match=message):
        measured.update(labels, truth)
    assert measured.num_windows == 0


def test_anything_but_integers_is_refused():
    with pytest.raises(TypeError, match="truth must be integers"):
        VideoConsistency(2).update(np.zeros((4, 2, 2), int), np.zeros((4, 2, 2)))


def test_settings_are_checked():
    with pytest.raises(ValueError, match="2 frames or more, got 1"):
        VideoConsistency(1)
    with pytest.raises(ValueError, match="protocol must be"):
        VideoConsistency(8, protocol="vspw")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="void_labels must be"):
        VideoConsistency(8, void_labels="ignored")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="takes void for a class"):
        VideoConsistency(8, protocol="vspw-official", void_labels="miss")
    with pytest.raises(ValueError, match="does not compare labels with truth"):
        VideoConsistency(8, protocol="vspw-official", correct=True)
    with pytest.raises(ValueError, match="same settings"):
        VideoConsistency(8).merge(VideoConsistency(16))
