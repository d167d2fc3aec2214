"""The folder of a run: its config, environment, metrics and pictures."""

import contextlib
import csv
import io
import json
import math
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from vidseg.atomic import replacing, write_text
from vidseg.documents import MAX_COUNT, checked, parse_json, read_text
from vidseg.inside import inside
from vidseg.printable import csv_cell
from vidseg.training.config import TrainingConfig
from vidseg.training.recipe import (
    differences,
    dump,
    load_config,
    override,
    read_mapping,
    read_recipe,
    validate,
)

PACKAGES = ("vidseg", "torch", "numpy", "accelerate", "opencv-python-headless", "pillow", "av")
RESULTS = ("best.safetensors", "last.safetensors", "metrics.csv", "metrics.json", "report.html")


class Metrics:
    """Records of a run: metrics.jsonl as they come, metrics.csv when asked.

    Args:
        folder: the run folder.
        step: the step that the run goes on from; later records are of a killed run and are
            dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.jsonl"
        kept = [record for record in read_metrics(folder) if record["step"] <= step]
        write_text(self.path, "".join(map(_line, kept)))

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one record."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(record))

    def write_csv(self, folder: Path | None = None) -> None:
        """Write all records as one table, into the run's folder or another one."""
        records = read_metrics(self.path.parent)
        columns = list(dict.fromkeys(key for record in records for key in record))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows({k: csv_cell(v) for k, v in record.items()} for record in records)
        write_text((folder or self.path.parent) / "metrics.csv", text.getvalue())


def _line(record: Mapping[str, Any]) -> str:
    # JSON has neither NaN (an absent class) nor infinity (fp16's first gradients).
    odd = {k for k, v in record.items() if isinstance(v, float) and not math.isfinite(v)}
    return json.dumps({k: None if k in odd else v for k, v in record.items()}) + "\n"


class Record(BaseModel):
    """One line of metrics.jsonl: figures by name, of one step."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int | float | str | list[float | None] | None]  # pyright: ignore[reportIncompatibleVariableOverride]

    step: Annotated[int, Field(ge=0, le=MAX_COUNT)]


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, in order; a last line that a kill cut off is left out.

    Raises:
        ValueError: another line is no record; names the file and the line.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = read_text(path).split("\n")[:-1]  # what follows the last line is empty, or cut off
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        values = parse_json(line, where)
        checked(Record, values, where)
        records.append(values)
    return records


def resolve(
    recipe: str | Path, overrides: Sequence[str], folder: Path, *, resume: bool
) -> TrainingConfig:
    """The config of a run: what the folder stores, or the recipe; the overrides win over both.

    Args:
        recipe: name of a packaged recipe or a path; when resuming also the run folder itself.
        overrides: `key.sub=value` words.
        folder: the run folder.
        resume: go on with the run in `folder`.

    Returns:
        The config.

    Raises:
        ValueError: an unknown key or wrong value; `folder` holds a run of another recipe.
        FileNotFoundError: no such recipe.
    """
    stored = folder / "config.yaml"
    if not (resume and stored.is_file()):
        return load_config(recipe, overrides)
    values = read_mapping(stored)
    if Path(recipe) != folder:
        asked = read_recipe(recipe)["name"]
        named = [word for word in overrides if word.startswith("name=")]
        if asked != values.get("name") and not named:
            raise ValueError(
                f"{folder} holds a run of {values.get('name')!r}, not of {asked!r}; resume it with "
                "its own recipe, or choose another --out"
            )
    return validate(override(values, overrides), source=stored, overrides=overrides)


def prepare(folder: Path, config: TrainingConfig, *, resume: bool) -> list[str]:
    """Make the run folder, or check that the run in it can go on.

    Args:
        folder: the run folder.
        config: what will run; written as config.yaml, the one before is kept.
        resume: whether a run may be in it already.

    Returns:
        The differences to the stored config, one line each.

    Raises:
        FileExistsError: a run has begun in it and `resume` is false, or it holds files of another
            kind that this one would replace.
    """
    stored = folder / "config.yaml"
    if not resume and (read_metrics(folder) or list(folder.glob("checkpoints/*"))):
        raise FileExistsError(
            f"{folder} holds a run already; add --resume to go on with it, or choose another --out"
        )
    # A run that ended before its first step leaves its config, and nothing of these.
    others = () if resume else (name for name in RESULTS if os.path.lexists(folder / name))
    if foreign := next(iter(others), None) or _foreign_config(stored):
        raise FileExistsError(f"{folder} holds {foreign} of something else; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    changes: list[str] = []
    if resume and stored.is_file():
        before = validate(read_mapping(stored), source=stored)
        changes = [f"{k}: {a} -> {b}" for k, (a, b) in differences(before, config).items()]
        if changes:
            earlier = len(list(folder.glob("config-before-*.yaml"))) + 1
            stored.replace(folder / f"config-before-{earlier}.yaml")
    write_text(stored, dump(config))
    return changes


def _foreign_config(stored: Path) -> str:
    """The name of a config that is not one of a run; "" if it is, or there is none."""
    try:
        if os.path.lexists(stored):
            validate(read_mapping(stored), source=stored)
    except (ValueError, OSError):
        return stored.name
    return ""


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Describe the environment: versions, machine, commit of the working folder's repository."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "cuda": torch.version.cuda,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "git": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the working folder, from the files of git alone.

    git itself is not asked: a folder's own .git/config names programs for it to run, of which there
    are more with every version (core.fsmonitor, filters, hooks).
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / ".git").exists():
            return _read_commit(folder / ".git")
    return None


def _read_commit(git: Path) -> str | None:
    """The commit that HEAD of a git folder is at, or of the file that a worktree has instead."""
    with contextlib.suppress(OSError, ValueError):
        if git.is_file():
            git = git.parent / _start_of(git).removeprefix("gitdir:").strip()
        head = _start_of(git / "HEAD")
        name = head.removeprefix("ref:").strip()
        shared = git / _start_of(git / "commondir") if (git / "commondir").is_file() else git
        packed = shared / "packed-refs"
        found = head
        if head.startswith("ref:"):
            places = [inside(place, name, links=True) for place in (git, shared)]
            loose = next((place for place in places if place.is_file()), None)
            lines = packed.read_text("ascii").splitlines() if packed.is_file() else []
            listed = next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
            found = listed if loose is None else _start_of(loose)
        return found if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", found) else None
    return None


def _start_of(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(4096).strip()


def write_sample(
    path: Path, image: np.ndarray, truth: np.ndarray, labels: np.ndarray, palette: np.ndarray
) -> None:
    """Write one picture: the frame, its truth and its labels side by side.

    Args:
        path: a .png file.
        image: (H, W, 3) uint8 RGB.
        truth: (h, w), 255 where ignored (shown black).
        labels: (h, w).
        palette: (C, 3) uint8.
    """
    from PIL import Image

    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    if image.shape[:2] != truth.shape:
        image = np.array(Image.fromarray(image).resize(truth.shape[::-1]))
    overlays = [(image * 0.4 + colours[m] * 0.6).astype(np.uint8) for m in (truth, labels)]
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.concatenate([image, *overlays], axis=1))
    with replacing(path) as file:
        picture.save(file, "PNG")
