"""`vidseg benchmark`: what a model costs, beside its per-frame twin and its own alternatives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidseg.cli.devices import Precision, Steady
from vidseg.sizes import height_x_width

if TYPE_CHECKING:
    from vidseg.benchmark import Benchmark
    from vidseg.segmenter import VideoSegmenter

SIDES = {
    "stream": "stream: one step per frame",
    "clip": "clip: the window as one chunk, every frame read out",
    "window": "window: the whole window encoded anew for every frame",
    "twin": "per-frame twin",
    "window_written": "window, as the paper writes it",
    "twin_written": "per-frame twin, as its paper writes it",
}


def benchmark(
    model: Annotated[
        str, typer.Argument(help="A name such as tmanet_r50 (`vidseg models`), or trained weights.")
    ],
    size: Annotated[
        str, typer.Option("--size", help="HEIGHTxWIDTH at which the model sees frames.")
    ],
    labels: Annotated[
        str | None,
        typer.Option("--labels", help="HEIGHTxWIDTH: time up to label maps of this size, too."),
    ] = None,
    frames: Annotated[
        int,
        typer.Option("--frames", min=1, help="Turns that are timed; each runs every side once."),
    ] = 10,
    warm_up: Annotated[int, typer.Option("--warm-up", min=0, help="Turns before, not timed.")] = 2,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="CPU threads; torch's default otherwise."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1.")] = "cpu",
    precision: Precision = "fp32",
    classes: Annotated[
        int | None,
        typer.Option("--classes", min=1, help="Number of classes of a named model (19)."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="Of a named model, such as memory_frames=2; repeatable."),
    ] = None,
    twin: Annotated[
        str | None,
        typer.Option(
            "--twin", help='Per-frame model beside it; "none". Its host, or FCN on its backbone.'
        ),
    ] = None,
    steady: Steady = False,
    json: Annotated[bool, typer.Option("--json", help="Write the figures as JSON.")] = False,
) -> None:
    """Measure time, memory and multiply-accumulates of a model.

    All sides run in turns within one process, so that a busy machine hits all of them alike; their
    ratios are medians over the turns. Frames are noise; the memory is full.

    Example: vidseg benchmark tmanet_r50 --size 256x512 --threads 1
    """
    from vidseg.cli.options import parse_options, parse_size

    shape = parse_size(size)
    labels_px = None if labels is None else parse_size(labels)
    import torch

    from vidseg.adapters.steady import Steady as SteadyModel
    from vidseg.benchmark import benchmark as measure
    from vidseg.cli.console import progress, write_json
    from vidseg.cli.devices import find_device

    device = find_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    network = _make(model, classes, parse_options(option or ()))
    if steady:
        # Beside itself: the difference is what steadiness costs.
        twin_name, twin_network = (
            (f"{model} alone", network) if twin is None else _make_twin(twin, network)
        )
        network = SteadyModel(network)
    else:
        twin_name, twin_network = _make_twin(twin, network)
    result = measure(
        network,
        shape,
        name=model,
        twin=twin_network,
        twin_name=twin_name,
        labels=labels_px,
        num_frames=frames,
        warm_up=warm_up,
        device=device,
        precision=precision,  # pyright: ignore[reportArgumentType]
        progress=progress,
    )
    if json:
        write_json(result.summary())
    else:
        _show(result)


def _make(name: str, classes: int | None, options: dict[str, Any]) -> VideoSegmenter:
    from vidseg.adapters.sources import is_image_model
    from vidseg.methods import create, load, model_names

    is_file = Path(name).exists() or "/" in name or is_image_model(name)
    if name in model_names() or not is_file:
        return create(name, num_classes=classes or 19, **options)
    for option, is_given in (("--option", options), ("--classes", classes)):
        if is_given:
            raise ValueError(f"{option} is for models made by name; {name} says what it is made of")
    return load(name)


def _make_twin(
    wanted: str | None, network: VideoSegmenter
) -> tuple[str | None, VideoSegmenter | None]:
    """The method's host, or FCN on its backbone, with the options shared with the model."""
    import inspect

    from vidseg.methods import METHODS, create, find_method, model_names

    is_named = network.card.architecture in model_names()
    method, variant = find_method(network.card.architecture) if is_named else (None, "")
    name = wanted or (method.twins.get(variant, f"fcn_{variant}") if method else "none")
    if name == "none" or (
        wanted is None and (method is METHODS["fcn"] or name not in model_names())
    ):
        return None, None
    known = inspect.signature(find_method(name)[0]).parameters
    theirs = inspect.signature(method).parameters if method else {}
    options = {k: v for k, v in network.card.options.items() if k in known or k not in theirs}
    return name, create(name, **{"num_classes": network.num_classes, **options})


def _show(result: Benchmark) -> None:
    from rich.table import Table

    from vidseg.cli.console import console

    console.print(
        f"{result.model}, {height_x_width(result.size)}, batch 1, window of "
        f"{result.window_length} frames, "
        f"{result.device}, {result.threads} CPU thread(s), {result.precision}, {_until(result)}",
        markup=False,
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in ("ms/frame", "p95", "CPU ms", "frames/s", "memory", "x stream", "x CPU"):
        table.add_column(heading, justify="right")
    for side, timing in result.timings.items():
        table.add_row(
            SIDES[side] + (f" ({result.twin})" if side.startswith("twin") else ""),
            f"{timing.median_ms:.1f}",
            f"{timing.p95_ms:.1f}",
            _number(timing.cpu_median_ms, 1),
            f"{timing.fps:.2f}",
            "-" if timing.peak_bytes is None else f"{timing.peak_bytes / 2**20:.0f} MiB",
            _number(result.ratio(side), 2),
            _number(result.cpu_ratio(side), 2),
        )
    console.print(table)
    macs = ", ".join(f"{part} {_giga(count)}" for part, count in result.macs.items())
    console.print(f"GMACs per frame: {_giga(sum(result.macs.values()))} ({macs})")
    if result.twin_macs is not None:
        console.print(f"  of {result.twin}: {_giga(result.twin_macs)}")
    console.print(
        f"parameters {result.parameters / 1e6:.2f} M, memory of a stream "
        f"{result.memory_bytes / 2**20:.2f} MiB"
    )
    console.print(
        "Times are medians over turns; x stream is the median over turns of the ratio to the "
        "stream, x CPU the same in processor time, which other processes disturb less. Memory is "
        "the peak beyond weights and the stream's own. MACs count convolutions and matrix "
        "products, attention included, at the widths that run."
    )


def _until(result: Benchmark) -> str:
    sides = result.notes.get("labels_px")
    return "to logits" if sides is None else f"to labels of {height_x_width(sides)}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _giga(count: int) -> str:
    return f"{count / 1e9:.1f}" if count >= 1e9 else f"{count / 1e9:.3f}"
