"""Read a training run from a YAML recipe and the command line, and say what is wrong with it."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from vidseg.documents import explain, field_of, parse_yaml, read_yaml, told
from vidseg.suggest import did_you_mean
from vidseg.training.config import TrainingConfig
from vidseg.training.config_parts import Part


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
    return {"name": path.stem, **read_mapping(path)}


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values; ValueError for anything else, names the file."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} must be a mapping of keys to values, got {type(values).__name__}")
    return values


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
        try:
            level[keys[-1]] = parse_yaml(text)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
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


def validate(
    values: Mapping[str, Any], *, source: str | Path = "", overrides: Sequence[str] = ()
) -> TrainingConfig:
    """Check the values of a recipe and make the config.

    Args:
        values: nested mappings, as `read_recipe` and `override` give them.
        source: the file that they come from, which the message then names ...
        overrides: ... but for the values that these words have set.

    Returns:
        The config.

    Raises:
        ValueError: names every wrong key with the closest right one, and every wrong value.
    """
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        given = [word.partition("=")[0] for word in overrides]
        raise ValueError(
            told([_explain(fault, source, given) for fault in error.errors()])
        ) from None


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """The config of a recipe with overrides; errors as `read_recipe`, `override`, `validate`."""
    values = read_recipe(recipe)
    return validate(override(values, overrides), source=file_of(recipe), overrides=overrides)


def file_of(recipe: str | Path) -> str | Path:
    """The file that somebody wrote of a recipe; "" for a packaged one, which is right."""
    return "" if str(recipe) in recipes() else recipe


def dump(config: TrainingConfig) -> str:
    """The config as YAML that `load_config` reads back to an equal config."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True)


def differences(before: TrainingConfig, after: TrainingConfig) -> dict[str, tuple[Any, Any]]:
    """List the values that differ: "optimiser.lr" -> (value before, value after)."""
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


def _explain(fault: Any, source: str | Path, given: Sequence[str]) -> str:
    where = field_of(fault)
    if fault["type"] == "extra_forbidden":
        said = f"unknown key {where!r}{_closest_key(where)}"
    elif fault["type"] == "missing":
        said = f"the recipe lacks {where!r} ({known_keys().get(where, 'required')})"
    else:
        said = explain(fault)
    is_given = any(f"{where}.".startswith(f"{key}.") or not where for key in given)
    return said if is_given or not str(source) else f"{source}: {said}"


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
