"""Evaluations as `vidseg evaluate --out` wrote them, read back for comparison."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from vidseg.array_files import read_arrays
from vidseg.atomic import settle
from vidseg.card import MAX_CLASSES
from vidseg.comparison.bootstrap import (
    Sums,
    figures_of,
    pooled,
    sums_of_confusion,
    sums_of_consistency,
)
from vidseg.documents import checked, read_json
from vidseg.evaluation.figures import WINDOWS_FRAMES

_AGAIN = "evaluate again with `vidseg evaluate ... --out`"


Figure = Annotated[float, Field(ge=-1e12, le=1e12)] | None


class Record(BaseModel):
    """What is read of a metrics.json; the rest of it is for people.

    Attributes:
        name: of the model.
        figures: by name, None where there was none.
        classes: name -> its figures.
        videos: name -> its figures.
        conventions: how it was measured.
        protocols: "accuracy" and "consistency": what decides those figures.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    name: str
    figures: dict[str, Figure]
    classes: Annotated[dict[str, Any], Field(max_length=MAX_CLASSES)]
    videos: dict[Any, Any]  # names of files, of which some are no text
    conventions: dict[str, Any]
    protocols: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class SavedEvaluation:
    """One run: its figures, and the counts per video that they come from.

    Attributes:
        folder: where it was read.
        name: of the model.
        classes: names, in the order of the counts.
        videos: names, sorted; the rows of `sums`.
        figures: as printed then, None where there was none.
        accuracy: what decides the accuracy figures.
        consistency: what decides the consistency figures: protocol, flow, what is valid.
        device: where it ran, None for saved label maps.
        sums: (V, k) float64 each, as `vidseg.comparison.bootstrap` names them.
        num_pairs: (V,) neighbouring frames that were compared for TC and flicker.
    """

    folder: Path
    name: str
    classes: tuple[str, ...]
    videos: tuple[str, ...]
    figures: dict[str, float | None]
    accuracy: dict[str, Any]
    consistency: dict[str, Any]
    device: str | None
    sums: Sums
    num_pairs: np.ndarray


def read_evaluation(folder: Path | str) -> SavedEvaluation:
    """Read a folder that `vidseg evaluate --out` wrote.

    Args:
        folder: holds metrics.json and counts.npz.

    Raises:
        FileNotFoundError: the folder or one of the files is missing.
        ValueError: a file is damaged, is no evaluation, or does not belong to the other.
    """
    folder = Path(folder)
    settle(folder)
    record = _read_record(folder)
    conventions, protocols = record.conventions, record.protocols
    accuracy = protocols.get("accuracy", {})
    void = accuracy.get("void", conventions.get("void"))
    classes = tuple(record.classes)
    counts = _read_counts(folder / "counts.npz", len(classes))
    names = [str(name) for name in counts.pop("names")]
    if sorted(names) != sorted(record.videos):
        raise ValueError(f"counts.npz and metrics.json of {folder} name other videos; {_AGAIN}")
    order = np.argsort(names)
    tc = protocols.get("consistency", {}).get("protocol", "vidseg")
    sums = _sums(counts, void_is_error=void == "counted as false positives", tc=tc)
    run = SavedEvaluation(
        folder=folder,
        name=record.name,
        classes=classes,
        videos=tuple(names[index] for index in order),
        figures=record.figures,
        accuracy=accuracy,
        consistency=protocols.get("consistency", {}),
        device=conventions.get("device"),
        sums={name: values[order] for name, values in sums.items()},
        num_pairs=counts["num_pairs"][order],
    )
    _check_figures(run)
    return run


def _read_record(folder: Path) -> Record:
    path = folder / "metrics.json"
    if not path.is_file():
        if (folder / "metrics.jsonl").is_file():
            raise FileNotFoundError(
                f"{folder} is a training run; measure it first: "
                f"vidseg evaluate {folder} ... --out FOLDER"
            )
        raise FileNotFoundError(f"no {path}; name a folder of `vidseg evaluate ... --out`")
    try:
        return checked(Record, read_json(path), str(path))
    except ValueError as error:
        raise ValueError(f"{error}; {_AGAIN}") from None


def _read_counts(path: Path, num_classes: int) -> dict[str, np.ndarray]:
    """Read the arrays, and check the shape, the type and the range of each."""
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}; {_AGAIN}")
    try:
        counts = read_arrays(path)
    except ValueError as error:
        raise ValueError(f"{error}; {_AGAIN}") from None
    size, square = num_classes + 1, (num_classes, num_classes)
    shapes = {
        "names": (),
        "confusion": (size, size),
        "boundary": (size, size),
        "consistency": square,
        "truth_consistency": square,
        "vc_total": (2,),
        "vc_windows": (2,),
        "vc_correct_total": (2,),
        "num_pairs": (),
    }
    missing = [name for name in (*shapes, "vc_n") if name not in counts]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; {_AGAIN}")
    if counts["vc_n"].tolist() != list(WINDOWS_FRAMES):
        raise ValueError(f"vc_n in {path} must be 8 and 16, got {counts['vc_n'].tolist()}")
    num_videos = counts["names"].size
    for name, shape in shapes.items():
        values = counts[name]
        kinds = "U" if name == "names" else "f" if name.endswith("_total") else "iu"
        if values.shape != (num_videos, *shape) or values.dtype.kind not in kinds:
            raise ValueError(
                f"{name} in {path} must be {(num_videos, *shape)} for {num_videos} videos and "
                f"{num_classes} classes, got {values.shape} {values.dtype}; {_AGAIN}"
            )
        if name != "names" and not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(f"{name} in {path} must be finite and 0 or more; {_AGAIN}")
    if not num_videos or len(set(counts["names"].tolist())) < num_videos:
        raise ValueError(f"{path} must have one row for each of one or more videos; {_AGAIN}")
    return counts


def _sums(counts: dict[str, np.ndarray], *, void_is_error: bool, tc: str) -> Sums:
    sums = {
        **sums_of_confusion(counts["confusion"], void_is_error=void_is_error),
        **sums_of_confusion(counts["boundary"], void_is_error=void_is_error, prefix="boundary_"),
        **sums_of_consistency(counts["consistency"], prefix="steady_", protocol=tc),
        **sums_of_consistency(counts["truth_consistency"], prefix="truth_steady_"),
    }
    for name in ("vc_total", "vc_windows", "vc_correct_total"):
        sums[name] = counts[name].astype(np.float64)
    # Not in the file: the mean over videos takes each video's own mean, where it has one.
    iou = np.divide(
        sums["hits"], sums["union"], out=np.zeros_like(sums["hits"]), where=sums["union"] > 0
    )
    present = (sums["union"] > 0).sum(1, keepdims=True)
    sums["video_iou"] = iou.sum(1, keepdims=True) / np.maximum(present, 1)
    sums["videos_with_iou"] = (present > 0).astype(np.float64)
    return sums


def _check_figures(run: SavedEvaluation) -> None:
    """The printed figures must follow from the counts; otherwise the two files are of two runs."""
    for key, (value,) in figures_of(pooled(run.sums)).items():
        printed = run.figures.get(key)
        if key != "class_iou" and printed is not None and not abs(printed - value) < 1e-6:
            raise ValueError(
                f"counts.npz of {run.folder} gives {key} {value:.6f}, its metrics.json says "
                f"{printed:.6f}: they are not of one run; {_AGAIN}"
            )
