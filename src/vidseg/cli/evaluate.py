"""`vidseg evaluate`: figures of a model, or of saved label maps, on labelled video."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vidseg.data import VideoDataset
    from vidseg.inference.evaluation import Evaluation, Observer, Progress


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(help="Weights (.safetensors), a run folder, or a repository on the hub."),
    ] = None,
    data: Annotated[
        str, typer.Option("--data", help="camvid, cityscapes, folder or synthetic.")
    ] = "camvid",
    root: Annotated[Path | None, typer.Option("--root", help="The data set's folder.")] = None,
    split: Annotated[str, typer.Option("--split", help="Such as val or test.")] = "val",
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="CamVid: 11 (default), 12, 11-void-counted.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="Of the data set, such as num_videos=4; repeatable."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions", help="Score these label maps (PNG, named as the labels), no model."
        ),
    ] = None,
    sliding: Annotated[
        str | None,
        typer.Option("--sliding", help="CROP or CROP/STRIDE, HxW px: 769x769/513x513."),
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirrored frames.")] = False,
    scales: Annotated[
        str, typer.Option("--scales", help="Average over sizes of the frame: 0.75,1,1.25.")
    ] = "1",
    temporal: Annotated[
        str | None,
        typer.Option(
            "--temporal",
            help="Also temporal consistency and flicker along this flow: dis, exact (synthetic).",
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Windows or streams per pass.")] = 1,
    max_videos: Annotated[
        int | None, typer.Option("--max-videos", help="Only the first videos.")
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option("--max-frames", help="At most so many labelled frames.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda; a GPU if there is one.")
    ] = None,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16.")] = "fp32",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for metrics.json, metrics.csv and report.html."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Write the figures as JSON.")] = False,
) -> None:
    """Score a model on labelled video: mIoU, IoU of each class, pixel and class accuracy.

    Counts are summed over the whole set; a class that never occurs is shown as "-" and left out
    of the mean. Videos with a label on every frame run as a stream, others as one window for each
    label; both give the same label maps.

    Example: vidseg evaluate runs/first --data camvid --root ~/camvid --split test
    """
    if (model is None) == (predictions is None):
        raise ValueError("give either a MODEL to run or --predictions FOLDER to score")
    if model is None and (sliding or flip or scales != "1"):
        raise ValueError(
            "--sliding, --flip and --scales are for a MODEL; maps are scored as they are"
        )
    from vidseg.cli.console import write_json
    from vidseg.cli.devices import find_device
    from vidseg.report.evaluation import Samples

    dataset = _open(data, root, split, protocol, option or [])
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # fails now rather than after the whole run
    limits = {"max_videos": max_videos, "max_frames": max_frames}
    samples = Samples(_count(dataset, limits))
    observers: list[Any] = [samples]
    if temporal is not None:
        from vidseg.inference.steadiness import Steadiness

        observers.append(Steadiness(dataset, temporal))

    def observe(frame: Any) -> None:
        for observer in observers:
            observer(frame)

    if model is not None:
        settings = {
            "device": find_device(device),
            "precision": precision,
            "batch_size": batch,
            "sliding": _sliding(sliding),
            "flip": flip,
            "scales": _scales(scales),
        }
        result = _run_model(model, dataset, {**limits, **settings}, observe)
    else:
        result = _score(predictions, dataset, limits, observe)
    steadiness = observers[1].summary() if temporal is not None else {}
    name = model or f"label maps of {predictions}"
    if out is not None:
        _save(out, name, dataset, result, samples, steadiness)
    if json:
        write_json({**result.summary(), **({"temporal": steadiness} if steadiness else {})})
    else:
        _show(name, result, steadiness, out)


def _open(
    kind: str, root: Path | None, split: str, protocol: str | None, words: list[str]
) -> VideoDataset:
    from vidseg.cli.convert import parse_options
    from vidseg.data import open_dataset

    options = parse_options(words)
    if protocol is not None:
        options["protocol"] = protocol
    return open_dataset(kind, None if root is None else root.expanduser(), split, **options)


def _count(dataset: VideoDataset, limits: dict[str, int | None]) -> int:
    from vidseg.inference.evaluation import labelled_frames

    return sum(map(len, labelled_frames(dataset, **limits).values()))


def _run_model(
    name: str, dataset: VideoDataset, options: dict[str, Any], observe: Observer
) -> Evaluation:
    from vidseg.inference.evaluate import evaluate as run
    from vidseg.methods import load

    network = load(name)
    with ExitStack() as stack:
        return run(
            network, dataset, observe=observe, progress=shown(stack, "evaluating"), **options
        )


def _score(
    folder: Path | None, dataset: VideoDataset, limits: dict[str, Any], observe: Observer
) -> Evaluation:
    from vidseg.inference.evaluation import evaluate_predictions

    assert folder is not None, "there is a model otherwise"
    with ExitStack() as stack:
        return evaluate_predictions(
            folder, dataset, observe=observe, progress=shown(stack, "scoring"), **limits
        )


def shown(stack: ExitStack, description: str, unit: str = "frames") -> Progress:
    """Show (done, total) calls as progress; it begins with the first call, which knows the total.

    Args:
        stack: ends the progress when it closes.
        description: what is being done.
        unit: what is counted.
    """
    from vidseg.cli.console import progress

    meter: Any = None

    def advance(done: int, total: int) -> None:
        nonlocal meter
        if meter is None:
            meter = stack.enter_context(progress(description, total, unit=unit))
        meter.advance(done - meter.done)

    return advance


def _sliding(text: str | None) -> Any:
    from vidseg.cli.sizes import parse_sliding
    from vidseg.inference.sliding import default_stride

    if text is None:
        return None
    crop, stride = parse_sliding(text)
    return crop, stride or default_stride(crop)


def _scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ValueError(
            f"--scales wants numbers with commas, such as 0.75,1, got {text!r}"
        ) from None


def _save(
    out: Path,
    name: str,
    dataset: VideoDataset,
    result: Evaluation,
    samples: Any,
    steadiness: dict[str, Any],
) -> None:
    from vidseg.report.evaluation import evaluation_page

    result.save(out, **({"temporal": steadiness} if steadiness else {}))
    page = evaluation_page(
        name,
        result,
        samples.kept,
        read_frame=lambda frame: dataset.read_frame(frame.video.frames[frame.frame_index]),
        extra=_in_words(steadiness),
        command=shlex.join(["vidseg", *sys.argv[1:]]),
    )
    page.write(out / "report.html")


def _show(name: str, result: Evaluation, steadiness: dict[str, Any], out: Path | None) -> None:
    from rich.table import Table

    from vidseg.cli.console import console

    conventions = result.conventions
    console.print(f"{name} on {conventions['data']}, {result.num_frames} frames", markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("class")
    table.add_column("IoU, %", justify="right")
    table.add_column("accuracy, %", justify="right")
    iou, accuracy = result.class_iou.tolist(), result.class_accuracy.tolist()
    for row in zip(result.classes, map(_percent, iou), map(_percent, accuracy), strict=True):
        table.add_row(*row)
    table.add_section()
    means = result.mean_iou, result.mean_class_accuracy
    table.add_row("mean", *map(_percent, means), style="bold")
    console.print(table)
    console.print(f"pixel accuracy {_percent(result.pixel_accuracy)} %")
    for figure, value in _in_words(steadiness):
        console.print(f"{figure} {value}", markup=False)
    if result.ms_per_frame is not None:
        console.print(f"network {result.ms_per_frame:.1f} ms/frame on {conventions['device']}")
    shown = {k: v for k, v in conventions.items() if k not in ("data", "device")}
    console.print("; ".join(f"{k.replace('_', ' ')}: {v}" for k, v in shown.items()), markup=False)
    if out is not None:
        console.print(f"written to {out}: metrics.json, metrics.csv, report.html", soft_wrap=True)


def _in_words(steadiness: dict[str, Any]) -> list[tuple[str, str]]:
    """Temporal figures as they are read, with the flow they were made with."""
    from vidseg.report.html import percent

    if not steadiness:
        return []
    flow, pairs = steadiness["flow"], steadiness["num_pairs"]
    if not pairs:
        return [("temporal consistency and flicker", "- (no two frames in a row were scored)")]
    return [
        (
            f"temporal consistency (flow: {flow}; {pairs} pairs)",
            percent(steadiness["temporal_consistency"]),
        ),
        (f"flicker (flow: {flow})", percent(steadiness["flicker"])),
    ]


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.2f}"
