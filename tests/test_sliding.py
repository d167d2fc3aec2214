"""Sliding windows against a literal loop, and as streams of their own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vidseg
from vidseg.adapters.sliding import SlidingWindow, default_stride, window_starts
from vidseg.card import Card


@given(size=st.integers(1, 300), crop=st.integers(1, 120), data=st.data())
def test_windows_cover_every_pixel_and_stay_inside(size: int, crop: int, data) -> None:
    stride = data.draw(st.integers(1, crop))
    starts = window_starts(size, crop, stride)
    seen = set()
    for start in starts:
        assert start >= 0
        seen.update(range(start, min(start + crop, size)))
    assert seen == set(range(size))
    assert all(start + min(crop, size) <= size for start in starts)
    assert list(starts) == sorted(set(starts))


def test_the_official_grids() -> None:
    assert window_starts(1024, 769, 513) == (0, 255)
    assert window_starts(2048, 769, 513) == (0, 513, 1026, 1279)
    assert window_starts(720, 640, 512) == (0, 80)
    assert window_starts(960, 640, 512) == (0, 320)
    assert window_starts(50, 64, 32) == (0,)
    assert default_stride((769, 769)) == (513, 513)


def literal(model, frames, crop, stride):
    """One window after the other, each a clip of its own, exactly as the protocol is written."""
    batch, length, _, height, width = frames.shape
    total = torch.zeros(batch, length, model.num_classes, height, width, dtype=frames.dtype)
    visits = torch.zeros(height, width, dtype=frames.dtype)
    rows = max(height - crop[0] + stride[0] - 1, 0) // stride[0] + 1
    columns = max(width - crop[1] + stride[1] - 1, 0) // stride[1] + 1
    for row in range(rows):
        for column in range(columns):
            bottom = min(row * stride[0] + crop[0], height)
            right = min(column * stride[1] + crop[1], width)
            top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
            segmentation, _ = model(frames[..., top:bottom, left:right])
            total[..., top:bottom, left:right] += segmentation.resize()
            visits[top:bottom, left:right] += 1
    return total / visits


@pytest.fixture
def model():
    torch.manual_seed(0)
    return vidseg.create("tmanet_tiny", num_classes=4, memory_frames=2).eval().double()


@pytest.mark.parametrize(
    ("crop", "stride"), [((32, 48), (20, 30)), ((40, 40), (40, 40)), ((99, 32), (99, 17))]
)
@torch.no_grad()
def test_a_clip_equals_the_literal_loop(model, crop, stride) -> None:
    frames = torch.randn(2, 3, 3, 50, 77, dtype=torch.float64)
    segmentation, _ = SlidingWindow(model, crop, stride)(frames)
    expected = literal(model, frames, crop, stride)
    torch.testing.assert_close(segmentation.logits, expected, rtol=1e-9, atol=1e-12)
    assert segmentation.image_size == (50, 77)
    assert torch.equal(segmentation.labels(), expected.argmax(2))


@torch.no_grad()
def test_a_stream_equals_the_clip(model) -> None:
    frames = torch.randn(1, 5, 3, 50, 77, dtype=torch.float64)
    windows = SlidingWindow(model, (32, 48), (20, 30))
    whole, _ = windows(frames)
    memory = None
    for t in range(5):
        segmentation, memory = windows.step(frames[:, t], memory)
        torch.testing.assert_close(
            segmentation.logits, whole.logits[:, t : t + 1], rtol=1e-9, atol=1e-12
        )
    last, _ = windows(frames, readout="last")
    torch.testing.assert_close(last.logits, whole.logits[:, -1:], rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_a_window_as_large_as_the_frame_is_the_model(model) -> None:
    frames = torch.randn(1, 2, 3, 40, 56, dtype=torch.float64)
    segmentation, _ = SlidingWindow(model, (64, 64), (64, 64))(frames)
    torch.testing.assert_close(segmentation.logits, model(frames)[0].resize())


@torch.no_grad()
def test_scores_of_half_precision_are_summed_in_float32(model) -> None:
    frames = torch.randn(1, 2, 3, 50, 77)
    half = model.bfloat16()
    segmentation, _ = SlidingWindow(half, (32, 48), (20, 30))(frames.bfloat16())
    assert segmentation.logits.dtype == torch.float32
    expected = literal(half.float(), frames.bfloat16().float(), (32, 48), (20, 30))
    torch.testing.assert_close(segmentation.logits, expected, rtol=0, atol=0.02)


def test_it_declares_what_the_model_declares(model) -> None:
    windows = SlidingWindow(model, (32, 32))
    for name in ("num_classes", "horizon", "recurrent", "causal", "period", "card"):
        assert getattr(windows, name) == getattr(model, name)
    assert windows.window_frames(7) == model.window_frames(7)
    assert windows.window_length == model.window_length


def test_impossible_windows_are_refused(model) -> None:
    for crop, stride, message in (
        ((0, 32), (1, 1), "at least 1 px"),
        ((32, 32), (32, 33), "leaves gaps"),
    ):
        with pytest.raises(ValueError, match=message):
            SlidingWindow(model, crop, stride)
    model.card = Card(size_multiple=8)
    with pytest.raises(ValueError, match="multiple of 8"):
        SlidingWindow(model, (36, 32))
    windows = SlidingWindow(model, (32, 32))
    with pytest.raises(ValueError, match="step"):
        windows(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="train on crops"):
        windows(torch.zeros(1, 1, 3, 64, 64), aux=True)


@torch.no_grad()
def test_a_memory_of_another_grid_is_refused(model) -> None:
    windows = SlidingWindow(model, (32, 32))
    _, memory = windows.step(torch.zeros(1, 3, 64, 64, dtype=torch.float64))
    with pytest.raises(ValueError, match="streams"):
        windows.step(torch.zeros(1, 3, 64, 96, dtype=torch.float64), memory)
