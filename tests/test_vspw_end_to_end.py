"""VSPW from the raw folder to figures, through the command line: CFFM and, on top of it, CFFM++."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from command_line import run
from PIL import Image
from vspw_shaped import write_vspw

from vidseg.classes import VSPW

SMALL = (
    "data.base_size=[64,48]",
    "data.crop=[40,48]",
    "validation.every=0",
    "checkpoint.every=2",
    "iterations=2",
    "batch_size=2",
    "sync_bn=false",
    "workers=0",
    "trackers=[]",
)


def test_from_raw_files_to_figures(tmp_path: Path, capsys, caplog, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    raw = write_vspw(Path("raw"), {"train": (12, 7), "val": (18, 2), "test": (11,)}, (96, 128))
    mask = raw / "data" / "train_0" / "mask" / "00000003.png"
    Image.fromarray(np.full((10, 12), 252, np.uint8)).save(mask)
    (raw / "val.txt").write_text("val_0\nval_1")

    assert run("data", "prepare", "vspw", "--raw", raw, "--out", "480p", "--short-side", 48) == 0
    told = capsys.readouterr().err
    assert "1 masks with the values [252]" in told
    assert run("data", "check", "vspw", "480p", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [(f["kind"], Path(f["file"]).name) for f in found["faults"]] == [
        ("short", "train_1"),
        ("label", "00000003.png"),
        ("short", "val_1"),
    ]

    root = "data.root=480p"
    tiny = "model={name: cffm_tiny}"
    assert run("train", "cffm_b0_vspw", tiny, root, *SMALL) == 0
    assert "left out 1 of the 2 videos" in caplog.text
    plus = "model={name: cffmpp_tiny, initial_weights: runs/cffm_b0_vspw/last.safetensors}"
    assert run("train", "cffmpp_b0_vspw", plus, root, *SMALL) == 0
    lines = Path("runs/cffmpp_b0_vspw/metrics.jsonl").read_text().splitlines()
    assert "main" in json.loads(lines[-1])
    assert "frames" not in json.loads(lines[-1]), "CFFM++ trains the branch alone"

    how = ("--data", "vspw", "--root", "480p", "--json")
    for name in ("cffm_b0_vspw", "cffmpp_b0_vspw"):
        capsys.readouterr()
        saved = ("--save-labels", f"maps/{name}")
        assert run("evaluate", f"runs/{name}", *how, *saved) == 0
        scores = json.loads(capsys.readouterr().out)
        assert list(scores["classes"]) == list(VSPW.names)
        assert scores["num_scored"] == 20
        figures = scores["figures"]
        assert 0 <= figures["vspw_vc16"] <= 1, "of the one video that is long enough"
        assert figures["vspw_mean_iou"] != figures["mean_iou"], "the tool leaves the other one out"
        assert run("evaluate", "--predictions", f"maps/{name}", *how) == 0
        again = json.loads(capsys.readouterr().out)["figures"]
        scored = {key: value for key, value in figures.items() if key != "ms_per_frame"}
        assert scored.items() <= again.items()

    submit = ("--split", "test", "--every-frame", "--save-labels", "submission")
    assert run("evaluate", "runs/cffmpp_b0_vspw", *how, *submit) == 0
    files = sorted(Path("submission").rglob("*.png"))
    assert [str(path) for path in files] == [
        f"submission/test_0/{number:08d}.png" for number in range(11)
    ]
    first = Image.open(files[0])
    assert (first.mode, first.size) == ("P", (64, 48))
    assert np.array(first).max() < 124
    assert (first.getpalette() or [])[:6] == [120, 120, 120, 180, 120, 120]
