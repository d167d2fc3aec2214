"""The one idea: a method is one function over a chunk of frames and an explicit memory.

    segmentation, memory = model(frames)                  # a clip; memory starts empty
    segmentation, memory = model(more_frames, memory)     # the same stream goes on
    segmentation, memory = model.step(frame, memory)      # one frame

A method writes the hooks `encode`, `initial_memory`, `fuse`, `decode` and `remember`. Time passes
in one place, `VideoSegmenter.forward`, so that clip and stream cannot differ.

Shapes: B streams, T frames, T' frames read out, C classes, H W full size, h w output stride.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from vidseg.card import Card
from vidseg.layers.resize import largest_class, resize
from vidseg.losses.criterion import CROSS_ENTROPY, Criterion
from vidseg.training_needs import TrainingNeeds
from vidseg.values import Memory, keep_finite, register_value

Feature = Any
"""A pytree of (N, ...) tensors: what `encode` makes of N frames."""


@dataclass(frozen=True)
class Segmentation:
    """The output of a segmenter for the frames that were read out.

    Attributes:
        logits: (B, T', C, h, w) at the output stride.
        aux: outputs for training, as the method's `auxiliary` names them and its `losses` reads
            them; empty unless asked for.
        image_size: (H, W) of the frames.
        align_corners: how the method's logits are resized.
        feature: (B, T', D, h, w), the map that a student copies from a teacher; None unless the
            training outputs were asked for.
    """

    logits: Tensor
    aux: dict[str, Tensor]
    image_size: tuple[int, int]
    align_corners: bool
    feature: Tensor | None = None

    def resize(self, size: tuple[int, int] | None = None) -> Tensor:
        """Logits at full size.

        Args:
            size: (H, W); the size of the frames by default.

        Returns:
            (B, T', C, H, W).
        """
        flat = resize(
            self.logits.flatten(0, 1), size or self.image_size, align_corners=self.align_corners
        )
        return flat.unflatten(0, self.logits.shape[:2])

    def labels(self, size: tuple[int, int] | None = None) -> Tensor:
        """The most likely class of every pixel.

        Args:
            size: (H, W); the size of the frames by default.

        Returns:
            (B, T', H, W) int64; frames and classes are resized a few at a time.
        """
        labels = largest_class(
            self.logits.flatten(0, 1), size or self.image_size, align_corners=self.align_corners
        )
        return labels.unflatten(0, self.logits.shape[:2])


register_value(Segmentation, static=frozenset({"image_size", "align_corners"}))


class VideoSegmenter(nn.Module):
    """A method of video semantic segmentation, written as hooks without time.

    A subclass sets `num_classes` and the attributes below, and writes the hooks; `forward` and
    `step` are written once, here. The defaults are those of a per-frame model: no memory.

    Attributes:
        num_classes: C.
        align_corners: how logits are resized to the frame.
        horizon: how many frames back a frame can see; `math.inf` for recurrent methods.
        recurrent: `remember` reads `fused`, so every frame must be fused.
        causal: False where the context needs the whole video.
        period: after how many frames the encoder repeats. Where it is more than 1 the frames take
            the phases 0 .. period - 1 in turn, `encode` gets the phase of its frames as a second
            argument, and `fuse` and `remember` find it in the memory.
        prefers_channels_last: on a CPU its convolutions are faster in this memory layout.
        card: what it takes to use the model: classes, colours, normalisation, licence.
    """

    recurrent: ClassVar[bool] = False
    causal: ClassVar[bool] = True
    period: int = 1
    horizon: float = 0
    num_classes: int
    align_corners: bool = False
    prefers_channels_last: bool = False
    memory_type: ClassVar[type[Memory]] = Memory
    card: Card = Card()

    def encode(self, frames: Tensor) -> Feature:
        """(N, 3, H, W) -> a pytree of (N, ...) tensors; sees no other frame."""
        raise NotImplementedError

    def initial_memory(self, feature: Feature, context: Any) -> Memory:
        """Make the memory of the first frame: the warm-up policy."""
        return Memory()

    def fuse(self, feature: Feature, memory: Any) -> Feature:
        """Read the memory, never write it; -> a pytree of (N, ...) tensors."""
        return feature

    def decode(self, fused: Feature) -> Tensor:
        """-> (N, C, h, w) logits at the output stride; sees no other frame."""
        raise NotImplementedError

    def remember(self, memory: Any, feature: Feature, fused: Feature | None) -> Memory:
        """The next memory, a new value; `fused` is None unless the method is `recurrent`."""
        return memory

    def auxiliary(self, features: Feature, fused: Feature) -> dict[str, Tensor]:
        """Further outputs, for training.

        Args:
            features: `encode`'s pytree, of (B, T, ...) tensors, all frames of the chunk.
            fused: `fuse`'s pytree, of (B, T', ...) tensors, the frames that are read out.

        Returns:
            name -> tensor. The default of `losses` takes each for logits (B, T', C, h', w').
        """
        return {}

    def losses(
        self,
        segmentation: Segmentation,
        batch: Mapping[str, Tensor],
        criterion: Criterion = CROSS_ENTROPY,
    ) -> dict[str, tuple[Tensor, float]]:
        """The terms of the training loss, for the last frame that was read out.

        The default compares the logits and every auxiliary output with the labels.

        Args:
            segmentation: what `forward` returned in training.
            batch: "labels" (B, H, W) int64, and "clip_labels" (B, T, H, W) with "labelled" (B, T)
                where `training_needs` asks for them.
            criterion: how logits are compared with labels, and the weights of a run.

        Returns:
            name -> a scalar and its weight; the loss is the weighted sum.
        """
        align, labels = segmentation.align_corners, batch["labels"]
        main = criterion(segmentation.logits[:, -1], labels, align_corners=align)
        terms = {"main": (main, 1.0)}
        for name, logits in segmentation.aux.items():
            term = criterion(logits[:, -1], labels, align_corners=align, is_main=False)
            terms[name] = (term, criterion.auxiliary_weight)
        return terms

    def training_needs(self) -> TrainingNeeds:
        """The wishes of this method to its trainer."""
        return TrainingNeeds()

    def window_frames(self, t: int) -> tuple[int, ...]:
        """The frame indices that frame `t` needs, oldest first, itself last."""
        return (t,)

    def context_frames(self, num_frames: int) -> tuple[int, ...]:
        """The frames that `summarize` reads of a video, where the method is not `causal`."""
        return ()

    def summarize(self, video: Tensor, *, name: str = "") -> Any:
        """The context of videos (B, T, 3, H, W), with their name; None if the method needs none."""
        return None

    def check_memory(self, memory: Any, feature: Feature) -> None:
        """Raise ValueError where `memory` cannot belong to these streams."""
        self._check_type(memory)
        batch = pytree.tree_leaves(feature)[0].shape[0]
        for leaf in pytree.tree_leaves(memory):
            if leaf.shape[0] != batch:
                raise ValueError(
                    f"the memory holds {leaf.shape[0]} streams, the frames are {batch}; "
                    "keep one memory for each batch of streams"
                )

    def _check_type(self, memory: Any) -> None:
        if type(memory) is not self.memory_type:
            raise ValueError(
                f"{type(self).__name__} goes on from a {self.memory_type.__name__}, got "
                f"{type(memory).__name__}; pass the memory that this model returned, or None"
            )
        if memory.phase >= self.period:
            raise ValueError(
                f"the memory is at phase {memory.phase}, the phases of this model are 0 to "
                f"{self.period - 1}; start the stream anew with memory=None"
            )

    def forward(
        self,
        frames: Tensor,
        memory: Any = None,
        *,
        readout: Literal["all", "last"] = "all",
        aux: bool | None = None,
        context: Any = None,
        phase: int | None = None,
    ) -> tuple[Segmentation, Any]:
        """Segment a chunk of frames.

        Args:
            frames: (B, T, 3, H, W) float, normalised by the model's card, in time order.
            memory: what an earlier call returned for the same streams; None starts new ones.
            readout: "all" frames, or only the "last" (earlier ones are then only remembered).
            aux: also give the training outputs, by default in training mode: those of
                `auxiliary`, and the feature that a student copies.
            context: what the method wants to know of the whole video (CFFM++'s prototypes), given
                with the first chunk; the memory carries it on.
            phase: of the first frame of a stream, for a method with a `period`; 0 by default.

        Returns:
            The segmentation of the T' frames that were read out, and the next memory.

        Raises:
            ValueError: wrong rank, channels, dtype or range of `frames`; a memory of another model,
                batch or size; a new context or phase for a stream that already runs; a phase
                outside 0 .. period - 1.
        """
        if not torch.compiler.is_compiling():
            check_frames(frames)
            _check_readout(readout)
            _check_context(memory, context)
            if memory is None and not self.training:
                check_range(frames)
        batch, length = frames.shape[:2]
        phases = self._phases(length, memory, phase)
        is_plain = self.period == 1
        features = self._encode_clip(frames) if is_plain else self._encode_in_turns(frames, phases)
        fused_frames = []
        for t in range(length):
            feature = pytree.tree_map(lambda x, t=t: x[:, t], features)
            if memory is None:
                memory = self.initial_memory(feature, context)
                if self._is_guarded():
                    memory = keep_finite(memory, pytree.tree_map(torch.zeros_like, memory))
                memory = memory if is_plain else replace(memory, phase=phases[0])
            elif t == 0 and not torch.compiler.is_compiling():
                self.check_memory(memory, feature)
            is_read = readout == "all" or t == length - 1
            fused = self.fuse(feature, memory) if is_read or self.recurrent else None
            following = self.remember(memory, feature, fused if self.recurrent else None)
            memory = keep_finite(following, memory) if self._is_guarded() else following
            memory = memory if is_plain else replace(memory, phase=phases[t + 1])
            if is_read:
                fused_frames.append(fused)
        flat = _stack_frames(fused_frames)
        split = (batch, len(fused_frames))
        logits = self.decode(flat).unflatten(0, split)
        size = (frames.shape[-2], frames.shape[-1])
        segmentation = Segmentation(logits, {}, size, self.align_corners)
        if self.training if aux is None else aux:
            fused = pytree.tree_map(lambda x: x.unflatten(0, split), flat)
            outputs = self.auxiliary(features, fused)
            feature = self.training_needs().distilled(flat).unflatten(0, split)
            segmentation = replace(segmentation, aux=outputs, feature=feature)
        return segmentation, memory

    def step(
        self,
        frame: Tensor,
        memory: Any = None,
        *,
        context: Any = None,
        phase: int | None = None,
    ) -> tuple[Segmentation, Any]:
        """Segment one frame of a stream: `forward` with T = 1.

        Args:
            frame: (B, 3, H, W) float, normalised by the model's card.
            memory: what the last step returned; None starts a stream.
            context: see `forward`.
            phase: see `forward`.

        Returns:
            The segmentation (T' = 1) and the next memory.

        Raises:
            ValueError: see `forward`.
        """
        if frame.dim() != 4 and not torch.compiler.is_compiling():
            raise ValueError(
                f"frame must be (B, 3, H, W), got {tuple(frame.shape)}; "
                "for a clip (B, T, 3, H, W) call model(frames, memory)"
            )
        turn = {} if phase is None else {"phase": phase}
        return self(frame[:, None], memory, context=context, **turn)

    def for_inference(self, device: torch.device | str | None = None) -> Self:
        """Prepare for inference in place: device, evaluation mode, memory layout; -> self."""
        self.eval()
        if device is not None:
            self.to(device)
        first = next(self.parameters(), None)
        if self.prefers_channels_last and first is not None and first.device.type == "cpu":
            self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return self

    def _encode_clip(self, frames: Tensor) -> Feature:
        """(B, T, 3, H, W) -> a pytree of (B, T, ...) tensors."""
        batch, length = frames.shape[:2]
        if self.training and length > 1 and self.training_needs().frame_statistics:
            last, *earlier = [self.encode(frames[:, t]) for t in (length - 1, *range(length - 1))]
            return pytree.tree_map(lambda *xs: torch.stack(xs, 1), *earlier, last)
        features = self.encode(frames.flatten(0, 1))
        return pytree.tree_map(lambda x: x.unflatten(0, (batch, length)), features)

    def _encode_in_turns(self, frames: Tensor, phases: Sequence[int]) -> Feature:
        """As `_encode_clip`; frames of one phase are one batch."""
        batch, length = frames.shape[:2]
        encode: Any = self.encode  # with a second argument here
        encoded: list[Feature] = [None] * length
        for start in range(min(self.period, length)):
            alike = encode(frames[:, start :: self.period].flatten(0, 1), phases[start])
            split = pytree.tree_map(lambda x: x.unflatten(0, (batch, -1)), alike)
            for k, t in enumerate(range(start, length, self.period)):
                encoded[t] = pytree.tree_map(lambda x, k=k: x[:, k], split)
        return pytree.tree_map(lambda *xs: torch.stack(xs, 1), *encoded)

    def _phases(self, length: int, memory: Any, phase: int | None) -> tuple[int, ...]:
        """The phases of the frames of a chunk, and of the one after it."""
        period = self.period
        is_number = isinstance(phase, int) and not isinstance(phase, bool)
        if phase is not None and not (is_number and 0 <= phase < period):
            known = f"0 to {period - 1}" if period > 1 else "0 alone, it treats all frames alike"
            raise ValueError(
                f"the phases of {type(self).__name__} are {known}; got phase={phase!r}"
            )
        if memory is None or period == 1:
            first = phase or 0
        else:
            self._check_type(memory)
            first = memory.phase
            if phase not in (None, first):
                raise ValueError(
                    f"this stream already runs, its next frame has phase {first}; pass phase only "
                    "with the first chunk, or start anew with memory=None"
                )
        return tuple((first + t) % period for t in range(length + 1))

    def _is_guarded(self) -> bool:
        """Whether a frame that is not finite would spoil the memory for ever: there is no end.

        Looked after outside of compiled and exported graphs alone.
        """
        return math.isinf(self.horizon) and not torch.compiler.is_compiling()

    @property
    def window_length(self) -> int:
        """Number of frames in a window once the video has run long enough."""
        return len(self.window_frames(10**6))


def check_frames(frames: Tensor) -> None:
    """Raise ValueError unless these are frames (B, T, 3, H, W) of floats, and not empty."""
    if frames.dim() != 5 or frames.shape[2] != 3:
        raise ValueError(
            f"frames must be (B, T, 3, H, W), got {tuple(frames.shape)}; "
            "for one frame call model.step(frame, memory)"
        )
    if 0 in frames.shape:
        raise ValueError(f"frames must not be empty, got {tuple(frames.shape)}")
    if not frames.is_floating_point():
        raise ValueError(
            f"frames must be normalised floats, got {frames.dtype}; "
            "use model.card.normalise(image) on uint8 pixels"
        )


def _check_readout(readout: str) -> None:
    if readout not in ("all", "last"):
        raise ValueError(f'readout must be "all" or "last", got {readout!r}')


def check_range(frames: Tensor) -> None:
    """Raise ValueError for raw pixels, which reach 255; normalised ones stay within about 3.

    To be called once a stream, since it waits for the device.
    """
    if frames.device.type == "meta":
        return
    largest = float(frames.detach().abs().amax())
    if largest > 30:
        raise ValueError(
            f"frames must be normalised, got values up to {largest:.0f} (raw pixels?); "
            "use model.card.normalise(image)"
        )


def _stack_frames(frames: list[Feature]) -> Feature:
    """T' pytrees of (B, ...) -> one of (B * T', ...); one frame is passed on as it is."""
    if len(frames) == 1:
        return frames[0]
    return pytree.tree_map(lambda *xs: torch.stack(xs, 1).flatten(0, 1), *frames)


def _check_context(memory: Any, context: Any) -> None:
    if memory is None or context is None:
        return
    if getattr(memory, "context", None) is not context:
        raise ValueError(
            "this stream already runs with another context; "
            "pass context only with the first chunk, or start anew with memory=None"
        )
