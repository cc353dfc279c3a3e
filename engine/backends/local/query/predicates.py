"""The predicates of a plan, resolved to numbers: for one group, or for all at once.

Each answers in two ways: for the whole group, or exactly for some users only (the answer has no meaning for
others). Do not modify an answer: it may be a bitmap of the index itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Protocol, TypeVar

import msgspec
import numpy as np
from msgspec.structs import replace
from pyroaring import BitMap

from engine.backends.local.account.account import Account, bucket_hashes
from engine.backends.local.events import (
    AllRows,
    ResolvedEventMatch,
    ResolvedSelection,
    ResolvedSequence,
    RowCondition,
    RowsOfOne,
    SharedPart,
    SharedRows,
    aggregate_of_one_passes,
    row_counts_of,
    sequence_of_one_passes,
    shared_time,
)
from engine.backends.local.query.shared_answers import SharedAnswers
from engine.backends.local.storage.arrays import Bools, Uint32s
from engine.backends.local.storage.bitmaps import bitmap_of, bitmap_of_mask, ids_of
from engine.backends.local.storage.matching import passing_values
from engine.backends.local.storage.ordinals import Ordinals
from engine.backends.local.storage.ranges import Ranges
from engine.backends.local.storage.step_cache import ANY_NAME, ReadKey, reads_of_groups
from engine.backends.local.storage.turns import TakesLong, Unshared
from engine.backends.local.storage.user_ref import GROUP_SHIFT
from engine.backends.local.users.directory import Directory
from engine.criteria.conditions import tests_in
from engine.criteria.model import Aggregate
from engine.criteria.operators import Matcher, ResolvedTest, matcher_of
from engine.criteria.ranges import ALL_TIME
from engine.plan.costs import equal_to, looks_up_texts
from engine.plan.model import (
    BucketMatch,
    SeenMatch,
    TimeRange,
)
from engine.values import MICROS_PER_DAY, Micros

USER_ID_USERS_MAX = 4_096
"""Users up to which each id is read on its own; above, all ids of the group are."""
BUCKET_USERS_MAX = 4_096
"""Users up to which each is hashed on its own; above, a column of hashes is cached."""

FEW_USERS_MAX = 256
"""Users up to which the events of each are looked up, although all events of the name may be joined."""
ROWS_COUNTED_BRIEFLY_MAX = 1 << 12
"""Rows that are counted with the lock held."""

IDS_AT_ONCE = 512
"""Ids looked up before others go first."""

# Costs of a question on warm data, in microseconds of one ordinary core. They decide the size of a sample
# (`engine.audiences.estimate`), so changing them changes answers.
STEP_US = 15.0
"""Fixed cost of a step over a group."""
COLUMN_US = 0.002
"""A value of a column."""
TEXT_US = 0.02
"""A user with a string, where every distinct string is tested."""
USER_ID_US = 0.2
"""A user id that is tested."""
NAMED_USER_US = 1.0
"""A user id that is looked up."""
PROFILE_US = 2.0
"""A user decided by its profile."""
SEQUENCE_US = 0.05
WHERE_US = 0.01
ROW_US = {
    Aggregate.COUNT: 0.01,
    Aggregate.DISTINCT_DAYS: 0.03,
    Aggregate.SUM: 0.02,
    Aggregate.AVERAGE: 0.02,
    Aggregate.MIN: 0.02,
    Aggregate.MAX: 0.02,
    Aggregate.DISTINCT: 0.04,
    Aggregate.FIRST: 0.03,
    Aggregate.LAST: 0.03,
}
"""A row of an event table."""


_encoder = msgspec.msgpack.Encoder()
_ROWS = b"rows"
"""Starts the names under which joined rows are kept."""
_PART = "part"
"""The same for rows that are copied into a part."""


class Predicate(Protocol):
    """A predicate. `source` appears in traces. A `cacheable` answer may be cached while its `reads` are
    untouched. `among` pays off for up to `narrow_max` users. One that `searches` may take milliseconds for a
    single string. One that `is_quick` takes microseconds a group for everyone.
    """

    source: str
    cacheable: bool
    narrow_max: int
    searches: bool
    is_quick: bool

    def reads(self, group: int) -> tuple[ReadKey, ...]: ...

    def everyone(self, group: int, read: Unshared) -> BitMap: ...

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap: ...

    def has(self, group: int, user: int, read: Unshared) -> bool:
        """As `among`, for one user and with the lock held. Raises TakesLong when that would be too long."""
        ...

    def reads_of_all(self, groups: int) -> tuple[ReadKey, ...]:
        """`reads` of every group."""
        ...

    def everyone_of_all(self, ordinals: Ordinals, read: Unshared) -> BitMap:
        """`everyone` of every group, as ordinals. The caller may keep it: no write changes it."""
        ...

    def among_all(self, ordinals: Ordinals, users: BitMap, read: Unshared) -> BitMap:
        """As `among`, with users given by ordinal."""
        ...

    def among_shared(self, shared: SharedAnswers, read: Unshared) -> BitMap:
        """As `among_all`, of the users that the plans of a round share."""
        ...

    def work(self, group: int) -> float:
        """Estimated microseconds of `everyone` on warm data. It depends on the data alone: not on the storage
        layout, the caches or the clock.
        """
        ...


class PredicateBase:
    """What predicates have in common."""

    source = "index"
    cacheable = False
    narrow_max = 1 << 32
    searches = False
    is_quick = False
    _reads_of_all: tuple[ReadKey, ...] | None = None

    def reads(self, group: int) -> tuple[ReadKey, ...]:
        return ()

    def reads_of_all(self, groups: int) -> tuple[ReadKey, ...]:
        if self._reads_of_all is None:
            self._reads_of_all = tuple(key for group in range(groups) for key in self.reads(group))
        return self._reads_of_all

    def everyone(self, group: int, read: Unshared) -> BitMap:
        raise NotImplementedError

    def everyone_of_all(self, ordinals: Ordinals, read: Unshared) -> BitMap:
        return ordinals.joined(self._by_group(ordinals, read))

    def _by_group(self, ordinals: Ordinals, read: Unshared) -> Iterator[tuple[int, BitMap]]:
        for group in range(ordinals.groups):
            read.pause()
            yield group, self.everyone(group, read)

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap:
        raise NotImplementedError

    def has(self, group: int, user: int, read: Unshared) -> bool:
        return user in self.among(group, BitMap((user,)), read)

    def among_all(self, ordinals: Ordinals, users: BitMap, read: Unshared) -> BitMap:
        return ordinals.joined(self._among_by_group(ordinals, users, read))

    def _among_by_group(
        self, ordinals: Ordinals, users: BitMap, read: Unshared
    ) -> Iterator[tuple[int, BitMap]]:
        for group, some in ordinals.by_group(users):
            read.pause()
            yield group, self.among(group, some, read)

    def among_shared(self, shared: SharedAnswers, read: Unshared) -> BitMap:
        return shared.ordinals.joined(self._among_shared_by_group(shared, read))

    def _among_shared_by_group(self, shared: SharedAnswers, read: Unshared) -> Iterator[tuple[int, BitMap]]:
        for group, users in sorted(shared.by_group.items()):
            read.pause()
            yield group, self.among(group, users, read)

    def work(self, group: int) -> float:
        return 0.0


class EmptyPredicate(PredicateBase):
    """The empty set; also stands for unknown names."""

    def everyone(self, group: int, read: Unshared) -> BitMap:
        return BitMap()

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap:
        return BitMap()


class UniversePredicate(PredicateBase):
    """Users that belong to one of the inputs."""

    is_quick = True

    def __init__(self, account: Account, inputs: tuple[int, ...]) -> None:
        self._seen = account.seen
        self._inputs = inputs
        self.cacheable = len(inputs) > 1

    def reads(self, group: int) -> tuple[ReadKey, ...]:
        return tuple(("belongs", number, group) for number in self._inputs)

    def reads_of_all(self, groups: int) -> tuple[ReadKey, ...]:
        return reads_of_groups("belongs", self._inputs, groups)

    def everyone(self, group: int, read: Unshared) -> BitMap:
        read.looked_at += len(self._inputs)
        return self._seen.users(self._inputs, group, pause=read.pause)

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap:
        read.looked_at += len(self._inputs)
        return self._seen.users(self._inputs, group, users, read.pause)

    def has(self, group: int, user: int, read: Unshared) -> bool:
        return self._seen.has(self._inputs, group, user)


class SeenPredicate(PredicateBase):
    """Users whose first or last seen time lies in ranges."""

    source = "column"
    cacheable = True

    def __init__(self, account: Account, inputs: tuple[int, ...], step: SeenMatch) -> None:
        self._account = account
        self._inputs = inputs
        self._last = step.last
        self._test = step.test
        self._ranges = Ranges.of_instants(step.test.ranges)

    def reads(self, group: int) -> tuple[ReadKey, ...]:
        return tuple(("seen", number, group) for number in self._inputs)

    def reads_of_all(self, groups: int) -> tuple[ReadKey, ...]:
        return reads_of_groups("seen", self._inputs, groups)

    def everyone(self, group: int, read: Unshared) -> BitMap:
        counts = self._account.directory.counts
        read.looked_at += counts[group]
        return self._account.seen.match(self._inputs, group, self._last, self._ranges, counts, read.pause)

    def everyone_of_all(self, ordinals: Ordinals, read: Unshared) -> BitMap:
        counts = self._account.directory.counts
        read.looked_at += sum(counts)
        seen = self._account.seen
        return seen.match_all(self._inputs, ordinals, self._last, self._ranges, counts, read.pause)

    def work(self, group: int) -> float:
        return self._account.directory.counts[group] * COLUMN_US * len(self._inputs)

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap:
        read.looked_at += len(users)
        return self._account.seen.match_users(self._inputs, group, self._last, self._ranges, users)

    def has(self, group: int, user: int, read: Unshared) -> bool:
        return self.has_within(self._test.ranges, group, user)

    def has_within(self, ranges: Sequence[TimeRange], group: int, user: int) -> bool:
        """As `has`, in other ranges of time."""
        seen = self._account.seen
        times = [t for number in self._inputs if (t := seen.times(number, group << GROUP_SHIFT | user))]
        if not times:
            return False
        instant = max(last for _, last in times) if self._last else min(first for first, _ in times)
        return any(each.holds(instant) for each in ranges)


class UserIdPredicate(PredicateBase):
    """Users whose own id passes a test."""

    narrow_max = USER_ID_USERS_MAX

    def __init__(self, directory: Directory, test: ResolvedTest) -> None:
        self._directory = directory
        self._matcher = matcher_of(test)
        self.searches = bool(self._matcher.program_bytes)
        self._named: dict[int, list[str]] | None = None
        """By group, the ids that the test names; None: the test reads every id. Which of them exist is looked
        up by each question, as a predicate outlives changes.
        """
        if looks_up_texts(test):
            self._named = directory.by_group([id_ for id_ in equal_to(test) if type(id_) is str])
        else:
            self.source, self.cacheable = "scan", True

    def reads(self, group: int) -> tuple[ReadKey, ...]:
        return (("users", group),)

    def everyone(self, group: int, read: Unshared) -> BitMap:
        if self._named is not None:
            named = self._named.get(group, [])
            read.looked_at += len(named)
            return self._directory.named(group, named)
        masks = []
        for user_ids in self._directory.pages_of_user_ids(group, 0, self._directory.counts[group]):
            read.looked_at += len(user_ids)
            with read.released():
                masks.append(_passing_ids(self._matcher, user_ids, read))
        return bitmap_of_mask(np.concatenate(masks)) if masks else BitMap()

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap:
        if self._named is not None and len(self._named.get(group, ())) <= len(users):
            return self.everyone(group, read)
        read.looked_at += len(users)
        ids = ids_of(users)
        masks = []
        for start in range(0, len(ids), IDS_AT_ONCE):
            read.pause()
            user_ids = self._directory.user_ids(group, ids[start : start + IDS_AT_ONCE].tolist())
            with read.released(is_brief=True) if self.searches else nullcontext():
                masks.append(_passing_ids(self._matcher, user_ids, read))
        return bitmap_of(ids[np.concatenate(masks)]) if masks else BitMap()

    def work(self, group: int) -> float:
        if self._named is None:
            return self._directory.counts[group] * USER_ID_US
        # Not of this group: which ids share a group is the secret of the store.
        return sum(map(len, self._named.values())) / self._directory.groups * NAMED_USER_US


class BucketPredicate(PredicateBase):
    """Users whose salted hash lies in a range."""

    source = "column"
    cacheable = True
    narrow_max = BUCKET_USERS_MAX

    def __init__(self, account: Account, step: BucketMatch) -> None:
        self._account = account
        self._salt = step.salt
        self._first, self._last = np.uint64(step.first), np.uint64(step.last)

    def reads(self, group: int) -> tuple[ReadKey, ...]:
        return (("users", group),)

    def everyone(self, group: int, read: Unshared) -> BitMap:
        return bitmap_of_mask(self._mask(group, read)) & self._account.directory.alive(group)

    def everyone_of_all(self, ordinals: Ordinals, read: Unshared) -> BitMap:
        groups = range(ordinals.groups)
        inside = ordinals.of_masks(self._mask(group, read) for group in groups)
        return inside & ordinals.joined((group, self._account.directory.alive(group)) for group in groups)

    def _mask(self, group: int, read: Unshared) -> Bools:
        """The dense ids inside the range, those of erased users among them."""
        read.pause()
        hashes = self._account.bucket_column(group, self._salt, read.pause)
        read.looked_at += len(hashes)
        inside: Bools = (hashes >= self._first) & (hashes <= self._last)
        return inside

    def work(self, group: int) -> float:
        return self._account.directory.counts[group] * COLUMN_US

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap:
        read.looked_at += len(users)
        ids = ids_of(users)
        pieces = []
        for start in range(0, len(ids), IDS_AT_ONCE):
            read.pause()
            piece = ids[start : start + IDS_AT_ONCE]
            hashes = bucket_hashes(self._salt, self._account.directory.user_ids(group, piece.tolist()))
            pieces.append(piece[(hashes >= self._first) & (hashes <= self._last)])
        return bitmap_of(np.concatenate(pieces)) if pieces else BitMap()


class _EventsPredicate(PredicateBase):
    source = "scan"
    cacheable = True

    def __init__(self, account: Account, selections: tuple[ResolvedSelection, ...]) -> None:
        self._account = account
        self._tables = account.tables
        self._read = tuple(
            (number, ANY_NAME if selection.name is None else selection.name)
            for selection in selections
            for number in selection.inputs
        )
        tests = [each for selection in selections for each in tests_in(selection.where)]
        self.searches = any(matcher_of(each.test).program_bytes for each in tests)
        self._attributes = frozenset([each.key for each in tests])
        """Those of events that are read, by number."""

    def reads(self, group: int) -> tuple[ReadKey, ...]:
        return tuple(("events", number, name, group) for number, name in self._read)

    def everyone(self, group: int, read: Unshared) -> BitMap:
        return self._ask(group, None, read)

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap:
        return self._ask(group, users, read)

    def _ask(self, group: int, users: BitMap | None, read: Unshared) -> BitMap:
        raise NotImplementedError

    def _shared_part(
        self, selection: ResolvedSelection, shared: SharedAnswers, read: Unshared
    ) -> SharedPart | None:
        """The rows of the users, copied once for all questions of about this length of time or a shorter one;
        None: they are many, or not in memory.
        """
        time = shared_time(selection.time, shared.as_of)
        events = replace(selection, time=ALL_TIME, where=None)
        name = _PART, _encoder.encode(events), self._attributes
        found: dict[Micros | None, SharedPart | None] = shared.once(name, dict)
        part = _beginning_by(time.start, found)
        if part is None and time.start not in found:
            asked = replace(events, time=time)
            part = self._tables.part_of_some(asked, self._attributes, shared.by_group, read)
            found[time.start] = part
        return part

    def _of_shared(
        self, parts: Sequence[SharedPart], ask: Callable[[], Uint32s], shared: SharedAnswers, read: Unshared
    ) -> BitMap:
        """The ordinals of the users whose places `ask` finds in the parts."""
        rows = sum(part.rows for part in parts)
        read.looked_at += rows
        takes_long = self.searches or rows > ROWS_COUNTED_BRIEFLY_MAX
        with read.released(is_brief=True) if takes_long else nullcontext():
            places = ask()
        return shared.in_places(places)


T = TypeVar("T")


def _beginning_by(start: Micros | None, found: Mapping[Micros | None, T | None]) -> T | None:
    """What was found of a range of time that begins at an instant or before, to the end of time."""
    for since, each in found.items():
        if each is not None and (since is None or (start is not None and since <= start)):
            return each
    return None


class AggregatePredicate(_EventsPredicate):
    """Users whose aggregate over events lies in intervals."""

    def __init__(self, account: Account, step: ResolvedEventMatch) -> None:
        super().__init__(account, (step.selection,))
        self._attributes |= {step.of}
        self._step = step
        self._rows_name = b""
        """Names the rows whose number is the answer, whatever their time; empty: it is not their number."""
        if step.aggregate is Aggregate.COUNT and not step.selection.where:
            self._rows_name = _encoder.encode(replace(step.selection, time=ALL_TIME))
        self._row_counts = row_counts_of(step.intervals) if self._rows_name else ()

    def has(self, group: int, user: int, read: Unshared) -> bool:
        return self.has_within(self._step.selection.time, group, user, read)

    def has_within(self, time: TimeRange, group: int, user: int, read: Unshared) -> bool:
        """As `has`, over another range of time."""
        if self.searches:
            raise TakesLong
        step = self._step
        rows = self._tables.rows_of_user(group, step.selection, time, user)
        if not self._rows_name:
            return aggregate_of_one_passes(rows, step)
        count = sum([len(some) for _, some in rows])
        return any(least <= count and (most is None or count <= most) for least, most in self._row_counts)

    def at(self, time: TimeRange) -> AggregatePredicate:
        """The same predicate over another range of time."""
        found = AggregatePredicate.__new__(AggregatePredicate)
        vars(found).update(vars(self))
        found._step = replace(self._step, selection=replace(self._step.selection, time=time))
        return found

    def _ask(self, group: int, users: BitMap | None, read: Unshared) -> BitMap:
        return self._tables.match(group, self._step, users, read)

    def among_shared(self, shared: SharedAnswers, read: Unshared) -> BitMap:
        step = self._step
        if self._rows_name:
            found = self.among_shared_within(step.selection.time, shared, read)
            if found is not None:
                return found
        else:
            part = self._shared_part(step.selection, shared, read)
            if part is not None:
                return self._of_shared([part], lambda: part.passing(step, read.check), shared, read)
        return super().among_shared(shared, read)

    def among_shared_within(self, time: TimeRange, shared: SharedAnswers, read: Unshared) -> BitMap | None:
        """As `among_shared`, over another range of time; None: it is not decided by counting a few rows. For
        the same users the same object.
        """
        rows = self._shared_rows(time, shared, read) if self._rows_name else None
        return None if rows is None else rows.passing(time, self._step.intervals)

    def _shared_rows(self, asked: TimeRange, shared: SharedAnswers, read: Unshared) -> SharedRows | None:
        """The rows of the users, found once for all questions of about this length of time or a shorter one;
        None: there are many.
        """
        time = shared_time(asked, shared.as_of)
        found: dict[Micros | None, SharedRows | None] = shared.once(self._rows_name, dict)
        rows = _beginning_by(time.start, found)
        if rows is None and time.start not in found:
            rows = found[time.start] = self._rows_of_some(shared, time, read)
        return rows

    def _rows_of_some(self, shared: SharedAnswers, time: TimeRange, read: Unshared) -> SharedRows | None:
        selection = replace(self._step.selection, time=time)
        return self._tables.rows_of_some(selection, shared.by_group, shared.ordinals.stride, read)

    def everyone_of_all(self, ordinals: Ordinals, read: Unshared) -> BitMap:
        rows = self._rows_of_all(ordinals, read)
        if rows is not None:
            return self._passing(rows, read)
        found = None
        # Of every name there are too many parts.
        if self._step.aggregate is Aggregate.COUNT and self._step.selection.name is not None:
            found = self._tables.count_of_all(self._step, ordinals.stride, read)
        return super().everyone_of_all(ordinals, read) if found is None else found

    def among_all(self, ordinals: Ordinals, users: BitMap, read: Unshared) -> BitMap:
        rows = self._rows_of_all(ordinals, read) if len(users) > FEW_USERS_MAX else None
        if rows is None:
            return super().among_all(ordinals, users, read)
        return self._passing(rows, read)

    def _rows_of_all(self, ordinals: Ordinals, read: Unshared) -> AllRows | None:
        """All rows of the events, if the answer is their number and they are few."""
        step = self._step
        if step.aggregate is not Aggregate.COUNT or step.selection.where or step.selection.name is None:
            return None
        start = step.selection.time.start
        cache, place = self._account.cache, ordinals.place
        name = _ROWS + _encoder.encode(replace(step.selection, time=ALL_TIME))
        before = cache.find_old(place, name, AllRows)
        rows = cache.find_part(place, name, self.reads_of_all(ordinals.groups), AllRows)
        if rows is None or not rows.begin_by(start):
            if before is None:
                since = _day_before(start)
            elif before.begin_by(start):
                since = before.since
            else:
                # Windows of several lengths are asked about.
                before = since = None
            began = cache.instant()
            every = replace(step.selection, time=TimeRange(since, None))
            rows = self._tables.rows_of_all(every, ordinals.stride, before, read)
            if rows is not None:
                cache.add_part(place, name, rows, rows.nbytes, began)
        return rows

    def _passing(self, rows: AllRows, read: Unshared) -> BitMap:
        step = self._step
        read.looked_at += len(rows)
        with read.released(is_brief=True) if len(rows) > ROWS_COUNTED_BRIEFLY_MAX else nullcontext():
            return rows.passing(step.selection.time, step.intervals)

    def work(self, group: int) -> float:
        selection = self._step.selection
        row_us = ROW_US[self._step.aggregate] + WHERE_US * _conditions(selection.where)
        return self._tables.expected_rows(group, selection) * row_us


class SequencePredicate(_EventsPredicate):
    """Users with events in order."""

    def __init__(self, account: Account, step: ResolvedSequence) -> None:
        super().__init__(account, step.steps)
        self._step = step

    def has(self, group: int, user: int, read: Unshared) -> bool:
        return self.has_within([each.time for each in self._step.steps], group, user)

    def has_within(self, times: Sequence[TimeRange], group: int, user: int) -> bool:
        """As `has`, over other ranges of time, one for each step."""
        if self.searches:
            raise TakesLong
        found: list[tuple[list[RowsOfOne], RowCondition | None]] = []
        for selection, time in zip(self._step.steps, times, strict=True):
            rows = self._tables.rows_of_user(group, selection, time, user)
            if not rows:
                return False
            found.append((rows, selection.where))
        return sequence_of_one_passes(found, self._step.within)

    def _ask(self, group: int, users: BitMap | None, read: Unshared) -> BitMap:
        return self._tables.match_sequence(group, self._step, users, read)

    def among_shared(self, shared: SharedAnswers, read: Unshared) -> BitMap:
        parts: list[SharedPart] = []
        for selection in self._step.steps:
            part = self._shared_part(selection, shared, read)
            if part is None:
                return super().among_shared(shared, read)
            parts.append(part)

        def ask() -> Uint32s:
            return SharedPart.passing_sequence(parts, self._step, read.check)

        return self._of_shared(parts, ask, shared, read)

    def work(self, group: int) -> float:
        return sum(
            self._tables.expected_rows(group, selection)
            * (SEQUENCE_US + WHERE_US * _conditions(selection.where))
            for selection in self._step.steps
        )


def _day_before(start: Micros | None) -> Micros | None:
    """The beginning of the day before an instant: the next question may be as of an earlier one."""
    return None if start is None else (start // MICROS_PER_DAY - 1) * MICROS_PER_DAY


def _conditions(where: RowCondition | None) -> int:
    """Number of tests a condition makes per row."""
    return sum(1 for _ in tests_in(where))


def _passing_ids(matcher: Matcher, user_ids: Sequence[str], read: Unshared) -> Bools:
    """Mask of ids that pass. An erased user has no id."""
    passed = passing_values(matcher, user_ids, read.check)
    return passed & np.fromiter(map(bool, user_ids), np.bool_, len(user_ids))
