"""A corrupt value is an error that names its family, never a smaller number."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.backends.base import Count
from engine.backends.base.upkeep import StoreFault
from engine.backends.local.backend import LocalBackend
from engine.backends.local.events import table as table_module
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.keys import Family, family_of, key
from engine.backends.local.storage.sorted_runs import RUNS_PER_TIER_MAX
from engine.backends.local.storage.transactions import CHECKSUM_BYTES
from engine.criteria.model import Equals, Text
from engine.errors import DataLoss, MilepostError
from engine.plan.model import (
    AttributeMatch,
    EventMatch,
    EventSelection,
    InstantRange,
    Interval,
    NumberRange,
    Plan,
    SeenMatch,
    TimeRange,
    Universe,
)
from engine.values import MICROS_PER_DAY
from tests.conformance.as_columns import columns_of
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, NOON, SHOP, WEB, event, plan_of, update
from tests.stores import crash_image

SETTINGS = LocalSettings(groups=1, checkpoint_s=3_600.0)
EVERYONE = plan_of(Universe(inputs=(WEB,)))


def attribute(key: str, test: Equals | Text | NumberRange) -> Plan:
    return plan_of(AttributeMatch(workspaces=(SHOP,), key=key, test=test))


def any_of(selection: EventSelection) -> Plan:
    return plan_of(EventMatch(selection=selection, intervals=(Interval(low=1.0),)))


READS = {
    Family.BELONGS: EVERYONE,
    Family.FIELD_VALUE: attribute("plan", Equals("gold")),
    Family.FIELD_TEXT: attribute("note", Text("contains", "x")),
    Family.FIELD_COLUMN: attribute("age", NumberRange((Interval(low=1.0),))),
    Family.SEEN: plan_of(SeenMatch(inputs=(WEB,), last=True, test=InstantRange((TimeRange(),)))),
}

NEEDED_BY = {Family.FIELD_TEXT: Family.FIELD_VALUE}
"""A long string is found by its digest, beside which its users are stored."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    backend = LocalBackend.open(tmp_path, settings=SETTINGS)
    users = [f"user-{i}" for i in range(200)]
    backend.append(ACCOUNT, [event(user_id) for user_id in users])
    backend.append(ACCOUNT, [update(user_id, plan="gold", age=5.0, note="x" * 300) for user_id in users])
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
    backend.close()
    return tmp_path


@pytest.fixture
def backend(directory: Path) -> Iterator[LocalBackend]:
    opened = LocalBackend.open(directory, settings=SETTINGS)
    yield opened
    opened.close()


def damage(backend: LocalBackend, family: Family) -> None:
    """Flips one bit in the middle of every value of a family, leaving its checksum."""
    index = backend._store.index
    with index._env.begin(write=True) as txn:
        damaged = 0
        for stored, value in list(txn.cursor()):
            if family_of(stored) is family and len(value) > CHECKSUM_BYTES:
                at = (len(value) + CHECKSUM_BYTES) // 2
                txn.put(stored, value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :])
                damaged += 1
    assert damaged > 0


@pytest.mark.parametrize("family", READS, ids=lambda family: family.name)
def test_damaged_value_is_reported_by_family(backend: LocalBackend, family: Family) -> None:
    damage(backend, family)
    with pytest.raises(DataLoss) as raised:
        backend.execute(READS[family], Count())
    assert raised.value.metadata["key_family"] == family.name
    # What does not need it still answers.
    others = [plan for other, plan in READS.items() if family not in (other, NEEDED_BY.get(other))]
    assert [backend.execute(plan, Count()).sizes for plan in others] == [(200,)] * len(others)


def test_catalog_reports_damage_by_family(backend: LocalBackend) -> None:
    damage(backend, Family.WRITE_TIMES)
    with pytest.raises(DataLoss) as raised:
        backend.user_attributes(ACCOUNT, limit=10)
    assert raised.value.metadata["key_family"] == "WRITE_TIMES"
    assert [backend.execute(plan, Count()).sizes for plan in READS.values()] == [(200,)] * len(READS)


@pytest.mark.parametrize("family", [Family.NAME, Family.MEMBERSHIP, Family.USER_RUN, Family.META])
def test_store_with_damaged_essentials_does_not_open(tmp_path: Path, family: Family) -> None:
    backend = LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    backend.append(ACCOUNT, [event("ada", event_id="1")])
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
    backend.checkpoint()
    damage(backend, family)
    backend.close()
    with pytest.raises(DataLoss) as raised:
        LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    assert raised.value.metadata["key_family"] == family.name


def test_damage_in_the_log_stops_the_replay(tmp_path: Path) -> None:
    backend = LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    backend.append(ACCOUNT, [event("ada")])
    with backend._store.log._env.begin(write=True) as txn:
        stored = key(Family.LOG, 1)
        value = txn.get(stored)
        assert value is not None
        txn.put(stored, value[:-1] + bytes([value[-1] ^ 1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "_checkpoint", backend.revision)
        backend.close()
    with pytest.raises(DataLoss) as raised:
        LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    assert raised.value.metadata["key_family"] == "LOG"


def test_missing_long_string_is_data_loss(backend: LocalBackend) -> None:
    with backend._store.index.writing() as txn:
        assert txn.delete_prefix(key(Family.FIELD_TEXT)) == 1
    with pytest.raises(DataLoss) as raised:
        backend.execute(READS[Family.FIELD_TEXT], Count())
    assert raised.value.metadata["key_family"] == "FIELD_TEXT"


def test_checkpoints_work_around_damaged_events(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that would merge parts finds one damaged: nothing is lost or blocked."""
    monkeypatch.setattr(table_module, "SLICE_PARTS_MAX", 2)
    backend.append(ACCOUNT, [event("user-7", time=NOON + 1), event("user-8", time=NOON + 1)])
    backend.checkpoint()
    damage(backend, Family.EVENT_COLUMN)
    later = NOON + MICROS_PER_DAY
    for number in range(6):
        backend.append(ACCOUNT, [event("user-7", time=later + number), event("someone new", time=later)])
        assert backend.checkpoint() == backend.revision()
    since = EventSelection(inputs=(WEB,), time=TimeRange(later, None))
    assert backend.execute(any_of(since), Count()).sizes == (2,)
    with pytest.raises(DataLoss) as raised:
        backend.execute(any_of(EventSelection(inputs=(WEB,))), Count())
    assert raised.value.metadata["key_family"] == "EVENT_COLUMN"


def test_times_for_a_damaged_page_are_kept(backend: LocalBackend) -> None:
    """Times of large batches are buffered before they reach the page."""
    users = [f"user-{number}" for number in range(40)]
    index = backend._store.index
    with index._env.begin() as txn:
        sound = [(stored, value) for stored, value in txn.cursor() if family_of(stored) is Family.SEEN]
    damage(backend, Family.SEEN)
    backend.append_columns(ACCOUNT, columns_of([event(user, time=NOON + 9) for user in users]))
    for _ in range(2):
        with pytest.raises(DataLoss):
            backend.execute(READS[Family.SEEN], Count())
        with pytest.raises(DataLoss):
            backend.checkpoint()
    _put(backend, dict(sound))
    backend.checkpoint()
    since = SeenMatch(inputs=(WEB,), last=True, test=InstantRange((TimeRange(NOON + 9, None),)))
    assert backend.execute(plan_of(since), Count()).sizes == (len(users),)


def test_write_to_damaged_data_stops_the_store(backend: LocalBackend) -> None:
    """The batch is in the log, but could not be applied in full."""
    damage(backend, Family.SEEN)
    with pytest.raises(DataLoss):
        backend.append(ACCOUNT, [event("user-7", time=NOON + 1)])
    with pytest.raises(MilepostError) as raised:
        backend.execute(READS[Family.FIELD_VALUE], Count())
    assert raised.value.reason == "STORE_FAILED"


def test_damage_that_blocks_checkpoints_refuses_writes(
    backend: LocalBackend,
) -> None:
    """Instead of growing the log for ever; reads continue, and writes resume after the repair."""
    users = [f"user-{number}" for number in range(40)]
    index = backend._store.index
    with index._env.begin() as txn:
        sound = [(stored, value) for stored, value in txn.cursor() if family_of(stored) is Family.SEEN]
    damage(backend, Family.SEEN)
    backend.append_columns(ACCOUNT, columns_of([event(user, time=NOON + 9) for user in users]))
    assert backend.write_fault() is None
    with pytest.raises(DataLoss):
        backend.checkpoint()
    logged = backend._log.position
    for write in (
        lambda: backend.append(ACCOUNT, [event("user-1")]),
        lambda: backend.append_columns(ACCOUNT, columns_of([event("user-1")])),
        lambda: backend.erase(ACCOUNT, ["user-1"]),
        lambda: backend.alias(ACCOUNT, "user-1", "user-2"),
    ):
        with pytest.raises(DataLoss) as raised:
            write()
        assert raised.value.metadata["key_family"] == "SEEN"
        assert "writes are refused" in raised.value.message
        assert "restore a backup" in raised.value.message
    assert backend._log.position == logged
    fault = backend.write_fault()
    assert fault is not None
    assert fault.reason == "DATA_LOSS"
    assert backend.execute(READS[Family.FIELD_VALUE], Count()).sizes == (200,)
    _put(backend, dict(sound))
    backend.checkpoint()
    assert backend.write_fault() is None
    assert backend.append(ACCOUNT, [event("user-1")]).accepted == 1


def test_changed_key_is_data_loss_and_detected(backend: LocalBackend) -> None:
    """One byte of a key of a column: users of its page were missing from the answer, without an error."""
    plan = READS[Family.FIELD_COLUMN]
    with backend._store.index._env.begin(write=True) as txn:
        stored = next(found for found, _ in txn.cursor() if family_of(found) is Family.FIELD_COLUMN)
        value = txn.get(stored)
        assert value is not None
        txn.delete(stored)
        txn.put(stored[:-1] + bytes([stored[-1] ^ 4]), value)
    with pytest.raises(DataLoss) as raised:
        backend.execute(plan, Count())
    assert raised.value.metadata["key_family"] == "FIELD_COLUMN"
    faults = [finding for finding in backend.verify() if isinstance(finding, StoreFault)]
    assert [(fault.family, fault.description) for fault in faults] == [("FIELD_COLUMN", "fails its checksum")]
    with pytest.raises(DataLoss):
        backend.snapshot(backend._store.directory / "backup")


def test_damaged_event_ids_block_neither_reads_nor_checkpoints(directory: Path) -> None:
    """Everything that does not need the damaged blocks works."""
    backend = LocalBackend.open(directory, settings=SETTINGS)
    for number in range(RUNS_PER_TIER_MAX):
        backend.append(ACCOUNT, [event("ada", event_id=f"{number}")])
        backend._state.event_ids.mergeable = list  # type: ignore[method-assign]
        backend.checkpoint()
    damage(backend, Family.DEDUPE_BLOCK)
    backend.close()
    again = LocalBackend.open(directory, settings=SETTINGS)
    assert again.execute(READS[Family.FIELD_VALUE], Count()).sizes == (200,)
    # Ids that are in no damaged block, and events without ids, are taken; checkpoints go on, and merge
    # others.
    assert again.append(ACCOUNT, [event("ada")]).accepted == 1
    assert again.checkpoint() == again.revision()
    assert again.write_fault() is None
    # Whether this id came before cannot be told: the batch is refused, and nothing else.
    for batch in ([event("ada", event_id="3")], [event("ada", event_id="3"), event("someone new")]):
        with pytest.raises(DataLoss) as raised:
            again.append(ACCOUNT, batch)
        assert raised.value.metadata["key_family"] == "DEDUPE_BLOCK"
    with pytest.raises(DataLoss):
        again.append_columns(ACCOUNT, columns_of([event("ada", event_id="4")]))
    assert again.append(ACCOUNT, [event("grace")]).accepted == 1
    sizes = again.execute(EVERYONE, Count()).sizes
    assert sizes == (202,)
    # A replay refuses what was refused.
    crashed = LocalBackend.open(crash_image(directory, directory.parent / "crashed"), settings=SETTINGS)
    assert crashed.revision() == again.revision()
    assert crashed.execute(EVERYONE, Count()).sizes == sizes
    crashed.close()
    again.close()


@pytest.mark.parametrize("family", [Family.DEDUPE_BLOCK, Family.DEDUPE_RUN])
@pytest.mark.parametrize("in_columns", [False, True])
def test_a_replay_stops_before_events_that_damaged_ids_cannot_tell_apart(
    directory: Path, family: Family, in_columns: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The ids were damaged after the batch was acknowledged and before it was checkpointed."""
    backend = LocalBackend.open(directory, settings=SETTINGS)
    other, through = "accounts/other", "accounts/other/workspaces/shop/inputs/web"
    everyone_there = plan_of(Universe(inputs=(through,)), account=other)
    backend.append(other, [event("ida", through=through)])
    backend.append(ACCOUNT, [event("ada", event_id="1")])
    backend.checkpoint()
    backend.append(ACCOUNT, [event("grace")])
    applied = backend.revision()
    batch = [event("ada", event_id="1"), event("linus", event_id="2")]
    if in_columns:
        answer = backend.append_columns(ACCOUNT, columns_of(batch))
    else:
        answer = backend.append(ACCOUNT, batch)
    assert (answer.accepted, answer.duplicates) == (1, 1)
    backend.append(ACCOUNT, [event("margaret")])
    newest = backend.revision()
    sound = _values(backend, family)
    damage(backend, family)
    image = crash_image(directory, tmp_path_factory.mktemp("crashed") / "image")
    _put(backend, sound)
    backend.close()
    for _ in range(2):
        with contextlib.closing(LocalBackend.open(image, settings=SETTINGS)) as crashed:
            assert crashed.revision() == applied
            assert crashed.execute(everyone_there, Count()).sizes == (1,)
            _assert_refuses_writes(crashed, answer.revision, newest, family)
            _assert_refuses_reads(crashed)
            assert crashed.checkpoint() == applied
    crashed = LocalBackend.open(image, settings=SETTINGS)
    _put(crashed, sound)
    crashed.close()
    # Nothing was lost: with the ids back, the rest of the log is applied.
    mended = LocalBackend.open(image, settings=SETTINGS)
    assert mended.revision() == newest
    assert mended.execute(EVERYONE, Count()).sizes == (204,)
    assert mended.write_fault() is None
    mended.close()


def _assert_refuses_reads(backend: LocalBackend) -> None:
    """A read of the account would miss what was acknowledged."""
    reads: list[Callable[[], object]] = [
        lambda: backend.execute(EVERYONE, Count()),
        lambda: backend.profile(ACCOUNT, "ada"),
        lambda: backend.event_names(ACCOUNT, limit=1),
        lambda: backend.published(ACCOUNT),
        lambda: backend.changes(AUDIENCE, 0, 1),
    ]
    for read in reads:
        with pytest.raises(DataLoss, match="not applied"):
            read()


def _assert_refuses_writes(backend: LocalBackend, first: int, last: int, family: Family) -> None:
    fault = backend.write_fault()
    assert fault is not None
    assert fault.reason == "DATA_LOSS"
    assert f"entries {first} to {last} of the log are not applied" in fault.message
    assert fault.metadata["key_family"] == family.name
    assert fault.metadata["applied_revision"] == str(first - 1)
    writes: list[Callable[[], object]] = [
        lambda: backend.append(ACCOUNT, [event("late")]),
        lambda: backend.append_columns(ACCOUNT, columns_of([event("late")])),
        lambda: backend.erase(ACCOUNT, ["ada"]),
        lambda: backend.alias(ACCOUNT, "ada", "grace"),
        lambda: backend.remove_events(ACCOUNT, NOON + MICROS_PER_DAY),
    ]
    for write in writes:
        with pytest.raises(DataLoss, match="not applied"):
            write()


def _values(backend: LocalBackend, family: Family) -> dict[bytes, bytes]:
    """Everything stored of a family, by key."""
    with backend._store.index._env.begin() as txn:
        return {stored: value for stored, value in txn.cursor() if family_of(stored) is family}


def _put(backend: LocalBackend, values: dict[bytes, bytes]) -> None:
    with backend._store.index._env.begin(write=True) as txn:
        for stored, value in values.items():
            txn.put(stored, value)


def damage_key(backend: LocalBackend, family: Family) -> None:
    """Changes one byte of the first key of a family."""
    with backend._store.index._env.begin(write=True) as txn:
        stored = next(found for found, _ in txn.cursor() if family_of(found) is family)
        value = txn.get(stored)
        assert value is not None
        txn.delete(stored)
        txn.put(stored[:-1] + bytes([stored[-1] ^ 4]), value)


@pytest.mark.parametrize("spoil", [damage, damage_key])
@pytest.mark.parametrize("family", [Family.DEDUPE_FILTER, Family.USER_FILTER])
def test_a_damaged_filter_changes_no_answer(
    directory: Path, family: Family, spoil: Callable[[LocalBackend, Family], None]
) -> None:
    """Keys it would have excluded are looked up in the blocks."""
    backend = LocalBackend.open(directory, settings=SETTINGS)
    backend.append(ACCOUNT, [event("ada", event_id="1"), event("ada", event_id="2")])
    backend.checkpoint()
    spoil(backend, family)
    backend.close()
    again = LocalBackend.open(directory, settings=SETTINGS)
    answer = again.append(ACCOUNT, [event("ada", event_id=number) for number in "213"])
    assert (answer.accepted, answer.duplicates) == (1, 2)
    assert again.append(ACCOUNT, [event("user-7"), event("grace")]).accepted == 2
    assert again.execute(EVERYONE, Count()).sizes == (202,)
    assert again.checkpoint() == again.revision()
    faults = {finding.family for finding in again.verify() if isinstance(finding, StoreFault)}
    assert family.name in faults
    again.close()


@pytest.mark.parametrize("spoil", [damage, damage_key])
def test_a_damaged_run_of_event_ids_refuses_batches_with_ids_only(
    directory: Path, spoil: Callable[[LocalBackend, Family], None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    backend = LocalBackend.open(directory, settings=SETTINGS)
    backend.append(ACCOUNT, [event("ada", event_id="1")])
    backend.checkpoint()
    spoil(backend, Family.DEDUPE_RUN)
    backend.close()
    again = LocalBackend.open(directory, settings=SETTINGS)
    assert again.execute(EVERYONE, Count()).sizes == (201,)
    with pytest.raises(DataLoss) as raised:
        again.append(ACCOUNT, [event("ada", event_id="9"), event("someone new")])
    assert raised.value.metadata["key_family"] == "DEDUPE_RUN"
    with pytest.raises(DataLoss):
        again.append_columns(ACCOUNT, columns_of([event("ada", event_id="9")]))
    assert again.append(ACCOUNT, [event("grace")]).accepted == 1
    assert again.checkpoint() == again.revision()
    assert again.write_fault() is None
    assert again.execute(EVERYONE, Count()).sizes == (202,)
    with pytest.raises(DataLoss):
        again.snapshot(tmp_path_factory.mktemp("backup"))
    again.close()
