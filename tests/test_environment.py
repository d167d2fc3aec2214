"""What a run notes of its surroundings, without starting what it finds there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vidseg.training.folder import environment

GIT = ["git", "-c", "user.email=a@b", "-c", "user.name=x", "-c", "init.defaultBranch=main"]


def git(folder: Path, *words: str) -> str:
    done = subprocess.run([*GIT, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    return folder


def noted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.chdir(folder)
    return environment(torch.device("cpu"), 1)["git"]


def test_the_commit_is_noted(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "a/b").mkdir(parents=True)
    assert noted(repository / "a/b", monkeypatch) == commit
    git(repository, "pack-refs", "--all")
    assert noted(repository, monkeypatch) == commit
    git(repository, "worktree", "add", "-q", "-b", "side/branch", str(repository.parent / "tree"))
    git(repository.parent / "tree", "commit", "-q", "--allow-empty", "-m", "second")
    second = git(repository.parent / "tree", "rev-parse", "HEAD")
    assert second != commit
    assert noted(repository.parent / "tree", monkeypatch) == second
    git(repository, "checkout", "-q", "--detach")
    assert noted(repository, monkeypatch) == commit


@pytest.mark.parametrize(
    "head", ["ref: ../../secret", "ref: /etc/passwd", "no commit", "", "ref: refs/heads/none"]
)
def test_a_repository_that_is_none_gives_no_commit(
    repository: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    (repository / ".git/secret").write_text("a" * 40)
    (repository / ".git/HEAD").write_text(head)
    assert noted(repository, monkeypatch) is None


def test_outside_of_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert noted(tmp_path, monkeypatch) is None


RUN = """
import os, sys
from vidseg.training.loop import train
from vidseg.training.recipe import load_config

STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")


def tell(event, values):
    if event in STARTS and values[0] != "uname":  # platform asks it; no folder says what it does
        print(event, values)


sys.addaudithook(tell)
words = ["iterations=1", "batch_size=1", "workers=0", "validation.every=0", "data.crop=[32,32]",
    "data.options={num_videos: 1, num_frames: 2, size: [32,48]}"]
train(load_config("fcn_tiny_synthetic", words), "run")
"""


def test_a_run_starts_no_program(repository: Path) -> None:
    """core.fsmonitor in a folder's .git/config is one that `git status` starts."""
    trap = repository.parent / "trap"
    git(repository, "config", "core.fsmonitor", f"touch {trap}; false")
    words = [sys.executable, "-W", "ignore", "-c", RUN]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert (repository / "run/last.safetensors").is_file()
    assert not trap.exists()
