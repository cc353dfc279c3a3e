"""The asyncio client as if it were the synchronous one, so that one test is for both.

Calls run in an event loop of another thread. What a method makes (iterators, watches) is bridged too.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from milepost import AsyncClient, Client

BRIDGED = ("milepost.aio", "milepost._channel_aio")
"""Objects of classes in these packages are bridged."""


class Loop:
    """An event loop in a thread, for as long as the process lives.

    gRPC reads the events of all loops of a process from one socket, so one loop for all tests is safer than
    one each: a loop that ends may take an event of another along.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, awaitable: Any) -> Any:
        """What the awaitable returns."""
        return asyncio.run_coroutine_threadsafe(self._awaited(awaitable), self._loop).result()

    async def _awaited(self, awaitable: Any) -> Any:
        return await awaitable

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """What a function returns that has to be called in the loop."""

        async def called() -> Any:
            return function(*arguments, **named)

        return self.run(called())

    def iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        """The items."""
        try:
            while True:
                try:
                    yield self.run(anext(items))
                except StopAsyncIteration:
                    return
        finally:
            if inspect.isasyncgen(items):
                self.run(items.aclose())


the_loop = functools.cache(Loop)
"""The loop of this process."""


class Bridge:
    """An object whose coroutines are awaited in a loop."""

    def __init__(self, loop: Loop, object: Any) -> None:
        self._loop = loop
        self._object = object

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return bridged(self._loop, getattr(self._object, name))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        result = self._loop.call(self._object, *map(plain, arguments), **named)
        if inspect.isawaitable(result):
            result = self._loop.run(result)
        return bridged(self._loop, result)

    def __iter__(self) -> Iterator[Any]:
        return self._loop.iterate(self._loop.call(aiter, self._object))

    def __enter__(self) -> Bridge:
        self._loop.run(self._object.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.run(self._object.__aexit__(*error))


def bridged(loop: Loop, found: Any) -> Any:
    """The bridge of what has to be awaited; anything else as it is."""
    if inspect.isasyncgen(found):
        return loop.iterate(found)
    is_ours = callable(found) or type(found).__module__.startswith(BRIDGED)
    return Bridge(loop, found) if is_ours or type(found).__name__.endswith("Stub") else found


def plain(argument: Any) -> Any:
    """What is behind a bridge."""
    return argument._object if isinstance(argument, Bridge) else argument


@contextmanager
def async_client(*arguments: Any, **options: Any) -> Iterator[Client]:
    """An asyncio client behind a bridge."""
    loop = the_loop()
    with Bridge(loop, loop.call(AsyncClient, *arguments, **options)) as client:
        yield cast(Client, client)
