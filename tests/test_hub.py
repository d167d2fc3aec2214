"""Downloads: licence first, sha256 after, and advice where there is no network."""

import hashlib
from types import SimpleNamespace

import pytest

import vidseg
from vidseg.hub import download

CONTENT = b"weights"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one repository, and what was asked of it."""
    path = tmp_path / "model.safetensors"
    asked = []

    def model_info(self, repository, **options):
        asked.append(repository)
        lfs = SimpleNamespace(sha256=hashlib.sha256(CONTENT).hexdigest())
        entry = SimpleNamespace(rfilename="model.safetensors", size=7_000_000, lfs=lfs)
        return SimpleNamespace(siblings=[entry], card_data=SimpleNamespace(license="cc-by-nc-4.0"))

    def fetch(repository, file):
        path.write_bytes(fetch.content)
        return str(path)

    fetch.content = CONTENT
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    return SimpleNamespace(path=path, asked=asked, fetch=fetch)


def test_the_licence_comes_before_the_file(hub, caplog):
    assert download("owner/name", advice="x").read_bytes() == CONTENT
    assert caplog.messages == [
        "downloading model.safetensors of owner/name (7 MB); licence: cc-by-nc-4.0"
    ]


def test_a_damaged_file_is_removed(hub):
    hub.fetch.content = b"cut"
    with pytest.raises(ValueError, match=r"damaged on its way .* download it again"):
        download("owner/name", advice="x")
    assert not hub.path.exists()


def test_a_cached_file_needs_no_network(hub, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(tmp_path / "c"))
    assert download("owner/name", advice="x") == tmp_path / "c"
    assert hub.asked == []


def test_without_a_network_there_is_advice(monkeypatch, hub):
    def refuse(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(FileNotFoundError, match=r"could not download owner/name .*ConnectionError"):
        vidseg.load("owner/name")


def test_a_repository_without_the_file_is_said(hub):
    with pytest.raises(FileNotFoundError, match=r"\(it has no other\.bin\); bring it"):
        download("owner/name", advice="bring it", file="other.bin")
