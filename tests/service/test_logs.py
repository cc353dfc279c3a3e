"""Logs are one JSON object per line, and the access log contains the configured calls."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from structlog.testing import capture_logs

from engine.stalls import StallLog
from milepost import Client, make_event, make_user_update
from milepost.criteria import attribute
from milepost.errors import FailedPrecondition, NotFound
from milepost.outputs import FileOutput
from milepost.v1 import (
    account_pb2,
    account_service_pb2,
    admin_service_pb2,
    audience_service_pb2,
    data_pb2,
    ingest_service_pb2,
)
from service import logs
from service.telemetry.line_limit import KINDS_MAX, LineLimit
from tests.harness import ACCOUNT, INPUT, eventually, refusal_of, serving
from tests.service_log import keep_apart

LIST = "/milepost.v1.AccountService/ListAccounts"
GET = "/milepost.v1.AccountService/GetAccount"
UPDATE = "/milepost.v1.AccountService/UpdateAccount"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where configured logs go; the process's own settings are put back at the end."""
    root = logging.getLogger()
    handlers, level, hook = list(root.handlers), root.level, threading.excepthook
    yield io.StringIO()
    root.handlers, root.level, threading.excepthook = handlers, level, hook
    keep_apart()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_log_line_is_a_json_object(stream: io.StringIO) -> None:
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


SECRET = "ann-4711"


def fail_with(user_id: str) -> None:
    """Raises errors that have a user id in locals, message and notes, in a chain and in a group."""
    profile = {"user": user_id, "list": [user_id]}
    try:
        raise KeyError(user_id)
    except KeyError as error:
        grouped = ExceptionGroup(f"of {user_id}", [ValueError(profile), OSError(28, "No space left")])
        grouped.add_note(user_id)
        raise grouped from error


def fail_in_service(stream: io.StringIO, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provokes a defect within a call that has a user id."""
    with serving(directory / "store", access_log="all") as service:
        members = service.application.engine.members
        monkeypatch.setattr(members, "check", lambda audience, user_id, **_: fail_with(user_id))
        request = audience_service_pb2.CheckMembershipRequest(audience="accounts/a", user_id=SECRET)
        refusal = refusal_of(service.audiences.CheckMembership, request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert SECRET not in refusal.message
    assert refusal.metadata["correlation_id"] in stream.getvalue()


def fail_in_library() -> None:
    try:
        fail_with(SECRET)
    except ExceptionGroup:
        logging.getLogger("engine.test").exception("defect")


def fail_in_thread() -> None:
    thread = threading.Thread(target=fail_with, args=(SECRET,))
    thread.start()
    thread.join()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_tracebacks_show_no_data_of_users(
    stream: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_format: logs.LogFormat
) -> None:
    logs.configure(log_format, "info", stream)
    fail_in_service(stream, tmp_path, monkeypatch)
    fail_in_library()
    fail_in_thread()
    text = stream.getvalue()
    assert SECRET not in text
    # Each of the three says where, and of which kind each of the four errors was.
    for name in ("ExceptionGroup", "KeyError", "ValueError", "OSError", "No space left"):
        assert text.count(name) >= 3, name
    assert text.count("in fail_with" if log_format == "console" else '"name": "fail_with"') >= 3
    assert text.count("thread failed") == 1


def test_console_format_is_one_line_of_text(stream: io.StringIO) -> None:
    logs.configure("console", "info", stream)
    structlog.get_logger("milepost.test").info("done", users=3)
    assert "done" in stream.getvalue()
    assert "users=3" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(
    ("access_log", "expected"),
    [
        (
            "all",
            [
                (LIST, "OK", None),
                (GET, "NOT_FOUND", "RESOURCE_NOT_FOUND"),
                (GET, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
                (UPDATE, "NOT_FOUND", "RESOURCE_NOT_FOUND"),
            ],
        ),
        (
            "problems",
            [
                (GET, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
                (UPDATE, "NOT_FOUND", "RESOURCE_NOT_FOUND"),
            ],
        ),
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
        malformed = account_service_pb2.GetAccountRequest(name="none")
        assert refusal_of(service.accounts.GetAccount, malformed).code is grpc.StatusCode.INVALID_ARGUMENT
        change = account_service_pb2.UpdateAccountRequest(account=account_pb2.Account(name="accounts/none"))
        assert refusal_of(service.accounts.UpdateAccount, change).code is grpc.StatusCode.NOT_FOUND
    calls = [entry for entry in captured if entry["event"] == "call"]
    assert [(call["method"], call["code"], call.get("reason")) for call in calls] == expected
    assert all(call["elapsed_ms"] >= 0 and call["peer"].startswith("ipv4:127.0.0.1:") for call in calls)


def test_calls_that_are_alike_are_counted_beyond_the_limit(tmp_path: Path) -> None:
    with (
        capture_logs() as captured,
        serving(tmp_path / "store", access_log_lines_max=3, slow_call_ms=60_000) as service,
    ):
        missing = account_service_pb2.UpdateAccountRequest(account=account_pb2.Account(name="accounts/none"))
        for _ in range(20):
            refusal_of(service.accounts.UpdateAccount, missing)
        malformed = account_service_pb2.GetAccountRequest(name="none")
        refusal_of(service.accounts.GetAccount, malformed)
    calls = [(line["method"], line["code"]) for line in captured if line["event"] == "call"]
    left_out = [line for line in captured if line["event"] == "calls not logged"]
    # A period may end in between; each has its own lines.
    periods = len(left_out)
    assert periods >= 1
    assert 3 <= calls.count((UPDATE, "NOT_FOUND")) <= 3 * (periods + 1)
    assert calls.count((UPDATE, "NOT_FOUND")) + sum(line["calls"] for line in left_out) == 20
    assert calls.count((GET, "INVALID_ARGUMENT")) == 1
    assert {(line["method"], line["code"], line["reason"]) for line in left_out} == {
        (UPDATE, "NOT_FOUND", "RESOURCE_NOT_FOUND")
    }


def test_a_log_of_all_calls_leaves_none_out(tmp_path: Path) -> None:
    with (
        capture_logs() as captured,
        serving(tmp_path / "store", access_log="all", access_log_lines_max=1) as service,
    ):
        for _ in range(5):
            service.accounts.ListAccounts(account_service_pb2.ListAccountsRequest())
    assert len([line for line in captured if line["event"] == "call"]) == 5


def test_kinds_of_lines_are_bounded() -> None:
    limit = LineLimit(1)
    for number in range(3 * KINDS_MAX):
        limit.admits((f"/m{number}", "OK", ""))
    left_out = limit.begin_period()
    assert left_out == {("others", "", ""): 2 * KINDS_MAX - 1}
    assert limit.begin_period() == {}
    assert limit.admits(("/m", "OK", ""))


def test_without_a_limit_every_line_is_admitted() -> None:
    limit = LineLimit(0)
    assert all(limit.admits(("/m", "OK", "")) for _ in range(100))
    assert limit.begin_period() == {}


def test_a_stream_that_was_open_for_long_is_no_slow_call(tmp_path: Path) -> None:
    with capture_logs() as captured, serving(tmp_path / "store", slow_call_ms=1) as service:
        service.create_inputs()
        waited = threading.Event()

        def requests() -> Iterator[ingest_service_pb2.StreamEventsRequest]:
            waited.wait(0.2)
            yield from ()

        assert list(service.ingest.StreamEvents(requests())) == []
    assert not [line for line in captured if line["event"] == "call" and "Stream" in line["method"]]


def test_lines_on_what_the_store_does(tmp_path: Path, stream: io.StringIO) -> None:
    logs.configure("json", "info", stream)
    with serving(tmp_path / "store", checkpoint_s=3_600.0) as service:
        service.create_inputs()
        event = data_pb2.Event(user_id=SECRET, name="open")
        event.time.GetCurrentTime()
        service.ingest.IngestEvents(
            ingest_service_pb2.IngestEventsRequest(parent=ACCOUNT, input=INPUT, events=[event])
        )
        service.admin.CreateBackup(admin_service_pb2.CreateBackupRequest(backup_id="nightly"))
        service.admin.DeleteBackup(admin_service_pb2.DeleteBackupRequest(name="backups/nightly"))
    found = {line["event"]: line for line in lines(stream)}
    written = found["backup written"]
    assert (written["backup"], written["revision"]) == ("nightly", found["store opened"]["revision"] + 1)
    assert written["size_bytes"] > 0
    assert found["backup deleted"]["backup"] == "nightly"
    checkpoint = found["checkpoint"]
    assert checkpoint["logger"].startswith("engine.")
    assert (checkpoint["records"], checkpoint["revision"]) == (1, found["store opened"]["revision"] + 1)
    assert checkpoint["log_bytes"] > 0
    assert checkpoint["written_bytes"] > 0
    assert checkpoint["seconds"] >= 0


def test_a_stall_is_one_line_and_a_count_of_the_others(stream: io.StringIO) -> None:
    logs.configure("json", "info", stream)
    stalls = StallLog(logging.getLogger("engine.test"), "waiting for a disk", limit_s=2.0)
    stalls.report(1.9)
    assert lines(stream) == []
    for seconds in (2.0, 3.0, 4.0):
        stalls.report(seconds)
    [line] = lines(stream)
    assert (line["event"], line["what"], line["seconds"], line["not_logged"]) == (
        "stall",
        "waiting for a disk",
        2.0,
        0,
    )
    stalls._quiet_until = 0.0
    stalls.report(5.0)
    assert [line["not_logged"] for line in lines(stream)] == [0, 2]


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "monitoring.md").read_text(encoding="utf-8")
SOURCES = [
    path for room in ("service", "engine") for path in (Path(logs.__file__).parents[1] / room).rglob("*.py")
]


def test_every_line_on_the_page_on_monitoring_is_in_the_code() -> None:
    table = PAGE.partition("<!-- lines")[2].partition("<!-- end -->")[0]
    rows = re.findall(r"^\| (`.+?`) \| ([a-z, ]+) \|", table, re.MULTILINE)
    assert len(rows) > 20
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    for events, levels in rows:
        # Some lines end with what happened.
        names = [name.removesuffix("…") for name in re.findall(r"`([^`]+)`", events)]
        for name, level in zip(names, (levels.split(", ") * 2)[: len(names)], strict=True):
            methods = "(?:error|exception)" if level == "error" else level
            pattern = rf"\.{methods}\(\s*f?\"{re.escape(name)}"
            assert re.search(pattern, text), f"{name} is no line of level {level}"


def test_no_line_has_data_of_users(tmp_path: Path, stream: io.StringIO) -> None:
    logs.configure("json", "debug", stream)
    user = SECRET
    with (
        serving(tmp_path / "store", access_log="all", checkpoint_s=0.05) as service,
        Client(service.address, account="a") as client,
    ):
        service.create_inputs()
        folder = service.outputs / "a"
        folder.mkdir(parents=True)
        (folder / "f").write_text("in the way")
        update = make_user_update(user, {"mail": f"{user}@x"}, identities={"email": f"{user}@x"})
        client.upsert_users([update], input="w/i")
        events = [make_event(user, "open", datetime.now(UTC), {"note": user}, event_id=user)] * 2
        client.ingest_events(events, input="w/i")
        client.ensure_journey("j")
        client.ensure_milestone("j", "m", criteria=attribute("mail").equals(f"{user}@x"))
        output = client.ensure_output("o", FileOutput(path="f"))
        client.ensure_connection("c", target="j/m", output=output.name)
        client.activate_connection("c")
        eventually(lambda: "output failed" in stream.getvalue())
        assert client.check(user, "j/m")
        client.explain_membership(user, "j/m")
        assert list(client.list_members("j/m")) == list(client.export_members("j/m")) == [user]
        client.get_user(user)
        list(client.list_user_audiences(user))
        client.alias_user(f"{user}-2", user)
        with pytest.raises(FailedPrecondition):
            client.alias_user(user, f"{user}-2")
        with pytest.raises(NotFound):
            client.get_user(f"{user}-3")
        # Rejected, as it is too long.
        client.ingest_events([make_event(user * 100, "open", datetime.now(UTC))], input="w/i")
        client.delete_users([user])
    text = stream.getvalue()
    assert len(text.splitlines()) > 20
    assert SECRET not in text
