"""What the demo leaves: two networks and what became of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vidseg.data import VideoDataset
from vidseg.evaluation.result import Evaluation
from vidseg.segmenter import VideoSegmenter


@dataclass
class Run:
    """One network of the demo and what became of it.

    Attributes:
        name: of the architecture.
        model: the network, trained.
        losses: (step, loss) over all of its training, the shared half included.
        evaluation: figures on the held-out videos.
        labels: its label maps by video and frame.
    """

    name: str
    model: VideoSegmenter
    losses: list[tuple[float, float]]
    evaluation: Evaluation
    labels: dict[tuple[str, int], np.ndarray]

    @property
    def parameters(self) -> int:
        """Count, without the auxiliary head, which only training uses."""
        named = self.model.named_parameters()
        return sum(p.numel() for name, p in named if not name.startswith("auxiliary_head."))


@dataclass(frozen=True)
class Demo:
    """The outcome of the demo.

    Attributes:
        twin: the per-frame network.
        video: the video network.
        dataset: the held-out videos.
        iterations: training steps of each network.
        seed: of everything.
        seconds: wall time of training and evaluation.
    """

    twin: Run
    video: Run
    dataset: VideoDataset
    iterations: int
    seed: int
    seconds: float

    def summary(self) -> dict[str, Any]:
        """The figures as plain values."""

        def of(run: Run) -> dict[str, Any]:
            figures = run.evaluation.summary(run.name)
            del figures["series"]
            return {"parameters": run.parameters, **figures}

        return {
            "iterations_of_each": self.iterations,
            "seed": self.seed,
            "seconds": self.seconds,
            **{run.name: of(run) for run in (self.twin, self.video)},
        }
