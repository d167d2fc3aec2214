"""`vidseg compare`: evaluations beside each other, and which differences the videos bear out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vidseg.comparison.compare import Comparison, Estimate, Row

WRITTEN = ("compare.json", "compare.html")


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of `vidseg evaluate --out`; the first is compared with."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for compare.html and compare.json.")
    ] = None,
    resamples: Annotated[
        int, typer.Option("--resamples", help="Draws of the videos for the intervals.")
    ] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Write the comparison as JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a comparison in --out.")] = False,
) -> None:
    """Compare evaluations of the same videos: figures, differences, 95 % intervals.

    The intervals come from drawing the videos with replacement, the same draw for all runs, so
    that a difference can be told from the luck of the videos. Runs on other videos, classes or
    protocols are refused; figures that were measured along other flows are left out.

    Example: vidseg compare scores/fcn scores/tmanet --out scores/comparison
    """
    from vidseg.cli.console import write_json
    from vidseg.cli.destinations import claimed
    from vidseg.comparison.compare import compare as run

    with claimed(out, WRITTEN, force=force):
        comparison = run(runs, resamples=resamples, seed=seed)
        if out is not None:
            _save(comparison, out)
    if json:
        write_json(comparison.summary())
    else:
        _show(comparison, out)


def _save(comparison: Comparison, out: Path) -> None:
    from json import dumps

    from vidseg.atomic import together, write_text
    from vidseg.report.comparison import comparison_page

    text = dumps(comparison.summary(), indent=2, ensure_ascii=False, allow_nan=False)
    command = shlex.join(["vidseg", *sys.argv[1:]])
    with together(out) as stage:
        write_text(stage / "compare.json", text + "\n")
        comparison_page(comparison, command=command).write(stage / "compare.html")


def _show(comparison: Comparison, out: Path | None) -> None:
    from vidseg.cli.console import console
    from vidseg.evaluation.figure import counted

    console.print(f"{len(comparison.runs)} runs on {counted(comparison.num_videos, 'video')}")
    for label, run in zip(comparison.labels, comparison.runs, strict=True):
        console.print(f"  {label}: {run.name} ({run.folder})", markup=False, soft_wrap=True)
    _show_table(
        ["", *comparison.labels],
        [
            (_title(row), *(_cell(estimate, row) for estimate in row.estimates))
            for row in comparison.rows
        ],
    )
    for index, label in enumerate(comparison.labels[1:]):
        console.print(f"{label} beside {comparison.labels[0]}", style="bold", markup=False)
        for heading, rows in (("", comparison.rows), ("IoU of", comparison.class_rows)):
            if not rows:
                continue
            _show_table(
                [heading, "difference", "95 % interval"],
                [_difference(row, index) for row in rows],
                last="in words",
            )
    for note in comparison.notes:
        console.print(note, markup=False)
    if out is not None:
        console.print(f"written to {out}: compare.json, compare.html", soft_wrap=True)


def _show_table(
    columns: Sequence[str], rows: Sequence[tuple[str, ...]], *, last: str | None = None
) -> None:
    """Show names, figures, and words where there is a last column of them."""
    from rich.table import Table

    from vidseg.cli.console import console

    table = Table(box=None, padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    if last is not None:
        table.add_column(last)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _title(row: Row) -> str:
    return f"{row.figure.title}, {row.figure.unit.symbol}"


def _cell(estimate: Estimate, row: Row) -> str:
    return f"{_number(estimate.value, row)} {_interval(estimate, row)}".removesuffix(" -")


def _difference(row: Row, index: int) -> tuple[str, ...]:
    difference = row.differences[index]
    unit = f" {row.figure.unit.of_difference}" if difference.value is not None else ""
    return (
        row.figure.title,
        _number(difference.value, row, sign="+") + unit,
        _interval(difference, row, sign="+"),
        row.verdict(index),
    )


def _interval(estimate: Estimate, row: Row, *, sign: str = "") -> str:
    if estimate.low is None:
        return "-"
    return f"[{_number(estimate.low, row, sign=sign)}, {_number(estimate.high, row, sign=sign)}]"


def _number(value: Any, row: Row, *, sign: str = "") -> str:
    return "-" if value is None else f"{row.figure.unit.scale * value:{sign}.2f}"
