"""TMANet against tensors made by the authors' modules (specification, section 10)."""

import pytest
import torch
from rules import clip, read_case, rules, state_dict

import vidseg
from vidseg.losses import cross_entropy
from vidseg.methods.tmanet import TMAHead, _from_official_key
from vidseg.weights import load_strictly

FULL_CASES = ("r50_d8", "r50_d8_t2", "r50_d8_camvid", "r50_d8_camvid12")


def close(actual, expected, atol, name):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol, msg=lambda m: f"{name}: {m}")


def test_head_alone(shared):
    case, expected = read_case(shared, "tmanet", "head_small")
    config = case["config"]
    head = TMAHead(
        config["in_channels"],
        config["classes"],
        memory_frames=config["memory_frames"],
        key_channels=config["key_channels"],
        value_channels=config["value_channels"],
        channels=config["channels"],
    ).eval()
    official = state_dict(shared, case["keys"])
    renamed = {_from_official_key(k).removeprefix("head."): v for k, v in official.items()}
    load_strictly(head, renamed)
    maps = clip(shared, "tmanet/head_small/clip", (2, 5, 24, 9, 13))
    *memory, query = maps.unbind(1)
    with torch.no_grad():
        fused = head.read(query, tuple(memory))
        taps = {
            "query_key": head.query_key(query),
            "query_value": fused[:, :16],
            "context": fused[:, 16:],
            "memory_key": torch.stack(
                [e(m) for e, m in zip(head.memory_key, memory, strict=True)], 1
            ),
            "memory_value": torch.stack(
                [e(m) for e, m in zip(head.memory_value, memory, strict=True)], 1
            ),
            "bottleneck": head.fusion(fused),
            "logits_low": head.classify(fused),
        }
    assert set(taps) == set(expected)
    for name, tap in taps.items():
        close(tap, expected[name], 1e-5, name)


@pytest.mark.parametrize("name", FULL_CASES)
def test_whole_model(shared, name):
    case, expected = read_case(shared, "tmanet", name)
    config = case["config"]
    model = vidseg.load_official("tmanet", state_dict(shared, case["keys"]))
    assert model.num_classes == config["classes"]
    assert model.memory_frames == config["memory_frames"]
    assert model.align_corners == config["align_corners"]
    assert len(model.card.classes) == len(model.card.palette) == config["classes"]
    shape = (1, config["memory_frames"] + 1, 3, config["height"], config["width"])
    frames = clip(shared, f"tmanet/{name}/clip", shape)
    with torch.no_grad():
        segmentation, _ = model(frames, readout="last", aux=True)
        *stages, last = model.backbone(frames[:, -1])
        stages.append(last)
        fused = model.fuse(model.encode(frames[:, -1]), memory_before_last(model, frames))
    close(segmentation.logits[:, 0], expected["logits_low"], 3e-4, "logits_low")
    close(segmentation.aux["auxiliary"][:, 0], expected["aux_low"], 1e-4, "aux_low")
    close(fused[:, 256:], expected["context"], 2e-3, "context")
    close(model.head.query_key(last), expected["query_key"], 2e-3, "query_key")
    close(torch.stack([s.mean() for s in stages]), expected["backbone_query_mean"], 1e-5, "mean")
    close(torch.stack([s.std() for s in stages]), expected["backbone_query_std"], 1e-5, "std")
    if "logits" in expected:
        full = segmentation.resize()[:, 0]
        close(full, expected["logits"], 3e-4, "logits")
        assert torch.equal(segmentation.labels()[:, 0], expected["logits"].argmax(1))


def memory_before_last(model, frames):
    return model(frames[:, :-1], readout="last")[1]


@pytest.mark.parametrize("mode", ["bn_eval", "bn_train"])
def test_training_step(shared, mode):
    case, expected = read_case(shared, "tmanet", "train_small")
    model = training_model(shared, case, mode)
    main, auxiliary, accuracy = losses(shared, model)
    (main + auxiliary).backward()
    for name, value in (("main", main), ("aux_weighted", auxiliary), ("total", main + auxiliary)):
        torch.testing.assert_close(
            value.detach(), expected[f"{mode}.loss_{name}"][0], rtol=1e-5, atol=0
        )
    close(accuracy, expected[f"{mode}.acc_main"][0], 1e-4, "accuracy")
    loose = 2e-3 if mode == "bn_eval" else 5e-2
    norms = gradient_norms(model, case["grad_norm_order"])
    torch.testing.assert_close(norms, expected[f"{mode}.grad_norms"], rtol=loose, atol=1e-6)
    if mode == "bn_train":
        buffers = dict(model.named_buffers())
        for name, value in expected.items():
            if name.startswith("bn_train.after."):
                ours = _from_official_key(name.removeprefix("bn_train.after."))
                close(buffers[ours], value, 1e-4, name)
        for name, count in case["info"]["num_batches_tracked_after"].items():
            key = _from_official_key(f"{name}.num_batches_tracked")
            assert int(buffers[key]) == count, name


@pytest.mark.parametrize("mode", ["bn_eval", "bn_train"])
def test_gradients_in_float64(shared, mode):
    case, expected = read_case(shared, "tmanet", "train_small")
    model = training_model(shared, case, mode).double()
    main, auxiliary, _ = losses(shared, model)
    (main + auxiliary).backward()
    prefix = f"f64.{mode}."
    names = [n for n in expected if n.startswith(prefix)]
    assert names, sorted(expected)
    parameters = dict(model.named_parameters())
    for name in names:
        what = name.removeprefix(prefix)
        if what.startswith("grad."):
            ours = parameters[_from_official_key(what.removeprefix("grad."))].grad
        elif what == "grad_norms":
            ours = gradient_norms(model, case["grad_norm_order"])
        else:
            continue
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(
            ours.float(), expected[name], rtol=1e-5, atol=1e-6 * scale, msg=lambda m, n=name: n + m
        )


def training_model(shared, case, mode):
    model = vidseg.load_official("tmanet", state_dict(shared, case["keys"]))
    model.frame_statistics = True
    model.train(mode == "bn_train")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    return model


def losses(shared, model):
    frames = clip(shared, "tmanet/train_small/clip", (2, 3, 3, 65, 97))
    labels = torch.from_numpy(rules(shared).labels("tmanet/train_small/labels", (2, 65, 97), 19))
    dtype = next(model.parameters()).dtype
    segmentation, _ = model(frames.to(dtype), readout="last", aux=True)
    options = {"align_corners": True, "average": "all"}
    main = cross_entropy(segmentation.logits[:, 0], labels, **options)
    auxiliary = 0.4 * cross_entropy(segmentation.aux["auxiliary"][:, 0], labels, **options)
    correct = (segmentation.labels()[:, 0] == labels).sum()
    return main, auxiliary, 100 * correct / labels.numel()


def gradient_norms(model, order):
    parameters = dict(model.named_parameters())
    return torch.stack([parameters[_from_official_key(n)].grad.norm() for n in order])
