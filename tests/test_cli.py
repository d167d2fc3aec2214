"""The command line: what comes out, on which stream, and with which exit code."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import command_line
import pytest
import torch
import typer

import vidseg
from vidseg.cli import console as console_module
from vidseg.cli import main as main_module
from vidseg.cli.convert import left_out
from vidseg.cli.main import describe, main
from vidseg.cli.options import parse_options
from vidseg.suggest import did_you_mean


@pytest.fixture(autouse=True)
def _not_quiet_afterwards():
    yield
    console_module.be_quiet(False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Run a command line in this process; gives (exit code, stdout, stderr)."""

    def run_line(*words: object) -> tuple[int, str, str]:
        code = command_line.run(*words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_line


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch):
    """Make `vidseg models` raise what the test wants."""

    def raise_in_command(error: BaseException) -> None:
        def models() -> None:
            raise error

        shell = typer.Typer(add_completion=False)
        shell.callback()(lambda: None)
        shell.command("models")(models)
        command = typer.main.get_command(shell).commands["models"]  # type: ignore[attr-defined]
        monkeypatch.setattr(main_module, "load_command", lambda name: command)

    return raise_in_command


def test_help_names_every_command(run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for name in main_module.COMMANDS:
        assert name in out


@pytest.mark.parametrize("name", main_module.COMMANDS)
def test_help_fits_80_columns(name: str) -> None:
    command = main_module.load_command(name)
    inner = list(getattr(command, "commands", {}).values())
    for text in "\n\n".join(each.help for each in (command, *inner)).split("\n\n"):
        lines = text.removeprefix("\b\n").split("\n")
        assert len(lines) == 1 or text.startswith("\b"), "prose is folded by the terminal"
        assert len(lines) == 1 or max(map(len, lines)) <= 78, "examples are not folded"


def test_version(run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("vidseg ")


def test_a_mistyped_command_is_a_usage_error_with_the_closest_name(run) -> None:
    code, _, err = run("segmnt", "clip.mp4")
    assert code == 2
    assert "did you mean 'segment'?" in err


def test_wrong_usage_is_exit_code_2(run) -> None:
    code, _, err = run("models", "--no-such-option")
    assert code == 2
    assert "--no-such-option" in err


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wanted 5 frames, got 4; pass memory_frames=3"),
        TypeError("labels must be integers, got float32"),
        FileNotFoundError("no frames in /nowhere; name a folder of .png files"),
        ImportError("RAFT needs torchvision; pip install 'vidseg[flow]'"),
    ],
)
def test_user_errors_are_one_message(run, broken, error: Exception) -> None:
    broken(error)
    code, out, err = run("models")
    assert code == 1
    assert out == ""
    assert err == f"error: {error}\n"


def test_brackets_in_messages_are_not_markup(run, broken) -> None:
    broken(ValueError("pip install 'vidseg[flow]' [red]"))
    assert run("models")[2] == "error: pip install 'vidseg[flow]' [red]\n"


@pytest.mark.parametrize("line", [("--debug", "models"), ("models", "--debug")])
def test_debug_shows_the_traceback(broken, line: tuple[str, ...]) -> None:
    broken(ValueError("wanted this"))
    with pytest.raises(ValueError, match="wanted this"):
        main(line)


def test_our_own_bugs_keep_their_traceback(broken) -> None:
    broken(AssertionError("memory is full"))
    with pytest.raises(AssertionError):
        main(["models"])


def test_interrupt_is_exit_code_130(run, broken) -> None:
    broken(KeyboardInterrupt())
    code, _, err = run("models")
    assert code == 130
    assert "Interrupted." in err


def test_a_warning_is_one_line(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def models() -> None:
        warnings.warn("these weights are non-commercial", stacklevel=1)

    module = type("module", (), {"models": staticmethod(models)})
    monkeypatch.setattr(main_module.importlib, "import_module", lambda name: module)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, _, err = run("models")
    assert (code, err) == (0, "warning: these weights are non-commercial\n")


def test_a_full_disk_says_which_file_and_what_to_do() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "out/overlay.mp4")
    assert describe(error) == (
        "out/overlay.mp4: No space left on device; free some space there or write elsewhere"
    )
    assert describe(FileNotFoundError(2, "No such file or directory", "a.mp4")) == (
        "a.mp4: No such file or directory"
    )


def test_quiet_leaves_out_prose_but_not_the_product(run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        # Nobody would see the list, so no model is made for it.
        patched.setattr("vidseg.cli.models.list_models", lambda: pytest.fail("models were made"))
        code, out, _ = run("models", "--quiet")
    assert (code, out) == (0, "")
    code, out, _ = run("models", "--quiet", "--json")
    assert code == 0
    assert json.loads(out)


def test_words_after_two_dashes_are_left_alone() -> None:
    words = main_module._global_flags_first(["segment", "--quiet", "--", "--debug"])
    assert words == ["--quiet", "segment", "--", "--debug"]


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console_module.write_json({"iou": [0.5, math.nan], "best": math.inf})
    assert json.loads(capsys.readouterr().out) == {"iou": [0.5, None], "best": None}


def test_piped_progress_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with console_module.progress("reading", 3, unit="frames") as meter:
        for _ in range(3):
            meter.advance()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("reading: 3/3 frames, ")
    assert captured.err.count("\n") == 1


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console_module.be_quiet()
    with console_module.progress("training", 2) as meter:
        meter.advance(2, note="loss 0.3")
    captured = capsys.readouterr()
    assert meter.done == 2
    assert captured.out + captured.err == ""


def test_suggestions() -> None:
    assert did_you_mean("TMAnet_R50", ["fcn_r50", "tmanet_r50"]) == "; did you mean 'tmanet_r50'?"
    assert did_you_mean("x", []) == ""


def test_models_lists_every_model_with_its_size(run) -> None:
    from vidseg.methods import create, model_names

    code, out, _ = run("models", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert list(rows) == model_names()
    model = create("tmanet_tiny", num_classes=19)
    assert rows["tmanet_tiny"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert rows["tmanet_tiny"]["memory_frames"] == 2
    assert rows["fcn_tiny"]["memory_frames"] == 0
    # The authors' model for Cityscapes has T = 2 and 32,112,006 parameters; a frame adds 1,283,328.
    assert rows["tmanet_r50"]["parameters"] == 32_112_006 + 2 * 1_283_328


def test_models_table(run) -> None:
    code, out, _ = run("models")
    assert code == 0
    assert "tmanet_r50" in out
    assert "34.68 M" in out
    assert "tmanet_mobilenetv2_camvid, non-commercial" in out
    lines = [line.replace("│", "").split() for line in out.splitlines()]
    memories = {words[0]: words[2:] for words in lines if words}
    assert memories["fcn_tiny"][0] == "none"
    assert memories["tmanet_tiny"][:2] == ["2", "frames"]
    assert memories["cffmpp_tiny"][:2] == ["whole", "video"]
    assert memories["cffmpp_tiny_running"][:2] == ["all", "before"]


def test_doctor_reports_versions_and_fails_for_what_is_missing(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["packages"]["torch"] == torch.__version__
    assert report["video (PyAV)"]["H.264, writing"] == "yes (libx264)"

    monkeypatch.setattr(
        "importlib.metadata.requires", lambda name: ["numpy>=99.0", "no-such-package>=1.0"]
    )
    code, out, _ = run("doctor")
    assert code == 1
    assert "MISSING 99.0 or later" in out
    assert "pip install 'no-such-package>=1.0'" in out


def test_doctor_advises_packages_that_pip_finds(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """vidseg itself may be a checkout: `pip install vidseg[extra]` would look elsewhere."""
    lines = ["numpy>=2.0", "no-such-package>=1.0; extra == 'wide'", "pillow>=11; extra == 'dev'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    code, out, _ = run("doctor", "--json")
    assert code == 0
    expected = "not installed: pip install 'no-such-package>=1.0'"
    assert json.loads(out)["extras"] == {"wide": expected}


@pytest.fixture(scope="module")
def official_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TMANet as its authors' program saves it: their key names, their metadata."""
    from vidseg.methods import create

    model = create("tmanet_r18", num_classes=11, memory_frames=1)
    back = (
        (r"^head\.memory_(key|value)\.(\d+)\.(\d+)\.", r"decode_head.memory_\1_conv.\3.\2."),
        (r"^head\.query_(key|value)\.(\d+)\.", r"decode_head.query_\1_conv.\2."),
        (r"^head\.fusion\.", "decode_head.bottleneck."),
        (r"^head\.classifier\.", "decode_head."),
        (r"^auxiliary_head\.classifier\.", "auxiliary_head."),
    )
    official = {}
    for name, tensor in model.state_dict().items():
        for pattern, theirs in back:
            name = re.sub(pattern, theirs, name)
        official[name] = tensor
    path = tmp_path_factory.mktemp("official") / "iter_80000.pth"
    torch.save({"meta": {"iter": 80000}, "state_dict": official, "optimizer": {"lr": 0.01}}, path)
    return path


def test_convert_makes_a_file_that_loads(run, official_checkpoint: Path, tmp_path: Path) -> None:
    from vidseg.methods import load, load_official

    out_path = tmp_path / "tmanet.safetensors"
    line = ("convert", "tmanet", official_checkpoint, "--out", out_path, "--licence", "by mail")
    line = (*line, "--trained-size", "769x1538")
    code, out, err = run(*line, "--option", "align_corners=true")
    assert code == 0, err
    assert "not used: meta (not the model's weights)" in out
    assert "not used: optimizer" in out
    assert "state_dict" not in out

    ours = load(out_path)
    theirs = load_official("tmanet", official_checkpoint, align_corners=True)
    assert ours.align_corners
    assert ours.card.licence == "by mail"
    assert ours.card.size == (769, 1538)
    assert "iter_80000.pth, sha256 " in ours.card.source
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=0, atol=0)

    code, _, err = run(*line)
    assert code == 1
    assert "--force" in err
    assert run(*line, "--force")[0] == 0


def test_convert_lists_every_key_that_does_not_fit(
    run, official_checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(official_checkpoint, weights_only=True)
    content["state_dict"]["decode_head.extra.weight"] = torch.zeros(1)
    del content["state_dict"]["decode_head.bottleneck.conv.weight"]
    broken_path = tmp_path / "broken.pth"
    torch.save(content, broken_path)
    code, _, err = run("convert", "tmanet", broken_path, "--out", tmp_path / "x.safetensors")
    assert code == 1
    assert "decode_head.extra.weight" in err
    assert "head.fusion.conv.weight" in err
    assert not list(tmp_path.glob("x*"))


class _Program:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_convert_refuses_a_checkpoint_that_wants_to_run_code(run, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    torch.save({"state_dict": {}, "meta": _Program(trace)}, tmp_path / "bad.pth")
    code, _, err = run(
        "convert", "tmanet", tmp_path / "bad.pth", "--out", tmp_path / "x.safetensors"
    )
    assert code == 1
    assert "mkdir" in err
    assert not trace.exists()


def test_convert_of_an_unknown_method_and_of_no_file(run, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"")
    out = ("--out", tmp_path / "x.safetensors")
    code, _, err = run("convert", "tmanet", tmp_path / "none.pth", *out)
    assert code == 1
    assert "none.pth" in err
    code, _, err = run("convert", "tmanet", tmp_path / "a.pth", *out)
    assert code == 1
    assert "a.pth" in err


def test_options_are_json_or_text() -> None:
    assert parse_options(["align_corners=True", "memory-frames=4", "fusion=sum"]) == {
        "align_corners": True,
        "memory_frames": 4,
        "fusion": "sum",
    }
    with pytest.raises(ValueError, match="name=value"):
        parse_options(["align_corners"])


def test_dead_keys_are_listed_with_their_reason() -> None:
    tensor = torch.zeros(1)
    tensors = {"a": tensor, "b": torch.ones(1)}
    assert left_out({"module.a": tensor, "epoch": 3}, tensors, {"b": "never read", "c": "-"}) == {
        "epoch": "not the model's weights",
        "b": "never read",
    }


def test_the_module_is_the_command_and_the_package_is_typed():
    run = subprocess.run(
        [sys.executable, "-m", "vidseg", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == f"vidseg {vidseg.__version__}"
    assert (Path(vidseg.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--start", "noon"), "a time is seconds"),
        (("--size", "12by34"), "HEIGHTxWIDTH"),
        (("--format", "gif"), "unknown format 'gif'"),
    ],
)
def test_words_are_checked_before_what_exists(
    run, tmp_path: Path, words: tuple[str, str], message: str
) -> None:
    (tmp_path / "out.mp4").write_bytes(b"kept")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    line = ("segment", tmp_path / "a.mp4", "--out", tmp_path / "out.mp4", *words)
    code, _, err = run(*line)
    assert code == 1
    assert message in err
    assert "exists" not in err
