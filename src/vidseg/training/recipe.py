"""Read a training run from a YAML recipe and the command line, and say what is wrong with it."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from vidseg.suggest import did_you_mean
from vidseg.training.config import Part, TrainingConfig


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and booleans: 1e-4 is a float, `no` and `on` are words, 010 is ten."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if "value" not in tag]
        for first, resolvers in {
            key: [r for r in value if r[0].rsplit(":", 1)[-1] not in ("bool", "int", "float")]
            for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ValueError(f"line {node.start_mark.line + 1}: {sorted(twice)[0]!r} occurs twice")
        return super().construct_mapping(node, deep)


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
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Loader.add_constructor(
    "tag:yaml.org,2002:float",
    lambda _, node: float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan")),
)


def parse_yaml(text: str) -> Any:
    """Read YAML with the numbers and booleans of YAML 1.2.

    Args:
        text: the document.

    Returns:
        Plain values; `1e-4` is a float, `no` a word.

    Raises:
        ValueError: not YAML, or a key occurs twice; names the line.

    Example:
        >>> parse_yaml("{lr: 1e-4, photometric: no}")
        {'lr': 0.0001, 'photometric': 'no'}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error


def recipes() -> dict[str, Path]:
    """The packaged recipes: name -> file."""
    folder = Path(str(resources.files("vidseg") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """Read a recipe.

    Args:
        recipe: name of a packaged recipe, or path of a YAML file.

    Returns:
        The values as they stand in the file, not yet validated.

    Raises:
        FileNotFoundError: neither a packaged recipe nor a file.
        ValueError: the file is not a YAML mapping.
    """
    path = recipes().get(str(recipe), Path(recipe))
    if not path.is_file():
        raise FileNotFoundError(
            f"no recipe {str(recipe)!r}: neither a packaged recipe nor a file"
            + did_you_mean(str(recipe), recipes())
        )
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} must be a mapping of keys to values, got {type(values).__name__}")
    return {"name": path.stem, **values}


def override(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set `key.sub=value` words over the values of a recipe.

    Args:
        values: nested mappings.
        overrides: words such as "optimiser.lr=1e-3"; the value is read as YAML.

    Returns:
        A new mapping; `values` stays as it is. Where another `data.kind` is set, the options that
        the recipe has for the data set of its own kind are left out.

    Raises:
        ValueError: a word is not key=value, or goes below something that has no keys.
    """
    result = {**values}
    for word in overrides:
        path, equals, text = word.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            raise ValueError(f"overrides are key=value or key.sub=value, got {word!r}")
        level = result
        for key in keys[:-1]:
            below = level.get(key)
            if below is not None and not isinstance(below, Mapping):
                raise ValueError(f"{word!r}: {key} is {below!r} and has no keys below it")
            level[key] = {**(below or {})}
            level = level[key]
        level[keys[-1]] = parse_yaml(text)
    return _without_foreign_options(values, result)


def _without_foreign_options(before: Mapping[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Options of a data set of one kind mean nothing to another."""

    def kind_of(values: Mapping[str, Any], part: str) -> Any:
        own = values.get(part)
        kind = own.get("kind") if isinstance(own, Mapping) else None
        return kind_of(values, "data") if kind is None and part != "data" else kind

    for part in ("data", "validation"):
        ours, theirs = before.get(part), after.get(part)
        if not isinstance(ours, Mapping) or not isinstance(theirs, Mapping):
            continue
        is_kept = theirs.get("options") == ours.get("options")
        if kind_of(before, part) != kind_of(after, part) and is_kept:
            after[part] = {key: value for key, value in theirs.items() if key != "options"}
    return after


def validate(values: Mapping[str, Any]) -> TrainingConfig:
    """Check the values of a recipe and make the config.

    Args:
        values: nested mappings, as `read_recipe` and `override` give them.

    Returns:
        The config.

    Raises:
        ValueError: names every wrong key with the closest right one, and every wrong value.
    """
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        raise ValueError("\n".join(dict.fromkeys(map(_explain, error.errors())))) from None


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """The config of a recipe with overrides; errors as `read_recipe`, `override`, `validate`."""
    return validate(override(read_recipe(recipe), overrides))


def dump(config: TrainingConfig) -> str:
    """The config as YAML that `load_config` reads back to an equal config."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True)


def differences(before: TrainingConfig, after: TrainingConfig) -> dict[str, tuple[Any, Any]]:
    """Which values differ: "optimiser.lr" -> (value before, value after)."""
    ours, theirs = flatten(before.model_dump()), flatten(after.model_dump())
    keys = dict.fromkeys([*ours, *theirs])
    return {
        key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def known_keys(part: type[BaseModel] = TrainingConfig, prefix: str = "") -> dict[str, str]:
    """Every key of the config, "optimiser.lr", and what it is."""
    keys: dict[str, str] = {}
    for name, field in part.model_fields.items():
        parts = [
            kind
            for kind in (field.annotation, *get_args(field.annotation))
            if isinstance(kind, type) and issubclass(kind, Part)
        ]
        for part_below in parts:
            keys |= known_keys(part_below, f"{prefix}{name}.")
        if not parts or field.description:
            keys[f"{prefix}{name}"] = field.description or ""
    return keys


def _explain(error: Any) -> str:
    kinds = ("literal[", "function-after[")  # pydantic's names of the choices of a union
    where = ".".join(str(part) for part in error["loc"] if not str(part).startswith(kinds))
    if error["type"] == "extra_forbidden":
        return f"unknown key {where!r}{_closest_key(where)}"
    if error["type"] == "missing":
        return f"the recipe lacks {where!r} ({known_keys().get(where, 'required')})"
    message = error["msg"].removeprefix("Value error, ")
    if not where:
        return message
    return f"{where}: {message[0].lower()}{message[1:]}, got {error['input']!r}"


def _closest_key(where: str) -> str:
    """The closest key: of the whole path, or of the last word wherever it is (lr: optimiser.lr)."""
    keys = list(known_keys())
    close = get_close_matches(where, keys, n=1, cutoff=0.75)
    last = where.rsplit(".", 1)[-1]
    elsewhere = [key for key in keys if key.rsplit(".", 1)[-1] == last]
    parent = where.rpartition(".")[0]
    siblings = [key for key in keys if key.rpartition(".")[0] == parent]
    if elsewhere or close:
        return f"; did you mean {(elsewhere or close)[0]!r}?"
    return did_you_mean(where, siblings or keys)
