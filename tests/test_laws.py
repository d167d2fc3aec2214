"""Every method keeps the laws, and the laws catch segmenters that do not."""

import pytest
import torch
from honest import Honest, LastFrame, TakesTurns
from torch import nn

from laws import LawBroken, check_laws
from vidseg.adapters.per_frame import PerFrame
from vidseg.methods import METHODS


@pytest.mark.parametrize("family", METHODS)
def test_method_keeps_the_laws(family):
    torch.manual_seed(0)
    model = METHODS[family].tiny(num_classes=4)
    settle(model)
    check_laws(model)


def test_per_frame_keeps_the_laws():
    check_laws(PerFrame(nn.Conv2d(3, 4, 3, padding=1), num_classes=4))


@pytest.mark.parametrize("memory_frames", [1, 3])
def test_tmanet_keeps_the_laws_for_any_length(memory_frames):
    torch.manual_seed(0)
    model = METHODS["tmanet"].tiny(num_classes=3, memory_frames=memory_frames)
    settle(model)
    check_laws(model, batch=1 + memory_frames % 2)


def test_running_prototypes_keep_the_laws():
    torch.manual_seed(0)
    model = METHODS["cffmpp"].tiny(num_classes=3, prototypes="running", gap_frames=1)
    settle(model)
    check_laws(model)


def test_cffm_keeps_the_laws_for_another_gap():
    torch.manual_seed(0)
    model = METHODS["cffm"].tiny(num_classes=3, gap_frames=1, depth=2)
    settle(model)
    check_laws(model, size=(64, 80), batch=1)


def settle(model: nn.Module) -> None:
    """Give norms and classifiers values at which every part has an influence."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.weight, std=0.1)


class EditsMemory(Honest):
    def remember(self, memory, feature, fused):
        with torch.no_grad():
            memory.feature.copy_(feature)
        return LastFrame(memory.feature, frames_seen=1)


class HidesState(Honest):
    past = None

    def fuse(self, feature, memory):
        fused = feature if self.past is None else feature + 0.5 * self.past.detach()
        self.past = feature
        return fused


class LooksAhead(Honest):
    def _encode_clip(self, frames):
        features = super()._encode_clip(frames)
        return features + 0.1 * features.roll(-1, 1)


class MixesStreams(Honest):
    def encode(self, frames):
        feature = super().encode(frames)
        return feature - feature.mean(0, keepdim=True)


class ForgetsGradient(Honest):
    def forward(self, frames, memory=None, **options):
        segmentation, memory = super().forward(frames, memory, **options)
        return segmentation, LastFrame(memory.feature.detach(), frames_seen=1)


class ClaimsLess(Honest):
    horizon = 0

    def window_frames(self, t):
        return (t,)


class ClaimsMore(Honest):
    horizon = 2


class WrongWindow(Honest):
    def window_frames(self, t):
        return (max(t - 2, 0), t)


class GrowsMemory(Honest):
    def remember(self, memory, feature, fused):
        return LastFrame(torch.cat([memory.feature, feature[:, :, :1]], 2), frames_seen=1)

    def fuse(self, feature, memory):
        return feature + 0.5 * memory.feature[:, :, -1:]


class StartsOver(TakesTurns):
    """Begins each chunk with the first sub-network."""

    def _phases(self, length, memory, phase):
        return super()._phases(length, None, phase)


class OneForAll(TakesTurns):
    """Declares a period that it has not."""

    def encode(self, frames, phase=0):
        return self.turns[0](frames)

    def fuse(self, feature, memory):
        return feature + 0.5 * memory.feature


class SeesItsOwnPhase(TakesTurns):
    """Takes something from the other frames of a phase."""

    def encode(self, frames, phase=0):
        feature = super().encode(frames, phase)
        return feature + 0.1 * feature.mean(0, keepdim=True)


class CountsFrames(TakesTurns):
    """Turns by a count of its own instead of the memory's."""

    count = 0

    def encode(self, frames, phase=0):
        self.count += 1
        return super().encode(frames, (phase + self.count) % self.period)


class RemembersForever(Honest):
    """A running mean, by which one bad frame would never be forgotten."""

    horizon = float("inf")

    def remember(self, memory, feature, fused):
        return LastFrame(0.5 * memory.feature + 0.5 * feature, frames_seen=1)


class TrustsEveryFrame(RemembersForever):
    def _is_guarded(self):
        return False


def test_an_honest_segmenter_keeps_the_laws():
    check_laws(Honest())
    check_laws(RemembersForever())


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (EditsMemory, "value|chunk"),
        (HidesState, "chunk|value"),
        (LooksAhead, "chunk|causal"),
        (MixesStreams, "chunk|batch"),
        (ForgetsGradient, "gradient"),
        (ClaimsLess, "horizon"),
        (ClaimsMore, "horizon"),
        (WrongWindow, "window"),
        (GrowsMemory, "value"),
        (TrustsEveryFrame, "recovery"),
        (StartsOver, "chunk"),
        (OneForAll, "phase"),
        (SeesItsOwnPhase, "chunk|causal|batch"),
        (CountsFrames, "chunk|value"),
    ],
)
def test_the_laws_catch(broken, law):
    torch.manual_seed(0)
    with pytest.raises(LawBroken, match=f"^({law}):"):
        check_laws(broken())
