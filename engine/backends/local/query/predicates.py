"""The predicates of a plan, resolved to numbers and answered for one group.

Each answers in two ways: for the whole group, or exactly for some users only (the answer has no meaning for
others). Do not modify an answer: it may be a bitmap of the index itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Protocol

import numpy as np
from msgspec.structs import replace
from pyroaring import BitMap

from engine.backends.local.account.account import Account, bucket_hashes
from engine.backends.local.attributes.index import EMPTY_LIST
from engine.backends.local.events import (
    NEVER,
    ResolvedEventMatch,
    ResolvedSelection,
    ResolvedSequence,
    RowCondition,
)
from engine.backends.local.storage.arrays import Bools
from engine.backends.local.storage.bitmaps import bitmap_of, bitmap_of_mask, ids_of
from engine.backends.local.storage.matching import passing_values
from engine.backends.local.storage.name_table import FieldKind, field_name
from engine.backends.local.storage.ranges import Ranges
from engine.backends.local.storage.step_cache import ANY_NAME, ReadKey
from engine.backends.local.storage.turns import PAUSE_PAGES, Unshared
from engine.backends.local.users.directory import Directory
from engine.criteria.conditions import WhereAttribute, mapped, tests_in
from engine.criteria.model import Aggregate, Equals, Exists
from engine.criteria.operators import Matcher, ResolvedTest, matcher_of
from engine.plan.costs import Access, access_of, equal_to, looks_up_texts
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    ConsentMatch,
    Difference,
    Empty,
    EventMatch,
    EventSelection,
    IdentityMatch,
    Intersection,
    RowFilter,
    SeenMatch,
    SequenceMatch,
    Step,
    TimeRange,
    Union,
    Universe,
    UserIdMatch,
)
from engine.plan.visitor import StepVisitor
from engine.values import Kind

PROFILE_USERS_MAX = 64
PROFILE_USERS_OVER_SCAN_MAX = 1_024
"""Users up to which a test reads profiles instead of scanning a column or strings."""
USER_ID_USERS_MAX = 4_096
"""Users up to which each id is read on its own; above, all ids of the group are."""
POINTS_BESIDE_USERS_MIN = 64
"""Values looked up one by one, however few users have the field."""
BUCKET_USERS_MAX = 4_096
"""Users up to which each is hashed on its own; above, a column of hashes is cached."""

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


_POINT_KINDS = (Kind.BOOL, Kind.STRING, Kind.LIST)


class Predicate(Protocol):
    """A predicate. `source` appears in traces. A `cacheable` answer may be cached while its `reads` are
    untouched. `among` pays off for up to `narrow_max` users. One that `searches` may take milliseconds for a
    single string.
    """

    source: str
    cacheable: bool
    narrow_max: int
    searches: bool

    def reads(self, group: int) -> tuple[ReadKey, ...]: ...

    def everyone(self, group: int, read: Unshared) -> BitMap: ...

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap: ...

    def work(self, group: int) -> float:
        """Estimated microseconds of `everyone` on warm data. It depends on the data alone: not on the storage
        layout, the caches or the clock.
        """
        ...


class _Base:
    source = "index"
    cacheable = False
    narrow_max = 1 << 32
    searches = False

    def reads(self, group: int) -> tuple[ReadKey, ...]:
        return ()

    def work(self, group: int) -> float:
        return 0.0


class EmptyPredicate(_Base):
    """The empty set; also stands for unknown names."""

    def everyone(self, group: int, read: Unshared) -> BitMap:
        return BitMap()

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap:
        return BitMap()


class UniversePredicate(_Base):
    """Users that belong to one of the inputs."""

    def __init__(self, account: Account, inputs: tuple[int, ...]) -> None:
        self._seen = account.seen
        self._inputs = inputs
        self.cacheable = len(inputs) > 1

    def reads(self, group: int) -> tuple[ReadKey, ...]:
        return tuple(("belongs", number, group) for number in self._inputs)

    def everyone(self, group: int, read: Unshared) -> BitMap:
        read.looked_at += len(self._inputs)
        return self._seen.users(self._inputs, group, pause=read.pause)

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap:
        read.looked_at += len(self._inputs)
        return self._seen.users(self._inputs, group, users, read.pause)


class SeenPredicate(_Base):
    """Users whose first or last seen time lies in ranges."""

    source = "column"
    cacheable = True

    def __init__(self, account: Account, inputs: tuple[int, ...], step: SeenMatch) -> None:
        self._account = account
        self._inputs = inputs
        self._last = step.last
        self._ranges = Ranges.of_instants(step.test.ranges)

    def reads(self, group: int) -> tuple[ReadKey, ...]:
        return tuple(("seen", number, group) for number in self._inputs)

    def everyone(self, group: int, read: Unshared) -> BitMap:
        count = self._account.directory.counts[group]
        read.looked_at += count
        return self._account.seen.match(self._inputs, group, self._last, self._ranges, count, read.pause)

    def work(self, group: int) -> float:
        return self._account.directory.counts[group] * COLUMN_US * len(self._inputs)

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap:
        read.looked_at += len(users)
        return self._account.seen.match_users(self._inputs, group, self._last, self._ranges, users)


class FieldPredicate(_Base):
    """Users for which one of the fields passes a test: attributes, identities, consents."""

    def __init__(self, account: Account, fields: tuple[int, ...], test: ResolvedTest) -> None:
        self._account = account
        self._properties = account.properties
        self._fields = fields
        matcher = self._matcher = matcher_of(test)
        self.searches = bool(matcher.program_bytes)
        self._list_matcher = Matcher(
            frozenset({Kind.LIST}), lambda value: type(value) is tuple and matcher.passes(value)
        )
        self._exists = isinstance(test, Exists)
        operands = equal_to(test)
        self._narrows_lists = looks_up_texts(test)
        self._bools = tuple({v for v in operands if type(v) is bool})
        self._texts = tuple(dict.fromkeys(v for v in operands if self._narrows_lists and type(v) is str))
        self._lists = tuple(v for v in operands if type(v) is tuple)
        self._scans_texts = (
            Kind.STRING in self._matcher.kinds and not self._exists and not self._narrows_lists
        )
        self._numbers = Ranges.of_numbers(self._matcher.numbers)
        self._instants = Ranges.of_instants(self._matcher.instants)
        self._set_access(access_of(test))

    def _set_access(self, access: Access) -> None:
        self.narrow_max = PROFILE_USERS_MAX
        if access is Access.TEXT_SCAN:
            self.source, self.cacheable = "scan", True
            self.narrow_max = PROFILE_USERS_OVER_SCAN_MAX
        elif access is Access.COLUMN:
            self.source, self.cacheable = "column", True
        else:
            self.cacheable = self._exists or (len(self._bools) + len(self._texts)) * len(self._fields) > 1
        self._is_single_lookup = self.source == "index" and not self.cacheable

    def reads(self, group: int) -> tuple[ReadKey, ...]:
        return tuple(("field", field, group) for field in self._fields)

    def everyone(self, group: int, read: Unshared) -> BitMap:
        return _united(users for field in self._fields for users in self._sets(field, group, read))

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap:
        if self._is_single_lookup:
            return self.everyone(group, read)
        read.looked_at += len(users)
        return self._properties.match_users(self._fields, group, users, self._matcher, read)

    def work(self, group: int) -> float:
        return sum(self._field_work(field, group) for field in self._fields)

    def _field_work(self, field: int, group: int) -> float:
        def present(kind: int) -> int:
            return len(self._properties.present(field, kind, group))

        work = 0.0
        if self._exists:
            return work
        if self._scans_texts:
            work += (present(Kind.STRING) + present(Kind.LIST)) * TEXT_US
        if self._lists:
            work += present(Kind.LIST) * PROFILE_US
        for kind, ranges in ((Kind.NUMBER, self._numbers), (Kind.TIME, self._instants)):
            if ranges and present(kind):
                work += self._account.directory.counts[group] * COLUMN_US
        return work

    def _sets(self, field: int, group: int, read: Unshared) -> Iterable[BitMap]:
        """Sets whose union is the users for which this field passes."""
        properties = self._properties
        if self._exists:
            read.looked_at += len(Kind)
            yield from (properties.present(field, kind, group) for kind in Kind)
            return
        yield from self._with_points(field, group, read)
        if self._scans_texts:
            for kind in (Kind.STRING, Kind.LIST):
                yield properties.with_texts(field, kind, group, self._matcher, read)
        if self._lists:
            yield self._passing_lists(field, group, read)
        count = self._account.directory.counts[group]
        for kind, ranges in ((Kind.NUMBER, self._numbers), (Kind.TIME, self._instants)):
            if ranges and properties.present(field, kind, group):
                read.looked_at += count
                yield properties.match_column(field, kind, group, ranges, count, read.pause)

    def _with_points(self, field: int, group: int, read: Unshared) -> Iterable[BitMap]:
        """Users that have one of the values, by the kinds that the field has in the group."""
        properties = self._properties
        for kind in _POINT_KINDS:
            points = self._points_of(kind)
            users = len(properties.present(field, kind, group)) if points else 0
            if not users:
                continue
            if kind is not Kind.BOOL and len(points) > max(users, POINTS_BESIDE_USERS_MIN):
                # A look-up takes longer than a comparison with one of the values that there are.
                yield properties.with_texts(field, kind, group, self._matcher, read)
                continue
            for number, value in enumerate(points, 1):
                if number % PAUSE_PAGES == 0:
                    read.pause()
                read.looked_at += 1
                yield properties.with_value(field, kind, group, value)

    def _points_of(self, kind: Kind) -> tuple[str | bool, ...]:
        return self._bools if kind is Kind.BOOL else self._texts

    def _passing_lists(self, field: int, group: int, read: Unshared) -> BitMap:
        """Users whose whole list equals an operand."""
        properties = self._properties
        if self._narrows_lists:
            candidates = _united(self._with_elements(field, group, operand, read) for operand in self._lists)
        else:
            candidates = properties.present(field, Kind.LIST, group) | properties.present(
                field, EMPTY_LIST, group
            )
        read.looked_at += len(candidates)
        return properties.match_users((field,), group, candidates, self._list_matcher, read)

    def _with_elements(self, field: int, group: int, elements: tuple[str, ...], read: Unshared) -> BitMap:
        read.pause()
        if not elements:
            return self._properties.present(field, EMPTY_LIST, group)
        users = self._properties.with_value(field, Kind.LIST, group, elements[0])
        for number, element in enumerate(elements[1:], 1):
            if number % PAUSE_PAGES == 0:
                read.pause()
            users = users & self._properties.with_value(field, Kind.LIST, group, element)
        return users


class UserIdPredicate(_Base):
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


class BucketPredicate(_Base):
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
        hashes = self._account.bucket_column(group, self._salt, read.pause)
        read.looked_at += len(hashes)
        inside = bitmap_of_mask((hashes >= self._first) & (hashes <= self._last))
        return inside & self._account.directory.alive(group)

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


class _EventsPredicate(_Base):
    source = "scan"
    cacheable = True

    def __init__(self, account: Account, selections: tuple[ResolvedSelection, ...]) -> None:
        self._tables = account.tables
        self._read = tuple(
            (number, ANY_NAME if selection.name is None else selection.name)
            for selection in selections
            for number in selection.inputs
        )
        tests = [each.test for selection in selections for each in tests_in(selection.where)]
        self.searches = any(matcher_of(test).program_bytes for test in tests)

    def reads(self, group: int) -> tuple[ReadKey, ...]:
        return tuple(("events", number, name, group) for number, name in self._read)

    def everyone(self, group: int, read: Unshared) -> BitMap:
        return self._ask(group, None, read)

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap:
        return self._ask(group, users, read)

    def _ask(self, group: int, users: BitMap | None, read: Unshared) -> BitMap:
        raise NotImplementedError


class AggregatePredicate(_EventsPredicate):
    """Users whose aggregate over events lies in intervals."""

    def __init__(self, account: Account, step: ResolvedEventMatch) -> None:
        super().__init__(account, (step.selection,))
        self._step = step

    def at(self, time: TimeRange) -> AggregatePredicate:
        """The same predicate over another range of time."""
        found = AggregatePredicate.__new__(AggregatePredicate)
        vars(found).update(vars(self))
        found._step = replace(self._step, selection=replace(self._step.selection, time=time))
        return found

    def _ask(self, group: int, users: BitMap | None, read: Unshared) -> BitMap:
        return self._tables.match(group, self._step, users, read)

    def work(self, group: int) -> float:
        selection = self._step.selection
        row_us = ROW_US[self._step.aggregate] + WHERE_US * _conditions(selection.where)
        return self._tables.expected_rows(group, selection) * row_us


class SequencePredicate(_EventsPredicate):
    """Users with events in order."""

    def __init__(self, account: Account, step: ResolvedSequence) -> None:
        super().__init__(account, step.steps)
        self._step = step

    def _ask(self, group: int, users: BitMap | None, read: Unshared) -> BitMap:
        return self._tables.match_sequence(group, self._step, users, read)

    def work(self, group: int) -> float:
        return sum(
            self._tables.expected_rows(group, selection)
            * (SEQUENCE_US + WHERE_US * _conditions(selection.where))
            for selection in self._step.steps
        )


def _conditions(where: RowCondition | None) -> int:
    """Number of tests a condition makes per row."""
    return sum(1 for _ in tests_in(where))


def _passing_ids(matcher: Matcher, user_ids: Sequence[str], read: Unshared) -> Bools:
    """Mask of ids that pass. An erased user has no id."""
    passed = passing_values(matcher, user_ids, read.check)
    return passed & np.fromiter(map(bool, user_ids), np.bool_, len(user_ids))


def _united(sets: Iterable[BitMap]) -> BitMap:
    """Their union; of a single set, the set itself."""
    each = iter(sets)
    first = next(each, None)
    second = next(each, None)
    if first is None or second is None:
        return BitMap() if first is None else first
    # Not `BitMap.union`: its final run optimisation slows down later operations.
    users = first | second
    for more in each:
        users |= more
    return users


# --- from names to numbers ----------------------------------------------------------------------------------


def resolve(account: Account, step: Step) -> Predicate | None:
    """The predicate that answers a step from the account's data. None: the step combines other steps."""
    return _Resolver(account).visit(step)


def moved(account: Account, predicate: Predicate, before: Step, step: Step) -> Predicate | None:
    """The predicate of a step that stands in the place of `before`, whose predicate is given. Of most events
    only the window has moved; names and conditions stay resolved.
    """
    if (
        isinstance(predicate, AggregatePredicate)
        and isinstance(step, EventMatch)
        and isinstance(before, EventMatch)
        and step == replace(before, selection=replace(before.selection, time=step.selection.time))
    ):
        return predicate.at(step.selection.time)
    return resolve(account, step)


class _Resolver(StepVisitor[Predicate | None]):
    def __init__(self, account: Account) -> None:
        self._account = account

    def universe(self, step: Universe) -> Predicate:
        return UniversePredicate(self._account, _inputs(self._account, step.inputs))

    def empty(self, step: Empty) -> Predicate:
        return EmptyPredicate()

    def intersection(self, step: Intersection) -> None:
        return None

    def union(self, step: Union) -> None:
        return None

    def difference(self, step: Difference) -> None:
        return None

    def seen(self, step: SeenMatch) -> Predicate:
        return SeenPredicate(self._account, _inputs(self._account, step.inputs), step)

    def attribute(self, step: AttributeMatch) -> Predicate:
        fields = (field_name(FieldKind.ATTRIBUTE, workspace, step.key) for workspace in step.workspaces)
        return _field_predicate(self._account, tuple(fields), step.test)

    def identity(self, step: IdentityMatch) -> Predicate:
        return _field_predicate(self._account, (field_name(FieldKind.IDENTITY, step.type),), step.test)

    def user_id(self, step: UserIdMatch) -> Predicate:
        return UserIdPredicate(self._account.directory, step.test)

    def consent(self, step: ConsentMatch) -> Predicate:
        field = field_name(FieldKind.CONSENT, step.regulation, step.purpose)
        return _field_predicate(self._account, (field,), Equals(step.state.value))

    def bucket(self, step: BucketMatch) -> Predicate:
        return BucketPredicate(self._account, step)

    def event(self, step: EventMatch) -> Predicate:
        return _event_predicate(self._account, step)

    def sequence(self, step: SequenceMatch) -> Predicate:
        steps = tuple(_selection(self._account, selection) for selection in step.steps)
        return SequencePredicate(self._account, ResolvedSequence(steps=steps, within=step.within))


def _inputs(account: Account, names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(number for name in names if (number := account.inputs.find(name)) is not None)


def _field_predicate(account: Account, names: tuple[str, ...], test: ResolvedTest) -> Predicate:
    fields = tuple(number for name in names if (number := account.fields.find(name)) is not None)
    return FieldPredicate(account, fields, test) if fields else EmptyPredicate()


def _event_predicate(account: Account, step: EventMatch) -> Predicate:
    return AggregatePredicate(
        account,
        ResolvedEventMatch(
            selection=_selection(account, step.selection),
            aggregate=step.aggregate,
            of=_attribute(account, step.of),
            time_zone=step.time_zone,
            intervals=step.intervals,
        ),
    )


def _selection(account: Account, selection: EventSelection) -> ResolvedSelection:
    number = account.events.find(selection.name)
    return ResolvedSelection(
        inputs=_inputs(account, selection.inputs),
        name=None if not selection.name else NEVER if number is None else number,
        type=selection.type,
        time=selection.time,
        where=None if selection.where is None else _condition(account, selection.where),
    )


def _condition(account: Account, where: RowFilter) -> RowCondition:
    return mapped(where, lambda each: WhereAttribute(key=_attribute(account, each.key), test=each.test))


def _attribute(account: Account, name: str) -> int:
    number = account.event_attributes.find(name)
    return NEVER if number is None else number
