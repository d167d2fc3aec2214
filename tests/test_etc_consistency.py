"""The official form of temporal consistency: against a literal transcription, pixel by pixel."""

import functools
import math

import numpy as np
import pytest
import torch

from vidseg.metrics import EtcTemporalConsistency, TemporalConsistency, temporal_consistency

CLASSES = 9


def random_clip(seed: int, num_frames: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Labels in blocks, and flow with any fraction that also leaves the frame."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES - 1, (num_frames, 3, 4)).repeat(3, 1).repeat(3, 2)
    flows = rng.normal(0, 2.5, (num_frames - 1, 2, 9, 12)).astype(np.float32)
    return labels, flows


def counts_by_definition(labels, flows):
    counts = np.zeros((CLASSES, CLASSES), int)
    single = np.float32
    for t, (u, v) in enumerate(flows):
        height, width = u.shape
        for row in range(height):
            for column in range(width):
                x, y = single(column) + u[row, column], single(row) + v[row, column]
                left, top = math.floor(x), math.floor(y)
                a, b = float(x - single(left)), float(y - single(top))
                value = single(0)
                for down, across, weight in (
                    (0, 0, (1 - a) * (1 - b)),
                    (0, 1, a * (1 - b)),
                    (1, 0, (1 - a) * b),
                    (1, 1, a * b),
                ):
                    source_row = min(max(top + down, 0), height - 1)
                    source_column = min(max(left + across, 0), width - 1)
                    value += single(weight * float(labels[t + 1, source_row, source_column]))
                counts[labels[t, row, column], int(value)] += 1
    return counts


def measured(clips) -> EtcTemporalConsistency:
    consistency = EtcTemporalConsistency(CLASSES)
    for labels, flows in clips:
        consistency.update(labels, flows)
    return consistency


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(seed):
    labels, flows = random_clip(seed)
    consistency = measured([(labels, flows)])
    expected = counts_by_definition(labels, flows)
    np.testing.assert_array_equal(consistency.counts, expected)
    hits = np.diagonal(expected)
    union = expected.sum(0) + expected.sum(1) - hits
    # The last class never occurs and counts 0.
    assert union[-1] == 0
    assert consistency.mean_iou() == pytest.approx((hits / (union + 1e-10)).mean(), abs=1e-15)
    one_call = temporal_consistency(
        labels, flows_t_to_next=flows, num_classes=CLASSES, protocol="etc-official"
    )
    assert one_call == consistency.mean_iou()


def test_order_and_grouping_change_nothing():
    clips = [random_clip(seed) for seed in range(5)]
    whole = measured(clips)
    assert torch.equal(measured(clips[::-1]).counts, whole.counts)
    parts = [measured(clips[3:]), measured([]), measured(clips[:3])]
    assert torch.equal(functools.reduce(EtcTemporalConsistency.merge, parts).counts, whole.counts)
    labels, flows = clips[0]
    pairs = [(labels[t : t + 2], flows[t : t + 1]) for t in range(len(flows))]
    assert torch.equal(measured(pairs).counts, measured(clips[:1]).counts)


def test_steady_labels_score_below_one_here_and_one_by_our_own_rules():
    labels = np.broadcast_to(np.arange(8).repeat(2), (2, 6, 16))
    shift = np.zeros((1, 2, 6, 16), np.float32)
    assert measured([(labels, shift)]).mean_iou() == pytest.approx(8 / 9)  # one class is absent
    shift[:, 0] = 0.25
    # Every second pixel is between two classes; cut off, the lower one stays.
    assert measured([(labels, shift)]).mean_iou() == pytest.approx(8 / 9)
    assert measured([(labels, -shift)]).mean_iou() < 0.5
    ours = TemporalConsistency(CLASSES)
    ours.update(labels, -shift)
    assert ours.mean_iou() == 1


@pytest.mark.parametrize("num_frames", [0, 1])
def test_fewer_than_two_frames_have_no_figure(num_frames):
    empty = np.zeros((num_frames, 4, 5), int), np.zeros((0, 2, 4, 5), np.float32)
    assert math.isnan(measured([empty]).mean_iou())


def test_far_targets_repeat_the_border():
    labels, flows = random_clip(0)
    flows[:, 0], flows[:, 1] = 1e30, -1e30
    expected = labels[1:, 0, -1]
    counts = measured([(labels, flows)]).counts
    assert counts.sum(0).nonzero().flatten().tolist() == sorted(set(expected.tolist()))


@pytest.mark.parametrize(
    ("labels", "flows", "message"),
    [
        (np.zeros((2, 4, 5), int), np.zeros((1, 2, 4, 6)), r"got \(2, 4, 5\) and \(1, 2, 4, 6\)"),
        (np.zeros((2, 4, 5), int), np.zeros((2, 2, 4, 5)), "T-1"),
        (np.zeros((4, 5), int), np.zeros((1, 2, 4, 5)), r"must be \(T, H, W\)"),
        (np.full((2, 4, 5), CLASSES), np.zeros((1, 2, 4, 5)), r"0\.\.8, got 9"),
        (np.full((2, 4, 5), -1), np.zeros((1, 2, 4, 5)), r"0\.\.8, got -1"),
        (np.full((2, 4, 5), 255), np.zeros((1, 2, 4, 5)), "no void labels"),
        (np.zeros((2, 4, 5), int), np.full((1, 2, 4, 5), np.nan), "finite"),
        (np.zeros((2, 4, 5), int), np.zeros((1, 2, 4, 5), int), "finite floats"),
    ],
)
def test_bad_clips_are_refused_and_leave_no_trace(labels, flows, message):
    consistency = EtcTemporalConsistency(CLASSES)
    with pytest.raises(ValueError, match=message):
        consistency.update(labels, flows)
    assert int(consistency.counts.sum()) == 0


def test_each_protocol_wants_its_own_direction_of_flow():
    labels, flows = random_clip(0)
    with pytest.raises(ValueError, match="needs flows_t_to_next"):
        temporal_consistency(labels, flows, num_classes=CLASSES, protocol="etc-official")
    with pytest.raises(ValueError, match="needs flows_t_to_previous"):
        temporal_consistency(labels, flows_t_to_next=flows, num_classes=CLASSES)
    with pytest.raises(ValueError, match="protocol must be"):
        temporal_consistency(labels, flows, num_classes=CLASSES, protocol="etc")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at most 255"):
        EtcTemporalConsistency(256)
    with pytest.raises(ValueError, match="same settings"):
        EtcTemporalConsistency(3).merge(EtcTemporalConsistency(4))
