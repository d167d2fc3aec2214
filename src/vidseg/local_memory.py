"""Segmenters that look for each pixel in the last frames, near its own place.

What LMANet (`vidseg.methods.lmanet`) does with its hosts works between the halves of any image
network, so it stands here, without one.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vidseg.layers.memory_attention import KeyValue, LocalMemoryAttention
from vidseg.segmenter import Memory, VideoSegmenter


@dataclass(frozen=True)
class FrameMemory(Memory):
    """Keys and values of the Q frames before this one; empty slots, at the front, are zero.

    Attributes:
        keys: Q tensors (B, d, h, w), oldest first.
        values: Q tensors (B, D, h, w), oldest first.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class Encoded(NamedTuple):
    """A frame: its map, and the key and value to remember (none where they follow the fusion)."""

    map: Tensor
    remembered: tuple[Tensor, ...]


class Fused(NamedTuple):
    """A frame beside its memory: the decoder's map, and what was read, for a decoder of its own."""

    map: Tensor
    read: tuple[Tensor, ...]


class LocalMemorySegmenter(VideoSegmenter):
    """An image network in two halves, and a memory of the last Q frames between them.

    A subclass has `encode_image` and `decode_map`, the halves, and calls `build_memory`.
    """

    memory_type = FrameMemory

    @property
    def host_parts(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The modules of the image network; the rest came with the memory."""
        added = ("attention", "first_encoder", "read_decoder")
        return tuple(name for name, _ in self.named_children() if name not in added)

    def encode_image(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D, h, w): the first half."""
        raise NotImplementedError

    def decode_map(self, x: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, C, h', w') logits: the second half."""
        raise NotImplementedError

    def build_memory(
        self,
        channels: int,
        *,
        memory_frames: int,
        memorize_first: bool,
        recurrent: bool,
        key_channels: int,
        **options: Any,
    ) -> None:
        """Make what stands between the halves.

        Args:
            channels: D of the maps that the first half gives.
            memory_frames: Q.
            memorize_first: a frame is remembered before it reads, so it reads itself, too.
            recurrent: remember what was fused, not what was encoded.
            key_channels: width of keys.
            options: further arguments of `LocalMemoryAttention`.

        Raises:
            ValueError: an option is out of range, or does not go with another one.
        """
        if memory_frames < 1:
            raise ValueError(f"memory_frames must be at least 1, got {memory_frames}")
        if recurrent and memorize_first:
            raise ValueError(
                "recurrent and memorize_first exclude each other: what was fused cannot be "
                "remembered before it is there"
            )
        self.memory_frames, self.memorize_first = memory_frames, memorize_first
        # Declared for classes; here it is a choice.
        self.recurrent = recurrent  # pyright: ignore[reportAttributeAccessIssue]
        self.horizon = math.inf if recurrent else memory_frames - memorize_first
        self.attention = LocalMemoryAttention(channels, key_channels=key_channels, **options)
        # What the recurrent form remembers of the first frame, which was not fused.
        self.first_encoder = (
            KeyValue(channels, key_channels, self.attention.value_channels) if recurrent else None
        )
        self.read_decoder: nn.Module | None = None

    def encode(self, frames: Tensor) -> Encoded:
        """(N, 3, H, W) -> the map, and what of it will be remembered."""
        x = self.encode_image(frames)
        return Encoded(x, () if self.recurrent else self.attention.memory_encoder(x))

    def initial_memory(self, feature: Encoded, context: Any) -> FrameMemory:
        """Nothing, in Q slots."""
        key, value = self.attention.slot_shapes(feature.map)
        slots = range(self.memory_frames)
        return FrameMemory(
            tuple(feature.map.new_zeros(key) for _ in slots),
            tuple(feature.map.new_zeros(value) for _ in slots),
        )

    def fuse(self, feature: Encoded, memory: FrameMemory) -> Fused:
        """Read the frames that there are; the very first frame has none and stays as it is."""
        empty = self.memory_frames - memory.frames_seen
        keys, values = memory.keys[empty:], memory.values[empty:]
        if self.memorize_first:
            key, value = feature.remembered
            keys = (*keys, key)[-self.memory_frames :]
            values = (*values, value)[-self.memory_frames :]
        if keys:
            fused, read = self.attention(feature.map, keys, values)
            return Fused(fused, () if self.read_decoder is None else (read,))
        nothing = () if self.read_decoder is None else (torch.zeros_like(memory.values[-1]),)
        return Fused(feature.map, nothing)

    def decode(self, fused: Fused) -> Tensor:
        """-> (N, C, h', w') logits."""
        return self.decode_map(fused.map)

    def remember(self, memory: FrameMemory, feature: Encoded, fused: Fused | None) -> FrameMemory:
        """The frame becomes the newest, the oldest is forgotten."""
        if fused is None:
            key, value = feature.remembered
        elif memory.frames_seen == 0 and self.first_encoder is not None:
            key, value = self.first_encoder(fused.map)
        else:
            key, value = self.attention.memory_encoder(fused.map)
        seen = min(memory.frames_seen + 1, self.memory_frames)
        return FrameMemory((*memory.keys[1:], key), (*memory.values[1:], value), frames_seen=seen)

    def auxiliary(self, features: Encoded, fused: Fused) -> dict[str, Tensor]:
        """ "read": logits of what was read alone, where there is a decoder for it."""
        if self.read_decoder is None:
            return {}
        (read,) = fused.read
        return {"read": self.read_decoder(read.flatten(0, 1)).unflatten(0, read.shape[:2])}

    def window_frames(self, t: int) -> tuple[int, ...]:
        """The frames that t reads, as far as there are any, and t; the last Q if recurrent."""
        reach = self.memory_frames - self.memorize_first
        return tuple(range(max(t - reach, 0), t + 1))

    def check_memory(self, memory: Any, feature: Encoded) -> None:
        """Raise ValueError for a memory of another model, batch, length or size."""
        super().check_memory(memory, feature)
        if len(memory.keys) != self.memory_frames:
            raise ValueError(
                f"the memory holds {len(memory.keys)} frames, this model reads "
                f"{self.memory_frames}; start the stream anew with memory=None"
            )
        slot = tuple(memory.keys[-1].shape), tuple(memory.values[-1].shape)
        wanted = self.attention.slot_shapes(feature.map)
        if slot != wanted:
            raise ValueError(
                f"the memory's keys and values are {slot[0]} and {slot[1]}, this frame's "
                f"{wanted[0]} and {wanted[1]}; frames of one stream have one size"
            )
