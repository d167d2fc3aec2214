"""`vidseg doctor`: what is installed here, for bug reports and for finding what is missing."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

# A line of the installed package's metadata: numpy>=2.0, or timm>=1.0.15; extra == 'timm'.
_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(\[[\w,-]+\])?>=(?P<least>[\d.]+)(; extra == ['\"](?P<extra>[\w-]+)['\"])?"
)
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
        "extras": _extras(),
    }


def _required() -> dict[str, str]:
    """The packages of pyproject's core, each with its version."""
    from importlib.metadata import PackageNotFoundError, requires, version

    found = {"vidseg": version("vidseg")}
    for line in requires("vidseg") or []:
        requirement = _REQUIREMENT.fullmatch(line)
        if requirement is None or requirement["extra"]:
            continue
        name, least = requirement["name"], requirement["least"]
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


def _extras() -> dict[str, str]:
    """The packages of each extra, imported: an installed torchvision fails beside a CPU-only torch.

    The advice names the package itself, which pip finds wherever vidseg was installed from.
    """
    from importlib.metadata import requires

    needed: dict[str, list[re.Match[str]]] = {}
    for line in requires("vidseg") or []:
        requirement = _REQUIREMENT.fullmatch(line)
        if requirement is not None and requirement["extra"] not in (None, "dev"):
            needed.setdefault(requirement["extra"], []).append(requirement)
    return {extra: _found(packages) for extra, packages in needed.items()}


def _found(packages: list[re.Match[str]]) -> str:
    """The versions of an extra's packages, or the first of them that is missing or broken."""
    import importlib
    from importlib.metadata import version

    found = []
    for package in packages:
        name = package["name"]
        try:
            importlib.import_module(name.replace("-", "_"))
        except ModuleNotFoundError:
            wanted = " ".join(f"'{p['name']}>={p['least']}'" for p in packages)
            return f"not installed: pip install {wanted}"
        except (ImportError, RuntimeError) as error:
            return f"{name} does not import beside this torch: {error}"
        found.append(f"{name} {version(name)}")
    return ", ".join(found)
