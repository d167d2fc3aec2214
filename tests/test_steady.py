"""Steady: the laws around any model, and what it does to a stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from honest import TakesTurns
from torch import nn

from laws import check_laws
from vidseg import Card
from vidseg.adapters.per_frame import PerFrame
from vidseg.adapters.sliding import SlidingWindow
from vidseg.adapters.steady import Steady
from vidseg.adapters.steady_memory import SteadyMemory
from vidseg.data.synthetic import render
from vidseg.flow import DIS
from vidseg.methods import METHODS
from vidseg.metrics.consistency import TemporalConsistency


def image_model(num_classes: int = 4) -> PerFrame:
    torch.manual_seed(0)
    return PerFrame(nn.Conv2d(3, num_classes, 3, padding=1), num_classes=num_classes)


# Noise looks unlike itself a frame later: with a wide gate the past has an influence all the same.
WIDE = {"residual_levels": 60.0}


@pytest.mark.parametrize(
    "options", [{}, {"carry": "flow", "hysteresis": 0.0}, {"carry": "affinity"}], ids=str
)
def test_steady_keeps_the_laws(options):
    check_laws(Steady(image_model(), **WIDE, **options))


@pytest.mark.parametrize("family", ["tmanet", "cffmpp", "turns"])
def test_steady_keeps_the_laws_around_a_video_model(family):
    torch.manual_seed(0)
    model = TakesTurns() if family == "turns" else METHODS[family].tiny(num_classes=3)
    check_laws(Steady(model, **WIDE), size=(64, 80), batch=2)


def labels_as_logits(palette: np.ndarray, noise: float, seed: int) -> nn.Module:
    """A network that knows the class of a colour, with noise of its own on the logits."""

    class KnowsColours(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(seed)

        def forward(self, frames):
            truth = torch.from_numpy(palette).float()[:, :, None, None]
            far = (255 * frames[:, None] - truth).square().sum(2) / 20000
            return -far + noise * torch.randn(far.shape, generator=self.generator)

    return KnowsColours()


def moving_blocks(num_frames: int = 12, size=(64, 96), seed: int = 0):
    """Textured blocks of three classes that move by whole pixels, their labels, the palette."""
    rng = np.random.default_rng(seed)
    palette = np.array([[60, 60, 60], [180, 90, 60], [60, 120, 200]])
    height, width = size
    world = np.zeros((height, width + 4 * num_frames), np.int64)
    world[10:40, 20:60], world[30:60, 70:110] = 1, 2
    texture = rng.integers(-15, 16, (*world.shape, 1))
    texture = np.repeat(np.repeat(texture[::4, ::4], 4, 0), 4, 1)[:height, : world.shape[1]]
    pixels = (palette[world] + texture).clip(0, 255).astype(np.uint8)
    images = [pixels[:, 4 * t : 4 * t + width] for t in range(num_frames)]
    return images, np.stack([world[:, 4 * t : 4 * t + width] for t in range(num_frames)]), palette


def run(model, images):
    """Labels (T, H, W) and the memory; frames are shares of 255."""
    frames = torch.stack([torch.from_numpy(i).float().permute(2, 0, 1) / 255 for i in images])
    with torch.no_grad():
        segmentation, memory = model.eval()(frames[None])
    return segmentation.labels()[0].numpy(), memory


def flicker_of(labels, images, palette):
    flows = torch.stack([DIS()(now, then) for now, then in zip(images[1:], images, strict=False)])
    measured = TemporalConsistency(len(palette))
    measured.update(labels, flows)
    return measured.flicker()


@pytest.mark.parametrize("carry", ["refine", "flow", "affinity"])
def test_a_noisy_network_gets_steadier_and_more_right(carry):
    images, truth, palette = moving_blocks()
    network = PerFrame(labels_as_logits(palette, 1.0, seed=1), num_classes=3)
    network.card = Card(mean=(0.0,) * 3, std=(255.0,) * 3)
    own, _ = run(network, images)
    network.model.generator.manual_seed(1)
    steady, memory = run(Steady(network, carry=carry, grid_px=2, memory_frames=4), images)
    assert flicker_of(steady, images, palette) < 0.5 * flicker_of(own, images, palette)
    assert (steady == truth).mean() > (own == truth).mean()
    compared, own_changed, steady_changed = memory.tally[0].tolist()
    assert compared > 0.7 * 11 * 32 * 48
    assert 0 < steady_changed < 0.5 * own_changed
    assert float(memory.evidence.max()) <= 5


def test_a_still_picture_changes_nothing():
    images, _, palette = moving_blocks(num_frames=1)
    network = PerFrame(labels_as_logits(palette, 0.0, seed=0), num_classes=3)
    network.card = Card(mean=(0.0,) * 3, std=(255.0,) * 3)
    labels, memory = run(Steady(network, carry="flow"), images * 5)
    assert (labels == labels[:1]).all()
    assert memory.tally[0, 1:].tolist() == [0, 0]
    assert memory.tally[0, 0] == 4 * 32 * 48


def test_another_scene_starts_anew():
    images, _, palette = moving_blocks(num_frames=3)
    network = PerFrame(labels_as_logits(palette, 0.0, seed=0), num_classes=3)
    network.card = Card(mean=(0.0,) * 3, std=(255.0,) * 3)
    other = np.ascontiguousarray(images[0][::-1, ::-1] // 2 + 100)
    own, _ = run(network, [other])
    steady, _ = run(Steady(network), [*images, other])
    assert (steady[-1] == own[0]).mean() > 0.97


class ClearUntil(nn.Module):
    """Sure of a class that the sign of the picture's mean shows, but for one dark frame."""

    def forward(self, frames):
        is_dark = frames.mean((1, 2, 3)) < 0.2
        sure = torch.where(is_dark, 0.2, 6.0)[:, None, None, None]
        right = torch.stack([frames[:, 0], 1 - frames[:, 0]], 1)
        return sure * torch.where(is_dark[:, None, None, None], right.flip(1), right)


def test_a_spoilt_frame_shows_the_past_and_is_forgotten():
    images, _, _ = moving_blocks(num_frames=1)
    dark = images[0] // 4
    network = PerFrame(ClearUntil(), num_classes=2)
    network.card = Card(mean=(0.0,) * 3, std=(255.0,) * 3)
    clean, before = run(Steady(network), images * 3)
    spoilt, after = run(Steady(network), [*images * 3, dark])
    own, _ = run(network, [dark])
    assert (spoilt[-1] == clean[-1]).mean() > 0.85 > (own[0] == clean[-1]).mean()
    for name in ("picture", "scores", "evidence", "labels"):
        assert torch.equal(getattr(after, name), getattr(before, name)), name
    assert after.confidence < before.confidence
    # What stays dark is the usual after some frames, and is believed.
    stays, _ = run(Steady(network, hysteresis=0.0), [*images * 3, *[dark] * 12])
    assert (stays[-1] == own[0]).all()
    _, believed = run(Steady(network, spoilt_drop=1.0), [*images * 3, dark])
    assert float(believed.picture.float().mean()) < 0.3 * float(before.picture.float().mean())


def test_the_grid_follows_the_logits_and_the_frame():
    frames = torch.zeros(1, 2, 3, 96, 128)
    coarse = PerFrame(nn.Conv2d(3, 3, 8, stride=8), num_classes=3)
    for network, grid_px, expected in (
        (image_model(), None, (48, 64)),
        (coarse, None, (24, 32)),
        (coarse, 2, (48, 64)),
        (coarse, 5, (20, 26)),
    ):
        _, memory = Steady(network, grid_px=grid_px)(frames)
        assert memory.scores.shape[-2:] == expected
    _, memory = Steady(coarse)(torch.zeros(1, 2, 3, 24, 3072))
    assert memory.scores.shape[-2:] == (24, 3072), "too low for a coarser grid"
    _, memory = Steady(coarse)(torch.zeros(1, 2, 3, 48, 3072))
    assert memory.scores.shape[-2:] == (16, 1024)


def test_steady_runs_inside_sliding_windows_and_after_a_clean_start():
    images, _, palette = moving_blocks(num_frames=4)
    network = PerFrame(labels_as_logits(palette, 0.0, seed=0), num_classes=3)
    network.card = Card(mean=(0.0,) * 3, std=(255.0,) * 3)
    labels, memory = run(SlidingWindow(Steady(network), (48, 48)), images)
    assert labels.shape == (4, 64, 96)
    assert isinstance(memory, SteadyMemory)
    assert memory.tally.shape == (6, 3)


def test_steady_says_what_it_cannot_do():
    network = image_model()
    with pytest.raises(TypeError, match="PerFrame"):
        Steady(nn.Conv2d(3, 4, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="carry must be one of refine, flow, affinity"):
        Steady(network, carry="motion")  # type: ignore[arg-type]
    for option, value in (
        ("memory_frames", -1),
        ("memory_frames", float("nan")),
        ("residual_levels", 0),
        ("tolerance_px", -0.1),
        ("hysteresis", 1.5),
        ("spoilt_drop", 0),
        ("grid_px", 0),
        ("grid_px", 1.5),
    ):
        with pytest.raises(ValueError, match=option):
            Steady(network, **{option: value})
    with pytest.raises(ValueError, match="12 cells"):
        Steady(network)(torch.zeros(1, 1, 3, 8, 64))
    model = Steady(network)
    _, memory = model.step(torch.zeros(1, 3, 48, 64))
    with pytest.raises(ValueError, match="another size"):
        model.step(torch.zeros(1, 3, 64, 64), memory)
    with pytest.raises(ValueError, match="goes on from a SteadyMemory"):
        model.step(torch.zeros(1, 3, 48, 64), memory.inner)


def test_the_synthetic_street_gets_steadier_along_its_exact_flow():
    video = render(seed=3, num_frames=8, size=(96, 192))
    labels = torch.from_numpy(video.labels).long()
    count = int(labels.max()) + 1
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, count, 12, 24, generator=generator)
    hot = nn.functional.one_hot(labels, count).movedim(-1, 1).float()
    logits = 3 * nn.functional.avg_pool2d(hot, 8) + noise

    class Replayed(nn.Module):
        def forward(self, frames):
            return logits[: len(frames)]

    network = PerFrame(Replayed(), num_classes=count)
    network.card = Card(mean=(0.0,) * 3, std=(255.0,) * 3)
    own, _ = run(network, list(video.frames))
    steady, _ = run(Steady(network), list(video.frames))
    flicker = []
    for predicted in (own, steady):
        measured = TemporalConsistency(count)
        measured.update(predicted, video.flow_backward, video.valid_backward)
        flicker.append(measured.flicker())
    assert flicker[1] < 0.6 * flicker[0]
    assert (steady == video.labels).mean() > (own == video.labels).mean()
