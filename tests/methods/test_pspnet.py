"""What is special to PSPNet: the map that students copy, and the checkpoints of ETC's authors."""

import logging

import pytest
import torch
from command_line import run

import vidseg
from vidseg.methods import dead_keys
from vidseg.methods.pspnet import PSPNet


def official(variant="r18", num_classes=19, prefix="", **options):
    """The state dict of a random student, under the authors' names."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = vidseg.create(f"pspnet_{variant}", num_classes=num_classes, **options)
    names = {k: k.replace("auxiliary_head.", "aux.") for k in model.state_dict()}
    names = {k: v.removeprefix("backbone.").replace("stem.", "layer0.") for k, v in names.items()}
    return model.eval(), {prefix + names[k]: v for k, v in model.state_dict().items()}


def test_the_student_has_the_published_size():
    model, tensors = official()
    assert sum(p.numel() for p in model.parameters()) == 14_399_590
    assert sum(p.numel() for p in model.auxiliary_head.parameters()) == 595_219
    assert len(tensors) == 160
    assert {name.split(".")[0] for name in tensors} == {
        *(f"layer{i}" for i in range(5)),
        "ppm",
        "cls",
        "aux",
    }


@pytest.mark.parametrize("prefix", ["", "module.", "student.", "module.student."])
def test_prefixes_of_the_authors_checkpoints(prefix):
    model, tensors = official(prefix=prefix, num_classes=11)
    loaded = vidseg.load_official("etc", {"epoch": 3, "state_dict": tensors})
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert loaded.card.architecture == "pspnet_r18"
    assert len(loaded.card.classes) == 11
    assert loaded.align_corners
    again = vidseg.create(loaded.card.architecture, **loaded.card.options)
    again.load_state_dict(loaded.state_dict())


@pytest.mark.parametrize("variant", ["r50", "r101"])
def test_the_depth_is_read_from_the_tensors(variant):
    with torch.device("meta"):
        _, tensors = official(variant)
        assert vidseg.load_official("etc", tensors).card.architecture == f"pspnet_{variant}"


def test_what_a_training_checkpoint_holds_beside_the_student_is_listed(caplog):
    _, student = official(prefix="module.student.")
    beside = ["module.flownet.conv1.weight", "module.teacher.cls.0.weight", "module.criterion.w"]
    tensors = {**student, **{name: torch.zeros(1) for name in beside}}
    with caplog.at_level(logging.INFO, "vidseg.methods"):
        vidseg.load_official("etc", tensors)
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        f"not used: {name.removeprefix('module.')}" for name in beside
    ]
    assert set(dead_keys("etc", tensors)) == set(beside)
    assert dead_keys("tmanet", tensors) == {}


def test_the_command_converts_a_training_checkpoint(tmp_path, capsys):
    """Prefixes go; the flow network, the teacher and the losses are listed as not used."""
    model, student = official(prefix="module.student.")
    beside = ["module.flownet.conv1.weight", "module.teacher.cls.0.weight", "module.criterion.w"]
    tensors = {**student, **{name: torch.zeros(1) for name in beside}}
    torch.save({"epoch": 200, "state_dict": tensors}, tmp_path / "train_epoch_200.pth")
    files = [tmp_path / name for name in ("train_epoch_200.pth", "etc.safetensors")]
    code = run("convert", "etc", files[0], "--out", files[1])
    shown = " ".join(capsys.readouterr().out.split())
    assert code == 0, shown
    for name in beside:
        assert f"not used: {name.removeprefix('module.')} (" in shown
    assert "not used: epoch (not the model's weights)" in shown
    assert "pspnet_r18, 14.40 M parameters" in shown
    loaded = vidseg.load(tmp_path / "etc.safetensors")
    assert len(loaded.card.classes) == 19
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_checkpoints_that_do_not_fit():
    _, tensors = official()
    with pytest.raises(ValueError, match=r"unexpected: head\.extra"):
        vidseg.load_official("etc", {**tensors, "head.extra": torch.zeros(1)})
    without = {k: v for k, v in tensors.items() if k != "layer3.1.bn2.bias"}
    with pytest.raises(ValueError, match=r"missing: backbone\.layer3\.1\.bn2\.bias"):
        vidseg.load_official("etc", without)
    bare = {k: v for k, v in tensors.items() if not k.startswith("aux.")}
    with pytest.raises(ValueError, match=r"there is no aux\.0\.weight; its first keys are layer0"):
        vidseg.load_official("etc", bare)
    with pytest.raises(ValueError, match="nothing is left, 160 keys of flow, teacher or criterion"):
        vidseg.load_official("etc", {f"teacher.{k}": v for k, v in tensors.items()})
    shallow = {k: v for k, v in tensors.items() if not k.startswith("layer3.1.")}
    with pytest.raises(ValueError, match="1 blocks in its third stage"):
        vidseg.load_official("etc", shallow)
    with pytest.raises(ValueError, match="'etcc' are known; did you mean 'etc'"):
        vidseg.load_official("etcc", tensors)


@pytest.mark.parametrize("family", vidseg.METHODS)
def test_every_method_gives_the_map_that_students_copy(family):
    model = vidseg.METHODS[family].tiny(num_classes=3).eval()
    frames = torch.randn(2, 3, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    context = model.summarize(frames)
    with torch.no_grad():
        whole, _ = model(frames, aux=True, context=context)
        last, _ = model(frames, aux=True, readout="last", context=context)
        plain = model(frames, context=context)[0]
    assert plain.aux == {}
    assert plain.feature is None
    feature = whole.feature
    assert feature.shape[:2] == (2, 3)
    assert feature.dim() == 5
    torch.testing.assert_close(last.feature, feature[:, -1:])
    assert model.train()(frames, context=context)[0].feature is not None


def test_the_map_is_pooled_once():
    """A second pass would move the running statistics of the pyramid's norms twice."""
    model = PSPNet.tiny(3).train()
    segmentation, _ = model(torch.randn(2, 1, 3, 40, 56), aux=True)
    assert segmentation.feature.shape == (2, 1, model.ppm.out_channels, 5, 7)
    norms = [m for m in model.ppm.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [int(norm.num_batches_tracked) for norm in norms] == [1] * 4
