"""Cross-validation: the folds of an arm as one evaluation, and the arms side by side.

    python benchmarks/folds.py "base, seed 0=ev/base_f0_s0,ev/base_f1_s0" "temporal, seed 0=ev/..."

An arm is NAME=FOLDER,FOLDER,...: folders of `vidseg evaluate --out`, each on the videos that its
model has not seen. Counts are summed over all videos of an arm before anything is divided, so each
row is one figure over the whole set. Arms must hold the same videos.

"common TC" is the mean of TC over the classes that every arm holds on half a percent of the pixels
or more: a class of a few stray pixels, with a TC of its own near 0, does not rule it.
"""

import sys

import numpy as np

from vidseg.comparison.bootstrap import Sums, figures_of, pooled
from vidseg.comparison.record import read_evaluation

FIGURES = {
    "mean_iou": "mIoU",
    "pixel_accuracy": "pixel acc.",
    "boundary_mean_iou": "boundary",
    "temporal_consistency": "TC",
    "flicker": "flicker",
    "vc8": "VC8",
    "vc16": "VC16",
}
COMMON_SHARE = 0.005


def pool(folders: list[str]) -> tuple[tuple[str, ...], Sums]:
    """The videos of an arm, sorted, and its sums over all of them."""
    runs = [read_evaluation(folder) for folder in folders]
    videos = tuple(sorted(video for run in runs for video in run.videos))
    if len(set(videos)) < len(videos):
        raise SystemExit(f"folds must hold different videos, got {', '.join(videos)}")
    return videos, pooled(
        {name: np.concatenate([run.sums[name] for run in runs]) for name in runs[0].sums}
    )


def common_consistency(arms: list[Sums]) -> tuple[np.ndarray, list[float]]:
    """Which classes every arm holds, (C,) bool, and the mean TC over them for each arm."""
    shares = [sums["steady_hits"][0] / sums["steady_pixels"][0] for sums in arms]
    common = np.all([share >= COMMON_SHARE for share in shares], axis=0)
    values = [sums["steady_hits"][0][common] / sums["steady_union"][0][common] for sums in arms]
    return common, [float(value.mean()) for value in values]


def main() -> None:
    """Print a row for each arm."""
    if len(sys.argv) < 2 or "-h" in sys.argv or "--help" in sys.argv:
        raise SystemExit(__doc__)
    arms = [argument.rpartition("=") for argument in sys.argv[1:]]
    found = [pool(folders.split(",")) for _, _, folders in arms]
    if len({videos for videos, _ in found}) > 1:
        raise SystemExit("the arms hold different videos")
    sums = [values for _, values in found]
    common, consistencies = (
        common_consistency(sums) if all(s["steady_pixels"].any() for s in sums) else (None, None)
    )
    width = max(len(name) for name, _, _ in arms)
    write = sys.stdout.write
    titles = [*FIGURES.values(), *([] if common is None else [f"common TC ({common.sum()})"])]
    write(f"{len(found[0][0])} videos, %\n{'':<{width}}" + "".join(f"{t:>15}" for t in titles))
    for row, (name, _, _) in enumerate(arms):
        figures = figures_of(sums[row])
        values = [float(figures[figure][0]) for figure in FIGURES]
        values += [] if consistencies is None else [consistencies[row]]
        cells = "".join(f"{'-' if np.isnan(v) else f'{100 * v:.2f}':>15}" for v in values)
        write(f"\n{name:<{width}}{cells}")
    write("\n")


if __name__ == "__main__":
    main()
