"""Verification: a sound store has no faults; anything damaged, missing or invented is reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine.backends.base import Record
from engine.backends.base.upkeep import StoreFault, StoreProgress, StoreVerified
from engine.backends.local.attributes.write_times import SPANS
from engine.backends.local.backend import LocalBackend
from engine.backends.local.events.table import SliceRecord
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.header import FORMAT_VERSION
from engine.backends.local.storage.key_statistics import KINDS
from engine.backends.local.storage.keys import Family, family_of, key
from engine.backends.local.storage.transactions import CHECKSUM_BYTES
from engine.backends.local.verify import CHECKERS, verify
from engine.errors import FailedPrecondition
from engine.plan.model import Universe
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, WEB, event, plan_of, update
from tests.stores import crash_image

SETTINGS = LocalSettings(groups=2, checkpoint_s=3_600.0)
EVERYONE = plan_of(Universe(inputs=(WEB,)))
USERS = [f"user-{number}" for number in range(300)]


def records(round_: int) -> list[Record]:
    """Every kind of value, for users of whom some are in each round."""
    found: list[Record] = []
    for number, user_id in enumerate(USERS[round_ * 50 : round_ * 50 + 200]):
        found.append(event(user_id, event_id=f"{round_}/{number}", price=number / 4, colour="red"))
        note = f"{number % 3}" * 300
        found.append(update(user_id, plan="gold", age=float(number), tags=("a", str(number)), note=note))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with keys of every family, some of its entries only in the log."""
    directory = tmp_path_factory.mktemp("made")
    backend = LocalBackend.open(directory / "store", settings=SETTINGS)
    for round_ in range(3):
        backend.append(ACCOUNT, records(round_), request_id=f"request-{round_}")
        backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
        backend.checkpoint()
    backend.documents.commit({"a/document": b"content"})
    backend.alias(ACCOUNT, "user-7", "user-8")
    backend.erase(ACCOUNT, ["user-9", "user-10"])
    backend.append(ACCOUNT, records(1))
    backend.append(ACCOUNT, records(2))
    backend.snapshot(directory / "copy")
    backend.close()
    return directory / "copy"


@pytest.fixture
def backend(made: Path, tmp_path: Path) -> Iterator[LocalBackend]:
    crash_image(made, tmp_path / "store")
    opened = LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    yield opened
    # What is damaged must not be checkpointed at the end.
    opened._closing.set()
    for thread in opened._background:
        thread.join()
    opened._store.close()


def verified(backend: LocalBackend) -> tuple[list[StoreFault], StoreVerified]:
    findings = [finding for finding in backend.verify() if not isinstance(finding, StoreProgress)]
    *faults, result = findings
    assert isinstance(result, StoreVerified)
    told = [fault for fault in faults if isinstance(fault, StoreFault)]
    assert len(told) == len(faults) == result.faults
    by_family = Counter(fault.family for fault in told)
    assert {each.family: each.faults for each in result.families if each.faults} == by_family
    return told, result


def environment_of(backend: LocalBackend, family: Family) -> Environment:
    return backend._store.log if family is Family.LOG else backend._store.index


def stored(backend: LocalBackend, family: Family) -> list[bytes]:
    with environment_of(backend, family).reading() as txn:
        return list(txn.keys(key(family)))


def test_every_family_has_a_checker_and_a_kind() -> None:
    checked = [family for _, families in CHECKERS for family in families]
    assert Counter(checked) == Counter(Family)
    assert set(KINDS) == set(Family)


def test_a_sound_store_has_no_faults_and_every_key_is_read(backend: LocalBackend) -> None:
    faults, result = verified(backend)
    assert faults == []
    assert result.revision == backend.revision() == 7
    keys = {each.family: each.keys for each in result.families}
    assert {family for family in Family if not keys[family.name]} == set()
    with backend._store.log.reading() as log, backend._store.index.reading() as index:
        assert sum(keys.values()) == log.count() + index.count()
    kinds: Counter[str] = Counter()
    for each in result.families:
        kinds[each.kind] += each.bytes
    assert kinds == {kind.kind: kind.bytes for kind in backend.figures().kinds}


def test_a_verification_may_rest_after_every_key(backend: LocalBackend) -> None:
    rests: list[None] = []
    *_, result = verify(backend._store.log, backend._store.index, lambda: rests.append(None))
    assert isinstance(result, StoreVerified)
    assert len(rests) >= sum(family.keys for family in result.families if family.family == "PROFILE") == 297


@pytest.mark.parametrize("family", Family, ids=lambda family: family.name)
def test_flipped_bit_is_detected_in_any_family(backend: LocalBackend, family: Family) -> None:
    with environment_of(backend, family)._env.begin(write=True) as txn:
        damaged = [found for found, _ in list(txn.cursor()) if family_of(found) is family][-1]
        value = txn.get(damaged)
        assert value is not None
        at = CHECKSUM_BYTES if len(value) > CHECKSUM_BYTES else 0
        txn.put(damaged, value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :])
    faults, _ = verified(backend)
    # One fault, and nothing that only follows from it.
    assert [(fault.family, fault.description) for fault in faults] == [(family.name, "fails its checksum")]


NOT_MISSED = {
    Family.DOCUMENT: "what is in the records is the engine's business",
    Family.EVENT_CHECKPOINT: "only counts",
    Family.REQUEST: "may be forgotten before its arrival is",
    Family.META: "see the test of headers",
}


@pytest.mark.parametrize(
    "family", [family for family in Family if family not in NOT_MISSED], ids=lambda family: family.name
)
def test_missing_key_is_detected(backend: LocalBackend, family: Family) -> None:
    with environment_of(backend, family).writing() as txn:
        assert txn.delete(next(txn.keys(key(family))))
    faults, _ = verified(backend)
    assert faults != []


OF_ANY_FORM = (Family.DOCUMENT, Family.EVENT_CHECKPOINT, Family.REQUEST_ARRIVAL)


@pytest.mark.parametrize(
    "family", [family for family in Family if family not in OF_ANY_FORM], ids=lambda family: family.name
)
def test_undecodable_value_is_detected(backend: LocalBackend, family: Family) -> None:
    """Its checksum is right, but the family's decoder rejects it."""
    damaged = stored(backend, family)[-1]
    with environment_of(backend, family).writing() as txn:
        txn.put(damaged, b"\xc1\xff\xff")
    faults, _ = verified(backend)
    assert family.name in {fault.family for fault in faults}


def test_swapped_values_are_detected(backend: LocalBackend) -> None:
    """Both values are valid, but under each other's key."""
    for family in (
        Family.USER_IDS,
        Family.PROFILE,
        Family.ALIVE,
        Family.SEEN,
        Family.FIELD_COLUMN,
        Family.WRITE_TIMES,
    ):
        one, two = stored(backend, family)[:2]
        with backend._store.index.writing() as txn:
            first, second = bytes(txn.get(one) or b""), bytes(txn.get(two) or b"")
            txn.put(one, second)
            txn.put(two, first)
        faults, _ = verified(backend)
        assert faults != [], family
        with backend._store.index.writing() as txn:
            txn.put(one, first)
            txn.put(two, second)
    assert verified(backend)[0] == []


def test_spans_wider_than_the_writes_are_detected(backend: LocalBackend) -> None:
    [at, *_] = stored(backend, Family.WRITE_TIMES)
    with backend._store.index.writing() as txn:
        spans = SPANS.decode(txn.get(at) or memoryview(b""))
        spans[min(spans)].first -= 1
        txn.put(at, SPANS.encode(spans) or b"")
    faults, _ = verified(backend)
    assert [(fault.family, fault.description) for fault in faults] == [
        ("WRITE_TIMES", "disagrees with the profiles")
    ]


def test_wrong_time_span_in_a_record_is_detected(backend: LocalBackend) -> None:
    [at, *_] = stored(backend, Family.EVENT_SLICE)
    with backend._store.index.writing() as txn:
        record = msgspec.msgpack.decode(txn.get(at) or b"", type=SliceRecord)
        (later, earlier), *others = record.parts[0].margins
        record.parts[0].margins = ((later, earlier + 1), *others)
        txn.put(at, msgspec.msgpack.encode(record))
    faults, _ = verified(backend)
    assert [(fault.family, fault.description.partition(" has ")[2]) for fault in faults] == [
        ("EVENT_COLUMN", "values whose time span differs from the record")
    ]


def test_keys_of_unknown_families_are_detected(backend: LocalBackend) -> None:
    with backend._store.index.writing() as txn:
        txn.put(b"\xeewhat is this", b"")
        txn.put(key(Family.LOG, 1), b"")
        txn.put(key(Family.EVENT_TABLE, 1, 1, 1, 1, 0) + b"longer", b"")
    faults, _ = verified(backend)
    assert sorted(fault.description for fault in faults) == [
        # The index has no checker for log entries.
        "has 0 keys; 1 are announced",
        "has a malformed key",
        "is a key of an unexpected family",
        "is a key of an unexpected family",
    ]


def test_different_headers_are_detected(backend: LocalBackend) -> None:
    header = {"format_version": FORMAT_VERSION, "store_id": "another", "groups": 2, "seed": 7}
    with backend._store.log.writing() as txn:
        txn.put(key(Family.META, b"header"), msgspec.msgpack.encode(header))
    faults, _ = verified(backend)
    assert [fault.description for fault in faults] == ["log and index have different headers"]


def test_only_one_verification_runs_and_writes_continue(backend: LocalBackend) -> None:
    under_way = backend.verify()
    assert isinstance(next(under_way), StoreProgress)
    with pytest.raises(FailedPrecondition) as raised:
        next(backend.verify())
    assert raised.value.reason == "VERIFICATION_UNDER_WAY"
    # Writes and checkpoints go on, and the state that is verified stays the one it was.
    backend.append(ACCOUNT, [event("late", event_id="late")])
    backend.checkpoint()
    rest = [finding for finding in under_way if not isinstance(finding, StoreProgress)]
    assert [type(finding) for finding in rest] == [StoreVerified]
    assert rest[0] == msgspec.structs.replace(rest[0], revision=7, faults=0)
    assert verified(backend)[1].revision == 8


def test_closed_verification_allows_the_next_one(backend: LocalBackend) -> None:
    given_up = backend.verify()
    next(given_up)
    given_up.close()  # type: ignore[attr-defined]
    assert verified(backend)[0] == []
