"""Users by what they are: attributes, identities and consents."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

from pyroaring import BitMap

from engine.backends.local.account.account import Account
from engine.backends.local.attributes.index import EMPTY_LIST
from engine.backends.local.query.predicates import COLUMN_US, PROFILE_US, TEXT_US, PredicateBase
from engine.backends.local.query.whole_field import WholeField
from engine.backends.local.storage.matching import passing_values
from engine.backends.local.storage.ordinals import Ordinals
from engine.backends.local.storage.ranges import Ranges
from engine.backends.local.storage.step_cache import ReadKey, reads_of_groups
from engine.backends.local.storage.turns import PAUSE_PAGES, Unshared
from engine.backends.local.storage.user_ref import GROUP_SHIFT
from engine.criteria.model import Exists
from engine.criteria.operators import Matcher, ResolvedTest, matcher_of
from engine.plan.costs import Access, access_of, equal_to, looks_up_texts
from engine.values import Kind

PROFILE_USERS_MAX = 64
PROFILE_USERS_OVER_SCAN_MAX = 1_024
"""Users up to which a test reads profiles instead of scanning a column or strings."""

POINTS_BESIDE_USERS_MIN = 64
"""Values looked up one by one, however few users have the field."""

SEARCHED_BRIEFLY_MAX = 256
"""Characters of a user's strings that are searched with the lock held: a fraction of a millisecond."""

USERS_PER_LOOKUP = 4
"""Users whose values are compared with all that a test names, in the time of one look-up."""

_POINT_KINDS = (Kind.BOOL, Kind.STRING, Kind.LIST)
_TEXT_KINDS = (Kind.STRING, Kind.LIST)


class FieldPredicate(PredicateBase):
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

    def reads_of_all(self, groups: int) -> tuple[ReadKey, ...]:
        return reads_of_groups("field", self._fields, groups)

    def everyone(self, group: int, read: Unshared) -> BitMap:
        return _united(users for field in self._fields for users in self._sets(field, group, read))

    def everyone_of_all(self, ordinals: Ordinals, read: Unshared) -> BitMap:
        return _united(users for field in self._fields for users in self._sets_of_all(field, ordinals, read))

    def among_all(self, ordinals: Ordinals, users: BitMap, read: Unshared) -> BitMap:
        if self._is_single_lookup:
            return self.everyone_of_all(ordinals, read)
        return super().among_all(ordinals, users, read)

    def among(self, group: int, users: BitMap, read: Unshared) -> BitMap:
        if self._is_single_lookup:
            return self.everyone(group, read)
        read.looked_at += len(users)
        return self._properties.match_users(self._fields, group, users, self._matcher, read)

    def has(self, group: int, user: int, read: Unshared) -> bool:
        text_max = SEARCHED_BRIEFLY_MAX if self.searches else None
        return self._properties.passes(self._fields, group << GROUP_SHIFT | user, self._matcher, text_max)

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
            for kind in _TEXT_KINDS:
                yield properties.with_texts(field, kind, group, self._matcher, read)
        if self._lists:
            yield self._passing_lists(field, group, read)
        counts = self._account.directory.counts
        for kind, ranges in ((Kind.NUMBER, self._numbers), (Kind.TIME, self._instants)):
            if ranges and properties.present(field, kind, group):
                read.looked_at += counts[group]
                yield properties.match_column(field, kind, group, ranges, counts, read.pause)

    def _with_points(self, field: int, group: int, read: Unshared) -> Iterable[BitMap]:
        """Users that have one of the values, by the kinds that the field has in the group."""
        properties = self._properties
        for kind in _POINT_KINDS:
            points = self._points_of(kind)
            users = len(properties.present(field, kind, group)) if points else 0
            if not users:
                continue
            if kind is not Kind.BOOL and _compares(len(points), users):
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

    # --- over everyone at once ---

    def _sets_of_all(self, field: int, ordinals: Ordinals, read: Unshared) -> Iterable[BitMap]:
        """As `_sets`, over all groups."""
        whole = WholeField(self._account, field, ordinals, read)
        if self._exists:
            yield from map(whole.present, Kind)
            return
        for kind in _POINT_KINDS:
            points = self._points_of(kind)
            users = len(whole.present(kind)) if points else 0
            if kind is not Kind.BOOL and _compares(len(points), users):
                if users:
                    yield self._with_texts_of_all(field, kind, whole, ordinals, read)
            elif users:
                yield from (whole.with_value(kind, value) for value in points)
        if self._scans_texts:
            for kind in _TEXT_KINDS:
                if whole.present(kind):
                    yield self._with_texts_of_all(field, kind, whole, ordinals, read)
        groups = range(ordinals.groups)
        if self._lists:
            yield ordinals.joined((group, self._passing_lists(field, group, read)) for group in groups)
        for kind, ranges in ((Kind.NUMBER, self._numbers), (Kind.TIME, self._instants)):
            if ranges and whole.present(kind):
                yield whole.in_ranges(kind, ranges)

    def _with_texts_of_all(
        self, field: int, kind: Kind, whole: WholeField, ordinals: Ordinals, read: Unshared
    ) -> BitMap:
        """Users with a string, or an element of a list, that passes. Few distinct strings are each tested
        once, not once for each group.
        """
        texts = whole.few_texts(kind)
        if texts is None:
            groups = range(ordinals.groups)
            return ordinals.joined(
                (group, self._properties.with_texts(field, kind, group, self._matcher, read))
                for group in groups
            )
        read.looked_at += len(texts)
        with read.released(is_brief=True) if self.searches else nullcontext():
            passed = passing_values(self._matcher, texts, read.check).tolist()
        passing = (text for text, passes in zip(texts, passed, strict=True) if passes)
        return _united(whole.with_value(kind, text) for text in passing)


def _united(sets: Iterable[BitMap]) -> BitMap:
    """Their union; of a single set, the set itself."""
    each = list(sets)
    # In one call the containers of a union are counted once, not after each set.
    return BitMap.union(*each) if len(each) > 1 else each[0] if each else BitMap()


def _compares(points: int, users: int) -> bool:
    """Whether to compare the users' values with these points instead of looking the points up."""
    return points > POINTS_BESIDE_USERS_MIN and points * USERS_PER_LOOKUP > users
