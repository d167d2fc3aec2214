"""Segmenters whose memory is a set of queries: what VidEoMT, PMT and LVMT have in common.

Queries meet a frame, each says a class and a mask, and what they have become is where the next
frame's queries start from. How they meet it is the method's.

B streams, N frames, Q queries, D channels, K classes, P prefix tokens; h w is stride 16.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from vidseg.backbones.vit import PATCH, Tokens, VisionTransformer
from vidseg.classes import VSPW, ClassSet
from vidseg.context import QueryClasses
from vidseg.layers.query_heads import QueryHeads, class_scores
from vidseg.losses.criterion import CROSS_ENTROPY, Criterion
from vidseg.losses.mask_classification import NUM_POINTS, clip_targets, mask_classification_terms
from vidseg.methods.method import Method, Options
from vidseg.segmenter import Segmentation
from vidseg.training_needs import TrainingNeeds
from vidseg.values import Memory

Classes = Literal["running", "frame", "official-video"]


@dataclass(frozen=True)
class QueryMemory(Memory):
    """The queries that the next frame starts from.

    Attributes:
        queries: (B, Q, D).
        running: for running classes, the mean class logits (B, Q, K + 1) of the frames so far and
            their number (B, 1, 1); else empty.
        given: for official-video, the class logits of the whole video; else empty.
    """

    queries: Tensor
    running: tuple[Tensor, ...] = ()
    given: tuple[QueryClasses, ...] = ()

    @property
    def context(self) -> QueryClasses | None:
        """The context that the stream was started with."""
        return self.given[0] if self.given else None


class Encoded(NamedTuple):
    """A frame before it meets the queries.

    Attributes:
        tokens: prefix (N, P, D) and patches (N, h, w, D).
        zoom: (N,) factor on the rotary coordinates, 1 but in training with DINOv3.
    """

    tokens: Tokens
    zoom: Tensor


class Level(NamedTuple):
    """Tokens that the heads read: queries (N, Q, D) and patches (N, h, w, D)."""

    queries: Tensor
    patches: Tensor


class Answered(NamedTuple):
    """A frame and the queries that have met it.

    Attributes:
        handed_on: (N, Q, D), what the next frame's queries are made of.
        decided: (N, Q, K + 1) class logits that decide the class, by the rule of the model.
        last: what the heads read.
        earlier: in training, what they would read before each block with queries.
    """

    handed_on: Tensor
    decided: Tensor
    last: Level
    earlier: tuple[Level, ...]


class QuerySegmenter(Method):
    """An encoder, queries that meet its tokens, and a memory of queries: VidEoMT, PMT and LVMT.

    A subclass writes `encode`, `answer` and `next_queries`.

    Args:
        num_classes: K.
        encoder: the vision transformer.
        queries: Q.
        classes: which class logits of a query decide: "running", the mean over the frames so far;
            "frame", its own; "official-video", the mean over the whole video, which is given as
            `context` (see `summarize`).
        pad: frames are padded with zeros, below and at the right, to a multiple of this; the
            authors' networks take any multiple of 16, their evaluation pads to 32.
        clip_frames: consecutive frames of a training clip.
        loss_points: points at which a mask is compared with its target.
        official_levels: leave the level just before the last block out of the loss, as the authors'
            table of weights does.

    Raises:
        ValueError: `classes` is unknown, there is no query, or `pad` is no multiple of 16.
    """

    recurrent = True
    horizon = float("inf")
    memory_type = QueryMemory
    official_classes: ClassVar[Mapping[int, ClassSet]] = {124: VSPW}

    def __init__(
        self,
        num_classes: int,
        encoder: VisionTransformer,
        *,
        queries: int = 200,
        classes: Classes = "running",
        pad: int = PATCH,
        clip_frames: int = 5,
        loss_points: int = NUM_POINTS,
        official_levels: bool = False,
    ) -> None:
        super().__init__()
        if pad < PATCH or pad % PATCH:
            raise ValueError(f"pad must be a multiple of {PATCH}, got {pad}")
        if classes not in ("running", "frame", "official-video"):
            raise ValueError(
                f'classes must be "running", "frame" or "official-video", got {classes!r}'
            )
        if queries < 1:
            raise ValueError(f"queries must be at least 1, got {queries}")
        self.num_classes = num_classes
        self.classes, self.pad = classes, pad
        self.clip_frames, self.loss_points = clip_frames, loss_points
        self.official_levels = official_levels
        # A class attribute elsewhere; set per instance here.
        self.causal = classes != "official-video"  # pyright: ignore[reportAttributeAccessIssue]
        self.encoder = encoder
        self.queries = nn.Parameter(torch.randn(queries, encoder.width))
        self.heads = QueryHeads(encoder.width, num_classes)

    def answer(self, feature: Encoded, queries: Tensor) -> tuple[Tensor, Level, tuple[Level, ...]]:
        """Let queries (N, Q, D) meet a frame: `Answered` without `decided`."""
        raise NotImplementedError

    def next_queries(self, handed_on: Tensor, queries: Tensor) -> Tensor:
        """(N, Q, D) of the next frame, from what this frame hands on and its own queries."""
        raise NotImplementedError

    def forward(
        self, frames: Tensor, memory: Any = None, **options: Any
    ) -> tuple[Segmentation, Any]:
        """Segment a chunk of frames: see `VideoSegmenter.forward`.

        Frames are padded to multiples of `pad`; logits are class scores, not negative, at stride 4
        of the frames themselves. The masks of `aux` are those of the padded frames.
        """
        if frames.dim() != 5:
            return super().forward(frames, memory, **options)  # says what is wrong
        height, width = frames.shape[-2:]
        if min(height, width) < PATCH and not torch.compiler.is_compiling():
            raise ValueError(
                f"frames must be at least one patch large, {PATCH}x{PATCH}, got {height}x{width}"
            )
        padded = F.pad(frames, (0, -width % self.pad, 0, -height % self.pad))
        segmentation, memory = super().forward(padded, memory, **options)
        logits = _crop(segmentation.logits.flatten(0, 1), (height, width))
        return replace(
            segmentation,
            logits=logits.unflatten(0, segmentation.logits.shape[:2]),
            image_size=(height, width),
        ), memory

    def initial_memory(self, feature: Encoded, context: Any) -> QueryMemory:
        """The learned queries, for every stream."""
        batch = feature.zoom.shape[0]
        queries = self.queries.expand(batch, -1, -1).clone()
        if self.classes == "official-video":
            return QueryMemory(queries, given=(_checked(context, batch, self),))
        if context is not None:
            raise ValueError(
                f'this model decides classes by classes="{self.classes}" and takes no context; '
                'make it with classes="official-video" to give one'
            )
        if self.classes == "frame":
            return QueryMemory(queries)
        mean = queries.new_zeros(batch, queries.shape[1], self.num_classes + 1)
        return QueryMemory(queries, (mean, queries.new_zeros(batch, 1, 1)))

    def fuse(self, feature: Encoded, memory: QueryMemory) -> Answered:
        """Let the memory's queries meet the frame, and decide their classes."""
        handed_on, last, earlier = self.answer(feature, memory.queries)
        decided = self.heads.class_head(last.queries)
        if memory.context is not None:
            decided = memory.context.logits.to(decided.dtype)
        elif memory.running:
            mean, count = memory.running
            decided = mean + (decided - mean) / (count + 1)
        return Answered(handed_on, decided, last, earlier)

    def decode(self, fused: Answered) -> Tensor:
        """-> (N, K, 4 h, 4 w) class scores of the padded frames, at stride 4."""
        parts = zip(fused.decided, fused.last.queries, fused.last.patches, strict=True)
        scores = [
            class_scores(decided[None], self.heads.masks(queries[None], patches[None]))
            for decided, queries, patches in parts  # one frame's masks at a time
        ]
        return torch.cat(scores)

    def remember(
        self, memory: QueryMemory, feature: Encoded, fused: Answered | None
    ) -> QueryMemory:
        """The next queries; for running classes, their mean logits."""
        assert fused is not None
        queries = self.next_queries(fused.handed_on, memory.queries)
        running = (fused.decided, memory.running[1] + 1) if memory.running else ()
        return replace(memory, queries=queries, running=running)

    def auxiliary(self, features: Encoded, fused: Answered) -> dict[str, Tensor]:
        """Class logits (B, T', Q, K + 1) and mask logits (B, T', Q, h', w') of every level."""
        split = fused.decided.shape[:2]
        flat = pytree.tree_map(lambda x: x.flatten(0, 1), fused)
        outputs = {}
        for suffix, level in (
            ("", flat.last),
            *((f"_{i}", level) for i, level in enumerate(flat.earlier)),
        ):
            logits = self.heads.class_head(level.queries)
            masks = self.heads.masks(level.queries, level.patches)
            outputs[f"class_logits{suffix}"] = logits.unflatten(0, split)
            outputs[f"mask_logits{suffix}"] = masks.unflatten(0, split)
        return outputs

    def losses(
        self,
        segmentation: Segmentation,
        batch: Mapping[str, Tensor],
        criterion: Criterion = CROSS_ENTROPY,
    ) -> dict[str, tuple[Tensor, float]]:
        """Mask classification of every level, over all labelled frames of each clip.

        A clip's classes are its targets; queries are matched on its first labelled frame.
        """
        aux = segmentation.aux
        size = (4 * aux["mask_logits"].shape[-2], 4 * aux["mask_logits"].shape[-1])
        clips = [(b, kept) for b, kept in enumerate(batch["labelled"]) if bool(kept.any())]
        if not clips:
            return {}
        targets = [clip_targets(batch["clip_labels"][b][kept], size) for b, kept in clips]
        suffixes = [name.removeprefix("class_logits") for name in aux if "class_logits" in name]
        levels = [
            (
                [aux[f"class_logits{suffix}"][b][kept] for b, kept in clips],
                [aux[f"mask_logits{suffix}"][b][kept] for b, kept in clips],
            )
            for suffix in suffixes
        ]
        return mask_classification_terms(
            levels,
            targets,
            official=self.official_levels,
            num_points=self.loss_points,
            class_weights=criterion.class_weights,
        )

    def training_needs(self) -> TrainingNeeds:
        """Labels of all frames; the encoder's layers in their order."""
        return TrainingNeeds(
            clip_labels=True,
            readout="all",
            layers_above=self._layers_above,
            begin_step=self.begin_step,
            distilled=_map_of,
        )

    def begin_step(self, step: int, num_steps: int) -> None:
        """Told of each training step before it; most methods do nothing."""

    def window_frames(self, t: int) -> tuple[int, ...]:
        """The clip that is trained on: consecutive frames, fewer at a video's start.

        In a stream a frame sees all frames before it.
        """
        return tuple(range(max(0, t - self.clip_frames + 1), t + 1))

    def _layers_above(self, name: str) -> int | None:
        """Blocks of the encoder above a parameter; the final norm is above all."""
        part = name.removeprefix("encoder.")
        if part == name:
            return None
        last = len(self.encoder.blocks) - 1
        if part.startswith("blocks."):
            return last - int(part.split(".")[1])
        return 0 if part.startswith("norm.") else last

    def check_memory(self, memory: Any, feature: Encoded) -> None:
        """Raise ValueError for a memory of another model, batch or number of queries."""
        super().check_memory(memory, feature)
        if memory.queries.shape[1:] != self.queries.shape:
            raise ValueError(
                f"the memory holds queries {tuple(memory.queries.shape[1:])}, this model has "
                f"{tuple(self.queries.shape)}; start the stream anew with memory=None"
            )
        if bool(memory.running) != (self.classes == "running"):
            raise ValueError(
                f'the memory is not of a model with classes="{self.classes}"; start the stream '
                "anew with memory=None"
            )

    def context_frames(self, num_frames: int) -> tuple[int, ...]:
        """Every frame: the class logits are averaged over all of them."""
        return tuple(range(num_frames))

    @torch.no_grad()
    def summarize(self, video: Tensor, *, name: str = "") -> QueryClasses | None:
        """The mean class logits of each query over videos (B, T, 3, H, W), all frames in order.

        Args:
            video: normalised frames.
            name: of the video, to be kept with the logits.

        Returns:
            The context for `forward`; None unless the model decides by the whole video.
        """
        if self.classes != "official-video":
            return None
        memory, total = None, torch.zeros(())
        empty = self.queries.new_zeros(video.shape[0], self.queries.shape[0], self.num_classes + 1)
        for t in range(video.shape[1]):
            context = QueryClasses(empty) if memory is None else None
            answer, memory = self(video[:, t : t + 1], memory, aux=True, context=context)
            total = total + answer.aux["class_logits"][:, 0]
        return QueryClasses(total / video.shape[1], name)

    @classmethod
    def name_of(cls, family: str, options: Options) -> str:
        """The name of the variant that shares most options; the card keeps the others."""
        given = options.items()
        variants = cls.variants
        return cls._name(family, max(variants, key=lambda v: len(variants[v].items() & given)))

    @classmethod
    def dead_keys(cls, tensors: dict[str, Tensor]) -> dict[str, str]:
        """The keys of an authors' checkpoint that play no part.

        Args:
            tensors: the state dict of the authors or of transformers.

        Returns:
            key -> reason.
        """
        reasons = {
            "attn_mask_probs": "the probability of masks in the attention, which video has not",
            "empty_weight": "the weight of the class 'no object' in the authors' loss",
            "mask_token": "masked images are a matter of pre-training",
            "pixel_mean": "the card has the normalisation",
            "pixel_std": "the card has the normalisation",
        }
        leaves = {name: name.rsplit(".", 1)[-1] for name in tensors}
        return {name: reasons[leaf] for name, leaf in leaves.items() if leaf in reasons}


def _map_of(fused: Answered) -> Tensor:
    """The (N, D, h, w) map that masks are made of."""
    return fused.last.patches.permute(0, 3, 1, 2)


def level_of(sequence: Tensor, num_queries: int, tokens: Tokens) -> Level:
    """Queries and patches of a sequence of queries, prefix and patches."""
    skipped = num_queries + tokens.prefix.shape[1]
    patches = sequence[:, skipped:].unflatten(1, tokens.patches.shape[1:3])
    return Level(sequence[:, :num_queries], patches)


def expanded(zoom: Tensor | None, frames: Tensor) -> Tensor:
    """One factor for each of N frames; 1 without one."""
    if zoom is None:
        return frames.new_ones(frames.shape[0])
    return zoom.to(frames.dtype).expand(frames.shape[0])


def _crop(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut scores (N, K, h, w) of padded frames to those of frames of `size`, at stride 4.

    Where a side is no multiple of 4 the last cell would reach into the padding; the cells are then
    spread evenly over the frame instead.
    """
    wanted = tuple(-(-side // 4) for side in size)
    if wanted == tuple(scores.shape[-2:]) and not any(side % 4 for side in size):
        return scores
    if not any(side % 4 for side in size):
        return scores[..., : wanted[0], : wanted[1]]
    whole = scores.new_tensor([4 * side for side in scores.shape[-2:]])
    spans = scores.new_tensor(size) / whole
    y, x = (
        (2 * torch.arange(n, device=scores.device, dtype=scores.dtype) + 1) / n * span - 1
        for n, span in zip(wanted, spans, strict=True)
    )
    grid = torch.stack(torch.broadcast_tensors(x[None], y[:, None]), -1)
    grid = grid.expand(scores.shape[0], -1, -1, -1)
    return F.grid_sample(scores, grid, padding_mode="border", align_corners=False)


def _checked(context: Any, batch: int, model: QuerySegmenter) -> QueryClasses:
    """The context, on the model's device, if it can be of these streams."""
    wanted = (batch, model.queries.shape[0], model.num_classes + 1)
    if not isinstance(context, QueryClasses):
        raise ValueError(
            'classes="official-video" decides by the whole video; pass '
            "context=model.summarize(video) with the first chunk, or make the model with "
            f'classes="running"; got {type(context).__name__}'
        )
    if tuple(context.logits.shape) != wanted:
        raise ValueError(
            f"the context must hold class logits {wanted}, got {tuple(context.logits.shape)}; is "
            "it of another model, or of another number of videos?"
        )
    return (
        context
        if context.logits.device == model.queries.device
        else context.to(model.queries.device)
    )
