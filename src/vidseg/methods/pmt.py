"""PMT and LVMT: queries that read a frozen vision transformer through a decoder of their own.

"PMT", CVPR Workshops 2026 (arXiv 2603.25398), and "LVMT" (arXiv 2609.34895). Match tue-mps/pmt at
54d73c9 and tue-mps/lvmt at 1d3e0f3, written from a description of them.

The encoder is frozen and never sees a query. Maps of several of its blocks are summed, and a few
blocks of attention let the queries read the sum. PMT hands queries to the next frame by a linear
layer, LVMT by a gated recurrent unit. What the papers do not say and the published weights need:

1. The decoder's blocks are DINOv3's, rotary positions included, over either encoder.
2. The norm of the maps counts prefix tokens and patches alike.

B streams, N frames, Q queries, D channels, K classes, P prefix tokens; h w is stride 16.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from vidseg.backbones.vit import NORM_EPS, PATCH, Block, Kind, VisionTransformer, rotary
from vidseg.backbones.vit_layouts import encoder_of, load_pretrained
from vidseg.methods.method import Options
from vidseg.methods.queries import (
    Classes,
    Encoded,
    Level,
    QuerySegmenter,
    expanded,
    level_of,
)
from vidseg.methods.query_checkpoints import (
    encoder_options,
    head_options,
    ordered_classes,
    split_encoder,
    without_prefix,
)
from vidseg.weights import load_strictly

Propagation = Literal["linear", "gru"]


class Tap(nn.Module):
    """The tap of one encoder block: norm, a small perceptron, a scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.lateral = nn.Sequential(
            nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, width)
        )
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, D) -> (N, S, D)."""
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return (x + self.lateral(x)) * self.scale


class PMT(QuerySegmenter):
    """A frozen vision transformer, and a decoder in which queries read it.

    Args:
        num_classes: K.
        backbone: "dinov2" or "dinov3".
        backbone_weights: None, "hub" (DINOv2's are Apache-2.0, DINOv3's under Meta's licence) or a
            local file of a raw encoder.
        width: D.
        depth: number of the encoder's blocks.
        heads: of the attention; D / 64 by default.
        taps: after which blocks the encoder is read; evenly spread by default.
        decoder_blocks: number of the decoder's.
        decoder_hidden: width inside the decoder's perceptrons; D by default.
        train_encoder: train the encoder as well, which the authors never do.
        propagation: how queries reach the next frame: "linear" (PMT) or "gru" (LVMT).
        queries: Q.
        registers: number of register tokens.
        position_grid: side of the grid of learned positions (DINOv2).
        query_options: `classes`, `pad`, `clip_frames` and others of `QuerySegmenter`.

    Raises:
        ValueError: see `QuerySegmenter` and `VisionTransformer`; a tap that is no block;
            `propagation` is unknown.
    """

    variants: ClassVar[Mapping[str, Options]] = {
        "s": {"width": 384, "depth": 12},
        "b": {"width": 768, "depth": 12},
        "l": {"width": 1024, "depth": 24},
        "tiny": {
            "width": 48,
            "depth": 4,
            "heads": 3,
            "taps": (1, 3),
            "decoder_blocks": 2,
            "queries": 12,
            "position_grid": 4,
        },
    }
    official_names: ClassVar[tuple[str, ...]] = ("pmt",)

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Kind = "dinov2",
        backbone_weights: str | Path | None = None,
        width: int = 384,
        depth: int = 12,
        heads: int | None = None,
        taps: tuple[int, ...] | None = None,
        decoder_blocks: int = 6,
        decoder_hidden: int | None = None,
        train_encoder: bool = False,
        propagation: Propagation = "linear",
        queries: int = 200,
        registers: int = 4,
        position_grid: int = 40,
        **query_options: Any,
    ) -> None:
        heads = heads or max(1, width // 64)
        taps = spread_taps(depth, 4) if taps is None else tuple(taps)
        if not taps or any(not 0 <= tap < depth for tap in taps):
            raise ValueError(f"taps must be blocks, 0 to {depth - 1}, got {taps}")
        if propagation not in ("linear", "gru"):
            raise ValueError(f'propagation must be "linear" or "gru", got {propagation!r}')
        encoder = VisionTransformer(
            kind=backbone,
            width=width,
            depth=depth,
            heads=heads,
            registers=registers,
            position_grid=position_grid,
        )
        if backbone_weights is not None:
            load_pretrained(encoder, backbone_weights)
        super().__init__(num_classes, encoder, queries=queries, **query_options)
        self.encoder.requires_grad_(train_encoder)
        self.tap_places = taps
        self.taps = nn.ModuleList(Tap(width) for _ in taps)
        eps, hidden = NORM_EPS["dinov3"], decoder_hidden or width
        self.decoder = nn.ModuleList(
            Block(width, heads, hidden, eps=eps, key_bias=False) for _ in range(decoder_blocks)
        )
        self.decoder_norm = nn.LayerNorm(width, eps)
        self.propagation = (
            nn.Linear(width, width) if propagation == "linear" else nn.GRUCell(width, width)
        )

    def encode(self, frames: Tensor) -> Encoded:
        """(N, 3, H, W) -> the sum of the taps."""
        tokens, zoom = self.encoder.embed(frames), self.encoder.zoom()
        rotation = self.encoder.rotation(tokens.patches, zoom)
        sequence, start, total = tokens.joined(), 0, None
        for place, tap in zip(self.tap_places, self.taps, strict=True):
            sequence = self.encoder.run_blocks(sequence, start, place + 1, rotation)
            start = place + 1
            read = tap(self.encoder.norm(sequence))
            total = read if total is None else total + read
        assert total is not None
        return Encoded(tokens.replaced(total), expanded(zoom, frames))

    def answer(self, feature: Encoded, queries: Tensor) -> tuple[Tensor, Level, tuple[Level, ...]]:
        """The decoder's blocks, on queries, prefix and patches alike."""
        tokens, count = feature.tokens, queries.shape[1]
        zoom = feature.zoom[0] if self.training else None
        rotation = rotary(tokens.patches, self.encoder.width // self.encoder.heads, zoom)
        sequence = torch.cat([queries, tokens.joined()], 1)
        earlier = []
        for block in self.decoder:
            if self.training:
                earlier.append(level_of(sequence, count, tokens))
            sequence = block(sequence, rotation)
        normed = self.decoder_norm(sequence)
        return sequence[:, :count], level_of(normed, count, tokens), tuple(earlier)

    def next_queries(self, handed_on: Tensor, queries: Tensor) -> Tensor:
        """PMT: a linear layer, and the learned queries. LVMT: a gated step from the last ones."""
        if isinstance(self.propagation, nn.Linear):
            return self.propagation(handed_on) + self.queries
        step = self.propagation(handed_on.flatten(0, 1), queries.flatten(0, 1))
        return step.unflatten(0, queries.shape[:2])

    @classmethod
    def from_official(
        cls,
        tensors: dict[str, Tensor],
        *,
        heads: int | None = None,
        taps: tuple[int, ...] | None = None,
        classes: Classes = "running",
        classes_order: str | None = None,
        pad: int = PATCH,
    ) -> tuple[Self, Options]:
        """Build the model that a checkpoint belongs to.

        Args:
            tensors: the state dict of the authors; PMT's or LVMT's, the tensors tell.
            heads: of the attention; the tensors do not tell. D / 64 by default.
            taps: see the class; the tensors do not tell.
            classes: see `QuerySegmenter`.
            pad: see `QuerySegmenter`; 32 as in the published evaluation.
            classes_order: see `VidEoMT.from_official`.

        Returns:
            The model, and the arguments that it was made with.

        Raises:
            ValueError: keys are missing, unexpected or mis-shaped (all are listed).
        """
        dead = cls.dead_keys(tensors)
        plain = without_prefix(tensors, dead)
        encoder, rest = split_encoder(
            {name.removeprefix("decoder."): value for name, value in plain.items()}
        )
        decoder = _decoder_of(rest)
        blocks = {int(name.split(".")[1]) for name in decoder if name.startswith("decoder.")}
        hidden = decoder.get("decoder.0.mlp.0.weight")
        options = {
            **encoder_options(encoder),
            **head_options(decoder),
            "decoder_blocks": len(blocks),
            "decoder_hidden": None if hidden is None else hidden.shape[0],
            "propagation": "gru" if "propagation.weight_ih" in decoder else "linear",
            "classes": classes,
            "pad": pad,
        }
        if taps is None:
            count = sum(name.endswith(".scale") for name in decoder)
            taps = spread_taps(options["depth"], count)
        given = {"heads": heads, "taps": taps}
        options |= {name: value for name, value in given.items() if value is not None}
        model = cls(**options)
        renamed = {f"encoder.{name}": value for name, value in encoder.items()}
        renamed |= ordered_classes(decoder, classes_order)
        load_strictly(model, renamed, dead=dead)
        return model, options


class LVMT(PMT):
    """PMT with a gated recurrent unit between frames; arguments as `PMT`."""

    variants: ClassVar[Mapping[str, Options]] = {
        size: {**made, "propagation": "gru"} for size, made in PMT.variants.items()
    }
    official_names: ClassVar[tuple[str, ...]] = ("lvmt",)


def spread_taps(depth: int, count: int) -> tuple[int, ...]:
    """The last blocks of `count` equal parts: (5, 11, 17, 23) for 24 blocks and 4 taps."""
    return tuple((i + 1) * depth // count - 1 for i in range(count))


def _decoder_of(rest: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' decoder, without its `decoder.`, under our names."""
    names = (("bn.", "norm."), ("lateral_projections.", "lateral."), ("scalers.", "scale"))
    blocks = encoder_of({n: value for n, value in rest.items() if n.startswith("blocks.")})
    found = {name.replace("blocks.", "decoder.", 1): value for name, value in blocks.items()}
    for name, value in rest.items():
        theirs = next((pair for pair in names if name.startswith(pair[0])), None)
        if theirs is not None:
            place, _, leaf = name.removeprefix(theirs[0]).partition(".")
            found[f"taps.{place}.{theirs[1]}{leaf}"] = value
        elif not name.startswith("blocks."):
            found[name] = value
    return found
