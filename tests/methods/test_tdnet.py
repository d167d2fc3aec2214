"""What is special to TDNet: paths in turn, the chain, norms of a size, what it takes over."""

import logging
from itertools import pairwise

import pytest
import torch
from command_line import run
from settled import settle
from small_runs import config_with
from torch import nn

import vidseg
from laws import check_laws
from vidseg.layers import chained_attention, map_norm
from vidseg.layers.chained_attention import ChainedAttention
from vidseg.layers.map_norm import MapNorm
from vidseg.losses import hardest_cross_entropy
from vidseg.losses.criterion import Criterion
from vidseg.methods.tdnet import TDNet, ask_teacher
from vidseg.methods.tdnet_layout import pyramid_channels
from vidseg.training.loop import train
from vidseg.training.optimiser import fill_gradients
from vidseg.training.samples import open_source, training_samples
from vidseg.training.schedule import polynomial_rate
from vidseg.training.step import TrainingStep, build_model

FAST = {"backbone": "resnet18_fanet", "widths": (4, 8, 16, 32), "blocks": (1, 1, 1, 1)}
FAST |= {"paths": 2, "value_channels": 8, "norm_size": (5, 7)}


def tiny(num_classes=3, **options):
    return settle(TDNet.tiny(num_classes, **options))


def clip(length=6, size=(40, 56), batch=1):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, 3, *size, generator=generator)


@pytest.mark.parametrize("options", [{"paths": 2}, {"paths": 3, "kv_stride": 1}, FAST])
def test_every_form_keeps_the_laws(options):
    check_laws(tiny(**options))


def test_names_are_those_of_the_paper():
    names = vidseg.methods.model_names()
    assert {"td4_psp18", "td2_psp50", "td2_fa18", "tdnet_tiny"} <= set(names)
    with torch.device("meta"):
        model = vidseg.create("td4_psp18", num_classes=19)
    assert model.card.architecture == "td4_psp18"
    assert (model.period, model.horizon, model.kv_stride) == (4, 3, 4)
    with pytest.raises(ValueError, match="unknown model 'td4_psp19'; did you mean 'td4_psp18'"):
        vidseg.create("td4_psp19", num_classes=19)


def test_a_stream_of_the_paper_remembers_9_4_mb():
    """Three frames of 25 x 49 places with a query, a key and a value, in float32."""
    with torch.device("meta"):
        model = vidseg.create("td4_psp18", num_classes=19).eval()
        feature = model.encode(torch.empty(1, 3, 769, 1537))
        memory = model.initial_memory(feature, None)
    assert memory.keys[0].shape == (1, 25, 49, 64)
    assert memory.nbytes == 3 * 25 * 49 * (64 + 64 + 512) * 4 == 9_408_000


def test_without_a_full_memory_a_frame_is_classified_alone():
    model, frames = tiny(), clip(5)
    with torch.no_grad():
        whole, _ = model(frames, aux=True)
    alone = whole.aux["alone"]
    assert torch.equal(whole.logits[:, :3], alone[:, :3])
    assert not torch.allclose(whole.logits[:, 3:], alone[:, 3:])


def test_only_modules_of_the_present_path_and_of_its_frames_take_part():
    model = TDNet.tiny(3).train()
    found, _ = model(clip(4, batch=2), readout="last", phase=2)  # the last frame has path 1
    (found.logits.sum() + sum(x.sum() for x in found.aux.values())).backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    parts = ("head", "norm", "attention", "auxiliary_head")
    for path in range(4):
        own = {part for part in parts if any(n.startswith(f"{part}.{path}.") for n in moved)}
        assert own == (set(parts) if path == 1 else set()), path
        assert any(name.startswith(f"backbone.{path}.") for name in moved)
        assert any(name.startswith(f"projection.{path}.value") for name in moved)
    # The oldest frame asks nobody.
    assert not any(name.startswith("projection.2.query") for name in moved)


def test_a_compiled_step_has_a_graph_for_each_path_and_none_is_made_again():
    from torch._dynamo.testing import CompileCounter

    model, counter, graphs = tiny(), CompileCounter(), []
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    memory, plain = None, None
    with torch.no_grad():
        for frame in clip(12).split(1, 1):
            segmentation, memory = compiled(frame, memory)
            wanted, plain = model(frame, plain)
            torch.testing.assert_close(segmentation.logits, wanted.logits)
            graphs.append(counter.frame_count)
    assert graphs == [1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7, 7]
    torch._dynamo.reset()


def test_attention_in_blocks_of_rows_is_the_same(monkeypatch):
    attention = ChainedAttention(8).eval()
    query, key, value = torch.randn(2, 30, 4), torch.randn(2, 7, 4), torch.randn(2, 7, 8)
    with torch.no_grad():
        whole = attention(query, key, value)
        weights = (query @ key.mT / 2).softmax(-1)
        torch.testing.assert_close(whole, attention.linear(weights @ value))
        monkeypatch.setattr(chained_attention, "CHUNK_BYTES", 4 * 2 * 7 * 4)
        torch.testing.assert_close(attention(query, key, value), whole)


def test_norms_of_another_size_are_resized_and_say_so_once(caplog):
    map_norm._tell.cache_clear()
    norm, plain = MapNorm((2, 3)), MapNorm((1, 1))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([[1.0, 2, 3], [1, 2, 3]]))
        norm.bias.fill_(0.5)
        plain.weight.fill_(2)
        maps = torch.randn(2, 4, 3, 5)
        with caplog.at_level(logging.WARNING, "vidseg"):
            found = norm(maps)
            norm(maps)
            scaled = plain(maps)
    bare = nn.functional.layer_norm(maps, (3, 5))
    wanted = bare * torch.tensor([1, 1.5, 2, 2.5, 3]) + 0.5
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(scaled, 2 * bare)
    said = [record.message for record in caplog.records]
    assert len(said) == 1
    assert "trained on maps of 2x3 and are resized to 3x5" in said[0]


def test_memories_and_options_that_do_not_fit():
    four, two = tiny(), tiny(paths=2)
    with torch.no_grad():
        _, memory = four(clip(4))
        _, short = two(clip(4))
    with pytest.raises(ValueError, match="the memory is of 2 paths, this model has 4; start"):
        four(clip(1), short)
    with pytest.raises(ValueError, match="frames of one stream have one size"):
        four(clip(1, (64, 56)), memory)
    with pytest.raises(ValueError, match="paths must be at least 2 and kv_stride at least 1"):
        TDNet.tiny(3, paths=1)
    with pytest.raises(ValueError, match="the phases of TDNet are 0 to 3; got phase=4"):
        four(clip(1), phase=4)
    with pytest.raises(ValueError, match="takes no context"):
        four(clip(1), context=vidseg.Prototypes(torch.zeros(1, 2, 3)))


def official(model, is_numbered=True):
    """The state dict under the authors' names."""
    names = {}
    for name in model.state_dict():
        part, path, rest = name.split(".", 2)
        number = int(path) + 1
        if part == "backbone":
            ours = rest.replace("stem.0.", "conv1.").replace("stem.1.", "bn1.")
            names[name] = f"pretrained{number}.{ours}"
        elif part == "neck":
            _, branch, layer, leaf = rest.split(".", 3)
            names[name] = f"psp{number}.conv{int(branch) + 1}.{int(layer) - 1}.{leaf}"
        elif part == "projection" and rest.startswith("value"):
            names[name] = f"enc{number}.w_vs.0.conv.{rest.split('.')[1]}"
        elif part == "projection":
            which, layer, leaf = rest.split(".")
            place = {"0": "0.conv", "1": "0.bn", "3": "1.conv"}[layer]
            names[name] = f"enc{number}.w_{which[0]}s.{place}.{leaf}"
        elif part == "attention":
            place, _, leaf = rest.split(".")
            source = (number + int(place)) % model.paths + 1
            named = f"atn{number}_{source}" if is_numbered else f"atn{number}"
            names[name] = f"{named}.fc.0.conv.{leaf}"
        elif part == "norm":
            names[name] = f"layer_norm{number}.ln.{rest}"
        else:
            theirs = "head" if part == "head" else "auxlayer"
            names[name] = f"{theirs}{number}.conv5.{rest}"
    tensors = {names[k]: v for k, v in model.state_dict().items()}
    for name, value in tensors.items():
        if name.endswith("fc.0.conv.weight"):
            tensors[name] = value[..., None, None]
    return tensors


@pytest.fixture(scope="module")
def small():
    """TD4 of a thin ResNet-18, whose blocks are those of the paper."""
    torch.manual_seed(0)
    widths = (8, 16, 24, 32)
    model = TDNet(3, widths=widths, key_channels=8, norm_size=(5, 7))
    return settle(model)


def test_a_training_checkpoint_and_its_dead_keys(small, monkeypatch, caplog):
    tensors = official(small)
    beside = {
        "teacher.group1.conv5.0.weight",
        "pretrained2.fc.weight",
        "head_aux1.conv.conv.weight",
    }
    whole = {**tensors, **{name: torch.zeros(1) for name in beside}}
    assert set(vidseg.methods.dead_keys("tdnet", whole)) == beside
    made = TDNet.__init__
    monkeypatch.setattr(
        TDNet, "__init__", lambda self, **given: made(self, widths=(8, 16, 24, 32), **given)
    )
    wrapped = {"epoch": 3, "model_state": {f"module.{k}": v for k, v in whole.items()}}
    with caplog.at_level(logging.INFO, "vidseg.methods"):
        model = vidseg.load_official("tdnet", wrapped, paths=4)
    assert len([r for r in caplog.records if r.message.startswith("not used")]) == 3
    for name, value in small.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    with pytest.raises(ValueError, match=r"has 4 paths, .* cannot be used with paths=2"):
        vidseg.load_official("tdnet", tensors, paths=2)
    with pytest.raises(ValueError, match=r"there is no head1\.conv5\.4\.weight"):
        vidseg.load_official("tdnet", {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"unexpected: head9\.extra"):
        vidseg.load_official("tdnet", {**tensors, "head9.extra": torch.zeros(1)})
    with pytest.raises(TypeError, match="no option 'stride'"):
        vidseg.load_official("tdnet", tensors, stride=3)


def test_channels_of_a_path():
    assert pyramid_channels(32, 1, 4) == [4, 5, 6, 7, 17, 21, 25, 29]
    assert sorted(pyramid_channels(32, 0, 2) + pyramid_channels(32, 1, 2)) == list(range(32))


def test_paths_start_from_a_per_frame_pspnet(tmp_path):
    torch.manual_seed(0)
    twin = settle(vidseg.create("pspnet_tiny", num_classes=11, channels=32 // 4))
    vidseg.weights.save(twin, tmp_path / "twin.safetensors")
    config = config_with(
        "model.name=tdnet_tiny",
        "model.options={auxiliary: false, value_channels: 64, paths: 4}",
        f"model.initial_weights={tmp_path / 'twin.safetensors'}",
    )
    model = build_model(config, open_source(config.data))
    theirs = twin.state_dict()
    for path in range(4):
        ours = {k: v for k, v in model.state_dict().items() if f".{path}." in k[:16]}
        for name in ("layer1.0.conv1.weight", "stem.0.weight"):
            assert torch.equal(ours[f"backbone.{path}.{name}"], theirs[f"backbone.{name}"])
        name = "features.1.1.weight"
        assert torch.equal(ours[f"neck.{path}.{name}"], theirs[f"ppm.{name}"])
    kept = theirs["cls.0.weight"][:, pyramid_channels(128, 1, 2)]
    assert model.head[1][0].weight.shape == (16, 64, 3, 3)
    assert kept.shape[1] == 64
    own = tmp_path / "own.safetensors"
    vidseg.weights.save(model, own)
    again = build_model(
        config_with("model.name=tdnet_tiny", "model.options={auxiliary: false, value_channels: 64}",
                    f"model.initial_weights={own}"),
        open_source(config.data),
    )  # fmt: skip
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize(("name", "new"), [("td4_psp18", set()), ("td2_psp50", {"head"})])
def test_what_a_path_does_not_find_in_a_pspnet(name, new):
    """TD2's heads are new, as with the authors: they are narrower than a half."""
    with torch.device("meta"):
        model = vidseg.create(name, num_classes=19)
        twin = vidseg.create(model.twins[name], num_classes=19)
    ours = model.state_dict()
    taken = model.adopt(twin.state_dict())
    fitting = {k for k, value in taken.items() if k in ours and ours[k].shape == value.shape}
    left = {key.split(".")[0] for key in ours if key not in fitting}
    assert left == {"attention", "projection", "norm", *new}


# --- training -------------------------------------------------------------------------------------


def test_the_loss_is_the_authors():
    model = TDNet.tiny(3).train()
    frames, labels = clip(4, batch=2), torch.randint(0, 3, (2, 40, 56))
    found, _ = model(frames, readout="last", phase=1)
    batch = {"labels": labels}
    terms = model.losses(found, batch, Criterion(auxiliary_weight=0.1))
    weights = {name: weight for name, (_, weight) in terms.items()}
    assert weights == {"main": 1.0, "alone": 0.5, "auxiliary": 0.1}
    same = {"teacher": found.logits[:, 0], "teacher_group": found.aux["alone"][:, 0]}
    copied = model.losses(found, {**batch, **same}, Criterion(distillation_weight=2.0))
    assert copied["distillation"][1] == 2.0
    assert abs(float(copied["distillation"][0].detach())) < 1e-6


def test_hardest_pixels_by_sorting():
    probabilities = torch.tensor([[0.9, 0.6, 0.5], [0.8, 0.95, 0.1]])
    logits = torch.stack([probabilities.log(), (1 - probabilities).log()])[None]
    labels = torch.zeros(1, 2, 3).long()
    losses = -probabilities.log()
    mined = {
        kept: float(hardest_cross_entropy(logits, labels, align_corners=True, min_kept=kept))
        for kept in (2, 4, 100)
    }
    hard = losses[probabilities < 0.7]
    assert mined[2] == pytest.approx(float(hard.mean()))
    assert mined[4] == pytest.approx(float(losses.flatten().topk(4).values.mean()))
    assert mined[100] == pytest.approx(float(losses.mean()))
    labels[0, 0] = 255  # zeros in the mean, as with the authors
    few = hardest_cross_entropy(logits, labels, align_corners=True, min_kept=6)
    assert float(few) == pytest.approx(float(losses[1].sum() / 6))
    with pytest.raises(ValueError, match=r"min_kept 1 or more, got 0\.7 and 0"):
        hardest_cross_entropy(logits, labels, align_corners=True, min_kept=0)


def test_a_teacher_must_be_a_pspnet():
    teacher = settle(vidseg.create("pspnet_tiny", num_classes=3))
    answers = ask_teacher(teacher, clip(1)[:, 0], phase=1, paths=2)
    with torch.no_grad():
        whole = teacher(clip(1))[0].logits[:, 0]
    torch.testing.assert_close(answers["teacher"], whole)
    with pytest.raises(ValueError, match="the teacher must be one; got FCN"):
        ask_teacher(vidseg.create("fcn_tiny", num_classes=3), clip(1)[:, 0], phase=0, paths=2)
    config = config_with("loss.grouped={teacher: x}")
    with pytest.raises(
        ValueError, match=r"loss.grouped is for methods that copy a teacher in groups"
    ):
        TrainingStep(vidseg.create("fcn_tiny", num_classes=3), config.loss)


RUN = ("model.name=tdnet_tiny", "model.options={norm_size: [4, 6]}", "optimiser.idle=decay")
RUN += ("data.options.num_frames=8", "schedule.power=0", "checkpoint.every=1")
RUN += ("data.memory={gap_within: 2, start: skip}", "loss.ohem={form: tdnet, min_kept: 96}")


def test_a_run_with_a_teacher_resumes_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    teacher = settle(vidseg.create("pspnet_tiny", num_classes=11))
    vidseg.weights.save(teacher, tmp_path / "teacher.safetensors")
    words = (*RUN, f"loss.grouped={{teacher: {tmp_path / 'teacher.safetensors'}}}", "iterations=6")
    straight = train(config_with(*words), tmp_path / "straight")
    train(config_with(*words, "iterations=5"), tmp_path / "parts")
    parts = train(config_with(*words), tmp_path / "parts", resume=True)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name
    header = (tmp_path / "straight/metrics.csv").read_text().splitlines()[0]
    assert {"main", "alone", "auxiliary", "distillation"} <= set(header.split(","))


def test_idle_paths_rest_or_decay(tmp_path):
    found = {}
    for idle in ("rest", "decay"):
        words = (*RUN, f"optimiser.idle={idle}", "optimiser.weight_decay=0.1", "iterations=6")
        found[idle] = train(config_with(*words), tmp_path / idle).model.state_dict()
    name = "head.2.0.weight"  # in turn at step 1 and 5, idle at step 4 for one of the two alone
    assert not torch.equal(found["rest"][name], found["decay"][name])
    model = TDNet.tiny(3)
    fill_gradients(model)
    assert all(float(p.grad.abs().sum()) == 0 for p in model.parameters())


def test_gaps_are_drawn_for_every_sample():
    config = config_with(*RUN)
    dataset = open_source(config.data)
    samples = training_samples(dataset, config, build_model(config, dataset))
    seen = set()
    for number in range(200):
        indices = samples.snippet(number).frame_indices
        seen.add(tuple(b - a for a, b in pairwise(indices)))
    assert seen == {(a, b, c) for a in (1, 2) for b in (1, 2) for c in (1, 2)}
    with pytest.raises(ValueError, match="gap_within goes through the labelled frames"):
        training_samples(dataset, config_with(*RUN, "data.reverse=0.5"), TDNet.tiny(11))
    with pytest.raises(ValueError, match="by every, by drawn_within or by gap_within, give one"):
        config_with("data.memory={gap_within: 2, every: 2}")


def test_the_warm_up_grows_by_one_factor():
    options = {"base": 0.01, "iterations": 40_000, "warmup_iterations": 1000}
    options |= {"warmup_start": 1e-3, "warmup_form": "exponential"}
    assert polynomial_rate(0, **options) == pytest.approx(1e-5)
    assert polynomial_rate(500, **options) == pytest.approx(1e-5 * 1000**0.5)
    assert polynomial_rate(1000, **options) == pytest.approx(0.01 * (1 - 1 / 40) ** 0.9)


def test_the_command_converts_a_baseline(tmp_path, capsys):
    model = settle(vidseg.create("pspnet_r18_multigrid", num_classes=19, auxiliary_channels=None))
    names = {}
    for name in model.state_dict():
        part, _, rest = name.partition(".")
        if part == "backbone":
            ours = rest.replace("stem.0.", "conv1.").replace("stem.1.", "bn1.")
            names[name] = f"pretrained.{ours}"
        elif part == "ppm":
            _, branch, layer, leaf = rest.split(".", 3)
            names[name] = f"head.conv5.0.conv{int(branch) + 1}.{int(layer) - 1}.{leaf}"
        else:
            layer, leaf = rest.split(".")
            names[name] = f"head.conv5.{int(layer) + 1}.{leaf}"
    tensors = {names[k]: v for k, v in model.state_dict().items()}
    tensors["pretrained.fc.weight"] = torch.zeros(2, 2)
    torch.save({"model_state": tensors}, tmp_path / "psp18.pth")
    code = run("convert", "pspnet", tmp_path / "psp18.pth", "--out", tmp_path / "p.safetensors")
    shown = " ".join(capsys.readouterr().out.split())
    assert code == 0, shown
    assert "pspnet_r18_multigrid" in shown
    assert "not used: pretrained.fc.weight (ImageNet's classifier, never used)" in shown
    loaded = vidseg.load(tmp_path / "p.safetensors")
    assert loaded.auxiliary_head is None
    assert len(loaded.card.classes) == 19
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
