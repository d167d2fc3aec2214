"""Batches that loader processes make: in order, and every fault in one of them as one line."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import re
import signal
import sys
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from vidseg.shortage import OPEN_FILES, SHARED_MEMORY, shortage_of

FEW_FILES = 256  # a batch in shared memory takes a file number for each of its tensors
USER_ERRORS = (OSError, TypeError, ValueError, ImportError)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class StepSampler(Sampler[list[int]]):
    """The sample numbers of this process's batches, from step `start` to the end.

    Sample numbers count on through the run: step s takes s * batch_size up to
    (s + 1) * batch_size - 1, whatever the number of processes, so the same samples make a step
    with 1 process and with 8.

    Attributes:
        start: first step.
        iterations: steps of the whole run.
        batch_size: samples per step, over all processes and accumulated batches.
        accumulate: batches per step and process.
        rank: of this process.
        world: number of processes.
    """

    start: int
    iterations: int
    batch_size: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % (self.accumulate * self.world):
            raise ValueError(
                f"batch_size={self.batch_size} is the number of samples per optimiser step; it "
                f"must be a multiple of {self.world} processes times accumulate={self.accumulate}"
            )

    def __len__(self) -> int:
        return (self.iterations - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        each = self.batch_size // (self.accumulate * self.world)
        for batch in range(self.start * self.accumulate, self.iterations * self.accumulate):
            first = (batch * self.world + self.rank) * each
            yield list(range(first, first + each))


def load_batches(
    clips: Any, sampler: StepSampler, workers: int, *, pin: bool
) -> Generator[Any, None, None]:
    """Batches of a process, until closed; the number of workers changes nothing but the speed.

    Args:
        clips: the samples by number.
        sampler: which numbers make each batch.
        workers: loader processes; 0 makes the batches here.
        pin: put them into memory that a GPU copies from.

    Raises:
        OSError, TypeError, ValueError, ImportError: a sample cannot be made; the message is that of
            the sample's own error, also from a worker.
        MemoryError: a worker has no memory left for a batch.
        ChildProcessError: a worker was killed.
    """
    # Forked workers share what the data set keeps in memory (rendered videos).
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    leaving = context.RawValue("b", 0)
    loader = DataLoader(
        _Guarded(clips, leaving) if workers else clips,
        multiprocessing_context=context if workers else None,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=pin,
        collate_fn=_collate if workers else None,
        worker_init_fn=partial(_start_worker, leaving, os.getpid()) if workers else None,
        # The loader draws a seed for its workers; from the global generator it would be one draw
        # more for a run that resumes.
        generator=torch.Generator().manual_seed(0),
    )
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside threads; the workers touch no lock of theirs.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        batches = iter(loader)
    try:
        with named_worker_deaths():
            for batch in batches:
                if isinstance(batch, _Failed):
                    raise batch.error()
                yield batch.tensors() if isinstance(batch, _Copied) else batch
    finally:
        leaving.value = 1
        del batches  # ends the workers


@contextlib.contextmanager
def named_worker_deaths() -> Iterator[None]:
    """Turn torch's error for a worker that was killed, which may come at any moment, into words.

    Raises:
        ChildProcessError: a worker was killed; says by what, and what may help.
    """
    try:
        yield
    except RuntimeError as error:
        # Where the loader was waiting for the worker, the signal is told by the cause.
        text = f"{error} {error.__cause__ or ''}"
        if not re.search(r"DataLoader worker \(pid", text):
            raise
        by = re.search(r"killed by signal: ([^.]*)", text)
        advice = "lower workers, batch_size or data.crop if memory is short"
        if by and "Bus" in by[1]:
            advice = f"{SHARED_MEMORY}; lower workers, batch_size or data.crop, or enlarge it"
        raise ChildProcessError(
            f"a loader process {f'was killed ({by[1]})' if by else 'ended early'}; {advice}"
        ) from None


class _Guarded(Dataset[Any]):
    """Samples in a worker, by batch; an error becomes a value that the main process raises."""

    def __init__(self, clips: Any, leaving: Any) -> None:
        self.clips, self.leaving = clips, leaving

    def __getitem__(self, number: int) -> Any:
        return self.clips[number]

    def __getitems__(self, numbers: Sequence[int]) -> Any:
        try:
            samples = []
            for number in numbers:
                if self.leaving.value:
                    return _Failed(OSError, ("the run has ended",))
                samples.append(self.clips[number])
        except Exception as error:
            return _Failed.of(error)
        return samples


@dataclass(frozen=True)
class _Failed:
    """An error of a worker, as plain values: some errors survive no trip between processes."""

    kind: type[Exception]
    arguments: tuple[Any, ...]

    @classmethod
    def of(cls, error: Exception) -> _Failed:
        short = shortage_of(error)
        if short and short.startswith(OPEN_FILES):
            return cls(OSError, (f"{short}, or set workers=0",))
        if short:
            how = "lower batch_size, data.crop or workers"
            return cls(MemoryError, (f"{short}, in a loader process; {how}",))
        if isinstance(error, OSError) and error.errno is not None:
            return cls(type(error), (error.errno, error.strerror, error.filename))
        for kind in (FileNotFoundError, *USER_ERRORS):
            if isinstance(error, kind):
                return cls(kind, (str(error) or type(error).__name__,))
        import traceback

        trace = "".join(traceback.format_exception(error))
        return cls(RuntimeError, (f"a loader process failed:\n{trace}",))

    def error(self) -> Exception:
        return self.kind(*self.arguments)


@dataclass(frozen=True)
class _Copied:
    """A batch that goes through a pipe: there is no shared memory for it, or few file numbers."""

    values: Any

    def tensors(self) -> Any:
        return pytree.tree_map(
            lambda x: torch.from_numpy(x) if isinstance(x, np.ndarray) else x, self.values
        )


def _collate(samples: Any) -> Any:
    if isinstance(samples, _Failed):
        return samples
    try:
        if _has_few_files():
            return _copied(samples)
        try:
            return default_collate(samples)
        except RuntimeError as error:
            if shortage_of(error) != SHARED_MEMORY:
                raise
            return _copied(samples)
    except Exception as error:
        return _Failed.of(error)


def _has_few_files() -> bool:
    if sys.platform == "win32":
        return False
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] < FEW_FILES


def _copied(samples: Sequence[Any]) -> _Copied:
    """What `default_collate` makes of samples, as arrays of this process's own memory."""
    leaves = [pytree.tree_flatten(sample)[0] for sample in samples]
    structure = pytree.tree_flatten(samples[0])[1]
    return _Copied(pytree.tree_unflatten(list(map(_stacked, zip(*leaves, strict=True))), structure))


def _stacked(values: tuple[Any, ...]) -> Any:
    if isinstance(values[0], (Tensor, np.ndarray)):
        return np.stack([np.asarray(value) for value in values])
    collated = default_collate(list(values))
    return collated.numpy() if isinstance(collated, Tensor) else collated


def _start_worker(leaving: Any, parent: int, worker: int) -> None:
    del worker
    # Both reach the whole process group. The main process writes a checkpoint first, for which it
    # needs its workers; it ends them itself, and only then does SIGTERM mean them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: leaving.value and os.kill(os.getpid(), signal.SIGKILL))
    # A thread that hands out shared memory would print what it meets where the main process ends.
    sys.excepthook = lambda *_: None
    if sys.platform == "linux":  # a killed main process takes its workers with it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
