"""A video file, and masks that are numbered by its frames."""

from __future__ import annotations

import re
from pathlib import Path

from vidseg.data.classes_file import Classes
from vidseg.data.files import list_labels, visible
from vidseg.data.folder import MASK_SUFFIXES
from vidseg.data.layouts.found import FILM_SUFFIXES, Asked, Found, Item, NoSuchLayout, split_of
from vidseg.data.layouts.mask_classes import find_classes
from vidseg.data.layouts.rasters import MASK_FOLDERS, mask_reader


def films_in(folder: Path) -> list[Path]:
    """The video files of a folder."""
    there = visible(folder)
    return [p for p in there if p.is_file() and p.suffix.lower() in FILM_SUFFIXES]


def read_film(source: Path, asked: Asked) -> Found:
    """A video file CLIP.mp4 and its masks, named by the number of their frame from 0.

    Masks lie in --masks, or in CLIP/, CLIP_masks/, masks/CLIP/, or (where there is one video)
    masks/ beside it. `offset` is added to their numbers: -1 where they count from 1.

    Raises:
        NoSuchLayout: there is no video file with masks.
        ValueError: a mask has no number, or two have one, or masks and classes do not fit.
    """
    films = _films_below(source)
    pairs = {film: folder for film in films if (folder := _masks_of(film, films, asked.masks))}
    if not pairs:
        lacking = f": no folder of masks for {films[0].name} (--masks DIR)" if films else ""
        raise NoSuchLayout(f"no video file beside a folder of masks{lacking}")
    problems = [f"{film} has no masks, left out" for film in films if film not in pairs]
    masks = {film: list_labels(folder, MASK_SUFFIXES) for film, folder in pairs.items()}
    files = [path for found in masks.values() for path in found.values()]
    root = source.parent if source.is_file() else source
    places = dict.fromkeys((root, *pairs.values()))
    classes = find_classes(files, list(places), asked.classes, problems)
    code = classes.code()
    first, folder = next(iter(pairs.items()))
    what = f"video: {first} and masks in {folder}{', ...' * (len(pairs) > 1)}"
    found = Found(what, Classes(classes.palette), [], problems=problems)
    for film in pairs:
        found.films[film.stem] = film
        split = split_of(film.parent.relative_to(root).as_posix())
        numbered: dict[int, Path] = {}
        for stem, path in masks[film].items():
            last = re.search(r"(\d+)\D*$", stem, re.ASCII)
            if last is None:
                raise ValueError(f"{path} names no frame; masks end with the number of theirs")
            number = int(last[1]) + (asked.offset or 0)
            if number in numbered:
                raise ValueError(f"{path} and {numbered[number].name} name one frame, {number}")
            numbered[number] = path
        for number, path in sorted(numbered.items()):
            name = f"{number:06d}"
            found.items.append(Item(film.stem, name, number, mask_reader(path, code), split))
    return found


def _films_below(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.suffix.lower() in FILM_SUFFIXES else []
    folders = [path for path in visible(source) if path.is_dir()]
    films = [film for folder in (source, *folders) for film in films_in(folder)]
    stems = [film.stem for film in films]
    return [film for i, film in enumerate(films) if film.stem not in stems[:i]]


def _masks_of(film: Path, films: list[Path], asked: Path | None) -> Path | None:
    place, stem = film.parent, film.stem
    names = [stem, f"{stem}_masks", f"{stem}_labels"]
    places = [place / name for name in names]
    places += [place / top / stem for top in MASK_FOLDERS]
    if len(films) == 1:
        places += [path for path in visible(place) if path.name.lower() in MASK_FOLDERS]
    if asked is not None:
        places = [asked / stem, *([asked] if len(films) == 1 else [])]
    return next((path for path in places if list_labels(path, MASK_SUFFIXES)), None)
