"""What comes of a frame: its labels, and the pictures that show them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vidseg.adapters.steady_memory import Flicker
from vidseg.segmenter import VideoSegmenter
from vidseg.sizes import width_x_height
from vidseg.video import render

_NAMED = 3  # classes in the short form of a result


@dataclass(frozen=True, eq=False, repr=False)
class FrameResult:
    """One segmented frame; notebooks show it as its overlay.

    Attributes:
        index: the frame's number in the source, from 0.
        time_s: seconds from the source's first frame.
        image: (H, W, 3) uint8 RGB, as decoded.
        labels: (H, W) uint8 class indices, at the size of the image.
        classes: C names.
        palette: (C, 3) uint8 RGB.
        is_cut: a new scene begins here.
        ms: the network's time for it: of its pass, divided by the frames of the pass.
        duration_s: how long the frame is shown, in seconds; None if nobody knows.
        flicker: of a steady stream, what changed since the pass before; it stands with the last
            frame of a pass, and is None everywhere else.
    """

    index: int
    time_s: float
    image: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    palette: np.ndarray
    is_cut: bool
    ms: float
    duration_s: float | None = None
    flicker: Flicker | None = None

    def __repr__(self) -> str:
        largest = sorted(self.shares().items(), key=lambda item: -item[1])[:_NAMED]
        named = ", ".join(f"{name} {share:.0%}" for name, share in largest if share)
        size = width_x_height(self.labels.shape)
        return f"<frame {self.index} at {self.time_s:.2f} s, {size}: {named}>"

    def _repr_png_(self) -> bytes:
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(self.overlay(legend=True)).save(file, "png")
        return file.getvalue()

    def overlay(
        self, opacity: float = 0.5, *, contour: bool = False, legend: bool = False
    ) -> np.ndarray:
        """The frame with its classes in colour.

        Args:
            opacity: of the colours, in [0, 1].
            contour: draw the borders of regions.
            legend: add a strip with the names of the classes below.

        Returns:
            (H, W, 3) uint8 RGB, higher with a legend.
        """
        picture = render.overlay(
            self.image, self.labels, self.palette, opacity=opacity, contour=contour
        )
        return render.with_legend(picture, self.classes, self.palette) if legend else picture

    def side_by_side(
        self, opacity: float = 0.5, *, contour: bool = False, legend: bool = False
    ) -> np.ndarray:
        """The frame beside its overlay; arguments as `overlay`; (H, 2 W, 3) uint8 RGB."""
        picture = render.side_by_side(self.image, self.overlay(opacity, contour=contour))
        return render.with_legend(picture, self.classes, self.palette) if legend else picture

    def save(
        self, path: str | Path, kind: Literal["overlay", "labels", "side_by_side"] = "overlay"
    ) -> Path:
        """Write the frame as a picture.

        Args:
            path: the file, .png or another picture format (labels need .png).
            kind: the "overlay", the "labels" as an indexed picture whose pixel values are the
                class indices, or "side_by_side".

        Returns:
            The path.

        Raises:
            ValueError: unknown kind or suffix.
        """
        if kind == "labels":
            return render.save_picture(path, render.label_picture(self.labels, self.palette))
        if kind not in ("overlay", "side_by_side"):
            raise ValueError(f'kind must be "overlay", "labels" or "side_by_side", got {kind!r}')
        return render.save_picture(path, getattr(self, kind)())

    def shares(self) -> dict[str, float]:
        """The share of pixels of every class, in [0, 1]; they add up to 1."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        return {
            name: float(count) / self.labels.size
            for name, count in zip(self.classes, counts, strict=False)
        }


def classes_of(model: VideoSegmenter) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and colours of a model's classes, made up where its card has none.

    Args:
        model: any video segmenter.

    Returns:
        C names and a (C, 3) uint8 palette.
    """
    card, count = model.card, model.num_classes
    known = len(card.classes) == count
    names = tuple(card.classes) if known else tuple(f"class {k}" for k in range(count))
    if len(card.palette) == count:
        return names, np.array(card.palette, dtype=np.uint8).reshape(-1, 3)
    return names, render.default_palette(count)
