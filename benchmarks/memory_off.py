"""What the memory itself contributes: a video model as it is, and made to forget every frame.

    python benchmarks/memory_off.py demo/tmanet_tiny.safetensors --data synthetic \
        --option num_videos=8 --option num_frames=24 --option size=96x192 --option seed=1
    python benchmarks/memory_off.py MODEL --data camvid --root data/camvid --split val

The forgetful model starts a new stream with every frame, so its memory holds that frame alone.
Everything else is the same: the weights, the frames, the labels.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import vidseg
from vidseg.data import open_dataset
from vidseg.evaluation.datasets import evaluate
from vidseg.flow import DIS

torch.set_num_threads(1)


class Forgetful(nn.Module):
    """A video model as an image model: each frame is the first of a stream."""

    def __init__(self, model: vidseg.VideoSegmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, h, w)."""
        return self.model.step(frames)[0].logits[:, 0]


def forgetful(model: vidseg.VideoSegmenter) -> vidseg.PerFrame:
    """The model without its past."""
    wrapped = vidseg.PerFrame(
        Forgetful(model), num_classes=model.num_classes, align_corners=model.align_corners
    )
    wrapped.card = model.card
    return wrapped.eval()


def read_option(text: str) -> tuple[str, object]:
    """`name=3` -> ("name", 3), `size=96x192` -> ("size", (96, 192))."""
    name, _, value = text.partition("=")
    if "x" in value:
        height, width = value.split("x")
        return name, (int(height), int(width))
    return name, int(value) if value.isdigit() else value


def main() -> None:
    """Print mIoU, temporal consistency and flicker with and without the memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--option", action="append", default=[])
    given = parser.parse_args()
    options = dict(read_option(option) for option in given.option)
    dataset = open_dataset(given.data, given.root, given.split, **options)
    flow = "exact" if given.data == "synthetic" else DIS()
    model = vidseg.load(given.model)
    for name, side in (("with memory", model), ("forgetful", forgetful(model))):
        evaluation = evaluate(side, dataset, flow=flow)
        shown = {
            figure: "-" if value is None else f"{100 * value:.2f}"
            for figure, value in evaluation.figures.items()
        }
        print(
            f"{name:12} mIoU {shown['mean_iou']}  TC {shown['temporal_consistency']}  "
            f"flicker {shown['flicker']}  ({evaluation.protocols['consistency']['flow']})"
        )


if __name__ == "__main__":
    main()
