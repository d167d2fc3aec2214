"""The table of figures, an entry each: whatever shows or computes a figure reads it here."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vidseg.evaluation.figure import MILLISECONDS, Figure, Measure, PerClass, Section
from vidseg.evaluation.sums import Sums
from vidseg.metrics.consistency import OFFICIAL_PROTOCOLS, Protocol
from vidseg.metrics.ratios import divide, mean_over_classes, share, weighted_iou
from vidseg.metrics.video_consistency import WINDOWS_FRAMES


def _iou(sums: Sums) -> Tensor:
    return divide(sums.hits, sums.union)


def _boundary_iou(sums: Sums) -> Tensor:
    return divide(sums.boundary_hits, sums.boundary_union)


def _class_accuracy(sums: Sums) -> Tensor:
    return divide(sums.hits, sums.truth)


def _steady_iou(sums: Sums) -> Tensor:
    return divide(sums.steady_hits, sums.steady_union)


def _class_flicker(sums: Sums) -> Tensor:
    return divide(sums.steady_before - sums.steady_hits, sums.steady_before)


def _none(sums: Sums) -> Tensor:
    return torch.full_like(sums.video_iou, torch.nan)


def _none_of_class(sums: Sums) -> Tensor:
    return torch.full_like(sums.hits, torch.nan)


ACCURACY = (
    Figure(
        "mean_iou",
        "mean IoU",
        "overlap with the truth, mean over classes",
        "Intersection over union of each class, counts summed over all frames, then the mean over "
        "the classes that occur.",
        of=lambda sums: mean_over_classes(_iou(sums)),
        per_class=PerClass("iou", "IoU", _iou),
    ),
    Figure(
        "boundary_mean_iou",
        "boundary mean IoU",
        "the same within 5 px of another true class",
        "The same over the pixels within 5 px of another true class, where segmenters err most.",
        of=lambda sums: mean_over_classes(_boundary_iou(sums)),
        per_class=PerClass("boundary_iou", "boundary IoU", _boundary_iou),
        absent="no two true classes are within 5 px of each other",
    ),
    Figure(
        "weighted_iou",
        "weighted IoU",
        "the same, classes weighted by their pixels",
        "IoU of each class weighted by its share of the true pixels.",
        of=lambda sums: weighted_iou(sums.hits, sums.truth, sums.union),
    ),
    Figure(
        "mean_video_iou",
        "mean IoU of a video",
        "of each video by itself, mean over videos",
        "Mean IoU of each video by itself, then the mean over the videos.",
        of=lambda sums: divide(sums.video_iou, sums.videos_with_iou),
        is_of_set=True,
    ),
    Figure(
        "pixel_accuracy",
        "pixel accuracy",
        "share of the pixels that are right",
        "Share of the labelled pixels that have the right class.",
        of=lambda sums: share(sums.hits, sums.truth),
    ),
    Figure(
        "mean_class_accuracy",
        "mean class accuracy",
        "share found of a class, mean over classes",
        "Share of each true class that was found, then the mean over the classes in the truth.",
        of=lambda sums: mean_over_classes(_class_accuracy(sums)),
        per_class=PerClass("accuracy", "accuracy", _class_accuracy),
    ),
)


def _steady(
    key: str, title: str, words: str, meaning: str, of: Measure | None = None, **more: Any
) -> Figure:
    """A figure that is steadier where it is better."""
    consistent = {"section": Section.CONSISTENCY, "gain": "steadier", "loss": "less steady"}
    return Figure(key, title, words, meaning, of, **consistent, **more)


ALONG_THE_FLOW: dict[str, Any] = {
    "needs_flow": True,
    "absent": "nothing could be followed from one frame to the next",
}
CONSISTENCY = (
    _steady(
        "temporal_consistency",
        "TC",
        "overlap with the labels of the frame before",
        "Temporal consistency: mean IoU between each frame's labels and the previous frame's, "
        "carried along the motion. 100 % is steady, which is not to say right.",
        lambda sums: mean_over_classes(_steady_iou(sums)),
        per_class=PerClass("temporal_consistency", "TC", _steady_iou),
        needs_truth=False,
        **ALONG_THE_FLOW,
    ),
    _steady(
        "flicker",
        "flicker",
        "share of the pixels that change class, 0 is steady",
        "Share of the pixels whose class changes along the motion. 0 % is steady.",
        lambda sums: share(sums.steady_before - sums.steady_hits, sums.steady_before),
        per_class=PerClass("flicker", "flicker", _class_flicker),
        is_lower_better=True,
        needs_truth=False,
        **ALONG_THE_FLOW,
    ),
    _steady(
        "truth_temporal_consistency",
        "TC of the truth",
        "what perfect labels have",
        "TC of the true labels: what errors of the motion and of the labelling would cost a "
        "perfect model.",
        lambda sums: mean_over_classes(divide(sums.truth_steady_hits, sums.truth_steady_union)),
        truth_of="temporal_consistency",
        **ALONG_THE_FLOW,
    ),
    _steady(
        "truth_flicker",
        "flicker of the truth",
        "what perfect labels have",
        "Flicker of the true labels: what a perfect model would show.",
        lambda sums: share(
            sums.truth_steady_before - sums.truth_steady_hits, sums.truth_steady_before
        ),
        is_lower_better=True,
        truth_of="flicker",
        **ALONG_THE_FLOW,
    ),
)


def _of_windows(n: int, *, correct: bool) -> dict[str, Any]:
    """Make the entry of VC over windows of n frames."""
    column = WINDOWS_FRAMES.index(n)

    def of(sums: Sums) -> Tensor:
        total = sums.vc_correct_total if correct else sums.vc_total
        return divide(total[..., column], sums.vc_windows[..., column])

    absent = f"no pixel keeps its true class through {n} labelled frames in a row"
    return {"of": of, "window_frames": n, "absent": absent}


VIDEO_CONSISTENCY = (
    _steady(
        "vc8",
        "VC8",
        "labels that stay where the truth stays 8 frames",
        "Video consistency: of the pixels whose true class stays through 8 frames, the share "
        "whose label stays too, right or wrong; mean over all windows of 8 frames.",
        **_of_windows(8, correct=False),
    ),
    _steady(
        "vc16",
        "VC16",
        "the same for 16 frames",
        "The same for windows of 16 frames.",
        **_of_windows(16, correct=False),
    ),
    Figure(
        "vc8_correct",
        "right VC8",
        "labels that stay and are right",
        "As VC8, but the label that stays must be the true class.",
        section=Section.CONSISTENCY,
        **_of_windows(8, correct=True),
    ),
    Figure(
        "vc16_correct",
        "right VC16",
        "the same for 16 frames",
        "As VC16, but the label that stays must be the true class.",
        section=Section.CONSISTENCY,
        **_of_windows(16, correct=True),
    ),
)


def _of_tool(name: str) -> dict[str, Any]:
    """Read a figure of VSPW's own score by the score's name of it."""
    return {
        "key": f"vspw_{name}",
        "of_score": lambda score: score.figures()[name],
        "is_of_set": True,
        "absent": (
            "VSPW's tool reads whole videos of more than 16 frames, with a truth on each frame"
        ),
    }


VSPW = (
    Figure(
        title="VSPW mIoU",
        words="mean over the classes in the truth",
        meaning="Mean IoU as VSPW's tool prints it: over the classes in the truth, of the videos "
        "of more than 16 frames, like all of its figures.",
        **_of_tool("mean_iou"),
    ),
    Figure(
        title="VSPW weighted IoU",
        words="classes weighted by their true pixels",
        meaning="Weighted IoU, as VSPW's tool prints it.",
        **_of_tool("weighted_iou"),
    ),
    Figure(
        title="VSPW pixel accuracy",
        words="share of the pixels that are right",
        meaning="Pixel accuracy, as VSPW's tool prints it.",
        **_of_tool("pixel_accuracy"),
    ),
    Figure(
        title="VSPW class accuracy",
        words="share found of a class, mean over classes",
        meaning="Mean class accuracy, as VSPW's tool prints it.",
        **_of_tool("class_accuracy"),
    ),
    _steady(
        title="VSPW mVC8",
        words="without each video's last window; void is a class",
        meaning="VC8 as VSPW's tool prints it: without the last window of each video, and with "
        "void as one class more.",
        **_of_tool("vc8"),
    ),
    _steady(
        title="VSPW mVC16",
        words="the same for 16 frames",
        meaning="VC16, as VSPW's tool prints it.",
        **_of_tool("vc16"),
    ),
)
"""What VSPW's own tool prints, for its data alone."""
SPEED = Figure(
    "ms_per_frame",
    "network time",
    "of the network, for a frame",
    "Time of the network for one frame, without reading, resizing and scoring.",
    section=Section.SPEED,
    gain="faster",
    loss="slower",
    is_lower_better=True,
    unit=MILLISECONDS,
    is_of_set=True,
    needs_truth=False,
    absent="no network ran",
)

FIGURES = {figure.key: figure for figure in (*ACCURACY, *CONSISTENCY, *VIDEO_CONSISTENCY, SPEED)}
"""The figures of every data set by their keys, in the order in which they are shown."""


def figures_by(tc: Protocol) -> dict[str, Figure]:
    """Every figure where TC is of this protocol: an official one stands beside its name."""
    known = FIGURES | {figure.key: figure for figure in VSPW}
    if tc == "vidseg":
        return known
    official = OFFICIAL_PROTOCOLS[tc]
    reason = f"protocol {tc} is of TC alone; the protocol vidseg (--tc vidseg) measures it"
    nothing = {"of": _none, "needs_flow": False, "absent": reason}
    for figure in CONSISTENCY:
        of_class = figure.per_class and replace(figure.per_class, of=_none_of_class)
        known[figure.key] = replace(figure, per_class=of_class, **nothing)
    return known | {
        "temporal_consistency": replace(
            FIGURES["temporal_consistency"],
            title=f"TC, {tc}",
            words="overlap with the next labels, as its authors count",
            meaning="Temporal consistency as its authors count it, to be compared with their "
            "figures alone: mean IoU between each frame's labels and the next frame's, warped to "
            "it, artefacts included.",
            of=lambda sums: official.mean_iou_of(sums.steady_hits, sums.steady_union),
            per_class=PerClass(
                "temporal_consistency",
                "TC",
                lambda sums: official.iou_of(sums.steady_hits, sums.steady_union),
            ),
        )
    }
