"""Readers of common layouts of one's own data; each yields videos, frames and masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vidseg.data.layouts.cvat import read_cvat
from vidseg.data.layouts.film import read_film
from vidseg.data.layouts.found import Asked, Found, NoSuchLayout
from vidseg.data.layouts.labelme import read_labelme
from vidseg.data.layouts.panoptic import read_panoptic
from vidseg.data.layouts.rasters import read_davis, read_flat, read_voc
from vidseg.suggest import did_you_mean

# In the order in which they are tried: what says more of itself comes first.
READERS: dict[str, Callable[[Path, Asked], Found]] = {
    "cvat": read_cvat,
    "coco-panoptic": read_panoptic,
    "labelme": read_labelme,
    "davis": read_davis,
    "voc": read_voc,
    "flat": read_flat,
    "video": read_film,
}

_FOLDERS = ("davis", "voc", "flat")
_PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def read_layout(source: Path, layout: str = "auto", asked: Asked | None = None) -> Found:
    """Read a source in the layout that it is in.

    Args:
        source: a folder, a video file, or the file of an annotation program.
        layout: a name of `READERS`, or "auto" for the first that fits.
        asked: what is said of it.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: no layout fits, or what it holds is malformed.
    """
    asked = asked or Asked()
    if layout != "auto" and layout not in READERS:
        raise ValueError(f"no layout {layout!r}{did_you_mean(layout, ('auto', *READERS))}")
    if not source.exists():
        raise FileNotFoundError(f"no such file or folder: {source}")
    if source.is_file() and source.suffix.lower() in _PACKED:
        raise ValueError(f"{source} is packed; unpack it, and give the folder")
    reasons = []
    for name in READERS if layout == "auto" else (layout,):
        if source.is_file() and name in _FOLDERS:
            reasons.append(f"{name}: no folder")
            continue
        try:
            return READERS[name](source, asked)
        except NoSuchLayout as reason:
            reasons.append(f"{name}: {reason}")
    raise ValueError(
        f"{source} is in no layout that is known; looked for\n  " + "\n  ".join(reasons)
    )


__all__ = ["READERS", "Asked", "Found", "read_layout"]
