"""`vidseg train`: a recipe, overrides, a run folder."""

import inspect
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLES = """
Examples:

\b
  vidseg train fcn_tiny_synthetic
      no data needed; two minutes on a CPU
  vidseg train fcn_r18_camvid360 data.root=camvid iterations=900 --out runs/a
      your folder, your length, your name
  vidseg train runs/a --resume
      go on after Ctrl-C, a kill, a power cut
  torchrun --nproc-per-node 4 -m vidseg.cli.main train tmanet_r50_cityscapes
      four GPUs
"""


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Name of a packaged recipe, path of a YAML recipe, or (with --resume) a run "
            "folder. Leave it out to see the packaged recipes."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Values over those of the recipe, such as optimiser.lr=1e-3 or "
            "data.crop=[360,480]. They win over everything, also over a stored run's config.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; runs/NAME of the recipe by default.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in the folder from its newest checkpoint. The result is the "
            "same, bit for bit, as without the interruption.",
        ),
    ] = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="List every key of a recipe and what it is.")
    ] = False,
) -> None:
    """Train a model.

    A run writes one folder: config.yaml, environment.json, metrics.jsonl and .csv, TensorBoard
    events, overlays of validation frames, checkpoints, and the weights best.safetensors and
    last.safetensors, which `vidseg segment --model FOLDER` reads. Ctrl-C writes a checkpoint
    first.
    """
    if keys:
        return _list_keys()
    if recipe is None:
        return _list_recipes()
    from vidseg.inside import inside
    from vidseg.training.folder import resolve
    from vidseg.training.recipe import read_recipe

    is_folder = resume and (Path(recipe) / "config.yaml").is_file()
    if out is None:
        values = {} if is_folder else read_recipe(recipe)
        out = Path(recipe) if is_folder else inside(Path("runs"), _name(values, overrides))
    config = resolve(recipe, overrides or [], out, resume=resume)
    return _run(config, out, resume)


train.__doc__ = f"{inspect.cleandoc(train.__doc__ or '')}\n{EXAMPLES}"


def _name(values: dict[str, Any], overrides: list[str] | None) -> str:
    from vidseg.training.recipe import override

    return str(override(values, overrides or [])["name"])


def _run(config: Any, out: Path, resume: bool) -> None:
    from vidseg.cli.console import console, progress
    from vidseg.training.checkpoint import Checkpoints
    from vidseg.training.loop import train as run

    if os.environ.get("RANK", "0") != "0":  # torchrun's other processes say nothing
        run(config, out, resume=resume)
        return
    done = Checkpoints(out / "checkpoints", config.checkpoint.keep).step if resume else 0
    console.print(f"{config.name}: {config.iterations} steps of {config.batch_size}, into {out}")
    with ExitStack() as stack:
        meter: Any = None
        latest = ""

        def report(record: dict[str, Any]) -> None:
            nonlocal latest, meter
            if meter is None:  # not before the first step: other work may be shown till then
                shown = progress("training", config.iterations - done, unit="steps")
                meter = stack.enter_context(shown)
            if "mean_iou" in record:
                latest = f", mIoU {100 * record['mean_iou']:.2f} % at step {record['step']}"
                console.print(f"step {record['step']}: {_figures(record)}")
                return
            meter.advance(1, f"loss {record['loss']:.4f}, lr {record['lr']:.2g}{latest}")

        try:
            trained = run(config, out, resume=resume, report=report, progress=progress)
        except KeyboardInterrupt:
            console.print(f"stopped; go on with: vidseg train {out} --resume", soft_wrap=True)
            raise
    if trained.figures:
        console.print(f"best: step {trained.figures['step']}: {_figures(trained.figures)}")
    console.print(f"weights: {trained.weights}", soft_wrap=True)


def _figures(record: dict[str, Any]) -> str:
    accuracy = 100 * record["pixel_accuracy"]
    return f"mIoU {100 * record['mean_iou']:.2f} %, pixel accuracy {accuracy:.2f} %"


def _list_recipes() -> None:
    from vidseg.cli.console import console
    from vidseg.training.recipe import recipes

    console.print("Packaged recipes (vidseg train RECIPE):")
    for name, path in recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
        console.print(f"  {name:32} {first}", soft_wrap=True)


def _list_keys() -> None:
    from vidseg.cli.console import console
    from vidseg.training.recipe import known_keys

    for key, meaning in known_keys().items():
        console.print(f"  {key:32} {meaning}", soft_wrap=True, markup=False)
