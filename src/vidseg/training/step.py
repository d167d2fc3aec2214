"""What is trained: the model of a config, and the model with its loss as one module."""

import contextlib
import copy
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from vidseg import methods, weights
from vidseg.backbones.mobilenet import unfold_batch_norm
from vidseg.context import Prototypes
from vidseg.data import VideoDataset
from vidseg.losses.criterion import Criterion, HardPixels
from vidseg.segmenter import Segmentation, VideoSegmenter
from vidseg.training.config import ModelConfig, TrainingConfig
from vidseg.training.loss_config import LossConfig
from vidseg.training.neighbour_terms import MotionTerms
from vidseg.training.optimiser import frozen_parts, kept_statistics
from vidseg.training.samples import plain_frames
from vidseg.training.teacher import Teacher, check_per_frame

Batch = dict[str, Tensor]

log = logging.getLogger("vidseg.training")
_NO_VARIANCE = "Expected more than 1 value per channel"  # torch's words


class TrainingStep(nn.Module):
    """The model with its loss as one module: what DDP and autocast see.

    Args:
        model: the segmenter.
        loss: weights, averages and further terms.
        teacher: what `loss.distillation` or `loss.grouped` copies from, where it runs along.
        truncate: frames of a chunk, after which gradients stop; None for whole clips.

    Raises:
        ValueError: temporal or distillation terms for a model with a memory; grouped ones for a
            method that has none.
    """

    def __init__(
        self,
        model: VideoSegmenter,
        loss: LossConfig,
        teacher: Teacher | None = None,
        *,
        truncate: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.truncate = truncate
        self.loss = loss
        self.motion = None
        if loss.temporal or loss.distillation:
            check_per_frame(model, "the student")
            self.motion = MotionTerms(loss, teacher)
        self.ask_teacher = model.training_needs().ask_teacher
        self.teacher = teacher if loss.grouped else None
        if loss.grouped and self.ask_teacher is None:
            raise ValueError(
                f"loss.grouped is for methods that copy a teacher in groups (TDNet); "
                f"{type(model).__name__} copies by loss.distillation"
            )
        self.class_weights: Tensor | None
        weights_ = None if loss.class_weights is None else torch.tensor(loss.class_weights)
        self.register_buffer("class_weights", weights_, persistent=False)
        self.criterion = _criterion(loss)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of a batch of windows.

        Args:
            batch: "frames" (B, T, 3, H, W), normalised; "labels" (B, H, W) of the last frames;
                "clip_labels" (B, T, H, W) and "labelled" (B, T) where the model's `training_needs`
                asks for them; "context" (B, K, D), prototypes of each video, where it is not
                `causal`; "phase" (B,) of the first frames, one for all, where it has a `period`;
                and for temporal and distillation terms what `MotionTerms` wants.

        Returns:
            "loss", the weighted sum, and its terms as they are: those of the model's `losses` and
            those of `MotionTerms`.
        """
        if self.teacher is not None and self.ask_teacher is not None:
            frames = batch["frames"]
            first = int(batch["phase"][0]) if "phase" in batch else 0
            last = (first + frames.shape[1] - 1) % self.model.period
            answers = self.teacher.ask(frames[:, -1], partial(self.ask_teacher, phase=last))
            batch = {**batch, **answers}
        criterion = replace(self.criterion, class_weights=self.class_weights)
        terms: dict[str, Tensor] = {}
        chunks = self._run_chunks(batch)
        segmentation, _ = chunks[-1]
        total = segmentation.logits.new_zeros((), dtype=torch.float32)
        for answer, part in chunks:
            for name, (term, weight) in self.model.losses(answer, part, criterion).items():
                share = term / len(chunks)
                terms[name] = terms[name] + share if name in terms else share
                total = total + weight * share
        if self.motion is not None:
            # Another video's frames must not leave their statistics to the labelled ones.
            is_elsewhere = "anchors" in batch
            with kept_statistics(self.model) if is_elsewhere else contextlib.nullcontext():
                current = self._run(batch["anchors"]) if is_elsewhere else segmentation
                further, added = self.motion(batch, current, self._run)
            terms |= further
            total = total + added
        return {"loss": total, **terms}

    def after_step(self) -> None:
        """Do what follows each step of the optimiser."""
        if self.motion is not None:
            self.motion.after_step()

    def own_state(self) -> dict[str, Tensor]:
        """The tensors that the loss itself learns, by name; empty for most."""
        return {} if self.motion is None else self.motion.state_dict()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up `own_state`."""
        if self.motion is not None:
            self.motion.load_state_dict(state)

    def _run_chunks(self, batch: dict[str, Tensor]) -> list[tuple[Segmentation, Batch]]:
        """Run the batch chunk by chunk; -> each chunk's answer with its part of the batch.

        A model that reads out the last frame alone has one loss, whatever the number of chunks.
        """
        start: dict[str, Any] = {}  # given with the first chunk; the memory carries it on
        if "context" in batch:
            start["context"] = Prototypes(batch["context"])
        if "phase" in batch:
            start["phase"] = int(batch["phase"][0])
        length = batch["frames"].shape[1]
        if self.truncate is None or self.truncate >= length:
            return [(self._run(batch["frames"], **start), batch)]
        names = [n for n in ("frames", "clip_labels", "labelled") if n in batch]
        found, memory = [], None
        for parts in zip(*(batch[name].split(self.truncate, 1) for name in names), strict=True):
            chunk = {**batch, **dict(zip(names, parts, strict=True))}
            answer, memory = self._forward(chunk["frames"], memory, **start)
            memory = pytree.tree_map(lambda leaf: leaf.detach(), memory)
            start = {}
            found.append((answer, chunk))
        is_last = self.model.training_needs().readout == "last"
        return found[-1:] if is_last else found

    def _run(self, frames: Tensor, **start: Any) -> Segmentation:
        return self._forward(frames, None, **start)[0]

    def _forward(self, frames: Tensor, memory: Any, **start: Any) -> tuple[Segmentation, Any]:
        try:
            readout = self.model.training_needs().readout
            return self.model(frames, memory, readout=readout, **start)
        except ValueError as error:
            if _NO_VARIANCE not in str(error):
                raise
            raise ValueError(
                f"a batch norm got one value a channel, which has no variance: it normalises an "
                f"image pooled to 1x1, and this process trains on {len(frames)} sample at a time; "
                "raise batch_size (or lower accumulate) until it gets 2 or more, or keep the "
                "statistics with freeze_bn=all, or share them over several GPUs with sync_bn=true"
            ) from error


def _criterion(loss: LossConfig) -> Criterion:
    """The settings of a config; the class weights move with the module, so they are its buffer."""
    hard = None if loss.ohem is None else HardPixels(**loss.ohem.model_dump())
    return Criterion(
        average=loss.average,
        hard_pixels=hard,
        auxiliary_weight=loss.aux_weight,
        frame_weight=loss.frame_weight,
        distillation_weight=loss.grouped.weight if loss.grouped else 0.0,
    )


def draw_seed(seed: int, step: int, part: int, rank: int) -> int:
    """The seed of what the model draws (dropout) in one batch of one process."""
    return int(np.random.SeedSequence([seed, step, part, rank]).generate_state(1, np.uint64)[0])


def build_model(
    config: TrainingConfig,
    dataset: VideoDataset,
    *,
    model: VideoSegmenter | None = None,
    is_restored: bool = False,
) -> VideoSegmenter:
    """The model of a config before its first step, on the CPU.

    Args:
        config: `model`, `freeze`, `data.crop`, `data.mean`, `data.std` and `seed` count.
        dataset: gives the classes.
        model: one that is there already; of `config.model` then only `void` counts.
        is_restored: the weights will come from a checkpoint, so none are read here.

    Raises:
        ValueError: the model's classes are not the data set's; an unknown model, part or option;
            a crop that the model does not take; weights that do not fit, or that leave something
            random in what `freeze` keeps.
        FileNotFoundError: a file of weights is missing.
    """
    spec, shares = config.model, config.loss.class_weights
    num_classes = dataset.num_classes + spec.void
    if shares is not None and len(shares) != num_classes:
        raise ValueError(
            f"loss.class_weights must have one number for each of the {num_classes} "
            f"classes of {dataset.name}{' and void' * spec.void}, got {len(shares)}"
        )
    is_given = model is not None
    if model is None:
        model = _create(config, num_classes, is_restored=is_restored)
    elif model.num_classes != num_classes:
        raise ValueError(
            f"the model has {model.num_classes} classes, {dataset.name} has {num_classes}"
            f"{' with void' * spec.void}; give it as many"
        )
    palette = tuple((int(r), int(g), int(b)) for r, g, b in dataset.palette)
    card = replace(
        model.card,
        classes=(*dataset.classes, "void") if spec.void else tuple(dataset.classes),
        palette=(*palette, (0, 0, 0)) if spec.void else palette,
        mean=config.data.mean or model.card.mean,
        std=config.data.std or model.card.std,
    )
    model.card = card
    check_crop(model, config.data.crop)
    frozen = frozen_parts(model, config.freeze)
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"freeze.parts={list(frozen)} leaves nothing to train")
    if is_given or is_restored:
        return model
    taken = set() if spec.initial_weights is None else _take_over(model, spec)
    _check_frozen(model, spec, taken)
    if spec.unfold_bn:
        unfold_batch_norm(model.backbone, plain_frames(dataset, model, spec.unfold_bn))  # pyright: ignore[reportArgumentType]
    return model


def check_crop(model: VideoSegmenter, crop: tuple[int, int]) -> None:
    """Refuse a crop that the model does not take, before anything is read or found for it.

    Some models only prefer the sizes of their card, so it is the model that is asked.

    Args:
        model: any.
        crop: (H, W).

    Raises:
        ValueError: the model refuses frames of this size; names the next ones that it takes.
    """
    card = model.card
    larger = [card.next_side(side) for side in crop]
    if larger == list(crop):
        return
    try:
        copy.deepcopy(model).to("meta").eval().encode(torch.empty(1, 3, *crop, device="meta"))
    except ValueError as error:
        said = str(error).partition(";")[0]
        smaller = [side - (side - card.size_offset) % card.size_multiple for side in crop]
        nearest = [f"[{h}, {w}]" for h, w in (smaller, larger) if min(h, w) > 0]
        raise ValueError(
            f"data.crop={list(crop)}: {said}; the next sizes are {' and '.join(nearest)}"
        ) from error


def _create(config: TrainingConfig, num_classes: int, *, is_restored: bool) -> VideoSegmenter:
    torch.manual_seed(config.seed)
    options = dict(config.model.options)
    if config.model.backbone_weights is not None and not is_restored:
        options["backbone_weights"] = config.model.backbone_weights
    return methods.create(config.model.name, num_classes=num_classes, **options)


def _check_frozen(model: VideoSegmenter, spec: ModelConfig, taken: set[str]) -> None:
    """Raise ValueError where weights that are not trained would stay as random as they were made.

    That is what `freeze` names, and what the method itself keeps (CFFM++ all of CFFM).
    """
    given = () if spec.backbone_weights is None else ("backbone.", "encoder.")
    lacking = [
        name
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad and name not in taken and not name.startswith(given)
    ]
    if lacking:
        raise ValueError(
            f"{len(lacking)} tensors are not trained and would stay at their random start, such as "
            f"{lacking[0]}; train them first, and give the weights as model.initial_weights"
            + ("" if spec.initial_weights is None else f" ({spec.initial_weights} has not all)")
        )


def _take_over(model: VideoSegmenter, spec: ModelConfig) -> set[str]:
    name = spec.initial_weights or ""
    path = methods.packaged_weights().get(name) or Path(name).expanduser()
    tensors, _ = weights.load_file(path)
    tensors = model.adopt(tensors) if isinstance(model, methods.Method) else tensors
    ours = model.state_dict()
    fitting = {k: t for k, t in tensors.items() if k in ours and ours[k].shape == t.shape}
    if not fitting:
        raise ValueError(
            f"no tensor of {path} fits {spec.name} by name and shape; give weights of a model "
            "with the same backbone"
        )
    model.load_state_dict(fitting, strict=False)
    log.info("took %d of %d tensors from %s", len(fitting), len(ours), path)
    return set(fitting)
