"""Work on many files at a time: reading, decoding and encoding release Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int | None = None,
    ahead: int | None = None,
) -> Iterator[Result]:
    """Yield `function(item)` in the order of the items, a few ahead of the reader.

    When the reader stops, or a call raises, what has not begun is never begun.

    Args:
        function: what is done with an item.
        items: taken as they are needed.
        workers: threads; by default as many as the machine has, up to 8.
        ahead: results that wait at most; two for each thread by default.
    """
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    ahead = 2 * workers if ahead is None else ahead
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
