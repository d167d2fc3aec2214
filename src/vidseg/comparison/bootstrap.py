"""Pooled figures from counts per video, and how they vary with the videos that are drawn.

A bootstrap: videos are drawn with replacement, as many as there are, and every figure is computed
anew from the counts of those drawn. Frames of one video resemble each other, so videos are drawn,
never frames. Counts add, so a draw is a row of weights, and all draws are one matrix product.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from vidseg.evaluation.figures import WINDOWS_FRAMES

INTERVAL = 0.95
MAX_NUMBERS = 4_000_000  # float64 held at once by a chunk of draws: 32 MB
# Percentile intervals of few videos are too narrow. Videos -> of 100 differences that are nothing
# but chance (normal), how many have an interval that excludes 0; simulated in the tests.
CHANCE_PERCENT = {2: 50, 3: 25, 4: 21, 5: 17, 7: 12, 10: 10, 15: 8, 20: 7, 50: 6}

Sums = dict[str, np.ndarray]
"""What adds over videos: name -> (V, k) float64. Counts are below 2 ** 53, so they stay exact."""


def sums_of_confusion(counts: np.ndarray, *, void_is_error: bool, prefix: str = "") -> Sums:
    """Reduce confusion matrices to what IoU and accuracy need.

    Args:
        counts: (V, C+1, C+1) integers, `[video, truth, label]`, void last, as `ConfusionMatrix`.
        void_is_error: labels on void pixels are false positives.
        prefix: goes before the names.

    Returns:
        hits, truth and union, (V, C).
    """
    size = counts.shape[-1] - 1
    rows = size + 1 if void_is_error else size
    hits = counts.diagonal(axis1=1, axis2=2)[:, :size]
    truth = counts[:, :size].sum(2)
    union = truth + counts[:, :rows, :size].sum(1) - hits
    named = {"hits": hits, "truth": truth, "union": union}
    return {prefix + name: values.astype(np.float64) for name, values in named.items()}


def sums_of_consistency(counts: np.ndarray, *, prefix: str, protocol: str = "vidseg") -> Sums:
    """Reduce counts of neighbouring frames to what TC and flicker need.

    Args:
        counts: (V, C, C) integers, `[video, previous, current]`, as `TemporalConsistency`.
        prefix: goes before the names.
        protocol: of TC. By "etc-official" a class that never occurs counts as 0: its union is a
            little above 0, as in the authors' division. An official one has no flicker: pixels
            are 0.

    Returns:
        hits and union, (V, C), and pixels, (V, 1).
    """
    pixels = counts.sum((1, 2))[:, None]
    hits = counts.diagonal(axis1=1, axis2=2)
    union = counts.sum(1) + counts.sum(2) - hits
    if protocol == "etc-official":
        union = union + 1e-10 * (pixels > 0)
    if protocol != "vidseg":
        pixels = np.zeros_like(pixels)
    named = {"hits": hits, "union": union, "pixels": pixels}
    return {prefix + name: values.astype(np.float64) for name, values in named.items()}


def pooled(sums: Sums) -> Sums:
    """Add all videos: (1, k) each."""
    return {name: values.sum(0, keepdims=True) for name, values in sums.items()}


def figures_of(sums: Sums) -> dict[str, np.ndarray]:
    """Compute every figure, for each row of the sums.

    Args:
        sums: of R sets of videos, (R, k) each.

    Returns:
        Key of `metrics.json` -> (R,), NaN where there is nothing to count; and "class_iou",
        (R, C).
    """
    class_iou = _divide(sums["hits"], sums["union"])
    truth = sums["truth"].sum(1)
    found = np.where(sums["truth"] > 0, sums["truth"] * class_iou, 0).sum(1)
    figures = {
        "mean_iou": _mean(class_iou),
        "boundary_mean_iou": _mean(_divide(sums["boundary_hits"], sums["boundary_union"])),
        "weighted_iou": _divide(found, truth),
        "mean_video_iou": _divide(sums["video_iou"][:, 0], sums["videos_with_iou"][:, 0]),
        "pixel_accuracy": _divide(sums["hits"].sum(1), truth),
        "mean_class_accuracy": _mean(_divide(sums["hits"], sums["truth"])),
        "class_iou": class_iou,
    }
    for prefix in ("", "truth_"):
        hits, pixels = sums[f"{prefix}steady_hits"], sums[f"{prefix}steady_pixels"][:, 0]
        consistency = _mean(_divide(hits, sums[f"{prefix}steady_union"]))
        figures[f"{prefix}temporal_consistency"] = consistency
        figures[f"{prefix}flicker"] = _divide(pixels - hits.sum(1), pixels)
    for column, n in enumerate(WINDOWS_FRAMES):
        windows = sums["vc_windows"][:, column]
        figures[f"vc{n}"] = _divide(sums["vc_total"][:, column], windows)
        figures[f"vc{n}_correct"] = _divide(sums["vc_correct_total"][:, column], windows)
    return figures


def draw(num_videos: int, resamples: int, seed: int, *, chunk: int) -> Iterator[np.ndarray]:
    """Draw as many videos as there are, with replacement, again and again.

    Args:
        num_videos: to draw from (V).
        resamples: how many draws.
        seed: of the draws.
        chunk: draws that are given at once; it changes none of them.

    Yields:
        (up to `chunk`, V) float64, how often each draw has each video.
    """
    generator = np.random.default_rng(seed)
    for first in range(0, resamples, chunk):
        rows = min(chunk, resamples - first)
        drawn = generator.integers(num_videos, size=(rows, num_videos))
        places = (drawn + num_videos * np.arange(rows)[:, None]).ravel()
        counts = np.bincount(places, minlength=rows * num_videos)
        yield counts.reshape(rows, num_videos).astype(np.float64)


def resample(
    runs: Sequence[Sums], *, resamples: int, seed: int, max_numbers: int = MAX_NUMBERS
) -> list[dict[str, np.ndarray]]:
    """Compute every figure for many draws of the videos, the same draws for all runs.

    Args:
        runs: their sums; videos in one order.
        resamples: how many draws (R).
        seed: of the draws.
        max_numbers: bound of the memory of a chunk of draws; it changes no figure.

    Returns:
        For each run as `figures_of`.
    """
    num_videos = len(runs[0]["hits"])
    width = num_videos + sum(values.shape[1] for values in runs[0].values())
    parts: list[list[dict[str, np.ndarray]]] = [[] for _ in runs]
    for weights in draw(num_videos, resamples, seed, chunk=max(1, max_numbers // width)):
        for part, sums in zip(parts, runs, strict=True):
            drawn = {name: weights @ values for name, values in sums.items()}
            part.append(figures_of(drawn))
    return [
        {name: np.concatenate([chunk[name] for chunk in part]) for name in part[0]}
        for part in parts
    ]


def interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bound the middle 95 % of the draws, by percentiles.

    Args:
        samples: (R, k); draws without the figure are NaN and left out.

    Returns:
        Lower and upper ends, (k,); NaN where no draw has the figure.
    """
    ends = np.full((2, samples.shape[1]), np.nan)
    percentiles = 50 - 50 * INTERVAL, 50 + 50 * INTERVAL
    for column, values in enumerate(samples.T):
        present = values[~np.isnan(values)]
        if present.size:
            ends[:, column] = np.percentile(present, percentiles)
    return ends[0], ends[1]


def chance_percent(num_videos: int) -> int:
    """How many of 100 differences that are nothing but chance have an interval without 0.

    Args:
        num_videos: that they are measured on, 2 or more; 5 is the aim, which many videos approach.
    """
    return CHANCE_PERCENT[max(number for number in CHANCE_PERCENT if number <= num_videos)]


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; 0 / 0 is NaN."""
    nothing = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=nothing, where=denominator != 0)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the classes that occur, for each row."""
    present = ~np.isnan(values)
    return _divide(np.where(present, values, 0).sum(1), present.sum(1).astype(np.float64))
