"""Which mask belongs to which frame, and which frames are one video."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

# What programs put before or behind the name of the frame.
_AFFIX = re.compile(
    r"^(mask|label|seg|gt)[_-]|"
    r"[_-](masks?|labels?|seg(mentation)?|gt|annot(ation)?s?|l|label_?ids|train_?ids|color)$",
    re.IGNORECASE,
)
_LAST_NUMBER = re.compile(r"(\d+)\D*$", re.ASCII)


def match(
    frames: Sequence[str], masks: Sequence[str], offset: int | None, where: Path
) -> tuple[dict[str, str], list[str]]:
    """Find the frame of each mask by their names, or by the numbers in them.

    Args:
        frames: names without suffix.
        masks: names without suffix.
        offset: the frame of mask n is n + offset; None where none is said: names count first.
        where: the masks, for messages.

    Returns:
        Frame -> mask, and the masks that have no frame.

    Raises:
        ValueError: there are as many masks as frames and all their numbers are shifted by as much,
            so that it is not certain which belong together.
    """
    if offset is None:
        _refuse_shifted(frames, masks, where)
        for key in (lambda name: name, _bare, _last_number):
            ours, theirs = _by_key(frames, key), _by_key(masks, key)
            pairs = {ours[k]: theirs[k] for k in ours.keys() & theirs.keys()}
            if pairs and (key is not _last_number or len(ours) == len(frames)):
                break
    else:
        ours, theirs = _by_key(frames, _last_number), _by_key(masks, _last_number)
        pairs = {ours[n + offset]: theirs[n] for n in theirs if n + offset in ours}
    taken = set(pairs.values())
    return pairs, [mask for mask in masks if mask not in taken]


def _by_key(names: Sequence[str], key) -> dict:
    """Names by a key, without those that share one, or have none."""
    found: dict = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return {k: same[0] for k, same in found.items() if k is not None and len(same) == 1}


def _bare(name: str) -> str:
    return _AFFIX.sub("", name).casefold()


def _last_number(name: str) -> int | None:
    found = _LAST_NUMBER.search(_AFFIX.sub("", name))
    return int(found[1]) if found else None


def _refuse_shifted(frames: Sequence[str], masks: Sequence[str], where: Path) -> None:
    ours, theirs = (sorted(_by_key(names, _last_number)) for names in (frames, masks))
    if len(ours) != len(frames) or len(theirs) != len(masks) or len(ours) != len(theirs):
        return
    shifts = {ours_n - theirs_n for ours_n, theirs_n in zip(ours, theirs, strict=True)}
    if len(ours) < 2 or len(shifts) != 1 or shifts == {0}:
        return
    shift = shifts.pop()
    raise ValueError(
        f"{where}: masks are numbered {theirs[0]}..{theirs[-1]}, and as many frames "
        f"{ours[0]}..{ours[-1]}; --offset {shift} says that mask n belongs to frame "
        f"n {'+' if shift > 0 else '-'} {abs(shift)}, --offset 0 that it belongs to frame n"
    )


def sources(stems: Sequence[str], name: str) -> dict[str, str]:
    """The video of each frame, by what stands before the number in its name.

    Args:
        stems: of frames that lie in one folder.
        name: of the video whose frames are named by numbers alone.

    Example:
        >>> sources(["a_01", "a_02", "b-7", "003"], "clip")
        {'a_01': 'a', 'a_02': 'a', 'b-7': 'b', '003': 'clip'}
    """
    before = {stem: re.sub(r"[\d.]+\D*$", "", stem, flags=re.ASCII) for stem in stems}
    found = {
        stem: re.sub(r"[^\w.-]|[_.-]+(f|frame|img|image)?$", "", text)
        for stem, text in before.items()
    }
    counts: dict[str, int] = {}
    for source in found.values():
        counts[source] = counts.get(source, 0) + 1
    # Names that are all different are no videos: pictures called after what they show.
    if len(counts) > 1 and max(counts.values()) == 1:
        return dict.fromkeys(stems, name)
    words = {"", "frame", "img", "image", "f", "frm", "im"}
    return {s: name if source.lower() in words else source for s, source in found.items()}
