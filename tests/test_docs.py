"""Every example in docstrings, README.md and docs/ runs.

A page is run from top to bottom, as a reader would: its ```python blocks share their names, and
the lines of its ```bash blocks that start with `vidseg ` run in the same folder, which holds a tiny
synthetic video. A block marked `no-run` (it needs data or hours) is still parsed, and the options
of its commands must exist.
"""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shlex
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "vidseg"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text())

FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    is_run: bool
    text: str
    line: int


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        language, options, body = match.groups()
        line = text[: match.start()].count("\n") + 2
        yield Block(language, "no-run" not in options, body, line)


def commands_of(block: Block) -> Iterator[list[str]]:
    """The `vidseg` lines of a bash block, as words."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.startswith("vidseg "):
            yield shlex.split(line, comments=True)[1:]


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def module_id(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


@pytest.fixture(scope="session")
def reader_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has at hand: street.mp4, a folder of its frames, a trained model's folder."""
    import av
    from PIL import Image

    from vidseg.data.synthetic import CLASSES, PALETTE, render
    from vidseg.methods import create
    from vidseg.weights import save

    folder = tmp_path_factory.mktemp("reader")
    video = render(seed=0, num_frames=6, size=(64, 96))
    (folder / "frames").mkdir()
    with av.open(str(folder / "street.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number, image in enumerate(video.frames):
            Image.fromarray(image).save(folder / "frames" / f"{number:06d}.png")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    (folder / "runs" / "camvid").mkdir(parents=True)
    colours = tuple((int(r), int(g), int(b)) for r, g, b in PALETTE)
    torch.manual_seed(0)
    model = create("tmanet_tiny", num_classes=len(CLASSES))
    path = folder / "runs" / "camvid" / "best.safetensors"
    save(model, path, classes=tuple(CLASSES), palette=colours)
    return folder


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=module_id)
def test_docstring_examples(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(module_id(path).removesuffix(".__init__"))
    # The examples assume `import torch`, as the page of a manual does.
    failed, tried = doctest.testmod(module, extraglobs={"torch": torch})
    assert failed == 0
    assert tried > 0, "the examples are in no docstring that doctest finds"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch, reader_folder: Path) -> None:
    monkeypatch.chdir(reader_folder)
    monkeypatch.syspath_prepend(str(ROOT / "tests"))  # for `import laws`
    # A module of its own: what a page defines can be pickled, as from a file.
    module = types.ModuleType(f"page_{re.sub('[^a-z]', '_', page_id(page))}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks_of(page):
        if block.language == "python":
            # Blank lines in front, so that a traceback names the page's own line.
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            if block.is_run:
                exec(code, module.__dict__)
        elif block.language == "bash":
            for words in commands_of(block):
                check_words(words)
                if block.is_run:
                    run_words(words)


def check_words(words: list[str]) -> None:
    """Every command of the line, and every option, exists."""
    from vidseg.cli.main import COMMANDS, load_command

    name = words[0]
    if name.startswith("-"):
        return
    assert name in COMMANDS, f"vidseg {name}: there is no such command"
    command, rest = load_command(name), words[1:]
    while hasattr(command, "commands") and rest:
        assert rest[0] in command.commands, f"vidseg {' '.join(words)}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    known |= {"--help", "--quiet", "--debug"}
    for word in rest:
        if word.startswith("--") and word != "--":
            assert word.partition("=")[0] in known, f"{word} in: vidseg {' '.join(words)}"


def run_words(words: list[str]) -> None:
    from command_line import run

    code = run(*words)
    assert code == 0, f"vidseg {' '.join(words)}: exit code {code}"


LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page_id(page)} links to {target}"


def test_docs_index_names_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {os.path.normpath(index.parent / target) for target in LINK.findall(index.read_text())}
    pages = {str(page) for page in PAGES if ROOT / "docs" in page.parents and page != index}
    assert pages <= linked


def test_python_blocks_are_as_narrow_as_the_code() -> None:
    wide = [
        f"{page_id(page)}:{block.line + offset}"
        for page in PAGES
        for block in blocks_of(page)
        if block.language == "python"
        for offset, line in enumerate(block.text.splitlines())
        if len(line) > 100
    ]
    assert not wide
