"""Where the results of a video go: an overlay video, label pictures, an archive, a table.

Every output takes results one by one, keeps none, and gives its file the final name when closed.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vidseg.atomic import Part
from vidseg.inference.stream import FrameResult
from vidseg.interrupts import hold_interrupts
from vidseg.video.render import label_picture, save_picture
from vidseg.video.writer import VideoWriter


class Output(Protocol):
    """What takes results."""

    path: Path

    def add(self, result: FrameResult) -> None:
        """Write one frame."""
        ...

    def close(self) -> None:
        """Finish, and give the file its name."""
        ...

    def discard(self) -> None:
        """Give up; nothing is left under the final name."""
        ...


class OverlayVideo:
    """A video of the frames with their classes in colour.

    Args:
        writer: of the file.
        opacity: of the colours, in [0, 1].
        contour: draw the borders of regions.
        legend: a strip with the names of the classes below the picture.
        beside: show the frame itself to the left.
    """

    def __init__(
        self,
        writer: VideoWriter,
        *,
        opacity: float = 0.5,
        contour: bool = False,
        legend: bool = True,
        beside: bool = False,
    ) -> None:
        self.path = writer.path
        self._writer = writer
        self._beside = beside
        self._style: dict[str, Any] = {"opacity": opacity, "contour": contour, "legend": legend}

    def add(self, result: FrameResult) -> None:
        """Write one frame, at its time."""
        paint = result.side_by_side if self._beside else result.overlay
        self._writer.write(paint(**self._style), result.time_s, result.duration_s)

    def close(self) -> None:
        """Finish the video."""
        self._writer.close()

    def discard(self) -> None:
        """Give up the video."""
        self._writer.discard()


class OverlayPicture:
    """The overlay of a source that is one picture.

    Args:
        path: the picture, .png or .jpg.
        style: opacity, contour, legend and beside, as for `OverlayVideo`.
    """

    def __init__(self, path: str | Path, *, beside: bool = False, **style: Any) -> None:
        self.path = Path(path)
        self._beside = beside
        self._style = style

    def add(self, result: FrameResult) -> None:
        """Write the picture."""
        paint = result.side_by_side if self._beside else result.overlay
        save_picture(self.path, paint(**self._style))

    def close(self) -> None:
        """The picture is written already."""

    def discard(self) -> None:
        """The picture, once written, is whole."""


class LabelPictures:
    """A folder of indexed PNG files, 000000.png and so on; pixel values are class indices.

    Every file is whole or not there. What is written stays, whatever happens later.

    Args:
        path: the folder; made if it does not exist.
        replace: remove the label maps of an earlier run, and nothing else, first.
    """

    def __init__(self, path: str | Path, *, replace: bool = False) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        for old in self.path.glob("*.png") if replace else ():
            if is_label_map(old):
                old.unlink()

    def add(self, result: FrameResult) -> None:
        """Write one label map."""
        picture = label_picture(result.labels, result.palette)
        save_picture(self.path / f"{result.index:06d}.png", picture)

    def close(self) -> None:
        """Every picture is written already."""

    def discard(self) -> None:
        """Pictures that are written stay: each is whole."""


def is_label_map(path: Path) -> bool:
    """Whether a file has the name and the kind of those that `LabelPictures` writes."""
    if not re.fullmatch(r"\d{6,}", path.stem):
        return False
    with suppress(OSError), Image.open(path) as picture:
        return picture.mode == "P"
    return False


class _File:
    """A file under a temporary name until it is closed."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._part = Part(self.path)
        self._file: Any = self._part.file

    def _finish(self) -> None:
        if not self._file.closed:
            self._part.finish()

    def discard(self) -> None:
        """Give up the file; nothing is left behind."""
        self._part.discard()


class LabelArchive(_File):
    """All label maps in one .npz: `np.load(path)["000012"]` is frame 12, (H, W) uint8.

    It also holds `classes`, `palette`, `indices` and `times_s`. Maps are written and compressed
    one by one.

    Args:
        path: the .npz file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_DEFLATED, compresslevel=4)
        self._clock: list[tuple[int, float]] = []
        self._classes: tuple[str, ...] = ()
        self._palette = np.zeros((0, 3), np.uint8)

    def add(self, result: FrameResult) -> None:
        """Write one label map."""
        with hold_interrupts():
            self._classes, self._palette = result.classes, result.palette
            self._write(f"{result.index:06d}", result.labels)
            self._clock.append((result.index, result.time_s))

    def close(self) -> None:
        """Write the rest and finish the archive."""
        if self._file.closed:
            return
        with hold_interrupts():
            self._write("classes", np.array(self._classes, dtype=np.str_))
            self._write("palette", self._palette)
            self._write("indices", np.array([index for index, _ in self._clock], dtype=np.int64))
            self._write("times_s", np.array([time_s for _, time_s in self._clock]))
            self._zip.close()
            self._finish()

    def discard(self) -> None:
        """Give up the archive; nothing is left behind."""
        with suppress(OSError, ValueError):
            self._zip.close()
        super().discard()

    def _write(self, name: str, array: np.ndarray) -> None:
        content = io.BytesIO()
        np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
        self._zip.writestr(f"{name}.npy", content.getbuffer())


class ShareLines(_File):
    """One JSON line a frame: its number, time, whether a scene begins, and class shares.

    Args:
        path: the .jsonl file.
    """

    def add(self, result: FrameResult) -> None:
        """Write one line."""
        line = {
            "index": result.index,
            "time_s": round(result.time_s, 6),
            "is_cut": result.is_cut,
            "shares": {name: round(share, 6) for name, share in result.shares().items()},
        }
        with hold_interrupts():
            self._file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())

    def close(self) -> None:
        """Finish the file."""
        with hold_interrupts():
            self._finish()
