"""TC by the rules of published evaluations: in an evaluation, its files and its comparison."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from torch import nn

from vidseg.adapters.per_frame import PerFrame
from vidseg.comparison.compare import compare
from vidseg.data import open_dataset
from vidseg.data.clip import VideoDataset
from vidseg.evaluation.datasets import evaluate
from vidseg.evaluation.predictions import evaluate_predictions
from vidseg.flow import DIS
from vidseg.metrics import EtcTemporalConsistency, VspwTemporalConsistency
from vidseg.report.comparison import comparison_page
from vidseg.report.evaluation import evaluation_page

OFFICIAL = {"etc-official": EtcTemporalConsistency, "vspw-official": VspwTemporalConsistency}
# What TC alone leaves open.
OPEN = {"flicker", "truth_temporal_consistency", "truth_flicker"}


@pytest.fixture(scope="module")
def streets() -> VideoDataset:
    return open_dataset("synthetic", split="val", num_videos=2, num_frames=4, size=(32, 48))


@pytest.fixture(scope="module")
def model(streets) -> PerFrame:
    """A network that a mirror changes."""
    generator = torch.Generator().manual_seed(3)
    conv = nn.Conv2d(3, streets.num_classes, 5, padding=2)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator))
    return PerFrame(conv, num_classes=streets.num_classes)


def observed(model, streets, **options):
    """An evaluation, and the label maps and images of its videos."""
    labels, images = {}, {}

    def observe(frame, figures) -> None:
        labels.setdefault(frame.video.name, []).append(frame.labels)
        images.setdefault(frame.video.name, []).append(frame.image)
        assert figures.flicker is None
        assert figures.changed is None

    return evaluate(model, streets, observe=observe, **options), labels, images


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("protocol", OFFICIAL)
def test_tc_is_the_published_measure_on_the_labels_that_are_scored(protocol, flip, model, streets):
    flow = DIS("ultrafast")
    result, labels, images = observed(model, streets, flow=flow, tc=protocol, flip=flip)
    wanted = OFFICIAL[protocol](streets.num_classes)
    for name in labels:
        flows = torch.stack([flow(now, after) for now, after in pairwise(images[name])])
        wanted.update(np.stack(labels[name]), flows)
    assert torch.equal(result.total.consistency.counts, wanted.counts)
    assert result.figures["temporal_consistency"] == wanted.mean_iou()
    plain, unflipped, _ = observed(model, streets, flow=flow, tc=protocol)
    assert flip != all(np.array_equal(labels[name], unflipped[name]) for name in labels)
    assert flip != (plain.figures == {**result.figures, "ms_per_frame": plain.ms_per_frame})
    assert result.protocols["consistency"]["protocol"] == protocol


@pytest.mark.parametrize("protocol", OFFICIAL)
def test_exact_flow_points_ahead(protocol, model, streets):
    result, labels, _ = observed(model, streets, flow="exact", tc=protocol, batch_size=2)
    wanted = OFFICIAL[protocol](streets.num_classes)
    for video in streets.videos:
        wanted.update(np.stack(labels[video.name]), streets.rendered(video).flow_forward)
    assert torch.equal(result.total.consistency.counts, wanted.counts)


def test_what_the_protocol_leaves_open_is_said(model, streets):
    result = evaluate(model, streets, flow="exact", tc="etc-official")
    assert {name for name, value in result.figures.items() if value is None} >= OPEN
    for name in OPEN:
        assert result.absent[name].startswith("protocol etc-official is of TC alone")
    assert result.total.class_figures()["flicker"] == [None] * streets.num_classes
    page = evaluation_page("steady", result).render()
    assert "TC, etc-official" in page
    assert "protocol vidseg: the previous labels" not in page


def test_runs_of_one_protocol_compare_and_of_two_do_not(model, streets, tmp_path):
    results = {
        "etc": evaluate(model, streets, flow="exact", tc="etc-official"),
        "flipped": evaluate(model, streets, flow="exact", tc="etc-official", flip=True),
        "vspw": evaluate(model, streets, flow="exact", tc="vspw-official"),
        "vidseg": evaluate(model, streets, flow="exact"),
    }
    for name, result in results.items():
        result.save(tmp_path / name, name)
    saved = json.loads((tmp_path / "etc" / "metrics.json").read_text())
    assert saved["protocols"]["consistency"]["protocol"] == "etc-official"
    assert saved["figures"]["flicker"] is None
    same = compare([tmp_path / "etc", tmp_path / "flipped"], resamples=100)
    (row,) = (row for row in same.rows if row.figure.key == "temporal_consistency")
    assert row.figure.title == "TC, etc-official"
    assert not OPEN & {row.figure.key for row in same.rows}
    for name, estimate in zip(("etc", "flipped"), row.estimates, strict=True):
        printed = results[name].figures["temporal_consistency"]
        assert estimate.value == pytest.approx(printed, abs=1e-9)
    assert "artefacts included" in comparison_page(same).render()
    for other in ("vspw", "vidseg"):
        apart = compare([tmp_path / "etc", tmp_path / other], resamples=100)
        assert "temporal_consistency" not in {row.figure.key for row in apart.rows}
        assert "protocol is 'etc-official' in etc" in " ".join(apart.notes)


def test_saved_label_maps_by_an_official_protocol(streets, tmp_path):
    from PIL import Image

    for video in streets.videos:
        for file in video.labels:
            values = np.zeros(streets.read_label(file).shape, np.uint8)
            Image.fromarray(values).save(tmp_path / f"{file.stem}.png")
    result = evaluate_predictions(tmp_path, streets, flow="exact", tc="etc-official")
    # One class of all, everywhere: steady, and the absent ones count 0.
    assert result.figures["temporal_consistency"] == pytest.approx(1 / streets.num_classes)
    Image.fromarray(values + 200).save(tmp_path / f"{file.stem}.png")
    with pytest.raises(ValueError, match="official evaluation has no void"):
        evaluate_predictions(tmp_path, streets, flow="exact", tc="etc-official")


def test_protocols_that_do_not_fit(model, streets):
    with pytest.raises(ValueError, match="did you mean 'etc-official'"):
        evaluate(model, streets, flow="exact", tc="etc-oficial")
    with pytest.raises(ValueError, match="along a flow"):
        evaluate(model, streets, tc="etc-official")


def test_command(tmp_path: Path, capsys):
    from vidseg.methods import create
    from vidseg.weights import save

    torch.manual_seed(0)
    save(create("fcn_tiny", num_classes=11), tmp_path / "tiny.safetensors")
    words = ["evaluate", tmp_path / "tiny.safetensors", "--data", "synthetic"]
    words += ["--option", "num_videos=1", "--option", "num_frames=3", "--option", "size=[32,48]"]
    words += ["--tc", "etc-official"]
    assert run(*words, "--flow", "dis-ultrafast", "--flip", "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "TC, etc-official" in shown
    assert "TC: protocol etc-official; flow: dis-ultrafast" in shown
    assert (tmp_path / "out" / "report.html").is_file()
    assert run(*words, "--flow", "none") == 1
    assert "--flow none gives none" in capsys.readouterr().err
    assert run(*words[:-1], "etc") == 1
    assert "--tc: unknown protocol 'etc'" in capsys.readouterr().err
