"""After a crash every acknowledged write is present exactly once.

A crash is simulated by copying the directory of a store that is not closed: that is what the disk holds, as
every acknowledged write has been synced.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.backends.base import Contains, Count, Members, Record, StoreFault
from engine.backends.local.backend import LocalBackend
from engine.backends.local.roles import lifetime
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage import page_cache
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.transactions import Writable, WriteBuffer, WriteTransaction
from engine.errors import FailedPrecondition, LimitExceeded, StoreUnavailable
from engine.plan.model import EventMatch, EventSelection, Interval, Plan, Universe
from engine.values import MICROS_PER_HOUR
from tests.conformance.drawing import USER_IDS, input_names, plans, worlds
from tests.conformance.site import (
    ACCOUNT,
    AUDIENCE,
    JOURNEY,
    NOON,
    WEB,
    event,
    forget_if_empty,
    plan_of,
    update,
)
from tests.oracle.world import Alias, Batch, Erase, Expire, Forget, Operation, World
from tests.short_forms import examples
from tests.stores import crash_image

HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
SETTINGS = LocalSettings(groups=2, checkpoint_s=3_600.0, apply_chunk_records=3)
EVERYONE = plan_of(Universe(inputs=(WEB,)))

worlds_with_plans = worlds().flatmap(lambda w: st.tuples(st.just(w), plans(w.account)))
ODD: tuple[list[Operation], ...] = (
    [Alias("ada", "bob")],
    [Alias("bob", "cleo")],
    [Erase(("cleo", "dan"))],
    [Erase(("ada",))],
    [Expire(NOON - 24 * MICROS_PER_HOUR)],
    [Expire(NOON + 1)],
    [Erase(USER_IDS), Forget(ACCOUNT)],
)
strange = st.lists(st.sampled_from(ODD), max_size=3, unique_by=repr).map(
    lambda drawn: [operation for some in drawn for operation in some]
)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LocalBackend]:
    opened = LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    yield opened
    opened.close()


def crashed(directory: Path, into: Path) -> LocalBackend:
    """The store as it is opened after a crash at this moment."""
    shutil.rmtree(into, ignore_errors=True)
    return LocalBackend.open(crash_image(directory, into), settings=SETTINGS)


def observed(backend: LocalBackend, plan: Plan) -> list[object]:
    """Everything observable about an account."""
    return [
        backend.revision(),
        [
            backend.execute(
                Plan(account=plan.account, as_of=NOON, steps=plan.steps, roots=(root,)), Members()
            )
            for root in plan.roots
        ],
        backend.execute(plan, Contains(USER_IDS)),
        repr([backend.profile(plan.account, user_id) for user_id in USER_IDS]),
        backend.event_names(plan.account, limit=100),
        repr(backend.user_attributes(plan.account, limit=100)),
        backend.universe_size(plan.account, input_names(plan.account)),
        backend.stats().users,
    ]


def happen(backend: LocalBackend, account: str, operation: Operation) -> None:
    match operation:
        case Batch():
            backend.append(account, operation.records, request_id=operation.request_id)
        case Alias():
            # One that is refused is in the log as well.
            with contextlib.suppress(FailedPrecondition):
                backend.alias(account, operation.from_user_id, operation.to_user_id)
        case Erase():
            backend.erase(account, operation.user_ids)
        case Expire():
            backend.remove_events(account, operation.before)
        case Forget():
            forget_if_empty(backend, account, account)


@settings(max_examples=examples(20), suppress_health_check=HEALTH)
@given(drawn=worlds_with_plans, odd=strange, checkpoint_after=st.integers(0, 7), at=st.integers(0, 4))
def test_replay_reaches_the_same_state(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[World, Plan],
    odd: list[Operation],
    checkpoint_after: int,
    at: int,
) -> None:
    world, plan = drawn
    directory = tmp_path_factory.mktemp("crash")
    backend = LocalBackend.open(directory / "store", settings=SETTINGS)
    for number, operation in enumerate([*world.operations[:at], *odd, *world.operations[at:]]):
        happen(backend, world.account, operation)
        if number == checkpoint_after:
            backend.checkpoint()
    again = crashed(directory / "store", directory / "copy")
    assert observed(again, plan) == observed(backend, plan)
    # What comes after the crash meets the same dedupe, directory and sequence numbers.
    for operation in world.operations[:2]:
        assert isinstance(operation, Batch)
        answers = [each.append(world.account, operation.records) for each in (backend, again)]
        assert answers[0] == answers[1]
    assert observed(again, plan) == observed(backend, plan)
    again.close()
    backend.close()


NAMES = ("buy", "view", "open")
USERS = ("ada", "bob", "cleo", "dan")
COUNTED = tuple(
    EventMatch(selection=EventSelection(inputs=(WEB,), name=name), intervals=(Interval(low=float(low)),))
    for name in NAMES
    for low in (1, 2, 3, 5, 8)
)
EVERY_COUNT = Plan(account=ACCOUNT, as_of=NOON, steps=COUNTED, roots=tuple(range(len(COUNTED))))
DURING: tuple[Operation, ...] = (
    *(Alias(user, other) for user in USERS for other in USERS if user < other),
    *(Erase((user,)) for user in USERS),
    Expire(NOON - 24 * MICROS_PER_HOUR),
    Expire(NOON),
    Batch(tuple(event(user, name=name) for user in USERS for name in NAMES)),
)
an_event = st.builds(
    lambda user, name, days: event(user, name=name, time=NOON - days * 24 * MICROS_PER_HOUR),
    st.sampled_from(USERS),
    st.sampled_from(NAMES),
    st.integers(0, 2),
)
an_update = st.builds(
    lambda user, days, value: update(user, time=NOON - days * 24 * MICROS_PER_HOUR, **value),
    st.sampled_from(USERS),
    st.integers(0, 2),
    st.fixed_dictionaries(
        {},
        optional={
            "plan": st.sampled_from(("gold", "tin", "x" * 300, None)),
            "age": st.sampled_from((1.5, 42.0, None)),
            "tags": st.sampled_from((("a",), ("a", "b"), ())),
        },
    ),
)
some_records = st.lists(an_event | an_update, min_size=4, max_size=30)


@settings(max_examples=examples(25), suppress_health_check=HEALTH)
@given(
    before=some_records,
    fresh=some_records,
    during=st.lists(
        st.none() | st.sampled_from(DURING) | st.builds(lambda drawn: Batch(tuple(drawn)), some_records),
        min_size=1,
        max_size=8,
    ),
    fails=st.booleans(),
)
def test_entries_applied_during_a_checkpoint_are_replayed(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[Record],
    fresh: list[Record],
    during: list[Operation | None],
    fails: bool,
) -> None:
    """A checkpoint has nothing of what an entry has removed or moved since it began: the replay of that entry
    has to find it. Entries are applied before each table is staged, and before it is written.
    """
    directory = tmp_path_factory.mktemp("during")
    backend = LocalBackend.open(directory / "store", settings=SETTINGS)
    waiting = list(during)

    def go_on() -> None:
        operation = waiting.pop(0) if waiting else None
        if operation is not None:
            # An erasure waits for the checkpoint after this one.
            with mock.patch.object(backend, "_checkpoint_through"):
                happen(backend, ACCOUNT, operation)

    with contextlib.closing(backend):
        backend.append(ACCOUNT, before)
        backend.checkpoint()
        backend.append(ACCOUNT, fresh)
        stage = backend._state.stage

        def go_on_and_stage(pause: Callable[[], None]) -> None:
            go_on()
            stage(pause)

        pages = backend._state.page_cache
        freeze, write = pages.freeze, pages.write
        frozen: dict[bytes, bytes | None] = {}

        def freeze_and_note() -> None:
            freeze()
            frozen.update({key: page.codec.encode(page.value) for key, page in pages._writing.items()})

        def compare_and_write(txn: Writable, pause: Callable[[], None]) -> None:
            # Nobody changes a page without saying so before.
            assert pages._written == frozen
            write(txn, pause)

        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(page_cache, "PAGES_PER_STEP", 1))
            stack.enter_context(mock.patch.object(pages, "freeze", freeze_and_note))
            stack.enter_context(mock.patch.object(pages, "write", compare_and_write))
            stack.enter_context(mock.patch.object(backend._state, "stage", go_on_and_stage))
            stack.enter_context(mock.patch.object(backend, "_check_time", go_on))
            if fails:
                stack.enter_context(pytest.raises(LimitExceeded))
                stack.enter_context(mock.patch.object(WriteBuffer, "write_to", failing))
            backend.checkpoint()
        for _ in range(2):
            with contextlib.closing(crashed(directory / "store", directory / "copy")) as again:
                assert observed(again, EVERY_COUNT) == observed(backend, EVERY_COUNT)
                assert [found for found in again.verify() if isinstance(found, StoreFault)] == []
            backend.checkpoint()


def test_membership_is_all_or_nothing(backend: LocalBackend, tmp_path: Path) -> None:
    """A crash between the refreshes of a scope finds each audience with its changes, or neither."""
    backend.append(ACCOUNT, [event(f"user-{i}") for i in range(50)])
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
    backend.append(ACCOUNT, [event("late")])
    with crashed_copy(tmp_path, "between") as between:
        assert between.stored_members(AUDIENCE, Members()) == backend.stored_members(AUDIENCE, Members())
        assert between.changes(AUDIENCE, 0, 100) == backend.changes(AUDIENCE, 0, 100)
        assert between.pending(JOURNEY) == 51
        between.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
        assert [c.user_id for c in between.changes(AUDIENCE, 50, 10).changes] == ["late"]


def test_a_refused_alias_is_replayed_as_refused(backend: LocalBackend, tmp_path: Path) -> None:
    backend.append(ACCOUNT, [event("ada"), event("bob")])
    backend.alias(ACCOUNT, "ada", "bob")
    for refused in (("bob", "ada"), ("ada", "cleo")):
        with pytest.raises(FailedPrecondition):
            backend.alias(ACCOUNT, *refused)
    backend.append(ACCOUNT, [event("cleo")])
    with crashed_copy(tmp_path, "again") as again:
        assert again.revision() == backend.revision() == 5
        assert set(again.execute(EVERYONE, Members()).user_ids) == {"bob", "cleo"}


def test_an_erasure_is_finished_by_replay(backend: LocalBackend, tmp_path: Path) -> None:
    """The erased user's exit is recorded once, though the log contains the erasure again."""
    backend.append(ACCOUNT, [event("ada"), event("bob")])
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
    with pytest.MonkeyPatch.context() as patch:
        # The crash comes before the checkpoint that trims the log.
        patch.setattr(backend, "checkpoint", backend.revision)
        backend.erase(ACCOUNT, ["ada"])
    with crashed_copy(tmp_path, "erased") as again:
        exits = again.changes(AUDIENCE, 2, 10).changes
        assert [(c.sequence, c.user_id, c.entered) for c in exits] == [(3, "ada", False)]
        assert again.execute(EVERYONE, Members()).user_ids == ("bob",)


@pytest.mark.parametrize("checkpoint_before", [0, 1, 2, 3, 4])
def test_a_replay_removes_what_the_first_pass_removed(
    backend: LocalBackend, tmp_path: Path, checkpoint_before: int
) -> None:
    """At any checkpoint: earlier events are removed, later ones count."""
    steps: tuple[Callable[[], object], ...] = (
        lambda: backend.append(ACCOUNT, [event("ada", time=NOON - 5), event("bob", time=NOON + 5)]),
        lambda: backend.append(ACCOUNT, [event("cleo", time=NOON - 4), event("bob", time=NOON - 4)]),
        lambda: backend.remove_events(ACCOUNT, NOON),
        lambda: backend.append(ACCOUNT, [event("dan", time=NOON - 3)]),
    )
    for number, step in enumerate(steps):
        if number == checkpoint_before:
            backend.checkpoint()
        step()
    if checkpoint_before == len(steps):
        backend.checkpoint()
    selection = EventSelection(inputs=(WEB,), name="buy")
    bought = plan_of(EventMatch(selection=selection, intervals=(Interval(low=1.0),)))
    twice = plan_of(EventMatch(selection=selection, intervals=(Interval(low=2.0),)))
    with crashed_copy(tmp_path, "removed") as again:
        assert again.revision() == 4
        for each in (backend, again):
            assert set(each.execute(bought, Members()).user_ids) == {"bob", "dan"}
            assert each.execute(twice, Count()).sizes == (0,)
            assert each.event_names(ACCOUNT, limit=9)[0].events == 2
        assert again.append(ACCOUNT, [event("ada")]) == backend.append(ACCOUNT, [event("ada")])


class crashed_copy:  # noqa: N801 - reads as a function
    """The store in `tmp_path`, as opened after a crash, for the length of a block."""

    def __init__(self, tmp_path: Path, name: str) -> None:
        self._backend = crashed(tmp_path / "store", tmp_path / name)

    def __enter__(self) -> LocalBackend:
        return self._backend

    def __exit__(self, *exception: object) -> None:
        self._backend.close()


def test_log_contains_nothing_of_an_erased_user(backend: LocalBackend, tmp_path: Path) -> None:
    backend.append(ACCOUNT, [event("ada-lovelace", note="a secret"), event("bob")])
    backend.erase(ACCOUNT, ["ada-lovelace"])
    with backend._store.log.reading() as txn:
        assert list(txn.keys(key(Family.LOG))) == []
    with backend._store.index.reading() as txn:
        left = b"".join(part for stored, value in txn.scan(b"") for part in (stored, bytes(value)))
    assert b"bob" in left
    assert b"lovelace" not in left
    assert b"secret" not in left


# --- checkpoints that fail
# ----------------------------------------------------------------------------------------


def failing(*_: object) -> None:
    raise LimitExceeded("the store is full", reason="STORE_FULL")


def broken_disk(*_: object) -> None:
    raise OSError("the disk is broken")


def test_a_checkpoint_reaches_the_newest_revision(backend: LocalBackend) -> None:
    backend.append(ACCOUNT, [event("ada")])
    backend.append(ACCOUNT, [event("bob")])
    assert backend.figures().checkpointed_revision == 0
    assert backend.checkpoint() == backend.figures().checkpointed_revision == 2
    assert 0 < backend.stats().log_bytes < backend.stats().disk_bytes
    backend.close()
    with pytest.raises(StoreUnavailable):
        backend.checkpoint()


def test_failed_checkpoint_loses_nothing(
    backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.append(ACCOUNT, [event("ada", event_id="1"), update("ada", plan="x" * 300)], request_id="r")
    with monkeypatch.context() as patch:
        patch.setattr(WriteBuffer, "write_to", broken_disk)
        with pytest.raises(OSError, match="broken"):
            backend.checkpoint()
    assert backend.figures().checkpointed_revision == 0
    assert backend.append(ACCOUNT, [event("bob", event_id="1"), event("cleo")]).duplicates == 1
    assert backend.append(ACCOUNT, [], request_id="r").repeated
    assert backend.checkpoint() == backend.revision()
    with crashed_copy(tmp_path, "after") as again:
        assert set(again.execute(EVERYONE, Members()).user_ids) == {"ada", "cleo"}
        assert repr(again.profile(ACCOUNT, "ada")) == repr(backend.profile(ACCOUNT, "ada"))
        assert again.append(ACCOUNT, [event("x", event_id="1")]).duplicates == 1


def test_writes_during_a_checkpoint_belong_to_the_next_one(
    backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a checkpoint writes, users come and go, and questions are answered."""
    backend.append(ACCOUNT, [event("ada", event_id="1"), event("bob"), update("bob", plan="gold")])
    original = WriteBuffer.write_to
    seen: list[tuple[str, ...]] = []

    def meanwhile(buffer: WriteBuffer, txn: WriteTransaction, pause: Callable[[], None]) -> None:
        answer = backend.append(
            ACCOUNT, [event("cleo"), event("dan", event_id="1"), update("bob", plan="tin")]
        )
        assert answer.duplicates == 1
        seen.append(backend.execute(EVERYONE, Members()).user_ids)
        original(buffer, txn, pause)

    monkeypatch.setattr(WriteBuffer, "write_to", meanwhile)
    assert backend.checkpoint() == 1
    assert [set(users) for users in seen] == [{"ada", "bob", "cleo"}]
    monkeypatch.undo()
    with crashed_copy(tmp_path, "after") as again:
        assert set(again.execute(EVERYONE, Members()).user_ids) == {"ada", "bob", "cleo"}
        assert repr(again.profile(ACCOUNT, "bob")) == repr(backend.profile(ACCOUNT, "bob"))
        assert again.revision() == 2
    assert backend.checkpoint() == 2


def test_full_log_refuses_the_batch(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.append(ACCOUNT, [event("ada")])
    with monkeypatch.context() as patch:
        patch.setattr(WriteTransaction, "put", failing)
        with pytest.raises(LimitExceeded):
            backend.append(ACCOUNT, [event("bob")])
    assert backend.execute(EVERYONE, Count()).sizes == (1,)
    assert backend.append(ACCOUNT, [event("cleo")]).revision == 2


def test_unapplied_batch_stops_the_store(
    backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logged but not applied: the store must not answer without it until a replay."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("engine.backends.local.account.account.Account.apply", broken)
        with pytest.raises(StoreUnavailable):
            backend.append(ACCOUNT, [event("ada")])
    with pytest.raises(StoreUnavailable) as raised:
        backend.execute(EVERYONE, Count())
    assert raised.value.reason == "STORE_FAILED"
    with crashed_copy(tmp_path, "again") as again:
        assert again.execute(EVERYONE, Count()).sizes == (1,)


def test_a_store_that_closes_gives_up_a_long_checkpoint(
    backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend.append(ACCOUNT, [event("ada"), event("bob"), update("ada", plan="gold")])
    monkeypatch.setattr(lifetime, "CLOSING_CHECKPOINT_S_MAX", -1.0)
    backend.close()
    assert "closes without a checkpoint: it took longer than" in caplog.text
    monkeypatch.undo()
    with contextlib.closing(LocalBackend.open(tmp_path / "store", settings=SETTINGS)) as again:
        assert again.figures().checkpointed_revision == 0
        assert set(again.execute(EVERYONE, Members()).user_ids) == {"ada", "bob"}
        assert again.checkpoint() == again.revision() == 1
