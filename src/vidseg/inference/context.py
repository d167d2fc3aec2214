"""The first pass over a video, for methods that must know the whole of it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidseg.segmenter import VideoSegmenter


def find_context(
    model: VideoSegmenter,
    num_frames: int,
    read: Callable[[tuple[int, ...]], Iterable[np.ndarray]],
    *,
    size: tuple[int, int] | None = None,
    name: str = "",
) -> Any:
    """Look at the frames of a video that the model's context is made of.

    Args:
        model: in evaluation mode, not `causal`.
        num_frames: of the video.
        read: gives the images (H, W, 3) uint8 of these frames, whose numbers rise and may repeat.
        size: (H, W) at which the model sees the frames; their own by default.
        name: of the video, to be kept with the context.

    Returns:
        What `forward` takes as `context`.
    """
    images = np.stack(list(read(model.context_frames(num_frames))))
    first = next(model.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    with torch.no_grad():
        frames = model.card.normalise(torch.from_numpy(images).to(device))
        return model.summarize(model.card.fit(frames, size)[None], name=name)


def pick(
    images: Iterable[np.ndarray],
    wanted: tuple[int, ...],
) -> Iterable[np.ndarray]:
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
