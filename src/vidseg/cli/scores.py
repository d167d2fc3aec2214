"""How an evaluation is shown on the console: its figures, its classes, and how it was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vidseg.inference.evaluation import Evaluation

# Heading, name of the figure, its title, and what it is in few words.
ROWS = (
    ("accuracy", "mean_iou", "mean IoU", "overlap with the truth, mean over classes"),
    ("", "boundary_mean_iou", "boundary mean IoU", "the same within 5 px of another true class"),
    ("", "weighted_iou", "weighted IoU", "the same, classes weighted by their pixels"),
    ("", "mean_video_iou", "mean IoU of a video", "of each video by itself, mean over videos"),
    ("", "pixel_accuracy", "pixel accuracy", "share of the pixels that are right"),
    ("", "mean_class_accuracy", "mean class accuracy", "share found of a class, mean over classes"),
    ("consistency", "temporal_consistency", "TC", "overlap with the labels of the frame before"),
    ("", "flicker", "flicker", "share of the pixels that change class, 0 is steady"),
    ("", "vc8", "VC8", "labels that stay where the truth stays 8 frames"),
    ("", "vc16", "VC16", "the same for 16 frames"),
    ("", "vc8_correct", "right VC8", "labels that stay and are right"),
    ("", "vc16_correct", "right VC16", "the same for 16 frames"),
    ("speed", "ms_per_frame", "network", "time of the network for a frame"),
)
ROOM_FOR_WORDS = 112  # columns; a folded table is hard to read
OF_THE_TRUTH = {
    "temporal_consistency": "truth_temporal_consistency",
    "flicker": "truth_flicker",
}
CLASS_TITLES = {
    "iou": "IoU",
    "boundary_iou": "boundary IoU",
    "accuracy": "accuracy",
    "temporal_consistency": "TC",
    "flicker": "flicker",
}


def show_scores(name: str, evaluation: Evaluation, out: Path | None) -> None:
    """Print an evaluation for a person.

    Args:
        name: of the model, or of where the label maps came from.
        evaluation: what to show.
        out: where it was saved; None if it was not.
    """
    from vidseg.cli.console import console

    console.print(_headline(name, evaluation), markup=False, soft_wrap=True)
    _show_figures(evaluation)
    if evaluation.num_scored or evaluation.total.num_pairs:
        _show_classes(evaluation)
    for line in (*_reasons(evaluation), *_conventions(evaluation)):
        console.print(line, markup=False, soft_wrap=True)
    if out is not None:
        files = "metrics.json, metrics.csv, counts.npz, report.html"
        console.print(f"written to {out}: {files}", markup=False, soft_wrap=True)


def _headline(name: str, evaluation: Evaluation) -> str:
    videos = _count(len(evaluation.videos), "video")
    frames = _count(evaluation.num_frames, "frame")
    labelled = f"{evaluation.num_scored or 'none'} with labels"
    if evaluation.num_scored == evaluation.num_frames:
        labelled = "all with labels"
    return f"{name} on {evaluation.conventions['data']}: {videos}, {frames}, {labelled}"


def _show_figures(evaluation: Evaluation) -> None:
    from rich.table import Table

    from vidseg.cli.console import console

    figures = evaluation.figures
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title, justify in (("", "left"), ("", "left"), ("", "right"), ("of the truth", "right")):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    has_room = console.width >= ROOM_FOR_WORDS
    if has_room:
        table.add_column("in words", style="dim", no_wrap=True)
    for heading, figure, title, words in ROWS:
        if heading in ("consistency", "speed"):
            table.add_row()
        truth = percent(figures[OF_THE_TRUTH[figure]], " %") if figure in OF_THE_TRUTH else ""
        value = figures[figure]
        if figure == "ms_per_frame":
            shown = "-" if value is None else f"{value:.1f} ms"
            words += f" on {evaluation.conventions['device']}" if value is not None else ""
        else:
            shown = percent(value, " %")
        table.add_row(heading, title, shown, truth, *([words] if has_room else []))
    console.print(table)


def _show_classes(evaluation: Evaluation) -> None:
    from rich.table import Table

    from vidseg.cli.console import console
    from vidseg.inference.evaluation import OVER_CLASSES

    columns = evaluation.total.class_figures()
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("class, %")
    for figure in columns:
        table.add_column(CLASS_TITLES[figure], justify="right")
    for i, name in enumerate(evaluation.classes):
        table.add_row(name, *(percent(column[i]) for column in columns.values()))
    over_all = (percent(evaluation.figures[OVER_CLASSES[figure]]) for figure in columns)
    table.add_row("all", *over_all, style="bold")
    console.print()
    console.print(table)
    console.print()


def _reasons(evaluation: Evaluation) -> Iterable[str]:
    """A line for each reason why figures are "-", with the figures that it explains."""
    titles = {figure: title for _, figure, title, _ in ROWS}
    by_reason: dict[str, list[str]] = {}
    for figure, reason in evaluation.absent.items():
        if figure in titles:
            by_reason.setdefault(reason, []).append(titles[figure])
    return [f'"-" for {", ".join(names)}: {reason}' for reason, names in by_reason.items()]


def _conventions(evaluation: Evaluation) -> Iterable[str]:
    consistency = evaluation.protocols["consistency"]
    if evaluation.total.num_pairs:
        pairs = _count(evaluation.total.num_pairs, "pair")
        yield (
            f"flow: {consistency['flow']}; a pixel counts if {consistency['valid']}; {pairs} "
            f"{consistency['pairs']}"
        )
    left_out = ("data", "device")
    shown = {k: v for k, v in evaluation.conventions.items() if k not in left_out}
    yield "; ".join(f"{k.replace('_', ' ')}: {_in_words(v)}" for k, v in shown.items())


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def percent(value: float | None, unit: str = "") -> str:
    """A ratio as people read it, "-" for None; 2 decimals.

    Args:
        value: a ratio.
        unit: what follows the number.
    """
    return "-" if value is None else f"{100 * value:.2f}{unit}"
