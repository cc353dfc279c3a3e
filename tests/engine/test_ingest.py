"""Ingestion: rejected rows with reason and path, and accepted ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Engine
from engine.backends.base import EventRecord, UserRecord
from engine.checks import is_longer
from engine.criteria.model import ConsentState
from engine.errors import FailedPrecondition, InvalidInput, NotFound
from engine.ingest import Rejection
from engine.limits import Limits
from engine.resources.records import Account
from engine.values import MICROS_PER_DAY, Value
from tests.engine.site import ACCOUNT, NOW, WEB, Site, did, event

DAY = MICROS_PER_DAY


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "store")
    yield site
    site.engine.close()


def with_attribute(value: Value) -> EventRecord:
    return event("u1", "buy", attributes={"a": value})


@pytest.mark.parametrize(
    ("record", "reason", "field"),
    [
        (event("", "buy"), "REQUIRED", "user_id"),
        (event("u" * 257, "buy"), "NAME_TOO_LONG", "user_id"),
        (event("ü" * 129, "buy"), "NAME_TOO_LONG", "user_id"),
        (event("u1", ""), "REQUIRED", "name"),
        (event("u1", "n" * 257), "NAME_TOO_LONG", "name"),
        (event("u1", "buy", event_id="i" * 257), "VALUE_TOO_LONG", "event_id"),
        (event("u1", "buy", time=NOW + DAY + 1), "EVENT_IN_FUTURE", "time"),
        (event("u1", "buy", time=NOW - 30 * DAY - 1), "EVENT_TOO_OLD", "time"),
        (event("u1", "buy", input=""), "REQUIRED", "input"),
        (event("u1", "buy", input=f"{WEB}x"), "UNKNOWN_INPUT", "input"),
        (event("u1", "buy", input="accounts/rival/workspaces/w/inputs/i"), "UNKNOWN_INPUT", "input"),
        (
            event("u1", "buy", attributes={f"k{n}": 1.0 for n in range(101)}),
            "TOO_MANY_ATTRIBUTES",
            "attributes",
        ),
        (event("u1", "buy", attributes={"": 1.0}), "REQUIRED", "attributes"),
        (event("u1", "buy", attributes={"k" * 257: 1.0}), "NAME_TOO_LONG", f"attributes['{'k' * 64}…']"),
        (with_attribute("x" * 4_097), "VALUE_TOO_LONG", "attributes['a']"),
        (with_attribute(float("nan")), "INVALID_VALUE", "attributes['a']"),
        (with_attribute(float("-inf")), "INVALID_VALUE", "attributes['a']"),
        (with_attribute(10**18), "INVALID_VALUE", "attributes['a']"),
        (with_attribute(("x",) * 1_001), "LIST_TOO_LONG", "attributes['a']"),
        (with_attribute(("x", "y" * 513)), "VALUE_TOO_LONG", "attributes['a']"),
    ],
)
def test_rejected_event_is_reported_and_the_others_are_accepted(
    site: Site, record: EventRecord, reason: str, field: str
) -> None:
    site.engine.accounts.update_account(Account(name=ACCOUNT, event_retention=30 * DAY), {"event_retention"})
    taken = site.engine.ingest.events(ACCOUNT, [event("u1", "buy"), record, event("u2", "buy")])
    assert (taken.accepted, taken.duplicates, taken.repeated) == (2, 0, False)
    (rejection,) = taken.rejections
    assert (rejection.index, rejection.reason, rejection.field) == (1, reason, f"events[1].{field}")
    with pytest.raises(InvalidInput) as refused:
        site.engine.ingest.events(ACCOUNT, [record, record])
    assert refused.value.reason == "BATCH_REFUSED"
    assert [(v.field, v.reason) for v in refused.value.violations] == [
        (f"events[0].{field}", reason),
        (f"events[1].{field}", reason),
    ]


def test_values_at_the_limits_are_accepted(site: Site) -> None:
    site.engine.accounts.update_account(Account(name=ACCOUNT, event_retention=30 * DAY), {"event_retention"})
    rows = [
        event("u" * 256, "n" * 256, event_id="i" * 256),
        event("u1", "buy", time=NOW + DAY),
        event("u1", "buy", time=NOW - 30 * DAY),
        event("u1", "buy", attributes={f"k{n}": 1.0 for n in range(100)}),
        with_attribute("x" * 4_096),
        with_attribute(("x" * 512,) * 1_000),
        with_attribute(True),
        with_attribute(NOW),
        with_attribute(()),
    ]
    taken = site.engine.ingest.events(ACCOUNT, rows)
    assert (taken.accepted, taken.rejections) == (len(rows), ())


def test_without_retention_everything_is_kept(site: Site) -> None:
    assert site.engine.ingest.events(ACCOUNT, [event("u1", "buy", time=-NOW)]).accepted == 1


def test_malformed_rows_keep_their_index(site: Site) -> None:
    malformed = Rejection(0, "INVALID_ARGUMENT", "events[0].time", "is required")
    taken = site.engine.ingest.events(ACCOUNT, [malformed, event("u1", "buy"), event("", "buy")])
    assert taken.accepted == 1
    assert [(r.index, r.field) for r in taken.rejections] == [
        (0, "events[0].time"),
        (2, "events[2].user_id"),
    ]


@pytest.mark.parametrize(
    ("faults", "field"),
    [
        ({"user_id": ""}, "user_id"),
        ({"time": NOW + DAY + 1}, "time"),
        ({"time": 10**18}, "time"),
        ({"input": "nonsense"}, "input"),
        ({"attributes": {"a": "x" * 4_097}}, "attributes['a']"),
        ({"attributes": {"": None}}, "attributes"),
        ({"identities": {"": "x"}}, "identities"),
        ({"identities": {"email": "x" * 4_097}}, "identities['email']"),
        ({"consents": {("", "ads"): ConsentState.GIVEN}}, "consents"),
    ],
)
def test_invalid_user_update_is_rejected(site: Site, faults: dict[str, object], field: str) -> None:
    values: dict[str, object] = {"user_id": "u1", "input": WEB, "time": NOW, **faults}
    good = UserRecord("u2", WEB, NOW, attributes={"a": None}, identities={"email": None})
    taken = site.engine.ingest.users(ACCOUNT, [good, UserRecord(**values)])  # type: ignore[arg-type]
    assert taken.accepted == 1
    assert [rejection.field for rejection in taken.rejections] == [f"users[1].{field}"]


def test_update_may_have_an_old_time(site: Site) -> None:
    site.engine.accounts.update_account(Account(name=ACCOUNT, event_retention=DAY), {"event_retention"})
    assert site.update("u1", {"city": "Rome"}, time=0).accepted == 1


def test_oversized_batch_is_refused(site: Site) -> None:
    engine = Engine(site.backend, limits=Limits(batch_events_max=2), clock=site.clock)
    with pytest.raises(InvalidInput) as refused:
        engine.ingest.events(ACCOUNT, [event("u1", "buy")] * 3)
    assert refused.value.reason == "BATCH_TOO_LARGE"
    assert refused.value.metadata == {"limit": "2", "actual": "3"}
    assert engine.ingest.events(ACCOUNT, [event("u1", "buy")] * 2).accepted == 2


def test_repetitions(site: Site) -> None:
    rows = [event("u1", "buy", event_id="e1"), event("u2", "buy")]
    first = site.engine.ingest.events(ACCOUNT, rows, "batch-1")
    again = site.engine.ingest.events(ACCOUNT, rows, "batch-1")
    assert (again.revision, again.accepted, again.repeated) == (first.revision, 2, True)
    other = site.engine.ingest.events(ACCOUNT, rows)
    assert (other.accepted, other.duplicates) == (1, 1)
    with pytest.raises(InvalidInput):
        site.engine.ingest.events(ACCOUNT, rows, "r" * 257)


def test_a_request_id_is_of_events_or_of_users(site: Site) -> None:
    ingest = site.engine.ingest
    assert ingest.events(ACCOUNT, [event("u1", "buy")], "r").accepted == 1
    updates = [UserRecord(user_id="u2", input=WEB, time=NOW, attributes={"plan": "gold"})]
    assert ingest.users(ACCOUNT, updates, "r").accepted == 1
    assert site.engine.backend.profile(ACCOUNT, "u2") is not None
    assert ingest.events(ACCOUNT, [event("u3", "buy")], "r").repeated
    assert ingest.users(ACCOUNT, updates, "r").repeated
    assert site.engine.backend.profile(ACCOUNT, "u3") is None


def test_aliases_and_erasure(site: Site) -> None:
    site.send([("u1", "a"), ("u2", "b")])
    milestone = site.add("both", did("a"))
    revision = site.engine.ingest.alias(ACCOUNT, "u1", "u2")
    assert site.engine.members.check(milestone.audience, "u2", at_least=revision).member
    with pytest.raises(FailedPrecondition) as cycle:
        site.engine.ingest.alias(ACCOUNT, "u2", "u1")
    assert cycle.value.reason == "ALIAS_CYCLE"
    for source, target in (("", "u1"), ("u1", ""), ("u1", "u1")):
        with pytest.raises(InvalidInput):
            site.engine.ingest.alias(ACCOUNT, source, target)
    assert site.engine.ingest.erase(ACCOUNT, ["u2", "nobody"]).accepted == 1
    assert site.members(milestone) == set()
    with pytest.raises(InvalidInput) as refused:
        site.engine.ingest.erase(ACCOUNT, ["u1", ""])
    assert [v.field for v in refused.value.violations] == ["user_ids[1]"]


def test_unknown_account_is_not_found(site: Site) -> None:
    with pytest.raises(NotFound):
        site.engine.ingest.events("accounts/none", [event("u1", "buy")])
    with pytest.raises(InvalidInput):
        site.engine.ingest.events("none", [])


@pytest.mark.parametrize(("text", "longer"), [("a" * 8, False), ("ü" * 4, False), ("ü" * 5, True)])
def test_lengths_are_measured_in_bytes(text: str, longer: bool) -> None:
    assert is_longer(text, 8) is longer
