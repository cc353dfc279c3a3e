"""A read never waits for a revision: one that was not handed out is refused at once, on every method.

A token names a revision that callers could already see, so nothing is left to wait for. Then no call can hold
a thread by asking for the future.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message

from milepost.v1.account_service_pb2 import ListAccountsRequest
from milepost.v1.admin_service_pb2 import GetServerInfoRequest
from service.convert.revisions import revision_token
from tests.harness import ACCOUNT, CALL_TIMEOUT_S, Serving, read_refusal, serving
from tests.service.test_server import CONTRACT

THREADS = 2
CALLERS = 3 * THREADS
FAR = 1_000_000
NAMES = {
    "name": f"{ACCOUNT}/audiences/x",
    "audience": f"{ACCOUNT}/audiences/x",
    "parent": ACCOUNT,
    "user_id": "u",
}


def asking_methods() -> Iterator[tuple[str, type[Message]]]:
    """Every method whose request can ask for a revision, and that request."""
    for module in CONTRACT:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if "at_least" in method.input_type.fields_by_name:
                    request = message_factory.GetMessageClass(method.input_type)
                    yield f"/{service.full_name}/{method.name}", request


METHODS = dict(asking_methods())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory: Path = tmp_path_factory.mktemp("at-least") / "store"
    with serving(directory, worker_threads=THREADS, exports_max=CALLERS, access_log="none") as running:
        running.create_inputs()
        yield running


def request_of(kind: type[Message], at_least: str) -> Message:
    """A request that is in order but for its revision."""
    fields = {name: text for name, text in NAMES.items() if name in kind.DESCRIPTOR.fields_by_name}
    return kind(at_least=at_least, **fields)


def tokens(service: Serving) -> list[str]:
    """Of a revision far ahead and of the next one, signed by the store; with a signature of another."""
    info = service.admin.GetServerInfo(GetServerInfoRequest())
    newest = int(info.revision.split(".")[1], 16)
    signer = service.application.engine.signer
    far, next_ = (revision_token(info.store_id, newest + more, signer) for more in (FAR, 1))
    return [far, next_, info.revision.replace(f".{newest:x}.", f".{newest + FAR:x}.")]


def test_the_walk_finds_the_methods() -> None:
    assert len(METHODS) >= 12


@pytest.mark.parametrize("method", METHODS)
def test_a_revision_that_was_not_handed_out_is_refused(service: Serving, method: str) -> None:
    call: Any = service.channel.unary_stream(
        method, request_serializer=METHODS[method].SerializeToString, response_deserializer=bytes
    )
    for token in tokens(service):
        with pytest.raises(grpc.RpcError) as refused:
            list(call(request_of(METHODS[method], token), timeout=CALL_TIMEOUT_S))
        refusal = read_refusal(refused.value)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REVISION")
        assert refusal.violations.keys() == {"at_least"}


def test_callers_that_ask_for_the_future_hold_no_thread(service: Serving) -> None:
    """More of them than threads, back to back; a bystander is answered each time."""
    over = threading.Event()
    refused: list[str] = []
    requests = [
        (method, request_of(METHODS[method], token)) for method in METHODS for token in tokens(service)
    ]

    def ask() -> None:
        while not over.is_set():
            for method, request in requests:
                call: Any = service.channel.unary_stream(method)
                try:
                    list(call(request.SerializeToString(), timeout=CALL_TIMEOUT_S))
                except grpc.RpcError as error:
                    refused.append(read_refusal(error).reason)

    callers = [threading.Thread(target=ask) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    for _ in range(20):
        assert service.accounts.ListAccounts(ListAccountsRequest(), timeout=CALL_TIMEOUT_S).accounts
    over.set()
    for caller in callers:
        caller.join()
    assert set(refused) == {"INVALID_REVISION"}
