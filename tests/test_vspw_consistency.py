"""VSPW's form of temporal consistency: against its description, pixel by pixel, and grid_sample."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.metrics import (
    EtcTemporalConsistency,
    TemporalConsistency,
    VspwTemporalConsistency,
    temporal_consistency,
)

CLASSES = 6


def random_clip(seed: int, num_frames: int = 3, size=(9, 12)) -> tuple[np.ndarray, np.ndarray]:
    """Labels without the last class, and flow with any fraction that also leaves the frame."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES - 1, (num_frames, *size), dtype=np.uint8)
    flows = rng.normal(0, 2.5, (max(num_frames - 1, 0), 2, *size)).astype(np.float32)
    return labels, flows


def counts_by_description(labels, flows):
    """Each pixel by itself, every step rounded to float32."""
    counts, single = np.zeros((CLASSES, CLASSES), int), np.float32
    height, width = labels.shape[1:]
    for t, row, column in np.ndindex(len(flows), height, width):
        warped, nearest = 0, []
        u, v = flows[t, :, row, column]
        for place, moved, side in ((column, u, width), (row, v, height)):
            target = single(place) + moved
            grid = single(2) * target / single(max(side - 1, 1)) - single(1)
            source = ((grid + single(1)) * single(side) - single(1)) / single(2)
            nearest.append(round(float(source)))  # Python too rounds halves to the even number
        if 0 <= nearest[0] < width and 0 <= nearest[1] < height:
            warped = labels[t + 1, nearest[1], nearest[0]]
        counts[labels[t, row, column], warped] += 1
    return counts


def measured(labels, flows) -> VspwTemporalConsistency:
    consistency = VspwTemporalConsistency(CLASSES)
    consistency.update(labels, flows)
    return consistency


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.booleans()
)
def test_equals_the_description(seed, num_frames, height, width, whole_pixels):
    labels, flows = random_clip(seed, num_frames, (height, width))
    flows = flows.round() if whole_pixels else flows
    consistency = measured(labels, flows)
    expected = counts_by_description(labels, flows)
    np.testing.assert_array_equal(consistency.counts, expected)
    if expected.sum() == 0:
        assert math.isnan(consistency.mean_iou())
        return
    hits, union = np.diagonal(expected), expected.sum(0) + expected.sum(1) - np.diagonal(expected)
    occurs = union > 0
    assert not occurs[-1]
    mean = (hits[occurs] / union[occurs]).mean()
    assert consistency.mean_iou() == pytest.approx(mean, abs=1e-15)
    one_call = temporal_consistency(
        labels, flows_t_to_next=flows, num_classes=CLASSES, protocol="vspw-official"
    )
    assert one_call == consistency.mean_iou()


@pytest.mark.parametrize("size", [(48, 64), (33, 47), (1, 1), (120, 213)])
@pytest.mark.parametrize("motion_px", [0, 3, 10_000])
def test_labels_come_from_where_grid_sample_takes_them(size, motion_px):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 124, (2, *size), generator=generator)
    flow = motion_px * torch.randn(2, *size, generator=generator)
    height, width = size
    x = (flow[0] + torch.arange(width)) * 2 / max(width - 1, 1) - 1
    y = (flow[1] + torch.arange(height)[:, None]) * 2 / max(height - 1, 1) - 1
    warped = F.grid_sample(
        labels[1].float()[None, None],
        torch.stack((x, y), -1)[None],
        mode="nearest",
        padding_mode="zeros",
        align_corners=False,
    )
    consistency = VspwTemporalConsistency(124)
    consistency.update(labels, flow[None])
    cells = labels[0] * 124 + warped[0, 0].long()
    assert torch.equal(consistency.counts.flatten(), cells.flatten().bincount(minlength=124**2))


def test_what_stands_still_loses_its_last_row_and_column_where_the_side_is_even():
    labels = np.ones((2, 6, 8), np.uint8)
    assert measured(labels, np.zeros((1, 2, 6, 8))).counts[1].tolist()[:2] == [13, 35]
    assert measured(labels[:, 1:, 1:], np.zeros((1, 2, 5, 7))).mean_iou() == 1
    ours = TemporalConsistency(CLASSES)
    ours.update(labels, np.zeros((1, 2, 6, 8)))
    assert ours.mean_iou() == 1


def test_far_targets_are_class_0():
    labels, flows = random_clip(0)
    flows[:, 0] = 1e30
    assert int(measured(labels, flows).counts[:, 1:].sum()) == 0


@pytest.mark.parametrize(
    ("labels", "flows", "message"),
    [
        (np.zeros((2, 4, 5), int), np.zeros((1, 2, 4, 6)), r"got \(2, 4, 5\) and \(1, 2, 4, 6\)"),
        (np.full((2, 4, 5), CLASSES), np.zeros((1, 2, 4, 5)), r"0\.\.5, got 6"),
        (np.full((2, 4, 5), 255), np.zeros((1, 2, 4, 5)), "no void labels"),
        (np.zeros((2, 4, 5), int), np.full((1, 2, 4, 5), np.nan), "finite"),
    ],
)
def test_bad_clips_are_refused_and_leave_no_trace(labels, flows, message):
    consistency = VspwTemporalConsistency(CLASSES)
    with pytest.raises(ValueError, match=message):
        consistency.update(labels, flows)
    assert int(consistency.counts.sum()) == 0


def test_protocols_do_not_mix():
    labels, flows = random_clip(0)
    with pytest.raises(ValueError, match='"vspw-official" needs flows_t_to_next'):
        temporal_consistency(labels, flows, num_classes=CLASSES, protocol="vspw-official")
    with pytest.raises(TypeError, match="only the same protocol"):
        VspwTemporalConsistency(3).merge(EtcTemporalConsistency(3))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="same settings"):
        VspwTemporalConsistency(3).merge(VspwTemporalConsistency(4))
