"""Consistency over time against what the authors' tools printed for the same label maps."""

import pytest
import torch
from rules import read_case

from vidseg.metrics import ConfusionMatrix, EtcTemporalConsistency, VideoConsistency


def vspw_confusion(arrays, videos) -> ConfusionMatrix:
    matrix = ConfusionMatrix(124)
    for video in videos:
        # Raw masks have 0 = unlabelled and classes from 1.
        truth = arrays[f"gt_{video}"].int() - 1
        matrix.update(arrays[f"pred_{video}"], truth.masked_fill(truth < 0, 255))
    return matrix


def test_figures_of_the_confusion_matrix_are_those_of_vspws_tool(shared):
    case, arrays = read_case(shared, "cffm", "vspw_metrics")
    matrix = vspw_confusion(arrays, ("v0", "v1", "v3"))  # it leaves out videos of 16 frames
    expected = case["values"]
    assert matrix.weighted_iou() == pytest.approx(expected["weighted_iou"], abs=1e-12)
    assert matrix.pixel_accuracy() == pytest.approx(expected["pixel_accuracy"], abs=1e-12)
    assert matrix.mean_class_accuracy() == pytest.approx(expected["class_accuracy"], abs=1e-12)
    in_truth = matrix.counts[:-1].sum(1) > 0
    assert matrix.iou()[in_truth].mean() == pytest.approx(expected["miou_present"], abs=1e-12)


def test_figures_of_the_confusion_matrix_are_those_of_mmseg(shared):
    case, arrays = read_case(shared, "cffm", "vspw_metrics")
    matrix = vspw_confusion(arrays, ("v0", "v1", "v2", "v3"))
    assert matrix.mean_iou() == pytest.approx(case["values"]["mmseg_miou"], abs=1e-12)
    assert matrix.pixel_accuracy() == pytest.approx(case["values"]["mmseg_aacc"], abs=1e-12)
    torch.testing.assert_close(
        matrix.iou(), arrays["mmseg_iou"].double(), rtol=0, atol=1e-6, equal_nan=True
    )


@pytest.mark.parametrize("n", [8, 16])
def test_video_consistency_is_the_official_tools_to_the_last_digit(shared, n):
    case, arrays = read_case(shared, "cffm", "vspw_metrics")
    consistency = VideoConsistency(n, protocol="vspw-official")
    for video in ("v0", "v1", "v2", "v3"):
        # Raw masks have 0 = unlabelled and classes from 1.
        truth = arrays[f"gt_{video}"].int() - 1
        consistency.update(arrays[f"pred_{video}"], truth.masked_fill(truth < 0, 255))
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
