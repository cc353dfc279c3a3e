"""What the two clients do differently: waiting, several calls at a time, and streams in both directions.

The classes and functions come in pairs of one interface: those with `Async` or `async` in their names for the
asyncio client, the others for the synchronous one. `tools/generate_client.py` replaces one by the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from queue import Empty, SimpleQueue
from typing import Any, Generic, Self, TypeVar

import grpc

from milepost.errors import MilepostError, ended

Result = TypeVar("Result")
Item = TypeVar("Item")

AsyncCall = Callable[..., Awaitable[Result]]
"""A function whose result is awaited."""
Call = Callable[..., Result]
"""A function."""

AsyncItems = Iterable[Item] | AsyncIterable[Item]
"""What `for` or `async for` reads."""
Items = Iterable[Item]
"""What `for` reads."""

CLOSED = (ValueError, grpc.aio.UsageError)
"""What a call over a closed channel raises."""

sleep = time.sleep
async_sleep = asyncio.sleep

Signal = threading.Event


def iterate(items: Items[Item]) -> Iterator[Item]:
    """The items."""
    return iter(items)


async def async_iterate(items: AsyncItems[Item]) -> AsyncIterator[Item]:
    """The items."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


class Pool(Generic[Result]):
    """Runs up to `size` calls at a time, in threads. Leaving the `with` waits for those that run."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._threads = ThreadPoolExecutor(max_workers=size)
        self._running: set[Future[Result]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True)

    @property
    def is_full(self) -> bool:
        """Whether no further call may be started now."""
        return len(self._running) >= self._size

    def start(self, call: Call[Result], *arguments: object) -> None:
        """Starts a call."""
        self._running.add(self._threads.submit(call, *arguments))

    def first(self) -> list[Result]:
        """Waits for at least one call; the results of those that are done. Raises what they raise."""
        return self._results(FIRST_COMPLETED)

    def rest(self) -> list[Result]:
        """Waits for every call; their results. Raises what they raise."""
        return self._results(ALL_COMPLETED)

    def _results(self, when: str) -> list[Result]:
        done, self._running = wait(self._running, return_when=when)
        return [future.result() for future in done]


class AsyncPool(Generic[Result]):
    """Runs up to `size` calls at a time, in tasks. Leaving the `async with` waits for those that run, and
    cancels them when the caller is cancelled.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._running: set[asyncio.Task[Result]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, asyncio.CancelledError):
            for task in self._running:
                task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @property
    def is_full(self) -> bool:
        """Whether no further call may be started now."""
        return len(self._running) >= self._size

    def start(self, call: AsyncCall[Result], *arguments: object) -> None:
        """Starts a call."""
        self._running.add(asyncio.ensure_future(call(*arguments)))

    async def first(self) -> list[Result]:
        """Waits for at least one call; the results of those that are done. Raises what they raise."""
        return await self._results(asyncio.FIRST_COMPLETED)

    async def rest(self) -> list[Result]:
        """Waits for every call; their results. Raises what they raise."""
        return await self._results(asyncio.ALL_COMPLETED)

    async def _results(self, when: str) -> list[Result]:
        if not self._running:
            return []
        done, running = await asyncio.wait(self._running, return_when=when)
        # When one raises, the others stay: leaving the block retrieves their errors.
        results = [task.result() for task in done]
        self._running = running
        return results


class AsyncSignal:
    """As `threading.Event`, for tasks: `wait` takes a timeout, which that of `asyncio.Event` does not."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.set = self._event.set
        self.clear = self._event.clear
        self.is_set = self._event.is_set

    async def wait(self, timeout: float) -> bool:
        """Waits until it is set, at most `timeout` seconds. Returns whether it is set."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), timeout)
        return self.is_set()


class Background:
    """Calls beside the caller, in daemon threads."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def start(self, call: Call[None], *arguments: object) -> None:
        """Starts a call."""
        thread = threading.Thread(target=call, args=arguments, name="milepost-follow", daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        """Waits until every call has ended."""
        for thread in self._threads:
            thread.join()


class AsyncBackground:
    """Calls beside the caller, in tasks."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Future[None]] = []

    def start(self, call: AsyncCall[None], *arguments: object) -> None:
        """Starts a call."""
        self._tasks.append(asyncio.ensure_future(call(*arguments)))

    async def join(self) -> None:
        """Waits until every call has ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Duplex:
    """A call with streams in both directions. A thread of its own reads the responses, so that
    `receive_ready` has them, and notices a broken connection, without waiting. The caller bounds the number
    of requests on their way.
    """

    def __init__(self, open_call: Callable[[Iterator[Any]], Any]) -> None:
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._received: SimpleQueue[Any] = SimpleQueue()
        self._call = open_call(iter(self._requests.get, None))
        threading.Thread(target=self._read, name="milepost-stream", daemon=True).start()

    def _read(self) -> None:
        try:
            for response in self._call:
                self._received.put(response)
            self._received.put(ended())
        except MilepostError as error:
            self._received.put(error)
        # The transport waits for requests in a thread; nothing else ends it.
        self._requests.put(None)

    def send(self, request: object) -> None:
        """Hands a request to the transport; does not wait."""
        self._requests.put(request)

    def receive(self) -> Any:
        """The next response. Raises the error that ended the call."""
        return _returned(self._received.get())

    def receive_ready(self) -> Any:
        """The next response if it has arrived, else None. Raises the error that ended the call."""
        try:
            return _returned(self._received.get_nowait())
        except Empty:
            return None

    def cancel(self) -> None:
        """Ends the call."""
        self._call.cancel()


class AsyncDuplex:
    """A call with streams in both directions. A task of its own reads the responses, so that
    `receive_ready` has them, and notices a broken connection, without waiting. The caller bounds the number
    of requests on their way.
    """

    def __init__(self, open_call: Callable[[AsyncIterator[Any]], Any]) -> None:
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self._received: asyncio.Queue[Any] = asyncio.Queue()
        self._call = open_call(self._sent())
        self._reader = asyncio.ensure_future(self._read())

    async def _sent(self) -> AsyncIterator[Any]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def _read(self) -> None:
        try:
            async for response in self._call:
                self._received.put_nowait(response)
            self._received.put_nowait(ended())
        except MilepostError as error:
            self._received.put_nowait(error)
        # The transport waits for requests in a task; nothing else ends it.
        self._requests.put_nowait(None)

    def send(self, request: object) -> None:
        """Hands a request to the transport; does not wait."""
        self._requests.put_nowait(request)

    async def receive(self) -> Any:
        """The next response. Raises the error that ended the call."""
        return _returned(await self._received.get())

    def receive_ready(self) -> Any:
        """The next response if it has arrived, else None. Raises the error that ended the call."""
        return None if self._received.empty() else _returned(self._received.get_nowait())

    def cancel(self) -> None:
        """Ends the call."""
        self._call.cancel()


def _returned(received: Any) -> Any:
    if isinstance(received, MilepostError):
        raise received
    return received
