"""Logs are one JSON object a line, and the access log tells of the calls it was asked to tell of."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from structlog.testing import capture_logs

from milepost.v1 import account_service_pb2
from service import logs
from tests.harness import refusal_of, serving

LIST = "/milepost.v1.AccountService/ListAccounts"
GET = "/milepost.v1.AccountService/GetAccount"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where configured logs go; the process's own settings are put back at the end."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_an_object(stream: io.StringIO) -> None:
    logs.configure("json", "info", stream)
    structlog.get_logger("milepost.test").info("done", users=3, name="é")
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "done", "level": "info", "logger": "milepost.test", "users": 3, "name": "é"}


def test_libraries_log_in_the_same_form(stream: io.StringIO) -> None:
    logs.configure("json", "warning", stream)
    logging.getLogger("grpc._server").warning("slow %s", "call")
    logging.getLogger("grpc._server").info("not asked for")
    assert [(line["event"], line["logger"]) for line in lines(stream)] == [("slow call", "grpc._server")]


def test_a_traceback_is_a_part_of_the_object(stream: io.StringIO) -> None:
    logs.configure("json", "info", stream)
    try:
        raise KeyError("k")
    except KeyError:
        structlog.get_logger("milepost.test").exception("defect")
    (line,) = lines(stream)
    assert line["exception"][0]["exc_type"] == "KeyError"


def test_for_people_it_is_a_line_of_text(stream: io.StringIO) -> None:
    logs.configure("console", "info", stream)
    structlog.get_logger("milepost.test").info("done", users=3)
    assert "done" in stream.getvalue()
    assert "users=3" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(
    ("access_log", "expected"),
    [
        ("all", [(LIST, "OK", None), (GET, "NOT_FOUND", "RESOURCE_NOT_FOUND")]),
        ("problems", [(GET, "NOT_FOUND", "RESOURCE_NOT_FOUND")]),
        ("none", []),
    ],
)
def test_the_access_log(tmp_path: Path, access_log: str, expected: list[tuple[str, str, str | None]]) -> None:
    with (
        capture_logs() as captured,
        serving(tmp_path / "store", access_log=access_log, slow_call_ms=60_000) as service,
    ):
        service.accounts.ListAccounts(account_service_pb2.ListAccountsRequest())
        request = account_service_pb2.GetAccountRequest(name="accounts/none")
        assert refusal_of(service.accounts.GetAccount, request).code is grpc.StatusCode.NOT_FOUND
    calls = [entry for entry in captured if entry["event"] == "call"]
    assert [(call["method"], call["code"], call.get("reason")) for call in calls] == expected
    assert all(call["elapsed_ms"] >= 0 and call["peer"].startswith("ipv4:127.0.0.1:") for call in calls)
