"""What perfect labels score in temporal consistency and flicker, and how exact DIS is.

No model can be expected to be steadier than this. Run:
    python benchmarks/steadiness_of_truth.py [FOLDER_OF_CAMVID]
"""

import sys
from pathlib import Path

import numpy as np

from vidseg.data import VideoDataset, open_dataset
from vidseg.data.synthetic import SyntheticDataset
from vidseg.flow import DIS
from vidseg.flow.dis import PRESETS
from vidseg.metrics import TemporalConsistency


def report(name: str, measured: TemporalConsistency) -> None:
    """Print one line of figures."""
    print(f"{name:48s} TC {measured.mean_iou():.4f}  flicker {measured.flicker():.4f}")


def synthetic() -> None:
    """Truth of the synthetic street, with its exact flow and with estimated flow."""
    names = ("exact, what is visible in both", "exact, all in frame", DIS().name, "no motion")
    measured = {name: TemporalConsistency(11) for name in names}
    dataset = SyntheticDataset(split="test", num_videos=12, num_frames=12)
    for video in dataset.videos:
        rendered = dataset.rendered(video)
        dis = dis_flows(list(rendered.frames))
        labels, exact = rendered.labels, rendered.flow_backward
        measured[names[0]].update(labels, exact, rendered.valid_backward)
        for name, flow in zip(names[1:], (exact, dis, np.zeros_like(exact)), strict=True):
            measured[name].update(labels, flow)
    for name, value in measured.items():
        report(f"synthetic, {name}", value)


def labelled(dataset: VideoDataset) -> None:
    """Truth of a densely labelled data set."""
    measured = {
        name: TemporalConsistency(dataset.num_classes) for name in (DIS().name, "no motion")
    }
    for video in dataset.videos:
        labels = np.stack([dataset.read_label(path) for path in video.labels if path])
        dis = dis_flows([dataset.read_frame(path) for path in video.frames])
        for name, flow in zip(measured, (dis, np.zeros_like(dis)), strict=True):
            measured[name].update(labels, flow)
    for name, value in measured.items():
        report(f"{dataset.name}, {name}", value)


def end_point_errors() -> None:
    """Mean distance of DIS from the exact flow, where a point is visible in both frames."""
    dataset = SyntheticDataset(split="test", num_videos=12, num_frames=12)
    for preset in PRESETS:
        errors, motions = [], []
        for video in dataset.videos:
            rendered = dataset.rendered(video)
            exact, valid = rendered.flow_backward, rendered.valid_backward
            difference = dis_flows(list(rendered.frames), DIS(preset)) - exact
            errors.append(np.hypot(difference[:, 0], difference[:, 1])[valid])
            motions.append(np.hypot(exact[:, 0], exact[:, 1])[valid])
        error, motion = (float(np.concatenate(parts).mean()) for parts in (errors, motions))
        print(f"{DIS(preset).name:48s} error {error:.2f} px, no motion {motion:.2f} px")


def dis_flows(images: list[np.ndarray], estimate: DIS = DIS()) -> np.ndarray:
    """(T-1, 2, H, W), each from a frame to the one before."""
    pairs = zip(images[1:], images, strict=False)
    return np.stack([estimate(now, before).numpy() for now, before in pairs])


if __name__ == "__main__":
    synthetic()
    end_point_errors()
    if len(sys.argv) > 1:
        labelled(open_dataset("camvid", Path(sys.argv[1]), "val"))
