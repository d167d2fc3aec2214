"""Cross-validation: the folds of an arm as one evaluation, and the arms side by side.

    python benchmarks/folds.py "base, seed 0=ev/base_f0_s0,ev/base_f1_s0" "temporal, seed 0=ev/..."

An arm is NAME=FOLDER,FOLDER,...: folders of `vidseg evaluate --out`, each on the videos that its
model has not seen. Counts are summed over all videos of an arm before anything is divided, so each
row is one figure over the whole set. Arms must hold the same videos.
"""

import sys

import numpy as np

from vidseg.inference.resampling import figures_of, pooled
from vidseg.inference.saved import read_evaluation

FIGURES = (
    "mean_iou",
    "pixel_accuracy",
    "boundary_mean_iou",
    "temporal_consistency",
    "flicker",
    "vc8",
    "vc16",
)


def pool(folders: list[str]) -> tuple[tuple[str, ...], dict[str, float]]:
    """The videos of an arm, sorted, and its figures."""
    runs = [read_evaluation(folder) for folder in folders]
    videos = tuple(sorted(video for run in runs for video in run.videos))
    if len(set(videos)) < len(videos):
        raise SystemExit(f"folds must hold different videos, got {', '.join(videos)}")
    kept = set(runs[0].sums).intersection(*(run.sums for run in runs))
    sums = {name: np.concatenate([run.sums[name] for run in runs]) for name in kept}
    figures = figures_of(pooled(sums))
    return videos, {name: float(figures[name][0]) for name in FIGURES if name in figures}


def main() -> None:
    """Print a row for each arm."""
    if len(sys.argv) < 2 or "-h" in sys.argv or "--help" in sys.argv:
        raise SystemExit(__doc__)
    arms = [argument.partition("=") for argument in sys.argv[1:]]
    rows = {name: pool(folders.split(",")) for name, _, folders in arms}
    videos = {found for found, _ in rows.values()}
    if len(videos) > 1:
        raise SystemExit(f"the arms hold different videos: {sorted(videos)}")
    width = max(len(name) for name in rows)
    write = sys.stdout.write
    titles = "".join(f"{name:>22}" for name in FIGURES)
    write(f"{len(videos.pop())} videos, %\n{'':<{width}}{titles}\n")
    for name, (_, figures) in rows.items():
        found = [figures.get(figure, float("nan")) for figure in FIGURES]
        cells = "".join(f"{'-' if np.isnan(v) else f'{100 * v:.2f}':>22}" for v in found)
        write(f"{name:<{width}}{cells}\n")


if __name__ == "__main__":
    main()
