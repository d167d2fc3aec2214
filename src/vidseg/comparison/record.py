"""Evaluations as `vidseg evaluate --out` wrote them, read back for comparison."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from vidseg.array_files import read_arrays
from vidseg.atomic import settle
from vidseg.classes import MAX_CLASSES
from vidseg.documents import checked, read_json
from vidseg.evaluation.counts import array_shapes
from vidseg.evaluation.sums import Sums, sums_of
from vidseg.metrics.consistency import Protocol
from vidseg.metrics.ratios import VoidTruth
from vidseg.metrics.video_consistency import WINDOWS_FRAMES

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
        tc: protocol of TC.
        device: where it ran, None for saved label maps.
        sums: of each video, (V, ...).
        num_pairs: (V,) neighbouring frames that were compared for TC and flicker.
    """

    folder: Path
    name: str
    classes: tuple[str, ...]
    videos: tuple[str, ...]
    figures: dict[str, float | None]
    accuracy: dict[str, Any]
    consistency: dict[str, Any]
    tc: Protocol
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
    accuracy, consistency = protocols.get("accuracy", {}), protocols.get("consistency", {})
    classes = tuple(record.classes)
    counts = _read_counts(folder / "counts.npz", len(classes))
    names = counts.pop("names").tolist()
    if sorted(names) != sorted(record.videos):
        raise ValueError(f"counts.npz and metrics.json of {folder} name other videos; {_AGAIN}")
    order = np.argsort(names)
    counts = {name: values[order] for name, values in counts.items()}
    void_truth = _stated(folder, accuracy, "void", VoidTruth)
    return SavedEvaluation(
        folder=folder,
        name=record.name,
        classes=classes,
        videos=tuple(names[index] for index in order),
        figures=record.figures,
        accuracy=accuracy,
        consistency=consistency,
        tc=_stated(folder, consistency, "protocol", Protocol),
        device=conventions.get("device"),
        sums=sums_of(counts, void_truth),
        num_pairs=counts["num_pairs"],
    )


def _stated(folder: Path, protocol: dict[str, Any], name: str, words: Any) -> Any:
    """One of the words that a protocol may have; the first where it says nothing."""
    known = get_args(words)
    word = protocol.get(name, known[0])
    if word not in known:
        raise ValueError(
            f"{name} in the protocols of {folder / 'metrics.json'} must be one of "
            f"{', '.join(known)}, got {word!r}: an older vidseg, or another program, wrote it; "
            f"{_AGAIN}"
        )
    return word


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
    shapes = {"names": (), **array_shapes(num_classes)}
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
    kinds = {"U": np.str_, "f": np.float64}
    return {
        name: counts[name].astype(kinds.get(counts[name].dtype.kind, np.int64)) for name in shapes
    }
