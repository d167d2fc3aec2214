"""Reports: self-contained, escaped, readable figures, exact label colours."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidseg.data.clip import Video
from vidseg.inference.evaluation import Evaluation, Observed
from vidseg.metrics import ConfusionMatrix
from vidseg.report import Page, html
from vidseg.report.evaluation import Samples, evaluation_page

PALETTE = np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250)], np.uint8)
CLASSES = ("road", "car <big>", "sky")
VOID_ELEMENTS = {"meta", "img", "link", "br"}


class Balanced(HTMLParser):
    """Fails where tags do not close; lists what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(text: str) -> Balanced:
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def picture_of(fragment: str) -> np.ndarray:
    encoded = re.search(r"base64,([^\"]+)", fragment)
    assert encoded is not None
    return np.array(Image.open(io.BytesIO(base64.b64decode(encoded[1]))).convert("RGB"))


def evaluation() -> Evaluation:
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 255]))
    return Evaluation(
        CLASSES, PALETTE, matrix, {"a": matrix}, {"data": "street/val", "void": "ignored"}, 4, 2.5
    )


def observed(index: int = 0, *, truth: bool = True) -> Observed:
    video = Video("a & b", (Path("0.png"), Path("1.png")), (None, None), (10, 20))
    labels = np.zeros((6, 8), np.uint8)
    image = np.full((6, 8, 3), 90, np.uint8)
    return Observed(video, index, image, labels, labels if truth else None)


def test_a_page_is_whole_and_fetches_nothing(tmp_path):
    page = evaluation_page("tmanet", evaluation(), [observed()], command="vidseg evaluate x")
    page.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    seen = parsed(text)
    assert all(source.startswith("data:") for source in seen.sources)
    assert "script" not in seen.tags
    assert "http" not in re.sub(r"base64,[^\"]+", "", text)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_text_is_escaped_once():
    page = Page("a < b", "x & y")
    page.add("<h>", "p & q", html.table(("<c>", "d"), [("<r>", 1.0)]), html.facts({"k": "<v>"}))
    text = page.render()
    parsed(text)
    for wanted in ("a &lt; b", "x &amp; y", "&lt;h&gt;", "p &amp; q", "&lt;r&gt;", "&lt;v&gt;"):
        assert wanted in text
    assert "&amp;lt;" not in text


def test_tables_show_absent_values_and_mark_the_best():
    text = html.table(("model", "IoU"), [("a", 0.5), ("b", float("nan"))], best={1: "max"})
    assert '<td class="best">0.500</td>' in text
    assert "<td>-</td>" in text
    with pytest.raises(ValueError, match="a row must have 2 values, got 1"):
        html.table(("model", "IoU"), [("a",)])


def test_bars_are_as_long_as_the_figures():
    text = html.class_bars(CLASSES, PALETTE, {"IoU": [0.25, float("nan"), 1.0]})
    assert re.findall(r"width:([\d.]+)%", text) == ["25.0", "100.0"]
    assert "absent" in text
    assert "car &lt;big&gt;" in text


def test_the_confusion_matrix_is_in_percent_of_the_truth():
    counts = np.array([[3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 5, 0]])
    text = html.confusion(CLASSES, counts)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", text)
    assert cells == ["75.0", "25.0", "", "-", "-", "-", "", "", "100"]
    assert "void" not in text
    counts[0, 3] = 4
    assert "void" in html.confusion(CLASSES, counts)


def test_label_maps_keep_their_colours_and_are_never_blended():
    labels = np.zeros((100, 1200), np.uint8)
    labels[:, 600:] = 2
    labels[:10] = 255
    picture = picture_of(html.label_map(labels, PALETTE, "labels"))
    assert picture.shape[1] <= html.MAX_PICTURE_WIDTH_PX
    found = {tuple(int(v) for v in colour) for colour in picture.reshape(-1, 3)}
    assert found == {(250, 0, 0), (0, 0, 250), (0, 0, 0)}


def test_photos_are_made_small():
    image = np.random.default_rng(0).integers(0, 255, (400, 1920, 3), dtype=np.uint8)
    picture = picture_of(html.photo(image, "noise"))
    assert picture.shape == (100, 480, 3)


def test_curves_leave_out_what_is_not_finite():
    text = html.curves({"loss": [(0, 1.0), (1, float("nan")), (2, 0.0)]}, x_name="step", y_name="l")
    points = re.search(r'points="([^"]+)"', text)
    assert points is not None
    assert points[1] == "8.0,8.0 632.0,212.0"
    assert "No loss yet" in html.curves({"a": []}, x_name="step", y_name="loss")


def test_samples_are_spread_evenly_over_the_scored_frames():
    samples = Samples(num_scored=10, wanted=2)
    for index in range(10):
        samples(observed(truth=False))
        samples(observed(index % 2))
    assert len(samples.kept) == 2
    few = Samples(num_scored=1, wanted=6)
    few(observed())
    assert len(few.kept) == 1


def test_percent_is_for_people():
    assert html.percent(0.12345) == "12.3 %"
    assert html.percent(float("nan")) == html.percent(None) == "-"
