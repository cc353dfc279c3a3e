"""The event tables of one account: adding rows, answering questions, checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import numpy as np
from pyroaring import BitMap

from engine.backends.base import NameSpan
from engine.backends.local.events.aggregate import few_passing, passing
from engine.backends.local.events.all_rows import ALL_ROWS_MAX, AllRows, GroupRows, States
from engine.backends.local.events.buffered_rows import Wanted
from engine.backends.local.events.cache import ColumnCache, Keeping, Loader
from engine.backends.local.events.checkpointing import TableCheckpoints
from engine.backends.local.events.counts_of_all import CountOfAll
from engine.backends.local.events.facts import (
    TableFacts,
    column_spans,
    extent_of,
    facts_of,
    kinds_of,
    live_parts,
    texts_of,
)
from engine.backends.local.events.frame import ColumnKey, Frame, RowSet
from engine.backends.local.events.importing import ArrivedRows, sets_of
from engine.backends.local.events.model import (
    EventRow,
    ResolvedEventMatch,
    ResolvedSelection,
    ResolvedSequence,
)
from engine.backends.local.events.one_user import RowsOfOne
from engine.backends.local.events.part import Part, TimeSpan
from engine.backends.local.events.select import Universe
from engine.backends.local.events.sequence import sequence_passing
from engine.backends.local.events.shared_part import SHARED_PART_ROWS_MAX, SharedPart, rows_in_memory
from engine.backends.local.events.shared_rows import SharedRows
from engine.backends.local.events.table import Table, TableKey, TableRecord
from engine.backends.local.storage.arrays import Uint32s
from engine.backends.local.storage.bitmaps import ids_of
from engine.backends.local.storage.keys import Family, key, parts_of
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.transactions import ReadTransaction, Writable
from engine.backends.local.storage.turns import PAUSE_PAGES, TakesLong, Unshared
from engine.criteria.conditions import tests_in
from engine.criteria.operators import matcher_of
from engine.criteria.ranges import ALL_NUMBERS, TimeRange
from engine.values import MICROS_PER_DAY, TIME_MAX_MICROS, TIME_MIN_MICROS, Kind, Micros

ARRIVED_ROWS_MAX = 1 << 16
"""Rows from column batches that are buffered, then cut into tables together."""

PENDING_ROWS_MAX = 1 << 15
"""Rows buffered as objects, about a kilobyte each, before they become columns."""

BRIEF_USERS_MAX = 64
"""Users of whom no more than `BRIEF_ROWS_MAX` rows are read with the lock held."""
BRIEF_ROWS_MAX = 1 << 14
FEW_PARTS_MAX = 32
FEW_ROWS_READ_MAX = 1 << 12
"""Parts, and rows in them, that are read for everyone with the lock held."""
PARTS_AT_ONCE_MAX = 1 << 9
"""Parts, of all groups, that are copied with the lock held: a millisecond at most."""
GROUPS_AT_ONCE = 4
"""Groups of which rows of a few users are found with the lock held, before others go first."""
SHARED_ROWS_READ_MAX = 1 << 16
"""Rows of a group that are read for them with the lock held: a fraction of a millisecond."""
TABLES_PER_PAUSE = 256
"""Tables whose rows are counted before others go first: a fraction of a millisecond."""
LONG_TABLES = 8
"""Stored rows of tables, relative to those read, of which a window may leave few enough."""

_Short = tuple[int, int, int]
"""A table of an account and group: input number, name number, event type."""


ReadTable = tuple[int, int, int]
"""The part of a table key that a question names: input number, name number, group."""


SLICE_MICROS = 7 * MICROS_PER_DAY
"""Time read beyond the window, about: rows lie in slices of days and weeks. In microseconds."""


class _Group:
    """The tables of a group, indexed by parts of their key."""

    def __init__(self) -> None:
        self.tables: dict[_Short, Table] = {}
        self._by_name: dict[tuple[int, int], list[Table]] = {}
        self._by_input: dict[int, list[Table]] = {}
        self._by_event: dict[int, list[Table]] = {}

    def add(self, table: Table) -> None:
        """Adds a new table."""
        _, input_number, name_number, event_type, _ = table.key
        self.tables[input_number, name_number, event_type] = table
        self._by_name.setdefault((input_number, name_number), []).append(table)
        self._by_input.setdefault(input_number, []).append(table)
        self._by_event.setdefault(name_number, []).append(table)

    def drop(self, input_number: int) -> Collection[Table]:
        """Removes the tables of an input, and returns them."""
        dropped = self._by_input.pop(input_number, ())
        for table in dropped:
            _, _, name_number, event_type, _ = table.key
            del self.tables[input_number, name_number, event_type]
            self._by_name.pop((input_number, name_number), None)
            self._by_event[name_number].remove(table)
        return dropped

    def selected(self, selection: ResolvedSelection) -> Iterator[Table]:
        """The tables of the inputs, name and type."""
        for input_number in selection.inputs:
            if selection.name is None:
                tables = self._by_input.get(input_number, ())
            else:
                tables = self._by_name.get((input_number, selection.name), ())
            for table in tables:
                if selection.type is None or selection.type == table.key[3]:
                    yield table

    def through(self, input_number: int) -> Collection[Table]:
        """The tables of an input."""
        return self._by_input.get(input_number, ())

    @property
    def event_names(self) -> Collection[int]:
        """The numbers of event names that it has tables of."""
        return self._by_event.keys()

    def named(self, name_number: int, input_number: int | None) -> Iterator[Table]:
        """The tables of an event name, of one input or (None) of all."""
        for table in self._by_event.get(name_number, ()):
            if input_number in (None, table.key[1]):
                yield table


class EventTables:
    """All event tables of an account. Call every method except `write` with the backend's state lock held.

    A checkpoint needs no commit call: a read detects by itself whether the transaction has committed, even
    when that happens during the read.
    """

    def __init__(self, store: Store, account: int, groups: int, cache: ColumnCache | None = None) -> None:
        """`cache` is shared by the accounts of a store. None: the account gets its own."""
        self._account = account
        self._loader = Loader(store.index, ColumnCache() if cache is None else cache)
        self._groups = [_Group() for _ in range(groups)]
        self._checkpoints = TableCheckpoints(self._loader, account)
        self._is_read_briefly = False
        """Whether a block of `reading` runs; the lock is held as long."""
        self._pending_rows = 0
        self._arrived: list[ArrivedRows] = []
        self._arrived_rows = 0
        with self._loader.session() as txn:
            for found, stored in txn.scan(key(Family.EVENT_TABLE, account)):
                _, input_number, name_number, event_type, group = map(int, parts_of(found))
                short = (input_number, name_number, event_type)
                self._new_table(group, short, Table.decode_record(stored))
            self._checkpoints.begin(txn, self._all())

    # --- adding ---------------------------------------------------------------------------------------------

    def add(self, rows: Sequence[EventRow]) -> None:
        """Adds rows. The next read sees them."""
        groups, changed = self._groups, self._checkpoints.changed
        for row in rows:
            short = (row.input_number, row.name_number, row.type)
            table = groups[row.group].tables.get(short) or self._new_table(row.group, short)
            table.add(row)
            changed(table)
        self._checkpoints.added(len(rows))
        self._pending_rows += len(rows)
        if self._pending_rows >= PENDING_ROWS_MAX:
            self._pack_pending()

    def _pack_pending(self) -> None:
        self._pending_rows = 0
        for table in self._checkpoints.changed_tables:
            table.pack()

    def add_columns(self, rows: ArrivedRows) -> None:
        """Adds rows that arrive as columns. The next read sees them."""
        self._arrived.append(rows)
        self._checkpoints.added(len(rows))
        self._arrived_rows += len(rows)
        if self._arrived_rows >= ARRIVED_ROWS_MAX:
            self._place_arrived()

    def _place_arrived(self) -> None:
        if not self._arrived:
            return
        for found, rows in sets_of(self._arrived):
            short = (found.input_number, found.name_number, found.type)
            table = self._groups[found.group].tables.get(short) or self._new_table(found.group, short)
            table.add_set(rows)
            self._checkpoints.changed(table)
        self._arrived = []
        self._arrived_rows = 0

    def _new_table(self, group: int, short: _Short, record: TableRecord | None = None) -> Table:
        table = Table(self._loader, self._checkpoints.last, (self._account, *short, group), record)
        self._groups[group].add(table)
        return table

    def tables_with(self, group: int, user: int, yield_lock: Callable[[], None]) -> list[Table]:
        """The tables with rows of a user. Calls `yield_lock` between tables. No entry may be applied then."""
        with self._session():
            tables = list(self._groups[group].tables.values())
        wanted, found = Wanted.of(np.array([user], np.uint32)), list[Table]()
        for start in range(0, len(tables), PAUSE_PAGES):
            with self._session():
                found += [table for table in tables[start : start + PAUSE_PAGES] if table.has_any(wanted)]
            yield_lock()
        return found

    def extract(self, group: int, user: int, among: Iterable[Table] | None = None) -> list[EventRow]:
        """Removes a user's rows from tables (None = all) and returns them in order of arrival."""
        with self._session():
            rows: list[EventRow] = []
            for table in self._groups[group].tables.values() if among is None else among:
                self._checkpoints.removes_from(table)
                found = table.extract(user)
                if found:
                    self._checkpoints.changed(table)
                    rows += found
        rows.sort(key=lambda row: row.sequence)
        return rows

    def remove_users(self, group: int, users: Uint32s, yield_lock: Callable[[], None]) -> None:
        """Removes the rows of some users of a group, sorted. Calls `yield_lock` between tables."""
        with self._session():
            tables = list(self._groups[group].tables.values())
        wanted = Wanted.of(users)
        for table in tables:
            with self._session():
                if table.has_any(wanted):
                    self._checkpoints.removes_from(table)
                    table.remove_users(users)
                    self._checkpoints.changed(table)
            yield_lock()

    def drop(self, input_number: int) -> None:
        """Drops the tables of an input, which have no rows of a user. The caller deletes what is stored."""
        with self._session():
            for group in self._groups:
                for table in group.drop(input_number):
                    self._checkpoints.dropped(table)

    def remove_before(
        self,
        instant: Micros,
        names: NameSpan | None = None,
        yield_lock: Callable[[], None] = lambda: None,
    ) -> list[ReadTable]:
        """Removes every row before the instant, of some names or (None) of all. Returns the tables that had
        such rows. Calls `yield_lock` between tables.
        """
        with self._session():
            tables = self._all() if names is None else list(self._of_names(range(*names)))
        removed: list[ReadTable] = []
        for table in tables:
            with self._session():
                if table.has_before(instant):
                    self._checkpoints.removes_from(table)
                    table.remove_before(instant)
                    self._checkpoints.changed(table)
                    _, input_number, name_number, _, group = table.key
                    removed.append((input_number, name_number, group))
            yield_lock()
        return removed

    def tables_before(self, name_number: int, instant: Micros) -> int:
        """Number of tables of an event name that have a row before the instant. The first call for a table
        loads the metadata of its parts.
        """
        with self._session():
            return sum(table.has_before(instant) for table in self._of_names((name_number,)))

    def event_names(self) -> list[int]:
        """The numbers of all event names that have tables, ascending."""
        with self._session():
            return sorted(set().union(*(group.event_names for group in self._groups)))

    def _of_names(self, numbers: Iterable[int]) -> Iterator[Table]:
        """The tables of some event names."""
        for number in numbers:
            for group in self._groups:
                yield from group.named(number, None)

    # --- asking ---------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Questions in the block are answered from one state, which is opened once. Raises TakesLong for one
        that takes long: the lock is held in the block.
        """
        before, self._is_read_briefly = self._is_read_briefly, True
        # As long as no checkpoint can have committed, what is stored is as the tables are.
        is_in_step = not self._checkpoints.may_have_committed and not self._loader.is_open
        try:
            with self._loader.when_needed() if is_in_step else self._session():
                self._place_arrived()
                yield
        finally:
            self._is_read_briefly = before

    def match(
        self, group: int, step: ResolvedEventMatch, users: BitMap | None = None, read: Unshared | None = None
    ) -> BitMap:
        """The users of the group, among `users` (None = all), that the step holds for."""
        read = read or Unshared()
        if self._is_read_briefly and users:
            # Without what a longer read needs, which takes as long as the rest.
            return _matching(self._brief_parts(group, (step.selection,), users)[0], step, users, read)
        if users is None and not self._is_read_briefly and self._may_be_few(group, step.selection):
            with self._session():
                parts = self._parts(group, step.selection)
                if _are_few(parts, (step.selection,)):
                    return _matching(parts, step, None, read)
        with self._as_now(group, (step.selection,), users, read) as ((parts,), among):
            return _matching(parts, step, among, read)

    def _may_be_few(self, group: int, selection: ResolvedSelection) -> bool:
        """Whether a question about everyone may have few rows to read: finding the parts takes longer. Large
        tables and questions about every name have many, as a rule.
        """
        if selection.name is None:
            return False
        rows = sum(table.record.rows for table in self._groups[group].selected(selection))
        return rows <= FEW_ROWS_READ_MAX * LONG_TABLES

    def match_sequence(
        self, group: int, step: ResolvedSequence, users: BitMap | None = None, read: Unshared | None = None
    ) -> BitMap:
        """The users of the group, among `users` (None = all), that have the sequence."""
        read = read or Unshared()
        with self._as_now(group, step.steps, users, read) as (parts_of, among):
            if not all(parts_of):
                return BitMap(optimize=False)
            every_part = list({id(part): part for parts in parts_of for part in parts}.values())
            universe = Universe(every_part, among, read.check)
            steps = list(zip(step.steps, parts_of, strict=True))
            # Over everyone a sequence reads more than can be kept, as a rule: what is there for others stays.
            with every_part[0].keeping(Keeping.WHAT_FITS if users is None else Keeping.ALL):
                passed = sequence_passing(steps, step.within, universe)
            read.looked_at += universe.looked_at
            return universe.bitmap(passed)

    def rows_of_user(
        self, group: int, selection: ResolvedSelection, time: TimeRange, user: int
    ) -> list[RowsOfOne]:
        """The rows of the inputs, name and type that a user of the group has in a range of time. Raises
        TakesLong when they are not in memory.
        """
        # What a checkpoint has stored is found out when it is read.
        if self._checkpoints.may_have_committed:
            raise TakesLong
        self._place_arrived()
        found: list[RowsOfOne] = []
        for table in self._groups[group].selected(selection):
            if not table.is_known:
                raise TakesLong
            for part in table.parts(time.start, time.end):
                rows = part.rows_between(user, time.start, time.end)
                if rows:
                    found.append((part, rows))
        return found

    def rows_of_some(
        self, selection: ResolvedSelection, users: Mapping[int, BitMap], stride: int, read: Unshared
    ) -> SharedRows | None:
        """The rows of a few users, by group, whose users are group × stride + dense id; None when they are
        many. The selection has no condition.
        """
        in_order, found = sorted(users.items()), list[tuple[int, SharedRows]]()
        for start in range(0, len(in_order), GROUPS_AT_ONCE):
            read.pause()
            some = in_order[start : start + GROUPS_AT_ONCE]
            try:
                pieces = self._rows_at_once(selection, some, read)
            except TakesLong:
                pieces = [self._rows_of_group(group, selection, each, read) for group, each in some]
            for (group, _), piece in zip(some, pieces, strict=True):
                if piece is None:
                    return None
                found.append((group * stride, piece))
        return SharedRows.joined(found)

    def _rows_at_once(
        self, selection: ResolvedSelection, users: Sequence[tuple[int, BitMap]], read: Unshared
    ) -> list[SharedRows | None]:
        """For some groups the rows of a few users, with the lock held. Raises TakesLong."""
        span = selection.time
        since = TIME_MIN_MICROS if span.start is None else span.start
        until = TIME_MAX_MICROS + 1 if span.end is None else span.end
        found: list[SharedRows | None] = []
        if not self._are_known(selection, users):
            raise TakesLong
        with self.reading():
            for group, some in users:
                parts: list[Part] = []
                unpacked: list[tuple[int, Micros]] = []
                for table in self._groups[group].selected(selection):
                    unpacked += table.unpacked()
                    new = table.parts(span.start, span.end, packs=False)
                    parts += [part for part in new if part.is_live]
                universe = Universe(parts, some, read.check)
                if not _is_brief_for_some(parts, selection, universe):
                    raise TakesLong
                mine = [each for each in unpacked if since <= each[1] < until and each[0] in some]
                found.append(SharedRows.of_parts(parts, selection, universe, mine))
                read.looked_at += universe.looked_at + len(unpacked)
        return found

    def _are_known(self, selection: ResolvedSelection, users: Sequence[tuple[int, BitMap]]) -> bool:
        """Whether the metadata of the tables of these groups is in memory."""
        return all(table.is_known for group, _ in users for table in self._groups[group].selected(selection))

    def part_of_some(
        self, selection: ResolvedSelection, attributes: Set[int], users: Mapping[int, BitMap], read: Unshared
    ) -> SharedPart | None:
        """The rows of a few users, by group, with these attributes, as a part. The place of a user is that
        among all of them, in order of group and dense id. None: they are many, or not in memory. The
        selection has no condition.
        """
        in_order, sets, place = sorted(users.items()), list[RowSet](), 0
        for start in range(0, len(in_order), GROUPS_AT_ONCE):
            read.pause()
            some = in_order[start : start + GROUPS_AT_ONCE]
            try:
                sets += self._sets_at_once(selection, attributes, some, place, read)
            except TakesLong:
                return None
            place += sum(len(each) for _, each in some)
            if sum(map(len, sets)) > SHARED_PART_ROWS_MAX:
                return None
        return SharedPart(self._loader, sets)

    def _sets_at_once(
        self,
        selection: ResolvedSelection,
        attributes: Set[int],
        users: Sequence[tuple[int, BitMap]],
        first_place: int,
        read: Unshared,
    ) -> list[RowSet]:
        """For some groups the rows of a few users, with the lock held. Raises TakesLong."""
        found: list[RowSet] = []
        if not self._are_known(selection, users):
            raise TakesLong
        with self.reading():
            for group, some in users:
                parts = self._parts(group, selection)
                universe = Universe(parts, some, read.check)
                if not _is_brief_for_some(parts, selection, universe):
                    raise TakesLong
                found += rows_in_memory(parts, selection, attributes, ids_of(some), universe, first_place)
                first_place += len(some)
                read.looked_at += universe.looked_at
        return found

    def _rows_of_group(
        self, group: int, selection: ResolvedSelection, users: BitMap, read: Unshared
    ) -> SharedRows | None:
        """The rows of a few users of a group; None when they are many."""
        read.pause()
        with self._as_now(group, (selection,), users, read) as ((parts,), among):
            universe = Universe(parts, among, read.check)
            rows = SharedRows.of_parts(parts, selection, universe)
            read.looked_at += universe.looked_at
            return rows

    def rows_of_all(
        self, selection: ResolvedSelection, stride: int, before: AllRows | None, read: Unshared
    ) -> AllRows | None:
        """All rows of the inputs, name and type over every group, from the start of the selection on, whose
        users are group × stride + dense id; None when they are many. `before`: as they were, to take from it
        what has not changed.
        """
        groups = range(len(self._groups))
        tables = (table for group in groups for table in self._groups[group].selected(selection))
        if sum(table.record.rows + table.fresh_rows for table in tables) > ALL_ROWS_MAX:
            return None
        if before is not None:
            found = self._rows_of_groups(selection, before.states, read)
            if all(rows.stored is None for rows in found):
                return before.with_fresh(found, stride)
        found = self._rows_of_groups(selection, None, read)
        with read.released():
            return AllRows.of_groups(selection.time.start, found, stride)

    def count_of_all(self, step: ResolvedEventMatch, stride: int, read: Unshared) -> BitMap | None:
        """The users that pass a count, as group × stride + dense id; None: there are too many parts to look
        at with the lock held.
        """
        groups = range(len(self._groups))
        for group in groups:
            self._know_tables(group, (step.selection,), read)
        with self._loader.newest() as txn:
            with self._session(txn):
                found: list[list[Part]] = []
                for group in groups:
                    found.append(self._parts(group, step.selection))
                    if sum(map(len, found)) > PARTS_AT_ONCE_MAX:
                        return None
                loader = self._loader.alongside(txn)
                parts_of = [[part.as_now(loader) for part in parts] for parts in found]
            with read.released():
                users, looked_at = CountOfAll(parts_of, stride, step, read.check).passing()
        read.looked_at += looked_at
        return users

    def _rows_of_groups(
        self, selection: ResolvedSelection, known: Sequence[States] | None, read: Unshared
    ) -> list[GroupRows]:
        """All rows by group; those of stored parts are left out when these are `known`."""
        groups = range(len(self._groups))
        for group in groups:
            self._know_tables(group, (selection,), read)
        with self._loader.newest() as txn:
            with self._session(txn):
                loader = self._loader.alongside(txn)
                parts_of = [
                    [part.as_now(loader) for part in self._parts(group, selection)] for group in groups
                ]

            def rows_of(group: int) -> GroupRows:
                states = None if known is None else known[group]
                return GroupRows.of_parts(group, parts_of[group], selection.time.start, states, read.check)

            if known is not None and not any(not part.is_stored for parts in parts_of for part in parts):
                return list(map(rows_of, groups))
            with read.released():
                return list(map(rows_of, groups))

    @contextmanager
    def _as_now(
        self, group: int, selections: Sequence[ResolvedSelection], users: BitMap | None, read: Unshared
    ) -> Iterator[tuple[list[list[Part]], BitMap | None]]:
        """The parts of each selection and the users, as they are now. The block runs without the lock when
        it may take long; parts and columns do not change in it.
        """
        with ExitStack() as stack:
            if users is not None and not users:
                yield [[] for _ in selections], users
                return
            # A session alone says nothing: a checkpoint lets others read while its own is open.
            if self._is_read_briefly:
                yield self._brief_parts(group, selections, users), users
                return
            self._know_tables(group, selections, read)
            txn = stack.enter_context(self._loader.newest())
            # The tables as of this transaction, which has everything that their parts refer to.
            with self._session(txn):
                parts_of = [self._parts(group, selection) for selection in selections]
                if not any(parts_of) or _is_brief(parts_of, selections, users):
                    yield parts_of, users
                    return
                loader = self._loader.alongside(txn)
                copies = {id(part): part.as_now(loader) for parts in parts_of for part in parts}
            users = None if users is None else users.copy()
            is_brief = users is not None and len(users) <= BRIEF_USERS_MAX
            stack.enter_context(read.released(is_brief=is_brief))
            yield [[copies[id(part)] for part in parts] for parts in parts_of], users

    def _know_tables(self, group: int, selections: Sequence[ResolvedSelection], read: Unshared) -> None:
        """Reads the metadata of tables that are asked about for the first time, some at a time."""
        for selection in selections:
            new = [table for table in self._groups[group].selected(selection) if not table.is_known]
            for start in range(0, len(new), PAUSE_PAGES):
                with self._session():
                    for table in new[start : start + PAUSE_PAGES]:
                        table.know()
                read.pause()

    def _brief_parts(
        self, group: int, selections: Sequence[ResolvedSelection], users: BitMap | None
    ) -> list[list[Part]]:
        """The parts of each selection, within a block of `reading`. Raises TakesLong."""
        parts_of = [self._parts(group, selection) for selection in selections]
        if not _is_brief(parts_of, selections, users):
            raise TakesLong
        return parts_of

    def users(self, group: int, selection: ResolvedSelection, users: BitMap | None = None) -> BitMap:
        """The users of the group, among `users` (None = all), that have any event in the selection."""
        return self.match(group, ResolvedEventMatch(selection=selection, intervals=(ALL_NUMBERS,)), users)

    def _parts(self, group: int, selection: ResolvedSelection) -> list[Part]:
        span = selection.time
        return [
            part
            for table in self._groups[group].selected(selection)
            for part in table.parts(span.start, span.end)
            if part.is_live
        ]

    # --- figures --------------------------------------------------------------------------------------------

    def names_through(self, input_number: int) -> set[int]:
        """Event names of an input. Some may have no rows left."""
        with self._session():
            return {table.key[2] for group in self._groups for table in group.through(input_number)}

    def facts(self, name_number: int, input_number: int | None = None) -> list[TableFacts]:
        """Figures of an event name, by input (None = all) and type, unordered. Exact; removed rows do not
        count.
        """
        with self._session():
            return facts_of(self._named(name_number, input_number))

    def attributes(self, name_number: int, input_number: int | None = None) -> dict[ColumnKey, TimeSpan]:
        """Attributes of the events of a name through one input or (None) all: their kinds, and the first and
        last time of the events that have each. Exact; removed rows do not count.
        """
        with self._session():
            return column_spans(self._named(name_number, input_number))

    def has_events(self, group: int, selection: ResolvedSelection) -> bool:
        """Whether the group has an event of these inputs, name and type."""
        with self._session():
            tables = self._groups[group].selected(selection)
            return any(True for table in tables for _ in live_parts(table))

    def kinds(
        self, group: int, selection: ResolvedSelection, attribute: int, enough: Collection[Kind] = ()
    ) -> set[Kind]:
        """The kinds of an attribute of the group's events of these inputs, name and type. Once one of
        `enough` is found, others may be left out.
        """
        with self._session():
            return kinds_of(self._groups[group].selected(selection), attribute, enough)

    @contextmanager
    def texts(
        self, group: int, selection: ResolvedSelection, attribute: int, parts_max: int
    ) -> Iterator[tuple[Iterator[str], bool]]:
        """Strings of an attribute of the group's events of these inputs, name and type, from the latest
        parts, and whether these are all.
        """
        with self._session():
            yield texts_of(self._groups[group].selected(selection), attribute, parts_max)

    def frozen_parts(
        self, name_number: int, input_number: int | None, attribute: int, txn: ReadTransaction
    ) -> list[Part]:
        """Copies of the parts in which events of a name, through one input or (None) all, have the attribute.
        They stay as they are now and are read without the lock until `txn` ends, which began under it.
        """
        with self._session(txn):
            loader = self._loader.fixed(txn)
            return [
                part.frozen(loader)
                for table in self._named(name_number, input_number)
                for part in live_parts(table)
                if any(number == attribute for number, _ in part.record.columns)
            ]

    def expected_rows(self, group: int, selection: ResolvedSelection) -> float:
        """Estimated rows of the group that a question reads, as if rows were spread evenly over time. It
        depends only on the number of rows and the length of the range: neither the position of the range nor
        the storage layout changes it.
        """
        with self._session():
            rows, first, last = extent_of(self._groups[group].selected(selection))
        start, end = selection.time.start, selection.time.end
        if not rows or start is None or end is None:
            return float(rows)
        return rows * min(1.0, (end - start + SLICE_MICROS) / (last - first + 1))

    def _named(self, name_number: int, input_number: int | None) -> list[Table]:
        return [table for group in self._groups for table in group.named(name_number, input_number)]

    # --- checkpointing --------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """What there is now is part of a new checkpoint. Call while no entry is applied."""
        with self._session():
            self._checkpoints.freeze()

    def stage_next(self) -> bool:
        """Decides what of the next table is written; False when all is decided. Entries may be applied in
        between. It takes effect with the transaction of `write`.
        """
        with self._session():
            return self._checkpoints.stage_next()

    def write(self, txn: Writable, pause: Callable[[], None] = lambda: None) -> None:
        """Writes what is staged, and calls `pause` between tables. Needs no lock: others may read and change
        the tables meanwhile.
        """
        self._checkpoints.write(txn, pause)

    def settle_next(self) -> bool:
        """Releases what the last checkpoint has stored of the next table, without waiting for a read. False:
        all is released.
        """
        with self._session():
            return self._checkpoints.settle_next()

    def _session(self, txn: ReadTransaction | None = None) -> AbstractContextManager[None]:
        """Opens one state of the index, that of `txn` or the newest, with the tables as of that state."""
        if self._loader.is_open and txn is None:
            self._place_arrived()
            return _WITHIN_A_SESSION
        return self._opened(txn)

    @contextmanager
    def _opened(self, txn: ReadTransaction | None) -> Iterator[None]:
        with self._loader.session(txn) as opened:
            self._checkpoints.notice(opened)
            self._place_arrived()
            yield

    def _all(self) -> list[Table]:
        return [table for group in self._groups for table in group.tables.values()]

    @property
    def is_purging(self) -> bool:
        """Whether removed rows are still stored that a checkpoint has to purge."""
        with self._session():
            return self._checkpoints.is_purging

    @property
    def needs_compaction(self) -> bool:
        """Whether a checkpoint would merge parts even without new rows."""
        with self._session():
            return self._checkpoints.needs_compaction

    def parts_of_group(self, group: int) -> list[tuple[TableKey, Part]]:
        """Every part of the tables of a group, each with the key of its table. Reads the metadata of all."""
        with self._session():
            tables = list(self._groups[group].tables.values())
            return [(table.key, part) for table in tables for part in table.parts(None, None)]

    def frame_of(self, part: Part) -> Frame:
        """All live rows of a part."""
        with self._session():
            return part.frame()

    def row_count(self, yield_lock: Callable[[], None] = lambda: None) -> int:
        """Number of rows, removed ones included until they are purged. Calls `yield_lock` now and then."""
        with self._session():
            tables, rows = self._all(), 0
        for start in range(0, len(tables), TABLES_PER_PAUSE):
            rows += sum(table.rows for table in tables[start : start + TABLES_PER_PAUSE])
            yield_lock()
        return rows


_WITHIN_A_SESSION = nullcontext()


def _matching(parts: list[Part], step: ResolvedEventMatch, users: BitMap | None, read: Unshared) -> BitMap:
    """The users, among `users` (None = all), that the step holds for in these parts."""
    if not parts:
        return BitMap(optimize=False)
    found = few_passing(parts, step, read.check) if users is None else None
    if found is not None:
        read.looked_at += sum(part.record.rows for part in parts)
        return found
    universe = Universe(parts, users, read.check)
    passed = passing(parts, step, universe)
    read.looked_at += universe.looked_at
    return universe.bitmap(passed)


def _is_brief(
    parts_of: Sequence[Sequence[Part]], selections: Sequence[ResolvedSelection], users: BitMap | None
) -> bool:
    """Whether a question about these users is answered within a fraction of a millisecond."""
    if users is None or len(users) > BRIEF_USERS_MAX:
        return False
    rows = len(users) * sum(part.record.peak for parts in parts_of for part in parts)
    return rows <= BRIEF_ROWS_MAX and all(_are_quick(parts, selections) for parts in parts_of)


def _is_brief_for_some(parts: Sequence[Part], selection: ResolvedSelection, universe: Universe) -> bool:
    """Whether the rows of the users of a universe are found within a fraction of a millisecond."""
    if universe.ids is None:
        rows = sum(part.record.rows for part in parts)
    else:
        rows = len(universe.ids) * sum(part.record.peak for part in parts)
    return rows <= SHARED_ROWS_READ_MAX and _are_quick(parts, (selection,))


def _are_few(parts: Sequence[Part], selections: Sequence[ResolvedSelection]) -> bool:
    """Whether a question about everyone is answered within a fraction of a millisecond."""
    return (
        len(parts) <= FEW_PARTS_MAX
        and sum(part.record.rows for part in parts) <= FEW_ROWS_READ_MAX
        and _are_quick(parts, selections)
    )


def _are_quick(parts: Sequence[Part], selections: Sequence[ResolvedSelection]) -> bool:
    """Whether users and counts of the parts are in memory, and no test of a row takes long."""
    return all(part.is_loaded for part in parts) and not any(
        matcher_of(each.test).program_bytes for selection in selections for each in tests_in(selection.where)
    )
