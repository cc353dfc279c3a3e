"""Changes of opted-in values of members are recorded: each once, none without a change, through crashes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from engine import Engine
from engine.audiences.model import WatchChanges, WatchStart
from engine.backends.base import OptedIn, UserRecord
from engine.backends.registry import open_backend
from engine.criteria.model import Equals, UserAttribute
from engine.resources.records import Connection, Input, Workspace
from engine.values import Value
from tests.conformance.as_columns import append_by_column
from tests.engine.site import ACCOUNT, NOW, OUTPUT, WEB, Site, items_of
from tests.stores import crash_image, go_on_with


class Shop:
    """Members of an audience by `tier`; its connection has opted in to `plan` and email addresses."""

    def __init__(self, site: Site, by_column: bool) -> None:
        self.site = site
        self.by_column = by_column
        self.time = NOW
        for user in ("ann", "bob"):
            self.write(user, {"tier": "gold", "plan": "free"}, {"email": f"{user}@a"})
        self.write("eve", {"tier": "silver", "plan": "free"})
        self.milestone = site.add("gold", UserAttribute(key="tier", test=Equals("gold")))
        self.connection = self.connect("c", attributes=("plan",), hashed_identities=("email",))
        self.round()
        self.read = 0
        assert sorted(self.changes()) == [("ann", "entered"), ("bob", "entered")]

    def connect(self, connection_id: str, **values: object) -> Connection:
        record = Connection(name="", audience=self.milestone.audience, output=OUTPUT)
        record = msgspec.structs.replace(record, **values)
        created = self.site.engine.connections.create_connection(ACCOUNT, connection_id, record)
        return self.site.engine.connections.activate(created.name)

    def write(
        self,
        user: str,
        attributes: Mapping[str, Value | None] = {},
        identities: Mapping[str, str | None] = {},
        *,
        input: str = WEB,
        age: int = 0,
    ) -> None:
        """A user update, later than all before it, or earlier by `age`."""
        self.time += 1
        record = UserRecord(
            user_id=user,
            input=input,
            time=self.time - age,
            attributes=dict(attributes),
            identities=dict(identities),
        )
        if self.by_column:
            assert append_by_column(self.site.backend, ACCOUNT, [record])
        else:
            self.site.backend.append(ACCOUNT, [record])

    def round(self) -> None:
        self.site.engine.live.refresh_all()

    def changes(self) -> list[tuple[str, str]]:
        """(user, kind) of every change since the last call."""
        page = self.site.backend.changes(self.milestone.audience, self.read, 1_000)
        assert [each.sequence for each in page.changes] == [
            self.read + 1 + at for at in range(len(page.changes))
        ]
        self.read += len(page.changes)
        return [
            (each.user_id, "updated" if each.updated else "entered" if each.entered else "exited")
            for each in page.changes
        ]

    def seen(self) -> list[tuple[str, str]]:
        """As `changes`, after a round."""
        self.round()
        return self.changes()


@pytest.fixture(params=[False, True], ids=["records", "columns"])
def shop(site: Site, request: pytest.FixtureRequest) -> Shop:
    return Shop(site, request.param)


def test_only_other_values_of_members_are_changes(shop: Shop) -> None:
    shop.write("ann", {"plan": "pro"})
    assert shop.seen() == [("ann", "updated")]
    # The same again, an older one, another attribute, no member, nobody.
    shop.write("ann", {"plan": "pro"})
    shop.write("ann", {"plan": "old"}, age=1_000)
    shop.write("ann", {"city": "Rome", "plan": "pro"})
    shop.write("eve", {"plan": "pro"})
    shop.write("new", {"plan": "pro"})
    assert shop.seen() == []
    shop.write("ann", {"plan": None})
    shop.write("bob", {}, {"email": "bob@b"})
    assert sorted(shop.seen()) == [("ann", "updated"), ("bob", "updated")]
    shop.write("ann", {"plan": None})
    shop.write("bob", {}, {"email": "bob@b", "phone": "1"})
    assert shop.seen() == []
    shop.write("ann", {"plan": 1.0})
    shop.write("ann", {"plan": True})
    assert shop.seen() == [("ann", "updated")]
    assert shop.site.backend.membership(shop.milestone.audience).size == 2  # type: ignore[union-attr]


def test_updates_are_in_order_with_entries_and_exits(shop: Shop) -> None:
    shop.write("eve", {"tier": "gold", "plan": "pro"})
    assert shop.seen() == [("eve", "entered")]
    shop.write("eve", {"plan": "free"})
    shop.write("eve", {"tier": "silver"})
    assert shop.seen() == [("eve", "updated"), ("eve", "exited")]
    shop.write("eve", {"plan": "pro"})
    assert shop.seen() == []
    shop.write("ann", {"plan": "pro"})
    shop.round()
    shop.write("ann", {"tier": "silver"})
    assert shop.seen() == [("ann", "updated"), ("ann", "exited")]


def test_the_value_written_last_counts_where_several_workspaces_have_one(shop: Shop) -> None:
    accounts = shop.site.engine.accounts
    accounts.create_workspace(ACCOUNT, "other", Workspace(name=""))
    accounts.create_input(f"{ACCOUNT}/workspaces/other", "web", Input(name=""))
    other = f"{ACCOUNT}/workspaces/other/inputs/web"
    shop.write("ann", {"plan": "old"}, input=other, age=1_000)
    assert shop.seen() == []
    shop.write("ann", {"plan": "free"}, input=other)
    assert shop.seen() == []
    shop.write("ann", {"plan": "pro"})
    assert shop.seen() == [("ann", "updated")]
    shop.write("ann", {"plan": "pro"}, input=other)
    assert shop.seen() == []


def test_an_alias_is_a_change_if_it_brings_another_value(shop: Shop) -> None:
    shop.write("a1", {"plan": "free"}, age=1_000)
    shop.site.backend.alias(ACCOUNT, "a1", "ann")
    assert shop.seen() == []
    shop.write("a2", {"plan": "pro"})
    shop.site.backend.alias(ACCOUNT, "a2", "ann")
    assert shop.seen() == [("ann", "updated")]
    shop.write("a2", {"plan": "free"})
    assert shop.seen() == [("ann", "updated")]
    shop.write("ann", {"plan": "pro"})
    shop.site.backend.erase(ACCOUNT, ["ann"])
    assert shop.seen() == [("ann", "exited")]


def test_only_audiences_whose_connections_send_values_have_updates(shop: Shop) -> None:
    site = shop.site
    membership = site.backend.membership(shop.milestone.audience)
    assert membership is not None
    assert membership.opted_in == OptedIn(("plan",), ("email",))
    more = shop.connect("more", attributes=("city",))
    shop.round()
    shop.write("ann", {"city": "Rome"})
    assert shop.seen() == [("ann", "updated")]
    site.engine.connections.deactivate(more.name)
    shop.round()
    shop.write("ann", {"city": "Oslo"})
    assert shop.seen() == []
    # A watcher gets user ids only, and no updates.
    shop.write("ann", {"plan": "pro"})
    shop.write("eve", {"tier": "gold"})
    shop.round()
    items = items_of(site.engine, WatchStart(shop.milestone.audience, cursor=0))
    found = next(each.update for each in items if isinstance(each.update, WatchChanges))
    assert [each.user_id for each in found.changes][2:] == ["eve"]


def test_a_connection_waits_until_changes_of_its_values_are_recorded(shop: Shop) -> None:
    deliveries = shop.site.engine.deliveries
    more = shop.connect("more", attributes=("city",))
    batch = deliveries.pull(more, 10)
    assert (batch.changes, batch.caught_up) == ((), True)
    assert not deliveries.has_changes(more, 0)
    shop.round()
    assert deliveries.has_changes(more, 0)
    assert sorted(change.user_id for change in deliveries.pull(more, 10).changes) == ["ann", "bob"]


def reopened(shop: Shop, directory: Path) -> None:
    """Goes on with a store, as after a crash."""
    site = shop.site
    site.engine.close()
    site.backend = open_backend(f"local:{directory}")
    site.engine = Engine(site.backend, clock=site.clock)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_crash_loses_no_update_and_repeats_none(shop: Shop, tmp_path: Path, recorded: bool) -> None:
    shop.site.backend.checkpoint()  # type: ignore[attr-defined]
    shop.write("ann", {"plan": "pro"})
    if recorded:
        shop.round()
    image = crash_image(shop.site.directory, tmp_path / "image")
    reopened(shop, go_on_with(image))
    assert shop.seen() == [("ann", "updated")]
    shop.write("bob", {"plan": "pro"})
    assert shop.seen() == [("bob", "updated")]
    assert shop.seen() == []
