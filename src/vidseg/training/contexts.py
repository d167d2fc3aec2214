"""What a model wants to know of whole videos in training: found once, before the first step."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from vidseg.data import Video, VideoDataset
from vidseg.inference.context import VideoContexts, read_context
from vidseg.inference.runner import View
from vidseg.layers.prototypes import Prototypes
from vidseg.segmenter import VideoSegmenter
from vidseg.training.config import TrainingConfig
from vidseg.training.digest import digest

log = logging.getLogger("vidseg.training")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SavedContexts:
    """Prototypes of videos on file.

    Attributes:
        folder: holds NAME.safetensors of each video.
        base_size: (W, H) within which frames are seen, that of training at scale 1; None for
            their own size.
    """

    folder: Path
    base_size: tuple[int, int] | None = None

    def __call__(self, video: Video) -> Tensor:
        """(K, D) prototypes of a video."""
        return read_context(self.folder, video.name).centers[0]

    def fill(
        self,
        model: VideoSegmenter,
        dataset: VideoDataset,
        progress: Progress | None = None,
    ) -> None:
        """Find those that are not there yet.

        Args:
            model: on its device; not causal.
            dataset: holds the videos.
            progress: called with the videos done and the videos in all.

        Raises:
            OSError: the disk is full; what was written before is whole.
            TypeError: the model's context is something else than prototypes.
        """
        files = {video: self.folder / f"{video.name}.safetensors" for video in dataset.videos}
        missing = [video for video, file in files.items() if not file.is_file()]
        if missing:
            log.info("finding the prototypes of %d videos, into %s", len(missing), self.folder)
        # The order of the sides of a box does not matter.
        see = partial(View(1.0, flip=False, fit=self.base_size).see, card=model.card)
        find = VideoContexts(model.eval(), dataset, [see])
        for done, video in enumerate(missing, len(files) - len(missing) + 1):
            (context,) = find([video])
            if not isinstance(context, Prototypes):
                raise TypeError(
                    f"training knows vidseg.Prototypes of whole videos, the context of "
                    f"{type(model).__name__} is {type(context).__name__}"
                )
            files[video].parent.mkdir(parents=True, exist_ok=True)
            replace(context, video=video.name).save(files[video])
            if progress is not None:
                progress(done, len(files))


def saved_contexts(
    config: TrainingConfig, dataset: VideoDataset, model: VideoSegmenter, folder: Path
) -> SavedContexts:
    """Where the contexts of a run lie: in a folder of their own, by all that they depend on.

    That is the weights that stay as they are (those that are trained change with every step), the
    model's options, the data set and the size of the frames.

    Args:
        config: of the run.
        dataset: whose videos they are of.
        model: with the weights that it starts from.
        folder: the run folder, for where `data.context` names no other.
    """
    data, trained = config.data, {n for n, p in model.named_parameters() if p.requires_grad}
    kept = {name: value for name, value in model.state_dict().items() if name not in trained}
    card = model.card
    further = (dataset.name, data.options, data.base_size, config.model.options)
    name = digest(kept, str((*further, card.mean, card.std)))
    place = folder / "context" if data.context is None else Path(data.context).expanduser()
    return SavedContexts(place / name, data.base_size)
