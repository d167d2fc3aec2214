"""The synthetic street: exact labels, exact flow, a pure function of its arguments."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.data import open_dataset, preceding, snippets
from vidseg.data.synthetic import CLASSES, PALETTE, SyntheticDataset, render
from vidseg.data.synthetic.sprites import CAR, PAVEMENT, ROAD
from vidseg.flow import in_frame, warp

SIZE = (64, 96)


def warped_frames(video, flow, source, mode="bilinear") -> np.ndarray:
    """Frames `source` of the video, sampled along the flow, (T-1, H, W, 3) float32."""
    images = torch.from_numpy(video.frames[source]).permute(0, 3, 1, 2).float()
    return warp(images, torch.from_numpy(flow), mode=mode).permute(0, 2, 3, 1).numpy()


NEXT, PREVIOUS = slice(1, None), slice(None, -1)


@pytest.mark.parametrize("seed", range(4))
def test_turning_camera_moves_what_stands_by_whole_pixels_exactly(seed):
    video = render(seed, 4, SIZE, camera="pan", noise=False)
    flow = video.flow_forward
    assert np.abs(flow).max() >= 1
    # Traffic moves by fractions, and its shadows fall on the ground.
    stands = (flow == np.median(flow, axis=(2, 3), keepdims=True)).all(1)
    stands &= video.valid & ~np.isin(video.labels[:-1], (ROAD, PAVEMENT))
    assert stands.mean() > 0.3
    expected = video.frames[:-1].astype(np.float32)
    np.testing.assert_array_equal(
        warped_frames(video, flow, NEXT)[stands], expected[stands], strict=True
    )


@pytest.mark.parametrize(("camera", "tolerance"), [("drive", 6), ("pan", 0.5), ("still", 0.5)])
def test_next_frame_warped_looks_like_this_one(camera, tolerance):
    # Edges are hard and textures sampled at a point, so flow by fractions of a pixel leaves some.
    def error(off_x: float, off_y: float) -> float:
        off = np.array([off_x, off_y], np.float32)[:, None, None]
        errors = []
        for video in videos:
            for flow, valid, source, target in (
                (video.flow_forward, video.valid, NEXT, PREVIOUS),
                (video.flow_backward, video.valid_backward, PREVIOUS, NEXT),
            ):
                warped = warped_frames(video, flow + off, source)
                errors.append(np.abs(warped - video.frames[target])[valid].mean(-1))
        return float(np.concatenate(errors).mean())

    videos = [render(seed, 3, SIZE, camera=camera, noise=False) for seed in range(4)]
    exact = error(0, 0)
    assert exact < tolerance
    for off in ((0.25, 0), (-0.25, 0), (0, 0.25), (0, -0.25)):
        assert error(*off) > 1.1 * exact


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.tuples(st.integers(16, 70), st.integers(16, 100)))
def test_labels_follow_the_flow_wherever_it_is_valid(seed, size):
    video = render(seed, 3, size)
    labels = torch.from_numpy(video.labels)
    for flow, valid, source, target in (
        (video.flow_forward, video.valid, NEXT, PREVIOUS),
        (video.flow_backward, video.valid_backward, PREVIOUS, NEXT),
    ):
        flow = torch.from_numpy(flow)
        followed = warp(labels[source], flow, mode="nearest").numpy()
        np.testing.assert_array_equal(followed[valid], labels[target].numpy()[valid])
        assert not (valid & ~in_frame(flow).numpy()).any()
        assert valid.mean() > 0.4


def test_flow_there_and_back_cancels():
    # Where all around moves alike: across an edge the way back belongs to two surfaces.
    video = render(1, 3, SIZE, camera="drive")
    forward, backward = (torch.from_numpy(f) for f in (video.flow_forward, video.flow_backward))
    there_and_back = (forward + warp(backward, forward)).norm(dim=1).numpy()
    assert np.median(there_and_back[video.valid]) < 0.01
    assert np.quantile(there_and_back[video.valid], 0.9) < 0.2


def test_hidden_and_leaving_points_are_not_valid():
    video = render(3, 6, SIZE, camera="drive")
    leaves = ~in_frame(torch.from_numpy(video.flow_forward)).numpy()
    hidden = ~video.valid & ~leaves
    assert leaves.any()
    assert hidden.any()
    wrong = np.abs(warped_frames(video, video.flow_forward, NEXT) - video.frames[:-1]).mean(-1)
    assert wrong[hidden].mean() > 2 * wrong[video.valid].mean()


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_longer_video_begins_with_the_shorter_one(seed, num_frames):
    short, long = render(seed, num_frames, (32, 48)), render(seed, 5, (32, 48))
    np.testing.assert_array_equal(short.frames, long.frames[:num_frames])
    np.testing.assert_array_equal(short.labels, long.labels[:num_frames])
    np.testing.assert_array_equal(short.flow_forward, long.flow_forward[: num_frames - 1])
    np.testing.assert_array_equal(short.valid_backward, long.valid_backward[: num_frames - 1])


def test_shapes_types_and_classes():
    videos = [render(seed, 2, SIZE) for seed in range(6)]
    assert videos[0].frames.shape == (2, 64, 96, 3)
    assert videos[0].flow_forward.shape == (1, 2, 64, 96)
    assert videos[0].valid.shape == (1, 64, 96)
    kinds = [a.dtype.name for a in vars(videos[0]).values()]
    assert kinds == ["uint8", "uint8", "float32", "bool", "float32", "bool"]
    values = np.unique([video.labels for video in videos])
    np.testing.assert_array_equal(values, [*range(len(CLASSES)), 255])
    assert PALETTE.shape == (len(CLASSES), 3)
    assert len({v.frames.tobytes() for v in videos}) == 6


def test_noise_touches_the_image_alone():
    noisy, clean = render(2, 3, SIZE), render(2, 3, SIZE, noise=False)
    np.testing.assert_array_equal(noisy.labels, clean.labels)
    np.testing.assert_array_equal(noisy.flow_forward, clean.flow_forward)
    difference = noisy.frames.astype(float) - clean.frames
    assert 2 < difference.std() < 20


def test_long_drive_stays_full_of_life():
    # Far enough to pass the end of the loop.
    late = render(0, 240, (16, 32), camera="drive")
    assert late.valid[-30:].mean() > 0.5
    assert (late.labels[-30:] == CAR).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 2, SIZE), "seed must be 0 or more"),
        ((0, 0, SIZE), "num_frames must be at least 1"),
        ((0, 2, (15, 64)), "at least 16 px a side"),
        ((0, 2, (64,)), r"size must be \(H, W\)"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        render(*arguments)
    with pytest.raises(ValueError, match="camera must be"):
        render(0, 2, SIZE, camera="fly")  # type: ignore[arg-type]


OPTIONS = {"num_videos": 2, "num_frames": 3, "size": [32, 48], "seed": 4}


def test_dataset_in_memory_reads_what_is_rendered():
    dataset = open_dataset("synthetic", None, "val", **OPTIONS)
    assert dataset.classes == CLASSES
    assert len(snippets(dataset, preceding(2))) == 6
    video = dataset.videos[1]
    assert video.fps == 15
    assert isinstance(dataset, SyntheticDataset)
    rendered = dataset.rendered(video)
    for t, (frame, label) in enumerate(zip(video.frames, video.labels, strict=True)):
        np.testing.assert_array_equal(dataset.read_frame(frame), rendered.frames[t])
        np.testing.assert_array_equal(dataset.read_label(label), rendered.labels[t])
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy.read_frame(video.frames[2]), rendered.frames[2])


def test_splits_and_seeds_share_no_street():
    first = {
        SyntheticDataset(None, split, **{**OPTIONS, "seed": seed}).rendered(video).frames.tobytes()
        for split in ("train", "val", "test")
        for seed in (0, 1)
        for video in SyntheticDataset(None, split, **OPTIONS).videos
    }
    assert len(first) == 12


def test_dataset_on_disk_equals_memory_and_is_a_plain_folder(tmp_path):
    memory = SyntheticDataset(None, "train", **OPTIONS)
    disk = SyntheticDataset(tmp_path, "train", **OPTIONS)
    folder = open_dataset("folder", tmp_path, "train")
    for ours, stored, plain in zip(memory.videos, disk.videos, folder.videos, strict=True):
        assert stored.frames == plain.frames
        for t in range(3):
            frame, label = memory.read_frame(ours.frames[t]), memory.read_label(ours.labels[t])
            np.testing.assert_array_equal(disk.read_frame(stored.frames[t]), frame)
            np.testing.assert_array_equal(folder.read_frame(plain.frames[t]), frame)
            np.testing.assert_array_equal(disk.read_label(stored.labels[t]), label)
            np.testing.assert_array_equal(folder.read_label(plain.labels[t]), label)


def test_dataset_on_disk_is_written_once_and_never_mixed(tmp_path):
    dataset = SyntheticDataset(tmp_path, "train", **OPTIONS)
    path = dataset.videos[0].labels[-1]
    written = path.stat().st_mtime_ns
    missing = dataset.videos[1].labels[-1]
    missing.unlink()
    SyntheticDataset(tmp_path, "train", **OPTIONS)
    assert path.stat().st_mtime_ns == written
    assert missing.exists()
    with pytest.raises(ValueError, match="give another root"):
        SyntheticDataset(tmp_path, "train", **{**OPTIONS, "seed": 5})


@pytest.mark.parametrize("name", ["classes.json", "holiday.png", "val/street/frames/0.png"])
def test_a_folder_of_other_files_is_left_alone(tmp_path, name):
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(ValueError, match="is no part of a rendered street"):
        open_dataset("synthetic", tmp_path / "mine", "val", num_videos=1, num_frames=2)
    assert [p for p in (tmp_path / "mine").rglob("*") if p.is_file()] == [path]
    assert path.read_text() == "precious"


def test_an_unknown_option_names_the_closest():
    with pytest.raises(TypeError, match="no option 'num_vidoes'; did you mean 'num_videos'"):
        open_dataset("synthetic", None, "val", num_vidoes=1)


def test_unknown_split_and_empty_set_are_refused():
    with pytest.raises(ValueError, match="train, val, test"):
        SyntheticDataset(None, "dev")
    with pytest.raises(ValueError, match="num_videos"):
        SyntheticDataset(None, "train", num_videos=0)


@pytest.mark.parametrize("size", [(360, 480), (512, 640), (97, 131), (320, 64)])
def test_any_size_is_rendered_whole(size):
    """Tall frames bob by more than small ones."""
    video = render(0, 4, size, camera="drive", noise=False)
    assert video.frames.shape == (4, *size, 3)
    assert set(np.unique(video.labels)) <= {*range(len(CLASSES)), 255}
