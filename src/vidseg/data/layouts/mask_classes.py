"""The classes of masks that are pictures: from a file that names them, or from the masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vidseg.classes import IGNORE
from vidseg.data.classes_file import Classes, read_classes
from vidseg.data.files import Colour
from vidseg.data.label_code import MAX_VALUE
from vidseg.data.layouts.found import BACKGROUND
from vidseg.data.threads import in_threads
from vidseg.documents import read_text
from vidseg.video.images import read_stored
from vidseg.video.render import default_palette

CLASS_FILES = (
    *("classes.json", "labelmap.txt", "classes.txt", "labels.txt", "class_names.txt"),
    *("label_colors.txt", "label_names.txt", "obj.names"),
)
_IGNORED = ("__ignore__", "ignore", "void")
_MAX_COLOURS = 255


@dataclass
class _Contents:
    """What the masks of a source hold together."""

    values: set[int] = field(default_factory=set)
    colours: set[Colour] = field(default_factory=set)
    palette: dict[int, set[Colour]] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        try:
            stored = read_stored(path)
        except (ValueError, OSError):
            return  # it is told, and left out, when it is to be written
        if stored.values.ndim == 2:
            self.values.update(np.unique(stored.values).tolist())
            for index, colour in stored.palette.items():
                self.palette.setdefault(index, set()).add(colour)
            return
        packed = stored.values.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
        for c in np.unique(packed).tolist():
            self.colours.add((c >> 16, c >> 8 & 255, c & 255))
            if len(self.colours) > _MAX_COLOURS:
                raise ValueError(
                    f"{path}: the masks have more than {_MAX_COLOURS} colours; they were blended "
                    "by resizing or by JPEG, or are no masks: export them again as PNG"
                )


def find_classes(
    masks: Sequence[Path], places: Sequence[Path], asked: Path | None, problems: list[str]
) -> Classes:
    """The classes of masks, and what their values and colours stand for.

    Args:
        masks: all of them.
        places: folders in which a file may name the classes.
        asked: the file that is to name them; None to look for one.
        problems: what was guessed is told here.

    Raises:
        ValueError: the file is malformed, or does not fit what the masks hold; or a mask is no
            picture.
        FileNotFoundError: `asked` is not there.
    """
    named = asked
    for place in () if asked else places:
        named = named or next((place / n for n in CLASS_FILES if (place / n).is_file()), None)
    if named is not None and named.suffix.lower() == ".json":
        return read_classes(named)
    contents = _Contents()
    for _ in in_threads(contents.add, masks):
        pass
    if named is None:
        found = _guess(contents)
        problems.append(
            f"no file names the classes; by what the masks hold they are "
            f"{', '.join(found.palette)}: give --classes FILE, or rename them in classes.json"
        )
        return found
    palette, ignored = read_names(named)
    return _fit(palette, ignored, contents, named, problems)


def read_names(path: Path) -> tuple[dict[str, Colour | None], list[Colour]]:
    """Classes of a text file, a name a line, with or without its colour.

    Lines are `road`, `road 128 64 128`, `128 64 128 road`, `road,128,64,128`, or CVAT's
    `road:128,64,128::`; all may be counted (`0 road`); `#` begins a comment.

    Returns:
        Colour of each class, in the order of the lines; and colours of what is ignored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a name occurs twice, or there is none.
    """
    palette: dict[str, Colour | None] = {}
    ignored: list[Colour] = []
    for number, text in _lines(path):
        found = re.fullmatch(
            r"(?:(?P<first>\d+[ ,\t]+\d+[ ,\t]+\d+)[ ,\t]+)?(?P<name>.*?)"
            r"(?:[ ,:\t]+(?P<last>\d+[ ,\t]+\d+[ ,\t]+\d+)(?::.*)?|:.*)?",
            text,
        )
        assert found is not None, "every line is a name at least"
        name, colour = found["name"].strip().strip("\"'"), found["first"] or found["last"]
        rgb = tuple(int(word) for word in re.findall(r"\d+", colour)) if colour else None
        if not name or (rgb is not None and max(rgb) > 255):
            raise ValueError(f"{path}, line {number} is no class and colour: {text[:60]!r}")
        if name.casefold() in _IGNORED:
            ignored += [(rgb[0], rgb[1], rgb[2])] if rgb else []
            continue
        if name in palette:
            raise ValueError(f"{path}, line {number}: the class {name!r} occurs twice")
        palette[name] = (rgb[0], rgb[1], rgb[2]) if rgb else None
    if not 1 <= len(palette) <= IGNORE:
        raise ValueError(f"{path} must name 1..{IGNORE} classes, one a line, got {len(palette)}")
    return palette, ignored


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines with their numbers, without comments, and without an index that counts them."""
    lines = read_text(path).splitlines()
    found = [(i, line.strip()) for i, line in enumerate(lines, 1)]
    found = [(i, text) for i, text in found if text and not text.startswith("#")]
    counted = [re.fullmatch(r"(\d+)[ ,:\t]+(\D.*)", text) for _, text in found]
    numbers = [int(match[1]) for match in counted if match]
    if found and numbers in (list(range(len(found))), list(range(1, len(found) + 1))):
        return [(i, match[2]) for (i, _), match in zip(found, counted, strict=True) if match]
    return found


def coloured(palette: dict[str, Colour | None]) -> dict[str, Colour]:
    """Give classes without a colour one, all of them different."""
    taken = {colour for colour in palette.values() if colour is not None}
    spare = (
        (int(r), int(g), int(b))
        for r, g, b in default_palette(3 * len(palette) + 8)
        if (int(r), int(g), int(b)) not in taken
    )
    found: dict[str, Colour] = {}
    for name, colour in palette.items():
        is_dark = name == BACKGROUND and (0, 0, 0) not in taken
        found[name] = colour or ((0, 0, 0) if is_dark else next(spare))
    return found


def _fit(
    palette: dict[str, Colour | None],
    ignored: list[Colour],
    contents: _Contents,
    path: Path,
    problems: list[str],
) -> Classes:
    """Classes that a file names, for masks that hold these values or colours."""
    names = list(palette)
    has_colours = all(colour is not None for colour in palette.values())
    if contents.colours and not has_colours:
        raise ValueError(
            f"the masks are in colour, and {path} gives no colours; a line is a name and a colour, "
            "like: road 128 64 128"
        )
    found = coloured(palette)
    void = {IGNORE, MAX_VALUE} | ({0} if len(names) == max(contents.values, default=0) else set())
    counted = sorted(contents.values - void)
    shown = {c for colours in contents.palette.values() for c in colours}
    if has_colours and (contents.colours or shown & set(found.values())):
        return Classes(found, None, None, tuple(ignored))
    if contents.values == {0, IGNORE} and len(names) == 2:
        problems.append(
            f"the masks hold 0 and 255 alone; 255 is taken for {names[1]}, not for void"
        )
        return Classes(found, None, None, (), {0: 0, IGNORE: 1})
    if not counted or counted[-1] < len(names):
        return Classes(found, None, None, tuple(ignored))
    if counted == list(range(1, len(names) + 1)) or counted[-1] == len(names):
        problems.append(f"masks count the classes of {path.name} from 1; 0 is taken for void")
        values = {0: IGNORE, IGNORE: IGNORE, **{i + 1: i for i in range(len(names))}}
        return Classes(found, None, None, (), values)
    raise ValueError(
        f"the masks hold the values {counted[:10]}, and {path} names {len(names)} classes; write a "
        'classes.json whose "values" say what each stands for (docs/data.md)'
    )


def _guess(contents: _Contents) -> Classes:
    """Classes for masks that nobody has named."""
    if contents.colours and contents.values:
        raise ValueError(
            "some masks are in colour and some are not; name the classes and their colours in a "
            "file (--classes)"
        )
    shown = {c for colours in contents.palette.values() for c in colours}
    is_ordered = all(len(colours) == 1 for colours in contents.palette.values())
    is_grey = all(len(set(colour)) == 1 for colour in shown)
    if contents.colours or (shown and (is_grey or not is_ordered)):
        colours = sorted(contents.colours or shown)
        return Classes({_name_of(colour): colour for colour in colours})
    values = sorted(contents.values)
    if values == [0, IGNORE]:
        palette = coloured({BACKGROUND: None, "foreground": None})
        return Classes(palette, None, None, (), {0: 0, IGNORE: 1})
    values = [value for value in values if value not in (IGNORE, MAX_VALUE)]
    if not values or values[0] < 0 or values[-1] > MAX_VALUE or len(values) > IGNORE:
        raise ValueError(
            f"the masks hold {len(values)} values that could be classes, wanted 1..{IGNORE} of "
            f"0..{MAX_VALUE}; are they masks?"
        )
    colours = {v: next(iter(contents.palette[v])) for v in values} if shown else {}
    if len(set(colours.values())) < len(values):
        colours = {}
    named = {f"class_{v}" if v else BACKGROUND: colours.get(v) for v in values}
    codes = {value: index for index, value in enumerate(values)}
    return Classes(coloured(named), None, None, (), {**codes, IGNORE: IGNORE, MAX_VALUE: IGNORE})


def _name_of(colour: Colour) -> str:
    return BACKGROUND if colour == (0, 0, 0) else f"class_{bytes(colour).hex()}"
