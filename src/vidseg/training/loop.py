"""One training loop, top to bottom.

What a step does depends on the config and the step's number alone: the samples are numbers that
count on through the run, their augmentation is drawn from (seed, number), dropout from (seed, step,
process). So a run that was killed and resumed ends with the very bits of one that was not.
"""

import contextlib
import json
import logging
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vidseg import weights
from vidseg.atomic import remove_stale, settle, together, write_text
from vidseg.data import VideoDataset
from vidseg.interrupts import begin_ending
from vidseg.progress import Display, silent
from vidseg.segmenter import VideoSegmenter
from vidseg.training.checkpoint import Checkpoints, RunLock
from vidseg.training.config import TrainingConfig
from vidseg.training.contexts import training_contexts, validation_contexts
from vidseg.training.devices import close_trackers, open_accelerator
from vidseg.training.folder import Metrics, environment, prepare
from vidseg.training.loading import StepSampler, load_batches, named_worker_deaths
from vidseg.training.optimiser import (
    fill_gradients,
    frozen_parts,
    make_optimiser,
    open_average,
    optimiser_state,
    parameter_groups,
    restore_optimiser,
    set_training,
)
from vidseg.training.pace import Pace, StopSignal
from vidseg.training.samples import (
    Samples,
    check_labels,
    open_source,
    samples_fps,
    trained_size,
    training_samples,
)
from vidseg.training.schedule import encoder_share, make_schedule
from vidseg.training.step import TrainingStep, build_model, draw_seed
from vidseg.training.teacher import Teacher, load_teacher
from vidseg.training.validation import open_validation, validate

log = logging.getLogger("vidseg.training")

Report = Callable[[dict[str, Any]], None]


class NonFiniteLoss(ValueError):
    """The loss or its gradient became NaN or infinite; it changed no weight."""


@dataclass(frozen=True)
class Trained:
    """The outcome of a finished run.

    Attributes:
        model: as after the last step, in eval mode; the averaged weights where there are any.
        folder: the run folder.
        weights: the file of the best weights by validation, or of the last ones without.
        figures: of the best validation ("step", "mean_iou", ...), empty without one.
    """

    model: VideoSegmenter
    folder: Path
    weights: Path
    figures: dict[str, float]


def train(
    config: TrainingConfig,
    folder: str | Path,
    *,
    model: VideoSegmenter | None = None,
    resume: bool = False,
    report: Report | None = None,
    progress: Display = silent,
) -> Trained:
    """Train a model; the run folder holds everything about it.

    Args:
        config: the run.
        folder: the run folder; it is made.
        model: one of your own, trained instead of what `config.model` says.
        resume: go on with the run that is in `folder` (or start it, if there is none).
        report: called in the main process with the record of each step ("step", "loss", "lr",
            "samples_per_s", ...) and of each validation ("step", "mean_iou", ...).
        progress: shows, before the first step, how many videos' contexts are found, where the
            model needs such.

    Returns:
        The trained model and where its weights are.

    Raises:
        FileExistsError: `folder` holds a run and `resume` is false, or another process writes it.
        NonFiniteLoss: the loss is not finite; names the samples.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint was written.
        ValueError: the config does not fit the data or the checkpoint.
        OSError: the disk is full; the checkpoint before is intact. A loader process was killed.
        MemoryError: a loader process has no memory left.
    """
    folder = Path(folder)
    accelerator = open_accelerator(config, folder)
    with contextlib.ExitStack() as stack:
        stack.callback(close_trackers, accelerator)
        if accelerator.is_main_process:
            _take(folder, config, resume, stack)
        accelerator.wait_for_everyone()
        run = _Run(config, folder, accelerator, model=model, resume=resume, progress=progress)
        stop = stack.enter_context(StopSignal())
        stack.callback(run.batches.close)
        stack.enter_context(named_worker_deaths())
        for step in range(run.start, config.iterations):
            record = run.step(step, stop.asked)
            done, is_end = step + 1, step + 1 == config.iterations
            is_stopped = record.pop("stop") > 0
            run.note(record, report, is_due=is_end or done % config.log_every == 0)
            if config.validation.every and (is_end or done % config.validation.every == 0):
                run.validate(done, report)
            if is_end or is_stopped or done % config.checkpoint.every == 0:
                run.save(done)
            if is_stopped and not is_end:
                log.info("stopped at step %d; the checkpoint is written", done)
                begin_ending()
                raise KeyboardInterrupt
        return run.finish()


class _Run:
    """The state of a run, with one step, one validation and one checkpoint as methods."""

    def __init__(
        self,
        config: TrainingConfig,
        folder: Path,
        accelerator: Accelerator,
        *,
        model: VideoSegmenter | None,
        resume: bool,
        progress: Display,
    ) -> None:
        self.config, self.folder, self.accelerator = config, folder, accelerator
        self.checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint.keep)
        state = self.checkpoints.load() if resume else None
        self.start: int = 0 if state is None else state["step"]
        self.best: dict[str, float] | None = None if state is None else state["best"]
        if resume:
            log.info("resuming %s at step %d", folder, self.start)

        dataset = open_source(config.data)
        self.model = build_model(config, dataset, model=model, is_restored=state is not None)
        if state is not None:
            self._restore_weights(state)
        self.model.to(accelerator.device)
        is_still = config.freeze is not None and config.freeze.keep == "weights+statistics"
        self.still_parts = frozen_parts(self.model, config.freeze) if is_still else ()
        copied = config.loss.distillation or config.loss.grouped
        teacher = None
        if copied is not None:
            teacher = load_teacher(copied, self.model, accelerator.device)
        self.clips = self._samples(dataset, teacher, progress)
        self.validation = open_validation(config, dataset)
        if accelerator.is_main_process:
            check_labels(dataset)
            if config.validation.every:
                check_labels(self.validation, trained=False)
        self.contexts = None
        if config.validation.every and not self.model.causal:
            self.contexts = validation_contexts(config, self.validation, self.model, folder)
        self.schedule = make_schedule(config, len(self.clips))
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.averaged = None
        if config.ema is not None:
            self.averaged = open_average(self.model, config.ema, step=self.start)
        self.loss = self._open_loss(teacher)
        groups, self.names = parameter_groups(
            self.loss, config.optimiser, self.model.training_needs().layers_above
        )
        optimiser = make_optimiser(groups, config.optimiser)
        if state is not None:
            self._restore(state, optimiser)
        self.module, self.optimiser = accelerator.prepare(self.loss, optimiser)
        if state is not None and accelerator.scaler is not None and state["scaler"]:
            accelerator.scaler.load_state_dict(state["scaler"])

        self.metrics = self._open_records()
        self.batches = self._open_batches()
        self.pace = Pace(config.batch_size)

    def step(self, step: int, is_stop_asked: bool) -> dict[str, float]:
        """One optimiser step; -> its record. Nothing is changed where the loss is not finite."""
        config, accelerator = self.config, self.accelerator
        set_training(self.model, config.freeze_bn, self.still_parts)
        needs, spec = self.model.training_needs(), config.schedule
        needs.begin_step(step, config.iterations)
        rate = self.schedule.rate(step)
        slowed = encoder_share(step, spec.encoder_start, spec.encoder_warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["multiplier"] * (slowed if group["encoder"] else 1.0)

        sums: dict[str, float] = {}
        names: list[str] = []
        for part in range(config.accumulate):
            with self.pace.waiting():
                batch = next(self.batches)
            names += batch["name"]
            tensors = {
                name: value.to(accelerator.device, non_blocking=True)
                for name, value in batch.items()
                if name != "name"
            }
            torch.manual_seed(draw_seed(config.seed, step, part, accelerator.process_index))
            is_last = part == config.accumulate - 1
            with contextlib.nullcontext() if is_last else accelerator.no_sync(self.module):
                losses = self.module(tensors)
                means = self._mean_losses(losses, is_stop_asked)
                if not math.isfinite(means["loss"]):
                    raise NonFiniteLoss(self._explain("loss", losses, step, names))
                accelerator.backward(losses["loss"])
            for name, value in means.items():
                sums[name] = sums.get(name, 0.0) + value / config.accumulate

        if config.optimiser.idle == "decay" and step >= self.model.period:
            fill_gradients(self.model)
        norm = self._clip()
        if accelerator.scaler is None and not math.isfinite(norm):
            raise NonFiniteLoss(self._explain("gradient", {}, step, names))
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.loss.after_step()
        self.schedule.note(step, sums["loss"])
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return {"step": step + 1, **sums, "lr": rate, "gradient_norm": norm}

    def note(self, record: dict[str, Any], report: Report | None, *, is_due: bool) -> None:
        """Take a step's record into the log, where one is due the mean since the last."""
        self.pace.add(record)
        if report is not None and self.accelerator.is_main_process:
            report({**record, "samples_per_s": self.pace.samples_per_s})
        if is_due:
            self._log(self.pace.take())

    def validate(self, done: int, report: Report | None) -> None:
        """Score the model in the main process; keep its weights if they are the best yet."""
        if self.accelerator.is_main_process:
            model = self._kept_model
            with self.pace.paused():
                figures = validate(
                    model, self.validation, self.config, self.folder, done, self.contexts
                )
            record = {"step": done, **figures}
            self._log(record)
            if report is not None:
                report(record)
            if self.best is None or figures["mean_iou"] > self.best["mean_iou"]:
                self.best = record
                self._export("best", self.folder)
            assert self.metrics is not None
            self.metrics.write_csv()
        self.accelerator.wait_for_everyone()

    @property
    def _kept_model(self) -> VideoSegmenter:
        """The model to validate and save: with averaged weights where there are any."""
        if self.averaged is None:
            return self.model
        averaged = self.averaged.module
        assert isinstance(averaged, VideoSegmenter), "it is a copy of the model"
        return averaged

    def save(self, done: int) -> None:
        """Write a checkpoint: everything that the next step depends on."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "model": self.model.state_dict(),
                "loss": self.loss.own_state(),
                "averaged": None if self.averaged is None else self.averaged.module.state_dict(),
                "optimiser": optimiser_state(self.optimiser.optimizer, self.names),
                "scaler": None if scaler is None else scaler.state_dict(),
                "schedule": self.schedule.state,
                "best": self.best,
            }
            with self.pace.paused():
                self.checkpoints.save(done, state)
        self.accelerator.wait_for_everyone()

    def finish(self) -> Trained:
        """Write the last weights and the tables."""
        if self.accelerator.is_main_process:
            assert self.metrics is not None
            with together(self.folder) as stage:
                self._export("last", stage)
                self.metrics.write_csv(stage)
        self.accelerator.wait_for_everyone()
        model = self._kept_model
        name = "last" if self.best is None else "best"
        path = self.folder / f"{name}.safetensors"
        return Trained(model.eval(), self.folder, path, self.best or {})

    def _samples(
        self, dataset: VideoDataset, teacher: Teacher | None, progress: Display
    ) -> Samples:
        """The samples, which the model's card then names.

        One process precomputes what can be, the others find it done.
        """
        contexts = None
        scorer = None if teacher is None else teacher.model
        with self.accelerator.main_process_first():
            if not self.model.causal:
                contexts = training_contexts(self.config, dataset, self.model, self.folder)
                contexts.fill(self.model, dataset, progress=progress)
            found = training_samples(dataset, self.config, self.model, scorer, contexts)
        unit = "videos" if self.config.data.sampling == "videos" else "labelled frames"
        trained_on = f"{dataset.name}: {len(found)} {unit}"
        self.model.card = replace(
            self.model.card,
            size=trained_size(dataset, self.config.data),
            fps=samples_fps(found),
            trained_on=trained_on,
        )
        return found

    def _open_loss(self, teacher: Teacher | None) -> TrainingStep:
        """Make the loss module; without the teacher where its scores are on file."""
        trained: nn.Module = self.model
        if self.config.sync_bn and self.accelerator.num_processes > 1:
            trained = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        distillation = self.config.loss.distillation
        is_precomputed = distillation is not None and distillation.precomputed is not None
        return TrainingStep(
            trained,  # pyright: ignore[reportArgumentType]
            self.config.loss,
            None if is_precomputed else teacher,
            truncate=self.config.truncate,
        )

    def _open_records(self) -> Metrics | None:
        """Write the environment, start the trackers; -> the metrics, in the main process."""
        accelerator, metrics = self.accelerator, None
        if accelerator.is_main_process:
            metrics = Metrics(self.folder, self.start)
            facts = environment(accelerator.device, accelerator.num_processes)
            write_text(self.folder / "environment.json", json.dumps(facts, indent=2) + "\n")
        # A tracker writes beside what a killed run left; TensorBoard hides its steps from there on.
        purge = {"tensorboard": {"purge_step": self.start + 1}}
        accelerator.init_trackers(self.config.name, init_kwargs=purge)
        return metrics

    def _open_batches(self) -> Generator[Any, None, None]:
        """The batches of this process from the first step on."""
        config, accelerator = self.config, self.accelerator
        sampler = StepSampler(
            self.start,
            config.iterations,
            config.batch_size,
            config.accumulate,
            accelerator.process_index,
            accelerator.num_processes,
        )
        pin = accelerator.device.type == "cuda"
        return load_batches(self.clips, sampler, config.workers, pin=pin)

    def _restore_weights(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(
                f"the checkpoint in {self.folder} is of another model than "
                f"{self.config.model.name}: {str(error).splitlines()[-1].strip()}"
            ) from error

    def _restore(self, state: dict[str, Any], optimiser: torch.optim.Optimizer) -> None:
        self.loss.restore(state.get("loss", {}))
        if self.averaged is not None:
            self.averaged.module.load_state_dict(state["averaged"] or state["model"])
        self.schedule.restore(state.get("schedule", {}))
        restore_optimiser(optimiser, self.names, state["optimiser"])

    def _mean_losses(self, losses: dict[str, Tensor], is_stop_asked: bool) -> dict[str, float]:
        """The losses over all processes, so that all of them decide alike; one collective."""
        values = [losses[name].detach().double() for name in losses]
        values.append(torch.tensor(float(is_stop_asked), device=values[0].device).double())
        means = self.accelerator.reduce(torch.stack(values), reduction="mean")
        assert isinstance(means, Tensor)
        return dict(zip((*losses, "stop"), means.tolist(), strict=True))

    def _clip(self) -> float:
        """Norm of the gradient over all parameters, clipped if the config says so."""
        accelerator, limit = self.accelerator, self.config.optimiser.clip_norm
        if accelerator.scaler is not None:
            accelerator.unscale_gradients(self.optimiser)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if limit is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), limit, norm)
        return float(norm)

    def _explain(self, what: str, losses: dict[str, Tensor], step: int, names: list[str]) -> str:
        values = ", ".join(f"{name} {float(v.detach()):.4g}" for name, v in losses.items())
        saved = self.checkpoints.paths()
        kept = f"the last checkpoint is {saved[-1].name}" if saved else "there is no checkpoint yet"
        return (
            f"the {what} is not finite at step {step + 1} ({values or 'after a finite loss'}; "
            f"process {self.accelerator.process_index}), samples {', '.join(names)}; no weight was "
            f"changed by it and {kept}. Look at these samples, or lower optimiser.lr, or set "
            "optimiser.clip_norm, or precision=fp32"
        )

    def _log(self, record: dict[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.add(record)
        numbers = {k: v for k, v in record.items() if k != "step" and v == v}
        self.accelerator.log(numbers, step=int(record["step"]))

    def _export(self, name: str, folder: Path) -> None:
        """Write weights with their card, which `vidseg.load` reads."""
        model = self._kept_model
        best = self.best if name == "best" and self.best is not None else {}
        figures = {k: v for k, v in best.items() if v == v}  # JSON has no NaN
        path = folder / f"{name}.safetensors"
        weights.save(model, path, loadable=bool(model.card.architecture), figures=figures)


def _take(folder: Path, config: TrainingConfig, resume: bool, stack: contextlib.ExitStack) -> None:
    """Make the folder this run's; the lock comes first, so that a live run keeps its config."""
    stack.enter_context(RunLock(folder))
    settle(folder)
    remove_stale(folder, below=True)
    changes = prepare(folder, config, resume=resume)
    if changes:
        log.info("changed since the run was stored:\n  %s", "\n  ".join(changes))
