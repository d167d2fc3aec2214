"""Frames with their neighbours: which are drawn, and that motion and scores follow the crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vidseg.data import ClipDataset, TrainTransform, preceding, snippets
from vidseg.data.pairs import OFFICIAL_OFFSETS, Neighbours, PairDataset, WithVideo
from vidseg.data.placement import Placement, mirror, scaling, shift
from vidseg.data.synthetic import SyntheticDataset
from vidseg.flow.warp import warp

SIZE = (48, 64)
HARD = TrainTransform(
    crop=(40, 56),
    scale=(0.7, 1.6),
    rotation=10,
    blur=0.5,
    padding="centre",
    photometric="none",
    max_class_share=1.0,
)


@pytest.fixture(scope="module")
def dataset() -> SyntheticDataset:
    return SyntheticDataset(None, "train", num_videos=2, num_frames=6, size=SIZE)


class ExactFlow:
    """The renderer's flow, looked up by the images."""

    name = "exact"

    def __init__(self, dataset: SyntheticDataset) -> None:
        self.known = {}
        for video in dataset.videos:
            rendered = dataset.rendered(video)
            images = [image.tobytes() for image in rendered.frames]
            for t in range(len(images) - 1):
                self.known[images[t], images[t + 1]] = rendered.flow_forward[t]
                self.known[images[t + 1], images[t]] = rendered.flow_backward[t]

    def __call__(self, image_t: np.ndarray, image_s: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.known[image_t.tobytes(), image_s.tobytes()])


def test_the_official_draw_never_takes_minus_three():
    rng = np.random.default_rng(0)
    drawn = {Neighbours(OFFICIAL_OFFSETS).draw(15, 30, rng)[0] - 15 for _ in range(300)}
    assert drawn == {-2, -1, 1, 2, 3}
    drawn = {Neighbours().draw(15, 30, rng)[0] - 15 for _ in range(300)}
    assert drawn == {-3, -2, -1, 1, 2, 3}


def test_neighbours_stay_in_the_video():
    assert Neighbours().choices(0, 3) == [(1,), (2,)]
    assert Neighbours((1, 2), triplet=True).choices(1, 30) == [(0, 2)]
    assert Neighbours((1, 2), triplet=True).choices(0, 30) == []
    assert Neighbours((5,)).draw(0, 3, np.random.default_rng(0)) == ()
    with pytest.raises(ValueError, match="other than 0"):
        Neighbours((0, 1))


def test_a_placement_says_where_each_pixel_came_from():
    """A frame that holds its own coordinates shows them in the crop."""
    rows, columns = np.mgrid[:96, :128].astype(np.uint8)
    frame = np.stack([columns, rows, np.zeros_like(rows)], -1)
    transform = TrainTransform(
        crop=(60, 80), scale=(0.8, 1.5), rotation=10, photometric="none", max_class_share=1.0,
        mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip
    for seed in range(8):
        clip, target, placement = transform.place(
            [frame], np.zeros((96, 128), np.uint8), np.random.default_rng(seed)
        )
        y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
        there = torch.from_numpy(placement.matrix[:2]).float() @ torch.stack(
            [x.flatten(), y.flatten(), torch.ones(60 * 80)]
        )
        inside = (target != 255) & (clip[0, :2] > 1).all(0)  # without the rim that was blended
        wanted = there.view(2, 60, 80)
        rim = (wanted[0] > 1) & (wanted[0] < 126) & (wanted[1] > 1) & (wanted[1] < 94)
        assert (inside & rim).float().mean() > 0.5
        error = (clip[0, :2] - wanted).abs().amax(0)[inside & rim]
        assert error.max() <= 1.5  # rounding to uint8 twice, OpenCV's coordinates in 1/32 px


def test_flow_follows_the_crop(dataset: SyntheticDataset):
    """Warping the neighbour's crop is cropping the warped neighbour."""
    video = dataset.rendered(dataset.videos[0])
    frame, other = video.frames[0], video.frames[1]
    flow = torch.from_numpy(video.flow_forward[0])
    ahead = warp(torch.from_numpy(other).permute(2, 0, 1)[None].float(), flow[None])[0]
    ahead = ahead.permute(1, 2, 0).round().to(torch.uint8).numpy()
    placed, raw = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        clip, target, placement = HARD.place([other, ahead, frame], video.labels[0], rng)
        use = target != 255
        warped = warp(clip[:1], placement.flow(flow)[None])[0]
        placed.append((warped - clip[1]).abs().mean(0)[use].mean())
        raw.append((clip[0] - clip[1]).abs().mean(0)[use].mean())
    assert np.mean(placed) < 0.4 * np.mean(raw)


def test_integer_motion_follows_a_mirrored_and_scaled_crop():
    flow = torch.zeros(2, 8, 12)
    flow[0], flow[1] = 3.0, -1.0
    matrix = scaling((8, 12), (16, 24)) @ shift(4, 2) @ mirror(10)
    moved = Placement(matrix, (6, 10)).flow(flow)
    assert torch.allclose(moved[0], torch.full((6, 10), -6.0))
    assert torch.allclose(moved[1], torch.full((6, 10), -2.0))


@pytest.mark.parametrize("align_corners", [True, False])
def test_scores_follow_the_crop(align_corners: bool):
    """Scores of a crop that is the whole frame are the scores; of a part, the part of them."""
    scores = torch.randn(3, 9, 9)
    whole = Placement(np.eye(3), (65, 65)).scores(
        scores, (65, 65), (9, 9), align_corners=align_corners
    )
    assert torch.allclose(whole, scores, atol=1e-5)
    full = F.interpolate(scores[None], (65, 65), mode="bilinear", align_corners=align_corners)[0]
    part = Placement(shift(8, 16), (33, 33)).scores(
        scores, (65, 65), (33, 33), align_corners=align_corners
    )
    assert torch.allclose(part, full[:, 16:49, 8:41], atol=2e-5)


def test_samples_are_a_function_of_seed_and_number(dataset: SyntheticDataset):
    near, flow = Neighbours((-1, 1)), ExactFlow(dataset)
    one, again, other = (
        PairDataset(dataset, HARD, near, flow=flow, seed=seed, shuffle=True)[17]
        for seed in (1, 1, 2)
    )
    keys = ("frames", "neighbours", "flows", "labels")
    assert one["name"] == again["name"]
    assert all(torch.equal(one[key], again[key]) for key in keys)
    assert not torch.equal(one["frames"], other["frames"])


def test_triplets_valid_masks_and_teachers(dataset: SyntheticDataset):
    pairs = PairDataset(
        dataset,
        HARD,
        Neighbours((1,), triplet=True),
        flow=ExactFlow(dataset),
        occlusion=True,
        read_scores=lambda dataset, video, index: torch.full((2, 6, 8), float(index)),
        labelled=False,
    )
    assert len(pairs) == 2 * 4  # the first and last frames have one side only
    sample = pairs[0]
    assert sample["neighbours"].shape == (2, 3, 40, 56)
    assert sample["flows"].shape == (2, 2, 40, 56)
    assert sample["valid"].dtype == torch.bool
    assert 0.3 < sample["valid"].float().mean() < 1
    assert sample["teacher"].shape == (3, 2, 5, 7)
    t, before, after = sample["teacher"][:, 0, 0, 0].tolist()
    assert (before, after) == (t - 1, t + 1)


def test_labels_of_one_set_with_the_motion_of_another(dataset: SyntheticDataset):
    clips = ClipDataset(dataset, snippets(dataset, preceding(0)), HARD, 0, shuffle=True)
    pairs = PairDataset(
        dataset, HARD, Neighbours((1,)), flow=ExactFlow(dataset), labelled=False, shuffle=True
    )
    both = WithVideo(clips, pairs)
    assert len(both) == len(clips)
    sample = both[5]
    assert torch.equal(sample["frames"], clips[5]["frames"])
    assert torch.equal(sample["anchors"], pairs[5]["frames"])
    assert torch.equal(sample["flows"], pairs[5]["flows"])
    assert sample["name"] == clips[5]["name"]


def test_frames_without_neighbours_are_refused(dataset: SyntheticDataset):
    with pytest.raises(ValueError, match="no labelled frame has a neighbour"):
        PairDataset(dataset, HARD, Neighbours((40,)))
