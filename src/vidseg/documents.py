"""JSON and YAML that anybody may have written: read within bounds, errors name file and field.

Every JSON or YAML file that vidseg reads comes through here, and so does JSON inside other files
(the card of weights). What is read is then checked against a model (`checked`). A failure is one
ValueError, "FILE: field: what was wanted, got what was there".
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, TypeAdapter, ValidationError

from vidseg.printable import shortened

MAX_BYTES = 256 * 2**20
MAX_YAML_BYTES = 2**18  # YAML is read by Python code, 1 MB in ten seconds
MAX_DEPTH = 32
MAX_ALIASED = 100_000  # values of a YAML file with each alias counted as what it stands for
MAX_TEXT = 10_000  # characters of a text field
MAX_COUNT = 2**53  # the integers that every program that reads JSON gives back
MAX_TOLD = 20  # faults of one document that a message lists

T = TypeVar("T")


def read_text(path: Path, *, limit_bytes: int = MAX_BYTES) -> str:
    """Read a text file of UTF-8, with or without a byte order mark.

    Raises:
        FileNotFoundError: there is no such file, or it is a folder or a device.
        ValueError: it is larger than `limit_bytes`, or not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with path.open("rb") as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ValueError(f"{path}: wanted a text of at most {limit_bytes} bytes, got more")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: wanted UTF-8 text, got byte {content[error.start]:#04x} at place "
            f"{error.start}; save it as UTF-8"
        ) from None


def read_json(path: Path) -> Any:
    """Read a JSON file; errors as `read_text` and `parse_json`."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, source: str) -> Any:
    """Read JSON text: plain values, no deeper than 32, no name twice, no NaN.

    Args:
        text: the document.
        source: where it comes from, for messages.

    Raises:
        ValueError: it is not such a document; begins with `source`.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise ValueError(f"{source}: {_TOO_DEEP}") from None
    except ValueError as error:
        raise ValueError(f"{source}: wanted JSON, got text that is none ({error})") from None
    _check_depth(value, source)
    return value


def read_yaml(path: Path) -> Any:
    """Read a YAML file; errors as `read_text` and `parse_yaml`, and begin with the path."""
    text = read_text(path, limit_bytes=MAX_YAML_BYTES)
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_yaml(text: str) -> Any:
    """Read YAML with the numbers and booleans of YAML 1.2, and nothing but plain values.

    Args:
        text: the document.

    Returns:
        Plain values; `1e-4` is a float, `no` and 2026-01-31 are words.

    Raises:
        ValueError: not YAML, or a key occurs twice; it has tags (!!x), keys that are no plain
            values, or is deeper or through its aliases larger than any recipe. Names the line.

    Example:
        >>> parse_yaml("{lr: 1e-4, photometric: no}")
        {'lr': 0.0001, 'photometric': 'no'}
    """
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None
    _check_depth(value, "the document", limit=MAX_ALIASED)
    return value


def checked(kind: type[T], values: Any, source: str) -> T:
    """Check values that were read against a pydantic model, or any type that pydantic knows.

    Raises:
        ValueError: one line for each wrong field, "SOURCE: field: wanted, got".
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        lines = [f"{source}: {explain(fault)}" for fault in error.errors()[: MAX_TOLD + 1]]
        raise ValueError(told(lines)) from None


def told(lines: Sequence[str]) -> str:
    """Faults as one message: each once, and no more than somebody reads."""
    once = list(dict.fromkeys(lines))
    return "\n".join([*once[:MAX_TOLD], *(["and more"] if len(once) > MAX_TOLD else [])])


def explain(fault: Any) -> str:
    """Put one error of pydantic into words: "field: wanted, got"."""
    where = field_of(fault)
    if fault["type"] == "missing":
        return f"lacks {where!r}"
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown field {where!r}"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] in ("model_type", "dataclass_type", "model_attributes_type"):
        message = "Input should be an object of named values"
    if not where and fault["type"] == "value_error":
        return message
    where = where or "the whole"
    return f"{where}: {message[0].lower()}{message[1:]}, got {shortened(fault['input'])}"


def field_of(fault: Any) -> str:
    """The field that an error of pydantic is about: "optimiser.lr"."""
    kinds = ("literal[", "function-after[", "tuple[", "constrained-")  # choices of a union
    return ".".join(str(part) for part in fault["loc"] if not str(part).startswith(kinds))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    _check_depth(values, "the options", limit=MAX_ALIASED)
    inside: list[Any] = [values]
    for value in inside:
        if isinstance(value, (dict, list, tuple)):
            inside += value.values() if isinstance(value, dict) else value
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"numbers should be finite, got {value} in them")
        elif isinstance(value, int) and abs(value) > MAX_COUNT:
            raise ValueError(f"numbers should be at most 2**53, got {shortened(value)} in them")
        elif isinstance(value, str) and len(value) > MAX_TEXT:
            raise ValueError(f"texts should have at most {MAX_TEXT} characters")
    return values


Options = Annotated[dict[str, Any], AfterValidator(_plain)]
"""Arguments by name, as plain values of a reasonable number and size, for a pydantic model."""

_TOO_DEEP = f"wanted values nested at most {MAX_DEPTH} deep, got deeper ones"


def _check_depth(value: Any, source: str, *, limit: int | None = None) -> None:
    """Refuse what is too deep, or has more values than `limit`; shared parts count each time."""
    level, depth, count = [value], 0, 0
    while level := [part for part in level if isinstance(part, (dict, list, tuple))]:
        depth += 1
        count += sum(map(len, level))
        if depth > MAX_DEPTH:
            raise ValueError(f"{source}: {_TOO_DEEP}")
        if limit is not None and count > limit:
            raise ValueError(f"{source}: wanted at most {limit} values, got more through aliases")
        level = [
            item for part in level for item in (part.values() if isinstance(part, dict) else part)
        ]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = sorted(name for name, times in Counter(n for n, _ in pairs).items() if times > 1)
        raise ValueError(f"{shortened(twice)} given twice")
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and booleans: 1e-4 is a float, `no` and `on` are words, 010 is ten."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [r for r in resolvers if r[0] == "tag:yaml.org,2002:null"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node; a tag, or one level too many, ends the reading."""
        event = self.peek_event()
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"line {line}: wanted plain values, got the tag {event.tag[:60]!r}")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"line {line}: {_TOO_DEEP}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Make a mapping, whose keys are plain values and occur once."""
        line = node.start_mark.line + 1
        if any(key.id != "scalar" for key, _ in node.value):
            raise ValueError(f"line {line}: wanted keys of plain values, got lists or mappings")
        keys = Counter(self.construct_object(key) for key, _ in node.value)
        twice = [key for key, times in keys.items() if times > 1]
        if twice:
            raise ValueError(f"line {line}: {twice[0]!r} occurs twice")
        return super().construct_mapping(node, deep)


def _number(kind: Any) -> Any:
    def construct(loader: Any, node: Any) -> Any:
        try:
            return kind(re.sub(r"\.(inf|nan)", r"\1", node.value.lower()))
        except ValueError:  # Python reads no integer of more than 4300 digits
            line = node.start_mark.line + 1
            raise ValueError(f"line {line}: wanted a number, got {shortened(node.value)}") from None

    return construct


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _number(int))
_Loader.add_constructor("tag:yaml.org,2002:float", _number(float))
