"""Write a report as one HTML file: pictures inside, no script, nothing fetched.

A page is a list of fragments. Every fragment function takes plain values, escapes text and returns
`Html`, so parts compose and nothing is escaped twice.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.atomic import write_text
from vidseg.printable import escape

SERIES_COLOURS = ("var(--first)", "var(--second)", "var(--third)", "var(--fourth)")


class Html(str):
    """Markup that is already escaped."""


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
        body = "".join(part if isinstance(part, Html) else paragraph(part) for part in fragments)
        self._sections.append(Html(f"<section><h2>{escape(heading)}</h2>{body}</section>"))

    def render(self) -> str:
        """The whole file as text."""
        lead = f'<p class="lead">{escape(self.lead)}</p>' if self.lead else ""
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>{_style()}</style>\n</head>\n<body>\n<main>\n"
            f"<header><h1>{_breakable(self.title)}</h1>{lead}</header>\n"
            + "\n".join(self._sections)
            + "\n</main>\n</body>\n</html>\n"
        )

    def write(self, path: Path | str) -> None:
        """Write the page as one file, whole or not at all."""
        write_text(Path(path), self.render())


def _style() -> str:
    return Path(__file__).with_name("report.css").read_text(encoding="utf-8")


def paragraph(text: str) -> Html:
    """Plain text as a paragraph."""
    return Html(f"<p>{escape(text)}</p>")


def heading(text: str) -> Html:
    """A heading within a section."""
    return Html(f"<h3>{escape(text)}</h3>")


def bullets(items: Iterable[str]) -> Html:
    """Plain texts as a list."""
    return Html("<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>")


def code(text: str) -> Html:
    """A command or a file, as it is."""
    return Html(f"<pre><code>{escape(text)}</code></pre>")


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
    kinds = [' class="words"' if name in words else "" for name in columns]
    head = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>'
        for name, kind in zip(columns, kinds, strict=True)
    )
    body = ""
    for first, *rest in rows:
        cells = "".join(
            f"<td{kind}>{_cell(value)}</td>" for value, kind in zip(rest, kinds[1:], strict=True)
        )
        body += f'<tr><th scope="row">{_cell(first)}</th>{cells}</tr>'
    return Html(
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def tiles(figures: Mapping[str, str]) -> Html:
    """Headline figures, large: name -> value as it shall be read."""
    cells = "".join(
        f'<div class="tile"><div class="value">{escape(value)}</div>'
        f'<div class="name">{escape(name)}</div></div>'
        for name, value in figures.items()
    )
    return Html(f'<div class="tiles">{cells}</div>')


def meanings(figures: Iterable[tuple[str, str, str]]) -> Html:
    """Figures with what they mean: (name, value as it shall be read, a sentence)."""
    rows = "".join(
        f'<div class="name">{escape(name)}</div><div class="figure">{escape(value)}</div>'
        f'<div class="meaning">{escape(meaning)}</div>'
        for name, value, meaning in figures
    )
    return Html(f'<div class="meanings">{rows}</div>')


def details(summary: str, *fragments: str) -> Html:
    """Fragments that show when the reader opens them; works without script."""
    body = "".join(part if isinstance(part, Html) else paragraph(part) for part in fragments)
    return Html(f"<details><summary>{escape(summary)}</summary>{body}</details>")


def link(text: str, target: str) -> Html:
    """A link to an id on the same page."""
    return Html(f'<a href="#{escape(target)}">{escape(text)}</a>')


def facts(values: Mapping[str, Any]) -> Html:
    """Names and values in two columns: the settings of a run, numbers as they were given."""
    items = "".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(_setting(value))}</dd>"
        for name, value in values.items()
    )
    return Html(f"<dl>{items}</dl>")


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
    rows = ""
    for index, name in enumerate(classes):
        bars = "".join(
            _bar(float(values[index]), colour, f"{label}, {name}")
            for (label, values), colour in zip(series.items(), _colours(series), strict=True)
        )
        rows += (
            f'<div class="class">{_swatch(palette[index])}{escape(name)}</div>'
            f'<div class="bars">{bars}</div>'
        )
    key = _series_key(series) if len(series) > 1 else ""
    return Html(f'{key}<div class="classbars">{rows}</div>')


def class_table(
    classes: Sequence[str], palette: np.ndarray, series: Mapping[str, Sequence[float]]
) -> Html:
    """A row per class, with a bar from 0 to 1 behind each figure, in percent.

    Args:
        classes: names.
        palette: (C, 3) uint8 RGB, for the swatches.
        series: name of a column -> one ratio per class; NaN is shown as "-".
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("class", *series))
    rows = ""
    for index, name in enumerate(classes):
        cells = "".join(_bar_cell(float(values[index])) for values in series.values())
        rows += f'<tr><th scope="row">{_swatch(palette[index])}{escape(name)}</th>{cells}</tr>'
    return Html(
        f'<div class="scroll"><table class="classes"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def legend(classes: Sequence[str], palette: np.ndarray) -> Html:
    """The colours of the classes."""
    items = "".join(
        f"<span>{_swatch(colour)}{escape(name)}</span>"
        for name, colour in zip(classes, palette, strict=True)
    )
    return Html(f'<div class="legend">{items}</div>')


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
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    rows = ""
    for name, row in zip(classes, counts, strict=True):
        total = row.sum()
        cells = "".join(_confusion_cell(value, total) for value in row)
        rows += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    return Html(
        '<div class="scroll"><table class="confusion"><thead><tr>'
        f"<th>truth \\ label, %</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


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
    cells = "".join(
        f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, picture in zip(captions, pictures, strict=True)
    )
    row = f'<div class="strip">{cells}</div>'
    if anchor is not None:
        heading = f"<h3>{escape(note)}</h3>"
        return Html(f'<div class="moment" id="{escape(anchor)}" tabindex="-1">{heading}{row}</div>')
    return Html(row + (f'<p class="note">{escape(note)}</p>' if note else ""))


def percent(value: float | None) -> str:
    """A ratio for people: one decimal, "-" where there is none."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def _breakable(text: str) -> str:
    """Text that a narrow screen breaks behind / and _, where there are no spaces."""
    return re.sub("([/_])", r"\1<wbr>", escape(text))


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
    return value if isinstance(value, Html) else escape(_shown(value))


def _swatch(colour: np.ndarray) -> str:
    red, green, blue = (int(v) for v in colour)
    return f'<i class="swatch" style="background:rgb({red},{green},{blue})"></i>'


def _colours(series: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(SERIES_COLOURS[i % len(SERIES_COLOURS)] for i in range(len(series)))


def _series_key(series: Mapping[str, Any]) -> str:
    items = "".join(
        f'<span><i class="swatch" style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in zip(series, _colours(series), strict=True)
    )
    return f'<div class="legend">{items}</div>'


def _bar(value: float, colour: str, what: str) -> str:
    if math.isnan(value):
        return f'<div class="bar" title="{escape(what)}: absent"><b>-</b></div>'
    share = 100 * min(max(value, 0.0), 1.0)
    return (
        f'<div class="bar" title="{escape(what)}">'
        f'<i style="width:{share:.1f}%;background:{colour}"></i><b>{share:.1f}</b></div>'
    )


def _bar_cell(value: float) -> str:
    if math.isnan(value):
        return "<td>-</td>"
    share = 100 * min(max(value, 0.0), 1.0)
    return f'<td style="--share:{share:.1f}%">{100 * value:.1f}</td>'


def _confusion_cell(value: float, total: float) -> str:
    if not total:
        return "<td>-</td>"
    share = 100 * value / total
    # Square root: mistakes of a few percent stay visible beside the diagonal.
    tint = round(100 * math.sqrt(value / total))
    text = "" if share < 0.05 else f"{share:.1f}" if share < 99.95 else "100"
    strong = ' class="strong"' if tint > 72 else ""
    return f'<td{strong} style="--share:{tint}%">{text}</td>'
