"""Where a training crop lies in its frame, so that what belongs to the frame can follow it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Placement:
    """The affine map from pixels of a crop to pixels of its frame.

    Attributes:
        matrix: (3, 3) float64: (x, y, 1) of a pixel centre in the crop -> that in the frame.
        crop: (H, W) of the crop.
    """

    matrix: np.ndarray
    crop: tuple[int, int]

    def flow(self, flow: Tensor) -> Tensor:
        """The motion between two frames as it is between their crops.

        Args:
            flow: (2, H, W) px of the frame, x then y.

        Returns:
            (2, *crop) float32 px of the crop. Outside the frame its border is repeated.
        """
        moved = self._sampled(flow.float(), "bilinear", "border").flatten(1)
        to_crop = torch.from_numpy(np.linalg.inv(self.matrix[:2, :2])).to(moved.dtype)
        return (to_crop @ moved).unflatten(1, self.crop)

    def mask(self, mask: Tensor) -> Tensor:
        """(H, W) bool of the frame -> (*crop) bool, the nearest pixel; False outside the frame."""
        return self._sampled(mask[None].float(), "nearest", "zeros")[0] > 0.5

    def scores(
        self,
        scores: Tensor,
        frame_size: tuple[int, int],
        size: tuple[int, int],
        *,
        align_corners: bool,
    ) -> Tensor:
        """Scores of the frame as a network gives them, for the crop, at the network's stride.

        Args:
            scores: (C, h, w) of the whole frame, at any stride.
            frame_size: (H, W) of the frame.
            size: (h, w) of the result, which spans the crop.
            align_corners: how both grids lie over their images.

        Returns:
            (C, *size) float32, bilinear; outside the frame its border is repeated.
        """
        rows, columns = (
            _centres(count, side, align_corners)
            for count, side in zip(size, self.crop, strict=True)
        )
        x, y = self._in_frame(columns, rows)
        height, width = frame_size
        if align_corners:
            grid = torch.stack((2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1), -1)
        else:
            grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
        return F.grid_sample(
            scores[None].float(),
            grid[None].float(),
            padding_mode="border",
            align_corners=align_corners,
        )[0]

    def _sampled(self, planes: Tensor, mode: str, padding: str) -> Tensor:
        height, width = planes.shape[-2:]
        rows, columns = (torch.arange(side, dtype=torch.float64) for side in self.crop)
        x, y = self._in_frame(columns, rows)
        grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
        return F.grid_sample(
            planes[None], grid[None].float(), mode=mode, padding_mode=padding, align_corners=False
        )[0]

    def _in_frame(self, columns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        (a, b, c), (d, e, f) = self.matrix[:2].tolist()
        x, y = columns[None, :], rows[:, None]
        return a * x + b * y + c, d * x + e * y + f


def _centres(count: int, side: int, align_corners: bool) -> Tensor:
    """Pixel coordinates, in an image of `side`, of the centres of `count` cells that span it."""
    places = torch.arange(count, dtype=torch.float64)
    if align_corners:
        return places * ((side - 1) / max(count - 1, 1))
    return (places + 0.5) * (side / count) - 0.5


def scaling(before: tuple[int, int], after: tuple[int, int]) -> np.ndarray:
    """(3, 3): pixel centres of an image resized from `before` to `after` (H, W) -> the original.

    Example:
        >>> scaling((4, 4), (8, 8))[0].tolist()  # the centres of the first two meet in the first
        [0.5, 0.0, -0.25]
    """
    down, across = before[0] / after[0], before[1] / after[1]
    return np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]])


def shift(x: float, y: float) -> np.ndarray:
    """(3, 3): a step of (x, y) pixels."""
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def mirror(width: int) -> np.ndarray:
    """(3, 3): left and right exchanged in an image of `width`."""
    return np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])
