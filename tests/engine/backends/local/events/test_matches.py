"""Every aggregate and sequence against brute force, across checkpoints, aborted checkpoints, reopening,
small slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from msgspec.structs import replace
from pyroaring import BitMap

from engine.backends.local.events import (
    EventRow,
    EventTables,
    ResolvedEventMatch,
    ResolvedSelection,
    ResolvedSequence,
    SharedPart,
    aggregate_of_one_passes,
    by_value,
    compaction,
    distinct,
    joined_rows,
    part,
    select,
    sequence_of_one_passes,
)
from engine.backends.local.events import table as table_module
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.turns import TakesLong, Unshared
from engine.criteria import conditions
from engine.criteria.model import Aggregate
from engine.criteria.ranges import TimeRange
from engine.values import kind_of
from tests.engine.backends.local.events import brute, drawing
from tests.engine.backends.local.events.checkpoints import stage
from tests.engine.backends.local.events.conftest import GROUPS

STRIDE = 1 << 18
"""Room for the dense ids of a group."""

ACTIONS = st.sampled_from(
    [
        "nothing",
        "read",
        "checkpoint",
        "checkpoint",
        "aborted checkpoint",
        "reopen",
        "extract",
        "remove before",
    ]
)


def told_apart(row: EventRow) -> tuple[object, ...]:
    """A row in a form in which 1.0, True and the instant 1 differ."""
    attributes = sorted((number, kind_of(value), value) for number, value in row.attributes.items())
    return (*msgspec.structs.astuple(row)[:-1], type(row.type), attributes)


class History:
    """Event tables with a history, and the rows they must contain."""

    def __init__(self, store: Store, account: int) -> None:
        self.store = store
        self.account = account
        self.tables = EventTables(store, account, GROUPS)
        self.rows: list[EventRow] = []

    def add(self, rows: list[EventRow], action: str) -> None:
        """Adds rows; what `extract` removed is added again, as an alias does it."""
        self.tables.add(rows)
        self.rows += rows
        if action == "read":
            self.check_counts()
        elif action in ("checkpoint", "reopen"):
            self.checkpoint()
            if action == "reopen":
                self.tables = EventTables(self.store, self.account, GROUPS)
        elif action == "aborted checkpoint":
            with pytest.raises(RuntimeError, match="aborted"):
                self.checkpoint(abort=True)
        elif action == "extract":
            self.extract(rows[0].user if rows else 0)
        elif action == "remove before" and rows:
            self.remove_before(rows[0].time)

    def checkpoint(self, abort: bool = False) -> None:
        with self.store.index.writing() as txn:
            stage(self.tables)
            self.tables.write(txn)
            if abort:
                raise RuntimeError("aborted")

    def extract(self, user: int) -> None:
        for group in range(GROUPS):
            expected = [row for row in self.rows if row.user == user and row.group == group]
            found = self.tables.extract(group, user)
            assert list(map(told_apart, found)) == list(map(told_apart, expected))
            self.tables.add(expected)

    def remove_before(self, instant: int) -> None:
        gone = {(r.input_number, r.name_number, r.type, r.group) for r in self.rows if r.time < instant}
        for name in self.tables.event_names():
            assert self.tables.tables_before(name, instant) == sum(each[1] == name for each in gone)
        removed = self.tables.remove_before(instant)
        assert sorted(removed) == sorted((input_, name, group) for input_, name, _, group in gone)
        assert not any(self.tables.tables_before(name, instant) for name in self.tables.event_names())
        self.rows = [row for row in self.rows if row.time >= instant]

    def check_counts(self) -> None:
        for group in range(GROUPS):
            selection = ResolvedSelection(inputs=(1, 2))
            assert set(self.tables.users(group, selection)) == {r.user for r in self.rows if r.group == group}


lives = st.lists(st.tuples(drawing.rows(), ACTIONS), min_size=1, max_size=4)


def stages(store: Store, account: int, life: list[tuple[list[EventRow], str]]) -> Iterator[History]:
    """The same history after each step."""
    history = History(store, account)
    arrived = 0
    for rows, action in life:
        for row in rows:
            arrived += 1
            row.sequence = arrived * 2
        history.add(rows, action)
        yield history


def lived(store: Store, account: int, life: list[tuple[list[EventRow], str]]) -> History:
    *_, history = stages(store, account, life)
    return history


@pytest.fixture(
    params=[(4, 2, 64, 0.25, 0, 1 << 40), (4, 2, 2, 1.0, 1 << 12, 4), (1 << 16, 8, 64, 1.0, 1 << 12, 4)],
    ids=["small slices, few joined, by user", "small slices, two value bits", "usual limits"],
)
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a share of 1, rows before a floor stay where they are for as long as any others do."""
    rows_max, parts_max, value_bits_max, expired_share, few_rows_max, row_user_bytes = request.param
    # Rows that take so much room are found user by user.
    monkeypatch.setattr(part, "ROW_USER_BYTES", row_user_bytes)
    monkeypatch.setattr(select, "FEW_ROWS_MAX", few_rows_max)
    monkeypatch.setattr(compaction, "EXPIRED_SHARE_MAX", expired_share)
    monkeypatch.setattr(table_module, "SLICE_ROWS_MAX", rows_max)
    monkeypatch.setattr(table_module, "SLICE_PARTS_MAX", parts_max)
    monkeypatch.setattr(distinct, "VALUE_BITS_MAX", value_bits_max)


@pytest.mark.usefixtures("limits")
class TestAgainstBruteForce:
    @given(
        life=lives,
        steps=st.lists(drawing.matches, min_size=1, max_size=6),
        universe=st.none() | st.sets(drawing.users),
    )
    def test_aggregates(
        self,
        store: Store,
        new_account: Callable[[], int],
        life: list[tuple[list[EventRow], str]],
        steps: list[ResolvedEventMatch],
        universe: set[int] | None,
    ) -> None:
        history = lived(store, new_account(), life)
        for step in steps:
            for group in range(GROUPS):
                expected = brute.match(history.rows, group, step)
                assert set(history.tables.match(group, step)) == expected
                if universe is not None:
                    found = history.tables.match(group, step, BitMap(universe))
                    assert set(found) == expected & universe

    @given(
        life=lives,
        steps=st.lists(drawing.matches, min_size=1, max_size=6),
        sequences=st.lists(drawing.sequences, min_size=1, max_size=3),
    )
    def test_one_user_alone(
        self,
        store: Store,
        new_account: Callable[[], int],
        life: list[tuple[list[EventRow], str]],
        steps: list[ResolvedEventMatch],
        sequences: list[ResolvedSequence],
    ) -> None:
        """What is in memory is decided row by row, and otherwise left to the way of many users."""
        history = lived(store, new_account(), life)
        tables = history.tables
        for group in range(GROUPS):
            # So that the columns are in memory.
            asked = [set(tables.match(group, step)) for step in steps]
            in_order = [set(tables.match_sequence(group, step)) for step in sequences]
            for user in sorted({row.user for row in history.rows} | {9}):
                for step, users in zip(steps, asked, strict=True):
                    with suppress(TakesLong):
                        rows = tables.rows_of_user(group, step.selection, step.selection.time, user)
                        assert aggregate_of_one_passes(rows, step) == (user in users)
                        event(f"{step.aggregate.name} decided")
                for sequence, users in zip(sequences, in_order, strict=True):
                    with suppress(TakesLong):
                        found = [
                            (tables.rows_of_user(group, each, each.time, user), each.where)
                            for each in sequence.steps
                        ]
                        assert sequence_of_one_passes(found, sequence.within) == (user in users)
                        event("sequence decided")

    @given(life=lives, steps=st.lists(drawing.matches, min_size=1, max_size=3))
    def test_the_same_questions_at_every_stage(
        self,
        store: Store,
        new_account: Callable[[], int],
        life: list[tuple[list[EventRow], str]],
        steps: list[ResolvedEventMatch],
    ) -> None:
        """Cached answers must not outlive their data."""
        for history in stages(store, new_account(), life):
            for step in steps:
                for group in range(GROUPS):
                    assert set(history.tables.match(group, step)) == brute.match(history.rows, group, step)

    @given(
        batches=st.tuples(*[st.lists(drawing.row_with_number, min_size=1, max_size=8)] * 3),
        floor=drawing.near_times,
        steps=st.lists(drawing.whole_matches, min_size=4, max_size=12),
    )
    def test_aggregates_beside_rows_below_a_floor(
        self,
        store: Store,
        new_account: Callable[[], int],
        batches: tuple[list[EventRow], ...],
        floor: int,
        steps: list[ResolvedEventMatch],
    ) -> None:
        """Late rows make parts that are earlier than what is live of the older parts."""
        history = History(store, new_account())
        for number, rows in enumerate(batches):
            for at, row in enumerate(rows):
                # Each batch has a table, or its parts would be merged.
                row.input_number, row.sequence = 1 + number, 100 * number + at
            history.add(rows, "checkpoint")
            if number == 0:
                history.remove_before(floor)
        for step in steps:
            assert set(history.tables.match(0, step)) == brute.match(history.rows, 0, step)

    @pytest.mark.parametrize("rows_per_value_min", [0, 16])
    @given(
        life=lives,
        steps=st.lists(drawing.matches, min_size=1, max_size=3),
        later=st.lists(drawing.time_ranges, max_size=3),
    )
    def test_counts_over_all_groups_at_every_stage(
        self,
        rows_per_value_min: int,
        store: Store,
        new_account: Callable[[], int],
        life: list[tuple[list[EventRow], str]],
        steps: list[ResolvedEventMatch],
        later: list[TimeRange],
    ) -> None:
        """A question is asked again, as some of what it needs is kept from the second time on, and in other
        windows.
        """
        counts = [replace(step, aggregate=Aggregate.COUNT) for step in steps]
        asked = [
            replace(step, selection=replace(step.selection, time=time))
            for step in counts
            for time in (step.selection.time, step.selection.time, *later)
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(by_value, "ROWS_PER_VALUE_MIN", rows_per_value_min)
            patch.setattr(joined_rows, "ROWS_PER_VALUE_MIN", rows_per_value_min)
            for history in stages(store, new_account(), life):
                for step in asked:
                    found = history.tables.count_of_all(step, STRIDE, Unshared())
                    assert found is not None
                    assert set(found) == {
                        group * STRIDE + user
                        for group in range(GROUPS)
                        for user in brute.match(history.rows, group, step)
                    }

    @given(
        life=lives,
        steps=st.lists(drawing.sequences, min_size=1, max_size=3),
        universe=st.none() | st.sets(drawing.users),
    )
    def test_sequences(
        self,
        store: Store,
        new_account: Callable[[], int],
        life: list[tuple[list[EventRow], str]],
        steps: list[ResolvedSequence],
        universe: set[int] | None,
    ) -> None:
        history = lived(store, new_account(), life)
        for step in steps:
            for group in range(GROUPS):
                expected = brute.match_sequence(history.rows, group, step)
                assert set(history.tables.match_sequence(group, step)) == expected
                if universe is not None:
                    found = history.tables.match_sequence(group, step, BitMap(universe))
                    assert set(found) == expected & universe

    @given(
        life=lives,
        steps=st.lists(drawing.matches, min_size=1, max_size=6),
        sequences=st.lists(drawing.sequences, min_size=1, max_size=3),
        universe=st.sets(drawing.users, min_size=1),
    )
    def test_a_part_of_some_users(
        self,
        store: Store,
        new_account: Callable[[], int],
        life: list[tuple[list[EventRow], str]],
        steps: list[ResolvedEventMatch],
        sequences: list[ResolvedSequence],
        universe: set[int],
    ) -> None:
        """What is in memory is copied for several questions, and otherwise left to the way of many users."""
        history = lived(store, new_account(), life)
        # So that the columns are in memory.
        for step in steps:
            for group in range(GROUPS):
                history.tables.match(group, step)
        places = [(group, user) for group in range(GROUPS) for user in sorted(universe)]

        def copied(selection: ResolvedSelection, attributes: set[int]) -> SharedPart | None:
            wider = msgspec.structs.replace(selection, time=TimeRange(selection.time.start), where=None)
            users = {group: BitMap(universe) for group in range(GROUPS)}
            found = history.tables.part_of_some(wider, attributes, users, Unshared())
            event("copied" if found is not None else "not in memory")
            return found

        for step in steps:
            part_ = copied(step.selection, {step.of, *attributes_of(step.selection)})
            if part_ is not None:
                found = [places[place] for place in part_.passing(step, lambda: None).tolist()]
                assert set(found) == {
                    (group, user)
                    for group in range(GROUPS)
                    for user in brute.match(history.rows, group, step) & universe
                }
        for sequence in sequences:
            parts = [copied(each, attributes_of(each)) for each in sequence.steps]
            known = [each for each in parts if each is not None]
            if len(known) == len(parts):
                passing = SharedPart.passing_sequence(known, sequence, lambda: None)
                assert {places[place] for place in passing.tolist()} == {
                    (group, user)
                    for group in range(GROUPS)
                    for user in brute.match_sequence(history.rows, group, sequence) & universe
                }


def attributes_of(selection: ResolvedSelection) -> set[int]:
    return {each.key for each in conditions.tests_in(selection.where)}
