"""How a frame moved since the one before it, and where that is known."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from vidseg.data.clip import Video, VideoDataset
from vidseg.flow.estimator import FlowEstimator
from vidseg.flow.warp import forward_backward_consistent

TOLERANCE_PX = 1.5
Size = tuple[int, int]


class Motion(Protocol):
    """Motion from each frame of a video to the one before."""

    @property
    def name(self) -> str:
        """The flow, printed beside every figure made with it."""
        ...

    @property
    def valid(self) -> str:
        """Which pixels count, in words."""
        ...

    def __call__(
        self, video: Video, frame_index: int, previous: np.ndarray, image: np.ndarray, size: Size
    ) -> tuple[Tensor, Tensor]:
        """Flow from `frame_index` to the frame before, (2, h, w) px, and where to use it.

        Args:
            video: whose frames these are.
            frame_index: of `image`.
            previous: (H, W, 3) uint8 RGB.
            image: (H, W, 3) uint8 RGB.
            size: (h, w) of the label maps; flow is measured on their grid.
        """
        ...

    def end(self, video: Video) -> None:
        """No more frames of this video will be asked for."""
        ...


class EstimatedMotion:
    """Flow that is estimated from the two images, both ways.

    A pixel counts where it stays in frame and the flow back from where it came leads to within
    1.5 px of it: elsewhere it was hidden before, or its flow is wrong. Where label maps have
    another size than their frames, the frames are resized to it first.

    Args:
        estimate: gives the flow of two images.
    """

    valid = f"in frame, and the flow back returns to within {TOLERANCE_PX} px"

    def __init__(self, estimate: FlowEstimator) -> None:
        self._estimate = estimate
        self.name = estimate.name

    def __call__(
        self, video: Video, frame_index: int, previous: np.ndarray, image: np.ndarray, size: Size
    ) -> tuple[Tensor, Tensor]:
        """Estimate.

        Raises:
            ValueError: the estimator gave a flow of another size, or one that is not finite.
        """
        if previous.shape != image.shape:
            raise ValueError(
                f"the frames of {video.name} must have one size, got {_px(previous)} and "
                f"{_px(image)} (frame {video.numbers[frame_index]})"
            )
        previous, image = _resized(previous, size), _resized(image, size)
        flows = self._estimate(image, previous), self._estimate(previous, image)
        for flow in flows:
            is_finite = bool(flow.sum().isfinite())  # ten times faster than to ask each value
            if tuple(flow.shape) != (2, *size) or not is_finite:
                raise ValueError(
                    f"{self.name} must give a finite flow of shape {(2, *size)} for frame "
                    f"{video.numbers[frame_index]} of {video.name}, got {tuple(flow.shape)}"
                    + ("" if is_finite else " with NaN or inf")
                )
        return flows[0], forward_backward_consistent(*flows, tolerance_px=TOLERANCE_PX)

    def end(self, video: Video) -> None:
        """Nothing is kept."""


class ExactMotion:
    """Flow that the renderer of a synthetic data set knows, and where the past was visible.

    Args:
        dataset: has `rendered(video)`.

    Raises:
        ValueError: it has not.
    """

    name = "exact"
    valid = "visible in both frames"

    def __init__(self, dataset: VideoDataset) -> None:
        if not hasattr(dataset, "rendered"):
            raise ValueError(
                f"{dataset.name} knows no exact flow; only rendered videos do. Estimate it: dis"
            )
        self._dataset: Any = dataset
        self._rendered: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(
        self, video: Video, frame_index: int, previous: np.ndarray, image: np.ndarray, size: Size
    ) -> tuple[Tensor, Tensor]:
        """Look it up; a video's flow is kept until its `end`."""
        if video.name not in self._rendered:
            rendered = self._dataset.rendered(video)
            self._rendered[video.name] = rendered.flow_backward, rendered.valid_backward
        flows, valid = self._rendered[video.name]
        return torch.from_numpy(flows[frame_index - 1]), torch.from_numpy(valid[frame_index - 1])

    def end(self, video: Video) -> None:
        """Forget a video's flow."""
        self._rendered.pop(video.name, None)


def open_motion(
    flow: FlowEstimator | Literal["exact"] | None, dataset: VideoDataset
) -> Motion | None:
    """The motion of a data set's frames, by a flow.

    Args:
        flow: an estimator, such as `vidseg.flow.DIS()`, "exact" where the data set was rendered,
            or None for no motion.
        dataset: whose frames move.

    Raises:
        ValueError: "exact", and the data set does not know it.
        TypeError: `flow` is none of these.
    """
    if flow is None:
        return None
    if isinstance(flow, str) and flow == "exact":
        return ExactMotion(dataset)
    if not callable(flow) or not hasattr(flow, "name"):
        raise TypeError(
            f'flow must be an estimator, "exact" or None, got {flow!r}; by name: '
            'vidseg.flow.open_flow("dis")'
        )
    return EstimatedMotion(flow)


def _resized(image: np.ndarray, size: Size) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    import cv2

    smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method))


def _px(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
