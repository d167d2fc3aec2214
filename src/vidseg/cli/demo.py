"""`vidseg demo`: from nothing to a trained video network, a video and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vidseg.demo.result import Demo


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("demo"),
    iterations: Annotated[
        int, typer.Option("--iterations", help="Training steps of each network.")
    ] = 600,
    seed: Annotated[int, typer.Option("--seed", help="Of networks, samples and streets.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Write the figures as JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in --out.")] = False,
) -> None:
    """Train a small video network and its per-frame twin on rendered streets, and compare them.

    Needs no data and no network; takes two to three minutes on two cores. Writes report.html,
    overlay.mp4, metrics.json and both networks' weights. The figures are as measured: nothing is
    tuned until the video network wins.
    """
    from vidseg.cli.console import console, progress, write_json
    from vidseg.cli.destinations import claimed
    from vidseg.demo import run_demo
    from vidseg.demo.run import WRITTEN

    with claimed(out, WRITTEN, force=force):
        result = run_demo(out, iterations=iterations, seed=seed, stage=progress)
    if json:
        write_json(result.summary())
        return
    for line in shown(result):
        console.print(line, markup=False)
    console.print(f"{result.seconds:.0f} s; open {out / 'report.html'} and {out / 'overlay.mp4'}")


def shown(result: Demo) -> list[Any]:
    """Format a demo's figures as a table, with the flow that they were measured along.

    Args:
        result: of `run_demo`.
    """
    from rich.table import Table

    from vidseg.cli.scores import percent
    from vidseg.demo.page import HEADLINE
    from vidseg.evaluation.figures import FIGURES

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("held-out streets, %")
    for key in HEADLINE:
        table.add_column(FIGURES[key].title, justify="right")
    for label, run in (("per frame", result.twin), ("with memory", result.video)):
        found = (percent(run.evaluation.figures[key]) for key in HEADLINE)
        table.add_row(f"{label} ({run.name})", *found)
    flow = result.twin.evaluation.protocols["consistency"]["flow"]
    return [table, f"flow of TC and flicker: {flow}"]
