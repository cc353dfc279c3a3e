"""What only the asyncio client does: many calls in one loop, and cancelled tasks."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest

from milepost import AsyncClient, AsyncWatch, errors, make_event
from milepost.v1.account_service_pb2 import GetAccountResponse
from milepost.v1.audience_pb2 import MembershipChange
from milepost.v1.audience_service_pb2 import (
    CheckMembershipResponse,
    MembershipChanges,
    WatchMembershipRequest,
    WatchMembershipResponse,
)
from milepost.v1.ingest_service_pb2 import IngestEventsRequest, IngestEventsResponse
from tests.clients.bridge import the_loop
from tests.clients.fake import Fake, Refusal, serving
from tests.clients.test_client import TIME

CALLS = 6


def run(fake: Fake, main: Callable[[AsyncClient], Awaitable[Any]]) -> Any:
    """What `main` returns, called with a client of a service with these methods."""

    async def with_client(target: str) -> Any:
        async with AsyncClient(target, account="acme") as client:
            return await main(client)

    with serving(fake) as target:
        return the_loop().run(with_client(target))


def test_calls_of_one_loop_run_side_by_side() -> None:
    together = threading.Barrier(CALLS)

    def check(_: Any) -> CheckMembershipResponse:
        together.wait(30)
        return CheckMembershipResponse(member=True)

    async def main(client: AsyncClient) -> list[bool]:
        return await asyncio.gather(*(client.check(f"u{n}", "winback/bought") for n in range(CALLS)))

    assert run(Fake({"CheckMembership": check}), main) == [True] * CALLS


def test_batches_of_one_load_run_side_by_side() -> None:
    together = threading.Barrier(3)

    def ingest(request: IngestEventsRequest) -> IngestEventsResponse:
        if not request.request_id.endswith("-3"):
            together.wait(30)
        return IngestEventsResponse(accepted=len(request.events))

    async def main(client: AsyncClient) -> int:
        events = (make_event(f"u{n}", "buy", TIME) for n in range(4))
        return (await client.ingest_events(events, batch_rows=1, concurrency=3)).accepted

    assert run(Fake({"IngestEvents": ingest}), main) == 4


def test_a_cancelled_task_ends_its_call_and_is_cancelled() -> None:
    arrived, release = threading.Event(), threading.Event()

    def wait(_: Any) -> GetAccountResponse:
        arrived.set()
        release.wait(30)
        return GetAccountResponse()

    async def main(client: AsyncClient) -> None:
        task = asyncio.ensure_future(client.get_account())
        await asyncio.to_thread(arrived.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        release.set()

    run(Fake({"GetAccount": wait}), main)


def test_a_cancelled_load_sends_nothing_more() -> None:
    arrived, release = threading.Event(), threading.Event()

    def ingest(_: Any) -> IngestEventsResponse:
        arrived.set()
        release.wait(30)
        return IngestEventsResponse()

    async def main(client: AsyncClient) -> None:
        events = (make_event(f"u{n}", "buy", TIME) for n in range(4))
        task = asyncio.ensure_future(client.ingest_events(events, batch_rows=1, concurrency=1))
        await asyncio.to_thread(arrived.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()

    fake = Fake({"IngestEvents": ingest})
    run(fake, main)
    assert len(fake.requests) == 1


def test_every_failure_of_a_load_is_noticed() -> None:
    """One error is raised. Those of the batches beside it are no tasks that asyncio complains about."""
    together = threading.Barrier(3)
    complaints: list[dict[str, Any]] = []

    def ingest(_: Any) -> IngestEventsResponse:
        together.wait(30)
        raise Refusal(grpc.StatusCode.NOT_FOUND, "no such input")

    async def main(client: AsyncClient) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))
        try:
            events = (make_event(f"u{n}", "buy", TIME) for n in range(4))
            with pytest.raises(errors.NotFound):
                await client.ingest_events(events, batch_rows=1, concurrency=3)
            gc.collect()
            await asyncio.sleep(0)
        finally:
            loop.set_exception_handler(None)

    run(Fake({"IngestEvents": ingest}), main)
    assert complaints == []


def test_closing_a_watch_ends_it_for_the_task_that_waits_for_it() -> None:
    release = threading.Event()

    def watch(_: WatchMembershipRequest) -> Iterator[WatchMembershipResponse]:
        yield WatchMembershipResponse(changes=MembershipChanges(changes=[MembershipChange(sequence=1)]))
        release.wait(30)

    async def main(client: AsyncClient) -> int:
        seen = asyncio.Event()

        async def follow(watching: AsyncWatch) -> int:
            count = 0
            async for _ in watching:
                count += 1
                seen.set()
            return count

        watching = client.watch("x", cursor=0)
        task = asyncio.ensure_future(follow(watching))
        await seen.wait()
        watching.close()
        count = await task
        release.set()
        return count

    assert run(Fake({"WatchMembership": watch}), main) == 1


def test_a_stream_that_its_reader_leaves_is_cancelled() -> None:
    release = threading.Event()

    def watch(_: WatchMembershipRequest) -> Iterator[WatchMembershipResponse]:
        release.wait(30)
        yield WatchMembershipResponse()

    async def main(client: AsyncClient) -> None:
        stream: Any = client.audiences.WatchMembership(WatchMembershipRequest(cursor=0))
        stream.cancel()
        with pytest.raises(errors.Cancelled):
            await anext(stream)
        release.set()

    run(Fake({"WatchMembership": watch}), main)
