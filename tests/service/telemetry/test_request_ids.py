"""Ids of calls come back in the trailing metadata and stand in the log."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from engine.resources.accounts import Accounts
from milepost.v1 import account_service_pb2, audience_service_pb2, ingest_service_pb2
from service import logs
from tests.harness import ACCOUNT, Serving, serving
from tests.service_log import keep_apart


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """The log; the process's own settings are put back at the end."""
    root = logging.getLogger()
    handlers, level, hook = list(root.handlers), root.level, threading.excepthook
    text = io.StringIO()
    logs.configure("json", "info", text)
    yield text
    root.handlers, root.level, threading.excepthook = handlers, level, hook
    keep_apart()


@pytest.fixture
def service(tmp_path: Path, stream: io.StringIO) -> Iterator[Serving]:
    with serving(tmp_path / "store") as running:
        running.create_inputs()
        yield running


def lines(stream: io.StringIO, event: str) -> list[dict[str, Any]]:
    found = (json.loads(line) for line in stream.getvalue().splitlines())
    return [line for line in found if line["event"] == event]


def id_of(call: Any) -> str | None:
    found = [value for key, value in call.trailing_metadata() if key == "x-request-id"]
    assert len(found) <= 1
    return found[0] if found else None


def check(service: Serving, audience: str, *sent: tuple[str, str]) -> Any:
    """The finished call, whatever its outcome."""
    request = audience_service_pb2.CheckMembershipRequest(audience=audience, user_id="u")
    try:
        return service.audiences.CheckMembership.with_call(request, metadata=sent)[1]
    except grpc.RpcError as error:
        return error


def list_accounts(service: Serving, *sent: tuple[str, str]) -> Any:
    request = account_service_pb2.ListAccountsRequest()
    return service.accounts.ListAccounts.with_call(request, metadata=sent)[1]


def test_an_id_of_the_caller_comes_back_with_every_answer(service: Serving, stream: io.StringIO) -> None:
    sent = ("x-request-id", "page-4711/2")
    assert id_of(list_accounts(service, sent)) == "page-4711/2"
    failed = check(service, "accounts/a/audiences/none", sent)
    assert id_of(failed) == "page-4711/2"
    # The details of the error are still there.
    assert "grpc-status-details-bin" in {key for key, _ in failed.trailing_metadata()}
    [line] = lines(stream, "call")
    assert (line["code"], line["request_id"]) == ("NOT_FOUND", "page-4711/2")


def test_a_failed_call_without_one_gets_an_id(service: Serving, stream: io.StringIO) -> None:
    assert id_of(list_accounts(service)) is None
    first, second = (check(service, "x") for _ in range(2))
    made = [id_of(first), id_of(second)]
    assert [line["request_id"] for line in lines(stream, "call")] == made
    assert None not in made
    assert len(set(made)) == 2


# The transport lets only printable ASCII through.
@pytest.mark.parametrize("sent", ["", "a" * 129, "with space"])
def test_an_id_that_does_not_fit_is_replaced(service: Serving, sent: str) -> None:
    made = id_of(check(service, "x", ("x-request-id", sent)))
    assert made is not None
    assert made != sent
    assert len(made) == 16


def test_streams_have_ids(service: Serving, stream: io.StringIO) -> None:
    sent = (("x-request-id", "s1"),)
    call = service.ingest.StreamEvents(iter(()), metadata=sent)
    assert list(call) == []
    assert id_of(call) == "s1"
    request = ingest_service_pb2.IngestEventsRequest(parent="x")
    call = service.ingest.StreamEvents(
        iter([ingest_service_pb2.StreamEventsRequest(batch=request)]), metadata=sent
    )
    with pytest.raises(grpc.RpcError):
        list(call)
    assert id_of(call) == "s1"
    assert [line["request_id"] for line in lines(stream, "call")] == ["s1"]


def test_every_line_within_a_call_has_its_id(
    service: Serving, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        logging.getLogger("engine.test").warning("before", extra={"users": 3})
        raise RuntimeError("bug")

    monkeypatch.setattr(Accounts, "get_account", broken)
    request = account_service_pb2.GetAccountRequest(name=ACCOUNT)
    with pytest.raises(grpc.RpcError):
        service.accounts.GetAccount(request, metadata=(("x-request-id", "r"),))
    found = [line for event in ("before", "defect", "call") for line in lines(stream, event)]
    assert [line["request_id"] for line in found] == ["r", "r", "r"]
    assert found[0]["users"] == 3
    # A thread that served the call does not keep its id.
    assert "request_id" not in lines(stream, "store opened")[0]
    for thread_line in (json.loads(line) for line in stream.getvalue().splitlines()):
        assert thread_line.get("request_id") in (None, "r")
