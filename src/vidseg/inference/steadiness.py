"""How steady label maps are over a video, measured while they are made."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vidseg.data.clip import Video, VideoDataset
from vidseg.flow.dis import DIS
from vidseg.inference.evaluation import Observed
from vidseg.metrics.consistency import TemporalConsistency

FLOWS = ("dis", "exact")


class Flow(Protocol):
    """Motion from a frame to the one before it."""

    @property
    def name(self) -> str:
        """What is printed beside every figure."""
        ...

    def __call__(
        self, video: Video, frame_index: int, previous: np.ndarray, image: np.ndarray
    ) -> tuple[Tensor, Tensor | None]:
        """Flow from `frame_index` to the frame before, (2, H, W) px, and where it is valid."""
        ...


class EstimatedFlow:
    """Flow that is estimated from the two images, by DIS."""

    def __init__(self) -> None:
        self._estimate = DIS()
        self.name = self._estimate.name

    def __call__(
        self, video: Video, frame_index: int, previous: np.ndarray, image: np.ndarray
    ) -> tuple[Tensor, None]:
        """Estimate; every pixel is taken to be valid."""
        return self._estimate(image, previous), None


class ExactFlow:
    """Flow that the renderer of a synthetic data set knows, and where the past was visible.

    Args:
        dataset: has `rendered(video)`.

    Raises:
        ValueError: it has not.
    """

    name = "exact, visible in both frames"

    def __init__(self, dataset: VideoDataset) -> None:
        if not hasattr(dataset, "rendered"):
            raise ValueError(f"{dataset.name} knows no exact flow; measure with the flow of dis")
        self._dataset: Any = dataset
        self._rendered: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(
        self, video: Video, frame_index: int, previous: np.ndarray, image: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Look it up; a video's flow is kept until its last frame."""
        if video.name not in self._rendered:
            rendered = self._dataset.rendered(video)
            self._rendered[video.name] = rendered.flow_backward, rendered.valid_backward
        flows, valid = self._rendered[video.name]
        if frame_index == len(video) - 1:
            del self._rendered[video.name]
        return torch.from_numpy(flows[frame_index - 1]), torch.from_numpy(valid[frame_index - 1])


class Steadiness:
    """An observer of `evaluate`: temporal consistency and flicker of labels and of the truth.

    It compares each frame with the one before it in the same video, where both were seen; frames
    that come alone, as with sparse labels, do not count.

    Args:
        dataset: whose frames are observed.
        flow: "dis", estimated from the images, or "exact", known by the renderer.

    Raises:
        ValueError: an unknown flow, or one that the data set cannot give.
    """

    def __init__(self, dataset: VideoDataset, flow: str = "dis") -> None:
        if flow not in FLOWS:
            raise ValueError(f"the flow must be one of {', '.join(FLOWS)}, got {flow!r}")
        self.flow: Flow = ExactFlow(dataset) if flow == "exact" else EstimatedFlow()
        self.labels = TemporalConsistency(dataset.num_classes, dataset.ignore)
        self.truth = TemporalConsistency(dataset.num_classes, dataset.ignore)
        self.num_pairs = 0
        self._dataset = dataset
        self._last: dict[str, Observed] = {}

    def __call__(self, frame: Observed) -> None:
        """Compare a frame with the one before it.

        Raises:
            ValueError: the label map is not of the size of its frame.
        """
        before = self._last.pop(frame.video.name, None)
        if before is not None and before.frame_index == frame.frame_index - 1:
            self._add(before, frame)
        if frame.frame_index < len(frame.video) - 1:
            self._last[frame.video.name] = frame

    def _add(self, before: Observed, now: Observed) -> None:
        previous, image = (self._image(frame) for frame in (before, now))
        if image.shape[:2] != now.labels.shape:
            raise ValueError(
                f"temporal measures need label maps of the size of their frames, got "
                f"{now.labels.shape} for {image.shape[:2]} in {now.video.name}"
            )
        flow, valid = self.flow(now.video, now.frame_index, previous, image)
        flows, use = flow[None], None if valid is None else valid[None]
        self.labels.update(np.stack([before.labels, now.labels]), flows, use)
        if before.truth is not None and now.truth is not None:
            self.truth.update(np.stack([before.truth, now.truth]), flows, use)
        self.num_pairs += 1

    def _image(self, frame: Observed) -> np.ndarray:
        if frame.image is not None:
            return frame.image
        return self._dataset.read_frame(frame.video.frames[frame.frame_index])

    def summary(self) -> dict[str, Any]:
        """The figures with the flow's name; NaN where nothing could be compared."""
        return {
            "flow": self.flow.name,
            "num_pairs": self.num_pairs,
            "temporal_consistency": self.labels.mean_iou(),
            "flicker": self.labels.flicker(),
            "truth_temporal_consistency": self.truth.mean_iou(),
            "truth_flicker": self.truth.flicker(),
        }
