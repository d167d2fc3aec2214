"""Files that want to run something: pickles, archives of pickles, and names in a report."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import vidseg
from vidseg.array_files import read_array
from vidseg.cli.main import USER_ERRORS
from vidseg.comparison.record import read_evaluation
from vidseg.context import Prototypes
from vidseg.data import VideoDataset
from vidseg.data.clip import Video
from vidseg.evaluation.predictions import evaluate_predictions
from vidseg.report.evaluation import evaluation_page
from vidseg.training.checkpoint import read_state

pytestmark = pytest.mark.slow

TITLE = "ran"
RUN = f"document.title='{TITLE}'"
HOSTILE = f'</td><img src=x onerror="{RUN}"><script>{RUN}</script>'
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], Path], tuple[str]]:
        return _touch, (str(self.marker),)


def _touch(path: str) -> Path:
    Path(path).touch()
    return Path(path)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "official": ("a.pth", lambda path: vidseg.load_official("tmanet", path)),
    "segformer": ("a.bin", lambda path: vidseg.load_official("segformer", path)),
    "load": ("a.safetensors", vidseg.load),
    "resume": ("a.pt", read_state),
    "prototypes": ("centers.pt", Prototypes.load),
    "array": ("a.npy", read_array),
    "counts": ("counts.npz", lambda path: read_evaluation(path.parent)),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("form", ["pickle", "torch", "numpy", "zip"])
def test_pickles_never_run(tmp_path: Path, name: str, form: str) -> None:
    file, read = READERS[name]
    path, marker = tmp_path / file, tmp_path / "ran"
    evil = {"state_dict": Evil(marker), "model": Evil(marker)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(evil))
    elif form == "torch":
        torch.save(evil, path)
    elif form == "numpy":
        with path.open("wb") as opened:
            np.save(opened, np.array([evil], dtype=object), allow_pickle=True)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(evil))
            archive.writestr("../../escaped.npy", b"x")
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(USER_ERRORS) as caught:
        read(path)
    assert not marker.exists()
    assert not (tmp_path.parent.parent / "escaped.npy").exists()
    assert str(tmp_path) in str(caught.value)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_names_in_a_report_run_nothing_in_a_browser(tmp_path: Path) -> None:
    from PIL import Image

    frame, label = tmp_path / "0.png", tmp_path / "truth.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(frame)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(label)
    video = Video("street", (frame, frame), (label, label), (0, 1))
    dataset = VideoDataset(HOSTILE, [video], [HOSTILE, "road"], [(1, 2, 3), (4, 5, 6)])
    (tmp_path / "maps" / "street").mkdir(parents=True)
    shutil.copy(label, tmp_path / "maps" / "street" / "0.png")
    shutil.copy(label, tmp_path / "maps" / "street" / "truth.png")
    evaluation = evaluate_predictions(tmp_path / "maps", dataset, flow=None)
    page = evaluation_page(HOSTILE, evaluation)
    page.write(tmp_path / "report.html")
    assert BROWSER is not None
    told = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"),
            *("--dump-dom", (tmp_path / "report.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "onerror" in told.stdout, told.stderr[-500:]  # the name is there, as text
    assert f"<title>{TITLE}</title>" not in told.stdout
    assert "<script" not in told.stdout
    assert '<img src="x"' not in told.stdout
