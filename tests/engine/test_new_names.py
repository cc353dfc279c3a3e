"""New names are limited, per batch and per account; rows that fit are taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.base import EventRecord, NameKind, Naming, Record, UserRecord
from engine.criteria.model import ConsentState, EventType
from engine.limits import Limits
from engine.new_names import Batch, EventColumnNames, NewNames, RecordNames, UserColumnNames
from tests.conformance.as_columns import columns_of, user_columns_of
from tests.conformance.site import ACCOUNT, APP, DESK, NOON, WEB
from tests.engine.site import ACCOUNT as SITE_ACCOUNT
from tests.engine.site import Site, event

NAMES = st.sampled_from("abcdefghij")
INPUTS = st.sampled_from((WEB, APP, DESK))


class KnownNames:
    """The names of an account, as a backend knows them."""

    def __init__(self, known: Iterable[Naming] = ()) -> None:
        self.known = set(known)

    def unknown_names(self, account: str, kind: NameKind, scope: str, names: Set[str]) -> Set[str]:
        return {name for name in names if Naming(kind, scope, name) not in self.known}

    def name_count(self, account: str) -> int:
        return len(self.known)


EVENTS = st.lists(
    st.builds(
        EventRecord,
        st.just("ada"),
        INPUTS,
        NAMES,
        st.just(EventType.CUSTOM),
        st.just(NOON),
        st.dictionaries(NAMES, st.sampled_from((1.0, "x")), max_size=4),
    ),
    max_size=12,
)
UPDATES = st.lists(
    st.builds(
        UserRecord,
        st.just("ada"),
        INPUTS,
        st.just(NOON),
        st.dictionaries(NAMES, st.sampled_from((None, 1.0, "x")), max_size=4),
        st.dictionaries(NAMES, st.sampled_from((None, "x")), max_size=2),
        st.dictionaries(st.tuples(NAMES, NAMES), st.just(ConsentState.GIVEN), max_size=2),
    ),
    max_size=12,
)


def namings(record: Record) -> set[Naming]:
    """The names of one record."""
    if isinstance(record, EventRecord):
        attributes = {Naming(NameKind.EVENT_ATTRIBUTE, "", name) for name in record.attributes}
        return attributes | {Naming(NameKind.EVENT, "", record.name)}
    workspace = record.input.partition("/inputs/")[0]
    return {
        *(Naming(NameKind.USER_ATTRIBUTE, workspace, name) for name in record.attributes),
        *(Naming(NameKind.IDENTITY, "", name) for name in record.identities),
        *(Naming(NameKind.CONSENT, regulation, purpose) for regulation, purpose in record.consents),
    }


def rejected_one_by_one(records: Sequence[Record], known: set[Naming], room: int) -> set[int]:
    """The rows that do not fit, each decided by itself in order."""
    known, rejected = set(known), set()
    for row, record in enumerate(records):
        new = namings(record) - known
        if len(new) <= room:
            room -= len(new)
            known |= new
        else:
            rejected.add(row)
    return rejected


def rejected(batch: Batch, known: set[Naming], in_batch: int, in_account: int) -> set[int]:
    limits = Limits(batch_new_names_max=in_batch)
    names = NewNames(KnownNames(known), limits, lambda account: in_account)
    with names.admitting(ACCOUNT, batch) as faults:
        rows = [row for fault in faults for row in fault.rows.tolist()]
        assert len(set(rows)) == len(rows)
        assert all(fault.reason == "TOO_MANY_NAMES" for fault in faults)
        return set(rows)


@given(EVENTS, st.data())
def test_events_that_do_not_fit_are_rejected_one_by_one(
    events: list[EventRecord], data: st.DataObject
) -> None:
    check(events, [RecordNames(events), EventColumnNames(columns_of(events))], data)


@given(UPDATES, st.data())
def test_updates_that_do_not_fit_are_rejected_one_by_one(
    updates: list[UserRecord], data: st.DataObject
) -> None:
    check(updates, [RecordNames(updates), UserColumnNames(user_columns_of(updates))], data)


def check(records: Sequence[Record], batches: Sequence[Batch], data: st.DataObject) -> None:
    every = sorted({naming for record in records for naming in namings(record)}, key=repr)
    known = set(data.draw(st.lists(st.sampled_from(every)))) if every else set()
    in_batch, in_account = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 30))
    room = max(0, min(in_batch, in_account - len(known)))
    expected = rejected_one_by_one(records, known, room)
    for batch in batches:
        assert rejected(batch, known, in_batch, in_account) == expected


def test_a_batch_beyond_its_limit_says_what_to_do() -> None:
    records = [event_of("a"), event_of("b"), event_of("a")]
    names = NewNames(KnownNames(), Limits(batch_new_names_max=1), lambda account: 10)
    with names.admitting(ACCOUNT, RecordNames(records)) as faults:
        [fault] = faults
    assert (fault.field, fault.rows.tolist()) == ("name", [1])
    assert fault.description == (
        "is a new name, and a batch may bring 1: send the row again in a later batch"
    )


def test_an_account_beyond_its_limit_says_what_to_do() -> None:
    known = [Naming(NameKind.EVENT, "", "a"), Naming(NameKind.IDENTITY, "", "email")]
    record = event_of("a", "x" * 300)
    names = NewNames(KnownNames(known), Limits(), lambda account: 2)
    with names.admitting(ACCOUNT, RecordNames([record])) as faults:
        [fault] = faults
    assert fault.field == f"attributes['{'x' * 64}…']"
    assert fault.description == (
        "is a new name, and accounts/acme has 2 of the 2 names that it may have: use one that it has, or ask "
        "an operator for a higher limit"
    )


def test_further_names_are_told_by_their_kind() -> None:
    records = [event_of("e", f"name{number}") for number in range(500)]
    names = NewNames(KnownNames([Naming(NameKind.EVENT, "", "e")]), Limits(), lambda account: 1)
    with names.admitting(ACCOUNT, EventColumnNames(columns_of(records))) as faults:
        assert len(faults) == 101
        assert np.concatenate([fault.rows for fault in faults]).size == 500


def test_batches_at_the_same_time_do_not_exceed_the_limit_together() -> None:
    backend = KnownNames()
    names = NewNames(backend, Limits(), lambda account: 3)
    first, second, third = ([event_of(name)] for name in ("a", "b", "c"))
    with ExitStack() as running:
        for records in (first, second, first, third):
            # None of them waits for another.
            assert not running.enter_context(names.admitting(ACCOUNT, RecordNames(records)))
        with names.admitting(ACCOUNT, RecordNames([event_of("d"), event_of("a")])) as faults:
            assert [fault.rows.tolist() for fault in faults] == [[0]]
        with names.admitting("accounts/other", RecordNames([event_of("d")])) as faults:
            assert not faults
        backend.known.add(Naming(NameKind.EVENT, "", "a"))
        with names.admitting(ACCOUNT, RecordNames([event_of("d")])) as faults:
            assert faults
    # Only what was stored counts now.
    with names.admitting(ACCOUNT, RecordNames([event_of("d"), event_of("e"), event_of("f")])) as faults:
        assert [fault.rows.tolist() for fault in faults] == [[2]]


def test_batches_that_bring_nothing_and_some_may_end_in_any_order() -> None:
    names = NewNames(KnownNames(), Limits(), lambda account: 1)
    with ExitStack() as refused, names.admitting(ACCOUNT, RecordNames([event_of("a")])):
        assert refused.enter_context(names.admitting(ACCOUNT, RecordNames([event_of("b")])))
    with names.admitting(ACCOUNT, RecordNames([event_of("c")])) as faults:
        assert not faults


def test_the_rows_that_fit_are_stored_in_both_forms(site: Site) -> None:
    few = [event(f"u{number}", f"name {number}") for number in range(5)]
    for form, send in (("records", by_record), ("columns", by_column)):
        names = [msgspec.structs.replace(each, name=f"{form} {each.name}") for each in few]
        accepted, rows = send(site, names)
        assert (accepted, rows) == (3, [3, 4])
        assert send(site, names[3:]) == (2, [])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "store", limits=Limits(batch_new_names_max=3))
    yield site
    site.engine.close()


def by_record(site: Site, events: Sequence[EventRecord]) -> tuple[int, list[int]]:
    answer = site.engine.ingest.events(SITE_ACCOUNT, events)
    return answer.accepted, [rejection.index for rejection in answer.rejections]


def by_column(site: Site, events: Sequence[EventRecord]) -> tuple[int, list[int]]:
    answer = site.engine.ingest.columns(SITE_ACCOUNT, columns_of(events))
    return answer.appended.accepted, sorted(row for fault in answer.faults for row in fault.rows.tolist())


def event_of(name: str, *attributes: str) -> EventRecord:
    return EventRecord("ada", WEB, name, EventType.CUSTOM, NOON, dict.fromkeys(attributes, 1.0))
