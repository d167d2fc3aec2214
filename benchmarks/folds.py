"""Cross-validation: the folds of an arm as one evaluation, and the arms side by side.

    python benchmarks/folds.py "base, seed 0=ev/base_f0_s0,ev/base_f1_s0" "temporal, seed 0=ev/..."

An arm is NAME=FOLDER,FOLDER,...: folders of `vidseg evaluate --out`, each on the videos that its
model has not seen. Counts are summed over all videos of an arm before anything is divided, so each
row is one figure over the whole set. Arms must hold the same videos.

"common TC" is the mean of TC over the classes that every arm holds on half a percent of the pixels
or more: a class of a few stray pixels, with a TC of its own near 0, does not rule it.
"""

import sys

import torch
from torch import Tensor

from vidseg.comparison.record import read_evaluation
from vidseg.evaluation.figure import figures_of
from vidseg.evaluation.figures import FIGURES
from vidseg.evaluation.sums import Sums
from vidseg.metrics.ratios import divide

TITLES = {
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
    parts = [run.sums.pooled() for run in runs]
    names = vars(parts[0])
    return videos, Sums(**{name: sum(getattr(part, name) for part in parts) for name in names})


def common_consistency(arms: list[Sums]) -> tuple[Tensor, list[float]]:
    """Which classes every arm holds, (C,) bool, and the mean TC over them for each arm."""
    shares = [divide(sums.steady_hits, sums.steady_before.sum()) for sums in arms]
    common = torch.stack([share >= COMMON_SHARE for share in shares]).all(0)
    ratios = [divide(sums.steady_hits, sums.steady_union) for sums in arms]
    return common, [float(values[common].mean()) for values in ratios]


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
        common_consistency(sums) if all(s.steady_before.any() for s in sums) else (None, None)
    )
    width = max(len(name) for name, _, _ in arms)
    write = sys.stdout.write
    titles = [*TITLES.values(), *([] if common is None else [f"common TC ({common.sum()})"])]
    write(f"{len(found[0][0])} videos, %\n{'':<{width}}" + "".join(f"{t:>15}" for t in titles))
    for row, (name, _, _) in enumerate(arms):
        figures = figures_of(sums[row], (FIGURES[key] for key in TITLES))
        values = list(figures.values())
        values += [] if consistencies is None else [consistencies[row]]
        cells = "".join(f"{'-' if v is None else f'{100 * v:.2f}':>15}" for v in values)
        write(f"\n{name:<{width}}{cells}")
    write("\n")


if __name__ == "__main__":
    main()
