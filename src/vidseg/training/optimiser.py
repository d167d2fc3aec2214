"""Parameter groups, the optimiser's state by name, frozen parts, averaged weights."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel

from vidseg.segmenter import VideoSegmenter
from vidseg.training.config import FreezeConfig, OptimiserConfig
from vidseg.training_needs import no_layer


def parameter_groups(
    model: nn.Module,
    config: OptimiserConfig,
    layers_above: Callable[[str], int | None] = no_layer,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Sort the parameters by their rate and weight decay.

    Args:
        model: the model with its loss; the parameters of the model's `backbone` take the base
            rate, all others the head's.
        config: `head_multiplier`, `layer_decay`, `weight_decay`, `decay`.
        layers_above: see `TrainingNeeds`; asked with the segmenter's own names.

    Returns:
        Groups for the optimiser (each with its "multiplier" of the rate, and whether it is of a
        pre-trained "encoder"), and the names of all parameters in the order of the groups.
    """
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm))
        for parameter in module.parameters(recurse=False)
    }
    sorted_: dict[tuple[float, float, bool], list[tuple[str, Tensor]]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_norm, in_backbone = id(parameter) in norms, name.startswith("model.backbone.")
        above = layers_above(name.removeprefix("model."))
        multiplier = 1.0 if in_backbone or above is not None else config.head_multiplier
        multiplier *= config.layer_decay ** (above or 0)
        spared = {
            "all": False,
            "weights": is_norm or name.endswith("bias"),
            "not-norms": is_norm,
            "not-backbone-norms": is_norm and in_backbone,
        }
        decay = 0.0 if spared[config.decay] else config.weight_decay
        key = (multiplier, decay, above is not None)
        sorted_.setdefault(key, []).append((name, parameter))
    groups = [
        {
            "params": [p for _, p in members],
            "multiplier": multiplier,
            "weight_decay": decay,
            "encoder": is_encoder,
        }
        for (multiplier, decay, is_encoder), members in sorted_.items()
    ]
    return groups, [name for members in sorted_.values() for name, _ in members]


def make_optimiser(groups: list[dict[str, Any]], config: OptimiserConfig) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over the groups."""
    if config.kind == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    kind = torch.optim.Adam if config.kind == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, betas=config.betas)


def optimiser_state(optimiser: torch.optim.Optimizer, names: list[str]) -> dict[str, Any]:
    """The optimiser's state by the parameters' names, so that other groups can take it up."""
    states = optimiser.state_dict()["state"]
    return {names[index]: state for index, state in states.items()}


def restore_optimiser(
    optimiser: torch.optim.Optimizer, names: list[str], state: Mapping[str, Any]
) -> None:
    """Give the optimiser the state of `optimiser_state`; rates and decay stay as configured."""
    known = {index: state[name] for index, name in enumerate(names) if name in state}
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": known, "param_groups": groups})


def frozen_parts(model: VideoSegmenter, config: FreezeConfig | None) -> tuple[str, ...]:
    """The names of the modules that a run does not train.

    Args:
        model: the segmenter.
        config: which parts; None for none.

    Raises:
        ValueError: there is no such part, or no host that is one by default.
    """
    if config is None:
        return ()
    names = model.training_needs().host_parts if config.parts is None else config.parts
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no host that freeze could mean; name the modules, such as "
            "freeze.parts=[backbone]"
        )
    known = dict(model.named_modules())
    for name in names:
        if name not in known:
            raise ValueError(
                f"freeze.parts: {type(model).__name__} has no part {name!r}; there are "
                f"{', '.join(child for child, _ in model.named_children())}"
            )
    return tuple(names)


def fill_gradients(model: nn.Module) -> None:
    """Zeros for trained parameters without a gradient, so that the optimiser moves them, too."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


@contextlib.contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch norms in training mode as they are, for a while."""
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def set_training(model: nn.Module, freeze_bn: str, frozen: Sequence[str] = ()) -> None:
    """Training mode, but for what keeps its statistics.

    Args:
        model: the segmenter.
        freeze_bn: whose batch norms: "none", "backbone" (modules under `backbone`) or "all".
        frozen: parts that run as in evaluation.
    """
    model.train()
    for name in frozen:
        model.get_submodule(name).eval()
    if freeze_bn == "none":
        return
    for name, module in model.named_modules():
        inside = freeze_bn == "all" or name.startswith("backbone.")
        if inside and isinstance(module, _NormBase):
            module.eval()


def average_decay(step: int, decay: float) -> float:
    """Decay of the average after step `step`: short at first, so that the start is forgotten."""
    return min(decay, (1 + step) / (10 + step))


def open_average(model: nn.Module, decay: float, *, step: int = 0) -> AveragedModel:
    """Average the weights and the statistics of a model over its steps: call `update_parameters`.

    After each step average = d * average + (1 - d) * model, where d is `average_decay`; integers
    (numbers of batches) are copied. The start counts: the average begins as the weights before the
    first step.

    Args:
        model: as it is before the first step; `module` of what is returned is a frozen copy of it.
        decay: of the average, after the start.
        step: steps done; the caller then loads the average of these into `module`.
    """

    @torch.no_grad()
    def average(
        ours: Sequence[Tensor], theirs: Sequence[Tensor], num_averaged: Tensor | int
    ) -> None:
        weight = 1 - average_decay(int(num_averaged) - 1, decay)
        for own, new in zip(ours, theirs, strict=True):
            if own.is_floating_point():
                own.lerp_(new, weight)
            else:
                own.copy_(new)

    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    averaged.module.eval().requires_grad_(False)
    averaged.n_averaged.fill_(step + 1)
    return averaged
