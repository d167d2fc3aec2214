"""From the images of a clip to tensors: one geometric draw for all frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np
import torch

from vidseg.card import IMAGENET_MEAN, IMAGENET_STD, Card
from vidseg.classes import IGNORE
from vidseg.data.placement import Placement, mirror, scaling, shift

RGB = tuple[float, float, float]
MAX_REDRAWS = 10
# Side of the Gaussian blur of semseg's and ETC's pipeline; its sigma is OpenCV's own for it.
BLUR_PX = 5


def opencv() -> ModuleType:
    """OpenCV, imported when it is needed; without threads of its own in a loader worker."""
    import cv2

    if torch.utils.data.get_worker_info() is not None:
        cv2.setNumThreads(0)
    return cv2


@dataclass(frozen=True)
class Photometric:
    """One draw of brightness, contrast, saturation and hue noise; None leaves a step out.

    Every step cuts to uint8, as the authors' does. Contrast comes before or after the two steps in
    HSV.

    Attributes:
        brightness: added, on the 0..255 scale.
        contrast: factor.
        contrast_first: contrast before saturation and hue.
        saturation: factor.
        hue: added, on OpenCV's scale of 180.
    """

    brightness: float | None = None
    contrast: float | None = None
    contrast_first: bool = True
    saturation: float | None = None
    hue: int | None = None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Photometric:
        """Draw with SSD's ranges: +-32, 0.5..1.5, 0.5..1.5 and -18..17, each with p = 0.5."""
        use = rng.random(5) < 0.5
        brightness, contrast, saturation = rng.uniform((-32, 0.5, 0.5), (32, 1.5, 1.5))
        hue = int(rng.integers(-18, 18))
        return cls(
            brightness=float(brightness) if use[0] else None,
            contrast=float(contrast) if use[1] else None,
            contrast_first=bool(use[2]),
            saturation=float(saturation) if use[3] else None,
            hue=hue if use[4] else None,
        )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Apply to an (H, W, 3) uint8 RGB image."""
        cv2 = opencv()
        ramp = np.arange(256, dtype=np.float64)
        if self.brightness is not None:
            image = cv2.LUT(image, _to_uint8(ramp + self.brightness))
        if self.contrast is not None and self.contrast_first:
            image = cv2.LUT(image, _to_uint8(ramp * self.contrast))
        if self.saturation is not None:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hsv[..., 1] = _to_uint8(ramp * self.saturation)[hsv[..., 1]]
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if self.hue is not None:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = ((ramp + self.hue) % 180).astype(np.uint8)[hsv[..., 0]]
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if self.contrast is not None and not self.contrast_first:
            image = cv2.LUT(image, _to_uint8(ramp * self.contrast))
        return image


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def size_within(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """Largest size of the same aspect in a box, long side to long side.

    Args:
        size: (H, W) of the image.
        box: (H, W) or (W, H); the orientation does not matter.

    Returns:
        (H, W), each int(x * scale + 0.5).

    Example:
        >>> size_within((720, 960), (1000, 750))
        (750, 1000)
    """
    scale = min(max(box) / max(size), min(box) / min(size))
    height, width = (max(int(side * scale + 0.5), 1) for side in size)
    return height, width


def is_varied(labels: np.ndarray, max_class_share: float) -> bool:
    """Whether two classes occur and none fills `max_class_share` of the pixels that count."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
    return bool((counts > 0).sum() > 1 and counts.max() / counts.sum() < max_class_share)


@dataclass(frozen=True)
class TrainTransform:
    """Random resize, crop, flip and photometric noise; one geometric draw for the whole clip.

    TMANet's published training pipeline; with `rotation`, `blur` and `padding`, semseg's, which
    is ETC's; with `translate_px` ERFNet's and LMANet's. Photometric noise is drawn once per clip;
    TMANet's authors draw it for each frame (`photometric="frame"`), which shakes the memory.

    Attributes:
        crop: (H, W) of the result; smaller images are padded, frames with 0 after normalisation,
            labels with 255. Larger than any image: no crop at all.
        base_size: (W, H) that the random ratio refers to; None for the image's own size.
        scale: range of the random ratio; (1.0, 1.0) for none.
        max_class_share: a crop is redrawn, up to 10 times, while one class fills this share of
            the label pixels that count, or is alone; 1.0 takes every crop.
        flip: probability of a horizontal flip.
        photometric: noise per "clip", per "frame" or "none".
        rotation: largest angle in degrees; drawn for every other clip, 0 for none. Corners are
            filled with the mean colour and 255.
        blur: probability of a Gaussian blur of 5 x 5 px.
        translate_px: largest shift to each side in x and y, in whole pixels before the crop, one
            draw for the clip. What it bares is filled with the mean colour and 255 (ERFNet's and
            LMANet's code leave class 0 there where the shift is negative).
        padding: smaller images go to the "start" of the crop (top left) or its "centre".
        mean: RGB, on the 0..255 scale.
        std: RGB, on the 0..255 scale.
    """

    crop: tuple[int, int]
    base_size: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    flip: float = 0.5
    photometric: Literal["clip", "frame", "none"] = "clip"
    rotation: float = 0.0
    blur: float = 0.0
    translate_px: int = 0
    padding: Literal["start", "centre"] = "start"
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD

    def __post_init__(self) -> None:
        if len(self.crop) != 2 or min(self.crop) < 1:
            raise ValueError(f"crop must be (height, width) in pixels, got {self.crop}")
        if self.base_size is not None and (len(self.base_size) != 2 or min(self.base_size) < 1):
            raise ValueError(f"base_size must be (width, height) in pixels, got {self.base_size}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be a rising range above 0, got {self.scale}")
        if not 0 < self.max_class_share <= 1 or not 0 <= self.flip <= 1:
            raise ValueError(
                "max_class_share must lie in (0, 1] and flip in [0, 1], "
                f"got {self.max_class_share} and {self.flip}"
            )
        if self.photometric not in ("clip", "frame", "none"):
            raise ValueError(
                f'photometric must be "clip", "frame" or "none", got {self.photometric!r}'
            )
        if not 0 <= self.rotation <= 180 or not 0 <= self.blur <= 1:
            raise ValueError(
                "rotation must lie in [0, 180] degrees and blur in [0, 1], "
                f"got {self.rotation} and {self.blur}"
            )
        if self.translate_px < 0:
            raise ValueError(f"translate_px must be 0 or more, got {self.translate_px}")
        if self.padding not in ("start", "centre"):
            raise ValueError(f'padding must be "start" or "centre", got {self.padding!r}')

    def __call__(
        self, frames: Sequence[np.ndarray], label: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform a clip.

        Args:
            frames: (H, W, 3) uint8 RGB each, oldest first.
            label: (H, W) uint8 of the last frame, or (T, H, W) of all frames; where to crop is
                decided by the last one's alone.
            rng: the only source of randomness.

        Returns:
            frames (T, 3, *crop) float32; labels (*crop) or (T, *crop) int64.

        Raises:
            ValueError: frames and label differ in size, or are not uint8.
        """
        clip, target, _ = self.place(frames, label, rng)
        return clip, target

    def place(
        self, frames: Sequence[np.ndarray], label: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, Placement]:
        """Transform a clip, and also return where the crop lies in the frames."""
        check_clip(frames, label)
        labels: Sequence[np.ndarray] = list(label.reshape(-1, *label.shape[-2:]))
        frames, labels, matrix = self._resize(frames, labels, rng)
        frames, labels, turn = self._rotate(frames, labels, rng)
        if self.blur and rng.random() < self.blur:
            blur = opencv().GaussianBlur
            frames = [blur(frame, (BLUR_PX, BLUR_PX), 0) for frame in frames]
        frames, labels, step = self._translate(frames, labels, rng)
        rows, columns = self._crop(labels[-1], rng)
        frames, labels = ([part[rows, columns] for part in parts] for parts in (frames, labels))
        matrix = matrix @ turn @ step @ shift(columns.start, rows.start)
        height, width = labels[-1].shape
        if rng.random() < self.flip:
            frames, labels = ([part[:, ::-1] for part in parts] for parts in (frames, labels))
            matrix = matrix @ mirror(width)
        if self.photometric == "clip":
            noise = Photometric.draw(rng)
            frames = [noise(np.ascontiguousarray(frame)) for frame in frames]
        elif self.photometric == "frame":
            frames = [Photometric.draw(rng)(np.ascontiguousarray(frame)) for frame in frames]
        top, left = (
            (side - filled) // 2 if self.padding == "centre" else 0
            for side, filled in zip(self.crop, (height, width), strict=True)
        )
        inside = slice(top, top + height), slice(left, left + width)
        clip = torch.zeros(len(frames), 3, *self.crop)
        clip[:, :, *inside] = normalise(frames, self.mean, self.std)
        target = torch.full((len(labels), *self.crop), IGNORE, dtype=torch.int64)
        target[:, *inside] = torch.from_numpy(np.stack(labels).astype(np.int64))
        placement = Placement(matrix @ shift(-left, -top), self.crop)
        return clip, target.reshape(*label.shape[:-2], *self.crop), placement

    def _resize(
        self, frames: Sequence[np.ndarray], labels: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        ratio = rng.uniform(*self.scale)
        before = labels[-1].shape[0], labels[-1].shape[1]
        width, height = self.base_size or before[::-1]
        # A ratio that leaves less than a pixel still leaves a pixel.
        box = max(int(height * ratio), 1), max(int(width * ratio), 1)
        size = size_within(before, box)
        resized = [resize_image(frame, size) for frame in frames]
        return resized, [resize_labels(label, size) for label in labels], scaling(before, size)

    def _rotate(
        self, frames: Sequence[np.ndarray], labels: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray], np.ndarray]:
        if not self.rotation or rng.random() >= 0.5:
            return frames, labels, np.eye(3)
        cv2 = opencv()
        height, width = labels[-1].shape
        angle = rng.uniform(-self.rotation, self.rotation)
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
        mean = tuple(round(value) for value in self.mean)

        def turned(image: np.ndarray, flags: int, fill: int | tuple[int, ...]) -> np.ndarray:
            return cv2.warpAffine(image, turn, (width, height), flags=flags, borderValue=fill)

        frames = [turned(frame, cv2.INTER_LINEAR, mean) for frame in frames]
        labels = [turned(label, cv2.INTER_NEAREST, IGNORE) for label in labels]
        return frames, labels, np.linalg.inv(np.vstack([turn, [0, 0, 1]]))

    def _translate(
        self, frames: Sequence[np.ndarray], labels: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray], np.ndarray]:
        if not self.translate_px:
            return frames, labels, np.eye(3)
        right, down = rng.integers(-self.translate_px, self.translate_px + 1, 2).tolist()
        mean = tuple(round(value) for value in self.mean)
        frames = [_moved(frame, right, down, mean) for frame in frames]
        labels = [_moved(label, right, down, IGNORE) for label in labels]
        return frames, labels, shift(-right, -down)

    def _crop(self, label: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice]:
        spans = self._draw_crop(label, rng)
        if self.max_class_share < 1:
            for _ in range(MAX_REDRAWS):
                if is_varied(label[spans], self.max_class_share):
                    break
                spans = self._draw_crop(label, rng)
        return spans

    def _draw_crop(self, label: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice]:
        spans = []
        for side, wanted in zip(label.shape, self.crop, strict=True):
            start = int(rng.integers(max(side - wanted, 0) + 1))
            spans.append(slice(start, start + wanted))
        return spans[0], spans[1]


def _moved(image: np.ndarray, right: int, down: int, fill: int | tuple[int, ...]) -> np.ndarray:
    """The image `right` and `down` pixels further; `fill` where it was."""
    height, width = image.shape[:2]
    moved = np.empty_like(image)
    moved[...] = fill
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
        max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return moved


@dataclass(frozen=True)
class EvalTransform:
    """Normalise; frames and labels keep their own size.

    Attributes:
        mean: RGB, on the 0..255 scale.
        std: RGB, on the 0..255 scale.
    """

    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD

    def __call__(
        self,
        frames: Sequence[np.ndarray],
        label: np.ndarray,
        rng: np.random.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform a clip.

        Args:
            frames: (H, W, 3) uint8 RGB each, oldest first.
            label: (H, W) uint8 of the last frame, or (T, H, W) of all.
            rng: unused.

        Returns:
            frames (T, 3, h, w) float32, labels of the shape that they came in, int64.

        Raises:
            ValueError: frames and label differ in size, or are not uint8.
        """
        check_clip(frames, label)
        return normalise(frames, self.mean, self.std), torch.from_numpy(label.astype(np.int64))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) uint8 bilinearly to `size` (height, width), as OpenCV does."""
    if image.shape[:2] == tuple(size):
        return image
    cv2 = opencv()
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def resize_labels(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W) label indices to `size` (height, width) by nearest neighbour, as OpenCV does.

    Raises:
        TypeError: the labels are not integers.
    """
    if not np.issubdtype(label.dtype, np.integer):
        raise TypeError(f"labels are class indices and never blended; got {label.dtype}")
    if label.shape == tuple(size):
        return label
    cv2 = opencv()
    return cv2.resize(label, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)


def normalise(frames: Sequence[np.ndarray], mean: RGB, std: RGB) -> torch.Tensor:
    """(x - mean) / std of (H, W, 3) uint8 images, as (T, 3, H, W) float32."""
    return Card(mean=mean, std=std).normalise(np.stack(frames))


def check_clip(frames: Sequence[np.ndarray], label: np.ndarray) -> None:
    """ValueError unless all frames are uint8 RGB of one size, and labels are of theirs."""
    if not frames:
        raise ValueError("a clip needs at least one frame, got none")
    for frame in frames:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"frames must be (H, W, 3) uint8 RGB, got {frame.shape} {frame.dtype}")
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        raise ValueError(f"the frames of a clip must have one size, got {sorted(sizes)}")
    size = sizes.pop()
    if label.dtype != np.uint8 or label.shape not in (size, (len(frames), *size)):
        raise ValueError(
            f"label must be (H, W) uint8 like its frame {size}, or such a map for each of the "
            f"{len(frames)} frames, got {label.shape} {label.dtype}"
        )
