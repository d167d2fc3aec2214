"""Dense inverse search: optical flow with nothing to download, on any processor."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vidseg.flow.estimator import check_images

Preset = Literal["ultrafast", "fast", "medium"]
PRESETS: tuple[Preset, ...] = ("ultrafast", "fast", "medium")
# OpenCV's DIS refuses smaller images, in which its patches do not fit.
MIN_SIDE_PX = 12
# With fewer rows OpenCV (5.0.0) takes pyramid levels in which no patch fits, and ends the process.
MIN_ROWS = 32


@dataclass(frozen=True)
class DIS:
    """OpenCV's DIS optical flow (Kroeger et al., ECCV 2016).

    The same images give the same flow, with any number of threads. docs/flow.md has its error and
    its time.

    Args:
        preset: OpenCV's own settings, "ultrafast", "fast" or "medium".
        longest_side_px: frames with a longer side are estimated at this size, and the flow is
            brought back to theirs, in size and in length; None never reduces.

    Raises:
        ValueError: an unknown preset, or a side under 12 px.
    """

    preset: Preset = "medium"
    longest_side_px: int | None = 1024

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.longest_side_px is not None and self.longest_side_px < MIN_SIDE_PX:
            raise ValueError(
                f"longest_side_px must be at least {MIN_SIDE_PX}, or None for frames as they are, "
                f"got {self.longest_side_px}"
            )

    @property
    def name(self) -> str:
        """Preset, version and size, to be printed beside every figure made with it."""
        import cv2

        size = "" if self.longest_side_px is None else f", at up to {self.longest_side_px} px"
        return f"dis-{self.preset} (opencv {cv2.__version__}{size})"

    def __call__(self, image_t: np.ndarray, image_s: np.ndarray) -> Tensor:
        """Estimate where each pixel of image t is in image s.

        Args:
            image_t: (H, W, 3) uint8 RGB.
            image_s: the same size.

        Returns:
            flow_t_to_s, (2, H, W) float32 px, x then y: `warp(image_s, flow)` looks like t.

        Raises:
            ValueError: the images are not two RGB images of one size, or under 12 px a side.
        """
        import cv2

        check_images(image_t, image_s)
        height, width = image_t.shape[:2]
        if min(height, width) < MIN_SIDE_PX:
            raise ValueError(
                f"DIS needs at least {MIN_SIDE_PX} px a side, got {(height, width)}; "
                "enlarge both images and divide the flow by the factor"
            )
        rows, columns = self._size_for(height, width)
        grey_t, grey_s = (cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in (image_t, image_s))
        if (rows, columns) != (height, width):
            grey_t, grey_s = (
                cv2.resize(g, (columns, rows), interpolation=cv2.INTER_AREA)
                for g in (grey_t, grey_s)
            )
        preset = getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{self.preset.upper()}")
        # Made anew for each pair: it keeps buffers, is not thread-safe and cannot be pickled.
        estimator = cv2.DISOpticalFlow.create(preset)
        if rows < MIN_ROWS:
            grey_t, grey_s = (
                cv2.copyMakeBorder(g, 0, MIN_ROWS - rows, 0, 0, cv2.BORDER_REPLICATE)
                for g in (grey_t, grey_s)
            )
        flow = estimator.calc(grey_t, grey_s, None)[:rows]  # type: ignore[call-overload]
        if (rows, columns) != (height, width):
            flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR)
            flow *= np.array([width / columns, height / rows], np.float32)
        return torch.from_numpy(flow).permute(2, 0, 1).contiguous()

    def _size_for(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) to estimate at."""
        longest = max(height, width)
        if self.longest_side_px is None or longest <= self.longest_side_px:
            return height, width
        share = self.longest_side_px / longest
        return max(MIN_SIDE_PX, round(height * share)), max(MIN_SIDE_PX, round(width * share))
