"""A small street world with exact labels and exact optical flow, rendered by ray casting.

Every pixel is the colour and class of the one surface point that its centre sees: the ground,
the rows of houses beside it, flat cut-outs in it, or the sky. Flow is where that very point is
seen in the next frame, so it is exact, and so is the knowledge of what is hidden there.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from vidseg.classes import CAMVID
from vidseg.data.clip import Video, VideoDataset
from vidseg.data.files import write_image, write_whole
from vidseg.data.synthetic import street
from vidseg.data.synthetic.raycast import Renderer
from vidseg.data.synthetic.sprites import CLASSES
from vidseg.data.synthetic.street import RATE_HZ, Camera
from vidseg.documents import read_json
from vidseg.printable import shortened

PALETTE = np.array(CAMVID.palette, np.uint8)
SPLITS = ("train", "val", "test")
# Rendered videos kept in memory, per data set.
KEPT_BYTES = 2**30


@dataclass(frozen=True)
class SyntheticVideo:
    """A rendered video.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        labels: (T, H, W) uint8, 255 ignored (the bonnet of the own car).
        flow_forward: (T-1, 2, H, W) float32 px, x then y, from t to t+1, on t's grid.
        valid: (T-1, H, W) bool: the point is in frame t+1, and its pixel there (the nearest one)
            sees the same surface and class.
        flow_backward: (T-1, 2, H, W) float32 px, from t+1 to t, on the grid of t+1.
        valid_backward: (T-1, H, W) bool, of `flow_backward`.
    """

    frames: np.ndarray
    labels: np.ndarray
    flow_forward: np.ndarray
    valid: np.ndarray
    flow_backward: np.ndarray
    valid_backward: np.ndarray


def render(
    seed: int,
    num_frames: int,
    size: tuple[int, int] = (128, 256),
    *,
    camera: Camera | None = None,
    noise: bool = True,
) -> SyntheticVideo:
    """Render a video of a street: a pure function of its arguments.

    The first frames of a longer video are the frames of a shorter one. The camera's turning is a
    shift of the image by whole pixels; posts are never thinner than a pixel at 25 m.

    Args:
        seed: 0 or more; layout, light, weather, traffic and noise.
        num_frames: at least 1, at 15 Hz.
        size: (H, W) px, at least 16 each.
        camera: "drive" along the street, "pan", or wait "still" at a crossing; None draws one.
        noise: False leaves out the sensor: blur, noise and the flicker of the light.

    Raises:
        ValueError: an argument is out of range.
    """
    size = _check(seed, num_frames, size, camera)
    renderer = Renderer(seed, size, camera)
    pairs = num_frames - 1
    video = SyntheticVideo(
        frames=np.empty((num_frames, *size, 3), np.uint8),
        labels=np.empty((num_frames, *size), np.uint8),
        flow_forward=np.empty((pairs, 2, *size), np.float32),
        valid=np.empty((pairs, *size), bool),
        flow_backward=np.empty((pairs, 2, *size), np.float32),
        valid_backward=np.empty((pairs, *size), bool),
    )
    previous = None
    for t in range(num_frames):
        view = renderer.view(t)
        video.frames[t] = renderer.expose(view, sensor=noise)
        video.labels[t] = view.labels
        if previous is not None:
            video.flow_forward[t - 1], video.valid[t - 1] = renderer.flow(previous, view)
            video.flow_backward[t - 1], video.valid_backward[t - 1] = renderer.flow(view, previous)
        previous = view
    return video


def _check(seed: int, num_frames: int, size: Sequence[int], camera: str | None) -> tuple[int, int]:
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    if len(size) != 2 or min(size) < 16:
        raise ValueError(f"size must be (H, W) with at least 16 px a side, got {size}")
    if camera is not None and camera not in street.CAMERAS:
        raise ValueError(f"camera must be one of {street.CAMERAS} or None, got {camera!r}")
    return int(size[0]), int(size[1])


class SyntheticDataset(VideoDataset):
    """Rendered street videos with a label for every frame; splits share no street.

    Without `root` a video is rendered when one of its frames is first read, and kept in memory as
    far as 1 GiB goes. With `root` the split is written once, in the layout of your own data
    (`open_dataset("folder", root, split)` reads it as well), and read from there.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        split: str = "train",
        *,
        num_videos: int = 8,
        num_frames: int = 12,
        size: Sequence[int] = (128, 256),
        seed: int = 0,
        camera: Camera | None = None,
    ) -> None:
        """Describe the videos; render nothing unless `root` is given.

        Args:
            root: folder to write to and read from, or None.
            split: "train", "val" or "test".
            num_videos: each from a street of its own.
            num_frames: of each video, at 15 Hz.
            size: (H, W) px.
            seed: of the data set.
            camera: as in `render`.

        Raises:
            ValueError: an argument is out of range, or `root` holds other videos or files.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if num_videos < 1:
            raise ValueError(f"num_videos must be at least 1, got {num_videos}")
        self.size = _check(seed, num_frames, size, camera)
        self.seed, self.split, self.num_frames_each = seed, split, num_frames
        self.camera: Camera | None = camera
        self.root = None if root is None else Path(root)
        folder = (self.root or Path("synthetic")) / split
        names = [f"street_{number:04d}" for number in range(num_videos)]
        self._numbers = {name: number for number, name in enumerate(names)}
        super().__init__(
            f"synthetic/{split}", [self._video(folder, n) for n in names], CLASSES, PALETTE
        )
        bytes_each = 4 * num_frames * self.size[0] * self.size[1]
        self._kept_videos = max(1, KEPT_BYTES // bytes_each)
        self._read = lru_cache(self._kept_videos)(self._render_images)
        if self.root is not None:
            self._write(self.root)

    def rendered(self, video: Video, *, noise: bool = True) -> SyntheticVideo:
        """Render one of `videos` again, with flow and validity."""
        seed = self._seed_of(self._numbers[video.name])
        return render(seed, self.num_frames_each, self.size, camera=self.camera, noise=noise)

    def read_frame(self, path: Path) -> np.ndarray:
        """Frame of a path in `videos`: (H, W, 3) uint8 RGB."""
        if self.root is not None:
            return super().read_frame(path)
        return self._read(path.parent.parent.name)[0][int(path.stem)]

    def read_label(self, path: Path) -> np.ndarray:
        """Labels of a path in `videos`: (H, W) uint8, 255 ignored."""
        if self.root is not None:
            return super().read_label(path)
        return self._read(path.parent.parent.name)[1][int(path.stem)]

    def _video(self, folder: Path, name: str) -> Video:
        numbers = tuple(range(self.num_frames_each))
        frames, masks = (
            tuple(folder / name / part / f"{number:05d}.png" for number in numbers)
            for part in ("frames", "masks")
        )
        return Video(name, frames, masks, numbers, RATE_HZ)

    def _seed_of(self, number: int) -> int:
        parts = (self.seed, SPLITS.index(self.split), number)
        return int(np.random.SeedSequence(parts).generate_state(1)[0])

    def _render_images(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        seed = self._seed_of(self._numbers[name])
        video = render(seed, self.num_frames_each, self.size, camera=self.camera)
        for images in (video.frames, video.labels):
            images.flags.writeable = False
        return video.frames, video.labels

    def _write(self, root: Path) -> None:
        settings = {
            "seed": self.seed,
            "num_frames": self.num_frames_each,
            "size": list(self.size),
            "camera": self.camera,
        }
        record = root / self.split / "synthetic.json"
        if record.exists():
            there = read_json(record)
            if there != settings:
                raise ValueError(
                    f"{root / self.split} holds videos of {shortened(there)}, not of {settings}; "
                    "give another root or remove the folder"
                )
        elif (other := _foreign_file(root, self.split)) is not None:
            raise ValueError(
                f"{other} is no part of a rendered street; give a new or empty folder as root, "
                'or open your own data as the kind "folder"'
            )
        write_whole(record, json.dumps(settings).encode())
        palette = {n: c.tolist() for n, c in zip(CLASSES, PALETTE, strict=True)}
        described = {"classes": palette, "fps": RATE_HZ, "ignore": [self.ignore]}
        write_whole(root / "classes.json", json.dumps(described, indent=1).encode())
        for video in self.videos:
            # Frame files are renamed into place one by one and the last mask comes last.
            if video.labels[-1] is not None and video.labels[-1].exists():
                continue
            images = self._render_images(video.name)
            for place, files in zip(images, (video.frames, video.labels), strict=True):
                for image, path in zip(place, files, strict=True):
                    assert path is not None, "every frame of a synthetic video has labels"
                    write_image(path, image)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_read"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._read = lru_cache(self._kept_videos)(self._render_images)


def _foreign_file(root: Path, split: str) -> Path | None:
    """Find a foreign file where the first split would be written; None if there is none."""
    top = [path for path in root.glob("[!.]*") if path.name not in SPLITS]
    other = next(iter([*top, *(root / split).glob("[!.]*")]), None)
    # Asked last: another process that renders writes its record before everything else.
    return None if any(root.glob("*/synthetic.json")) else other
