"""`vidseg demo`: from nothing to a trained video network, a video and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("demo"),
    iterations: Annotated[
        int, typer.Option("--iterations", help="Training steps of each network.")
    ] = 600,
    seed: Annotated[int, typer.Option("--seed", help="Of networks, samples and streets.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Write the figures as JSON.")] = False,
) -> None:
    """Train a small video network and its per-frame twin on rendered streets, and compare them.

    Needs no data and no network; takes two to three minutes on two cores. Writes report.html,
    overlay.mp4, metrics.json and both networks' weights. The figures are as measured: nothing is
    tuned until the video network wins.
    """
    from vidseg.cli.console import console, progress, write_json
    from vidseg.demo import run_demo

    result = run_demo(out, iterations=iterations, seed=seed, stage=progress)
    if json:
        write_json(result.summary())
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("held-out streets, %")
    for heading in ("mean IoU", "pixel accuracy", "TC", "flicker"):
        table.add_column(heading, justify="right")
    for label, run in (("per frame", result.twin), ("with memory", result.video)):
        figures = (
            run.evaluation.mean_iou,
            run.evaluation.pixel_accuracy,
            run.temporal["temporal_consistency"],
            run.temporal["flicker"],
        )
        table.add_row(f"{label} ({run.name})", *(f"{100 * value:.2f}" for value in figures))
    console.print(table)
    console.print(f"flow of TC and flicker: {result.twin.temporal['flow']}", markup=False)
    console.print(f"{result.seconds:.0f} s; open {out / 'report.html'} and {out / 'overlay.mp4'}")
