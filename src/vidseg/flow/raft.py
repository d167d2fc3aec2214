"""RAFT: flow by a network, with torchvision's model and weights from its hub or a local file."""

import hashlib
import logging
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vidseg.flow.estimator import check_images
from vidseg.weights import read_checkpoint, state_dict_of

log = logging.getLogger("vidseg.flow")

Variant = Literal["small", "large"]
VARIANTS: tuple[Variant, ...] = ("small", "large")
SIDE_MULTIPLE_PX = 8
# Its correlation pyramid has four levels over a map of an eighth; smaller frames are padded.
MIN_SIDE_PX = 128


class RAFT:
    """RAFT optical flow (Teed and Deng, ECCV 2020), torchvision's model (extra `flow`).

    A frame needs about 1.4 (H W / 64)^2 * 4 bytes for its correlations: 0.4 GB at 512x1024, 6 GB
    at 1024x2048.

    Args:
        variant: "small" (1 M parameters) or "large" (5.3 M).
        weights: a file of torchvision or of the authors, with or without the prefix "module.";
            None takes torchvision's default from its hub.
        iterations: how often the flow is refined.
        device: where to compute; the CPU by default.

    Raises:
        ImportError: torchvision is not installed, or does not work with this torch.
        FileNotFoundError: no such file, or the hub cannot be reached.
        ValueError: an unknown variant, fewer iterations than one, or weights that do not fit in
            every name and shape.
    """

    def __init__(
        self,
        variant: Variant = "small",
        weights: str | Path | None = None,
        *,
        iterations: int = 12,
        device: str | torch.device | None = None,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        torchvision = _torchvision()
        self.variant: Variant = variant
        self.iterations = iterations
        self.device = torch.device(device or "cpu")
        path = _download(variant) if weights is None else Path(weights)
        tensors = to_torchvision_keys(state_dict_of(read_checkpoint(path)))
        build = getattr(torchvision.models.optical_flow, f"raft_{variant}")
        self._model = build(weights=None, progress=False).eval().requires_grad_(False)
        try:
            self._model.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(
                f"{path} does not hold the weights of raft-{variant}; is it the file of the other "
                f"variant? {error}"
            ) from error
        self.name = (
            f"raft-{variant} (torchvision {torchvision.__version__.partition('+')[0]}, weights "
            f"{_fingerprint(self._model.state_dict())}, {iterations} iterations)"
        )
        self._model.to(self.device)

    @torch.no_grad()
    def __call__(self, image_t: np.ndarray, image_s: np.ndarray) -> Tensor:
        """Estimate where each pixel of image t is in image s.

        Sides are padded to multiples of 8, and to 128 px at least, by repeating the border.

        Args:
            image_t: (H, W, 3) uint8 RGB.
            image_s: the same size.

        Returns:
            flow_t_to_s, (2, H, W) float32 px on the CPU, x then y: `warp(image_s, flow)` looks
            like t.

        Raises:
            ValueError: the images are not two RGB images of one size.
        """
        check_images(image_t, image_s)
        height, width = image_t.shape[:2]
        left, right = _padding(width)
        top, bottom = _padding(height)
        frames = torch.from_numpy(np.stack([image_t, image_s])).to(self.device)
        frames = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
        frames = functional.pad(frames, (left, right, top, bottom), mode="replicate")
        refinements = self._model(frames[:1], frames[1:], num_flow_updates=self.iterations)
        flow = refinements[-1][0, :, top : top + height, left : left + width]
        return flow.cpu().contiguous()


def to_torchvision_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys to torchvision's; torchvision's own stay as they are.

    Args:
        tensors: a state dict of RAFT, without the prefix "module.".

    Returns:
        The same tensors, every one of them, under torchvision's names.

    Raises:
        ValueError: two different tensors have one name.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        target = _rename(name)
        # The authors list the norm of a downsampling twice, as norm3 and as downsample.1.
        if target in renamed and not torch.equal(renamed[target], value):
            raise ValueError(f"the checkpoint holds two different tensors for {target}")
        renamed[target] = value
    return renamed


_RENAMED = [
    (r"fnet\.", "feature_encoder."),
    (r"cnet\.", "context_encoder."),
    (r"(\w+_encoder)\.conv1\.", r"\1.convnormrelu.0."),
    (r"(\w+_encoder)\.norm1\.", r"\1.convnormrelu.1."),
    (r"(\w+_encoder)\.conv2\.", r"\1.conv."),
    (r"(\w+_encoder\.layer\d\.0)\.norm3\.", r"\1.downsample.1."),
    (r"(\w+_encoder\.layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"(\w+_encoder\.layer\d\.\d)\.norm(\d)\.", r"\1.convnormrelu\2.1."),
    (r"update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
    (r"update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"update_block\.gru\.conv([zrq])\.", r"update_block.recurrent_block.convgru1.conv\1."),
    (r"update_block\.gru\.conv([zrq])(\d)\.", r"update_block.recurrent_block.convgru\2.conv\1."),
    (r"update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"update_block\.mask\.2\.", "mask_predictor.conv."),
]


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(f"^{pattern}", replacement, name)
    return name


def _padding(side_px: int) -> tuple[int, int]:
    """Pixels to add before and after."""
    wanted = max(MIN_SIDE_PX, -(-side_px // SIDE_MULTIPLE_PX) * SIDE_MULTIPLE_PX)
    before = (wanted - side_px) // 2
    return before, wanted - side_px - before


def _fingerprint(tensors: dict[str, Tensor]) -> str:
    """The beginning of a sha256 of names and values: the same for every layout of a file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if not name.endswith("num_batches_tracked"):
            digest.update(name.encode())
            digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()[:8]


def _torchvision() -> Any:
    try:
        import torchvision  # pyright: ignore[reportMissingImports]
        import torchvision.models.optical_flow  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ImportError(
            "RAFT needs torchvision, which is not installed: pip install torchvision; "
            'the flow "dis" needs nothing more'
        ) from error
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"torchvision does not work with this torch, {torch.__version__} ({error}); install "
            "builds that belong together: pip install --force-reinstall torch torchvision"
        ) from error
    return torchvision


def _download(variant: Variant) -> Path:
    """Torchvision's default weights, from its hub or from the hub's cache on this machine."""
    from torchvision.models import optical_flow  # pyright: ignore[reportMissingImports]

    weights = getattr(optical_flow, f"Raft_{variant.capitalize()}_Weights").DEFAULT
    file = weights.url.rsplit("/", 1)[-1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if path.is_file():
        return path
    log.warning(
        "downloading %s of torchvision (%.0f MB); licence: BSD-3-Clause as torchvision, which "
        "adds that the terms of the training data may apply",
        file,
        weights.meta["_file_size"],
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # torchvision's names end in the beginning of the file's sha256.
        sha256 = file.rpartition("-")[2].removesuffix(".pth")
        torch.hub.download_url_to_file(weights.url, str(path), sha256, progress=False)
    except Exception as error:
        raise FileNotFoundError(
            f"could not download {weights.url} ({type(error).__name__}: {error}); without a "
            "network, bring the file and pass weights=PATH (--flow-weights PATH)"
        ) from error
    return path
