"""VIPSeg and KITTI-STEP: panoptic files read as semantic labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidseg.classes import CITYSCAPES, VSPW
from vidseg.data import open_dataset
from vidseg.data.check import check_dataset, find_splits


def save(path: Path, values: object, dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, dtype)).save(path)


@pytest.fixture
def vipseg(tmp_path: Path) -> Path:
    """One video of two frames, as its authors store it: 16 bits a pixel."""
    for t in range(2):
        save(tmp_path / "imgs" / "0_a" / f"{t:08d}.jpg", [[[9, 9, 9]] * 4])
        save(tmp_path / "panomasks" / "0_a" / f"{t:08d}.png", [[0, 1, 124, 6107]], np.uint16)
    (tmp_path / "val.txt").write_text("0_a\n")
    return tmp_path


def test_vipseg_drops_the_instance(vipseg: Path) -> None:
    dataset = open_dataset("vipseg", vipseg, "val")
    assert dataset.classes == VSPW.names
    assert dataset.videos[0].labelled == (0, 1)
    label = dataset.videos[0].labels[0]
    assert label is not None
    assert dataset.read_label(label).tolist() == [[255, 0, 123, 60]]
    assert dataset.classes[60] == "person"


def test_vipseg_refuses_other_files(vipseg: Path) -> None:
    dataset = open_dataset("vipseg", vipseg, "val")
    file = vipseg / "panomasks" / "0_a" / "00000000.png"
    save(file, [[12507]], np.uint16)
    with pytest.raises(ValueError, match=r"\[125\] mean nothing among 124 classes"):
        dataset.read_label(file)
    save(file, [[[1, 2, 3]]])
    with pytest.raises(ValueError, match="is in colour; VIPSeg's labels are read from panomasks/"):
        dataset.read_label(file)
    save(vipseg / "panomasks" / "0_a" / "00000009.png", [[1]], np.uint16)
    with pytest.raises(FileNotFoundError, match="labels have no frame of their stem"):
        open_dataset("vipseg", vipseg, "val")
    (vipseg / "val.txt").write_text("0_a\n1_b\n")
    with pytest.raises(FileNotFoundError, match="lists more videos"):
        open_dataset("vipseg", vipseg, "val")


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    for t in range(3):
        save(tmp_path / "images" / "val" / "0002" / f"{t:06d}.png", [[[9, 9, 9]] * 3])
    colours = [[[0, 0, 0], [13, 1, 44], [255, 0, 0]]]
    save(tmp_path / "panoptic_maps" / "val" / "0002" / "000001.png", colours)
    return tmp_path


def test_kitti_step_reads_the_red_channel(kitti: Path) -> None:
    dataset = open_dataset("kitti-step", kitti, "val")
    (video,) = dataset.videos
    assert (video.name, len(video), video.labelled, video.fps) == ("0002", 3, (1,), 10.0)
    label = video.labels[1]
    assert label is not None
    assert dataset.read_label(label).tolist() == [[0, 13, 255]]
    assert dataset.classes == CITYSCAPES.names


def test_kitti_step_refuses_other_files(kitti: Path) -> None:
    dataset = open_dataset("kitti-step", kitti, "val")
    file = kitti / "panoptic_maps" / "val" / "0002" / "000001.png"
    save(file, [[3]])
    with pytest.raises(ValueError, match="has one channel; KITTI-STEP's panoptic maps"):
        dataset.read_label(file)
    save(file, [[[33, 0, 0]]])
    with pytest.raises(ValueError, match=r"\[33\] mean nothing among 19 classes"):
        dataset.read_label(file)
    with pytest.raises(FileNotFoundError, match="there is: val"):
        open_dataset("kitti-step", kitti, "train")


def test_data_check_reads_them(vipseg: Path, kitti: Path) -> None:
    """Both fixtures share one folder; neither reads the other's."""
    for kind in ("vipseg", "kitti-step"):
        assert find_splits(kind, vipseg) == ["val"]
        found = check_dataset(kind, kitti)
        assert not [fault for fault in found.faults if fault.kind == "unreadable"]
    save(vipseg / "panomasks" / "0_a" / "00000000.png", [[0, 1, 124, 12507]], np.uint16)
    texts = [str(fault) for fault in check_dataset("vipseg", vipseg).faults]
    assert any("mean nothing among 124 classes" in text for text in texts)
