"""Names from files stay inside their folder, wherever they are used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vidseg.context import Prototypes
from vidseg.data.clip import Video
from vidseg.data.lists import Naming, read_lists
from vidseg.data.vspw import names_in, read_video
from vidseg.evaluation.label_maps import LabelMaps, label_map_file
from vidseg.inference.context import has_context
from vidseg.inference.runner import View
from vidseg.inside import inside
from vidseg.training.contexts import SavedContexts
from vidseg.training.recipe import load_config
from vidseg.training.teacher import SavedScores

LEAD_OUT = ("..", "../x", "a/../../x", "/etc/x", "C:\\x", "C:/x", "..\\x", "a\\..\\x", "a\0b")
NO_NAMES = ("", " ", ".", "./a", "a/./b", "a//b", "a/")


@pytest.mark.parametrize("name", [*LEAD_OUT, *NO_NAMES])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"the name '.*it must name something inside"):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "a/b.png", "..a", "a..b", "...", "12:30:00", "~", "-x", "é"])
def test_odd_names_that_stay_inside_are_taken(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) == tmp_path / name


def test_a_link_that_leads_out_is_refused_for_writing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out/near").symlink_to(tmp_path / "out")
    (tmp_path / "out/round").symlink_to(tmp_path / "out/round")
    for name in ("link", "link/a", "near/link/b"):
        with pytest.raises(ValueError, match="behind a link that leads out"):
            inside(tmp_path / "out", name)
        assert inside(tmp_path / "out", name, links=True) == tmp_path / "out" / name
    inside(tmp_path / "out", "near/a")
    inside(tmp_path / "out", "round/a")
    (tmp_path / "linked").symlink_to(tmp_path / "out")  # the folder itself may be behind one
    inside(tmp_path / "linked", "a")


def video(name: str) -> Video:
    return Video(name, (Path("0.png"),), (Path("0.png"),), (0,))


def test_every_place_that_joins_a_name_refuses_one_that_leads_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    name, wrong = "../../x", video("../../x")
    with pytest.raises(ValueError, match="leads out"):
        LabelMaps(out, np.zeros((2, 3), np.uint8), {wrong: [0]})
    with pytest.raises(ValueError, match="leads out"):
        SavedScores(out)._path(wrong, 0)
    with pytest.raises(ValueError, match="leads out"):
        has_context(out, name)
    with pytest.raises(ValueError, match="leads out"):
        SavedContexts(out, View()).fill(None, None, [wrong])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leads out"):
        read_video(out, name)
    listed = tmp_path / "train.txt"
    listed.write_text("a\n../../x\n")
    with pytest.raises(ValueError, match=r"train\.txt, line 2: the name '\.\./\.\./x' leads out"):
        names_in(listed)
    listed.write_text("/etc/a_0.png\n")
    naming = Naming(lambda path: ("a", 0), lambda folder: [folder], lambda path: None, 25.0)
    with pytest.raises(ValueError, match=r"train\.txt, line 1: the name '/etc/a_0\.png' is an abs"):
        read_lists(tmp_path, listed, naming)
    for word in ("name=../../x", "name=..", "name=/tmp/x", "name=''", "name=a\\b"):
        with pytest.raises(ValueError, match=r"^name: .*a run's name is that of its folder"):
            load_config("fcn_tiny_synthetic", [word])


def test_label_maps_are_not_written_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/film").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="behind a link"):
        label_map_file(tmp_path / "out", video("film"), 0)


def test_contexts_are_found_behind_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    Prototypes(torch.zeros(1, 2, 3)).save(tmp_path / "elsewhere/a.safetensors")
    (tmp_path / "given").mkdir()
    (tmp_path / "given/a.safetensors").symlink_to(tmp_path / "elsewhere/a.safetensors")
    assert has_context(tmp_path / "given", "a")
