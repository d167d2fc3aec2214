"""Where the results of a video go: an overlay video, label pictures, an archive, a table.

Every output takes results one by one and keeps none; all outputs of a video appear together.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vidseg.atomic import Part, together
from vidseg.inference.frame_result import FrameResult
from vidseg.inference.stream import SegmentedVideo
from vidseg.inference.zip_index import ZipIndex
from vidseg.interrupts import hold_interrupts
from vidseg.video.images import open_picture
from vidseg.video.render import PICTURE_SUFFIXES, label_picture, save_picture
from vidseg.video.writer import VideoWriter

SOFTWARE = "vidseg"


class Output(Protocol):
    """A sink of results."""

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


class OutputSet:
    """The outputs of one video: all of them hold the same frames.

    Args:
        outputs: at least one.

    Attributes:
        kept: frames that are in every output; 0 where they are given up.
    """

    def __init__(self, outputs: Sequence[Output]) -> None:
        self._outputs = outputs
        self._is_writing = False
        self.kept = 0

    @property
    def is_broken(self) -> bool:
        """Whether an output failed, so that they do not hold the same any more."""
        return self._is_writing

    def add(self, result: FrameResult) -> None:
        """Write one frame to every output; Ctrl-C waits until all have it."""
        with hold_interrupts():
            self._is_writing = True
            for output in self._outputs:
                with _naming(output.path):
                    output.add(result)
            self._is_writing = False
            self.kept += 1

    def close(self) -> None:
        """Finish all of them."""
        with hold_interrupts():
            for output in self._outputs:
                with _naming(output.path):
                    output.close()

    def discard(self) -> None:
        """Give all of them up."""
        self.kept = 0
        for output in self._outputs:
            output.discard()


@contextmanager
def output_set(
    paths: Mapping[str, Path],
    results: SegmentedVideo,
    style: Mapping[str, Any],
    *,
    all_tracks: bool = False,
) -> Iterator[OutputSet]:
    """Open the outputs of a video; they appear together at the end, or not at all.

    Ctrl-C, and an error of the source or the model, end them where they are; an error of an output
    leaves what was there before.

    Args:
        paths: format ("overlay", "labels", "npz", "jsonl", "context") -> file or folder, which is
            replaced.
            Of a folder of labels those of an earlier run go, and nothing else.
        results: whose sound and frame rate an overlay takes; nothing is drawn from it here.
        style: of overlays; see `OverlayVideo`.
        all_tracks: of an overlay video; see `VideoWriter`.

    Raises:
        OSError: something cannot be written; names it.
    """
    stopped = None
    with ExitStack() as stack:
        folders = dict.fromkeys(path.parent for path in paths.values())
        old = _label_maps_in(paths.get("labels"))
        stages = {f: stack.enter_context(together(f, drop=_below(f, old))) for f in folders}
        opened = OutputSet(
            [
                _open_output(
                    kind, stages[path.parent] / path.name, results, style, all_tracks=all_tracks
                )
                for kind, path in paths.items()
            ]
        )
        try:
            try:
                yield opened
            except (KeyboardInterrupt, Exception) as error:
                if opened.is_broken or not opened.kept:
                    raise
                stopped = error
            opened.close()
        except BaseException:
            opened.discard()
            raise
    if stopped is not None:
        raise stopped


def _label_maps_in(folder: Path | None) -> list[Path]:
    return [path for path in folder.glob("*.png") if is_label_map(path)] if folder else []


def _below(folder: Path, files: list[Path]) -> Callable[[], list[Path]]:
    return lambda: [file for file in files if file.is_relative_to(folder)]


def _open_output(
    kind: str,
    path: Path,
    results: SegmentedVideo,
    style: Mapping[str, Any],
    *,
    all_tracks: bool,
) -> Output:
    if kind == "npz":
        return LabelArchive(path)
    if kind == "jsonl":
        return ShareLines(path)
    if kind == "labels":
        return LabelPictures(path)
    if kind == "context":
        return ContextFile(path, results)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return OverlayPicture(path, **style)
    writer = VideoWriter(
        path,
        fps=results.fps,
        sound_from=results.reader.sound_source,
        pixel_aspect=results.reader.pixel_aspect,
        all_tracks=all_tracks,
    )
    writer.notes = results.reader.notes
    return OverlayVideo(writer, **style)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which file an error of the operating system is about."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


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

    Args:
        path: the folder; made if it does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)

    def add(self, result: FrameResult) -> None:
        """Write one label map."""
        picture = label_picture(result.labels, result.palette)
        picture.save(self.path / f"{result.index:06d}.png", pnginfo=_signature())

    def close(self) -> None:
        """Every picture is written already."""

    def discard(self) -> None:
        """Whoever gives up the folder removes what is in it."""


class ContextFile:
    """What the model knew of the whole video, such as CFFM++'s prototypes.

    Args:
        path: a .safetensors file.
        results: have the context, by the first result.
    """

    def __init__(self, path: Path, results: SegmentedVideo) -> None:
        self.path = path
        self._results = results

    def add(self, result: FrameResult) -> None:
        """Do nothing: a context is of the whole video."""

    def close(self) -> None:
        """Write the file."""
        self._results.context.save(self.path)

    def discard(self) -> None:
        """Do nothing: nothing is written before the end."""


def is_label_map(path: Path) -> bool:
    """Whether a file has the name of those that `LabelPictures` writes, and says that it did."""
    if not re.fullmatch(r"\d{6,}", path.stem):
        return False
    with suppress(OSError, ValueError), open_picture(path, str(path)) as picture:
        return picture.info.get("Software") == SOFTWARE
    return False


def _signature() -> Any:
    """Who wrote a label map: what others put beside them is never removed."""
    from PIL.PngImagePlugin import PngInfo

    signature = PngInfo()
    signature.add_text("Software", SOFTWARE)
    return signature


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
        self._index = ZipIndex(self.path.parent)
        self._zip.filelist = self._index  # pyright: ignore[reportAttributeAccessIssue]
        self._indices, self._times_s = array("q"), array("d")
        self._classes: tuple[str, ...] = ()
        self._palette = np.zeros((0, 3), np.uint8)

    def add(self, result: FrameResult) -> None:
        """Write one label map."""
        with hold_interrupts():
            self._classes, self._palette = result.classes, result.palette
            self._write(f"{result.index:06d}", result.labels)
            self._indices.append(result.index)
            self._times_s.append(result.time_s)

    def close(self) -> None:
        """Write the rest and finish the archive."""
        if self._file.closed:
            return
        with hold_interrupts():
            self._write("classes", np.array(self._classes, dtype=np.str_))
            self._write("palette", self._palette)
            self._write("indices", np.array(self._indices, dtype=np.int64))
            self._write("times_s", np.array(self._times_s, dtype=np.float64))
            self._zip.close()
            self._index.close()
            self._finish()

    def discard(self) -> None:
        """Give up the archive; nothing is left behind."""
        with suppress(OSError, ValueError):
            self._zip.close()
        with suppress(OSError):  # a full disk refuses what is buffered
            self._index.close()
        super().discard()

    def _write(self, name: str, array: np.ndarray) -> None:
        content = io.BytesIO()
        np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
        # zipfile would write the time of day: the same labels would not give the same bytes.
        entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        self._zip.writestr(entry, content.getbuffer(), compresslevel=4)
        self._zip.NameToInfo.clear()


class ShareLines(_File):
    """One JSON line a frame: its number, time, whether a scene begins, and class shares.

    Of a steady stream also the share of followed pixels whose label changed: of the model's own
    label, and of the steady one.

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
        if result.flicker is not None and result.flicker.compared:
            compared = result.flicker.compared
            changed = {"own": result.flicker.own, "steady": result.flicker.steady}
            line["flicker"] = {name: round(n / compared, 6) for name, n in changed.items()}
        with hold_interrupts():
            self._file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())

    def close(self) -> None:
        """Finish the file."""
        with hold_interrupts():
            self._finish()
