"""Small segmenters that keep the laws; a library, not a test."""

from dataclasses import dataclass

from torch import Tensor, nn

from vidseg.segmenter import Memory, VideoSegmenter


@dataclass(frozen=True)
class LastFrame(Memory):
    feature: Tensor


class Honest(VideoSegmenter):
    """Adds what it saw one frame ago."""

    memory_type = LastFrame
    horizon = 1

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv = nn.Conv2d(3, num_classes, 3, padding=1)

    def encode(self, frames):
        return self.conv(frames)

    def initial_memory(self, feature, context):
        return LastFrame(feature.clone())

    def fuse(self, feature, memory):
        return feature + 0.5 * memory.feature

    def decode(self, fused):
        return fused

    def remember(self, memory, feature, fused):
        return LastFrame(feature, frames_seen=1)

    def window_frames(self, t):
        return (max(t - 1, 0), t)


class TakesTurns(Honest):
    """Three sub-networks in turn, and what was seen one frame ago."""

    period = 3

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes)
        self.turns = nn.ModuleList(
            nn.Conv2d(3, num_classes, 3, padding=1) for _ in range(self.period)
        )
        self.seen: list[tuple[int, int]] = []

    def encode(self, frames, phase=0):
        self.seen.append((phase, len(frames)))
        return self.turns[phase](frames)

    def fuse(self, feature, memory):
        return (1 + memory.phase) * feature + 0.5 * memory.feature
