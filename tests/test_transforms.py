"""Transforms over a clip, beside an independent plain transcription of the published rules."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.data import EvalTransform, TrainTransform
from vidseg.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Photometric,
    is_varied,
    resize_labels,
    size_within,
)

NEUTRAL = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def make_clip(length: int = 3, size: tuple[int, int] = (24, 40), seed: int = 0):
    """Frames whose red and green are the pixel's row and column; labels of four classes."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    frames = []
    for t in range(length):
        frames.append(np.stack([rows, columns, np.full(size, t)], axis=-1).astype(np.uint8))
    return frames, rng.integers(0, 4, size, dtype=np.uint8)


def plain_pipeline(frames, label, seed, *, crop, base, scale, share):
    """Resize, crop and flip written out again, one step after the other, with the same draws."""
    rng = np.random.default_rng(seed)
    ratio = rng.uniform(scale[0], scale[1])
    box_width, box_height = int(base[0] * ratio), int(base[1] * ratio)
    height, width = label.shape
    factor = min(
        max(box_width, box_height) / max(height, width),
        min(box_width, box_height) / min(height, width),
    )
    height, width = int(height * factor + 0.5), int(width * factor + 0.5)
    frames = [cv2.resize(f, (width, height), interpolation=cv2.INTER_LINEAR) for f in frames]
    label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)

    def draw():
        top = int(rng.integers(0, max(height - crop[0], 0) + 1))
        left = int(rng.integers(0, max(width - crop[1], 0) + 1))
        return top, left

    def good(top, left):
        inside = label[top : top + crop[0], left : left + crop[1]]
        values, counts = np.unique(inside[inside != 255], return_counts=True)
        return len(values) > 1 and counts.max() / counts.sum() < share

    top, left = draw()
    redraws = 0
    while not good(top, left) and redraws < 10:
        top, left = draw()
        redraws += 1
    frames = [f[top : top + crop[0], left : left + crop[1]] for f in frames]
    label = label[top : top + crop[0], left : left + crop[1]]
    if rng.random() < 0.5:
        frames, label = [np.fliplr(f) for f in frames], np.fliplr(label)
    down, right = crop[0] - label.shape[0], crop[1] - label.shape[1]
    padded = []
    for f in frames:
        normal = (f.astype(np.float32) - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
        padded.append(np.pad(normal, ((0, down), (0, right), (0, 0))).transpose(2, 0, 1))
    return np.stack(padded), np.pad(label, ((0, down), (0, right)), constant_values=255)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 40), st.integers(8, 40), st.sampled_from([0.3, 0.75]))
def test_geometry_agrees_with_the_rules_written_out(seed, height, width, share):
    frames, label = make_clip(seed=seed)
    label[:, :25] = np.where(label[:, :25] == 1, 255, 2)
    transform = TrainTransform(
        (height, width), (50, 30), (0.5, 2.0), max_class_share=share, photometric="none"
    )
    got_frames, got_label = transform(frames, label, np.random.default_rng(seed))
    want_frames, want_label = plain_pipeline(
        frames, label, seed, crop=(height, width), base=(50, 30), scale=(0.5, 2.0), share=share
    )
    np.testing.assert_allclose(got_frames.numpy(), want_frames, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(got_label.numpy(), want_label)


def test_one_geometric_draw_for_all_frames_and_the_label():
    frames, _ = make_clip(length=4)
    label = frames[0][..., 0]
    transform = TrainTransform((16, 20), photometric="none", **NEUTRAL)
    for seed in range(20):
        clip, target = transform(frames, label, np.random.default_rng(seed))
        for frame in clip[1:]:
            assert torch.equal(frame[:2], clip[0, :2])
        valid = target != 255
        assert (clip[0, 0][valid] - target[valid]).abs().max() <= 2.0, "label and frame part ways"


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3000))
def test_size_within_a_box(height, width, box_height, box_width):
    got = size_within((height, width), (box_height, box_width))
    factor = min(
        max(box_height, box_width) / max(height, width),
        min(box_height, box_width) / min(height, width),
    )
    assert got == (max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1))
    assert size_within(got, got) == got


def test_published_sizes():
    assert size_within((1024, 2048), (1024, 2048)) == (1024, 2048)
    assert size_within((720, 960), (int(720 * 1.37), int(960 * 1.37))) == (986, 1315)


def test_one_class_or_too_much_of_it_is_not_varied():
    labels = np.zeros((4, 10), np.uint8)
    assert not is_varied(labels, 0.75)
    assert not is_varied(np.full((4, 4), 255, np.uint8), 0.75)
    labels[0] = 1
    assert not is_varied(labels, 0.75), "exactly the share is too much"
    labels[1, 0] = 1
    assert is_varied(labels, 0.75)
    labels[2:] = 255
    assert is_varied(labels, 0.75), "ignored pixels do not count"
    labels[labels == 1] = 255
    assert not is_varied(labels, 0.75)


def test_crops_are_redrawn_until_two_classes_are_in():
    label = np.zeros((20, 200), np.uint8)
    label[:, 100:] = 1
    frames = [np.zeros((20, 200, 3), np.uint8)]
    one = {"scale": (1.0, 1.0), "photometric": "none"}
    picky, plain = (
        sum(
            len(transform(frames, label, np.random.default_rng(seed))[1].unique()) == 2
            for seed in range(100)
        )
        for transform in (
            TrainTransform((20, 40), max_class_share=0.9, **one),
            TrainTransform((20, 40), max_class_share=1.0, **one),
        )
    )
    assert plain < 40
    assert picky > 80


def test_a_crop_bigger_than_the_image_only_pads():
    frames, label = make_clip(length=2, size=(10, 12))
    transform = TrainTransform((16, 20), scale=(1, 1), flip=0.0, photometric="none", **NEUTRAL)
    clip, target = transform(frames, label, np.random.default_rng(0))
    assert clip.shape == (2, 3, 16, 20)
    np.testing.assert_array_equal(clip[1, :, :10, :12].permute(1, 2, 0).numpy(), frames[1])
    np.testing.assert_array_equal(target[:10, :12].numpy(), label)
    assert (target[10:] == 255).all()
    assert (target[:, 12:] == 255).all()
    assert clip[:, :, 10:].abs().max() == 0
    assert clip[:, :, :, 12:].abs().max() == 0


def test_padding_is_zero_after_normalisation():
    frames, label = make_clip(length=1, size=(4, 4))
    clip, _ = TrainTransform((8, 8), scale=(1, 1))(frames, label, np.random.default_rng(0))
    assert clip[:, :, 4:].abs().max() == 0
    assert clip[:, :, :4, :4].abs().min() > 0


def test_flip_always_and_never():
    frames, label = make_clip(length=2)
    still = {"crop": (24, 40), "scale": (1, 1), "photometric": "none", **NEUTRAL}
    rng = np.random.default_rng(0)
    straight, target = TrainTransform(flip=0.0, **still)(frames, label, rng)
    turned, turned_target = TrainTransform(flip=1.0, **still)(frames, label, rng)
    assert torch.equal(straight.flip(-1), turned)
    assert torch.equal(target.flip(-1), turned_target)


@pytest.mark.parametrize(("photometric", "is_shared"), [("clip", True), ("frame", False)])
def test_noise_per_clip_or_per_frame(photometric, is_shared):
    frame = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    label = np.zeros((12, 16), np.uint8)
    transform = TrainTransform((12, 16), scale=(1, 1), flip=0.0, photometric=photometric)
    same = [
        torch.equal(clip[0], clip[1])
        for clip, _ in (
            transform([frame, frame], label, np.random.default_rng(seed)) for seed in range(10)
        )
    ]
    assert all(same) if is_shared else sum(same) <= 2


def test_noise_step_by_step():
    image = np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    as_float = image.astype(np.float64)

    def cut(values):
        return np.clip(values, 0, 255).astype(np.uint8)

    np.testing.assert_array_equal(Photometric()(image), image)
    np.testing.assert_array_equal(Photometric(brightness=-20.3)(image), cut(as_float - 20.3))
    np.testing.assert_array_equal(Photometric(contrast=1.3)(image), cut(as_float * 1.3))
    both = Photometric(brightness=30.0, contrast=0.6)(image)
    np.testing.assert_array_equal(both, cut(cut(as_float + 30) * 0.6))
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = cut(hsv[..., 1] * 0.5)
    np.testing.assert_array_equal(
        Photometric(saturation=0.5)(image), cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    )
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) - 17) % 180
    np.testing.assert_array_equal(Photometric(hue=-17)(image), cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    early = Photometric(contrast=1.4, contrast_first=True, saturation=0.7)(image)
    late = Photometric(contrast=1.4, contrast_first=False, saturation=0.7)(image)
    assert not np.array_equal(early, late)
    np.testing.assert_array_equal(
        late, Photometric(contrast=1.4)(Photometric(saturation=0.7)(image))
    )


def test_noise_is_drawn_from_the_published_ranges():
    draws = [Photometric.draw(np.random.default_rng(seed)) for seed in range(1000)]
    for name, low, high in (
        ("brightness", -32, 32),
        ("contrast", 0.5, 1.5),
        ("saturation", 0.5, 1.5),
        ("hue", -18, 18),
    ):
        values = [getattr(d, name) for d in draws if getattr(d, name) is not None]
        assert 430 < len(values) < 570, name
        assert low <= min(values) < low + 0.1 * (high - low), name
        assert high - 0.1 * (high - low) < max(values) <= high, name
    assert 430 < sum(d.contrast_first for d in draws) < 570


def test_evaluation_normalises_and_keeps_labels():
    frames, label = make_clip(length=2)
    clip, target = EvalTransform()(frames, label)
    want = (frames[1].astype(np.float64) - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(clip[1].permute(1, 2, 0).numpy(), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(target.numpy(), label)


def test_bad_clips_are_refused():
    frames, label = make_clip()
    rng = np.random.default_rng(0)
    for transform in (TrainTransform((8, 8)), EvalTransform()):
        with pytest.raises(ValueError, match=r"uint8 RGB, got \(24, 40, 3\) float32"):
            transform([frames[0].astype(np.float32)], label, rng)
        with pytest.raises(ValueError, match="one size"):
            transform([frames[0], frames[0][:8]], label, rng)
        with pytest.raises(ValueError, match=r"label must be \(H, W\) uint8 like its frame"):
            transform(frames, label[:8], rng)
        with pytest.raises(ValueError, match="at least one frame"):
            transform([], label, rng)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (0, 8)}, "crop must be"),
        ({"crop": (8, 8), "base_size": (0, 4)}, "base_size must be"),
        ({"crop": (8, 8), "scale": (2.0, 0.5)}, "scale must be a rising range"),
        ({"crop": (8, 8), "max_class_share": 0.0}, "max_class_share must lie"),
        ({"crop": (8, 8), "photometric": "video"}, "photometric must be"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainTransform(**options)


def test_labels_are_never_blended():
    with pytest.raises(TypeError, match="never blended"):
        resize_labels(np.zeros((4, 4), np.float32), (2, 2))
    label = np.random.default_rng(0).integers(0, 3, (9, 9), dtype=np.uint8) * 100
    assert set(np.unique(resize_labels(label, (31, 17))).tolist()) <= {0, 100, 200}
