"""What an estimator of flow is: two images in, the flow on the first one's grid out."""

from typing import Protocol

import numpy as np
from torch import Tensor


class FlowEstimator(Protocol):
    """Estimates motion between two images; `DIS`, `RAFT` and `CachedFlow` are such."""

    @property
    def name(self) -> str:
        """The method, all that changes its result, and its version.

        It is printed beside every figure made with the flow, and two estimators of one name give
        one flow: `CachedFlow` relies on it.
        """
        ...

    def __call__(self, image_t: np.ndarray, image_s: np.ndarray) -> Tensor:
        """Estimate where each pixel of image t is in image s.

        Args:
            image_t: (H, W, 3) uint8 RGB.
            image_s: the same size.

        Returns:
            flow_t_to_s, (2, H, W) float32 px on the CPU, x then y: `warp(image_s, flow)` looks
            like t.
        """
        ...


def check_images(image_t: np.ndarray, image_s: np.ndarray) -> None:
    """Raise ValueError unless both are (H, W, 3) uint8 RGB images of one size."""
    for name, image in (("image_t", image_t), ("image_s", image_s)):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"{name} must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    if image_t.shape != image_s.shape:
        raise ValueError(
            f"both images must have one size, got {image_t.shape[:2]} and {image_s.shape[:2]}"
        )
