"""How a frame moved since the one before it, and where that is known."""

from __future__ import annotations

import typing
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vidseg.data.clip import Video, VideoDataset
from vidseg.flow.estimator import FlowEstimator
from vidseg.flow.warp import forward_backward_consistent
from vidseg.metrics.consistency import OFFICIAL_PROTOCOLS, Protocol
from vidseg.sizes import Size, width_x_height
from vidseg.suggest import did_you_mean

TOLERANCE_PX = 1.5
VALID_OF = {
    "vidseg": f"in frame, and the flow back returns to within {TOLERANCE_PX} px",
    "etc-official": "everywhere; beyond the next frame its border is repeated",
    "vspw-official": "everywhere; beyond the next frame is class 0",
}
"""Which pixels a protocol counts, in words."""


class Motion(typing.Protocol):
    """Motion between neighbouring frames of a video, in the direction that a protocol wants."""

    @property
    def protocol(self) -> Protocol:
        """The protocol of TC. Official protocols warp the next frame and mask nothing."""
        ...

    @property
    def name(self) -> str:
        """The flow, printed beside every figure made with it."""
        ...

    @property
    def valid(self) -> str:
        """The rule for the pixels that count, in words."""
        ...

    def __call__(
        self, video: Video, frame_index: int, previous: np.ndarray, image: np.ndarray, size: Size
    ) -> tuple[Tensor, Tensor | None]:
        """Flow from `frame_index` to the frame before, (2, h, w) px, and where to use it.

        By the official protocols it is the flow from the frame before to `frame_index`, on the
        grid of the former, and it is used everywhere (None).

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
    """Flow that is estimated from the two images: both ways, or ahead for an official protocol.

    By "vidseg" a pixel counts where it stays in frame and the flow back from where it came leads
    to within 1.5 px of it: elsewhere it was hidden before, or its flow is wrong. Where label maps
    have another size than their frames, the frames are resized to it first.

    Args:
        estimate: gives the flow of two images.
        protocol: what TC is counted by.
    """

    def __init__(self, estimate: FlowEstimator, protocol: Protocol = "vidseg") -> None:
        self._estimate = estimate
        self.name = estimate.name
        self.protocol: Protocol = protocol
        self.valid = VALID_OF[protocol]

    def __call__(
        self, video: Video, frame_index: int, previous: np.ndarray, image: np.ndarray, size: Size
    ) -> tuple[Tensor, Tensor | None]:
        """Estimate.

        Raises:
            ValueError: the estimator gave a flow of another size, or one that is not finite.
        """
        if previous.shape != image.shape:
            raise ValueError(
                f"the frames of {video.name} must have one size, got "
                f"{width_x_height(previous.shape)} and {width_x_height(image.shape)} "
                f"(frame {video.numbers[frame_index]})"
            )
        previous, image = _resized(previous, size), _resized(image, size)
        is_ahead = self.protocol in OFFICIAL_PROTOCOLS
        flows = [self._estimate(previous, image)]
        if not is_ahead:
            flows.insert(0, self._estimate(image, previous))
        for flow in flows:
            if not isinstance(flow, Tensor):
                raise TypeError(f"{self.name} must give a tensor, got {type(flow).__name__}")
            is_finite = bool(flow.sum().isfinite())  # ten times faster than to ask each value
            if tuple(flow.shape) != (2, *size) or not is_finite:
                raise ValueError(
                    f"{self.name} must give a finite flow of shape {(2, *size)} for frame "
                    f"{video.numbers[frame_index]} of {video.name}, got {tuple(flow.shape)}"
                    + ("" if is_finite else " with NaN or inf")
                )
        if is_ahead:
            return flows[0], None
        return flows[0], forward_backward_consistent(*flows, tolerance_px=TOLERANCE_PX)

    def end(self, video: Video) -> None:
        """Nothing is kept."""


class ExactMotion:
    """Flow that the renderer of a synthetic data set knows, and where the past was visible.

    Args:
        dataset: has `rendered(video)`.
        protocol: what TC is counted by.

    Raises:
        ValueError: it has not.
    """

    name = "exact"

    def __init__(self, dataset: VideoDataset, protocol: Protocol = "vidseg") -> None:
        if not hasattr(dataset, "rendered"):
            raise ValueError(
                f"{dataset.name} knows no exact flow; only rendered videos do. Estimate it: dis"
            )
        self._dataset: Any = dataset
        self.protocol: Protocol = protocol
        self.valid = "visible in both frames" if protocol == "vidseg" else VALID_OF[protocol]
        self._rendered: dict[str, Any] = {}

    def __call__(
        self, video: Video, frame_index: int, previous: np.ndarray, image: np.ndarray, size: Size
    ) -> tuple[Tensor, Tensor | None]:
        """Look it up; a video's flow is kept until its `end`."""
        if video.name not in self._rendered:
            self._rendered[video.name] = self._dataset.rendered(video)
        rendered, pair = self._rendered[video.name], frame_index - 1
        if self.protocol in OFFICIAL_PROTOCOLS:
            return torch.from_numpy(rendered.flow_forward[pair]), None
        flow, valid = rendered.flow_backward[pair], rendered.valid_backward[pair]
        return torch.from_numpy(flow), torch.from_numpy(valid)

    def end(self, video: Video) -> None:
        """Forget a video's flow."""
        self._rendered.pop(video.name, None)


def open_motion(
    flow: FlowEstimator | Literal["exact"] | None,
    dataset: VideoDataset,
    protocol: Protocol = "vidseg",
) -> Motion | None:
    """The motion of a data set's frames, by a flow.

    Args:
        flow: an estimator, such as `vidseg.flow.DIS()`, "exact" where the data set was rendered,
            or None for no motion.
        dataset: whose frames move.
        protocol: what TC is counted by: "vidseg", "etc-official" or "vspw-official".

    Raises:
        ValueError: "exact", and the data set does not know it; an unknown protocol, or an official
            one without a flow.
        TypeError: `flow` is none of these.
    """
    if protocol not in VALID_OF:
        raise ValueError(f"unknown protocol of TC {protocol!r}{did_you_mean(protocol, VALID_OF)}")
    if flow is None and protocol != "vidseg":
        raise ValueError(f"TC by {protocol} compares frames along a flow; give one, such as dis")
    if flow is None:
        return None
    if isinstance(flow, str) and flow == "exact":
        return ExactMotion(dataset, protocol)
    if not callable(flow) or not hasattr(flow, "name"):
        raise TypeError(
            f'flow must be an estimator, "exact" or None, got {flow!r}; by name: '
            'vidseg.flow.open_flow("dis")'
        )
    return EstimatedMotion(flow, protocol)


def _resized(image: np.ndarray, size: Size) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    import cv2

    smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method))
