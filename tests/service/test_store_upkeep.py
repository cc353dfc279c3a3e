"""A store's figures, verification, backup and restore through gRPC, and damage as callers see it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from engine.backends.base import upkeep_of
from engine.backends.local.storage.keys import Family, family_of
from engine.backends.local.storage.transactions import CHECKSUM_BYTES
from milepost.v1 import admin_service_pb2, audience_service_pb2, ingest_service_pb2, journey_service_pb2
from milepost.v1.criteria_pb2 import Criteria
from milepost.v1.data_pb2 import Event, UserUpdate
from milepost.v1.journey_pb2 import MILESTONE_KIND_CRITERIA, Journey, Milestone
from service import offline
from tests.harness import ACCOUNT, INPUT, Serving, refusal_of, serving
from tests.stores import settle

EVENTS, USERS = 300, 100
NOON = Timestamp(seconds=1_750_000_000)

VERIFY = admin_service_pb2.VerifyStoreRequest()
STATS = admin_service_pb2.GetStoreStatsRequest()


def create_milestone(service: Serving, milestone_id: str, criteria: Criteria) -> None:
    """A journey of that name, and a milestone in it, of that name too."""
    journey = Journey(display_name=milestone_id)
    service.journeys.CreateJourney(
        journey_service_pb2.CreateJourneyRequest(parent=ACCOUNT, journey_id=milestone_id, journey=journey)
    )
    milestone = Milestone(display_name=milestone_id, kind=MILESTONE_KIND_CRITERIA, criteria=criteria)
    service.journeys.CreateMilestone(
        journey_service_pb2.CreateMilestoneRequest(
            parent=f"{ACCOUNT}/journeys/{milestone_id}", milestone_id=milestone_id, milestone=milestone
        )
    )


def fill(service: Serving) -> str:
    """Users with events and an attribute each, and a journey that asks for either; the last revision."""
    service.create_inputs()
    events = [
        Event(time=NOON, user_id=f"user-{i % USERS}", name="buy", event_id=str(i)) for i in range(EVENTS)
    ]
    service.ingest.IngestEvents(
        ingest_service_pb2.IngestEventsRequest(parent=ACCOUNT, input=INPUT, events=events)
    )
    users = [UserUpdate(user_id=f"user-{i}") for i in range(USERS)]
    for user in users:
        user.attributes["plan"].string_value = "gold"
    answer = service.ingest.UpsertUsers(
        ingest_service_pb2.UpsertUsersRequest(parent=ACCOUNT, input=INPUT, users=users)
    )
    buys, has_plan = Criteria(), Criteria()
    buys.event.name = "buy"
    has_plan.user_attribute.key = "plan"
    has_plan.user_attribute.test.exists.SetInParent()
    for milestone_id, criteria in (("buys", buys), ("has-plan", has_plan)):
        create_milestone(service, milestone_id, criteria)
    settle(service.application.engine.backend)
    return str(answer.revision)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "store", access_log="none") as running:
        yield running


def count_request(milestone: str) -> audience_service_pb2.CountAudienceRequest:
    name = f"{ACCOUNT}/journeys/{milestone}/milestones/{milestone}"
    return audience_service_pb2.CountAudienceRequest(name=name)


def damage(service: Serving, family: Family) -> None:
    """Flips a bit in every value of a family, leaving its checksum."""
    environment = service.application.engine.backend._store.index  # type: ignore[attr-defined]
    with environment._env.begin(write=True) as txn:
        damaged = 0
        for stored, value in list(txn.cursor()):
            if family_of(stored) is family:
                txn.put(stored, value[:CHECKSUM_BYTES] + bytes([value[CHECKSUM_BYTES] ^ 1]) + value[9:])
                damaged += 1
    assert damaged > 0


def test_figures(service: Serving) -> None:
    revision = fill(service)
    stats = service.admin.GetStoreStats(STATS)
    assert (stats.users, stats.events, stats.purging) == (USERS, EVENTS, False)
    assert stats.revision == stats.checkpointed_revision == revision
    keys = {kind.kind: kind.keys for kind in stats.kinds}
    assert keys["profiles"] == USERS
    assert keys["log"] == 0
    assert keys["resources"] > 0
    assert all(bool(kind.keys) == bool(kind.bytes) for kind in stats.kinds)
    assert [file.name for file in stats.files] == ["index", "log"]
    info = service.admin.GetServerInfo(admin_service_pb2.GetServerInfoRequest())
    assert sum(file.used_bytes + file.free_bytes for file in stats.files) == info.disk_bytes


def test_a_sound_store(service: Serving) -> None:
    revision = fill(service)
    *_, last = service.admin.VerifyStore(VERIFY)
    assert last.result.faults == 0
    assert last.result.revision == revision
    keys = {family.family: family.keys for family in last.result.families}
    assert set(keys) == {family.name for family in Family}
    assert keys["PROFILE"] == USERS


@pytest.mark.parametrize(
    ("family", "fails", "works"),
    [(Family.EVENT_COLUMN, "buys", "has-plan"), (Family.FIELD_PRESENT, "has-plan", "buys")],
    ids=["EVENT_COLUMN", "FIELD_PRESENT"],
)
def test_damage_is_reported_to_callers_and_operators(
    tmp_path: Path, family: Family, fails: str, works: str
) -> None:
    with serving(tmp_path / "store", access_log="none") as service:
        fill(service)
    with serving(tmp_path / "store", access_log="none") as service:
        damage(service, family)
        refusal = refusal_of(service.audiences.CountAudience, count_request(fails))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.DATA_LOSS, "DATA_LOSS")
        assert refusal.metadata == {"key_family": family.name}
        # What does not need it goes on, with the right figure.
        assert service.audiences.CountAudience(count_request(works)).users == USERS
        found = list(service.admin.VerifyStore(VERIFY))
        faults = [each.fault for each in found if each.HasField("fault")]
        assert {fault.family for fault in faults} == {family.name}
        assert found[-1].result.faults == len(faults) > 0
        assert service.admin.GetStoreStats(STATS).users == USERS


def test_a_backup_is_restored_under_another_id(service: Serving, tmp_path: Path) -> None:
    revision = fill(service)
    made = service.admin.CreateBackup(admin_service_pb2.CreateBackupRequest(backup_id="first"))
    assert made.revision == revision
    restored = offline.restore(Path(made.directory), tmp_path / "restored")
    assert (restored.users, restored.events) == (USERS, EVENTS)
    assert restored.store_id != service.admin.GetStoreStats(STATS).store_id
    with serving(tmp_path / "restored", access_log="none") as again:
        answer = again.audiences.CountAudience(count_request("buys"))
        assert answer.users == USERS
        # What is read without a service is not signed.
        assert answer.evaluation.revision.startswith(f"{restored.revision}.")
        # A revision of the store that the backup is of says nothing here, however low it is.
        asked = count_request("buys")
        asked.at_least = revision
        refusal = refusal_of(again.audiences.CountAudience, asked)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REVISION")
        asked.at_least = answer.evaluation.revision
        assert again.audiences.CountAudience(asked).users == USERS


def contradict(service: Serving) -> None:
    """Removes the record of which users have an attribute: every checksum stays right."""
    environment = service.application.engine.backend._store.index  # type: ignore[attr-defined]
    with environment.writing() as txn:
        assert txn.delete_prefix(bytes([Family.FIELD_PRESENT.code])) > 0


@pytest.mark.parametrize("hurt", ["PROFILE", "EVENT_COLUMN", "contradiction"])
def test_a_damaged_store_is_not_backed_up(tmp_path: Path, hurt: str) -> None:
    with serving(tmp_path / "store", access_log="none") as service:
        fill(service)
        create = admin_service_pb2.CreateBackupRequest
        sound = Path(service.admin.CreateBackup(create(backup_id="sound")).directory)
        if hurt == "contradiction":
            contradict(service)
        else:
            damage(service, Family[hurt])
        refusal = refusal_of(service.admin.CreateBackup, create(backup_id="damaged"))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.DATA_LOSS, "DATA_LOSS")
        family = "FIELD_PRESENT" if hurt == "contradiction" else hurt
        assert family in refusal.metadata["key_family"] or hurt == "contradiction"
        assert "was not copied" in refusal.message
        assert [path.name for path in sound.parent.iterdir()] == ["sound"]


def test_one_verification_at_a_time(service: Serving) -> None:
    fill(service)
    under_way = upkeep_of(service.application.engine.backend).verify()
    next(under_way)
    refusal = refusal_of(service.admin.VerifyStore, VERIFY)
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refusal.reason == "VERIFICATION_UNDER_WAY"
    under_way.close()  # type: ignore[attr-defined]
    *_, last = service.admin.VerifyStore(VERIFY)
    assert last.result.faults == 0
