"""How good estimated flow is, what it costs, and what its forward-backward mask leaves.

    python benchmarks/flow.py                       # the synthetic street, beside its exact flow
    python benchmarks/flow.py FOLDER_OF_FRAMES      # real video: what the warp leaves unexplained
    python benchmarks/flow.py [FOLDER] --flow raft-small --weights raft-small.pth

Flow is estimated from each frame to the one before it, in order of names, and back. Errors of real
video are differences of RGB levels (0..255) after the warp, in the mean; seconds are processor time
of one direction on one thread.
"""

import argparse
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vidseg.data.synthetic import SyntheticDataset
from vidseg.flow import FLOWS, FlowEstimator, forward_backward_consistent, open_flow, warp
from vidseg.metrics import TemporalConsistency

torch.set_num_threads(1)
cv2.setNumThreads(1)

SUFFIXES = {".png", ".jpg", ".jpeg"}


class NoMotion:
    """The figure to beat."""

    name = "no motion"

    def __call__(self, image_t: np.ndarray, image_s: np.ndarray) -> Tensor:
        """Zeros, (2, H, W)."""
        return torch.zeros(2, *image_t.shape[:2])


def read_frames(folder: Path) -> list[np.ndarray]:
    """The images of a folder, by name."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(paths) < 2:
        raise SystemExit(f"{folder} must hold two images or more, found {len(paths)}")
    return [np.array(Image.open(path).convert("RGB")) for path in paths]


def both_ways(
    estimate: FlowEstimator, now: np.ndarray, before: np.ndarray
) -> tuple[Tensor, Tensor, float]:
    """Flow to the frame before, where it is consistent, and the processor time of one way."""
    start_s = time.process_time()
    flow = estimate(now, before)
    taken_s = time.process_time() - start_s
    return flow, forward_backward_consistent(flow, estimate(before, now)), taken_s


def measure_frames(estimate: FlowEstimator, frames: list[np.ndarray]) -> None:
    """Print how much of a frame the warp of the one before leaves unexplained."""
    errors, kept, seconds = [], [], []
    for before, now in pairwise(frames):
        flow, consistent, taken_s = both_ways(estimate, now, before)
        s, t = (torch.from_numpy(i).permute(2, 0, 1).float() for i in (before, now))
        errors.append((warp(s, flow) - t).abs().mean(0))
        kept.append(consistent)
        seconds.append(taken_s)
    error, consistent = torch.stack(errors), torch.stack(kept)
    print(
        f"{estimate.name}: error {error.mean():.2f}, consistent {consistent.float().mean():.1%}, "
        f"error there {error[consistent].mean():.2f}; {np.median(seconds):.3f} s a pair"
    )


def measure_street(estimate: FlowEstimator, dataset: SyntheticDataset) -> None:
    """Print the distance from exact flow, what the mask keeps, and the TC of the truth."""
    errors, kept, seen, seconds = [], [], [], []
    plain, masked = (TemporalConsistency(dataset.num_classes) for _ in range(2))
    for video in map(dataset.rendered, dataset.videos):
        for t, (before, now) in enumerate(pairwise(video.frames)):
            flow, consistent, taken_s = both_ways(estimate, now, before)
            errors.append((flow - torch.from_numpy(video.flow_backward[t])).norm(dim=0))
            kept.append(consistent)
            seen.append(torch.from_numpy(video.valid_backward[t]))
            seconds.append(taken_s)
            plain.update(video.labels[t : t + 2], flow[None])
            masked.update(video.labels[t : t + 2], flow[None], consistent[None])
    error, consistent, visible = (torch.stack(parts) for parts in (errors, kept, seen))
    print(
        f"{estimate.name}: end-point error {error[visible].mean():.2f} px where visible, "
        f"{error[visible & consistent].mean():.2f} px where also consistent; consistent: "
        f"{consistent[visible].float().mean():.1%} of what is visible, "
        f"{consistent[~visible].float().mean():.1%} of what is not; TC of the truth "
        f"{plain.mean_iou():.3f} in frame, {masked.mean_iou():.3f} where also consistent; "
        f"{np.median(seconds):.3f} s a pair"
    )


def main() -> None:
    """Measure no motion and the flows asked for."""
    parser = argparse.ArgumentParser(description="Measure estimated flow.")
    parser.add_argument("folder", type=Path, nargs="?", help="of frames; the street without it")
    parser.add_argument("--flow", action="append", choices=FLOWS, help="again for more")
    parser.add_argument("--weights", type=Path, help="of RAFT")
    given = parser.parse_args()
    names = given.flow or [name for name in FLOWS if name.startswith("dis")]
    estimators: list[FlowEstimator] = [NoMotion()]
    for name in names:
        weights = given.weights if name.startswith("raft") else None
        estimators.append(open_flow(name, weights=weights))
    if given.folder:
        frames = read_frames(given.folder)
        print(f"{len(frames)} frames of {frames[0].shape[1]}x{frames[0].shape[0]}, {given.folder}")
        for estimator in estimators:
            measure_frames(estimator, frames)
    else:
        dataset = SyntheticDataset(split="test", num_videos=12, num_frames=12)
        print("12 videos of 12 frames of the synthetic street, 256x128")
        for estimator in estimators:
            measure_street(estimator, dataset)


if __name__ == "__main__":
    main()
