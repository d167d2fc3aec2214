"""Training on a data set of one's own: the recipe for it, and labels that teach nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from PIL import Image
from small_runs import config_with

from vidseg.data import open_dataset
from vidseg.data.glance import glance
from vidseg.training.loop import train
from vidseg.training.recipe import load_config, read_recipe


def make_folder(root: Path, masks: list[np.ndarray], classes: dict[str, list[int]]) -> Path:
    """A data set of kind folder whose splits train and val have these masks."""
    for split in ("train", "val"):
        for part in ("frames", "masks"):
            (root / split / "yard" / part).mkdir(parents=True)
        for i, mask in enumerate(masks):
            noise = np.random.default_rng(i).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / split / "yard" / "frames" / f"{i}.png")
            Image.fromarray(mask).save(root / split / "yard" / "masks" / f"{i}.png")
    (root / "classes.json").write_text(json.dumps({"classes": classes, "fps": 10}))
    return root


TWO = {"background": [0, 0, 0], "lane": [255, 255, 255]}


def striped(low: int, high: int) -> np.ndarray:
    mask = np.full((32, 48), low, np.uint8)
    mask[8:16] = high
    return mask


def tiny(root: Path, *overrides: str):
    return config_with(
        "data.kind=folder", f"data.root={root}", "data.options={}", "iterations=1", *overrides
    )


def test_a_class_that_no_label_has_is_said_before_the_first_step(tmp_path, caplog) -> None:
    root = make_folder(tmp_path / "mine", [striped(0, 255)] * 3, TWO)
    with caplog.at_level(logging.WARNING, "vidseg.training"):
        train(tiny(root), tmp_path / "run")
    assert "its 3 labels have no pixel of the class lane" in caplog.text
    caplog.clear()
    sound = make_folder(tmp_path / "sound", [striped(0, 1)] * 3, TWO)
    with caplog.at_level(logging.WARNING, "vidseg.training"):
        train(tiny(sound), tmp_path / "run2")
    assert caplog.text == ""


def test_labels_that_are_void_throughout_are_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "mine", [striped(255, 255)] * 3, TWO)
    with pytest.raises(ValueError, match=r"not one pixel of its 3 labels counts.*255 is void"):
        train(tiny(root), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_glance_is_spread_evenly_and_ends_with_the_last_class(tmp_path: Path) -> None:
    masks = [striped(0, 0)] * 11 + [striped(1, 1)]
    dataset = open_dataset("folder", make_folder(tmp_path / "mine", masks, TWO), "train")
    assert glance(dataset) == glance(dataset, 12)
    assert (glance(dataset).missing, glance(dataset).looked) == ((), 6)
    few = glance(dataset, 3)
    assert (few.missing, few.looked, few.total) == (("lane",), 3, 12)


@pytest.mark.parametrize("extra", [(), ("accumulate=4", "batch_size=4")])
def test_a_norm_without_variance_names_what_helps(tmp_path: Path, extra) -> None:
    recipe = ("model.name=pspnet_tiny", "batch_size=1", "data.crop=[48, 64]", *extra)
    with pytest.raises(ValueError, match=r"1x1, .*1 sample at a time; raise batch_size .*freeze"):
        train(config_with(*recipe), tmp_path / "run")
    train(config_with(*recipe, "freeze_bn=all", "iterations=1"), tmp_path / "frozen")


def test_options_of_another_kind_of_data_set_are_left_out(tmp_path: Path) -> None:
    recipe = read_recipe("fcn_tiny_synthetic")
    assert recipe["data"]["options"] != {}
    config = load_config("fcn_tiny_synthetic", ["data.kind=folder", "data.root=mine"])
    assert config.data.options == {}
    assert config.validation_source().options == {}
    kept = load_config("fcn_tiny_synthetic", ["data.kind=camvid", "data.options={protocol: 12}"])
    assert kept.data.options == {"protocol": 12}
    split = load_config("fcn_tiny_synthetic", ["data.kind=folder", "validation.kind=synthetic"])
    assert split.validation.options == recipe["validation"]["options"]
    assert load_config("fcn_tiny_synthetic", ["seed=1"]).data.options == recipe["data"]["options"]


def test_a_wrong_option_names_its_field(tmp_path: Path, capsys) -> None:
    root = make_folder(tmp_path / "mine", [striped(0, 1)] * 2, TWO)
    words = ("data.kind=folder", f"data.root={root}", "--out", tmp_path / "run")
    assert run("train", "fcn_tiny_synthetic", *words, "data.options={fps: 3}") == 1
    assert "data.options: the data set 'folder' has no option 'fps'" in capsys.readouterr().err
    assert run("train", "fcn_tiny_synthetic", *words, "validation.options={fps: 3}") == 1
    assert "validation.options: the data set 'folder' has no" in capsys.readouterr().err


def test_the_recipe_for_own_data_wants_a_folder_and_starts_from_the_package(
    tmp_path: Path, monkeypatch, capsys, caplog
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("train", "tmanet_mobilenetv2_folder", "--out", "run") == 1
    assert "data.root=DIR" in capsys.readouterr().err
    make_folder(tmp_path / "mine", [striped(0, 1)] * 3, TWO)
    small = ("data.crop=[32, 48]", "iterations=1", "batch_size=2", "precision=fp32", "workers=0")
    with caplog.at_level(logging.INFO, "vidseg.training"):
        status = run("train", "tmanet_mobilenetv2_folder", "data.root=mine", *small, "--out", "run")
    assert status == 0, capsys.readouterr()
    # All but the classifiers of the head and of the auxiliary head: a weight and a bias each.
    assert "took 390 of 394 tensors" in caplog.text
