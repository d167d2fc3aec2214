"""The contract of a method's class, read for every entry of METHODS."""

import pytest
import torch

import vidseg
from vidseg.losses.criterion import Criterion
from vidseg.methods import METHODS, OFFICIAL, Method, find_method, model_names
from vidseg.segmenter import VideoSegmenter


@pytest.mark.parametrize("family", METHODS)
def test_every_entry_is_a_method(family):
    method = METHODS[family]
    assert issubclass(method, Method)
    assert "tiny" in method.variants
    for name, variant in method.names(family).items():
        assert find_method(name) == (method, variant)
        assert name in model_names()
    for variant, twin in method.twins.items():
        assert variant in method.variants
        assert twin in model_names()
        assert find_method(twin)[0].horizon == 0
    assert isinstance(method.tiny(num_classes=3), method)


def test_official_names_lead_to_the_class_that_declares_them():
    assert {name for method in METHODS.values() for name in method.official_names} == set(OFFICIAL)
    for name, method in OFFICIAL.items():
        assert name in method.official_names
        assert method.dead_keys({"no.such.key": torch.zeros(1)}) == {}


def test_a_variant_is_found_by_the_arguments_that_it_was_made_with():
    for family, method in METHODS.items():
        for name, variant in method.names(family).items():
            made = {"num_classes": 3, **method.variants[variant]}
            again = method.variants[method.names(family)[method.name_of(family, made)]]
            assert again.items() <= made.items(), name


def test_losses_are_the_methods_own():
    """The default: cross entropy of the logits and, with its weight, of each auxiliary output."""
    torch.manual_seed(0)
    model = vidseg.create("pspnet_tiny", num_classes=3).train()
    frames = torch.randn(2, 1, 3, 40, 56)
    labels = torch.randint(0, 3, (2, 40, 56))
    segmentation, _ = model(frames, readout="last")
    terms = model.losses(segmentation, {"labels": labels}, Criterion(auxiliary_weight=0.25))
    assert {name: weight for name, (_, weight) in terms.items()} == {"main": 1.0, "auxiliary": 0.25}
    wanted = vidseg.losses.cross_entropy(segmentation.logits[:, 0], labels, align_corners=True)
    assert float(terms["main"][0].detach()) == float(wanted.detach())


def test_a_method_of_another_output_brings_its_own_loss(tmp_path):
    """The trainer adds up what `losses` gives, whatever the outputs are."""
    from small_runs import config_with

    from vidseg.training.step import TrainingStep

    class Counts(METHODS["fcn"]):
        """Says how much of a frame each class has."""

        def losses(self, segmentation, batch, criterion=None):
            shares = segmentation.logits[:, -1].softmax(1).mean((2, 3))
            return {"shares": (shares.square().sum(), 0.5), "other": (shares.sum(), 2.0)}

    model = Counts.tiny(num_classes=3).train()
    step = TrainingStep(model, config_with().loss)
    batch = {"frames": torch.randn(2, 1, 3, 40, 56), "labels": torch.zeros(2, 40, 56).long()}
    found = step(batch)
    assert set(found) == {"loss", "shares", "other"}
    total = 0.5 * found["shares"] + 2 * found["other"]
    torch.testing.assert_close(found["loss"], total)


def test_only_a_trainer_is_told_what_training_needs():
    for name in ("frame_statistics", "needs_clip_labels", "host_parts", "distillable"):
        assert not hasattr(VideoSegmenter, name)
    assert vidseg.create("cffm_tiny", num_classes=3).training_needs().clip_labels
    assert not vidseg.create("cffmpp_tiny", num_classes=3).training_needs().clip_labels
    tmanet = vidseg.create("tmanet_tiny", num_classes=3, frame_statistics=True)
    assert tmanet.training_needs().frame_statistics
