"""Runs beside each other: figures, differences, and what the videos can tell apart."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.comparison.bootstrap import INTERVAL, chance_percent, interval, resample
from vidseg.comparison.comparable import (
    Named,
    check_same,
    why_consistency_differs,
    why_video_consistency_differs,
)
from vidseg.comparison.record import SavedEvaluation, read_evaluation
from vidseg.evaluation.figure import Figure, Measure, number_or_none, with_classes
from vidseg.evaluation.figures import FIGURES, SPEED, figures_by

_CLASS_FIGURE = "mean_iou"  # whose figure of each class is compared


@dataclass(frozen=True)
class Estimate:
    """A figure or a difference, with its 95 % interval over the videos; None is "-"."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool | None:
        """Whether all of the interval lies on one side of 0; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Row:
    """One figure, or the IoU of one class, of all runs.

    Attributes:
        figure: what it is.
        estimates: one for each run.
        differences: of each run but the first to the first.
    """

    figure: Figure
    estimates: tuple[Estimate, ...]
    differences: tuple[Estimate, ...]

    def verdict(self, index: int) -> str:
        """Difference `index` as a verdict of a few words; "-" where there is none."""
        difference = self.differences[index]
        if difference.value is None:
            return "-"
        if difference.excludes_zero is None:
            return "no interval"
        if difference.excludes_zero:
            return f"{self._direction(difference.value)}: excludes 0"
        if difference.value == difference.low == difference.high == 0:
            return "the same"
        return "not told apart: contains 0"

    def statement(self, index: int, first: str, other: str) -> str:
        """Say difference `index` in one sentence; `first` and `other` name the runs."""
        difference, title = self.differences[index], self.figure.title
        if difference.value is None:
            return f"{title}: {first} and {other} do not both have this figure."
        if difference.value == 0:
            text = f"{title}: {other} and {first} have the same value"
        else:
            unit = self.figure.unit
            size = abs(difference.value) * unit.scale
            more = "higher" if difference.value > 0 else "lower"
            text = (
                f"{title}: {other} is {size:.2f} {unit.of_difference} {more} than {first} "
                f"({self._direction(difference.value)})"
            )
        if difference.low is None or difference.high is None:
            return f"{text}; there is no interval."
        low, high = (end * self.figure.unit.scale for end in (difference.low, difference.high))
        text += f"; the interval from {low:+.2f} to {high:+.2f}"
        if difference.excludes_zero:
            return f"{text} excludes 0."
        if low == high:
            return f"{text} has no width: every draw of the videos gives the same."
        return f"{text} contains 0: these videos do not tell the two apart."

    def _direction(self, difference: float) -> str:
        is_gain = (difference < 0) == self.figure.is_lower_better
        return self.figure.gain if is_gain else self.figure.loss


@dataclass(frozen=True)
class Comparison:
    """Runs on the same videos; differences are to the first run.

    Attributes:
        labels: a short name of each run, all different.
        runs: as they were read.
        rows: the figures that one run or more has.
        class_rows: IoU of each class; none where no run has a truth.
        notes: what is left out and why, and how to read the rest; sentences.
        resamples: draws of the videos that the intervals come from.
        seed: of the draws.
    """

    labels: tuple[str, ...]
    runs: tuple[SavedEvaluation, ...]
    rows: tuple[Row, ...]
    class_rows: tuple[Row, ...]
    notes: tuple[str, ...]
    resamples: int
    seed: int

    @property
    def num_videos(self) -> int:
        """Videos of every run."""
        return len(self.runs[0].videos)

    def statements(self, index: int, rows: Iterable[Row] | None = None) -> list[str]:
        """Sentences about run `index` + 1 beside the first, for every figure that both have."""
        first, other = self.labels[0], self.labels[index + 1]
        return [
            row.statement(index, first, other)
            for row in (self.rows if rows is None else rows)
            if row.differences[index].value is not None
        ]

    def summary(self) -> dict[str, Any]:
        """Everything as plain JSON values; None where there is no figure or no interval."""
        return {
            "runs": [
                {
                    "label": label,
                    "name": run.name,
                    "folder": str(run.folder),
                    "device": run.device,
                    "accuracy": run.accuracy,
                    "consistency": run.consistency,
                }
                for label, run in zip(self.labels, self.runs, strict=True)
            ],
            "num_videos": self.num_videos,
            "interval": INTERVAL,
            "resamples": self.resamples,
            "seed": self.seed,
            "figures": {row.figure.key: self._row_summary(row) for row in self.rows},
            "classes": {row.figure.key: self._row_summary(row) for row in self.class_rows},
            "notes": list(self.notes),
        }

    def _row_summary(self, row: Row) -> dict[str, Any]:
        runs = zip(self.labels, row.estimates, strict=True)
        return {
            "unit": row.figure.unit.stored,
            "runs": {label: vars(estimate) for label, estimate in runs},
            "differences": {
                label: {
                    **vars(row.differences[index]),
                    "excludes_zero": row.differences[index].excludes_zero,
                    "statement": row.statement(index, self.labels[0], label),
                }
                for index, label in enumerate(self.labels[1:])
            },
        }


def compare(folders: Sequence[Path | str], *, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Compare evaluations of the same videos, with intervals over the videos.

    The bootstrap is paired: one draw of the videos serves all runs, so a difference varies by what
    the runs do differently, not by which videos are hard. The interval of a difference can exclude
    0 where the intervals of the two figures overlap.

    Args:
        folders: as `vidseg evaluate --out` wrote them; the first is what others are compared with.
        resamples: draws of the videos.
        seed: of the draws.

    Raises:
        FileNotFoundError: a folder or a file is missing.
        ValueError: fewer than two folders, too few resamples, a damaged file, or runs that were not
            measured on the same classes, videos, frames and accuracy protocol.
    """
    if len(folders) < 2:
        raise ValueError(f"give two folders or more to compare, got {len(folders)}")
    if resamples < 100:
        raise ValueError(f"resamples must be 100 or more for a 95 % interval, got {resamples}")
    runs = tuple(read_evaluation(folder) for folder in folders)
    labels = _labels(runs)
    named = list(zip(labels, runs, strict=True))
    check_same(named)
    # Whose TC may stand in one table have measured it alike.
    measured = next((run for run in runs if run.sums.steady_union.any()), runs[0])
    figures, reasons = _comparable(named, figures_by(measured.tc))
    measures = {figure.key: figure.of for figure in figures if figure.of is not None}
    of_class = with_classes(figures)[_CLASS_FIGURE]
    sampled = _sample(runs, measures | {of_class.key: of_class.of}, resamples, seed)
    found = [row for f in figures if f.key in measures for row in _rows([f], sampled[f.key])]
    found.append(_speed(runs))
    of_classes = _rows([Figure(name, name) for name in runs[0].classes], sampled[of_class.key])
    class_rows = tuple(of_classes if any(map(_is_known, of_classes)) else ())
    rows = tuple(filter(_is_known, found))
    absent = [row.figure.title for row in found if row not in rows]
    notes = [*reasons, *([f"No run has: {', '.join(absent)}."] if absent else [])]
    if any(row.figure.needs_flow for row in rows):
        notes.append(
            f"TC and flicker are by protocol {measured.tc}, along the flow of "
            f"{measured.consistency.get('flow')}; pixels that count: "
            f"{measured.consistency.get('valid')}."
        )
    notes += _interval_notes(len(runs[0].videos), rows, class_rows)
    notes += _speed_notes(labels, runs)
    return Comparison(labels, runs, rows, class_rows, tuple(notes), resamples, seed)


def _comparable(named: Named, known: dict[str, Figure]) -> tuple[list[Figure], list[str]]:
    """The figures that these runs can be compared by, and why others are left out."""
    steady, windows = why_consistency_differs(named), why_video_consistency_differs(named)
    keys = [
        figure.key
        for figure in FIGURES.values()
        if not (figure.needs_flow and steady) and not (figure.window_frames and windows)
    ]
    return [known[key] for key in keys], [why for why in (steady, windows) if why is not None]


@dataclass(frozen=True)
class _Sampled:
    """A figure, or all columns of one, of the whole set (k,) and of each draw (R, k)."""

    value: np.ndarray
    draws: np.ndarray
    has_interval: np.ndarray

    @classmethod
    def of(cls, measure: Measure, run: SavedEvaluation, draws: np.ndarray) -> "_Sampled":
        whole = measure(run.sums.pooled()).numpy()
        alone = measure(run.sums).numpy().reshape(len(run.videos), -1)
        # What one video alone decides is the same in every draw; that is no interval.
        has_interval = (~np.isnan(alone)).sum(0) > 1
        return cls(whole.reshape(-1), draws.reshape(len(draws), -1), has_interval)

    def minus(self, other: "_Sampled") -> "_Sampled":
        return _Sampled(
            self.value - other.value,
            self.draws - other.draws,
            self.has_interval & other.has_interval,
        )

    def estimates(self) -> list[Estimate]:
        low, high = (np.where(self.has_interval, end, np.nan) for end in interval(self.draws))
        columns = zip(self.value, low, high, strict=True)
        return [Estimate(*(number_or_none(number) for number in column)) for column in columns]


def _sample(
    runs: Sequence[SavedEvaluation], measures: Mapping[str, Measure], resamples: int, seed: int
) -> dict[str, list[_Sampled]]:
    """Every measure of every run: name -> one for each run."""
    draws = resample([run.sums for run in runs], measures, resamples=resamples, seed=seed)
    return {
        name: [
            _Sampled.of(measure, run, drawn[name]) for run, drawn in zip(runs, draws, strict=True)
        ]
        for name, measure in measures.items()
    }


def _is_known(row: Row) -> bool:
    return any(estimate.value is not None for estimate in row.estimates)


def _rows(figures: Sequence[Figure], sampled: Sequence[_Sampled]) -> list[Row]:
    estimates = zip(*(each.estimates() for each in sampled), strict=True)
    differences = zip(*(each.minus(sampled[0]).estimates() for each in sampled[1:]), strict=True)
    return [Row(*row) for row in zip(figures, estimates, differences, strict=True)]


def _speed(runs: Sequence[SavedEvaluation]) -> Row:
    """Time as it was printed: there is no time per video, so no interval."""
    times = [run.figures.get(SPEED.key) for run in runs]
    first = times[0]
    differences = [None if t is None or first is None else t - first for t in times[1:]]
    return Row(SPEED, tuple(map(Estimate, times)), tuple(map(Estimate, differences)))


def _labels(runs: Sequence[SavedEvaluation]) -> tuple[str, ...]:
    """The folders' names; their paths where names repeat; numbered where paths do."""
    labels = [run.folder.resolve().name for run in runs]
    if len(set(labels)) < len(labels):
        labels = [str(run.folder) for run in runs]
    times_seen: dict[str, int] = {}
    unique = []
    for label in labels:
        times_seen[label] = times_seen.get(label, 0) + 1
        unique.append(label if times_seen[label] == 1 else f"{label} ({times_seen[label]})")
    return tuple(unique)


def _interval_notes(num_videos: int, rows: Sequence[Row], class_rows: Sequence[Row]) -> list[str]:
    """Explain how to read the intervals, and why some are missing."""
    if all(row.figure is SPEED for row in rows):
        return []
    if num_videos == 1:
        return ["There are no intervals: they come from drawing the videos anew, and there is one."]
    chance = chance_percent(num_videos)
    notes = [
        "An interval holds the middle 95 % of the values that other draws of these "
        f"{num_videos} videos give. It says how far the choice of videos matters, not another "
        f"training run or seed. With {num_videos} videos, about {chance} of 100 differences that "
        "are nothing but chance have an interval that excludes 0."
    ]
    lacking = [
        row.figure.title
        for row in (*rows, *class_rows)
        if row.figure is not SPEED
        and any(e.value is not None and e.low is None for e in row.estimates)
    ]
    if lacking:
        notes.append(f"No interval, since fewer than two videos decide it: {', '.join(lacking)}.")
    return notes


def _speed_notes(labels: Sequence[str], runs: Sequence[SavedEvaluation]) -> list[str]:
    timed = [
        f"{label} on {run.device or 'an unknown device'}"
        for label, run in zip(labels, runs, strict=True)
        if run.figures.get(SPEED.key) is not None
    ]
    if not timed:
        return []
    return [
        f"Network time is as each run took it ({', '.join(timed)}). Times of different machines, "
        "or of one that did other work, do not compare."
    ]
