"""The learning rate of each step: of the step's number alone, or also of the losses so far."""

import math
from typing import Any

from vidseg.training.config import TrainingConfig


def polynomial_rate(
    step: int,
    *,
    base: float,
    iterations: int,
    power: float = 0.9,
    floor: float = 0.0,
    warmup_iterations: int = 0,
    warmup_start: float = 0.1,
    warmup_form: str = "linear",
) -> float:
    """Learning rate of the polynomial schedule with a floor and a warm-up.

    rate(i) = (base - floor) * (1 - i / iterations)^power + floor, as the official TMANet runs
    (base 0.01, floor 1e-4, power 0.9); the step after the last one would run at the floor. In the
    warm-up the rate is multiplied by a factor that grows linearly from `warmup_start` to 1; or it
    grows from warmup_start * base to base by the same factor at each step, as TDNet's does.

    Args:
        step: 0 for the first step.
        base: rate of step 0 (without a warm-up).
        iterations: number of steps of the whole run.
        power: of the polynomial; 1 is a straight line, 0 keeps `base`.
        floor: rate that the schedule ends at.
        warmup_iterations: length of the warm-up, 0 for none.
        warmup_start: share of the rate at step 0 of the warm-up.
        warmup_form: "linear" or "exponential".

    Returns:
        The rate for this step.

    Example:
        >>> polynomial_rate(0, base=0.01, iterations=80_000, floor=1e-4)
        0.01
        >>> round(polynomial_rate(40_000, base=0.01, iterations=80_000, floor=1e-4), 6)
        0.005405
    """
    waits = warmup_form == "exponential" and step < warmup_iterations
    left = 1.0 if waits else max(0.0, 1 - step / iterations)
    rate = (base - floor) * left**power + floor
    return rate * _warm_up(step, warmup_iterations, warmup_start, warmup_form)


def _warm_up(step: int, iterations: int, start: float, form: str) -> float:
    if step >= iterations:
        return 1.0
    if form == "exponential":
        return start ** (1 - step / iterations)
    return start + (1 - start) * step / iterations


def encoder_share(step: int, start: int, warm_up: int) -> float:
    """Share of its rate that a pre-trained encoder learns with: none, then linearly all of it.

    Args:
        step: 0 for the first step.
        start: steps in which it stands still.
        warm_up: steps over which the share grows from 0 to 1.

    Example:
        >>> [encoder_share(step, 500, 1000) for step in (499, 500, 1000, 1500)]
        [0.0, 0.0, 0.5, 1.0]
    """
    if step < start:
        return 0.0
    return min(1.0, (step - start) / warm_up) if warm_up else 1.0


class Polynomial:
    """`polynomial_rate` as a schedule, of the step alone.

    Args:
        options: arguments of `polynomial_rate`.
    """

    def __init__(self, **options: Any) -> None:
        self.options: dict[str, Any] = options
        self.state: dict[str, float] = {}

    def rate(self, step: int) -> float:
        """The rate for this step."""
        return polynomial_rate(step, **self.options)

    def note(self, step: int, loss: float) -> None:
        """Ignore the loss: the rate depends on the step alone."""

    def restore(self, state: dict[str, float]) -> None:
        """Do nothing: there is no state."""


class Plateau:
    """A learning rate that falls when the mean training loss of an epoch no longer does.

    The rule of `torch.optim.lr_scheduler.ReduceLROnPlateau`, which LMANet's authors use (factor
    0.8, patience 10, floor 1e-9). Theirs runs in every process on its own loss; `note` wants the
    mean over all processes, so that all of them keep one rate.

    Args:
        base: rate at the start.
        samples: in an epoch.
        batch_size: samples of a step, over all processes.
        factor: what the rate is multiplied by.
        patience: epochs in a row without a smaller loss that are let pass.
        threshold: share by which a loss must be smaller to count as smaller.
        floor: smallest rate.
        warmup_iterations: length of the warm-up, 0 for none.
        warmup_start: share of the rate at step 0 of the warm-up.
        warmup_form: "linear" or "exponential".

    Example:
        >>> plateau = Plateau(base=1.0, samples=4, batch_size=2, factor=0.5, patience=0)
        >>> for step, loss in enumerate([3, 3, 4, 4]):  # two epochs
        ...     plateau.note(step, loss)
        >>> plateau.rate(4)
        0.5
    """

    def __init__(
        self,
        *,
        base: float,
        samples: int,
        batch_size: int,
        factor: float = 0.8,
        patience: int = 10,
        threshold: float = 1e-4,
        floor: float = 0.0,
        warmup_iterations: int = 0,
        warmup_start: float = 0.1,
        warmup_form: str = "linear",
    ) -> None:
        self.base, self.floor = base, floor
        self.samples, self.batch_size = samples, batch_size
        self.factor, self.patience, self.threshold = factor, patience, threshold
        self.warm_up = warmup_iterations, warmup_start, warmup_form
        self.state: dict[str, float] = {
            "scale": 1.0, "best": math.inf, "bad_epochs": 0, "total": 0.0, "steps": 0
        }  # fmt: skip

    def restore(self, state: dict[str, float]) -> None:
        """Go on from the `state` of a checkpoint; an empty one starts anew."""
        self.state |= state

    def rate(self, step: int) -> float:
        """The rate for this step, after the losses of the steps before."""
        rate = min(max(self.base * self.state["scale"], self.floor), self.base)
        return rate * _warm_up(step, *self.warm_up)

    def note(self, step: int, loss: float) -> None:
        """Take in the loss of a step; the last one of an epoch may lower the rate."""
        state = self.state
        state["total"] += loss
        state["steps"] += 1
        if (step + 1) * self.batch_size // self.samples == step * self.batch_size // self.samples:
            return
        mean = state["total"] / state["steps"]
        state["total"], state["steps"] = 0.0, 0
        if mean < state["best"] * (1 - self.threshold):
            state["best"], state["bad_epochs"] = mean, 0
        else:
            state["bad_epochs"] += 1
        if state["bad_epochs"] > self.patience:
            state["scale"] *= self.factor
            state["bad_epochs"] = 0


def make_schedule(config: TrainingConfig, samples: int) -> Polynomial | Plateau:
    """The schedule of a run.

    Args:
        config: `schedule`, `optimiser.lr`, `iterations` and `batch_size` count.
        samples: in an epoch.

    Returns:
        What gives `rate(step)`, is told each step's loss by `note`, and has a `state` to keep.
    """
    base, spec = config.optimiser.lr, config.schedule
    shared = spec.model_dump(exclude={"power", "plateau", "encoder_start", "encoder_warmup"})
    if spec.plateau is None:
        return Polynomial(base=base, iterations=config.iterations, power=spec.power, **shared)
    return Plateau(
        base=base,
        samples=samples,
        batch_size=config.batch_size,
        **shared,
        **spec.plateau.model_dump(),
    )
