"""Flow: one direction, one warp, exact for whole pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.flow import DIS, in_frame, warp

SIZES = st.tuples(st.integers(1, 21), st.integers(1, 21))


def images(seed: int, *shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def constant_flow(x: float, y: float, size: tuple[int, int], batch: int = 1) -> torch.Tensor:
    return torch.tensor([x, y], dtype=torch.float32).view(1, 2, 1, 1).expand(batch, 2, *size)


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(1, 3), st.integers(0, 99))
def test_zero_flow_is_the_identity(size, batch, seed):
    image = images(seed, batch, 3, *size)
    flow = constant_flow(0, 0, size, batch)
    assert torch.equal(warp(image, flow), image)
    assert torch.equal(warp((image * 9).long(), flow, mode="nearest"), (image * 9).long())
    assert bool(in_frame(flow).all())


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(-25, 25), st.integers(-25, 25), st.integers(0, 99))
def test_whole_pixel_flow_is_exact_and_repeats_the_border(size, right, down, seed):
    height, width = size
    image = images(seed, 1, 2, *size)
    flow = constant_flow(right, down, size)
    rows = np.clip(np.arange(height) + down, 0, height - 1)
    columns = np.clip(np.arange(width) + right, 0, width - 1)
    expected = image[:, :, rows][:, :, :, columns]
    assert torch.equal(warp(image, flow), expected)
    assert torch.equal(warp(image, flow, mode="nearest"), expected)
    inside = (rows == np.arange(height) + down)[:, None] & (columns == np.arange(width) + right)
    np.testing.assert_array_equal(in_frame(flow)[0], inside)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 999))
def test_bilinear_equals_the_sum_of_four_neighbours(size, seed):
    height, width = size
    image = images(seed, 1, 1, *size, dtype=torch.float64)
    flow = (images(seed + 1, 1, 2, *size, dtype=torch.float64) - 0.5) * 12
    y, x = np.mgrid[:height, :width] + flow[0].flip(0).numpy()
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    expected = 0.0
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = abs(1 - right - (x - left)) * abs(1 - down - (y - top))
        row, column = np.clip(top + down, 0, height - 1), np.clip(left + right, 0, width - 1)
        expected = expected + share * image[0, 0].numpy()[row, column]
    np.testing.assert_allclose(warp(image, flow)[0, 0], expected, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(0, 999))
def test_nearest_labels_are_labels_of_s(size, seed):
    labels = (images(seed, 2, *size) * 5).to(torch.uint8)
    flow = (images(seed + 1, 2, 2, *size) - 0.5) * 9
    warped = warp(labels, flow, mode="nearest")
    assert warped.dtype == torch.uint8
    assert warped.shape == labels.shape
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32) + flow[0].flip(0).numpy()
    row = np.clip(np.floor(y + np.float32(0.5)), 0, height - 1).astype(int)
    column = np.clip(np.floor(x + np.float32(0.5)), 0, width - 1).astype(int)
    np.testing.assert_array_equal(warped[0], labels[0].numpy()[row, column])


def test_batch_axis_can_be_left_out():
    image, flow = images(0, 2, 3, 5, 7), (images(1, 2, 2, 5, 7) - 0.5) * 6
    assert torch.equal(warp(image[1], flow[1]), warp(image, flow)[1])
    assert torch.equal(warp(image[1, 0], flow[1]), warp(image, flow)[1, 0])
    assert torch.equal(in_frame(flow[1]), in_frame(flow)[1])


def test_gradients_reach_image_and_flow():
    image = images(0, 1, 2, 5, 6, dtype=torch.float64).requires_grad_()
    flow = ((images(1, 1, 2, 5, 6, dtype=torch.float64) - 0.5) * 3).requires_grad_()
    assert torch.autograd.gradcheck(warp, (image, flow))


def test_half_precision_counts_every_column():
    row = torch.arange(3000.0).half().view(1, 1, 1, 3000)
    moved = warp(row, constant_flow(1, 0, (1, 3000)).half())
    assert torch.equal(moved[..., :-1], row[..., 1:])


def test_labels_are_never_blended():
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    with pytest.raises(TypeError, match="never blended"):
        warp(labels, torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize(
    ("image", "flow", "message"),
    [
        ((1, 3, 4, 4), (1, 3, 4, 4), "must be"),
        ((1, 3, 4, 4), (1, 2, 4, 5), "agree in B, H and W"),
        ((2, 3, 4, 4), (1, 2, 4, 4), "agree in B, H and W"),
        ((1, 1, 3, 4, 4), (1, 2, 4, 4), "agree in B, H and W"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(image, flow, message):
    with pytest.raises(ValueError, match=message):
        warp(torch.zeros(image), torch.zeros(flow))


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="bicubic"):
        warp(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 2), mode="bicubic")  # type: ignore[arg-type]


def test_dis_finds_a_shift_and_points_from_t_into_s():
    cv2 = pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    image_t = cv2.GaussianBlur(noise, (9, 9), 2)
    image_s = np.roll(image_t, (1, 3), axis=(0, 1))
    flow = DIS()(image_t, image_s)
    assert flow.shape == (2, 64, 96)
    assert flow.dtype == torch.float32
    inner = flow[:, 12:-12, 12:-12]
    assert inner[0].median() == pytest.approx(3, abs=0.1)
    assert inner[1].median() == pytest.approx(1, abs=0.1)
    s, t = (torch.from_numpy(i).permute(2, 0, 1).float() for i in (image_s, image_t))
    error = (warp(s, flow) - t)[:, 12:-12, 12:-12].abs().mean()
    assert error < 0.1 * (s - t)[:, 12:-12, 12:-12].abs().mean()


def test_dis_is_a_value_and_names_itself():
    pytest.importorskip("cv2")
    assert DIS() == DIS("medium")
    assert DIS("fast").name.startswith("dis-fast (opencv ")
    with pytest.raises(ValueError, match="ultrafast, fast, medium"):
        DIS("slow")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uint8 RGB"):
        DIS()(np.zeros((64, 96), np.uint8), np.zeros((64, 96), np.uint8))
    with pytest.raises(ValueError, match="one size"):
        DIS()(np.zeros((64, 96, 3), np.uint8), np.zeros((64, 95, 3), np.uint8))
    with pytest.raises(ValueError, match="at least 12 px"):
        DIS()(np.zeros((11, 96, 3), np.uint8), np.zeros((11, 96, 3), np.uint8))
