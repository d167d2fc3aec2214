"""ETC's PSPNet-18 against tensors made by its authors' modules (specification, section 1)."""

import torch
from rules import clip, read_case, state_dict

import vidseg
from vidseg.weights import load_strictly


def test_pspnet18(shared):
    case, expected = read_case(shared, "etc", "pspnet18")
    model = vidseg.create("pspnet_r18", num_classes=19).eval()
    official = state_dict(shared, case["state_dict"])
    ours = {
        ("backbone." + k.replace("layer0.", "stem.") if k.startswith("layer") else k): v
        for k, v in official.items()
    }
    load_strictly(model, ours)
    image = clip(shared, "etc/pspnet18/image", (1, 3, 97, 129))
    with torch.no_grad():
        segmentation, _ = model.step(image)
        aux = model(image[:, None], aux=True)[0].aux["auxiliary"][:, 0]
        stages = model.backbone(image)
        taps = {f"layer{i + 1}": stage for i, stage in enumerate(stages)}
        taps["layer0"] = model.backbone.maxpool(model.backbone.stem(image))
        taps["fea"] = model.ppm(stages[-1])
        taps["logits_low"] = segmentation.logits[:, 0]
        taps["aux_low"] = aux
        taps["logits"] = segmentation.resize()[:, 0]
    for name, tap in taps.items():
        # The case's tolerance: 2e-4 of the largest value.
        atol = 2e-4 * float(expected[name].abs().max())
        torch.testing.assert_close(tap, expected[name], rtol=0, atol=atol)
