"""`vidseg evaluate`: how right, how steady and how fast a model, or saved label maps, are."""

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

WHAT, HOW, STEADY, WRITE = "What to score", "How the model runs", "Consistency", "What to write"


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Weights (.safetensors), a run folder, or a repository on the hub; "
            "with --video by default the packaged one."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="camvid (default), cityscapes, folder or synthetic.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="The data set's folder.", rich_help_panel=WHAT)
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="val (default), test or another.", rich_help_panel=WHAT),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            help="CamVid: 11 (default), 12, 11-void-counted.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            help="Of the data set, such as num_videos=4; repeatable.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    video: Annotated[
        list[str] | None,
        typer.Option(
            "--video",
            help="Instead of a data set: a video file or a folder of frames; repeatable.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            "--labels",
            help="Of a --video: a folder with a PNG of class indices a frame; once per video.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            help="Score these label maps (PNG, named as the labels), no model.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    max_videos: Annotated[
        int | None,
        typer.Option("--max-videos", help="Only the first videos.", rich_help_panel=WHAT),
    ] = None,
    max_frames: Annotated[
        int | None,
        typer.Option(
            "--max-frames",
            help="At most so many labelled frames, evenly spread; of a --video its first.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    flow: Annotated[
        str,
        typer.Option(
            "--flow",
            help="Along which neighbouring frames are compared: dis, dis-fast, dis-ultrafast, "
            "raft-small, raft-large, exact (synthetic) or none.",
            rich_help_panel=STEADY,
        ),
    ] = "dis",
    tc: Annotated[
        str,
        typer.Option(
            "--tc",
            help="Protocol of TC: vidseg, or etc-official or vspw-official, to compare with "
            "published figures.",
            rich_help_panel=STEADY,
        ),
    ] = "vidseg",
    flow_weights: Annotated[
        Path | None,
        typer.Option("--flow-weights", help="Of RAFT; else torchvision's.", rich_help_panel=STEADY),
    ] = None,
    flow_cache: Annotated[
        Path | None,
        typer.Option(
            "--flow-cache", help="Keep flow in this folder, and reuse it.", rich_help_panel=STEADY
        ),
    ] = None,
    every_frame: Annotated[
        bool,
        typer.Option(
            "--every-frame",
            help="Run through all frames, also where few are labelled.",
            rich_help_panel=STEADY,
        ),
    ] = False,
    sliding: Annotated[
        str | None,
        typer.Option(
            "--sliding", help="CROP or CROP/STRIDE, HxW px: 769x769/513x513.", rich_help_panel=HOW
        ),
    ] = None,
    flip: Annotated[
        bool,
        typer.Option("--flip", help="Average with the mirrored frames.", rich_help_panel=HOW),
    ] = False,
    scales: Annotated[
        str,
        typer.Option(
            "--scales", help="Average over sizes of the frame: 0.75,1,1.25.", rich_help_panel=HOW
        ),
    ] = "1",
    context: Annotated[
        Path | None,
        typer.Option(
            "--context",
            help="CFFM++: prototypes on file, VIDEO.safetensors or VIDEO/centers.pt in this "
            "folder; else found in a first pass.",
            rich_help_panel=HOW,
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", help="Windows or streams per pass.", rich_help_panel=HOW)
    ] = 1,
    device: Annotated[
        str | None,
        typer.Option("--device", help="cpu, cuda; a GPU if there is one.", rich_help_panel=HOW),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, bf16 or fp16.", rich_help_panel=HOW)
    ] = "fp32",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for metrics.json, metrics.csv, counts.npz and report.html.",
            rich_help_panel=WRITE,
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Write the figures as JSON.", rich_help_panel=WRITE),
    ] = False,
) -> None:
    """Score a model on video: is it right, is it steady, is it fast?

    Accuracy needs labels, consistency needs neighbouring frames. Videos with a label on every
    frame run as a stream, others as one window for each label (--every-frame: as a stream too);
    both give the same label maps. A figure that cannot be had is "-", with the reason below.

    Example: vidseg evaluate runs/first --data camvid --root ~/camvid --split test
    """
    videos = video or []
    ran = {"--sliding": sliding, "--flip": flip, "--scales": scales != "1", "--batch": batch > 1}
    ran |= {"--every-frame": every_frame, "--precision": precision != "fp32"}
    if videos:
        of_data = {"--data": data, "--split": split, "--root": root, "--protocol": protocol}
        of_data |= {"--option": option, "--predictions": predictions, "--max-videos": max_videos}
        del ran["--sliding"]
        _refuse({**of_data, **ran}, "for a data set, not for a --video")
    elif (model is None) == (predictions is None):
        raise ValueError(
            "give a MODEL to run or --predictions FOLDER to score, not both; or --video FILE"
        )
    else:
        _refuse({"--labels": labels}, "for a --video; a data set has its own")
    if predictions is not None:
        _refuse(
            {**ran, "--context": context}, "for a MODEL; saved label maps are scored as they are"
        )
    from vidseg.cli.console import write_json
    from vidseg.cli.devices import find_device
    from vidseg.cli.scores import show_scores
    from vidseg.report.evaluation import Samples

    samples = Samples()
    settings: dict[str, Any] = {
        "flow": _flow(flow, flow_weights, flow_cache, device),
        "tc": _checked_tc(tc, flow),
        "max_frames": max_frames,
    }
    if predictions is None:
        settings |= {"device": find_device(device), "sliding": _sliding(sliding)}
        settings["context"] = context
    if out is not None:
        _check_writable(out)  # fails now rather than after the whole run
    if videos:
        dataset = None
        result = _run_videos(model, videos, labels or [], settings, samples)
    else:
        dataset = _open(data or "camvid", root, split or "val", protocol, option or [])
        settings["max_videos"] = max_videos
        if predictions is not None:
            result = _score(predictions, dataset, settings, samples)
        else:
            settings |= {"precision": precision, "batch_size": batch, "every_frame": every_frame}
            settings |= {"flip": flip, "scales": _scales(scales)}
            result = _run_model(model, dataset, settings, samples)
    name, command = _name(model, predictions), shlex.join(["vidseg", *sys.argv[1:]])
    if out is not None:
        _save(out, name, dataset, result, samples, command)
    if json:
        write_json(result.summary(name, command))
    else:
        show_scores(name, result, out)


def _refuse(given: dict[str, Any], what: str) -> None:
    """Refuse options that say nothing where they are given."""
    wrong = [option for option, value in given.items() if value not in (None, False, [])]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)}: {'this is' if len(wrong) == 1 else 'these are'} {what}; "
            f"leave {'it' if len(wrong) == 1 else 'them'} out"
        )


def _flow(name: str, weights: Path | None, cache: Path | None, device: str | None) -> Any:
    """The flow of a name: an estimator, "exact", or None."""
    from vidseg.flow import FLOWS, open_flow
    from vidseg.suggest import did_you_mean

    if name in ("none", "exact"):
        _refuse(
            {"--flow-weights": weights, "--flow-cache": cache},
            f"for a flow that is estimated, not for --flow {name}",
        )
        return None if name == "none" else name
    if name not in FLOWS:
        known = (*FLOWS, "exact", "none")
        raise ValueError(f"--flow: unknown flow {name!r}{did_you_mean(name, known)}")
    if name.startswith("raft"):
        from vidseg.cli.devices import find_device

        device = find_device(device)
    return open_flow(name, weights=weights, cache=cache, device=device)


def _checked_tc(tc: str, flow: str) -> str:
    from vidseg.inference.motion import VALID_OF
    from vidseg.suggest import did_you_mean

    if tc not in VALID_OF:
        raise ValueError(f"--tc: unknown protocol {tc!r}{did_you_mean(tc, VALID_OF)}")
    if tc != "vidseg" and flow == "none":
        raise ValueError(f"--tc {tc} compares frames along a flow, and --flow none gives none")
    return tc


def _check_writable(out: Path) -> None:
    from tempfile import TemporaryFile

    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out needs a folder, but {out} is a file")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error


def _name(model: str | None, predictions: Path | None) -> str:
    from vidseg.methods import DEFAULT_WEIGHTS

    if predictions is not None:
        return f"label maps of {predictions}"
    return model or DEFAULT_WEIGHTS


def _open(
    kind: str, root: Path | None, split: str, protocol: str | None, words: list[str]
) -> VideoDataset:
    from vidseg.cli.convert import parse_options
    from vidseg.data import open_dataset

    options = parse_options(words)
    if protocol is not None:
        options["protocol"] = protocol
    return open_dataset(kind, None if root is None else root.expanduser(), split, **options)


def _run_model(
    name: str | None, dataset: VideoDataset, options: dict[str, Any], observe: Observer
) -> Evaluation:
    from vidseg.inference.evaluate import evaluate as run
    from vidseg.methods import load

    network = load(name)
    with ExitStack() as stack:
        return run(
            network, dataset, observe=observe, progress=shown(stack, "evaluating"), **options
        )


def _run_videos(
    name: str | None,
    videos: list[str],
    labels: list[Path],
    options: dict[str, Any],
    observe: Observer,
) -> Evaluation:
    from vidseg.inference.videos import evaluate_videos
    from vidseg.methods import load

    if options["flow"] == "exact":
        raise ValueError(
            "--flow exact is for rendered data sets; a --video needs its flow estimated"
        )
    network = load(name)
    with ExitStack() as stack:
        meter = shown(stack, "evaluating")
        return evaluate_videos(
            network, videos, labels=labels, observe=observe, progress=meter, **options
        )


def _score(
    folder: Path, dataset: VideoDataset, options: dict[str, Any], observe: Observer
) -> Evaluation:
    from vidseg.inference.predictions import evaluate_predictions

    with ExitStack() as stack:
        return evaluate_predictions(
            folder, dataset, observe=observe, progress=shown(stack, "scoring"), **options
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
    dataset: VideoDataset | None,
    result: Evaluation,
    samples: Any,
    command: str,
) -> None:
    from vidseg.inference.writer import hold_interrupts
    from vidseg.report.evaluation import evaluation_page

    def read_frame(frame: Any) -> Any:
        if frame.image is not None or dataset is None:
            return frame.image
        return dataset.read_frame(frame.video.frames[frame.frame_index])

    page = evaluation_page(name, result, samples.kept, read_frame=read_frame, command=command)
    with hold_interrupts():  # all of them or none: they belong together
        result.save(out, name, command)
        page.write(out / "report.html")
