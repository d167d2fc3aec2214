"""How an evaluation is shown on the console: its figures, its classes, and how it was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vidseg.evaluation.result import Evaluation

ROOM_FOR_WORDS = 112  # columns; a folded table is hard to read


def show_scores(name: str, evaluation: Evaluation, out: Path | None) -> None:
    """Print an evaluation for a person.

    Args:
        name: of the model, or of where the label maps came from.
        evaluation: what to show.
        out: where it was saved; None if it was not.
    """
    from vidseg.cli.console import console
    from vidseg.evaluation.figure import say_absent

    console.print(_headline(name, evaluation), markup=False, soft_wrap=True)
    _show_figures(evaluation)
    if evaluation.vspw is not None:
        _show_as_vspw(evaluation)
    if evaluation.num_scored or evaluation.total.num_pairs:
        _show_classes(evaluation)
    reasons = say_absent(evaluation.absent, evaluation.table)
    for line in (*reasons, *_conventions(evaluation)):
        console.print(line, markup=False, soft_wrap=True)
    if out is not None:
        files = "metrics.json, metrics.csv, counts.npz, report.html"
        console.print(f"written to {out}: {files}", markup=False, soft_wrap=True)


def _headline(name: str, evaluation: Evaluation) -> str:
    from vidseg.evaluation.figure import counted

    videos = counted(len(evaluation.videos), "video")
    frames = counted(evaluation.num_frames, "frame")
    labelled = f"{evaluation.num_scored or 'none'} with labels"
    if evaluation.num_scored == evaluation.num_frames:
        labelled = "all with labels"
    return f"{name} on {evaluation.conventions['data']}: {videos}, {frames}, {labelled}"


def _show_figures(evaluation: Evaluation) -> None:
    from rich.table import Table

    from vidseg.cli.console import console
    from vidseg.evaluation.figure import Section

    figures, known = evaluation.figures, evaluation.table.values()
    beside = {figure.truth_of: figure for figure in known if figure.truth_of}
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title, justify in (("", "left"), ("", "left"), ("", "right"), ("of the truth", "right")):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    has_room = console.width >= ROOM_FOR_WORDS
    if has_room:
        table.add_column("in words", style="dim", no_wrap=True)
    for section in Section:
        if table.row_count:
            table.add_row()
        group = [f for f in known if f.section is section and not f.truth_of and not f.of_score]
        for place, figure in enumerate(group):
            truth = beside.get(figure.key)
            row = [
                "" if place else section.value,
                figure.title,
                figure.read(figures[figure.key]),
                "" if truth is None else truth.read(figures[truth.key]),
            ]
            table.add_row(*row, *([figure.words] if has_room else []))
    console.print(table)


def _show_as_vspw(evaluation: Evaluation) -> None:
    from rich.table import Table

    from vidseg.cli.console import console
    from vidseg.evaluation.figures import VSPW

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("as VSPW's tool counts")
    for figure in VSPW:
        table.add_column(figure.title.removeprefix("VSPW "), justify="right")
    table.add_row("", *(figure.read(evaluation.figures[figure.key]) for figure in VSPW))
    console.print()
    console.print(table)


def _show_classes(evaluation: Evaluation) -> None:
    from rich.table import Table

    from vidseg.cli.console import console
    from vidseg.evaluation.figure import with_classes

    figures = with_classes(evaluation.table.values())
    columns = evaluation.total.class_figures().values()
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("class, %")
    for of_class in figures.values():
        table.add_column(of_class.title, justify="right")
    for i, name in enumerate(evaluation.classes):
        table.add_row(name, *(percent(column[i]) for column in columns))
    over_all = (percent(evaluation.figures[key]) for key in figures)
    table.add_row("all", *over_all, style="bold")
    console.print()
    console.print(table)
    console.print()


def _conventions(evaluation: Evaluation) -> Iterable[str]:
    from vidseg.evaluation.figure import counted

    consistency = evaluation.protocols["consistency"]
    if evaluation.total.num_pairs:
        pairs = counted(evaluation.total.num_pairs, "pair")
        used = "a pixel counts if" if evaluation.tc == "vidseg" else "pixels count"
        yield (
            f"TC: protocol {evaluation.tc}; flow: {consistency['flow']}; {used} "
            f"{consistency['valid']}; {pairs} {consistency['pairs']}"
        )
    shown = {k: v for k, v in evaluation.conventions.items() if k != "data"}
    yield "; ".join(f"{k.replace('_', ' ')}: {_in_words(v)}" for k, v in shown.items())


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def percent(ratio: float | None) -> str:
    """A ratio in percent with 2 decimals; "-" for None."""
    return "-" if ratio is None else f"{100 * ratio:.2f}"
