"""The figures of an evaluation: what each is called and means, wherever it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass

WINDOWS_FRAMES = (8, 16)
"""The n of VC_n that the field reports."""


@dataclass(frozen=True)
class Figure:
    """What is said of a figure.

    Attributes:
        key: in `metrics.json`.
        title: as people read it.
        words: what it is, in few words.
        meaning: the same, in a sentence or two.
        gain: what an improvement is called.
        loss: its contrary.
        is_lower_better: a smaller value is the improvement.
        unit: "%" (values are ratios) or "ms".
    """

    key: str
    title: str
    words: str = ""
    meaning: str = ""
    gain: str = "better"
    loss: str = "worse"
    is_lower_better: bool = False
    unit: str = "%"

    @property
    def scale(self) -> float:
        """From a stored value to a printed one."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def difference_unit(self) -> str:
        """The unit of a printed difference."""
        return "points" if self.unit == "%" else self.unit


def _steady(
    key: str, title: str, words: str, meaning: str, *, is_lower_better: bool = False
) -> Figure:
    return Figure(key, title, words, meaning, "steadier", "less steady", is_lower_better)


ACCURACY = (
    Figure(
        "mean_iou",
        "mean IoU",
        "overlap with the truth, mean over classes",
        "Intersection over union of each class, counts summed over all frames, then the mean over "
        "the classes that occur.",
    ),
    Figure(
        "boundary_mean_iou",
        "boundary mean IoU",
        "the same within 5 px of another true class",
        "The same over the pixels within 5 px of another true class, where segmenters err most.",
    ),
    Figure(
        "weighted_iou",
        "weighted IoU",
        "the same, classes weighted by their pixels",
        "IoU of each class weighted by its share of the true pixels.",
    ),
    Figure(
        "mean_video_iou",
        "mean IoU of a video",
        "of each video by itself, mean over videos",
        "Mean IoU of each video by itself, then the mean over the videos.",
    ),
    Figure(
        "pixel_accuracy",
        "pixel accuracy",
        "share of the pixels that are right",
        "Share of the labelled pixels that have the right class.",
    ),
    Figure(
        "mean_class_accuracy",
        "mean class accuracy",
        "share found of a class, mean over classes",
        "Share of each true class that was found, then the mean over the classes in the truth.",
    ),
)
CONSISTENCY = (
    _steady(
        "temporal_consistency",
        "TC",
        "overlap with the labels of the frame before",
        "Temporal consistency: mean IoU between each frame's labels and the previous frame's, "
        "carried along the motion. 100 % is steady, which is not to say right.",
    ),
    _steady(
        "flicker",
        "flicker",
        "share of the pixels that change class, 0 is steady",
        "Share of the pixels whose class changes along the motion. 0 % is steady.",
        is_lower_better=True,
    ),
    _steady(
        "truth_temporal_consistency",
        "TC of the truth",
        "what perfect labels have",
        "TC of the true labels: what errors of the motion and of the labelling would cost a "
        "perfect model.",
    ),
    _steady(
        "truth_flicker",
        "flicker of the truth",
        "what perfect labels have",
        "Flicker of the true labels: what a perfect model would show.",
        is_lower_better=True,
    ),
)
VIDEO_CONSISTENCY = (
    _steady(
        "vc8",
        "VC8",
        "labels that stay where the truth stays 8 frames",
        "Video consistency: of the pixels whose true class stays through 8 frames, the share "
        "whose label stays too, right or wrong; mean over all windows of 8 frames.",
    ),
    _steady("vc16", "VC16", "the same for 16 frames", "The same for windows of 16 frames."),
    Figure(
        "vc8_correct",
        "right VC8",
        "labels that stay and are right",
        "As VC8, but the label that stays must be the true class.",
    ),
    Figure(
        "vc16_correct",
        "right VC16",
        "the same for 16 frames",
        "As VC16, but the label that stays must be the true class.",
    ),
)
VSPW = (
    Figure(
        "vspw_mean_iou",
        "VSPW mIoU",
        "mean over the classes in the truth",
        "Mean IoU as VSPW's tool prints it: over the classes in the truth, of the videos of more "
        "than 16 frames, like all of its figures.",
    ),
    Figure(
        "vspw_weighted_iou",
        "VSPW weighted IoU",
        "classes weighted by their true pixels",
        "Weighted IoU, as VSPW's tool prints it.",
    ),
    Figure(
        "vspw_pixel_accuracy",
        "VSPW pixel accuracy",
        "share of the pixels that are right",
        "Pixel accuracy, as VSPW's tool prints it.",
    ),
    Figure(
        "vspw_class_accuracy",
        "VSPW class accuracy",
        "share found of a class, mean over classes",
        "Mean class accuracy, as VSPW's tool prints it.",
    ),
    _steady(
        "vspw_vc8",
        "VSPW mVC8",
        "without each video's last window; void is a class",
        "VC8 as VSPW's tool prints it: without the last window of each video, and with void as one "
        "class more.",
    ),
    _steady(
        "vspw_vc16",
        "VSPW mVC16",
        "the same for 16 frames",
        "VC16, as VSPW's tool prints it.",
    ),
)
"""What VSPW's own tool prints, for its data alone."""
SPEED = Figure(
    "ms_per_frame",
    "network time",
    "of the network, for a frame",
    "Time of the network for one frame, without reading, resizing and scoring.",
    "faster",
    "slower",
    is_lower_better=True,
    unit="ms",
)

FIGURES = {figure.key: figure for figure in (*ACCURACY, *CONSISTENCY, *VIDEO_CONSISTENCY, SPEED)}
"""The figures of every data set by their keys, in the order in which they are shown."""

SECTIONS = {
    "accuracy": ACCURACY,
    "consistency": (*CONSISTENCY[:2], *VIDEO_CONSISTENCY),
    "speed": (SPEED,),
}
"""The figures of a model, without those of the truth, by what they are about."""


def figures_by(tc: str) -> dict[str, Figure]:
    """Every figure where TC is of this protocol: an official one stands beside its name."""
    known = FIGURES | {figure.key: figure for figure in VSPW}
    if tc == "vidseg":
        return known
    official = _steady(
        "temporal_consistency",
        f"TC, {tc}",
        "overlap with the next labels, as its authors count",
        "Temporal consistency as its authors count it, to be compared with their figures alone: "
        "mean IoU between each frame's labels and the next frame's, warped to it, artefacts "
        "included.",
    )
    return known | {official.key: official}


CLASS_FIGURES = {
    "iou": "IoU",
    "boundary_iou": "boundary IoU",
    "accuracy": "accuracy",
    "temporal_consistency": "TC",
    "flicker": "flicker",
}
"""Figures that each class has, with their titles, in the order in which they are shown."""

OVER_CLASSES = {
    "iou": "mean_iou",
    "boundary_iou": "boundary_mean_iou",
    "accuracy": "mean_class_accuracy",
    "temporal_consistency": "temporal_consistency",
    "flicker": "flicker",
}
"""The figure over all classes that stands below a column of `CLASS_FIGURES`."""


def say_absent(absent: Mapping[str, str], figures: Mapping[str, Figure]) -> list[str]:
    """Say which figures are "-", a line for each reason.

    Args:
        absent: key of a figure -> why it cannot be had.
        figures: by their keys.
    """
    titles: dict[str, list[str]] = {}
    for key, reason in absent.items():
        titles.setdefault(reason, []).append(figures[key].title)
    return [f'"-" for {", ".join(names)}: {reason}' for reason, names in titles.items()]


def counted(number: int, what: str) -> str:
    """A number of things: "1 video", "2 videos"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
