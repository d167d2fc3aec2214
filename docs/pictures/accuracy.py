"""Draw what docs/metrics.md says of being right: IoU, its means, and the boundary band.

Run: python docs/pictures/accuracy.py
"""

import matplotlib.pyplot as plt
import numpy as np
from style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    RED,
    coloured,
    masks,
    mistaken,
    save,
    show,
    street,
)

from vidseg.data.synthetic import CLASSES, PALETTE
from vidseg.metrics import ConfusionMatrix, boundary_band


def measured(labels: np.ndarray, truth: np.ndarray, **options: np.ndarray) -> ConfusionMatrix:
    """The confusion matrix of a few frames."""
    matrix = ConfusionMatrix(len(CLASSES))
    matrix.update(labels, truth, **options)
    return matrix


def draw_iou() -> None:
    """Truth, labels, and the three parts of one class's IoU."""
    video = street(1, 1)
    truth = video.labels[0]
    labels = mistaken(truth, np.random.default_rng(3), zoom=7)
    name = "tree"
    given, true = labels == CLASSES.index(name), truth == CLASSES.index(name)
    parts = (
        (given & true, GREEN, "both"),
        (true & ~given, BLUE, "missed"),
        (given & ~true & (truth != 255), ORANGE, "false"),
    )
    figure, axes = plt.subplots(
        2, 2, figsize=(7.4, 4.35), gridspec_kw={"hspace": 0.16, "wspace": 0.03}
    )
    show(axes[0, 0], video.frames[0], "frame")
    show(axes[0, 1], coloured(truth), "truth")
    show(axes[1, 0], coloured(labels), "labels of a model")
    show(axes[1, 1], masks(truth.shape, *((m, c) for m, c, _ in parts)), f"the class “{name}”")
    bar = figure.add_axes((0.125, 0.0, 0.775, 0.055))
    left = 0
    for mask, colour, word in parts:
        size = int(mask.sum())
        bar.barh(0, size, left=left, color=colour)
        bar.text(
            left + size / 2, 0, f"{word} {size}", ha="center", va="center", color="white", size=7
        )
        left += size
    bar.set_xlim(0, left)
    bar.axis("off")
    score = measured(labels, truth).iou()[CLASSES.index(name)]
    bar.set_title(f"IoU = both / (both + missed + false) = {float(score):.2f}", pad=3)
    save(figure, "iou")


def draw_means() -> None:
    """The same classes twice: every class as wide as the others, and as wide as it is common."""
    video = street(2, 6)
    rng = np.random.default_rng(3)
    labels = np.stack([mistaken(frame, rng) for frame in video.labels])
    matrix = measured(labels, video.labels)
    iou, pixels = matrix.iou().numpy(), matrix.counts[:-1].sum(1).numpy()
    order = [c for c in np.argsort(-pixels) if pixels[c]]
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.9), sharey=True, layout="constrained")
    for panel, widths, mean, title in (
        (axes[0], np.ones(len(order)) / len(order), matrix.mean_iou(), "mIoU: classes weigh alike"),
        (axes[1], pixels[order] / pixels.sum(), matrix.weighted_iou(), "weighted IoU: by pixels"),
    ):
        starts = np.cumsum(widths) - widths
        colours = 60 + PALETTE[order] / 255 * 150
        panel.bar(
            starts, iou[order], widths, align="edge", color=colours / 255, edgecolor="white", lw=1
        )
        panel.axhline(mean, color=RED, lw=1.4)
        panel.text(
            1, mean + 0.015, f"{mean:.2f}", color=RED, ha="right", va="bottom", weight="bold"
        )
        for start, width, c in zip(starts, widths, order, strict=True):
            if width > 0.045:
                panel.text(
                    start + width / 2, 0.03, CLASSES[c], rotation=90, ha="center", color="white"
                )
        panel.set(xlim=(0, 1), ylim=(0, 1), xticks=[], title=title)
    axes[0].set_ylabel("IoU of the class")
    axes[0].set_xlabel("11 classes")
    axes[1].set_xlabel("all pixels with a true class")
    save(figure, "means")


def draw_videos() -> None:
    """Videos of several lengths and difficulties: pooled, and one by one."""
    lengths, coarse_px = (16, 6, 5, 5), (2, 3, 6, 4)
    pooled, single = ConfusionMatrix(len(CLASSES)), []
    for seed, (num_frames, coarse) in enumerate(zip(lengths, coarse_px, strict=True)):
        video = street(seed, num_frames, (96, 192))
        rng = np.random.default_rng(seed)
        labels = np.stack([mistaken(frame, rng, coarse_px=coarse) for frame in video.labels])
        matrix = measured(labels, video.labels)
        single.append(matrix.mean_iou())
        pooled.merge(matrix)
    figure, axes = plt.subplots(figsize=(7.4, 2.5), layout="constrained")
    widths = np.array(lengths) / sum(lengths)
    starts = np.cumsum(widths) - widths
    axes.bar(starts, single, widths, align="edge", color=BLUE, edgecolor="white", lw=2)
    for start, width, score, frames in zip(starts, widths, single, lengths, strict=True):
        axes.text(
            start + width / 2, 0.05, f"{frames} frames\n{score:.2f}", ha="center", color="white"
        )
    for value, colour, text, place in (
        (pooled.mean_iou(), RED, "mIoU: one table\nfor all pixels", 0.86),
        (float(np.mean(single)), INK, "mean of the\nvideos' mIoU", 0.5),
    ):
        axes.axhline(value, color=colour, lw=1.4)
        axes.annotate(
            f"{value:.2f}  {text}",
            (1, value),
            (1.04, place),
            color=colour,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour},
            annotation_clip=False,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], ylabel="mIoU of the video")
    save(figure, "videos")


def draw_boundary() -> None:
    """The band, and the errors inside and outside of it."""
    video = street(2, 1)
    truth = video.labels[0]
    labels = mistaken(truth, np.random.default_rng(3))
    band = boundary_band(truth, width_px=5).numpy()
    wrong = (labels != truth) & (truth != 255)
    whole, inside = measured(labels, truth), measured(labels, truth, valid=band)
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.3), gridspec_kw={"wspace": 0.03})
    faded = (coloured(truth) * 0.35 + 255 * 0.65).astype(np.uint8)
    show(axes[0], np.where(band[..., None], coloured(truth), faded), "truth; the band is in colour")
    show(
        axes[1],
        masks(truth.shape, (band, "#cfd6d8"), (wrong & ~band, BLUE), (wrong & band, RED)),
        "errors: red in the band, blue elsewhere",
    )
    share, errors = band.mean(), (wrong & band).sum() / wrong.sum()
    figure.text(
        0.125,
        0.09,
        f"mIoU of all pixels {whole.mean_iou():.2f}, of the band {inside.mean_iou():.2f}   "
        f"({share:.0%} of the pixels, {errors:.0%} of the errors)",
    )
    save(figure, "boundary")


if __name__ == "__main__":
    draw_iou()
    draw_means()
    draw_videos()
    draw_boundary()
