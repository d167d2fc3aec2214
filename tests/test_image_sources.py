"""Image models of one's own code by name, and what stands beside a file of weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from command_line import run
from torch import nn

import vidseg
from vidseg.adapters.image_models import from_smp, from_transformers
from vidseg.data.synthetic import render
from vidseg.video.render import save_picture

CODE = """
import torch, vidseg
from beside import CLASSES

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, CLASSES, 3, padding=1)

    def forward(self, frames):
        return {"out": self.conv(frames)}

def bare():
    torch.manual_seed(0)
    return Net()

def ready():
    return vidseg.PerFrame(bare(), card=vidseg.Card(classes=("a", "b", "c", "d"), mean=(1, 2, 3)))

def nothing():
    return 7

def fixed():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4))

answer = 42
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("CLASSES = 4\n")
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for k, image in enumerate(render(seed=1, num_frames=4, size=(48, 64)).frames):
        save_picture(folder / f"{k}.png", image)
    return folder


def test_a_function_of_ones_own_makes_the_model(code):
    bare = vidseg.load(f"{code}:bare")
    assert (bare.num_classes, bare.card.classes, bare.training) == (4, (), False)
    ready = vidseg.load(f"{code}:ready")
    assert (ready.card.classes, ready.card.mean) == (("a", "b", "c", "d"), (1, 2, 3))
    frame = torch.ones(1, 3, 16, 16)
    assert torch.equal(ready.step(frame)[0].logits, bare.step(frame)[0].logits)


def test_a_function_of_a_module_makes_the_model(code, monkeypatch):
    monkeypatch.syspath_prepend(code.parent)
    assert vidseg.load("mine:bare").num_classes == 4


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("{code}:nothing", TypeError, "gave a int, wanted a module"),
        ("{code}:fixed", ValueError, "does not run on a frame of 128x128"),
        ("{code}:answer", ValueError, "has no function answer"),
        ("{code}:missing", ValueError, "has no function missing"),
        ("no_such_module_here:f", FileNotFoundError, "no module no_such_module_here"),
        ("no/such/file.py:f", FileNotFoundError, "no file no/such/file.py"),
    ],
)
def test_names_that_make_no_model(code, name, error, said):
    with pytest.raises(error, match=said):
        vidseg.load(name.format(code=code))


def test_a_folder_of_neither_library(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="of no model of transformers or segmentation_models"):
        vidseg.load(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds a list"):
        vidseg.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        vidseg.load(tmp_path)
    with pytest.raises(TypeError, match="take no options"):
        vidseg.load(tmp_path, memory_frames=3)
    with pytest.raises(ValueError, match="no config with num_labels"):
        from_transformers(nn.Conv2d(3, 4, 1))
    with pytest.raises(ValueError, match="no segmentation model of segmentation_models_pytorch"):
        from_smp(nn.Conv2d(3, 4, 1))


def test_per_frame_takes_its_classes_from_the_card():
    net = nn.Conv2d(3, 2, 1)
    assert vidseg.PerFrame(net, card=vidseg.Card(classes=("a", "b"))).num_classes == 2
    with pytest.raises(ValueError, match="num_classes is 3, and the card names 2"):
        vidseg.PerFrame(net, num_classes=3, card=vidseg.Card(classes=("a", "b")))
    with pytest.raises(ValueError, match="give num_classes, or a card"):
        vidseg.PerFrame(net)
    with pytest.raises(ValueError, match=r"gave \(1, 2, 8, 8\), wanted \(N, 5"):
        vidseg.PerFrame(net, num_classes=5).step(torch.zeros(1, 3, 8, 8))


def test_segment_steady_says_how_much_steadier(code, video, tmp_path, capsys):
    words = ("--model", f"{code}:bare", "--format", "jsonl,npz", "--out", tmp_path / "out")
    assert run("segment", video, *words, "--steady") == 0
    said = capsys.readouterr().out
    assert "% of the pixels that were followed along the motion; of each frame in" in said
    lines = [
        json.loads(x) for x in next((tmp_path / "out").glob("*.jsonl")).read_text().splitlines()
    ]
    assert "flicker" not in lines[0]
    assert all(0 <= line["flicker"]["steady"] <= 1 for line in lines[1:])
    own = sum(line["flicker"]["own"] for line in lines[1:])
    steady = sum(line["flicker"]["steady"] for line in lines[1:])
    assert steady < own
    plain = tmp_path / "plain"
    assert run("segment", video, *words[:4], "--out", plain) == 0
    assert "flicker" not in capsys.readouterr().out
    assert all(
        "flicker" not in line for line in next(plain.glob("*.jsonl")).read_text().splitlines()
    )


def test_evaluate_and_benchmark_take_steady(code, video, capsys):
    figures = {}
    for steady in ([], ["--steady"]):
        words = ("evaluate", f"{code}:bare", "--video", video, "--json", "--flow", "dis-fast")
        assert run(*words, *steady) == 0
        figures[bool(steady)] = capsys.readouterr().out
    assert f"{code}:bare, steady" in figures[True]
    assert flicker(figures[True]) < flicker(figures[False])
    assert (
        run("benchmark", f"{code}:bare", "--size", "48x64", "--frames", 1, "--steady", "--json")
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["twin"].endswith("bare alone")
    assert result["memory_value_bytes"] > 24 * 32 * 4 * 4


def flicker(written: str) -> float:
    """The first figure of this name in JSON."""
    return float(re.findall(r'"flicker": ([0-9.e-]+)', written)[0])
