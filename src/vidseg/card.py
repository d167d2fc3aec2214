"""What it takes to use a model: its classes, colours, normalisation and size rule."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vidseg.sizes import Size

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Card:
    """Everything needed to use a model, saved with its weights.

    Attributes:
        architecture: name for `vidseg.create`; empty for a model that `create` did not make.
        options: what else `create` was given (JSON values).
        classes: names, by class index.
        palette: (R, G, B) of each class, 0..255.
        mean: of the pixels, RGB on the 0..255 scale; `normalise` subtracts it.
        std: of the pixels, RGB on the 0..255 scale; `normalise` divides by it.
        size_multiple: height and width are stretched to a multiple of this ...
        size_offset: ... and so many pixels more; 1 where the corners of maps are those of frames.
        size: (H, W) px of the frames that the model was trained on, whole and at scale 1; None if
            unknown.
        fps: frame rate of the videos the model was trained on, None if unknown.
        trained_on: data set, split and protocol.
        source: where the weights come from.
        licence: of the weights.
        figures: measured results, name -> value.
    """

    architecture: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    size_multiple: int = 1
    size_offset: int = 0
    size: Size | None = None
    fps: float | None = None
    trained_on: str = ""
    source: str = ""
    licence: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    def normalise(self, image: Tensor | np.ndarray) -> Tensor:
        """Turn pixels into the model's input.

        Args:
            image: (..., H, W, 3) uint8 RGB.

        Returns:
            (..., 3, H, W) float32, on the device of `image`.

        Raises:
            TypeError: the pixels are not uint8.
            ValueError: the last dimension is not 3.
        """
        if isinstance(image, np.ndarray):
            # torch refuses negative strides (a flipped view) and warns on read-only memory.
            image = torch.from_numpy(np.require(image, requirements=["C", "W"]))
        pixels = image
        if pixels.dtype != torch.uint8:
            raise TypeError(f"image must be uint8 RGB pixels, got {pixels.dtype}")
        if pixels.dim() < 3 or pixels.shape[-1] != 3:
            raise ValueError(f"image must be (..., H, W, 3), got {tuple(pixels.shape)}")
        mean = torch.tensor(self.mean, device=pixels.device)
        std = torch.tensor(self.std, device=pixels.device)
        return ((pixels - mean) / std).movedim(-1, -3).contiguous()

    def fit(self, frames: Tensor, size: Size | None = None) -> Tensor:
        """Bring frames to a size that the model takes, rounding up to the next one.

        Frames are stretched, as the methods with such a rule do it; labels are asked for at the
        frame's own size afterwards, which stretches them back.

        Args:
            frames: (..., 3, H, W) float.
            size: (H, W) to see them at; their own by default.

        Returns:
            (..., 3, H', W'), the input itself where it fits.
        """
        wanted = size or (frames.shape[-2], frames.shape[-1])
        rounded = tuple(self.next_side(side) for side in wanted)
        if rounded == tuple(frames.shape[-2:]):
            return frames
        flat = frames.reshape(-1, *frames.shape[-3:])
        stretched = functional.interpolate(flat, rounded, mode="bilinear", align_corners=False)
        return stretched.reshape(*frames.shape[:-2], *rounded)

    def known_size(self, frame: Size) -> Size:
        """The size at which to show the model frames of (H, W), so that things look as it learned.

        The one of the frame's own aspect with as many pixels as `size`, rounded to sides that the
        model takes; never larger than the frame (than the next sides that the model takes). A frame
        with no more pixels keeps its size, and so does every frame where the card knows none.

        Args:
            frame: (H, W) px.

        Returns:
            (H, W) px.

        Example:
            >>> card = Card(size=(360, 480))
            >>> card.known_size((1080, 1920)), card.known_size((270, 480))
            ((312, 554), (270, 480))
        """
        if self.size is None or math.prod(frame) <= math.prod(self.size):
            return frame
        scale = math.sqrt(math.prod(self.size) / math.prod(frame))
        height, width = (min(self._side(side * scale), self.next_side(side)) for side in frame)
        return height, width

    def _side(self, wanted: float) -> int:
        """The height or width that the model takes and that is nearest to this one."""
        steps = round((wanted - self.size_offset) / self.size_multiple)
        return max(steps, 1) * self.size_multiple + self.size_offset

    def next_side(self, side: int) -> int:
        """The smallest height or width that the model takes and that is not below `side`.

        Example:
            >>> card = Card(size_multiple=8, size_offset=1)
            >>> card.next_side(1024), card.next_side(1025)
            (1025, 1025)
        """
        steps = -(-(side - self.size_offset) // self.size_multiple)
        return max(steps, 1) * self.size_multiple + self.size_offset

    def to_json(self) -> str:
        """The card as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, source: str = "card") -> "Card":
        """The card that `to_json` wrote; fields of later versions are passed over.

        Args:
            text: JSON.
            source: where it comes from, for messages.

        Raises:
            ValueError: it is no card; names each wrong field, what was wanted and what came.
        """
        # Here, since models need torch and numpy alone, and files need pydantic.
        from vidseg.card_file import CardFile
        from vidseg.documents import checked, parse_json

        kept = checked(CardFile, parse_json(text, source), source)
        return cls(**{name: value for name, value in kept if name in kept.model_fields_set})
