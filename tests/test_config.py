"""The config of a training run: recipes, overrides, and the messages for wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vidseg.training.folder import prepare, resolve
from vidseg.training.recipe import (
    differences,
    dump,
    flatten,
    known_keys,
    load_config,
    override,
    parse_yaml,
    read_recipe,
    recipes,
    validate,
)

RECIPE = {
    "model": {"name": "fcn_tiny"},
    "data": {"kind": "synthetic", "crop": [64, 96]},
    "iterations": 10,
}


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_complete_and_names_itself(name: str) -> None:
    text = recipes()[name].read_text(encoding="utf-8")
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert load_config(name).name == name
    assert any("Hardware:" in line and "Hours:" in line for line in header)
    assert any("Expected:" in line for line in header)


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_names_a_model_and_a_data_set_that_exist(name: str) -> None:
    from vidseg.data import KINDS
    from vidseg.methods import model_names

    config = load_config(name)
    assert config.model.name in model_names()
    assert config.data.kind in KINDS


OFFICIAL = {
    "cityscapes": {
        "model.options.align_corners": True,
        "data.base_size": [2048, 1024],
        "data.crop": [769, 769],
        "validation.sliding": [[769, 769], [513, 513]],
    },
    "camvid": {
        "model.options.align_corners": False,
        "data.options.protocol": "12",
        "data.base_size": [960, 720],
        "data.crop": [640, 640],
        "validation.sliding": [[640, 640], [512, 512]],
    },
}
PUBLISHED = {
    "data.split": "train",
    "data.memory": "window",
    "data.scale": [0.5, 2.0],
    "data.max_class_share": 0.75,
    "data.flip": 0.5,
    "data.photometric": "frame",
    "validation.every": 20_000,
    "validation.split": "val",
    "loss.aux_weight": 0.4,
    "loss.average": "all",
    "loss.class_weights": None,
    "optimiser.kind": "sgd",
    "optimiser.lr": 0.01,
    "optimiser.momentum": 0.9,
    "optimiser.weight_decay": 5e-4,
    "optimiser.head_multiplier": 1,
    "optimiser.decay": "all",
    "optimiser.clip_norm": None,
    "schedule.power": 0.9,
    "schedule.floor": 1e-4,
    "schedule.warmup_iterations": 0,
    "iterations": 80_000,
    "batch_size": 8,
    "accumulate": 1,
    "ema": None,
    "sync_bn": True,
    "freeze_bn": "none",
}


@pytest.mark.parametrize("dataset", OFFICIAL)
@pytest.mark.parametrize("model", ["tmanet_r50", "tmanet_r101", "fcn_r50"])
def test_official_recipes_spell_out_the_published_schedule(model: str, dataset: str) -> None:
    """TMANet's specification, sections 2.4, 3.4, 3.5 and 4."""
    name = f"{model}_{dataset}"
    written = flatten(read_recipe(name))
    assert written.items() >= {**PUBLISHED, **OFFICIAL[dataset]}.items()
    options = load_config(name).model.options
    if model.startswith("tmanet"):
        assert options["memory_frames"] == {"cityscapes": 2, "camvid": 4}[dataset]
        assert options["frame_statistics"] is True


def test_yaml_reads_numbers_and_words_as_they_look() -> None:
    text = "{a: 1e-4, b: 1E3, c: 010, d: no, e: on, f: true, g: -.5, h: 1_0, i: .inf, j: null}"
    assert parse_yaml(text) == {
        "a": 1e-4,
        "b": 1000.0,
        "c": 10,
        "d": "no",
        "e": "on",
        "f": True,
        "g": -0.5,
        "h": "1_0",
        "i": float("inf"),
        "j": None,
    }


def test_yaml_refuses_a_key_that_occurs_twice() -> None:
    with pytest.raises(ValueError, match="line 2: 'lr' occurs twice"):
        parse_yaml("a:\n  lr: 1\n  lr: 2\n")


def test_overrides_win_and_leave_the_recipe_alone() -> None:
    changed = override(RECIPE, ["optimiser.lr=1e-3", "data.crop=[32,48]", "model.options.a.b=x"])
    assert changed["optimiser"] == {"lr": 1e-3}
    assert changed["data"] == {"kind": "synthetic", "crop": [32, 48]}
    assert changed["model"]["options"] == {"a": {"b": "x"}}
    assert RECIPE["data"]["crop"] == [64, 96]
    assert "optimiser" not in RECIPE


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimizer.lr=1", "unknown key 'optimizer'; did you mean 'optimiser'?"),
        ("optimiser.momentun=1", "unknown key 'optimiser.momentun'; did you mean "
         "'optimiser.momentum'?"),
        ("lr=1", "unknown key 'lr'; did you mean 'optimiser.lr'?"),
        ("data.lr=1", "unknown key 'data.lr'; did you mean 'optimiser.lr'?"),
        ("loss.average=mean", "loss.average: input should be 'valid' or 'all', got 'mean'"),
        ("iterations=0", "iterations: input should be greater than 0, got 0"),
        ("optimiser.lr=fast", "optimiser.lr: input should be a valid number.*got 'fast'"),
        ("data.memory={drawn_within: 0}", "data.memory.drawn_within: .*greater than 0, got 0"),
        ("data.scale=[2, 1]", "data.scale: scale must be \\(smallest, largest\\)"),
        ("accumulate=3", "batch_size=8 .* must be a multiple of accumulate=3"),
        ("iterations.sub=1", "iterations is 10 and has no keys below it"),
        ("iterations", "overrides are key=value"),
    ],
)  # fmt: skip
def test_wrong_keys_and_values_say_what_was_wanted(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate(override(RECIPE, [word]))


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"lacks 'data.crop'.*\n.*lacks 'iterations'") as error:
        validate({"model": {"name": "fcn_tiny"}, "data": {"kind": "synthetic"}})
    assert "the recipe lacks 'data.crop' (height, width of a sample, px)" in str(error.value)


def test_an_unknown_recipe_names_the_closest() -> None:
    with pytest.raises(FileNotFoundError, match="did you mean 'tmanet_r50_camvid'"):
        read_recipe("tmanet_r50_camvi")


def test_a_recipe_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="must be a mapping"):
        read_recipe(tmp_path / "a.yaml")


def test_a_config_survives_its_yaml() -> None:
    config = validate(override(RECIPE, ["optimiser.lr=1e-7", "data.memory={drawn_within: 9}"]))
    assert validate(parse_yaml(dump(config))) == config
    assert yaml.safe_load(dump(config))["iterations"] == 10


def test_differences_name_the_full_key() -> None:
    before, after = validate(RECIPE), validate(override(RECIPE, ["optimiser.lr=1", "seed=3"]))
    assert differences(before, after) == {"optimiser.lr": (0.01, 1.0), "seed": (0, 3)}


def test_every_key_is_explained() -> None:
    assert all(known_keys().values())


def test_resuming_takes_the_stored_config_and_the_command_line_wins(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    run = tmp_path / "run"
    assert (
        prepare(run, resolve(recipe, ["seed=7", "workers=0"], run, resume=False), resume=False)
        == []
    )
    config = resolve(recipe, ["workers=3"], run, resume=True)
    assert (config.seed, config.workers) == (7, 3)
    assert prepare(run, config, resume=True) == ["workers: 0 -> 3"]
    assert resolve(run, [], run, resume=True) == config
    assert validate(parse_yaml((run / "config-before-1.yaml").read_text())).workers == 0


def test_a_run_folder_is_not_taken_by_another_run(tmp_path: Path) -> None:
    recipe, other = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    for path in (recipe, other):
        path.write_text(yaml.safe_dump(RECIPE))
    run = tmp_path / "run"
    prepare(run, resolve(recipe, [], run, resume=False), resume=False)
    prepare(run, resolve(recipe, [], run, resume=False), resume=False)  # it has not begun
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(FileExistsError, match="add --resume"):
        prepare(run, resolve(recipe, [], run, resume=False), resume=False)
    with pytest.raises(ValueError, match="holds a run of 'mine', not of 'other'"):
        resolve(other, [], run, resume=True)
