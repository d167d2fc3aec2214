"""Write a report as one HTML file: pictures inside, no script, nothing fetched.

A page is a list of fragments. Every fragment function takes plain values and returns `Html`. The
markup is in templates/, which escape all text but `Html`, so parts compose and nothing is escaped
twice.
"""

import math
import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vidseg.atomic import write_text
from vidseg.printable import escape

SERIES_COLOURS = ("var(--first)", "var(--second)", "var(--third)", "var(--fourth)")


class Html(str):
    """Markup that is already escaped."""

    def __html__(self) -> str:
        """The markup itself: templates ask for it and do not escape it again."""
        return str(self)


class Page:
    """A report that grows from top to bottom.

    Args:
        title: heading and window title.
        lead: a sentence or two under the heading.

    Example:
        >>> page = Page("A title", "What this is.")
        >>> page.add("Figures", table(("model", "mIoU"), [("TMANet", 0.5)]))
        >>> "<h2>Figures</h2>" in page.render()
        True
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self.title = title
        self.lead = lead
        self._sections: list[Html] = []

    def add(self, heading: str, *fragments: str) -> None:
        """Append a section; plain strings become paragraphs."""
        self._sections.append(_fragment("section", heading, _as_html(fragments)))

    def render(self) -> str:
        """The whole file as text."""
        page = _templates().get_template("page.html")
        style = Html(Path(__file__).with_name("report.css").read_text(encoding="utf-8"))
        return page.render(title=self.title, lead=self.lead, style=style, sections=self._sections)

    def write(self, path: Path | str) -> None:
        """Write the page as one file, whole or not at all."""
        write_text(Path(path), self.render())


def paragraph(text: str) -> Html:
    """Plain text as a paragraph."""
    return _fragment("paragraph", text)


def heading(text: str) -> Html:
    """A heading within a section."""
    return _fragment("heading", text)


def bullets(items: Iterable[str]) -> Html:
    """Plain texts as a list."""
    return _fragment("bullets", items)


def code(text: str) -> Html:
    """A command or a file, as it is."""
    return _fragment("code", text)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    words: Collection[str] = (),
) -> Html:
    """A table whose first column names the row.

    Args:
        columns: headings.
        rows: one value per column: text as it is, floats with three significant places, None or
            NaN as "-", `Html` unchanged.
        words: columns of text, which stand to the left; figures stand to the right.

    Raises:
        ValueError: a row has another length than `columns`.
    """
    rows = [tuple(row) for row in rows]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row must have {len(columns)} values, got {len(row)}: {row}")
    return _fragment("table", columns, rows, words)


def tiles(figures: Mapping[str, str]) -> Html:
    """Headline figures, large: name -> printed value."""
    return _fragment("tiles", figures)


def meanings(figures: Iterable[tuple[str, str, str]]) -> Html:
    """Figures with their meaning: (name, printed value, a sentence)."""
    return _fragment("meanings", figures)


def details(summary: str, *fragments: str) -> Html:
    """Fragments that show when the reader opens them; works without script."""
    return _fragment("details", summary, _as_html(fragments))


def link(text: str, target: str) -> Html:
    """A link to an id on the same page."""
    return _fragment("link", text, target)


def facts(values: Mapping[str, Any]) -> Html:
    """Names and values in two columns: the settings of a run, numbers as they were given."""
    return _fragment("facts", values)


def class_bars(
    classes: Sequence[str],
    palette: np.ndarray,
    series: Mapping[str, Sequence[float]],
) -> Html:
    """Horizontal bars per class, one for each series, from 0 to 1.

    Args:
        classes: names.
        palette: (C, 3) uint8 RGB, for the swatches.
        series: name -> one ratio per class; NaN where the class is absent, shown as "-".
    """
    colours = [SERIES_COLOURS[i % len(SERIES_COLOURS)] for i in range(len(series))]
    rows = [
        (
            name,
            colour,
            [
                (_share(float(values[index])), bar_colour, f"{label}, {name}")
                for (label, values), bar_colour in zip(series.items(), colours, strict=True)
            ],
        )
        for index, (name, colour) in enumerate(zip(classes, palette, strict=True))
    ]
    key = _fragment("legend", zip(series, colours, strict=True)) if len(series) > 1 else ""
    return Html(key + _fragment("class_bars", rows))


def class_table(
    classes: Sequence[str], palette: np.ndarray, series: Mapping[str, Sequence[float]]
) -> Html:
    """A row per class, with a bar from 0 to 1 behind each figure, in percent.

    Args:
        classes: names.
        palette: (C, 3) uint8 RGB, for the swatches.
        series: name of a column -> one ratio per class; NaN is shown as "-".
    """
    rows = [
        (
            name,
            colour,
            [(_share(value), f"{100 * value:.1f}") for value in map(float, values)],
        )
        for name, colour, *values in zip(classes, palette, *series.values(), strict=True)
    ]
    return _fragment("class_table", ["class", *series], rows)


def legend(classes: Sequence[str], palette: np.ndarray) -> Html:
    """The colours of the classes."""
    return _fragment("legend", zip(classes, palette, strict=True))


def confusion(classes: Sequence[str], counts: np.ndarray) -> Html:
    """A confusion matrix in percent of each true class.

    Args:
        classes: names of the rows; columns beyond them are shown as "void".
        counts: (C, C) or (C, C + 1) integers, `counts[truth, label]`.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if counts.shape[1] > len(classes) and not counts[:, len(classes) :].any():
        counts = counts[:, : len(classes)]
    names = [*classes, "void"][: counts.shape[1]]
    rows = [
        (name, [_confusion_cell(value, row.sum()) for value in row])
        for name, row in zip(classes, counts, strict=True)
    ]
    return _fragment("confusion", names, rows)


def strip(
    captions: Sequence[str],
    pictures: Sequence[Html],
    *,
    note: str = "",
    anchor: str | None = None,
) -> Html:
    """Pictures side by side (below each other on a narrow screen), each with a caption.

    Args:
        captions: one for each picture.
        pictures: as of `vidseg.report.pictures`.
        note: below them.
        anchor: id for links to this strip; its heading then is `note`, above the pictures.
    """
    return _fragment("strip", zip(pictures, captions, strict=True), note, anchor)


def picture(content: bytes, kind: str, alt: str, size: tuple[int, int]) -> Html:
    """A picture within the page.

    Args:
        content: of its file.
        kind: "jpeg" or "png".
        alt: what it shows.
        size: (width, height) in px.
    """
    return _fragment("picture", kind, b64encode(content).decode("ascii"), alt, size)


def percent(value: float | None) -> str:
    """A ratio for people: one decimal, "-" where there is none."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


@cache
def _templates() -> Environment:
    """The templates; all that they put in is escaped, but for `Html`."""

    def escaped(value: Any) -> Any:
        return value if hasattr(value, "__html__") else Html(escape(str(value)))

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        finalize=escaped,  # before jinja2's own escaping, which lets control characters through
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    filters = {"breakable": _breakable, "cell": _cell, "setting": _setting, "css": _css}
    templates.filters.update(filters)
    return templates


def _fragment(name: str, *values: Any) -> Html:
    """What a macro of fragments.html makes of its arguments."""
    return Html(getattr(_templates().get_template("fragments.html").module, name)(*values))


def _as_html(fragments: Iterable[str]) -> list[Html]:
    return [part if isinstance(part, Html) else paragraph(part) for part in fragments]


def _breakable(text: str) -> Html:
    """Text that a narrow screen breaks behind / and _, where there are no spaces."""
    return Html(re.sub("([/_])", r"\1<wbr>", escape(text)))


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return str(value)


def _setting(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else _shown(value)


def _cell(value: Any) -> str:
    return value if isinstance(value, Html) else _shown(value)


def _css(colour: np.ndarray | str) -> str:
    """A colour of a palette, or of the style, for a style attribute."""
    return colour if isinstance(colour, str) else f"rgb({','.join(str(int(v)) for v in colour)})"


def _share(ratio: float) -> str | None:
    """A ratio, cut to 0..1, in percent of a bar; None where there is none."""
    return None if math.isnan(ratio) else f"{100 * min(max(ratio, 0.0), 1.0):.1f}"


def _confusion_cell(value: float, total: float) -> tuple[int | None, str]:
    """Tint in percent, None where the class is not there, and the share of the true class."""
    if not total:
        return None, ""
    share = 100 * value / total
    # Square root: mistakes of a few percent stay visible beside the diagonal.
    tint = round(100 * math.sqrt(value / total))
    return tint, "" if share < 0.05 else f"{share:.1f}" if share < 99.95 else "100"
