"""`vidseg evaluate`: how right, how steady and how fast a model, or saved label maps, are."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidseg.cli import evaluation_options as given
from vidseg.cli.devices import (
    Device,
    Fit,
    ModelOption,
    Precision,
    SeenSize,
    Steady,
    find_device,
    load_model,
    parse_run,
)
from vidseg.cli.options import Sliding, parse_options, parse_size

if TYPE_CHECKING:
    from vidseg.data import VideoDataset
    from vidseg.evaluation.result import Evaluation
    from vidseg.segmenter import VideoSegmenter

WRITTEN = ("metrics.json", "metrics.csv", "counts.npz", "report.html")


def evaluate(
    model: given.Model = None,
    data: given.Data = None,
    root: given.Root = None,
    split: given.Split = None,
    protocol: given.Protocol = None,
    option: given.Option = None,
    video: given.Video = None,
    labels: given.Labels = None,
    predictions: given.Predictions = None,
    max_videos: given.MaxVideos = None,
    max_frames: given.MaxFrames = None,
    score_size: given.ScoreSize = None,
    flow: given.Flow = "dis",
    tc: given.Tc = "vidseg",
    flow_weights: given.FlowWeights = None,
    flow_cache: given.FlowCache = None,
    every_frame: given.EveryFrame = False,
    size: SeenSize = None,
    fit: Fit = None,
    sliding: Sliding = None,
    model_option: ModelOption = None,
    steady: Steady = False,
    flip: given.Flip = False,
    scales: given.Scales = "1",
    context: given.Context = None,
    batch: given.Batch = 1,
    device: Device = None,
    precision: Precision = "fp32",
    save_labels: given.SaveLabels = None,
    out: given.Out = None,
    json: given.Json = False,
    force: given.Force = False,
) -> None:
    """Score a model on video: is it right, is it steady, is it fast?

    Accuracy needs labels, consistency needs neighbouring frames. Videos with a label on every
    frame run as a stream, others as one window for each label (--every-frame: as a stream too);
    both give the same label maps. A figure that cannot be had is "-", with the reason below.

    Example: vidseg evaluate runs/first --data camvid --root ~/camvid --split test
    """
    of_data = {"--data": data, "--split": split, "--root": root, "--protocol": protocol}
    of_data |= {"--option": option, "--predictions": predictions, "--max-videos": max_videos}
    of_data |= {"--score-size": score_size}
    of_runs = {
        "--save-labels": save_labels,
        "--flip": flip,
        "--scales": scales != "1",
        "--batch": batch > 1,
    }
    of_runs |= {"--every-frame": every_frame}
    of_models = {"--size": size, "--fit": fit, "--precision": precision != "fp32"}
    of_models |= {"--sliding": sliding, "--context": context, "--model-option": model_option}
    of_models |= {"--steady": steady}
    _check_source(model, predictions, video, labels, (of_data, of_runs, of_models))
    from vidseg.cli.destinations import claimed, claimed_maps
    from vidseg.report.evaluation import Samples

    samples = Samples()
    measured = {"flow": _flow(flow, flow_weights, flow_cache, device), "tc": _checked_tc(tc, flow)}
    measured |= {"max_frames": max_frames, "observe": samples}
    name, command = _name(model, predictions, steady=steady), shlex.join(["vidseg", *sys.argv[1:]])
    with claimed(out, WRITTEN, force=force), claimed_maps(save_labels, force=force):
        if video:
            dataset = None
            how = parse_run(size, fit, precision, sliding, device) | {"context": context}
            network = load_model(model, model_option, steady=steady)
            result = _run_videos(network, video, labels or [], **measured, **how)
        else:
            dataset = _open(data or "camvid", root, split or "val", protocol, option or [])
            grid = parse_size(score_size, "--score-size") if score_size else None
            measured |= {"max_videos": max_videos, "score_size": grid}
            if predictions is not None:
                result = _score(predictions, dataset, **measured)
            else:
                how = parse_run(size, fit, precision, sliding, device)
                how |= {"context": context, "save_labels": save_labels, "batch_size": batch}
                how |= {"flip": flip, "scales": _scales(scales), "every_frame": every_frame}
                result = _run_model(
                    load_model(model, model_option, steady=steady), dataset, **measured, **how
                )
        if out is not None:
            _save(out, name, dataset, result, samples, command)
    _show(name, result, out, command, as_json=json)


def _check_source(
    model: str | None,
    predictions: Path | None,
    video: list[str] | None,
    labels: list[Path] | None,
    options: tuple[dict[str, Any], dict[str, Any], dict[str, Any]],
) -> None:
    """Refuse what does not go together: options of data sets, of their runs, of models."""
    of_data, of_runs, of_models = options
    if video:
        _refuse({**of_data, **of_runs}, "for a data set, not for a --video")
    elif (model is None) == (predictions is None):
        raise ValueError(
            "give a MODEL to run or --predictions FOLDER to score, not both; or --video FILE"
        )
    else:
        _refuse({"--labels": labels}, "for a --video; a data set has its own")
    if predictions is not None:
        _refuse({**of_models, **of_runs}, "for a MODEL; saved label maps are scored as they are")


def _show(name: str, result: Evaluation, out: Path | None, command: str, *, as_json: bool) -> None:
    from vidseg.cli.console import write_json
    from vidseg.cli.scores import show_scores

    if as_json:
        write_json(result.summary(name, command))
    else:
        show_scores(name, result, out)


def _refuse(options: dict[str, Any], what: str) -> None:
    """Refuse options that say nothing where they are given."""
    wrong = [option for option, value in options.items() if value not in (None, False, [])]
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
        device = find_device(device)
    return open_flow(name, weights=weights, cache=cache, device=device)


def _checked_tc(tc: str, flow: str) -> str:
    from vidseg.evaluation.motion import VALID_OF
    from vidseg.suggest import did_you_mean

    if tc not in VALID_OF:
        raise ValueError(f"--tc: unknown protocol {tc!r}{did_you_mean(tc, VALID_OF)}")
    if tc != "vidseg" and flow == "none":
        raise ValueError(f"--tc {tc} compares frames along a flow, and --flow none gives none")
    return tc


def _name(model: str | None, predictions: Path | None, *, steady: bool) -> str:
    from vidseg.methods import DEFAULT_WEIGHTS

    if predictions is not None:
        return f"label maps of {predictions}"
    return (model or DEFAULT_WEIGHTS) + ", steady" * steady


def _open(
    kind: str, root: Path | None, split: str, protocol: str | None, words: list[str]
) -> VideoDataset:
    from vidseg.data import open_dataset

    options = parse_options(words)
    if protocol is not None:
        options["protocol"] = protocol
    return open_dataset(kind, None if root is None else root.expanduser(), split, **options)


def _run_model(network: VideoSegmenter, dataset: VideoDataset, **options: Any) -> Evaluation:
    from vidseg.cli.console import progress
    from vidseg.evaluation.datasets import evaluate as run

    return run(network, dataset, progress=progress, **options)


def _run_videos(
    network: VideoSegmenter, videos: list[str], labels: list[Path], **options: Any
) -> Evaluation:
    from vidseg.cli.console import progress
    from vidseg.evaluation.videos import evaluate_videos

    if options["flow"] == "exact":
        raise ValueError(
            "--flow exact is for rendered data sets; a --video needs its flow estimated"
        )
    return evaluate_videos(network, videos, labels=labels, progress=progress, **options)


def _score(folder: Path, dataset: VideoDataset, **options: Any) -> Evaluation:
    from vidseg.cli.console import progress
    from vidseg.evaluation.predictions import evaluate_predictions

    return evaluate_predictions(folder, dataset, progress=progress, **options)


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
    from vidseg.atomic import together
    from vidseg.report.evaluation import evaluation_page

    def read_frame(frame: Any) -> Any:
        if frame.image is not None or dataset is None:
            return frame.image
        return dataset.read_frame(frame.video.frames[frame.frame_index])

    page = evaluation_page(name, result, samples.kept, read_frame=read_frame, command=command)
    with together(out) as stage:
        result.save(stage, name, command)
        page.write(stage / "report.html")
