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

from vidseg.metrics import ConfusionMatrix

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
