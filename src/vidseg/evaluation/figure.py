"""What a figure is: its name, its words, and how counts give it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from vidseg.evaluation.sums import Sums
from vidseg.metrics.vspw import VspwScore

Measure = Callable[[Sums], Tensor]
"""Sums with leading axes (...) to figures of the same axes, float64, NaN where there is none."""


@dataclass(frozen=True)
class Unit:
    """The unit of a figure, and how its values are printed.

    Attributes:
        symbol: behind a printed value.
        of_difference: behind a printed difference.
        stored: what the values are in a file.
        scale: from a stored value to a printed one.
        places: decimals that are printed.
    """

    symbol: str
    of_difference: str
    stored: str
    scale: float
    places: int


PERCENT = Unit("%", "points", "ratio", scale=100, places=2)
MILLISECONDS = Unit("ms", "ms", "ms", scale=1, places=1)


class Section(Enum):
    """The subject of a figure."""

    ACCURACY = "accuracy"
    CONSISTENCY = "consistency"
    SPEED = "speed"


@dataclass(frozen=True)
class PerClass:
    """The figure of each class that a figure is a mean of, or that belongs to it.

    Attributes:
        key: in `metrics.json` and `metrics.csv`.
        title: as people read it.
        of: how sums (...) give it, (..., C).
    """

    key: str
    title: str
    of: Measure


@dataclass(frozen=True)
class Figure:
    """How a figure is named, explained and computed.

    Attributes:
        key: in `metrics.json`.
        title: as people read it.
        words: what it is, in few words.
        meaning: the same, in a sentence or two.
        of: how sums (...) give it, (...); None where counts do not: the time of the network, and
            what a score of VSPW gives.
        of_score: how a score of VSPW gives it.
        per_class: its figure of each class.
        section: what it is about.
        gain: what an improvement is called.
        loss: its contrary.
        is_lower_better: a smaller value is the improvement.
        unit: of its values.
        truth_of: key of the figure that stands beside it, where the true labels have it and not
            the model; empty for a figure of the model.
        is_of_set: a video by itself does not have it.
        needs_truth: frames without true labels do not have it.
        needs_flow: frames are compared along a flow for it.
        window_frames: neighbouring true label maps that it needs; 0 for any.
        absent: why there is none where there is what it needs.
    """

    key: str
    title: str
    words: str = ""
    meaning: str = ""
    of: Measure | None = None
    of_score: Callable[[VspwScore], float] | None = None
    per_class: PerClass | None = None
    section: Section = Section.ACCURACY
    gain: str = "better"
    loss: str = "worse"
    is_lower_better: bool = False
    unit: Unit = PERCENT
    truth_of: str = ""
    is_of_set: bool = False
    needs_truth: bool = True
    needs_flow: bool = False
    window_frames: int = 0
    absent: str = "no pixel has a true class"

    def read(self, value: float | None, places: int | None = None) -> str:
        """A value with its unit for people, "-" where there is none.

        Args:
            value: as it is stored.
            places: decimals; those of the unit by default.
        """
        if value is None:
            return "-"
        places = self.unit.places if places is None else places
        return f"{self.unit.scale * value:.{places}f} {self.unit.symbol}"


def figures_of(sums: Sums, figures: Iterable[Figure]) -> dict[str, float | None]:
    """Compute figures of one set of videos: ratios in [0, 1]; None where there is none.

    Args:
        sums: of the set, without leading axes.
        figures: which; those that sums do not give are left out.
    """
    return {f.key: number_or_none(float(f.of(sums))) for f in figures if f.of is not None}


def score_figures_of(score: VspwScore, figures: Iterable[Figure]) -> dict[str, float | None]:
    """Compute the figures that a score of VSPW gives: ratios in [0, 1]; None where there is none.

    Args:
        score: of the set.
        figures: which; those that the score does not give are left out.
    """
    return {f.key: number_or_none(f.of_score(score)) for f in figures if f.of_score is not None}


def class_figures_of(sums: Sums, figures: Iterable[Figure]) -> dict[str, list[float | None]]:
    """Compute the figures of each class of one set of videos; None where it does not occur.

    Args:
        sums: of the set, without leading axes.
        figures: which; those that classes do not have are left out.
    """
    return {
        one.key: [number_or_none(value) for value in one.of(sums).tolist()]
        for one in with_classes(figures).values()
    }


def with_classes(figures: Iterable[Figure]) -> dict[str, PerClass]:
    """The figures that each class has: key of the figure over all classes -> that of a class."""
    return {figure.key: figure.per_class for figure in figures if figure.per_class is not None}


def number_or_none(value: float) -> float | None:
    """None for NaN, which JSON does not have."""
    return None if math.isnan(value) else float(value)


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
