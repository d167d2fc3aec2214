"""The packaged weights: small, named, licensed, and as good as their card says."""

import pytest
import torch

import vidseg
from vidseg.data import open_dataset
from vidseg.data.synthetic import CLASSES, render
from vidseg.evaluation.datasets import evaluate
from vidseg.methods import DEFAULT_WEIGHTS, packaged_weights


def test_the_default_model_is_small_and_says_its_licence():
    assert packaged_weights()[DEFAULT_WEIGHTS].stat().st_size < 10e6
    model = vidseg.load()
    assert vidseg.load(DEFAULT_WEIGHTS).card == model.card
    assert model.card.architecture == "tmanet_mobilenetv2"
    assert "non-commercial" in model.card.licence
    assert len(model.card.classes) == model.num_classes == 11
    assert not model.training
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_it_knows_sky_and_road_of_a_world_it_has_never_seen():
    """Rendered streets are far from its data; what is plain there must be plain to it."""
    video = render(3, 2, (360, 480), camera="drive")
    model = vidseg.load()
    with torch.no_grad():
        labels = model(model.card.normalise(video.frames)[None])[0].labels()[0].numpy()
    for name in ("sky", "road"):
        truth = video.labels == CLASSES.index(name)
        found = labels == model.card.classes.index(name)
        assert (truth & found).sum() / (truth | found).sum() > 0.7, name


@pytest.mark.slow
def test_it_scores_what_its_card_says(shared):
    model = vidseg.load()
    dataset = open_dataset("camvid", shared / "data" / "camvid", "val")
    figures = evaluate(model, dataset)
    assert figures.mean_iou == pytest.approx(model.card.figures["camvid_val_mean_iou"], abs=2e-3)


def test_packaged_weights_are_signed():
    """A flipped bit in what comes with the package is found when it is read."""
    from safetensors import safe_open

    from vidseg.methods import packaged_weights

    for path in packaged_weights().values():
        with safe_open(path, "pt") as file:
            assert len(file.metadata()["sha256"]) == 64, path
