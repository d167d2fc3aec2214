"""What a model knows of a whole video: found in a first pass over it, or on file."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from vidseg.context import Prototypes
from vidseg.data.clip import Video, VideoDataset
from vidseg.inside import inside
from vidseg.segmenter import VideoSegmenter

See = Callable[[Tensor], Tensor]
"""Brings normalised frames (..., 3, H, W) to the size at which the model sees them."""


def find_context(
    model: VideoSegmenter, images: np.ndarray, *, see: See | None = None, name: str = ""
) -> Any:
    """Look at the frames of a video that the model's context is made of.

    Args:
        model: in evaluation mode, not `causal`.
        images: (T, H, W, 3) uint8, the model's `context_frames`.
        see: how the model sees them; at their own size, or the next that it takes, by default.
        name: of the video, to be kept with the context.

    Returns:
        What `forward` takes as `context`.
    """
    first = next(model.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    with torch.no_grad():
        frames = model.card.normalise(torch.from_numpy(images).to(device))
        return model.summarize((see or model.card.fit)(frames)[None], name=name)


def pick(
    images: Iterable[np.ndarray],
    wanted: tuple[int, ...],
) -> Iterator[np.ndarray]:
    """The images of these places, in one go; what a damaged video no longer has is its last one.

    Args:
        images: of the video, in order; at least one.
        wanted: places that rise and may repeat.
    """
    places = iter(wanted)
    place = next(places, None)
    image = None
    for k, image in enumerate(images):
        while place == k:
            yield image
            place = next(places, None)
        if place is None:
            return
    assert image is not None, "a reader without frames raises"
    yield image
    for _ in places:
        yield image


def check_context(context: Any, name: str) -> None:
    """Raise ValueError if a context says that it is of another video.

    Args:
        context: what the model will be given.
        name: of the video, or its path.
    """
    named = getattr(context, "video", "")
    known = {name, Path(name).name, Path(name).stem, *Path(name).absolute().parts}
    if named and not known & {named, Path(named).name, Path(named).stem}:
        raise ValueError(
            f"the context is of {named}, the video is {name}; find it anew (leave context out), "
            "or take its name away if the videos are one"
        )


def read_context(folder: Path, name: str) -> Prototypes:
    """Read the prototypes of a video from a folder that holds those of many.

    Args:
        folder: holds `NAME.safetensors`, or `NAME/centers.pt` as CFFM++'s authors have it.
        name: of the video.

    Raises:
        FileNotFoundError: the folder holds none of this video.
        ValueError: the file is damaged, is of several videos, or names another one.
    """
    file = _context_file(folder, name)
    context = Prototypes.load(file)
    check_context(context, name)
    if len(context.centers) != 1:
        raise ValueError(
            f"{file} holds the prototypes of {len(context.centers)} videos, wanted (1, K, D) of "
            f"{name} alone"
        )
    return context


def check_contexts(model: VideoSegmenter, folder: Path | None, names: Iterable[str]) -> None:
    """Refuse contexts on file that the model cannot use, or that some video lacks.

    Raises:
        ValueError: there is a folder, and the model needs none.
        FileNotFoundError: there is no such folder, or it holds none of one of the videos.
    """
    if folder is None:
        return
    if model.causal:
        raise ValueError(
            f"{type(model).__name__} reads no context of whole videos here; leave --context "
            "(context=) out"
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}, which should hold the contexts of videos, is no folder")
    for name in names:
        _context_file(folder, name)


def has_context(folder: Path, name: str) -> bool:
    """Whether a folder holds the context of a video."""
    return any(file.is_file() for file in _context_files(folder, name))


def holds_contexts(folder: Path) -> bool:
    """Whether a folder holds contexts of any videos: *.safetensors, or */centers.pt."""
    found = chain(folder.glob("*.safetensors"), folder.glob("*/centers.pt"))
    return next(found, None) is not None


def context_name(folder: Path | None) -> str:
    """Describe where the contexts of whole videos came from."""
    if folder is None:
        return "of the whole video, found in a first pass that is not in the network time"
    return f"of the whole video, from {folder}"


def _context_file(folder: Path, name: str) -> Path:
    files = _context_files(folder, name)
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"no context of the video {name} in {folder}; wanted {name}.safetensors (by "
            f"Prototypes.save) or {name}/centers.pt; without that folder (--context, context=, "
            "data.context) it is found anew"
        )
    return found


def _context_files(folder: Path, name: str) -> tuple[Path, Path]:
    return inside(folder, f"{name}.safetensors", links=True), inside(
        folder, f"{name}/centers.pt", links=True
    )


class VideoContexts:
    """The contexts of a data set's videos, for every way in which the model sees frames.

    Those on file serve all of these ways. Only the contexts that were asked for last are kept.

    Args:
        model: its context is empty where it is `causal`.
        dataset: reads the frames.
        sees: ways in which the model sees frames.
        folder: of contexts on file, as for `read_context`; None to find them.
    """

    def __init__(
        self,
        model: VideoSegmenter,
        dataset: VideoDataset,
        sees: Sequence[See],
        folder: Path | None = None,
    ) -> None:
        self._model = model
        self._dataset = dataset
        self._sees = sees
        self._folder = folder
        self._kept: dict[str, tuple[Any, ...]] = {}

    def __call__(self, videos: Sequence[Video]) -> tuple[Any, ...]:
        """The context of a batch of streams, one of each of these videos, for each way to see.

        Raises:
            ValueError: the frames of a video differ in size, or contexts on file do.
        """
        if self._model.causal:
            return (None,) * len(self._sees)
        self._kept = {video.name: self._kept.get(video.name) or self._of(video) for video in videos}
        rows = [self._kept[video.name] for video in videos]
        return tuple(_joined(column) for column in zip(*rows, strict=True))

    def _of(self, video: Video) -> tuple[Any, ...]:
        if self._folder is not None:
            return (read_context(self._folder, video.name),) * len(self._sees)
        wanted = self._model.context_frames(len(video))
        images = {t: self._dataset.read_frame(video.frames[t]) for t in dict.fromkeys(wanted)}
        if len({image.shape for image in images.values()}) > 1:
            raise ValueError(f"the frames of {video.name} must have one size, and they differ")
        stacked = np.stack([images[t] for t in wanted])
        # Unnamed: a batch may mix videos.
        return tuple(find_context(self._model, stacked, see=see) for see in self._sees)


def _joined(contexts: Sequence[Any]) -> Any:
    """One context each of several streams -> the context of the batch."""
    if len(contexts) == 1:
        return contexts[0]
    leaves = [pytree.tree_leaves(context) for context in contexts]
    for column in zip(*leaves, strict=True):
        if len({leaf.shape for leaf in column}) > 1:
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in column)
            raise ValueError(f"videos run together need contexts of one shape, got {shapes}")
    joined = [torch.cat(column) for column in zip(*leaves, strict=True)]
    return pytree.tree_unflatten(joined, pytree.tree_structure(contexts[0]))
