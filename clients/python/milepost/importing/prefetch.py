"""Prepares the next item while one is used."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


@contextmanager
def prefetched(items: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """The items, each made while the one before is used. Closes the generator at the end, also on errors."""
    end = object()

    def made(pool: ThreadPoolExecutor) -> Iterator[Item]:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item  # type: ignore[misc]

    try:
        with ThreadPoolExecutor(max_workers=1) as pool:
            yield made(pool)
    finally:
        # The thread has ended, so nothing else runs the generator.
        if isinstance(items, Generator):
            items.close()
