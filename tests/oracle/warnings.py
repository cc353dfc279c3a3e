"""Warnings about criteria, written directly from their meaning: reason and path of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from engine.backends.base import EventRecord
from engine.criteria.model import (
    BUILT_IN_ATTRIBUTES,
    Aggregate,
    AllOf,
    AnyOf,
    Audience,
    Between,
    Bucket,
    Compare,
    Consent,
    Criterion,
    Equals,
    Event,
    Exists,
    Identity,
    In,
    Near,
    Not,
    OlderThan,
    Semver,
    Sequence,
    Step,
    Text,
    UserAttribute,
    ValueTest,
    Where,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
    WithinLast,
)
from engine.values import Value
from tests.oracle.evaluate import Oracle
from tests.oracle.values import parse_place, parse_version
from tests.oracle.world import Journey, workspace_of

Told: TypeAlias = tuple[str, str]
"""Reason and path."""

_TYPES = {str, float, bool, int, tuple}


class Warner:
    """Tells the warnings about the criteria of a journey."""

    def __init__(self, oracle: Oracle, journey: Journey, journey_of: Callable[[str], Journey]) -> None:
        """`journey_of` finds the journey of an audience."""
        self._inputs = oracle.world.inputs_of(journey)
        self._users = list(oracle.users.values())
        self._ours = [oracle.users[user_id] for user_id in oracle.start(journey)]
        self._oracle = oracle
        self._journey_of = journey_of

    def of(self, criterion: Criterion, path: str) -> Iterator[Told]:
        """The warnings in reading order; `path` is that of the field that holds the criterion."""
        match criterion:
            case AllOf() | AnyOf():
                tag = "all_of" if isinstance(criterion, AllOf) else "any_of"
                for index, part in enumerate(criterion.criteria):
                    yield from self.of(part, f"{path}.{tag}.criteria[{index}]")
            case Not():
                yield from self.of(criterion.criterion, f"{path}.not")
            case Event():
                yield from self._events(criterion, f"{path}.event")
            case Sequence():
                for index, step in enumerate(criterion.steps):
                    yield from self._events(step, f"{path}.sequence.steps[{index}]")
            case UserAttribute() | Identity() | Consent() | Audience() | Bucket():
                yield from self._of_user(criterion, path)

    def _of_user(self, criterion: Criterion, path: str) -> Iterator[Told]:
        match criterion:
            case UserAttribute() if criterion.key not in BUILT_IN_ATTRIBUTES:
                yield from self._attribute(criterion, f"{path}.user_attribute")
            case Identity():
                yield from self._identity(criterion, f"{path}.identity")
            case Consent():
                purpose = (criterion.regulation, criterion.purpose)
                if not any(purpose in user.consents for user in self._ours):
                    there = any(purpose in user.consents for user in self._users)
                    yield _absent(there), f"{path}.consent"
            case Audience():
                theirs = self._oracle.start(self._journey_of(criterion.name))
                if not any(user.user_id in theirs for user in self._ours):
                    yield _absent(bool(theirs)), f"{path}.audience.name"

    def _identity(self, criterion: Identity, path: str) -> Iterator[Told]:
        here: list[Value] = [
            value for user in self._ours if (value := user.identities.get(criterion.type)) is not None
        ]
        if here:
            yield from _kinds(criterion.test, here, f"{path}.test")
        else:
            there = any(user.identities.get(criterion.type) is not None for user in self._users)
            yield _absent(there), f"{path}.type"

    def _attribute(self, criterion: UserAttribute, path: str) -> Iterator[Told]:
        workspaces = {workspace_of(name) for name in self._inputs}
        here = [
            value
            for user in self._ours
            for (workspace, key), value in user.attributes.items()
            if key == criterion.key and workspace in workspaces and value is not None
        ]
        if here:
            yield from _kinds(criterion.test, here, f"{path}.test")
            return
        every = (
            value
            for user in self._users
            for (_, key), value in user.attributes.items()
            if key == criterion.key
        )
        yield _absent(any(value is not None for value in every)), f"{path}.key"

    # --- events ---------------------------------------------------------------------------------------------

    def _events(self, chosen: Event | Step, path: str) -> Iterator[Told]:
        every = [
            event
            for user in self._users
            for event in user.events
            if chosen.name in ("", event.name) and chosen.type in (None, event.type)
        ]
        here = [event for event in every if event.input in (chosen.inputs or self._inputs)]
        if not here:
            yield _absent(bool(every)), path + (".name" if chosen.name else ".type" if chosen.type else "")
            return
        if chosen.where is not None:
            yield from self._where(chosen.where, here, every, f"{path}.where")
        if isinstance(chosen, Event) and chosen.of:
            numbers = [float] if chosen.aggregate is not Aggregate.DISTINCT else []
            values = [event.attributes[chosen.of] for event in here if chosen.of in event.attributes]
            if not values:
                yield _absent(any(chosen.of in event.attributes for event in every)), f"{path}.of"
            elif numbers and float not in map(type, values):
                yield "KIND_NEVER_SEEN", f"{path}.of"

    def _where(
        self, where: Where, here: list[EventRecord], every: list[EventRecord], path: str
    ) -> Iterator[Told]:
        match where:
            case WhereAll() | WhereAny():
                tag = "all_of" if isinstance(where, WhereAll) else "any_of"
                for index, part in enumerate(where.conditions):
                    yield from self._where(part, here, every, f"{path}.{tag}.conditions[{index}]")
            case WhereNot():
                yield from self._where(where.condition, here, every, f"{path}.not")
            case WhereAttribute():
                values = [event.attributes[where.key] for event in here if where.key in event.attributes]
                if values:
                    yield from _kinds(where.test, values, f"{path}.attribute.test")
                else:
                    there = any(where.key in event.attributes for event in every)
                    yield _absent(there), f"{path}.attribute.key"


def _absent(is_elsewhere: bool) -> str:
    return "SEEN_ELSEWHERE" if is_elsewhere else "NEVER_SEEN"


def _kinds(test: ValueTest, values: list[Value], path: str) -> Iterator[Told]:
    """A warning when no value is of a kind, or a string of a form, that could pass with other operands."""
    taken = _types_taken(test)
    texts = [
        text
        for value in values
        for text in ([value] if type(value) is str else value if type(value) is tuple else ())
    ]
    misfits = not any(type(value) in taken for value in values)
    if isinstance(test, Semver):
        misfits = not any(parse_version(text) for text in texts)
    if isinstance(test, Near):
        misfits = not any(parse_place(text) for text in texts)
    if taken and misfits:
        yield "KIND_NEVER_SEEN", f"{path}.{_field(test)}"


def _types_taken(test: ValueTest) -> set[type]:
    match test:
        case Exists():
            return _TYPES
        case Equals():
            return _types_equal_to(test.value)
        case In():
            return {taken for value in test.values for taken in _types_equal_to(value)}
        case Compare():
            return {type(test.operand)}
        case Between():
            return {type(test.low)}
        case Text() | Semver() | Near():
            return {str, tuple}
        case WithinLast() | OlderThan():
            return {int}


def _types_equal_to(value: Value) -> set[type]:
    return {str, tuple} if type(value) is str else {type(value)}


def _field(test: ValueTest) -> str:
    match test:
        case Compare() | Text():
            return test.op
        case Semver():
            return f"semver.{test.op}"
        case _:
            names = {Exists: "exists", Equals: "equals", In: "in", Between: "between", Near: "near"}
            return {**names, WithinLast: "within_last", OlderThan: "older_than"}[type(test)]
