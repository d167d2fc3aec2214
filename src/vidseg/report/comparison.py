"""The report of a comparison: figures of runs beside each other, differences with intervals."""

from collections.abc import Iterable

from vidseg.comparison.compare import Comparison, Estimate, Row
from vidseg.evaluation.figure import PERCENT
from vidseg.report import charts, html

MAX_CLASS_ROWS = 30


def comparison_page(comparison: Comparison, *, command: str | None = None) -> html.Page:
    """Put a comparison on a page.

    Args:
        comparison: the runs and what they differ in.
        command: what made the report.
    """
    first, *others = comparison.labels
    videos, lead, ends = comparison.num_videos, "Evaluations of the same video.", "."
    if videos > 1:
        lead = f"Evaluations of the same {videos} videos. In brackets: the 95 % interval over them."
        ends = ", on its interval: filled where it excludes 0, hollow where it contains 0."
    title = " and ".join(comparison.labels)
    page = html.Page(title if len(others) == 1 else f"{first} and {len(others)} more", lead)
    page.add("Figures", _figures(comparison), html.bullets(comparison.notes))
    for index, label in enumerate(others):
        page.add(
            f"{label} beside {first}",
            f"Each mark is the difference {label} minus {first}, in points{ends}",
            _differences([row for row in comparison.rows if _is_drawn(row)], index),
        )
        if comparison.class_rows:
            page.add(f"IoU of each class, {label} beside {first}", *_classes(comparison, index))
    page.add("What the figures mean", _meanings(comparison))
    page.add(
        "How it was measured",
        *_runs(comparison),
        f"Intervals: {comparison.resamples} draws of the videos, seed {comparison.seed}, the same "
        "draws for all runs.",
        *([html.code(command)] if command else []),
    )
    return page


def _is_drawn(row: Row) -> bool:
    """Milliseconds have another scale; the truth is the same for all runs."""
    return row.figure.unit is PERCENT and not row.figure.truth_of


def _figures(comparison: Comparison) -> html.Html:
    rows = [
        (
            f"{row.figure.title}, {row.figure.unit.symbol}",
            *(_shown(estimate, row) for estimate in row.estimates),
        )
        for row in comparison.rows
    ]
    return html.table(("", *comparison.labels), rows)


def _differences(rows: Iterable[Row], index: int) -> html.Html:
    return charts.difference_bars([_interval(row, index) for row in rows])


def _classes(comparison: Comparison, index: int) -> list[html.Html]:
    """Classes by the size of their difference; the small ones are folded away."""

    def size(row: Row) -> float:
        return abs(row.differences[index].value or 0.0)

    known = [row for row in comparison.class_rows if row.differences[index].value is not None]
    rows = sorted(known, key=size, reverse=True)
    parts = [_differences(rows[:MAX_CLASS_ROWS], index)]
    if rows[MAX_CLASS_ROWS:]:
        rest = _differences(rows[MAX_CLASS_ROWS:], index)
        parts.append(html.details(f"{len(rows) - MAX_CLASS_ROWS} smaller differences", rest))
    return parts


def _interval(row: Row, index: int) -> charts.Interval:
    value, low, high = _scaled(row.differences[index], row)
    return charts.Interval(row.figure.title, value, low, high, row.verdict(index))


def _shown(estimate: Estimate, row: Row) -> html.Html:
    return charts.estimate(*_scaled(estimate, row), places=2)


def _scaled(estimate: Estimate, row: Row) -> tuple[float | None, float | None, float | None]:
    def scaled(value: float | None) -> float | None:
        return None if value is None else row.figure.unit.scale * value

    return scaled(estimate.value), scaled(estimate.low), scaled(estimate.high)


def _meanings(comparison: Comparison) -> html.Html:
    return html.facts({row.figure.title: row.figure.meaning for row in comparison.rows})


def _runs(comparison: Comparison) -> list[html.Html]:
    parts = []
    for label, run in zip(comparison.labels, comparison.runs, strict=True):
        facts = {"model": run.name, "folder": run.folder, "device": run.device}
        facts |= run.accuracy
        facts |= {f"consistency, {key}": value for key, value in run.consistency.items()}
        parts += [html.heading(label), html.facts(facts)]
    return parts
