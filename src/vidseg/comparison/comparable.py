"""Which evaluations may stand in one table: the same classes, videos, frames and protocols."""

from collections.abc import Callable, Sequence
from typing import Any

from vidseg.comparison.record import SavedEvaluation

_SHOWN = 5

Named = Sequence[tuple[str, SavedEvaluation]]
Check = Callable[[str, SavedEvaluation, str, SavedEvaluation], list[str]]


def check_same(runs: Named) -> None:
    """Refuse runs whose accuracy was not measured on the same.

    Args:
        runs: with the name of each.

    Raises:
        ValueError: names what differs: classes, videos, what decides accuracy, or scored frames.
    """
    problems = _beside_first(runs, _other_names)
    if not problems:
        scored = [(label, run) for label, run in runs if run.sums.truth.any()]
        problems = _beside_first(scored, _other_accuracy)
    if problems:
        raise ValueError(
            "these runs were not measured on the same, so their figures do not compare: "
            f"{'; '.join(problems)}. Evaluate them again with the same data set, split, protocol "
            "and limits"
        )


def why_consistency_differs(runs: Named) -> str | None:
    """Say why TC and flicker of these runs do not compare; None where they do."""
    steady = [(label, run) for label, run in runs if run.sums.steady_union.any()]
    problems = _beside_first(steady, _other_consistency)
    if not problems:
        return None
    return (
        "TC and flicker are left out, because the runs measured them in different ways: "
        f"{'; '.join(problems)}. Evaluate them again with the same --tc, "
        "the same --flow and the same frames."
    )


def why_video_consistency_differs(runs: Named) -> str | None:
    """Say why VC of these runs does not compare; None where it does."""
    measured = [(label, run) for label, run in runs if run.sums.vc_windows.any()]
    problems = _beside_first(measured, _other_windows)
    return f"VC is left out: {'; '.join(problems)}." if problems else None


def _beside_first(runs: Named, check: Check) -> list[str]:
    return [text for other in runs[1:] for text in check(*runs[0], *other)]


def _other_names(
    label: str, run: SavedEvaluation, other_label: str, other: SavedEvaluation
) -> list[str]:
    problems = []
    for what in ("classes", "videos"):
        ours, theirs = getattr(run, what), getattr(other, what)
        only = [
            f"{what} only in {where}: {_some(names)}"
            for where, names in (
                (label, [name for name in ours if name not in theirs]),
                (other_label, [name for name in theirs if name not in ours]),
            )
            if names
        ]
        if ours != theirs:
            problems += only or [f"the {what} of {label} and {other_label} are in another order"]
    return problems


def _other_accuracy(
    label: str, run: SavedEvaluation, other_label: str, other: SavedEvaluation
) -> list[str]:
    settings = _other_settings(label, run.accuracy, other_label, other.accuracy)
    differ = (run.sums.truth != other.sums.truth).any(1)
    if settings or not differ.any():
        return settings
    names = [name for name, is_other in zip(run.videos, differ, strict=True) if is_other]
    return [f"{label} and {other_label} scored other frames, or at another size, of {_some(names)}"]


def _other_consistency(
    label: str, run: SavedEvaluation, other_label: str, other: SavedEvaluation
) -> list[str]:
    settings = _other_settings(label, run.consistency, other_label, other.consistency)
    if settings or (run.num_pairs == other.num_pairs).all():
        return settings
    return [
        f"{label} compared {run.num_pairs.sum()} pairs of frames and {other_label} "
        f"{other.num_pairs.sum()}, not the same in every video"
    ]


def _other_windows(
    label: str, run: SavedEvaluation, other_label: str, other: SavedEvaluation
) -> list[str]:
    if run.sums.vc_windows.equal(other.sums.vc_windows):
        return []
    return [f"{label} and {other_label} counted other windows of frames"]


def _other_settings(
    label: str, ours: dict[str, Any], other_label: str, theirs: dict[str, Any]
) -> list[str]:
    return [
        f"{name.replace('_', ' ')} is {_shown(ours.get(name))} in {label} and "
        f"{_shown(theirs.get(name))} in {other_label}"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]


def _shown(value: Any) -> str:
    return "not stated" if value is None else repr(value)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
