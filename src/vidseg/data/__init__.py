"""Data sets of labelled video, the clips cut from them, and how they are transformed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidseg.data.clip import (
    IGNORE,
    Snippet,
    Video,
    VideoDataset,
    snippets,
)
from vidseg.data.sampling import Choice, ClipDataset, choices, gapped
from vidseg.data.transforms import EvalTransform, TrainTransform
from vidseg.data.windows import drawn, preceding, spaced
from vidseg.inside import fault_of
from vidseg.suggest import did_you_mean

KINDS = ("camvid", "cityscapes", "folder", "kitti-step", "synthetic", "vipseg", "vspw")


def open_dataset(
    kind: str, root: Path | str | None = None, split: str = "val", **options: Any
) -> VideoDataset:
    """Open a data set.

    Args:
        kind: one of `KINDS`.
        root: its folder; None where it is rendered in memory.
        split: such as "train", "val" or "test".
        **options: of the kind: `protocol` of CamVid, `labels` of Cityscapes, ...; see docs/data.md.

    Raises:
        ValueError: an unknown kind or split.
        TypeError: an option that the kind does not have.
        FileNotFoundError: the folder or a part of it is missing.
    """
    maker = _maker(kind)
    if kind != "synthetic":
        if root is None:
            raise ValueError(
                f"the data set {kind!r} needs its folder: pass root=DIR "
                "(--root DIR, or data.root=DIR for a recipe)"
            )
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"{root}, the folder of the data set {kind!r}, does not exist")
    if fault := fault_of(split):
        raise ValueError(f"the split {split!r} {fault}; it is called like train or val")
    known = [name for name in inspect.signature(maker).parameters if name not in _PLACES]
    _check_options(kind, options, known)
    return maker(None if root is None else Path(root), split, **options)


_PLACES = ("root", "split")


def _maker(kind: str) -> Callable[..., VideoDataset]:
    if kind == "camvid":
        from vidseg.data.camvid import CamVid

        return CamVid
    if kind == "cityscapes":
        from vidseg.data.cityscapes import Cityscapes

        return Cityscapes
    if kind == "folder":
        from vidseg.data.folder import Folder

        return Folder
    if kind == "synthetic":
        from vidseg.data.synthetic import SyntheticDataset

        return SyntheticDataset
    if kind in ("kitti-step", "vipseg"):
        from vidseg.data.panoptic import KittiStep, VIPSeg

        return VIPSeg if kind == "vipseg" else KittiStep
    if kind == "vspw":
        from vidseg.data.vspw import VSPW

        return VSPW
    raise ValueError(f"unknown kind of data set {kind!r}{did_you_mean(kind, KINDS)}")


def _check_options(kind: str, options: dict[str, Any], known: list[str]) -> None:
    for name in options:
        if name not in known:
            raise TypeError(
                f"the data set {kind!r} has no option {name!r}{did_you_mean(name, known)}"
            )


__all__ = [
    "IGNORE",
    "KINDS",
    "Choice",
    "ClipDataset",
    "EvalTransform",
    "Snippet",
    "TrainTransform",
    "Video",
    "VideoDataset",
    "choices",
    "drawn",
    "gapped",
    "open_dataset",
    "preceding",
    "snippets",
    "spaced",
]
