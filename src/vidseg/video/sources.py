"""What a source is: a file or stream that libav opens, a camera, or a set of images."""

from __future__ import annotations

import glob
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidseg.video.images import IMAGE_SUFFIXES, check_pixels, in_order, picture_files

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

CAMERA_FORMATS = {"linux": "v4l2", "darwin": "avfoundation"}


def local_address(path: str | Path) -> str:
    """A local file for libav, which takes what stands before a colon for a protocol."""
    return os.path.abspath(path)  # noqa: PTH100 (links stay as they are)


def open_video(address: str, name: str, **options: Any) -> tuple[InputContainer, VideoStream]:
    """Open with libav and pick the video stream; libav's errors become messages of ours.

    Args:
        address: path, URL or device.
        name: of the source, for messages.
        options: of `av.open`.

    Returns:
        The container and its first video stream (a cover picture is none).

    Raises:
        FileNotFoundError: no such file.
        ValueError: empty, no video, or broken beyond opening.
    """
    import av
    from av.error import FFmpegError

    if not options and "://" not in address and not Path(address).exists():
        raise FileNotFoundError(f"no such file: {name}")
    if Path(address).is_file() and Path(address).stat().st_size == 0:
        raise ValueError(f"{name} is empty (0 bytes)")
    try:
        container = av.open(address, metadata_errors="replace", **options)
    except PermissionError:
        raise
    except FFmpegError as error:
        advice = "; it is no video, or its end (with the index) is missing"
        raise ValueError(
            f"cannot open {name} as a video: {error.strerror}{'' if '://' in address else advice}"
        ) from error
    streams = [s for s in container.streams.video if not is_cover(s)]
    # libav draws text files as pictures of a terminal.
    if not streams or container.format.name == "tty":
        container.close()
        raise ValueError(f"{name} holds no video")
    stream = streams[0]
    if stream.codec_context is None:
        container.close()
        raise ValueError(f"no decoder for the video in {name}")
    try:
        check_pixels(stream.width or 0, stream.height or 0)
    except ValueError as error:
        container.close()
        raise ValueError(f"cannot open {name} as a video: {error}") from None
    stream.thread_type = "AUTO"
    return container, stream


def is_cover(stream: VideoStream) -> bool:
    """Whether a video stream is a picture on the case and no video."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def camera(number: int) -> tuple[str, dict[str, Any]]:
    """The address of a camera and how libav opens it.

    Raises:
        FileNotFoundError: there is no such camera.
        ValueError: no cameras on this operating system.
    """
    form = CAMERA_FORMATS.get(sys.platform)
    if form is None:
        raise ValueError(f"cameras by number are not supported on {sys.platform}; pass a URL")
    if form != "v4l2":
        return str(number), {"format": form}
    device = Path(f"/dev/video{number}")
    if not device.exists():
        there = sorted(str(path) for path in Path("/dev").glob("video*"))
        raise FileNotFoundError(
            f"no camera {number}: {device} does not exist"
            + (f"; there are {', '.join(there)}" if there else "; this machine has no camera")
        )
    return str(device), {"format": form}


def find_images(path: Path) -> list[Path] | None:
    """The images of a folder, glob or single picture, in the order of the numbers in their names.

    Returns:
        The paths in order; None if `path` is something else.

    Raises:
        FileNotFoundError: nothing matches the glob.
        ValueError: no images in the folder; the glob matches other files.
    """
    if path.is_dir():
        found = picture_files(path)
        if not found:
            raise ValueError(
                f"no images in {path}; a folder of frames holds {', '.join(IMAGE_SUFFIXES)} files"
            )
    elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        return [path]
    elif not path.exists() and glob.has_magic(str(path)):
        found = [Path(p) for p in glob.glob(str(path))]  # noqa: PTH207 (a pattern may be absolute)
        if not found:
            raise FileNotFoundError(f"nothing matches {path}")
        others = [p.name for p in found if p.suffix.lower() not in IMAGE_SUFFIXES]
        if others:
            raise ValueError(
                f"{path} matches {others[0]}, which is no image; segment several videos one by one"
            )
    else:
        return None
    return in_order(found)
