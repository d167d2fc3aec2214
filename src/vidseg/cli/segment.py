"""`vidseg segment`: a video, folder, camera or URL to overlays, label maps or tables."""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidseg.cli.devices import (
    Device,
    Fit,
    ModelOption,
    Precision,
    SeenSize,
    Steady,
    load_model,
    parse_run,
)
from vidseg.cli.options import Sliding

if TYPE_CHECKING:
    from vidseg.adapters.steady_memory import Flicker
    from vidseg.inference.stream import SegmentedVideo
    from vidseg.segmenter import VideoSegmenter

INPUT, MODEL = "What to segment", "How the model runs"
OUTPUT, PICTURE = "What to write", "How it looks"
EXAMPLES = """
Examples:

\b
  vidseg segment street.mp4
      -> street_vidseg.mp4, with the model that comes with the package
  vidseg segment street.mp4 --model runs/camvid --out a.mp4
      your own model, your own name
  vidseg segment street.mp4 --format overlay,labels,jsonl
      several outputs in one pass
  vidseg segment street.mp4 --model my_segformer/ --steady
      any image model, steadier; says by how much
  vidseg segment "frames/*.png" --fps 15 --format npz
      images in; np.load(...)["000012"] is the label map of frame 12
  vidseg segment film.mkv --start 1:30 --end 2:00 --scene-cuts
      a part of a film, forgetting the past at every cut
  vidseg segment wide.mp4 --sliding 769x769 --side-by-side
      large frames through windows, shown beside the picture
  vidseg segment 0 --end 60
      one minute of the first camera
"""


def segment(
    source: Annotated[
        str,
        typer.Argument(
            help="Video file, folder of images, glob in quotes, stream URL, or camera number."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Weights file, run folder or hub name; a folder of transformers or smp; "
            "torchvision:NAME; FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, whose code runs; "
            "default: the packaged one.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="File or folder to write; default: SOURCE_vidseg.mp4 here. "
            "The suffix decides the format: .mp4 .mov .mkv, .npz, .jsonl.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            help="overlay (H.264 video), labels (indexed PNG files), npz (archive of label maps), "
            "jsonl (class shares per frame); several with commas.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    side_by_side: Annotated[
        bool,
        typer.Option(
            "--side-by-side", help="Show the frame beside its overlay.", rich_help_panel=PICTURE
        ),
    ] = False,
    contour: Annotated[
        bool,
        typer.Option(
            "--contour",
            help="Draw the borders of regions; try --opacity 0.2.",
            rich_help_panel=PICTURE,
        ),
    ] = False,
    opacity: Annotated[
        float,
        typer.Option(
            "--opacity", min=0.0, max=1.0, help="Of the class colours.", rich_help_panel=PICTURE
        ),
    ] = 0.5,
    legend: Annotated[
        bool,
        typer.Option(
            "--legend/--no-legend",
            help="A strip of class names below the picture.",
            rich_help_panel=PICTURE,
        ),
    ] = True,
    start: Annotated[
        str | None,
        typer.Option(
            "--start", help="Begin here: seconds, M:SS or H:MM:SS.", rich_help_panel=INPUT
        ),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--end", help="Stop before this time.", rich_help_panel=INPUT)
    ] = None,
    every: Annotated[
        int, typer.Option("--every", min=1, help="Segment every N-th frame.", rich_help_panel=INPUT)
    ] = 1,
    fps: Annotated[
        float | None,
        typer.Option("--fps", help="Frame rate of a folder of images (25).", rich_help_panel=INPUT),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict/--keep-going",
            help="End at the first damaged frame; by default, go on behind it.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    scene_cuts: Annotated[
        bool,
        typer.Option(
            "--scene-cuts", help="Forget the past where a new scene begins.", rich_help_panel=MODEL
        ),
    ] = False,
    size: SeenSize = None,
    fit: Fit = None,
    sliding: Sliding = None,
    model_option: ModelOption = None,
    steady: Steady = False,
    device: Device = None,
    precision: Precision = "fp32",
    chunk_frames: Annotated[
        int,
        typer.Option(
            "--chunk-frames",
            min=1,
            help="Frames in one call; more feed a GPU.",
            rich_help_panel=MODEL,
        ),
    ] = 1,
    context: Annotated[
        Path | None,
        typer.Option(
            "--context",
            help="CFFM++: the video's prototypes on file, .safetensors or centers.pt; "
            "else found in a first pass.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    all_tracks: Annotated[
        bool,
        typer.Option(
            "--all-tracks",
            help="Keep every sound and subtitle track; for an overlay that is an .mkv.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    save_context: Annotated[
        Path | None,
        typer.Option(
            "--save-context",
            help="CFFM++: file for the video's prototypes, .safetensors.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace outputs that exist.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Segment a video: a class for every pixel of every frame, steady over time.

    Frames are read, segmented and written one by one, so length does not matter. Sound is kept.
    Ctrl-C (or SIGTERM) stops early and leaves what is written so far as playable files (exit code
    130). Of a damaged file all frames are segmented that can be decoded; what was lost is reported
    in the end (exit code 1).
    """
    from vidseg.cli.console import console, errors
    from vidseg.cli.destinations import check_outputs, check_tracks, claimed_outputs, plan_outputs
    from vidseg.context import load_context
    from vidseg.inference.stream import segment as segment_video
    from vidseg.video.reader import read_video

    # Mistyped words are told before "exists already", which another --out would not mend.
    how = parse_run(size, fit, precision, sliding, device)
    begin_s, end_s = parse_time(start), parse_time(end)
    paths = plan_outputs(source, out, formats or [])
    kept = _kept(save_context)
    check_outputs({**paths, **kept}, source, force=force, inputs=(model, context))
    check_tracks(paths, all_tracks=all_tracks)
    reader = read_video(
        source,
        start=begin_s,
        end=end_s,
        every=every,
        fps=fps,
        strict=strict,
    )
    with claimed_outputs({**paths, **kept}, source, force=force), reader:
        network = _load(model, model_option, steady=steady)
        if network.causal and (context or save_context):
            raise ValueError(
                "--context and --save-context are for models that look at the whole video first "
                f"(CFFM++), and {type(network).__name__} does not; leave them out"
            )
        results = segment_video(
            network,
            reader,
            **how,
            reset_on_cut=scene_cuts,
            chunk_frames=chunk_frames,
            context=None if context is None else load_context(context.expanduser()),
        )
        style = {"opacity": opacity, "contour": contour, "legend": legend, "beside": side_by_side}
        count, changes = _run(results, {**paths, **kept}, style, all_tracks=all_tracks)
    for path in paths.values():
        console.print(f"{path}: {count} frames", markup=False, soft_wrap=True)
    for path in kept.values():
        told = f"{path}: {results.context.kind} of the video"
        console.print(told, markup=False, soft_wrap=True)
    if changes:
        console.print(_flicker_line(changes, paths), markup=False, soft_wrap=True)
    for note in reader.notes:
        errors.print(f"note: {note}", markup=False, soft_wrap=True)
    if results.damage is not None:
        errors.print(f"warning: {results.damage}", style="yellow", markup=False, soft_wrap=True)
        raise typer.Exit(1)


segment.__doc__ = f"{inspect.cleandoc(segment.__doc__ or '')}\n{EXAMPLES}"


def parse_time(text: str | None) -> float | None:
    """Read seconds, M:SS or H:MM:SS.

    Raises:
        ValueError: it is anything else.

    Example:
        >>> parse_time("90.5"), parse_time("1:30"), parse_time("1:00:02.5")
        (90.5, 90.0, 3602.5)
    """
    if text is None:
        return None
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", text):
        raise ValueError(f"a time is seconds, M:SS or H:MM:SS, got {text!r}")
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def _kept(path: Path | None) -> dict[str, Path]:
    """List the files to write beside the formats: name -> path."""
    if path is None:
        return {}
    if path.suffix != ".safetensors":
        raise ValueError(f"--save-context wants a .safetensors file, got {path}")
    return {"context": path.expanduser()}


def _load(name: str | None, options: list[str] | None, *, steady: bool) -> VideoSegmenter:
    """Load the model, and say what it is and under which licence its weights are."""
    from vidseg.cli.console import console

    model = load_model(name, options, steady=steady)
    card = model.card
    console.print(
        f"model: {card.architecture or type(model).__name__}"
        + (f", trained on {card.trained_on}" if card.trained_on else ""),
        markup=False,
        soft_wrap=True,
    )
    if card.licence:
        console.print(f"licence of the weights: {card.licence}", markup=False, soft_wrap=True)
    return model


def _run(
    results: SegmentedVideo,
    paths: dict[str, Path],
    style: dict[str, Any],
    *,
    all_tracks: bool,
) -> tuple[int, list[Flicker]]:
    """Write every result to every output; how many frames there were, and what of them changed."""
    from vidseg.cli.console import console, errors, progress
    from vidseg.inference.outputs import output_set
    from vidseg.inference.stream import DamagedVideoWarning

    outputs = None
    changes: list[Flicker] = []
    try:
        with (
            output_set(paths, results, style, all_tracks=all_tracks) as outputs,
            progress("segmenting", results.num_frames, unit="frames") as meter,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", DamagedVideoWarning)  # `segment` says it at the end
            for result in results:
                outputs.add(result)
                if result.flicker is not None:
                    changes.append(result.flicker)
                meter.advance()
    except BaseException as error:
        count = outputs.kept if outputs is not None else 0
        kept = ", ".join(str(path) for path in paths.values()) if count else "nothing"
        if isinstance(error, KeyboardInterrupt):
            text = f"\nstopped after {count} frames; kept {kept}"
            console.print(text, markup=False, soft_wrap=True)
        elif count:
            errors.print(f"kept {count} frames in {kept}", markup=False, soft_wrap=True)
        raise
    return outputs.kept, changes


def _flicker_line(changes: list[Flicker], paths: dict[str, Path]) -> str:
    """How much steadier the labels are than the model's own, as measured on the way."""
    compared, own, steady = (sum(column) for column in zip(*changes, strict=True))
    if not compared:
        return "flicker: no two frames could be compared"
    where = f"; of each frame in {paths['jsonl']}" if "jsonl" in paths else ""
    return (
        f"flicker {own / compared:.2%} -> {steady / compared:.2%} of the pixels that were followed "
        f"along the motion{where}"
    )
