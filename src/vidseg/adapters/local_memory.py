"""Segmenters that look for each pixel in the last frames, near its own place.

What LMANet (`vidseg.methods.lmanet`) does with its hosts works between the halves of any image
network, so it stands here, without one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from vidseg.adapters.halves import Half, check_maps, check_part, explained, find_halves, run_half
from vidseg.card import Card
from vidseg.layers.gated_fusion import REDUCED
from vidseg.layers.local_attention import Border
from vidseg.layers.memory_attention import KeyValue, LocalMemoryAttention
from vidseg.segmenter import Memory, VideoSegmenter
from vidseg.training_needs import TrainingNeeds


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
    """A frame: its map, the key and value to remember (none where they follow the fusion), and
    what else the second half wants.
    """

    map: Tensor
    remembered: tuple[Tensor, ...]
    rest: tuple[Tensor, ...] = ()


class Fused(NamedTuple):
    """A frame beside its memory: the decoder's map, what was read, for a decoder of its own, and
    what else the second half wants.
    """

    map: Tensor
    read: tuple[Tensor, ...]
    rest: tuple[Tensor, ...] = ()


class LocalMemorySegmenter(VideoSegmenter):
    """An image network in two halves, and a memory of the last Q frames between them.

    A subclass has `encode_image` and `decode_map`, the halves, and calls `build_memory`.
    """

    memory_type = FrameMemory

    def training_needs(self) -> TrainingNeeds:
        """The image network is the host; a student copies the decoder's map."""
        added = ("attention", "first_encoder", "read_decoder")
        host = tuple(name for name, _ in self.named_children() if name not in added)
        return TrainingNeeds(host_parts=host, distilled=attrgetter("map"))

    def encode_image(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D, h, w): the first half."""
        raise NotImplementedError

    def decode_map(self, x: Tensor, *rest: Tensor) -> Tensor:
        """(N, D, h, w), and what else the first half left -> (N, C, h', w') logits."""
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
        for name, count in (("memory_frames", memory_frames), ("key_channels", key_channels)):
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {count}")
        if recurrent and memorize_first:
            raise ValueError(
                "recurrent and memorize_first exclude each other: what was fused cannot be "
                "remembered before it is there"
            )
        self.memory_frames, self.memorize_first = memory_frames, memorize_first
        # A class attribute elsewhere; set per instance here.
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
        return self.remembering(self.encode_image(frames))

    def remembering(self, x: Tensor, rest: tuple[Tensor, ...] = ()) -> Encoded:
        """The map of a frame with its key and value."""
        return Encoded(x, () if self.recurrent else self.attention.memory_encoder(x), rest)

    def initial_memory(self, feature: Encoded, context: Any) -> FrameMemory:
        """Q empty slots."""
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
            return Fused(fused, () if self.read_decoder is None else (read,), feature.rest)
        nothing = () if self.read_decoder is None else (torch.zeros_like(memory.values[-1]),)
        return Fused(feature.map, nothing, feature.rest)

    def decode(self, fused: Fused) -> Tensor:
        """-> (N, C, h', w') logits."""
        return self.decode_map(fused.map, *fused.rest)

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
            channels = [shape[1] for shape in (*slot, *wanted)]
            advice = (
                "frames of one stream have one size"
                if channels[:2] == channels[2:]
                else "keys and values are of another model; start the stream anew with memory=None"
            )
            raise ValueError(
                f"the memory's keys and values are {slot[0]} and {slot[1]}, this frame's "
                f"{wanted[0]} and {wanted[1]}; {advice}"
            )
        for ours, theirs in zip(feature.remembered, (memory.keys, memory.values), strict=False):
            place, its_place = (ours.dtype, ours.device), (theirs[-1].dtype, theirs[-1].device)
            if place != its_place:
                raise ValueError(
                    f"the memory is {its_place[0]} on {its_place[1]}, this frame's keys and values "
                    f"are {place[0]} on {place[1]}; memory.to({str(place[1])!r}, {place[0]}), or "
                    "run the whole stream in one precision"
                )


class LocalMemory(LocalMemorySegmenter):
    """Any image network with a memory of the last Q frames between its encoder and its decoder.

    The method of LMANet around a network of yours. The network stays as it is: its parameters
    take no gradient and it runs as in evaluation, so only what came with the memory is trained.

    Args:
        model: the image network: a per-frame model of vidseg, or any other module.
        split: its halves, each the name of a module, or a function of (model, input). The first
            takes (N, 3, H, W) and gives a map (N, D, h, w), or a tuple, list or dict of tensors;
            the second takes the same and gives (N, C, h', w') logits. A per-frame model of vidseg
            is split where it says itself. Lambdas cannot be pickled, nor can the model then.
        level: which of the first half's tensors the memory fuses, of those in a tuple the last
            by default.
        memory_frames: Q.
        window: side of the window in which a pixel looks, odd, in pixels of the map.
        key_channels: width of keys; an eighth of D, at most 128, by default, as the authors' are.
        fusion: see `LocalMemoryAttention`; by default the authors' for maps up to 256 wide,
            "sigmoid-do1", and for wider ones, "sigmoid-down1".
        trained: modules of the model that are trained too, by name; "" is all of it. A decoder
            that expects negative values wants it: what was fused went through a ReLU.
        card: normalisation and size rule; those of a model of vidseg are taken over.
        align_corners: how logits are resized; that of a model of vidseg is taken over.
        size: (H, W) of a black frame that is run once to learn the widths.
        memorize_first: a frame is remembered before it reads, so it reads itself, too.
        recurrent: remember what was fused, not what was encoded; the past then has no end.
        border: see `LocalMemoryAttention`.
        learnable_constant: see `LocalMemoryAttention`.

    Raises:
        ValueError: the model has no known halves, or they do not fit together; an option is out
            of range.
        TypeError: `model` is no module; a half is neither a name nor a function.

    Example:
        >>> class Network(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 5, 1)
        >>> model = LocalMemory(Network(), split=("encoder", "head"), window=5)
        >>> segmentation, memory = model(torch.zeros(1, 4, 3, 16, 24))
        >>> segmentation.logits.shape, memory.frames_seen, model.num_classes
        (torch.Size([1, 4, 5, 8, 12]), 3, 5)
    """

    def __init__(
        self,
        model: nn.Module,
        split: tuple[Half, Half] | None = None,
        *,
        level: int = -1,
        memory_frames: int = 3,
        window: int = 21,
        key_channels: int | None = None,
        fusion: str | None = None,
        trained: Sequence[str] = (),
        card: Card | None = None,
        align_corners: bool | None = None,
        size: tuple[int, int] = (64, 64),
        memorize_first: bool = False,
        recurrent: bool = False,
        border: Border = "mask",
        learnable_constant: bool = False,
    ) -> None:
        super().__init__()
        self._halves = find_halves(model, split)
        self.host, self.trained = model, _check_trained(model, trained)
        if isinstance(model, VideoSegmenter):
            self.align_corners, self.prefers_channels_last = (
                model.align_corners,
                model.prefers_channels_last,
            )
            self.card = replace(model.card, architecture="", options={})
        self.card = card or self.card
        self.align_corners = self.align_corners if align_corners is None else align_corners
        model.eval()
        x, logits = self._look(size, level)
        channels, self.num_classes = x.shape[1], logits.shape[1]
        is_narrow = channels <= 256 and channels % 2 == 0
        self.build_memory(
            channels,
            memory_frames=memory_frames,
            memorize_first=memorize_first,
            recurrent=recurrent,
            key_channels=max(1, min(channels // 8, 128)) if key_channels is None else key_channels,
            window=window,
            fusion=fusion or ("sigmoid-do1" if is_narrow else REDUCED),
            border=border,
            learnable_constant=learnable_constant,
        )
        self.attention.to(x.device, x.dtype)
        if self.first_encoder is not None:
            self.first_encoder.to(x.device, x.dtype)
        model.requires_grad_(False)
        for name in self.trained:
            model.get_submodule(name).requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """Training mode for the new parts and for what of the model is `trained`."""
        super().train(mode)
        self.host.eval()
        for name in self.trained:
            self.host.get_submodule(name).train(mode)
        return self

    def encode(self, frames: Tensor) -> Encoded:
        """(N, 3, H, W) -> the map, what of it will be remembered, and the first half's rest."""
        leaves = pytree.tree_leaves(run_half(self.host, self._halves[0], frames))
        x = leaves.pop(self._place)
        return self.remembering(x, tuple(leaves))

    def decode_map(self, x: Tensor, *rest: Tensor) -> Tensor:
        """(N, D, h, w) and the rest -> (N, C, h', w') logits: the second half."""
        leaves = list(rest)
        leaves.insert(self._place, x)
        joined = pytree.tree_map(lambda place: leaves[place], self._places)
        return run_half(self.host, self._halves[1], joined)

    def _look(self, size: tuple[int, int], level: int) -> tuple[Tensor, Tensor]:
        """The map and the logits of one black frame; keeps which of the first half's tensors is
        the map, and how they are joined again.
        """
        like = next(self.host.parameters(), torch.zeros(()))
        frame = torch.zeros(1, 3, *size, device=like.device, dtype=like.dtype)
        with torch.no_grad():
            with explained(
                f"the first half fails on a frame {tuple(frame.shape)}",
                "it must take (N, 3, H, W); size=(H, W) gives it a frame of another size",
            ):
                found = run_half(self.host, self._halves[0], frame)
            leaves, form = pytree.tree_flatten(found)
            check_maps(leaves, level)
            # The first half's own containers, with the number of each tensor in its place.
            self._places = pytree.tree_unflatten(list(range(len(leaves))), form)
            self._place = range(len(leaves))[level]
            shapes = [tuple(leaf.shape) for leaf in leaves]
            x = leaves.pop(self._place)
            with explained(
                f"the second half fails on the first's {type(found).__name__} of {shapes}",
                "where modules do not fit together, pass functions of (model, input)",
            ):
                logits = self.decode_map(x, *leaves)
        if not isinstance(logits, Tensor) or logits.dim() != 4 or len(logits) != 1:
            raise ValueError(
                "the second half must give logits (N, C, h, w), got "
                f"{tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__}"
            )
        return x, logits


def _check_trained(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"trained takes names of modules, such as ({names!r},), got {names!r}")
    for name in names:
        check_part(model, name, "trained")
    return tuple(names)
