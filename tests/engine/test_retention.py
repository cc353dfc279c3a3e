"""Retention: what is removed, when, and what stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.backends.base import NameSpan
from engine.backends.local import backend as backend_module
from engine.errors import LimitExceeded
from engine.resources.records import Account, Input, Milestone, Workspace
from engine.values import MICROS_PER_DAY
from tests.engine.site import ACCOUNT, NOW, WEB, Site, did, event
from tests.stores import settle

DAY = MICROS_PER_DAY
MIDNIGHT = NOW // DAY * DAY


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "store")
    yield site
    site.engine.close()


def retain(site: Site, micros: int, account: str = ACCOUNT) -> None:
    site.engine.accounts.update_account(Account(name=account, event_retention=micros), {"event_retention"})


def events_left(site: Site) -> list[int]:
    """Age of the first and the last event before the last midnight; empty without events."""
    facts = site.backend.event_names(ACCOUNT, limit=10)
    return [MIDNIGHT - time for found in facts for time in (found.first_time, found.last_time)]


def test_events_are_removed_a_day_after_the_retention(site: Site) -> None:
    for before_midnight in (8 * DAY, 9 * DAY, 9 * DAY + 1, 20 * DAY):
        site.send([("u1", "a")], time=MIDNIGHT - before_midnight)
    site.engine.retention.run()
    assert events_left(site) == [20 * DAY, 8 * DAY]
    retain(site, 8 * DAY)
    site.engine.retention.run()
    # It is noon: nine days ago is within the day that is kept for questions about the past.
    assert events_left(site) == [9 * DAY, 8 * DAY]
    site.clock.now = MIDNIGHT + DAY - 1
    site.engine.retention.run()
    assert events_left(site) == [9 * DAY, 8 * DAY]
    site.clock.now = MIDNIGHT + DAY
    site.engine.retention.run()
    assert events_left(site) == [8 * DAY, 8 * DAY]


def test_reads_about_yesterday_find_all_events(site: Site) -> None:
    retain(site, 8 * DAY)
    site.send([("u1", "a")], time=NOW - 8 * DAY)
    milestone = site.add("ever", did("a"))
    for later in range(25):
        site.clock.now = NOW + later * DAY // 24
        site.engine.retention.run()
        assert counted(site, milestone, NOW) == 1
        assert counted(site, milestone, site.clock.now) == (0 if later else 1)


def counted(site: Site, milestone: Milestone, as_of: int) -> int:
    """Number of users of a milestone."""
    return site.engine.sizes.count(milestone.name, as_of=as_of).users


def test_users_outlive_their_events(site: Site) -> None:
    site.send([("u1", "a")], time=NOW - 100 * DAY)
    site.update("u1", {"plan": "gold"}, time=NOW - 100 * DAY)
    before = site.backend.profile(ACCOUNT, "u1")
    retain(site, DAY)
    site.engine.retention.run()
    settle(site.backend)
    assert site.backend.profile(ACCOUNT, "u1") == before
    assert site.backend.universe_size(ACCOUNT, [WEB]) == 1
    assert site.backend.stats().events == 0
    assert site.backend.event_names(ACCOUNT, limit=10) == ()


def test_sweep_without_expired_events_logs_nothing(site: Site) -> None:
    retain(site, 30 * DAY)
    site.send([("u1", "a")], time=NOW - 30 * DAY)
    revision = site.backend.revision()
    site.engine.retention.run()
    assert site.backend.revision() == revision
    site.clock.now += 2 * DAY
    for _ in range(3):
        site.engine.retention.run()
        assert site.backend.revision() == revision + 1


def test_longer_retention_ends_a_removal_under_way(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two steps, of which each has one name here."""
    monkeypatch.setattr(backend_module, "TABLES_REMOVED_AT_ONCE", 1)
    names = [f"n{number}" for number in range(5)]
    for name in names:
        site.send([("u1", name)], time=NOW - 100 * DAY)
    retain(site, DAY)
    spans = site.backend.events_before

    def prolonged_after_two(account: str, before: int) -> Iterator[NameSpan | None]:
        for number, span in enumerate(spans(account, before)):
            if number == 2:
                retain(site, 365 * DAY)
            yield span

    monkeypatch.setattr(site.backend, "events_before", prolonged_after_two)
    site.engine.retention.run()
    assert [found.name for found in site.backend.event_names(ACCOUNT, limit=10)] == names[2:]


def test_failing_account_does_not_delay_the_others(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.engine.accounts.create_account("zeta", Account(name="", event_retention=DAY))
    zeta = "accounts/zeta"
    site.engine.accounts.create_workspace(zeta, "shop", Workspace(name=""))
    site.engine.accounts.create_input(f"{zeta}/workspaces/shop", "web", Input(name=""))
    old = NOW - 50 * DAY
    site.send([("u1", "a")], time=old)
    site.backend.append(zeta, [event("u1", "a", time=old, input=f"{zeta}/workspaces/shop/inputs/web")])
    retain(site, DAY)
    remove = site.backend.remove_events

    def failing(account: str, before: int, names: NameSpan | None) -> int:
        if account == ACCOUNT:
            raise LimitExceeded("the store is full", reason="STORE_FULL")
        return remove(account, before, names)

    monkeypatch.setattr(site.backend, "remove_events", failing)
    with pytest.raises(LimitExceeded):
        site.engine.retention.run()
    assert site.backend.event_names(zeta, limit=10) == ()
    assert len(site.backend.event_names(ACCOUNT, limit=10)) == 1
    monkeypatch.undo()
    site.engine.retention.run()
    assert site.backend.event_names(ACCOUNT, limit=10) == ()
