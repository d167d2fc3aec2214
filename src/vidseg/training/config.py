"""What a training run is: one validated value, read from a YAML recipe and the command line."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vidseg.suggest import did_you_mean

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Triple = tuple[float, float, float]


class Part(BaseModel):
    """A part of the config: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ModelConfig(Part):
    """Which model, and what it starts from."""

    name: str = Field(description="as vidseg.create takes it, such as tmanet_r50")
    options: dict[str, Any] = Field({}, description="further arguments of vidseg.create")
    backbone_weights: str | None = Field(None, description='a file, or "imagenet" (the hub)')
    initial_weights: str | None = Field(
        None, description="weights of another vidseg model; every tensor that fits is taken over"
    )
    unfold_bn: Annotated[int, Field(ge=0)] = Field(
        0,
        description="for backbone weights with folded batch norms: training images that give the "
        "norms statistics before the first step",
    )


class DrawnMemory(Part):
    """Memory frames drawn once at random from the frames before the labelled one."""

    drawn_within: Positive = Field(description="how many frames back, at most")
    start: Literal["repeat", "skip"] = Field(
        "repeat", description="at a video's start repeat the first frame, or skip the sample"
    )


class Source(Part):
    """A data set: what vidseg.data.open_dataset takes."""

    kind: str = Field(description="cityscapes, camvid, folder or synthetic")
    root: str | None = Field(None, description="folder of the data set")
    split: str = Field("train", description="part of the data set")
    options: dict[str, Any] = Field({}, description="further arguments of open_dataset")


class DataConfig(Source):
    """Training samples: where from, which memory frames, how augmented."""

    memory: Literal["window", "skip"] | DrawnMemory = Field(
        "window",
        description="window: the frames of the model's window_frames; skip: the preceding frames, "
        "samples at a video's start left out; drawn_within: N, drawn from the last N frames",
    )
    crop: tuple[Positive, Positive] = Field(description="height, width of a sample, px")
    base_size: tuple[Positive, Positive] | None = Field(
        None, description="width, height that scale 1 stands for; the image's own by default"
    )
    scale: tuple[float, float] = Field((0.5, 2.0), description="range of the random scale")
    max_class_share: Share = Field(0.75, description="a crop is redrawn if one class has more")
    flip: Share = Field(0.5, description="probability of a mirrored clip")
    photometric: Literal["clip", "frame", "none"] = Field(
        "clip", description="one draw of colour changes for the clip, for each frame, or none"
    )
    mean: Triple | None = Field(None, description="RGB, 0..255; the model's card by default")
    std: Triple | None = Field(None, description="RGB, 0..255; the model's card by default")

    @field_validator("scale")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"scale must be (smallest, largest), got {value}")
        return value


class ValidationConfig(Part):
    """Validation during training, on whole images."""

    every: Annotated[int, Field(ge=0)] = Field(1000, description="steps between; 0 for never")
    kind: str | None = Field(None, description="as data.kind, which is the default")
    root: str | None = Field(None, description="as data.root, which is the default")
    split: str = Field("val", description="part of the data set")
    options: dict[str, Any] | None = Field(None, description="as data.options (the default)")
    limit: Positive | None = Field(None, description="labelled frames at most, evenly spread")
    sliding: tuple[tuple[Positive, Positive], tuple[Positive, Positive]] | None = Field(
        None, description="[[crop height, width], [stride height, width]]; whole images by default"
    )
    samples: Annotated[int, Field(ge=0)] = Field(3, description="overlays to write")


class LossConfig(Part):
    """Cross entropy of the main and the auxiliary head."""

    aux_weight: Rate = Field(0.4, description="weight of each auxiliary head's loss")
    average: Literal["valid", "all"] = Field(
        "valid", description="all: ignored pixels count in the denominator (official TMANet)"
    )
    class_weights: tuple[float, ...] | None = Field(None, description="one number per class")


class OptimiserConfig(Part):
    """The optimiser and its parameter groups."""

    kind: Literal["sgd", "adamw"] = Field("sgd", description="optimiser")
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(0.01, description="base rate")
    momentum: Share = Field(0.9, description="of SGD")
    betas: tuple[Share, Share] = Field((0.9, 0.999), description="of AdamW")
    weight_decay: Rate = Field(5e-4, description="L2 penalty (SGD), decoupled decay (AdamW)")
    head_multiplier: Rate = Field(1.0, description="rate of everything but the backbone, times lr")
    decay_norm_and_bias: bool = Field(True, description="also decay norm layers and biases")
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        None, description="largest norm of the gradient; none by default"
    )


class ScheduleConfig(Part):
    """The polynomial schedule; see vidseg.training.schedule.polynomial_rate."""

    power: Rate = Field(0.9, description="of the polynomial; 0 keeps the rate")
    floor: Rate = Field(0.0, description="rate that the schedule ends at")
    warmup_iterations: Annotated[int, Field(ge=0)] = Field(0, description="steps of warm-up")
    warmup_start: Share = Field(0.1, description="share of the rate at the first step")


class CheckpointConfig(Part):
    """When the state of the run is written, and how much of it stays."""

    every: Positive = Field(1000, description="steps between checkpoints")
    keep: Positive = Field(2, description="how many of the newest checkpoints stay")


class TrainingConfig(Part):
    """A training run."""

    name: str = Field("run", description="of the run; its folder is runs/NAME by default")
    model: ModelConfig
    data: DataConfig
    validation: ValidationConfig = ValidationConfig()  # pyright: ignore[reportCallIssue]
    loss: LossConfig = LossConfig()  # pyright: ignore[reportCallIssue]
    optimiser: OptimiserConfig = OptimiserConfig()  # pyright: ignore[reportCallIssue]
    schedule: ScheduleConfig = ScheduleConfig()  # pyright: ignore[reportCallIssue]
    checkpoint: CheckpointConfig = CheckpointConfig()  # pyright: ignore[reportCallIssue]
    iterations: Positive = Field(description="optimiser steps")
    batch_size: Positive = Field(
        8, description="samples per optimiser step, over all processes and accumulated batches"
    )
    accumulate: Positive = Field(1, description="batches per optimiser step and process")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of the forward pass")
    channels_last: bool = Field(
        False, description="memory format; faster in fp32 on a CPU and in half precision on a GPU"
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay of the averaged weights, which are then validated and saved"
    )
    sync_bn: bool = Field(False, description="batch norm over all GPUs")
    freeze_bn: Literal["none", "backbone", "all"] = Field(
        "none", description="whose batch norms keep their statistics (eval mode)"
    )
    deterministic: bool = Field(False, description="deterministic GPU kernels, slower")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of everything that is drawn")
    workers: Annotated[int, Field(ge=0)] = Field(2, description="loader processes per process")
    log_every: Positive = Field(20, description="steps between lines of the log")
    trackers: tuple[str, ...] = Field(
        ("tensorboard",), description="Accelerate's trackers beside metrics.jsonl and metrics.csv"
    )

    @model_validator(mode="after")
    def _batch_divides(self) -> "TrainingConfig":
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size={self.batch_size} is the number of samples per optimiser step; it "
                f"must be a multiple of accumulate={self.accumulate}"
            )
        return self

    def validation_source(self) -> Source:
        """The data set to validate on: what `validation` leaves open is as in `data`."""
        theirs, ours = self.validation, self.data
        return Source(
            kind=theirs.kind or ours.kind,
            root=theirs.root or ours.root,
            split=theirs.split,
            options=ours.options if theirs.options is None else theirs.options,
        )


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
        A new mapping; `values` stays as it is.

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
    return result


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
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Part):
            keys |= known_keys(kind, f"{prefix}{name}.")
        else:
            keys[f"{prefix}{name}"] = field.description or ""
    return keys


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if not str(part).startswith("literal["))
    where = where.replace(".DrawnMemory", "")
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
