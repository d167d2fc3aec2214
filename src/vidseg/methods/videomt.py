"""VidEoMT: a plain vision transformer whose queries walk from frame to frame.

Norouzi et al., "VidEoMT: Your ViT is Secretly Also a Video Segmentation Model", CVPR 2026
(arXiv 2602.17807). Matches tue-mps/videomt at 39411e9, written from a description of it.

The first blocks see a frame alone. The last ones process its tokens together with Q queries, each
of which ends as a class and a mask. The next frame's queries are a linear layer of this frame's,
plus the learned queries; they are the whole memory. What the paper does not say and the published
weights need:

1. The queries are handed on as the last block leaves them, before the final norm; with DINOv3 after
   it.
2. The published evaluation pads frames with zeros, after normalisation, below and at the right, to
   a multiple of 32 (`pad=32`). The padding takes part in the attention.
3. The published figures average the class logits of each query over the whole video, which is not
   causal (`classes="official-video"`); here the mean over the frames so far is the default.

B streams, N frames, Q queries, D channels, K classes, P prefix tokens; h w is stride 16.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.backbones.vit import PATCH, Kind, VisionTransformer
from vidseg.backbones.vit_layouts import load_pretrained
from vidseg.methods.method import Options
from vidseg.methods.queries import Classes, Encoded, Level, QuerySegmenter, expanded, level_of
from vidseg.methods.query_checkpoints import (
    encoder_options,
    head_options,
    ordered_classes,
    split_encoder,
    without_prefix,
)
from vidseg.weights import load_strictly


class VidEoMT(QuerySegmenter):
    """A vision transformer whose last blocks also process the queries.

    Args:
        num_classes: K.
        backbone: "dinov2" or "dinov3".
        backbone_weights: None, "hub" (DINOv2's are Apache-2.0, DINOv3's under Meta's licence) or a
            local file of a raw encoder.
        width: D.
        depth: number of blocks.
        heads: of the attention; D / 64 by default.
        query_blocks: how many of the last blocks process the queries.
        queries: Q.
        registers: number of register tokens.
        position_grid: side of the grid of learned positions (DINOv2): 80 for VSPW's weights.
        masked_attention: train as EoMT's image stage does: a query first attends within its own
            mask alone, then with falling probability, block by block, until no mask is left.
        norm_queries: hand queries on after the final norm; the authors do so with DINOv3.
        query_options: `classes`, `pad`, `clip_frames` and others of `QuerySegmenter`.

    Raises:
        ValueError: see `QuerySegmenter` and `VisionTransformer`; more query blocks than blocks.
    """

    variants: ClassVar[Mapping[str, Options]] = {
        "s": {"width": 384, "depth": 12, "query_blocks": 3},
        "b": {"width": 768, "depth": 12, "query_blocks": 3},
        "l": {"width": 1024, "depth": 24, "query_blocks": 4},
        "tiny": {
            "width": 48,
            "depth": 4,
            "heads": 3,
            "query_blocks": 2,
            "queries": 12,
            "position_grid": 4,
        },
    }
    official_names: ClassVar[tuple[str, ...]] = ("videomt",)

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Kind = "dinov2",
        backbone_weights: str | Path | None = None,
        width: int = 384,
        depth: int = 12,
        heads: int | None = None,
        query_blocks: int = 3,
        queries: int = 200,
        registers: int = 4,
        position_grid: int = 40,
        norm_queries: bool | None = None,
        masked_attention: bool = False,
        **query_options: Any,
    ) -> None:
        if not 1 <= query_blocks <= depth:
            raise ValueError(
                f"query_blocks must be 1 to {depth}, the number of blocks, got {query_blocks}"
            )
        encoder = VisionTransformer(
            kind=backbone,
            width=width,
            depth=depth,
            heads=heads or max(1, width // 64),
            registers=registers,
            position_grid=position_grid,
        )
        if backbone_weights is not None:
            load_pretrained(encoder, backbone_weights)
        super().__init__(num_classes, encoder, queries=queries, **query_options)
        self.num_plain = depth - query_blocks
        self.norm_queries = backbone == "dinov3" if norm_queries is None else norm_queries
        self.propagation = nn.Linear(width, width)
        self.masked_attention = masked_attention
        self.mask_probabilities = (float(masked_attention),) * query_blocks

    def encode(self, frames: Tensor) -> Encoded:
        """(N, 3, H, W) -> the tokens after the blocks without queries."""
        tokens, zoom = self.encoder.embed(frames), self.encoder.zoom()
        rotation = self.encoder.rotation(tokens.patches, zoom)
        sequence = self.encoder.run_blocks(tokens.joined(), 0, self.num_plain, rotation)
        return Encoded(tokens.replaced(sequence), expanded(zoom, frames))

    def answer(self, feature: Encoded, queries: Tensor) -> tuple[Tensor, Level, tuple[Level, ...]]:
        """The last blocks, on queries, prefix and patches alike; no attention mask."""
        tokens, count = feature.tokens, queries.shape[1]
        zoom = feature.zoom[0] if self.training else None
        rotation = self.encoder.rotation(tokens.patches, zoom)
        sequence = torch.cat([queries, tokens.joined()], 1)
        earlier = []
        blocks = self.encoder.blocks[self.num_plain :]
        for block, probability in zip(blocks, self.mask_probabilities, strict=True):
            mask = None
            if self.training:
                seen = self.encoder.norm(sequence) if self.norm_queries else sequence
                earlier.append(level_of(seen, count, tokens))
                if probability:
                    level = level_of(self.encoder.norm(sequence), count, tokens)
                    mask = self._attention_mask(level, probability)
            sequence = block(sequence, rotation, mask)
        normed = self.encoder.norm(sequence)
        handed_on = (normed if self.norm_queries else sequence)[:, :count]
        return handed_on, level_of(normed, count, tokens), tuple(earlier)

    def begin_step(self, step: int, num_steps: int) -> None:
        """Lower the probability of masks, block by block, as EoMT does."""
        if self.masked_attention:
            count = len(self.mask_probabilities)
            self.mask_probabilities = mask_probabilities(step / num_steps, count)

    @torch.no_grad()
    def _attention_mask(self, level: Level, probability: float) -> Tensor:
        """(N, 1, S, S): each query sees the patches of its mask, or with luck all; others see all.

        Prefix and queries stay open, so a query whose mask is empty still sees something.
        """
        grid = level.patches.shape[1:3]
        masks = F.interpolate(self.heads.masks(level.queries, level.patches), grid, mode="bilinear")
        batch, count = masks.shape[:2]
        skipped = count + self.encoder.num_prefix
        length = skipped + grid[0] * grid[1]
        is_open = masks.flatten(2) > 0
        is_open |= torch.rand(batch, count, 1, device=masks.device) >= probability
        mask = is_open.new_ones(batch, 1, length, length)
        mask[:, 0, :count, skipped:] = is_open
        return mask

    def next_queries(self, handed_on: Tensor, queries: Tensor) -> Tensor:
        """A linear layer of what is handed on, and the learned queries."""
        return self.propagation(handed_on) + self.queries

    @classmethod
    def from_official(
        cls,
        tensors: dict[str, Tensor],
        *,
        heads: int | None = None,
        query_blocks: int | None = None,
        norm_queries: bool | None = None,
        classes: Classes = "running",
        classes_order: str | None = None,
        pad: int = PATCH,
    ) -> tuple[Self, Options]:
        """Build the model that a checkpoint belongs to.

        Args:
            tensors: the state dict of the authors or of transformers.
            heads: of the attention; the tensors do not tell. D / 64 by default.
            query_blocks: how many blocks process the queries; by default as `attn_mask_probs`
                says, else 4 of 24 blocks and 3 of 12.
            norm_queries: see the class; the tensors do not tell.
            classes: see `QuerySegmenter`.
            pad: see `QuerySegmenter`; 32 as in the published evaluation.
            classes_order: "vspw-things-first" or "as-is"; the former by default for 124 classes,
                whose head counts things first.

        Returns:
            The model, and the arguments that it was made with.

        Raises:
            ValueError: keys are missing, unexpected or mis-shaped (all are listed).
        """
        dead = cls.dead_keys(tensors)
        plain = without_prefix(tensors, dead)
        encoder, rest = split_encoder(plain)
        depth = 1 + max(int(k.split(".")[1]) for k in encoder if k.startswith("blocks."))
        mask = next((v for k, v in tensors.items() if k.endswith("attn_mask_probs")), None)
        inferred = 4 if depth >= 24 else min(3, depth)
        if query_blocks is None:
            query_blocks = inferred if mask is None else len(mask)
        options = {
            **encoder_options(encoder),
            **head_options(rest),
            "query_blocks": query_blocks,
            "classes": classes,
            "pad": pad,
        }
        options |= {
            k: v for k, v in (("heads", heads), ("norm_queries", norm_queries)) if v is not None
        }
        model = cls(**options)
        renamed = {f"encoder.{name}": value for name, value in encoder.items()}
        renamed |= ordered_classes(rest, classes_order)
        load_strictly(model, renamed, dead=dead)
        return model, options


def mask_probabilities(progress: float, count: int) -> tuple[float, ...]:
    """The probability of an attention mask in each of `count` blocks: 1, then falling to 0.

    Block i begins to fall at (i + 1) / (count + 2) of the run and is at 0 one part later, by
    (1 - x)^0.9 in between: the proportions of EoMT's schedule for ADE20K.

    Args:
        progress: share of the run that is done, in [0, 1].
        count: number of blocks with queries.
    """
    parts = [progress * (count + 2) - (i + 1) for i in range(count)]
    return tuple((1 - min(max(x, 0.0), 1.0)) ** 0.9 for x in parts)
