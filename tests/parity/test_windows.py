"""Sliding windows against the authors' TMANet (specification, sections 4 and 10)."""

import pytest
import torch
from rules import clip, read_case, state_dict

import vidseg
from vidseg.adapters.sliding import SlidingWindow


@pytest.mark.parametrize("way", ["clip", "stream"])
def test_slide_small(shared, way):
    case, expected = read_case(shared, "tmanet", "slide_small")
    config = case["config"]
    model = vidseg.load_official("tmanet", state_dict(shared, case["keys"]))
    windows = SlidingWindow(model, tuple(config["crop"]), tuple(config["stride"])).eval()
    size = (config["height"], config["width"])
    frames = clip(shared, "tmanet/slide_small/clip", (1, 3, 3, *size))
    memory = None
    with torch.inference_mode():
        if way == "clip":
            segmentation, _ = windows(frames, readout="last")
        else:
            for frame in frames.unbind(1):
                segmentation, memory = windows.step(frame, memory)
    logits = segmentation.logits[:, -1].reshape(expected["logits"].shape)
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=3e-4)
    labels = segmentation.labels()[:, -1].reshape(expected["prediction"].shape)
    assert torch.equal(labels, expected["prediction"].long())
