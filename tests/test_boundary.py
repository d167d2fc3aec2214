"""The boundary band: against its definition, pixel by pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.metrics import ConfusionMatrix, boundary_band


def band_by_definition(truth, width_px, ignore):
    band = np.zeros(truth.shape, bool)
    for y, x in np.ndindex(*truth.shape):
        if truth[y, x] == ignore:
            continue
        rows = slice(max(0, y - width_px), y + width_px + 1)
        around = truth[rows, max(0, x - width_px) : x + width_px + 1]
        band[y, x] = ((around != truth[y, x]) & (around != ignore)).any()
    return band


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    width_px=st.sampled_from([1, 2, 3, 4, 5, 7, 8, 30]),
    kind=st.sampled_from([np.uint8, np.int16, np.int64]),
    ignore=st.sampled_from([255, 0, -1, 11]),
)
def test_equals_the_definition(seed, size, width_px, kind, ignore):
    rng = np.random.default_rng(seed)
    truth = np.full(size, 1, kind)
    for value in (0, 2, 200 if kind == np.uint8 else -7):
        truth[rng.random(size) < 0.04] = value
    if ignore >= 0 or kind != np.uint8:
        truth[rng.random(size) < 0.2] = ignore
    band = boundary_band(truth, width_px, ignore)
    np.testing.assert_array_equal(band, band_by_definition(truth, width_px, ignore))


def test_a_straight_boundary_has_a_band_of_its_width_on_either_side():
    truth = np.zeros((20, 40), np.uint8)
    truth[:, 17:] = 1
    columns = np.flatnonzero(boundary_band(truth)[0])
    assert columns.tolist() == list(range(12, 22))


def test_void_draws_no_boundary_and_hides_none():
    row = torch.tensor([[0, 0, 255, 255, 1, 1]])
    assert boundary_band(row, 1).sum() == 0
    assert boundary_band(row, 3)[0].tolist() == [False, True, False, False, True, False]
    assert boundary_band(row.fill_(255)).sum() == 0


def test_frames_of_a_video_are_apart():
    truth = torch.stack([torch.zeros(4, 5, dtype=torch.uint8), torch.ones(4, 5).byte()])
    assert boundary_band(truth).sum() == 0
    assert boundary_band(truth[:, :0]).shape == (2, 0, 5)


def test_boundary_iou_counts_the_band_and_nothing_else():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (4, 5)).repeat(6, 0).repeat(6, 1).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    labels = rng.integers(0, 3, truth.shape, dtype=np.uint8)
    band = boundary_band(truth, 2)
    inside, outside, whole = (ConfusionMatrix(3) for _ in range(3))
    inside.update(labels, truth, valid=band)
    outside.update(labels, truth, valid=~band)
    whole.update(labels, truth)
    assert 0 < int(inside.counts.sum()) < int(whole.counts.sum())
    assert torch.equal(inside.merge(outside).counts, whole.counts)
    by_hand = ConfusionMatrix(3)
    by_hand.update(labels[band], truth[band])
    again = ConfusionMatrix(3)
    again.update(labels, truth, valid=band)
    assert torch.equal(again.counts, by_hand.counts)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"must be \(\.\.\., H, W\), got \(4,\)"):
        boundary_band(np.zeros(4, int))
    with pytest.raises(ValueError, match="width_px must be 1 or more, got 0"):
        boundary_band(np.zeros((4, 4), int), 0)
    with pytest.raises(TypeError, match="truth must be integers"):
        boundary_band(np.zeros((4, 4)))
