"""PSPNet against tensors made by the authors' modules: ETC's R18, semseg's R50 and R101."""

import pytest
import torch
from rules import clip, read_case, state_dict

import vidseg
from vidseg.weights import load_strictly


def test_pspnet18(shared):
    case, expected = read_case(shared, "etc", "pspnet18")
    model = vidseg.load_official("etc", state_dict(shared, case["state_dict"]))
    image = clip(shared, "etc/pspnet18/image", (1, 3, 97, 129))
    with torch.no_grad():
        segmentation, _ = model(image[:, None], aux=True)
        stages = model.backbone(image)
        taps = {f"layer{i + 1}": stage for i, stage in enumerate(stages)}
        taps["layer0"] = model.backbone.maxpool(model.backbone.stem(image))
        taps["fea"] = segmentation.feature[:, 0]
        taps["logits_low"] = segmentation.logits[:, 0]
        taps["aux_low"] = segmentation.aux["auxiliary"][:, 0]
        taps["logits"] = segmentation.resize()[:, 0]
    assert set(taps) == set(expected)
    for name, tap in taps.items():
        # The case's tolerance: 2e-4 of the largest value.
        atol = 2e-4 * float(expected[name].abs().max())
        torch.testing.assert_close(tap, expected[name], rtol=0, atol=atol)


@pytest.mark.parametrize("depth", [50, 101])
def test_semseg(shared, depth):
    """LMANet's authors put their memory into semseg's PSPNet: its first frame has none yet."""
    case, expected = read_case(shared, "lmanet", f"lma_pspnet{depth}")
    model = vidseg.create(f"pspnet_r{depth}", num_classes=19).eval()
    renamed = {}
    for name, value in state_dict(shared, case["state"]).items():
        part, _, rest = name.partition(".")
        if part == "encoder":
            renamed["backbone." + rest.replace("layer0.", "stem.")] = value
        elif part in ("ppm", "decoder"):
            renamed[name.removeprefix("decoder.")] = value
    auxiliary = {k: v for k, v in model.state_dict().items() if k.startswith("auxiliary_head.")}
    load_strictly(model, {**auxiliary, **renamed})
    frames = clip(shared, *case["config"]["inputs"])
    with torch.no_grad():
        logits = model.step(frames[:, 0])[0].resize()[0, 0]
    # A twentieth channel, of zeros, is the authors' class of ignored pixels.
    stored = expected["logits"][0, 0, :19]
    step = 2 if "logits" in case.get("stored_subsampled", {}) else 1
    atol = 2e-4 * float(stored.abs().max())
    torch.testing.assert_close(logits[:, ::step, ::step], stored, rtol=0, atol=atol)
