"""What anybody may have written: JSON, YAML, cards and arrays are read within bounds, or named."""

from __future__ import annotations

import io
import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

import vidseg
from vidseg.array_files import read_array, read_arrays, write_array
from vidseg.card import Card
from vidseg.documents import parse_json, parse_yaml, read_json, read_text, read_yaml
from vidseg.training.folder import read_metrics
from vidseg.training.recipe import load_config
from vidseg.weights import save

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested at most 32 deep"),
        ("[" * 40 + "]" * 40, "nested at most 32 deep"),
        ('{"a": ' * 100_000, "nested at most 32 deep"),
        ("", "wanted JSON"),
        ("{", "wanted JSON"),
        ("NaN", "NaN is no number of JSON"),
        ('{"a": 1, "a": 2}', r"\['a'\] given twice"),
        ("1" * 5000, "wanted JSON"),
    ],
)
def test_json_that_is_none_or_too_deep_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^here: .*{message}"):
        parse_json(text, "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: " + "[" * 100_000, "nested at most 32 deep"),
        ("\n".join(f"{' ' * i}- " for i in range(200)), "nested at most 32 deep"),
        ("x: !!timestamp foo", "line 1: wanted plain values, got the tag"),
        ("x: !!python/object/apply:os.system [ls]", "got the tag"),
        ("x: !!binary aGk=", "got the tag"),
        ("? [a]\n: 1", "wanted keys of plain values"),
        ("a: &a [*a]", "nested at most 32 deep"),
        (LAUGHS, "at most 100000 values"),
        ("x: " + "9" * 5000, "wanted a number"),
        ("x: {", "not YAML"),
        ("x: \x07", "not YAML"),
    ],
)
def test_yaml_that_is_none_or_beyond_reason_is_refused_at_once(text: str, message: str) -> None:
    begin = time.process_time()
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)
    assert time.process_time() - begin < 5


def test_yaml_reads_dates_and_merge_keys_as_words_and_aliases_within_reason() -> None:
    text = "{day: 2026-01-31, <<: a, size: &s [1, 2], also: *s}"
    assert parse_yaml(text) == {"day": "2026-01-31", "<<": "a", "size": [1, 2], "also": [1, 2]}


def test_a_text_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}
    path.write_bytes(b'{"\xe4": 1}')
    with pytest.raises(ValueError, match=r"a\.json: wanted UTF-8 text, got byte 0xe4 at place 2"):
        read_json(path)
    with pytest.raises(ValueError, match=r"a\.json: wanted a text of at most 3 bytes"):
        read_text(path, limit_bytes=3)
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.json"):
        read_json(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError):
        read_text(Path("/dev/zero"))
    path.with_suffix(".yaml").write_text("x: !!int 3")
    with pytest.raises(ValueError, match=r"a\.yaml: line 1: .*tag"):
        read_yaml(path.with_suffix(".yaml"))


CARD = {"architecture": "fcn_tiny", "options": {"num_classes": 3}, "classes": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("[" * 100_000, "deep"),
        ("[1]", "an object of named values, got .1."),
        ("null", "an object of named values, got None"),
        (json.dumps(CARD)[:-9], "wanted JSON"),
        (CARD | {"options": None}, "options: .* dictionary, got None"),
        (CARD | {"options": {}}, "num_classes"),
        (CARD | {"architecture": ["a"]}, "architecture: .* string, got .'a'."),
        (CARD | {"architecture": "fcn_huge"}, "unknown model 'fcn_huge'"),
        (CARD | {"mean": ["a", 0, 0]}, "mean.0: .* number, .* got 'a'"),
        (CARD | {"std": [0, 1, 1]}, "std.0: .*, got 0"),
        (json.dumps(CARD | {"std": [1, 1, 1]})[:-2] + "e999]}", "std.2: .*finite"),
        (CARD | {"size_multiple": 0}, "size_multiple: .*, got 0"),
        (CARD | {"size_multiple": 10**9}, "size_multiple: .*, got 1000000000"),
        (CARD | {"palette": [1, 2]}, "palette.0: .*, got 1"),
        (CARD | {"palette": [[0, 0, 256]]}, "palette.0.2: .*, got 256"),
        (CARD | {"fps": "fast"}, "fps: .*, got 'fast'"),
        (CARD | {"classes": "abc"}, "classes: .*, got 'abc'"),
        (CARD | {"figures": {"mean_iou": []}}, "figures.mean_iou"),
        (CARD | {"options": {"num_classes": 5}}, "do not fit its own card"),
        (CARD | {"options": {"num_classes": 65535}}, "do not fit its own card"),
        (CARD | {"options": {"num_classes": 10**9}}, "num_classes must be at most 65535"),
        (CARD | {"options": {"num_classes": "3"}}, "card: "),
        (CARD | {"options": {"num_classes": 3, "dropout": "x"}}, "card: "),
        (CARD | {"options": {"num_classes": 3, "backbone": "resnet_of_mine"}}, "card: "),
        (CARD | {"options": {"num_classes": 3, "backbone_weights": "imagenet"}}, "no place in a"),
        (CARD | {"options": {"num_classes": 3, "backbone_weights": "/x.pth"}}, "no place in a"),
    ],
)
def test_a_card_is_never_trusted(tmp_path: Path, monkeypatch, card, message: str) -> None:
    from safetensors.torch import save_file

    monkeypatch.setattr("vidseg.hub.download", lambda *_, **__: pytest.fail("network"))
    path = tmp_path / "model.safetensors"
    tensors = {k: v.contiguous() for k, v in vidseg.create("fcn_tiny", 3).state_dict().items()}
    save_file(tensors, path, {"card": card if isinstance(card, str) else json.dumps(card)})
    with pytest.raises(ValueError, match=message) as error:
        vidseg.load(path)
    assert str(error.value).startswith(str(path))


def test_a_card_keeps_what_it_says(tmp_path: Path) -> None:
    card = Card(classes=("a",), palette=((1, 2, 3),), figures={"step": 20, "mean_iou": 0.5})
    assert Card.from_json(card.to_json()).to_json() == card.to_json()


def npz_of(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("names.npy", content)
    return path


def head_of(shape: tuple[int, ...], descr: object = "<i8") -> bytes:
    head = io.BytesIO()
    described = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, described)  # pyright: ignore[reportArgumentType]
    return head.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        head_of((7 * 2**37,)),
        head_of((-1,)),
        head_of((2**62, 2**62)),
        head_of((3,)) + bytes(8),
        head_of((1,), "|O") + bytes(8),
        b"\x93NUMPY\x01\x00\xff\xff{" + b"[" * 70_000,
        b"\x93NUMPY\x07\x00",
        b"",
    ],
)
def test_arrays_that_claim_more_than_they_hold_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy: wanted an array"):
        read_array(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"b\.npz: names: wanted arrays"):
        read_arrays(npz_of(tmp_path / "b.npz", content))


def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    arrays = {
        "rows": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "names": np.array(["a", "bc"]),
        "none": np.zeros((0, 5), np.uint8),
        "one": np.array(7),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    found = read_arrays(tmp_path / "a.npz")
    for name, array in arrays.items():
        np.save(tmp_path / "a.npy", array)
        for read in (found[name], read_array(tmp_path / "a.npy")):
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array)
            assert read.flags.writeable


RECIPE = """
model: {name: fcn_tiny}
data: {kind: synthetic, crop: [64, 96]}
iterations: 10
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("workers: 100000", "workers: .* less than or equal to 256, got 100000"),
        ("batch_size: 1e9", "batch_size: "),
        ("optimiser: {lr: .nan}", "optimiser.lr: .*finite"),
        ("optimiser: {lr: .inf}", "optimiser.lr: .*finite"),
        ("optimiser: {lr: [1]}", "optimiser.lr: .*got .1."),
        ("schedule: {power: -1}", "schedule.power: "),
        ("loss: {class_weights: [1, .nan]}", "loss.class_weights.1: .*finite"),
        ("seed: 99999999999999999999", "seed: "),
        ("validation: {sliding: [[1e9, 1], [1, 1]]}", "validation.sliding.0.0: "),
        ("model: {name: [a]}", "twice"),
        ("precison: bf16", "unknown key 'precison'; did you mean 'precision'"),
    ],
)
def test_recipes_name_the_file_the_field_and_the_value(tmp_path, line: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{RECIPE}{line}\n")
    with pytest.raises(ValueError, match=message) as error:
        load_config(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_wrong_word_of_the_command_line_is_not_the_files_fault(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    with pytest.raises(ValueError, match=r"^workers: .*got 100000$"):
        load_config(path, ["workers=100000"])
    with pytest.raises(ValueError, match=r"^model.options: line 1: .*tag"):
        load_config(path, ["model.options=!!timestamp x"])


def test_options_of_a_recipe_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "laughs.yaml"
    text = LAUGHS.replace("a", "    a", 1).replace("\na", "\n    a")
    path.write_text("model:\n  name: fcn_tiny\n  options:\n" + text)
    with pytest.raises(ValueError, match=r"laughs\.yaml: .*at most 100000 values"):
        load_config(path)


def test_records_of_a_run_are_named_by_line_and_a_cut_one_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n{"step": 3, "lo')
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    for line in ("[]", '{"loss": 1}', '{"step": "x"}', '{"step": 1, "loss": {}}', "nonsense"):
        path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
        with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2: "):
            read_metrics(tmp_path)


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(vidseg.create("fcn_tiny", num_classes=3), path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:8] + b"\xff" * 64, b"\xff" * 64, b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=str(path)):
            vidseg.load(path)


def test_a_flipped_bit_of_saved_values_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    array = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    write_array(path, array)
    assert np.array_equal(read_array(path), array)
    assert np.array_equal(np.load(path), array)
    content = path.read_bytes()
    for place in range(128, len(content)):  # behind the head: the values and their sha256
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="its sha256 is not that of its values"):
            read_array(path)
