"""What ETC's terms add to a training step, beside the plain step of the same model.

    python benchmarks/training.py                      # pspnet_r18, 512x512, batch 2, one thread
    python benchmarks/training.py --model pspnet_mobilenetv2 --turns 5

A step is forward, backward and the optimiser, with samples from memory. "Cached flow" also reads
the flow of each sample from the cache and brings it to the crop, as the loader does; "estimated
flow" runs DIS instead. All sides take turns in one process; float32 on the CPU.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from turns import cpu_seconds, median_ratio

import vidseg
from vidseg.data.placement import Placement, scaling
from vidseg.flow import CachedFlow, open_flow
from vidseg.training.loss_config import DistillationConfig, LossConfig, TemporalConfig
from vidseg.training.step import TrainingStep
from vidseg.training.teacher import Teacher

CLASSES = 19


def make_batch(size: tuple[int, int], batch: int) -> dict[str, Tensor]:
    """Frames, a neighbour each, labels, and a motion of some pixels."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    frames = torch.randn(batch, 1, 3, height, width, generator=generator)
    return {
        "frames": frames,
        "neighbours": frames + 0.1 * torch.randn(frames.shape, generator=generator),
        "labels": torch.randint(CLASSES, (batch, height, width), generator=generator),
        "flows": 3 * torch.randn(batch, 1, 2, height, width, generator=generator),
    }


def make_sides(model_name: str, batch: dict[str, Tensor]) -> dict[str, Callable[[], None]]:
    """Name -> one step; every side has a model of its own."""
    temporal = TemporalConfig.model_validate({})
    weights = {"pixel": 0.1, "pair_wise_frames": 0.1}
    distillation = DistillationConfig.model_validate({"teacher": "in memory", **weights})
    read, estimate = make_flows(batch)

    def side(
        loss: dict[str, object], flows: Callable[[], Tensor] | None = None, *, copies: bool = False
    ) -> Callable[[], None]:
        torch.manual_seed(0)
        model = vidseg.create(model_name, num_classes=CLASSES).train()
        teacher = None
        if copies:
            other = vidseg.create(model_name, num_classes=CLASSES)
            teacher = Teacher(other, model, "fp32")
        module = TrainingStep(model, LossConfig.model_validate(loss), teacher)
        optimiser = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)

        def step() -> None:
            data = batch if flows is None else {**batch, "flows": flows()}
            module(data)["loss"].backward()
            optimiser.step()
            optimiser.zero_grad()

        return step

    return {
        "plain": side({}),
        "temporal, flow in memory": side({"temporal": temporal}),
        "temporal, cached flow": side({"temporal": temporal}, read),
        "temporal, estimated flow": side({"temporal": temporal}, estimate),
        "temporal and distillation, cached flow": side(
            {"temporal": temporal, "distillation": distillation}, read, copies=True
        ),
    }


def make_flows(batch: dict[str, Tensor]) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Flow of every sample from the cache, and estimated; both brought to the crop."""
    count, height, width = batch["labels"].shape
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (2, height, width, 3), np.uint8) for _ in range(count)]
    folder = tempfile.TemporaryDirectory()
    dis = open_flow("dis")
    cached = CachedFlow(dis, folder.name)
    placement = Placement(scaling((height, width), (height, width)), (height, width))

    def flows(estimator: Callable[[np.ndarray, np.ndarray], Tensor]) -> Tensor:
        found = [placement.flow(estimator(image, other)) for image, other in images]
        return torch.stack(found)[:, None]

    def read(folder: object = folder) -> Tensor:  # the folder lives as long as this function
        return flows(cached)

    return read, lambda: flows(dis)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="pspnet_r18")
    parser.add_argument("--size", default="512x512", help="HxW, px")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    height, width = (int(side) for side in options.size.split("x"))
    sides = make_sides(options.model, make_batch((height, width), options.batch))
    seconds = cpu_seconds(sides, options.turns)
    write = sys.stdout.write
    write(f"{options.model}, {options.size}, batch {options.batch}, CPU seconds a step\n")
    for name, taken in seconds.items():
        middle, ratio = statistics.median(taken), median_ratio(taken, seconds["plain"])
        write(f"{name:<42} {middle:7.3f} s   x{ratio:.2f}\n")


if __name__ == "__main__":
    main()
