"""What a model wants to know of whole videos in training: found once, and kept on file."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from vidseg.context import Prototypes
from vidseg.data import Video, VideoDataset
from vidseg.inference.context import (
    VideoContexts,
    check_contexts,
    has_context,
    holds_contexts,
    read_context,
)
from vidseg.inference.runner import View
from vidseg.inside import inside
from vidseg.progress import Display, Meter, silent
from vidseg.segmenter import VideoSegmenter
from vidseg.training.config import TrainingConfig
from vidseg.training.digest import digest

log = logging.getLogger("vidseg.training")


@dataclass(frozen=True)
class SavedContexts:
    """Prototypes of videos on file.

    Attributes:
        folder: holds NAME.safetensors of each video, or NAME/centers.pt.
        view: how the model sees the frames that they are found in.
    """

    folder: Path
    view: View

    def __call__(self, video: Video) -> Tensor:
        """(K, D) prototypes of a video."""
        return read_context(self.folder, video.name).centers[0]

    def check(self, videos: Sequence[Video]) -> None:
        """Raise ValueError unless all can be read and have one shape, as those of a batch must."""
        first, *others = videos
        wanted = tuple(self(first).shape)
        for video in others:
            found = tuple(self(video).shape)
            if found != wanted:
                raise ValueError(
                    f"{self.folder} holds prototypes (K, D) of {found} for {video.name} and of "
                    f"{wanted} for {first.name}; samples of a batch need one shape"
                )

    def fill(
        self,
        model: VideoSegmenter,
        dataset: VideoDataset,
        videos: Sequence[Video] | None = None,
        progress: Display = silent,
    ) -> None:
        """Find those that are not there yet.

        Args:
            model: on its device; not causal.
            dataset: reads the frames.
            videos: those that are wanted; all of the data set by default.
            progress: shows how many videos are looked at.

        Raises:
            OSError: the disk is full; what was written before is whole.
            TypeError: the model's context is something else than prototypes.
        """
        videos = dataset.videos if videos is None else videos
        missing = [video for video in videos if not has_context(self.folder, video.name)]
        if missing:
            log.info("finding the prototypes of %d videos, into %s", len(missing), self.folder)
        find = VideoContexts(model.eval(), dataset, [partial(self.view.see, card=model.card)])
        for video, meter in _counted(missing, progress):
            (context,) = find([video])
            if not isinstance(context, Prototypes):
                raise TypeError(
                    f"training knows vidseg.Prototypes of whole videos, the context of "
                    f"{type(model).__name__} is {type(context).__name__}"
                )
            file = inside(self.folder, f"{video.name}.safetensors")
            file.parent.mkdir(parents=True, exist_ok=True)
            replace(context, video=video.name).save(file)
            meter.advance()


def _counted(videos: Sequence[Video], progress: Display) -> Iterator[tuple[Video, Meter]]:
    """Each video with the meter of a display, which is opened only where there is a video."""
    if videos:
        with progress("looking at the videos first", len(videos), unit="videos") as meter:
            for video in videos:
                yield video, meter


def training_contexts(
    config: TrainingConfig, dataset: VideoDataset, model: VideoSegmenter, folder: Path
) -> SavedContexts:
    """Find or make the contexts of the training videos.

    In `data.context` itself, if that holds contexts of videos: then nothing is found anew. Else in
    a folder of their own, there or in the run folder, by all that they depend on: the weights that
    stay as they are (those that are trained change with every step), the model's options, the data
    set and the size of the frames.

    Args:
        config: of the run.
        dataset: whose videos they are of.
        model: with the weights that it starts from.
        folder: the run folder.

    Raises:
        FileNotFoundError: `data.context` holds contexts, but not of all of these videos.
        ValueError: one of them is damaged, or they differ in shape.
    """
    data = config.data
    given = _given(config)
    if given is not None:
        check_contexts(model, given, (video.name for video in dataset.videos))
        saved = SavedContexts(given, View())
        saved.check(dataset.videos)
        return saved
    # The order of the sides of a box does not matter.
    view = View(1.0, flip=False, fit=data.base_size)
    return _found(config, dataset, model, folder, view, data.options)


def validation_contexts(
    config: TrainingConfig, dataset: VideoDataset, model: VideoSegmenter, folder: Path
) -> SavedContexts:
    """Find or make the contexts of the validation videos, as those of training.

    They stay as they are from one validation to the next, as the weights do that find them.
    Contexts in `data.context` itself are read if there is one of these videos among them.

    Args:
        config: of the run.
        dataset: to validate on.
        model: not causal.
        folder: of the run.

    Raises:
        FileNotFoundError: as `training_contexts`.
    """
    given = _given(config)
    names = [video.name for video in dataset.videos]
    if given is not None and any(has_context(given, name) for name in names):
        check_contexts(model, given, names)
        return SavedContexts(given, View())
    options = config.validation_source().options
    return _found(config, dataset, model, folder, View(config.validation.scale), options)


def _given(config: TrainingConfig) -> Path | None:
    """The folder of the config, if it holds contexts of videos itself."""
    folder = None if config.data.context is None else Path(config.data.context).expanduser()
    return folder if folder is not None and holds_contexts(folder) else None


def _found(
    config: TrainingConfig,
    dataset: VideoDataset,
    model: VideoSegmenter,
    folder: Path,
    view: View,
    options: dict[str, Any],
) -> SavedContexts:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    kept = {name: value for name, value in model.state_dict().items() if name not in trained}
    card = model.card
    size = dataset.read_frame(dataset.videos[0].frames[0]).shape  # at another one, others
    further = (dataset.name, options, size, view, config.model.options, card.mean, card.std)
    named, own = config.data.context, folder / "context"
    place = own if named is None or _given(config) is not None else Path(named).expanduser()
    return SavedContexts(place / digest(kept, str(further)), view)
