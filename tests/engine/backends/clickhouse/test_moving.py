"""A backup of an embedded store, moved into a cluster: nothing differs, whatever interrupts it."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from engine.backends.base import Members, Profile
from engine.backends.base.moving import Moved, MoveProgress
from engine.backends.clickhouse.moving import export as moving
from engine.backends.clickhouse.moving import source as pages
from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.tables import EVENTS, FACTS, SEEN
from engine.backends.clickhouse.writer import Writer
from engine.backends.local import offline
from engine.backends.local.backend import LocalBackend
from engine.errors import FailedPrecondition, StoreUnavailable
from engine.values import partition_of
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, NOON, event, update
from tests.engine.backends.clickhouse.databases import Databases, databases_on
from tests.engine.backends.clickhouse.servers import own_servers, reason_to_skip, started
from tests.engine.backends.clickhouse.test_store import EVERYONE, opened, users
from tests.oracle import engine_side
from tests.oracle.campaign import world_of
from tests.oracle.differences import Difference, in_first_half, in_second_half
from tests.oracle.engine_side import EngineSide
from tests.oracle.palette import DURATIONS
from tests.oracle.trees import Trees

pytestmark = pytest.mark.usefixtures("in_whole_runs_only")

WORLDS = 1
SHARDS = 2


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Stores on one's own servers, or on two new ones, each a shard."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    own = own_servers()
    with started(tmp_path_factory.mktemp("servers"), 0 if own else SHARDS, 1) as servers:
        shards = own or [[server.address for server in shard] for shard in servers]
        with databases_on(shards) as made:
            yield made


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "USERS_AT_ONCE", 3)
    monkeypatch.setattr(pages, "ROWS_AT_ONCE", 8)


def exported(backup: Path, url: str) -> Moved:
    return moving.export(backup, _location(url), _ignored)


def compared(backup: Path, url: str) -> Moved:
    return moving.compare(backup, _location(url), _ignored)


def _location(url: str) -> str:
    return url.removeprefix("clickhouse:")


def _ignored(progress: MoveProgress) -> None:
    assert 0 < progress.pages <= progress.pages_total


def reopened(url: str, directory: Path) -> LocalBackend:
    # It has the methods that are called.
    return cast(LocalBackend, opened(url))


# --- answers ------------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_random_worlds_go_on_in_the_cluster_as_in_the_embedded_store(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. Half of each world is told to an embedded store, which keeps memberships. 2. It is moved. 3. The
    cluster is told the rest, and answers as the oracle does: members, checks, warnings, memberships that it
    refreshes, and their change logs from the first change on.
    """
    seed = random.randrange(2**32)
    source = random.Random(seed)
    side = EngineSide(tmp_path / "embedded")
    worlds = [Trees(world_of(seed, number)) for number in range(WORLDS)]
    halves = [source.randint(len(each.world.operations) // 2, len(each.world.operations)) for each in worlds]
    found: list[Difference] = []
    for trees, half in zip(worlds, halves, strict=True):
        found += in_first_half(trees, side, half)
        if source.random() < 0.3:
            side.backend.checkpoint()
    profiles = _profiles(side, worlds)
    catalog = _catalog(side.backend, worlds)
    side.backend.snapshot(tmp_path / "backup")
    moved = exported(tmp_path / "backup", url)
    assert moved.differences == ()
    assert not list(_faults(tmp_path / "gateway"))
    side.moved_to(tmp_path / "gateway", functools.partial(reopened, url))
    # A page is a statement.
    monkeypatch.setattr(engine_side, "PAGE_USERS", 100)
    try:
        assert _profiles(side, worlds) == profiles, f"seed {seed}"
        assert _catalog(side.backend, worlds) == catalog, f"seed {seed}"
        for trees, half in zip(worlds, halves, strict=True):
            later = trees.world.as_of + source.choice((0, *DURATIONS))
            found += in_second_half(trees, side, source, half, later)
        assert found == [], f"seed {seed}"
    finally:
        side.close()


def _profiles(side: EngineSide, worlds: list[Trees]) -> dict[tuple[str, str], Profile | None]:
    users = [
        (trees.world.account, record.user_id)
        for trees in worlds
        for operation in trees.world.operations
        for record in getattr(operation, "records", ())
    ]
    return {each: side.backend.profile(*each) for each in users}


def _catalog(backend: LocalBackend, worlds: list[Trees]) -> list[object]:
    accounts = [trees.world.account for trees in worlds]
    return [
        (backend.event_names(each, limit=100), backend.user_attributes(each, limit=100)) for each in accounts
    ]


def _faults(directory: Path) -> Iterator[object]:
    """What a verification of the gateway's files finds."""
    for finding in offline.verify_store(directory):
        if type(finding).__name__ == "StoreFault":
            yield finding


# --- interruptions ------------------------------------------------------------------------------------------


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Users with every kind of data, an erased one, an alias, an unset attribute, a membership."""
    backend = LocalBackend.open(tmp_path / "embedded")
    for user in range(12):
        backend.append(
            ACCOUNT,
            [
                event(f"u{user}", time=NOON - user, event_id=f"{user}", price=1.5 * user, tags=("a", "b")),
                event(f"u{user}", "visit", time=NOON + user, at=NOON, first=user == 0),
                update(f"u{user}", plan="gold", age=float(user), born=NOON, tags=("x",), vip=True),
            ],
        )
    backend.append(ACCOUNT, [update("u1", time=NOON + 1, plan=None)])
    backend.erase(ACCOUNT, ["u2"])
    backend.alias(ACCOUNT, "u3", "u4")
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
    backend.snapshot(tmp_path / "backup")
    backend.close()
    return tmp_path / "backup"


LEFT = {f"u{user}" for user in range(12)} - {"u2", "u3"}


class Interrupted(Exception):
    """The process ends."""


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("pages_first", [0, 1, 4, 7])
def test_an_export_that_was_interrupted_goes_on(
    backup: Path, url: str, monkeypatch: pytest.MonkeyPatch, pages_first: int
) -> None:
    """It ends in the middle of a page: one table is on one server. A service is refused until it is done."""
    fill, insert = Writer.fill, Server.insert
    left = iter(range(pages_first))
    inserted: list[str] = []

    def ending(self: Server, table: str, columns: Any, token: str) -> None:
        if inserted:
            raise StoreUnavailable("it ends")
        inserted.append(table)
        insert(self, table, columns, token)

    def filling(self: Writer, batch: Any, part: str) -> None:
        if next(left, None) is None:
            monkeypatch.setattr(Server, "insert", ending)
        fill(self, batch, part)

    monkeypatch.setattr(Writer, "fill", filling)
    with pytest.raises(StoreUnavailable, match="it ends"):
        exported(backup, url)
    monkeypatch.undo()
    with pytest.raises(StoreUnavailable, match="moving the store"):
        opened(url)
    monkeypatch.setattr(pages, "USERS_AT_ONCE", 3)
    monkeypatch.setattr(pages, "ROWS_AT_ONCE", 8)
    moved = exported(backup, url)
    assert moved.differences == ()
    assert (moved.users, moved.rows[EVENTS], moved.rows[SEEN]) == (len(LEFT), 22, len(LEFT))
    check(url)


@pytest.mark.parametrize("step", ["write_copy", "put_parts_in_place", "_clear"])
def test_an_export_that_ended_while_the_gateway_was_made_goes_on(
    backup: Path, url: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def ending(*given: Any, **named: Any) -> None:
        if step == "put_parts_in_place":
            original(*given, **named)
        raise Interrupted

    original: Callable[..., None] = getattr(moving, step)
    monkeypatch.setattr(moving, step, ending)
    with pytest.raises(Interrupted):
        exported(backup, url)
    monkeypatch.undo()
    if step == "_clear":
        with pytest.raises(FailedPrecondition, match="already holds a store"):
            exported(backup, url)
    else:
        assert exported(backup, url).differences == ()
    check(url)


def check(url: str) -> None:
    """The store answers, and takes data, and knows what came before."""
    backend = opened(url)
    try:
        assert users(backend) == LEFT
        assert set(backend.stored_members(AUDIENCE, Members()).user_ids) == LEFT
        profile = backend.profile(ACCOUNT, "u3")
        assert profile is not None
        assert profile.user_id == "u4"
        assert backend.append(ACCOUNT, [event("u5", event_id="5"), event("new")]).duplicates == 1
        # The unset of its plan is later than this write.
        backend.append(ACCOUNT, [update("u1", plan="late")])
        profile = backend.profile(ACCOUNT, "u1")
        assert profile is not None
        assert "plan" not in profile.attributes[next(iter(profile.attributes))]
        assert users(backend) == LEFT | {"new"}
    finally:
        backend.close()


# --- differences --------------------------------------------------------------------------------------------

OF_U7 = "user = 'u7'"
BOUGHT = f"{OF_U7} AND name = 'buy'"


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (f"DELETE FROM {EVENTS} WHERE user = 'u7' AND name = 'visit'", "1 rows of events instead of 2"),
        (f"DELETE FROM {SEEN} WHERE user = 'u7'", "0 users instead of 1"),
        (f"DELETE FROM {FACTS} WHERE user = 'u7' AND key = 'vip'", "4 rows of facts instead of 5"),
        (f"ALTER TABLE {FACTS} UPDATE number = 8 WHERE {OF_U7} AND key = 'age'", "other rows of facts"),
        (f"ALTER TABLE {FACTS} UPDATE list = ['y'] WHERE {OF_U7} AND key = 'tags'", "other rows of facts"),
        (f"ALTER TABLE {EVENTS} UPDATE numbers = map('price', 10.4) WHERE {BOUGHT}", "other rows of events"),
        (f"ALTER TABLE {EVENTS} UPDATE lists = map('tags', ['ab']) WHERE {BOUGHT}", "other rows of events"),
        (
            f"INSERT INTO {SEEN} SELECT account, p, 'u7x', input, 1, 2, rev FROM {SEEN} WHERE {OF_U7}",
            "2 users",
        ),
    ],
)
def test_a_comparison_names_the_partition_that_differs(
    backup: Path, url: str, statement: str, reason: str
) -> None:
    assert exported(backup, url).differences == ()
    backend = opened(url)
    for replica in backend._cluster.replicas():
        replica.server.command(f"{statement} SETTINGS mutations_sync = 2, lightweight_deletes_sync = 2")
    backend.close()
    found = compared(backup, url).differences
    assert {(each.account, each.partition) for each in found} == {(ACCOUNT, partition_of("u7"))}
    assert all(reason in "; ".join(each.reasons) for each in found)


def test_an_export_with_differences_makes_no_gateway(
    backup: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = Writer.fill

    def losing(self: Writer, batch: Any, part: str) -> None:
        for rows in batch.rows.get(EVENTS, {}).values():
            rows.pop()
        fill(self, batch, part)

    monkeypatch.setattr(Writer, "fill", losing)
    moved = exported(backup, url)
    assert moved.differences
    assert all("rows of events instead of" in each.reasons[0] for each in moved.differences)
    with pytest.raises(StoreUnavailable, match="moving the store"):
        opened(url)


# --- what is refused ----------------------------------------------------------------------------------------


def test_an_export_of_another_backup_does_not_go_on(
    backup: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "fill", _failing)
    with pytest.raises(Interrupted):
        exported(backup, url)
    monkeypatch.undo()
    other = LocalBackend.open(tmp_path / "other")
    other.append(ACCOUNT, [event("ada")])
    other.snapshot(tmp_path / "other-backup")
    other.close()
    with pytest.raises(FailedPrecondition, match="another backup"):
        exported(tmp_path / "other-backup", url)
    assert exported(backup, url).differences == ()


def _failing(self: Writer, batch: Any, part: str) -> None:
    raise Interrupted


def test_a_directory_with_a_store_or_something_else_is_refused(
    backup: Path, url: str, tmp_path: Path
) -> None:
    directory = tmp_path / "gateway"
    directory.mkdir()
    (directory / "letter").write_text("dear")
    with pytest.raises(FailedPrecondition, match="letter"):
        exported(backup, url)
    (directory / "letter").unlink()
    assert exported(backup, url).differences == ()
    with pytest.raises(FailedPrecondition, match="already holds a store"):
        exported(backup, url)
