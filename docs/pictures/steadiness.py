"""Draw what docs/metrics.md says of being steady: TC, its protocols, flicker and VC.

Run: python docs/pictures/steadiness.py
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle
from style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PALE,
    RED,
    coloured,
    masks,
    mistaken,
    rgb,
    save,
    show,
    street,
)

from vidseg.data.synthetic import CLASSES
from vidseg.flow import warp
from vidseg.metrics import (
    EtcTemporalConsistency,
    TemporalConsistency,
    VideoConsistency,
    VspwTemporalConsistency,
)

# Hidden before or out of frame: no colour of a class.
NOT_COMPARED = "#8b949a"


def draw_consistency() -> None:
    """Labels of two frames, the first carried along the motion, and where they disagree."""
    video = street(1, 2)
    rng = np.random.default_rng(0)
    previous, current = (mistaken(labels, rng) for labels in video.labels)
    flow, valid = torch.from_numpy(video.flow_backward[0]), video.valid_backward[0]
    carried = warp(torch.from_numpy(previous), flow, mode="nearest").numpy()
    measured = TemporalConsistency(len(CLASSES))
    measured.update(np.stack((previous, current)), flow[None], valid[None])

    figure, axes = plt.subplots(
        3, 2, figsize=(7.4, 6.4), gridspec_kw={"hspace": 0.16, "wspace": 0.03}
    )
    show(axes[0, 0], video.frames[0], "previous frame")
    show(axes[0, 1], video.frames[1], "current frame; arrows: motion since then")
    rows, columns = (p.ravel() for p in np.mgrid[16:192:16, 12:384:16])
    u, v = flow.numpy()[:, rows, columns]
    moves = np.hypot(u, v) < 40  # not what leaves the frame
    axes[0, 1].quiver(
        (columns + u)[moves],
        (rows + v)[moves],
        -u[moves],
        -v[moves],
        angles="xy",
        scale_units="xy",
        scale=1,
        color="#ffd54a",
        width=0.0035,
    )
    axes[0, 1].set(xlim=(0, 383), ylim=(191, 0))
    show(axes[1, 0], coloured(previous), "labels of the previous frame")
    show(axes[1, 1], coloured(current), "labels of the current frame")
    along = np.where(valid[..., None], coloured(carried), rgb(NOT_COMPARED))
    show(axes[2, 0], along.astype(np.uint8), "carried along (grey: not compared)")
    changed = valid & (carried != current)
    pixels = masks(changed.shape, (changed, RED), (~valid, NOT_COMPARED))
    scores = f"TC {measured.mean_iou():.2f}, flicker {measured.flicker():.3f}"
    show(axes[2, 1], pixels, f"red: changed ({scores})", color=RED)
    save(figure, "consistency")


def moving_disc() -> tuple[np.ndarray, np.ndarray]:
    """Two frames of a disc (class 7) on a ground (class 2) that moves, and flow to the next."""
    rows, columns = np.mgrid[:28, :28]
    move = np.array([2.4, 1.4])
    frames = []
    for t in range(2):
        x, y = 12 + move[0] * t, 12 + move[1] * t
        frames.append(np.where(np.hypot(columns - x, rows - y) < 8.3, 7, 2))
    flow = np.broadcast_to(move[:, None, None], (2, 28, 28)).astype(np.float32)
    return np.stack(frames), flow[None].copy()


def draw_protocols() -> None:
    """One pair of perfectly steady labels as three protocols see it."""
    labels, to_next = moving_disc()
    to_previous = -to_next
    ours, etc, vspw = TemporalConsistency(8), EtcTemporalConsistency(8), VspwTemporalConsistency(8)
    ours.update(labels, to_previous)
    etc.update(labels, to_next)
    vspw.update(labels, to_next)
    table = np.tile(rgb(RED), (8, 1))
    table[[2, 7]] = rgb("#dfe5e3"), rgb(GREEN)
    x, y = np.mgrid[:28, :28][::-1] + to_previous[0]
    inside = (x >= 0) & (x <= 27) & (y >= 0) & (y <= 27)
    nearest = warp(torch.from_numpy(labels[0]), torch.from_numpy(to_previous[0]), mode="nearest")
    carried = np.where(inside[..., None], table[nearest.numpy()], rgb(NOT_COMPARED))
    flow = torch.from_numpy(to_next[0])
    following = torch.from_numpy(labels[1])
    panels = (
        (table[labels[0]], "labels of\nframe t"),
        (table[labels[1]], "labels of\nframe t + 1"),
        (carried.astype(np.uint8), f"“vidseg”\nTC {ours.mean_iou():.2f}"),
        (table[etc._resample(following, flow).numpy()], f"“etc-official”\nTC {etc.mean_iou():.2f}"),
        (
            table[vspw._resample(following, flow).numpy()],
            f"“vspw-official”\nTC {vspw.mean_iou():.2f}",
        ),
    )
    figure, axes = plt.subplots(1, 5, figsize=(7.6, 1.95), layout="constrained")
    for panel, (image, title) in zip(axes, panels, strict=True):
        show(panel, image, title)
    figure.text(
        0.5,
        -0.03,
        "red: a class that is in neither frame        dark grey: not compared",
        ha="center",
    )
    save(figure, "protocols")


def draw_flicker() -> None:
    """Flicker from frame to frame, and where it is at two moments."""
    num_frames = 16
    video = street(0, num_frames)
    rng = np.random.default_rng(1)
    # The mistakes move on from time to time, and stay for a while in between.
    labels, mistakes = [], None
    for t, truth in enumerate(video.labels):
        if mistakes is None or t in (4, 5, 10, 11, 12):
            mistakes = int(rng.integers(1000))
        labels.append(mistaken(truth, np.random.default_rng(mistakes)))
    shares, pictures = [], []
    for t in range(1, num_frames):
        flow, valid = torch.from_numpy(video.flow_backward[t - 1]), video.valid_backward[t - 1]
        pair = TemporalConsistency(len(CLASSES))
        pair.update(np.stack(labels[t - 1 : t + 1]), flow[None], valid[None])
        shares.append(pair.flicker())
        carried = warp(torch.from_numpy(labels[t - 1]), flow, mode="nearest").numpy()
        grey = (video.frames[t].mean(-1, keepdims=True) * 0.4 + 150).repeat(3, -1)
        changed = (carried != labels[t]) & valid
        pictures.append(np.where(changed[..., None], rgb(RED), grey).astype(np.uint8))
    figure = plt.figure(figsize=(7.4, 3.9))
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.25), hspace=0.34, wspace=0.03)
    curve = figure.add_subplot(grid[0, :])
    numbers = np.arange(1, num_frames)
    curve.plot(numbers, shares, color=INK, marker="o", ms=3.5, lw=1.2)
    worst, calm = int(np.argmax(shares)), int(np.argmin(shares))
    for place in (calm, worst):
        curve.plot(place + 1, shares[place], "o", ms=8, mfc="none", mec=RED, mew=1.6)
    curve.set(ylim=(0, 1.15 * max(shares)), ylabel="flicker", xlim=(0.5, num_frames - 0.5))
    curve.set_xticks(numbers)
    curve.set_title("share of the compared pixels that change class, from frame to frame")
    for column, place in enumerate(sorted((calm, worst))):
        panel = figure.add_subplot(grid[1, column])
        show(panel, pictures[place], f"frame {place + 1}: {shares[place]:.3f}")
    save(figure, "flicker")


def draw_video_consistency() -> None:
    """A column of pixels over time: truth, labels, and what one window counts."""
    truth = np.array([[0] * 10, [0] * 10, [0] * 5 + [1] * 5, [1] * 10, [1] * 10, [1] * 10])
    labels = truth.copy()
    labels[1, 4] = 1  # blinks
    labels[2, 5] = 0  # late
    labels[4] = 2  # steadily wrong
    labels[5, 7:9] = 2
    first, n = 2, 4
    window = slice(first, first + n)
    stays = (truth[:, window] == truth[:, first : first + 1]).all(1)
    steady = stays & (labels[:, window] == labels[:, first : first + 1]).all(1)
    right = steady & (labels[:, window] == truth[:, window]).all(1)
    scores = []
    for correct in (False, True):
        consistency = VideoConsistency(n, correct=correct)
        frames = slice(first, first + n)
        consistency.update(labels.T[frames, :, None], truth.T[frames, :, None])
        scores.append(consistency.mean_consistency())

    colours = np.stack([rgb(c) for c in ("#c9d3d8", BLUE, "#f0a04b")])
    figure, axes = plt.subplots(
        1, 3, figsize=(7.6, 2.1), gridspec_kw={"wspace": 0.05}, width_ratios=(1, 1, 0.55)
    )
    axes[2].axis("off")
    for panel, values, title in zip(axes, (truth, labels), ("truth", "labels"), strict=False):
        show(panel, colours[values], title)
        panel.set_xticks(np.arange(-0.5, 10), minor=True)
        panel.set_yticks(np.arange(-0.5, 6), minor=True)
        panel.grid(which="minor", color="white", lw=2)
        panel.tick_params(which="minor", length=0)
        panel.set_xlabel(f"10 frames; one window of {n}")
        box = Rectangle((first - 0.5, -0.5), n, 6, fill=False, ec=INK, lw=2.2, zorder=9)
        panel.add_patch(box).set_clip_on(False)
    axes[0].set_ylabel("6 pixels")
    axes[1].text(9.9, -0.74, "in this window", size=9.5)
    words = {
        (False, False, False): ("truth changes: left out", GREY),
        (True, False, False): ("labels change", RED),
        (True, True, False): ("stays, but wrong", "#c77a1a"),
        (True, True, True): ("stays", GREEN),
    }
    for row, key in enumerate(zip(stays, steady, right, strict=True)):
        text, colour = words[tuple(bool(k) for k in key)]
        axes[1].text(9.9, row, text, va="center", color=colour, weight="bold")
    figure.text(
        0.5,
        -0.1,
        f"of {int(stays.sum())} pixels whose truth stays, the labels of {int(steady.sum())} stay: "
        f"VC {scores[0]:.2f}        {int(right.sum())} of them are right: "
        f"with correct=True {scores[1]:.2f}",
        ha="center",
        bbox={"facecolor": PALE, "edgecolor": "none", "pad": 4},
    )
    save(figure, "video_consistency")


if __name__ == "__main__":
    draw_consistency()
    draw_protocols()
    draw_flicker()
    draw_video_consistency()
