"""`vidseg doctor`: what is installed here, for bug reports and for finding what is missing."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

EXTRAS = {"flow": "torchvision", "timm": "timm", "transformers": "transformers"}
VIDEO_CODECS = {
    "H.264, writing": ("libx264", "w"),
    "H.264, reading": ("h264", "r"),
    "HEVC, reading": ("hevc", "r"),
    "AV1, reading": ("libdav1d", "r"),
    "VP9, reading": ("vp9", "r"),
    "MPEG-2 (MXF), reading": ("mpeg2video", "r"),
    "DV (MXF, AVI), reading": ("dvvideo", "r"),
}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Write the report as JSON.")] = False,
) -> None:
    """Report what is installed: Python, torch, devices, video codecs, extras.

    Ends with exit code 1 if a package that vidseg needs is missing or too old.
    """
    from vidseg.cli.console import console, write_json

    report = examine()
    if as_json:
        write_json(report)
    else:
        for title, rows in report.items():
            console.print(title, style="bold")
            for name, value in rows.items():
                console.print(f"  {name:<24} {value}", markup=False)
    if any(str(value).startswith("MISSING") for value in report["packages"].values()):
        raise typer.Exit(1)


def examine() -> dict[str, dict[str, Any]]:
    """Look at the machine and the packages.

    Returns:
        Section title -> name -> what was found; a package that vidseg cannot work without is
        "MISSING ..." with what to type.
    """
    import os
    import platform

    return {
        "machine": {
            "Python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "CPU cores": os.cpu_count(),
        },
        "packages": _required(),
        "torch": _devices(),
        "video (PyAV)": _codecs(),
        "extras": {name: _extra(name, package) for name, package in EXTRAS.items()},
    }


def _required() -> dict[str, str]:
    """The packages of pyproject's core, each with its version."""
    from importlib.metadata import PackageNotFoundError, requires, version

    found = {"vidseg": version("vidseg")}
    for line in requires("vidseg") or []:
        requirement = re.fullmatch(r"([\w.-]+)>=([\d.]+)", line)  # others belong to an extra
        if requirement is None:
            continue
        name, least = requirement.groups()
        try:
            installed = version(name)
        except PackageNotFoundError:
            found[name] = f"MISSING: pip install '{name}>={least}'"
            continue
        is_old = _release(installed) < _release(least)
        advice = f"MISSING {least} or later (found {installed}): pip install -U '{name}>={least}'"
        found[name] = advice if is_old else installed
    return found


def _release(version: str) -> tuple[int, ...]:
    """(2, 13, 0) for 2.13.0+cpu."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])


def _devices() -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        return {"torch": f"cannot be imported: {error}"}
    gpus = {
        f"cuda:{index}": f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        for index in range(torch.cuda.device_count())
        for properties in [torch.cuda.get_device_properties(index)]
    }
    return {
        "build": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU",
        "threads": torch.get_num_threads(),
        **(gpus or {"GPU": "Apple (mps)" if torch.backends.mps.is_available() else "none"}),
    }


def _codecs() -> dict[str, str]:
    try:
        from av.codec import Codec
        from av.codec.codec import UnknownCodecError
    except ImportError as error:
        return {"PyAV": f"cannot be imported: {error}"}
    found = {}
    for name, (codec, mode) in VIDEO_CODECS.items():
        try:
            Codec(codec, mode)  # pyright: ignore[reportArgumentType]
            found[name] = f"yes ({codec})"
        except UnknownCodecError:
            found[name] = f"no ({codec})"
    return found


def _extra(name: str, package: str) -> str:
    """Import it: torchvision's ordinary build is installed but fails beside a CPU-only torch."""
    import importlib

    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        return f"not installed: pip install 'vidseg[{name}]'"
    except (ImportError, RuntimeError) as error:
        return f"{package} does not import beside this torch: {error}"
    return f"{package} {module.__version__}"
