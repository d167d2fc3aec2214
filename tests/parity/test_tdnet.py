"""TDNet against tensors made by the authors' modules: streams, pairs of FANet, losses."""

import re

import pytest
import torch
from rules import clip, read_case, rules, state_dict

import vidseg
from vidseg.losses.criterion import Criterion, HardPixels
from vidseg.methods import METHODS
from vidseg.methods.tdnet import TDNet, ask_teacher

# The case of the released form is the slowest; the others compare every frame of their clips.
STREAMS = ("td4_psp18_65x97", "td4_psp18_64x96_b2", "td2_psp50_65x97", "td2_psp18_64x96")


def close(ours, theirs, name):
    """To 1e-5 of the largest value."""
    scale = float(theirs.abs().max())
    torch.testing.assert_close(
        ours, theirs, rtol=0, atol=1e-5 * scale, msg=lambda m: f"{name}: {m}"
    )


@pytest.mark.parametrize("case", STREAMS)
def test_stream_and_clip(shared, case):
    spec, expected = read_case(shared, "tdnet", case)
    tensors = state_dict(shared, spec["state_dict"])
    model = vidseg.load_official("tdnet", tensors)
    assert model.card.architecture == f"td{spec['paths']}_psp{spec['backbone'][6:]}"
    assert {k for k in tensors if ".fc." in k and k.startswith("pretrained")} == set(
        vidseg.methods.dead_keys("tdnet", tensors)
    )
    frames = clip(shared, spec["clip_name"], tuple(spec["clip_shape"]))
    start = spec["path_of_each_frame"][0] - 1
    memory, logits = None, []
    with torch.no_grad():
        for t, frame in enumerate(frames):
            phase = start if t == 0 else None
            segmentation, memory = model.step(frame, memory, phase=phase)
            logits.append(segmentation.logits)
            close(segmentation.resize()[:, 0], expected["logits"][t], f"logits of frame {t}")
            taps = {
                "head": segmentation.logits[:, 0],
                "Q_newest": memory.queries[-1].flatten(1, 2),
                "K_newest": memory.keys[-1].flatten(1, 2),
                "V_newest": memory.values[-1].flatten(1, 2),
            }
            for name, tap in taps.items():
                if (wanted := expected.get(f"frame{t}/{name}")) is not None:
                    close(tap, wanted, f"{name} of frame {t}")
        whole, _ = model(frames.transpose(0, 1), phase=start)
    torch.testing.assert_close(whole.logits, torch.cat(logits, 1), rtol=1e-4, atol=1e-5)


def test_pairs_of_the_fanet(shared):
    spec, expected = read_case(shared, "tdnet", "td2_fa18_64x96")
    tensors = state_dict(shared, spec["state_dict"])
    model = vidseg.load_official("tdnet", tensors, kv_stride=spec["kv_stride"])
    assert model.card.architecture == "td2_fa18"
    assert vidseg.load_official("tdnet", tensors).kv_stride == 3
    frames = clip(shared, spec["clip_name"], tuple(spec["clip_shape"])).transpose(0, 1)
    with torch.no_grad():
        for i, path in enumerate(spec["path_of_each_logit"]):
            # The path is that of the last of two frames.
            pair = frames[:, i : i + 2]
            found, _ = model(pair, readout="last", aux=True, phase=path % 2)
            close(found.resize()[:, 0], expected["logits"][i], f"logits {i}")
            close(found.aux["alone"][:, 0], expected[f"sub_logits_{i + 1}"], f"alone {i}")
        taps = fanet_taps(model, frames[:, 0])
    for name, tap in taps.items():
        close(tap, expected[f"frame1/{name}_1"], name)


def fanet_taps(model, frame):
    """What the neck of the first path passes on, by the authors' names."""
    found = {}
    names = {3: ("32", "up"), 2: ("16", "up smooth"), 1: ("8", "up"), 0: ("4", "smooth")}
    for index, (scale, parts) in names.items():
        for part in parts.split():
            module = getattr(model.neck[0].scales[index], part)
            module.register_forward_hook(
                lambda m, i, out, name=f"{part}{scale}": found.setdefault(name, out)
            )
    model.encode(frame)
    return found


@pytest.mark.parametrize("paths", [2, 4])
def test_training_losses(shared, paths):
    """The authors' training branch, with batch norms and dropout as in evaluation."""
    spec, expected = read_case(shared, "tdnet", f"td{paths}_psp18_train_loss")
    tensors = state_dict(shared, spec["state_dict"])
    model = vidseg.load_official("tdnet", tensors, kv_stride=3)
    teacher = teacher_of(tensors, paths)
    frames = clip(shared, spec["clip_name"], tuple(spec["clip_shape"])).transpose(0, 1)
    name = f"tdnet/td{paths}_psp18_train_loss/labels"
    labels = torch.from_numpy(rules(shared).labels(name, (2, 64, 96), 4, ignore=250))
    labels[labels == 250] = 255
    hard = HardPixels(spec["ohem"]["thresh"], spec["ohem"]["n_min"], auxiliary=True, form="tdnet")
    criterion = Criterion(hard_pixels=hard, auxiliary_weight=0.1)
    for path in range(paths):
        with torch.no_grad():
            first = (path - paths + 1) % paths
            found, _ = model(frames, readout="last", aux=True, phase=first)
            answers = ask_teacher(teacher, frames[:, -1], phase=path, paths=paths)
            terms = model.losses(found, {"labels": labels, **answers}, criterion)
        # The tuple of the authors' teacher: all, then the groups of paths 1, 2, ...
        close(answers["teacher"], expected["teacher/0"], "teacher")
        close(answers["teacher_group"], expected[f"teacher/{path + 1}"], f"group of path {path}")
        close(found.resize()[:, 0], expected[f"path{path + 1}/logits"], f"logits of path {path}")
        values = [float(terms[k][0]) for k in ("main", "alone", "auxiliary", "distillation")]
        values.append(sum(float(value) * weight for value, weight in terms.values()))
        wanted = expected[f"path{path + 1}/losses"].double()
        torch.testing.assert_close(torch.tensor(values).double(), wanted, rtol=1e-5, atol=0)


def teacher_of(tensors, paths):
    """A PSPNet whose pyramid and head are those of the authors' groups, put together."""
    theirs = {k.removeprefix("teacher."): v for k, v in tensors.items() if k.startswith("teacher.")}
    made = {k: v for k, v in theirs.items() if k.startswith("pretrained.")}
    for name, value in theirs.items():
        if match := re.match(r"psp1\.(conv\d\.\d\..*)", name):
            # Group g keeps part g of each branch's channels.
            parts = [theirs[name.replace("psp1", f"psp{g + 1}")] for g in range(paths)]
            whole = value
            if value.dim():
                cut = [p.chunk(paths)[g] for g, p in enumerate(parts)]
                whole = torch.cat(cut)
            made[f"head.conv5.0.{match[1]}"] = whole
        elif match := re.match(r"head\.conv5\.(\d)\.(.*)", name):
            made[f"head.conv5.{int(match[1]) + 2}.{match[2]}"] = value
    groups = [theirs[f"group{g + 1}.conv5.0.weight"] for g in range(paths)]
    halves = [g.split([g.shape[1] // 2, *[g.shape[1] // 8] * 4], 1) for g in groups]
    made["head.conv5.1.weight"] = torch.cat(
        [part for block in zip(*halves, strict=True) for part in block], 1
    )
    return vidseg.load_official("pspnet", made)


@pytest.mark.parametrize(
    ("manifest", "method", "name"),
    [
        ("td4_psp18", "tdnet", "td4_psp18"),
        ("td2_psp50", "tdnet", "td2_psp50"),
        ("td2_fa18", "tdnet", "td2_fa18"),
        ("psp101", "pspnet", "pspnet_r101_multigrid"),
    ],
)
def test_released_layouts(shared, manifest, method, name):
    import json

    spec = json.loads((shared / "parity/tdnet" / f"manifest_{manifest}.json").read_text())
    with torch.device("meta"):
        tensors = {key: torch.empty(shape) for key, shape in spec["state_dict"]}
        model = vidseg.load_official(method, tensors)
    assert model.card.architecture == name
    assert len(model.card.classes) == 19
    dead = vidseg.methods.dead_keys(method, tensors)
    unused = sum(tensors[k].numel() for k in dead if ".fc." in k)
    assert unused == spec["of_which_unused_imagenet_fc"]
    left = {k for k in dead if ".fc." not in k and k.rsplit(".", 1)[-1] in ("weight", "bias")}
    ours = sum(p.numel() for p in model.parameters())
    assert ours + unused + sum(tensors[k].numel() for k in left) == spec["parameters"]


def test_tdnet_is_a_method():
    assert METHODS["tdnet"] is TDNet
