"""What a terminal, a log and a spreadsheet are shown of names that anybody may have chosen."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run

import vidseg
from vidseg.cli.console import console
from vidseg.data import open_dataset
from vidseg.printable import VisibleFormatter, csv_cell, shortened, visible, visible_json
from vidseg.shortage import MAX_PIXELS, shortage_of
from vidseg.weights import save

EVIL = ("[/red]", '=HYPERLINK("http://evil","x")', "\x1b]0;title\x07\x1b[31mred", "a\u202eb")
ODD_NAME = os.fsdecode(b"odd\xff[/x] :name")


def test_what_a_terminal_would_obey_is_shown_as_escapes() -> None:
    assert visible("a\tb\nc\u00e9") == "a\tb\nc\u00e9"
    assert visible("\x1b[31m\x07\r\x9b\u202e\x7f") == r"\x1b[31m\x07\x0d\x9b\u202e\x7f"
    assert visible(os.fsdecode(b"x\xff")) == r"x\xff"
    text = visible_json(json.dumps("\x9b\u202e\ud800", ensure_ascii=False))
    assert json.loads(text) == "\x9b\u202e\ud800"
    assert text.isascii()


def test_a_log_shows_names_as_escapes() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 1, "reading %s", ("\x1b[2J",), None)
    assert VisibleFormatter("%(message)s").format(record) == r"reading \x1b[2J"


def test_cells_of_a_table_are_no_formulas() -> None:
    for text in ("=1+1", "+1", "-1", "@x", "\t=1", "\uff1d1"):
        assert csv_cell(text).startswith("'")
    assert (csv_cell("road"), csv_cell(-1.5), csv_cell(None)) == ("road", -1.5, None)


def test_shortened_values_fit_a_line() -> None:
    assert shortened([3]) == "[3]"
    assert len(shortened(["x" * 10**6] * 10**3)) < 500


def test_no_name_is_markup(capsys) -> None:
    console.print("[/red] [bold]x[/bold] :smile:")
    assert capsys.readouterr().out == "[/red] [bold]x[/bold] :smile:\n"


@pytest.fixture
def evil_folder(tmp_path: Path) -> Path:
    """Rendered videos under a name of odd bytes, whose first classes have odd names."""
    root = tmp_path / ODD_NAME
    options = {"num_videos": 1, "num_frames": 2, "size": (48, 64)}
    classes = open_dataset("synthetic", root, "val", **options).classes
    content = json.loads((root / "classes.json").read_text())
    names = [*EVIL, *classes[len(EVIL) :]]
    content["classes"] = dict(zip(names, content["classes"].values(), strict=True))
    (root / "classes.json").write_text(json.dumps(content))
    model = vidseg.create("fcn_tiny", num_classes=len(names))
    save(model, tmp_path / "m.safetensors", classes=tuple(names))
    return root


def test_odd_names_pass_through_an_evaluation(evil_folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "[/y]"
    words = ("evaluate", tmp_path / "m.safetensors", "--data", "folder", "--root", evil_folder)
    assert run(*words, "--flow", "none", "--out", out) == 0
    said = "".join(capsys.readouterr())
    assert "[/red]" in said
    assert r"\x1b]0;title\x07\x1b[31mred" in said
    assert "\x1b" not in said
    rows = list(csv.reader((out / "metrics.csv").read_text(encoding="utf-8").splitlines()))
    assert [row[0] for row in rows[1:4]] == ["[/red]", f"'{EVIL[1]}", visible(EVIL[2])]
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "\x1b" not in report
    assert "\u202e" not in report
    assert "a\\u202eb" in report
    assert list(json.loads((out / "metrics.json").read_text())["classes"])[:4] == list(EVIL)
    assert run(*words, "--flow", "none", "--json") == 0
    said = capsys.readouterr().out
    assert "\u202e" not in said
    assert list(json.loads(said)["classes"])[:4] == list(EVIL)
    assert run("data", "weights", "folder", evil_folder, "--split", "val") == 0
    assert "[/red]" in capsys.readouterr().out


def vidseg_command(*words: str, **options) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "vidseg.cli.main", *words]
    return subprocess.run(command, capture_output=True, timeout=120, **options)


@pytest.mark.skipif(os.name != "posix", reason="shell redirections")
def test_a_stdout_that_nobody_reads_ends_nothing(tmp_path: Path) -> None:
    """Closed from the start, closed on the way, ASCII alone: the work is done, without a word."""
    program = (
        "import sys, time\n"
        "from vidseg.cli import main\n"
        "from vidseg.cli.console import console, write_json\n"
        "def told():\n"
        "    for _ in range(20000): console.print('a line that nobody reads \\u00e9\\udcff')\n"
        "    write_json({'a': 1})\n"
        f"    open({str(tmp_path / 'done')!r}, 'w').close()\n"
        "main.typer.main.get_command = lambda app: lambda args, prog_name: told()\n"
        "main.main(['models'])\n"
    )
    for redirection in (">&-", "| head -1 > /dev/null", ">&- 2>&- <&-", "> /dev/null"):
        done = subprocess.run(
            ["bash", "-c", f'set -o pipefail; "$0" -c "$1" {redirection}', sys.executable, program],
            capture_output=True,
            timeout=60,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
        assert (done.returncode, done.stderr) == (0, b""), redirection
        (tmp_path / "done").unlink()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate "
                      "120000000000 bytes. Error code 12"), "out of memory (120.0 GB were"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.50 GiB."), "out of memory (2.50 "),
        (RuntimeError("Storage size calculation overflowed with sizes=[3]"), "out of memory"),
        (OSError(12, "Cannot allocate memory"), "out of memory"),
        (OSError(24, "Too many open files"), "too many open files; raise the limit (ulimit -n)"),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left "
                      "on device (28)"), "the shared memory of loader processes (/dev/shm)"),
    ],
)  # fmt: skip
def test_what_runs_out_is_recognised(error: Exception, said: str) -> None:
    assert (shortage_of(error) or "").startswith(said)


def test_other_errors_are_not_about_memory() -> None:
    assert shortage_of(ValueError("the memory holds 2 streams, the frames are 1")) is None
    assert shortage_of(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_a_lack_of_memory_is_one_line_that_says_what_takes_less(
    tmp_path: Path, weights_file: Path, monkeypatch, capsys
) -> None:
    options = {"num_videos": 1, "num_frames": 2, "size": (48, 64)}
    open_dataset("synthetic", tmp_path / "s", "val", **options)
    frames = next((tmp_path / "s" / "val").glob("*/frames"))
    words = ("segment", frames, "--model", weights_file, "--out", tmp_path / "o.mp4")
    assert run(*words, "--size", "100000x100000") == 1
    said = capsys.readouterr().err
    assert f"error: --size wants at most {MAX_PIXELS} pixels" in said

    def short(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 b")

    monkeypatch.setattr("vidseg.card.functional.interpolate", short)
    assert run(*words, "--size", "4000x4000") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: out of memory; choose a smaller --size, --sliding or --chunk-frames"
    assert not (tmp_path / "o.mp4").exists()
