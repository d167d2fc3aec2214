"""The laws that every method keeps; a library, run by the tests for every entry of METHODS.

`check_laws(model)` wants a small segmenter. It runs in float64 on the CPU, in evaluation mode, and
reads what the model declares (`horizon`, `recurrent`, `causal`, `period`); there are no opt-outs.
A model that needs a context of the whole video keeps every law under a fixed one, causality too.
"""

import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from vidseg.segmenter import VideoSegmenter

RELATIVE = 1e-9


class LawBroken(AssertionError):
    """A segmenter broke a law; the message names it."""


def check_laws(model: VideoSegmenter, *, size: tuple[int, int] = (40, 56), batch: int = 2) -> None:
    """Check every law; raise LawBroken with the law's name at the first that does not hold."""
    model = model.double().eval()
    length = laws_length(model)
    frames = torch.randn(
        batch, length, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(7)
    )
    if not model.causal and (context := model.summarize(frames)) is not None:
        model = cast(VideoSegmenter, _InContext(model, context))
    for law in LAWS:
        law(model, frames)


class _InContext:
    """A model whose streams all start with one context."""

    causal = True

    def __init__(self, model: VideoSegmenter, context: object) -> None:
        self.model, self.context = model, context

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, frames: Tensor, memory: object = None, **options: Any) -> Any:
        context = self.context if memory is None else None
        return self.model(frames, memory, context=context, **options)

    def step(self, frame: Tensor, memory: object = None) -> Any:
        return self(frame[:, None], memory)


def laws_length(model: VideoSegmenter) -> int:
    """Enough frames to see past the horizon, and a whole period more."""
    reach = 3 if math.isinf(model.horizon) else int(model.horizon)
    return reach + 2 + model.period


def law_chunk(model: VideoSegmenter, frames: Tensor) -> None:
    """For every split of a clip the logits and the final memory are equal."""
    with torch.no_grad():
        whole, memory = model(frames)
        for split in splits(frames.shape[1]):
            logits, split_memory = run(model, frames, split)
            same(logits, whole.logits, f"chunk: split {split} changes the logits")
            same(split_memory, memory, f"chunk: split {split} changes the memory")
        last, last_memory = model(frames, readout="last")
        same(last.logits, whole.logits[:, -1:], 'chunk: readout="last" is not the last of "all"')
        same(last_memory, memory, 'chunk: readout="last" changes the memory')


def law_value(model: VideoSegmenter, frames: Tensor) -> None:
    """Stepping twice from one memory gives one answer, and nothing edits the memory."""
    with torch.no_grad():
        _, memory = model(frames[:, :-1])
        before = [leaf.clone() for leaf in pytree.tree_leaves(memory)]
        versions = [leaf._version for leaf in pytree.tree_leaves(memory)]
        first, first_memory = model.step(frames[:, -1], memory)
        kept = [leaf.clone() for leaf in pytree.tree_leaves(first_memory)]
        second, second_memory = model.step(frames[:, -1], memory)
        if versions != [leaf._version for leaf in pytree.tree_leaves(memory)]:
            raise LawBroken("value: a step wrote into the memory that it was given")
        same(pytree.tree_leaves(memory), before, "value: a step changed the memory it was given")
        same(pytree.tree_leaves(first_memory), kept, "value: a later step changed a memory")
        same(second.logits, first.logits, "value: two steps from one memory differ")
        same(second_memory, first_memory, "value: two steps from one memory remember differently")
        _layout_is_kept(memory, first_memory)
        _survives_travel(model, memory, frames[:, -1], first.logits)


def law_causal(model: VideoSegmenter, frames: Tensor) -> None:
    """Changing frame t changes nothing before t, and does change t."""
    if not model.causal:
        return
    with torch.no_grad():
        base = model(frames)[0].logits
        for t in range(frames.shape[1]):
            changed = model(disturbed(frames, t))[0].logits
            same(changed[:, :t], base[:, :t], f"causal: frame {t} changes an earlier frame")
            if torch.equal(changed[:, t], base[:, t]):
                raise LawBroken(f"causal: frame {t} has no influence on its own labels")


def law_horizon(model: VideoSegmenter, frames: Tensor) -> None:
    """With horizon K, frame t - K - 1 has no influence on t, frame t - K has."""
    t = frames.shape[1] - 1
    t -= (t + 1) % model.period
    with torch.no_grad():
        base = model(frames)[0].logits[:, t]
        if math.isinf(model.horizon):
            far = model(disturbed(frames, 0))[0].logits[:, t]
            if torch.equal(far, base):
                raise LawBroken("horizon: declared infinite, but the first frame has no influence")
            return
        horizon = int(model.horizon)
        beyond = model(disturbed(frames, t - horizon - 1))[0].logits[:, t]
        same(beyond, base, f"horizon: frame t - {horizon + 1} still has influence")
        within = model(disturbed(frames, t - horizon))[0].logits[:, t]
        if torch.equal(within, base):
            raise LawBroken(
                f"horizon: declared {horizon}, but frame t - {horizon} has no influence"
            )


def law_batch(model: VideoSegmenter, frames: Tensor) -> None:
    """NaN in one stream never reaches another."""
    with torch.no_grad():
        base, base_memory = model(frames)
        spoiled = frames.clone()
        spoiled[-1] = math.nan
        logits, memory = model(spoiled)
        same(logits.logits[:-1], base.logits[:-1], "batch: a stream's NaN reached another")
        for leaf, clean in zip(
            pytree.tree_leaves(memory), pytree.tree_leaves(base_memory), strict=True
        ):
            same(leaf[:-1], clean[:-1], "batch: a stream's NaN reached another's memory")


def law_recovery(model: VideoSegmenter, frames: Tensor) -> None:
    """After a frame that is not finite a stream is finite again once its horizon has passed.

    Without a horizon it is so from the next frame on, and the frame has not entered the memory.
    """
    reach = 0 if math.isinf(model.horizon) else int(model.horizon)
    with torch.no_grad():
        for bad, value in ((0, math.nan), (1, math.inf)):
            spoiled = frames[:, : bad + reach + 2].clone()
            spoiled[-1, bad] = value
            logits, memory = run(model, spoiled, (1, spoiled.shape[1] - 1))
            if not logits[:, bad + reach + 1 :].isfinite().all():
                raise LawBroken(f"recovery: frame {bad} was {value}, and the stream stays so")
            if not all(leaf.isfinite().all() for leaf in pytree.tree_leaves(memory)):
                raise LawBroken(f"recovery: frame {bad} was {value}, and the memory stays so")


def law_gradient(model: VideoSegmenter, frames: Tensor) -> None:
    """Parameter gradients of any split equal the clip's."""
    whole = gradients(model, lambda: model(frames)[0].logits)
    if not whole:
        return
    for split in splits(frames.shape[1]):
        parts = gradients(model, lambda split=split: run(model, frames, split)[0])
        same(parts, whole, f"gradient: split {split} changes a gradient", scale=largest(whole))


def law_window(model: VideoSegmenter, frames: Tensor) -> None:
    """At every t the window gives the stream's logits."""
    if math.isinf(model.horizon):
        return
    with torch.no_grad():
        stream = model(frames)[0].logits
        for t in range(frames.shape[1]):
            if (t + 1) % model.period:
                continue
            window = list(model.window_frames(t))
            if window[-1] != t or window != sorted(window):
                raise LawBroken(
                    f"window: window_frames({t}) = {window}, wanted oldest first, t last"
                )
            turn = {"phase": window[0] % model.period} if model.period > 1 else {}
            logits = model(frames[:, window], readout="last", **turn)[0].logits
            same(logits[:, 0], stream[:, t], f"window: frame {t} differs from the stream")


def law_phase(model: VideoSegmenter, frames: Tensor) -> None:
    """With a period a stream may start at any phase, and goes on in the turn of phases."""
    if model.period == 1:
        return
    with torch.no_grad():
        started = [model(frames, phase=phase) for phase in range(model.period)]
        for phase, (whole, memory) in enumerate(started):
            logits, between = model(frames[:, :1], phase=phase)
            rest, end = model(frames[:, 1:], between)
            split = torch.cat([logits.logits, rest.logits], 1)
            same(split, whole.logits, f"phase: a split at phase {phase} changes the logits")
            same(end, memory, f"phase: a split at phase {phase} changes the memory")
        stream = started[0][0].logits
        if all(torch.equal(whole.logits, stream) for whole, _ in started[1:]):
            raise LawBroken("phase: a period is declared, but no phase changes anything")
        if math.isinf(model.horizon):
            return
        horizon = int(model.horizon)
        for start in range(1, frames.shape[1] - horizon):
            late = model(frames[:, start:], phase=start % model.period)[0].logits[:, horizon:]
            wanted = stream[:, start + horizon :]
            same(late, wanted, f"phase: a stream from frame {start} on differs past the horizon")


LAWS: tuple[Callable[[VideoSegmenter, Tensor], None], ...] = (
    law_chunk,
    law_value,
    law_causal,
    law_horizon,
    law_batch,
    law_recovery,
    law_gradient,
    law_window,
    law_phase,
)


def splits(length: int) -> Iterator[tuple[int, ...]]:
    """Every way to cut `length` frames in two, one frame at a time, and a mixed one."""
    yield (1,) * length
    for first in range(1, length):
        yield (first, length - first)
    if length > 3:
        yield (1, 2, length - 3)


def run(model: VideoSegmenter, frames: Tensor, split: tuple[int, ...]) -> tuple[Tensor, object]:
    """Logits of all frames and the final memory, chunk by chunk."""
    memory, parts = None, []
    for chunk in frames.split(list(split), 1):
        segmentation, memory = model(chunk, memory)
        parts.append(segmentation.logits)
    return torch.cat(parts, 1), memory


def disturbed(frames: Tensor, t: int) -> Tensor:
    """The clip with another frame t."""
    changed = frames.clone()
    changed[:, t] = changed[:, t].flip(-1) + 0.5
    return changed


def gradients(model: VideoSegmenter, logits: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Of the mean square of the logits, by parameter name."""
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not named:
        return {}
    grads = torch.autograd.grad(logits().square().mean(), list(named.values()), allow_unused=True)
    return {n: g for n, g in zip(named, grads, strict=True) if g is not None}


def largest(tree: object) -> float:
    """The largest absolute value among the leaves."""
    return max(float(leaf.abs().amax()) for leaf in pytree.tree_leaves(tree))


def same(actual: object, expected: object, law: str, *, scale: float | None = None) -> None:
    """Raise LawBroken unless two pytrees agree to RELATIVE of their largest value."""
    left, right = pytree.tree_leaves(actual), pytree.tree_leaves(expected)
    if pytree.tree_structure(actual) != pytree.tree_structure(expected):
        raise LawBroken(f"{law}: the structures differ")
    for a, b in zip(left, right, strict=True):
        if a.shape != b.shape:
            raise LawBroken(f"{law}: {tuple(a.shape)} against {tuple(b.shape)}")
        if a.numel() == 0:
            continue
        size = scale if scale is not None else float(b.abs().amax())
        error = float((a - b).abs().amax())
        if not error <= RELATIVE * max(size, 1e-12):
            raise LawBroken(f"{law}: by {error:.3g} of {size:.3g}")


def _layout_is_kept(before: object, after: object) -> None:
    for old, new in zip(pytree.tree_leaves(before), pytree.tree_leaves(after), strict=True):
        if (old.shape, old.dtype, old.device) != (new.shape, new.dtype, new.device):
            raise LawBroken("value: a step changed the shape, dtype or device of a memory leaf")


def _survives_travel(
    model: VideoSegmenter, memory: object, frame: Tensor, expected: Tensor
) -> None:
    for name, copy in (
        ("pickle", pickle.loads(pickle.dumps(memory))),
        (".to()", memory.to("cpu", torch.float64)),  # type: ignore[attr-defined]
    ):
        logits = model.step(frame, copy)[0].logits
        same(logits, expected, f"value: a memory does not survive {name}")
