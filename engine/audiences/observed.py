"""What a user has that a criterion tests, for explanations.

Values come from the profile. The value of an aggregate is found by executing the same criterion with other
tests until one number is left, and the kinds of values in the user's events by asking for events with each
kind. So there is no second evaluator.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Protocol, assert_never

import msgspec

from engine.audiences.targets import Located
from engine.backends.base import Contains, PlanExecutor, Profile, UserReader
from engine.criteria.model import (
    FIRST_SEEN,
    LAST_SEEN,
    USER_ID,
    AllOf,
    AnyOf,
    Audience,
    Between,
    Bucket,
    Compare,
    Consent,
    Event,
    Identity,
    In,
    Not,
    NumberTest,
    Text,
    UserAttribute,
    ValueTest,
    WhereAttribute,
)
from engine.criteria.model import Sequence as SequenceCriterion
from engine.criteria.operators import kinds_tested
from engine.criteria.uses import EventValuesUsed, uses_of
from engine.criteria.words import (
    kind_in_words,
    kinds_in_words,
    quoted,
    sendable_kinds,
    value_in_words,
)
from engine.plan.compile import compile_criterion
from engine.plan.explain import Explanation
from engine.plan.tree import workspaces_of
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Kind, Micros, Value, kind_of

AGGREGATES_SHOWN_MAX = 16
"""Aggregates whose value is searched for in one explanation."""
ATTRIBUTES_ASKED_MAX = 16
"""Event attributes whose kinds are asked for in one explanation."""

_LARGEST = 1.7976931348623157e308

_OF_KIND: tuple[tuple[frozenset[Kind], ValueTest], ...] = (
    (frozenset({Kind.STRING, Kind.LIST}), Text("contains", "")),
    (frozenset({Kind.NUMBER}), Between(-_LARGEST, _LARGEST)),
    (frozenset({Kind.BOOL}), In((False, True))),
    (frozenset({Kind.TIME}), Between(TIME_MIN_MICROS, TIME_MAX_MICROS)),
)
"""Tests that every value of some kinds passes. No test passes all strings, but no list."""


class ObservesUsers(PlanExecutor, UserReader, Protocol):
    """Executes plans, and reads single users."""


class Observed:
    """The values of one user that criteria are tested against."""

    def __init__(
        self, backend: ObservesUsers, located: Located, user_id: str, as_of: Micros, deadline: float | None
    ) -> None:
        self._backend = backend
        self._located = located
        self._user_id = user_id
        self._as_of = as_of
        self._deadline = deadline
        self._profile = backend.profile(located.account.name, user_id)
        self._aggregates_left = AGGREGATES_SHOWN_MAX
        self._attributes_left = ATTRIBUTES_ASKED_MAX

    def of(self, explanation: Explanation) -> str:
        """The value the criterion was tested on, with its kind, and where that cannot pass the kinds that
        can; "" when there is nothing to show.
        """
        profile, criterion = self._profile, explanation.criterion
        if profile is None:
            return ""
        match criterion:
            case UserAttribute(key=key, test=test):
                return _tested(self._attribute(profile, key), test, explanation)
            case Identity(type=type_, test=test):
                identity = profile.identities.get(type_)
                return "" if identity is None else _tested([identity[1]], test, explanation)
            case Consent(regulation=regulation, purpose=purpose):
                consent = profile.consents.get((regulation, purpose))
                return "" if consent is None else consent[1].value
            case Event():
                return "; ".join(filter(None, (self._aggregate(criterion), *self._misfits(explanation))))
            case SequenceCriterion():
                return "; ".join(self._misfits(explanation))
            case AllOf() | AnyOf() | Not() | Audience() | Bucket():
                return ""
            case _:
                assert_never(criterion)

    def _attribute(self, profile: Profile, key: str) -> list[Value]:
        inputs = self._located.tree.inputs
        if key == USER_ID:
            return [profile.user_id]
        if key in (FIRST_SEEN, LAST_SEEN):
            times = [profile.seen[name] for name in inputs if name in profile.seen]
            if not times:
                return []
            return [min(t[0] for t in times) if key == FIRST_SEEN else max(t[1] for t in times)]
        values = (profile.attributes.get(workspace, {}).get(key) for workspace in workspaces_of(inputs))
        return [value[1] for value in values if value is not None]

    # --- events ---------------------------------------------------------------------------------------------

    def _misfits(self, explanation: Explanation) -> Iterator[str]:
        """Attributes of the user's events that are of no kind that the criterion's tests of them can pass."""
        criterion = explanation.criterion
        assert isinstance(criterion, Event | SequenceCriterion)
        if explanation.verdict:
            return
        told: set[str] = set()
        for use in uses_of(criterion, ""):
            if not isinstance(use, EventValuesUsed) or not use.tested.kinds or self._attributes_left == 0:
                continue
            self._attributes_left -= 1
            seen = self._kinds(criterion, use)
            if seen and seen.isdisjoint(use.tested.kinds):
                taker = "the aggregate" if use.tested.path == use.path else "the test"
                wanted = kinds_in_words(sendable_kinds(use.tested.kinds), "or")
                told.add(f"{quoted(use.key)} is {kind_in_words(seen)}, {taker} takes {wanted}")
        yield from sorted(told)

    def _kinds(self, criterion: Event | SequenceCriterion, use: EventValuesUsed) -> frozenset[Kind]:
        """The kinds of an attribute in the user's events; of strings and lists both, if there is one."""
        found: frozenset[Kind] = frozenset()
        for kinds, test in _OF_KIND:
            events = Event(
                name=use.events.name,
                type=use.events.type,
                inputs=use.events.inputs,
                window=criterion.window,
                where=WhereAttribute(key=use.key, test=test),
            )
            if self._holds(events, Compare("greater_than", 0.0)):
                found |= kinds
        return found

    def _aggregate(self, criterion: Event) -> str:
        """The number that the criterion tests; "" when it is undefined."""
        if self._aggregates_left == 0:
            return ""
        self._aggregates_left -= 1
        if not self._holds(criterion, Between(-_LARGEST, _LARGEST)):
            return ""
        if criterion.aggregate.is_whole_number:
            return str(self._whole_number(criterion))
        return repr(self._number(criterion))

    def _holds(self, criterion: Event, test: NumberTest) -> bool:
        plan = compile_criterion(
            self._located.account,
            self._located.tree,
            msgspec.structs.replace(criterion, test=test),
            self._as_of,
            self._located.resolver,
            passes=(),
        )
        answer = self._backend.execute(plan, Contains((self._user_id,)), deadline=self._deadline)
        return answer.flags[0][0]

    def _at_most(self, criterion: Event, number: float) -> bool:
        return self._holds(criterion, Compare("less_or_equal", number))

    def _whole_number(self, criterion: Event) -> int:
        high = 1
        while not self._at_most(criterion, float(high)):
            high *= 2
        low = high // 2 if high > 1 else 0
        while low < high:
            middle = (low + high) // 2
            if self._at_most(criterion, float(middle)):
                high = middle
            else:
                low = middle + 1
        return low

    def _number(self, criterion: Event) -> float:
        """The smallest double that is not below the number: itself, unless an exact sum lies between two."""
        low, high = _place_of(-_LARGEST), _place_of(_LARGEST)
        while low < high:
            middle = (low + high) // 2
            if self._at_most(criterion, _double_at(middle)):
                high = middle
            else:
                low = middle + 1
        return _double_at(low) + 0.0


def _place_of(number: float) -> int:
    """The index of a double in the order of all doubles, negative below zero."""
    (bits,) = struct.unpack("<q", struct.pack("<d", math.fabs(number)))
    return -bits if number < 0 else int(bits)


def _double_at(place: int) -> float:
    (number,) = struct.unpack("<d", struct.pack("<q", abs(place)))
    return -number if place < 0 else float(number)


def _tested(values: Sequence[Value], test: ValueTest, explanation: Explanation) -> str:
    """Values with their kinds, and what the test takes if that is none of them."""
    shown = ", ".join(
        f"{value_in_words(value)} ({kind_in_words({kind_of(value)}, article=False)})" for value in values
    )
    if explanation.verdict or not values:
        return shown
    kinds = kinds_tested(test)
    if kinds and kinds.isdisjoint(map(kind_of, values)):
        return f"{shown}; the test takes {kinds_in_words(sendable_kinds(kinds), 'or')}"
    if test.form is not None and not any(map(test.form.fits, _texts(values))):
        return f"{shown}; the test takes {test.form.plural}"
    return shown


def _texts(values: Sequence[Value]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, tuple):
            yield from value
