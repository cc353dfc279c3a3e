"""Real servers for tests: one in this process, or one in a separate process that can be killed.

Both listen on 127.0.0.1 at a free port, over a store below a directory that the test chooses.

    with serving(tmp_path) as service:
        service.accounts.CreateAccount(pb.CreateAccountRequest(account_id="a"))
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from milepost import testing
from milepost.v1 import (
    account_service_pb2,
    account_service_pb2_grpc,
    admin_service_pb2_grpc,
    audience_service_pb2_grpc,
    catalog_service_pb2_grpc,
    connection_service_pb2_grpc,
    ingest_service_pb2_grpc,
    journey_service_pb2_grpc,
)
from service.application import Application
from service.config import Config

ACCOUNT = "accounts/a"
WORKSPACE = f"{ACCOUNT}/workspaces/w"
INPUT = f"{WORKSPACE}/inputs/i"

CALL_TIMEOUT_S = 60.0
EVENTUALLY_S = 60.0
"""A guard against waiting for ever."""
POLL_S = 0.02
READERS = int(os.environ.get("MILEPOST_TEST_READERS", "0"))
"""Readers of a service whose test does not say: the tests of the service hold with any number."""

T = TypeVar("T")


@dataclass(frozen=True)
class Refusal:
    """The status of a refused call."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    violations: dict[str, str]
    """Field → description."""


class Stubs:
    """The stubs of every service at an address."""

    def __init__(self, address: str) -> None:
        self.address = address
        # Channels with the same options would share one connection.
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(address, options)

    @cached_property
    def accounts(self) -> account_service_pb2_grpc.AccountServiceStub:
        return account_service_pb2_grpc.AccountServiceStub(self.channel)

    @cached_property
    def admin(self) -> admin_service_pb2_grpc.AdminServiceStub:
        return admin_service_pb2_grpc.AdminServiceStub(self.channel)

    @cached_property
    def audiences(self) -> audience_service_pb2_grpc.AudienceServiceStub:
        return audience_service_pb2_grpc.AudienceServiceStub(self.channel)

    @cached_property
    def catalog(self) -> catalog_service_pb2_grpc.CatalogServiceStub:
        return catalog_service_pb2_grpc.CatalogServiceStub(self.channel)

    @cached_property
    def connections(self) -> connection_service_pb2_grpc.ConnectionServiceStub:
        return connection_service_pb2_grpc.ConnectionServiceStub(self.channel)

    @cached_property
    def ingest(self) -> ingest_service_pb2_grpc.IngestServiceStub:
        return ingest_service_pb2_grpc.IngestServiceStub(self.channel)

    @cached_property
    def journeys(self) -> journey_service_pb2_grpc.JourneyServiceStub:
        return journey_service_pb2_grpc.JourneyServiceStub(self.channel)

    def create_inputs(self) -> None:
        """Creates `ACCOUNT`, `WORKSPACE` and `INPUT`."""
        self.accounts.CreateAccount(account_service_pb2.CreateAccountRequest(account_id="a"))
        self.accounts.CreateWorkspace(
            account_service_pb2.CreateWorkspaceRequest(parent=ACCOUNT, workspace_id="w")
        )
        self.accounts.CreateInput(account_service_pb2.CreateInputRequest(parent=WORKSPACE, input_id="i"))

    def close(self) -> None:
        """Ends the connection."""
        self.channel.close()


class Serving(Stubs):
    """A service in this process; `application` is the object itself, its threads included."""

    def __init__(self, application: Application, config: Config) -> None:
        super().__init__(application.address)
        self.application = application
        self.config = config

    @property
    def outputs(self) -> Path:
        """The directory of file outputs."""
        assert self.config.outputs is not None
        return self.config.outputs

    @property
    def backups(self) -> Path:
        """The directory of backups."""
        assert self.config.backups is not None
        return self.config.backups

    def delivered(self, path: str, connection: str) -> list[dict[str, Any]]:
        """The changes in the file of a connection of `ACCOUNT` whose output has that path."""
        return [event for event in self.sent(path, connection) if "subject" in event]

    def sent(self, path: str, connection: str) -> list[dict[str, Any]]:
        """As `delivered`, with the marks of snapshots."""
        file = self.outputs / "a" / path / f"{connection}.ndjson"
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@contextmanager
def serving(directory: Path, **settings: Any) -> Iterator[Serving]:
    """A service over the store in `directory`, with these settings, of `Config` and of the store; stopped at
    the end.
    """
    with testing.service(directory, account="", **{"readers": READERS, **settings}) as running:
        service = Serving(running.application, running.config)
        try:
            yield service
        finally:
            service.close()


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    """The metadata that authenticates a call."""
    return (("authorization", f"Bearer {secret}"),)


def refusal_of(call: Callable[..., Any], request: Any) -> Refusal:
    """The refusal of the call; fails if the call succeeds."""
    try:
        answer = call(request, timeout=CALL_TIMEOUT_S)
        if hasattr(answer, "__next__"):
            answer = list(answer)
    except grpc.RpcError as error:
        return read_refusal(error)
    raise AssertionError(f"was not refused: {answer}")


def read_refusal(error: grpc.RpcError) -> Refusal:
    """The refusal in an error."""
    info = error_details_pb2.ErrorInfo()
    violations: dict[str, str] = {}
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    if status is not None:
        for detail in status.details:
            bad_request = error_details_pb2.BadRequest()
            if detail.Unpack(bad_request):
                violations = {v.field: v.description for v in bad_request.field_violations}
            else:
                detail.Unpack(info)
    return Refusal(error.code(), error.details() or "", info.reason, dict(info.metadata), violations)


def eventually(condition: Callable[[], T], *, within_s: float = EVENTUALLY_S) -> T:
    """The value of `condition` once it is true; fails after a timeout."""
    deadline = time.monotonic() + within_s
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"still {answer!r} after {within_s} s"
        time.sleep(POLL_S)
