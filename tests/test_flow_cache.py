"""Cached flow: the very values, estimated once, whatever happens to the folder."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from vidseg.flow import DIS, CachedFlow, open_flow


class Counting:
    """Flow that depends on every pixel, is no round number, and counts how often it is made."""

    def __init__(self, name: str = "counting") -> None:
        self.name = name
        self.num_calls = 0

    def __call__(self, image_t: np.ndarray, image_s: np.ndarray) -> torch.Tensor:
        self.num_calls += 1
        difference = torch.from_numpy(image_t.astype(np.float32) - image_s) / 7
        flow = difference[..., :2].permute(2, 0, 1).contiguous()
        flow[0, 0, 0] = float("nan")  # also what is no number comes back as it was
        return flow


def pair(seed: int = 0, size: tuple[int, int] = (20, 30)) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(seed).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    return images[0], images[1]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype == torch.float32 and a.shape == b.shape and bits(a) == bits(b)


def bits(flow: torch.Tensor) -> bytes:
    return flow.numpy().tobytes()


def test_flow_is_estimated_once_and_comes_back_bit_for_bit(tmp_path: Path) -> None:
    estimator = Counting()
    cached = CachedFlow(estimator, tmp_path / "made" / "here")
    assert cached.name == "counting"
    fresh = cached(*pair())
    again = cached(*pair())
    assert estimator.num_calls == 1
    assert same_bits(fresh, Counting()(*pair()))
    assert same_bits(again, fresh)
    again += 1  # the caller's own memory
    other = Counting()
    assert same_bits(CachedFlow(other, cached.folder)(*pair()), fresh)
    assert other.num_calls == 0
    # A view of the same pixels is the same image.
    image_t, image_s = pair()
    padded = np.zeros((20, 40, 3), np.uint8)
    padded[:, 5:35] = image_t
    assert same_bits(cached(padded[:, 5:35], image_s), fresh)
    assert estimator.num_calls == 1


def test_what_decides_the_flow_decides_the_file(tmp_path: Path) -> None:
    image_t, image_s = pair()
    changed = image_s.copy()
    changed[-1, -1, -1] ^= 1
    tall = image_t.reshape(30, 20, 3), image_s.reshape(30, 20, 3)
    for arguments in ((image_t, image_s), (image_s, image_t), (image_t, changed), tall):
        estimator = Counting()
        flow = CachedFlow(estimator, tmp_path)(*arguments)
        assert estimator.num_calls == 1
        assert same_bits(flow, Counting()(*arguments))
    renamed = Counting("counting, other settings")
    CachedFlow(renamed, tmp_path)(image_t, image_s)
    assert renamed.num_calls == 1
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("damage", ["empty", "short", "long", "digest", "value", "swapped"])
def test_a_damaged_file_is_estimated_again(tmp_path: Path, caplog, damage: str) -> None:
    estimator = Counting()
    cached = CachedFlow(estimator, tmp_path)
    fresh = cached(*pair())
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if damage == "swapped":  # a whole file, of another pair
        cached(*pair(1))
        other = next(file for file in tmp_path.iterdir() if file != path)
        path.write_bytes(other.read_bytes())
    else:
        at = 3 if damage == "digest" else len(whole) - 2
        flipped = whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :]
        damaged = {"empty": b"", "short": whole[:-4], "long": whole + b"\0\0\0\0"}
        path.write_bytes(damaged.get(damage, flipped))
    calls = estimator.num_calls
    with caplog.at_level(logging.WARNING, "vidseg.flow"):
        assert same_bits(cached(*pair()), fresh)
    assert estimator.num_calls == calls + 1
    assert "damaged; estimating again" in caplog.text
    assert path.read_bytes() == whole  # and it is mended
    assert same_bits(cached(*pair()), fresh)
    assert estimator.num_calls == calls + 1


def test_on_a_full_disk_the_work_goes_on(tmp_path: Path, caplog, monkeypatch) -> None:
    estimator = Counting()
    cached = CachedFlow(estimator, tmp_path)
    kept = cached(*pair(0))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING, "vidseg.flow"):
        for seed in (1, 2, 1):
            assert same_bits(cached(*pair(seed)), Counting()(*pair(seed)))
    assert estimator.num_calls == 4
    assert len(caplog.records) == 1
    assert f"{tmp_path} cannot be written (No space left on device)" in caplog.text
    assert len(list(tmp_path.iterdir())) == 1
    assert same_bits(cached(*pair(0)), kept)  # what is there is still used
    assert estimator.num_calls == 4


def test_an_entry_that_cannot_be_read_is_estimated_again(tmp_path: Path, caplog) -> None:
    estimator = Counting()
    cached = CachedFlow(estimator, tmp_path)
    fresh = cached(*pair())
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.mkdir()
    with caplog.at_level(logging.WARNING, "vidseg.flow"):
        assert same_bits(cached(*pair()), fresh)
    assert "cannot be read (Is a directory); estimating again" in caplog.text


def test_what_is_no_folder_no_image_or_no_flow_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"needs a folder, but .*file is a file"):
        CachedFlow(Counting(), tmp_path / "file")
    image_t, image_s = pair()
    with pytest.raises(ValueError, match="uint8 RGB"):
        CachedFlow(Counting(), tmp_path)(image_t.astype(np.float32), image_s)
    with pytest.raises(ValueError, match="one size"):
        CachedFlow(Counting(), tmp_path)(image_t[1:], image_s)

    class Wrong(Counting):
        def __call__(self, image_t: np.ndarray, image_s: np.ndarray) -> torch.Tensor:
            return super().__call__(image_t, image_s).double()

    with pytest.raises(ValueError, match=r"must give .* got \(2, 20, 30\) torch.float64"):
        CachedFlow(Wrong(), tmp_path / "wrong")(image_t, image_s)
    assert list((tmp_path / "wrong").iterdir()) == []


def test_dis_through_the_cache(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    image_t, image_s = pair(size=(48, 64))
    cached = open_flow("dis-fast", cache=tmp_path)
    assert cached.name == DIS("fast").name
    for _ in range(2):
        assert same_bits(cached(image_t, image_s), DIS("fast")(image_t, image_s))
    assert len(list(tmp_path.iterdir())) == 1
    assert pickle.loads(pickle.dumps(cached)).name == cached.name


# Both processes make and read the same entries; this one also damages them all the time.
RIVAL = """
import sys
import time
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from test_flow_cache import make_and_read
make_and_read(Path(sys.argv[2]), is_damaging=False)
"""


def make_and_read(folder: Path, *, is_damaging: bool) -> None:
    (folder.parent / f"damages {is_damaging}").touch()
    deadline_s = time.monotonic() + 100
    while len(list(folder.parent.glob("damages *"))) < 2:  # both begin at once
        assert time.monotonic() < deadline_s, "the other process has not begun"
        time.sleep(0.001)
    for turn in range(8):
        for seed in range(4):
            flow = CachedFlow(Counting(), folder)(*pair(seed))
            assert same_bits(flow, Counting()(*pair(seed))), (is_damaging, turn, seed)
            for path in folder.glob("*.flow") if is_damaging else ():
                path.write_bytes(path.read_bytes()[: 300 * turn])


def test_processes_that_write_the_same_entries_all_get_the_right_flow(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    command = [sys.executable, "-W", "error", "-c", RIVAL, str(Path(__file__).parent), str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as rival:
        make_and_read(folder, is_damaging=True)
        _, said = rival.communicate(timeout=100)
    assert rival.returncode == 0, said
    # Whole files or none: what is left under a final name is the right flow or is found out.
    estimator = Counting()
    cached = CachedFlow(estimator, folder)
    for _ in range(2):
        for seed in range(4):
            assert same_bits(cached(*pair(seed)), Counting()(*pair(seed)))
    assert estimator.num_calls <= 4
    assert sorted(path.suffix for path in folder.iterdir()) == [".flow"] * 4
