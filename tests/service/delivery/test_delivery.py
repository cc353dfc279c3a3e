"""Connections deliver every change in order, across deactivation, kills and failing outputs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format, timestamp_pb2

from engine.audiences.deliveries import Deliveries
from engine.errors import StoreUnavailable
from engine.resources import targets
from engine.resources.records import Connection, Cursor
from milepost.v1 import (
    connection_pb2,
    connection_service_pb2,
    criteria_pb2,
    data_pb2,
    ingest_service_pb2,
    journey_pb2,
    journey_service_pb2,
)
from tests.harness import ACCOUNT, INPUT, Serving, Stubs, eventually, refusal_of, serving

OUTPUTS_PAGE = Path(__file__).resolve().parents[3] / "docs" / "outputs.md"

JOURNEY = f"{ACCOUNT}/journeys/j"
MILESTONE = f"{JOURNEY}/milestones/gold"
CONNECTION = f"{ACCOUNT}/connections/c"
ACTIVE = connection_pb2.CONNECTION_STATE_ACTIVE
FAULTED = connection_pb2.CONNECTION_STATE_FAULTED

GOLD = "user_attribute { key: 'tier' test { equals { string_value: 'gold' } } }"


def set_tier(service: Stubs, users: Iterable[str], tier: str) -> None:
    updates = []
    for user_id in users:
        update = data_pb2.UserUpdate(user_id=user_id)
        update.attributes["tier"].string_value = tier
        update.identities["email"] = f"{user_id}@example.com"
        updates.append(update)
    service.ingest.UpsertUsers(
        ingest_service_pb2.UpsertUsersRequest(parent=ACCOUNT, input=INPUT, users=updates)
    )


def build(service: Stubs) -> str:
    """Three gold users, one silver, a milestone of the gold ones, an output; the milestone's audience."""
    service.create_inputs()
    set_tier(service, ["u1", "u2", "u3"], "gold")
    set_tier(service, ["u4"], "silver")
    service.journeys.CreateJourney(journey_service_pb2.CreateJourneyRequest(parent=ACCOUNT, journey_id="j"))
    criteria = text_format.Parse(GOLD, criteria_pb2.Criteria())
    milestone = service.journeys.CreateMilestone(
        journey_service_pb2.CreateMilestoneRequest(
            parent=JOURNEY,
            milestone_id="gold",
            milestone=journey_pb2.Milestone(display_name="Gold", criteria=criteria),
        )
    ).milestone
    service.connections.CreateOutput(
        connection_service_pb2.CreateOutputRequest(
            parent=ACCOUNT,
            output_id="o",
            output=connection_pb2.Output(file=connection_pb2.FileOutput(path="exports")),
        )
    )
    return milestone.audience


def connect(
    service: Stubs, audience: str, connection_id: str = "c", output_id: str = "o", **fields: Any
) -> None:
    """Connects the audience to the output and activates the connection."""
    output = f"{ACCOUNT}/outputs/{output_id}"
    connection = connection_pb2.Connection(audience=audience, output=output, **fields)
    connection.batching.max_age.FromMilliseconds(20)
    service.connections.CreateConnection(
        connection_service_pb2.CreateConnectionRequest(
            parent=ACCOUNT, connection_id=connection_id, connection=connection
        )
    )
    activate(service, connection_id)


def activate(service: Stubs, connection_id: str = "c") -> None:
    service.connections.ActivateConnection(
        connection_service_pb2.ActivateConnectionRequest(name=f"{ACCOUNT}/connections/{connection_id}")
    )


def deactivate(service: Serving) -> None:
    service.connections.DeactivateConnection(
        connection_service_pb2.DeactivateConnectionRequest(name=CONNECTION)
    )


def get(service: Serving, connection_id: str = "c") -> connection_pb2.Connection:
    return service.connections.GetConnection(
        connection_service_pb2.GetConnectionRequest(name=f"{ACCOUNT}/connections/{connection_id}")
    ).connection


def told(service: Serving, connection_id: str = "c") -> list[tuple[str, str]]:
    """(user, "entered" or "exited") of every event in the connection's file, in order."""
    events = service.delivered("exports", connection_id)
    return [(event["subject"], event["type"].rsplit(".", 1)[-1]) for event in events]


def wait_for(service: Serving, count: int, connection_id: str = "c") -> list[tuple[str, str]]:
    """The events of the file once it has that many and the cursor is past them."""
    eventually(lambda: len(told(service, connection_id)) >= count)
    eventually(lambda: get(service, connection_id).delivered_sequence >= 1)
    return told(service, connection_id)


def test_members_first_then_changes_in_order(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as service:
        connect(service, build(service))
        assert sorted(wait_for(service, 3)) == [("u1", "entered"), ("u2", "entered"), ("u3", "entered")]
        set_tier(service, ["u4"], "gold")
        assert wait_for(service, 4)[3:] == [("u4", "entered")]
        set_tier(service, ["u2"], "silver")
        assert wait_for(service, 5)[4:] == [("u2", "exited")]
        events = service.delivered("exports", "c")
        assert [event["data"]["sequence"] for event in events] == [1, 2, 3, 4, 5]
        assert len({(event["source"], event["id"]) for event in events}) == 5
        page = OUTPUTS_PAGE.read_text(encoding="utf-8")
        documented = json.loads(page.split("```json\n")[1].split("```")[0])
        assert [*events[0], *events[0]["data"]] == [*documented, *documented["data"]]
        assert [event["data"]["last_of_instant"] for event in events] == [False, False, False, True, True]
        begin, *members, end, _, _ = service.sent("exports", "c")
        assert members == events[:3]
        assert (begin["type"], end["type"]) == ("milepost.snapshot.begin", "milepost.snapshot.end")
        assert (begin["data"]["sequence"], end["data"]["sequence"]) == (0, 3)
        assert {event["data"]["epoch"] for event in (begin, *events, end)} == {get(service).epoch}
        assert all(event["id"].startswith(f"{get(service).epoch}.") for event in (begin, *events, end))
        eventually(lambda: get(service).delivered_sequence == 5)


def test_event_is_a_cloudevent_with_the_opted_in_fields(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as service:
        audience = build(service)
        connect(service, audience, identities=["email", "phone"], attributes=["tier"])
        wait_for(service, 3)
        event = next(e for e in service.delivered("exports", "c") if e["subject"] == "u1")
        as_of = event["time"]
        assert event == {
            "specversion": "1.0",
            "id": event["id"],
            "source": f"/{audience}",
            "type": "milepost.membership.entered",
            "subject": "u1",
            "time": as_of,
            "datacontenttype": "application/json",
            "data": {
                "audience": audience,
                "display_name": "Gold",
                "external_name": "",
                "milestone": MILESTONE,
                "journey": JOURNEY,
                "epoch": get(service).epoch,
                "user_id": "u1",
                "entered": True,
                "sequence": event["data"]["sequence"],
                "last_of_instant": False,
                "as_of": as_of,
                "identities": {"email": "u1@example.com"},
                "attributes": {"tier": "gold"},
            },
        }
        assert as_of.startswith("20")
        assert as_of.endswith("Z")


def test_identities_and_attributes_are_not_sent_by_default(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as service:
        connect(service, build(service))
        wait_for(service, 3)
        for event in service.delivered("exports", "c"):
            assert not {"identities", "attributes"} & set(event["data"])


def test_delivery_resumes_after_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as service:
        connect(service, build(service))
        before = wait_for(service, 3)
        eventually(lambda: get(service).delivered_sequence == 3)
    with serving(tmp_path / "store") as service:
        set_tier(service, ["u4"], "gold")
        assert wait_for(service, 4) == [*before, ("u4", "entered")]


def test_batch_with_a_lost_cursor_is_not_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Deliveries.advance

    def lose(
        self: Deliveries, connection: Connection, cursor: Cursor, *, sent: bool = True
    ) -> Connection | None:
        if connection.epoch:
            raise StoreUnavailable("killed before the cursor was stored")
        return advance(self, connection, cursor, sent=sent)

    with serving(tmp_path / "store") as service:
        audience = build(service)
        monkeypatch.setattr(Deliveries, "advance", lose)
        connect(service, audience)
        before = eventually(lambda: told(service) if len(told(service)) == 3 else [])
        assert get(service).delivered_sequence == 0
    monkeypatch.undo()
    with serving(tmp_path / "store") as service:
        set_tier(service, ["u4"], "gold")
        assert wait_for(service, 4) == [*before, ("u4", "entered")]


def test_second_connection_of_a_calculated_audience_gets_current_members(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as service:
        audience = build(service)
        connect(service, audience)
        wait_for(service, 3)
        set_tier(service, ["u2"], "silver")
        wait_for(service, 4)
        connect(service, audience, "second", batching=connection_pb2.Batching(max_changes=1))
        assert sorted(wait_for(service, 2, "second")) == [("u1", "entered"), ("u3", "entered")]
        set_tier(service, ["u2", "u4"], "gold")
        set_tier(service, ["u1"], "silver")
        changes = {("u1", "exited"), ("u2", "entered"), ("u4", "entered")}
        assert set(wait_for(service, 7)[4:]) == changes
        assert wait_for(service, 5, "second")[2:] == told(service)[4:]


def test_reactivation_sends_all_current_members(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as service:
        connect(service, build(service))
        wait_for(service, 3)
        deactivate(service)
        set_tier(service, ["u1"], "silver")
        set_tier(service, ["u4"], "gold")
        time.sleep(0.5)
        assert len(told(service)) == 3
        activate(service)
        again = wait_for(service, 6)[3:]
        assert sorted(again) == [("u2", "entered"), ("u3", "entered"), ("u4", "entered")]


def test_failing_output_faults_the_connection_until_resumed(tmp_path: Path) -> None:
    with serving(tmp_path / "store", output_dir=tmp_path / "out", retry_budget_s=0.2) as service:
        audience = build(service)
        (tmp_path / "out").rmdir()
        (tmp_path / "out").write_text("a file where the directory should be")
        connect(service, audience)
        eventually(lambda: get(service).state == FAULTED)
        faulted = get(service)
        assert "Not a directory" in faulted.fault or "File exists" in faulted.fault
        assert faulted.delivered_sequence == 0
        set_tier(service, ["u4"], "gold")
        (tmp_path / "out").unlink()
        resume = connection_service_pb2.ResumeConnectionRequest(name=CONNECTION)
        assert service.connections.ResumeConnection(resume).connection.state == ACTIVE
        assert sorted(wait_for(service, 4)) == [(f"u{n}", "entered") for n in (1, 2, 3, 4)]


def test_a_saved_path_that_is_too_deep_faults_the_connection_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs of earlier builds had no limit on their paths."""
    with serving(tmp_path / "store", retry_budget_s=600) as service:
        audience = build(service)
        with monkeypatch.context() as earlier:
            earlier.setattr(targets, "OUTPUT_PATH_FOLDERS_MAX", 10_000)
            earlier.setattr(targets, "OUTPUT_PATH_BYTES_MAX", 10_000)
            output = connection_pb2.Output(file=connection_pb2.FileOutput(path="a/" * 1_500))
            service.connections.CreateOutput(
                connection_service_pb2.CreateOutputRequest(parent=ACCOUNT, output_id="deep", output=output)
            )
        connect(service, audience, output_id="deep")
        eventually(lambda: get(service).state == FAULTED)
        assert get(service).fault == (
            f"the path of {ACCOUNT}/outputs/deep is longer than 1024 bytes: change it with UpdateOutput"
        )
        changed = connection_pb2.Output(
            name=f"{ACCOUNT}/outputs/deep", file=connection_pb2.FileOutput(path="exports")
        )
        service.connections.UpdateOutput(connection_service_pb2.UpdateOutputRequest(output=changed))
        service.connections.ResumeConnection(connection_service_pb2.ResumeConnectionRequest(name=CONNECTION))
        assert len(wait_for(service, 3)) == 3


def test_output_that_recovers_within_its_budget_loses_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "store", output_dir=tmp_path / "out", retry_budget_s=600) as service:
        audience = build(service)
        (tmp_path / "out").rmdir()
        (tmp_path / "out").write_text("a file where the directory should be")
        connect(service, audience)
        time.sleep(0.3)
        (tmp_path / "out").unlink()
        assert len(wait_for(service, 3)) == 3
        assert get(service).state == ACTIVE


def test_last_exits_are_sent_when_a_milestone_is_deleted(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as service:
        connect(service, build(service))
        wait_for(service, 3)
        service.journeys.DeleteMilestone(journey_service_pb2.DeleteMilestoneRequest(name=MILESTONE))
        eventually(lambda: len(told(service)) == 6)
        assert sorted(told(service)[3:]) == [("u1", "exited"), ("u2", "exited"), ("u3", "exited")]
        request = connection_service_pb2.ListConnectionsRequest(parent=ACCOUNT)
        eventually(lambda: not service.connections.ListConnections(request).connections)


def test_waiting_deliveries_follow_updates_replays_and_new_activations(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as service:
        connect(service, build(service))
        before = wait_for(service, 3)
        connections = service.application.engine.connections
        # 1. Activated anew before the dispatcher looked, it sends the members again.
        for again in (2, 3):
            deactivate(service)
            activate(service)
            assert sorted(wait_for(service, 3 * again)[-3:]) == sorted(before)
            eventually(lambda: not connections.get_connection(CONNECTION).cursor.in_snapshot)
        # 2. It waits for changes after its cursor, which moves back.
        service.connections.ReplayConnection(
            connection_service_pb2.ReplayConnectionRequest(
                name=CONNECTION, start_time=timestamp_pb2.Timestamp()
            )
        )
        assert sorted(wait_for(service, 12)[-3:]) == sorted(before)
        future = timestamp_pb2.Timestamp()
        future.FromSeconds(int(time.time()) + 3_600)
        refusal = refusal_of(
            service.connections.ReplayConnection,
            connection_service_pb2.ReplayConnectionRequest(name=CONNECTION, start_time=future),
        )
        assert list(refusal.violations) == ["start_time"]
        # 3. A batch that waits for an hour is sent once it may wait for less.
        changed = connection_pb2.Connection(name=CONNECTION)
        for max_age_ms in (3_600_000, 20):
            changed.batching.max_age.FromMilliseconds(max_age_ms)
            service.connections.UpdateConnection(
                connection_service_pb2.UpdateConnectionRequest(connection=changed)
            )
            if max_age_ms > 20:
                set_tier(service, ["u4"], "gold")
                eventually(lambda: get(service).delivery.pending_changes == 1)
                assert len(told(service)) == 12
        assert wait_for(service, 13)[12:] == [("u4", "entered")]
