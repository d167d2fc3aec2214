"""The name that somebody most likely meant, for error messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(wanted: str, known: Iterable[str]) -> str:
    """Say which known name is closest to a mistyped one.

    Args:
        wanted: the name that was not found.
        known: the names that exist.

    Returns:
        A clause to append to an error message: the closest name if one is close, otherwise all
        names in their order, otherwise (no names) the empty string.

    Example:
        >>> "unknown model 'tmanet_r5'" + did_you_mean("tmanet_r5", ["fcn_r50", "tmanet_r50"])
        "unknown model 'tmanet_r5'; did you mean 'tmanet_r50'?"
        >>> "unknown split 'x'" + did_you_mean("x", ["train", "val"])
        "unknown split 'x'; choose one of: train, val"
    """
    names = list(known)
    spelling = {name.casefold(): name for name in names}
    close = get_close_matches(wanted.casefold(), list(spelling), n=1, cutoff=0.6)
    if close:
        return f"; did you mean {spelling[close[0]]!r}?"
    if names:
        return f"; choose one of: {', '.join(names)}"
    return ""
