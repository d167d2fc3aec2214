"""How figures vary with the videos that are drawn.

A bootstrap: videos are drawn with replacement, as many as there are, and every figure is computed
anew from the counts of those drawn. Frames of one video resemble each other, so videos are drawn,
never frames. Counts add, so a draw is a row of weights, and all draws are one matrix product.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from vidseg.evaluation.figure import Measure
from vidseg.evaluation.sums import Sums

INTERVAL = 0.95
MAX_NUMBERS = 4_000_000  # float64 held at once by a chunk of draws: 32 MB
# Percentile intervals of few videos are too narrow. Videos -> of 100 differences that are nothing
# but chance (normal), how many have an interval that excludes 0; simulated in the tests.
CHANCE_PERCENT = {2: 50, 3: 25, 4: 21, 5: 17, 7: 12, 10: 10, 15: 8, 20: 7, 50: 6}


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
    runs: Sequence[Sums],
    measures: Mapping[str, Measure],
    *,
    resamples: int,
    seed: int,
    max_numbers: int = MAX_NUMBERS,
) -> list[dict[str, np.ndarray]]:
    """Compute figures for many draws of the videos, the same draws for all runs.

    Args:
        runs: sums of each video, (V, ...); videos in one order.
        measures: name -> how sums give a figure.
        resamples: how many draws (R).
        seed: of the draws.
        max_numbers: bound of the memory of a chunk of draws; it changes no figure.

    Returns:
        For each run name -> figure of each draw, (R,), or (R, C) where the measure is of classes;
        NaN where there is none.
    """
    num_videos = len(runs[0].hits)
    width = num_videos + sum(values[0].numel() for values in vars(runs[0]).values())
    parts: list[list[dict[str, np.ndarray]]] = [[] for _ in runs]
    for weights in draw(num_videos, resamples, seed, chunk=max(1, max_numbers // width)):
        for part, sums in zip(parts, runs, strict=True):
            of_draws = sums.map(lambda values, w=weights: torch.from_numpy(w @ values.numpy()))
            part.append({name: measure(of_draws).numpy() for name, measure in measures.items()})
    return [
        {name: np.concatenate([chunk[name] for chunk in part]) for name in measures}
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
    """Estimate how many of 100 chance differences get an interval without 0.

    Args:
        num_videos: that they are measured on, 2 or more; 5 is the aim, which many videos approach.
    """
    return CHANCE_PERCENT[max(number for number in CHANCE_PERCENT if number <= num_videos)]
