"""RAFT on torchvision's model: both layouts of weights, frames of any size, a street."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vidseg.flow import RAFT, CachedFlow, forward_backward_consistent, open_flow, warp
from vidseg.weights import read_checkpoint, state_dict_of

pytestmark = pytest.mark.extras

# torchvision's name, and what the authors call it; the first that fits.
AUTHORS = [
    (r"^feature_encoder\.", "fnet."),
    (r"^context_encoder\.", "cnet."),
    (r"net\.conv\.", "net.conv2."),
    (r"net\.convnormrelu\.0\.", "net.conv1."),
    (r"net\.convnormrelu\.1\.", "net.norm1."),
    (r"\.convnormrelu(\d)\.0\.", r".conv\1."),
    (r"\.convnormrelu(\d)\.1\.", r".norm\1."),
    (r"motion_encoder\.conv(c|f)(?:orr|low)(\d)\.0\.", r"encoder.conv\1\2."),
    (r"motion_encoder\.conv\.0\.", "encoder.conv."),
    (r"mask_predictor\.convrelu\.0\.", "update_block.mask.0."),
    (r"mask_predictor\.conv\.", "update_block.mask.2."),
]


def authors_name(name: str, variant: str) -> str:
    for pattern, replacement in AUTHORS:
        name = re.sub(pattern, replacement, name)
    number = r"\1" if variant == "large" else ""
    name = re.sub(r"recurrent_block\.convgru(\d)\.conv([zrq])", rf"gru.conv\2{number}", name)
    return f"module.{name}"


def model_of(variant: str) -> torch.nn.Module:
    optical_flow = pytest.importorskip("torchvision.models.optical_flow")
    torch.manual_seed(0)
    model = getattr(optical_flow, f"raft_{variant}")(weights=None, progress=False).eval()
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")) or ".1.weight" in name:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model


def frames(size: tuple[int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    blobs = Image.fromarray(noise[::8, ::8]).resize(size[::-1], Image.Resampling.BICUBIC)
    image = np.array(blobs)
    return image, np.roll(image, (1, 2), axis=(0, 1))


@pytest.mark.parametrize("variant", ["small", "large"])
def test_both_layouts_give_torchvisions_flow_and_one_name(tmp_path: Path, variant: str) -> None:
    model = model_of(variant)
    tensors = model.state_dict()
    theirs = {authors_name(name, variant): value for name, value in tensors.items()}
    assert len(theirs) == len(tensors)
    for name in [n for n in theirs if ".cnet." in n and "downsample.1." in n]:
        theirs[name.replace("downsample.1", "norm3")] = theirs[name]  # their files list it twice
    if variant == "large":
        assert "module.update_block.gru.convz2.weight" in theirs
        assert "module.cnet.layer2.0.norm3.running_var" in theirs
    torch.save(tensors, tmp_path / "torchvision.pth")
    torch.save(theirs, tmp_path / "authors.pth")
    image_t, image_s = frames((128, 136))
    t, s = (torch.from_numpy(i).permute(2, 0, 1)[None] / 127.5 - 1 for i in (image_t, image_s))
    with torch.no_grad():
        expected = model(t, s, num_flow_updates=2)[-1][0]
    assert float(expected.abs().max()) > 0.1
    flows, names = [], set()
    for file in ("torchvision.pth", "authors.pth"):
        raft = RAFT(variant, tmp_path / file, iterations=2)
        flows.append(raft(image_t, image_s))
        names.add(raft.name)
        assert not flows[-1].requires_grad
    torch.testing.assert_close(flows[0], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(*flows)
    (name,) = names
    assert re.fullmatch(
        rf"raft-{variant} \(torchvision [\d.]+, weights [0-9a-f]{{8}}, 2 iterations\)", name
    )


def test_weights_fit_in_every_name_or_not_at_all(tmp_path: Path) -> None:
    whole = {authors_name(name, "small"): v for name, v in model_of("small").state_dict().items()}
    first = "module.fnet.conv1.weight"
    for change, message in (
        ({first: None}, "feature_encoder.convnormrelu.0.weight"),
        ({"module.fnet.conv9.weight": whole[first]}, r"Unexpected key.*encoder\.conv9\.weight"),
        ({first: whole[first][:1]}, "size mismatch for feature_encoder"),
        ({"module.feature_encoder.convnormrelu.0.weight": whole[first] + 1}, "two different"),
    ):
        tensors = {name: value for name, value in {**whole, **change}.items() if value is not None}
        torch.save(tensors, tmp_path / "raft.pth")
        with pytest.raises(ValueError, match=f"(?s){message}"):
            RAFT("small", tmp_path / "raft.pth")
    torch.save(whole, tmp_path / "raft.pth")
    with pytest.raises(ValueError, match="raft-large; is it the file of the other"):
        open_flow("raft-large", weights=tmp_path / "raft.pth")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*none\.pth"):
        RAFT("small", tmp_path / "none.pth")
    other = RAFT("small", tmp_path / "raft.pth")
    whole[first] = whole[first] + 1
    torch.save(whole, tmp_path / "raft.pth")
    assert RAFT("small", tmp_path / "raft.pth").name != other.name


def test_without_a_network_it_says_what_to_bring(tmp_path: Path, monkeypatch, caplog) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(FileNotFoundError, match=r"OSError: no route.*pass weights=PATH"):
        open_flow("raft-small")
    assert "licence: BSD-3-Clause" in caplog.text
    # What the hub's cache holds is taken without asking.
    torch.save(model_of("small").state_dict(), tmp_path / "raft.pth")
    optical_flow = pytest.importorskip("torchvision.models.optical_flow")
    file = optical_flow.Raft_Small_Weights.DEFAULT.url.rsplit("/", 1)[-1]
    (tmp_path / "raft.pth").rename(tmp_path / "checkpoints" / file)
    assert open_flow("raft-small").name.startswith("raft-small (torchvision ")


@pytest.fixture(scope="module")
def small(shared: Path) -> RAFT:
    pytest.importorskip("torchvision")
    return RAFT("small", shared / "data" / "weights" / "raft-small.pth")


def test_the_authors_file_in_both_layouts(shared: Path, tmp_path: Path, small: RAFT) -> None:
    theirs = read_checkpoint(shared / "data" / "weights" / "raft-small.pth")
    names = model_of("small").state_dict()
    tensors = {name: theirs[authors_name(name, "small")] for name in names}
    assert len(tensors) == len(theirs) == len(state_dict_of(theirs))
    torch.save(tensors, tmp_path / "torchvision.pth")
    again = RAFT("small", tmp_path / "torchvision.pth")
    image_t, image_s = frames((128, 160))
    assert again.name == small.name
    assert torch.equal(again(image_t, image_s), small(image_t, image_s))


@pytest.mark.parametrize("size", [(60, 90), (131, 203)])
def test_any_size_of_frame(small: RAFT, size: tuple[int, int]) -> None:
    image_t, image_s = frames(size)
    flow = small(image_t, image_s)
    assert flow.shape == (2, *size)
    assert flow.dtype == torch.float32
    assert flow.is_contiguous()
    inner = flow[:, 8:-8, 8:-8]
    assert inner[0].median() == pytest.approx(2, abs=0.25)
    assert inner[1].median() == pytest.approx(1, abs=0.25)


def test_neighbouring_frames_of_cityscapes(shared: Path, tmp_path: Path, small: RAFT) -> None:
    folder = shared / "data" / "cityscapes" / "leftImg8bit_sequence" / "val" / "frankfurt"
    image_t, image_s = (
        np.array(Image.open(path).convert("RGB").resize((512, 256), Image.Resampling.BOX))
        for path in sorted(folder.iterdir())[:2]
    )
    cached = CachedFlow(small, tmp_path)
    flow, back = cached(image_t, image_s), cached(image_s, image_t)
    assert torch.equal(cached(image_t, image_s), flow)
    t, s = (torch.from_numpy(i).permute(2, 0, 1).float() for i in (image_t, image_s))
    error, still = (warp(s, flow) - t).abs().mean(), (s - t).abs().mean()
    assert error < 0.55 * still
    assert forward_backward_consistent(flow, back).float().mean() > 0.85
    assert pickle.loads(pickle.dumps(small)).name == small.name
