"""Names that come out of files, as paths that stay inside a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

# Windows opens a device under these, whatever folder and suffix are put around them.
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.I)


def inside(folder: Path | str, name: str, *, links: bool = False) -> Path:
    """The path of a name that a file gives, in a folder; a name that leads out is refused.

    Whoever makes a list, a recipe or an archive chooses the names in it. Nothing else in vidseg
    joins such a name to a folder.

    Args:
        folder: where the name belongs; it need not exist.
        name: one part, or several with "/" between them.
        links: symbolic links below the folder may lead elsewhere, as in data sets that somebody
            put together by links; for reading only.

    Returns:
        `folder / name`.

    Raises:
        ValueError: the name is empty, absolute, has a part "." or "..", a backslash, a drive or a
            NUL, or (on Windows) names a device; or a link in the folder leads out of it.

    Example:
        >>> inside("runs", "camvid/first").as_posix()
        'runs/camvid/first'
        >>> fault_of("../first")
        'leads out of its folder'
    """
    folder = Path(folder)
    fault = fault_of(name)
    if fault:
        raise ValueError(
            f"the name {name!r} {fault}; it must name something inside {folder}, such as 'a' or "
            "'a/b'"
        )
    path = folder / name
    # realpath, not resolve: links that go round in a circle are for the system to refuse.
    real, root = (Path(os.path.realpath(place)) for place in (path, folder))
    if not links and not real.is_relative_to(root):
        raise ValueError(
            f"{path} is behind a link that leads out of {folder}, to {real}; remove the link, or "
            "name another folder"
        )
    return path


def fault_of(name: str) -> str:
    """What keeps a name from being the path of something inside a folder, in words; "" if nothing.

    Args:
        name: as for `inside`.
    """
    parts = name.split("/")
    if not name.strip():
        return "is empty"
    if "\0" in name:
        return "holds a NUL character"
    if name.startswith("/") or re.match(r"[A-Za-z]:[/\\]", name):
        return "is an absolute path"
    if ".." in parts:
        return "leads out of its folder"
    if "\\" in name:
        return "holds a backslash, which separates folders on Windows"
    if "." in parts or "" in parts:
        return "has an empty part"
    if os.name == "nt" and (":" in name or any(map(_DEVICES.fullmatch, parts))):
        return "names a drive, a device or a stream"
    return ""
