"""Prefetches the items of an iterator in a thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.1


class Prefetch(Generic[T]):
    """The items of an iterator, produced by a separate thread, at most `depth` of them queued.

    An error of the iterator is raised at its position. While the next item is missing, `while_waiting` is
    called repeatedly with the seconds waited for it, and any error it raises ends the iteration. Leaving the
    `with` lets the thread end when it requests the next item; it is not joined, since it may be waiting for a
    caller that sends nothing.
    """

    def __init__(
        self,
        items: Iterator[T],
        *,
        depth: int,
        name: str,
        while_waiting: Callable[[float], None] = lambda waited_s: None,
    ) -> None:
        self._items = items
        self._while_waiting = while_waiting
        self._made: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._taken()

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def _taken(self) -> Iterator[T]:
        while True:
            is_item, made = self._next()
            if is_item:
                yield made  # type: ignore[misc]
            elif isinstance(made, BaseException):
                raise made
            else:
                return

    def _next(self) -> tuple[bool, T | BaseException | None]:
        since = time.monotonic()
        while True:
            try:
                return self._made.get(timeout=_POLL_S)
            except queue.Empty:
                self._while_waiting(time.monotonic() - since)

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put(True, item):
                    return
            self._put(False, None)
        except BaseException as error:
            self._put(False, error)

    def _put(self, is_item: bool, made: T | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._made.put((is_item, made), timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False
