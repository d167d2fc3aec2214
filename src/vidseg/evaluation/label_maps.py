"""Label maps of a data set on file: VIDEO/FRAME.png, the form of VSPW's submissions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from vidseg.atomic import settle, together
from vidseg.data.clip import Video
from vidseg.inside import inside
from vidseg.video.render import label_picture

_SHOWN = 3


class LabelMaps:
    """A folder that takes the label maps of a run, as indexed PNG; a context manager.

    `VIDEO/FRAME.png` has the frame's own name, and the class indices as its values. All of them
    appear together, at the end; those of an earlier run over the same frames are replaced then.

    Args:
        folder: is made.
        palette: (C, 3) uint8 RGB.
        frames: video -> the indices of its frames that will come.

    Raises:
        FileExistsError: the folder holds other files.
        NotADirectoryError: the folder is a file.
        ValueError: two frames of a video have one name, or a name leads out of the folder.
    """

    def __init__(
        self, folder: Path | str, palette: np.ndarray, frames: Mapping[Video, Iterable[int]]
    ) -> None:
        self.folder = Path(folder)
        self._palette = palette
        expected: set[Path] = set()
        for video, indices in frames.items():
            files = [label_map_file(self.folder, video, index) for index in indices]
            if len(set(files)) < len(files):
                raise ValueError(f"two frames of {video.name} have one name, so one label map")
            expected.update(files)
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"label maps need a folder, but {self.folder} is a file")
        settle(self.folder)
        _check_holds_nothing_else(self.folder, expected)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stage = self._stack.enter_context(together(self.folder))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, video: Video, index: int, labels: np.ndarray) -> None:
        """Write one label map.

        Args:
            video: of the frame.
            index: of the frame in the video.
            labels: (h, w) uint8.
        """
        file = label_map_file(self._stage, video, index)
        file.parent.mkdir(parents=True, exist_ok=True)
        label_picture(labels, self._palette).save(file)


def label_map_file(folder: Path, video: Video, index: int) -> Path:
    """The path of a frame's label map: VIDEO/FRAME.png."""
    return inside(folder, f"{video.name}/{video.frames[index].stem}.png")


def _check_holds_nothing_else(folder: Path, expected: set[Path]) -> None:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    others = list(islice((path for path in found if path not in expected), _SHOWN))
    if others:
        names = ", ".join(str(path.relative_to(folder)) for path in others)
        raise FileExistsError(
            f"{folder} holds files that this run does not write, such as {names}; empty it, or "
            "name another folder"
        )
