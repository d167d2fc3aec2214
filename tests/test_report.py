"""Reports: self-contained, escaped, readable figures, exact label colours."""

from __future__ import annotations

import base64
import io
import math
import re

import numpy as np
import pytest
from pages import parsed
from PIL import Image

from vidseg.evaluation.result import Agreement
from vidseg.report import Page, charts, html, pictures

PALETTE = np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250)], np.uint8)
CLASSES = ("road", "car <big>", "sky")


def picture_of(fragment: str) -> np.ndarray:
    encoded = re.search(r"base64,([^\"]+)", fragment)
    assert encoded is not None
    return np.array(Image.open(io.BytesIO(base64.b64decode(encoded[1]))).convert("RGB"))


def test_text_is_escaped_once():
    page = Page("a < b", "x & y")
    page.add("<h>", "p & q", html.table(("<c>", "d"), [("<r>", 1.0)]), html.facts({"k": "<v>"}))
    text = page.render()
    parsed(text)
    for wanted in ("a &lt; b", "x &amp; y", "&lt;h&gt;", "p &amp; q", "&lt;r&gt;", "&lt;v&gt;"):
        assert wanted in text
    assert "&amp;lt;" not in text


HOSTILE = "<script>'\"&\x1b[31m\u202e"
FRAGMENTS = {
    "paragraph": lambda text: html.paragraph(text),
    "heading": lambda text: html.heading(text),
    "bullets": lambda text: html.bullets([text]),
    "code": lambda text: html.code(text),
    "link": lambda text: html.link(text, text),
    "details": lambda text: html.details(text, text),
    "table": lambda text: html.table((text, text), [(text, text)], words=(text,)),
    "tiles": lambda text: html.tiles({text: text}),
    "meanings": lambda text: html.meanings([(text, text, text)]),
    "facts": lambda text: html.facts({text: text, "list": [text, (text,)]}),
    "class_bars": lambda text: html.class_bars(
        [text], PALETTE[:1], {text: [0.5], f"{text}2": [math.nan]}
    ),
    "class_table": lambda text: html.class_table([text], PALETTE[:1], {text: [0.5]}),
    "legend": lambda text: html.legend([text], PALETTE[:1]),
    "confusion": lambda text: html.confusion([text], np.array([[1, 1]])),
    "strip": lambda text: html.strip([text], [html.paragraph("")], note=text),
    "anchored strip": lambda text: html.strip([text], [html.paragraph("")], note=text, anchor=text),
    "picture": lambda text: html.picture(b"", "png", text, (1, 1)),
}


@pytest.mark.parametrize("make", FRAGMENTS.values(), ids=FRAGMENTS)
def test_no_fragment_lets_text_become_markup(make):
    shown = make(HOSTILE)
    assert isinstance(shown, html.Html)
    page = Page("a page")
    page.add(HOSTILE, shown)
    parsed(page.render())
    assert "&lt;script&gt;&#x27;&quot;&amp;\\x1b[31m\\u202e" in shown
    # Escaped once, and never by itself.
    for wrong in ("<script", "'", "&amp;lt;", "\x1b", "\u202e"):
        assert wrong not in shown


def test_tables_show_absent_values_and_words_to_the_left():
    rows = [("a", 0.5, "x"), ("b", math.nan, html.link("<y>", "m"))]
    text = html.table(("model", "IoU", "why"), rows, words=("why",))
    assert re.findall(r"<td[^>]*>.*?</td>", text) == [
        "<td>0.500</td>",
        '<td class="words">x</td>',
        "<td>-</td>",
        '<td class="words"><a href="#m">&lt;y&gt;</a></td>',
    ]
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
    picture = picture_of(pictures.label_map(labels, PALETTE, "labels"))
    assert picture.shape[1] <= pictures.MAX_SIDE_PX
    found = {tuple(int(v) for v in colour) for colour in picture.reshape(-1, 3)}
    assert found == {(250, 0, 0), (0, 0, 250), (0, 0, 0)}


def test_photos_are_made_small():
    image = np.random.default_rng(0).integers(0, 255, (400, 1920, 3), dtype=np.uint8)
    picture = picture_of(pictures.photo(image, "noise"))
    assert picture.shape == (100, 480, 3)


def paths_of(text: str) -> list[str]:
    return re.findall(r'<path class="line line\d" d="([^"]*)"', text)


def test_curves_break_where_a_value_is_missing():
    points = [(0, 1.0), (1, 0.0), (2, None), (3, math.nan), (4, 0.5)]
    text = charts.curves({"loss": points}, x_name="step", y_name="loss")
    assert paths_of(text) == ["M0.0 0.00L250.0 100.00M1000.0 50.00h0"]
    assert 'aria-label="loss over step: from 0 to 1, step from 0 to 4"' in text
    assert "No loss yet" in charts.curves({"a": [(0, None)]}, x_name="step", y_name="loss")


def test_long_curves_are_drawn_in_columns_that_keep_the_worst_frame():
    points = [(float(x), 0.1) for x in range(10_000)]
    points[7_003] = (7_003.0, 1.0)
    text = charts.curves({"flicker": points}, x_name="frame", y_name="flicker", from_zero=True)
    assert len(text) < 25_000
    band = re.search(r'<path class="band[^"]*" d="([^"]*)"', text)
    assert band is not None
    assert " 0.00" in band[1]
    assert "the band reaches from the lowest to the highest frame" in text


def test_long_curves_with_few_values_have_no_gaps_between_them():
    points = [(float(x), 0.1 if x % 30 == 0 else None) for x in range(9_000)]
    (path,) = paths_of(charts.curves({"accuracy": points}, x_name="frame", y_name="accuracy"))
    assert path.count("M") == 1
    assert path.count("L") == 299


def test_curves_have_round_ticks_that_reach_beyond_the_values():
    text = charts.curves({"a": [(0, 0.13), (120, 0.87)]}, x_name="step", y_name="a")
    assert re.findall(r'class="y"[^>]*>([^<]*)<', text) == [
        "0.0",
        "0.2",
        "0.4",
        "0.6",
        "0.8",
        "1.0",
    ]
    assert re.findall(r'class="x"[^>]*>([^<]*)<', text) == ["0", "50", "100"]
    assert charts.ticks(3, 3) == [3, 4, 5, 6]
    assert charts.ticks(0, 12_000) == [0, 5_000, 10_000, 15_000]


def test_marks_are_links_that_do_not_cover_each_other():
    marks = [charts.Mark(x, 1.0, i, f"moment-{i}", f"frame {x}") for i, x in enumerate((5, 6, 90))]
    text = charts.curves(
        {"a": [(0, 0.0), (100, 1.0)]}, x_name="frame", y_name="flicker", marks=marks
    )
    parsed(text)
    found = re.findall(r'href="#(moment-\d)" style="[^"]*--lane:(\d)"', text)
    assert found == [("moment-0", "0"), ("moment-1", "1"), ("moment-2", "0")]
    assert 'aria-label="frame 5"' in text
    assert "--lanes:2" in text


def test_differences_are_written_out_beside_the_bars():
    rows = [
        charts.Interval("mean IoU", 2.0, 1.0, 3.0),
        charts.Interval("flicker <", -0.004, -1.0, 1.0),
        charts.Interval("TC", math.nan, None, None),
        charts.Interval("VC8", 4.0, None, None),
    ]
    text = charts.difference_bars(rows)
    parsed(text)
    assert re.findall(r'class="read">(.*?)</div>', text) == [
        '+2.00 <span class="range">[+1.00, +3.00]</span>',
        '0.00 <span class="range">[-1.00, +1.00]</span>',
        "-",
        "+4.00",
    ]
    assert '<i class="clear" style="left:62.5%;width:25.0%"></i>' in text
    assert '<i class="open" style="left:37.5%;width:25.0%"></i>' in text
    assert "flicker &lt;" in text


def test_estimates_are_read_with_their_interval():
    assert charts.estimate(56.4, 54.1, 58.2) == '56.4 <span class="range">[54.1, 58.2]</span>'
    assert charts.estimate(56.4, None, None) == "56.4"
    assert charts.estimate(None, 1.0, 2.0) == charts.estimate(math.nan, 1.0, 2.0) == "-"


def test_a_marked_frame_keeps_every_mark_when_it_is_made_small():
    state = np.zeros((600, 960), np.uint8)
    state[301, 501] = Agreement.OTHER
    state[:100] = Agreement.NOT_COMPARED
    small = pictures.shrink_state(state)
    assert small.shape == (300, 480)
    assert small[150, 250] == Agreement.OTHER
    assert (small == Agreement.OTHER).sum() == 1
    assert (small[:50] == Agreement.NOT_COMPARED).all()
    painted = pictures.mark(np.full((600, 960, 3), 200, np.uint8), small)
    assert tuple(painted[150, 250]) == pictures.MARK_COLOUR
    assert tuple(painted[200, 10]) == (90, 90, 90)
    assert {tuple(c) for c in painted[:50].reshape(-1, 3).tolist()} == {
        (90, 90, 90),
        pictures.HATCH_COLOUR,
    }


def test_pictures_stay_below_their_share_of_a_page():
    noise = np.random.default_rng(0).integers(0, 150, (480, 480), dtype=np.uint8)
    palette = np.random.default_rng(1).integers(0, 255, (150, 3), dtype=np.uint8)
    text = pictures.label_map(noise, palette, "noise")
    assert len(text) < 4 / 3 * pictures.MAX_PICTURE_BYTES + 200
    assert picture_of(text).shape == (240, 240, 3)


def test_a_class_table_has_a_bar_behind_each_figure():
    text = html.class_table(CLASSES, PALETTE, {"IoU": [0.25, math.nan, 1.0], "TC": [0.5, 0.5, 0.5]})
    parsed(text)
    assert re.findall(r"<td[^>]*>[^<]*</td>", text)[:4] == [
        '<td style="--share:25.0%">25.0</td>',
        '<td style="--share:50.0%">50.0</td>',
        "<td>-</td>",
        '<td style="--share:50.0%">50.0</td>',
    ]


def test_settings_are_shown_as_they_were_given():
    text = html.facts({"scales": [1.0, 0.75], "flip": False, "stride_px": None})
    assert re.findall(r"<dd>([^<]*)</dd>", text) == ["1, 0.75", "no", "-"]
    assert "stride px" in text


def test_percent_is_for_people():
    assert html.percent(0.12345) == "12.3 %"
    assert html.percent(float("nan")) == html.percent(None) == "-"
