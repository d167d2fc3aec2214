"""How often each class occurs in the labels, and the weights that even it out in a loss."""

from __future__ import annotations

import numpy as np

from vidseg.data.clip import VideoDataset
from vidseg.progress import Display, silent


def count_pixels(dataset: VideoDataset, *, progress: Display = silent) -> np.ndarray:
    """Count the label pixels of each class.

    Args:
        dataset: its labelled frames are read once.
        progress: shows how far it is.

    Returns:
        (C + 1,) int64; ignored pixels last.

    Raises:
        ValueError: nothing is labelled, or a label file is damaged.
    """
    if not dataset.num_labelled:
        raise ValueError(f"{dataset.name} has no labels to count")
    counts = np.zeros(256, np.int64)
    with progress(f"counting {dataset.name}", dataset.num_labelled, unit="labels") as meter:
        for video in dataset.videos:
            for label in filter(None, video.labels):
                counts += np.bincount(dataset.read_label(label).ravel(), minlength=256)
                meter.advance()
    return np.append(counts[: dataset.num_classes], counts[dataset.ignore])


def class_weights(pixels: np.ndarray, *, constant: float = 1.10) -> np.ndarray:
    """Weights of a class-balanced loss: 1 / ln(constant + share), as ERFNet and LMANet train.

    The share is that of all pixels, ignored ones too. ERFNet's authors take 1.10, and 1.20 to
    train the encoder alone.

    Args:
        pixels: (C + 1,) counts, ignored pixels last (`count_pixels`).
        constant: above 1; a class that never occurs has the weight 1 / ln(constant).

    Returns:
        (C,) float64.

    Raises:
        ValueError: `constant` is not above 1, or there is no pixel.

    Example:
        >>> class_weights(np.array([90, 10, 0, 0])).round(2).tolist()
        [1.44, 5.48, 10.49]
    """
    if constant <= 1:
        raise ValueError(f"constant must be above 1, got {constant}")
    if not pixels.sum():
        raise ValueError("there is no pixel to weigh")
    return 1 / np.log(constant + pixels[:-1] / pixels.sum())
