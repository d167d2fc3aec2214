"""What is trained: the model of a config, and the model with its loss as one module."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vidseg import methods, weights
from vidseg.backbones.mobilenet import unfold_batch_norm
from vidseg.data import VideoDataset
from vidseg.losses.segmentation import cross_entropy
from vidseg.segmenter import VideoSegmenter
from vidseg.training.config import LossConfig, ModelConfig, TrainingConfig
from vidseg.training.samples import plain_frames

log = logging.getLogger("vidseg.training")


class TrainingStep(nn.Module):
    """The model with its loss as one module: what DDP and autocast see.

    Args:
        model: the segmenter.
        loss: weights and average.
    """

    def __init__(self, model: VideoSegmenter, loss: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.class_weights: Tensor | None
        weights_ = None if loss.class_weights is None else torch.tensor(loss.class_weights)
        self.register_buffer("class_weights", weights_, persistent=False)

    def forward(self, frames: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of a batch of windows.

        Args:
            frames: (B, T, 3, H, W), normalised.
            labels: (B, H, W) of the last frames.

        Returns:
            "loss", the weighted sum, and its terms "main" and one for each auxiliary output.
        """
        segmentation, _ = self.model(frames, readout="last")
        terms = {
            name: cross_entropy(
                logits[:, -1].float(),
                labels,
                align_corners=segmentation.align_corners,
                weight=self.class_weights,
                average=self.loss.average,
            )
            for name, logits in {"main": segmentation.logits, **segmentation.aux}.items()
        }
        total = terms["main"]
        for name, term in terms.items():
            if name != "main":
                total = total + self.loss.aux_weight * term
        return {"loss": total, **terms}


def draw_seed(seed: int, step: int, part: int, rank: int) -> int:
    """The seed of what the model draws (dropout) in one batch of one process."""
    return int(np.random.SeedSequence([seed, step, part, rank]).generate_state(1, np.uint64)[0])


def build_model(
    config: TrainingConfig, dataset: VideoDataset, *, is_restored: bool = False
) -> VideoSegmenter:
    """The model of a config before its first step, on the CPU.

    Args:
        config: `model`, `data.mean`, `data.std` and `seed` count.
        dataset: gives the classes.
        is_restored: the weights will come from a checkpoint, so none are read here.

    Raises:
        ValueError: an unknown model or option; weights that do not fit.
        FileNotFoundError: a file of weights is missing.
    """
    spec, shares = config.model, config.loss.class_weights
    if shares is not None and len(shares) != dataset.num_classes:
        raise ValueError(
            f"loss.class_weights must have one number for each of the {dataset.num_classes} "
            f"classes of {dataset.name}, got {len(shares)}"
        )
    torch.manual_seed(config.seed)
    options = dict(spec.options)
    if spec.backbone_weights is not None and not is_restored:
        options["backbone_weights"] = spec.backbone_weights
    model = methods.create(spec.name, num_classes=dataset.num_classes, **options)
    card = replace(
        model.card,
        classes=tuple(dataset.classes),
        palette=tuple((int(r), int(g), int(b)) for r, g, b in dataset.palette),
        mean=config.data.mean or model.card.mean,
        std=config.data.std or model.card.std,
    )
    model.card = card
    if is_restored:
        return model
    if spec.initial_weights is not None:
        _take_over(model, spec)
    if spec.unfold_bn:
        unfold_batch_norm(model.backbone, plain_frames(dataset, model, spec.unfold_bn))  # pyright: ignore[reportArgumentType]
    return model


def _take_over(model: VideoSegmenter, spec: ModelConfig) -> None:
    path = Path(spec.initial_weights or "").expanduser()
    tensors, _ = weights.load_file(path)
    ours = model.state_dict()
    fitting = {k: t for k, t in tensors.items() if k in ours and ours[k].shape == t.shape}
    if not fitting:
        raise ValueError(
            f"no tensor of {path} fits {spec.name} by name and shape; give weights of a model "
            "with the same backbone"
        )
    model.load_state_dict(fitting, strict=False)
    log.info("took %d of %d tensors from %s", len(fitting), len(ours), path)
