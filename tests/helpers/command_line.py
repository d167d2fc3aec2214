"""The command line, run in this process; a library, not a test."""

import pytest

from vidseg.cli.console import be_quiet
from vidseg.cli.main import main


def run(*words: object) -> int:
    """Run `vidseg` with these words; gives its exit code."""
    try:
        with pytest.raises(SystemExit) as leaving:
            main([str(word) for word in words])
    finally:
        be_quiet(False)
    return int(leaving.value.code or 0)
