"""Metrics: against scikit-learn and hand counts, and that order and grouping change nothing."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score

from vidseg.data.synthetic import CLASSES as STREET_CLASSES
from vidseg.data.synthetic import render
from vidseg.metrics import (
    ConfusionMatrix,
    TemporalConsistency,
    flicker,
    temporal_consistency,
)

CLASSES = 4


@st.composite
def labelled_frames(draw):
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 40)))
    labels = draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1)))
    values = st.one_of(st.integers(0, CLASSES - 1), st.just(255))
    truth = draw(arrays.arrays(np.uint8, shape, elements=values))
    return labels, truth


def measured(pairs, **options) -> ConfusionMatrix:
    matrix = ConfusionMatrix(CLASSES, **options)
    for labels, truth in pairs:
        matrix.update(labels, truth)
    return matrix


@settings(max_examples=40, deadline=None)
@given(labelled_frames())
def test_counts_and_iou_equal_scikit_learn(frames):
    labels, truth = frames
    matrix = measured([(labels, truth)])
    valid = truth != 255
    if not valid.any():
        assert math.isnan(matrix.mean_iou())
        assert math.isnan(matrix.pixel_accuracy())
        assert math.isnan(matrix.weighted_iou())
        return
    expected = confusion_matrix(truth[valid], labels[valid], labels=range(CLASSES))
    np.testing.assert_array_equal(matrix.counts[:CLASSES, :CLASSES], expected)
    scores = jaccard_score(
        truth[valid], labels[valid], labels=range(CLASSES), average=None, zero_division=0
    )
    occurs = np.isin(range(CLASSES), [truth[valid], labels[valid]])
    scores[~occurs] = np.nan  # scikit-learn has no NaN here
    np.testing.assert_allclose(matrix.iou(), scores, rtol=1e-15)
    assert matrix.pixel_accuracy() == (truth[valid] == labels[valid]).mean()
    weighted = jaccard_score(
        truth[valid], labels[valid], labels=range(CLASSES), average="weighted", zero_division=0
    )
    assert matrix.weighted_iou() == pytest.approx(weighted, abs=1e-15)


@settings(max_examples=30, deadline=None)
@given(labelled_frames(), st.randoms(use_true_random=False))
def test_order_and_grouping_change_nothing(frames, random):
    labels, truth = frames
    whole = measured([(labels, truth)])
    rows = list(zip(labels, truth, strict=True))
    random.shuffle(rows)
    cut = random.randrange(len(rows) + 1)
    parts = [measured(rows[:cut]), measured(rows[cut:])]
    merged = functools.reduce(ConfusionMatrix.merge, parts)
    assert torch.equal(merged.counts, whole.counts)


def test_ignored_pixels_never_count():
    truth = np.full((8, 8), 255, np.uint8)
    truth[0, 0] = 2
    scores = {measured([(np.full_like(truth, c), truth)]).pixel_accuracy() for c in (0, 1, 3)}
    assert scores == {0.0}


def test_absent_classes_are_nan_and_left_out_of_the_mean():
    # 0: 2 hits, 1 miss. 1: predicted once, never there. 2: absent from both. 3: one hit.
    matrix = measured([(np.array([0, 0, 1, 3]), np.array([0, 0, 0, 3]))])
    np.testing.assert_array_equal(matrix.iou(), [2 / 3, 0, np.nan, 1])
    assert matrix.mean_iou() == pytest.approx((2 / 3 + 0 + 1) / 3, abs=1e-15)
    np.testing.assert_array_equal(matrix.class_accuracy(), [2 / 3, np.nan, np.nan, 1])
    assert matrix.mean_class_accuracy() == pytest.approx((2 / 3 + 1) / 2, abs=1e-15)


def test_weighted_iou_is_ruled_by_the_class_with_the_most_pixels():
    # 0: 8 of 10 found. 1: 0 of 2 found. 2: predicted, never there.
    truth, labels = np.array([0] * 10 + [1] * 2), np.array([0] * 8 + [1, 2] + [0, 0])
    matrix = measured([(labels, truth)])
    assert matrix.weighted_iou() == pytest.approx((10 * 8 / 12 + 2 * 0) / 12, abs=1e-15)
    assert matrix.mean_iou() == pytest.approx((8 / 12 + 0 + 0) / 3, abs=1e-15)


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
@pytest.mark.parametrize("ignore", [255, -1, 1000])
def test_pixels_that_are_not_valid_are_not_looked_at(kind, ignore):
    labels, truth = np.array([[0, 1, 2, 77]], kind), np.array([[0, 0, 77, 3]], kind)
    valid = np.array([[True, True, False, False]])
    matrix = ConfusionMatrix(CLASSES, ignore)
    matrix.update(labels, truth, valid=valid)
    assert matrix.counts.sum() == 2
    matrix.update(labels, truth, valid=~valid & False)
    assert matrix.counts.sum() == 2
    with pytest.raises(ValueError, match="got 77"):
        matrix.update(labels, truth, valid=~valid)
    with pytest.raises(ValueError, match=r"valid must be \(1, 4\) bool, got \(1, 3\)"):
        matrix.update(labels, truth, valid=valid[:, 1:])
    with pytest.raises(ValueError, match=r"bool, got \(1, 4\) torch.uint8"):
        matrix.update(labels, truth, valid=valid.astype(np.uint8))


@pytest.mark.parametrize("num_classes", [2, 200, 256, 300])
@pytest.mark.parametrize("ignore", [255, -1, 1000])
def test_bytes_and_wide_integers_give_the_same_counts(num_classes, ignore):
    if 0 <= ignore < num_classes:
        return
    rng = np.random.default_rng(0)
    labels, truth = rng.integers(0, min(num_classes, 256), (2, 50), dtype=np.uint8)
    if ignore == 255:
        truth[::7] = labels[::5] = ignore
    expected = np.zeros((num_classes + 1, num_classes + 1), int)
    for row, column in zip(truth, labels, strict=True):
        void = num_classes  # the last row and column
        expected[void if row == ignore else row, void if column == ignore else column] += 1
    for kind in (np.uint8, np.int64):
        matrix = ConfusionMatrix(num_classes, ignore, void_labels="miss")
        matrix.update(labels.astype(kind), truth.astype(kind))
        np.testing.assert_array_equal(matrix.counts, expected)
    # One value that is no byte, if there is such a class.
    if num_classes == 300:
        matrix.update(np.array([299]), np.array([299]))
        assert matrix.counts[299, 299] == 1


def test_void_labels_are_misses_of_the_true_class_and_false_positives_of_none():
    labels, truth = np.array([0, 255, 1, 255]), np.array([0, 0, 1, 255])
    matrix = measured([(labels, truth)], void_labels="miss")
    np.testing.assert_array_equal(matrix.iou()[:2], [0.5, 1])
    assert matrix.pixel_accuracy() == 2 / 3


def test_labels_on_void_truth_can_count_as_false_positives():
    labels, truth = np.array([0, 0, 1]), np.array([0, 255, 1])
    matrix = measured([(labels, truth)], void_truth="false_positive")
    np.testing.assert_array_equal(matrix.iou()[:2], [0.5, 1])
    assert matrix.pixel_accuracy() == 1


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.int64, torch.int64])
def test_every_integer_kind_and_memory_order_gives_the_same_counts(kind):
    rng = np.random.default_rng(0)
    labels, truth = rng.integers(0, CLASSES, (2, 6, 7))
    truth[0] = 255
    expected = measured([(labels, truth)]).counts
    if kind is torch.int64:
        pair = torch.from_numpy(labels), torch.from_numpy(truth)
    else:
        pair = labels.astype(kind)[::-1, ::-1], truth.astype(kind)[::-1, ::-1]
        pair[0].flags.writeable = False
    assert torch.equal(measured([pair]).counts, expected)


@pytest.mark.parametrize(
    ("labels", "truth", "message"),
    [
        ([0, 4], [0, 1], r"labels must be 0\.\.3, got 4"),
        ([0, -1], [0, 1], r"labels must be 0\.\.3, got -1"),
        ([0, 255], [0, 255], r'got 255; ConfusionMatrix\(\.\.\., void_labels="miss"\)'),
        ([0, 1], [0, 4], r"truth must be 0\.\.3 or 255 \(void\), got 4"),
        ([0, 1], [0, 254], "got 254"),
        ([0, 1], [0], r"got \(2,\) and \(1,\)"),
    ],
)
def test_bad_values_and_shapes_are_refused(labels, truth, message):
    matrix = ConfusionMatrix(CLASSES)
    with pytest.raises(ValueError, match=message):
        matrix.update(np.array(labels), np.array(truth))
    assert int(matrix.counts.sum()) == 0


@pytest.mark.parametrize("bad", [torch.zeros(2), np.zeros(2), torch.zeros(2) > 0, [0, 1]])
def test_anything_but_integers_is_refused(bad):
    with pytest.raises(TypeError, match="labels must be"):
        ConfusionMatrix(CLASSES).update(bad, np.zeros(2, np.uint8))


def test_settings_are_checked():
    with pytest.raises(ValueError, match="one of the 4 classes"):
        ConfusionMatrix(CLASSES, ignore=3)
    with pytest.raises(ValueError, match="at least 1"):
        ConfusionMatrix(0)
    with pytest.raises(ValueError, match="void_truth must be"):
        ConfusionMatrix(CLASSES, void_truth="fp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same settings"):
        ConfusionMatrix(CLASSES).merge(ConfusionMatrix(CLASSES, void_truth="false_positive"))


def camvid_matrix(shared, split: str, **options) -> ConfusionMatrix:
    matrix = ConfusionMatrix(11, ignore=11, void_labels="miss", **options)
    predictions = sorted((shared / "data/camvid_espnet_predictions" / split).glob("*.png"))
    for path in predictions:
        truth = shared / "data/camvid" / f"{split}annot" / path.name
        matrix.update(np.asarray(Image.open(path)), np.asarray(Image.open(truth)))
    return matrix


def test_camvid_test_anchor(shared):
    matrix = camvid_matrix(shared, "test")
    assert f"{100 * matrix.mean_iou():.2f}" == "57.17"
    assert f"{100 * matrix.mean_class_accuracy():.2f}" == "68.30"
    assert f"{100 * matrix.pixel_accuracy():.2f}" == "85.80"
    expected = "91.57 71.85 27.61 93.22 77.95 63.68 31.41 13.99 75.18 38.77 43.70"
    assert " ".join(f"{100 * v:.2f}" for v in matrix.iou().tolist()) == expected


def test_camvid_anchor_with_void_as_false_positives_and_on_val(shared):
    test = camvid_matrix(shared, "test", void_truth="false_positive")
    assert f"{100 * test.mean_iou():.2f}" == "55.65"
    assert f"{100 * camvid_matrix(shared, 'val').mean_iou():.2f}" == "70.10"


def moving_clip(seed: int, shape=(4, 9, 11)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels, whole-pixel flows to the previous frame, and validity, all at random."""
    rng = np.random.default_rng(seed)
    pairs = shape[0] - 1
    labels = torch.from_numpy(rng.integers(0, CLASSES, shape))
    flows = torch.from_numpy(rng.integers(-3, 4, (pairs, 2, *shape[1:])).astype(np.float32))
    valid = torch.from_numpy(rng.random((pairs, *shape[1:])) < 0.7)
    return labels, flows, valid


def counted_by_hand(labels, flows, valid) -> np.ndarray:
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    for t in range(1, len(labels)):
        for y, x in np.ndindex(*labels.shape[1:]):
            from_x, from_y = x + int(flows[t - 1, 0, y, x]), y + int(flows[t - 1, 1, y, x])
            inside = 0 <= from_x < labels.shape[2] and 0 <= from_y < labels.shape[1]
            if inside and valid[t - 1, y, x]:
                counts[labels[t - 1, from_y, from_x], labels[t, y, x]] += 1
    return counts


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_consistency_counts_each_pixel_along_its_flow(seed, frames):
    labels, flows, valid = moving_clip(seed, (frames, 5, 7))
    measured = TemporalConsistency(CLASSES)
    measured.update(labels, flows, valid)
    expected = counted_by_hand(labels, flows, valid)
    np.testing.assert_array_equal(measured.counts, expected)
    if expected.sum() == 0:
        assert math.isnan(measured.flicker())
        assert math.isnan(measured.mean_iou())
        return
    assert measured.flicker() == (expected.sum() - np.trace(expected)) / expected.sum()
    union = expected.sum(0) + expected.sum(1) - np.diag(expected)
    iou = np.diag(expected)[union > 0] / union[union > 0]
    assert measured.mean_iou() == pytest.approx(iou.mean(), abs=1e-15)


def test_consistency_reads_arrays_that_cannot_be_written():
    labels, flows, valid = (a.numpy() for a in moving_clip(1))
    options = {"num_classes": CLASSES}
    expected = flicker(labels, flows, valid, **options)
    for array in (labels, flows, valid):
        array.flags.writeable = False
    assert flicker(labels, flows, valid, **options) == expected


def test_consistency_of_parts_merges_to_that_of_the_whole():
    labels, flows, valid = moving_clip(0)
    whole = TemporalConsistency(CLASSES)
    whole.update(labels, flows, valid)
    # As a stream: two frames at a time, in any order.
    pairs = []
    for t in (2, 0, 1):
        pair = TemporalConsistency(CLASSES)
        pair.update(labels[t : t + 2], flows[t : t + 1], valid[t : t + 1])
        pairs.append(pair)
    merged = functools.reduce(TemporalConsistency.merge, pairs)
    assert torch.equal(merged.counts, whole.counts)
    options = {"num_classes": CLASSES}
    assert temporal_consistency(labels, flows, valid, **options) == whole.mean_iou()
    assert flicker(labels, flows, valid, **options) == whole.flicker()


def test_flicker_per_class_is_of_the_pixels_that_were_of_the_class():
    labels = np.array([[[0, 0, 1, 1, 2]], [[0, 1, 1, 1, 0]]])
    measured = TemporalConsistency(CLASSES)
    measured.update(labels, np.zeros((1, 2, 1, 5), np.float32))
    np.testing.assert_array_equal(measured.class_flicker(), [0.5, 0, 1, np.nan])
    assert measured.flicker() == 2 / 5


@pytest.mark.parametrize("seed", range(3))
def test_truth_of_the_synthetic_street_is_perfectly_steady_under_its_flow(seed):
    video = render(seed, 4, (64, 96))
    measured = TemporalConsistency(len(STREET_CLASSES))
    measured.update(video.labels, video.flow_backward, video.valid_backward)
    assert measured.mean_iou() == 1
    assert measured.flicker() == 0
    # Neither when motion is not accounted for, nor where things are hidden.
    still = flicker(video.labels, np.zeros_like(video.flow_backward), num_classes=11)
    everywhere = flicker(video.labels, video.flow_backward, num_classes=11)
    assert still > 0.005
    assert 0 < everywhere < still + 0.05


def test_labels_that_flip_at_random_flicker_as_often_as_they_flip():
    video = render(0, 6, (64, 96), camera="still")
    rng = np.random.default_rng(0)
    flips = rng.random(video.labels.shape) < 0.1
    labels = np.where(flips, 10 - video.labels.clip(0, 10), video.labels)
    measured = flicker(labels, video.flow_backward, video.valid_backward, num_classes=11)
    # A pixel keeps its class if neither or both of its two frames flip it.
    assert measured == pytest.approx(2 * 0.1 * 0.9, abs=0.01)


@pytest.mark.parametrize(
    ("labels", "flows", "valid", "message"),
    [
        ((3, 4, 5), (3, 2, 4, 5), None, "flows_t_to_previous"),
        ((4, 5), (1, 2, 4, 5), None, r"labels must be \(T, H, W\)"),
        ((3, 4, 5), (2, 2, 4, 6), None, "of one size"),
        ((3, 4, 5), (2, 2, 4, 5), (2, 4, 4), r"valid must be \(2, 4, 5\) bool"),
    ],
)
def test_clips_that_do_not_fit_are_refused(labels, flows, valid, message):
    mask = None if valid is None else np.ones(valid, bool)
    with pytest.raises(ValueError, match=message):
        TemporalConsistency(CLASSES).update(
            np.zeros(labels, np.uint8), np.zeros(flows, np.float32), mask
        )


def test_labels_out_of_range_are_refused_by_consistency():
    labels = np.array([[[0, 1]], [[0, 4]]])
    with pytest.raises(ValueError, match="labels must be"):
        temporal_consistency(labels, np.zeros((1, 2, 1, 2), np.float32), num_classes=CLASSES)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_flow_that_is_not_finite_is_refused_even_where_it_does_not_count(value):
    labels, flows, valid = moving_clip(0)
    flows[1, 0, 2, 3] = value
    valid[1, 2, 3] = False
    measured = TemporalConsistency(CLASSES)
    with pytest.raises(ValueError, match=r"finite floats.*NaN or inf.*valid=False"):
        measured.update(labels, flows, valid)
    with pytest.raises(ValueError, match=r"finite floats in pixels, got torch.int64;"):
        measured.update(labels, torch.zeros_like(flows).long())
    assert measured.counts.sum() == 0


@pytest.mark.parametrize("ignore", [255, -1, 1000])
def test_void_labels_count_in_neither_frame(ignore):
    labels = np.array([[[0, 0, 1, 1]], [[0, 1, 1, 1]]])
    flows = np.zeros((1, 2, 1, 4), np.float32)
    measured = TemporalConsistency(CLASSES, ignore)
    measured.update(labels.astype(np.uint8), flows)
    assert measured.counts.sum() == 4
    labels[0, 0, 0] = labels[1, 0, 3] = ignore
    measured.update(labels, flows)
    assert measured.counts[:2, :2].tolist() == [[1, 2], [0, 3]]
