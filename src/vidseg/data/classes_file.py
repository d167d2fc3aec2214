"""classes.json: the classes of one's own videos, their colours, and what mask values stand for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidseg.classes import IGNORE
from vidseg.data.files import Colour
from vidseg.data.label_code import MAX_VALUE, LabelCode
from vidseg.documents import read_json
from vidseg.printable import shortened
from vidseg.suggest import did_you_mean

MAX_FPS = 1_000_000  # ticks of frame numbers, which may count microseconds
_KEYS = ("classes", "fps", "ignore", "values")
_EXAMPLE = '{"classes": {"road": [128, 64, 128], "car": [0, 0, 142]}, "fps": 25}'


@dataclass(frozen=True)
class Classes:
    """The content of a classes.json.

    Attributes:
        palette: RGB colour of each class by name, in the order of the label indices.
        fps: ticks per second of the frame numbers; None if it is not said.
        ignore_values: values of index masks that count nowhere; None if it is not said.
        ignore_colours: colours of colour masks that count nowhere.
        values: label index of each mask value, `IGNORE` for void; None where they are the indices.
    """

    palette: dict[str, Colour]
    fps: float | None = None
    ignore_values: tuple[int, ...] | None = None
    ignore_colours: tuple[Colour, ...] = ()
    values: dict[int, int] | None = None

    def code(self) -> LabelCode:
        """How masks are read."""
        return LabelCode(
            list(self.palette.values()),
            list(self.palette),
            values=self.values,
            ignore_values=self.ignore_values,
            ignore_colours=self.ignore_colours,
        )


def read_classes(path: Path) -> Classes:
    """Read a classes.json.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no JSON, has unknown keys, or a name, colour or value is malformed.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; it names the classes, like {_EXAMPLE}. vidseg data prepare folder "
            "makes this layout of others"
        )
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; it should look like {_EXAMPLE}") from None
    if not isinstance(content, dict) or not isinstance(content.get("classes"), dict):
        raise ValueError(f"{path} must name the classes and their colours, like {_EXAMPLE}")
    for key in content:
        if key not in _KEYS:
            raise ValueError(f"{path}: unknown key {key!r}{did_you_mean(key, _KEYS)}")
    palette = {name: _colour(path, name, colour) for name, colour in content["classes"].items()}
    check_names(path, list(palette))
    fps = content.get("fps")
    if fps is not None and not (_is_number(fps) and 0 < fps <= MAX_FPS):
        raise ValueError(
            f"{path}: fps must be a number above 0 and at most {MAX_FPS}, got {shortened(fps)}"
        )
    values = None
    if "values" in content:
        values = _values(path, content["values"], list(palette))
    ignored, colours = None, ()
    if "ignore" in content:
        ignored, colours = _ignored(path, content["ignore"], len(palette), values)
    return Classes(palette, fps, ignored, colours, values)


def check_names(where: Path, names: Sequence[str]) -> None:
    """Refuse names of classes that are none.

    Raises:
        ValueError: they are no 1..255 texts of at most 200 characters; names the file.
    """
    odd = [name for name in names if not 0 < len(name) <= 200 or not _is_text(name)]
    if odd:
        raise ValueError(
            f"{where}: names must be text of at most 200 characters, got {shortened(odd[0])}"
        )
    if not 1 <= len(names) <= IGNORE:
        raise ValueError(f"{where} must name 1..{IGNORE} classes, got {len(names)}")


def describe_classes(classes: Classes) -> str:
    """The text of a classes.json that `read_classes` reads back to equal classes."""
    names = list(classes.palette)

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    lines = [f"{text(name)}: {text(list(colour))}" for name, colour in classes.palette.items()]
    parts = ['"classes": {\n    ' + ",\n    ".join(lines) + "\n  }"]
    if classes.fps is not None:
        parts.append(f'"fps": {text(classes.fps)}')
    if classes.ignore_values is not None:
        ignored = [*classes.ignore_values, *map(list, classes.ignore_colours)]
        parts.append(f'"ignore": {text(ignored)}')
    if classes.values is not None:
        values = {
            str(value): None if index == IGNORE else names[index]
            for value, index in classes.values.items()
        }
        parts.append(f'"values": {text(values)}')
    return "{\n  " + ",\n  ".join(parts) + "\n}\n"


def _ignored(
    path: Path, ignore: Any, num_classes: int, said: Mapping[int, int] | None
) -> tuple[tuple[int, ...], tuple[Colour, ...]]:
    ignore = ignore if isinstance(ignore, list) else [ignore]
    values = tuple(value for value in ignore if _is_number(value, int))
    colours = tuple(_colour(path, "ignore", c) for c in ignore if not _is_number(c, int))
    lowest = num_classes if said is None else 0
    wrong = [v for v in values if not lowest <= v <= MAX_VALUE]
    if wrong:
        raise ValueError(
            f"{path}: ignored values must lie in {lowest}..{MAX_VALUE}, above the classes' "
            f'indices, got {wrong}; "values" says what others stand for'
        )
    twice = [v for v in values if said is not None and said.get(v, IGNORE) != IGNORE]
    if twice:
        raise ValueError(f'{path}: {twice} are in "ignore" and stand for a class in "values"')
    return values, colours


def _values(path: Path, said: Any, names: list[str]) -> dict[int, int]:
    example = '{"0": "background", "255": "lane", "7": null}'
    if not isinstance(said, dict) or not said:
        raise ValueError(
            f"{path}: values must say what the mask values stand for, like {example} (null is "
            f"void), got {shortened(said)}"
        )
    found: dict[int, int] = {}
    for key, name in said.items():
        if not (key.isascii() and key.isdecimal() and len(key) < 9 and int(key) <= MAX_VALUE):
            raise ValueError(
                f"{path}: values are 0..{MAX_VALUE}, like {example}, got {shortened(key)}"
            )
        if name is not None and name not in names:
            wanted = did_you_mean(name, names) if isinstance(name, str) else ""
            raise ValueError(
                f"{path}: value {key} stands for {shortened(name)}, which is no class{wanted}"
            )
        if int(key) in found:
            raise ValueError(f"{path}: value {int(key)} is given twice")
        found[int(key)] = IGNORE if name is None else names.index(name)
    lacking = [name for i, name in enumerate(names) if i not in found.values()]
    if lacking:
        raise ValueError(f"{path}: no value stands for {', '.join(lacking)}; name all classes")
    return found


def _is_text(name: str) -> bool:
    """JSON can hold halves of characters, which no file and no terminal takes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value: Any, kind: Any = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _colour(path: Path, name: str, colour: Any) -> Colour:
    is_rgb = isinstance(colour, list) and len(colour) == 3
    if not is_rgb or not all(_is_number(c, int) and 0 <= c <= 255 for c in colour):
        raise ValueError(
            f"{path}: colour of {name!r} must be [red, green, blue], got {shortened(colour)}"
        )
    return colour[0], colour[1], colour[2]
