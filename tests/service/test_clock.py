"""A service on a machine with a wrong clock: removals, messages, and confirmation by an operator."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from milepost import Client
from milepost.cli.app import app
from milepost.criteria import event
from milepost.data import make_event
from milepost.outputs import FileOutput
from milepost.v1 import admin_service_pb2 as pb
from milepost.v1.account_pb2 import Account
from milepost.v1.account_service_pb2 import UpdateAccountRequest
from tests.cli_runner import CliRunner
from tests.harness import ACCOUNT, INPUT, Serving, eventually, refusal_of, serving
from tests.stores import settle

DAY_S = 86_400
SETTINGS = {"access_log": "none", "checkpoint_s": 0.05, "retention_interval_s": 0.05}
NANOS = 1_000_000_000


class WallClock:
    """The machine's wall clock, wrong by a number of seconds; the monotonic clock is unchanged."""

    def __init__(self) -> None:
        self.wrong_s = 0
        self._right = time.time_ns

    def __call__(self) -> int:
        return self._right() + self.wrong_s * NANOS


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    wall = WallClock()
    monkeypatch.setattr(time, "time_ns", wall)
    return wall


def fill(directory: Path) -> None:
    """A store with a retention of 30 days and 40 events of today."""
    with serving(directory, **SETTINGS) as service, Client(service.address, account="a") as client:
        service.create_inputs()
        account = Account(name=ACCOUNT, event_retention=Duration(seconds=30 * DAY_S))
        mask = FieldMask(paths=["event_retention"])
        service.accounts.UpdateAccount(UpdateAccountRequest(account=account, update_mask=mask))
        now = datetime.now(UTC)
        client.ingest_events([make_event(f"user-{n}", "buy", now) for n in range(40)], input=INPUT)


def events(service: Serving) -> int:
    """How many events are stored."""
    return service.admin.GetServerInfo(pb.GetServerInfoRequest()).events


def clock_of(service: Serving) -> pb.Clock:
    return service.admin.GetClock(pb.GetClockRequest()).clock


def members(service: Serving, audience: str) -> int:
    """The size of the stored membership; -1 before it is first calculated."""
    membership = service.application.engine.backend.membership(audience)
    return -1 if membership is None else membership.size


def swept(service: Serving) -> int:
    """The events that are left after a sweep of the retention."""
    service.application.engine.retention.run()
    settle(service.application.engine.backend)
    return events(service)


def test_start_with_a_clock_ahead_removes_nothing_until_confirmed(
    tmp_path: Path, wall: WallClock, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path / "store")
    wall.wrong_s = 60 * DAY_S
    with serving(tmp_path / "store", **SETTINGS) as service:
        assert swept(service) == 40
        found = clock_of(service)
        assert found.state == pb.CLOCK_STATE_FOLLOWED
        assert found.time.seconds - found.settled_time.seconds == pytest.approx(60 * DAY_S, abs=120)
        assert 0 < found.wait.seconds <= DAY_S
        (line,) = [
            r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "clock" in r.name
        ]
        assert "59 d 23 h" in line or "60 d" in line
        # 1. Confirming another time fails with the server's time.
        request = pb.ConfirmClockRequest(time=Timestamp(seconds=found.wall_time.seconds - 60 * DAY_S))
        refused = refusal_of(service.admin.ConfirmClock, request)
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CLOCK_DIFFERS")
        refused = refusal_of(service.admin.ConfirmClock, pb.ConfirmClockRequest())
        assert list(refused.violations) == ["time"]
        assert swept(service) == 40
        # 2. Once it is confirmed, what is due goes.
        request = pb.ConfirmClockRequest(time=found.wall_time)
        assert service.admin.ConfirmClock(request).clock.state == pb.CLOCK_STATE_SETTLED
        eventually(lambda: swept(service) == 0)


def test_start_with_clock_trust(tmp_path: Path, wall: WallClock) -> None:
    fill(tmp_path / "store")
    wall.wrong_s = 60 * DAY_S
    with serving(tmp_path / "store", clock="trust", **SETTINGS) as service:
        assert clock_of(service).state == pb.CLOCK_STATE_SETTLED
        eventually(lambda: swept(service) == 0)


@pytest.mark.parametrize("follow_s", [60.0, 0.0])
def test_clock_a_day_ahead_and_back_leaves_memberships_unchanged(
    tmp_path: Path, wall: WallClock, follow_s: float
) -> None:
    """Within the time that answers run on they never notice; after it they do, and it is undone."""
    settings = {**SETTINGS, "clock_follow_s": follow_s, "refresh_interval_ms": 20}
    with (
        serving(tmp_path / "store", **settings) as service,
        Client(service.address, account="a") as client,
    ):
        service.create_inputs()
        client.ensure_journey("j")
        criteria = event("buy", last=timedelta(hours=12)).count() > 0
        audience = client.ensure_milestone("j", "bought", criteria=criteria).audience
        output = client.ensure_output("file", FileOutput(path="out")).name
        client.activate_connection(client.ensure_connection("c", target="j/bought", output=output).name)
        client.ingest_events([make_event("ann", "buy", datetime.now(UTC))], input=INPUT)
        eventually(lambda: members(service, audience) == 1)
        wall.wrong_s = DAY_S
        eventually(lambda: clock_of(service).state != pb.CLOCK_STATE_SETTLED)
        assert client.check("ann", "j/bought") is (follow_s > 0)
        if not follow_s:
            eventually(lambda: members(service, audience) == 0)
        wall.wrong_s = 0
        # Immediately, before any refresh.
        assert client.check("ann", "j/bought")
        assert client.count("j/bought").users == 1
        eventually(lambda: members(service, audience) == 1)
        changes = service.application.engine.backend.changes(audience, 0, 10).changes
        assert [change.entered for change in changes] == ([True] if follow_s else [True, False, True])


def test_the_command_shows_and_confirms_the_clock(tmp_path: Path, wall: WallClock) -> None:
    fill(tmp_path / "store")
    wall.wrong_s = -60 * DAY_S
    with serving(tmp_path / "store", **SETTINGS) as service:
        command = ["store", "clock", "--target", service.address]
        shown = CliRunner().invoke(app, command)
        assert shown.exit_code == 0, shown.output
        assert "it jumped; answers and removals wait" in shown.output
        assert "if it stays steady" in shown.output
        refused = CliRunner().invoke(app, [*command, "--confirm"])
        assert refused.exit_code == 1
        assert "the server's clock shows" in refused.output
        wall.wrong_s = 0
        eventually(lambda: clock_of(service).state == pb.CLOCK_STATE_SETTLED)
        confirmed = CliRunner().invoke(app, [*command, "--confirm"])
        assert confirmed.exit_code == 0, confirmed.output
        assert re_spaced(confirmed.output)["believed"] == "settled"


def re_spaced(output: str) -> dict[str, str]:
    """First and second cell of each line."""
    cells = [line.strip().split("  ", 1) for line in output.splitlines() if "  " in line.strip()]
    return {first: rest.strip() for first, rest in cells}
