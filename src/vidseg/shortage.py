"""What a machine runs out of: memory, shared memory, open files; recognised, and bounded before."""

from __future__ import annotations

import errno
import re

MAX_PIXELS = 2**26
"""Of a frame or a label map, twice 8K; a small file can claim more than any machine holds."""

_MEMORY = re.compile(
    r"out of memory|OutOfMemory|(can't|cannot|unable to|failed to) allocate|not enough memory"
    r"|insufficient memory|size calculation overflowed|unable to mmap|ALLOC_FAILED"
    r"|Invalid buffer size",
    re.IGNORECASE,
)
_SHARED = re.compile(r"shared memory|/dev/shm|torch_shm|Bus error", re.IGNORECASE)
_FILES = re.compile(r"Too many open files|received 0 items of ancdata", re.IGNORECASE)


def shortage_of(error: BaseException) -> str | None:
    """Say which resource an error is about, in words; None for any other error.

    torch, numpy, OpenCV and the system have an error each for this, and a worker's is a text.
    """
    text = str(error)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return OPEN_FILES
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return OUT_OF_MEMORY
    if isinstance(error, (ValueError, TypeError)):  # of ours, and already in words
        return None
    if _FILES.search(text):
        return OPEN_FILES
    if _SHARED.search(text):
        return SHARED_MEMORY
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        return OUT_OF_MEMORY + _amount(text)
    return None


OUT_OF_MEMORY = "out of memory"
SHARED_MEMORY = "the shared memory of loader processes (/dev/shm) is full"
OPEN_FILES = "too many open files; raise the limit (ulimit -n)"


def _amount(text: str) -> str:
    asked = re.search(r"allocate (\d+) bytes", text)
    if asked:
        return f" ({int(asked[1]) / 1e9:.1f} GB were asked for)"
    asked = re.search(r"allocate ([\d.]+ [KMGTPE]i?B)", text)
    return f" ({asked[1]} were asked for)" if asked else ""
