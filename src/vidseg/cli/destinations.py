"""Where the results of commands go, what they may replace, and that one process writes them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

FORMATS = ("overlay", "labels", "npz", "jsonl")


def plan_outputs(source: str, out: str | None, formats: list[str]) -> dict[str, Path]:
    """Decide which file or folder each format goes to.

    Args:
        source: what is segmented; gives the name where `out` gives none.
        out: a file, whose suffix names a format, or a folder.
        formats: as given, each perhaps several with commas.

    Returns:
        format -> path.

    Raises:
        ValueError: unknown format; a suffix that is no format, or not the one asked for.
    """
    from vidseg.suggest import did_you_mean

    wanted = [name.strip() for text in formats for name in text.split(",") if name.strip()]
    for name in wanted:
        if name not in FORMATS:
            raise ValueError(f"unknown format {name!r}{did_you_mean(name, FORMATS)}")
    picture = _is_picture(source)
    name = f"{_name_of(source)}_vidseg"
    if out is None:
        return _paths(Path(name), wanted or ["overlay"], picture)
    path = Path(out)
    is_folder = path.is_dir() or out.endswith("/") or not path.suffix
    if is_folder:
        if wanted == ["labels"]:
            return {"labels": path}
        return _paths(path / name, wanted or ["overlay"], picture)
    kind = _format_of(path, picture)
    if len(wanted) > 1:
        chosen = _paths(path.with_suffix(""), wanted, picture)
        return {k: path if k == kind else chosen[k] for k in chosen}
    if wanted and wanted != [kind]:
        raise ValueError(f"--out {out} is for the format {kind}, but --format says {wanted[0]}")
    return {kind: path}


def check_outputs(
    paths: dict[str, Path], source: str, *, force: bool, inputs: Iterable[object] = ()
) -> None:
    """Refuse to write over the source, and over anything that exists unless forced.

    Args:
        paths: format -> path.
        source: what is segmented.
        force: outputs may be replaced.
        inputs: what else is read: weights, prototypes; None for nothing.

    Raises:
        ValueError: an output is the source itself, the folder of its frames, or another input.
        FileExistsError: an output exists, and `force` is false.
    """
    for kind, path in paths.items():
        if path.exists() and Path(source).exists() and path.samefile(source):
            raise ValueError(f"{path} is the source; give another --out")
        read = (Path(str(name)).expanduser() for name in inputs if name is not None)
        if any(path.exists() and file.exists() and path.samefile(file) for file in read):
            raise ValueError(f"{path} is read by this run; give another name")
        if kind == "labels" and path.is_dir() and _has_frames_in(source, path):
            raise ValueError(f"{path} holds the source's frames; give another --out")
        if not force and path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise FileExistsError(f"{path} exists already; pass --force to replace it, or --out")


@contextmanager
def claimed_outputs(paths: dict[str, Path], source: str, *, force: bool) -> Iterator[None]:
    """Keep other processes from writing these outputs; arguments and errors as `check_outputs`."""
    from vidseg.lock import writing

    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    with writing(paths.values()):
        check_outputs(paths, source, force=force)  # what another process has written meanwhile
        yield


@contextmanager
def claimed(folder: Path | None, names: Collection[str], *, force: bool) -> Iterator[None]:
    """Keep a folder for what a command will write into it, from before the work is done.

    Args:
        folder: of the option --out; None for nothing to write. It is made.
        names: of the files that will be written.
        force: files of these names may be replaced.

    Raises:
        FileExistsError: there are files of these names, and `force` is false; or another process
            is writing the folder.
        NotADirectoryError: it is a file.
        OSError: it cannot be written.
    """
    from vidseg.atomic import settle
    from vidseg.lock import FolderLock

    if folder is None:
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--out needs a folder, but {folder} is a file")
    with FolderLock(folder):
        settle(folder)
        _check_free(folder, [folder / name for name in names], force=force)
        yield


@contextmanager
def claimed_maps(folder: Path | None, *, force: bool) -> Iterator[None]:
    """As `claimed`, for a folder that holds label maps and nothing else."""
    from vidseg.atomic import settle
    from vidseg.lock import writing

    if folder is None:
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with writing([folder]):
        settle(folder)
        _check_free(folder, folder.glob("*/*.png"), force=force)
        yield


def _check_free(folder: Path, files: Iterable[Path], *, force: bool) -> None:
    there = [str(f.relative_to(folder)) for f in files if os.path.lexists(f)] if not force else []
    if there:
        more = f" and {len(there) - 3} more" if len(there) > 3 else ""
        raise FileExistsError(
            f"{folder} holds {', '.join(there[:3])}{more} already; pass --force to replace what is "
            "there, or name another folder"
        )


def check_tracks(paths: dict[str, Path], *, all_tracks: bool) -> None:
    """Refuse to keep all tracks in what does not take them.

    Raises:
        ValueError: `all_tracks`, and the overlay is no .mkv.
    """
    overlay = paths.get("overlay")
    if all_tracks and (overlay is None or overlay.suffix.lower() != ".mkv"):
        raise ValueError("--all-tracks wants an overlay that is an .mkv, such as --out film.mkv")


def _paths(base: Path, formats: list[str], picture: bool) -> dict[str, Path]:
    endings = {
        "overlay": ".png" if picture else ".mp4",
        "labels": "_labels",
        "npz": ".npz",
        "jsonl": ".jsonl",
    }
    return {kind: base.with_name(base.name + endings[kind]) for kind in formats}


def _format_of(path: Path, picture: bool) -> str:
    overlays = (".png", ".jpg", ".jpeg") if picture else (".mp4", ".m4v", ".mov", ".mkv")
    endings = {".npz": "npz", ".jsonl": "jsonl"} | dict.fromkeys(overlays, "overlay")
    kind = endings.get(path.suffix.lower())
    if kind is None:
        raise ValueError(
            f"no format is called {path.suffix}; use {', '.join(endings)}, or a folder"
        )
    return kind


def _is_picture(source: str) -> bool:
    from vidseg.video.images import IMAGE_SUFFIXES

    path = Path(source)
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def _has_frames_in(source: str, folder: Path) -> bool:
    """Whether images that are the source, or match its pattern, lie in a folder."""
    from vidseg.video.sources import find_images

    if "://" in source:
        return False
    return any(image.parent.samefile(folder) for image in find_images(Path(source)) or ())


def _name_of(source: str) -> str:
    """A name for outputs: of the file, the folder, the stream or the camera."""
    if source.isdecimal() and not Path(source).exists():
        return f"camera{source}"
    plain = re.sub(r"^[a-z+]+://", "", source).split("?")[0]
    path = Path(plain)
    if re.search(r"[*?\[]", path.name):
        path = path.parent
    if path.is_dir() or not path.suffix:
        return path.resolve().name or "video"
    return path.stem
