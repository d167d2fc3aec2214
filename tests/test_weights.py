"""Weights on disk: whole or not at all, and no pickle runs code."""

import argparse
import os
import pathlib
import pickle
import random
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_bytes

import vidseg
from vidseg import weights
from vidseg.card import Card
from vidseg.methods import create
from vidseg.weights import load_strictly, read_checkpoint, state_dict_of


def test_card_survives_json():
    card = Card(
        architecture="tmanet_r50",
        options={"num_classes": 2, "memory_frames": 3},
        classes=("road", "sky"),
        palette=((1, 2, 3), (4, 5, 6)),
        fps=15.0,
        figures={"mean_iou": 0.5},
    )
    assert Card.from_json(card.to_json()) == card
    assert Card.from_json('{"of_a_later_version": 1}') == Card()


def test_normalise_follows_the_card():
    image = np.full((2, 3, 3), 255, np.uint8)
    frame = Card(mean=(127.5,) * 3, std=(127.5,) * 3).normalise(image)
    assert frame.shape == (3, 2, 3)
    assert torch.equal(frame, torch.ones(3, 2, 3))
    official = Card().normalise(np.zeros((1, 1, 3), np.uint8)).flatten()
    expected = torch.tensor([-123.675 / 58.395, -116.28 / 57.12, -103.53 / 57.375])
    torch.testing.assert_close(official, expected)
    with pytest.raises(TypeError, match=r"must be uint8 RGB pixels, got torch\.float32"):
        Card().normalise(torch.zeros(2, 2, 3))
    with pytest.raises(ValueError, match=r"\(\.\.\., H, W, 3\), got \(3, 2, 2\)"):
        Card().normalise(torch.zeros(3, 2, 2, dtype=torch.uint8))


def test_frames_are_stretched_to_the_cards_multiple():
    frames = torch.randn(2, 2, 3, 37, 53)
    card = Card(size_multiple=8)
    assert card.fit(frames).shape == (2, 2, 3, 40, 56)
    assert card.fit(frames, (18, 29)).shape == (2, 2, 3, 24, 32)
    torch.testing.assert_close(card.fit(torch.ones(3, 37, 53)), torch.ones(3, 40, 56))
    assert Card().fit(frames) is frames
    corners = Card(size_multiple=8, size_offset=1)  # the corners of the maps are the frame's
    assert corners.fit(frames).shape == (2, 2, 3, 41, 57)
    assert corners.fit(frames, (33, 34)).shape == (2, 2, 3, 33, 41)
    assert Card.from_json(corners.to_json()) == corners


@pytest.mark.parametrize("half", [False, True])
def test_save_and_load(tmp_path, half):
    model = vidseg.create("tmanet_tiny", num_classes=3, memory_frames=3).eval()
    path = tmp_path / "model.safetensors"
    weights.save(model, path, half=half, licence="test only", classes=("a", "b", "c"))
    loaded = vidseg.load(path)
    assert loaded.memory_frames == 3
    assert loaded.card.licence == "test only"
    assert not loaded.training
    frames = torch.randn(1, 3, 3, 40, 56)
    with torch.no_grad():
        ours, theirs = model(frames)[0].logits, loaded(frames)[0].logits
    torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-2 if half else 0)
    assert os.listdir(tmp_path) == ["model.safetensors"]  # noqa: PTH208


def test_options_that_weights_do_not_depend_on_can_be_given_anew(tmp_path):
    path, again = tmp_path / "model.safetensors", tmp_path / "again.safetensors"
    weights.save(vidseg.create("cffmpp_tiny", num_classes=3), path)
    live = vidseg.load(path, prototypes="running", gap_frames=1)
    assert live.causal
    assert live.gap_frames == 1
    weights.save(live, again)
    assert vidseg.load(again).causal
    with pytest.raises(ValueError, match=r"do not fit channels=32: \d+ tensors differ, such as "):
        vidseg.load(path, channels=32)
    with pytest.raises(TypeError, match="no option 'prototype'; did you mean 'prototypes'"):
        vidseg.load(path, prototype="running")


def test_saving_refuses_what_could_not_be_loaded(tmp_path):
    bare = vidseg.PerFrame(torch.nn.Conv2d(3, 2, 1), num_classes=2)
    with pytest.raises(ValueError, match=r"not made by vidseg\.create"):
        weights.save(bare, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"saved as \.safetensors, got x\.pth"):
        weights.save(vidseg.create("fcn_tiny", num_classes=2), tmp_path / "x.pth")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        weights.save(vidseg.create("fcn_tiny", num_classes=2), tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_run_folder_asks_no_network(tmp_path, monkeypatch):
    (tmp_path / "runs" / "camvid").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vidseg.methods.download", lambda *_, **__: pytest.fail("network"))
    with pytest.raises(FileNotFoundError, match="no weights at runs/cavmid; wanted"):
        vidseg.load("runs/cavmid")


def test_wrong_options_of_a_model_are_named():
    with pytest.raises(TypeError, match="no option 'memory_frame'; did you mean 'memory_frames'"):
        vidseg.create("tmanet_tiny", num_classes=3, memory_frame=2)
    with pytest.raises(TypeError, match="no option 'output_strid'; did you mean 'output_stride'"):
        vidseg.create("fcn_mobilenetv2", num_classes=3, output_strid=8)
    with pytest.raises(TypeError, match=r"tmanet_tiny: .*; see help"):
        vidseg.create("tmanet_tiny", num_classes=3, memory_frames="2")
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        vidseg.create("fcn_tiny", num_classes=0)


def test_loading_explains_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*; wanted a \.safetensors"):
        vidseg.load(tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError, match="is a model's name, train it first"):
        vidseg.load("tmanet_r50")
    with pytest.raises(FileNotFoundError, match=r"holds no best\.safetensors"):
        vidseg.load(tmp_path)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x00" * 20)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        vidseg.load(broken)
    other = tmp_path / "authors.pth"
    torch.save({"state_dict": {}}, other)
    with pytest.raises(ValueError, match="vidseg convert"):
        vidseg.load(other)


def test_create_suggests_a_name():
    with pytest.raises(ValueError, match="did you mean 'tmanet_r50'"):
        vidseg.create("tmanet_r5O", num_classes=3)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch /tmp/vidseg_was_here",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, is_zip):
    marker = pathlib.Path("/tmp/vidseg_was_here")
    marker.unlink(missing_ok=True)
    path = tmp_path / "evil.pth"
    torch.save({"w": torch.zeros(2), "x": Malicious()}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match=r"refused|wants to run code"):
        read_checkpoint(path)
    with pytest.raises(ValueError, match=r"refused|wants to run code"):
        vidseg.load_official("tmanet", path)
    assert not marker.exists()


def test_research_checkpoints_are_read(tmp_path, monkeypatch):
    """mmcv metadata, numpy scalars, Namespace and Path: what authors' files carry."""
    fake = types.ModuleType("mmcv.utils")
    buffer = type("HistoryBuffer", (), {"__module__": "mmcv.utils"})
    fake.HistoryBuffer = buffer
    monkeypatch.setitem(sys.modules, "mmcv", types.ModuleType("mmcv"))
    monkeypatch.setitem(sys.modules, "mmcv.utils", fake)
    content = {
        "meta": {"mmcv_version": "1.2.0", "CLASSES": ("a", "b"), "history": buffer()},
        "args": argparse.Namespace(lr=0.1),
        "where": pathlib.PurePosixPath("x"),
        "best": np.float64(0.5),
        "state_dict": {"module.weight": torch.ones(2)},
    }
    path = tmp_path / "authors.pth"
    torch.save(content, path)
    monkeypatch.delitem(sys.modules, "mmcv.utils")
    monkeypatch.delitem(sys.modules, "mmcv")
    read = read_checkpoint(path)
    assert float(read["best"]) == 0.5
    assert torch.equal(state_dict_of(read)["weight"], torch.ones(2))


def test_damaged_checkpoints(tmp_path):
    path = tmp_path / "cut.pth"
    torch.save({"w": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        read_checkpoint(path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds a list, wanted a dict"):
        read_checkpoint(path)
    with pytest.raises(ValueError, match="holds no tensors"):
        state_dict_of({"epoch": 3})
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "absent.pth")
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps({"w": Malicious()}, protocol))
        with pytest.raises(ValueError, match=r"damaged|wants to run code") as refused:
            read_checkpoint(path)
        assert "weights_only" not in str(refused.value), "torch advises to switch it off"
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x00" * 20)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_checkpoint(broken)


def test_strict_loading_lists_every_fault():
    layer = torch.nn.Linear(2, 3)
    with pytest.raises(
        ValueError, match=r"missing: bias; unexpected: extra; shapes: weight \(1, 2\) \(wanted"
    ):
        load_strictly(layer, {"weight": torch.zeros(1, 2), "extra": torch.zeros(1)})
    load_strictly(
        layer,
        {"weight": torch.ones(3, 2), "bias": torch.ones(3), "old": torch.zeros(1)},
        dead={"old": "never read by the forward pass"},
    )
    assert torch.equal(layer.bias.detach(), torch.ones(3))


def test_normalise_takes_read_only_and_flipped_pixels() -> None:
    image = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    image.flags.writeable = False
    flipped = Card().normalise(image[:, ::-1])
    assert torch.equal(flipped, Card().normalise(image.copy()).flip(-1))


def test_no_flipped_bit_of_weights_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = create("fcn_tiny", num_classes=3)
    weights.save(model, path)
    tensors, card = weights.load_file(path)
    content = path.read_bytes()
    rng = random.Random(0)
    head = int.from_bytes(content[:8], "little") + 8  # its length, the header, then the values
    places = [*rng.sample(range(head), 60), *rng.sample(range(head, len(content)), 60)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            found, its_card = weights.load_file(path)
        except ValueError:
            continue
        assert place < head  # a space becomes another sign of JSON that says the same
        assert its_card == card
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_files_of_others_have_no_checksum_and_are_read(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    path.write_bytes(to_bytes({"a": torch.ones(3)}, metadata={"card": "{}"}))
    assert weights.read_tensors(path)[1] == {"card": "{}"}
    written = set()
    for _ in range(8):  # the library alone puts words of the metadata in any order
        weights.write_tensors(path, {"a": torch.ones(3), "b": torch.zeros(())}, {"card": "{}"})
        written.add(path.read_bytes())
    assert weights.read_tensors(path)[1] == {"card": "{}"}
    assert len(written) == 1


def test_a_mistyped_run_does_not_ask_the_hub(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vidseg.methods.download", lambda *_, **__: pytest.fail("asked the hub"))
    for name in ("runs/first", "../first", "~/first"):
        with pytest.raises(FileNotFoundError):
            vidseg.load(name)
    assert vidseg.weights is weights
