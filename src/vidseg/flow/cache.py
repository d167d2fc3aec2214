"""Flow that is estimated once: a folder of flows, shared by any number of processes."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidseg.atomic import replacing
from vidseg.flow.estimator import FlowEstimator, check_images

log = logging.getLogger("vidseg.flow")

DIGEST_BYTES = 32


class CachedFlow:
    """An estimator that remembers on disk what it was asked before.

    A flow's file is named by the sha256 of the estimator's name and of both images, so it is never
    the flow of something else; nothing has to be told when images or settings change. It holds a
    sha256 and the float32 values, and what is read is what was estimated, bit for bit. A file that
    is damaged is estimated again. Where the folder cannot be written (a full disk), a warning says
    so once and the work goes on without.

    Args:
        estimator: what estimates.
        folder: made if need be. It can be deleted at any time.

    Raises:
        NotADirectoryError: `folder` is a file.
        OSError: the folder cannot be made.
    """

    def __init__(self, estimator: FlowEstimator, folder: str | Path) -> None:
        self.estimator = estimator
        self.folder = Path(folder)
        self._is_writing = True
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"the flow cache needs a folder, but {folder} is a file")
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def name(self) -> str:
        """The estimator's: remembering changes no value."""
        return self.estimator.name

    def __call__(self, image_t: np.ndarray, image_s: np.ndarray) -> Tensor:
        """Look the flow up, or estimate and keep it.

        Args:
            image_t: (H, W, 3) uint8 RGB.
            image_s: the same size.

        Returns:
            flow_t_to_s, (2, H, W) float32 px, x then y, as the estimator gives it.

        Raises:
            ValueError: the images are not two RGB images of one size, or the estimator refuses
                them or gives something else than a flow of their size.
        """
        check_images(image_t, image_s)
        key = _key(self.name, image_t, image_s)
        shape = (2, *image_t.shape[:2])
        path = self.folder / f"{key.hex()}.flow"
        flow = self._read(path, key, shape)
        if flow is None:
            flow = self.estimator(image_t, image_s)
            if tuple(flow.shape) != shape or flow.dtype != torch.float32:
                raise ValueError(
                    f"{self.name} must give (2, H, W) = {shape} float32, got {tuple(flow.shape)} "
                    f"{flow.dtype}"
                )
            self._write(path, key, flow)
        return flow

    def _read(self, path: Path, key: bytes, shape: tuple[int, ...]) -> Tensor | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s cannot be read (%s); estimating again", path, error.strerror)
            return None
        values = content[DIGEST_BYTES:]
        if content[:DIGEST_BYTES] != _digest(key, values):
            log.warning("%s is damaged; estimating again", path)
            return None
        # A copy: torch warns of memory that it must not write.
        return torch.from_numpy(np.frombuffer(values, "<f4").astype(np.float32).reshape(shape))

    def _write(self, path: Path, key: bytes, flow: Tensor) -> None:
        if not self._is_writing:
            return
        values = flow.detach().cpu().numpy().astype("<f4", copy=False).tobytes()
        try:
            with replacing(path) as file:
                file.write(_digest(key, values))
                file.write(values)
        except OSError as error:
            self._is_writing = False
            log.warning(
                "the flow cache %s cannot be written (%s); going on without keeping more flow",
                self.folder,
                error.strerror,
            )


def _key(name: str, image_t: np.ndarray, image_s: np.ndarray) -> bytes:
    digest = hashlib.sha256(f"{name}\n{image_t.shape}\n{image_s.shape}\n".encode())
    for image in (image_t, image_s):
        digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def _digest(key: bytes, values: bytes) -> bytes:
    # Of the key too, so that a file under another's name is found out.
    digest = hashlib.sha256(key)
    digest.update(values)
    return digest.digest()
