"""What `vidseg benchmark` measures: counts by hand, turns of all sides, memory that is used."""

from __future__ import annotations

import json

import pytest
import torch
from command_line import run
from counting import Counting
from torch import nn

import vidseg
from vidseg.adapters.per_frame import PerFrame
from vidseg.benchmark import Benchmark, _finish, benchmark, count_macs
from vidseg.card import Card
from vidseg.cli.options import parse_size, parse_sliding
from vidseg.methods import create
from vidseg.timing import Timing, peak_extra_bytes
from vidseg.weights import save

SIZE = (64, 96)


def test_macs_of_a_convolution_are_counted_by_hand():
    model = PerFrame(nn.Conv2d(3, 5, 3, padding=1), num_classes=5)
    assert count_macs(model, (8, 10)) == {
        "encode": 8 * 10 * 5 * 3 * 3 * 3,
        "fuse": 0,
        "decode": 0,
        "remember": 0,
    }


def test_attention_is_counted():
    """Both products of attention grow with the square of the map, everything else with the map."""
    model = create("tmanet_tiny", num_classes=5)
    small, large = (count_macs(model, size)["fuse"] for size in ((64, 64), (128, 128)))
    pixels, slots, width = 64, model.window_length - 1, 16  # h w of the small map, T, value width
    attention = 2 * pixels * slots * pixels * width
    assert large - 4 * small == (16 - 4) * attention


def test_counting_needs_no_data_and_leaves_the_model_alone():
    model = create("fcn_tiny", num_classes=5)
    count_macs(model, (2048, 4096))
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert model.training


def test_every_side_is_measured_in_every_turn():
    model, twin = create("tmanet_tiny", num_classes=5), create("fcn_tiny", num_classes=5)
    counting = Counting()
    result = benchmark(
        model,
        SIZE,
        name="tmanet_tiny",
        twin=twin,
        twin_name="fcn_tiny",
        num_frames=3,
        warm_up=1,
        progress=counting,
    )
    assert counting.steps == [(i, 4) for i in range(1, 5)]
    assert set(result.timings) == {"stream", "clip", "window", "twin"}
    assert all(len(timing.milliseconds) == 3 for timing in result.timings.values())
    assert result.window_length == 3
    memory_frames, channels = 2, model.head.memory_key[0][0].conv.in_channels
    assert result.memory_bytes == memory_frames * channels * 8 * 12 * 4
    assert result.parameters == sum(p.numel() for p in model.parameters())
    assert result.twin_macs == sum(count_macs(twin, SIZE).values())
    summary = result.summary()
    json.dumps(summary, allow_nan=False)
    assert summary["timings"]["window"]["ratio_to_stream"] == result.ratio("window")


def test_the_stream_is_in_its_steady_state(monkeypatch):
    model = create("tmanet_tiny", num_classes=5)
    seen = []
    step = type(model).remember

    def remember(self, memory, feature, fused):
        seen.append(memory.frames_seen)
        return step(self, memory, feature, fused)

    monkeypatch.setattr(type(model), "remember", remember)
    benchmark(model, SIZE, num_frames=2, warm_up=0)
    # The first window starts the stream; its steps then all see a full memory.
    assert 2 in seen
    assert seen[:3] == [0, 1, 2]


def test_the_size_is_the_one_that_the_model_sees():
    """It takes multiples of 32, here as in every other command."""
    model = PerFrame(nn.Conv2d(3, 5, 3, padding=1), num_classes=5)
    model.card = Card(size_multiple=32)
    found = benchmark(model, (30, 65), num_frames=1, warm_up=0)
    assert found.size == (32, 96)
    assert found.macs["encode"] == 32 * 96 * 5 * 3 * 3 * 3


def test_ratios_are_medians_over_turns():
    timings = {
        "stream": Timing((1.0, 10.0, 2.0), (1.0, 1.0, 1.0)),
        "window": Timing((4.0, 50.0, 6.0), (2.0, 3.0, 9.0)),
    }
    result = Benchmark("m", SIZE, "cpu", 1, "fp32", 3, timings, {"encode": 1}, 1, 1)
    assert result.ratio("window") == 4.0  # of 4, 5 and 3
    assert result.cpu_ratio("window") == 3.0
    assert result.ratio("stream") == 1.0


def test_percentiles_and_rates():
    timing = Timing(tuple(float(i) for i in range(1, 101)))
    assert timing.median_ms == 50.5
    assert timing.p95_ms == 95.0
    assert timing.fps == pytest.approx(1e3 / 50.5)
    assert timing.cpu_median_ms is None


def test_peak_memory_sees_what_is_freed_again():
    size_bytes = 64 * 2**20

    def run() -> None:
        torch.ones(size_bytes // 4).sum()

    peak = peak_extra_bytes(run, torch.device("cpu"))
    if peak is None:
        pytest.skip("this system does not tell the peak of a process")
    assert 0.9 * size_bytes < peak < 1.5 * size_bytes


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ((0, 5), {}, "size must be"),
        (SIZE, {"num_frames": 0}, "num_frames must be"),
        (SIZE, {"warm_up": -1}, "warm_up must be"),
        (SIZE, {"precision": "fp8"}, "precision must be"),
    ],
)
def test_wrong_arguments_are_refused(size, options, message):
    with pytest.raises(ValueError, match=message):
        benchmark(create("fcn_tiny", num_classes=5), size, **options)


def test_sizes_are_height_by_width():
    assert parse_size("256x512") == (256, 512)
    assert parse_sliding("769x769/513x513") == ((769, 769), (513, 513))
    assert parse_sliding("480x640") == ((480, 640), None)
    for text in ("256", "256x", "0x5", "a by b", "-4x5"):
        with pytest.raises(ValueError, match="--size wants HEIGHTxWIDTH"):
            parse_size(text)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--device", "gpu"], 1, "--device wants cpu, cuda or cuda:1, got 'gpu'"),
        (["--device", "meta"], 1, "--device meta: "),
        (["--device", "cuda:99"], 1, "--device cuda:99: "),
        (["--classes", "0"], 2, "'--classes'"),
        (["--threads", "0"], 2, "'--threads'"),
    ],
)
def test_wrong_words_are_one_message(capsys, words, code, message):
    assert run("benchmark", "tmanet_tiny", "--size", "32x32", "--frames", "1", *words) == code
    assert message in capsys.readouterr().err


def test_a_file_has_its_own_classes(tmp_path, capsys):
    path = tmp_path / "tiny.safetensors"
    save(create("fcn_tiny", num_classes=3), path)
    assert run("benchmark", path, "--size", "32x32", "--classes", "5") == 1
    assert "--classes is for models made by name" in capsys.readouterr().err


def test_command_writes_json(capsys):
    words = "--quiet benchmark tmanet_tiny --size 64x96 --frames 2 --warm-up 0 --classes 5 --json"
    assert run(*words.split(), "--option", "memory_frames=3") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["model"] == "tmanet_tiny"
    assert result["twin"] == "fcn_tiny"
    assert result["window_frames"] == 4
    assert set(result["timings"]) == {"stream", "clip", "window", "twin"}


def test_command_shows_a_table_and_leaves_out_the_twin_of_a_per_frame_model(capsys):
    words = "benchmark fcn_tiny --size 64x96 --frames 1 --warm-up 0 --classes 5"
    assert run(*words.split()) == 0
    out = capsys.readouterr().out
    assert "ms/frame" in out
    assert "GMACs per frame" in out
    assert "twin" not in out


def test_command_names_what_is_wrong(capsys):
    assert run("benchmark", "tmanet_tyni", "--size", "64x96") == 1
    assert "did you mean 'tmanet_tiny'" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "host"), [("lmanet_tiny", "erfnet_tiny"), ("erfnet", None)])
def test_twin_of_a_method_with_hosts_is_its_host(name, host):
    from vidseg.cli.benchmark import _make_twin

    twin_name, twin = _make_twin(None, create(name, num_classes=4))
    assert twin_name == host
    assert twin is None or (twin.num_classes == 4 and twin.prefers_channels_last)


@pytest.mark.parametrize("name", ["cffm_tiny", "cffmpp_tiny", "cffmpp_tiny_running"])
def test_what_is_folded_runs_beside_what_is_written(name):
    model, twin = create(name, num_classes=3), create("segformer_tiny", num_classes=3)
    result = benchmark(model, (64, 96), twin=twin, num_frames=1, warm_up=0)
    assert set(result.timings) == {
        "stream", "clip", "window", "twin", "window_written", "twin_written"
    }  # fmt: skip
    assert result.memory_bytes > 0
    assert model.decoder.folded


def test_label_maps_are_timed_too(monkeypatch):
    made = []
    labels, resize = vidseg.Segmentation.labels, vidseg.Segmentation.resize
    monkeypatch.setattr(
        vidseg.Segmentation, "labels", lambda s, size: made.append(size) or labels(s, size)
    )
    monkeypatch.setattr(
        vidseg.Segmentation, "resize", lambda s: made.append("written") or resize(s)
    )
    model, twin = create("cffm_tiny", num_classes=3), create("segformer_tiny", num_classes=3)
    result = benchmark(model, (64, 96), twin=twin, labels=(60, 90), num_frames=1, warm_up=0)
    # Each of the six sides runs in a turn, and once more for its memory.
    assert made.count((60, 90)) == 8
    assert made.count("written") == 4
    assert result.summary()["labels_px"] == [60, 90]


def test_both_ways_to_labels_agree():
    segmentation = create("cffm_tiny", num_classes=7).eval().step(torch.randn(1, 3, 64, 96))[0]
    ours, written = (_finish((64, 96), is_written=it)(segmentation) for it in (False, True))
    assert torch.equal(ours[0], written)
