"""Charts of a report: curves over time with marked moments, differences around zero.

Lines are inline SVG that stretches; all text is HTML beside it, so it stays readable on a phone.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vidseg.printable import escape
from vidseg.report.html import Html, paragraph

MAX_COLUMNS = 400
NUM_STYLES = 4  # of lines: colour and dashes, in report.css
BUTTON_PERCENT = 7.5  # a button's share of the width of a chart on a phone

Points = Sequence[tuple[float, float | None]]
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Mark:
    """A point of a curve that is worth a look: a numbered link.

    Attributes:
        x: on the horizontal axis.
        y: on the vertical axis.
        number: is written in it.
        target: id of what the link leads to, on this page.
        words: what it is, for people who do not see it.
    """

    x: float
    y: float
    number: int
    target: str
    words: str


@dataclass(frozen=True)
class Interval:
    """A difference with its interval; None where there is none.

    Attributes:
        name: of the row.
        value: the difference.
        low: lower end of the interval.
        high: upper end of the interval.
        words: what it says.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    words: str = ""


def curves(
    series: Mapping[str, Points],
    *,
    x_name: str,
    y_name: str,
    marks: Sequence[Mark] = (),
    from_zero: bool = False,
) -> Html:
    """Lines over a common axis. A value that is missing or not finite breaks its line.

    More than `MAX_COLUMNS` points are drawn as mean and as a band from lowest to highest, so a
    single bad frame of a long video stays visible.

    Args:
        series: name -> (x, y) points, x rising.
        x_name: what the horizontal axis counts.
        y_name: what is drawn.
        marks: points that link to something further down.
        from_zero: the vertical axis begins at 0.
    """
    known = [
        (x, y)
        for points in series.values()
        for x, y in points
        if y is not None and math.isfinite(x) and math.isfinite(y)
    ]
    if not known:
        return paragraph(f"No {y_name} yet.")
    places = [x for points in series.values() for x, _ in points]
    x_low, x_high = min(places), max(places)
    lowest, highest = min(y for _, y in known), max(y for _, y in known)
    y_ticks = ticks(0.0 if from_zero else lowest, highest)
    y_low, y_high = min(lowest, y_ticks[0]), max(highest, y_ticks[-1])
    across, up = _scale(x_low, x_high), _scale(y_low, y_high)
    drawn = "".join(
        _line(points, across, up, index) for index, points in enumerate(series.values())
    )
    grid = "".join(f'<path class="grid" d="M0 {100 - up(y):.2f}H1000"/>' for y in y_ticks)
    x_ticks = [x for x in ticks(x_low, x_high) if x_low <= x <= x_high]
    labels = "".join(
        f'<span class="y" style="bottom:{up(y):.2f}%">{_tick(y, y_ticks)}</span>' for y in y_ticks
    ) + "".join(
        f'<span class="x" style="left:{across(x):.2f}%">{_tick(x, x_ticks)}</span>' for x in x_ticks
    )
    lanes, buttons = _marks(marks, across, up)
    said = (
        f"{y_name} over {x_name}: from {lowest:.3g} to {highest:.3g}, "
        f"{x_name} from {x_low:.6g} to {x_high:.6g}"
    )
    many = max(map(len, series.values())) > MAX_COLUMNS
    band = "; the band reaches from the lowest to the highest frame" if many else ""
    key = _key(series) if len(series) > 1 else ""
    return Html(
        f'{key}<figure class="curves{" alone" if len(series) == 1 else ""}">'
        f"<figcaption>{escape(y_name)}, over {escape(x_name)}{band}</figcaption>"
        f'<div class="chart" style="--lanes:{lanes}">'
        f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(said)}">{grid}{drawn}</svg>'
        f'<div aria-hidden="true">{labels}</div>{buttons}</div></figure>'
    )


def difference_bars(rows: Sequence[Interval], *, unit: str = "points", places: int = 2) -> Html:
    """Differences with their intervals around zero, all on one scale.

    An interval that leaves out zero is filled, one that holds zero is hollow. The figures stand
    beside it, so nothing rests on the picture.

    Args:
        rows: from top to bottom; a row without a value shows "-".
        unit: of the values.
        places: decimals of the figures.
    """
    ends = [
        abs(end)
        for row in rows
        for end in (row.value, row.low, row.high)
        if end is not None and math.isfinite(end)
    ]
    reach = max(ends, default=0.0) or 1.0

    def place(value: float) -> float:
        return 50 * (1 + value / reach)  # the farthest end at 0 or 100 exactly

    body = ""
    for row in rows:
        body += f'<div class="difference"><div class="name">{escape(row.name)}</div>'
        body += '<div class="track">'
        if row.value is not None and math.isfinite(row.value):
            if row.low is not None and row.high is not None:
                left, right = place(row.low), place(row.high)
                kind = "clear" if row.low > 0 or row.high < 0 else "open"
                width = max(right - left, 0.2)
                body += f'<i class="{kind}" style="left:{left:.1f}%;width:{width:.1f}%"></i>'
            body += f'<b style="left:{place(row.value):.1f}%"></b>'
        shown = estimate(row.value, row.low, row.high, places=places, signed=True)
        words = f"<small>{escape(row.words)}</small>" if row.words else ""
        body += f'</div><div class="read">{shown}{words}</div></div>'
    scale = f"-{reach:.3g}", "0", f"+{reach:.3g} {unit}"
    axis = "".join(f"<span>{escape(text)}</span>" for text in scale)
    body += f'<div class="difference"><div class="axis">{axis}</div></div>'
    return Html(f'<div class="differences">{body}</div>')


def estimate(
    value: float | None,
    low: float | None,
    high: float | None,
    *,
    places: int = 1,
    signed: bool = False,
) -> Html:
    """A figure with its interval as it is read: 56.4 [54.1, 58.2], "-" where there is none.

    Args:
        value: the figure.
        low: lower end of the interval; None where there is no interval.
        high: upper end of the interval.
        places: decimals.
        signed: with a plus where it is above 0.
    """
    if value is None or not math.isfinite(value):
        return Html("-")

    def shown(number: float) -> str:
        text = f"{number:.{places}f}"
        text = text.lstrip("-") if float(text) == 0 else text
        return f"+{text}" if signed and float(text) > 0 else text

    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return Html(shown(value))
    return Html(f'{shown(value)} <span class="range">[{shown(low)}, {shown(high)}]</span>')


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about `wanted` steps."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / wanted
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(first, last + 1)]


def _tick(value: float, all_ticks: Sequence[float]) -> str:
    step = min((b - a for a, b in pairwise(all_ticks)), default=1.0)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{places}f}"


def _key(names: Iterable[str]) -> str:
    items = "".join(
        f'<span><svg class="key" viewBox="0 0 28 8" aria-hidden="true">'
        f'<path class="line line{index % NUM_STYLES}" d="M0 4H28"/></svg>{escape(name)}</span>'
        for index, name in enumerate(names)
    )
    return f'<div class="legend">{items}</div>'


def _scale(low: float, high: float) -> Callable[[float], float]:
    """Place values on an axis, in percent of its length."""
    return lambda value: 100 * (value - low) / ((high - low) or 1.0)


def _line(points: Points, across: Scale, up: Scale, index: int) -> str:
    """A line with gaps where values are missing; lone points become dots."""
    style = f"line{index % NUM_STYLES}"
    band, middle = "", points
    if len(points) > MAX_COLUMNS:
        lows, middle, highs = _columns(points)
        for low, high in zip(_segments(lows), _segments(highs), strict=True):
            outline = [_place(x, y, across, up) for x, y in [*high, *reversed(low)]]
            band += f"M{'L'.join(outline)}Z"
        band = f'<path class="band {style}" d="{band}"/>'
    path = ""
    for segment in _segments(middle):
        places = [_place(x, y, across, up) for x, y in segment]
        path += f"M{'L'.join(places)}" + ("h0" if len(places) == 1 else "")
    return f'{band}<path class="line {style}" d="{path}"/>'


def _place(x: float, y: float, across: Scale, up: Scale) -> str:
    return f"{10 * across(x):.1f} {100 - up(y):.2f}"


def _segments(points: Points) -> list[list[tuple[float, float]]]:
    """Runs of points whose values are known."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is not None and math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _columns(points: Points) -> tuple[Points, Points, Points]:
    """Lowest, mean and highest value of equal shares of the points."""
    lows, means, highs = [], [], []
    # Where few values are known, a column each: more would leave gaps between them.
    num_columns = min(MAX_COLUMNS, max(1, sum(y is not None for _, y in points)))
    for column in range(num_columns):
        first, end = (len(points) * (column + i) // num_columns for i in range(2))
        share = points[first:end]
        x = share[len(share) // 2][0]
        values = [y for _, y in share if y is not None and math.isfinite(y)]
        mean = sum(values) / len(values) if values else None
        for kept, value in (
            (lows, min(values, default=None)),
            (means, mean),
            (highs, max(values, default=None)),
        ):
            kept.append((x, value))
    return lows, means, highs


def _marks(marks: Sequence[Mark], across: Scale, up: Scale) -> tuple[int, str]:
    """Buttons above the chart, in as many lanes as they need, with a stem down to the point."""
    ends: list[float] = []  # of each lane: where its last button stands
    stems = buttons = ""
    for mark in sorted(marks, key=lambda mark: mark.x):
        x, y = across(mark.x), up(mark.y)
        lane = next((i for i, end in enumerate(ends) if x - end >= BUTTON_PERCENT), len(ends))
        ends[lane : lane + 1] = [x]
        place = f"left:{x:.2f}%;--y:{y:.2f}%;--lane:{lane}"
        stems += f'<i class="stem" style="{place}"></i>'
        words = escape(mark.words)
        buttons += (
            f'<a class="mark" href="#{escape(mark.target)}" style="{place}" title="{words}" '
            f'aria-label="{words}">{mark.number}</a>'
        )
    return len(ends), stems + buttons
