"""Consistency over time against what the authors' tools printed for the same label maps."""

import pytest
import torch
from rules import read_case

from vidseg.metrics import (
    ConfusionMatrix,
    EtcTemporalConsistency,
    VideoConsistency,
    VspwScore,
)

VIDEOS = ("v0", "v1", "v2", "v3")  # of 20, 25, 16 and 17 frames


def truth_of(arrays, video) -> torch.Tensor:
    # Raw masks have 0 = unlabelled and classes from 1.
    truth = arrays[f"gt_{video}"].int() - 1
    return truth.masked_fill(truth < 0, 255)


def test_every_figure_of_vspws_tool(shared):
    case, arrays = read_case(shared, "cffm", "vspw_metrics")
    score = VspwScore()
    videos = {name: score.video() for name in VIDEOS}
    for t in range(25):  # mixed, as a batch of streams gives them
        for name, video in videos.items():
            if t < len(arrays[f"gt_{name}"]):
                video.add(arrays[f"pred_{name}"][t], truth_of(arrays, name)[t])
    for video in videos.values():
        video.finish()
    assert score.num_videos == 3, "the tool leaves out the video of 16 frames"
    figures, printed = score.figures(), case["values"]
    theirs = {"mean_iou": "miou_present"}
    for name, value in figures.items():
        expected = printed[theirs.get(name, name)]
        assert value == (expected if name.startswith("vc") else pytest.approx(expected, abs=1e-12))
    assert len(figures) == len([name for name in printed if not name.startswith("mmseg")]) == 6


def test_every_figure_of_mmseg(shared):
    case, arrays = read_case(shared, "cffm", "vspw_metrics")
    matrix = ConfusionMatrix(124)
    for name in VIDEOS:
        matrix.update(arrays[f"pred_{name}"], truth_of(arrays, name))
    assert matrix.mean_iou() == pytest.approx(case["values"]["mmseg_miou"], abs=1e-12)
    assert matrix.pixel_accuracy() == pytest.approx(case["values"]["mmseg_aacc"], abs=1e-12)
    for measured, name in ((matrix.iou(), "iou"), (matrix.class_accuracy(), "acc")):
        expected = arrays[f"mmseg_{name}"].double()
        torch.testing.assert_close(measured, expected, rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("n", [8, 16])
def test_video_consistency_is_the_official_tools_to_the_last_digit(shared, n):
    case, arrays = read_case(shared, "cffm", "vspw_metrics")
    consistency = VideoConsistency(n, protocol="vspw-official")
    for video in VIDEOS:
        consistency.update(arrays[f"pred_{video}"], truth_of(arrays, video))
    assert consistency.mean_consistency() == case["values"][f"vc{n}"]


@pytest.mark.parametrize(
    "name",
    ["tc_metric", "tc_metric_two_clips", "tc_metric_absent_classes", "tc_metric_float_flow"],
)
def test_temporal_consistency_has_every_count_of_the_official_evaluation(shared, name):
    case, expected = read_case(shared, "etc", name)
    consistency = EtcTemporalConsistency(case["config"]["classes"])
    pairs = []
    for labels, flows in zip(expected["pred"].int(), expected["flow"], strict=True):
        for t in range(len(flows)):
            pair = EtcTemporalConsistency(consistency.num_classes)
            pair.update(labels[t : t + 2], flows[t : t + 1])
            pairs.append(_hits_and_union(pair))
        consistency.update(labels, flows)
    hits, union = _hits_and_union(consistency)
    assert torch.equal(hits.float(), expected["intersection"])
    assert torch.equal(union.float(), expected["union"])
    assert torch.equal(consistency.counts.sum(0).float(), expected["target"])
    for number, measured in enumerate(zip(*pairs, strict=True)):
        file = expected[("pair_intersection", "pair_union")[number]]
        assert torch.equal(torch.stack(measured).float(), file)
    assert torch.equal(consistency.iou().float(), expected["iou"])
    assert consistency.mean_iou() == pytest.approx(float(expected["tc"]), abs=5e-8)
    if name == "tc_metric_float_flow":
        assert round(consistency.mean_iou(), 4) == 0.4617


def _hits_and_union(consistency):
    hits = consistency.counts.diagonal()
    return hits, consistency.counts.sum(0) + consistency.counts.sum(1) - hits
