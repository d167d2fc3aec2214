"""Flow: one direction, one warp, exact for whole pixels."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.data.synthetic import render
from vidseg.flow import DIS, RAFT, forward_backward_consistent, in_frame, open_flow, warp

SIZES = st.tuples(st.integers(1, 21), st.integers(1, 21))


def images(seed: int, *shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def constant_flow(x: float, y: float, size: tuple[int, int], batch: int = 1) -> torch.Tensor:
    return torch.tensor([x, y], dtype=torch.float32).view(1, 2, 1, 1).expand(batch, 2, *size)


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(1, 3), st.integers(0, 99))
def test_zero_flow_is_the_identity(size, batch, seed):
    image = images(seed, batch, 3, *size)
    labels = (image * 9).long()
    flow = constant_flow(0, 0, size, batch)
    assert torch.equal(warp(image, flow), image)
    assert torch.equal(warp(labels, flow, mode="nearest"), labels)
    assert torch.equal(warp(labels, flow, mode="one-hot"), labels)
    assert bool(in_frame(flow).all())
    assert bool(forward_backward_consistent(flow, flow, tolerance_px=0).all())


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
    labels = (image * 9).to(torch.uint8)
    assert torch.equal(warp(labels, flow, mode="one-hot"), warp(labels, flow, mode="nearest"))
    inside = (rows == np.arange(height) + down)[:, None] & (columns == np.arange(width) + right)
    np.testing.assert_array_equal(in_frame(flow)[0], inside)
    consistent = forward_backward_consistent(flow, -flow, tolerance_px=0)
    np.testing.assert_array_equal(consistent[0], inside)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(-25, 25), st.integers(-25, 25), st.integers(0, 99))
def test_outside_is_zero_where_it_is_wanted(size, right, down, seed):
    image = images(seed, 1, 2, *size) + 1
    flow = constant_flow(right, down, size)
    expected = torch.where(in_frame(flow)[:, None], warp(image, flow), torch.zeros(()))
    assert torch.equal(warp(image, flow, outside="zero"), expected)
    nearest = warp((image * 9).long(), flow, "nearest", outside="zero")
    assert torch.equal(nearest == 0, expected == 0)


def test_half_outside_fades():
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    flow = constant_flow(0.25, 0, (1, 3))
    torch.testing.assert_close(
        warp(row, flow, outside="zero"), torch.tensor([[[[1.25, 2.25, 2.25]]]])
    )
    with pytest.raises(ValueError, match="outside"):
        warp(row, flow, outside="repeat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one-hot"):
        warp(row.long(), flow, "one-hot", outside="zero")


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


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 999))
def test_one_hot_is_the_argmax_of_bilinear_shares(size, seed):
    labels = (images(seed, 2, *size) * 4).to(torch.uint8)
    labels[labels == 3] = 255  # void is a label among others
    # Eighths of a pixel: shares are exact, so that equal ones are equal.
    flow = ((images(seed + 1, 2, 2, *size, dtype=torch.float64) - 0.5) * 80).round() / 8
    classes = torch.tensor([0, 1, 2, 255])
    one_hot = (labels[:, None] == classes[:, None, None]).double()
    expected = classes.numpy()[warp(one_hot, flow).numpy().argmax(1)]
    warped = warp(labels, flow, mode="one-hot")
    assert warped.dtype == torch.uint8
    np.testing.assert_array_equal(warped, expected)


@pytest.mark.parametrize("camera", ["drive", "pan", "still"])
def test_exact_flow_of_the_synthetic_street_brings_the_next_frame_back(camera):
    video = render(seed=3, num_frames=4, size=(64, 96), camera=camera, noise=False)
    frames = torch.from_numpy(video.frames).permute(0, 3, 1, 2).float()
    labels = torch.from_numpy(video.labels)
    for there, flow, valid, t, s in (
        ("next", video.flow_forward, video.valid, slice(None, -1), slice(1, None)),
        ("previous", video.flow_backward, video.valid_backward, slice(1, None), slice(None, -1)),
    ):
        flow, valid = torch.from_numpy(flow), torch.from_numpy(valid)
        warped = warp(labels[s], flow, mode="nearest")
        assert torch.equal(warped[valid], labels[t][valid]), there
        error = (warp(frames[s], flow) - frames[t]).abs().mean(1)[valid].mean()
        still = (frames[s] - frames[t]).abs().mean(1)[valid].mean()
        assert error < 0.5 * still, there
        if camera == "pan":  # whole pixels, but for what moves by itself
            assert error < 0.01 * still


@pytest.mark.parametrize("camera", ["drive", "pan", "still"])
def test_forward_backward_consistency_is_visibility(camera):
    video = render(seed=3, num_frames=4, size=(64, 96), camera=camera)
    flow, back = torch.from_numpy(video.flow_forward), torch.from_numpy(video.flow_backward)
    visible = torch.from_numpy(video.valid)
    consistent = forward_backward_consistent(flow, back)
    assert (consistent == visible).float().mean() > 0.95
    assert consistent[visible].float().mean() > 0.999
    assert consistent[~visible].float().mean() < 0.5
    assert not bool((consistent & ~in_frame(flow)).any())


def test_consistency_tolerates_what_it_is_told():
    flow, back = constant_flow(3, 4, (20, 30)), constant_flow(-3, -2.5, (20, 30))
    inside = in_frame(flow)
    assert torch.equal(forward_backward_consistent(flow, back), inside)  # 1.5 px, just
    assert not bool(forward_backward_consistent(flow, back, tolerance_px=1.49).any())
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tolerance_px must be 0 or more"):
            forward_backward_consistent(flow, back, tolerance_px=wrong)
    with pytest.raises(ValueError, match="one shape"):
        forward_backward_consistent(flow, back[..., :-1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_flow_that_is_no_number_is_never_valid(bad):
    flow = torch.zeros(2, 2, 6, 8)
    broken = flow.clone()
    broken[0, 1, 2, 3] = bad
    assert not in_frame(broken)[0, 2, 3]
    assert in_frame(broken).sum() == 2 * 48 - 1
    there = forward_backward_consistent(broken, flow)
    assert not there[0, 2, 3]
    assert there.sum() == 2 * 48 - 1
    back = forward_backward_consistent(flow, broken)
    assert not back[0, 2, 3]
    assert bool(back[1].all())
    labels = torch.arange(48, dtype=torch.uint8).view(1, 6, 8).expand(2, 6, 8)
    for mode in ("nearest", "one-hot"):
        assert int(warp(labels, broken, mode=mode).max()) <= 47


def test_batch_axis_can_be_left_out():
    image, flow = images(0, 2, 3, 5, 7), (images(1, 2, 2, 5, 7) - 0.5) * 6
    assert torch.equal(warp(image[1], flow[1]), warp(image, flow)[1])
    assert torch.equal(warp(image[1, 0], flow[1]), warp(image, flow)[1, 0])
    assert torch.equal(in_frame(flow[1]), in_frame(flow)[1])
    labels = (image * 5).long()
    one_hot = warp(labels, flow, mode="one-hot")
    assert torch.equal(warp(labels[1, 0], flow[1], mode="one-hot"), one_hot[1, 0])
    consistent = forward_backward_consistent(flow, flow.flip(-1), tolerance_px=3)
    assert 0 < consistent.sum() < consistent.numel()
    alone = forward_backward_consistent(flow[1], flow[1].flip(-1), tolerance_px=3)
    assert torch.equal(alone, consistent[1])


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
    with pytest.raises(TypeError, match="needs labels"):
        warp(labels.float(), torch.zeros(1, 2, 4, 4), mode="one-hot")


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


def shifted(right: int, down: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An image of soft blobs, and the same moved."""
    cv2 = pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), min(size) / 32)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    return image, np.roll(image, (down, right), axis=(0, 1))


def test_dis_finds_a_shift_and_points_from_t_into_s():
    image_t, image_s = shifted(right=3, down=1, size=(64, 96))
    flow = DIS()(image_t, image_s)
    assert flow.shape == (2, 64, 96)
    assert flow.dtype == torch.float32
    inner = flow[:, 12:-12, 12:-12]
    assert inner[0].median() == pytest.approx(3, abs=0.1)
    assert inner[1].median() == pytest.approx(1, abs=0.1)
    s, t = (torch.from_numpy(i).permute(2, 0, 1).float() for i in (image_s, image_t))
    error = (warp(s, flow) - t)[:, 12:-12, 12:-12].abs().mean()
    assert error < 0.1 * (s - t)[:, 12:-12, 12:-12].abs().mean()


def test_dis_reduces_long_frames_and_scales_the_flow_back():
    image_t, image_s = shifted(right=8, down=4, size=(192, 256))
    reduced, whole = DIS(longest_side_px=128), DIS(longest_side_px=None)
    flow = reduced(image_t, image_s)
    assert flow.shape == (2, 192, 256)
    assert flow.is_contiguous()
    inner = flow[:, 24:-24, 24:-24]
    assert inner[0].median() == pytest.approx(8, abs=0.2)
    assert inner[1].median() == pytest.approx(4, abs=0.2)
    assert not torch.equal(flow, whole(image_t, image_s))
    # A frame of the size itself is taken as it is, and so is every smaller one.
    for longest_side_px in (256, 1024):
        same = DIS(longest_side_px=longest_side_px)
        assert torch.equal(same(image_t, image_s), whole(image_t, image_s))
    names = {DIS(longest_side_px=side).name for side in (None, 128, 256)}
    assert len(names) == 3


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_dis_survives_strips(preset):
    image_t, image_s = shifted(right=2, down=0, size=(31, 256))
    for rows in (12, 15, 16, 31):
        for longest_side_px in (None, 64):
            flow = DIS(preset, longest_side_px)(image_t[:rows], image_s[:rows])
            assert flow.shape == (2, rows, 256)
            assert bool(flow.isfinite().all())
        upright = DIS(preset)(*(i[:rows].swapaxes(0, 1) for i in (image_t, image_s)))
        assert upright.shape == (2, 256, rows)
    whole = DIS(preset)(image_t, image_s)
    assert whole[0, :, 16:-16].median() == pytest.approx(2, abs=0.2)


def test_dis_gives_one_flow_with_any_number_of_threads():
    cv2 = pytest.importorskip("cv2")
    image_t, image_s = shifted(right=3, down=1, size=(96, 128))
    threads = cv2.getNumThreads()
    flows = []
    for number in (1, 3):
        cv2.setNumThreads(number)
        flows.append(DIS()(image_t, image_s))
    cv2.setNumThreads(threads)
    assert torch.equal(*flows)


def test_dis_is_a_value_and_names_itself():
    pytest.importorskip("cv2")
    assert DIS() == DIS("medium")
    assert DIS("fast").name.startswith("dis-fast (opencv ")
    with pytest.raises(ValueError, match="ultrafast, fast, medium"):
        DIS("slow")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 12, or None"):
        DIS(longest_side_px=11)
    with pytest.raises(ValueError, match="uint8 RGB"):
        DIS()(np.zeros((64, 96), np.uint8), np.zeros((64, 96), np.uint8))
    with pytest.raises(ValueError, match="one size"):
        DIS()(np.zeros((64, 96, 3), np.uint8), np.zeros((64, 95, 3), np.uint8))
    with pytest.raises(ValueError, match="at least 12 px"):
        DIS()(np.zeros((11, 96, 3), np.uint8), np.zeros((11, 96, 3), np.uint8))


def test_flow_is_opened_by_name():
    assert open_flow("dis") == DIS("medium")
    assert open_flow("dis-fast") == DIS("fast")
    assert open_flow("dis-ultrafast", device="cpu") == DIS("ultrafast")
    with pytest.raises(ValueError, match=r"'dis-fats'; did you mean 'dis-fast'\?"):
        open_flow("dis-fats")
    with pytest.raises(ValueError, match="has no weights"):
        open_flow("dis", weights="raft.pth")


def test_raft_without_torchvision_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"pip install torchvision"):
        open_flow("raft-small", weights="raft.pth")
    with pytest.raises(ValueError, match="small, large"):
        RAFT("huge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        RAFT(iterations=0)
