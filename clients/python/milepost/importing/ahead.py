"""Items made one ahead of their use."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


@contextmanager
def ahead(items: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """The items, the next one made while one is used. At the end, however it comes, nothing is left open."""
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
        # The thread is through, so that no one else runs the generator.
        if isinstance(items, Generator):
            items.close()
