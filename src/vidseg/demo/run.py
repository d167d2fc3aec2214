"""Train, evaluate, write: the demo from end to end. Nothing is downloaded.

Both networks see the same number of training steps: the first half is one run of the per-frame
network, from whose weights both go on for as many steps again, on the same samples.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidseg import weights
from vidseg.atomic import together, write_text
from vidseg.data import VideoDataset, open_dataset
from vidseg.demo.page import demo_page, write_overlay
from vidseg.demo.result import Demo, Run
from vidseg.evaluation.datasets import evaluate
from vidseg.evaluation.result import FrameFigures, Observed
from vidseg.progress import Display, silent
from vidseg.training.config import TrainingConfig
from vidseg.training.loop import train
from vidseg.training.recipe import load_config

TWIN, VIDEO = "fcn_tiny", "tmanet_tiny"
WRITTEN = (
    "report.html",
    "overlay.mp4",
    "metrics.json",
    *(f"{n}.safetensors" for n in (TWIN, VIDEO)),
)
HELD_OUT = {"num_videos": 8, "num_frames": 24}


def run_demo(
    folder: Path | str,
    *,
    iterations: int = 600,
    seed: int = 0,
    stage: Display = silent,
    overrides: tuple[str, ...] = (),
) -> Demo:
    """Train both networks, evaluate them on streets they have not seen, write what came out.

    Args:
        folder: is made; report.html, overlay.mp4, metrics.json and the weights of both networks
            are written there, all at once, over those of an earlier demo.
        iterations: training steps of each network; the first half of them is shared.
        seed: of the networks, the samples and the streets.
        stage: shows progress.
        overrides: `key=value` words over both recipes, as for `vidseg train`.

    Returns:
        The figures.

    Raises:
        ValueError: `iterations` is below 2, or an override is wrong.
        OSError: the folder cannot be written.
    """
    if iterations < 2:
        raise ValueError(f"iterations must be at least 2, one for each half, got {iterations}")
    begin_s = time.monotonic()
    with _one_thread(), tempfile.TemporaryDirectory(prefix="vidseg-demo-") as scratch:
        training = _Training(Path(scratch), iterations, seed, overrides, stage)
        shared, before = training.half(TWIN, "training 1 of 3 (shared half)", None)
        half = training.steps(None)
        continued = {
            name: training.half(name, f"training {place} of 3 ({name})", shared)
            for place, name in ((2, TWIN), (3, VIDEO))
        }
        dataset = held_out(training.config(TWIN, None), seed)
        runs = {}
        for name, (path, losses) in continued.items():
            later = [(half + step, loss) for step, loss in losses]
            runs[name] = _evaluated(name, path, [*before, *later], dataset, stage)
    seconds = time.monotonic() - begin_s
    demo = Demo(runs[TWIN], runs[VIDEO], dataset, iterations, seed, seconds)
    with together(Path(folder)) as place:
        for name, one in runs.items():
            weights.save(one.model, place / f"{name}.safetensors")
        write_text(place / "metrics.json", json.dumps(demo.summary(), indent=2))
        with stage("writing overlay.mp4", dataset.num_frames, unit="frames") as meter:
            write_overlay(place / "overlay.mp4", demo, meter.advance)
        demo_page(demo).write(place / "report.html")
    return demo


def held_out(config: TrainingConfig, seed: int) -> VideoDataset:
    """Streets of the size that was trained on, of a split that shares no street with it."""
    options = {**config.data.options, **HELD_OUT, "seed": seed}
    return open_dataset("synthetic", None, "test", **options)


class _Training:
    """Trains a network for half of the steps, from nothing or from weights."""

    def __init__(
        self,
        scratch: Path,
        iterations: int,
        seed: int,
        overrides: tuple[str, ...],
        stage: Display,
    ) -> None:
        self.scratch, self.iterations, self.seed = scratch, iterations, seed
        self.overrides, self.stage = overrides, stage

    def steps(self, initial: Path | None) -> int:
        first = self.iterations // 2
        return first if initial is None else self.iterations - first

    def config(self, name: str, initial: Path | None) -> TrainingConfig:
        steps = self.steps(initial)
        words = [
            f"iterations={steps}",
            # The second half draws its samples anew, the same for both networks.
            f"seed={2 * self.seed + (initial is not None)}",
            f"data.options.seed={self.seed}",
            f"checkpoint.every={steps}",
            "validation.every=0",
            "trackers=[]",
            "workers=1",
            *([] if initial is None else [f"model.initial_weights={json.dumps(str(initial))}"]),
            *self.overrides,
        ]
        return load_config(f"{name}_synthetic", words)

    def half(
        self, name: str, description: str, initial: Path | None
    ) -> tuple[Path, list[tuple[float, float]]]:
        config = self.config(name, initial)
        losses: list[tuple[float, float]] = []
        with self.stage(description, config.iterations, unit="steps") as meter:

            def report(record: dict[str, Any]) -> None:
                losses.append((record["step"], record["loss"]))
                meter.advance(1, f"loss {record['loss']:.2f}")

            half = "shared" if initial is None else "own"
            trained = train(config, self.scratch / f"{name}-{half}", report=report)
        return trained.weights, losses


def _evaluated(
    name: str,
    path: Path,
    losses: list[tuple[float, float]],
    dataset: VideoDataset,
    stage: Display,
) -> Run:
    from vidseg.methods import load

    model = load(path)
    labels: dict[tuple[str, int], np.ndarray] = {}
    with stage(f"evaluating {name}", dataset.num_frames, unit="frames") as meter:

        def observe(frame: Observed, figures: FrameFigures) -> None:
            del figures
            labels[frame.video.name, frame.frame_index] = frame.labels
            meter.advance()

        evaluation = evaluate(model, dataset, flow="exact", observe=observe)
    return Run(name, model, losses, evaluation, labels)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for the network and one process for its samples: networks this small gain nothing
    from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
