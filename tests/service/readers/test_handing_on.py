"""What a reader hands on is answered and refused as the writer itself does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from milepost.v1 import account_service_pb2, audience_service_pb2, ingest_service_pb2
from service.methods import REFLECTION_METHODS
from tests.harness import ACCOUNT, CALL_TIMEOUT_S, Refusal, Serving, Stubs, eventually, read_refusal, serving
from tests.service.delivery.test_delivery import build, connect, wait_for
from tests.service.readers.asking import writer_address
from tests.service.test_refusals import METHODS, UNREADABLE
from tests.spec.scenario import STEPS, scenario
from tests.walks import each_of

ENDLESS = ("/grpc.health.v1.Health/Watch",)
REQUESTS = {"empty": b"", "unreadable": UNREADABLE}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("handing")
    with serving(directory / "store", readers=1, access_log="none") as running:
        yield running


@pytest.fixture(scope="module")
def writer(service: Serving) -> Iterator[Stubs]:
    with closing(Stubs(writer_address(service))) as direct:
        yield direct


def outcome(channel: grpc.Channel, method: str, request: bytes) -> Refusal | None:
    """How a call ended; None when it was answered."""
    call: Any = channel.stream_stream(method)
    try:
        for _ in call(iter([request]), timeout=CALL_TIMEOUT_S):
            if method in ENDLESS:
                return None
    except grpc.RpcError as error:
        return read_refusal(error)
    return None


@pytest.mark.parametrize("request_bytes", REQUESTS.values(), ids=REQUESTS.keys())
@each_of("method", [*(method for method, _, _ in METHODS), "/milepost.v1.NoService/Nope"])
def test_every_method_ends_as_at_the_writer(
    service: Serving, writer: Stubs, method: str, request_bytes: bytes
) -> None:
    through, direct = (
        outcome(channel, method, request_bytes) for channel in (service.channel, writer.channel)
    )
    assert through == direct


def test_every_method_answers_through_a_reader_as_its_scenario_says(tmp_path: Path) -> None:
    with scenario(tmp_path, readers=1) as run:
        found = {
            f"step {number}, {step['method']}": run.perform(step) for number, step in enumerate(STEPS, 1)
        }
        assert [f"{step}: {line}" for step, lines in found.items() for line in lines] == []


def test_metadata_goes_both_ways(service: Serving) -> None:
    call = service.accounts.ListAccounts
    for request_id in ("first", "second"):
        _, made = call.with_call(
            account_service_pb2.ListAccountsRequest(), metadata=(("x-request-id", request_id),)
        )
        assert ("x-request-id", request_id) in made.trailing_metadata()


def test_a_callers_deadline_holds_at_the_writer(service: Serving) -> None:
    deadlines: list[float] = []
    members: Any = service.application.engine.members
    check = members.check

    def asked(*args: Any, **kwargs: Any) -> Any:
        deadlines.append(kwargs["deadline"]() - time.monotonic())
        return check(*args, **kwargs)

    members.check = asked
    request = audience_service_pb2.CheckMembershipRequest(audience=f"{ACCOUNT}/audiences/x", user_id="u")
    for timeout_s in (20.0, 40.0):
        with pytest.raises(grpc.RpcError):
            service.audiences.CheckMembership(request, timeout=timeout_s)
        assert abs(timeout_s - deadlines.pop()) < 15


def test_a_stream_that_its_caller_leaves_ends_at_the_writer(tmp_path: Path) -> None:
    with serving(tmp_path / "store", readers=1, access_log="none") as service:
        audience = build(service)
        connect(service, audience)
        wait_for(service, 3)
        request = audience_service_pb2.WatchMembershipRequest(audience=audience, snapshot=True)
        watching = service.audiences.WatchMembership(request)
        next(watching)
        assert service.application.in_flight == 1
        watching.cancel()
        eventually(lambda: service.application.in_flight == 0)

        def batches() -> Iterator[ingest_service_pb2.StreamEventsRequest]:
            yield ingest_service_pb2.StreamEventsRequest(
                batch=ingest_service_pb2.IngestEventsRequest(parent=ACCOUNT)
            )
            eventually(lambda: not streaming.is_active())

        streaming = service.ingest.StreamEvents(batches())
        eventually(lambda: service.application.in_flight == 1)
        streaming.cancel()
        eventually(lambda: service.application.in_flight == 0)


def test_reflection_is_handed_on(service: Serving) -> None:
    assert outcome(service.channel, REFLECTION_METHODS[0], b"") is None
