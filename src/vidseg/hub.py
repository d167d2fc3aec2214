"""Weights from the hub: the licence is shown first, the file is checked by its sha256."""

import hashlib
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger("vidseg.hub")

CHUNK_BYTES = 2**20


def download(repository: str, *, advice: str, file: str = "model.safetensors") -> Path:
    """Fetch a file from the hub, or take it from the hub's cache on this machine.

    An interrupted download resumes. Nothing is asked of the network if the file is in the cache.

    Args:
        repository: "owner/name".
        advice: what to do where the hub cannot be reached; ends the error's message.
        file: its name in the repository.

    Returns:
        The local file.

    Raises:
        FileNotFoundError: no network, no such repository or no such file in it.
        ValueError: the file is not what the hub says it is.
    """
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return Path(cached)
    try:
        info = HfApi().model_info(repository, files_metadata=True, timeout=10)
        entry = next(s for s in info.siblings or () if s.rfilename == file)
        log.warning(
            "downloading %s of %s (%s); licence: %s",
            file,
            repository,
            "size unknown" if entry.size is None else f"{entry.size / 1e6:.0f} MB",
            getattr(info.card_data, "license", None) or "not stated",
        )
        path = Path(hf_hub_download(repository, file))
    except Exception as error:
        reason = f"it has no {file}" if isinstance(error, StopIteration) else type(error).__name__
        raise FileNotFoundError(
            f"could not download {repository} from the hub ({reason}); {advice}"
        ) from error
    _check(path, entry)
    return path


def _check(path: Path, entry: Any) -> None:
    wanted = getattr(entry.lfs, "sha256", None)
    if wanted is None:  # small files of a repository have a git hash alone
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != wanted:
        path.unlink()
        raise ValueError(
            f"{path.name} was damaged on its way (sha256 {digest.hexdigest()[:12]}, wanted "
            f"{wanted[:12]}) and has been removed; download it again"
        )
