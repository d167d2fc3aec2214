"""What measuring costs, on one thread, beside something that everybody knows the cost of.

Times are the processor's, not the clock's, and each measure takes turns with what it is compared
with, so that a busy machine changes little. Run:
    OMP_NUM_THREADS=1 python benchmarks/metrics.py
"""

import math
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

from vidseg.data.synthetic import render
from vidseg.flow import DIS
from vidseg.metrics import (
    ConfusionMatrix,
    TemporalConsistency,
    VideoConsistency,
    boundary_band,
    video_consistency,
)

NUM_CLASSES, VOID = 19, 255
REPEATS = 15


def median_ms(*calls: Callable[[], object]) -> list[float]:
    """Median processor time of each call, taken in turns after one round to warm up."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(REPEATS + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            if number:
                taken.append((time.process_time() - start) * 1000)
    return [statistics.median(taken) for taken in times]


def report(name: str, ms: float, other: str, other_ms: float) -> None:
    """Print one line."""
    print(f"{name:46s} {ms:7.2f} ms = {ms / other_ms:5.2f} x {other} ({other_ms:.2f} ms)")


def blocks(size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels and truth in blocks of 16 px: a tenth of the labels wrong, some truth void."""
    coarse = rng.integers(0, NUM_CLASSES, (size[0] // 16, -(-size[1] // 16)), dtype=np.uint8)
    truth = coarse.repeat(16, 0).repeat(16, 1)[:, : size[1]]
    noise = rng.integers(0, NUM_CLASSES, size, dtype=np.uint8)
    labels = np.where(rng.random(size) < 0.1, noise, truth)
    truth[: size[0] // 16] = VOID
    return labels, truth


def confusion() -> None:
    """A frame of Cityscapes against a bare count of as many numbers."""
    labels, truth = blocks((1024, 2048), np.random.default_rng(0))
    rows = np.minimum(truth, NUM_CLASSES).astype(np.int32)
    cells = torch.from_numpy(rows * (NUM_CLASSES + 1) + labels).flatten()
    matrix, wide = ConfusionMatrix(NUM_CLASSES), labels.astype(np.int64)
    band = boundary_band(truth)
    plain, bytes_ms, wide_ms, band_ms, banded_ms = median_ms(
        lambda: torch.bincount(cells),
        lambda: matrix.update(labels, truth),
        lambda: matrix.update(wide, truth),
        lambda: boundary_band(truth),
        lambda: matrix.update(labels, truth, valid=band),
    )
    print(f"1024x2048, {NUM_CLASSES} classes and void")
    for name, ms in (
        ("ConfusionMatrix.update, uint8", bytes_ms),
        ("ConfusionMatrix.update, int64 labels", wide_ms),
        ("ConfusionMatrix.update, uint8, valid=band", banded_ms),
        ("boundary_band, 5 px", band_ms),
    ):
        report(name, ms, "torch.bincount of int32", plain)


def consistency() -> None:
    """A pair of frames against the estimation of its flow."""
    video = render(0, 2, (512, 1024))
    dis, labels = DIS("medium"), video.labels
    flow = dis(video.frames[1], video.frames[0])[None]
    valid = video.valid_backward
    measured = TemporalConsistency(NUM_CLASSES)
    running = VideoConsistency(8, num_classes=NUM_CLASSES).video()
    flow_ms, pair_ms, window_ms = median_ms(
        lambda: dis(video.frames[1], video.frames[0]),
        lambda: measured.update(labels, flow, valid),
        lambda: running.add(labels[1].clip(0, 18), labels[1]),
    )
    print("512x1024")
    report("TemporalConsistency.update, one pair", pair_ms, "DIS medium", flow_ms)
    report("VideoConsistency, one frame", window_ms, "DIS medium", flow_ms)


def as_described(labels: np.ndarray, truth: np.ndarray, n: int) -> float:
    """VC_n as VSPW's tool is described, window by window: each frame beside the window's first.

    Args:
        labels: (T, H, W) integers, oldest first.
        truth: the same.
        n: frames of a window; the last window is left out.
    """
    shares = []
    for first in range(len(truth) - n):
        truth_stays, labels_stay = (np.ones(truth.shape[1:], bool) for _ in range(2))
        for later in range(first + 1, first + n):
            truth_stays &= truth[later] == truth[first]
            labels_stay &= labels[later] == labels[first]
        shares.append(np.sum(truth_stays & labels_stay) / np.sum(truth_stays))
    return float(np.mean(shares))


def windows() -> None:
    """VC of whole videos of VSPW's size against the loop over windows and their frames."""
    rng = np.random.default_rng(0)
    frames = [blocks((480, 853), rng) for _ in range(2)]
    print("480x853, VC by protocol vspw-official")
    for num_frames in (20, 40, 71):
        # One scene, then the other, with a tenth of the labels wrong in both.
        chosen = [frames[t > num_frames // 2] for t in range(num_frames)]
        labels, truth = (np.stack(maps) for maps in zip(*chosen, strict=True))
        for n in (8, 16):

            def ours(n: int = n, labels: np.ndarray = labels, truth: np.ndarray = truth) -> float:
                return video_consistency(labels, truth, n, protocol="vspw-official")

            def loop(n: int = n, labels: np.ndarray = labels, truth: np.ndarray = truth) -> float:
                return as_described(labels, truth, n)

            assert math.isclose(ours(), loop(), rel_tol=1e-12), "the two must agree"
            our_ms, loop_ms = median_ms(ours, loop)
            report(f"video_consistency, {num_frames} frames, n = {n}", our_ms, "loop", loop_ms)


def main() -> None:
    """Print every ratio."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    confusion()
    consistency()
    windows()


if __name__ == "__main__":
    main()
